// What of the node decides how a rule is judged: devices and addresses as rules
// may name them. Loaded by the running daemon, too: it imports little.

import { hostPrefix, maskAddress, prefixKey, splitPrefix } from '../address.js'
import type { Config } from '../config/config.js'
import { type MasqueradePolicy, masqueradesLinkLocal } from '../config/masquerade.js'
import { servedKinds } from '../plan/devices.js'
import { prefixIn } from '../plan/keys.js'
import { RouteMap } from '../plan/route-map.js'
import type { Plan, WantedRoute } from '../plan/types.js'
import { PrefixBegins } from '../prefix-begins.js'
import { Slice } from '../slice.js'
import type { NodeState, Prefix } from '../state/types.js'
import { inside } from './prefixes.js'

export interface NodeRules {
  pods: readonly string[]
  uplinks: readonly string[]
  neverServed: readonly string[]
  stackPrefixes: readonly Prefix[]
  own: readonly Prefix[]
  podAddresses: readonly Prefix[]
  /** What the daemon finds translated; absent: what these rules and IPVS say. */
  translated?: readonly Prefix[]
  snat: boolean
  /** IPv6, too; absent: as snat says. */
  snat6?: boolean
  /** The policy masquerades IPv4 link-local destinations; none given: no. */
  routesLinkLocal?: boolean
}

/** policy: the one that would hold. */
export async function nodeRules(
  state: NodeState,
  plan: Plan,
  config: Config,
  policy: MasqueradePolicy
): Promise<NodeRules> {
  const served = [...plan.devices.values()]
  const names = (role: 'pod' | 'uplink') => served.filter((device) => device.role === role).map(({ name }) => name)
  const unserved = new Set(plan.unserved.map(({ ifindex }) => ifindex))
  const neverServed = [...state.links.values()]
    .filter((link) => link.up && !plan.devices.has(link.ifindex))
    .filter((link) => unserved.has(link.ifindex) || link.master !== 0 || !servedKinds.has(link.kind))
    .map(({ name }) => name)
  return {
    pods: names('pod'),
    uplinks: names('uplink'),
    neverServed,
    stackPrefixes: [...config.stackPrefixes, ...(await stackRoutes(plan))],
    own: ownPrefixes(state),
    podAddresses: [...plan.pods.keys()].map(hostPrefix),
    snat: config.snat.enabled,
    snat6: config.snat.enabled && policy.ipv6.masqueraded,
    routesLinkLocal: config.snat.enabled && masqueradesLinkLocal(policy)
  }
}

/** The node's own addresses. */
function ownPrefixes(state: NodeState): Prefix[] {
  return [...state.addresses.values()].flat().map(({ local }) => hostPrefix(local))
}

/** Of these a node has few. */
const mostStackRoutes = 256

/** null: one that does not pass; there may be a million. */
function entriesOf(
  routes: Plan['routes'],
  ...passes: Parameters<RouteMap['entriesOf']>
): Iterable<[Prefix, WantedRoute] | null> {
  if (routes instanceof RouteMap) return routes.entriesOf(...passes)
  return [...routes].filter(([, route]) => passes[0](route))
}

/** Prefixes whose routes all lead to the stack. The node's own addresses are none: answers to masqueraded connections go there. */
async function stackRoutes(plan: Plan): Promise<Prefix[]> {
  const slice = new Slice()
  const stack = new Set<Prefix>()
  const isStack = (route: WantedRoute): boolean => route.action === 'stack' && route.reason !== 'local'
  for (const entry of entriesOf(plan.routes, isStack)) {
    if (slice.due()) await slice.rest()
    if (entry && stack.size < mostStackRoutes) stack.add(entry[0])
  }
  if (stack.size === 0) return []
  const lengths = [...new Set([...stack].map((prefix) => splitPrefix(prefix).length))]
  const begins = new PrefixBegins(stack)
  const isOther = ({ action }: WantedRoute): boolean => action !== 'stack'
  for (const entry of entriesOf(plan.routes, isOther, (column, at) => begins.has(column, at))) {
    if (slice.due()) await slice.rest()
    if (!entry) continue
    const { address, length } = splitPrefix(entry[0])
    for (const shorter of lengths)
      if (shorter <= length) stack.delete(prefixKey(maskAddress(address, shorter), shorter))
  }
  // A class may forward what the node's own routes do not: only what no class speaks of is sure.
  for (const [key, { action }] of plan.classRoutes) {
    if (slice.due()) await slice.rest()
    if (action !== 'nexthop' && action !== 'group') continue
    const other = prefixIn(key)
    for (const prefix of stack) if (inside(other, prefix) || inside(prefix, other)) stack.delete(prefix)
  }
  return [...stack]
}
