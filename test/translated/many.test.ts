// Many Services: time and memory of the first read and of one change, and how
// long the event loop is held. HOSTROUTE_SERVICES=10000 for the numbers of K12
// (loading the rules alone takes nft minutes).

import { monitorEventLoopDelay } from 'node:perf_hooks'
import t from 'tap'
import { until } from '../lab/process.js'
import { enterNamespace } from '../netlink/namespace.js'
import { manyForIptables, manyForNft, oneForNft, serviceAddress } from './many-rules.js'
import { flush, nft, tool, watch } from './node.js'

t.setTimeout(1_500_000)
enterNamespace(import.meta.url)

const services = Number(process.env['HOSTROUTE_SERVICES'] ?? 1000)

const forms = [
  {
    name: 'nftables',
    load: () => nft(manyForNft(services)),
    change: () => nft(`${oneForNft(services).join('\n')}\n`)
  },
  {
    name: 'iptables-nft',
    load: () => tool('iptables-nft-restore', manyForIptables(services)),
    change: () => tool('iptables-nft -t nat -A KUBE-SERVICES -d 10.255.0.1/32 -p tcp --dport 80 -j KUBE-SVC-0')
  },
  {
    name: 'iptables-legacy',
    load: () => tool('iptables-legacy-restore', manyForIptables(services)),
    change: () => tool('iptables-legacy -t nat -A KUBE-SERVICES -d 10.255.0.1/32 -p tcp --dport 80 -j KUBE-SVC-0')
  }
]

for (const form of forms) {
  t.test(`[K12] ${services} Services with ${services * 10} endpoints in ${form.name}`, async (t) => {
    flush()
    form.load()
    globalThis.gc?.()
    const memory = process.memoryUsage.rss()
    const delay = monitorEventLoopDelay({ resolution: 1 })
    delay.enable()
    const start = process.cpuUsage()
    const clock = performance.now()
    const { translated, list, problems } = await watch(t)
    const wall = performance.now() - clock
    const cpu = milliseconds(start)
    delay.disable()
    t.equal(translated.size, services)
    t.ok(list().includes(serviceAddress(services - 1)))
    globalThis.gc?.()
    const grown = (process.memoryUsage.rss() - memory) / 1e6
    form.change()
    const change = process.cpuUsage()
    const again = performance.now()
    await until('one more', () => translated.size === services + 1, 60_000, 1)
    t.comment(
      `read ${wall.toFixed(0)} ms (${cpu.toFixed(0)} ms of CPU), +${grown.toFixed(0)} MB, ` +
        `event loop held ${(delay.max / 1e6).toFixed(0)} ms at most, 99th percentile ${(delay.percentile(99) / 1e6).toFixed(0)} ms; ` +
        `one change ${(performance.now() - again).toFixed(0)} ms (${milliseconds(change).toFixed(0)} ms of CPU)`
    )
    t.ok(cpu < 0.8 * services + 2000, 'time in proportion to the rules, with much room for a slow machine')
    t.strictSame(problems, [])
  })
}

function milliseconds(since: NodeJS.CpuUsage): number {
  const { user, system } = process.cpuUsage(since)
  return (user + system) / 1000
}
