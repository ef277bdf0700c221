// One masquerade policy from all of ip-masq-agent's files.
//
// - Lists are united, switches are ORed, the shortest interval counts. A prefix
//   that one file excludes and another includes is excluded, with a warning.
// - Where no file gives a list of exclusions the defaults hold, unless there is
//   an include list: then only that is masqueraded.
// - The longest prefix decides, whichever list it is from.
// - Of IPv6 an include list without exclusions of IPv6 means "only these", whatever
//   is said about IPv4.
// - IPv6 as the agent does it: it refuses a file with IPv6 prefixes unless it
//   runs with --enable-ipv6, so a file that names one says that IPv6 is to be
//   masqueraded, as the flag itself does; without them IPv6 keeps the pod's
//   address. Where IPv6 is masqueraded by configuration alone, unique local
//   addresses are excluded, as the private ranges of IPv4 are: pods on other
//   nodes have them. The agent excludes none, so where its flag is followed
//   hostroute does not, either.

import { isDeepStrictEqual } from 'node:util'
import {
  everything,
  familyOfPrefix,
  formatPrefix,
  hexPrefix,
  maskAddress,
  parsePrefix,
  prefixKey,
  splitPrefix
} from '../address.js'
import type { Prefix } from '../state/types.js'
import {
  type AgentUse,
  type FlagKeys,
  firstWith,
  flagWarnings,
  followedPorts,
  type RunningAgent,
  useOfFlags
} from './agent-use.js'
import type { Config } from './config.js'
import type { PortRange } from './ports.js'

/** How a file is read. */
export type Semantics = 'ip-masq-agent' | 'cilium'

/** One file as it was read. */
export interface MasqueradeFile {
  path: string
  /** null: the file does not speak of it. */
  exclude: Prefix[] | null
  include: Prefix[] | null
  /** Where a prefix of the lists stands, counted when it is asked. */
  lines(): ReadonlyMap<Prefix, number>
  masqLinkLocal: boolean
  masqLinkLocalIPv6: boolean
  /** Milliseconds; null: not given. */
  resyncInterval: number | null
  /** Sentences with file and line. */
  warnings: string[]
}

/** auto of masqueradeIPv6: also if a file names an IPv6 prefix. */
export interface MasqueradeOptions extends FlagKeys {
  semantics: Semantics
}

export const defaultMasqueradeOptions: MasqueradeOptions = {
  semantics: 'ip-masq-agent',
  allReservedRanges: 'auto',
  masqueradeIPv6: 'auto',
  ports: 'auto'
}

export function masqueradeOptions({ snat }: Pick<Config, 'snat'>): MasqueradeOptions {
  const { semantics, allReservedRanges, masqueradeIPv6, ports } = snat
  return { semantics, allReservedRanges, masqueradeIPv6, ports }
}

/** One prefix of a policy. */
export interface MasqueradeEntry {
  prefix: Prefix
  masquerade: boolean
}

/** All files together. */
export interface MasqueradePolicy {
  /** Sorted; both families' "/0" are always there. */
  wanted: MasqueradeEntry[]
  /** By prefix: paths that asked for it, 'default', a key of the configuration, or "--FLAG of POD". */
  from: { get(prefix: Prefix): readonly string[] | undefined }
  /** The files that it was made of. */
  files: readonly MasqueradeFile[]
  /** No file says what is excluded or included. */
  defaultsOnly: boolean
  /** IPv6 is masqueraded, and because of what. */
  ipv6: { masqueraded: boolean; why: string }
  /** Source ports for SNAT. */
  ports: 'auto' | PortRange[]
  /** Agents of this node with flags, and what these do. */
  agents: AgentUse[]
  /** Milliseconds: the shortest that a file asks for, else 60 s. */
  resyncInterval: number
  warnings: string[]
}

const privateRanges = ['10.0.0.0/8', '172.16.0.0/12', '192.168.0.0/16']
const otherReserved = [
  '100.64.0.0/10',
  '192.0.0.0/24',
  '192.0.2.0/24',
  '192.88.99.0/24',
  '198.18.0.0/15',
  '198.51.100.0/24',
  '203.0.113.0/24',
  '240.0.0.0/4'
]

/** What is excluded where no file says it. The agent adds the other reserved ranges with --nomasq-all-reserved-ranges. */
export const defaultExclude: Readonly<Record<Semantics, readonly string[]>> = {
  'ip-masq-agent': privateRanges,
  cilium: [...privateRanges, ...otherReserved]
}

/** Some IPv4 link-local destination is masqueraded (masqLinkLocal, or a longer prefix on a list). */
export function masqueradesLinkLocal({ wanted }: Pick<MasqueradePolicy, 'wanted'>): boolean {
  const { address, length } = splitPrefix(linkLocal[4])
  const due = new Map(wanted.map(({ prefix, masquerade }) => [prefix, masquerade]))
  if (wanted.some(({ prefix, masquerade }) => masquerade && /^a9fe....\/(1[7-9]|2\d|3[0-2])$/.test(prefix))) return true
  for (let bits = length; bits >= 0; bits--) {
    const answer = due.get(prefixKey(maskAddress(address, bits), bits))
    if (answer !== undefined) return answer
  }
  return false
}

const linkLocal = { 4: hexPrefix('a9fe0000/16'), 6: hexPrefix(`fe80${'0'.repeat(28)}/10`) }
const uniqueLocal = hexPrefix(`fc${'0'.repeat(30)}/7`)
const slowest = 24 * 3_600_000

export function mergeMasquerade(
  files: readonly MasqueradeFile[],
  options: MasqueradeOptions = defaultMasqueradeOptions,
  agents: readonly RunningAgent[] = []
): MasqueradePolicy {
  return new Merger(files, options, agents).policy()
}

interface Row {
  masquerade: boolean
  from: string[]
}

class Merger {
  private readonly rows = new Map<Prefix, Row>()
  private readonly warnings: string[]
  /** Those whose flags count. */
  private readonly followed: readonly RunningAgent[]

  constructor(
    private readonly files: readonly MasqueradeFile[],
    private readonly options: MasqueradeOptions,
    private readonly agents: readonly RunningAgent[]
  ) {
    this.warnings = files.flatMap((file) => file.warnings)
    this.followed = options.semantics === 'cilium' ? [] : agents
  }

  policy(): MasqueradePolicy {
    const { files } = this
    const ipv6 = this.ipv6()
    for (const file of files) this.addAll(file.exclude, false, file.path)
    const excluding = files.some((file) => file.exclude !== null)
    const including = files.some((file) => file.include !== null)
    const excludesNothing = excluding && this.rows.size === 0
    for (const file of files) this.addAll(file.include, true, file.path)
    const defaultsOnly = !excluding && !including
    if (defaultsOnly) this.addDefaults()
    if (!files.some((file) => file.masqLinkLocal)) this.fallback(linkLocal[4], false)
    this.fallback(everything[4], excluding || !including)
    if (ipv6.masqueraded) {
      if (!files.some((file) => file.masqLinkLocalIPv6)) this.fallback(linkLocal[6], false)
      if (!this.namesIPv6() && !excludesNothing && !ipv6.byAgent) this.fallback(uniqueLocal, false)
      this.fallback(everything[6], this.includesOnlyIPv6() && !excludesNothing ? false : excluding || !including)
    } else {
      this.leaveIPv6()
    }
    const { rows } = this
    const { masqueraded, why } = ipv6
    const agents = this.uses(!defaultsOnly, { masqueraded, why })
    const sorted = [...rows.keys()].sort(comparePrefixes)
    return {
      wanted: sorted.map((prefix) => ({ prefix, masquerade: rows.get(prefix)?.masquerade === true })),
      from: { get: (prefix) => rows.get(prefix)?.from },
      files,
      defaultsOnly,
      ipv6: { masqueraded, why },
      ports: followedPorts(this.options, this.followed),
      agents,
      resyncInterval: interval(files),
      warnings: [...this.warnings, ...flagWarnings(agents)]
    }
  }

  private uses(listed: boolean, ipv6: MasqueradePolicy['ipv6']): AgentUse[] {
    const unused = this.followed === this.agents ? null : 'snat.semantics is cilium'
    return useOfFlags(this.agents, this.options, { listed, ipv6, unused })
  }

  private addDefaults(): void {
    const { allReservedRanges, semantics } = this.options
    this.addAll(defaultExclude[semantics].map(keyOf), false, 'default')
    if (semantics === 'cilium' || allReservedRanges === false) return
    const agent = firstWith(this.followed, (flags) => flags.allReservedRanges === true)
    if (allReservedRanges === true) this.addAll(otherReserved.map(keyOf), false, 'snat.allReservedRanges')
    else if (agent) this.addAll(otherReserved.map(keyOf), false, `--nomasq-all-reserved-ranges of ${agent.pod}`)
  }

  /** row: shared by all prefixes that nobody else has. */
  private add(prefix: Prefix, row: Row): void {
    const { rows, warnings } = this
    const before = rows.get(prefix)
    if (!before) rows.set(prefix, row)
    else if (before.masquerade === row.masquerade) rows.set(prefix, { ...row, from: [...before.from, ...row.from] })
    else
      warnings.push(
        `${row.from.join(', ')}: ${formatPrefix(prefix)} is excluded from masquerading by ${before.from.join(', ')}, which wins`
      )
  }

  private addAll(prefixes: readonly Prefix[] | null, masquerade: boolean, from: string): void {
    const row = { masquerade, from: [from] }
    for (const prefix of prefixes ?? []) this.add(prefix, row)
  }

  private fallback(prefix: Prefix, masquerade: boolean): void {
    if (!this.rows.has(prefix)) this.rows.set(prefix, { masquerade, from: ['default'] })
  }

  private ipv6(): MasqueradePolicy['ipv6'] & { byAgent: boolean } {
    const { masqueradeIPv6 } = this.options
    if (masqueradeIPv6 !== 'auto')
      return {
        masqueraded: masqueradeIPv6,
        why: `snat.masqueradeIPv6: ${masqueradeIPv6 ? 'true' : 'false'}`,
        byAgent: false
      }
    const file = this.namesIPv6()
    const agent = firstWith(this.followed, ({ ipv6 }) => ipv6 === true)
    if (file) {
      const [other] = this.followed
      if (!agent && other && file.exclude?.some(isIPv6))
        this.warnings.push(
          `${file.path} names IPv6 prefixes, so IPv6 is masqueraded, but ${other.pod} runs without --enable-ipv6 and refuses such a file`
        )
      return { masqueraded: true, why: `${file.path} names IPv6 prefixes`, byAgent: false }
    }
    return agent
      ? { masqueraded: true, why: `${agent.pod} runs with --enable-ipv6`, byAgent: true }
      : { masqueraded: false, why: 'no file names an IPv6 prefix (snat.masqueradeIPv6: auto)', byAgent: false }
  }

  private namesIPv6(): MasqueradeFile | undefined {
    return this.files.find((file) => [...(file.exclude ?? []), ...(file.include ?? [])].some(isIPv6))
  }

  /** Files say which of IPv6 are masqueraded, and of none that it is not. */
  private includesOnlyIPv6(): boolean {
    const { files } = this
    return files.some((file) => file.include?.some(isIPv6)) && !files.some((file) => file.exclude?.some(isIPv6))
  }

  /** Then prefixes that files exclude say nothing that the whole does not say. */
  private leaveIPv6(): void {
    for (const [prefix, { masquerade, from }] of this.rows) {
      if (!isIPv6(prefix)) continue
      this.rows.delete(prefix)
      if (masquerade)
        this.warnings.push(
          `${from.join(', ')}: ${formatPrefix(prefix)} in masqueradeCIDRs has no effect, because of snat.masqueradeIPv6: false`
        )
    }
    const { masqueradeIPv6 } = this.options
    this.rows.set(everything[6], {
      masquerade: false,
      from: [masqueradeIPv6 === 'auto' ? 'default' : 'snat.masqueradeIPv6']
    })
  }
}

/** Same rows from the same places, same ports, same agents. */
export function samePolicy(a: MasqueradePolicy, b: MasqueradePolicy): boolean {
  if (a.wanted.length !== b.wanted.length) return false
  for (const [index, { prefix, masquerade }] of a.wanted.entries()) {
    const other = b.wanted[index]
    if (other?.prefix !== prefix || other.masquerade !== masquerade) return false
    const [ofA, ofB] = [a.from.get(prefix), b.from.get(prefix)]
    if (ofA?.length !== ofB?.length || !ofA?.every((path, at) => path === ofB?.[at])) return false
  }
  return a.ipv6.why === b.ipv6.why && isDeepStrictEqual([a.ports, a.agents], [b.ports, b.agents])
}

function interval(files: readonly MasqueradeFile[]): number {
  const asked = files.flatMap((file) => file.resyncInterval ?? [])
  return asked.length === 0 ? 60_000 : Math.min(slowest, Math.max(1000, Math.min(...asked)))
}

function isIPv6(prefix: Prefix): boolean {
  return familyOfPrefix(prefix) === 6
}

function keyOf(text: string): Prefix {
  const parsed = parsePrefix(text)
  if (!parsed) throw new Error(`${text} is not a prefix`)
  return prefixKey(parsed.address, parsed.length)
}

/** IPv4 first, then by address, shorter first. */
function comparePrefixes(a: Prefix, b: Prefix): number {
  if (isIPv6(a) !== isIPv6(b)) return isIPv6(a) ? 1 : -1
  const digits = isIPv6(a) ? 32 : 8
  for (let i = 0; i < digits; i++) {
    const difference = a.charCodeAt(i) - b.charCodeAt(i)
    if (difference !== 0) return difference
  }
  return splitPrefix(a).length - splitPrefix(b).length
}
