// The masquerade policy for people: its part of `hostroute status`, `snat policy`
// and `snat policy test`.

import type { AgentStatus, MasqueradeAnswer, MasqueradeFileStatus, MasqueradeStatus } from '../control/api.js'
import { type Paint, plural, section, since, table } from './text.js'

const off = 'snat.enabled: false): sources are never changed.'

/** Part of status. now: milliseconds since 1970. */
export function renderMasquerading(status: MasqueradeStatus, paint: Paint, now: number): string {
  const { enabled, files, refused, semantics, ipv6, excluded } = status
  if (!enabled) return section(paint, 'Masquerading', `  Off (${off}`)
  const lines = files.map((file) => `  ${fileWords(file, refused !== null, paint, now)}`)
  if (!files.some(({ present, kept }) => present || kept))
    lines.push(`  No file was found: the defaults of ${semantics} apply`)
  for (const text of [...agentLines(status), ...complaints(status, paint)]) lines.push(`  ${text}`)
  if (semantics === 'cilium') lines.push('  The files are read as Cilium reads them (snat.semantics)')
  lines.push(`  IPv6 is ${ipv6.masqueraded ? '' : 'not '}masqueraded: ${ipv6.why}`)
  lines.push(`  ${plural(excluded, 'prefix keeps', 'prefixes keep')} the pod's address; see: hostroute snat policy`)
  const warnings = files.flatMap((file) => file.warnings.map((warning) => `  ${paint.warn(warning)}`))
  return section(paint, 'Masquerading', [...lines, ...warnings].join('\n'))
}

/** refused: the policy that the files make is not the one in force. */
function fileWords(file: MasqueradeFileStatus, refused: boolean, paint: Paint, now: number): string {
  const { path, pod, present, kept, read, error } = file
  const name = pod === null ? path : `${path} (${pod})`
  if (error !== null) return paint.bad(`${error}${read === null ? '' : '; its last good contents stay in force'}`)
  if (kept) return paint.warn(`${name}: gone with its pod; what it said stays in force until the next one is there`)
  if (!present) return `${name}: not there`
  return `${name}: ${refused ? 'valid' : 'in force'}${read === null ? '' : `, read ${since(read, now)}`}`
}

/** Of its flags; those that are not followed are complaints. */
function agentLines({ agents }: Pick<MasqueradeStatus, 'agents'>): string[] {
  return agents.flatMap(({ pod, kept, flags }) => {
    const followed = flags.filter(({ effect }) => effect === 'followed').map(({ flag }) => flag)
    const unused = flags.filter(({ effect }) => effect === 'none')
    return [
      ...(followed.length > 0 ? [`Followed: ${followed.join(' ')}, ${ranIn(pod, kept)}`] : []),
      ...unused.map(({ flag, why }) => `No effect here: ${flag}, ${ranIn(pod, kept)}: ${why}`)
    ]
  })
}

function ranIn(pod: string, kept: AgentStatus['kept']): string {
  return kept ? `with which ${pod} ran, until the next agent is there` : `with which ${pod} runs`
}

/** What is wrong with the policy as a whole. */
function complaints({ refused, defaultsOnly, warnings }: MasqueradeStatus, paint: Paint): string[] {
  return [
    ...(refused === null ? [] : [paint.bad(refused)]),
    ...(defaultsOnly === null ? [] : [paint.warn(defaultsOnly)]),
    ...warnings.map(paint.warn)
  ]
}

export function renderPolicy(status: MasqueradeStatus, paint: Paint): string {
  const { enabled, policy, files } = status
  if (!enabled) return `Masquerading is off (${off}`
  const podOf = new Map(files.map(({ path, pod }) => [path, pod]))
  const rows = policy.map((row) => [
    row.prefix,
    row.masquerade ? 'masquerade' : paint.good("keep the pod's address"),
    row.from.map((path) => withPod(path, podOf.get(path) ?? null)).join(', ')
  ])
  const problems = files.flatMap((file) => (file.error === null ? [] : [paint.bad(file.error)]))
  return [
    'The longest prefix that covers the destination decides.',
    table(
      paint,
      ['DESTINATION', 'SOURCE', 'FROM'].map((title) => ({ title })),
      rows
    ),
    ...agentLines(status),
    ...complaints(status, paint),
    ...problems
  ].join('\n')
}

export function renderPolicyTest(answer: MasqueradeAnswer, paint: Paint): string {
  const { address, masquerade, prefix, entries, origin, instead, refused } = answer
  const stands = entries.map(
    ({ path, pod, line, key }) => `${key} in ${withPod(path, pod)}${line === null ? '' : `, line ${line}`}`
  )
  const by = `${prefix}, ${origin ?? stands.join('; ')}`
  const verdict = masquerade ? 'is masqueraded' : "keeps the pod's address"
  const lines =
    instead === null
      ? [`${address} ${masquerade ? verdict : paint.good(verdict)}: ${by}.`]
      : [
          `${address} is not decided by the policy: ${instead}.`,
          `The policy itself says: ${masquerade ? 'masquerade' : "keep the pod's address"}, by ${by}.`
        ]
  if (refused !== null) lines.push(paint.bad(refused))
  return lines.join('\n')
}

function withPod(path: string, pod: string | null): string {
  return pod === null ? path : `${path} (${pod})`
}
