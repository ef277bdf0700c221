// Backend cgroup: tables with the names of iptables-nft's own, made with the
// owner flag, so that the kernel refuses everybody else's chains and rules.
//
// Such a table lives as long as the socket that made it, and the guard must
// outlive the daemon. Under systemd the service manager keeps the socket
// (FDSTORE); otherwise a process that only sleeps inherits it, named in a file
// of the run directory. A table that somebody else has made already cannot be
// owned: its row says so, and watching remains.

import { spawn } from 'node:child_process'
import { closeSync, fstatSync, readFileSync, readlinkSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import type { GuardTableRow } from '../control/guard-api.js'
import { type NetfilterSocket, native } from '../native.js'
import { attribute, batch, family, flag, message, name, nft, number, parse, textOf } from '../netfilter/nfnetlink.js'
import { readOwnFile } from '../read-file.js'
import { replaceFile } from '../replace-file.js'

const ownerFlag = 2
const ipTables = ['filter', 'nat', 'mangle', 'raw', 'security']
const wanted: [keyof typeof family, string][] = [
  ...ipTables.map((table): ['ip', string] => ['ip', table]),
  ...ipTables.map((table): ['ip6', string] => ['ip6', table]),
  ['arp', 'filter'],
  ['bridge', 'filter'],
  ['bridge', 'nat'],
  ['bridge', 'broute']
]
const existsError = 17
const storedName = 'hostroute-guard'

interface Holder {
  pid: number
  /** Start time in clock ticks since boot: a process number can be used again. */
  started: string
}

export class OwnedTables {
  readonly #holderFile: string
  #socket: NetfilterSocket | null = null
  /** Requests that delete the tables made by #socket. */
  #deletions: Buffer[] = []
  #rows: GuardTableRow[] = []
  /** Netlink port by "family table", of those that are owned. */
  #owners = new Map<string, number>()
  /** Processes that keep them. */
  #kept = 0

  constructor(runDirectory: string) {
    this.#holderFile = join(runDirectory, 'guard-holder.json')
  }

  rows(): GuardTableRow[] {
    return this.#rows
  }

  /** Keys of the map owned_tables. */
  keys(): Buffer[] {
    return wanted.flatMap(([of, table], index) => {
      const key = Buffer.alloc(36)
      key.writeUInt32LE(family[of])
      key.write(table, 4)
      return this.#rows[index]?.owned ? [key] : []
    })
  }

  /** Makes what is missing and has it kept. Throws; then nothing new is held. */
  take(): void {
    const inherited = this.#inheritedPorts()
    const made = native().openNetfilter(false)
    try {
      this.#takeWith(made, inherited)
    } catch (error) {
      // with it go the tables that it made
      made.close()
      this.#socket = null
      this.#deletions = []
      throw error
    }
  }

  /** false: a table that is owned has gone or is another's, or one of those who keep them has. Throws NativeError. */
  stands(socket: NetfilterSocket): boolean {
    if (this.#owners.size === 0) return true
    const present = listTables(socket)
    for (const [table, owner] of this.#owners) if (present.get(table) !== owner) return false
    return this.#holders().length >= this.#kept
  }

  #takeWith(made: NetfilterSocket, inherited: readonly number[]): void {
    const errors = wanted.map(([of, table]) => create(made, of, table))
    const present = listTables(made)
    this.#rows = wanted.map(([of, table], index) => {
      const row = { family: of, table }
      if (errors[index] === 0) return { ...row, owned: true, why: null }
      const owner = present.get(`${of} ${table}`)
      if (owner !== undefined && inherited.includes(owner)) return { ...row, owned: true, why: null }
      return { ...row, owned: false, why: refusal(errors[index] ?? 0, owner) }
    })
    if (errors.includes(0)) {
      this.#socket = made
      this.#deletions = wanted
        .filter((_, index) => errors[index] === 0)
        .map(([of, table]) => message(nft.delTable, family[of], flag.ack, [attribute(1, name(table))]))
      this.#keep(made.fd)
    } else {
      made.close()
    }
    const owned = this.#rows.filter((row) => row.owned).map((row) => `${row.family} ${row.table}`)
    this.#owners = new Map(owned.map((table) => [table, present.get(table) ?? 0]))
    this.#kept = this.#holders().length
  }

  /** The tables go, and who kept them. */
  release(): void {
    // Closing the socket takes tens of milliseconds, in which writers would still be refused.
    this.#socket?.request(batch(this.#deletions))
    if (native().notify(`FDSTOREREMOVE=1\nFDNAME=${storedName}`)) for (const fd of storedDescriptors()) closeQuietly(fd)
    for (const holder of this.#holders()) end(holder)
    rmSync(this.#holderFile, { force: true })
    this.#socket?.close()
    this.#socket = null
    this.#deletions = []
    this.#rows = []
    this.#owners.clear()
    this.#kept = 0
  }

  /** This process lets go; the tables stay with their keeper. */
  leave(): void {
    this.#socket?.close()
    this.#socket = null
  }

  /** The process waits for a line until its name is on disk: without a daemon nothing stays that a later one would not find. */
  #keep(fd: number): void {
    if (native().storeDescriptor(storedName, fd)) return
    const holder = spawn('sh', ['-c', 'read -r _ && exec sleep infinity </dev/null'], {
      detached: true,
      stdio: ['pipe', 'ignore', 'ignore', fd],
      cwd: '/',
      env: { PATH: process.env['PATH'] ?? '/usr/bin:/bin' }
    })
    holder.unref()
    holder.on('error', () => undefined)
    const { pid, stdin } = holder
    if (pid === undefined) throw new Error('cannot start sh(1) to keep the owned tables')
    stdin?.on('error', () => undefined)
    try {
      replaceFile(this.#holderFile, JSON.stringify([...this.#holders(), { pid, started: startTime(pid) }]))
    } catch (error) {
      holder.kill('SIGKILL')
      throw error
    }
    stdin?.end('\n')
  }

  /** Those that still live. More than one: tables were missing when a later daemon came. */
  #holders(): Holder[] {
    try {
      const holders = JSON.parse(readOwnFile(this.#holderFile)) as Holder[]
      return holders.filter(({ pid, started }) => startTime(pid) === started && !isZombie(pid))
    } catch {
      return []
    }
  }

  /** Netlink ports of sockets that an earlier daemon left with a keeper. */
  #inheritedPorts(): number[] {
    const inodes = storedDescriptors().map((fd) => String(fstatSync(fd).ino))
    for (const { pid } of this.#holders()) inodes.push(/\d+/.exec(readlinkSync(`/proc/${pid}/fd/3`))?.[0] ?? '')
    return netlinkPorts(inodes)
  }
}

/** Errno, 0: made. */
function create(socket: NetfilterSocket, of: keyof typeof family, table: string): number {
  const create = message(nft.newTable, family[of], flag.create | flag.exclusive | flag.ack, [
    attribute(1, name(table)),
    attribute(2, number(ownerFlag))
  ])
  const answers = parse(socket.request(batch([create])))
  return answers.find(({ error }) => error !== null)?.error ?? -1
}

/** "family table" → port of its owner, 0: none. */
function listTables(socket: NetfilterSocket): Map<string, number> {
  const found = new Map<string, number>()
  const names = Object.entries(family)
  for (const { type, family: of, attributes } of parse(
    socket.request(message(nft.getTable, family.unspecified, flag.dump, []))
  )) {
    if (type !== nft.newTable) continue
    const table = textOf(attributes.get(1))
    const familyName = names.find(([, value]) => value === of)?.[0]
    if (table !== null && familyName) found.set(`${familyName} ${table}`, attributes.get(7)?.readUInt32BE(0) ?? 0)
  }
  return found
}

function refusal(error: number, owner: number | undefined): string {
  if (owner === undefined)
    return error === existsError ? 'it vanished meanwhile' : `the kernel refused it (errno ${error})`
  return owner === 0
    ? 'somebody has made it already: remove it (nft delete table) and set the mode again'
    : `the process behind netlink port ${owner} owns it`
}

/** Descriptors that systemd has kept for us. */
function storedDescriptors(): number[] {
  if (process.env['LISTEN_PID'] !== String(process.pid)) return []
  const names = (process.env['LISTEN_FDNAMES'] ?? '').split(':')
  return names.flatMap((entry, index) => (entry === storedName && isOpen(3 + index) ? [3 + index] : []))
}

function isOpen(fd: number): boolean {
  try {
    return fstatSync(fd).isSocket()
  } catch {
    return false
  }
}

function closeQuietly(fd: number): void {
  try {
    closeSync(fd)
  } catch {
    // closed already
  }
}

/** Columns of /proc/net/netlink: sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode. */
function netlinkPorts(inodes: string[]): number[] {
  const rows = readFileSync('/proc/self/net/netlink', 'utf8')
    .split('\n')
    .map((line) => line.trim().split(/\s+/))
  return rows.filter((row) => inodes.includes(row[9] ?? '')).map((row) => Number(row[2]))
}

/** Its tables are gone when this returns: a zombie has closed its files. */
function end({ pid, started }: Holder): void {
  process.kill(pid, 'SIGKILL')
  const waiting = new Int32Array(new SharedArrayBuffer(4))
  for (let left = 1000; left > 0 && startTime(pid) === started && !isZombie(pid); left--) Atomics.wait(waiting, 0, 0, 2)
}

function isZombie(pid: number): boolean {
  return statFields(pid)?.[0] === 'Z'
}

function startTime(pid: number): string | null {
  return statFields(pid)?.[19] ?? null
}

/** Of /proc/PID/stat, from the state on. */
function statFields(pid: number): string[] | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  } catch {
    return null
  }
}
