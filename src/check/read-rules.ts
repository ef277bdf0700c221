// Reads all rules in use in this network namespace: both backends of iptables,
// native nft, ebtables and arptables.
//
// - A backend is asked only when the kernel says that it has tables: looking at
//   a legacy table would make it.
// - The kernel's own list of tables (nf-tables.ts, /proc/net) says what must be
//   read. What of it no tool could show is a finding that refuses.
// - Tables that iptables-nft shows whole are taken from it: its words are the
//   ones people wrote. All others of nf_tables are taken from nft.

import { existsSync, readFileSync } from 'node:fs'
import { parseListing, parseSave } from './iptables-save.js'
import { listNfTables, type TableName } from './nf-tables.js'
import { parseNft } from './nft.js'
import { type Finding, finding } from './report.js'
import { type Backend, isIptablesTable, type RuleFamily, type RuleTable, ruleCount } from './ruleset.js'
import type { Tools } from './tool.js'

export interface RulesRead {
  tables: RuleTable[]
  findings: Finding[]
  notLookedAt: string[]
}

export async function readRules(tools: Tools): Promise<RulesRead> {
  const result: RulesRead = { tables: [], findings: [], notLookedAt: [] }
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

async function readLegacy(tools: Tools, result: RulesRead): Promise<void> {
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
    const why = await saved(tools, source.save, source.backend, source.family, tables)
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
  into: RuleTable[]
): Promise<string | null> {
  for (const program of programs) {
    if (!tools.has(program)) continue
    if (!program.includes('-legacy') && !program.includes('-nft') && !(await isBackend(tools, program, backend)))
      continue
    const answer = await tools.run([program])
    if (answer.kind !== 'done') return answer.kind === 'failed' ? answer.why : `${program} is missing`
    try {
      const { tables, incompatible } = parseSave(answer.stdout, backend, family)
      into.push(...tables.filter(({ name }) => !incompatible.includes(name)))
      return null
    } catch (error) {
      return `the output of ${program} is not understood: ${(error as Error).message}`
    }
  }
  return `no program ${programs[0]} is installed`
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

async function readNfTables(tools: Tools, result: RulesRead): Promise<void> {
  let present: TableName[]
  try {
    present = await listNfTables()
  } catch (error) {
    const remedy = 'Run the check as root in the network namespace of the node.'
    result.findings.push(unread('nft', 'inet', [], (error as Error).message, remedy))
    return
  }
  if (present.length === 0) return
  const native: RuleTable[] = []
  const why = await listed(tools, native)
  const translated = await readXtables(tools, present)
  for (const { family, name } of present) {
    const own = native.find((table) => table.family === family && table.name === name)
    const theirs = translated.find((table) => table.family === family && table.name === name)
    if (theirs && (!own || ruleCount(own) === ruleCount(theirs))) result.tables.push(theirs)
    else if (own) result.tables.push(own)
    else if (family === 'arp' || family === 'bridge') {
      result.notLookedAt.push(
        `nft table ${family} ${name}: ${why ?? 'no tool shows it'}; such rules never concern packets that hostroute takes`
      )
    } else
      result.findings.push(
        unread('nft', family, [name], why ?? 'nft does not show it', 'Install the package nftables, which has nft.')
      )
  }
}

/** Native nft; why it failed, else null. */
async function listed(tools: Tools, into: RuleTable[]): Promise<string | null> {
  const json = await tools.run(['nft', '-j', '-a', 'list', 'ruleset'])
  if (json.kind !== 'done') return json.kind === 'failed' ? json.why : 'no program nft is installed'
  const text = await tools.run(['nft', '-a', 'list', 'ruleset'])
  try {
    into.push(...parseNft(json.stdout, text.kind === 'done' ? text.stdout : ''))
    return null
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
async function readXtables(tools: Tools, present: readonly TableName[]): Promise<RuleTable[]> {
  const tables: RuleTable[] = []
  for (const { backend, family, save } of xtables) {
    if (!present.some((each) => each.family === family && isIptablesTable(family, each.name))) continue
    await saved(tools, save, backend, family, tables)
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
