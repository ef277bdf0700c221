// The node that the route oracle works on: its devices, addresses and
// neighbours, and the prefixes from which random tables are made.

export const TAG = 99

export interface PodPlan {
  device: string
  v4: string[]
  v6: string[]
}

export const pods: readonly PodPlan[] = [
  { device: 'pod1', v4: ['10.1.0.5', '10.1.0.6'], v6: ['fd00:1::5', 'fd00:1::6'] },
  { device: 'pod2', v4: ['10.1.1.7'], v6: ['fd00:1:0:1::7'] },
  { device: 'pod3', v4: ['10.1.0.9'], v6: ['fd00:1::9'] },
  { device: 'pod4', v4: ['10.1.2.3'], v6: ['fd00:1:0:2::3'] }
]

export interface UplinkPlan {
  device: string
  /** Network part, without the last number: '192.0.2.' and '2001:db8:a::'. */
  v4: string
  v6: string
}

/** mv0 hangs on up2; the others are veths. */
export const uplinks: readonly UplinkPlan[] = [
  { device: 'up0', v4: '192.0.2.', v6: '2001:db8:a::' },
  { device: 'up1', v4: '198.51.100.', v6: '2001:db8:b::' },
  { device: 'up2', v4: '203.0.113.', v6: '2001:db8:c::' },
  { device: 'mv0', v4: '192.0.3.', v6: '2001:db8:d::' }
]

/** A VRF with a pod and an uplink; where the kernel has no VRFs they are devices like others. Routes of table main may lead out of the uplink, too. */
export const vrf = {
  device: 'red',
  table: 20,
  pod: { device: 'pod5', v4: ['10.1.3.5'], v6: ['fd00:1:0:3::5'] } satisfies PodPlan,
  uplink: { device: 'up3', v4: '198.51.101.', v6: '2001:db8:e::' } satisfies UplinkPlan
}

/** Devices that hostroute does not serve. */
export const others = ['tun0', 'br0', 'vx0'] as const

/** Last numbers: 1 to 3 are routers, 10 and 11 the node, 77 and 78 hosts; 4 and 79 nobody knows. */
export const routers = [1, 2, 3, 4] as const
/** A gateway in no subnet of the node, for `onlink`. */
export const FOREIGN = { 4: '100.64.0.1', 6: '2001:db8:ffff::1' } as const
export const LINK_LOCAL_ROUTERS = ['fe80::1', 'fe80::2'] as const

export const prefixes = {
  4: [
    '0.0.0.0/0',
    '0.0.0.0/1',
    '10.0.0.0/8',
    '10.20.0.0/16',
    '10.20.30.0/24',
    '10.20.30.128/25',
    '10.20.30.131/32',
    '172.16.0.0/12',
    '172.16.5.0/24',
    '198.18.0.0/15',
    '198.18.7.0/24',
    '198.18.7.7/32',
    '8.8.0.0/16',
    '8.8.8.8/32',
    '10.1.0.0/16',
    '10.1.0.0/24',
    '192.0.2.64/26'
  ],
  6: [
    '::/0',
    '2000::/3',
    '2001:db8::/32',
    '2001:db8:20::/48',
    '2001:db8:20:30::/64',
    '2001:db8:20:30::131/128',
    '2001:db8:18::/48',
    '2001:db8:18::7/128',
    'fd00:20::/32',
    'fd00:1::/32',
    'fd00:1::/64',
    '64:ff9b::/96',
    '2600::/12',
    '2001:db8:a::40/122'
  ]
} as const

export const destinations = {
  4: [
    '8.8.8.8',
    '8.8.4.4',
    '1.1.1.1',
    '10.20.1.1',
    '10.20.30.5',
    '10.20.30.131',
    '10.20.30.200',
    '10.77.0.1',
    '172.16.5.9',
    '172.20.0.1',
    '198.18.7.7',
    '198.18.7.9',
    '198.19.0.1',
    '10.1.0.200',
    '10.1.9.9',
    '224.0.0.5',
    '255.255.255.255',
    '169.254.9.9',
    ...pods.flatMap(({ v4 }) => v4),
    ...vrf.pod.v4,
    ...[...uplinks, vrf.uplink].flatMap(({ v4 }) => [1, 10, 77, 78, 79, 255].map((last) => `${v4}${last}`))
  ],
  6: [
    '2600::8',
    '2620::1',
    '2001:db8:20::1',
    '2001:db8:20:30::5',
    '2001:db8:20:30::131',
    '2001:db8:18::7',
    '2001:db8:18::9',
    '2001:db8:99::1',
    'fd00:20::1',
    'fd00:1::200',
    'fd00:99::1',
    '64:ff9b::8.8.8.8',
    'fe80::1',
    'ff02::1',
    ...pods.flatMap(({ v6 }) => v6),
    ...vrf.pod.v6,
    ...[...uplinks, vrf.uplink].flatMap(({ v6 }) => [1, 10, 77, 78, 79].map((last) => `${v6}${last}`))
  ]
} as const

/** Every neighbour entry the node has: the MAC names device and address. */
export function neighbours(): { device: string; address: string; mac: string }[] {
  const list: { device: string; address: string; mac: string }[] = []
  const add = (device: string, address: string) => {
    const number = (list.length + 1).toString(16).padStart(4, '0')
    list.push({ device, address, mac: `02:ff:00:00:${number.slice(0, 2)}:${number.slice(2)}` })
  }
  for (const { device, v4, v6 } of [...uplinks, vrf.uplink]) {
    for (const last of [1, 2, 3, 77, 78]) for (const network of [v4, v6]) add(device, `${network}${last}`)
    for (const address of [FOREIGN[4], FOREIGN[6], ...LINK_LOCAL_ROUTERS]) add(device, address)
  }
  for (const { device, v4, v6 } of [...pods, vrf.pod])
    if (device !== 'pod3') for (const address of [...v4, ...v6]) add(device, address)
  return list
}

export function deviceMac(device: string): string {
  const at = [...pods, ...uplinks, vrf.pod, vrf.uplink].findIndex((each) => each.device === device)
  return `02:dd:00:00:00:${(at + 1).toString(16).padStart(2, '0')}`
}

/** Fails where the kernel has no VRFs. */
export const vrfCommand = `link add ${vrf.device} type vrf table ${vrf.table}`

/** `ip` commands that make the devices; ones the kernel does not have are left out by the caller's -force. */
export function deviceCommands(peer: number): string[] {
  const veth = (device: string) =>
    `link add ${device} address ${deviceMac(device)} type veth peer name ${device} netns ${peer}`
  return [
    ...['up0', 'up1', 'up2', ...pods.map(({ device }) => device), vrf.pod.device, vrf.uplink.device].map(veth),
    `link add link up2 name mv0 address ${deviceMac('mv0')} type macvlan mode bridge`,
    'link add br0 type bridge',
    `link add brp type veth peer name brp netns ${peer}`,
    'link set brp master br0',
    'link set brp up',
    'link add vx0 type vxlan id 7 dstport 4789 local 192.0.2.10',
    'tuntap add tun0 mode tun'
  ]
}

/**
 * Everything the node has before a table is made, as commands that may be
 * repeated: a case begins with them, so it starts from the same state whatever
 * the one before has broken.
 */
export function baseCommands(hasVrf: boolean): string[] {
  const devices = [...uplinks, ...pods].map(({ device }) => device)
  const inVrf = [vrf.pod.device, vrf.uplink.device]
  return [
    ...(hasVrf ? inVrf.map((device) => `link set ${device} master ${vrf.device}`) : []),
    ...(hasVrf ? [`link set ${vrf.device} up`] : []),
    ...[...devices, ...inVrf, ...others].map((device) => `link set ${device} up mtu ${device === 'vx0' ? 1450 : 1500}`),
    ...[...uplinks, vrf.uplink].flatMap(({ device, v4, v6 }) => [
      ...[10, 11].map((last) => `addr replace ${v4}${last}/24 dev ${device}`),
      `addr replace ${v6}10/64 dev ${device} nodad`
    ]),
    'addr replace 192.168.77.1/24 dev br0',
    'addr replace 192.168.78.1/24 dev tun0',
    'addr replace 192.168.79.1/24 dev vx0',
    ...neighbours().map(
      ({ device, address, mac }) => `neigh replace ${address} lladdr ${mac} dev ${device} nud permanent`
    ),
    ...pods.flatMap(({ device, v4, v6 }) => [...v4, ...v6].map((address) => `route replace ${address} dev ${device}`)),
    ...[...vrf.pod.v4, ...vrf.pod.v6].map(
      (address) => `route replace ${address} dev ${vrf.pod.device} table ${vrf.table}`
    )
  ]
}
