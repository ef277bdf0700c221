// What `hostroute verify` finds where the plan in force is not what the kernel's
// tables say, as after an event that was lost. Rows that somebody changed in the
// maps: maps/writer.test.ts and daemon/lease.test.ts.
// Mostly waits: for second looks.

import t from 'tap'
import { hexMac } from '../../src/address.js'
import { verifyNode } from '../../src/answers/verify.js'
import { readState } from '../../src/netlink/read-state.js'
import { defaultPlanOptions } from '../../src/plan/options.js'
import { makePlan } from '../../src/plan/planner.js'
import { inSlices } from '../../src/slice.js'
import type { Prefix } from '../../src/state/types.js'
import { enterNamespace, ip, ipBatch } from '../netlink/namespace.js'
import { key } from '../plan/node.js'

enterNamespace(import.meta.url)

t.test('a lost event is found and mended, one that is on its way is neither', async (t) => {
  ipBatch([
    'link add up0 type veth peer name far0',
    'link set up0 up addrgenmode none',
    'link set far0 up addrgenmode none',
    'addr add 192.0.2.10/24 dev up0',
    'neigh replace 192.0.2.1 lladdr 02:00:00:00:00:01 dev up0 nud permanent',
    'route add default via 192.0.2.1',
    'route add 10.1.0.0/16 via 192.0.2.1',
    'route add 10.2.0.0/16 via 192.0.2.1'
  ])
  const plan = makePlan(await readState(10_000), defaultPlanOptions)
  const asked: string[] = []
  const node = { plan, datapath: null }
  const source = {
    options: () => defaultPlanOptions,
    translated: new Set<Prefix>(),
    inTurn: <Result>(steps: () => Generator<void, Result>) => inSlices(steps()),
    resync: () => void asked.push('resync'),
    replan: async () => void asked.push('replan')
  }
  t.match(await verifyNode(node, source, false), { ok: true, total: 0, differences: [] })

  // no event tells of DELAY
  ip('neigh replace 192.0.2.1 lladdr 02:00:00:00:00:01 dev up0 nud stale')
  const stale = makePlan(await readState(10_000), defaultPlanOptions)
  ip('neigh replace 192.0.2.1 lladdr 02:00:00:00:00:01 dev up0 nud delay')
  Object.assign(plan, stale)
  t.match(await verifyNode(node, source, false), { ok: true, total: 0 }, 'a stale neighbour that is asked now')
  const [neighbour] = plan.neighbours.values()
  t.match(neighbour, { known: false })
  plan.neighbours.set([...plan.neighbours.keys()][0]!, { ...neighbour!, mac: hexMac('020000000002') })
  t.match(await verifyNode(node, source, false), { ok: false, total: 1 }, 'another MAC is a difference')
  Object.assign(plan, makePlan(await readState(10_000), defaultPlanOptions))

  const lost = plan.routes.get(key('10.1.0.0/16'))
  plan.routes.delete(key('10.1.0.0/16'))
  plan.routes.set(key('10.9.0.0/16'), lost!)
  const late = plan.routes.get(key('10.2.0.0/16'))
  plan.routes.delete(key('10.2.0.0/16'))
  setTimeout(() => plan.routes.set(key('10.2.0.0/16'), late!), 200)
  const { ok, differences } = await verifyNode(node, source, false)
  t.notOk(ok)
  t.strictSame(
    differences.map((each) => `${each.map} ${each.key} ${each.kind}`),
    ['routes 10.1.0.0/16 missing', 'routes 10.9.0.0/16 unexpected'],
    'the two that stay wrong'
  )
  t.strictSame(asked, [])
  t.match(await verifyNode(node, source, true), { ok: true, repaired: true, total: 2 })
  t.strictSame(asked, ['replan', 'resync'], 'what the daemon knows is read anew')
  ip('link del up0')
})

t.test('20,000 lost events hold the daemon up no longer than they take to read', async (t) => {
  ipBatch([
    'link add up0 type veth peer name far0',
    'link set up0 up addrgenmode none',
    'link set far0 up addrgenmode none',
    'addr add 192.0.2.10/24 dev up0',
    ...Array.from({ length: 20_000 }, (_, n) => `route add 10.${n >> 8}.${n & 255}.0/24 via 192.0.2.1`)
  ])
  const plan = makePlan(await readState(10_000), defaultPlanOptions)
  plan.routes.clear()
  const source = {
    options: () => defaultPlanOptions,
    translated: new Set<Prefix>(),
    inTurn: <Result>(steps: () => Generator<void, Result>) => inSlices(steps()),
    resync() {},
    async replan() {}
  }
  const cpu = process.cpuUsage()
  const { total, differences } = await verifyNode({ plan, datapath: null }, source, false)
  const { user } = process.cpuUsage(cpu)
  t.ok(total >= 20_000, `${total} differences`)
  t.equal(differences.length, 300, 'so many are listed')
  t.ok(user < 15_000_000, `${Math.round(user / 1000)} ms of CPU`)
  ip('link del up0')
})
