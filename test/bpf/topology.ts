// Devices, addresses and destinations of the made node (node.ts).

export type PodName = 'a' | 'b' | 'c'
export type UplinkName = 'up0' | 'up1'
export type DeviceName = PodName | UplinkName

/** What there is of each device; rows are given in this order. */
export const devices = {
  a: { mac: '02:00:00:00:0a:01', podMac: '02:00:00:00:0a:02', v4: '10.1.0.2', v6: 'fd00:1::2' },
  b: { mac: '02:00:00:00:0b:01', podMac: '02:00:00:00:0b:02', v4: '10.1.0.3', v6: 'fd00:1::3' },
  /** Its MAC is not known yet. */
  c: { mac: '02:00:00:00:0c:01', podMac: '02:00:00:00:0c:02', v4: '10.1.0.4', v6: 'fd00:1::4' },
  up0: { mac: '02:00:00:00:0f:01', podMac: '02:00:00:00:0f:fe', v4: '192.0.2.10', v6: '2001:db8::10' },
  up1: { mac: '02:00:00:00:0e:01', podMac: '02:00:00:00:0e:fe', v4: '203.0.113.10', v6: '2001:db8:1::10' }
} as const

/** MAC behind a device: of the pod, or of the uplink's gateway. */
export const macBehind = (name: DeviceName): string => devices[name].podMac
export const isPod = (name: DeviceName): name is PodName => name.length === 1
/** Second addresses of pod a: found through the hash, not the device row. */
export const secondary = { 4: '10.1.64.2', 6: 'fd00:1::2:2' } as const
export const onLink = { 4: '192.0.2.50', 6: '2001:db8::50', mac: '02:00:00:00:50:50' } as const

/** Destinations by what the tables say about them, for both families. */
export const to = {
  /** default route, gateway known, SNAT due */
  external: { 4: '8.8.8.8', 6: '2600::8' },
  /** gateway whose MAC is stale, no SNAT */
  remoteNode: { 4: '10.2.0.5', 6: 'fd00:2::5' },
  onLink,
  onLinkUnknown: { 4: '192.0.2.77', 6: '2001:db8::77' },
  /** two legs */
  group: { 4: '198.18.0.1', 6: '2001:db8:18::1' },
  blackhole: { 4: '198.51.100.9', 6: '2001:db8:51::9' },
  /** host route inside the blackhole */
  hostRoute: { 4: '198.51.100.7', 6: '2001:db8:51::7' },
  node: { 4: '192.0.2.10', 6: '2001:db8::10' },
  smallMtu: { 4: '198.19.0.1', 6: '2001:db8:19::1' },
  /** SNAT due, next hop without a source address */
  noSource: { 4: '198.20.0.1', 6: '2001:db8:20::1' }
} as const
