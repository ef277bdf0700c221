// Problems that can be seen by looking at the node: each is looked for every few
// seconds and when somebody asks for the status.

import { readFileSync } from 'node:fs'
import { familyOf } from '../address.js'
import { matchesGlob } from '../config/glob.js'
import type { Datapath } from '../datapath/datapath.js'
import type { Family } from '../state/types.js'
import { filesReplaced } from '../version.js'
import { noSourceOf } from './lacking-sources.js'
import type { ObservedNode } from './observed-node.js'
import type { ProblemCode } from './problem-kinds.js'

type Look = (node: ObservedNode, datapath: Datapath) => string | null

const looks: Partial<Record<ProblemCode, Look>> = {
  'family-left': (_, { left: [alarm] }) => (alarm ? `IPv${alarm.family} is left to the kernel: ${alarm.why}` : null),
  'limits-not-in-force': (_, { limitsProblem }) => limitsProblem,
  'maps-not-finished': (_, { finishing }) => finishing.problem,
  'device-not-served': (_, { hooks, leftOut, noRoom }) => {
    const failed = [
      ...[...hooks.attached.values()].filter(({ error }) => error !== null),
      ...leftOut.map((device) => ({ device, error: noRoom }))
    ]
    const [first] = failed
    if (!first) return null
    const more = failed.length > 1 ? ` (and ${failed.length - 1} more)` : ''
    return `${first.device}${more} is not served: ${first.error}`
  },
  'no-xdp': (_, { hooks }) => {
    const [first] = [...hooks.attached.values()].filter(({ noXdp }) => noXdp !== null)
    return first ? `no XDP on ${first.device}: ${first.noXdp}` : null
  },
  'no-detour': (_, { detour }) => {
    const { device, why } = detour.status()
    return device === null && why !== null ? `there is no detour: ${why}` : null
  },
  'no-snat-ports': ({ config }, { ports }) =>
    config.snat.enabled && ports === 0 ? 'snat.ports leaves no port for SNAT' : null,
  'switched-off': (_, { control }) => (control.isOn ? null : 'the programs are switched off in the maps'),
  'forwarding-off': (node) => {
    const off = ([4, 6] as const).filter((family) => hasPods(node, family) && !forwards(family))
    return off.length === 0
      ? null
      : `the kernel forwards no ${off.map((family) => `IPv${family}`).join(' and ')}: ${off.map((family) => forwardingKeys[family].words).join(', ')} is 0`
  },
  'pod-is-uplink': (node) => {
    const names = node.podsThatBecameUplinks()
    return names.length === 0
      ? null
      : `${names.join(', ')} was a pod's device and counts as an uplink now, since a route leads through it: its pod has neither SNAT nor source check`
  },
  'no-uplink': ({ config, state }) => {
    const { devices } = config.uplink
    if (devices === 'auto') return null
    for (const { name } of state.links.values()) if (devices.some((each) => matchesGlob(each, name))) return null
    return `uplink.devices (${devices.join(', ')}) names no device of the node: what the pods send is not masqueraded`
  },
  'masquerade-refused': ({ config, masquerade }) => (config.snat.enabled ? masquerade.refused : null),
  'no-source': ({ config, plan, masquerade }) =>
    config.snat.enabled ? noSourceOf(plan.lackingSources.families, masquerade.policy.ipv6.masqueraded) : null,
  'masquerade-defaults': ({ config, masquerade: { watch } }) =>
    config.snat.enabled && watch.defaultsOnly?.doubtful ? watch.defaultsOnly.text : null
}

const forwardingKeys: Record<Family, { path: string; words: string }> = {
  4: { path: '/proc/sys/net/ipv4/ip_forward', words: 'net.ipv4.ip_forward' },
  6: { path: '/proc/sys/net/ipv6/conf/all/forwarding', words: 'net.ipv6.conf.all.forwarding' }
}

/** Brings the list up to date with what can be seen now. */
export function lookForProblems(node: ObservedNode): void {
  const { problems, datapath } = node
  for (const [code, look] of Object.entries(looks) as [ProblemCode, Look][])
    problems.set(code, datapath?.isServing && node.synced ? look(node, datapath) : null, () => node.nextTry(code))
  problems.set('files-replaced', filesReplaced())
}

function hasPods({ plan, config }: ObservedNode, family: Family): boolean {
  if (!(family === 4 ? config.ipv4 : config.ipv6)) return false
  for (const { address } of plan.pods.values()) if (familyOf(address) === family) return true
  return false
}

/** true also where the key cannot be read: the kernel has no such family. */
function forwards(family: Family): boolean {
  try {
    return readFileSync(forwardingKeys[family].path, 'utf8').trim() !== '0'
  } catch {
    return true
  }
}
