// A file that is replaced as a whole and synced: after a crash it is the old one or
// the new one.

import { closeSync, fsyncSync, mkdirSync, openSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'

/** The file with these contents or, after a crash or an error, as it was. Makes the directory. Throws the file system's error. */
export function replaceFile(path: string, text: string): void {
  const directory = dirname(path)
  mkdirSync(directory, { recursive: true, mode: 0o700 })
  const next = `${path}.next`
  try {
    // what has been put there, a pipe that nobody reads, holds nobody up
    rmSync(next, { force: true })
    const file = openSync(next, 'wx', 0o600)
    try {
      // not writeSync, which may write a part of it
      writeFileSync(file, text)
      fsyncSync(file)
    } finally {
      closeSync(file)
    }
    renameSync(next, path)
  } catch (error) {
    rmSync(next, { force: true })
    throw error
  }
  const parent = openSync(directory, 'r')
  try {
    fsyncSync(parent)
  } finally {
    closeSync(parent)
  }
}
