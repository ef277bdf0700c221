// Every kind of problem that the daemon can have, in the order of their weight,
// with what it affects and what to do about it.

import type { Affects } from '../control/problem-api.js'

interface Kind {
  affects: Affects
  remedy: string
  /** Who notices it writes it to the journal, with more detail. */
  told?: true
}

const kinds = {
  'not-enabled': {
    affects: 'traffic',
    remedy: 'hostroute check shows all of it; it is tried again by itself, or at once with: hostroute enable'
  },
  'egress-not-left': {
    affects: 'traffic',
    remedy: 'pods have no masquerading; it is tried again by itself; hostroute enable, or nft and iptables by hand'
  },
  'left-behind': {
    affects: 'traffic',
    remedy: 'it is tried again by itself; when the daemon does not run: hostrouted --remove'
  },
  'maps-not-written': {
    affects: 'traffic',
    remedy: 'packets go by what the maps held before; it is tried again by itself; if it stays: hostroute disable'
  },
  'lease-over': {
    affects: 'traffic',
    remedy: 'it is renewed by itself; what kept the daemon from it (a stopped process, no CPU) may come again'
  },
  'family-left': {
    affects: 'traffic',
    remedy: 'raise the limit in the configuration, then: hostroute reload',
    told: true
  },
  'device-not-served': {
    affects: 'traffic',
    remedy: 'bpftool net show dev DEVICE lists what hangs there; it is tried again by itself',
    told: true
  },
  'pins-gone': {
    affects: 'traffic',
    remedy:
      'a daemon that starts meanwhile finds nothing to take over, and flows through SNAT are cut; it is tried again by itself'
  },
  'conntrack-not-followed': {
    affects: 'traffic',
    remedy:
      'connections that the stack translates from now on may break; it is tried again by itself; if it stays: hostroute disable, then hostroute enable'
  },
  'flows-not-ended': {
    affects: 'traffic',
    remedy:
      'flows that are over keep their entries and ports; it is tried again by itself; hostroute snat top shows whose'
  },
  'no-snat-ports': {
    affects: 'traffic',
    remedy: 'give snat.ports a range that leaves some, then: hostroute reload',
    told: true
  },
  'limits-not-in-force': {
    affects: 'observation',
    remedy:
      'it is tried again by itself; where it says that something does not fit, give limits that hold what is in use, then: hostroute reload',
    told: true
  },
  'maps-not-finished': {
    affects: 'observation',
    remedy: 'it is tried again by itself, and by the next start; other limits come into force only after it',
    told: true
  },
  'switched-off': { affects: 'traffic', remedy: 'hostroute enable' },
  'forwarding-off': {
    affects: 'traffic',
    remedy: 'sysctl -w the key to 1, and look who sets it to 0: the kernel drops what hostroute leaves to it'
  },
  'pod-is-uplink': {
    affects: 'traffic',
    remedy: 'hostroute routes --device DEVICE shows the route through it; without it the device is a pod again'
  },
  'no-uplink': {
    affects: 'traffic',
    remedy: 'correct uplink.devices, then: hostroute reload; ip link lists the devices'
  },
  'rules-bypassed': {
    affects: 'traffic',
    remedy: 'hostroute check lists them, with what to do about each'
  },
  'programs-bypassed': {
    affects: 'traffic',
    remedy: 'hostroute check lists them, with what to do about each'
  },
  'ipsec-bypassed': {
    affects: 'traffic',
    remedy: 'hostroute check lists the policies; add their remote prefixes to stackPrefixes, then: hostroute reload'
  },
  'masquerade-refused': { affects: 'traffic', remedy: 'hostroute snat policy shows what is in force', told: true },
  'no-source': {
    affects: 'traffic',
    remedy: 'give the node the address (ip address add), or change snat.addresses',
    told: true
  },
  'masquerade-defaults': {
    affects: 'traffic',
    remedy: "name the agent's file in snat.masqueradeFiles",
    told: true
  },
  'guard-not-running': {
    affects: 'protection',
    remedy: 'iptables writes are not refused meanwhile; it is tried again by itself'
  },
  'configuration-not-valid': { affects: 'observation', remedy: 'correct the file, then: hostroute reload' },
  'configuration-not-in-force': {
    affects: 'observation',
    remedy: 'it is tried again by itself, until the file changes, or at once with: hostroute reload'
  },
  'configuration-not-kept': {
    affects: 'observation',
    remedy: 'make the state directory writable: it is tried again by itself'
  },
  'egress-not-taken-back': {
    affects: 'observation',
    remedy: 'it is tried again by itself, or by hand: nft delete table inet hostroute_egress'
  },
  'switch-not-kept': {
    affects: 'observation',
    remedy: 'make the state directory writable: it is tried again by itself'
  },
  'guard-not-kept': {
    affects: 'observation',
    remedy: 'make the state directory writable, then give the command again'
  },
  'no-xdp': {
    affects: 'observation',
    remedy:
      'packets take the same way without it; uplink.xdp: generic works with every driver, then: systemctl restart hostrouted',
    told: true
  },
  'maps-not-compared': {
    affects: 'observation',
    remedy: 'what somebody else changes in the maps is not put right meanwhile; it is tried again by itself'
  },
  'no-detour': {
    affects: 'observation',
    remedy:
      'packets that must be cut into fragments, or wait for a neighbour, are judged as if there were no way to do it; it is tried again by itself',
    told: true
  },
  'not-looked': {
    affects: 'observation',
    remedy: 'hostroute check says more; it is tried again by itself'
  },
  'maps-not-read': {
    affects: 'observation',
    remedy: 'they are read again for each status; if it stays: hostroute disable, then hostroute enable'
  },
  'files-replaced': { affects: 'observation', remedy: 'systemctl restart hostrouted' }
} as const satisfies Record<string, Kind>

export const problemKinds: Record<ProblemCode, Kind> = kinds

export type ProblemCode = keyof typeof kinds
