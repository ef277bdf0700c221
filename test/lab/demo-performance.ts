// Demo, third part: the same measurements with hostroute, on a node without it
// and over a bare veth pair, by turns in one run.

import { Lab } from './lab.js'
import { byTurns, type Path, Probe, type Protocol } from './measure.js'
import { createBarePair } from './pair.js'
import type { Story } from './story.js'

const RULES = 100

export async function showPerformance(story: Story, lab: Lab): Promise<void> {
  story.chapter('Latency and packets a second, by turns in one run')
  const legacy = await Lab.create({ legacy: RULES, pods: 2 })
  const bare = await createBarePair()
  const paths: Path[] = [
    { from: bare.left, to: bare.right, address: bare.rightAddress },
    samePath(lab),
    samePath(legacy)
  ]
  const across = [acrossPath(lab), acrossPath(legacy)]
  const tcp = await measure(story, 'TCP latency', 4, paths, 'tcp', 'latency')
  const udp = await measure(story, 'UDP latency', 4, paths, 'udp', 'latency')
  const rate = await measure(story, 'UDP packets a second', 4, paths, 'udp', 'rate')
  const far = await measure(story, 'TCP latency between nodes', 3, across, 'tcp', 'latency')
  await legacy.close()
  bare.close()
  story.progressDone()
  const names = ['bare veth pair', 'hostroute', `kernel, ${RULES} iptables rules`]
  const micro = (value: number, base: number) => `${value.toFixed(2)} µs  ${(value / base).toFixed(2)}x`
  const [bareTcp = 0, bareUdp = 0, bareRate = 0] = [tcp[0], udp[0], rate[0]]
  story.table([
    ['pod to pod on one node', 'TCP one way', 'UDP one way', 'UDP packets/s'],
    ...names.map((name, index) => [
      name,
      micro(tcp[index] ?? 0, bareTcp),
      micro(udp[index] ?? 0, bareUdp),
      `${Math.round(rate[index] ?? 0).toLocaleString('en')}  ${((rate[index] ?? 0) / bareRate).toFixed(2)}x`
    ])
  ])
  const [farFast = 0, farLegacy = 0] = far
  story.text('')
  story.table([
    ['pod to pod between nodes', 'TCP one way'],
    ['hostroute', micro(farFast, farLegacy)],
    [names[2] ?? '', micro(farLegacy, farLegacy)]
  ])
  story.text(
    '\n  medians, rates: best of four; 64 bytes; both ends on one core; x: against the bare pair, or the kernel between nodes'
  )
  story.text('  the kernel node has conntrack, MASQUERADE and filter rules that are compared and do not match')
  story.fact((tcp[1] ?? 0) < (tcp[2] ?? 0), 'TCP latency is lower than the kernel’s', less(tcp[1], tcp[2]))
  story.fact((udp[1] ?? 0) < (udp[2] ?? 0), 'UDP latency is lower than the kernel’s', less(udp[1], udp[2]))
  story.fact(farFast < farLegacy, 'and between nodes', less(farFast, farLegacy))
}

async function measure(
  story: Story,
  what: string,
  rounds: number,
  paths: readonly Path[],
  protocol: Protocol,
  kind: 'latency' | 'rate'
): Promise<number[]> {
  story.progress(`measuring: ${what} …`)
  const probes = await Promise.all(paths.map((path) => Probe.open(path, protocol)))
  // A rate is only ever lowered by what else the machine does: the best round is the truest.
  const best = (values: readonly number[]) => Math.max(...values)
  const runs = probes.map((probe) => () => probe[kind]())
  const result = await byTurns(rounds, runs, kind === 'rate' ? best : undefined)
  await Promise.all(probes.map((probe) => probe.close()))
  return result
}

function samePath(lab: Lab): Path {
  const [from, to] = [lab.node(0).pod(0), lab.node(0).pod(1)]
  return { from, to, address: to.address.v4 }
}

function acrossPath(lab: Lab): Path {
  const [from, to] = [lab.node(0).pod(0), lab.node(1).pod(1)]
  return { from, to, address: to.address.v4 }
}

function less(value = 0, than = 0): string {
  return `${Math.round((1 - value / than) * 100)} % less`
}
