// Disabling of which a part fails: hostroute is off all the same, what stays is told
// and taken away as soon as it can be. (All calls: the soak run "faults".)

import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import type { EnableResult } from '../../src/control/api.js'
import { attached, control, plain, servedLab, status } from '../forwarding/served.js'
import type { Orders } from '../lab/fault-orders.js'
import { until } from '../lab/process.js'

t.setTimeout(240_000)
const patience = 60_000
const preload = fileURLToPath(new URL('../lab/faults.js', import.meta.url))

t.test('calls of disabling that fail, once or for as long as it lasts', async (t) => {
  const orders = `/run/hr-disable-${process.pid}`
  const record = `${orders}-calls`
  t.teardown(() => [orders, `${orders}.fired`, record].forEach((path) => rmSync(path, { force: true })))
  const order = (next: Orders) => writeFileSync(orders, JSON.stringify(next))
  order({})
  const environment = { NODE_OPTIONS: `--import=${preload}`, HOSTROUTE_FAULTS: orders }
  const config = { ...plain, guard: { mode: 'enforce' } }
  const node = (await servedLab(t, { pods: 1 }, { environment, config, timeout: patience })).node(0)
  const { pinDirectory } = node.daemon
  const pins = () => (existsSync(pinDirectory) ? readdirSync(pinDirectory) : [])
  const command = async (word: string) =>
    (await control(node).post<EnableResult>(`/v1/${word}`, word === 'disable' ? { force: true } : {})).value

  order({ record })
  t.match(await command('disable'), { done: true, mode: 'disabled', why: null })
  order({})
  const labels = [...new Set(readFileSync(record, 'utf8').trim().split('\n'))]
  const first = (begin: string) => labels.find((label) => label.startsWith(begin)) ?? ''
  for (const [label, from, once] of [
    ['object.writeControl', 1, true],
    ['object.writeControl', 2, true],
    ['object.writeControl', 1, false],
    [first('detachPinned'), 1, false],
    [first('map.readBatch'), 1, false]
  ] as const) {
    t.ok(labels.includes(label), label)
    await command('enable')
    await until('enabled', async () => (await status(node)).mode === 'enabled', patience)
    t.ok((await status(node)).guard?.backend, 'guarded')
    order({ fail: { label, from, once, code: 'EIO' } })
    const name = `${label} #${from} ${once ? 'once' : 'for good'}`
    t.match(await command('disable'), { done: true, mode: 'disabled' }, name)
    t.strictSame(await attached(node), [], `${name}: nothing is attached`)
    const { mode, problems } = await status(node)
    t.equal(mode, 'disabled', name)
    if (label === 'object.writeControl' && !once) t.equal(problems.length, 1)
    for (const problem of problems) t.match(problem, { code: 'left-behind', affects: 'traffic', nextTry: String })
    order({})
    await until(`${name}: over`, async () => (await status(node)).problems.length === 0, patience)
    t.strictSame(pins(), [], `${name}: nothing is pinned`)
  }
})
