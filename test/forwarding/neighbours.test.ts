// Next hops and their MAC addresses: unresolved, unreachable, moved.

import t from 'tap'
import type { NexthopRow } from '../../src/control/api.js'
import { OUTSIDE } from '../lab/addresses.js'
import { readPing } from '../lab/host.js'
import type { Lab } from '../lab/lab.js'
import type { LabNode } from '../lab/node.js'
import { sleep, until } from '../lab/process.js'
import { asTheKernelDoes, control, counted, servedLab } from './served.js'

const families = ['v4', 'v6'] as const

t.test('on-link hosts that come, are not there, and come again', async (t) => {
  const lab = await servedLab(t, { pods: 1 })
  const node = lab.node(0)
  const pod = node.pod(0)
  const range = { v4: '10.244.1.0/24', v6: 'fd00:244:1::/64' }
  const add = (address: string, mask: number) =>
    lab.router.ip(`addr add ${address}/${mask} dev br0${mask > 32 ? ' nodad' : ''}`)
  await lab.router.ip(`route add ${range.v4} via ${node.address.v4}`, `route add ${range.v6} via ${node.address.v6}`)
  const hosts = { v4: ['192.168.100.50', '192.168.100.60'], v6: ['fd00:168:100::50', 'fd00:168:100::60'] }
  for (const family of families) {
    const mask = family === 'v4' ? 24 : 64
    const [there = '', absent = ''] = hosts[family]

    await add(there, mask)
    const before = await counted(node, 'forwarded')
    const first = await pod.ping(there, { count: 1 })
    t.match(first, { sent: 1, received: 1 }, `[N1] ${family}: the very first packet to an unresolved host is delivered`)
    t.ok((await counted(node, 'forwarded')) > before, 'by the fast path')

    const answers = async () => {
      const { output } = await pod.ping(absent, { count: 2, interval: 1000, wait: 3500 })
      return [...new Set(output.match(/From \S+ .*[Uu]nreachable.*/g)?.map((line) => line.replace(/icmp_seq=\d+/, '')))]
    }
    const kernel = await asTheKernelDoes(node, answers)
    t.match(kernel[0], /unreachable/i, `${family}: the kernel says ${kernel[0]}`)
    const todo =
      'bpf_redirect_neigh tells nobody when the neighbour does not answer; such packets would have to take the stack'
    t.strictSame(await answers(), kernel, `[N2] ${family}: an absent host is as unreachable as with the kernel`, {
      todo
    })
    await add(absent, mask)
    await until('the host answers', async () => (await pod.ping(absent, { count: 1, wait: 300 })).received === 1, 5_000)
    t.equal((await pod.ping(absent, { count: 5 })).lost.length, 0, `[N2] ${family}: reached as soon as it is there`)
  }
})

/** Pings once every 10 ms while the router's bridge gets another MAC; how many were lost. */
async function lostWhile(lab: Lab, node: LabNode, address: string, mac: string): Promise<number[]> {
  const ping = node.pod(0).startPing(address, { interval: 10 })
  await sleep(300)
  await lab.router.ip(`link set br0 address ${mac}`)
  const count = () => readPing(ping.stdout).received
  const before = count()
  await until('replies again', () => count() > before + 20, 15_000)
  await ping.stop('SIGINT')
  return readPing(ping.stdout, 3).lost
}

t.test('[N3] [N5] the gateway’s MAC changes, under 1,000 routes', async (t) => {
  const lab = await servedLab(t, { pods: 1 })
  const node = lab.node(0)
  const { router } = node.uplinks[0] ?? { router: { v4: '', v6: '' } }
  const routes = Array.from(
    { length: 1000 },
    (_, index) => `route add 198.18.${index >> 8}.${index & 255}/32 via ${router.v4}`
  )
  await node.ip(...routes, `route add ${OUTSIDE.v4}/32 via ${router.v4}`)
  const gateway = async () => {
    const { value } = await control(node).get<NexthopRow[]>('/v1/nexthops')
    return value.filter((row) => row.gateway === router.v4)
  }
  await until('all routes lead to one next hop', async () => (await gateway())[0]?.routes === 1002, 5_000)
  t.equal((await gateway()).length, 1, '[N5] one next hop for 1,002 routes')

  // Before the first change: an entry keeps the timer (15 to 45 s) that it got when it was last confirmed.
  const quick = { base_reachable_time_ms: 1000, delay_first_probe_time: 1, interval_probe_time_ms: 1000 }
  for (const stack of ['ipv4', 'ipv6']) {
    for (const [key, value] of Object.entries({ ...quick, retrans_time_ms: 200 })) {
      const device = key === 'interval_probe_time_ms' ? ['up0', 'default'] : ['up0']
      for (const each of device) await node.exec(['sysctl', '-qw', `net.${stack}.neigh.${each}.${key}=${value}`])
    }
  }
  await lab.router.sysctl({ 'net.ipv4.conf.br0.arp_notify': 1, 'net.ipv6.conf.br0.ndisc_notify': 1 })
  for (const [index, family] of families.entries()) {
    const lost = await lostWhile(lab, node, OUTSIDE[family], `02:04:00:00:0e:0${index}`)
    t.ok(lost.length <= 30, `${family}: announced; ${lost.length} pings of 10 ms lost`)
  }
  await until('the row has it', async () => (await gateway())[0]?.mac === '02:04:00:00:0e:01', 5_000)

  // silently: only the kernel's own probing can find out
  await lab.router.sysctl({ 'net.ipv4.conf.br0.arp_notify': 0, 'net.ipv6.conf.br0.ndisc_notify': 0 })
  for (const [index, family] of families.entries()) {
    const lost = await lostWhile(lab, node, OUTSIDE[family], `02:04:00:00:0f:0${index}`)
    t.ok(lost.length <= 800, `${family}: silently replaced; ${lost.length} pings of 10 ms lost`)
  }
  // the last change was the IPv4 gateway's, too: it finds out in its own time
  await until('the row has the last MAC', async () => (await gateway())[0]?.mac === '02:04:00:00:0f:01', 10_000)
  const before = await counted(node, 'forwarded')
  t.equal((await node.pod(0).ping(OUTSIDE.v4, { count: 20 })).lost.length, 0, 'nothing lost afterwards')
  t.ok((await counted(node, 'forwarded')) >= before + 40, 'on the fast path')
})
