// What others do to the packets of the fast path after enabling: noticed by
// itself, told with its remedy, and over once it has gone.
// Mostly waits: for looks.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import type { ReloadResult } from '../../src/control/api.js'
import { control, plain, servedLab, status } from '../forwarding/served.js'
import type { Orders } from '../lab/fault-orders.js'
import { Lab } from '../lab/lab.js'
import type { LabNode } from '../lab/node.js'
import { until } from '../lab/process.js'
import { loadForeign, tcx } from './foreign.js'

t.setTimeout(420_000)
const patience = 90_000
const noticing = { checks: 'report' }
const codes = async (node: LabNode) => (await status(node)).problems.map(({ code }) => code)
const has = (node: LabNode, code: string) =>
  until(`${code} is noticed`, async () => (await codes(node)).includes(code), patience)
const over = (node: LabNode) => until('it is over', async () => (await codes(node)).length === 0, patience)

t.test('rules that appear are noticed, and that they have gone', async (t) => {
  const node = (await servedLab(t, { pods: 2 }, { config: noticing })).node(0)
  t.match(await status(node), { mode: 'enabled', problems: [] })
  const rules: [string, string[], string[]][] = [
    [
      'nft',
      [
        'nft',
        'add table ip other; add chain ip other f { type filter hook forward priority 0; }; add rule ip other f ip saddr 10.244.0.0/16 tcp dport 9 drop'
      ],
      ['nft', 'delete table ip other']
    ],
    [
      'legacy',
      ['iptables-legacy', '-A', 'FORWARD', '-p', 'udp', '--dport', '9', '-j', 'DROP'],
      ['iptables-legacy', '-F', 'FORWARD']
    ]
  ]
  for (const [name, add, remove] of rules) {
    await node.run(add)
    await has(node, 'rules-bypassed')
    const { mode, why, problems } = await status(node)
    t.equal(mode, 'degraded', name)
    t.match(why, /would be bypassed by the fast path: .*dport/i)
    t.match(problems, [{ affects: 'traffic', remedy: /hostroute check/ }])
    t.equal((await node.daemon.command(['status'])).status, 2)
    t.match(await control(node).text('/v1/metrics'), /hostroute_problem\{code="rules-bypassed",affects="traffic"\} 1/)
    await node.run(remove)
    await over(node)
  }
  await node.run(['iptables-legacy', '-A', 'INPUT', '-p', 'udp', '--dport', '9', '-j', 'DROP'])
  await node.daemon.json('reload')
  await new Promise((resolve) => setTimeout(resolve, 4_000))
  t.strictSame(await codes(node), [], 'what concerns the host alone is no problem')
})

t.test('a queue and a filter on a pod', async (t) => {
  const node = (await servedLab(t, { pods: 2 }, { config: noticing })).node(0)
  const { hostDevice: device } = node.pod(1)
  await node.run([
    'tc',
    'qdisc',
    'add',
    'dev',
    device,
    'root',
    'tbf',
    'rate',
    '2mbit',
    'burst',
    '16k',
    'latency',
    '50ms'
  ])
  await has(node, 'programs-bypassed')
  t.match((await status(node)).why, new RegExp(`The queue tbf of pod device ${device} would be bypassed`))
  await node.run(['tc', 'qdisc', 'del', 'dev', device, 'root'])
  await over(node)
})

t.test('IPsec policies for pods', async (t) => {
  const node = (await servedLab(t, { pods: 1 }, { config: noticing })).node(0)
  const policy = ['dir', 'out', 'src', '10.244.0.0/16', 'dst', '198.18.0.0/15']
  const ends = ['tmpl', 'src', '192.0.2.1', 'dst', '192.0.2.2', 'proto', 'esp', 'mode', 'tunnel']
  await node.run(['ip', 'xfrm', 'policy', 'add', ...policy, ...ends])
  await has(node, 'ipsec-bypassed')
  t.match(await status(node), { mode: 'degraded', why: /IPsec policy out 10\.244\.0\.0\/16 → 198\.18\.0\.0\/15/ })
  node.daemon.writeConfig({ ...plain, ...noticing, stackPrefixes: ['198.18.0.0/15'] })
  t.match(await node.daemon.json<ReloadResult>('reload'), { ok: true })
  await over(node)
})

t.test('[L4] a program of others at a TCX hook, of which the kernel tells nobody', async (t) => {
  const lab = await servedLab(t, { pods: 1 }, { config: noticing })
  const node = lab.node(0)
  const { hostDevice: device } = node.pod(0)
  const foreign = await loadForeign(lab)
  await node.run(tcx(foreign.tc, device))
  await has(node, 'programs-bypassed')
  t.match(
    (await status(node)).why,
    new RegExp(`ingress program foreign_tc \\(tcx\\) on pod device ${device} would not`)
  )
  await node.run(['bpftool', 'net', 'detach', 'tcx_ingress', 'dev', device])
  await over(node)
})

t.test('what was there before a daemon took over is noticed, too', async (t) => {
  const node = (await servedLab(t, { pods: 1 }, { config: noticing })).node(0)
  const { daemon } = node
  await daemon.kill('SIGKILL')
  await node.run([
    'nft',
    'add table ip other; add chain ip other f { type filter hook forward priority 0; policy drop; }'
  ])
  await daemon.start({ config: { ...plain, ...noticing } })
  await has(node, 'rules-bypassed')
  t.match((await status(node)).why, /policy/)
  await node.run(['nft', 'delete table ip other'])
  await over(node)
})

t.test('where nothing can be seen, that is said', async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'hr-tools-'))
  t.teardown(() => rmSync(directory, { recursive: true }))
  writeFileSync(join(directory, 'tc'), '#!/bin/sh\necho "no such thing" >&2\nexit 1\n', { mode: 0o755 })
  const environment = { PATH: `${directory}:${process.env['PATH']}` }
  const node = (await servedLab(t, { pods: 1 }, { config: noticing, environment })).node(0)
  await node.run(['nft', 'add table ip other'])
  await has(node, 'not-looked')
  t.match(await status(node), {
    problems: [{ affects: 'observation', text: /cannot be seen: .*no such thing/, nextTry: String }]
  })
  rmSync(join(directory, 'tc'))
  await node.run(['nft', 'delete table ip other'])
  await over(node)
})

t.test('changes that cannot be followed undo nothing: that is said, and they are once they can be', async (t) => {
  const preload = fileURLToPath(new URL('../lab/faults.js', import.meta.url))
  const lab = await Lab.create({ nodes: 1, pods: 1 })
  t.teardown(() => lab.close())
  const node = lab.node(0)
  const { daemon } = node
  const orders = `${daemon.runDirectory}-faults`
  const environment = { NODE_OPTIONS: `--import=${preload}`, HOSTROUTE_FAULTS: orders }
  t.teardown(() => rmSync(orders, { force: true }))
  writeFileSync(orders, '{}')
  await node.startDaemon({ config: plain, environment, timeout: patience })
  const fail: Orders = { fail: { label: 'openNetlinkReader', from: 1, once: false, code: 'EMFILE' } }
  writeFileSync(orders, JSON.stringify(fail))
  daemon.writeConfig({ ...plain, ...noticing })
  t.match(await daemon.json<ReloadResult>('reload'), { ok: true })
  await has(node, 'not-looked')
  t.match((await status(node)).problems, [{ affects: 'observation', text: /changes cannot be followed: .*EMFILE/ }])
  writeFileSync(orders, '{}')
  await over(node)
})
