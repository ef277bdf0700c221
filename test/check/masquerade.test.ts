// What the check says about ip-masq-agent's files.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { judgeMasquerade, readMasquerade } from '../../src/check/masquerade.js'
import { parseConfig } from '../../src/config/config.js'
import type { LackingSources } from '../../src/plan/types.js'
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
