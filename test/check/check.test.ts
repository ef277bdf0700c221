// The check for real: each case is a network namespace of its own, which is
// gone with the process that was started in it.
//
// Takes up to 240 s: every case loads the programs into the kernel once more.

import { execFileSync, spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { CheckReport, Finding } from '../../src/check/report.js'
import { checkIn, plainNode, refusing, runner } from './namespace.js'

t.setTimeout(240_000)

const rule = (report: CheckReport, text: string): Finding | undefined =>
  report.findings.find((each) => each.rule?.text.includes(text))

const legacyNames =
  'cat /proc/net/ip_tables_names /proc/net/ip6_tables_names /proc/net/arp_tables_names 2>/dev/null; nft list tables'

t.test('[C1] [C4] [C10] a plain node passes, and looking makes no tables', async (t) => {
  const { report, after } = checkIn(plainNode, {}, legacyNames)
  t.same(refusing(report), [])
  t.equal(after, '', 'no table exists afterwards')
  const codes = report.findings.map(({ code }) => code)
  for (const code of [
    'kernel-load',
    'kernel-hook',
    'kernel-managed',
    'rules-none',
    'devices-uplinks',
    'devices-pods'
  ]) {
    t.ok(codes.includes(code), code)
  }
  t.equal(report.pass, report.counts.refuse === 0)
  t.same(report.rules, { bypassed: 0, 'host-only': 0, harmless: 0, translatable: 0 })
})

t.test('[C4] rules of every backend are found and classed', async (t) => {
  const { report } = checkIn(`${plainNode}
iptables-legacy -A FORWARD -s 10.9.0.1 -j DROP
ip6tables-legacy -A FORWARD -s fd00::9 -j DROP
arptables-legacy -A INPUT -s 10.9.0.2 -j DROP
iptables-nft -A FORWARD -s 10.9.0.3 -j DROP
ip6tables-nft -A INPUT -s fd00::8 -j DROP
ebtables-nft -A FORWARD -p IPv4 --ip-src 10.9.0.4 -j DROP
arptables-nft -A INPUT -s 10.9.0.5 -j DROP
nft add table inet own
nft 'add chain inet own passing { type filter hook forward priority 0; policy accept; }'
nft 'add rule inet own passing ip saddr 10.9.0.6 drop'
nft 'add table netdev early { chain up { type filter hook ingress device "up0" priority 0; ip saddr 10.9.0.7 drop; }; }'
`)
  const placed: [text: string, backend: string, ruleClass: string][] = [
    ['-s 10.9.0.1/32 -j DROP', 'iptables-legacy', 'bypassed'],
    ['-s fd00::9/128 -j DROP', 'iptables-legacy', 'bypassed'],
    ['-s 10.9.0.2', 'arptables-legacy', 'host-only'],
    ['-s 10.9.0.3/32 -j DROP', 'iptables-nft', 'bypassed'],
    ['-s fd00::8/128 -j DROP', 'iptables-nft', 'host-only'],
    ['10.9.0.4', 'ebtables-nft', 'host-only'],
    ['-s 10.9.0.5', 'arptables-nft', 'host-only'],
    ['ip saddr 10.9.0.6 drop', 'nft', 'bypassed'],
    ['ip saddr 10.9.0.7 drop', 'nft', 'bypassed']
  ]
  for (const [text, backend, ruleClass] of placed) {
    const found = rule(report, text)
    t.same([found?.rule?.backend, found?.rule?.class], [backend, ruleClass], text)
    t.equal(found?.outcome, ruleClass === 'bypassed' ? 'refuse' : 'info')
    t.ok(found?.why, 'says why')
  }
  t.notOk(report.pass)
})

t.test('[C4] policies of both backends', async (t) => {
  const legacy = checkIn(`${plainNode}\niptables-legacy -P FORWARD DROP`).report
  const nft = checkIn(`${plainNode}\niptables-nft -P FORWARD DROP`).report
  for (const report of [legacy, nft]) t.same(refusing(report), ['policy-bypassed'])
})

t.test('[C4] an iptables table that only nft can show is read by nft', async (t) => {
  const { report } = checkIn(`${plainNode}
iptables-nft -A FORWARD -s 10.9.0.1 -j ACCEPT
nft add rule ip filter FORWARD ct state vmap '{ invalid : drop }'`)
  t.equal(rule(report, 'ct state vmap')?.rule?.backend, 'nft')
  t.same(refusing(report), ['rule-bypassed'])
})

/** A PATH with these programs and no others. */
function onlyWith(t: Test, names: string[]): string {
  const directory = mkdtempSync(join(tmpdir(), 'hr-check-path-'))
  t.teardown(() => rmSync(directory, { recursive: true }))
  mkdirSync(directory, { recursive: true })
  for (const name of names)
    symlinkSync(execFileSync('sh', ['-c', `command -v ${name}`], { encoding: 'utf8' }).trim(), join(directory, name))
  return directory
}

t.test('[C4] without tools a node without tables is clean', async (t) => {
  const path = onlyWith(t, ['ip', 'tc', 'unshare'])
  t.same(refusing(checkIn(plainNode, { path }).report), [])
})

t.test('[C4] [C9] without tools tables refuse, and the package is named', async (t) => {
  const path = onlyWith(t, ['ip', 'tc', 'unshare'])
  const { report } = checkIn(`${plainNode}\niptables-legacy -A INPUT -j ACCEPT\nnft add table inet own`, { path })
  t.same(refusing(report), ['rules-unread', 'rules-unread'])
  const remedies = report.findings.filter(({ code }) => code === 'rules-unread').map(({ remedy }) => remedy)
  t.match(remedies, [/package iptables/, /package nftables/])
})

t.test('[C4] nft alone reads what iptables-nft wrote', async (t) => {
  const path = onlyWith(t, ['ip', 'tc', 'unshare', 'nft'])
  const { report } = checkIn(
    `${plainNode}\niptables-nft -A FORWARD -s 10.9.0.1 -j DROP\niptables-nft -A INPUT -j DROP`,
    { path }
  )
  t.same(refusing(report), ['rule-bypassed'])
  t.equal(rule(report, '10.9.0.1')?.rule?.backend, 'nft')
})

t.test('[C9] a tool that fails refuses', async (t) => {
  const path = onlyWith(t, ['ip', 'tc', 'unshare'])
  symlinkSync('/bin/false', join(path, 'nft'))
  const { report } = checkIn(`${plainNode}\nnft add table inet own`, { path })
  t.same(refusing(report), ['rules-unread'])
  t.match(report.findings.find(({ code }) => code === 'rules-unread')?.why, /exited with status 1/)
})

t.test('[C11] what the policy accepts warns', async (t) => {
  const setup = `${plainNode}\niptables-nft -P FORWARD DROP`
  const { report } = checkIn(setup, { policy: 'version: 1\naccepted: [policy-bypassed, kernel-bpffs]\n' })
  t.ok(report.pass)
  t.match(
    report.findings.find(({ code }) => code === 'policy-bypassed'),
    { outcome: 'warning', why: /accepted by the policy/ }
  )
})

t.test('[C5] ip rules, tables and VRF are told and do not refuse', async (t) => {
  const { report } = checkIn(`${plainNode}
ip rule add to 10.7.0.0/16 lookup 100
ip route add 10.7.0.0/16 dev up0 table 100`)
  t.same(refusing(report), [])
  t.ok(report.findings.some(({ code, what }) => code === 'routing-rule' && what.includes('to 10.7.0.0/16 lookup 100')))
  t.ok(report.findings.some(({ code, what }) => code === 'routing-tables' && what.includes('100 (1)')))
})

t.test('[C6] a node that does not forward refuses', async (t) => {
  t.same(refusing(checkIn(`${plainNode}\necho 0 > /proc/sys/net/ipv4/ip_forward`).report), ['sysctl-forwarding'])
})

t.test('[C7] devices: pods, uplinks, and those that are not served with the reason', async (t) => {
  const { report } = checkIn(`${plainNode}
ip link add br0 type bridge && ip link set br0 up && ip addr add 172.17.0.1/16 dev br0`)
  t.ok(report.findings.some(({ code, what }) => code === 'devices-uplinks' && what.includes('up0')))
  t.ok(report.findings.some(({ code, what }) => code === 'devices-pods' && what.startsWith('1 device')))
  t.match(
    report.findings.find(({ code }) => code === 'devices-unserved'),
    { what: /br0/, why: /bridge/ }
  )
})

t.test('[C8] a shaper on the device of a pod refuses, on the uplink it does not', async (t) => {
  const shaper = 'root tbf rate 1mbit burst 10k latency 50ms'
  t.same(refusing(checkIn(`${plainNode}\ntc qdisc add dev pod0 ${shaper}`).report), ['qdisc-bypassed'])
  t.same(refusing(checkIn(`${plainNode}\ntc qdisc add dev up0 ${shaper}`).report), [])
})

t.test('[C10] rights that lack are an error, not a report', async (t) => {
  const { status, stderr } = spawnSync(
    'setpriv',
    ['--bounding-set', '-all', '--inh-caps', '-all', process.execPath, runner],
    { encoding: 'utf8' }
  )
  t.not(status, 0)
  t.match(stderr, /CheckError: the check lacks CAP_NET_ADMIN.*run it as root/)
})
