// The lab's addressing plan, as pure functions of node, pod and uplink number.
//
//   pods      10.244.N.0/24   fd00:244:N::/64    N is the node's number, from 1
//   uplinks   192.168.U.0/24  fd00:168:U::/64    U is 100 for up0, 101 for up1
//   outside   203.0.113.0/24  2001:db8:99::/64   knows the uplinks, not the pods

export interface Pair {
  v4: string
  v6: string
}

export const PODS: Pair = { v4: '10.244.0.0/16', v6: 'fd00:244::/32' }
export const OUTSIDE: Pair = { v4: '203.0.113.10', v6: '2001:db8:99::10' }
export const OUTSIDE_ROUTER: Pair = { v4: '203.0.113.1', v6: '2001:db8:99::1' }
/** Every pod's default gateway; the node's side of each pod device answers for it. */
export const POD_GATEWAY: Pair = { v4: '169.254.1.1', v6: 'fe80::1' }

export function podAddress(node: number, pod: number): Pair {
  return { v4: `10.244.${node}.${pod + 1}`, v6: `fd00:244:${node}::${(pod + 1).toString(16)}` }
}

export function podRange(node: number): Pair {
  return { v4: `10.244.${node}.0/24`, v6: `fd00:244:${node}::/64` }
}

export function nodeAddress(node: number, uplink: number): Pair {
  return { v4: `192.168.${100 + uplink}.${10 + node}`, v6: `fd00:168:${100 + uplink}::${10 + node}` }
}

export function routerAddress(uplink: number): Pair {
  return { v4: `192.168.${100 + uplink}.1`, v6: `fd00:168:${100 + uplink}::1` }
}

export function uplinkRange(uplink: number): Pair {
  return { v4: `192.168.${100 + uplink}.0/24`, v6: `fd00:168:${100 + uplink}::/64` }
}

/** Locally administered; each device of a lab has its own. */
export function mac(kind: 'pod' | 'host' | 'uplink' | 'router' | 'outside', node: number, index: number): string {
  const digit = { pod: 1, host: 2, uplink: 3, router: 4, outside: 5 }[kind]
  return ['02', digit, 0, node, index >> 8, index & 255]
    .map((each) => (typeof each === 'string' ? each : each.toString(16).padStart(2, '0')))
    .join(':')
}
