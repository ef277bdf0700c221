// Enabling and disabling, of a node that is not there: what is done to it, in which
// order, and never two things at a time.

import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { parseConfig } from '../../src/config/config.js'
import type { Datapath } from '../../src/datapath/datapath.js'
import { Problems } from '../../src/life/problems.js'
import { readSwitch, writeSwitch } from '../../src/life/switch.js'
import { type Switched, Switching } from '../../src/life/switching.js'
import { createLogger } from '../../src/log.js'
import { until } from '../lab/process.js'

const text = 'checks: off\n'

/** A node with one pod. `refuse`: steps that reject, with what. */
function fake(t: Test, refuse: Record<string, string> = {}) {
  const directory = t.testdir({})
  const did: string[] = []
  const problems = new Problems({ error() {}, info() {} })
  const config = parseConfig(text, 'config.yaml')
  let datapath: Datapath | null = null
  let busy = false
  const step = async (name: string) => {
    t.notOk(busy, `${name} waits for its turn`)
    busy = true
    await sleep(5)
    busy = false
    did.push(name)
    const why = refuse[name]
    if (why !== undefined) throw new Error(why)
  }
  const node: Switched = {
    stateDirectory: `${directory}/state`,
    pinDirectory: `${directory}/pins`,
    log: createLogger({ level: 'error' }),
    pods: () => ['10.244.0.2' as never],
    problems,
    config: () => config,
    datapath: () => datapath,
    synced: Promise.resolve(),
    step: async () => {},
    async open() {
      datapath = { takenOver: false, isServing: false, hooks: { attached: new Map() } } as unknown as Datapath
      return datapath
    },
    async fill() {},
    begin: () => step('begin'),
    prove: () => step('prove'),
    leaveEgress: () => step('leaveEgress'),
    releaseEgress: () => step('releaseEgress'),
    stay: () => step('stay'),
    nextEgress: () => null,
    async drop() {
      await step('drop')
      datapath = null
      return null
    },
    removeAll: () => step('removeAll'),
    renewLease() {}
  }
  const switching = new Switching(node)
  t.teardown(() => switching.stop())
  return { node, switching, did, problems, refuse }
}

t.test('a disable that is refused leaves all as it was', async (t) => {
  const { switching, did, refuse } = fake(t)
  await switching.openAtStart()
  await switching.serveFromStart()
  did.length = 0
  refuse['leaveEgress'] = 'no nft'
  t.match(await switching.disable({ force: false }), { done: false, mode: 'enabled', why: /no nft/ })
  t.strictSame(did, ['leaveEgress', 'stay'])
})

t.test('a start that is refused and a command do not meet', async (t) => {
  const { switching, did, refuse } = fake(t, { begin: 'not now' })
  await switching.openAtStart()
  await switching.serveFromStart()
  t.match(switching.why, /not now/)
  delete refuse['begin']
  t.match(await switching.enable({}), { done: true, mode: 'enabled' })
  await sleep(30)
  t.ok(did.includes('prove'))
})

t.test('probation ends by its own time, whatever the clock of the node says', async (t) => {
  const { switching, node, did } = fake(t)
  await switching.openAtStart()
  await switching.serveFromStart()
  const { now } = Date
  t.teardown(() => {
    Date.now = now
  })
  t.equal(switching.probationLeft, null)
  t.match(await switching.enable({ confirmWithin: 0.5 }), { done: true, confirmBefore: String })
  for (const jump of [-40 * 86_400_000, 0, 400 * 86_400_000]) {
    Date.now = () => now() + jump
    const left = switching.probationLeft ?? 0
    t.ok(left > 0 && left <= 500, `${left} ms`)
    t.equal(Math.round(((switching.confirmBefore ?? 0) - Date.now()) / 1000), Math.round(left / 1000))
    t.ok(node.datapath())
  }
  await until('undone', () => did.at(-1) === 'drop', 5_000)
  t.equal(switching.probationLeft, null)
  t.match(switching.why, /not confirmed in time/)
})

t.test('a probation on disk that ends years from now ends within the hour', async (t) => {
  const { switching, node } = fake(t)
  writeSwitch(node.stateDirectory, { enabled: true, configured: true, confirmUntil: Date.now() + 400 * 86_400_000 })
  await switching.openAtStart()
  await switching.serveFromStart()
  await sleep(20)
  t.ok(node.datapath(), 'it has not ended at once')
  const left = switching.probationLeft ?? 0
  t.ok(left > 3_500_000 && left <= 3_600_000, `${left} ms`)
})

t.test('no probation where it cannot be kept', async (t) => {
  const { switching, node, did, problems } = fake(t)
  writeFileSync(node.stateDirectory, 'no directory')
  await switching.openAtStart()
  await switching.serveFromStart()
  const refused = { done: false, mode: 'enabled', why: /not on probation: .*does not outlive a restart/ }
  t.match(await switching.enable({ confirmWithin: 60 }), { ...refused, confirmBefore: null })
  await switching.disable({ force: true })
  did.length = 0
  t.match(await switching.enable({ confirmWithin: 60 }), { done: false, mode: 'disabled', why: /^not enabled: / })
  t.strictSame(did, [], 'nothing is done')
  t.equal(switching.probationLeft, null)
  t.match(
    problems.list(),
    [{ code: 'switch-not-kept', text: /switched off does not outlive/ }],
    'nor is the disk right'
  )
  t.match(await switching.enable({}), { done: true, why: /switched on does not outlive a restart/ })
  t.match(problems.list(), [{ nextTry: /^2/ }])
  rmSync(node.stateDirectory)
  mkdirSync(node.stateDirectory)
  await until('it is kept', () => problems.list().length === 0)
  t.match(readSwitch(node.stateDirectory, true), { enabled: true, by: 'command' })
})
