// Two namespaces joined by one veth pair and nothing else: the floor under
// every measurement.

import { LabHost } from './host.js'
import { claim, release } from './lease.js'
import { run } from './process.js'

export interface BarePair {
  left: LabHost
  right: LabHost
  leftAddress: string
  rightAddress: string
  close(): void
}

/** On failure nothing is left. */
export async function createBarePair(): Promise<BarePair> {
  const { name } = claim()
  const [left, right] = [new LabHost('left', `${name}-left`), new LabHost('right', `${name}-right`)]
  const [leftAddress, rightAddress] = ['10.244.0.1', '10.244.0.2']
  try {
    await run(['ip', '-batch', '-'], { input: `netns add ${left.namespace}\nnetns add ${right.namespace}\n` })
    await left.ip(`link add eth0 type veth peer name eth0 netns ${right.namespace}`)
    for (const [host, address] of [
      [left, leftAddress],
      [right, rightAddress]
    ] as const) {
      await host.ip('link set lo up', 'link set eth0 up', `addr add ${address}/24 dev eth0`)
    }
  } catch (error) {
    release(name)
    throw error
  }
  return { left, right, leftAddress, rightAddress, close: () => release(name) }
}
