// Backend cgroup on this machine's kernel beside a Kubernetes node's own writers,
// and the daemon as it is configured by default.
// Runs alone: it makes /kubepods, where a guard of another test would see a pod.

import { spawnSync } from 'node:child_process'
import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import type { GuardEventRow, GuardStatus } from '../../src/control/guard-api.js'
import { cgroupRoot, legacyHierarchies } from '../../src/guard/cgroups.js'
import { Lab } from '../lab/lab.js'
import { enter, until } from '../lab/process.js'
import { Container, type Host } from './container.js'
import { byDefault, kubeProxyTests, podCgroup } from './kube-proxy.js'
import { GuardedNode, strongestBackend } from './support.js'

t.setTimeout(300_000)

if (strongestBackend() === 'cgroup') kubeProxyTests(t, 'cgroup')

const pids = legacyHierarchies().find((path) => existsSync(join(path, 'pids.current')) || path.endsWith('/pids'))
if (pids !== undefined)
  t.test('[K11] cgroup: a container that has a cgroup in version 1 hierarchies only', async (t) => {
    const node = new GuardedNode(t)
    await node.start({ backend: 'cgroup', allow: byDefault })
    const add = ['iptables', '-A', 'FORWARD', '-s', '10.0.0.1', '-j', 'ACCEPT']
    const write = (cgroup: string) =>
      new Container(t, node, pids, cgroup).run('', 'xtables-legacy-multi', ...add).status
    t.not(write(`/${node.name}`), 0)
    t.equal(write(podCgroup(node.name)), 0)
  })

t.test('[K11] cgroup: no write of theirs is refused while one daemon follows another', async (t) => {
  const node = new GuardedNode(t)
  await node.start({ backend: 'cgroup', allow: byDefault })
  const pod = new Container(t, node, cgroupRoot() ?? '', podCgroup(node.name))
  const stop = join(node.directory, 'stop')
  const line = `while [ ! -e ${stop} ]; do iptables-legacy -A FORWARD -j ACCEPT || echo refused; done`
  await node.kill()
  const writing = pod.start('sh', '-c', line)
  await until('the first write', () => node.run('iptables-legacy', '-S').output.includes('-A FORWARD'))
  const { counts } = await node.start({ backend: 'cgroup', allow: byDefault })
  await until('writes under the new one', async () => (await node.status()).counts.exempt > counts.exempt + 20)
  writeFileSync(stop, '')
  t.equal(await writing, '')
  t.equal((await node.status()).counts.refused, 0)
})

t.test('[K11] a daemon in default configuration, started before kube-proxy, and disabled later', async (t) => {
  const lab = await Lab.create({ nodes: 1, pods: 1 })
  t.teardown(() => lab.close())
  const node = lab.node(0)
  await node.startDaemon({ config: { guard: { mode: 'enforce' } } })
  const host: Host = {
    name: node.namespace,
    directory: node.daemon.runDirectory,
    runWith: (input, ...argv) => {
      const [file = '', ...args] = enter(node.namespace, argv)
      const { status, stdout, stderr } = spawnSync(file, args, { input, encoding: 'utf8' })
      return { status, output: stdout + stderr }
    }
  }
  const guard = () => node.daemon.json<GuardStatus>('guard', 'status')
  const proxy = new Container(t, host, cgroupRoot() ?? '', podCgroup(node.namespace))
  if ((await guard()).backend === 'cgroup')
    await until('the tables to be given up', async () => (await guard()).unownedFor !== null)
  const rules =
    '*nat\n:KUBE-SERVICES - [0:0]\n-A PREROUTING -j KUBE-SERVICES\n-A KUBE-SERVICES -d 10.96.0.1/32 -j RETURN\nCOMMIT\n'
  for (const tool of ['xtables-nft-multi', 'xtables-legacy-multi'])
    t.match(proxy.run(rules, tool, 'iptables-restore', '-w', '--noflush'), { status: 0, output: '' }, tool)
  const events = await node.daemon.json<GuardEventRow[]>('guard', 'events')
  t.same(
    events.map(({ verdict, system, exemption }) => [verdict, system, exemption]),
    [
      ['exempt', 'nftables', 'cgroup /kubepods (default)'],
      ['exempt', 'iptables', 'cgroup /kubepods (default)']
    ]
  )
  const { stdout } = await node.hostroute(['guard', 'status'])
  t.match(stdout, /iptables-legacy writes are refused, other nf_tables writes are reported, by cgroup/)
  t.match(stdout, /cgroup +\/kubepods +default +- +2/)
  t.match((await node.hostroute(['guard', 'events'])).stdout, /\[exempt: cgroup \/kubepods \(default\)\]/)
  t.equal((await node.hostroute(['disable', '--force'])).status, 0)
  for (const tool of ['iptables-nft-save', 'iptables-legacy-save'])
    t.match(
      await node.run([tool]),
      /-A PREROUTING -j KUBE-SERVICES\n-A KUBE-SERVICES -d 10\.96\.0\.1\/32 -j RETURN/,
      tool
    )
})
