// Pins of a running datapath that somebody removes: made again by itself, and what
// hung on them is attached again; what cannot be is a problem until it can.
// Mostly waits: for the next look.

import { existsSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { native } from '../../src/native.js'
import { attached, control, plain, servedLab, status } from '../forwarding/served.js'
import { OUTSIDE } from '../lab/addresses.js'
import type { Orders } from '../lab/fault-orders.js'
import type { LabNode } from '../lab/node.js'
import { run, until } from '../lab/process.js'

t.setTimeout(240_000)
const patience = 60_000
const preload = fileURLToPath(new URL('../lab/faults.js', import.meta.url))
const pinsOf = ({ daemon: { pinDirectory } }: LabNode) =>
  (existsSync(pinDirectory) ? readdirSync(pinDirectory, { recursive: true }) : []).map(String).sort()

async function reached(t: Test, node: LabNode): Promise<void> {
  const { received } = await node.pod(0).ping(OUTSIDE.v4, { count: 2 })
  t.equal(received, 2, 'through SNAT')
}

/** The kernel's ids of the maps that are pinned. */
async function mapsOf({ daemon: { pinDirectory } }: LabNode): Promise<string[]> {
  const names = readdirSync(pinDirectory, { withFileTypes: true }).filter((entry) => !entry.isDirectory())
  const shown = await Promise.all(
    names.map(({ name }) => run(['bpftool', '-j', 'map', 'show', 'pinned', join(pinDirectory, name)]))
  )
  return shown.map((text, at) => `${names[at]?.name} ${(JSON.parse(text) as { id: number }).id}`).sort()
}

t.test('what is removed is made again, and the next daemon takes it over', async (t) => {
  const node = (await servedLab(t, { pods: 2 })).node(0)
  const { daemon } = node
  const [pins, maps, programs] = [pinsOf(node), await mapsOf(node), await attached(node)]
  const whole = () => until('all is pinned again', () => pinsOf(node).join() === pins.join(), patience)
  const removals: [string, () => void][] = [
    ['everything', () => rmSync(daemon.pinDirectory, { recursive: true })],
    ['the links', () => rmSync(join(daemon.pinDirectory, 'links'), { recursive: true })],
    ['one link', () => rmSync(join(daemon.pinDirectory, String(pins.find((name) => name.includes('/from_pod-')))))],
    ['maps', () => ['control', 'flows4', 'reverse4'].forEach((name) => rmSync(join(daemon.pinDirectory, name)))]
  ]
  for (const [name, remove] of removals) {
    remove()
    await whole()
    t.strictSame(await mapsOf(node), maps, `${name}: the maps are the same`)
    await until('attached again', async () => (await attached(node)).join() === programs.join(), patience)
    await reached(t, node)
    t.match(await status(node), { mode: 'enabled', problems: [], errors: [{}] }, 'it is told')
    t.match(daemon.log, /somebody (removed the pins|detached)/)
  }

  rmSync(join(daemon.pinDirectory, 'flows4'))
  await run([
    'bpftool',
    'map',
    'create',
    join(daemon.pinDirectory, 'flows4'),
    'type',
    'hash',
    'key',
    '4',
    'value',
    '4',
    'entries',
    '1',
    'name',
    'another'
  ])
  await until('the pin of another map is replaced', async () => (await mapsOf(node)).join() === maps.join(), patience)

  await daemon.kill('SIGKILL')
  await daemon.start({ config: plain })
  t.strictSame(await mapsOf(node), maps)
  t.match(daemon.log, /took over the running datapath/)
})

t.test('what cannot be made again is a problem until it can', async (t) => {
  const orders = join('/run', `hr-pins-${process.pid}`)
  t.teardown(() => [orders, `${orders}.fired`].forEach((path) => rmSync(path, { force: true })))
  const order = (next: Orders) => writeFileSync(orders, JSON.stringify(next))
  order({})
  const environment = { NODE_OPTIONS: `--import=${preload}`, HOSTROUTE_FAULTS: orders }
  const node = (await servedLab(t, { pods: 1 }, { environment })).node(0)
  const { pinDirectory } = node.daemon
  const row = async (code: string) => (await status(node)).problems.find((problem) => problem.code === code)
  for (const [label, code, removed] of [
    ['map.pin flows4', 'pins-gone', 'flows4'],
    ['object.attachTcx from_uplink', 'device-not-served', 'links']
  ] as const) {
    order({ fail: { label, from: 1, once: false, code: 'ENOSPC' } })
    rmSync(join(pinDirectory, removed), { recursive: true })
    await until(`${code}, with the next try`, async () => Boolean((await row(code))?.nextTry), patience)
    t.match(await row(code), { affects: 'traffic', text: /ENOSPC/ })
    t.equal((await status(node)).mode, 'degraded')
    t.equal((await node.daemon.command(['status'])).status, 2)
    order({})
    await until(`${code} is over`, async () => !(await row(code)), patience)
    t.ok(existsSync(join(pinDirectory, removed)))
    t.match(await status(node), { mode: 'enabled', problems: [] })
    await reached(t, node)
  }
})

t.test('a file system that has gone', async (t) => {
  const node = (await servedLab(t, { pods: 1 })).node(0)
  const { pinDirectory } = node.daemon
  const pins = pinsOf(node)
  const codes = async () => (await status(node)).problems.map(({ code }) => code).join()
  const mounted = dirname(pinDirectory)
  await run(['umount', '-l', mounted])
  await until('it is told', async () => (await codes()) === 'device-not-served,pins-gone', patience)
  t.match(await status(node), {
    mode: 'degraded',
    problems: [{ nextTry: String }, { text: /not on a BPF file system/ }]
  })
  // the kernel lets go of what was pinned by and by
  await until('nothing is attached', async () => (await attached(node)).length === 0, patience)
  native().mountBpffs(mounted)
  await until('it is over', async () => (await codes()) === '', patience)
  t.strictSame(pinsOf(node), pins)
  await reached(t, node)
})

t.test('maps of other sizes after pins were removed', async (t) => {
  const node = (await servedLab(t, { pods: 1 })).node(0)
  const before = await mapsOf(node)
  rmSync(node.daemon.pinDirectory, { recursive: true })
  node.daemon.writeConfig({ ...plain, limits: { routes4: 3000 } })
  t.match((await control(node).post('/v1/reload')).value, { ok: true })
  t.equal((await status(node)).counts.routes4.capacity, 3000)
  const after = await mapsOf(node)
  t.equal(after.length, before.length)
  const flows = (rows: string[]) => rows.filter((text) => text.startsWith('flows4 '))
  t.strictSame(flows(after), flows(before))
  await reached(t, node)
})
