// What tools see that ask the routers on the way: traceroute, mtr, tracepath.
// The node with hostroute off and a MASQUERADE rule in place is the oracle.

import t from 'tap'
import { OUTSIDE } from '../lab/addresses.js'
import type { Lab } from '../lab/lab.js'
import type { LabPod } from '../lab/node.js'
import { captureAt } from './compare.js'
import { asTheKernelDoes, servedLab } from './served.js'

const families = ['v4', 'v6'] as const

/** Addresses of the hops a tool prints, in order. */
function hopsOf(output: string): string[] {
  const lines = output.split('\n').filter((line) => /^ *\d+[.:? ]/.test(line))
  return lines.map((line) => line.replace(/\(.*/, '').trim().split(/\s+/)[line.includes('|--') ? 1 : 1] ?? '?')
}

async function trace(pod: LabPod, address: string, method: string): Promise<string[]> {
  if (method === 'mtr') {
    return hopsOf(
      await pod.run(['mtr', '-n', '-r', '-c', '1', '-i', '0.2', '-G', '1', '-Z', '1', address], { timeout: 15_000 })
    )
  }
  const { stdout } = await pod.exec(['traceroute', '-n', method, '-q', '1', '-w', '1', '-m', '5', '-N', '1', address])
  return hopsOf(stdout)
}

const methods = ['-I', '-U', '-T', 'mtr']

async function tracesOf(lab: Lab, addresses: string[]): Promise<Record<string, string[]>> {
  const pod = lab.node(0).pod(0)
  const jobs = addresses.flatMap((address) => methods.map((method) => ({ address, method })))
  const found = await Promise.all(
    jobs.map(async ({ address, method }) => [`${method} ${address}`, await trace(pod, address, method)] as const)
  )
  return Object.fromEntries(found)
}

t.test('[P1] traceroute and mtr show every hop, for SNATed flows too', async (t) => {
  const lab = await servedLab(t, { nodes: 2, pods: 1, legacy: 1 })
  const node = lab.node(0)
  for (const host of [...lab.nodes, lab.router, lab.outside]) {
    await host.sysctl({ 'net.ipv4.icmp_ratelimit': 0, 'net.ipv6.icmp.ratelimit': 0 })
  }
  const far = lab.node(1).pod(0)
  const addresses = families.flatMap((family) => [OUTSIDE[family], far.address[family]])
  const ours = await tracesOf(lab, addresses)
  const kernel = await asTheKernelDoes(node, () => tracesOf(lab, addresses))
  for (const family of families) {
    const [first, router] = [node.address[family], node.uplinks[0]?.router[family]]
    for (const method of methods) {
      const name = `${method} ${OUTSIDE[family]}`
      t.strictSame(ours[name], [first, router, OUTSIDE[family]], `traceroute ${name}`)
      t.strictSame(ours[name], kernel[name], 'the same as through the kernel')
      const across = `${method} ${far.address[family]}`
      t.strictSame(ours[across], kernel[across], `traceroute ${across}: ${ours[across]?.join(' → ')}`)
      t.equal(ours[across]?.length, 3)
    }
  }
})

t.test('[P2] a smaller MTU beyond the router: the pod is told, tracepath finds it, TCP adapts', async (t) => {
  const mtu = 1300
  const lab = await servedLab(t, { pods: 1, offloads: false })
  const node = lab.node(0)
  const pod = node.pod(0)
  await lab.router.ip(`link set outside mtu ${mtu}`)
  await lab.outside.ip(
    `link set eth0 mtu ${mtu}`,
    'route replace 192.168.100.0/24 via 203.0.113.1 advmss 1460',
    'route replace fd00:168:100::/64 via 2001:db8:99::1 advmss 1440'
  )
  for (const family of families) {
    const filter = family === 'v4' ? 'icmp[icmptype] == icmp-unreach' : 'icmp6 and ip6[40] == 2'
    const [errors = []] = await captureAt([[pod, 'eth0']], filter, async () => {
      const answer = await pod.ask({
        protocol: 'tcp',
        address: OUTSIDE[family],
        port: 7,
        bytes: 100_000,
        timeout: 5_000
      })
      t.match(
        answer,
        { echoed: 100_000, error: null, peer: node.address[family] },
        `${family}: TCP through the narrow link`
      )
    })
    t.ok(errors.length > 0, `${family}: ${errors.length} ICMP errors reached the pod`)
    for (const { packet } of errors) {
      t.match(packet, {
        ip: { destination: pod.address[family], source: node.uplinks[0]?.router[family], headerChecksumOk: true },
        l4: { checksumOk: true },
        embedded: { ip: { source: pod.address[family], destination: OUTSIDE[family] }, l4: { destinationPort: 7 } }
      })
      const { rest = 0 } = packet.l4 ?? {}
      t.equal(family === 'v4' ? rest & 0xffff : rest, mtu, 'with the MTU of the narrow link')
      if (family === 'v4') t.equal(packet.embedded?.ip.headerChecksumOk, true, 'and an embedded header that adds up')
    }
    await pod.exec(['ip', family === 'v4' ? '-4' : '-6', 'route', 'flush', 'cache'])
    const { stdout } = await pod.exec(['tracepath', '-n', '-m', '5', OUTSIDE[family]], { timeout: 20_000 })
    t.match(stdout, new RegExp(`pmtu ${mtu}`), `${family}: tracepath says ${/Resume.*/.exec(stdout)?.[0]}`)
    t.match(stdout, /reached/)
  }
  // the node's own uplink becomes the narrow one
  await lab.router.ip('link set outside mtu 1500')
  await lab.outside.ip('link set eth0 mtu 1500')
  await node.ip('link set up0 mtu 1400')
  for (const family of families) {
    await pod.exec(['ip', family === 'v4' ? '-4' : '-6', 'route', 'flush', 'cache'])
    const { stdout } = await pod.exec(['tracepath', '-n', '-m', '5', OUTSIDE[family]], { timeout: 20_000 })
    t.match(stdout, /pmtu 1400/, `${family}: the uplink’s MTU, lowered at run time`)
  }
})
