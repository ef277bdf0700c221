// The generated rules against those that kube-proxy 1.30.3 wrote for the same
// Services in a cluster of its own (fixtures/; iptables-save, nft list ruleset).

import { readFileSync } from 'node:fs'
import t from 'tap'
import { labPlan, type NodeName, RECORDED, servicePorts } from './cluster.js'
import { iptablesRules, masqueradeAgentRules, savedForm } from './iptables-rules.js'
import { nftRules } from './nft-rules.js'

const fixtures = new URL('../../../../test/services/fixtures/', import.meta.url)
const recorded = (name: string) => readFileSync(new URL(name, fixtures), 'utf8')

/** Lines by table, without counters and comments; the order inside a chain is kept, that of chains is not. */
function chainsOf(saved: string): Record<string, string[]> {
  const chains: Record<string, string[]> = {}
  let table = ''
  for (const line of saved.split('\n')) {
    if (line.startsWith('*')) table = line.slice(1)
    const [, chain] = /^(?::|-A )(\S+)/.exec(line) ?? []
    if (!chain) continue
    chains[`${table} ${chain}`] ??= []
    if (line.startsWith('-A')) chains[`${table} ${chain}`]?.push(line)
  }
  // kube-proxy walks a hash table of Services: their order means nothing in these
  for (const [chain, rules] of Object.entries(chains)) {
    if (/KUBE-(SERVICES|NODEPORTS|EXTERNAL-SERVICES)$/.test(chain)) rules.sort()
  }
  return chains
}

for (const node of ['n1', 'n2'] as NodeName[]) {
  t.test(`generated iptables rules are those recorded on ${node}`, async (t) => {
    const generated = savedForm(iptablesRules(RECORDED, servicePorts(RECORDED, node)), masqueradeAgentRules(RECORDED))
    t.same(chainsOf(generated), chainsOf(recorded(`iptables-${node}.save`)))
  })
}

t.test('generated iptables rules are those recorded with the legacy backend', async (t) => {
  const generated = savedForm(iptablesRules(RECORDED, servicePorts(RECORDED, 'n1')))
  t.same(chainsOf(generated), chainsOf(recorded('iptables-legacy-n1.save')))
})

/** A table of `nft list ruleset` as its sets, elements and chains. */
function listedTable(listing: string, name: string) {
  const from = listing.indexOf(`table ${name} {`)
  const text = listing.slice(from, listing.indexOf('\n}\n', from))
  const [sets, elements, chains]: Record<string, string[]>[] = [{}, {}, {}]
  for (const [, kind = '', block = '', body = ''] of text.matchAll(
    /\n\t(set|map|chain) (\S+) \{\n([\s\S]*?)\n?\t\}/g
  )) {
    if (kind === 'chain') {
      ;(chains as Record<string, string[]>)[block] = body.split('\n').map((line) => line.trim())
      continue
    }
    const [, listed = ''] = /elements = \{([\s\S]*)\}/.exec(body) ?? []
    const members = listed.split(',').map((each) => each.trim().replaceAll(/\s+/g, ' '))
    ;(elements as Record<string, string[]>)[block] = members.filter((each) => each !== '').sort()
    const lines = body.replace(/\t\telements = [\s\S]*/, '').split('\n')
    ;(sets as Record<string, string[]>)[block] = lines.map((line) => line.trim()).filter((line) => line !== '')
  }
  return { sets, elements, chains }
}

for (const node of ['n1', 'n2'] as NodeName[]) {
  t.test(`generated nftables rules are those recorded on ${node}`, async (t) => {
    const listed = listedTable(recorded(`nftables-${node}.nft`), 'ip kube-proxy')
    const { sets, elements, chains } = nftRules(RECORDED, node, servicePorts(RECORDED, node))
    t.same(Object.fromEntries(chains), listed.chains)
    const members = [...sets.keys()].map((set) => [set, [...(elements.get(set) ?? [])].sort()])
    t.same(Object.fromEntries(members), listed.elements)
    const declared = [...sets].map(([set, words]) => [set, (/\{ (.*?);? \}/.exec(words)?.[1] ?? '').split('; ')])
    t.same(Object.fromEntries(declared), listed.sets)
  })
}

t.test('generated nftables rules of a family without Services are those recorded', async (t) => {
  const listed = listedTable(recorded('nftables-n1.nft'), 'ip6 kube-proxy')
  const { chains } = nftRules(labPlan(6), 'n1', [])
  t.same(Object.fromEntries(chains), listed.chains)
})
