// Enabling proves itself: what the programs would do with packets of each kind is
// compared with what the kernel would do.

import t from 'tap'
import type { Explanation } from '../../src/control/explain-api.js'
import { differsFromKernel } from '../../src/daemon/proof.js'
import { readState } from '../../src/netlink/read-state.js'
import { kernelWay } from '../../src/netlink/route-get.js'
import { defaultPlanOptions } from '../../src/plan/options.js'
import { makePlan } from '../../src/plan/planner.js'
import { enterNamespace, ip, ipBatch } from '../netlink/namespace.js'
import { hex } from '../plan/node.js'

enterNamespace(import.meta.url)

const address = hex

t.test('what the programs say is compared with the way that the kernel would take', async (t) => {
  const families = [
    {
      family: 4,
      pod: '10.1.0.2',
      host: 32,
      gateways: ['192.0.2.1', '198.51.100.1'],
      own: ['192.0.2.10/24', '198.51.100.10/24'],
      to: '203.0.113.7'
    },
    {
      family: 6,
      pod: 'fd01::2',
      host: 128,
      gateways: ['2001:db8:1::1', '2001:db8:2::1'],
      own: ['2001:db8:1::10/64', '2001:db8:2::10/64'],
      to: '2001:db8:9::7'
    }
  ]
  ipBatch([
    ...['pod0', 'up0', 'up1'].flatMap((name) => [
      `link add ${name} type veth peer name far-${name}`,
      `link set ${name} up addrgenmode none`,
      `link set far-${name} up addrgenmode none`
    ]),
    ...families.flatMap(({ pod, host, own }) => [
      `addr add ${own[0]} dev up0 nodad`,
      `addr add ${own[1]} dev up1 nodad`,
      `route add ${pod}/${host} dev pod0`
    ])
  ])
  const { writeFileSync } = await import('node:fs')
  writeFileSync('/proc/sys/net/ipv4/ip_forward', '1')
  writeFileSync('/proc/sys/net/ipv6/conf/all/forwarding', '1')

  for (const { family, pod, gateways, to } of families) {
    const look = async () => {
      const state = await readState(10_000)
      const link = (name: string) => [...state.links.values()].find((each) => each.name === name)?.ifindex ?? 0
      const deviceName = (ifindex: number) => state.links.get(ifindex)?.name ?? ''
      const node = { plan: makePlan(state, defaultPlanOptions), deviceName }
      const from = { address: address(pod), ifindex: link('pod0') }
      const way = await kernelWay({ from: from.address, to: address(to), iif: from.ifindex })
      const differs = (device: string) =>
        differsFromKernel(node, from, { packet: { destination: to }, out: { device } } as unknown as Explanation)
      return {
        way: typeof way === 'number' ? deviceName(way) : way,
        up0: await differs('up0'),
        up1: await differs('up1')
      }
    }
    t.match(await look(), { way: 'nowhere', up0: /over up0, and the kernel has no way/ }, `IPv${family}`)
    ip(`-${family} route add default via ${gateways[0]}`)
    t.strictSame(await look(), {
      way: 'up0',
      up0: null,
      up1: 'leaves over up1, and the kernel would send it over up0'
    })
    ip(`-${family} route replace prohibit ${to}`)
    t.match(await look(), { way: 'nowhere' })
    ip(`-${family} route del ${to}`)
    ip(`-${family} route del default`)
    ip(`-${family} route add default nexthop via ${gateways[0]} nexthop via ${gateways[1]}`.replaceAll('  ', ' '))
    t.match(await look(), { up0: null, up1: null }, 'any of several ways is right')
  }
  const own = { from: address('10.1.0.2'), to: address('192.0.2.10'), iif: 2 }
  t.equal(await kernelWay(own), null, "for the node's own address there is nothing to compare")
})
