// Running a test file in a network namespace of its own, and changing that
// namespace with iproute2. The namespace vanishes with the process.

import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process'
import { mkdtempSync, readlinkSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const mark = 'HOSTROUTE_TEST_NAMESPACE'

/**
 * To be called first by a test file: starts the file again under
 * `unshare --net` and ends this process with its status. Returns in the
 * process that is in the new namespace, where lo is up.
 */
export function enterNamespace(moduleUrl: string): void {
  const here = readlinkSync('/proc/self/ns/net')
  if (process.env[mark] === undefined) {
    const self = [process.execPath, ...process.execArgv, fileURLToPath(moduleUrl), ...process.argv.slice(2)]
    const run = spawnSync('unshare', ['--net', ...self], { stdio: 'inherit', env: { ...process.env, [mark]: here } })
    if (run.signal) console.error(`ended by ${run.signal}`)
    process.exit(run.status ?? 1)
  }
  if (process.env[mark] === here) throw new Error('still in the namespace of the machine: refusing to change it')
  ip('link set lo up')
}

/** One ip command. */
export function ip(command: string): string {
  return execFileSync('ip', command.split(' '), { encoding: 'utf8', maxBuffer: 1 << 28 })
}

/** Many ip commands in one process. */
export function ipBatch(commands: string[], options: string[] = []): void {
  const run = spawnSync('ip', [...options, '-batch', '-'], {
    input: `${commands.join('\n')}\n`,
    encoding: 'utf8',
    maxBuffer: 1 << 26
  })
  if (run.status !== 0) throw new Error(`ip -batch: ${run.stderr}`)
}

/** The same without blocking this process. */
export async function ipBatchAsync(commands: string[], options: string[] = []): Promise<void> {
  const child = spawn('ip', [...options, '-batch', '-'], { stdio: ['pipe', 'ignore', 'pipe'] })
  let errors = ''
  child.stderr.on('data', (text) => {
    errors += text
  })
  child.stdin.end(`${commands.join('\n')}\n`)
  const status = await new Promise((resolve) => child.on('close', resolve))
  if (status !== 0) throw new Error(`ip -batch: ${errors}`)
}

/** Writes commands for ipFile, so that running them costs this process nothing. */
export function writeBatch(commands: string[]): string {
  const path = join(mkdtempSync(join(tmpdir(), 'hostroute-batch-')), 'commands')
  writeFileSync(path, `${commands.join('\n')}\n`)
  return path
}

/** Runs the commands of writeBatch and removes the file. */
export async function ipFile(path: string): Promise<void> {
  const child = spawn('ip', ['-batch', path], { stdio: 'ignore' })
  const status = await new Promise((resolve) => child.on('close', resolve))
  rmSync(dirname(path), { recursive: true })
  if (status !== 0) throw new Error(`ip -batch ${path} ended with ${status}`)
}

/** A second namespace, alive until its stop() is called or this process ends; `pid` goes into `ip link set X netns PID`. */
export function peerNamespace(): { pid: number; run(command: string): string; stop(): void } {
  // cat ends with its input, thus with this process however that ends
  const child: ChildProcess = spawn('unshare', ['--net', 'cat'], { stdio: ['pipe', 'ignore', 'ignore'] })
  const pid = child.pid as number
  const own = readlinkSync('/proc/self/ns/net')
  for (let i = 0; ; i++) {
    if (readlinkSync(`/proc/${pid}/ns/net`) !== own) break
    if (i > 200) throw new Error('unshare does not make a namespace')
    execFileSync('sleep', ['0.01'])
  }
  const run = (command: string): string => {
    return execFileSync('nsenter', [`--net=/proc/${pid}/ns/net`, 'ip', ...command.split(' ')], { encoding: 'utf8' })
  }
  process.on('exit', () => child.kill())
  return { pid, run, stop: () => void child.kill() }
}

/** Waits until the probe returns no complaints; the last ones otherwise. */
export async function settle(probe: () => string[] | Promise<string[]>, milliseconds = 5000): Promise<string[]> {
  const end = Date.now() + milliseconds
  for (;;) {
    const complaints = await probe()
    if (complaints.length === 0 || Date.now() > end) return complaints
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}
