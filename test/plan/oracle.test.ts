import t from 'tap'
import { makePlan } from '../../src/plan/planner.js'
import type { Plan } from '../../src/plan/types.js'
import type { Route } from '../../src/state/types.js'
import { type ChurnWorld, randomSource, startChurn } from './churn.js'
import { hex, key } from './node.js'

// The oracle walks every route for every address, the slow way: table local
// first, then main; longest prefix; lowest metric; first of equals.

function bits(address: string): string {
  return [...address].map((digit) => Number.parseInt(digit, 16).toString(2).padStart(4, '0')).join('')
}

function covers(prefix: string, address: string): boolean {
  const [network = '', length] = prefix.split('/')
  return network.length === address.length && bits(address).startsWith(bits(network).slice(0, Number(length)))
}

function kernelRoute(world: ChurnWorld, address: string): Route | null {
  const table = address.length === 8 ? world.node.routes4 : world.node.routes6
  for (const id of [255, 254]) {
    let best: Route | null = null
    for (const [prefix, routes] of table) {
      if (!covers(prefix, address)) continue
      for (const candidate of routes) {
        if (candidate.table !== id) continue
        const better =
          !best ||
          candidate.prefixLength > best.prefixLength ||
          (candidate.prefixLength === best.prefixLength && candidate.metric < best.metric)
        if (better) best = candidate
      }
    }
    if (best) return best
  }
  return null
}

/** Where the maps send a packet: 'pod 10', 'stack', or its legs "2/c0000201 3/onlink". */
function planned(plan: Plan, address: string): string {
  const pod = plan.pods.get(address)
  if (pod) return pod.mac ? `pod ${pod.ifindex}` : 'stack'
  let best: string | null = null
  for (const prefix of plan.routes.keys()) {
    if (covers(prefix, address) && (best === null || Number(prefix.split('/')[1]) > Number(best.split('/')[1])))
      best = prefix
  }
  const found = best === null ? undefined : plan.routes.get(best)
  if (!found || found.action === 'stack') return 'stack'
  const keys = found.action === 'nexthop' ? [found.nexthop] : found.legs.map((entry) => entry.nexthop)
  return keys.map((name) => name.split('/').slice(0, 2).join('/')).join(' ')
}

t.test(
  '[F7][F8][F11] what the maps send anywhere goes where the kernel’s own tables send it, on random tables',
  async (t) => {
    let forwarded = 0
    let checked = 0
    for (let seed = 100; seed < 160; seed++) {
      const world = startChurn(seed)
      const plan = makePlan(world.node, world.options)
      const random = randomSource(seed)
      for (let i = 0; i < 150; i++) {
        const address = hex(
          random(4) === 0
            ? `fd00:${random(2) ? 0 : random(8)}::${10 + random(9)}`
            : ([`10.1.0.${random(20)}`, `10.${random(110)}.${random(4)}.9`, `203.0.113.${random(9)}`][random(3)] ?? '')
        )
        const got = planned(plan, address)
        checked++
        if (got === 'stack') continue
        forwarded++
        const expected = kernelRoute(world, address)
        const alive = expected?.nexthops.filter((entry) => !entry.dead) ?? []
        const wanted = got.startsWith('pod')
          ? alive.map((entry) => `pod ${entry.ifindex}`)
          : alive.map((entry) => `${entry.ifindex}/${entry.gateway ?? 'onlink'}`)
        if (expected?.type !== 1 || expected.tos !== 0 || expected.unsupported.length > 0 || got !== wanted.join(' ')) {
          t.equal(got, wanted.join(' '), `seed ${seed}: ${address}`)
          t.match(expected, { type: 1, tos: 0, unsupported: [] }, `seed ${seed}: ${address}`)
          return
        }
      }
    }
    t.ok(forwarded > checked / 10, `${forwarded} of ${checked} addresses are forwarded, the others go to the stack`)
  }
)

t.test('[Y9] whatever routes are added, an inexpressible prefix is in the maps itself', async (t) => {
  for (let seed = 200; seed < 240; seed++) {
    const world = startChurn(seed)
    const plan = makePlan(world.node, world.options)
    for (const prefix of [...world.node.routes4.keys(), ...world.node.routes6.keys()]) {
      if (prefix === key('fe80::/64') || prefix === key('ff00::/8')) continue
      if (!plan.routes.has(prefix)) return t.fail(`seed ${seed}: ${prefix} is not in the plan`)
    }
  }
  t.pass('every prefix of 40 nodes')
})
