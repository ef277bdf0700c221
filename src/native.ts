// The C++ addon's interface, typed. Everything that crosses is a Buffer, a
// number, a string or a plain object; failures are NativeError with the
// system call and errno, and leave the object as it was.

import { createRequire } from 'node:module'

/** What the addon throws: `code` is the errno's name ('EPERM'), `syscall` what was tried. */
export interface NativeError extends Error {
  code: string
  errno: number
  syscall: string
  /** Verifier log, extended ACK or path, when there is one. */
  detail?: string
}

export interface MapInfo {
  name: string
  type: number
  keySize: number
  /** Bytes of one value in user space; per-CPU maps: of one CPU's value (multiple of 8). */
  valueSize: number
  maxEntries: number
  id: number
}

/** A BPF map held by descriptor. Keys and values are raw bytes (bpf/types.h). */
export interface BpfMap {
  readonly info: MapInfo
  /** Value, or null when the key is absent. Per-CPU: all CPUs' values joined. */
  lookup(key: Buffer): Buffer | null
  /** flags: 0 any, 1 only if absent (EEXIST), 2 only if present (ENOENT). */
  update(key: Buffer, value: Buffer, flags?: number): void
  /** false when the key was absent. */
  delete(key: Buffer): boolean
  /** `count` joined keys and values; in one call where the kernel can, else singly. Returns how many were written; throws after a partial write with `written` on the error. */
  updateBatch(keys: Buffer, values: Buffer, count: number): number
  /** Absent keys are no error. Returns how many were deleted. */
  deleteBatch(keys: Buffer, count: number): number
  /**
   * The next entries of a hash map, array or trie, `most` of them or a few less, in one call: for tables
   * that are not to be held as a whole. `position`: what `next` was, null at the beginning; `next`
   * null: the end. Each entry present throughout comes once, of a trie perhaps again: it begins
   * anew when the entry at the position was deleted.
   */
  readBatch(position: Buffer | null, most: number): MapBatch
  /** All entries, joined. A map that changes meanwhile: each entry present throughout is there once. */
  dump(): { keys: Buffer; values: Buffer; count: number }
  /** The same, but of an array map (not per CPU) only rows that are not all zeros. */
  dumpPresent(): { keys: Buffer; values: Buffer; count: number }
  /** Of keys and values, as JSON (native/map_layout.h). */
  layout(): string
  /** Pins it at `path`, on a bpffs. Throws EEXIST when something is there. */
  pin(path: string): void
  /** From now on this is `other`, which is closed. */
  become(other: BpfMap): void
  close(): void
}

export interface MapBatch {
  keys: Buffer
  values: Buffer
  count: number
  next: Buffer | null
}

export interface TestRunResult {
  retval: number
  /** Packet after the program. */
  data: Buffer
  context: Buffer
  /** Mean nanoseconds of one run. */
  duration: number
}

export interface ObjectOptions {
  /** Name -> max_entries, for maps marked * in bpf/maps.h. */
  sizes?: Record<string, number>
  /** Directory on a bpffs: maps found there by name are taken over, the others are made and pinned there. Absent: nothing is pinned. */
  pinDirectory?: string
  /** Names of maps that have their pins in freshDirectory instead: made anew unless they are there, and not compared with what pinDirectory has. */
  fresh?: string[]
  freshDirectory?: string
  /** Programs to load; absent: all. */
  programs?: string[]
  /** Embedded object by the base name of its source in bpf/, NAME.bpf.c. Default 'hostroute'. */
  object?: string
  /** Instead of an embedded object: a file. For tests. */
  objectFile?: string
}

/** The embedded BPF object, loaded. */
export interface BpfObject {
  map(name: string): BpfMap
  /** Names of the maps that were taken over from pinDirectory. */
  readonly reused: string[]
  /** The section .data.control as bytes. Writes are visible to the programs at once. */
  readControl(): Buffer
  writeControl(offset: number, bytes: Buffer): void
  /** `checksumComplete`: the packet comes with a sum over it (CHECKSUM_COMPLETE); EBADMSG when that is wrong after the run. Needs Linux 6.11, else EINVAL. */
  testRun(
    program: string,
    options: { data?: Buffer; context?: Buffer; repeat?: number; ifindex?: number; checksumComplete?: boolean }
  ): TestRunResult
  /** Kernel's id of the loaded program. */
  programId(program: string): number
  /**
   * Attaches at TC ingress, or at `egress`, and pins the link at pinPath. A link pinned there
   * for the same device has its program replaced in one step, without a gap.
   * 'tcx' needs Linux 6.6; it throws EINVAL or EOPNOTSUPP on older kernels.
   */
  attachTcx(program: string, ifindex: number, pinPath?: string, egress?: boolean): AttachResult
  /** The same at TC ingress without a pin: detached when the handle is closed, or with the device or the process. */
  linkTcx(program: string, ifindex: number): HeldLink
  /** Puts a program in the place of the one that hangs on a held link, without a gap. Throws ENOLINK when somebody detached it. */
  updateLink(program: string, fd: number): void
  /** Attaches through clsact, handle 1, `priority`; replaces our own filter in one step. */
  attachClsact(program: string, ifindex: number, priority: number, egress?: boolean): AttachResult
  attachXdp(program: string, ifindex: number, mode: 'native' | 'generic', pinPath?: string): AttachResult
  /** Attaches to a netkit's primary device (`ifindex` is always the primary's): to what it sends, or with `peer` to what the pod's end sends. Needs Linux 6.7. */
  attachNetkit(program: string, ifindex: number, peer: boolean, pinPath?: string): AttachResult
  /** LSM, fentry and fmod_ret programs. A pinned link of an earlier daemon goes when this one stands. */
  attachTrace(program: string, pinPath?: string): AttachResult
  /** Entry of a kernel function. Throws ENOENT where the kernel has no kprobes. */
  attachKprobe(program: string, kernelFunction: string, pinPath?: string): AttachResult
  /** Throws ENOENT where the kernel has no such tracepoint. */
  attachRawTracepoint(program: string, tracepoint: string, pinPath?: string): AttachResult
  attachCgroup(program: string, cgroupPath: string, pinPath?: string): AttachResult
  close(): void
}

/** A link that nothing but this process holds. */
export interface HeldLink {
  readonly fd: number
  close(): void
}

export interface AttachResult {
  /** true: a program of an earlier daemon was replaced in place. */
  replaced: boolean
}

/** A program on a device, whoever put it there. */
export interface LinkedProgram {
  how: 'tcx' | 'netkit'
  /** Of the device on the host; a netkit's primary programs are at its egress, the peer's at its ingress. */
  where: 'ingress' | 'egress'
  /** The kernel's id. */
  id: number
}

export interface NetlinkOptions {
  /** Netlink protocol, default NETLINK_ROUTE (0). */
  protocol?: number
  /** Multicast groups by number (RTNLGRP_*). */
  groups: number[]
  /** Receive buffer to force, bytes. */
  receiveBuffer: number
  /** Most bytes handed over in one callback. */
  batchBytes?: number
}

/** Events: raw netlink messages, whole ones, joined; `overrun` when the kernel dropped some (ENOBUFS). */
export interface NetlinkReader {
  close(): void
}

/** Sockets for netfilter in one network namespace, which lives at least as long as they. */
export interface NetfilterSocket {
  /** SO_NETNS_COOKIE: names the namespace for ever. */
  readonly cookie: bigint
  /** Of the nfnetlink socket, which owns the tables made with the owner flag. */
  readonly fd: number
  /** Sends one datagram to nfnetlink and gathers all answers. Throws when the datagram itself was refused; errors in answers are the caller's to read. */
  request(messages: Buffer): Buffer
  /** setsockopt on a raw socket: level 0 IPv4, 41 IPv6. */
  setOption(level: number, name: number, value: Buffer): void
  /** getsockopt: `value` is the question, as long as the answer. */
  getOption(level: number, name: number, value: Buffer): Buffer
  /** The same on another thread, for large tables. */
  readOption(level: number, name: number, value: Buffer): Promise<Buffer>
  close(): void
}

/** A TAP device of this process's (drivers/net/tun.c), up, without offloads, MTU 65521. It goes with close() or with the process. */
export interface TapDevice {
  readonly name: string
  readonly ifindex: number
  /** An Ethernet frame as if received; it passes the programs at TC ingress before this returns. false: the device did not take it (down, deleted, closed). */
  write(frame: Buffer): boolean
  close(): void
}

export interface Native {
  loadObject(options: ObjectOptions): BpfObject
  /** The same on another thread: the verifier takes a second. */
  loadObjectLater(options: ObjectOptions): Promise<BpfObject>
  openPinnedMap(path: string): BpfMap
  /** By the kernel's id. */
  openMap(id: number): BpfMap
  /** Names of the maps pinned there whose keys or values are of another layout than those of the embedded object. */
  differingMaps(pinDirectory: string): string[]
  /** Rows of `from` bytes as rows of `to` bytes. pieces: triples of where from, where to and how many bytes, 32 bits each; the rest is zero. */
  rearrange(rows: Buffer, from: number, to: number, pieces: Buffer): Buffer
  /** The program in the link pinned at path, held by descriptor. */
  holdProgram(path: string): HeldLink
  /** The kernel's ids of the maps that the program uses which the link pinned at path holds. */
  linkedMaps(path: string): number[]
  /** Puts a held program into the link pinned at path, without a gap. */
  putProgram(path: string, fd: number): void
  /** Detaches what the link pinned at path holds and removes the pin. false: nothing there. */
  detachPinned(path: string): boolean
  /** Removes our clsact filters, of both hooks; and the clsact qdisc when no filter is left and we made it. false: nothing there. */
  detachClsact(ifindex: number, priority: number): boolean
  /** What hangs on a device by TCX or netkit links, in the order in which it runs. Empty where the kernel has neither (Linux 6.6, 6.7), or no such device. */
  attachedPrograms(ifindex: number): LinkedProgram[]
  /** Its first 15 bytes. null: it has gone. */
  programName(id: number): string | null
  /** Records of a ring buffer map, each copied; called in batches on the main thread. Close by the returned function. */
  readRing(map: BpfMap, onRecords: (records: Buffer[]) => void): { close(): void }
  openNetlinkReader(options: NetlinkOptions, onMessages: (messages: Buffer, overrun: boolean) => void): NetlinkReader
  /**
   * Makes a TAP device in the network namespace of this process. `onFrames`: what the kernel
   * sends to it, whole Ethernet frames, each copied, 64 of them or 32 KiB at once (the last may
   * go beyond); null, once: somebody deleted the device. Throws EBUSY when a device has this name
   * already; ENOENT, ENODEV or ENXIO without the module tun; EPERM or EACCES when refused.
   */
  openTap(name: string, onFrames: (frames: Buffer[] | null) => void): TapDevice
  /**
   * One dump request on its own socket, strict checking on. `request` is the
   * message after nlmsghdr. Resolves with whole messages in chunks through
   * onChunk; rejects with the kernel's errno and extended ACK; `interrupted`
   * is NLM_F_DUMP_INTR, or that the group `events` told something meanwhile:
   * the caller repeats. `protocol`: netlink protocol, default NETLINK_ROUTE (0).
   */
  dumpNetlink(
    type: number,
    request: Buffer,
    onChunk: (messages: Buffer) => void,
    events?: number,
    protocol?: number
  ): Promise<{ interrupted: boolean }>
  /**
   * A dump of routes (RTM_GETROUTE) as dumpNetlink() makes it, by what they share.
   * `kinds`: whole messages that differ in more than their destination, which they do not
   * show; a kind's number is where it stands. `records`: 32-bit numbers, for each route in
   * the dump's order 256 * kind + prefix length, then the address from its begin, one number
   * (IPv4) or four, as the request's family is. Length 255: the kind is the message as it
   * came, because it is none of a route or contradicts itself. Numbers of kinds hold within
   * one call.
   */
  dumpRoutes(
    request: Buffer,
    onRoutes: (kinds: Buffer, records: ArrayBuffer) => void,
    events?: number
  ): Promise<{ interrupted: boolean }>
  /** true: in a new network namespace, which is left when the sockets close; needs CAP_SYS_ADMIN. */
  openNetfilter(newNamespace: boolean): NetfilterSocket
  /** Gives systemd a descriptor to keep while the daemon is away (FDSTORE). false: not started by systemd. */
  storeDescriptor(name: string, fd: number): boolean
  /** sd_notify(3) to $NOTIFY_SOCKET. false: not started by systemd. */
  notify(state: string): boolean
  /** SO_PEERCRED of a connected unix socket. */
  peerCredentials(fd: number): { pid: number; uid: number; gid: number }
  /** Identity of the network namespace this process is in: "dev:inode". */
  networkNamespace(): string
  /** statfs(2) magic is bpffs. */
  isBpffs(path: string): boolean
  mountBpffs(path: string): void
  /** flock(2) exclusive, not blocking. null: somebody holds it. */
  lockFile(path: string): { close(): void } | null
  /** Names of the effective capabilities, e.g. CAP_NET_ADMIN. */
  capabilities(): string[]
  groupId(name: string): number | null
  libbpfVersion(): string
  /** Returns when every program that ran on a packet has ended (membarrier(2)). false: the kernel does not tell (nohz_full CPUs). */
  gracePeriod(): boolean
  /** malloc_trim(3): freed memory goes back to the kernel. */
  trimMemory(): void
}

let loaded: Native | undefined

/** The addon, loaded once. Throws an Error that names the file and the remedy when it was not built. */
export function native(): Native {
  if (loaded) return loaded
  const require = createRequire(import.meta.url)
  const path = new URL('../../native/hostroute.node', import.meta.url).pathname
  try {
    loaded = require(path) as Native
  } catch (cause) {
    throw new Error(`cannot load the native addon ${path}: build it with "npm run build"`, { cause })
  }
  return loaded
}
