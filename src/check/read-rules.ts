// Reads all rules in use in this network namespace: both backends of iptables,
// native nft, ebtables and arptables.
//
// - A backend is asked only when the kernel says that it has tables: looking at
//   a legacy table would make it.
// - The kernel's own list of tables (table-list.ts, /proc/net) says what must be
//   read. What of it no tool could show is a finding that refuses.
// - Tables that iptables-nft shows whole are taken from it: its words are the
//   ones people wrote. All others of nf_tables are taken from nft.

import { existsSync, readFileSync } from 'node:fs'
import { familyOfPrefix, formatPrefix } from '../address.js'
import type { Family } from '../state/types.js'
import { parseIpsets } from './ipset.js'
import { type IpSets, noSets, parseListing, parseSave } from './iptables-save.js'
import { type IpvsService, ipvsDestinations } from './ipvs.js'
import { parseNft } from './nft-json.js'
import { type Finding, finding } from './report.js'
import { type Backend, isIptablesTable, type RuleFamily, type RuleTable } from './ruleset.js'
import { serviceSets } from './service-proxy.js'
import { countChainUses, listNfTables, type TableName } from './table-list.js'
import type { Tools } from './tool.js'

export interface RulesRead {
  tables: RuleTable[]
  findings: Finding[]
  notLookedAt: string[]
}

interface Reading extends RulesRead {
  /** Asked for once, and only when a rule names a set. */
  sets: () => Promise<IpSets>
}

export async function readRules(tools: Tools, services: readonly IpvsService[] = []): Promise<RulesRead> {
  let sets: Promise<IpSets> | null = null
  const result: Reading = {
    tables: [],
    findings: [],
    notLookedAt: [],
    sets: () => (sets ??= readSets(tools, services, result))
  }
  await readLegacy(tools, result)
  await readHostOnlyLegacy(tools, result)
  await readNfTables(tools, result)
  return result
}

interface LegacySource {
  backend: Backend
  family: RuleFamily
  names: string
  /** Programs that can show these tables, best first. */
  save: string[]
  package: string
}

const legacySources: LegacySource[] = [
  {
    backend: 'iptables-legacy',
    family: 'ip',
    names: '/proc/self/net/ip_tables_names',
    save: ['iptables-legacy-save', 'iptables-save'],
    package: 'iptables'
  },
  {
    backend: 'iptables-legacy',
    family: 'ip6',
    names: '/proc/self/net/ip6_tables_names',
    save: ['ip6tables-legacy-save', 'ip6tables-save'],
    package: 'iptables'
  }
]

async function readLegacy(tools: Tools, result: Reading): Promise<void> {
  for (const source of legacySources) {
    let names: string[]
    try {
      names = tableNames(source.names)
    } catch (error) {
      result.findings.push(
        unread(
          source.backend,
          source.family,
          [],
          `${source.names} cannot be read: ${(error as Error).message}`,
          'Run the check as root.'
        )
      )
      continue
    }
    if (names.length === 0) continue
    const tables: RuleTable[] = []
    const why = await saved(tools, source.save, source.backend, source.family, result.sets, tables)
    const missing = names.filter((name) => !tables.some((table) => table.name === name))
    result.tables.push(...tables)
    if (missing.length > 0) {
      const words = why ?? `${source.save[0]} does not show them`
      result.findings.push(
        unread(
          source.backend,
          source.family,
          missing,
          words,
          `Install the package ${source.package}, which has ${source.save[0]}.`
        )
      )
    }
  }
}

/** Adds what the first program that is there shows; why nothing came, else null. */
async function saved(
  tools: Tools,
  programs: string[],
  backend: Backend,
  family: RuleFamily,
  sets: Reading['sets'],
  into: RuleTable[]
): Promise<string | null> {
  for (const program of programs) {
    if (!tools.has(program)) continue
    if (!program.includes('-legacy') && !program.includes('-nft') && !(await isBackend(tools, program, backend)))
      continue
    const answer = await tools.run([program])
    if (answer.kind !== 'done') return answer.kind === 'failed' ? answer.why : `${program} is missing`
    const known = answer.stdout.includes(' --match-set ') ? await sets() : noSets
    try {
      const { tables, incompatible } = parseSave(answer.stdout, backend, family, known)
      into.push(...tables.filter(({ name }) => !incompatible.includes(name)))
      return null
    } catch (error) {
      return `the output of ${program} is not understood: ${(error as Error).message}`
    }
  }
  return `no program ${programs[0]} is installed`
}

/**
 * Sets of ipset(8). Without the program kube-proxy's are known all the same:
 * their members are the addresses of the virtual services.
 */
async function readSets(tools: Tools, services: readonly IpvsService[], result: RulesRead): Promise<IpSets> {
  const answer = await tools.run(['ipset', 'save'])
  if (answer.kind === 'done') return parseIpsets(answer.stdout)
  const why = answer.kind === 'missing' ? 'no program ipset is installed' : answer.why
  result.notLookedAt.push(`sets of iptables rules (ipset): ${why}; a rule with a set counts as one for all packets`)
  const members = (family: Family) =>
    [...ipvsDestinations(services)]
      .filter((each) => familyOfPrefix(each) === family)
      .map((each) => [formatPrefix(each)])
  const [four, six] = [members(4), members(6)]
  return {
    get: (name: string) =>
      serviceSets.test(name)
        ? { parts: ['ip', 'port'], members: name.startsWith('KUBE-6-') ? six : four, exceptions: false }
        : undefined
  }
}

/** Plain iptables-save says which backend it has: "iptables-save v1.8.9 (legacy)"; before 1.8 there was only one. */
async function isBackend(tools: Tools, program: string, backend: Backend): Promise<boolean> {
  const answer = await tools.run([program, '--version'])
  const nft = answer.kind === 'done' && answer.stdout.includes('nf_tables')
  return nft === backend.endsWith('-nft')
}

/** Empty where the kernel part is not loaded. */
function tableNames(path: string): string[] {
  try {
    return readFileSync(path, 'utf8').split('\n').filter(Boolean)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return []
    throw error
  }
}

/**
 * ARP and bridge rules of the legacy backend. Debian's arptables-legacy-save
 * and ebtables-legacy-save show what plain `arptables` and `ebtables` show,
 * which may be the other backend: the listings are read instead. ebtables has
 * no list of tables in /proc, and asking for a table makes it, so it is asked
 * only where its modules are loaded. These rules see no packet that hostroute
 * takes: what cannot be read of them does not refuse.
 */
async function readHostOnlyLegacy(tools: Tools, result: RulesRead): Promise<void> {
  const bridge = ['filter', 'nat', 'broute'].filter((name) => existsSync(`/sys/module/ebtable_${name}`))
  const wanted = [
    ...tableNames('/proc/self/net/arp_tables_names').map(
      (name) => ({ program: 'arptables-legacy', family: 'arp', name }) as const
    ),
    ...bridge.map((name) => ({ program: 'ebtables-legacy', family: 'bridge', name }) as const)
  ]
  for (const { program, family, name } of wanted) {
    const answer = await tools.run([program, '-t', name, ...(family === 'arp' ? ['-n'] : []), '-L'])
    if (answer.kind === 'done') result.tables.push(parseListing(answer.stdout, program, family, name))
    else {
      const why = answer.kind === 'missing' ? `no program ${program} is installed` : answer.why
      result.notLookedAt.push(`${program} (${name}): ${why}; such rules never concern packets that hostroute takes`)
    }
  }
}

async function readNfTables(tools: Tools, result: Reading): Promise<void> {
  let present: TableName[]
  try {
    present = await listNfTables()
  } catch (error) {
    const remedy = 'Run the check as root in the network namespace of the node.'
    result.findings.push(unread('nft', 'inet', [], (error as Error).message, remedy))
    return
  }
  if (present.length === 0) return
  const translated = await readXtables(tools, present, result.sets)
  const uses = translated.length > 0 ? await countChainUses().catch(() => null) : null
  for (const { family, name } of present) {
    const theirs = translated.find((table) => table.family === family && table.name === name)
    if (theirs && isWhole(theirs, uses?.get(`${family} ${name}`))) {
      result.tables.push(theirs)
      continue
    }
    const own = await listed(tools, family, name)
    if (typeof own !== 'string') result.tables.push(own)
    else if (family === 'arp' || family === 'bridge') {
      result.notLookedAt.push(
        `nft table ${family} ${name}: ${own}; such rules never concern packets that hostroute takes`
      )
    } else result.findings.push(unread('nft', family, [name], own, 'Install the package nftables, which has nft.'))
  }
}

/** The table has the rules and jumps that the kernel counts. */
function isWhole(table: RuleTable, uses: ReadonlyMap<string, number> | undefined): boolean {
  if (!uses || [...uses.keys()].some((name) => !table.chains.has(name))) return false
  const jumps = new Map<string, number>()
  for (const { rules } of table.chains.values())
    for (const { effects } of rules)
      for (const effect of effects)
        if (effect.kind === 'jump' || effect.kind === 'goto')
          jumps.set(effect.chain, (jumps.get(effect.chain) ?? 0) + 1)
  return [...table.chains].every(([name, { rules }]) => (uses.get(name) ?? 0) === rules.length + (jumps.get(name) ?? 0))
}

/** The table as nft shows it; a sentence why not. */
async function listed(tools: Tools, family: RuleFamily, name: string): Promise<RuleTable | string> {
  const json = await tools.run(['nft', '-j', '-a', 'list', 'table', family, name])
  if (json.kind !== 'done') return json.kind === 'failed' ? json.why : 'no program nft is installed'
  const text = await tools.run(['nft', '-a', 'list', 'table', family, name])
  try {
    const [table] = parseNft(json.stdout, text.kind === 'done' ? text.stdout : '')
    return table ?? 'nft does not show it'
  } catch (error) {
    return `the output of nft is not understood: ${(error as Error).message}`
  }
}

const xtables: { backend: Backend; family: RuleFamily; save: string[] }[] = [
  { backend: 'iptables-nft', family: 'ip', save: ['iptables-nft-save', 'iptables-save'] },
  { backend: 'iptables-nft', family: 'ip6', save: ['ip6tables-nft-save', 'ip6tables-save'] },
  { backend: 'ebtables-nft', family: 'bridge', save: ['ebtables-nft-save', 'ebtables-save'] },
  { backend: 'arptables-nft', family: 'arp', save: ['arptables-nft-save', 'arptables-save'] }
]

/** What the nft variants of iptables can show. A failure leaves the table to nft. */
async function readXtables(tools: Tools, present: readonly TableName[], sets: Reading['sets']): Promise<RuleTable[]> {
  const tables: RuleTable[] = []
  for (const { backend, family, save } of xtables) {
    if (!present.some((each) => each.family === family && isIptablesTable(family, each.name))) continue
    await saved(tools, save, backend, family, sets, tables)
  }
  return tables
}

function unread(backend: Backend, family: string, names: string[], why: string, remedy: string): Finding {
  const what =
    names.length === 0
      ? `The rules of ${backend} (${family}) cannot be read`
      : `The kernel has tables of ${backend} that were not read: ${family} ${names.join(', ')}`
  return finding('refuse', 'rules', 'rules-unread', what, {
    why: `${why}; a rule that is not seen could be one that the fast path bypasses`,
    remedy
  })
}
