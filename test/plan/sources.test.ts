// Addresses configured for SNAT: which of them a next hop gets.

import t from 'tap'
import { defaultPlanOptions, type SnatAddress } from '../../src/plan/options.js'
import { makePlan } from '../../src/plan/planner.js'
import type { Plan } from '../../src/plan/types.js'
import { addRoutes, hex, interfaceAddress, key, leg, link, plainNode, route, type TestNode } from './node.js'

const address = (text: string): SnatAddress => ({ prefix: key(text) })
const device = (name: string): SnatAddress => ({ device: name })

/** Two uplinks and addresses on lo; the routes say which leg is meant. */
function node(): TestNode {
  const made = plainNode()
  made.links.set(1, link(1, 'lo', { type: 772 }))
  made.addresses.set(1, [interfaceAddress(1, '203.0.113.1/32'), interfaceAddress(1, '203.0.113.2/32')])
  made.addresses.set(2, [
    interfaceAddress(2, '192.0.2.10/24'),
    interfaceAddress(2, '192.0.2.11/24', { secondary: true }),
    interfaceAddress(2, '192.0.2.12/24', { usable: false }),
    interfaceAddress(2, '169.254.7.7/16', { scope: 253 }),
    interfaceAddress(2, '2001:db8::10/64'),
    interfaceAddress(2, '2001:db8::11/64', { secondary: true })
  ])
  made.addresses.set(3, [interfaceAddress(3, '198.51.100.10/24')])
  addRoutes(
    made,
    route('10.3.0.0/16', [leg(2, '192.0.2.1')], { preferredSource: hex('192.0.2.10') }),
    route('10.4.0.0/16', [leg(3, '198.51.100.1')]),
    route('fd00:9::/32', [leg(2)]),
    route('fd00:a::/32', [leg(3)])
  )
  return made
}

function plan(made: TestNode, ...snatAddresses: SnatAddress[]): Plan {
  return makePlan(made, { ...defaultPlanOptions, snatAddresses })
}

/** Sources of the next hop, as text; 'dropped'; null: as in a node without such a setting, and none. */
function sources(made: Plan, prefix: string): string | null {
  const found = made.routes.get(key(prefix))
  const row = found?.action === 'nexthop' ? made.nexthops.get(found.nexthop) : undefined
  if (row?.noSource) return 'dropped'
  if (row && row.sources !== '') return row.sources
  return row?.snat4 ?? row?.snat6 ?? null
}

const both = (made: Plan) => [sources(made, '10.3.0.0/16'), sources(made, '10.4.0.0/16')]
const list = (...texts: string[]) => texts.map(hex).sort().join('+')

t.test('[S14] one address is used for every next hop, whatever the route prefers', async (t) => {
  t.strictSame(both(plan(node(), address('203.0.113.1'))), [hex('203.0.113.1'), hex('203.0.113.1')])
  t.strictSame(
    both(plan(node(), address('192.0.2.11'))),
    [hex('192.0.2.11'), hex('192.0.2.11')],
    'a secondary one, too'
  )
})

t.test("[S14] of several those on the next hop's own device, else all, share the pods", async (t) => {
  const shared = list('203.0.113.1', '203.0.113.2')
  t.strictSame(both(plan(node(), address('203.0.113.0/30'))), [shared, shared])
  t.strictSame(both(plan(node(), device('lo'))), [shared, shared])
  t.strictSame(both(plan(node(), address('192.0.2.0/24'), address('198.51.100.10'))), [
    list('192.0.2.10', '192.0.2.11'),
    hex('198.51.100.10')
  ])
  t.strictSame(both(plan(node(), device('eth*'))), [list('192.0.2.10', '192.0.2.11'), hex('198.51.100.10')])
})

t.test('[S14] what is not there, not usable, link-local or temporary is not used', async (t) => {
  const made = plan(node(), address('192.0.2.12'), address('192.0.2.99'), address('203.0.113.2'), device('wan0'))
  t.strictSame(both(made), [hex('203.0.113.2'), hex('203.0.113.2')])
  t.strictSame(made.lackingSources, { entries: ['192.0.2.12', '192.0.2.99', 'wan0'], families: [6] })
  const six = plan(node(), device('eth0'))
  t.equal(sources(six, 'fd00:9::/32'), hex('2001:db8::10'))
  t.equal(sources(six, 'fd00:a::/32'), hex('2001:db8::10'))
})

t.test("[S14] an address of the host's own scope is nobody's source, even if it is named", async (t) => {
  const made = node()
  made.addresses.get(1)?.push(interfaceAddress(1, '127.0.0.1/8', { scope: 254 }))
  const named = plan(made, address('127.0.0.1'))
  t.strictSame(both(named), ['dropped', 'dropped'])
  t.strictSame(named.lackingSources, { entries: ['127.0.0.1'], families: [4] })
})

t.test('[S14] without any of them nothing else takes their place', async (t) => {
  const none = plan(node(), address('192.0.2.99'))
  t.strictSame(both(none), ['dropped', 'dropped'])
  t.strictSame(none.lackingSources, { entries: ['192.0.2.99'], families: [4] })
  t.equal(sources(none, 'fd00:9::/32'), hex('2001:db8::10'), 'nothing is said about IPv6')
  const off = makePlan(node(), { ...defaultPlanOptions, snat: false, snatAddresses: [address('192.0.2.99')] })
  t.strictSame(both(off), [null, null])
  t.strictSame(off.lackingSources, { entries: [], families: [] })
})
