// A node's life beside kube-proxy in one mode: all cases without hostroute,
// while it is switched on, with it, while it is switched off and after; and
// connections that last from each of these into the next.

import type { Test } from 'tap'
import { LongFlows } from './flows.js'
import type { Mode } from './proxy.js'
import { ALL_CASES, casesDuring, differences, runCases } from './run-cases.js'
import { ServiceLab } from './service-lab.js'

/** For a machine that all cases and connections at once would be too much for. */
export interface Pace {
  /** Cases that run at the same time; all when absent. */
  cases?: number
  /** Milliseconds between two messages of a connection, as FlowSettings. */
  interval?: number
}

export function wholeLife(t: Test, mode: Mode, { cases: atOnce, interval }: Pace = {}): void {
  t.test(
    `[K1] [K2] [K3] [K4] [K5] [K6] [K7] Services in mode ${mode}, before, with and after hostroute`,
    { timeout: 0 },
    async (t) => {
      const cluster = await ServiceLab.create({ mode })
      t.teardown(() => cluster.close())
      const run = () => runCases(cluster, ALL_CASES, atOnce)
      const open = (when: string) => LongFlows.open(cluster, when, undefined, { interval })
      const kernel = await run()
      const different = async () => differences(kernel, await run())
      t.equal(kernel.outcomes.length, ALL_CASES.length)
      t.same(kernel.wrong, [], 'the kernel alone answers every case')
      const older = await open('before hostroute was enabled')

      t.same(await older.silent(), [], `${older.count} long connections work by the kernel alone`)
      const enabling = await casesDuring(cluster, kernel, cluster.enable(), atOnce)
      t.same(enabling, [], '[K6] the same while hostroute is being enabled')
      t.same(await older.silent(), [], '[K6] connections from before go on')
      t.same(await different(), [], 'the same with hostroute')
      const younger = await open('while hostroute was enabled')
      t.same(await younger.silent(), [], `${younger.count} long connections work with hostroute`)

      const invalid = await invalidPackets(cluster)
      const disabling = await casesDuring(cluster, kernel, cluster.disable(), atOnce)
      t.same(disabling, [], '[K7] the same while hostroute is being disabled')
      t.same(await different(), [], '[K7] the same after it')
      t.same(await younger.silent(), [], '[K7] connections from while it was enabled go on')
      t.same(await older.silent(), [], '[K7] and those from before')
      t.same(await younger.close(), [], '[K7] they lost nothing')
      t.same(await older.close(), [], '[K6] and nor did those from before')
      t.comment(`INVALID packets dropped: ${invalid} before disabling, ${await invalidPackets(cluster)} after`)
    }
  )
}

/** By kube-proxy's own rule, on both nodes; 0 in modes that have none. */
async function invalidPackets(cluster: ServiceLab): Promise<number> {
  if (cluster.mode !== 'iptables' && cluster.mode !== 'iptables-legacy') return 0
  const backend = cluster.mode === 'iptables' ? 'nft' : 'legacy'
  const counts = cluster.nodes.flatMap((node) =>
    ['iptables', 'ip6tables'].map(async (command) => {
      const text = await node.run([`${command}-${backend}-save`, '-c', '-t', 'filter'])
      return Number(/\[(\d+):\d+\] -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP/.exec(text)?.[1])
    })
  )
  return (await Promise.all(counts)).reduce((sum, each) => sum + each, 0)
}
