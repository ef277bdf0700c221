// Programs of others on the same hooks, and others who remove ours.

import t from 'tap'
import { attached, counted, plain, servedLab, status } from '../forwarding/served.js'
import { OUTSIDE } from '../lab/addresses.js'
import { Lab } from '../lab/lab.js'
import type { LabNode } from '../lab/node.js'
import { run, until } from '../lab/process.js'
import { loadForeign, tcx } from './foreign.js'

async function served(node: LabNode): Promise<boolean> {
  const before = await counted(node, 'forwarded')
  const { received } = await node.pod(0).ping(OUTSIDE.v4, { count: 3, wait: 300 })
  return received === 3 && (await counted(node, 'forwarded')) >= before + 6
}

t.test('[L4] programs of others before and after ours go on, and so do ours', async (t) => {
  const lab = await Lab.create({ nodes: 1, pods: 1 })
  t.teardown(() => lab.close())
  const node = lab.node(0)
  const device = node.pod(0).hostDevice
  const foreign = await loadForeign(lab)
  await node.run(['tc', 'qdisc', 'add', 'dev', device, 'clsact'])
  await node.run(['tc', 'filter', 'add', 'dev', device, 'ingress', 'bpf', 'da', 'object-pinned', foreign.tc])
  await node.startDaemon({ config: { ...plain, uplink: { xdp: 'off' } } })
  t.ok(await served(node), 'beside a clsact filter that was there first')
  const attach = await node.exec(tcx(foreign.tc, 'up0'))
  if (attach.status === 0) {
    const before = await foreign.seen()
    t.ok(await served(node), 'beside a TCX program on the uplink that came later')
    // ours ends the chain for what it forwards; what it leaves to the stack is seen by the next
    await node.ping(OUTSIDE.v4, { count: 3 })
    t.ok((await foreign.seen()) >= before + 3, 'which still sees what goes to the stack')
  } else {
    t.match(attach.stderr, /not supported|Unknown|tcx/i, 'this bpftool or kernel has no TCX')
  }
  const names = await attached(node)
  t.strictSame(names.sort(), ['from_pod', 'from_uplink'])
  await node.stopDaemon()
  await node.startDaemon({ config: { ...plain, onStop: 'detach' } })
  t.ok(await served(node), 'after a restart')
  await node.stopDaemon()
  t.strictSame(await attached(node), [], 'ours are gone')
  const filters = await node.run(['tc', 'filter', 'show', 'dev', device, 'ingress'])
  t.match(filters, /foreign_tc/, 'the filter of others stays where it was')
  if (attach.status === 0) t.match(await node.run(['bpftool', 'net']), /foreign_tc/, 'the TCX program, too')
})

t.test('[L4] an XDP program of others on the uplink: ours gives way and says so', async (t) => {
  const lab = await Lab.create({ nodes: 1, pods: 1 })
  t.teardown(() => lab.close())
  const node = lab.node(0)
  const foreign = await loadForeign(lab)
  await node.run(['ip', 'link', 'set', 'dev', 'up0', 'xdpgeneric', 'object', foreign.object, 'section', 'xdp'])
  await node.startDaemon({ config: { ...plain, uplink: { xdp: 'generic' } } })
  t.match(node.daemon.log, /no XDP on up0/, 'said in the log')
  t.ok(await served(node), 'TC serves all the same')
  t.match(await node.run(['ip', 'link', 'show', 'dev', 'up0']), /xdpgeneric/, 'the foreign program is still there')
  t.strictSame((await attached(node)).sort(), ['from_pod', 'from_uplink'])
})

t.test('[L4] programs that somebody detaches are noticed, told and attached again', async (t) => {
  const lab = await servedLab(t, { pods: 2 }, { config: { verifyInterval: '1s' } })
  const node = lab.node(0)
  const links = await run(['sh', '-c', `ls ${node.daemon.pinDirectory}/links`])
  const pins = links
    .trim()
    .split('\n')
    .filter((name) => /^(from_pod|from_uplink)-/.test(name))
  if (pins.length > 0) {
    t.equal(pins.length, 3, 'TCX: a pinned link each')
    for (const name of pins)
      await run(['bpftool', 'link', 'detach', 'pinned', `${node.daemon.pinDirectory}/links/${name}`])
  } else {
    for (const device of ['up0', ...node.pods.map((pod) => pod.hostDevice)])
      await node.run(['tc', 'qdisc', 'del', 'dev', device, 'clsact'])
  }
  await until('attached again', async () => (await attached(node)).length === 3, 8_000)
  await until('served again', () => served(node), 5_000)
  t.match(node.daemon.log, /somebody detached/, 'said in the log')
  t.ok(
    (await status(node)).errors.some(({ text }) => /somebody detached/.test(text)),
    'and in status'
  )
  const { log } = node.daemon
  // a pin removed instead of a link detached: the link goes with it
  if (pins.length > 0) {
    const told = () => node.daemon.log.split('somebody detached').length
    const before = told()
    await run(['sh', '-c', `rm ${node.daemon.pinDirectory}/links/${pins[0]}`])
    await until('attached again', async () => (await attached(node)).length === 3 && told() > before, 8_000)
  }
  const quiet = node.daemon.log.length
  await until('two more turns', () => new Promise((resolve) => setTimeout(() => resolve(true), 2_500)))
  t.equal(node.daemon.log.slice(quiet), '', `nothing is said when nothing is wrong${log ? '' : '?'}`)
})
