// The detour's device in a daemon's life: enabled, disabled, killed, deleted by
// somebody.

import t, { type Test } from 'tap'
import type { Status } from '../../src/control/api.js'
import { STRUCTS } from '../../src/maps/layout.js'
import { native } from '../../src/native.js'
import { control, plain, servedLab, status } from '../forwarding/served.js'
import type { LabNode } from '../lab/node.js'
import { until } from '../lab/process.js'

const patience = 20_000

/** control.detour, of the pinned section: what the programs see. */
function pinnedDetour(node: LabNode): number {
  const map = native().openPinnedMap(`${node.daemon.pinDirectory}/control`)
  const value = map.lookup(Buffer.alloc(4))?.readUInt32LE(STRUCTS.control.offset.detour) ?? -1
  map.close()
  return value
}

async function ifindexOf(node: LabNode, device: string): Promise<number | null> {
  const rows = await node.ipJson<{ ifname: string; ifindex: number }>('link', 'show')
  return rows.find(({ ifname }) => ifname === device)?.ifindex ?? null
}

async function isOpen(t: Test, node: LabNode, device: string, what: string): Promise<void> {
  const ifindex = await ifindexOf(node, device)
  t.ok(ifindex, `${what}: ${device} is there`)
  t.equal(pinnedDetour(node), ifindex, `${what}: the programs know it`)
  t.match(await node.run(['bpftool', 'net', 'show', 'dev', device]), /from_detour/, `${what}: its program hangs there`)
  t.match((await status(node)).detour, { device, why: null }, what)
}

t.setTimeout(240_000)
const node = (await servedLab(t, { pods: 1 })).node(0)

t.test('the device in a life: nobody else’s concern, disable, kill, keep', async (t) => {
  const quiet = async (what: string) => {
    const { hooks, mode, errors } = (await control(node).get<Status>('/v1/status')).value
    t.strictSame(
      [mode, hooks.filter(({ device }) => device.startsWith('hostroute')), errors],
      ['enabled', [], []],
      what
    )
  }
  await quiet('neither served nor missed')
  const told = node.daemon.log.split('\n').filter((line) => line.includes('hostroute0'))
  t.equal(told.length, 1, `one word about it: ${told.join()}`)
  const notes = await node.run(['ip', 'address', 'show', 'hostroute0'])
  t.notMatch(notes, /inet/, 'no addresses')

  await control(node).post('/v1/disable', { force: true })
  t.equal(await ifindexOf(node, 'hostroute0'), null, 'disabled: it is gone')
  t.equal((await status(node)).detour, null)
  await control(node).post('/v1/enable')
  await isOpen(t, node, 'hostroute0', 'enabled again')

  const before = pinnedDetour(node)
  await node.daemon.kill('SIGKILL')
  await until('the device is gone with it', async () => (await ifindexOf(node, 'hostroute0')) === null, patience)
  t.equal(pinnedDetour(node), before, 'nobody could say so')
  await node.startDaemon({ config: { ...plain, onStop: 'keep' } })
  await isOpen(t, node, 'hostroute0', 'over the pins of one that was killed')
  t.not(pinnedDetour(node), before)
  await quiet('and again nobody’s concern')

  await node.daemon.stop()
  t.equal(await ifindexOf(node, 'hostroute0'), null)
  t.equal(pinnedDetour(node), 0, 'a clean stop leaves programs that know there is none')
  await node.startDaemon({ config: plain })
  await isOpen(t, node, 'hostroute0', 'over the pins of one that was stopped')
})

t.test('deleted, set down, or detached by somebody: it comes again', async (t) => {
  const again = (what: string, device: string, before: number) =>
    until(
      what,
      async () => pinnedDetour(node) !== before && pinnedDetour(node) === (await ifindexOf(node, device)),
      patience
    )
  let before = pinnedDetour(node)
  await node.ip('link del hostroute0')
  await until('the programs are told', () => pinnedDetour(node) !== before, patience, 10)
  await again('deleted', 'hostroute0', before)
  await isOpen(t, node, 'hostroute0', 'deleted')
  t.match(node.daemon.log, /the detour is closed: somebody has deleted hostroute0; it is opened again/)

  before = pinnedDetour(node)
  await node.ip('link set hostroute0 down')
  await again('down', 'hostroute0', before)
  await isOpen(t, node, 'hostroute0', 'down')
  t.match(node.daemon.log, /somebody has set hostroute0 down/)

  // another program takes the name
  before = pinnedDetour(node)
  await node.ip('link del hostroute0', 'link add hostroute0 type veth peer name other')
  await again('another name', 'hostroute1', before)
  await isOpen(t, node, 'hostroute1', 'another name')
})
