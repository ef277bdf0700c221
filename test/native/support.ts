// What the tests of the addon share: the stand-in BPF object, a private bpffs,
// namespaces, and child processes in which the addon is misused.

import { execFileSync, spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Test } from 'tap'
import { native } from '../../src/native.js'

const root = fileURLToPath(new URL('../../../../', import.meta.url))
export const addonPath = join(root, 'build/native/hostroute.node')

export function scratch(t: Test): string {
  const directory = mkdtempSync(join(tmpdir(), 'hr-native-'))
  t.teardown(() => rmSync(directory, { recursive: true, force: true }))
  return directory
}

/** Compiles the stand-in object; `defines` are clang's -D options. */
export function standin(directory: string, ...defines: string[]): string {
  const output = join(directory, `standin${defines.join('')}.o`)
  execFileSync(
    join(root, 'scripts/build-native'),
    ['--bpf', join(root, 'test/native/standin.bpf.c'), output, ...defines],
    {
      stdio: ['ignore', 'inherit', 'inherit']
    }
  )
  return output
}

/** A bpffs of its own, unmounted at the end of the test. */
export function bpffs(t: Test): string {
  const path = `/run/hr-native-${process.pid}-${Math.random().toString(36).slice(2)}`
  mkdirSync(path, { recursive: true })
  native().mountBpffs(path)
  t.teardown(() => {
    execFileSync('umount', ['-l', path])
    rmSync(path, { recursive: true })
  })
  return path
}

/** A network namespace with loopback up; removed at the end of the test. */
export function namespace(t: Test, suffix: string): string {
  const name = `hr-native-${suffix}-${process.pid}`
  execFileSync('ip', ['netns', 'add', name])
  t.teardown(() => execFileSync('ip', ['netns', 'del', name]))
  inside(name, 'ip', 'link', 'set', 'lo', 'up')
  return name
}

export function inside(name: string, command: string, ...args: string[]): string {
  return execFileSync('nsenter', [`--net=/run/netns/${name}`, command, ...args], { encoding: 'utf8' })
}

export interface ChildResult {
  code: number | null
  signal: NodeJS.Signals | null
  stdout: string
  stderr: string
}

const prelude = `
import { createRequire } from 'node:module'
import { Worker } from 'node:worker_threads'
import { execFileSync } from 'node:child_process'
const addonPath = ${JSON.stringify(addonPath)}
const native = createRequire(import.meta.url)(addonPath)
const sleep = milliseconds => new Promise(done => setTimeout(done, milliseconds))
const attempt = work => { try { return work() } catch (error) { return error.name + ' ' + error.code + ' ' + error.message } }
`

/** Runs JavaScript in a node of its own, with `native`, `sleep` and `attempt` at hand. */
export function runChild(
  snippet: string,
  options: { namespace?: string; flags?: string[] } = {}
): Promise<ChildResult> {
  const node = [
    process.execPath,
    '--no-warnings',
    ...(options.flags ?? []),
    '--input-type=module',
    '-e',
    prelude + snippet
  ]
  const command = options.namespace ? ['nsenter', `--net=/run/netns/${options.namespace}`, ...node] : node
  return new Promise((resolve, reject) => {
    const env = { ...process.env }
    delete env.NODE_OPTIONS
    const child = spawn(command[0] as string, command.slice(1), { stdio: ['ignore', 'pipe', 'pipe'], env })
    let stdout = ''
    let stderr = ''
    const timer = setTimeout(() => child.kill('SIGKILL'), process.env['HOSTROUTE_VM'] ? 300_000 : 60_000)
    child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text))
    child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text))
    child.on('error', reject)
    child.on('close', (code, signal) => {
      clearTimeout(timer)
      resolve({ code, signal, stdout: stdout.trim(), stderr })
    })
  })
}

/** A child that must end by itself, with status 0 and without a word on stderr; its stdout as JSON. */
export async function childJson<T>(
  t: Test,
  snippet: string,
  options: { namespace?: string; flags?: string[] } = {}
): Promise<T> {
  const result = await runChild(snippet, options)
  t.match(result, { code: 0, signal: null, stderr: '' }, 'the child ends normally')
  return JSON.parse(result.stdout || 'null') as T
}

export function uint32(...values: number[]): Buffer {
  const buffer = Buffer.alloc(values.length * 4)
  values.forEach((value, index) => buffer.writeUInt32LE(value, index * 4))
  return buffer
}
