// Changes are found by event (nf_tables) or soon (legacy tables), one at a time
// and as a whole; what stays is never taken away meanwhile.

import t from 'tap'
import { hexPrefix } from '../../src/address.js'
import { TablesReader } from '../../src/translated/nft-tables.js'
import type { SourceResult } from '../../src/translated/result.js'
import { until } from '../lab/process.js'
import { enterNamespace } from '../netlink/namespace.js'
import { fixture, flush, nft, textsOf, tool, watch } from './node.js'

t.setTimeout(240_000)
enterNamespace(import.meta.url)

const kubeProxy = /^table ip kube-proxy \{[\s\S]*?^\}/m.exec(fixture('kube-proxy-nftables-n1.nft'))?.[0] ?? ''

const service = (name: string, address: string) => `
add chain ip kube-proxy endpoint-${name}
add rule ip kube-proxy endpoint-${name} meta l4proto tcp dnat to 10.244.1.11:8080
add chain ip kube-proxy service-${name}
add rule ip kube-proxy service-${name} numgen random mod 1 vmap { 0 : goto endpoint-${name} }
add element ip kube-proxy service-ips { ${address} . tcp . 80 : goto service-${name} }
`

t.test('[K9] Services come and go one at a time in the nftables mode: by event, nothing else is touched', async (t) => {
  flush()
  nft(kubeProxy)
  const { list, diffs, removed, translated } = await watch(t)
  const before = translated.size
  for (const last of [1, 2, 3]) nft(service(`new${last}`, `10.96.7.${last}`))
  await until('three more', () => translated.size === before + 3)
  t.ok(list().includes('10.96.7.2'))
  nft(`delete element ip kube-proxy service-ips { 10.96.7.2 . tcp . 80 }
flush chain ip kube-proxy service-new2
flush chain ip kube-proxy endpoint-new2
delete chain ip kube-proxy service-new2
delete chain ip kube-proxy endpoint-new2`)
  await until('one less', () => translated.size === before + 2)
  t.strictSame(removed(), ['10.96.7.2'])
  t.equal(
    diffs.slice(1).reduce((sum, { added }) => sum + added.length, 0),
    3
  )
  nft('flush map ip kube-proxy service-ips')
  await until('only rejected addresses and that of the node are left', () => translated.size < 24)
  t.notOk(list().includes('10.96.7.1'))
})

t.test('[K9] the endpoints of a Service change: nothing is told', async (t) => {
  flush()
  nft(kubeProxy)
  nft(service('one', '10.96.7.1'))
  const { diffs, translated } = await watch(t)
  const told = diffs.length
  nft(`add chain ip kube-proxy endpoint-two
add rule ip kube-proxy endpoint-two meta l4proto tcp dnat to 10.244.1.12:8080
flush chain ip kube-proxy service-one
add rule ip kube-proxy service-one numgen random mod 2 vmap { 0 : goto endpoint-one, 1 : goto endpoint-two }`)
  nft(service('last', '10.96.7.9'))
  await until('the one behind it', () => translated.has(hexPrefix('0a600709/32')))
  t.strictSame(
    diffs.slice(told).map(({ added, removed }) => [textsOf(added), removed]),
    [[['10.96.7.9'], []]]
  )
})

t.test('[K9] the whole table is written anew in each way: nothing is taken away', async (t) => {
  flush()
  nft(kubeProxy)
  const { removed, translated } = await watch(t)
  const again = kubeProxy.replace('elements = { 10.96.0.10 . tcp . 53', 'elements = { 10.96.8.1 . tcp . 53')
  t.not(again, kubeProxy)
  nft(`delete table ip kube-proxy\n${again}`)
  await until('an address of the new table', () => translated.has(hexPrefix('0a600801/32')))
  nft(`flush table ip kube-proxy\n${again.replaceAll('10.96.8.1 ', '10.96.8.2 ')}`)
  await until('an address added to it', () => translated.has(hexPrefix('0a600802/32')))
  nft(`flush map ip kube-proxy service-ips\nflush table ip kube-proxy\n${kubeProxy}`)
  await until('as it was', () => !translated.has(hexPrefix('0a600801/32')) && !translated.has(hexPrefix('0a600802/32')))
  t.strictSame(removed(), ['10.96.8.1', '10.96.8.2'])
  nft('delete table ip kube-proxy')
  await until('nothing is left', () => translated.size === 0)
})

t.test('[K9] a table that counts only later: its chain at prerouting is made last', async (t) => {
  flush()
  const { list, translated } = await watch(t)
  nft('table ip t { chain x { ip daddr 192.0.2.7 redirect\n } }')
  nft('add chain ip t pre { type nat hook prerouting priority 0; }\nadd rule ip t pre jump x')
  await until('it is found', () => translated.size === 1)
  t.strictSame(list(), ['192.0.2.7'])
  nft('delete chain ip t pre')
  await until('it is gone', () => translated.size === 0)
})

t.test('[K9] iptables-nft: rules are added, replaced and deleted', async (t) => {
  flush()
  const { list, translated } = await watch(t)
  const rule = (how: string, last: number) =>
    tool(`iptables-nft -t nat ${how} -d 192.0.2.${last}/32 -p tcp -j DNAT --to-destination 10.0.0.1`)
  rule('-A PREROUTING', 7)
  await until('the first', () => translated.size === 1)
  rule('-A PREROUTING', 8)
  await until('the second', () => translated.size === 2)
  rule('-R PREROUTING 1', 9)
  await until('the replaced one', () => list().join() === '192.0.2.8,192.0.2.9')
  rule('-D PREROUTING', 8)
  await until('one less', () => list().join() === '192.0.2.9')
  t.strictSame(translated.summary(), [{ who: 'table ip nat', kind: 'iptables-nft', addresses: 1, prefixes: 0 }])
})

t.test('[K9] a legacy table appears, changes, also without another size, and is emptied', async (t) => {
  flush()
  const { list, translated } = await watch(t)
  const rule = (how: string, last: number) =>
    tool(`iptables-legacy -t nat ${how} -d 192.0.2.${last}/32 -p tcp -j DNAT --to-destination 10.0.0.1`)
  rule('-A PREROUTING', 7)
  await until('the first', () => list().join() === '192.0.2.7', 10_000)
  rule('-A PREROUTING', 8)
  await until('the second', () => list().join() === '192.0.2.7,192.0.2.8', 10_000)
  rule('-R PREROUTING 1', 9)
  await until('the replaced one', () => list().join() === '192.0.2.8,192.0.2.9', 30_000)
  tool('iptables-legacy -t nat -F')
  await until('nothing', () => translated.size === 0, 10_000)
})

t.test('[K9] lost events: everything is read again, and what has gone meanwhile goes', async (t) => {
  flush()
  nft('table ip t { chain pre { type nat hook prerouting priority 0; ip daddr { 192.0.2.7, 192.0.2.8 } redirect\n } }')
  const found = new Map<string, SourceResult | null>()
  const reader = new TablesReader(
    (results) => {
      for (const [key, result] of results) found.set(key, result)
    },
    (text) => t.fail(text)
  )
  t.teardown(() => reader.close())
  await reader.start()
  t.equal(found.get('ip t')?.destinations.size, 2)
  // As if the socket had been full: its messages are not seen.
  const receive = reader['receive'].bind(reader)
  reader['receive'] = () => {}
  nft('delete table ip t')
  nft('table ip u { chain pre { type nat hook prerouting priority 0; ip daddr 192.0.2.9 redirect\n } }')
  await new Promise((resolve) => setTimeout(resolve, 200))
  t.equal(found.get('ip t')?.destinations.size, 2, 'nothing was heard')
  reader['receive'] = receive
  receive(Buffer.alloc(0), true)
  await until('the new table', () => found.get('ip u')?.destinations.size === 1)
  t.equal(found.get('ip t'), null)
})
