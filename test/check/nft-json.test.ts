import t from 'tap'
import { parseNft } from '../../src/check/nft-json.js'
import { judged, nftTables, textsOf } from './rules.js'

t.test('[C9] nft: a firewall in families inet and netdev', async (t) => {
  const rules = judged(nftTables('firewall'), { uplinks: ['eth0', 'up0'] })
  t.same(textsOf(rules, 'bypassed'), [
    'forward: ct state vmap { invalid : drop, established : accept, related : accept }',
    'forward: ip saddr vmap @verdicts',
    'forward: chain forward { hook forward; policy drop; }'
  ])
  t.same(textsOf(rules, 'harmless'), [
    'forward: ip daddr @friends accept',
    'forward: counter packets 0 bytes 0',
    'unused: drop'
  ])
  t.match(textsOf(rules, 'host-only').join('\n'), /iifname "lo" drop/)
  t.match(textsOf(rules, 'host-only').join('\n'), /meta mark 0x00000007 reject/)
  t.match(textsOf(rules, 'host-only').join('\n'), /ip saddr 203\.0\.113\.2 drop/, 'its device is not served')
})

t.test('[C9] nft: ingress of a served device is bypassed', async (t) => {
  const rules = judged(nftTables('firewall'), { uplinks: ['lo'] })
  t.match(textsOf(rules, 'bypassed').join('\n'), /ip saddr 203\.0\.113\.2 drop/)
})

t.test('[C9] nft: egress of a served device is bypassed, an uplink’s too', async (t) => {
  const classes = (dev: string) =>
    judged(
      parseNft(
        JSON.stringify({
          nftables: [
            { table: { family: 'netdev', name: 'x' } },
            {
              chain: { family: 'netdev', table: 'x', name: 'c', hook: 'egress', type: 'filter', policy: 'accept', dev }
            },
            { rule: { family: 'netdev', table: 'x', chain: 'c', handle: 2, expr: [{ drop: null }] } }
          ]
        }),
        ''
      )
    ).map((each) => each.class)
  t.same(classes('eth0'), ['bypassed'])
  t.same(classes('veth1'), ['bypassed'])
  t.same(classes('docker0'), ['host-only'])
})

const ruleset = (expressions: object[], chain: object = {}) =>
  JSON.stringify({
    nftables: [
      { table: { family: 'inet', name: 'x' } },
      { chain: { family: 'inet', table: 'x', name: 'c', hook: 'forward', type: 'filter', policy: 'accept', ...chain } },
      { rule: { family: 'inet', table: 'x', chain: 'c', handle: 2, expr: expressions } }
    ]
  })

const classOf = (expressions: object[], chain: object = {}) =>
  judged(parseNft(ruleset(expressions, chain), '')).map((each) => each.class)

t.test('[C9] nft: what is not understood counts as bypassed', async (t) => {
  t.same(classOf([{ xt: null }]), ['bypassed'])
  t.same(classOf([{ xt: { type: 'target', name: 'TPROXY' } }]), ['bypassed'])
  t.same(classOf([{ something: {} }]), ['bypassed'])
  t.same(classOf([{ vmap: { key: { meta: { key: 'iifname' } }, data: '@unknown' } }]), ['bypassed'])
  t.same(classOf([{ match: { op: '==', left: { strange: 1 }, right: 2 } }, { drop: null }]), ['bypassed'])
  t.same(classOf([{ match: { op: '==', left: { meta: { key: 'mark' } }, right: 0 } }, { drop: null }]), ['bypassed'])
  t.throws(() => parseNft('{}', ''), /nftables/)
})

t.test('[C9] nft: effects that take nothing from a packet', async (t) => {
  t.same(classOf([{ counter: { packets: 0, bytes: 0 } }, { accept: null }]), ['harmless'])
  t.same(classOf([{ notrack: null }]), ['harmless'])
  t.same(classOf([{ flow: { op: 'add', flowtable: '@f' } }]), ['harmless'])
  t.same(classOf([{ drop: null }], { hook: 'input' }), ['host-only'])
  t.same(classOf([{ match: { op: '==', left: { meta: { key: 'oifname' } }, right: 'docker*' } }, { drop: null }]), [
    'host-only'
  ])
})

t.test('[C9] nft: a flowtable on a served device competes with hostroute', async (t) => {
  const table = (dev: unknown) =>
    judged(
      parseNft(
        JSON.stringify({
          nftables: [
            { table: { family: 'inet', name: 'x' } },
            { flowtable: { family: 'inet', name: 'f', table: 'x', dev } }
          ]
        }),
        ''
      )
    )
  t.equal(table(['eth0', 'veth1'])[0]?.class, 'bypassed')
  t.equal(table('docker0')[0]?.class, 'host-only')
})

t.test('[K4] [C9] nft: portmap before 1.9.0 translates packets to anywhere, and the remedy says so', async (t) => {
  const table = (jump: object[]) =>
    judged(
      parseNft(
        JSON.stringify({
          nftables: [
            { table: { family: 'ip', name: 'cni_hostport' } },
            {
              chain: {
                family: 'ip',
                table: 'cni_hostport',
                name: 'prerouting',
                hook: 'prerouting',
                type: 'nat',
                policy: 'accept'
              }
            },
            { chain: { family: 'ip', table: 'cni_hostport', name: 'hostports' } },
            {
              rule: {
                family: 'ip',
                table: 'cni_hostport',
                chain: 'prerouting',
                handle: 2,
                expr: [...jump, { jump: { target: 'hostports' } }]
              }
            },
            {
              rule: {
                family: 'ip',
                table: 'cni_hostport',
                chain: 'hostports',
                handle: 3,
                expr: [{ dnat: { addr: '10.244.1.13', port: 8080 } }]
              }
            }
          ]
        }),
        ''
      )
    ).at(-1)
  t.match(table([]), { class: 'bypassed', owner: 'portmap', remedy: /1\.9\.0/ })
  const local = { match: { op: '==', left: { fib: { result: 'type', flags: 'daddr' } }, right: 'local' } }
  t.equal(table([local])?.class, 'host-only')
})
