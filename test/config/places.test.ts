// ip-masq-agent's files in the volumes of its pods, laid out as kubelet does.

import { chmodSync, mkdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { formatPrefix, hexPrefix } from '../../src/address.js'
import type { MasqueradePolicy } from '../../src/config/masquerade.js'
import { findPlaces } from '../../src/config/masquerade-places.js'
import { type MasqueradeWatchOptions, watchMasquerade } from '../../src/config/watch.js'
import { azures, Kubelet, upstream } from './kubelet.js'

const settle = 60

function follow(t: Test, kubelet: Kubelet, options: Partial<MasqueradeWatchOptions> = {}) {
  const seen: string[][] = []
  const problems: string[] = []
  const watch = watchMasquerade({
    patterns: ['auto'],
    agent: kubelet.settings,
    settle,
    glance: 100,
    onChange: (policy) => seen.push(excluded(policy)),
    onProblem: (text) => problems.push(text),
    ...options
  })
  t.teardown(() => watch.close())
  return { watch, seen, problems }
}

function excluded(policy: MasqueradePolicy): string[] {
  return policy.wanted
    .filter(({ prefix, masquerade }) => !masquerade && prefix.length < 12 && !prefix.startsWith('a9fe'))
    .map(({ prefix }) => formatPrefix(prefix))
}

async function until(check: () => boolean): Promise<boolean> {
  for (let i = 0; i < 250 && !check(); i++) await sleep(20)
  return check()
}

const defaults = ['10.0.0.0/8', '172.16.0.0/12', '192.168.0.0/16']
const one = 'nonMasqueradeCIDRs: [10.1.0.0/16]\n'
const two = 'nonMasqueradeCIDRs: [10.2.0.0/16]\n'
const three = 'nonMasqueradeCIDRs: [10.3.0.0/16]\n'

t.test('[M3] the agent’s file is found in its pod’s volume, with the pod’s name', async (t) => {
  const kubelet = new Kubelet(t)
  kubelet.pod('u1', 'coredns-abcde', 'kubernetes.io~configmap/config-volume', { Corefile: '.' })
  kubelet.pod('u2', 'ip-masq-agent-x7k2p', upstream, { 'ip-masq-agent': one, 'ip-masq-other': two })
  const { watch, problems } = follow(t, kubelet)
  t.same(excluded(watch.policy), ['10.1.0.0/16'], 'only the file that the agent reads')
  t.same(watch.policy.from.get(hexPrefix('0a010000/16')), [kubelet.file('u2', upstream)])
  const [own] = watch.files.filter(({ pod }) => pod !== null)
  t.match(own, { path: kubelet.file('u2', upstream), pod: 'kube-system/ip-masq-agent-x7k2p', present: true })
  t.equal(watch.defaultsOnly, null)
  t.same(problems, [])
})

t.test('[M3] Azure’s agent: all its files ip-masq* in a projected volume', async (t) => {
  const kubelet = new Kubelet(t)
  kubelet.pod('u1', 'azure-ip-masq-agent-x7k2p', azures, { 'ip-masq-agent': one, 'ip-masq-agent-reconciled': two })
  const { watch } = follow(t, kubelet)
  t.same(excluded(watch.policy), ['10.1.0.0/16', '10.2.0.0/16'])
})

t.test('[M3] a change of the ConfigMap reaches the policy as one step', async (t) => {
  const kubelet = new Kubelet(t)
  kubelet.pod('u1', 'ip-masq-agent-x7k2p', upstream, { 'ip-masq-agent': one })
  const { seen } = follow(t, kubelet, { glance: 60_000 })
  kubelet.write('u1', upstream, { 'ip-masq-agent': two })
  t.ok(await until(() => seen.length === 1), 'by events, without a glance')
  t.same(seen, [['10.2.0.0/16']])
})

t.test('[M3] the pod is replaced: never the defaults in between, then what the new pod has', async (t) => {
  const kubelet = new Kubelet(t)
  kubelet.pod('u1', 'ip-masq-agent-x7k2p', upstream, { 'ip-masq-agent': one })
  const { watch, seen, problems } = follow(t, kubelet)
  kubelet.end('u1')
  t.ok(await until(() => watch.files.some(({ kept }) => kept)), 'the pod’s end is seen')
  t.match(
    watch.files.find(({ kept }) => kept),
    { pod: 'kube-system/ip-masq-agent-x7k2p', present: false, read: Date }
  )
  t.same(excluded(watch.policy), ['10.1.0.0/16'], 'what it said stays')
  t.equal(watch.defaultsOnly, null)
  kubelet.pod('u2', 'ip-masq-agent-9zzzz', upstream, { 'ip-masq-agent': two })
  t.ok(await until(() => seen.length > 0))
  t.same(seen, [['10.2.0.0/16']])
  t.notOk(
    watch.files.some(({ path }) => path.includes('/u1/')),
    'the old one is forgotten'
  )
  t.same(problems, [])
})

t.test(
  '[M3] volumes of a pod come and go one by one: an agent that starts or ends is not one without a file',
  async (t) => {
    const kubelet = new Kubelet(t)
    const token = 'kubernetes.io~projected/kube-api-access-abcde'
    kubelet.pod('u1', 'ip-masq-agent-x7k2p', upstream, { 'ip-masq-agent': one })
    mkdirSync(join(kubelet.directory('u1'), 'volumes', token), { recursive: true })
    const { watch, seen, problems } = follow(t, kubelet)
    rmSync(join(kubelet.directory('u1'), 'volumes/kubernetes.io~configmap'), { recursive: true })
    t.ok(await until(() => watch.files.some(({ kept }) => kept)), 'the file’s volume goes first')
    mkdirSync(join(kubelet.directory('u2'), 'volumes', token), { recursive: true })
    mkdirSync(join(kubelet.settings.podLogsDirectory, 'kube-system_ip-masq-agent-9zzzz_u2'))
    await sleep(settle * 8)
    t.same(excluded(watch.policy), ['10.1.0.0/16'], 'and comes last')
    mkdirSync(join(kubelet.directory('u2'), 'volumes', upstream), { recursive: true })
    kubelet.write('u2', upstream, { 'ip-masq-agent': two })
    t.ok(await until(() => seen.length > 0))
    t.same(seen, [['10.2.0.0/16']])
    t.same(problems, [])
  }
)

t.test('[M3] one of two files in a volume is removed: the other one stays, and it is told', async (t) => {
  const kubelet = new Kubelet(t)
  const files = { 'ip-masq-agent': one, 'ip-masq-agent-reconciled': two }
  kubelet.pod('u1', 'azure-ip-masq-agent-x7k2p', azures, files)
  const { seen, problems } = follow(t, kubelet)
  rmSync(kubelet.file('u1', azures, 'ip-masq-agent-reconciled'))
  t.ok(await until(() => seen.length > 0))
  t.same(seen, [['10.1.0.0/16']])
  t.match(problems, [/ip-masq-agent-reconciled: has been removed/])
})

t.test('[M3] both pods are there for a while: the newer one counts as soon as it has the file', async (t) => {
  const kubelet = new Kubelet(t)
  kubelet.pod('u9', 'ip-masq-agent-x7k2p', upstream, { 'ip-masq-agent': one })
  const { watch, seen } = follow(t, kubelet)
  await sleep(20) // the directories have different times
  mkdirSync(join(kubelet.directory('u1'), 'volumes', upstream), { recursive: true })
  kubelet.start('u1', 'ip-masq-agent-9zzzz')
  await sleep(settle * 4)
  t.same(excluded(watch.policy), ['10.1.0.0/16'], 'an empty volume says nothing while the old pod is there')
  kubelet.write('u1', upstream, { 'ip-masq-agent': two })
  t.ok(await until(() => seen.length > 0))
  kubelet.end('u9')
  kubelet.write('u1', upstream, { 'ip-masq-agent': three })
  t.ok(await until(() => seen.length > 1))
  t.same(seen, [['10.2.0.0/16'], ['10.3.0.0/16']])
})

t.test('[M2] [M3] the new pod’s file is not valid: the old pod’s contents stay in force', async (t) => {
  const kubelet = new Kubelet(t)
  kubelet.pod('u1', 'ip-masq-agent-x7k2p', upstream, { 'ip-masq-agent': one })
  const { watch, seen, problems } = follow(t, kubelet)
  kubelet.end('u1')
  await sleep(20)
  kubelet.pod('u2', 'ip-masq-agent-9zzzz', upstream, { 'ip-masq-agent': 'nonMasqueradeCIDRs:\n- 10.1.2.3/8\n' })
  t.ok(await until(() => problems.length > 0))
  t.match(problems[0], `${kubelet.file('u2', upstream)}:2:3: nonMasqueradeCIDRs: 10.1.2.3/8 is not aligned`)
  t.match(problems[0], 'its last good contents stay in force')
  t.same(excluded(watch.policy), ['10.1.0.0/16'])
  t.same(seen, [])
  kubelet.write('u2', upstream, { 'ip-masq-agent': two })
  t.ok(await until(() => seen.length > 0))
  t.same(seen, [['10.2.0.0/16']])
})

t.test('[M3] the ConfigMap is deleted: the agent has the defaults, and so has hostroute, which says so', async (t) => {
  const kubelet = new Kubelet(t)
  kubelet.pod('u1', 'ip-masq-agent-x7k2p', upstream, { 'ip-masq-agent': one })
  const { watch, seen, problems } = follow(t, kubelet)
  kubelet.end('u1')
  t.ok(await until(() => watch.files.some(({ kept }) => kept)))
  mkdirSync(join(kubelet.directory('u2'), 'volumes', upstream), { recursive: true })
  kubelet.start('u2', 'ip-masq-agent-9zzzz')
  t.ok(await until(() => seen.length > 0))
  t.same(seen, [defaults])
  t.match(problems[0], /u1.*ip-masq-agent: has been removed; what it said no longer holds/)
  t.match(watch.defaultsOnly, { doubtful: false, text: /pod kube-system\/ip-masq-agent-9zzzz has none in its volumes/ })
})

t.test('[M3] a tenant’s pod with a volume of that name says nothing', async (t) => {
  const kubelet = new Kubelet(t)
  kubelet.pod('u1', 'azure-ip-masq-agent-x7k2p', azures, { 'ip-masq-agent': one }, 'tenant')
  mkdirSync(join(kubelet.directory('u2'), 'volumes', azures), { recursive: true })
  kubelet.write('u2', azures, { 'ip-masq-agent': two })
  const { watch } = follow(t, kubelet)
  t.same(excluded(watch.policy), defaults, 'neither with logs in another namespace nor without logs')
  const everywhere = { ...kubelet.settings, namespaces: ['kube-system', 'tenant'] }
  t.same(excluded(follow(t, kubelet, { agent: everywhere }).watch.policy), ['10.1.0.0/16'], 'unless it is configured')
  const pattern = join(kubelet.settings.kubeletDirectory, 'pods/*/volumes', azures, 'ip-masq*')
  t.same(findPlaces([pattern], kubelet.settings).files, [], 'a pattern over the pods’ directories, too')
})

t.test('[M3] without pods’ logs any such volume counts, and that is told', async (t) => {
  const kubelet = new Kubelet(t, { logs: false })
  mkdirSync(join(kubelet.directory('u1'), 'volumes', azures), { recursive: true })
  kubelet.write('u1', azures, { 'ip-masq-agent-reconciled': one })
  const { watch, problems } = follow(t, kubelet)
  t.same(excluded(watch.policy), ['10.1.0.0/16'])
  t.match(problems, [/logs is not there, so nothing tells the namespace of a pod/])
  t.match(
    watch.files.find(({ pod }) => pod),
    { pod: 'pod u1' }
  )
})

t.test('[M3] a configured path in a pod’s volume means whichever pod has it now', async (t) => {
  const kubelet = new Kubelet(t, { logs: false })
  const volume = (uid: string) => join(kubelet.directory(uid), 'volumes', azures)
  mkdirSync(volume('u1'), { recursive: true })
  kubelet.write('u1', azures, { 'ip-masq-agent-reconciled': one })
  for (const pattern of [
    `${volume('u1')}/ip-masq*`,
    `${volume('*')}/ip-masq*`,
    `${volume('u1')}/ip-masq-agent-reconciled`
  ])
    t.same(excluded(follow(t, kubelet, { patterns: [pattern] }).watch.policy), ['10.1.0.0/16'], pattern)
  const { watch, seen } = follow(t, kubelet, { patterns: [`${volume('u1')}/ip-masq*`] })
  await sleep(20)
  mkdirSync(volume('u2'), { recursive: true })
  kubelet.write('u2', azures, { 'ip-masq-agent-reconciled': two })
  kubelet.end('u1')
  t.ok(await until(() => seen.length > 0))
  kubelet.end('u2')
  t.ok(await until(() => watch.files.some(({ kept }) => kept)))
  t.same(excluded(watch.policy), ['10.2.0.0/16'])
  t.same(seen, [['10.2.0.0/16']])
})

t.test('[M3] only the defaults apply beside an agent: said for each way to know of it', async (t) => {
  const kubelet = new Kubelet(t)
  const nowhere = { patterns: ['/nowhere/ip-masq-agent'] }
  t.equal(follow(t, kubelet, nowhere).watch.defaultsOnly, null, 'no agent')
  kubelet.pod('u1', 'ip-masq-agent-x7k2p', upstream, { 'ip-masq-agent': one })
  const { watch, problems } = follow(t, kubelet, nowhere)
  t.match(watch.defaultsOnly, {
    doubtful: true,
    text: /its pod kube-system\/ip-masq-agent-x7k2p has .*\/u1\/.* set snat\.masqueradeFiles to auto/
  })
  t.equal(problems.length, 1)
})

t.test('[M2] what cannot be read, loops, or is huge, is told and changes nothing', async (t) => {
  const kubelet = new Kubelet(t)
  kubelet.pod('u1', 'ip-masq-agent-x7k2p', upstream, { 'ip-masq-agent': one })
  const { watch, problems, seen } = follow(t, kubelet)
  const path = kubelet.file('u1', upstream)
  rmSync(path)
  symlinkSync('ip-masq-agent', path)
  t.ok(await until(() => problems.length === 1))
  t.match(problems[0], /cannot be read: ELOOP.*; its last good contents stay in force/)
  rmSync(path)
  mkdirSync(path)
  t.ok(await until(() => problems.length === 2))
  t.match(problems[1], /is not a regular file; its last good contents stay in force/)
  rmSync(path, { recursive: true })
  writeFileSync(path, `nonMasqueradeCIDRs:\n${'- 10.1.0.0/16\n'.repeat(100_000)}`)
  t.ok(await until(() => problems.length === 3))
  t.match(problems[2], /1400020 bytes is too long for a list of prefixes/)
  t.same(excluded(watch.policy), ['10.1.0.0/16'])
  t.same(seen, [])
  chmodSync(kubelet.directory('u1'), 0)
  renameSync(join(kubelet.root, 'kubelet'), join(kubelet.root, 'away'))
  t.ok(await until(() => watch.files.some(({ kept }) => kept)), 'kubelet’s directory vanishes')
  t.same(excluded(watch.policy), ['10.1.0.0/16'])
  chmodSync(join(kubelet.root, 'away/pods/u1'), 0o755)
})

t.test('[M3] a restart while there is no agent pod: what the last one had stays in force', async (t) => {
  const kubelet = new Kubelet(t)
  const keptFile = join(kubelet.root, 'masquerade.json')
  kubelet.pod('u1', 'ip-masq-agent-x7k2p', upstream, { 'ip-masq-agent': one })
  const start = () => follow(t, kubelet, { keptFile })
  start().watch.close()
  kubelet.end('u1')
  const second = start()
  t.same(excluded(second.watch.policy), ['10.1.0.0/16'])
  t.match(
    second.watch.files.find(({ kept }) => kept),
    { pod: 'kube-system/ip-masq-agent-x7k2p' }
  )
  second.watch.close()
  t.same(
    excluded(follow(t, kubelet, { keptFile, patterns: ['/nowhere/file'] }).watch.policy),
    defaults,
    'not asked for'
  )
  const third = start()
  kubelet.pod('u2', 'ip-masq-agent-9zzzz', upstream, { 'ip-masq-agent': two })
  t.ok(await until(() => third.seen.length > 0))
  t.same(third.seen, [['10.2.0.0/16']])
  third.watch.close()
  kubelet.end('u2')
  for (const broken of ['{', '[{"path": 5}]', '']) {
    writeFileSync(keptFile, broken)
    const { watch, problems } = start()
    t.same(excluded(watch.policy), defaults, JSON.stringify(broken))
    t.same(problems, [])
    watch.close()
  }
})

t.test('[M3] another configuration keeps what is known of a file that is not valid now', async (t) => {
  const kubelet = new Kubelet(t)
  kubelet.pod('u1', 'ip-masq-agent-x7k2p', upstream, { 'ip-masq-agent': one })
  const { watch, problems } = follow(t, kubelet)
  kubelet.write('u1', upstream, { 'ip-masq-agent': '[' })
  t.ok(await until(() => problems.length > 0))
  const next = follow(t, kubelet, { patterns: ['auto', '/nowhere/more'], before: watch })
  t.same(excluded(next.watch.policy), ['10.1.0.0/16'])
})
