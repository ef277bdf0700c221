// The version, from the package this file belongs to.

import { readFileSync } from 'node:fs'

/** What this process was started from; the files may be replaced meanwhile. */
export const startedVersion = packageVersion()

/** '0.0.0' when the package file is not where it should be. */
export function packageVersion(): string {
  for (const up of ['../', '../../../']) {
    try {
      const { name, version } = JSON.parse(readFileSync(new URL(`${up}package.json`, import.meta.url), 'utf8')) as {
        name?: string
        version?: string
      }
      if (name === 'hostroute' && version) return version
    } catch {
      // not there: look further up
    }
  }
  return '0.0.0'
}

/** A sentence if another version's files are on disk: what is loaded from now on would be theirs. Else null. */
export function filesReplaced(): string | null {
  const onDisk = packageVersion()
  return onDisk === startedVersion ? null : `version ${onDisk} is on disk, this daemon is ${startedVersion}`
}
