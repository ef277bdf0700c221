// IPsec policies, read from a kernel and judged.

import t from 'tap'
import { judgeIpsec } from '../../src/check/ipsec.js'
import type { IpsecPolicy } from '../../src/netlink/xfrm.js'
import { childJson, inside, namespace } from '../native/support.js'
import { key } from '../plan/node.js'

const module = new URL('../../src/netlink/xfrm.js', import.meta.url).href
const policy = (direction: IpsecPolicy['direction'], source: string, destination: string, rest: object = {}) => ({
  direction,
  source: key(source),
  destination: key(destination),
  action: 'transform' as const,
  interfaceId: 0,
  ...rest
})
const facts = { own: [key('192.0.2.1/32')], stackPrefixes: [key('172.16.0.0/12')] }
const outcomes = (...policies: IpsecPolicy[]) => judgeIpsec(policies, facts).map(({ outcome }) => outcome)

t.test('[C8] which policies would be bypassed', async (t) => {
  const found = judgeIpsec([policy('out', '10.244.1.0/24', '10.244.2.0/24')], facts)
  t.match(found, [
    {
      outcome: 'refuse',
      code: 'ipsec-bypassed',
      what: 'The IPsec policy out 10.244.1.0/24 → 10.244.2.0/24 (encrypt) would be bypassed by the fast path.',
      remedy: /Add 10\.244\.2\.0\/24 to stackPrefixes/
    }
  ])
  t.match(judgeIpsec([policy('fwd', '10.244.2.0/24', '10.244.1.0/24')], facts), [{ remedy: /Add 10\.244\.2\.0\/24/ }])
  t.strictSame(outcomes(policy('fwd', '10.244.1.2/32', '10.244.1.3/32', { action: 'block' })), ['refuse'])
  t.strictSame(outcomes(policy('out', '0.0.0.0/0', '0.0.0.0/0')), ['refuse'], 'of the node too, but not only')
  t.strictSame(outcomes(policy('out', '2001:db8::/64', '2001:db8:1::/64')), ['refuse'])
  t.strictSame(outcomes(policy('out', '192.0.2.1/32', '198.51.100.0/24')), [], 'the node’s own traffic')
  t.strictSame(outcomes(policy('in', '10.244.2.0/24', '10.244.1.0/24')), [], 'delivered here')
  t.strictSame(outcomes(policy('out', '10.244.1.0/24', '10.0.0.0/8', { action: 'none' })), [], 'as it is')
  t.strictSame(outcomes(policy('out', '10.244.1.0/24', '10.0.0.0/8', { interfaceId: 7 })), [], 'of an XFRM interface')
  t.strictSame(outcomes(policy('out', '10.244.1.0/24', '172.16.3.0/24')), ['info'], 'left to the stack')
  t.strictSame(outcomes(policy('fwd', '172.16.3.0/24', '10.244.1.0/24')), ['info'])
})

t.test('[C8] policies as the kernel has them', async (t) => {
  const name = namespace(t, 'ipsec')
  const add = (...words: string[]) => inside(name, 'ip', 'xfrm', 'policy', 'add', ...words)
  const tunnel = ['tmpl', 'src', '192.0.2.1', 'dst', '192.0.2.2', 'proto', 'esp', 'mode', 'tunnel']
  add('dir', 'out', 'src', '10.244.1.0/24', 'dst', '10.244.2.0/24', ...tunnel)
  add('dir', 'fwd', 'src', '10.244.2.0/24', 'dst', '10.244.1.0/24', 'action', 'block')
  add('dir', 'in', 'src', '10.244.3.0/24', 'dst', '10.244.1.0/24')
  const six = ['tmpl', 'src', '2001:db8::1', 'dst', '2001:db8::2', 'proto', 'esp', 'mode', 'tunnel']
  add('dir', 'out', 'src', '2001:db8:1::/64', 'dst', '::/0', ...six)
  const read = await childJson<IpsecPolicy[]>(
    t,
    `const { readIpsecPolicies } = await import(${JSON.stringify(module)})
    console.log(JSON.stringify(await readIpsecPolicies()))`,
    { namespace: name }
  )
  const bySource = (a: IpsecPolicy, b: IpsecPolicy) => (a.source + a.direction < b.source + b.direction ? -1 : 1)
  t.strictSame(
    read.sort(bySource),
    [
      policy('out', '10.244.1.0/24', '10.244.2.0/24'),
      policy('fwd', '10.244.2.0/24', '10.244.1.0/24', { action: 'block' }),
      policy('in', '10.244.3.0/24', '10.244.1.0/24', { action: 'none' }),
      policy('out', '2001:db8:1::/64', '::/0')
    ].sort(bySource)
  )
})
