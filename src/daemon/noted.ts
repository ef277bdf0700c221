// What a daemon has noted in its run directory, held against what is asked of it:
// what is taken off the node has to be its own, in its network namespace.

import { Refusal } from '../datapath/refusal.js'
import { directoriesFile, notedDirectories, realDirectory } from '../directories.js'
import { native } from '../native.js'
import { commandLine, type Paths } from './options.js'

/** The daemon has noted another network namespace than this one. */
export function isElsewhere(runDirectory: string): boolean {
  const noted = notedDirectories(runDirectory)
  return noted !== null && noted.namespace !== native().networkNamespace()
}

/** Its connections and rules are another network namespace's. Throws Refusal. */
export function refuseElsewhere(runDirectory: string): void {
  if (!isElsewhere(runDirectory)) return
  throw new Refusal(
    `the daemon has served another network namespace than the one this runs in (${native().networkNamespace()}): run it there (nsenter --net=...). Nothing was changed. If that namespace has gone, remove ${directoriesFile(runDirectory)}, then run it again`
  )
}

/** It has pinned and kept things in other directories than are asked for. `options`: what is to be run. Throws Refusal. */
export function refuseOtherDirectories(options: readonly string[], asked: Paths): void {
  const noted = notedDirectories(asked.runDirectory)
  if (noted === null) return
  const others: string[] = []
  if (isOther(noted.pinDirectory, asked.pinDirectory))
    others.push(`its pins are in ${noted.pinDirectory}, not in ${asked.pinDirectory}`)
  if (isOther(noted.stateDirectory, asked.stateDirectory))
    others.push(`its state is in ${noted.stateDirectory}, not in ${asked.stateDirectory}`)
  if (others.length === 0) return
  const { config, pinDirectory, stateDirectory } = noted
  const command = commandLine(options, { config, pinDirectory, stateDirectory, runDirectory: asked.runDirectory })
  throw new Refusal(
    `the daemon of ${asked.runDirectory} has used other directories: ${others.join('; ')}. Nothing was changed. Run: ${command}`
  )
}

const isOther = (one: string, other: string): boolean => realDirectory(one) !== realDirectory(other)
