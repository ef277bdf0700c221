// Runs the command in a child process against a node that exists only as answers.

import { execFile } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Test } from 'tap'
import type { NodeControl, Status } from '../../src/control/api.js'
import { startControlServer } from '../../src/control/server.js'
import { fakeNode, fakeStatus } from '../control/fake.js'

export const command = fileURLToPath(new URL('../../src/cli/main.js', import.meta.url))

export interface Outcome {
  code: number
  out: string
  err: string
}

export function run(args: string[], env: Record<string, string> = {}): Promise<Outcome> {
  return new Promise((resolve) => {
    execFile(
      process.execPath,
      [command, ...args],
      { env: { PATH: process.env['PATH'], TZ: 'UTC', ...env } },
      (error, out, err) => {
        resolve({ code: error ? Number(error.code) : 0, out, err })
      }
    )
  })
}

export async function start(t: Test, change: Partial<NodeControl> = {}, status: Partial<Status> = {}) {
  const directory = mkdtempSync(join(tmpdir(), 'hr-cli-'))
  const socket = join(directory, 'control.sock')
  const node = fakeNode(change, () => fakeStatus(status))
  const server = await startControlServer({ path: socket, control: node })
  t.teardown(async () => {
    await server.close()
    rmSync(directory, { recursive: true })
  })
  return { node, socket, ask: (...args: string[]) => run([...args, '--socket', socket]) }
}
