// The daemon is dead, or hangs: pods, snat and disable work from what it has pinned,
// and every request has a time limit.

import { existsSync, readFileSync, rmSync } from 'node:fs'
import t from 'tap'
import type { FlowList, FlowTop } from '../../src/control/flow-api.js'
import type { FromPins, PinnedDisabled, PinnedPodRow } from '../../src/control/pinned-api.js'
import { attached, control, plain, servedLab, status } from '../forwarding/served.js'
import { OUTSIDE } from '../lab/addresses.js'
import { faultsIn } from '../lab/fault-orders.js'
import { run, until } from '../lab/process.js'
import { ask, command, flowOf, goesOn, masquerade } from './dead.js'
import { large, reload, small } from './limits.js'

t.setTimeout(400_000)

const patience = 60_000
const nobody = ['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups']

t.test('a daemon that was killed: pods and snat are read from the pins', async (t) => {
  const node = (await servedLab(t, { pods: 2 })).node(0)
  const { daemon } = node
  await flowOf(node)
  const before = await daemon.json<PinnedPodRow[]>('pods')
  const live = (await control(node).get<FlowList>('/v1/flows', { verdict: 'snat' })).value.flows
  await daemon.kill('SIGKILL')

  const pods = await ask(node, 'pods')
  t.equal(pods.status, 2, pods.stderr)
  t.match(
    pods.stdout,
    /hostrouted is not running.*\nThis is what it has pinned\. Its programs, attached to 3 devices, go on forwarding for 4 pod addresses until .*Z \(\d+ s\)/
  )
  t.match(pods.stdout, /10\.244\.1\.2 +pod1 +[0-9a-f:]+ +\d+ +.*from_pod \(tcx\) +[1-9]\d* +forwarding\n/)
  const json = await ask(node, 'pods', '--json')
  t.match(json.stderr, /hostrouted is not running[\s\S]*the answer is what it has pinned/)
  const rows = JSON.parse(json.stdout) as PinnedPodRow[]
  t.match(rows, before, 'the keys are those of the daemon')
  for (const row of rows)
    t.match(row, { source: 'pins', forwarding: true, until: /Z$/, ready: true, programs: [{ name: 'from_pod' }] })

  const snat = await ask(node, 'snat')
  t.equal(snat.status, 2, snat.stderr)
  t.match(
    snat.stdout,
    /This is what it has pinned[\s\S]*\ntcp +10\.244\.1\.2:\d+ +192\.168\.100\.11:\d+ .*:7 +established/
  )
  const list = JSON.parse((await ask(node, 'snat', '--json')).stdout) as FlowList & FromPins
  t.match(list, { source: 'pins', forwarding: true, until: /Z$/, total: list.flows.length })
  for (const { podPort, natPort } of live)
    t.ok(
      list.flows.some((row) => row.podPort === podPort && row.natPort === natPort),
      'a flow with its port'
    )
  const top = await ask(node, 'snat', 'top')
  t.match(top.stdout, /This is what it has pinned[\s\S]*Pods by flows[\s\S]*10\.244\.1\.2 +pod1/)
  t.match(JSON.parse((await ask(node, 'snat', 'top', '--json')).stdout) as FlowTop, { source: 'pins', ports: Number })

  await node.ip('link del pod2')
  const gone = await ask(node, 'pods')
  t.match(gone.stdout, /10\.244\.1\.3 +- .*its device, number \d+, is gone\n/)
  await daemon.endLease()
  const ended = await ask(node, 'pods')
  t.match(
    ended.stdout,
    /leave all packets to the kernel[\s\S]*through the kernel: the programs are off, or their lease is over/
  )
  t.match(JSON.parse((await ask(node, 'pods', '--json')).stdout), [{ forwarding: false, until: null, ready: false }])
})

t.test('what cannot be known is said: rights, another network namespace, no pins', async (t) => {
  const node = (await servedLab(t, { pods: 1 })).node(0)
  const { daemon } = node
  await daemon.kill('SIGKILL')
  const elsewhere = await daemon.command(['pods'])
  t.match(elsewhere.stdout, /10\.244\.1\.2 +- .*not seen .*not known: device \d+ is in another network namespace/)
  const disable = await daemon.command(['disable', '--force'])
  t.equal(disable.status, 1)
  t.match(disable.stderr, /not running[\s\S]*another network namespace than the one this runs in/)
  t.equal((await attached(node)).length, 2, 'nothing has changed')

  rmSync(daemon.socket)
  for (const words of [['pods'], ['snat'], ['snat', 'top'], ['disable']]) {
    const refused = await node.exec([...nobody, process.execPath, command, '--socket', daemon.socket, ...words])
    t.match(refused, { status: 1, stdout: '', stderr: /not running[\s\S]*only root can do this/ }, words.join(' '))
  }
  await daemon.removeAfterKill()
  // what it had noted went with it
  const unknown = await ask(node, 'pods')
  t.match(unknown, { status: 1, stderr: /Where it pinned its maps is not known/ })
})

t.test('disable without the daemon: as it does it, and the next start stays disabled', async (t) => {
  const node = (await servedLab(t, { pods: 1 })).node(0)
  const { daemon } = node
  await daemon.kill('SIGKILL')
  const refused = await ask(node, 'disable')
  t.equal(refused.status, 2, refused.stderr)
  t.match(refused.stdout, /hostrouted is not running[\s\S]*Refused: pods would lose their way out.*--force/)
  t.equal((await attached(node)).length, 2, 'nothing has changed')
  t.notOk(existsSync(`${daemon.stateDirectory}/switch.json`))

  await node.run(['nft', '-f', '-'], { input: masquerade })
  const flow = await flowOf(node)
  const done = await ask(node, 'disable')
  t.equal(done.status, 0, done.stdout + done.stderr)
  t.match(
    done.stdout,
    /It was done without the daemon, .*\nhostroute is disabled.*\n1 connection through SNAT continues.*0 cannot/
  )
  t.equal((await attached(node)).length, 0)
  t.notOk(existsSync(daemon.pinDirectory))
  t.match(JSON.parse(readFileSync(`${daemon.stateDirectory}/switch.json`, 'utf8')), {
    enabled: false,
    configured: true
  })
  await goesOn(t, flow, 'a connection through SNAT goes on through the stack')

  const again = await ask(node, 'disable', '--json')
  t.match(JSON.parse(again.stdout) as PinnedDisabled, {
    done: true,
    mode: 'disabled',
    handedBack: null,
    source: 'pins'
  })
  await daemon.start({ config: plain, waitReady: false })
  await until('it answers', async () => (await ask(node, 'status')).stdout.includes('disabled'), patience)
  t.match(await status(node), { mode: 'disabled', why: /switched off by `hostroute disable`/ })
  t.match(await ask(node, 'enable'), { status: 0 })
})

t.test('disable without the daemon where the switch cannot be written says so first', async (t) => {
  const node = (await servedLab(t, { pods: 1 })).node(0)
  const { daemon } = node
  const { stateDirectory } = daemon
  await daemon.kill('SIGKILL')
  await run(['mount', '-t', 'tmpfs', '-o', 'ro', 'tmpfs', stateDirectory])
  t.teardown(() => run(['umount', stateDirectory]).catch(() => {}))
  const done = await ask(node, 'disable', '--force')
  t.equal(done.status, 2, done.stdout + done.stderr)
  t.match(
    done.stdout,
    /not running.*\n.*does not outlive the next start of the daemon: .*switch\.json could not be written \(EROFS.*\); make it writable.*\nIt was done without the daemon\.\nhostroute is disabled/
  )
  t.notMatch(done.stdout, /stays disabled when it starts/)
  t.strictSame(await attached(node), [])
  const again = await ask(node, 'disable', '--json')
  t.equal(again.status, 2)
  t.match(JSON.parse(again.stdout) as PinnedDisabled, { done: true, staysDisabled: false, why: /EROFS/ })
  await run(['umount', stateDirectory])
  t.match(await ask(node, 'disable'), { status: 0, stdout: /which stays disabled when it starts/ })
})

t.test('disable without the daemon leaves the rule of onDisable: masquerade', async (t) => {
  const config = { ...plain, onDisable: 'masquerade', guard: { mode: 'enforce' } }
  const node = (await servedLab(t, { pods: 1 }, { config })).node(0)
  const { daemon } = node
  const flow = await flowOf(node)
  await daemon.kill('SIGKILL')
  const done = await ask(node, 'disable')
  t.equal(done.status, 0, done.stdout + done.stderr)
  const rules = await node.run(['nft', 'list', 'table', 'inet', 'hostroute_egress'])
  t.match(rules, /ip daddr 10\.0\.0\.0\/8 return[\s\S]*meta nfproto ipv4 masquerade/)
  await goesOn(t, flow, 'what was open')
  t.equal((await node.pod(0).ping(OUTSIDE.v4, { count: 2 })).received, 2, 'what is new')
})

t.test('a daemon that hangs: every request ends, and nothing is taken from under it', async (t) => {
  const node = (await servedLab(t, { pods: 1 })).node(0)
  const { daemon } = node
  process.kill(daemon.pid, 'SIGSTOP')
  const pods = await ask(node, '--timeout', '1s', 'pods')
  t.equal(pods.status, 2, pods.stderr)
  t.match(pods.stdout, /did not answer on .* within 1 s[\s\S]*what it has pinned[\s\S]*forwarding\n/)
  t.match(await ask(node, '--timeout', '1s', 'snat'), { status: 2, stdout: /what it has pinned/ })
  for (const force of [[], ['--force']]) {
    const refused = await ask(node, '--timeout', '1s', 'disable', ...force)
    t.equal(refused.status, 1)
    t.match(refused.stderr, new RegExp(`hostrouted is alive \\(process ${daemon.pid}\\).*systemctl stop hostrouted`))
  }
  rmSync(`${daemon.runDirectory}/hostrouted.lock`)
  t.match(await ask(node, '--timeout', '1s', 'disable', '--force'), {
    status: 1,
    stderr: new RegExp(`process ${daemon.pid} has the maps in .* open`)
  })
  t.equal((await attached(node)).length, 2)
  const others = [
    ...[['status'], ['routes'], ['routes', 'get', '203.0.113.1'], ['nexthops'], ['neighbors'], ['drops'], ['metrics']],
    ...[['explain', '--from', '10.244.1.2', '--to', '203.0.113.1'], ['snat', 'policy'], ['monitor'], ['verify']],
    ...[['snat', 'delete', '--idle', '1h'], ['enable'], ['confirm'], ['reload'], ['guard', 'status'], ['version']]
  ]
  const outcomes = await Promise.all(others.map((words) => ask(node, '--timeout', '1s', ...words)))
  for (const [index, { status: exit, stdout, stderr }] of outcomes.entries()) {
    const words = others[index]?.join(' ') ?? ''
    t.match(stdout + stderr, /did not answer|does not answer/, words)
    t.equal(exit, words === 'version' ? 0 : 1, words)
  }
  process.kill(daemon.pid, 'SIGKILL')
})

t.test('in the middle of a change of maps what is read, and handed back, is what the programs use', async (t) => {
  const { order, environment } = faultsIn(t.testdir({}))
  const node = (await servedLab(t, { pods: 1 }, { config: { limits: small }, environment })).node(0)
  const { daemon } = node
  await node.run(['nft', '-f', '-'], { input: masquerade })
  const older = await flowOf(node)
  order({ fail: { label: 'openPinnedMap flows4', from: 2, once: false, code: 'ENOMEM' } })
  t.ok((await reload(node, large)).ok)
  t.ok(existsSync(`${daemon.pinDirectory}/next`))
  const younger = await flowOf(node)
  await daemon.kill('SIGKILL')
  const { flows } = JSON.parse((await ask(node, 'snat', '--json')).stdout) as FlowList
  t.equal(flows.filter(({ remotePort }) => remotePort === 7).length, 2, 'the flows of both')
  t.match((await ask(node, 'pods')).stdout, /It was replacing maps/)
  const removed = await daemon.remove()
  t.equal(removed.status, 0, removed.stdout + removed.stderr)
  t.match(removed.stdout, /2 connections through SNAT continue through the stack; 0 cannot/)
  await goesOn(t, older, 'a flow from before')
  await goesOn(t, younger, 'a flow that only the new maps have')
})
