// Backend cgroup on this machine's kernel: the tests that hold with every
// backend, and what only this one does: owned tables, watching, removing.
// Mostly waits: for what is removed within a second.

import t from 'tap'
import { lifeTests, toolTests } from './common.js'
import { GuardedNode, sleep, strongestBackend } from './support.js'

t.setTimeout(300_000)

if (strongestBackend() === 'cgroup') {
  toolTests(t, 'cgroup')
  lifeTests(t, 'cgroup')
}

t.test('[G11] what appears in other tables is removed within a second and reported', async (t) => {
  const node = new GuardedNode(t)
  node.shell(
    'nft add table inet before; nft add chain inet before c; nft add map inet before m "{ type ipv4_addr : verdict; }"'
  )
  node.shell('nft add chain inet before base "{ type filter hook forward priority 0; policy accept; }"')
  const status = await node.start({ backend: 'cgroup' })
  t.equal(status.backend, 'cgroup')
  const ruleset = (family: string) =>
    `table ${family} fresh { chain c { type filter hook ${family === 'netdev' ? 'ingress device "lo"' : 'forward'} priority 0; policy drop; };\n}`
  const writes: Record<string, string> = {
    'nft -f, family inet': ruleset('inet'),
    'nft -f, family bridge': ruleset('bridge'),
    'nft -f, family netdev': ruleset('netdev'),
    'a rule in a table from before': 'add rule inet before c counter drop',
    'a base chain in a table from before':
      'add chain inet before b { type filter hook input priority 0; policy drop; }',
    'a policy': 'add chain inet before base { policy drop; }',
    'an element of a verdict map': 'add element inet before m { 10.0.0.1 : drop }',
    'a set': 'add set inet before s { type ipv4_addr; }'
  }
  for (const [what, text] of Object.entries(writes)) {
    node.events.length = 0
    const before = node.run('nft', 'list', 'ruleset').output
    t.match(node.runWith(text, 'nft', '-f', '-'), { status: 0 }, `${what}: nothing stands in the way`)
    const event = await node.event(({ verdict }) => verdict === 'removed', 1)
    t.match(
      event,
      { system: 'nftables', command: 'nft' },
      `${what}: reported as ${event?.message} in ${event?.family} ${event?.table}`
    )
    t.equal(node.run('nft', 'list', 'ruleset').output, before, `${what}: gone`)
  }
  const interactive = node.runWith(
    'add table ip shell\nadd chain ip shell c { type filter hook output priority 0; }\nquit\n',
    'nft',
    '-i'
  )
  t.equal(interactive.status, 0)
  await sleep(500)
  t.notMatch(node.run('nft', 'list', 'tables').output, /shell/, 'nft -i: gone')
})

t.test('a table that somebody has made already is named, and watched', async (t) => {
  const node = new GuardedNode(t)
  node.shell('iptables-nft -A INPUT -j ACCEPT')
  const status = await node.start({ backend: 'cgroup' })
  const row = status.tables.find(({ family, table }) => family === 'ip' && table === 'filter')
  t.match(row, { owned: false, why: /made it already/ })
  t.match(status.why, /ip filter/)
  node.shell('iptables-nft -A FORWARD -j DROP')
  await sleep(700)
  t.notMatch(node.run('nft', 'list', 'table', 'ip', 'filter').output, /drop/, 'what is added there is removed')
  t.match(node.run('nft', 'list', 'table', 'ip', 'filter').output, /accept/, 'what stood before stays')
})
