// The flags that ip-masq-agent runs with: read from the processes of its pods, and
// followed by the keys that are auto.
// Runs alone: tests that look for agents on the machine would find its processes.

import { copyFileSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { formatPrefix, hexPrefix } from '../../src/address.js'
import { parseAgentFlags } from '../../src/config/agent-flags.js'
import { AgentProcesses, podOf } from '../../src/config/agent-process.js'
import type { RunningAgent } from '../../src/config/agent-use.js'
import {
  defaultMasqueradeOptions,
  type MasqueradeOptions,
  type MasqueradePolicy,
  mergeMasquerade
} from '../../src/config/masquerade.js'
import { parseMasqueradeFile } from '../../src/config/masquerade-text.js'
import { type MasqueradeWatchOptions, watchMasquerade } from '../../src/config/watch.js'
import { compile } from '../lab/compile.js'
import { cgroupNames, startAgentIn, uids } from './agent-container.js'
import { Kubelet, upstream } from './kubelet.js'

const { systemd, cgroupfs } = cgroupNames
const [first, second] = uids
const names = ['kube-system/ip-masq-agent-x7k2p', 'kube-system/ip-masq-agent-9zzzz'] as const
const file = 'nonMasqueradeCIDRs: [10.1.0.0/16]\n'
const six = 'nonMasqueradeCIDRs: [10.1.0.0/16, "fd00::/8"]\n'
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

function agent(words: string[], pod: string = names[0], owner = 'kube-system/ip-masq-agent'): RunningAgent {
  return { pod, owner, flags: parseAgentFlags(words), kept: false }
}

function merge(words: string[], some: Partial<MasqueradeOptions> = {}, text: string | null = null): MasqueradePolicy {
  const files = text === null ? [] : [parseMasqueradeFile(text, '/etc/config/ip-masq-agent')]
  return mergeMasquerade(files, { ...defaultMasqueradeOptions, ...some }, [agent(words)])
}

/** IPv4 besides link-local. */
function excluded({ wanted }: MasqueradePolicy): string[] {
  return wanted
    .filter(({ prefix, masquerade }) => !masquerade && prefix.length < 12 && !prefix.startsWith('a9fe'))
    .map(({ prefix }) => formatPrefix(prefix))
}

function follow(t: Test, kubelet: Kubelet, options: Partial<MasqueradeWatchOptions> = {}) {
  const seen: MasqueradePolicy[] = []
  const problems: string[] = []
  const watch = watchMasquerade({
    patterns: ['auto'],
    agent: kubelet.settings,
    settle: 60,
    glance: 100,
    onChange: (policy) => seen.push(policy),
    onProblem: (text) => problems.push(text),
    ...options
  })
  t.teardown(() => watch.close())
  return { watch, seen, problems }
}

async function until(check: () => boolean): Promise<boolean> {
  for (let i = 0; i < 1000 && !check(); i++) await sleep(20)
  return check()
}

const flagsOf = ({ agents }: MasqueradePolicy) =>
  agents.flatMap(({ flags }) => flags.map(({ flag, effect }) => `${flag} ${effect}`))

t.test('flags are read as the agent reads them', async (t) => {
  const nothing = { allReservedRanges: null, ipv6: null, ports: null, randomFully: null, chain: null }
  const cases: [string[], Partial<ReturnType<typeof parseAgentFlags>>][] = [
    [[], {}],
    [['--nomasq-all-reserved-ranges'], { allReservedRanges: true }],
    [['-nomasq-all-reserved-ranges=T', '-enable-ipv6=0'], { allReservedRanges: true, ipv6: false }],
    [['--enable-ipv6=true', '--enable-ipv6=false'], { ipv6: false }],
    [['--masq-chain=IP-MASQ', '--random-fully=false'], { chain: 'IP-MASQ', randomFully: false }],
    [['--v', '2', '--logtostderr', '--masq-chain', 'IP-MASQ', '--enable-ipv6'], { chain: 'IP-MASQ', ipv6: true }],
    [['--to-ports', '1024-29999'], { ports: { text: '1024-29999', ranges: [{ first: 1024, last: 29_999 }] } }],
    [['--to-ports=70000'], { ports: { text: '70000', ranges: null } }],
    [['--to-ports='], {}],
    [['--enable-ipv6', 'true', '--nomasq-all-reserved-ranges'], { ipv6: true }],
    [['--', '--enable-ipv6'], {}],
    [['word', '--enable-ipv6'], {}],
    [['--enable-ipv6=maybe'], {}]
  ]
  for (const [words, given] of cases) t.strictSame(parseAgentFlags(words), { ...nothing, ...given }, words.join(' '))
})

t.test('a process is in the pod whose cgroup is the outermost', async (t) => {
  const at = (path: string) => podOf(`0::/${path}/cri-containerd-0123.scope\n`)
  t.equal(at(systemd(first)), first)
  t.equal(at(cgroupfs(first)), first)
  t.equal(at(`kubelet.slice/kubelet-${systemd(first).replaceAll('/', '/kubelet-')}`), first, 'kind')
  t.equal(at('kubepods/burstable/pod9b0c7a58e7f3e1a9d2b4c6d8e0f1a2b3'), '9b0c7a58e7f3e1a9d2b4c6d8e0f1a2b3', 'static')
  t.equal(at('system.slice/containerd.service'), null)
  t.equal(at('machine.slice/libpod-0123.scope'), null)
  t.equal(at(`${systemd(second)}/x/${cgroupfs(first)}`), second, 'what a pod makes below its own cgroup is its own')
  t.equal(podOf(`5:pids:/${cgroupfs(first)}/0123\n0::/system.slice\n`), first, 'cgroup version 1')
  t.equal(podOf(`5:pids:/${cgroupfs(first)}/0123\n4:cpu:/${cgroupfs(second)}/0123\n`), null, 'no doubt is allowed')
})

t.test('[M1] --nomasq-all-reserved-ranges: more ranges where no file lists any', async (t) => {
  const flag = '--nomasq-all-reserved-ranges'
  const all = [...excluded(mergeMasquerade([])), ...otherReserved].sort()
  const policy = merge([flag])
  t.same(excluded(policy).sort(), all)
  t.same(policy.from.get(hexPrefix('64400000/10')), [`${flag} of ${names[0]}`])
  t.same(policy.from.get(hexPrefix('0a000000/8')), ['default'])
  t.same(excluded(merge([flag], {}, 'masqLinkLocal: true\n')).sort(), all, 'a file that lists none')
  t.same(excluded(merge([flag], {}, file)), ['10.1.0.0/16'], 'a file that lists some')
  t.same(flagsOf(merge([flag], {}, file)), [`${flag} none`])
  const off = merge([flag], { allReservedRanges: false })
  t.same(excluded(off), excluded(mergeMasquerade([])), 'the key wins')
  t.same(off.warnings, [`${names[0]} runs with ${flag}, but snat.allReservedRanges is false`])
  const on = merge([], { allReservedRanges: true })
  t.same(excluded(on).sort(), all, 'the key without the flag')
  t.same(on.from.get(hexPrefix('64400000/10')), ['snat.allReservedRanges'])
  t.same([on.warnings, on.agents[0]?.flags], [[], []])
  const both = mergeMasquerade([], defaultMasqueradeOptions, [
    agent([`${flag}=false`]),
    agent([flag], names[1], 'kube-system/other')
  ])
  t.same(excluded(both).sort(), all, 'of two agents')
  t.same(both.warnings, [`${names[0]} runs with ${flag}=false, but ${names[1]} runs with it`])
})

t.test('[M1] --enable-ipv6: IPv6 is masqueraded as the agent does it', async (t) => {
  const of6 = ({ wanted }: MasqueradePolicy) =>
    wanted
      .filter(({ prefix }) => prefix.length > 12)
      .map(({ prefix, masquerade }) => (masquerade ? '+' : '-') + formatPrefix(prefix))
  const policy = merge(['--enable-ipv6'])
  t.same(of6(policy), ['+::/0', '-fe80::/10'], 'the agent excludes no unique local addresses')
  t.match(policy.ipv6, { masqueraded: true, why: `${names[0]} runs with --enable-ipv6` })
  t.same(flagsOf(policy), ['--enable-ipv6 followed'])
  t.same(of6(merge(['--enable-ipv6'], {}, six)), ['+::/0', '-fd00::/8', '-fe80::/10'])
  t.same(of6(merge([])), ['-::/0'])
  const off = merge(['--enable-ipv6'], { masqueradeIPv6: false })
  t.same(of6(off), ['-::/0'])
  t.same(off.warnings, [`${names[0]} runs with --enable-ipv6, but snat.masqueradeIPv6: false`])
  t.same(of6(merge(['--enable-ipv6'], { masqueradeIPv6: true })), ['+::/0', '-fc00::/7', '-fe80::/10'], 'by the key')
  const refused = merge([], {}, six)
  t.equal(refused.ipv6.masqueraded, true)
  t.match(refused.warnings, [
    /names IPv6 prefixes, so .* but .*x7k2p runs without --enable-ipv6 and refuses such a file/
  ])
  t.same(merge([], {}, file).warnings, [])
})

t.test('[S5] --to-ports: the ports for SNAT', async (t) => {
  const words = ['--to-ports=1024-29999,32768-40000']
  const ranges = [
    { first: 1024, last: 29_999 },
    { first: 32_768, last: 40_000 }
  ]
  t.same(merge(words).ports, ranges)
  t.same(flagsOf(merge(words)), ['--to-ports=1024-29999,32768-40000 followed'])
  t.equal(merge([]).ports, 'auto')
  const set = [{ first: 20_000, last: 29_999 }]
  const own = merge(words, { ports: set })
  t.same(own.ports, set, 'the key wins')
  t.same(own.warnings, [`${names[0]} runs with ${words[0]}, but snat.ports is 20000-29999`])
  t.same(merge(words, { ports: ranges }).warnings, [], 'the same')
  const bad = merge(['--to-ports=many'])
  t.equal(bad.ports, 'auto')
  t.match(bad.warnings, [/runs with --to-ports=many, but that is no list of port ranges/])
})

t.test('flags without an effect here say why, and with Cilium’s semantics none has any', async (t) => {
  const words = ['--random-fully=false', '--masq-chain=IP-MASQ']
  t.same(flagsOf(merge(words)), ['--random-fully=false none', '--masq-chain=IP-MASQ none'])
  t.same(merge(words).warnings, [])
  const all = ['--nomasq-all-reserved-ranges', '--enable-ipv6', '--to-ports=1024-2047']
  const cilium = merge(all, { semantics: 'cilium' })
  t.same(
    flagsOf(cilium),
    all.map((flag) => `${flag} none`)
  )
  t.match(cilium, { ipv6: { masqueraded: false }, ports: 'auto', warnings: [] })
})

t.test('[M3] the flags of the process in the agent’s pod count, and of no other', async (t) => {
  const kubelet = new Kubelet(t)
  kubelet.pod(first, 'ip-masq-agent-x7k2p', upstream, { 'ip-masq-agent': file })
  kubelet.pod(second, 'ip-masq-agent-9zzzz', upstream, { 'ip-masq-agent': file }, 'tenant')
  await startAgentIn(t, systemd(second), ['--enable-ipv6'])
  await startAgentIn(t, 'system.slice/ip-masq-agent.service', ['--enable-ipv6'])
  await startAgentIn(t, `${systemd(second)}/inner/${systemd(first)}`, ['--enable-ipv6'])
  const directory = mkdtempSync(join(tmpdir(), 'hr-sidecar-'))
  t.teardown(() => rmSync(directory, { recursive: true }))
  const sidecar = join(directory, 'sidecar')
  copyFileSync(compile('test/config/ip-masq-agent.c'), sidecar)
  await startAgentIn(t, `${systemd(first)}/sidecar`, ['--enable-ipv6'], { program: sidecar })
  t.same(follow(t, kubelet).watch.policy.agents, [], 'a tenant’s, a service, a nested cgroup, another program')
  await startAgentIn(t, `${systemd(first)}/cri-containerd-01.scope`, ['--to-ports=1024-29999', '--v=2'])
  const { watch, problems } = follow(t, kubelet)
  t.same(watch.policy.agents, [
    { pod: names[0], kept: false, flags: [{ flag: '--to-ports=1024-29999', effect: 'followed', why: null }] }
  ])
  t.same(watch.policy.ports, [{ first: 1024, last: 29_999 }])
  t.same(problems, [])
  const named = follow(t, kubelet, { patterns: ['/nowhere/ip-masq-agent'] })
  t.same(named.watch.policy.agents, [], 'the agent’s pods are not followed')
})

t.test(
  '[M3] the agent’s program under another name is known by its executable, in cgroupfs’ cgroups, too',
  async (t) => {
    const kubelet = new Kubelet(t)
    const directory = mkdtempSync(join(tmpdir(), 'hr-agent-'))
    t.teardown(() => rmSync(directory, { recursive: true }))
    const program = join(directory, 'azure-ip-masq-agent-v2')
    copyFileSync(compile('test/config/ip-masq-agent.c'), program)
    kubelet.pod(first, 'azure-ip-masq-agent-x7k2p', upstream, {})
    await startAgentIn(t, `${cgroupfs(first)}/0123`, ['--nomasq-all-reserved-ranges'], { program })
    const { watch } = follow(t, kubelet)
    t.same(flagsOf(watch.policy), ['--nomasq-all-reserved-ranges followed'])
    t.equal(excluded(watch.policy).length, 11)
  }
)

t.test('[M3] the pod is replaced: its flags stay until the next one runs, whose flags are read then', async (t) => {
  const kubelet = new Kubelet(t)
  const keptFile = join(kubelet.root, 'masquerade.json')
  kubelet.pod(first, 'ip-masq-agent-x7k2p', upstream, { 'ip-masq-agent': file })
  const before = await startAgentIn(t, systemd(first), ['--enable-ipv6'])
  const { watch, seen, problems } = follow(t, kubelet, { keptFile })
  t.equal(watch.policy.ipv6.masqueraded, true)
  await before.stop()
  kubelet.end(first)
  t.ok(await until(() => watch.policy.agents[0]?.kept === true), 'its end is seen')
  t.equal(watch.policy.ipv6.masqueraded, true)
  watch.close()
  const next = follow(t, kubelet, { keptFile })
  t.match(next.watch.policy, { ipv6: { masqueraded: true }, agents: [{ pod: names[0], kept: true }] }, 'over a restart')
  const other = follow(t, kubelet, { before: next.watch, reading: { ...defaultMasqueradeOptions, ports: [] } })
  t.match(other.watch.policy.agents, [{ pod: names[0], kept: true }], 'and with another configuration')
  kubelet.pod(second, 'ip-masq-agent-9zzzz', upstream, { 'ip-masq-agent': file })
  await sleep(300)
  t.match(next.watch.policy.agents, [{ pod: names[0], kept: true }], 'while the new pod has no process')
  await startAgentIn(t, systemd(second), ['--to-ports=1024-29999'])
  t.ok(await until(() => next.watch.policy.agents[0]?.pod === names[1]))
  t.match(next.watch.policy, { ipv6: { masqueraded: false }, ports: [{ first: 1024, last: 29_999 }] })
  t.same(flagsOf(next.watch.policy), ['--to-ports=1024-29999 followed'])
  t.same([...problems, ...next.problems], [])
  t.ok(seen.length > 0)
})

t.test('[M3] the container is started anew with other flags', async (t) => {
  const kubelet = new Kubelet(t)
  kubelet.pod(first, 'ip-masq-agent-x7k2p', upstream, { 'ip-masq-agent': file })
  const before = await startAgentIn(t, systemd(first), ['--to-ports=1024-29999'])
  const { watch, problems } = follow(t, kubelet, {
    reading: { ...defaultMasqueradeOptions, ports: [{ first: 2000, last: 2999 }] }
  })
  t.match(watch.policy.agents[0]?.flags, [{ effect: 'overridden' }])
  await before.stop()
  await startAgentIn(t, systemd(first), [])
  t.ok(await until(() => watch.policy.agents[0]?.flags.length === 0 && !watch.policy.agents[0].kept))
  t.match(problems, [/runs with --to-ports=1024-29999, but snat\.ports is 2000-2999$/], 'told once')
})

t.test('looking through all processes waits its turn unless there are other pods or it is asked for', async (t) => {
  const proc = mkdtempSync(join(tmpdir(), 'hr-proc-'))
  t.teardown(() => rmSync(proc, { recursive: true }))
  for (let pid = 1; pid <= 3000; pid++) mkdirSync(join(proc, String(pid)))
  const processes = new AgentProcesses(proc)
  const time = (uids: string[], now = false) => {
    const began = performance.now()
    processes.find(uids, now)
    return performance.now() - began
  }
  const scan = time([first])
  const quick = Math.max(...Array.from({ length: 20 }, () => time([first])))
  t.ok(quick < scan / 4, `${quick} ms after ${scan} ms`)
  t.ok(time([first], true) > quick, 'now')
  t.ok(time([second]) > quick, 'another pod')
})
