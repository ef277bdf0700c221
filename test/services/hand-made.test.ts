// Translations that neither kube-proxy nor a container runtime made, and
// hostroute's SNAT beside them: the same in both families, by the kernel alone,
// with hostroute, and after it.

import t from 'tap'
import type { PingReport } from '../lab/host.js'
import type { Case } from './cases.js'
import { type Family, type HostName, labPlan, NODE_PORT, POD_PORT, type Protocol } from './cluster.js'
import { socketAddress } from './names.js'
import { FAMILIES } from './proxy.js'
import { type CaseReport, differences, runCases } from './run-cases.js'
import { ServiceLab } from './service-lab.js'

/** External addresses without a Service. */
const [PORT_FORWARD, WHOLE, PROXY, LOCAL_PROXY] = [50, 51, 52, 53]
const DOCKER_PORT = 32_080

const socket = (ip: string, port: number) => socketAddress({ ip, port })

/** DNAT of a port and of a whole address, REDIRECT, and SNAT towards c that hostroute would do as well. */
function handMade(family: Family): string {
  const { hosts, external } = labPlan(family)
  const ip = family === 4 ? 'ip' : 'ip6'
  return `table ${ip} by-hand {
  chain prerouting {
    type nat hook prerouting priority dstnat + 5;
    ${ip} daddr ${external(PORT_FORWARD)} meta l4proto { tcp, udp } th dport 81 dnat to ${socket(hosts.p12, POD_PORT)}
    ${ip} daddr ${external(WHOLE)} dnat to ${hosts.p13}
    ${ip} daddr ${external(PROXY)} tcp dport 80 redirect to :${NODE_PORT}
    ${ip} daddr ${external(LOCAL_PROXY)} tcp dport 80 dnat to ${socket(hosts.n1, NODE_PORT)}
  }
  chain postrouting {
    type nat hook postrouting priority srcnat - 5;
    ${ip} saddr ${hosts.p13} ${ip} daddr ${hosts.c} snat to ${hosts.n1}
  }
}
`
}

/** As dockerd writes them for `docker run -p`: not from the container's own device, and masqueraded when it asks itself. */
function dockerRules(family: Family): string {
  const { hosts } = labPlan(family)
  const [pod, bits] = [hosts.p12, family === 4 ? 32 : 128]
  const own = family === 4 ? '! -d 127.0.0.0/8 ' : '! -d ::1/128 '
  const lines = (['tcp', 'udp'] as Protocol[]).flatMap((protocol) => [
    `-A POSTROUTING -s ${pod}/${bits} -d ${pod}/${bits} -p ${protocol} -m ${protocol} --dport ${POD_PORT} -j MASQUERADE`,
    `-A DOCKER ! -i pod2 -p ${protocol} -m ${protocol} --dport ${DOCKER_PORT} -j DNAT --to-destination ${socket(pod, POD_PORT)}`
  ])
  return [
    '*nat',
    ':DOCKER - [0:0]',
    '-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER',
    `-A OUTPUT ${own}-m addrtype --dst-type LOCAL -j DOCKER`,
    ...lines,
    'COMMIT',
    ''
  ].join('\n')
}

function casesOf(family: Family): Case[] {
  const { hosts, external } = labPlan(family)
  const make = (
    from: HostName,
    to: string,
    port: number,
    server: HostName,
    seenAs: HostName,
    only?: Protocol
  ): Case[] =>
    (only ? [only] : (['tcp', 'udp'] as const)).map((protocol) => ({
      name: `IPv${family} ${protocol} ${from} → ${to} port ${port}`,
      ...{ from, protocol, address: to, port, times: 3, outcome: 'answered', servers: [server], choice: 'any', seenAs }
    }))
  return [
    ...(['c', 'd', 'p11', 'p21'] as const).flatMap((from) => {
      // n2 masquerades its pod towards addresses outside the cluster
      const seen = from === 'p21' ? 'n2' : from
      return [
        ...make(from, external(PORT_FORWARD), 81, 'p12', seen),
        ...make(from, external(WHOLE), POD_PORT, 'p13', seen),
        ...make(from, hosts.n1, DOCKER_PORT, 'p12', from),
        ...make(from, external(LOCAL_PROXY), 80, 'n1', seen, 'tcp'),
        // pods' devices have no IPv4 address to redirect to
        ...(from === 'p11' && family === 4 ? [] : make(from, external(PROXY), 80, 'n1', seen, 'tcp'))
      ]
    }),
    ...make('n1', hosts.n1, DOCKER_PORT, 'p12', 'n1'),
    ...make('p13', hosts.c, POD_PORT, 'c', 'n1'),
    ...make('p11', hosts.c, POD_PORT, 'c', 'n1')
  ]
}

const CASES = FAMILIES.flatMap(casesOf)

t.test('[K4] hand-made DNAT, SNAT, REDIRECT and docker -p', { timeout: 0 }, async (t) => {
  const cluster = await ServiceLab.create({ mode: 'iptables' })
  t.teardown(() => cluster.close())
  const n1 = cluster.host('n1')
  for (const family of FAMILIES) {
    await n1.run(['nft', '-f', '-'], { input: handMade(family) })
    const restore = family === 4 ? 'iptables-nft-restore' : 'ip6tables-nft-restore'
    await n1.run([restore, '--noflush'], { input: dockerRules(family) })
  }
  const echo = (family: Family) => labPlan(family).external(WHOLE)
  const pings = async (): Promise<PingReport[]> => {
    const each = FAMILIES.flatMap((family) =>
      (['c', 'd', 'p11', 'p21'] as const).map((from) => [from, echo(family)] as const)
    )
    return Promise.all(each.map(([from, address]) => cluster.host(from).ping(address, { count: 5 })))
  }
  const lost = async () => (await pings()).map(({ sent, received }) => sent - received)
  const kernel: CaseReport = await runCases(cluster, CASES)
  t.same(kernel.wrong, [], 'by the kernel alone')
  t.same(await lost(), Array(8).fill(0), 'echo requests to an address translated as a whole')
  const { from, protocol, address, port } = { from: 'd', protocol: 'tcp', address: echo(4), port: POD_PORT } as const
  const older = cluster.traffic.open({ from, protocol, address, port, bytes: 700, buffer: 4_096 })

  await cluster.enable()
  t.same(differences(kernel, await runCases(cluster, CASES)), [], 'with hostroute')
  t.same(await lost(), Array(8).fill(0), 'echo requests, with hostroute')
  const younger = cluster.traffic.open({ from, protocol, address, port, bytes: 700, buffer: 4_096 })
  t.same(differences(kernel, await runCases(cluster, CASES)), [], 'with hostroute, once more')

  await cluster.disable()
  t.same(differences(kernel, await runCases(cluster, CASES)), [], 'after hostroute')
  t.same(await lost(), Array(8).fill(0), 'echo requests, after hostroute')
  for (const flow of [older, younger]) {
    const report = await flow.close()
    t.match(report, { error: '', server: 'p13', received: report.sent }, 'a long connection lost nothing')
  }
})
