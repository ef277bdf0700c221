// Port ranges, and which ports SNAT may take.

import { readFileSync } from 'node:fs'

/** Both ends included. */
export interface PortRange {
  first: number
  last: number
}

/** What else on the node uses ports. */
export interface KernelPorts {
  /** net.ipv4.ip_local_port_range: sockets that ask for no port. */
  local: PortRange[]
  /** net.ipv4.ip_local_reserved_ports */
  reserved: PortRange[]
  /** TCP listeners and unconnected UDP sockets, both families. */
  listening: number[]
}

/** "1024-29999,61000-65535" -> ranges, sorted and joined; null if it is not that. */
export function parsePortRanges(text: string): PortRange[] | null {
  const ranges: PortRange[] = []
  for (const part of text.split(',')) {
    const match = /^\s*(\d{1,5})(?:\s*-\s*(\d{1,5}))?\s*$/.exec(part)
    if (!match) return null
    const first = Number(match[1])
    const last = Number(match[2] ?? match[1])
    if (first < 1 || last > 65535 || first > last) return null
    ranges.push({ first, last })
  }
  return joinRanges(ranges)
}

export function formatPortRanges(ranges: readonly PortRange[]): string {
  return ranges.map(({ first, last }) => (first === last ? `${first}` : `${first}-${last}`)).join(',')
}

/**
 * Ports SNAT may take, ascending. 'auto' is 1024-65535 without what the kernel
 * hands out or has reserved; ranges that were configured are taken at their
 * word. Never among them: nodePorts and ports somebody listens on.
 */
export function snatPorts(
  ports: 'auto' | readonly PortRange[],
  nodePorts: readonly PortRange[],
  kernel: KernelPorts
): number[] {
  const free = new Uint8Array(65536)
  const mark = (ranges: readonly PortRange[], value: number) => {
    for (const { first, last } of ranges) free.fill(value, first, last + 1)
  }
  if (ports === 'auto') {
    mark([{ first: 1024, last: 65535 }], 1)
    mark(kernel.local, 0)
    mark(kernel.reserved, 0)
  } else {
    mark(ports, 1)
  }
  mark(nodePorts, 0)
  for (const port of kernel.listening) free[port] = 0
  const list: number[] = []
  for (let port = 1; port < 65536; port++) if (free[port]) list.push(port)
  return list
}

/** Reads them for the network namespace this process is in. What cannot be read counts as empty. */
export function readKernelPorts(): KernelPorts {
  const local = read('/proc/sys/net/ipv4/ip_local_port_range').trim().split(/\s+/).join('-')
  const reserved = read('/proc/sys/net/ipv4/ip_local_reserved_ports').trim()
  return {
    local: parsePortRanges(local) ?? [],
    reserved: parsePortRanges(reserved) ?? [],
    listening: [
      ...listeners('tcp', '0A'),
      ...listeners('tcp6', '0A'),
      ...listeners('udp', '07'),
      ...listeners('udp6', '07')
    ]
  }
}

/** Local ports of /proc/net/<table> in a state (hexadecimal: 0A listen, 07 close, which is unconnected for UDP). */
function listeners(table: string, state: string): number[] {
  const ports = new Set<number>()
  for (const line of read(`/proc/self/net/${table}`).split('\n').slice(1)) {
    const [, local, , lineState] = line.trim().split(/\s+/)
    const port = Number.parseInt(local?.split(':')[1] ?? '', 16)
    if (lineState === state && port > 0) ports.add(port)
  }
  return [...ports]
}

function joinRanges(ranges: PortRange[]): PortRange[] {
  const joined: PortRange[] = []
  for (const range of ranges.sort((a, b) => a.first - b.first)) {
    const before = joined.at(-1)
    if (before && range.first <= before.last + 1) before.last = Math.max(before.last, range.last)
    else joined.push({ ...range })
  }
  return joined
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}
