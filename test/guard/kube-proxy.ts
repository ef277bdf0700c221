// kube-proxy and other writers that the node depends on, with the default
// exemptions: what holds with every backend.

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Test } from 'tap'
import type { GuardBackendName } from '../../src/control/guard-api.js'
import { cgroupRoot } from '../../src/guard/cgroups.js'
import { treeRoot } from '../vm/kernels.js'
import { Container } from './container.js'
import { GuardedNode, sleep } from './support.js'

export const byDefault = { defaults: true, units: [], cgroups: [], executables: [] }
const containerId = 'cri-containerd-0a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f9.scope'

export const podCgroup = (name: string) => `/kubepods/burstable/pod${name}/${containerId}`

const fixture = (name: string) => readFileSync(join(treeRoot, 'test/services/fixtures', name), 'utf8')

/** What kube-proxy hands over when one Service comes: its chain of Services anew, with one more. */
function oneMoreService(rules: string): string {
  const nat = rules.slice(rules.indexOf('*nat'))
  const services = nat.split('\n').filter((line) => line.startsWith('-A KUBE-SERVICES '))
  const added =
    '-A KUBE-SERVICES -d 10.96.7.7/32 -p tcp -m comment --comment "default/new:tcp cluster IP" -m tcp --dport 80 -j KUBE-SVC-NEW7777777777777'
  const backend = '-A KUBE-SVC-NEW7777777777777 -p tcp -m tcp -j DNAT --to-destination 10.244.1.12:8080'
  const chains = ':KUBE-SERVICES - [0:0]\n:KUBE-SVC-NEW7777777777777 - [0:0]'
  return `*nat\n${chains}\n${[added, ...services, backend].join('\n')}\nCOMMIT\n`
}

interface Mode {
  name: string
  tool: string
  /** Arguments of the restoring command; the rules come on its standard input. */
  restore: string[]
  rules: [first: string, second: string]
  save: string
  system: 'nftables' | 'iptables'
}

function modes(): Mode[] {
  const rules = fixture('iptables-n1.save')
  const both: [string, string] = [rules, oneMoreService(rules)]
  const restore = ['iptables-restore', '-w', '--noflush', '--counters']
  const native = fixture('nftables-n1.nft')
  // kube-proxy's own table; iptables-nft's, which the recording has too, are not for nft(8) to write.
  const table = native.slice(native.indexOf('table ip kube-proxy'))
  const own = table.slice(0, table.indexOf('\n}\n') + 3)
  return [
    {
      name: 'iptables-nft',
      tool: 'xtables-nft-multi',
      restore,
      rules: both,
      save: 'iptables-nft-save',
      system: 'nftables'
    },
    {
      name: 'iptables-legacy',
      tool: 'xtables-legacy-multi',
      restore,
      rules: both,
      save: 'iptables-legacy-save',
      system: 'iptables'
    },
    {
      name: 'nftables',
      tool: 'nft',
      restore: ['-f', '-'],
      rules: [own, `add table ip kube-proxy\ndelete table ip kube-proxy\n${own}add chain ip kube-proxy new-service\n`],
      save: 'nft list table ip kube-proxy',
      system: 'nftables'
    }
  ]
}

/** Without comments and counters, which differ by time. */
function saved(node: GuardedNode, { save }: Mode): string {
  return node
    .shell(save)
    .output.split('\n')
    .filter((line) => !line.startsWith('#'))
    .map((line) => line.replace(/\[\d+:\d+\]/, ''))
    .join('\n')
}

export function kubeProxyTests(t: Test, backend: GuardBackendName): void {
  // Emulated, nft(8) takes a minute and a half for its part: on one kernel that is enough.
  for (const mode of modes().filter(({ name }) => name !== 'nftables' || backend !== 'fmod_ret')) {
    t.test(
      `[K11] ${backend}: kube-proxy (${mode.name}) writes from a container, from the first write on`,
      async (t) => {
        const [first, second] = mode.rules
        const alone = new GuardedNode(t)
        for (const rules of mode.rules) t.match(alone.runWith(rules, mode.tool, ...mode.restore), { status: 0 })
        const wanted = saved(alone, mode)

        const node = new GuardedNode(t)
        const before = await node.start({ allow: byDefault })
        t.equal(before.backend, backend)
        if (backend === 'cgroup') t.match(before, { unownedFor: null, refuses: 'iptables writes' })
        const proxy = new Container(t, node, cgroupRoot() ?? '', podCgroup(node.name))
        // kubelet makes its directory long before the first container starts.
        const madeWay = async () => backend !== 'cgroup' || (await node.status()).unownedFor !== null
        for (const start = Date.now(); !(await madeWay()); )
          if (Date.now() - start > 5000) throw new Error('tables are owned')
        t.match(proxy.run(first, mode.tool, ...mode.restore), { status: 0, output: '' }, 'its first write')

        const intruder = ['-t', 'raw', '-A', 'PREROUTING', '-s', '10.0.0.1', '-j', 'DROP']
        t.not(node.run('iptables-legacy', ...intruder).status, 0, 'somebody else is refused, iptables-legacy')
        const written = node.run('iptables-nft', ...intruder).status === 0
        t.equal(written, backend === 'cgroup', 'iptables-nft: where nothing can refuse it, it is reported')
        const verdict = written ? 'appeared' : 'refused'
        const told = await node.event((event) => event.verdict === verdict && event.system === 'nftables')
        t.match(told, { table: 'raw', arguments: `iptables-nft ${intruder.join(' ')}`, exemption: null })

        t.match(proxy.run(second, mode.tool, ...mode.restore), { status: 0, output: '' }, 'one Service more')
        t.match(proxy.run(second, mode.tool, ...mode.restore), { status: 0, output: '' }, 'and synced again')
        const { counts, allowances } = await node.status()
        t.ok(counts.exempt >= 3, `${counts.exempt} writes were counted`)
        t.match(
          allowances.find(({ name }) => name === '/kubepods'),
          { kind: 'cgroup', source: 'default', present: true, used: counts.exempt }
        )
        await sleep(1300) // legacy tables are compared every half second
        const exempt = node.events.filter((event) => event.verdict === 'exempt')
        t.equal(exempt.length, 1, 'told once')
        t.match(exempt[0], {
          system: mode.system,
          exemption: 'cgroup /kubepods (default)',
          executable: proxy.tool(mode.tool),
          arguments: [proxy.tool(mode.tool), ...mode.restore].join(' '),
          cgroup: podCgroup(node.name),
          unit: containerId
        })
        t.same(
          node.events.filter((event) => event.verdict === 'appeared' && event.table !== 'raw'),
          [],
          'and not reported as having come despite the guard'
        )
        if (written) node.run('iptables-nft', '-t', 'raw', '-F')
        const withoutRaw = (text: string) => text.replace(/\*raw\n[^*]*/g, '')
        t.equal(withoutRaw(saved(node, mode)), wanted, 'its rules are as without a guard')
        await node.stop(true)
        t.equal(withoutRaw(saved(node, mode)), wanted, 'and stay so afterwards')
      }
    )
  }

  t.test(`[K11] [G7] ${backend}: kubelet, runtimes and pods are exempt by unit and cgroup`, async (t) => {
    const node = new GuardedNode(t)
    await node.start({ allow: byDefault })
    const root = cgroupRoot() ?? ''
    const own = node.name
    const add = ['iptables', '-A', 'FORWARD', '-s', '10.0.0.1', '-j', 'ACCEPT']
    const write = (cgroup: string) =>
      new Container(t, node, root, cgroup).run('', 'xtables-legacy-multi', ...add).status
    for (const cgroup of [
      `/${own}/kubelet.service`,
      `/${own}/kubepods/pod1`,
      `/${own}.slice/x.service/kubelet.service`,
      `/${own}.slice/kubelet`,
      `/kubepods-${own}`,
      `/${own}.slice/kubepods.slice`
    ])
      t.not(write(cgroup), 0, `${cgroup} is another one`)
    for (const cgroup of [
      `/${own}.slice/kubelet.service`,
      `/${own}.slice/${own}-inner.slice/containerd.service/x`,
      `/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod${own}.slice/${containerId}`,
      `/kubelet.slice/kubelet-kubepods.slice/pod${own}.slice/${containerId}`,
      `/kubelet/kubepods/pod${own}/x`,
      podCgroup(own)
    ])
      t.equal(write(cgroup), 0, `${cgroup} is exempt`)
  })

  t.test(`[K11] [G7] ${backend}: without the defaults they are refused like everybody`, async (t) => {
    const node = new GuardedNode(t)
    const root = cgroupRoot() ?? ''
    await node.start({ allow: { ...byDefault, defaults: false, cgroups: [`/${node.name}/a`] } })
    const add = ['iptables', '-A', 'FORWARD', '-s', '10.0.0.1', '-j', 'ACCEPT']
    const pod = new Container(t, node, root, podCgroup(node.name))
    t.not(pod.run('', 'xtables-legacy-multi', ...add).status, 0)
    const configured = new Container(t, node, root, `/${node.name}/a/b`)
    t.equal(configured.run('', 'xtables-legacy-multi', ...add).status, 0, 'a configured cgroup that came later')
    t.match((await node.status()).allowances, [{ name: `/${node.name}/a`, source: 'configuration', used: 1 }])
    await node.kill()
    t.equal(configured.run('', 'xtables-legacy-multi', ...add).status, 0, 'also while no daemon runs')
    t.not(pod.run('', 'xtables-legacy-multi', ...add).status, 0)
  })
}
