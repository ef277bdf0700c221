// Pods for a machine that is the node itself: hostrouted as a system service
// runs in its first network namespace. For test machines only; it is never
// used on the machine that runs the tests.

import { LabHost } from '../lab/host.js'
import { run } from '../lab/process.js'

export interface Pod extends LabHost {
  address: { v4: string; v6: string }
}

export interface NodePods {
  pods: [Pod, Pod]
  outside: LabHost
  /** Knows the node, not its pods: only SNATed traffic gets an answer. */
  outsideAddress: { v4: string; v6: string }
}

const outsideAddress = { v4: '203.0.113.10', v6: '2001:db8:99::10' }
const gateway = { v4: '169.254.1.1', v6: 'fe80::1' }

/** Two pods on veth devices pod1 and pod2, and an uplink up0 to the outside. */
export async function makePods(): Promise<NodePods> {
  const outside = new LabHost('outside', 'hr-sd-outside')
  await run(['ip', 'netns', 'add', outside.namespace])
  await sysctl(['ipv4/ip_forward=1', 'ipv6/conf/all/forwarding=1', 'ipv6/conf/default/accept_dad=0'])
  await ip(null, [
    `link add up0 type veth peer name eth0 netns ${outside.namespace}`,
    'link set up0 up',
    'addr add 192.168.100.11/24 dev up0',
    'addr add fd00:168:100::11/64 dev up0 nodad',
    'route add default via 192.168.100.1 dev up0',
    'route add ::/0 via fd00:168:100::1 dev up0'
  ])
  await ip(outside, [
    'link set lo up',
    'link set eth0 up',
    'addr add 192.168.100.1/24 dev eth0',
    'addr add fd00:168:100::1/64 dev eth0 nodad',
    `addr add ${outsideAddress.v4}/32 dev lo`,
    `addr add ${outsideAddress.v6}/128 dev lo nodad`,
    // without a file of ip-masq-agent IPv6 keeps the pod's address
    'route add fd00:244:1::/64 via fd00:168:100::11 dev eth0'
  ])
  return { pods: [await makePod(1), await makePod(2)], outside, outsideAddress }
}

async function makePod(number: number): Promise<Pod> {
  const pod = new LabHost(`pod ${number}`, `hr-sd-pod${number}`)
  const address = { v4: `10.244.1.${number + 1}`, v6: `fd00:244:1::${number + 1}` }
  const device = `pod${number}`
  const hostMac = `02:02:00:01:00:0${number}`
  await run(['ip', 'netns', 'add', pod.namespace])
  await ip(null, [
    `link add ${device} address ${hostMac} type veth peer name eth0 netns ${pod.namespace}`,
    `link set ${device} addrgenmode none`,
    `link set ${device} up`,
    `addr add ${gateway.v6}/64 dev ${device} nodad`,
    `route add ${address.v4}/32 dev ${device} scope link`,
    `route add ${address.v6}/128 dev ${device}`
  ])
  await ip(pod, [
    'link set lo up',
    'link set eth0 up',
    `addr add ${address.v4}/32 dev eth0`,
    `addr add ${address.v6}/128 dev eth0 nodad`,
    `route add ${gateway.v4} dev eth0 scope link`,
    `route add default via ${gateway.v4} dev eth0`,
    `route add ::/0 via ${gateway.v6} dev eth0`,
    `neigh replace ${gateway.v4} lladdr ${hostMac} dev eth0 nud permanent`
  ])
  return Object.assign(pod, { address })
}

/** `ip` commands, in a namespace or (null) in the machine's own. */
async function ip(host: LabHost | null, commands: string[]): Promise<void> {
  const options = { input: `${commands.join('\n')}\n` }
  if (host) await host.run(['ip', '-batch', '-'], options)
  else await run(['ip', '-batch', '-'], options)
}

async function sysctl(settings: string[]): Promise<void> {
  const writes = settings.map((each) => each.replace(/(.*)=(.*)/, 'echo $2 > /proc/sys/net/$1'))
  await run(['sh', '-e'], { input: writes.join('\n') })
}
