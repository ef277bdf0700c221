// Judgements that need no kernel: probe results, settings, programs.

import t from 'tap'
import { hexMac, hexPrefix } from '../../src/address.js'
import { judgeProbe } from '../../src/check/kernel.js'
import { judgePrograms } from '../../src/check/programs.js'
import { judgeSysctls, sharedPorts } from '../../src/check/sysctls.js'
import { defaultConfig } from '../../src/config/config.js'
import { emptyPlan } from '../../src/plan/change.js'
import type { WantedDevice } from '../../src/plan/types.js'
import { State } from '../../src/state/state.js'

const device = (ifindex: number, name: string, role: 'pod' | 'uplink'): WantedDevice => ({
  ifindex,
  name,
  role,
  kind: 'veth',
  mtu: 1500,
  mac: hexMac('020000000001'),
  addresses: [],
  sources: [],
  stack: [],
  class4: null,
  class6: null,
  strictReversePath: false
})

const node = (...devices: WantedDevice[]) => {
  const plan = emptyPlan()
  for (const each of devices) plan.devices.set(each.ifindex, each)
  return { state: new State(), plan, otherTables: new Map<number, number>() }
}

const one = node(device(2, 'eth0', 'uplink'), device(3, 'veth1', 'pod'))

t.test('[C1] what the probe found', async (t) => {
  const fine = { load: null, tcx: null, clsact: null, xdp: null, managed: null }
  t.ok(judgeProbe(fine).every(({ outcome }) => outcome === 'pass'))
  const outcome = (change: object, code: string) =>
    judgeProbe({ ...fine, ...change }).find((each) => each.code === code)?.outcome
  t.equal(outcome({ load: 'EPERM' }, 'kernel-load'), 'refuse')
  t.equal(outcome({ tcx: 'EINVAL' }, 'kernel-hook'), 'info')
  t.equal(outcome({ tcx: 'EINVAL', clsact: 'ENOENT' }, 'kernel-hook'), 'refuse')
  t.equal(outcome({ managed: 'the kernel ignores the flag' }, 'kernel-managed'), 'warning')
  t.equal(outcome({ managed: 'untried' }, 'kernel-managed'), undefined)
})

t.test('[C6] settings', async (t) => {
  const codes = (facts: ReturnType<typeof node>, values: Record<string, string>, config = defaultConfig) =>
    judgeSysctls(facts, config, config.snat.ports, (key) => values[key] ?? '1').map(
      (each) => `${each.outcome} ${each.code}`
    )
  t.same(codes(one, {}), ['pass sysctl-fine'])
  t.same(codes(one, { 'ipv4/ip_forward': '0' }), ['refuse sysctl-forwarding'])
  t.same(codes(one, { 'ipv4/ip_forward': '0' }, { ...defaultConfig, ipv4: false }), ['pass sysctl-fine'])
  t.same(codes(one, { 'ipv4/conf/veth1/forwarding': '0' }), ['warning sysctl-device-forwarding'])
  t.same(codes(one, { 'ipv6/conf/all/forwarding': '0' }), ['info sysctl-forwarding'], 'no pod has IPv6')
  const two = node(device(2, 'eth0', 'uplink'), device(4, 'eth1', 'uplink'))
  t.same(codes(two, {}), ['warning sysctl-rp-filter'])
  t.same(codes(two, { 'ipv4/conf/all/rp_filter': '2' }), ['pass sysctl-fine'], 'loose for all wins')
  const gateway = node(device(2, 'eth0', 'uplink'), {
    ...device(3, 'veth1', 'pod'),
    sources: [{ prefix: hexPrefix('0a600000/12'), masquerade: true }]
  })
  t.same(codes(gateway, {}), ['warning sysctl-rp-filter-pods'])
  t.same(codes(gateway, { 'ipv4/conf/veth1/rp_filter': '2' }), ['pass sysctl-fine'])
  const few = { ...defaultConfig, snat: { ...defaultConfig.snat, ports: [{ first: 20000, last: 20999 }] } }
  t.same(codes(one, {}, few), ['warning sysctl-ports'])
  t.same(codes(one, { 'netfilter/nf_conntrack_tcp_loose': '0' }), ['warning sysctl-tcp-loose'])
})

t.test('[C6] ports that processes are given: reserving them, as advised, is enough', async (t) => {
  const range = [{ first: 1024, last: 65535 }]
  const shared = (reserved: { first: number; last: number }[]) =>
    sharedPorts(range, { local: [{ first: 32768, last: 60999 }], reserved, listening: [] })
  t.same(shared([]), [{ first: 32768, last: 60999 }])
  t.same(shared([{ first: 32768, last: 60999 }]), [])
  t.same(shared([{ first: 40000, last: 40000 }]), [
    { first: 32768, last: 39999 },
    { first: 40001, last: 60999 }
  ])
})

t.test('[C8] programs and shapers of others on served devices', async (t) => {
  const program = (name: string, where: 'ingress' | 'egress' | 'xdp', on: string, config = defaultConfig) =>
    judgePrograms([{ device: on, where, how: 'tcx', name }], [], [...one.plan.devices.values()], config)[0]?.outcome
  t.equal(program('from_pod', 'ingress', 'veth1'), 'pass', 'ours')
  t.equal(program('to_pod', 'egress', 'veth1'), 'pass', 'ours')
  t.equal(program('cil_from_container', 'ingress', 'veth1'), 'refuse')
  t.equal(program('theirs', 'egress', 'veth1'), 'refuse')
  t.equal(program('theirs', 'egress', 'eth0'), 'info')
  t.equal(program('theirs', 'ingress', 'docker0'), 'pass', 'not served')
  t.equal(program('theirs', 'xdp', 'eth0'), 'info')
  t.equal(
    program('theirs', 'xdp', 'eth0', { ...defaultConfig, uplink: { ...defaultConfig.uplink, xdp: 'native' } }),
    'refuse'
  )
  const queue = (kind: string, on: string) =>
    judgePrograms([], [{ device: on, kind, where: 'root' }], [...one.plan.devices.values()], defaultConfig)[0]?.outcome
  t.equal(queue('tbf', 'veth1'), 'refuse')
  t.equal(queue('noqueue', 'veth1'), 'pass')
  t.equal(queue('tbf', 'eth0'), 'pass', 'the queue of an uplink is passed')
})
