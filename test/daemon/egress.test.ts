// `onDisable: masquerade`: pods keep their egress when hostroute goes, and the
// rule that does it goes when hostroute comes back.

import t from 'tap'
import type { EnableResult } from '../../src/control/api.js'
import { plain, servedLab, status } from '../forwarding/served.js'
import { OUTSIDE } from '../lab/addresses.js'
import { NOT_MASQUERADED } from '../lab/netfilter.js'
import type { LabNode } from '../lab/node.js'
import { until } from '../lab/process.js'

t.setTimeout(240_000)
const patience = 60_000
const kept = { ...plain, onDisable: 'masquerade' }
const tables = (node: LabNode) => node.run(['nft', 'list', 'tables'])
const egress = /table inet hostroute_egress/

/** true: the world answers a pod by both families. */
async function reaches(node: LabNode): Promise<boolean> {
  const answers = await Promise.all(
    [OUTSIDE.v4, OUTSIDE.v6].map((to) => node.pod(0).exec(['ping', '-c', '2', '-W', '2', '-i', '0.2', to]))
  )
  return answers.every(({ status }) => status === 0)
}

t.test('disable leaves a rule that masquerades, enable takes it away', async (t) => {
  const node = (await servedLab(t, { pods: 2 }, { config: { ...kept, guard: { mode: 'enforce' } } })).node(0)
  const { daemon } = node
  t.ok(await reaches(node))
  t.notMatch(await tables(node), egress)
  t.match(await daemon.json<EnableResult>('disable'), { done: true, mode: 'disabled' }, 'no --force is needed')
  t.ok(await reaches(node), 'the kernel masquerades')
  const rules = await node.run(['nft', 'list', 'table', 'inet', 'hostroute_egress'])
  t.match(rules, /ip daddr 10\.0\.0\.0\/8 return/)
  t.match(rules, /meta nfproto ipv4 masquerade/)
  t.equal((await node.pod(0).exec(['ping', '-c', '1', '-W', '2', node.pod(1).address.v4])).status, 0)

  await daemon.stop()
  await daemon.start({ config: kept, waitReady: false })
  await until('it answers', async () => (await daemon.command(['status'])).stdout.includes('disabled'), patience)
  t.ok(await reaches(node), 'also after a restart')

  t.match(await daemon.json<EnableResult>('enable'), { done: true })
  t.notMatch(await tables(node), egress)
  t.ok(await reaches(node))
})

t.test('probation that ends, and a start that is refused', async (t) => {
  const node = (await servedLab(t, { pods: 1 }, { config: kept })).node(0)
  const { daemon } = node
  t.match(await daemon.json<EnableResult>('disable'), { done: true })
  t.match(await daemon.json<EnableResult>('enable', '--confirm-within', '5s'), { done: true })
  t.notMatch(await tables(node), egress)
  await until('undone', async () => (await status(node)).mode === 'disabled', patience)
  t.match(await tables(node), egress)
  t.ok(await reaches(node))

  await daemon.stop()
  await node.run(['nft', 'delete', 'table', 'inet', 'hostroute_egress'])
  await node.run(['sysctl', '-qw', 'net.ipv6.conf.all.forwarding=0'])
  await daemon.removeAfterKill()
  await daemon.start({ config: { ...kept, checks: 'refuse' }, waitReady: false })
  await until('the rule is there', async () => egress.test(await tables(node)), patience)
})

t.test('while disabled the table follows the policy, comes again, and is not written where it is right', async (t) => {
  const node = (await servedLab(t, { pods: 1 }, { config: kept })).node(0)
  const { daemon } = node
  const table = () => node.exec(['nft', '-a', 'list', 'table', 'inet', 'hostroute_egress']).then(({ stdout }) => stdout)
  /** Another one each time that the table is made. */
  const handle = async () => /hostroute_egress \{ # handle (\d+)/.exec(await table())?.[1]
  t.match(await daemon.json<EnableResult>('disable'), { done: true })
  t.notMatch(await table(), /198\.51\.100/)
  daemon.writeMasquerade({ nonMasqueradeCIDRs: [...NOT_MASQUERADED, '198.51.100.0/24'] })
  await until('it follows the file', async () => /198\.51\.100\.0\/24 return/.test(await table()), patience)
  await node.run(['nft', 'delete', 'table', 'inet', 'hostroute_egress'])
  await until('it comes again', async () => /198\.51\.100\.0\/24 return/.test(await table()), patience)
  await node.run(['nft', 'flush', 'table', 'inet', 'hostroute_egress'])
  await until('its rules, too', async () => /198\.51\.100\.0\/24 return/.test(await table()), patience)
  const made = await handle()
  t.ok(made)
  await node.run(['nft', 'add', 'table', 'ip', 'other'])
  await new Promise((resolve) => setTimeout(resolve, 6_000))
  t.equal(await handle(), made, 'rules of others are no reason')
  t.ok(await reaches(node))

  // a start that is refused is tried again, and the table stays as it is
  await daemon.stop()
  await node.run(['sysctl', '-qw', 'net.ipv6.conf.all.forwarding=0'])
  await node.run(['nft', 'delete', 'table', 'inet', 'hostroute_egress'])
  t.equal((await daemon.remove()).status, 0)
  await daemon.start({ config: { ...kept, checks: 'refuse' }, waitReady: false })
  await until('the table is there', async () => (await handle()) !== undefined, patience)
  const first = await handle()
  const nextTry = async () => (await status(node)).problems.find(({ code }) => code === 'not-enabled')?.nextTry
  const planned = await nextTry()
  await until('it has been tried again', async () => (await nextTry()) !== planned, patience)
  await new Promise((resolve) => setTimeout(resolve, 1_000))
  t.equal(await handle(), first)
})

t.test('--remove takes the table away, and says so before pods lose their way out', async (t) => {
  const node = (await servedLab(t, { pods: 1 }, { config: kept })).node(0)
  const { daemon } = node
  t.match(await daemon.json<EnableResult>('disable'), { done: true })
  await daemon.stop()
  const refused = await daemon.remove()
  t.equal(refused.status, 2)
  t.match(
    refused.stdout + refused.stderr,
    /lose their way out: the nft table inet hostroute_egress masquerades them and goes, and no rule .*--force/
  )
  t.match(await tables(node), egress)
  t.ok(await reaches(node))
  // where others masquerade there is nothing to lose
  await node.run([
    'nft',
    'add table ip other; add chain ip other p { type nat hook postrouting priority 110; }; add rule ip other p oifname up0 masquerade'
  ])
  const removed = await daemon.remove()
  t.equal(removed.status, 0, removed.stderr)
  t.match(removed.stdout + removed.stderr, /removed.*the nft table inet hostroute_egress.*onDisable: masquerade/)
  t.notMatch(await tables(node), egress)
  await node.run(['nft', 'delete', 'table', 'ip', 'other'])

  await daemon.start({ config: kept, timeout: patience })
  t.match(await daemon.json<EnableResult>('disable'), { done: true })
  await daemon.stop()
  t.equal((await daemon.remove('--force')).status, 0)
  t.notMatch(await tables(node), egress)

  // of one that was killed while it forwarded
  await daemon.start({ config: kept, timeout: patience })
  await daemon.kill('SIGKILL')
  const killed = await daemon.remove()
  t.equal(killed.status, 2)
  t.match(killed.stdout + killed.stderr, /lose their way out.*--force; onDisable: masquerade is for hostroute disable/)
  t.equal((await daemon.remove('--force')).status, 0)
})

t.test('where the rule cannot be written, disable is refused', async (t) => {
  const node = (await servedLab(t, { pods: 1 }, { config: kept })).node(0)
  const { daemon } = node
  // a table of this name that belongs to a process
  const owner = node.start(['nft', '-i'])
  owner.child.stdin?.write('add table inet hostroute_egress { flags owner; }\n')
  await until('it is there', async () => egress.test(await tables(node)), patience)
  const refused = await daemon.command(['disable'])
  t.equal(refused.status, 2)
  t.match(
    refused.stdout + refused.stderr,
    /could not be told to masquerade \(onDisable: masquerade\): .*not permitted/s
  )
  t.match(await status(node), { mode: 'degraded', problems: [{ code: 'egress-not-left' }] })
  t.ok(await reaches(node), 'hostroute goes on')
  t.match(await daemon.json<EnableResult>('disable', '--force'), { done: true })
  await owner.stop()
})
