// The processes of the agent's pods, and the command lines that they run with.
//
// Invariant: a process is the agent's only if it is in the cgroup of one of the
// agent's pods (agent.ts says whose pod that is) and in the node's own network
// namespace, where the agent has to be. Of the pod's processes the name tells
// which one it is; by its name alone no process is the agent's.

import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { basename } from 'node:path'

export interface AgentProcess {
  pid: number
  /** Of its pod. */
  uid: string
  /** Without the program. */
  words: string[]
}

/** Looking through all processes takes at most so large a part of the time. */
const scanShare = 1 / 100
const agentName = /ip-masq-agent/

/** Finds the agent's processes, and knows them again. */
export class AgentProcesses {
  private pids: number[] = []
  private lookedFor = ''
  private nextScan = 0

  constructor(private readonly proc = '/proc') {}

  /** One for each of the pods that has one. now: looks for those that are missing, however little time has passed. */
  find(uids: readonly string[], now = false): AgentProcess[] {
    const known = this.pids.flatMap((pid) => this.read(pid, uids) ?? [])
    const pods = [...uids].sort().join()
    const isComplete = uids.every((uid) => known.some((process) => process.uid === uid))
    const isDue = now || pods !== this.lookedFor || performance.now() >= this.nextScan
    if (isComplete || !isDue) return known
    this.lookedFor = pods
    const began = performance.now()
    const found = this.scan(uids)
    const ended = performance.now()
    this.nextScan = ended + (ended - began) / scanShare
    this.pids = found.map(({ pid }) => pid)
    return found
  }

  /** The oldest of each pod. */
  private scan(uids: readonly string[]): AgentProcess[] {
    const found = new Map<string, AgentProcess>()
    for (const pid of this.all()) {
      const process = this.read(pid, uids)
      if (process && !found.has(process.uid)) found.set(process.uid, process)
    }
    return [...found.values()]
  }

  private all(): number[] {
    try {
      const names = readdirSync(this.proc).filter((name) => /^[0-9]+$/.test(name))
      return names.map(Number).sort((a, b) => a - b)
    } catch {
      return []
    }
  }

  private read(pid: number, uids: readonly string[]): AgentProcess | null {
    try {
      const uid = podOf(readFileSync(`${this.proc}/${pid}/cgroup`, 'utf8'))
      if (uid === null || !uids.includes(uid)) return null
      if (readlinkSync(`${this.proc}/${pid}/ns/net`) !== readlinkSync(`${this.proc}/self/ns/net`)) return null
      const [program = '', ...words] = readFileSync(`${this.proc}/${pid}/cmdline`, 'utf8')
        .replace(/\0$/, '')
        .split('\0')
      const names = [program, readlinkSync(`${this.proc}/${pid}/exe`).replace(/ \(deleted\)$/, '')]
      return names.some((name) => agentName.test(basename(name))) ? { pid, uid, words } : null
    } catch {
      // it has ended
      return null
    }
  }
}

/**
 * UID of the pod that a process is in, from /proc/PID/cgroup; null: it is in none. kubelet names a pod's cgroup
 * "podUID" or "kubepods-besteffort-podUID.slice", there with "_" for "-". What is below the pod's own cgroup the pod
 * may name as it likes, so the outermost one counts.
 */
export function podOf(cgroups: string): string | null {
  const uids = new Set<string>()
  for (const line of cgroups.split('\n')) {
    const path = line.split(':').slice(2).join(':')
    const [, uid] = /\/(?:[^/]*-)?pod([0-9A-Za-z_-]+)(?:\.slice)?(?:\/|$)/.exec(path) ?? []
    if (uid) uids.add(uid.replaceAll('_', '-'))
  }
  const [uid = null] = uids
  return uids.size === 1 ? uid : null
}
