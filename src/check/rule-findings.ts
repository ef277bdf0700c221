// Rules found and judged, as findings: one for each rule, in the order in which
// the tools print them. What is honoured because it works on destinations that
// are left to the stack is summed up in a line for each owner: kube-proxy alone
// writes tens of thousands of rules. `everyRule` lists these, too.

import { familyOfPrefix, formatPrefix } from '../address.js'
import type { Prefix } from '../state/types.js'
import { classifyTable, type JudgedRule, type RuleContext } from './classify.js'
import { type IpvsService, ipvsDestinations, judgeIpvs, readIpvs } from './ipvs.js'
import { shorten } from './node.js'
import type { NodeRules } from './node-rules.js'
import type { Policy } from './policy.js'
import { matchesPolicyRule } from './policy.js'
import { type PrefixSet, prefixSet } from './prefixes.js'
import { readRules } from './read-rules.js'
import { type Finding, finding, type Looked, type Outcome } from './report.js'
import type { RuleClass, RuleTable } from './ruleset.js'
import { isKubeProxys, kubeProxyMode } from './service-proxy.js'
import type { Tools } from './tool.js'
import { readTranslated } from './translated.js'
import { findTranslations, type Translation } from './translations.js'

export interface RulesLooked extends Looked {
  classes: Record<RuleClass, number>
}

export async function checkRules(
  tools: Tools,
  facts: NodeRules,
  policy: Policy,
  everyRule: boolean
): Promise<RulesLooked> {
  const services = readIpvs()
  const [read, found] = await Promise.all([readRules(tools, services), readTranslated()])
  const known = { ...facts, translated: found.destinations }
  return {
    notLookedAt: [...read.notLookedAt, ...found.notLookedAt],
    ...judgeRules(read.tables, services, known, policy, everyRule, read.findings)
  }
}

/** The rules of a node, whoever read them. `unread` are findings about those that could not be read. */
export function judgeRules(
  tables: readonly RuleTable[],
  services: readonly IpvsService[],
  facts: NodeRules,
  policy: Policy,
  everyRule: boolean,
  unread: readonly Finding[] = []
): Omit<RulesLooked, 'notLookedAt'> {
  const translations = tables.flatMap((table) => findTranslations(table, facts.own))
  const context = ruleContext(facts, translations, services)
  const classes = { bypassed: 0, 'host-only': 0, harmless: 0, translatable: 0 }
  const findings = [...unread, ...summarize(tables, translations, services, context, policy)]
  for (const table of tables) {
    for (const judged of classifyTable(table, context, policy)) {
      classes[judged.class]++
      if (everyRule || !isSummedUp(judged)) findings.push(asFinding(judged))
    }
  }
  if (tables.length === 0 && services.length === 0 && findings.length === 0) {
    findings.push(finding('pass', 'rules', 'rules-none', 'No netfilter tables are in use.'))
  } else if (!findings.some((each) => each.outcome === 'refuse')) {
    findings.push(
      finding(
        'pass',
        'rules',
        'rules-read',
        `${tables.length} netfilter tables were read; the fast path bypasses none of their rules.`
      )
    )
  }
  return { findings, classes }
}

function isSummedUp({ table, chain, class: ruleClass }: JudgedRule): boolean {
  return (ruleClass === 'host-only' || ruleClass === 'harmless') && isKubeProxys(table, chain)
}

interface Sum {
  destinations: Set<Prefix>
  own: boolean
  service: boolean
}

/** A line for each owner of rules that translate. */
function summarize(
  tables: readonly RuleTable[],
  translations: readonly Translation[],
  services: readonly IpvsService[],
  context: RuleContext,
  policy: Policy
): Finding[] {
  const sums = new Map<string, Sum>()
  for (const { table, chain, rule, destinations } of translations) {
    const service = isKubeProxys(table, chain)
    const name = service
      ? `kube-proxy (${kubeProxyMode(table) === 'nftables' ? 'nftables' : table.backend})`
      : ownerOf(table, chain.name, rule.text, policy)
    const sum = sums.get(name) ?? { destinations: new Set(), own: false, service }
    sums.set(name, sum)
    if (destinations === 'own') sum.own = true
    else for (const each of destinations) if (context.translated.covers(each)) sum.destinations.add(each)
  }
  const findings: Finding[] = []
  for (const [name, { destinations, service }] of sums) {
    const count = destinations.size
    if (count === 0) continue
    const what = service
      ? `Service addresses of ${name}: ${destinationCount(count)}, left to the stack.`
      : `Translated by ${name}: ${destinationCount(count)} (${shorten([...destinations].map(prefixText))}), left to the stack.`
    findings.push(finding('pass', 'rules', 'rules-translated', what))
  }
  const own = [...sums].filter(([, sum]) => sum.own).map(([name]) => name)
  if (own.length > 0) {
    findings.push(
      finding(
        'pass',
        'rules',
        'rules-translated-ports',
        `Ports of the node's own addresses translated by ${shorten(own)}: left to the stack.`
      )
    )
  }
  const proxy = tables.some((table) => kubeProxyMode(table) === 'ipvs') ? 'kube-proxy (ipvs)' : 'IPVS'
  return [...findings, ...judgeIpvs(services, proxy)]
}

function ownerOf(table: RuleTable, chain: string, text: string, policy: Policy): string {
  const known = policy.rules.find((each) => matchesPolicyRule(each, table, chain, text))
  return known?.name ?? `${table.backend} ${table.family} ${table.name}, ${chain}`
}

function destinationCount(count: number): string {
  return `${count} ${count === 1 ? 'destination' : 'destinations'}`
}

/** A single address without its length. */
function prefixText(prefix: Prefix): string {
  return formatPrefix(prefix).replace(familyOfPrefix(prefix) === 4 ? /\/32$/ : /\/128$/, '')
}

const outcomes: Record<RuleClass, Outcome> = {
  bypassed: 'refuse',
  translatable: 'warning',
  'host-only': 'info',
  harmless: 'info'
}

const words: Record<RuleClass, string> = {
  bypassed: 'would be bypassed by the fast path',
  translatable: 'does what hostroute does itself',
  'host-only': 'sees only packets that use the stack',
  harmless: 'changes nothing for packets that the fast path takes'
}

function asFinding(judged: JudgedRule): Finding {
  const { table, chain, text, owner } = judged
  const subject = judged.rule ? 'rule' : text.startsWith('flowtable') ? 'flowtable' : 'policy'
  const whose = owner ? `${owner}: a ${subject}` : `A ${subject}`
  const known = judged.class === 'translatable' && judged.replaced
  const remedy =
    judged.class === 'translatable' && !known
      ? "Compare with hostroute's policy: hostroute snat policy."
      : judged.remedy
  return finding(
    known ? 'info' : outcomes[judged.class],
    'rules',
    `${subject}-${judged.class}`,
    `${whose} in ${table.backend} ${table.family} ${table.name}, ${chain.name}, ${words[judged.class]}.`,
    {
      rule: {
        backend: table.backend,
        family: table.family,
        table: table.name,
        chain: chain.name,
        text,
        class: judged.class,
        owner
      },
      why: judged.why,
      ...(remedy ? { remedy } : {})
    }
  )
}

export function ruleContext(
  facts: NodeRules,
  translations: readonly Translation[],
  services: readonly IpvsService[]
): RuleContext {
  const { pods, uplinks, neverServed, snat } = facts
  const podAddresses = prefixSet(facts.podAddresses)
  return {
    pods,
    uplinks,
    neverServed,
    snat,
    snat6: facts.snat6 ?? snat,
    routesLinkLocal: facts.routesLinkLocal ?? false,
    stackPrefixes: prefixSet(facts.stackPrefixes),
    ownAddresses: prefixSet(facts.own),
    podAddresses,
    translated: translatedSet(facts.translated ?? destinationsIn(translations, services), podAddresses)
  }
}

function destinationsIn(translations: readonly Translation[], services: readonly IpvsService[]): Set<Prefix> {
  const all = ipvsDestinations(services)
  for (const { destinations } of translations)
    if (destinations !== 'own') for (const each of destinations) all.add(each)
  return all
}

/** Without those that have addresses of pods: the fast path delivers there. */
function translatedSet(destinations: Iterable<Prefix>, podAddresses: PrefixSet): PrefixSet {
  return prefixSet([...destinations].filter((each) => !podAddresses.meets(each)))
}
