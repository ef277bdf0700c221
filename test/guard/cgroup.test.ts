// Backend cgroup on this machine's kernel: the tests that hold with every
// backend, and what only this one does: owned tables, and reporting what
// nothing can refuse.
// Mostly waits: for what is reported within a second.

import t from 'tap'
import { cgroupRoot } from '../../src/guard/cgroups.js'
import { until } from '../lab/process.js'
import { lifeTests, toolTests } from './common.js'
import { Container } from './container.js'
import { GuardedNode, sleep, strongestBackend } from './support.js'

t.setTimeout(300_000)

if (strongestBackend() === 'cgroup') {
  toolTests(t, 'cgroup')
  lifeTests(t, 'cgroup')
}

const ruleset = (family: string) =>
  `table ${family} fresh { chain c { type filter hook ${family === 'netdev' ? 'ingress device "lo"' : 'forward'} priority 0; policy drop; };\n}`

t.test('[G11] what appears in other tables is reported within a second, once, and stays', async (t) => {
  const node = new GuardedNode(t)
  node.shell(
    'nft add table inet before; nft add chain inet before c; nft add map inet before m "{ type ipv4_addr : verdict; }"'
  )
  node.shell('nft add chain inet before base "{ type filter hook forward priority 0; policy accept; }"')
  const status = await node.start({ backend: 'cgroup' })
  t.equal(status.backend, 'cgroup')
  const writes: Record<string, [text: string, stays: RegExp]> = {
    'nft -f, family inet': [ruleset('inet'), /table inet fresh/],
    'nft -f, family bridge': [ruleset('bridge'), /table bridge fresh/],
    'nft -f, family netdev': [ruleset('netdev'), /table netdev fresh/],
    'a rule in a table from before': ['add rule inet before c counter drop', /counter packets 0 bytes 0 drop/],
    'a base chain in a table from before': [
      'add chain inet before b { type filter hook input priority 0; policy drop; }',
      /hook input/
    ],
    'a policy': ['add chain inet before base { policy drop; }', /hook forward priority filter; policy drop/],
    'an element of a verdict map': ['add element inet before m { 10.0.0.1 : drop }', /10\.0\.0\.1 : drop/],
    'a set': ['add set inet before s { type ipv4_addr; }', /set s/]
  }
  for (const [what, [text, stays]] of Object.entries(writes)) {
    node.events.length = 0
    t.match(node.runWith(text, 'nft', '-f', '-'), { status: 0 }, `${what}: nothing stands in the way`)
    const event = await node.event(({ verdict }) => verdict === 'appeared', 1)
    t.match(
      event,
      { system: 'nftables', command: 'nft', arguments: 'nft -f -', repeated: 1 },
      `${what}: reported as ${event?.message} in ${event?.family} ${event?.table}`
    )
    t.match(node.run('nft', 'list', 'ruleset').output, stays, `${what}: it stays`)
    t.equal(node.events.length, 1)
  }
  t.equal((await node.status()).counts.appeared, Object.keys(writes).length)
})

t.test('a table that somebody has made already is named, and watched', async (t) => {
  const node = new GuardedNode(t)
  node.shell('iptables-nft -A INPUT -j ACCEPT')
  const status = await node.start({ backend: 'cgroup' })
  const row = status.tables.find(({ family, table }) => family === 'ip' && table === 'filter')
  t.match(row, { owned: false, why: /made it already/ })
  t.match(status.why, /ip filter/)
  node.shell('iptables-nft -A FORWARD -j DROP')
  t.ok(await node.event(({ verdict, table }) => verdict === 'appeared' && table === 'filter', 1), 'reported')
  t.match(node.run('nft', 'list', 'table', 'ip', 'filter').output, /accept[\s\S]*drop/, 'what is there stays')
})

const hostFirewall = `flush ruleset
table inet host {
	chain in {
		type filter hook input priority filter; policy drop;
		iifname "lo" accept
		tcp dport 22 accept
	}
}
`
const restored = `*filter
:INPUT DROP [0:0]
:FORWARD ACCEPT [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT
COMMIT
`

t.test('[K11] [G11] a ruleset reloaded, replaced, zeroed or flushed loses nothing', async (t) => {
  const lines: [what: string, input: string, ...command: string[]][] = [
    ['a reload of nftables', hostFirewall, 'nft', '-f', '-'],
    [
      'nft replace',
      '',
      'nft',
      'replace',
      'rule',
      'inet',
      'host',
      'in',
      'handle',
      '3',
      'tcp',
      'dport',
      '2222',
      'accept'
    ],
    ['nft insert', '', 'nft', 'insert', 'rule', 'inet', 'host', 'in', 'udp', 'dport', '53', 'accept'],
    ['iptables-nft-restore of what is there', restored, 'iptables-nft-restore'],
    ['iptables-nft -Z', '', 'iptables-nft', '-Z'],
    ['iptables-nft -R', '', 'iptables-nft', '-R', 'INPUT', '2', '-p', 'tcp', '--dport', '2222', '-j', 'ACCEPT'],
    ['iptables-nft -F FORWARD', '', 'iptables-nft', '-F', 'FORWARD'],
    ['iptables-nft -P', '', 'iptables-nft', '-P', 'FORWARD', 'DROP'],
    ['another reload', hostFirewall, 'nft', '-f', '-']
  ]
  for (const remove of [false, true]) {
    const nodes = [new GuardedNode(t), new GuardedNode(t)] as const
    for (const node of nodes) {
      node.runWith(hostFirewall, 'nft', '-f', '-')
      node.runWith(restored, 'iptables-nft-restore')
    }
    const [guarded, alone] = nodes
    await guarded.start({ backend: 'cgroup', remove })
    // without the empty tables that the guard owns
    const ruleset = (node: GuardedNode) =>
      node.run('nft', '-n', 'list', 'ruleset').output.replace(/^table \S+ \S+ {.*\n\tflags owner\n}\n/gm, '')
    t.match(ruleset(guarded), /dport 22 accept/)
    for (const [what, input, tool = '', ...args] of lines) {
      const results = nodes.map((node) => node.runWith(input, tool, ...args).status)
      t.same(results, [0, 0], `${what}: as without a guard`)
      await sleep(400) // longer than the guard waits for who it was
      t.equal(ruleset(guarded), ruleset(alone), `${what}: the same rules${remove ? ', guard.remove: true' : ''}`)
    }
    t.equal(guarded.events.filter(({ verdict }) => verdict === 'removed').length, 0)
    t.notOk(
      guarded.events.some(
        (event) => / -[ZF]\b/.test(event.arguments ?? '') || (event.message === 'NEWCHAIN' && event.arguments === null)
      ),
      'zeroing and flushing are not told'
    )
    await guarded.stop(true)
    t.equal(ruleset(guarded), ruleset(alone), 'and afterwards')
  }
})

t.test('[K11] [G11] guard.remove takes whole new tables on forwarding hooks away, and nothing else', async (t) => {
  const node = new GuardedNode(t)
  node.shell('nft add table inet before; nft add chain inet before c "{ type filter hook forward priority 0; }"')
  await node.start({
    backend: 'cgroup',
    remove: true,
    allow: { defaults: false, units: [], cgroups: [], executables: [] }
  })
  const table = (name: string, ...hooks: string[]) =>
    `table inet ${name} {\n${hooks.map((hook, at) => `chain c${at} { type filter hook ${hook} priority 0; policy drop;\ncounter accept\n}\n`).join('')}}\n`
  const cases: [what: string, text: string, verdict: 'removed' | 'appeared'][] = [
    ['a new table', table('a', 'forward'), 'removed'],
    ['two new tables', table('b1', 'forward') + table('b2', 'prerouting', 'postrouting'), 'removed'],
    ['the same one again', table('a', 'forward'), 'removed'],
    ['a chain on input beside it', table('d', 'forward', 'input'), 'appeared'],
    ['a chain on output', table('e', 'output'), 'appeared'],
    ['no base chain', 'table inet f { chain c { accept; }; }', 'appeared'],
    ['a rule in another table beside it', `${table('g', 'forward')}add rule inet before c accept\n`, 'appeared'],
    ['it replaces another one', `${table('h', 'input')}delete table inet h\n${table('h', 'forward')}`, 'appeared'],
    ['it flushes another one', `flush chain inet before c\n${table('i', 'forward')}`, 'appeared'],
    ['a rule in a table from before', 'add rule inet before c drop', 'appeared'],
    ['a chain in a table from before', 'add chain inet before d { type filter hook forward priority 1; }', 'appeared']
  ]
  for (const [what, text, verdict] of cases) {
    node.events.length = 0
    t.equal(node.runWith(text, 'nft', '-f', '-').status, 0)
    const event = await node.event(() => true, 2)
    t.match(event, { verdict, arguments: 'nft -f -' }, `${what}: ${verdict}`)
    const names = [...text.matchAll(/^table inet (\w+)/gm)].map((match) => match[1])
    const tables = node.run('nft', 'list', 'tables').output
    for (const name of names)
      t.equal(tables.includes(`inet ${name}\n`), verdict === 'appeared', `${what}: table ${name}`)
  }
})

t.test('[K11] tables are owned only while nobody exempt is there', async (t) => {
  const node = new GuardedNode(t)
  const unit = `${node.name}.service`
  const status = await node.start({
    backend: 'cgroup',
    allow: { defaults: false, units: [unit], cgroups: [], executables: [] }
  })
  const writes = () => node.run('iptables-nft', '-t', 'raw', '-A', 'OUTPUT', '-j', 'ACCEPT').status === 0
  t.match(status, { unownedFor: null, refuses: 'iptables writes', allowances: [{ name: unit, present: false }] })
  t.notOk(writes())
  const appeared = Date.now()
  const cgroup = new Container(t, node, cgroupRoot() ?? '', `/${node.name}.slice/${unit}`)
  await until('the tables to be given up', async () => (await node.status()).unownedFor !== null, 5000)
  t.ok(Date.now() - appeared < 1000, `${Date.now() - appeared} ms after its cgroup was made`)
  const given = await node.status()
  t.match(given, {
    unownedFor: `unit ${unit} (configuration)`,
    refuses: 'iptables-legacy writes',
    tables: [],
    why: /only reported: unit .* may write there/
  })
  t.equal(node.shell('nft list tables').output, '', 'nothing is left of them')
  t.equal(cgroup.run('', 'xtables-nft-multi', 'iptables', '-A', 'FORWARD', '-j', 'ACCEPT').status, 0)
  t.ok(writes(), 'others are reported')
  t.ok(await node.event(({ verdict, table }) => verdict === 'appeared' && table === 'raw'))
  t.equal(node.log.split('nf_tables writes are only reported').length, 2, 'logged once')
  node.run('nft', 'flush', 'ruleset')
  node.shell('nft delete table ip filter; nft delete table ip raw')
  await node.tell({ deny: { unit } })
  t.match(await node.status(), { unownedFor: null, refuses: 'iptables writes' }, 'owned again when the exemption goes')
  t.notOk(writes())
  await node.tell({ allow: { executable: '/usr/sbin/nft', seconds: 1 } })
  t.match(await node.status(), { unownedFor: 'executable /usr/sbin/nft (command)' })
  await until('the exemption to be over', async () => (await node.status()).unownedFor === null, 5000)
  t.notOk(writes())
})
