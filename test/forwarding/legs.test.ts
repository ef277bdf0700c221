// Legs of an ECMP route that come and go under flows in progress. The same node
// with hostroute switched off is the oracle.

import t from 'tap'
import { OUTSIDE, OUTSIDE_ROUTER, podRange } from '../lab/addresses.js'
import type { Capture } from '../lab/capture.js'
import type { Lab } from '../lab/lab.js'
import { until } from '../lab/process.js'
import { asTheKernelDoes, servedLab } from './served.js'

const families = ['v4', 'v6'] as const
const legs = [0, 1] as const
const eachFamily = 6
/**
 * Until the kernel gives a silent neighbour up, and TCP sends again. With the
 * kernel alone most flows leave before: TCP draws another hash with each
 * retransmission, and hostroute keeps a flow's leg whatever its hash.
 */
const patience = 30_000

interface Outcome {
  flows: string[]
  /** What the kernel forwarded after the gateway was given up. */
  byTheKernel: number
}

t.test('[F11][N2] flows leave a gateway that has died by the other leg, as with the kernel alone', async (t) => {
  const lab = await servedLab(t, { pods: 1, uplinks: 2 }, { config: { snat: { enabled: false } } })
  await prepare(lab)
  const kernel = await asTheKernelDoes(lab.node(0), () => outcome(lab))
  const hostroute = await outcome(lab)
  t.strictSame(hostroute.flows, kernel.flows, kernel.flows.join('; '))
  t.ok(
    kernel.flows.every((text) => text === 'all echoed'),
    'none is lost'
  )
  t.ok(kernel.byTheKernel > 0, 'the kernel counts what it forwards')
  t.equal(hostroute.byTheKernel, 0, 'the other leg by the fast path')
  const report = await lab.node(0).hostroute(['verify'])
  t.equal(report.status, 0, report.stdout)
})

t.test('[F11][S14] SNAT over two uplinks: each leg’s address, its share, and answers by either', async (t) => {
  const lab = await servedLab(t, { pods: 1, uplinks: 2 })
  const [node, pod] = [lab.node(0), lab.node(0).pod(0)]
  const sources = (family: 'v4' | 'v6') => node.uplinks.map(({ address }) => address[family])
  await node.ip(
    ...families.map((family) => {
      const hop = (leg: 0 | 1, weight: number) =>
        `nexthop via ${node.uplinks[leg]!.router[family]} dev up${leg} weight ${weight}`
      return `route replace ${OUTSIDE[family]} ${hop(0, 3)} ${hop(1, 1)}`
    })
  )
  const asked = 96
  const seen = async (family: 'v4' | 'v6') => {
    const questions = Array.from(
      { length: asked },
      () => ({ protocol: 'tcp', address: OUTSIDE[family], port: 7 }) as const
    )
    const answers = await pod.askAll(questions)
    return { peers: answers.map(({ peer }) => peer), echoed: answers.filter(({ echoed }) => echoed === 32).length }
  }
  for (const family of families) {
    const [first, second] = sources(family)
    await until(`${family}: both legs`, async () => new Set((await seen(family)).peers).size === 2)
    const { forward } = await node.readCounters()
    const { peers, echoed } = await seen(family)
    t.equal(echoed, asked, `${family}: all answered`)
    t.strictSame([...new Set(peers)].sort(), [first, second].sort(), 'from the two legs’ addresses')
    // 3 to 1, within four times what chance makes of so many
    const share = peers.filter((peer) => peer === first).length / asked
    t.ok(
      Math.abs(share - 0.75) < 4 * Math.sqrt((0.75 * 0.25) / asked),
      `${family}: ${share.toFixed(2)} by the first leg`
    )
    t.equal((await node.readCounters()).forward, forward, `${family}: by the fast path`)
  }
  // the router sends what is for the first leg's address by the second
  for (const family of families) {
    const [first, second] = sources(family)
    await lab.router.ip(`route replace ${first} via ${second}`)
    const { peers, echoed } = await seen(family)
    t.equal(echoed, asked, `${family}: answers by the other uplink`)
    t.ok(peers.includes(first ?? ''), 'also those for the first')
  }
  await node.ip('link set up0 down')
  for (const family of families) {
    const [, second] = sources(family)
    await until(`${family}: all by the leg that is left`, async () => {
      const { peers, echoed } = await seen(family)
      return echoed === asked && peers.every((peer) => peer === second)
    })
  }
})

/** Two gateways as a group of next hop objects; answers come back by up1 always. */
async function prepare(lab: Lab): Promise<void> {
  const node = lab.node(0)
  const { v4, v6 } = podRange(1)
  const back = node.uplinks[1]!.address
  await lab.router.ip(`route add ${v4} via ${back.v4}`, `route add ${v6} via ${back.v6}`)
  await lab.outside.ip(`route add ${v4} via ${OUTSIDE_ROUTER.v4}`, `route add ${v6} via ${OUTSIDE_ROUTER.v6}`)
  for (const leg of legs)
    for (const family of ['ipv4', 'ipv6'])
      await node.sysctl({
        [`net.${family}.neigh.up${leg}.base_reachable_time_ms`]: 1000,
        [`net.${family}.neigh.up${leg}.delay_first_probe_time`]: 1
      })
  // entries that are there keep the time they were made with
  for (const leg of legs) await node.run(['ip', 'neigh', 'flush', 'dev', `up${leg}`])
  await node.sysctl({ 'net.ipv4.fib_multipath_hash_policy': 1, 'net.ipv6.fib_multipath_hash_policy': 1 })
  await node.ip(
    ...families.flatMap((family, index) => [
      ...legs.map(
        (leg) => `nexthop add id ${4 + 2 * index + leg} via ${node.uplinks[leg]!.router[family]} dev up${leg}`
      ),
      `nexthop add id ${10 + index} group ${4 + 2 * index}/${5 + 2 * index}`,
      `route add ${OUTSIDE[family]} nhid ${10 + index}`
    ])
  )
}

/** Flows over both legs; the gateway of up0 falls silent and comes back. */
async function outcome(lab: Lab): Promise<Outcome> {
  const [node, router] = [lab.node(0), lab.router]
  const wanted = families.flatMap((family) => Array<string>(eachFamily).fill(OUTSIDE[family]))
  const flows = await Promise.all(
    wanted.map((address) => node.pod(0).flow({ protocol: 'tcp', address, port: 7, interval: 20 }))
  )
  const first = await router.capture('n1u0', 'tcp dst port 7')
  await until('both legs are used, by both families', () => portsOf(first).some(isSix) && portsOf(first).some(isFour))
  await first.stop()
  // the carrier stays, nothing passes
  await router.run(['bridge', 'link', 'set', 'dev', 'n1u0', 'state', 'disabled'])
  const second = await router.capture('n1u1', 'tcp dst port 7')
  try {
    await until('all flows use the other leg', () => portsOf(second).length === wanted.length, patience)
    const before = await node.readCounters()
    const more = second.packets().length + 50
    await until('they go on there', () => second.packets().length > more)
    const byTheKernel = (await node.readCounters()).forward - before.forward
    const reports = await Promise.all(flows.map((flow) => flow.finish()))
    const text = reports.map(({ sent, received, error }) => error ?? (sent === received ? 'all echoed' : 'some lost'))
    return { flows: text, byTheKernel }
  } finally {
    await second.stop()
    await router.run(['bridge', 'link', 'set', 'dev', 'n1u0', 'state', 'forwarding'])
    await node.ip(...families.map((family) => `neigh del ${node.uplinks[0]!.router[family]} dev up0`))
  }
}

/** "6 40000": family and source port of each flow seen. */
function portsOf(capture: Capture): string[] {
  return [...new Set(capture.packets().map(({ packet }) => `${packet.ip?.family} ${packet.l4?.sourcePort}`))]
}

const isSix = (flow: string) => flow.startsWith('6')
const isFour = (flow: string) => flow.startsWith('4')
