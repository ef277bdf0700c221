// Runs in a test machine only (test/vm/suites.ts): the backends lsm and
// fmod_ret, which the build machine's kernel does not take: what a hook before
// nfnetlink can do. all-tools.ts has what holds with every backend.

import { execFileSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { batch, family, flag, message, nft } from '../../src/netfilter/nfnetlink.js'
import { treeRoot } from '../vm/kernels.js'
import {
  deleteRule,
  forbidden,
  harmless,
  hex,
  legacyTable,
  newBaseChain,
  newRule,
  newTable,
  unaligned,
  withLength
} from './batches.js'
import { hookTests } from './common.js'
import { GuardedNode, strongestBackend } from './support.js'

if (!process.env['HOSTROUTE_VM']) throw new Error('this test runs inside a test machine only: scripts/vm -- node FILE')

t.setTimeout(0) // the row of suites.ts limits it

const backend = strongestBackend()

hookTests(t, backend)

t.test(`[G1] [G2] [G3] ${backend}: the forbidden message stands anywhere in a batch`, async (t) => {
  const node = new GuardedNode(t)
  await node.start()
  const many = Array.from({ length: 300 }, () => harmless)
  for (const [what, forbiddenMessage] of Object.entries(forbidden)) {
    const results = node.write(
      hex(forbiddenMessage),
      hex(...many, forbiddenMessage),
      hex(unaligned(), unaligned(), forbiddenMessage, ...many),
      { request: forbiddenMessage.toString('hex') }
    )
    t.same(
      results,
      ['EPERM', 'EPERM', 'EPERM', 'EPERM'],
      `${what}: alone, after 300 others, after unaligned ones, without a batch`
    )
  }
  for (const of of ['inet', 'ip6', 'arp', 'bridge', 'netdev'] as const)
    t.same(node.write(hex(newTable(of))), ['EPERM'], `family ${of}`)
  const event = await node.event(({ position, message }) => position === 301 && message === 'NEWRULE')
  t.match(
    event,
    { table: 't', chain: 'c', family: 'ip', system: 'nftables', reason: 'write' },
    '[G9] named with its place'
  )
})

t.test(`[G2] ${backend}: what cannot be walked is refused as such`, async (t) => {
  const node = new GuardedNode(t)
  await node.start()
  const lying = (length: number) => ({
    request: Buffer.concat([batch([harmless]), withLength(harmless, length), newRule]).toString('hex')
  })
  t.same(node.write(lying(0), lying(8), lying(100_000), lying(0xffffffff)), ['EPERM', 'EPERM', 'EPERM', 'EPERM'])
  t.same(node.write(hex(message(99, family.ip, flag.create, []))), ['EPERM'], 'a message of a kernel to come')
  t.ok(await node.event(({ reason }) => reason === 'uninspectable'), 'the reason is told')
  const uninspectable = [legacyTable(5, 4)]
  t.same(node.write({ option: [0, 64, '00'] }, { option: [41, 64, uninspectable[0] ?? ''] }), ['EPERM', 'EPERM'])
})

t.test(`[G4] [G5] ${backend}: reading, resetting and deleting pass`, async (t) => {
  const node = new GuardedNode(t)
  await node.start()
  const get = { request: message(nft.getTable, 0, flag.dump, []).toString('hex') }
  t.same(
    node.write(get, hex(harmless), hex(...Array.from({ length: 500 }, () => deleteRule))),
    ['ok', 'answer 22', 'answer 2'],
    'they reach the kernel, which finds nothing to delete'
  )
  for (const line of ['iptables-nft -Z', 'nft flush ruleset', 'nft monitor & sleep 0.3; kill $!', 'conntrack -L'])
    t.match(node.shell(line), { status: 0 }, line)
  node.run('iptables-nft', '-F')
  t.equal((await node.status()).counts.refused, 0)
})

t.test(`[G5] ${backend}: iptables-nft -Z on chains that are there`, async (t) => {
  const node = new GuardedNode(t)
  node.shell('iptables-nft -N MINE; iptables-nft -A FORWARD -p tcp')
  await node.start()
  t.match(node.run('iptables-nft', '-Z'), { status: 0 })
  t.not(node.run('iptables-nft', '-P', 'FORWARD', 'DROP').status, 0, 'a policy is another thing')
})

t.test(`[G6] ${backend}: the socket's namespace counts, not the process's`, async (t) => {
  const node = new GuardedNode(t)
  await node.start()
  const legacy: [number, number, string] = [0, 64, legacyTable(5, 4)]
  const transaction = hex(newTable(), newBaseChain, newRule)
  const [batchElsewhere, legacyElsewhere] = node.write(
    { ...transaction, elsewhere: true },
    { option: legacy, elsewhere: true }
  )
  t.equal(batchElsewhere, 'ok', "a process of the node with its socket in a pod's namespace")
  t.not(legacyElsewhere, 'EPERM')
  const file = join(node.directory, 'batch')
  writeFileSync(file, Buffer.from(transaction.request, 'hex'))
  // Opened in the node, inherited by a process that has left it.
  const leave = `import { spawnSync } from 'node:child_process'; import { createRequire } from 'node:module'
    const socket = createRequire('/')(${JSON.stringify(join(treeRoot, 'build/native/hostroute.node'))}).openNetfilter(false)
    const { stderr } = spawnSync('unshare', ['--net', 'sh', '-c', 'cat ${file} >&3'], { stdio: ['ignore', 'ignore', 'pipe', socket.fd] })
    console.log(stderr.toString())`
  const script = join(node.directory, 'leave.mjs')
  writeFileSync(script, leave)
  t.match(
    node.run(process.execPath, script).output,
    /Operation not permitted/,
    'a socket of the node in a process that left it'
  )
})

t.test(`[G1] ${backend}: a 32-bit caller is refused`, async (t) => {
  const node = new GuardedNode(t)
  const program = join(node.directory, 'caller32')
  const source = join(treeRoot, 'test/guard/caller32.c')
  execFileSync('gcc', ['-m32', '-nostdlib', '-static', '-ffreestanding', '-O1', '-o', program, source])
  t.not(node.run(program).status, 1, 'not refused without a guard')
  await node.start()
  t.equal(node.run(program).status, 1, 'EPERM')
})

t.test(`[G1] ${backend}: nft from a file and interactively`, async (t) => {
  const node = new GuardedNode(t)
  await node.start()
  const ruleset =
    'table inet x {\nset s { type ipv4_addr; }\nchain a { }\nchain b { }\nchain c { type filter hook forward priority 0; policy drop; drop; }\n}\n'
  t.match(node.runWith(ruleset, 'nft', '-f', '-'), { status: 1, output: /Operation not permitted/ })
  t.match(node.runWith('add table ip shell\nquit\n', 'nft', '-i').output, /Operation not permitted/)
  t.equal(node.shell('nft list ruleset').output, '')
})
