// The last configuration that was in force, on disk: what the daemon starts with
// when the file has become wrong. Its first line says what the rest has to be, so
// that half a file is not taken for a configuration.
//
// Invariants
// - The state directory may be that of the configuration: a file there that is the
//   configuration, or has no such line, is the operator's. It is neither written nor
//   removed.

import { createHash } from 'node:crypto'
import { closeSync, constants, existsSync, openSync, readSync, rmSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { type Config, ConfigError, loadConfig, type Problem, parseConfig } from '../config/config.js'
import { readOwnFile } from '../read-file.js'
import { replaceFile } from '../replace-file.js'

export interface Loaded {
  config: Config
  /** The configuration as it was read; null: there is no file, or another one is in force. */
  text: string | null
  /** There is such a file. */
  present: boolean
  /** Of the file; then `config` is the last good one. */
  problems: Problem[]
}

const mark = '# what follows was in force, sha256 '

function keptConfig(stateDirectory: string): string {
  return join(stateDirectory, 'last-good.yaml')
}

/** What is kept, also by an earlier version; never one of `configs`, files of the operator's. The one that counts is first. */
export function keptConfigs(stateDirectory: string, configs: readonly string[]): string[] {
  const kept = keptConfig(stateDirectory)
  const earlier = join(stateDirectory, 'config.yaml')
  const found = [...(existsSync(kept) ? [kept] : []), ...(hasMark(earlier) ? [earlier] : [])]
  return found.filter((path) => !configs.some((config) => isSameFile(path, config)))
}

/** false: it is not there, or somebody else's. */
function hasMark(path: string): boolean {
  let file: number
  try {
    // a pipe would keep us waiting
    file = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK)
  } catch {
    return false
  }
  try {
    const begin = Buffer.alloc(mark.length)
    return readSync(file, begin, 0, begin.length, 0) === begin.length && begin.toString() === mark
  } catch {
    return false
  } finally {
    closeSync(file)
  }
}

function isSameFile(one: string, other: string): boolean {
  try {
    const [a, b] = [statSync(one, { bigint: true }), statSync(other, { bigint: true })]
    return a.dev === b.dev && a.ino === b.ino
  } catch {
    return false
  }
}

/** Throws ConfigError when the file is wrong and none was ever in force, or what was kept of it is damaged. */
export function loadLastGood(path: string, stateDirectory: string): Loaded {
  try {
    return { ...loadConfig(path), problems: [] }
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    const [kept] = keptConfigs(stateDirectory, [path])
    if (kept === undefined) throw error
    try {
      return { config: parseConfig(readKept(kept), kept), text: null, present: true, problems: error.problems }
    } catch (damage) {
      if (!(damage instanceof Damaged)) throw error
      const { message } = damage
      throw new ConfigError([...error.problems, { file: kept, line: 0, column: 0, key: '', text: message }])
    }
  }
}

class Damaged extends Error {}

/** Throws Damaged, and the file system's error. */
function readKept(path: string): string {
  const text = readOwnFile(path)
  const end = text.indexOf('\n')
  const rest = text.slice(end + 1)
  if (end < 0 || text.slice(0, end) !== `${mark}${sumOf(rest)}`)
    throw new Damaged('the configuration that was kept is damaged, and cannot stand in')
  return rest
}

/** text: what was read from `path` and is in force; null: there was no file. What an earlier version kept goes. Throws the file system's error. */
export function keepConfig(text: string | null, stateDirectory: string, path: string): void {
  const kept = keptConfig(stateDirectory)
  if (isSameFile(kept, path)) return
  if (text !== null) replaceFile(kept, `${mark}${sumOf(text)}\n${text}`)
  for (const old of keptConfigs(stateDirectory, [path])) if (text === null || old !== kept) rmSync(old, { force: true })
}

function sumOf(text: string): string {
  return createHash('sha256').update(text).digest('hex')
}
