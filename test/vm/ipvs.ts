// Runs inside a test machine, where the kernel has IPVS: its virtual services
// are translated destinations.

import t from 'tap'
import { startTranslated } from '../../src/translated/translated.js'
import { run, until } from '../lab/process.js'
import { enterNamespace } from '../netlink/namespace.js'
import { textsOf, tool } from '../translated/node.js'

if (!process.env['HOSTROUTE_VM']) throw new Error('this test runs inside a test machine only: scripts/vm -- node FILE')

t.setTimeout(120_000)
await run(['modprobe', 'ip_vs'])
await run(['modprobe', 'ip_vs_rr'])
enterNamespace(import.meta.url)

t.test('[K9] IPVS: virtual services of both families, fwmark services, and conntrack switched off', async (t) => {
  tool('ipvsadm -A -t 10.96.0.10:53 -s rr')
  tool('ipvsadm -A -u 10.96.0.10:53 -s rr')
  tool('ipvsadm -a -t 10.96.0.10:53 -r 10.244.1.11:8080 -m')
  tool('ipvsadm -A -t [fd00:96::10]:80 -s rr')
  tool('ipvsadm -A -f 7 -s rr')
  tool('sysctl -q -w net.ipv4.vs.conntrack=0')
  const problems: string[] = []
  const translated = startTranslated({ onChange: () => {}, onProblem: (text) => problems.push(text) })
  t.teardown(() => translated.close())
  await translated.ready
  const list = () => textsOf(translated.destinations()).join()
  t.equal(list(), '10.96.0.10,fd00:96::10')
  t.strictSame(translated.summary(), [{ who: 'virtual services', kind: 'ipvs', addresses: 2, prefixes: 0 }])
  t.match(translated.unbounded(), [{ kind: 'ipvs', text: 'virtual service for packets with mark 7' }])
  t.equal(problems.length, 1)
  t.match(problems[0], /net\.ipv4\.vs\.conntrack/)
  tool('ipvsadm -A -t 10.96.0.11:80 -s rr')
  await until('a new service', () => list() === '10.96.0.10,10.96.0.11,fd00:96::10')
  tool('ipvsadm -D -t 10.96.0.10:53')
  tool('ipvsadm -D -t 10.96.0.11:80')
  await until('one of two goes with its address', () => list() === '10.96.0.10,fd00:96::10')
  tool('ipvsadm -C')
  await until('nothing is left', () => list() === '')
  t.strictSame(translated.unbounded(), [])
})
