// What State does on its own account when a device is lost or comes back is what
// the kernel did: compared with `ip -j` as it stood before any dump.

import { writeFileSync } from 'node:fs'
import t from 'tap'
import { startSync } from '../../src/netlink/sync.js'
import type { NodeState } from '../../src/state/types.js'
import { enterNamespace, ip, ipBatch, settle } from './namespace.js'
import { askOracle, differences } from './oracle.js'

enterNamespace(import.meta.url)
t.setTimeout(120_000)
for (const which of ['all', 'default']) writeFileSync(`/proc/sys/net/ipv6/conf/${which}/accept_dad`, '0')

const kinds = ['routes4', 'routes6', 'nexthops'] as const

/** Two devices with addresses, and routes of all kinds through one or both. */
function build(): void {
  ipBatch([
    'link add a0 type veth peer name a1',
    'link add b0 type veth peer name b1',
    ...['a0', 'a1', 'b0', 'b1'].map((device) => `link set ${device} up`),
    'addr add 192.0.2.1/24 dev a0',
    'addr add 198.51.100.1/24 dev b0',
    'addr add 2001:db8:1::1/64 dev a0 nodad',
    'addr add 2001:db8:2::1/64 dev b0 nodad',
    'route add 10.1.0.0/16 via 192.0.2.2',
    'route add 10.1.0.0/16 via 198.51.100.2 metric 7',
    'route add 10.2.0.0/16 via 192.0.2.2 table 100',
    'route add 10.3.0.0/16 nexthop via 192.0.2.2 weight 2 nexthop via 198.51.100.2',
    'route add 10.4.0.0/16 nexthop via 192.0.2.2 nexthop via 192.0.2.3',
    'route add 10.5.0.9 dev a0',
    'route add blackhole 10.6.0.0/16',
    'route add local 10.7.0.0/16 dev a0',
    'route add broadcast 10.8.0.255 dev a0',
    'route add 10.9.0.0/16 via 198.51.100.2 src 192.0.2.1',
    'nexthop add id 1 via 192.0.2.5 dev a0',
    'nexthop add id 2 via 198.51.100.5 dev b0',
    'nexthop add id 3 via 2001:db8:1::5 dev a0',
    'nexthop add id 10 group 1/2',
    'nexthop add id 11 group 1',
    'route add 10.10.0.0/16 nhid 1',
    'route add 10.11.0.0/16 nhid 10',
    'route add 10.12.0.0/16 nhid 11',
    'route add 2001:db8:a1::/48 via 2001:db8:1::2',
    'route add 2001:db8:a2::/48 nexthop via 2001:db8:1::2 nexthop via 2001:db8:2::2',
    'route add 2001:db8:a3::/48 nexthop via 2001:db8:1::2 nexthop via 2001:db8:1::3',
    'route add 2001:db8:a4::/48 dev a0',
    'route add 2001:db8:a5::/48 nhid 3'
  ])
}

const deleted = 'a device is deleted'
/** dumped: a preferred source goes, too, and what that does is left to a dump. */
const losses: [string, string[], { dumped?: boolean }?][] = [
  ['a device goes down', ['link set a0 down']],
  ['both go down', ['link set b0 down', 'link set a0 down']],
  ['carrier goes', ['link set a1 down']],
  ['carrier goes, then the device goes down', ['link set a1 down', 'link set a0 down']],
  ['the other has no carrier', ['link set b1 down', 'link set a0 down']],
  [deleted, ['link del a0'], { dumped: true }],
  ['its last IPv4 address goes', ['addr del 192.0.2.1/24 dev a0'], { dumped: true }],
  ['a next hop object goes', ['nexthop del id 1']],
  ['the last of a group goes', ['nexthop del id 2', 'nexthop del id 1']]
]

/** What was lost before, and what brings it back. */
const revivals: [string, string[], { before: string[] }][] = [
  ['carrier comes', ['link set a1 up'], { before: ['link set a1 down'] }],
  ['a device comes up', ['link set a0 up'], { before: ['link set a0 down'] }],
  ['both come up', ['link set b0 up', 'link set a0 up'], { before: ['link set a0 down', 'link set b0 down'] }],
  [
    'a device comes up without carrier, which comes later',
    ['link set a0 up', 'link set a1 up'],
    { before: ['link set a1 down', 'link set a0 down'] }
  ],
  ['carrier comes and goes', ['link set a1 up', 'link set a1 down'], { before: ['link set a1 down'] }],
  ['an address comes back', ['addr add 192.0.2.1/24 dev a0'], { before: ['addr del 192.0.2.1/24 dev a0'] }],
  [
    'an address comes back before the carrier',
    ['addr add 192.0.2.1/24 dev a0', 'link set a1 up'],
    { before: ['link set a1 down', 'addr del 192.0.2.1/24 dev a0'] }
  ],
  ['a second address goes', ['addr del 192.0.2.77/32 dev a0'], { before: ['addr add 192.0.2.77/32 dev a0'] }],
  ['it gets a bridge', ['link set b1 master br0'], { before: ['link add br0 type bridge'] }],
  ['and loses it', ['link set b1 nomaster'], { before: ['link add br0 type bridge', 'link set b1 master br0'] }]
]

const cases: [string, string[], { dumped?: boolean; before?: string[] }][] = [
  ...losses.map(([name, commands, options = {}]): (typeof cases)[number] => [name, commands, options]),
  ...revivals
]

for (const ignore of ['0', '1']) {
  t.test(`[Y5] State follows the kernel without a dump; ignore_routes_with_linkdown ${ignore}`, async (t) => {
    for (const which of ['all', 'default'])
      writeFileSync(`/proc/sys/net/ipv4/conf/${which}/ignore_routes_with_linkdown`, ignore)
    for (const [name, commands, { dumped = false, before = [] }] of cases) {
      build()
      for (const command of before) ip(command)
      let last: NodeState | null = null
      const sync = startSync({
        onChanges: () => {
          if (!dumped && sync.status().dumps > first) return
          const { routes4, routes6, nexthopObjects, links, addresses, rules, neighbours, routeUsers } = sync.state
          last = {
            routes4: new Map(structuredClone([...routes4])),
            routes6: new Map(structuredClone([...routes6])),
            ...structuredClone({ nexthopObjects, links, addresses, rules, neighbours }),
            routeUsers
          }
        }
      })
      let first = Number.POSITIVE_INFINITY
      // devices that were just made settle for a while
      let events = -1
      await settle(async () => {
        if (events === sync.status().events && sync.status().state === 'synced') return []
        events = sync.status().events
        await new Promise((resolve) => setTimeout(resolve, 600))
        return ['not quiet']
      })
      t.same(differences(sync.state, askOracle([...kinds]), [...kinds]), [], `${name}: before`)
      first = sync.status().dumps
      for (const command of commands) ip(command)
      // the kernel's link watch may take a second
      await new Promise((resolve) => setTimeout(resolve, 1300))
      const oracle = askOracle([...kinds, 'links'] as never)
      t.same(differences(last as never, oracle, [...kinds]), [], name)
      t.same(differences(sync.state, oracle, [...kinds]), [], `${name}: in the end`)
      await sync.close()
      // the pair of a device that was deleted went with it
      const bridge = before.includes('link add br0 type bridge') ? ['link del br0'] : []
      const pairs = [...(name === deleted ? [] : ['link del a1']), 'link del b0']
      ipBatch([...bridge, ...pairs, 'route del blackhole 10.6.0.0/16'])
    }
  })
}
