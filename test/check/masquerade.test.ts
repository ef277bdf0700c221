// What the check says about ip-masq-agent's files.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { judgeMasquerade, readMasquerade, withAgentChains } from '../../src/check/masquerade.js'
import { defaultPolicy, matchesPolicyRule, type Policy } from '../../src/check/policy.js'
import type { RuleTable } from '../../src/check/ruleset.js'
import { parseConfig } from '../../src/config/config.js'
import type { LackingSources } from '../../src/plan/types.js'
import { cgroupNames, startAgentIn, uids } from '../config/agent-container.js'
import { Kubelet, upstream } from '../config/kubelet.js'

const nothing: LackingSources = { entries: [], families: [] }

function judge(t: Test, text: string | null, config = '', kubelet?: Kubelet, lacking = nothing) {
  const directory = mkdtempSync(join(tmpdir(), 'hr-check-'))
  t.teardown(() => rmSync(directory, { recursive: true }))
  const path = join(directory, 'ip-masq-agent')
  if (text !== null) writeFileSync(path, text)
  const parsed = parseConfig(`snat: {masqueradeFiles: [${path}]}\n${config}`, 'config.yaml')
  if (kubelet) parsed.snat.agent = { ...kubelet.settings, namespaces: [...kubelet.settings.namespaces] }
  return judgeMasquerade(readMasquerade(parsed), parsed, lacking)
}

t.test('[M1] [M2] [M3] the files: in order, not valid, too many prefixes, none beside an agent', async (t) => {
  t.match(judge(t, 'nonMasqueradeCIDRs: ["fd00::/8"]'), [
    { outcome: 'pass', what: /^Masquerading follows .*ip-masq-agent; IPv6 is masqueraded\.$/ }
  ])
  t.match(judge(t, null), [
    { outcome: 'pass', what: 'Masquerading follows the defaults of ip-masq-agent; IPv6 is not masqueraded.' }
  ])
  t.match(judge(t, 'nonMasqueradeCIDRs:\n- 10.1.2.3/8'), [
    { outcome: 'warning', code: 'masquerade-file', what: /ip-masq-agent:2:3: nonMasqueradeCIDRs: 10\.1\.2\.3\/8/ }
  ])
  const many = Array.from({ length: 300 }, (_, i) => `10.${i >> 8}.${i & 255}.0/24`).join(', ')
  t.match(judge(t, `nonMasqueradeCIDRs: [${many}]\ncidrLimit: 999`, 'limits: {masquerade: 256}'), [
    { outcome: 'warning', code: 'masquerade-too-large', what: /has 303 prefixes, limits\.masquerade allows 256/ }
  ])
  const kubelet = new Kubelet(t)
  kubelet.pod('u1', 'ip-masq-agent-x7k2p', upstream, { 'ip-masq-agent': 'nonMasqueradeCIDRs: []' })
  t.match(judge(t, null, '', kubelet), [
    {
      outcome: 'warning',
      code: 'masquerade-defaults',
      what: /^Only the defaults .* kube-system\/ip-masq-agent-x7k2p has /
    }
  ])
})

t.test('[M1] the flags of an agent that runs: followed, or told where a key says something else', async (t) => {
  const kubelet = new Kubelet(t)
  const [uid] = uids
  kubelet.pod(uid, 'ip-masq-agent-x7k2p', upstream, { 'ip-masq-agent': 'nonMasqueradeCIDRs: []' })
  await startAgentIn(t, cgroupNames.systemd(uid), ['--to-ports=1024-29999', '--masq-chain=MASQ'])
  const of = (text: string) => {
    const config = parseConfig(text, 'config.yaml')
    config.snat.agent = { ...kubelet.settings, namespaces: [...kubelet.settings.namespaces] }
    return { facts: readMasquerade(config), config }
  }
  const auto = of('')
  t.match(judgeMasquerade(auto.facts, auto.config, nothing), [
    { outcome: 'pass', what: /, --to-ports=1024-29999 of kube-system\/ip-masq-agent-x7k2p; IPv6 is not masqueraded\.$/ }
  ])
  t.same(auto.facts.policy.ports, [{ first: 1024, last: 29_999 }])
  const set = of('snat: {ports: "30000-40000"}')
  t.match(judgeMasquerade(set.facts, set.config, nothing), [
    {
      outcome: 'warning',
      what: /ip-masq-agent-x7k2p runs with --to-ports=1024-29999, but snat\.ports is 30000-40000\.$/
    }
  ])
  const table: RuleTable = { backend: 'iptables-legacy', family: 'ip', name: 'nat' } as RuleTable
  const rule = '-A MASQ -p tcp -j MASQUERADE --to-ports 1024-29999 --random-fully'
  const known = (policy: Policy) => policy.rules.find((each) => matchesPolicyRule(each, table, 'MASQ', rule))?.name
  t.equal(known(defaultPolicy), undefined)
  t.equal(known(withAgentChains(defaultPolicy, auto.facts.policy)), 'ip-masq-agent', 'its chain by another name')
})

t.test('[S14] addresses for SNAT that the node does not have', async (t) => {
  const codes = (lacking: LackingSources) =>
    judge(t, 'nonMasqueradeCIDRs: []', '', undefined, lacking).map(
      ({ outcome, code, what }) => `${outcome} ${code} ${what}`
    )
  t.strictSame(codes({ entries: ['192.0.2.9', 'wan0'], families: [4, 6] }), [
    'warning masquerade-no-source The node has none of snat.addresses for IPv4.',
    'warning masquerade-missing-source snat.addresses: the node has no address for 192.0.2.9, wan0.'
  ])
})
