// Where ip-masq-agent's files are: /etc/config/ip-masq-agent on the host, in the
// volumes of the agent's pod under kubelet's directory, or where the
// configuration says.
//
// - A pattern may have * ? [] in each of its parts.
// - A path in a pod's volume means that volume of whichever pod has it now: the
//   pod's UID is another one after each update.
// - Of pods that follow one another (they have the same owner) the newest that has
//   files counts, with all of them; the others are about to end.

import { readdirSync, statSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { type AgentPod, type AgentSettings, findAgentPods, madeAt, PodNames, volumeOf } from './agent.js'
import { isGlob, matchesGlob } from './glob.js'

/** In snat.masqueradeFiles: the host's file and those of the agent's pods. */
export const auto = 'auto'
const hostFile = '/etc/config/ip-masq-agent'

export interface Place {
  path: string
  /** Named as it is: also listed when it is not there. */
  named: boolean
  /** In a pod's volume: whose, and its directory. Pods of one owner follow one another. */
  pod: { label: string; owner: string; volume: string } | null
}

export interface Places {
  files: Place[]
  /** The agent's pods, whether they have a file or not. Empty where nobody asked for them. */
  agents: AgentPod[]
  /** Somebody asked for the agent's pods. */
  followsAgents: boolean
  /** Directories whose changes may change the above. */
  directories: Set<string>
  /** Pods come and go without an event in `directories`: mounts make none. */
  inPods: boolean
  /** Sentences. */
  warnings: string[]
}

/** patterns: absolute paths, or 'auto'. Never throws: what cannot be read is not there. */
export function findPlaces(patterns: readonly string[], settings: AgentSettings): Places {
  return new Finder(patterns, settings).find()
}

class Finder {
  private readonly names: PodNames
  private readonly found = new Map<string, Place & { made: number }>()
  private readonly directories = new Set<string>()
  private readonly warnings: string[] = []
  private agents: AgentPod[] = []
  private followsAgents = false
  private inPods = false

  constructor(
    private readonly patterns: readonly string[],
    private readonly settings: AgentSettings
  ) {
    this.names = new PodNames(settings)
  }

  find(): Places {
    for (const pattern of this.patterns) {
      if (pattern === auto) this.findAgents()
      else this.expand(pattern)
    }
    const files = this.newest().sort((a, b) => (a.path < b.path ? -1 : 1))
    const { agents, followsAgents, directories, inPods, warnings } = this
    if (inPods && !this.names.known && files.some(({ pod }) => pod))
      warnings.push(
        `${this.settings.podLogsDirectory} is not there, so nothing tells the namespace of a pod: any pod with such a volume counts as the agent's; see snat.agent.podLogsDirectory`
      )
    return { files, agents, followsAgents, directories, inPods, warnings }
  }

  private findAgents(): void {
    this.named(hostFile)
    this.inPods = true
    this.followsAgents = true
    const { kubeletDirectory, podLogsDirectory } = this.settings
    this.watch(join(kubeletDirectory, 'pods'))
    this.watch(podLogsDirectory)
    this.agents = findAgentPods(this.settings, this.names)
    for (const { files, label, owner, made, volumes } of this.agents) {
      for (const volume of volumes) this.watch(volume)
      for (const path of files) {
        this.add({ path, named: false, pod: { label, owner, volume: dirname(path) }, made })
      }
    }
  }

  private named(path: string): void {
    this.watch(dirname(path))
    this.add({ path, named: true, pod: null, made: 0 })
  }

  private expand(pattern: string): void {
    const inVolume = volumeOf(pattern)
    if (inVolume) this.inPods = true
    else if (!isGlob(pattern)) return this.named(pattern)
    const anyPod = inVolume
      ? `${inVolume.pods}/*/${pattern.slice(inVolume.pods.length + 1).replace(/^[^/]+\//, '')}`
      : pattern
    for (const path of this.matches(anyPod)) {
      const place = volumeOf(path)
      if (!place) this.add({ path, named: false, pod: null, made: 0 })
      else if (place.uid === inVolume?.uid || this.names.isTrusted(place.uid)) this.addOfPod(path, place)
    }
  }

  private addOfPod(path: string, { pods, uid, volume, directory }: NonNullable<ReturnType<typeof volumeOf>>): void {
    const owner = this.names.owner(uid) ?? basename(volume)
    const pod = { label: this.names.label(uid), owner, volume: directory }
    this.add({ path, named: false, pod, made: madeAt(join(pods, uid)) })
  }

  private add(place: Place & { made: number }): void {
    if (!this.found.has(place.path)) this.found.set(place.path, place)
  }

  private newest(): Place[] {
    const newest = new Map<string, { label: string; made: number }>()
    for (const { pod, made } of this.found.values()) {
      const before = pod && newest.get(pod.owner)
      if (pod && (!before || before.made <= made)) newest.set(pod.owner, { label: pod.label, made })
    }
    return [...this.found.values()]
      .filter(({ pod }) => !pod || newest.get(pod.owner)?.label === pod.label)
      .map(({ path, named, pod }) => ({ path, named, pod }))
  }

  private matches(pattern: string): string[] {
    const parts = pattern.slice(1).split('/')
    const last = parts.pop() ?? ''
    let directories = ['/']
    for (const part of parts) {
      directories = isGlob(part)
        ? directories.flatMap((directory) => this.entries(directory, part).filter(isDirectory))
        : directories.map((directory) => join(directory, part))
    }
    return directories.flatMap((directory) => {
      if (isGlob(last)) return this.entries(directory, last).filter((path) => !isDirectory(path))
      this.watch(directory)
      return [join(directory, last)].filter(exists)
    })
  }

  private entries(directory: string, part: string): string[] {
    this.watch(directory)
    try {
      // dot files are not meant: ConfigMap mounts keep ..data and ..<date> beside the files
      const names = readdirSync(directory).filter((entry) => !entry.startsWith('.') && matchesGlob(part, entry))
      return names.sort().map((entry) => join(directory, entry))
    } catch {
      return []
    }
  }

  private watch(directory: string): void {
    this.directories.add(nearestDirectory(directory))
  }
}

/** Also what cannot be looked at: reading it tells why. */
function exists(path: string): boolean {
  try {
    return statSync(path, { throwIfNoEntry: false }) !== undefined
  } catch {
    return true
  }
}

export function isDirectory(path: string): boolean {
  try {
    return statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false
  } catch {
    return false
  }
}

function nearestDirectory(path: string): string {
  let directory = path
  while (directory !== '/' && !isDirectory(directory)) directory = dirname(directory)
  return directory
}
