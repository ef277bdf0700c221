// The datapath without its daemon, and maps or pods that change.

import t from 'tap'
import type { Status, VerifyReport } from '../../src/control/api.js'
import { STRUCTS } from '../../src/maps/layout.js'
import { attached, servedLab, status } from '../forwarding/served.js'
import { OUTSIDE } from '../lab/addresses.js'
import { exec, until } from '../lab/process.js'

const { lease, straight } = STRUCTS.control.offset

t.test('[L3] onStop: keep goes on forwarding; after the lease the programs step aside', async (t) => {
  const lab = await servedLab(t, {}, { config: { lease: '30s' } })
  const node = lab.node(0)
  const daemon = node.daemon
  await daemon.stop()
  t.equal((await attached(lab.node(0))).length, 3)
  const counters = await node.readCounters()
  t.equal((await node.pod(0).ping(OUTSIDE.v4, { count: 5 })).received, 5, 'SNAT goes on without the daemon')
  t.equal((await node.readCounters()).forward, counters.forward, 'and netfilter sees nothing of it')
  // the lease cannot be shorter than 30 s, so it is ended by hand, as its clock and its timer would
  const control = `${daemon.pinDirectory}/control`
  const dump = JSON.parse((await exec(['bpftool', '-j', 'map', 'dump', 'pinned', control])).stdout) as {
    value: string[]
  }[]
  const bytes = dump[0]?.value ?? []
  const ended = bytes.map((byte, at) => ((at >= lease && at < lease + 8) || at === straight ? '0x00' : byte))
  const write = await exec([
    'bpftool',
    'map',
    'update',
    'pinned',
    control,
    'key',
    '0',
    '0',
    '0',
    '0',
    'value',
    ...ended
  ])
  t.equal(write.status, 0, write.stderr)
  const [one, two] = [node.pod(0), node.pod(1)]
  t.equal((await one.ping(two.address.v4, { count: 5 })).received, 5)
  t.ok((await node.readCounters()).forward >= counters.forward + 10, 'the kernel forwards between pods now')
})

t.test('[Y8] maps that somebody edited are found by verify and repaired', async (t) => {
  const lab = await servedLab(t, {}, { config: { verifyInterval: '24h' } })
  const daemon = lab.node(0).daemon
  t.match(await daemon.json<VerifyReport>('verify'), { ok: true, total: 0 })
  const key = ['8', '0', '0', '0', '198', '0', '0', '0']
  const value = ['1', '0', '0', '0', '1', '0', '0', '0', ...Array.from({ length: 8 }, () => '0')]
  const edit = await exec([
    'bpftool',
    'map',
    'update',
    'pinned',
    `${daemon.pinDirectory}/routes4`,
    'key',
    ...key,
    'value',
    ...value
  ])
  t.equal(edit.status, 0, edit.stderr)
  const found = await daemon.command(['verify', '--json'])
  t.equal(found.status, 2)
  t.match(JSON.parse(found.stdout), {
    ok: false,
    total: 1,
    differences: [{ map: 'routes4', key: '198.0.0.0/8', kind: 'unexpected' }]
  })
  t.match(await daemon.json<VerifyReport>('verify', '--repair'), { ok: true, repaired: true })
  t.match(await daemon.json<VerifyReport>('verify'), { ok: true, total: 0 })
})

t.test('[F18] a pod that comes later is served, and gone from the maps when it goes', async (t) => {
  const lab = await servedLab(t)
  const node = lab.node(0)
  const daemon = node.daemon
  const status = await daemon.json<Status>('status')
  t.equal(status.mode, 'enabled')
  t.match(status.hooks, [
    { role: 'uplink', served: true },
    { role: 'pod', served: true },
    { role: 'pod', served: true }
  ])
  const pod = await node.addPod()
  await until('served', async () => (await attached(lab.node(0))).length === 4, 5_000)
  t.equal((await pod.ping(OUTSIDE.v4, { count: 3 })).received, 3)
  await node.removePod(pod)
  await until('gone', async () => (await daemon.json<Status>('status')).hooks.length === 3, 5_000)
})

t.test('a lease that runs out while the daemon runs is noticed and renewed', async (t) => {
  const node = (await servedLab(t, { pods: 1 }, { timeout: 60_000 })).node(0)
  await node.daemon.endLease()
  await until('it is told', () => /the lease ran out though the daemon runs/.test(node.daemon.log), 60_000)
  const { mode, problems, errors } = await status(node)
  t.match({ mode, problems }, { mode: 'enabled', problems: [] }, 'renewed')
  t.match(errors.map(({ text }) => text).join(), /the lease ran out/)
  const { received } = await node.pod(0).ping(OUTSIDE.v4, { count: 2 })
  t.equal(received, 2)
})
