// What the route oracle has found, for people.

import { EXCEPTIONS, type RouteTotals } from './route-oracle.js'

export function tell(totals: RouteTotals): string[] {
  const { seed, hasVrf, cases, lookups, forwardable, forwarded, groups, stackByReason, exceptions, faults } = totals
  const percent = (count: number) => `${((100 * count) / Math.max(1, forwardable)).toFixed(1)} %`.padStart(7)
  const number = (count: number) => count.toLocaleString('en').padStart(9)
  const lines = [
    `route oracle, seeds ${seed} to ${seed + Math.max(0, cases - 1)}${hasVrf ? ', with a VRF' : ''}`,
    `  cases         ${number(cases)}`,
    `  look-ups      ${number(lookups)}`,
    `  forwardable   ${number(forwardable)}  the kernel would pass them on`,
    `    fast path   ${number(forwarded)} ${percent(forwarded)}`,
    `    stack       ${number(forwardable - forwarded)} ${percent(forwardable - forwarded)}`
  ]
  for (const [reason, count] of [...stackByReason].sort((a, b) => b[1] - a[1]))
    lines.push(`      ${reason.padEnd(14)}${number(count)} ${percent(count)}`)
  lines.push(`  ECMP shares   ${number(groups)}  groups whose legs were weighed`)
  for (const [name, count] of exceptions) lines.push(`  exception     ${number(count)}  ${name}: ${EXCEPTIONS[name]}`)
  lines.push(`  faults        ${number(faults.length)}`)
  return lines
}
