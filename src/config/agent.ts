// ip-masq-agent on this node: its pods, as kubelet's directory shows them, and
// its process.
//
// kubelet keeps a pod's volumes under pods/UID/volumes/PLUGIN/NAME, and the
// logs of its containers under NAMESPACE_NAME_UID in the directory of pods'
// logs. Only the latter says whose pod it is: a volume, a container and a file
// have the names that whoever makes the pod gives them.
//
// Invariant: where the directory of logs is there, no pod of another namespace
// than those named is ever taken for the agent's. A tenant's pod must not say
// what is masqueraded for all.

import { readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs'
import { join } from 'node:path'

export interface AgentSettings {
  /** Namespaces whose pods may be the agent's. */
  namespaces: readonly string[]
  kubeletDirectory: string
  podLogsDirectory: string
}

export interface AgentPod {
  uid: string
  /** "kube-system/ip-masq-agent-x7k2p", or "pod UID" where the logs do not tell. */
  label: string
  /** Pods that follow one another have the same: the name without what a DaemonSet adds. */
  owner: string
  /** Of its directory, milliseconds since 1970. */
  made: number
  /** It has containers, and so all its volumes. */
  started: boolean
  /** Directories of its ConfigMap and projected volumes. */
  volumes: string[]
  /** Files in them that the agent reads. */
  files: string[]
}

const agentName = /ip-masq-agent/
const plugins = ['kubernetes.io~configmap', 'kubernetes.io~projected']
const inPod = /^(.*)\/pods\/([^/]+)\/volumes\/(kubernetes\.io~[^/]+\/[^/]+)\//

/** Where a file stands in a pod's volume; null: not in one. */
export function volumeOf(path: string): { pods: string; uid: string; volume: string; directory: string } | null {
  const match = inPod.exec(path)
  if (!match) return null
  const [, root = '', uid = '', volume = ''] = match
  return { pods: `${root}/pods`, uid, volume, directory: `${root}/pods/${uid}/volumes/${volume}` }
}

/** Whose pod a UID is. */
export class PodNames {
  private readonly byUid = new Map<string, { namespace: string; name: string }>()
  /** The directory of logs is there. */
  readonly known: boolean

  constructor(private readonly settings: AgentSettings) {
    const entries = list(settings.podLogsDirectory)
    this.known = entries !== null
    for (const entry of entries ?? []) {
      const [namespace, name, uid, ...more] = entry.split('_')
      if (namespace && name && uid && more.length === 0) this.byUid.set(uid, { namespace, name })
    }
  }

  /** May be the agent's. */
  isTrusted(uid: string): boolean {
    if (!this.known) return true
    const pod = this.byUid.get(uid)
    return pod !== undefined && this.settings.namespaces.includes(pod.namespace)
  }

  nameOf(uid: string): string | null {
    return this.byUid.get(uid)?.name ?? null
  }

  label(uid: string): string {
    const pod = this.byUid.get(uid)
    return pod ? `${pod.namespace}/${pod.name}` : `pod ${uid}`
  }

  /** "kube-system/ip-masq-agent" of the pod ip-masq-agent-x7k2p; null: not known. */
  owner(uid: string): string | null {
    const pod = this.byUid.get(uid)
    return pod ? `${pod.namespace}/${pod.name.replace(/-[a-z0-9]{5}$/, '')}` : null
  }
}

/** The agent's pods, oldest first. Nothing that cannot be read is an error: then there is no such pod. */
export function findAgentPods(settings: AgentSettings, names: PodNames): AgentPod[] {
  const root = join(settings.kubeletDirectory, 'pods')
  const found: AgentPod[] = []
  for (const uid of list(root) ?? []) {
    const pod = names.isTrusted(uid) ? readPod(join(root, uid), uid, names) : null
    if (pod) found.push(pod)
  }
  return found.sort((a, b) => a.made - b.made || (a.uid < b.uid ? -1 : 1))
}

function readPod(directory: string, uid: string, names: PodNames): AgentPod | null {
  const own = names.nameOf(uid)
  const containers = list(join(directory, 'containers')) ?? []
  const volumes = plugins.flatMap((plugin) =>
    (list(join(directory, 'volumes', plugin)) ?? []).map((name) => ({
      name,
      path: join(directory, 'volumes', plugin, name)
    }))
  )
  const words = [own ?? '', ...containers, ...volumes.map(({ name }) => name)]
  // upstream's volume is called "config": then the file is what tells
  const telling = words.some((word) => agentName.test(word))
  // Azure's agent reads all files ip-masq*, others only the one
  const azure = words.some((word) => word.startsWith('azure-ip-masq-agent'))
  const files = volumes.flatMap(({ path }) =>
    (list(path) ?? [])
      .filter((name) => (azure ? name.startsWith('ip-masq') : name === 'ip-masq-agent'))
      .map((name) => join(path, name))
  )
  if (!telling && files.length === 0) return null
  const named =
    volumes.find(({ name }) => agentName.test(name))?.name ?? containers.find((name) => agentName.test(name))
  return {
    uid,
    label: names.label(uid),
    owner: names.owner(uid) ?? named ?? 'ip-masq-agent',
    made: madeAt(directory),
    started: containers.length > 0,
    volumes: volumes.map(({ path }) => path),
    files
  }
}

/** Process IDs of agents in the node's own network namespace, where the agent has to run. */
export function findAgentProcesses(proc = '/proc'): number[] {
  const own = link(`${proc}/self/ns/net`)
  if (own === '') return []
  return (list(proc) ?? [])
    .filter((entry) => /^[0-9]+$/.test(entry))
    .filter((entry) => agentName.test(text(`${proc}/${entry}/comm`)) && link(`${proc}/${entry}/ns/net`) === own)
    .map(Number)
}

function list(directory: string): string[] | null {
  try {
    return readdirSync(directory).sort()
  } catch {
    return null
  }
}

export function madeAt(path: string): number {
  const facts = statSync(path, { throwIfNoEntry: false })
  return facts ? facts.birthtimeMs || facts.ctimeMs : 0
}

function link(path: string): string {
  try {
    return readlinkSync(path)
  } catch {
    return ''
  }
}

function text(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}
