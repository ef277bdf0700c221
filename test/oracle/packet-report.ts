// What the packet oracle has found, for people.

import type { Translation } from './labs.js'
import { PACKET_EXCEPTIONS, type PacketTotals } from './packet-oracle.js'

export const TITLES: Record<Translation, string> = {
  none: '',
  snat: ' with SNAT',
  services: ' through Services'
}

export function tellPackets(totals: PacketTotals): string[] {
  const { seed, translation, rounds, sent, arrived, forwarded, stackByReason, exceptions, faults } = totals
  const number = (count: number) => count.toLocaleString('en').padStart(9)
  const lines = [
    `packet oracle${TITLES[translation]}, seeds ${seed} to ${seed + Math.max(0, rounds - 1)}`,
    `  sent          ${number(sent)}  to each lab`,
    `  arrived       ${number(arrived)}  errors that came back among them`,
    `  fast path     ${number(forwarded)}`
  ]
  for (const [reason, count] of [...stackByReason].sort((a, b) => b[1] - a[1]))
    lines.push(`    ${reason.padEnd(16)}${number(count)}`)
  for (const [name, count] of exceptions)
    lines.push(`  exception     ${number(count)}  ${name}: ${PACKET_EXCEPTIONS[name]}`)
  lines.push(`  faults        ${number(faults.length)}`)
  return lines
}
