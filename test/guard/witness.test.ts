// The witness of the backend cgroup: what the kernel itself refuses, or lets
// through, is named once, with who and what. Also run in the test
// machines, whose kernels have kprobes.
// Mostly waits: for rules to be noticed.

import { copyFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { GuardEventRow, GuardStatus } from '../../src/control/guard-api.js'
import type { GuardOptions } from '../../src/guard/guard.js'
import { until } from '../lab/process.js'
import { treeRoot } from '../vm/kernels.js'
import { deleteRule, hex, newTable } from './batches.js'
import { GuardedNode } from './support.js'

t.setTimeout(300_000)

const inMachine = process.env['HOSTROUTE_VM'] !== undefined
/** An emulated machine has time only for what depends on its kernel. */
function hereOnly(name: string, body: (t: Test) => Promise<void>): void {
  if (!inMachine) void t.test(name, body)
}

async function guarded(t: Test, options: Partial<GuardOptions> = {}): Promise<[GuardedNode, GuardStatus]> {
  const node = new GuardedNode(t)
  const status = await node.start({ backend: 'cgroup', ...options })
  return [node, status]
}

/** What was told of nf_tables since the list was emptied, after a write that is told of last. */
async function eventsOf(node: GuardedNode): Promise<GuardEventRow[]> {
  node.run('iptables-legacy', '-t', 'raw', '-A', 'OUTPUT', '-j', 'ACCEPT')
  await until('the last write to be told', () => node.events.some(({ table }) => table === 'raw'), 10_000)
  return node.events.splice(0).filter(({ table }) => table !== 'raw')
}

const restored = '*filter\n-A FORWARD -s 10.0.0.1 -j DROP\n-A INPUT -s 10.0.0.2 -j DROP\nCOMMIT\n'
const onOwned = 'add chain ip filter mine\nadd rule ip filter mine drop\n'

interface Attempt {
  line: string
  input?: string
  event: Partial<GuardEventRow>
}

const attempts: Attempt[] = [
  {
    line: 'iptables-nft -A FORWARD -s 10.0.0.1 -j DROP',
    event: { family: 'ip', table: 'filter', chain: 'FORWARD', message: 'NEWCHAIN', command: 'iptables-nft' }
  },
  { line: 'iptables-nft -P FORWARD DROP', event: { family: 'ip', table: 'filter', chain: 'FORWARD' } },
  { line: 'iptables-nft -t nat -N MINE', event: { family: 'ip', table: 'nat', chain: 'MINE', message: 'NEWCHAIN' } },
  { line: 'ip6tables-nft -A FORWARD -j DROP', event: { family: 'ip6', table: 'filter', chain: 'FORWARD' } },
  { line: 'ebtables-nft -A FORWARD -j DROP', event: { family: 'bridge', table: 'filter', chain: 'FORWARD' } },
  { line: 'arptables-nft -A INPUT -j DROP', event: { family: 'arp', table: 'filter', chain: 'INPUT' } },
  { line: 'iptables-nft-restore --noflush', input: restored, event: { family: 'ip', table: 'filter' } },
  { line: 'nft -f -', input: onOwned, event: { family: 'ip', table: 'filter', chain: 'mine', position: 1 } },
  {
    // equal attempts within a second would be summed up
    line: 'nft -f - # another table first',
    input: `add table inet other\n${onOwned.replaceAll('mine', 'other')}`,
    event: { family: 'ip', table: 'filter', chain: 'other', position: 2 }
  }
]

t.test('[G1] [G9] what an owned table refuses is named once, with who and what', async (t) => {
  const [node, { witness }] = await guarded(t)
  if (inMachine) t.same(witness, { name: 'kprobe', why: null }, 'the strongest one')
  t.ok(witness?.name, `seen by ${witness?.name}`)
  const tried = inMachine ? attempts.filter((_, index) => [0, 6, 8].includes(index)) : attempts
  for (const { line, input = '', event } of tried) {
    const words = (line.split(' #')[0] ?? '').split(' ')
    const { status } = node.runWith(input, words[0] ?? '', ...words.slice(1))
    const events = await eventsOf(node)
    t.not(status, 0, `${line}: refused`)
    t.equal(events.length, 1, `${line}: told once`)
    t.match(events[0], { ...event, verdict: 'refused', backend: 'cgroup', system: 'nftables', uid: 0, repeated: 1 })
    t.equal(events[0]?.arguments, words.join(' '))
    t.match(events[0]?.executable, /(xtables-nft-multi|nft)$/)
    t.ok((events[0]?.pid ?? 0) > 0 && events[0]?.cgroup, 'process and cgroup')
  }
  t.equal((await node.status()).counts.refused, 2 * tried.length, 'counted, with the legacy writes between them')
})

hereOnly('[G4] [G9] what reads, resets or removes is not told', async (t) => {
  const [node] = await guarded(t)
  for (const tool of ['iptables-nft', 'ip6tables-nft'])
    for (const args of ['-L', '-S', '-Z', '-X', '-F', '-t nat -L']) node.run(tool, ...args.split(' '))
  node.shell('iptables-nft-save; nft list ruleset; nft flush ruleset; conntrack -L; conntrack -F')
  node.write(hex(deleteRule))
  t.same(await eventsOf(node), [])
})

t.test('[G9] [G11] what nothing refuses in other tables names the process, also one that is gone', async (t) => {
  const [node] = await guarded(t)
  const ruleset = 'table inet x { chain c { type filter hook forward priority 0; policy drop; drop; }; }'
  t.equal(node.runWith(ruleset, 'nft', '-f', '-').status, 0)
  await until('it to be reported', () => node.events.length > 0, 10_000)
  const events = await eventsOf(node)
  t.equal(events.length, 1, 'told once')
  t.match(events[0], {
    verdict: 'appeared',
    backend: 'cgroup',
    family: 'inet',
    table: 'x',
    chain: 'c',
    message: 'NEWRULE',
    uid: 0,
    arguments: 'nft -f -',
    executable: /nft$/
  })
  t.match(node.run('nft', 'list', 'tables').output, /inet x/, 'and stays')
})

hereOnly("[G6] the socket's namespace counts; every way to write is seen", async (t) => {
  const [node] = await guarded(t)
  const pod = new GuardedNode(t)
  const transaction = hex(newTable('ip', 'filter'))
  pod.run('iptables-nft', '-A', 'FORWARD', '-j', 'DROP')
  node.write({ ...transaction, elsewhere: true })
  t.same(await eventsOf(node), [], 'neither a pod nor a socket of one')

  t.match(node.write(transaction), ['answer 1'], 'send(2), without an address')
  const [sent] = await eventsOf(node)
  t.match(sent, { verdict: 'refused', table: 'filter', message: 'NEWTABLE', position: 1 })

  const file = join(node.directory, 'batch')
  writeFileSync(file, Buffer.from(transaction.request, 'hex'))
  const leave = `import { spawnSync } from 'node:child_process'; import { createRequire } from 'node:module'
    const socket = createRequire('/')(${JSON.stringify(join(treeRoot, 'build/native/hostroute.node'))}).openNetfilter(false)
    spawnSync('unshare', ['--net', 'sh', '-c', 'cat ${file} >&3'], { stdio: ['ignore', 'ignore', 'ignore', socket.fd] })`
  const script = join(node.directory, 'leave.mjs')
  writeFileSync(script, leave)
  node.run(process.execPath, script)
  t.match(
    await eventsOf(node),
    [{ verdict: 'refused', command: 'cat', repeated: 1 }],
    'write(2), from another namespace'
  )
})

hereOnly('[G9] [G12] a flood is summed up, and all of it is counted', async (t) => {
  const [node] = await guarded(t)
  t.match(node.write({ ...hex(newTable('ip', 'filter')), times: 200 }), ['answer 1'])
  const all = async () => (await node.status()).counts
  t.equal((await all()).refused, 200)
  const told = () => node.events.reduce((sum, { repeated }) => sum + repeated, 0)
  await until('all to be told', async () => told() + (await all()).lost === 200, 10_000)
  t.ok(node.events.length < 100, `in ${node.events.length} rows`)
})

hereOnly('[G7] [G8] audit and exemptions, for processes that are gone at once', async (t) => {
  const [node] = await guarded(t, { mode: 'audit' })
  const own = join(node.directory, 'my-nft')
  copyFileSync('/usr/sbin/nft', own)
  t.equal(node.run('iptables-nft', '-A', 'FORWARD', '-j', 'ACCEPT').status, 0)
  t.match(await eventsOf(node), [{ verdict: 'audited', table: 'filter', arguments: /-A FORWARD/, repeated: 1 }])
  node.run('nft', 'flush', 'ruleset')
  await node.mode('enforce')
  await node.tell({ allow: { executable: own } })
  t.equal(node.runWith(`add table ip filter\n${onOwned}`, own, '-f', '-').status, 0, 'a name that was owned before')
  t.equal(node.runWith('add table inet mine', own, '-f', '-').status, 0)
  const exemption = `executable ${own} (command)`
  t.match(await eventsOf(node), [{ verdict: 'exempt', table: 'filter', executable: own, exemption }])
  t.match(node.run('nft', 'list', 'tables').output, /inet mine/, 'and it stays')
  await node.tell({ deny: { executable: own } })
  node.runWith('add table inet gone', own, '-f', '-')
  await until('it to be reported', () => node.events.length > 0, 10_000)
  t.match(
    await eventsOf(node),
    [{ verdict: 'appeared', table: 'gone', executable: own, exemption: null }],
    'taken back'
  )
  t.equal((await node.status()).counts.exempt, 2)
})

hereOnly('[G10] what is tried while no daemon runs is told by the next one', async (t) => {
  const [node] = await guarded(t)
  await node.kill()
  t.not(node.run('iptables-nft', '-A', 'FORWARD', '-j', 'DROP').status, 0)
  await node.start({ backend: 'cgroup' })
  t.ok(await node.event(({ verdict, command }) => verdict === 'refused' && command === 'iptables-nft', 10))
  node.events.length = 0
  await node.mode('off')
  t.equal(node.run('iptables-nft', '-A', 'FORWARD', '-j', 'DROP').status, 0)
  await node.mode('enforce')
  t.same(await eventsOf(node), [], 'nothing while it is off')
})
