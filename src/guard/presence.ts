// Which exempt writers there are on the node now: units that run or are
// installed, cgroups that exist, executables that are there.
//
// Cgroups are followed by inotify in the few directories where one of them can
// appear (the roots, slices, the beginnings of the paths asked for), never by
// walks through the tree. A unit counts as there as soon as it is installed:
// at boot the guard starts before it.

import { type FSWatcher, readdirSync, statSync, watch } from 'node:fs'
import { join } from 'node:path'
import type { Subject } from './exemptions.js'

const unitDirectories = [
  '/etc/systemd/system',
  '/run/systemd/system',
  '/usr/local/lib/systemd/system',
  '/usr/lib/systemd/system',
  '/lib/systemd/system'
]

interface Directory {
  /** Below its root; the root's own is "". */
  path: string
  /** Units can appear in it. */
  slices: boolean
  /** null: inotify has no room; looked at by refresh(). */
  watcher: FSWatcher | null
  inode: number
  /** Exempt directories that stand in it. */
  found: string[]
}

export class Presence {
  readonly #unified: string | null
  readonly #roots: string[]
  readonly #onAppear: () => void
  readonly #directories = new Map<string, Directory>()
  #subjects: readonly Subject[] = []

  /** unified: mount point of cgroup2; others: of version 1 hierarchies. */
  constructor(unified: string | null, others: string[], onAppear: () => void) {
    this.#unified = unified
    this.#roots = unified === null ? others : [unified, ...others]
    this.#onAppear = onAppear
  }

  /** The list to follow from now on. Calls back for nothing that is there already. */
  follow(subjects: readonly Subject[]): void {
    this.close()
    this.#subjects = [...subjects]
    for (const root of this.#roots) this.#look(root, '', root === this.#unified)
  }

  /** Whether it runs or exists; a unit that is only installed does not. */
  exists(subject: Subject): boolean {
    return subject.kind === 'executable' ? isFile(subject.name) : this.#found(subject)
  }

  /** Whether it may write at any moment. */
  isExpected(subject: Subject): boolean {
    return this.exists(subject) || (subject.kind === 'unit' && isInstalled(subject.name))
  }

  /** Looks where nothing could be watched. */
  refresh(): void {
    for (const [absolute, { path, slices, watcher }] of [...this.#directories])
      if (watcher === null) this.#lookAgain(absolute, path, slices)
  }

  close(): void {
    for (const { watcher } of this.#directories.values()) watcher?.close()
    this.#directories.clear()
  }

  #found({ kind, name }: Subject): boolean {
    const matches = (path: string) => (kind === 'unit' ? path.endsWith(`/${name}`) : path === name)
    for (const { found, slices } of this.#directories.values())
      if ((kind === 'cgroup' || slices) && found.some(matches)) return true
    return false
  }

  #lookAgain(absolute: string, path: string, slices: boolean): void {
    const before = this.#allFound()
    this.#look(absolute, path, slices)
    if (this.#allFound().some((found) => !before.includes(found))) this.#onAppear()
  }

  #allFound(): string[] {
    return [...this.#directories].flatMap(([absolute, { found }]) => found.map((path) => `${absolute} ${path}`))
  }

  /** Watches first, so that nothing slips in between. */
  #look(absolute: string, path: string, slices: boolean): void {
    const inode = statSync(absolute, { throwIfNoEntry: false })?.ino ?? 0
    if (this.#directories.get(absolute)?.inode !== inode) this.#forget(absolute)
    const known = this.#directories.get(absolute)
    const directory = known ?? { path, slices, watcher: this.#watch(absolute, path, slices), inode, found: [] }
    this.#directories.set(absolute, directory)
    const children = directoriesIn(absolute)
    if (children === null) return this.#forget(absolute)
    directory.found = children
      .filter((child) => this.#isExempt(`${path}/${child}`, child, slices))
      .map((child) => `${path}/${child}`)
    for (const child of children) {
      const below = `${path}/${child}`
      const inSlices = slices && child.endsWith('.slice') && !directory.found.includes(below)
      if (inSlices || this.#leadsFurther(below)) {
        if (!this.#directories.has(join(absolute, child))) this.#look(join(absolute, child), below, inSlices)
      }
    }
  }

  #watch(absolute: string, path: string, slices: boolean): FSWatcher | null {
    try {
      const watcher = watch(absolute, { persistent: false }, (event) => {
        if (event === 'rename' && this.#directories.get(absolute)?.watcher === watcher)
          this.#lookAgain(absolute, path, slices)
      })
      watcher.on('error', () => this.#forget(absolute))
      return watcher
    } catch {
      return null
    }
  }

  #forget(absolute: string): void {
    this.#directories.get(absolute)?.watcher?.close()
    this.#directories.delete(absolute)
  }

  #isExempt(path: string, name: string, slices: boolean): boolean {
    return this.#subjects.some((subject) =>
      subject.kind === 'unit' ? slices && subject.name === name : subject.kind === 'cgroup' && subject.name === path
    )
  }

  #leadsFurther(path: string): boolean {
    return this.#subjects.some(({ kind, name }) => kind === 'cgroup' && name.startsWith(`${path}/`))
  }
}

function directoriesIn(path: string): string[] | null {
  try {
    return readdirSync(path, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map(({ name }) => name)
  } catch {
    return null
  }
}

/** A masked unit is a link to /dev/null. */
function isInstalled(unit: string): boolean {
  return unitDirectories.some((directory) => isFile(join(directory, unit)))
}

function isFile(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isFile() ?? false
}
