// Runs the tools of the system whose output the check reads.

import { spawn } from 'node:child_process'
import { accessSync, constants } from 'node:fs'
import { delimiter, join } from 'node:path'

/** missing: no such program in PATH. failed: it ended with an error, `why` is what it said. */
export type ToolAnswer =
  | { kind: 'done'; stdout: string; stderr: string }
  | { kind: 'missing' }
  | { kind: 'failed'; why: string }

export interface Tools {
  has(name: string): boolean
  run(argv: readonly string[]): Promise<ToolAnswer>
}

const patience = 30_000

/** `path` as in $PATH. Programs run in this process's network namespace. */
export function createTools(path: string): Tools {
  const find = (name: string): string | null => {
    for (const directory of path.split(delimiter)) {
      if (directory === '') continue
      try {
        accessSync(join(directory, name), constants.X_OK)
        return join(directory, name)
      } catch {}
    }
    return null
  }
  return {
    has: (name) => find(name) !== null,
    run: ([name = '', ...words]) => {
      const file = find(name)
      return file === null ? Promise.resolve({ kind: 'missing' }) : execute(file, words, path)
    }
  }
}

function execute(file: string, words: readonly string[], path: string): Promise<ToolAnswer> {
  return new Promise((resolve) => {
    const child = spawn(file, words, {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, PATH: path, LC_ALL: 'C' },
      timeout: patience
    })
    const output = { stdout: [] as Buffer[], stderr: [] as Buffer[] }
    child.stdout.on('data', (chunk: Buffer) => output.stdout.push(chunk))
    child.stderr.on('data', (chunk: Buffer) => output.stderr.push(chunk))
    child.on('error', (error) => resolve({ kind: 'failed', why: error.message }))
    child.on('close', (status, signal) => {
      const stdout = Buffer.concat(output.stdout).toString()
      const stderr = Buffer.concat(output.stderr).toString().trim()
      if (status === 0) return resolve({ kind: 'done', stdout, stderr })
      const end = signal ? `was ended by ${signal}` : `exited with status ${status}`
      resolve({
        kind: 'failed',
        why: `${file} ${words.join(' ')} ${end}${stderr ? `: ${stderr.split('\n').slice(0, 3).join(' ')}` : ''}`
      })
    })
  })
}
