// What a lab owns outside this process: network namespaces named after it, one
// directory below /run with a private bpffs, and the processes in its
// namespaces. All of it carries the owner's pid and start time, so that
//   - nothing is left behind by close, exit, a signal or an uncaught error;
//   - what a killed owner left is swept by the next lab;
//   - labs run side by side without touching each other.
// Clean-up is synchronous throughout: it has to work in an 'exit' listener.

import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  writeFileSync
} from 'node:fs'
import { execSync } from './process.js'

const PREFIX = 'hostroute-lab-'
const NAMESPACES = '/run/netns'

interface Owner {
  pid: number
  /** Clock ticks since boot, tells a reused pid apart. */
  started: string
  /** The lab stays when its owner has gone (demo --keep). */
  keep: boolean
}

/** One lab's claim on names. */
export interface Lease {
  /** Namespaces of this lab are called `${name}-…`. */
  name: string
  directory: string
  bpffs: string
}

const held = new Set<string>()
let count = 0
let watching = false

/** Claims a fresh name, makes the directory and mounts the bpffs. Sweeps first what dead owners left. */
export function claim(): Lease {
  if (process.getuid?.() !== 0)
    throw new Error('the lab needs root: it makes network namespaces and loads BPF programs')
  watch()
  if (count === 0) sweep()
  count += 1
  const name = `${PREFIX}${process.pid}-${count}`
  const lease = { name, directory: `/run/${name}`, bpffs: `/run/${name}/bpf` }
  held.add(name)
  mkdirSync(lease.bpffs, { recursive: true })
  writeOwner(name, false)
  const mounted = execSync(['mount', '-t', 'bpf', 'bpf', lease.bpffs])
  if (mounted.status !== 0) {
    release(name)
    throw new Error(`cannot mount a bpffs on ${lease.bpffs}: ${mounted.stderr.trim()}`)
  }
  return lease
}

/** Ends the lab's processes and removes its namespaces, bpffs and directory. Harmless when repeated. */
export function release(name: string): void {
  const namespaces = namespacesOf(name)
  for (let attempt = 0; attempt < 50; attempt++) {
    const pids = processesIn(namespaces)
    if (pids.length === 0) break
    for (const pid of pids) endProcess(pid)
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 10)
  }
  execSync(['ip', '-force', '-batch', '-'], namespaces.map((each) => `netns del ${each}\n`).join(''))
  if (existsSync(`/run/${name}/bpf`)) execSync(['umount', '-l', `/run/${name}/bpf`])
  rmSync(`/run/${name}`, { recursive: true, force: true })
  held.delete(name)
}

/** Lets the lab outlive this process. */
export function keep(name: string): void {
  writeOwner(name, true)
  held.delete(name)
}

/** Removes the labs of dead owners; with `kept` also those that were to stay. Returns their names. */
export function sweep(kept = false): string[] {
  const names = new Set<string>()
  for (const entry of list('/run')) if (entry.startsWith(PREFIX)) names.add(entry)
  for (const entry of list(NAMESPACES)) {
    const name = /^hostroute-lab-\d+-\d+/.exec(entry)?.[0]
    if (name) names.add(name)
  }
  const dead = [...names].filter((name) => !held.has(name) && isDead(name, kept))
  for (const name of dead) release(name)
  return dead
}

function isDead(name: string, kept: boolean): boolean {
  const owner = readOwner(name)
  if (owner?.keep) return kept
  const pid = owner?.pid ?? Number(/\d+/.exec(name)?.[0])
  const started = startOf(pid)
  return started === null || (owner !== null && owner.started !== started)
}

function writeOwner(name: string, keep: boolean): void {
  const owner: Owner = { pid: process.pid, started: startOf(process.pid) ?? '', keep }
  writeFileSync(`/run/${name}/owner`, JSON.stringify(owner))
}

function readOwner(name: string): Owner | null {
  try {
    return JSON.parse(readFileSync(`/run/${name}/owner`, 'utf8')) as Owner
  } catch {
    return null
  }
}

/** Field 22 of /proc/PID/stat; null when there is no such process. */
function startOf(pid: number): string | null {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8')
    return text.slice(text.lastIndexOf(')') + 2).split(' ')[19] ?? null
  } catch {
    return null
  }
}

function namespacesOf(name: string): string[] {
  return list(NAMESPACES).filter((entry) => entry.startsWith(`${name}-`))
}

/** Pids whose network namespace is one of these, but never this process. */
function processesIn(namespaces: readonly string[]): number[] {
  const inodes = new Set(namespaces.map((each) => `net:[${statSync(`${NAMESPACES}/${each}`).ino}]`))
  const found: number[] = []
  for (const entry of list('/proc')) {
    if (!/^\d+$/.test(entry) || Number(entry) === process.pid) continue
    try {
      if (inodes.has(readlinkSync(`/proc/${entry}/ns/net`))) found.push(Number(entry))
    } catch {
      // it ended meanwhile
    }
  }
  return found
}

function endProcess(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch {
    // it ended meanwhile
  }
}

function list(directory: string): string[] {
  try {
    return readdirSync(directory)
  } catch {
    return []
  }
}

function watch(): void {
  if (watching) return
  watching = true
  const releaseAll = () => {
    for (const name of [...held]) release(name)
  }
  process.on('exit', releaseAll)
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.once(signal, () => {
      releaseAll()
      process.kill(process.pid, signal)
    })
  }
}
