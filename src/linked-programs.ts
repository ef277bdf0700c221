// Programs that hang on devices by TCX or netkit links: the kernel tells nobody
// when one comes or goes, and tc does not list them before iproute2 6.7.

import { type LinkedProgram, native } from './native.js'

export interface NamedProgram extends LinkedProgram {
  /** As the kernel keeps it, 15 bytes; `program ID` where it has none, or has just gone. */
  name: string
}

/** The kernel gives an id again only after 2^31 programs. */
const names = new Map<number, string>()
const mostNames = 10_000

const ours = new Set(['from_pod', 'to_pod', 'from_uplink', 'from_detour', 'uplink_filter'])

/** The program bears the name of one of hostroute's. */
export function isOurs(name: string): boolean {
  return ours.has(name)
}

/** In the order in which they run. Throws NativeError when the kernel does not let itself be asked. */
export function linkedPrograms(ifindex: number): NamedProgram[] {
  return native()
    .attachedPrograms(ifindex)
    .map((program) => ({ ...program, name: nameOf(program.id) }))
}

/** Compared, never read: those of others on these devices. Throws NativeError. */
export function linkedFingerprint(ifindexes: Iterable<number>): string {
  let text = ''
  for (const ifindex of ifindexes) {
    for (const { how, where, id, name } of linkedPrograms(ifindex))
      if (!isOurs(name)) text += `${ifindex} ${how} ${where} ${id}\n`
  }
  return text
}

function nameOf(id: number): string {
  const known = names.get(id)
  if (known !== undefined) return known
  const name = native().programName(id) || `program ${id}`
  if (names.size >= mostNames) names.clear()
  names.set(id, name)
  return name
}
