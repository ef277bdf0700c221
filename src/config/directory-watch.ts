// Tells that something in some directories may have changed. A watch holds a
// directory, not a path: where another directory stands in its place, a new watch
// is made. What cannot be watched is passed over: the caller looks by itself from
// time to time, as it has to for mounts, which make no event.

import { type FSWatcher, statSync, watch } from 'node:fs'

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
