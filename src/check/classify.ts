// Which rules the fast path would bypass.
//
// A packet of the fast path comes in by a served device, is addressed to
// another host, carries no mark, belongs to no flow that conntrack translates
// and leaves by a served device; it never sees netfilter's hooks prerouting,
// forward and postrouting, nor a device's ingress or egress hook. Destinations
// that the node's rules translate (translations.ts) are the stack's. Each table is
// walked from its base chains along jumps with one question: can a packet that the
// fast path would take arrive here?
//
// - `never`: the rule is host-only, and so is all that only it leads to.
// - A rule that surely ends the chain for every such packet (RETURN for all
//   that are not marked) closes what stands below it to them.
// - ACCEPT and RETURN take nothing from a packet: what they would save it from
//   is judged by itself.
// What is not understood counts as reached and as doing something.

import { hexPrefix } from '../address.js'
import type { Prefix } from '../state/types.js'
import type { Policy } from './policy.js'
import { matchesPolicyRule } from './policy.js'
import { type PrefixSet, prefixSet } from './prefixes.js'
import type { Condition, Effect, Hook, Rule, RuleChain, RuleClass, RuleTable } from './ruleset.js'
import { hairpinSets, isKubeProxys, kubeProxyMode } from './service-proxy.js'

/** What is known about the node when rules are judged. */
export interface RuleContext {
  /** Served devices by role. */
  pods: readonly string[]
  uplinks: readonly string[]
  /** Devices that exist and whose packets always use the stack. */
  neverServed: readonly string[]
  /** Destinations that are left to the stack as a whole, by configuration or by their route. */
  stackPrefixes: PrefixSet
  /** Destinations that are left to the stack because the node's rules translate them. */
  translated: PrefixSet
  ownAddresses: PrefixSet
  /** Addresses of this node's pods: delivered there before any route is asked. */
  podAddresses: PrefixSet
  /** hostroute masquerades; snat6: IPv6, too. */
  snat: boolean
  snat6: boolean
  /** The policy masquerades IPv4 link-local destinations: the fast path takes packets to them. */
  routesLinkLocal: boolean
}

export interface JudgedRule {
  table: RuleTable
  chain: RuleChain
  /** null: the chain's policy, or a flowtable. */
  rule: Rule | null
  text: string
  class: RuleClass
  /** Whose it is, as far as it is known. */
  owner: string | null
  /** The policy says by name that hostroute replaces it. */
  replaced: boolean
  why: string
  remedy: string | null
}

type Truth = 'never' | 'maybe' | 'always'

interface Reach {
  fast: boolean
  hooks: Set<Hook>
  /** Why no packet of the fast path arrives. */
  why: string
}

const fastHooks = new Set<Hook>(['prerouting', 'forward', 'postrouting', 'ingress', 'egress'])

export function classifyTable(table: RuleTable, context: RuleContext, policy: Policy): JudgedRule[] {
  const walk = new Walk(table, context)
  for (const chain of table.chains.values()) if (chain.hook) walk.start(chain)
  const judged: JudgedRule[] = []
  for (const chain of table.chains.values()) {
    for (const rule of chain.rules) judged.push(judge(table, chain, rule, walk.reached.get(rule), context, policy))
    if (chain.hook && chain.policy === 'drop') judged.push(judgePolicy(table, chain, walk, policy))
  }
  for (const flowtable of table.flowtables) judged.push(judgeFlowtable(table, flowtable, context))
  return judged
}

class Walk {
  readonly reached = new Map<Rule, Reach>()
  /** Base chains whose policy meets packets of the fast path. */
  readonly openPolicies = new Set<RuleChain>()
  private readonly seen = new Set<string>()

  constructor(
    private readonly table: RuleTable,
    private readonly context: RuleContext
  ) {}

  start(chain: RuleChain): void {
    const hook = chain.hook as Hook
    const why = whyHookIsHostOnly(this.table, chain, this.context)
    if (this.visit(chain, hook, chain.nat, why)) this.openPolicies.add(chain)
  }

  /** `why`: null while packets of the fast path arrive. true: they do so at the chain's end, too. */
  private visit(chain: RuleChain, hook: Hook, nat: boolean, why: string | null): boolean {
    const key = `${chain.name} ${hook} ${why === null}`
    if (this.seen.has(key)) return why === null
    this.seen.add(key)
    let open = why
    for (const rule of chain.rules) {
      const truths = rule.conditions.map((each) => evaluate(each, hook, nat, this.context))
      const excluded = open ?? truths.find((each) => each.truth === 'never')?.why ?? null
      this.record(rule, hook, excluded)
      for (const effect of rule.effects) {
        const next = effect.kind === 'jump' || effect.kind === 'goto' ? this.table.chains.get(effect.chain) : undefined
        if (next) this.visit(next, hook, nat, excluded)
      }
      const sure = truths.every((each) => each.truth === 'always')
      if (open === null && sure && rule.effects.some(endsChain)) {
        open = `the rule "${rule.text}" before it ends the chain for all packets that the fast path could take`
      }
    }
    return open === null
  }

  private record(rule: Rule, hook: Hook, why: string | null): void {
    const reach = this.reached.get(rule) ?? { fast: false, hooks: new Set(), why: why ?? '' }
    if (why === null) reach.fast = true
    reach.hooks.add(hook)
    this.reached.set(rule, reach)
  }
}

function endsChain(effect: Effect): boolean {
  return effect.kind === 'accept' || effect.kind === 'return' || effect.kind === 'goto' || effect.kind === 'drop'
}

function whyHookIsHostOnly(table: RuleTable, chain: RuleChain, context: RuleContext): string | null {
  if (table.family === 'bridge') return 'it sees packets on bridge ports; hostroute leaves those to the stack'
  if (table.family === 'arp') return 'it sees ARP; hostroute leaves ARP to the stack'
  const hook = chain.hook as Hook
  if (!fastHooks.has(hook))
    return `hook ${hook} sees only packets to or from the node itself; hostroute leaves those to the stack`
  if ((hook !== 'ingress' && hook !== 'egress') || chain.devices.length === 0) return null
  // what a TC program redirects passes no egress hook of netfilter (nf_skip_egress(), Linux 5.17)
  const served = [...context.pods, ...context.uplinks]
  if (chain.devices.some((pattern) => served.some((name) => matchesDevice(pattern, name)))) return null
  return chain.devices.every((name) => name === 'lo' || context.neverServed.includes(name))
    ? 'hostroute does not serve its devices'
    : null
}

interface Answer {
  truth: Truth
  why: string
}

/** Whether a packet that the fast path could take meets the condition. */
function evaluate(condition: Condition, hook: Hook, nat: boolean, context: RuleContext): Answer {
  switch (condition.kind) {
    case 'in-device':
    case 'out-device':
      return turned(device(condition.names, context), condition.invert)
    case 'mark': {
      const unmarked = (condition.value & condition.mask) >>> 0 === 0 && condition.value === 0
      const answer: Answer = {
        truth: unmarked ? 'always' : 'never',
        why: 'it wants a mark; packets that the fast path takes carry none'
      }
      return turned(answer, condition.invert)
    }
    case 'local-destination': {
      // answers to masqueraded connections are addressed to the node, and taken
      const taken = context.snat && !nat && (hook === 'prerouting' || hook === 'ingress')
      return turned({ truth: taken ? 'maybe' : 'never', why: 'it is for packets to the node itself' }, condition.invert)
    }
    case 'local-source':
      return turned({ truth: 'never', why: 'it is for packets from the node itself' }, condition.invert)
    case 'destination':
    case 'source':
      return turned(prefixes(condition, hook, nat, context), condition.invert)
    case 'translated-flow':
      return turned({ truth: 'never', why: 'conntrack translates these flows; they use the stack' }, condition.invert)
    case 'owner':
      return { truth: 'never', why: 'it is for packets that a process of the node sends' }
    case 'bridge-port':
      return { truth: 'never', why: 'it is for packets on bridge ports; hostroute leaves those to the stack' }
    case 'other':
      return { truth: 'maybe', why: '' }
  }
}

function turned({ truth, why }: Answer, invert: boolean): Answer {
  if (!invert || truth === 'maybe') return { truth, why }
  return truth === 'always'
    ? { truth: 'never', why: 'its negation holds for all packets that the fast path takes' }
    : { truth: 'always', why }
}

function device(patterns: string[], context: RuleContext): Answer {
  const served = [...context.pods, ...context.uplinks]
  const unserved = ['lo', ...context.neverServed]
  const matches = (names: string[]) => names.filter((name) => patterns.some((pattern) => matchesDevice(pattern, name)))
  if (patterns.includes('*')) return { truth: 'always', why: '' }
  // a name that no device has yet may become a pod's
  const known = patterns.every((pattern) => unserved.some((name) => matchesDevice(pattern, name)))
  if (known && matches(served).length === 0)
    return { truth: 'never', why: `hostroute does not serve ${patterns.join(', ')}` }
  return { truth: 'maybe', why: '' }
}

export function matchesDevice(pattern: string, name: string): boolean {
  return pattern.endsWith('*') ? name.startsWith(pattern.slice(0, -1)) : pattern === name
}

/** Loopback, multicast, broadcast; and link-local as a destination: never taken by the fast path. */
const kernelsOwn = prefixSet([
  hexPrefix('7f000000/8'),
  hexPrefix('e0000000/4'),
  hexPrefix('ffffffff/32'),
  hexPrefix(`${'0'.repeat(31)}1/128`),
  hexPrefix(`ff${'0'.repeat(30)}/8`)
])
const linkLocal6 = hexPrefix(`fe80${'0'.repeat(28)}/10`)
const linkLocalPrefixes = { all: prefixSet([hexPrefix('a9fe0000/16'), linkLocal6]), untaken: prefixSet([linkLocal6]) }

function prefixes(
  condition: { kind: string; prefixes: Prefix[] },
  hook: Hook,
  nat: boolean,
  context: RuleContext
): Answer {
  const maybe: Answer = { truth: 'maybe', why: '' }
  const inside = (...sets: PrefixSet[]) => condition.prefixes.every((prefix) => sets.some((set) => set.covers(prefix)))
  if (condition.prefixes.some((prefix) => prefix.endsWith('/0'))) return maybe
  if (inside(kernelsOwn))
    return { truth: 'never', why: 'the fast path takes no loopback, multicast or broadcast packets' }
  if (condition.kind === 'source') return maybe
  const linkLocal = context.routesLinkLocal ? linkLocalPrefixes.untaken : linkLocalPrefixes.all
  if (inside(kernelsOwn, linkLocal))
    return { truth: 'never', why: 'the fast path takes no packets to link-local addresses' }
  if (meetsPods(condition, context)) return maybe
  const { stackPrefixes, translated, ownAddresses } = context
  // answers to masqueraded connections are addressed to the node, and taken
  const answers = context.snat && !nat && (hook === 'prerouting' || hook === 'ingress')
  if (answers && condition.prefixes.some((prefix) => ownAddresses.meets(prefix))) return maybe
  if (inside(ownAddresses)) return { truth: 'never', why: 'it is for packets to the node itself' }
  if (inside(translated, ownAddresses))
    return { truth: 'never', why: "the node's rules translate these addresses, so they are left to the stack" }
  if (inside(kernelsOwn, linkLocal, stackPrefixes, translated, ownAddresses))
    return { truth: 'never', why: 'packets to these addresses are left to the stack' }
  return maybe
}

function meetsPods(condition: { prefixes: Prefix[] }, { podAddresses }: RuleContext): boolean {
  return condition.prefixes.some((prefix) => podAddresses.meets(prefix))
}

function judge(
  table: RuleTable,
  chain: RuleChain,
  rule: Rule,
  reach: Reach | undefined,
  context: RuleContext,
  policy: Policy
): JudgedRule {
  const matching = policy.rules.filter((each) => matchesPolicyRule(each, table, chain.name, rule.text))
  const proxy = isKubeProxys(table, chain)
  const explained = proxy ? null : (matching[0] ?? null)
  const owner = proxy ? 'kube-proxy' : (explained?.name ?? null)
  const base = { table, chain, rule, text: rule.text, owner, replaced: explained?.class === 'translatable' }
  const snat = masquerades(context, table, rule)
  const own = byEffects(rule, reach, { ...context, snat })
  const said = matching.find(
    (each) =>
      each.class !== null &&
      (own.class === 'bypassed' || each.class === 'bypassed') &&
      // nothing replaces it then
      !(each.class === 'translatable' && !snat)
  )
  if (said?.class)
    return {
      ...base,
      owner: said.name,
      class: said.class,
      why: said.why,
      remedy: said.remedy,
      replaced: said.class === 'translatable'
    }
  if (proxy && kubeProxyMode(table) === 'ipvs' && hairpinSets.test(rule.text))
    return {
      ...base,
      class: 'host-only',
      why: 'it is for pods that reach themselves through a Service; that uses the stack',
      remedy: null
    }
  if (own.class !== 'bypassed') return { ...base, ...own, remedy: null }
  return {
    ...base,
    class: 'bypassed',
    why: (explained?.class === 'translatable' ? null : explained?.why) ?? own.why,
    remedy: explained?.remedy ?? remedyFor({ ...context, snat }, rule, reach)
  }
}

/** hostroute masquerades the packets that the rule is about. */
function masquerades({ snat, snat6 }: RuleContext, table: RuleTable, rule: Rule): boolean {
  const isIPv6 =
    table.family === 'ip6' ||
    rule.conditions.some(
      (each) =>
        (each.kind === 'source' || each.kind === 'destination') &&
        each.prefixes.length > 0 &&
        each.prefixes.every((prefix) => prefix.length > 12)
    )
  return isIPv6 ? snat6 : snat
}

function byEffects(rule: Rule, reach: Reach | undefined, context: RuleContext): { class: RuleClass; why: string } {
  if (!reach) return { class: 'harmless', why: 'no base chain leads to it' }
  if (!reach.fast) return { class: 'host-only', why: reach.why }
  const doing = rule.effects.find((effect) =>
    ['drop', 'change', 'record', 'masquerade', 'translate'].includes(effect.kind)
  )
  if (!doing) return { class: 'harmless', why: 'it only lets packets pass, counts them or leads to other rules' }
  const hooks = [...reach.hooks].filter((hook) => fastHooks.has(hook)).join(', ')
  if (doing.kind === 'masquerade') {
    const plain = rule.conditions.every(
      (each) => each.kind === 'source' || each.kind === 'destination' || each.kind === 'out-device' || isSettled(each)
    )
    if (context.snat && plain) {
      return { class: 'translatable', why: 'hostroute masquerades by itself, by the configuration of ip-masq-agent' }
    }
    const reason = context.snat
      ? 'under conditions that hostroute cannot express'
      : context.snat6
        ? 'and hostroute would not (snat.enabled: false)'
        : 'and hostroute would not (snat.enabled, snat.masqueradeIPv6)'
    return { class: 'bypassed', why: `it masquerades pods' packets ${reason}` }
  }
  if (doing.kind === 'translate' && reach.hooks.has('prerouting'))
    return { class: 'bypassed', why: whyNotHonoured(rule, context) }
  return {
    class: 'bypassed',
    why: `${effectWords(doing)} in hook ${hooks}, which packets of the fast path do not pass`
  }
}

/** Conditions whose answer for packets of the fast path does not depend on the packet. */
function isSettled(condition: Condition): boolean {
  return condition.kind === 'mark' || condition.kind === 'local-destination' || condition.kind === 'local-source'
}

function effectWords(effect: Effect): string {
  if (effect.kind === 'drop') return 'it drops packets'
  if (effect.kind === 'record') return `it records packets (${effect.how})`
  return effect.kind === 'change' ? `it works on packets (${effect.how})` : `it does "${effect.kind}"`
}

/** Why a translating rule is none that translations.ts finds. */
function whyNotHonoured(rule: Rule, context: RuleContext): string {
  const limits = destinationsOf(rule)
  if (limits.length === 0)
    return 'it translates packets to any destination; hostroute leaves only destinations that rules name to the stack, and the fast path takes all others'
  return limits.some((each) => meetsPods(each, context))
    ? 'it translates packets to addresses of pods of this node; the fast path delivers these packets to the pods'
    : 'it translates packets to destinations that hostroute does not find by itself (it does not follow sets of ipset)'
}

function destinationsOf(rule: Rule): { prefixes: Prefix[] }[] {
  return rule.conditions.flatMap((each) =>
    each.kind === 'destination' && !each.invert && !each.prefixes.some((prefix) => prefix.endsWith('/0')) ? [each] : []
  )
}

function remedyFor(context: RuleContext, rule: Rule, reach: Reach | undefined): string {
  const does = (kind: Effect['kind']) => rule.effects.some((effect) => effect.kind === kind)
  if (!context.snat && does('masquerade'))
    return 'Let hostroute masquerade (snat.enabled: true; for IPv6 snat.masqueradeIPv6: true as well), or remove the rule.'
  const limits = destinationsOf(rule)
  if (does('translate') && reach?.hooks.has('prerouting')) {
    if (limits.some((each) => meetsPods(each, context)))
      return 'Remove the rule, or let it translate an address that no pod has.'
    return limits.length > 0
      ? 'Name the destinations in the rule (-d), or put them into stackPrefixes.'
      : 'Limit the rule to the addresses it is meant for (iptables -d ADDRESS, or -m addrtype --dst-type LOCAL for the node itself; nft: ip daddr, fib daddr type local). If it is meant for all traffic of some pods, leave their devices out of pods.devices.'
  }
  const stack = limits.some(
    (each) => !meetsPods(each, context) && !each.prefixes.some((prefix) => context.ownAddresses.meets(prefix))
  )
  const unmasqueraded = context.snat ? ', which hostroute then does not masquerade' : ''
  const put = stack ? ` put its destinations into stackPrefixes${unmasqueraded},` : ''
  return `Remove the rule,${put} or accept it in a policy file (hostroute check --policy FILE; --print-policy shows the form).`
}

function judgePolicy(table: RuleTable, chain: RuleChain, walk: Walk, policy: Policy): JudgedRule {
  const text =
    table.backend === 'nft' ? `chain ${chain.name} { hook ${chain.hook}; policy drop; }` : `-P ${chain.name} DROP`
  const said = policy.rules.find((each) => each.class !== null && matchesPolicyRule(each, table, chain.name, text))
  const base = { table, chain, rule: null, text, owner: said?.name ?? null, replaced: false }
  if (!walk.openPolicies.has(chain))
    return { ...base, class: 'host-only', why: 'no packet of the fast path meets this policy', remedy: null }
  if (said?.class) return { ...base, class: said.class, why: said.why, remedy: said.remedy }
  return {
    ...base,
    class: 'bypassed',
    why: `packets that no rule accepts are dropped in hook ${chain.hook}, which packets of the fast path do not pass`,
    remedy: policyRemedy(table, chain)
  }
}

/** A policy that a program of the node sets has to be changed there, or it comes back. */
function policyRemedy(table: RuleTable, chain: RuleChain): string {
  const names = [...table.chains.keys()]
  const tool = table.family === 'ip6' ? 'ip6tables' : 'iptables'
  if (table.backend !== 'nft' && names.some((name) => name.startsWith('DOCKER')))
    return `Docker sets it when it switches forwarding on. Put net.ipv4.ip_forward=1 into /etc/sysctl.d (Docker then leaves the policy alone; Docker 28 also has "ip-forward-no-drop": true in /etc/docker/daemon.json), then: ${tool} -P FORWARD ACCEPT`
  if (table.backend !== 'nft' && names.some((name) => /^ufw6?-/.test(name)))
    return 'ufw sets it: DEFAULT_FORWARD_POLICY="ACCEPT" in /etc/default/ufw, then ufw reload. The rules for the node itself (INPUT) stay.'
  const accept =
    table.backend === 'nft'
      ? `Make the policy accept (nft chain ${table.family} ${table.name} ${chain.name} '{ policy accept; }')`
      : `Make the policy ACCEPT (${tool} -P ${chain.name} ACCEPT)`
  return `${accept}, or accept it in a policy file (hostroute check --policy FILE) if its rules let all traffic of pods pass.`
}

function judgeFlowtable(
  table: RuleTable,
  flowtable: RuleTable['flowtables'][number],
  context: RuleContext
): JudgedRule {
  const chain: RuleChain = {
    name: flowtable.name,
    hook: 'ingress',
    nat: false,
    policy: 'accept',
    devices: flowtable.devices,
    rules: []
  }
  const base = { table, chain, rule: null, text: flowtable.text, owner: null, replaced: false }
  const hostOnly = whyHookIsHostOnly(table, chain, context)
  if (hostOnly !== null) return { ...base, class: 'host-only', why: hostOnly, remedy: null }
  return {
    ...base,
    class: 'bypassed',
    why: 'it forwards packets of the same devices past the stack: in software it would see none any more, in hardware it would hide them from hostroute',
    remedy: 'Remove the flowtable, or keep its devices out of hostroute (pods.devices, uplink.devices).'
  }
}
