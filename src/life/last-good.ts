// The last configuration that was in force, on disk: what the daemon starts with
// when the file has become wrong.

import { readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { type Config, ConfigError, loadConfig, type Problem, parseConfig } from '../config/config.js'
import { replaceFile } from '../replace-file.js'

export interface Loaded {
  config: Config
  /** There is such a file. */
  present: boolean
  /** Of the file; then `config` is the last good one. */
  problems: Problem[]
}

export function keptConfig(stateDirectory: string): string {
  return join(stateDirectory, 'config.yaml')
}

/** Throws ConfigError when the file is wrong and none was ever in force. */
export function loadLastGood(path: string, stateDirectory: string): Loaded {
  try {
    return { ...loadConfig(path), problems: [] }
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    const config = readKept(stateDirectory)
    if (config === null) throw error
    return { config, present: true, problems: error.problems }
  }
}

function readKept(stateDirectory: string): Config | null {
  try {
    const path = keptConfig(stateDirectory)
    return parseConfig(readFileSync(path, 'utf8'), path)
  } catch {
    // there is none, or it is of another version
    return null
  }
}

/** The file as it is now is in force. Throws the file system's error. */
export function keepConfig(path: string, stateDirectory: string): void {
  let text: string | null = null
  try {
    text = readFileSync(path, 'utf8')
  } catch (error) {
    if (!['ENOENT', 'ENOTDIR'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error
  }
  if (text === null) rmSync(keptConfig(stateDirectory), { force: true })
  else replaceFile(keptConfig(stateDirectory), text)
}
