// Follows ip-masq-agent's files and the flags that it runs with, and keeps the
// policy they make in force.
//
// Invariants
// - The policy changes as a whole, and only after the files have been seen the
//   same twice, `settle` apart: half-written contents never count.
// - A file that becomes empty or vanishes must stay so for five times `settle`:
//   many tools write by truncating or by removing first.
// - A file that is not valid changes nothing: its last good contents stay in
//   force and the problem is told, with its line, once per contents.
// - A file in a pod's volume that goes with the pod stays in force until another
//   pod of the same owner is there: an agent that is being replaced is still the
//   agent, and what it wrote into the kernel stays, too. So do its flags.
// - Events only say when to look. Files are read again every resyncInterval too,
//   and places in pods every few seconds, because a mount makes no event.

import { readTextFile } from '../read-file.js'
import type { AgentSettings } from './agent.js'
import { Agents, signature } from './agent-watch.js'
import { type DefaultsOnly, defaultsBesideAgent } from './defaults-only.js'
import { DirectoryWatch, directoriesOnTheWay } from './directory-watch.js'
import { type KeptFile, KeptFiles } from './kept-files.js'
import {
  defaultMasqueradeOptions,
  type MasqueradeFile,
  type MasqueradeOptions,
  type MasqueradePolicy,
  mergeMasquerade,
  samePolicy
} from './masquerade.js'
import { findPlaces, isDirectory, type Place, type Places } from './masquerade-places.js'
import { parseMasqueradeFile } from './masquerade-text.js'

export interface WatchedFile {
  path: string
  /** The agent's pod in whose volume it is; null: not in one. */
  pod: string | null
  present: boolean
  /** Its pod is gone; what it said stays in force until the next one is there. */
  kept: boolean
  /** When the contents in force were read; null: none are. */
  read: Date | null
  /** Of the contents there now, with file and line. */
  error: string | null
  warnings: string[]
}

export interface MasqueradeWatchOptions {
  /** Absolute paths with * ? [], or 'auto' (masquerade-places.ts). */
  patterns: readonly string[]
  agent?: AgentSettings
  /** How files are read and what becomes of IPv6. */
  reading?: MasqueradeOptions
  /** A new policy is in force. Not called for the first one: that is `policy`. */
  onChange(policy: MasqueradePolicy): void
  /** A file is not valid, cannot be read, has been removed, or holds something doubtful: a sentence with file and line. */
  onProblem(text: string): void
  /** The one before this one: what it knows of files that are not valid now stays in force. */
  before?: MasqueradeWatch
  /** Where what files in pods' volumes said is kept over a restart; absent: nowhere. */
  keptFile?: string
  /** Milliseconds; default 200. */
  settle?: number
  /** Milliseconds between looks at pods; default 5 s. */
  glance?: number
}

export interface MasqueradeWatch {
  readonly policy: MasqueradePolicy
  readonly files: WatchedFile[]
  /** Sentences about places, as long as they hold. */
  readonly warnings: readonly string[]
  readonly defaultsOnly: DefaultsOnly | null
  /** Looks now, without waiting for the files to settle; but what is lost has to stay so. */
  refresh(): void
  close(): void
}

/** Reads the files at once, so that `policy` is ready on return, then watches. Never throws for what the files hold. */
export function watchMasquerade(options: MasqueradeWatchOptions): MasqueradeWatch {
  return new Watch(options)
}

interface Known {
  place: Place
  good: MasqueradeFile | null
  /** That `good` was made of. */
  text: string
  read: Date | null
  error: string | null
  kept: boolean
  /** What was last judged, good or bad. */
  contents: Contents
}

/** Text of a file; null: there is none; an Error: it cannot be read. */
type Contents = string | null | Error

interface Looked {
  places: Places
  /** null: as they were. */
  agents: ReturnType<Agents['look']>
  files: Map<string, { place: Place; contents: Contents }>
}

/** A sentence about a file that is not valid; kept: what it said before holds. */
export function notInForce(error: string, kept: boolean): string {
  return `${error}; ${kept ? 'its last good contents stay in force' : 'nothing of it is in force'}`
}

const largest = 1024 * 1024
export const defaultAgent: AgentSettings = {
  namespaces: ['kube-system'],
  kubeletDirectory: '/var/lib/kubelet',
  podLogsDirectory: '/var/log/pods'
}

class Watch implements MasqueradeWatch {
  policy: MasqueradePolicy
  defaultsOnly: DefaultsOnly | null = null
  warnings: readonly string[] = []
  readonly reading: MasqueradeOptions
  readonly known = new Map<string, Known>()
  readonly agents = new Agents()
  private readonly agent: AgentSettings
  private readonly settle: number
  private readonly keptFiles: KeptFiles
  private readonly watcher = new DirectoryWatch(() => {
    // a look that is due anyway sees this change too
    if (!this.closed && !this.timer) this.schedule(Math.min(this.settle / 4, 50))
  })
  private pending: { looked: Looked; since: number } | null = null
  private warned = new Set<string>()
  private timer: NodeJS.Timeout | undefined
  private resync: NodeJS.Timeout | undefined
  private glance: NodeJS.Timeout | undefined
  private closed = false

  constructor(private readonly options: MasqueradeWatchOptions) {
    this.settle = options.settle ?? 200
    this.agent = options.agent ?? defaultAgent
    this.reading = options.reading ?? defaultMasqueradeOptions
    // armed before the first look: what happens in between makes an event
    this.arm(this.places())
    this.keptFiles = new KeptFiles(options.keptFile)
    if (options.before) this.inherit(options.before)
    else this.recall()
    const looked = this.readAll()
    this.judge(looked)
    this.policy = this.merged()
    this.settled(looked)
    this.startResync()
    if (looked.places.inPods) this.glance = setInterval(() => this.look(), options.glance ?? 5000).unref()
  }

  get files(): WatchedFile[] {
    return [...this.known.values()].map(({ place, good, read, error, kept, contents }) => ({
      path: place.path,
      pod: place.pod?.label ?? null,
      present: contents !== null,
      kept,
      read,
      error,
      warnings: good?.warnings ?? []
    }))
  }

  refresh(): void {
    if (this.closed) return
    const looked = this.readAll(true)
    if (this.differs(looked) && this.lost(looked)) return this.look()
    this.pending = null
    clearTimeout(this.timer)
    this.timer = undefined
    this.accept(looked)
  }

  close(): void {
    this.closed = true
    clearTimeout(this.timer)
    clearInterval(this.resync)
    clearInterval(this.glance)
    this.watcher.close()
  }

  private look(): void {
    if (this.closed) return
    const now = performance.now()
    const looked = this.readAll()
    this.arm(looked.places)
    if (!this.differs(looked)) {
      this.pending = null
      return
    }
    if (!this.pending || !sameLook(this.pending.looked, looked)) this.pending = { looked, since: now }
    const wait = this.pending.since + (this.lost(looked) ? 5 : 1) * this.settle - now
    if (wait <= 0) {
      this.pending = null
      this.accept(looked)
    } else {
      clearTimeout(this.timer)
      this.schedule(wait)
    }
  }

  private schedule(delay: number): void {
    this.timer = setTimeout(() => {
      this.timer = undefined
      this.look()
    }, delay)
    this.timer.unref()
  }

  private accept(looked: Looked): void {
    const before = this.policy
    this.judge(looked)
    this.policy = this.merged()
    this.settled(looked)
    if (this.policy.resyncInterval !== before.resyncInterval) this.startResync()
    if (!samePolicy(before, this.policy)) this.options.onChange(this.policy)
  }

  private settled({ places }: Looked): void {
    this.warnings = places.warnings
    this.keep()
    this.lookForAgent()
    this.warn()
    this.arm(places)
  }

  /** Takes what is valid over into `known`, keeps the last good of what is not. */
  private judge(looked: Looked): void {
    for (const { place, contents } of looked.files.values()) if (contents !== null) this.read(place, contents)
    for (const { place, contents } of looked.files.values()) if (contents === null) this.lose(place, looked)
    if (looked.agents) this.agents.accept(looked.agents)
  }

  private read(place: Place, contents: string | Error): void {
    const known = this.known.get(place.path) ?? this.fresh(place)
    known.place = place
    known.kept = false
    this.known.set(place.path, known)
    if (sameContent(known.contents, contents)) return
    known.contents = contents
    known.error = null
    try {
      if (contents instanceof Error) throw contents
      known.good = parseMasqueradeFile(contents, place.path, this.reading.semantics)
      known.text = contents
      known.read = new Date()
    } catch (error) {
      known.error = (error as Error).message
      this.options.onProblem(notInForce(known.error, known.good !== null))
    }
  }

  /** A pod's file begins with what the pod before had. */
  private fresh(place: Place): Known {
    const before = [...this.known.values()].find((each) => isSuccessor(place, each.place) && each.good)
    const { good, text, read } = before ?? { good: null, text: '', read: null }
    return { place, good, text, read, error: null, kept: false, contents: null }
  }

  private lose(place: Place, looked: Looked): void {
    const known = this.known.get(place.path)
    if (!known) {
      if (place.named) this.known.set(place.path, { ...this.fresh(place), good: null, read: null })
      return
    }
    const wasThere = known.contents !== null
    known.contents = null
    known.error = null
    const fate = this.fate(place, looked)
    known.kept = fate === 'kept' && known.good !== null
    if (known.kept) return
    if (fate === 'removed' && (wasThere || known.good) && known.good)
      this.options.onProblem(`${place.path}: has been removed; what it said no longer holds`)
    known.good = null
    known.read = null
    if (!place.named) this.known.delete(place.path)
  }

  /** Of a file that is not there. */
  private fate(place: Place, { places, files }: Looked): 'removed' | 'succeeded' | 'kept' {
    const { pod } = place
    if (!pod) return 'removed'
    for (const each of files.values()) if (each.contents !== null && isSuccessor(each.place, place)) return 'succeeded'
    // volumes of one pod come and go one by one: only its own one, or a pod that runs without, tells
    const runsWithout = places.agents.some(
      ({ owner, label, started }) => owner === pod.owner && label !== pod.label && started
    )
    return runsWithout || isDirectory(pod.volume) ? 'removed' : 'kept'
  }

  /** Of an earlier watch: last good contents, and what is kept of pods that are gone. */
  private inherit(before: MasqueradeWatch): void {
    if (!(before instanceof Watch)) return
    const { files, inPods, followsAgents } = this.places()
    if (followsAgents) this.agents.inherit(before.agents)
    if (before.reading.semantics !== this.reading.semantics) return
    for (const [path, known] of before.known) {
      const stays = files.some((place) => place.path === path) || (known.kept && inPods)
      if (stays && known.good) this.known.set(path, { ...known })
    }
  }

  /** After a restart: of pods that are gone. Those that are there are read. */
  private recall(): void {
    const { files, inPods, followsAgents } = this.places()
    if (!inPods) return
    const kept = this.keptFiles.read()
    if (followsAgents) this.agents.recall(kept.agents)
    for (const { place, text } of kept.files) {
      if (files.some(({ pod }) => pod?.owner === place.pod?.owner)) continue
      try {
        const good = parseMasqueradeFile(text, place.path, this.reading.semantics)
        this.known.set(place.path, { place, good, text, read: new Date(), error: null, kept: true, contents: null })
      } catch {
        // it was good under other semantics
      }
    }
  }

  private keep(): void {
    const files: KeptFile[] = []
    for (const { place, good, text } of this.known.values()) if (place.pod && good) files.push({ place, text })
    try {
      this.keptFiles.write({ files, agents: this.agents.toKeep })
    } catch (error) {
      this.options.onProblem(
        `what the agent's files and flags say is not kept over a restart: ${(error as Error).message}`
      )
    }
  }

  private merged(): MasqueradePolicy {
    // a pod's file that is not valid has what the pod before had: once
    const good = new Set([...this.known.values()].flatMap((known) => known.good ?? []))
    return mergeMasquerade([...good], this.reading, this.agents.list)
  }

  /** Each warning once for as long as it holds. */
  private warn(): void {
    const doubt = this.defaultsOnly?.doubtful ? [this.defaultsOnly.text] : []
    const warnings = new Set([...this.policy.warnings, ...this.warnings, ...doubt])
    for (const text of warnings) if (!this.warned.has(text)) this.options.onProblem(text)
    this.warned = warnings
  }

  private lookForAgent(): void {
    const any = [...this.known.values()].some(({ good, contents }) => good !== null || contents !== null)
    this.defaultsOnly = any ? null : defaultsBesideAgent(this.agent)
  }

  private differs({ files, agents }: Looked): boolean {
    if (agents) return true
    for (const [path, { contents, place }] of files) {
      const known = this.known.get(path)
      if (!sameContent(known?.contents ?? null, contents)) return true
      // its pod is gone, and now there is another one, or a volume without it
      if (known?.kept && contents === null && this.fate(place, { places: this.lastPlaces, agents, files }) !== 'kept')
        return true
    }
    return false
  }

  private lost(looked: Looked): boolean {
    for (const [path, { place, contents }] of looked.files) {
      const gone = contents === null || (typeof contents === 'string' && contents.trim() === '')
      if (gone && this.known.get(path)?.good && this.fate(place, looked) !== 'succeeded') return true
    }
    return false
  }

  private lastPlaces!: Places

  private places(): Places {
    this.lastPlaces = findPlaces(this.options.patterns, this.agent)
    return this.lastPlaces
  }

  /** All files that are named, found, or were there before, sorted by path, and the agents. now: see Agents. */
  private readAll(now = false): Looked {
    const places = this.places()
    const agents = places.followsAgents ? this.agents.look(places.agents, now) : null
    const found: Looked['files'] = new Map()
    for (const place of places.files) found.set(place.path, { place, contents: readText(place.path) })
    for (const [path, { place }] of this.known) {
      if (found.has(path)) continue
      const succeeded = places.files.some((each) => isSuccessor(each, place))
      found.set(path, { place, contents: succeeded ? null : readText(path) })
    }
    return { places, agents, files: new Map([...found].sort(([a], [b]) => (a < b ? -1 : 1))) }
  }

  private startResync(): void {
    clearInterval(this.resync)
    const turn = () => {
      this.look()
      if (this.closed) return
      this.lookForAgent()
      this.warn()
    }
    this.resync = setInterval(turn, this.policy.resyncInterval).unref()
  }

  private arm(places: Places): void {
    this.watcher.follow(this.directories(places))
  }

  private directories(places: Places): Set<string> {
    const directories = new Set(places.directories)
    for (const path of [...this.known.keys(), ...places.files.map((place) => place.path)])
      for (const directory of directoriesOnTheWay(path)) directories.add(directory)
    return directories
  }
}

/** The one file is in a volume of a pod that follows the other one's. */
function isSuccessor({ pod }: Place, before: Place): boolean {
  return pod !== null && pod.owner === before.pod?.owner && pod.label !== before.pod.label
}

function readText(path: string): Contents {
  try {
    return readTextFile(path, largest, 'a list of prefixes')
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    if (code === undefined) return new Error(`${path}: ${message}`)
    return code === 'ENOENT' || code === 'ENOTDIR' ? null : new Error(`${path}: cannot be read: ${message}`)
  }
}

function sameContent(a: Contents, b: Contents): boolean {
  return a instanceof Error && b instanceof Error ? a.message === b.message : a === b
}

function sameLook({ files: a, agents }: Looked, { files: b, agents: others }: Looked): boolean {
  return (
    signature(agents ?? []) === signature(others ?? []) &&
    a.size === b.size &&
    [...a].every(([path, { contents }]) => sameContent(contents, b.get(path)?.contents ?? null) && b.has(path))
  )
}
