// Watches ip-masq-agent's files and keeps the policy they make in force.
//
// Invariants
// - The policy changes as a whole, and only after the files have been seen the
//   same twice, `settle` apart: half-written contents never count.
// - A file that becomes empty or vanishes must stay so for five times `settle`:
//   many tools write by truncating or by removing first.
// - A file that is not valid changes nothing: its last good contents stay in
//   force and the problem is told, with its line, once per contents.
// - Events only say when to look. Files are read again every resyncInterval too,
//   because a mount over a directory makes no event.

import { type FSWatcher, readdirSync, readFileSync, realpathSync, statSync, watch } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { isGlob, matchesGlob } from './glob.js'
import { type MasqueradeFile, type MasqueradePolicy, mergeMasquerade, parseMasqueradeFile } from './masquerade.js'

export interface WatchedFile {
  path: string
  present: boolean
  /** When the contents in force were read; null: none are. */
  read: Date | null
  /** Of the contents there now, with file and line. */
  error: string | null
  warnings: string[]
}

export interface MasqueradeWatchOptions {
  /** Absolute paths; * ? [] in the last part. */
  patterns: readonly string[]
  /** A new policy is in force. Not called for the first one: that is `policy`. */
  onChange(policy: MasqueradePolicy): void
  /** A file is not valid, cannot be read, has been removed, or holds something doubtful: a sentence with file and line. */
  onProblem(text: string): void
  /** Milliseconds; default 200. */
  settle?: number
}

export interface MasqueradeWatch {
  readonly policy: MasqueradePolicy
  readonly files: WatchedFile[]
  /** Looks now, without waiting for the files to settle. */
  refresh(): void
  close(): void
}

/** Reads the files at once, so that `policy` is ready on return, then watches. Never throws for what the files hold. */
export function watchMasquerade(options: MasqueradeWatchOptions): MasqueradeWatch {
  return new Watch(options)
}

interface Known {
  good: MasqueradeFile | null
  read: Date | null
  error: string | null
  present: boolean
  /** What was last judged, good or bad. */
  contents: Contents
}

/** Text of a file; null: there is none; an Error: it cannot be read. */
type Contents = string | null | Error

const largest = 1024 * 1024

class Watch implements MasqueradeWatch {
  policy: MasqueradePolicy
  private readonly settle: number
  private readonly known = new Map<string, Known>()
  private readonly watchers = new Map<string, { watcher: FSWatcher; identity: string }>()
  private pending: { contents: Map<string, Contents>; since: number } | null = null
  private warned = new Set<string>()
  private timer: NodeJS.Timeout | undefined
  private resync: NodeJS.Timeout | undefined
  private closed = false

  constructor(private readonly options: MasqueradeWatchOptions) {
    this.settle = options.settle ?? 200
    // armed before the first look: what happens in between makes an event
    this.arm()
    this.judge(this.readAll())
    this.policy = this.merged()
    this.warn()
    this.arm()
    this.startResync()
  }

  get files(): WatchedFile[] {
    return [...this.known].map(([path, { good, read, error, present }]) => ({
      path,
      present,
      read,
      error,
      warnings: good?.warnings ?? []
    }))
  }

  refresh(): void {
    if (this.closed) return
    this.pending = null
    clearTimeout(this.timer)
    this.timer = undefined
    this.accept(this.readAll())
  }

  close(): void {
    this.closed = true
    clearTimeout(this.timer)
    clearInterval(this.resync)
    for (const { watcher } of this.watchers.values()) watcher.close()
    this.watchers.clear()
  }

  private look(): void {
    if (this.closed) return
    this.arm()
    const now = performance.now()
    const contents = this.readAll()
    if (!this.differs(contents)) {
      this.pending = null
      return
    }
    if (!this.pending || !sameContents(this.pending.contents, contents)) this.pending = { contents, since: now }
    const wait = this.pending.since + (this.lost(contents) ? 5 : 1) * this.settle - now
    if (wait <= 0) {
      this.pending = null
      this.accept(contents)
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

  private accept(contents: Map<string, Contents>): void {
    const before = this.policy
    this.judge(contents)
    this.policy = this.merged()
    this.warn()
    this.arm()
    if (this.policy.resyncInterval !== before.resyncInterval) this.startResync()
    if (!samePolicy(before, this.policy)) this.options.onChange(this.policy)
  }

  /** Takes what is valid over into `known`, keeps the last good of what is not. */
  private judge(contents: Map<string, Contents>): void {
    for (const [path, text] of contents) {
      const known = this.known.get(path) ?? { good: null, read: null, error: null, present: false, contents: null }
      if (this.known.has(path) && sameContent(known.contents, text)) continue
      known.contents = text
      known.present = text !== null
      known.error = null
      try {
        if (text instanceof Error) throw text
        if (text === null && known.good)
          this.options.onProblem(`${path}: has been removed; what it said no longer holds`)
        known.good = text === null ? null : parseMasqueradeFile(text, path)
        known.read = text === null ? null : new Date()
      } catch (error) {
        known.error = (error as Error).message
        const kept = known.good ? 'its last good contents stay in force' : 'it counts as absent'
        this.options.onProblem(`${known.error}; ${kept}`)
      }
      if (text === null && isFromGlob(path, this.options.patterns)) this.known.delete(path)
      else this.known.set(path, known)
    }
  }

  private merged(): MasqueradePolicy {
    return mergeMasquerade([...this.known.values()].flatMap((known) => known.good ?? []))
  }

  /** Each warning once for as long as it holds. */
  private warn(): void {
    const warnings = new Set(this.policy.warnings)
    for (const text of warnings) if (!this.warned.has(text)) this.options.onProblem(text)
    this.warned = warnings
  }

  private differs(contents: Map<string, Contents>): boolean {
    for (const [path, text] of contents) if (!sameContent(this.known.get(path)?.contents ?? null, text)) return true
    return false
  }

  private lost(contents: Map<string, Contents>): boolean {
    for (const [path, text] of contents) {
      if (this.known.get(path)?.good && (text === null || (typeof text === 'string' && text.trim() === ''))) return true
    }
    return false
  }

  /** All files that are named, match, or were there before, sorted by path. */
  private readAll(): Map<string, Contents> {
    const paths = new Set<string>(this.known.keys())
    for (const pattern of this.options.patterns) for (const path of expand(pattern)) paths.add(path)
    return new Map([...paths].sort().map((path) => [path, readText(path)]))
  }

  private startResync(): void {
    clearInterval(this.resync)
    this.resync = setInterval(() => this.look(), this.policy.resyncInterval)
    this.resync.unref()
  }

  /** Watches each directory that can change what the patterns lead to; again when another directory stands in its place. */
  private arm(): void {
    const wanted = new Map<string, string>()
    for (const directory of this.directories()) {
      const identity = identityOf(directory)
      if (identity) wanted.set(directory, identity)
    }
    for (const [directory, { watcher, identity }] of this.watchers) {
      if (wanted.get(directory) === identity) continue
      watcher.close()
      this.watchers.delete(directory)
    }
    for (const [directory, identity] of wanted)
      if (!this.watchers.has(directory)) this.watchDirectory(directory, identity)
  }

  private watchDirectory(directory: string, identity: string): void {
    try {
      const watcher = watch(directory, { persistent: false }, () => {
        // a look that is due anyway sees this change too
        if (!this.closed && !this.timer) this.schedule(Math.min(this.settle / 4, 50))
      })
      watcher.on('error', () => {
        watcher.close()
        this.watchers.delete(directory)
      })
      this.watchers.set(directory, { watcher, identity })
    } catch {
      // gone meanwhile, or out of inotify watches: the resync looks anyway
    }
  }

  private directories(): Set<string> {
    const directories = new Set<string>()
    for (const pattern of this.options.patterns) directories.add(nearestDirectory(dirname(pattern)))
    for (const path of this.known.keys()) {
      try {
        directories.add(dirname(realpathSync(path)))
      } catch {
        // not there now
      }
    }
    return directories
  }
}

/** The pattern's matches; a pattern without wildcards is its own match, there or not. */
function expand(pattern: string): string[] {
  const name = basename(pattern)
  if (!isGlob(name)) return [pattern]
  const directory = dirname(pattern)
  try {
    // dot files are not meant: ConfigMap mounts keep ..data and ..<date> beside the files
    const names = readdirSync(directory).filter((entry) => !entry.startsWith('.') && matchesGlob(name, entry))
    return names.map((entry) => join(directory, entry)).filter((path) => !isDirectory(path))
  } catch {
    return []
  }
}

function isFromGlob(path: string, patterns: readonly string[]): boolean {
  return !patterns.includes(path)
}

function readText(path: string): Contents {
  try {
    const { size, isFile } = fileFacts(path)
    if (!isFile) return new Error(`${path}: is not a regular file`)
    if (size > largest)
      return new Error(`${path}: ${size} bytes is too long for a list of prefixes (at most ${largest})`)
    return readFileSync(path, 'utf8')
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    return code === 'ENOENT' || code === 'ENOTDIR' ? null : new Error(`${path}: cannot be read: ${message}`)
  }
}

function fileFacts(path: string): { size: number; isFile: boolean } {
  const facts = statSync(path)
  return { size: facts.size, isFile: facts.isFile() }
}

function isDirectory(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false
}

function nearestDirectory(path: string): string {
  let directory = path
  while (directory !== '/' && !isDirectory(directory)) directory = dirname(directory)
  return directory
}

function identityOf(directory: string): string | null {
  try {
    const { dev, ino } = statSync(directory, { bigint: true })
    return `${dev}:${ino}`
  } catch {
    return null
  }
}

function sameContent(a: Contents, b: Contents): boolean {
  return a instanceof Error && b instanceof Error ? a.message === b.message : a === b
}

function sameContents(a: Map<string, Contents>, b: Map<string, Contents>): boolean {
  return a.size === b.size && [...a].every(([path, text]) => b.has(path) && sameContent(text, b.get(path) ?? null))
}

function samePolicy(a: MasqueradePolicy, b: MasqueradePolicy): boolean {
  return JSON.stringify([a.wanted, [...a.from]]) === JSON.stringify([b.wanted, [...b.from]])
}
