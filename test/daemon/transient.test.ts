// What passes by itself, and signals, at the start of the daemon.

import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { attached, plain, status } from '../forwarding/served.js'
import type { Orders } from '../lab/fault-orders.js'
import { Lab } from '../lab/lab.js'
import type { LabNode } from '../lab/node.js'
import { run, until } from '../lab/process.js'

t.setTimeout(240_000)
const patience = 60_000
const preload = fileURLToPath(new URL('../lab/faults.js', import.meta.url))

async function oneNode(t: Test): Promise<LabNode> {
  const lab = await Lab.create({ nodes: 1, pods: 1 })
  t.teardown(() => lab.close())
  return lab.node(0)
}

t.test('a lack of descriptors at the start ends with a status after which systemd starts it again', async (t) => {
  const node = await oneNode(t)
  const { daemon } = node
  const orders = `${daemon.runDirectory}-faults`
  const environment = { NODE_OPTIONS: `--import=${preload}`, HOSTROUTE_FAULTS: orders }
  for (const label of ['lockFile', 'loadObjectLater hostroute', 'readRing']) {
    const fail: Orders = { fail: { label, from: 1, once: true, code: 'EMFILE' } }
    writeFileSync(orders, JSON.stringify(fail))
    await daemon.start({ config: plain, environment, waitReady: false })
    await until('it ends', () => !daemon.running, patience)
    t.equal(daemon.exitStatus, 1, `${label}: ${daemon.log.trim().split('\n').at(-1)}`)
    t.match(daemon.log, /EMFILE/)
    t.notMatch(daemon.log, /^ +at /m, 'no stack trace')
  }
  await daemon.start({ config: plain, environment, timeout: patience })
  t.match(await status(node), { mode: 'enabled', problems: [] })
  await daemon.stop()

  // the same of everybody's calls, wherever the descriptors end
  for (const files of [21, 25]) {
    await daemon.start({ config: plain, waitReady: false })
    await run(['prlimit', '--pid', `${daemon.pid}`, `--nofile=${files}:`])
    const settled = () => !daemon.running || /routing by eBPF|took over|not enabled/.test(daemon.log)
    await until('it ends or goes on', settled, patience)
    t.ok(daemon.exitStatus === null || daemon.exitStatus === 1, `${files}: ${daemon.exitStatus}: ${daemon.log}`)
    await daemon.kill('SIGKILL')
  }
  await daemon.start({ config: plain, timeout: patience })
})

t.test('SIGTERM at any moment of the start: it ends as asked, and nothing but what onStop says stays', async (t) => {
  const node = await oneNode(t)
  const { daemon } = node
  for (const words of ['masquerade:', 'detour', 'attached from_pod', 'routing by eBPF']) {
    await daemon.start({ config: { ...plain, onStop: 'detach' }, waitReady: false })
    await until(words, () => daemon.log.includes(words) || !daemon.running, patience, 2)
    process.kill(daemon.pid, 'SIGTERM')
    await until('it ends', () => !daemon.running, patience)
    t.equal(daemon.exitStatus, 0, `at "${words}": ${daemon.log.trim().split('\n').at(-1)}`)
    t.match(daemon.log, /stopping on SIGTERM/)
    t.equal((await attached(node)).length, 0, 'nothing is attached')
    const pins = existsSync(daemon.pinDirectory) ? readdirSync(daemon.pinDirectory) : []
    t.strictSame(pins, [], 'nothing is pinned')
  }
})

t.test('SIGTERM in the middle of the start: it ends at the next step, and what it began is undone', async (t) => {
  const node = await oneNode(t)
  const { daemon } = node
  const orders = `${daemon.runDirectory}-faults`
  const record = `${daemon.runDirectory}-calls`
  const environment = { NODE_OPTIONS: `--import=${preload}`, HOSTROUTE_FAULTS: orders }
  const pins = () => (existsSync(daemon.pinDirectory) ? readdirSync(daemon.pinDirectory) : [])
  const startAndEnd = async (label: string, more: Record<string, unknown> = {}) => {
    writeFileSync(record, '')
    const asked: Orders = { record, signal: { label, name: 'SIGTERM' } }
    writeFileSync(orders, JSON.stringify(asked))
    await daemon.start({ config: { ...plain, ...more }, environment, waitReady: false })
    await until('it ends', () => !daemon.running, patience)
    t.equal(daemon.exitStatus, 0, `at ${label}: ${daemon.log.trim().split('\n').at(-1)}`)
    t.match(daemon.log, /stopping on SIGTERM/)
    const calls = readFileSync(record, 'utf8').trim().split('\n')
    return calls.slice(calls.indexOf(label) + 1)
  }
  for (const [label, never] of [
    ['lockFile', 'loadObjectLater hostroute'],
    ['loadObjectLater hostroute', 'openNetlinkReader'],
    ['openNetlinkReader', 'object.attachTcx from_pod'],
    ['object.attachTcx from_pod', 'object.testRun from_pod']
  ] as const) {
    const after = await startAndEnd(label)
    t.notOk(after.includes(never), `after ${label}: no ${never}`)
    t.notMatch(daemon.log, /routing by eBPF/)
    t.strictSame([await attached(node), pins()], [[], []], `${label}: nothing is left`)
    t.notMatch(await node.run(['ip', 'link', 'show']), /hostroute0/)
  }
  // with what an earlier daemon left
  await daemon.start({ config: plain, timeout: patience })
  await daemon.kill('SIGKILL')
  const before = (await attached(node)).length
  await startAndEnd('loadObjectLater hostroute')
  t.equal((await attached(node)).length, before, 'it goes on')
  t.ok(pins().includes('control'))
  const calls = await startAndEnd('object.attachTcx from_pod', { onStop: 'detach' })
  t.notOk(calls.includes('object.testRun from_pod'))
  t.strictSame([await attached(node), pins()], [[], []], 'onStop: detach')
  await daemon.start({ config: plain, timeout: patience })
  t.match(await status(node), { mode: 'enabled', problems: [] })
})

t.test('killed between the maps and the programs: the next start enables from the beginning', async (t) => {
  const node = await oneNode(t)
  const { daemon } = node
  const orders = `${daemon.runDirectory}-faults`
  writeFileSync(orders, JSON.stringify({ fail: { label: 'readRing', from: 1, once: true, code: 'EIO' } }))
  const environment = { NODE_OPTIONS: `--import=${preload}`, HOSTROUTE_FAULTS: orders }
  await daemon.start({ config: plain, environment, waitReady: false })
  await until('it ends', () => !daemon.running, patience)
  await daemon.start({ config: plain, timeout: patience })
  t.match(daemon.log, /routing by eBPF/)
  t.notMatch(daemon.log, /took over the running datapath/, 'there was nothing to take over')
})
