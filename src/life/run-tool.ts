// A program of the system, run to its end.

import { execFile } from 'node:child_process'

const patience = 30_000

/** Its standard output. Rejects with what it said to standard error, or why it could not be run. */
export function runTool([file = '', ...words]: readonly string[], input = ''): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = execFile(file, words, { timeout: patience }, (error, stdout, stderr) => {
      if (!error) return resolve(stdout)
      const missing = (error as NodeJS.ErrnoException).code === 'ENOENT'
      reject(new Error(missing ? `${file} is not installed` : stderr.trim() || error.message, { cause: error }))
    })
    child.stdin?.on('error', () => {})
    child.stdin?.end(input)
  })
}
