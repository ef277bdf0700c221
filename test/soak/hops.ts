// traceroute and tracepath from a pod through the node: who is on the way, and
// the path's MTU.

import { OUTSIDE } from '../lab/addresses.js'
import type { Report } from './report.js'
import { onlyByHostroute, openLab } from './way.js'

const MTU = 1300
const METHODS = { UDP: '-U', ICMP: '-I', TCP: '-T' }

/** Addresses of the hops, in order; "*" for one that is silent. */
function hopsOf(output: string): string[] {
  return [...output.matchAll(/^ *\d+ +(\S+)/gm)].map((match) => match[1] ?? '')
}

export async function hops(report: Report): Promise<void> {
  const lab = await openLab(report, 'hostroute', { pods: 1 })
  const [node, pod] = [lab.node(0), lab.node(0).pod(0)]
  for (const host of [node, lab.router, lab.outside]) {
    await host.sysctl({ 'net.ipv4.icmp_ratelimit': 0, 'net.ipv6.icmp.ratelimit': 0 })
  }
  let shown = 0
  for (const [family, outside] of Object.entries(OUTSIDE) as ['v4' | 'v6', string][]) {
    const wanted = [node.address[family], node.uplinks[0]?.router[family], outside].join(' → ')
    for (const [method, option] of Object.entries(METHODS)) {
      report.progress(`traceroute, ${method}, IP${family}`)
      const words = ['traceroute', '-n', option, '-q', '3', '-w', '2', '-m', '6', outside]
      const found = hopsOf(await pod.run(words, { timeout: 60_000 })).join(' → ')
      report.check(found === wanted, `traceroute, ${method}, IP${family}: ${found}`)
      shown += Number(found === wanted)
    }
  }
  report.figure(`traceroute by UDP, ICMP and TCP, IPv4 and IPv6: ${shown} of 6 show node, router and outside`)
  await lab.router.ip(`link set outside mtu ${MTU}`)
  await lab.outside.ip(`link set eth0 mtu ${MTU}`)
  for (const [family, outside] of Object.entries(OUTSIDE)) {
    report.progress(`tracepath, IP${family}`)
    const told = await pod.run(['tracepath', '-n', '-m', '6', outside], { timeout: 60_000 })
    const resume = /Resume: (.*)/.exec(told)?.[1]?.trim() ?? told.trim()
    report.check(told.includes('reached') && resume.includes(`pmtu ${MTU} hops 3`), `tracepath, IP${family}: ${resume}`)
    report.figure(`tracepath IP${family}: ${resume}`)
  }
  await onlyByHostroute(report, node)
}
