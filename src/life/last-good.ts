// The last configuration that was in force, on disk: what the daemon starts with
// when the file has become wrong. Its first line says what the rest has to be, so
// that half a file is not taken for a configuration.

import { createHash } from 'node:crypto'
import { rmSync } from 'node:fs'
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

export function keptConfig(stateDirectory: string): string {
  return join(stateDirectory, 'config.yaml')
}

/** Throws ConfigError when the file is wrong and none was ever in force, or what was kept of it is damaged. */
export function loadLastGood(path: string, stateDirectory: string): Loaded {
  try {
    return { ...loadConfig(path), problems: [] }
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    const kept = keptConfig(stateDirectory)
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
  // of a version that wrote no such line
  if (text !== '' && !text.startsWith(mark.slice(0, Math.min(mark.length, text.length)))) return text
  const end = text.indexOf('\n')
  const rest = text.slice(end + 1)
  if (end < 0 || text.slice(mark.length, end) !== sumOf(rest))
    throw new Damaged('the configuration that was kept is damaged, and cannot stand in')
  return rest
}

/** text: what was read and is in force; null: there was no file. Throws the file system's error. */
export function keepConfig(text: string | null, stateDirectory: string): void {
  if (text === null) rmSync(keptConfig(stateDirectory), { force: true })
  else replaceFile(keptConfig(stateDirectory), `${mark}${sumOf(text)}\n${text}`)
}

function sumOf(text: string): string {
  return createHash('sha256').update(text).digest('hex')
}
