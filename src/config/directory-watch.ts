// Tells that something in some directories may have changed. A watch holds a
// directory, not a path: where another directory stands in its place, a new watch
// is made. What cannot be watched is passed over: the caller looks by itself from
// time to time, as it has to for mounts, which make no event.

import { type FSWatcher, lstatSync, readlinkSync, statSync, watch } from 'node:fs'
import { join } from 'node:path'

/** As the kernel has it (MAXSYMLINKS, include/linux/namei.h). */
const mostLinks = 40

/**
 * The directories whose entries decide which file `path` is: that of the file, and that of each symbolic link on the
 * way to it. Where the way ends too early, the last one that is there.
 */
export function directoriesOnTheWay(path: string): Set<string> {
  const directories = new Set<string>()
  let links = 0
  let at = '/'
  let rest = partsOf(path)
  for (let name = rest.shift(); name !== undefined; name = rest.shift()) {
    const next = join(at, name)
    let target: string | null
    try {
      target = lstatSync(next).isSymbolicLink() ? readlinkSync(next) : null
    } catch {
      // it may appear
      return directories.add(at)
    }
    if (target === null) {
      if (rest.length === 0) directories.add(at)
      at = next
      continue
    }
    directories.add(at)
    if (++links > mostLinks) return directories
    if (target.startsWith('/')) at = '/'
    rest = [...partsOf(target), ...rest]
  }
  return directories
}

/** With "..", which behind a link leads up from where the link leads. */
function partsOf(path: string): string[] {
  return path.split('/').filter((part) => part !== '' && part !== '.')
}

export class DirectoryWatch {
  private readonly watchers = new Map<string, { watcher: FSWatcher; identity: string }>()

  constructor(private readonly onEvent: () => void) {}

  /** From now on these, and no others. */
  follow(directories: Iterable<string>): void {
    const wanted = new Map<string, string>()
    for (const directory of directories) {
      const identity = identityOf(directory)
      if (identity) wanted.set(directory, identity)
    }
    for (const [directory, { watcher, identity }] of this.watchers) {
      if (wanted.get(directory) === identity) continue
      watcher.close()
      this.watchers.delete(directory)
    }
    for (const [directory, identity] of wanted) if (!this.watchers.has(directory)) this.add(directory, identity)
  }

  close(): void {
    for (const { watcher } of this.watchers.values()) watcher.close()
    this.watchers.clear()
  }

  private add(directory: string, identity: string): void {
    try {
      const watcher = watch(directory, { persistent: false }, this.onEvent)
      watcher.on('error', () => {
        watcher.close()
        this.watchers.delete(directory)
      })
      this.watchers.set(directory, { watcher, identity })
    } catch {
      // gone meanwhile, or out of inotify watches
    }
  }
}

function identityOf(directory: string): string | null {
  try {
    const { dev, ino } = statSync(directory, { bigint: true })
    return `${dev}:${ino}`
  } catch {
    return null
  }
}
