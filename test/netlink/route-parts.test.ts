// A dump of routes by what they share says what its messages say.

import t from 'tap'
import { prefixOf } from '../../src/address.js'
import { decodeAll, decodeRoutes } from '../../src/netlink/decode.js'
import { DumpInbox, RouteInbox } from '../../src/netlink/dump-inbox.js'
import { type DumpRequest, dumpRequests } from '../../src/netlink/dumps.js'
import { wholeKind } from '../../src/state/messages.js'
import { withDestination } from '../../src/state/route-table.js'
import type { Route } from '../../src/state/types.js'
import { layout } from './layout.js'
import { enterNamespace, ip, ipBatch, peerNamespace } from './namespace.js'

enterNamespace(import.meta.url)

const peer = peerNamespace()
for (const command of layout) ip(command.replace('VETH_PEER_PID', String(peer.pid)))
t.teardown(() => peer.stop())

const counters = { malformed: 0, unknown: 0 }

async function byMessages(request: DumpRequest): Promise<Route[]> {
  const dump = new DumpInbox(request)
  const routes: Route[] = []
  for (let chunk = await dump.next(); chunk; chunk = await dump.next())
    for (const fact of decodeAll(chunk, counters)) if (fact.kind === 'route') routes.push(fact.route)
  return routes
}

async function byParts(
  family: 4 | 6,
  request: DumpRequest
): Promise<{ routes: Route[]; kinds: number; parts: number }> {
  const dump = new RouteInbox(request)
  const routes: Route[] = []
  let [kinds, parts] = [0, 0]
  for (let chunk = await dump.next(); chunk; chunk = await dump.next()) {
    const part = decodeRoutes(family, chunk, counters)
    kinds += part.kinds.length
    parts++
    const width = family === 4 ? 2 : 5
    for (let at = 0; at < part.records.length; at += width) {
      const [head = 0, a = 0, b = 0, c = 0, d = 0] = part.records.subarray(at, at + width)
      const kind = part.kinds[head >>> 8]
      if (kind && (head & 255) !== wholeKind)
        routes.push(withDestination(kind, prefixOf(family, head & 255, a, b, c, d)))
    }
  }
  return { routes, kinds, parts }
}

/** Two dumps of one table: devices that have just come up still get addresses, and routes with them. */
async function both(family: 4 | 6, request: DumpRequest) {
  let before = await byMessages(request)
  for (;;) {
    const dumped = await byParts(family, request)
    const wanted = await byMessages(request)
    if (JSON.stringify(wanted) === JSON.stringify(before)) return { wanted, ...dumped }
    before = wanted
  }
}

t.test('every sort of route, and thousands that are alike', async (t) => {
  const many = Array.from({ length: 40_000 }, (_, i) => `11.${i >> 8}.${i & 255}.0/24 via 192.0.2.${2 + (i % 2)}`)
  const many6 = Array.from({ length: 10_000 }, (_, i) => `2001:db8:f:${i.toString(16)}::/64 via 2001:db8:1::2`)
  ipBatch([...many, ...many6].map((each) => `route add ${each}`))
  for (const family of [4, 6] as const) {
    for (const request of dumpRequests(family === 4 ? 'routes4' : 'routes6')) {
      const { wanted, routes, kinds, parts } = await both(family, request)
      t.ok(wanted.length > 10_000, `${wanted.length} routes`)
      t.strictSame(routes.length, wanted.length)
      t.strictSame(
        routes.filter((entry, at) => JSON.stringify(entry) !== JSON.stringify(wanted[at])),
        []
      )
      t.ok(parts > 1 && kinds < 100, `${kinds} kinds in ${parts} parts`)
    }
  }
  t.same(counters, { malformed: 0, unknown: 0 })
})
