import t from 'tap'
import { defaultPlanOptions } from '../../src/plan/options.js'
import { makePlan } from '../../src/plan/planner.js'
import { type RouteSelection, selectRoutes } from '../../src/plan/select.js'
import type { Plan } from '../../src/plan/types.js'
import { randomSource, startChurn } from './churn.js'
import { addRoutes, hex, key, leg, plainNode, route } from './node.js'

function selected(
  plan: Plan,
  selection: RouteSelection,
  most: number
): { keys: string[]; total: number; steps: number } {
  const walk = selectRoutes(plan, selection, most)
  for (let steps = 0; ; steps++) {
    const { done, value } = walk.next()
    if (done) return { ...value, steps }
  }
}

/** All that match, sorted. */
function expected(plan: Plan, { family, within, device }: RouteSelection): string[] {
  const bits = (address: string): string => BigInt(`0x1${address}`).toString(2).slice(1)
  return [...plan.routes, ...plan.classRoutes]
    .filter(([name, wanted]) => {
      const [address = '', length] = (name.split(' ').at(-1) ?? '').split('/')
      const legs = wanted.action === 'nexthop' ? [wanted] : wanted.action === 'group' ? wanted.legs : []
      return (
        (family === undefined || (address.length === 8) === (family === 4)) &&
        (within === undefined ||
          (address.length === within.address.length &&
            Number(length) >= within.length &&
            bits(address).startsWith(bits(within.address).slice(0, within.length)))) &&
        (device === undefined || legs.some(({ nexthop }) => plan.nexthops.get(nexthop)?.device === device))
      )
    })
    .map(([name]) => name)
    .sort((a, b) => a.length - b.length || (a < b ? -1 : 1))
}

t.test('the first of those that match, in order, and how many do', async (t) => {
  for (let seed = 1; seed <= 60; seed++) {
    const random = randomSource(seed)
    const { node, options } = startChurn(seed)
    const plan = makePlan(node, options)
    for (const selection of [
      {},
      { family: 4 as const },
      { family: 6 as const, device: 'eth1' },
      { device: 'eth0' },
      { within: { address: hex('10.0.0.0'), length: 9 } },
      { within: { address: hex('fd00::'), length: 29 }, device: 'eth0' }
    ]) {
      const most = random(12)
      const all = expected(plan, selection)
      const { keys, total } = selected(plan, selection, most)
      if (total !== all.length || keys.join() !== all.slice(0, most).join()) {
        t.strictSame([keys, total], [all.slice(0, most), all.length], `seed ${seed}, ${JSON.stringify(selection)}`)
        return
      }
    }
  }
  t.pass('60 nodes, 6 questions each')
})

t.test('many routes are looked through in steps', async (t) => {
  const node = plainNode()
  for (let i = 0; i < 20_000; i++) addRoutes(node, route(`11.${i >> 8}.${i & 255}.0/24`, [leg(2, '192.0.2.1')]))
  const plan = makePlan(node, defaultPlanOptions)
  const { keys, total, steps } = selected(plan, { within: { address: hex('11.0.0.0'), length: 8 } }, 2)
  t.strictSame([keys, total], [[key('11.0.0.0/24'), key('11.0.1.0/24')], 20_000])
  t.ok(steps >= 4)
})
