// Pods as a container runtime makes them: the real CNI plugins, run in a node's
// namespace with the runtime's environment variables and configuration.

import { LabHost } from './host.js'
import type { LabNode, LabPod } from './node.js'
import { prepare } from './node.js'
import { run } from './process.js'

/** Where the distribution's package puts the plugins. */
const PLUGINS = '/usr/lib/cni'

export interface CniNetwork {
  /** Name of the network; addresses are kept by it. */
  name: string
  type: 'ptp' | 'bridge'
  /** Of each family. */
  subnets: string[]
  /** Keys of the plugin itself. */
  keys?: Record<string, unknown>
}

/** What a plugin prints after ADD. */
interface AddResult {
  interfaces: { name: string; sandbox?: string }[]
  ips: { address: string; gateway: string }[]
}

export class CniPod extends LabHost {
  constructor(
    readonly node: LabNode,
    readonly network: CniNetwork,
    readonly address: { v4: string; v6: string },
    readonly gateway: { v4: string; v6: string },
    /** On the node. */
    readonly hostDevice: string,
    namespace: string
  ) {
    super(`CNI pod ${namespace}`, namespace)
  }

  /** DEL, then the namespace goes: the order in which a runtime does it. */
  async remove(directory: string): Promise<void> {
    await plugin(this.node, this.network, 'DEL', this.namespace, directory)
    await run(['ip', 'netns', 'del', this.namespace])
  }
}

/**
 * A namespace whose name begins with the node's, so that it is gone with the
 * lab, and ADD. `directory` holds the addresses given out.
 */
export async function addCniPod(node: LabNode, network: CniNetwork, name: string, directory: string): Promise<CniPod> {
  const namespace = `${node.namespace}${name}`
  await run(['ip', 'netns', 'add', namespace])
  await prepare(new LabHost(name, namespace))
  const result = JSON.parse(await plugin(node, network, 'ADD', namespace, directory)) as AddResult
  const find = (six: boolean, key: 'address' | 'gateway') =>
    result.ips.find((ip) => ip.address.includes(':') === six)?.[key].replace(/\/.*/, '') ?? ''
  const device = result.interfaces.filter(({ sandbox }) => !sandbox).at(-1)?.name ?? ''
  const pair = (key: 'address' | 'gateway') => ({ v4: find(false, key), v6: find(true, key) })
  return new CniPod(node, network, pair('address'), pair('gateway'), device, namespace)
}

function plugin(
  node: LabNode,
  network: CniNetwork,
  command: 'ADD' | 'DEL',
  namespace: string,
  directory: string
): Promise<string> {
  const { name, type, subnets, keys } = network
  const config = {
    cniVersion: '0.4.0',
    name,
    type,
    ...keys,
    ipam: {
      type: 'host-local',
      dataDir: directory,
      ranges: subnets.map((subnet) => [{ subnet }]),
      routes: [{ dst: '0.0.0.0/0' }, { dst: '::/0' }]
    }
  }
  return node.run([`${PLUGINS}/${type}`], {
    input: JSON.stringify(config),
    environment: {
      CNI_COMMAND: command,
      CNI_CONTAINERID: namespace,
      CNI_NETNS: `/run/netns/${namespace}`,
      CNI_IFNAME: 'eth0',
      CNI_PATH: PLUGINS
    }
  })
}

export interface PortMapping {
  hostPort: number
  containerPort: number
}

/** hostPorts of a pod that exists, TCP and UDP, by the portmap plugin as it is chained behind the one that made the pod. */
export async function mapPorts(pod: LabPod, mappings: readonly PortMapping[], command: 'ADD' | 'DEL' = 'ADD') {
  const sandbox = `/run/netns/${pod.namespace}`
  const config = {
    cniVersion: '0.4.0',
    name: 'lab',
    type: 'portmap',
    capabilities: { portMappings: true },
    runtimeConfig: {
      portMappings: mappings.flatMap((each) => [
        { ...each, protocol: 'tcp' },
        { ...each, protocol: 'udp' }
      ])
    },
    prevResult: {
      cniVersion: '0.4.0',
      interfaces: [{ name: pod.hostDevice }, { name: pod.device, sandbox }],
      ips: [
        { version: '4', address: `${pod.address.v4}/32`, interface: 1 },
        { version: '6', address: `${pod.address.v6}/128`, interface: 1 }
      ]
    }
  }
  await pod.node.run([`${PLUGINS}/portmap`], {
    input: JSON.stringify(config),
    environment: {
      CNI_COMMAND: command,
      CNI_CONTAINERID: pod.namespace,
      CNI_NETNS: sandbox,
      CNI_IFNAME: pod.device,
      CNI_PATH: PLUGINS
    }
  })
}
