// What the daemon says is what it has checked: each failure is in the list of
// problems, in the exit status and in the metrics, and is tried again.

import { rmSync } from 'node:fs'
import t from 'tap'
import type { EnableResult, ReloadResult, VerifyReport } from '../../src/control/api.js'
import { attached, control, plain, servedLab, status } from '../forwarding/served.js'
import type { LabNode } from '../lab/node.js'
import { until } from '../lab/process.js'
import { loadForeign, tcx } from './foreign.js'

t.setTimeout(240_000)
const patience = 30_000
const codes = async (node: LabNode) => (await status(node)).problems.map(({ code }) => code)

t.test('a guard that cannot start: told, and started once it can', async (t) => {
  const node = (await servedLab(t, { pods: 1 }, { config: { guard: { mode: 'enforce' } } })).node(0)
  const { daemon } = node
  await daemon.json('disable', '--force')
  const inTheWay = `${daemon.pinDirectory}/guard`
  await node.run(['mkdir', '-p', daemon.pinDirectory])
  await node.run([
    'bpftool',
    'map',
    'create',
    inTheWay,
    'type',
    'array',
    'key',
    '4',
    'value',
    '4',
    'entries',
    '1',
    'name',
    'way'
  ])
  const enabled = await daemon.command(['enable'])
  t.equal(enabled.status, 0, 'traffic is served')
  t.match(enabled.stdout, /the guard does not run/)
  t.match(await status(node), {
    mode: 'degraded',
    guard: null,
    problems: [{ code: 'guard-not-running', affects: 'protection', nextTry: String }]
  })
  const text = await daemon.command(['status'])
  t.equal(text.status, 2)
  t.match(text.stdout, /Problems\n +protection +the guard does not run.*\n.*next try in/)
  t.match(
    await control(node).text('/v1/metrics'),
    /hostroute_problem\{code="guard-not-running",affects="protection"\} 1/
  )
  rmSync(inTheWay)
  await until('the guard runs', async () => (await status(node)).guard?.mode === 'enforce', patience)
  t.match(await status(node), { mode: 'enabled', problems: [] })
  t.match(daemon.log, /over: the guard does not run/)

  await node.run(['sh', '-c', `rm -rf ${daemon.pinDirectory}/guard`])
  await until('its pins are made again', async () => daemon.log.includes('it is started anew'), patience)
  await until('it refuses', async () => (await status(node)).guard?.refuses !== 'nothing', patience)

  await daemon.command(['guard', 'mode', 'audit'])
  await daemon.command(['reload'])
  t.match((await status(node)).guard, { mode: 'audit' }, 'a reload leaves what was said since')
})

t.test('no program can be attached: enable says so, and nothing stays', async (t) => {
  const lab = await servedLab(t, { pods: 1 })
  const node = lab.node(0)
  const { daemon } = node
  const devices = (await status(node)).hooks.map(({ device }) => device)
  await daemon.json('disable', '--force')
  for (let count = 0; count < 63; count++) {
    const { tc } = await loadForeign(lab, `foreign${count}`)
    for (const device of devices) await node.run(tcx(tc, device))
  }
  const refused = await daemon.command(['enable'])
  t.equal(refused.status, 2)
  t.match(refused.stdout, /no program could be attached to any of 2 devices; .*; nothing is attached/)
  t.equal((await attached(node)).length, 0)
  t.match(await status(node), { mode: 'disabled', problems: [] })
})

t.test('maps that cannot be written: told until they can', async (t) => {
  const node = (await servedLab(t, { pods: 1 })).node(0)
  const { daemon } = node
  await daemon.stop()
  await node.run(['bpftool', 'map', 'freeze', 'pinned', `${daemon.pinDirectory}/routes4`])
  await node.ip('route add blackhole 198.51.100.0/24')
  await daemon.start({ config: plain, waitReady: false })
  await until('it answers', async () => (await daemon.command(['status'])).stdout.includes('degraded'), patience)
  t.match(await status(node), { mode: 'degraded', problems: [{ code: 'maps-not-written', nextTry: String }] })
  const verify = (await control(node).get<VerifyReport>('/v1/verify')).value
  t.match(verify, { ok: false, differences: [{ map: 'all' }] })
  const first = (await status(node)).problems[0]?.nextTry
  await until('tried again', async () => (await status(node)).problems[0]?.nextTry !== first, patience)
  await daemon.json('disable', '--force')
  t.match(await daemon.json<EnableResult>('enable'), { done: true })
  t.match(await status(node), { mode: 'enabled', problems: [] }, 'new maps')
})

t.test('a route through a pod makes its device an uplink: that is said', async (t) => {
  const node = (await servedLab(t, { pods: 2 })).node(0)
  const device = (await status(node)).hooks.find(({ role }) => role === 'pod')?.device ?? ''
  const pod = node.pods.find(({ address }) => address) as LabNode['pods'][number]
  const name = (await node.run(['ip', '-o', 'route', 'get', pod.address.v4])).match(/dev (\S+)/)?.[1] ?? device
  await node.ip(`route add 198.51.100.0/24 via ${pod.address.v4} dev ${name} onlink`)
  await until('told', async () => (await codes(node)).includes('pod-is-uplink'), patience)
  t.match(await status(node), { mode: 'degraded', problems: [{ text: new RegExp(`^${name} was a pod's device`) }] })
  await node.ip('route del 198.51.100.0/24')
  await until('over', async () => (await codes(node)).length === 0, patience)
})

t.test('ports that cannot be written at a reload: told, and tried again', async (t) => {
  const node = (await servedLab(t, { pods: 1 })).node(0)
  const { daemon } = node
  await node.run(['bpftool', 'map', 'freeze', 'pinned', `${daemon.pinDirectory}/snat_ports`])
  daemon.writeConfig({ ...plain, snat: { ports: ['2000-3000'] } })
  const { stdout } = await daemon.command(['reload'])
  t.match(stdout, /the maps could not be written/)
  const first = (await status(node)).problems[0]?.nextTry
  await until('tried again', async () => (await status(node)).problems[0]?.nextTry !== first, patience)
  t.match(await status(node), { mode: 'degraded', problems: [{ code: 'maps-not-written' }] })
  process.kill(daemon.pid, 'SIGHUP')
  await until('by signal the same', () => daemon.log.includes('it could not be brought into force'), patience)
  t.match(await status(node), { mode: 'degraded' }, 'and it lives')
})

t.test('uplink.devices that names no device: that is said, at the reload and until it is corrected', async (t) => {
  const node = (await servedLab(t, { pods: 1 })).node(0)
  node.daemon.writeConfig({ ...plain, uplink: { devices: ['nosuch*'] } })
  const { value } = await control(node).post<ReloadResult>('/v1/reload')
  t.match(value, { ok: true, problems: [/uplink\.devices \(nosuch\*\) names no device/] })
  const { mode, problems } = await status(node)
  t.match({ mode, problems }, { mode: 'degraded', problems: [{ code: 'no-uplink', affects: 'traffic' }] })
  t.equal((await node.daemon.command(['status'])).status, 2)
  node.daemon.writeConfig(plain)
  t.match((await control(node).post<ReloadResult>('/v1/reload')).value, { ok: true, problems: [] })
  t.strictSame((await status(node)).problems, [])
})
