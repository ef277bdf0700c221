// What the daemon knows only from disk: the switch, probation, the last good
// configuration; and what becomes of a refusal that passes.

import { existsSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import type { EnableResult, PodRow, ReloadResult } from '../../src/control/api.js'
import { STRUCTS } from '../../src/maps/layout.js'
import { native } from '../../src/native.js'
import { attached, control, plain, servedLab, status } from '../forwarding/served.js'
import { until } from '../lab/process.js'

t.setTimeout(240_000)
const patience = 60_000

t.test('probation outlives a killed daemon, and ends while none runs', async (t) => {
  const node = (await servedLab(t, { pods: 1 })).node(0)
  const { daemon } = node
  await daemon.json('disable', '--force')
  t.match(await daemon.json<EnableResult>('enable', '--confirm-within', '25s'), { done: true, confirmBefore: String })
  await daemon.kill('SIGKILL')
  await daemon.start({ config: plain })
  t.match(await status(node), { mode: 'enabled', confirmBefore: String }, 'still on probation')
  await until('undone', async () => (await attached(node)).length === 0, patience)
  t.match((await status(node)).why, /not confirmed in time/)

  t.match(await daemon.json<EnableResult>('enable', '--confirm-within', '5s'), { done: true })
  await daemon.kill('SIGKILL')
  t.equal((await attached(node)).length, 2, 'the programs are there')
  await new Promise((resolve) => setTimeout(resolve, 5_500))
  await daemon.start({ config: plain, waitReady: false })
  await until('it answers', async () => (await daemon.command(['status'])).stdout.includes('disabled'), patience)
  t.match((await status(node)).why, /not confirmed in time/, 'it had ended meanwhile')
  t.equal((await attached(node)).length, 0)

  t.match(await daemon.json<EnableResult>('enable', '--confirm-within', '60s'), { done: true })
  t.match(await daemon.json<EnableResult>('confirm'), { done: true, confirmBefore: null })
  await daemon.kill('SIGKILL')
  await daemon.start({ config: plain })
  t.match(await status(node), { mode: 'enabled', confirmBefore: null }, 'what was confirmed stays')
})

t.test('on probation the lease ends with it, so that the programs stop also without a daemon', async (t) => {
  const node = (await servedLab(t, { pods: 1 })).node(0)
  const lease = () => {
    const map = native().openPinnedMap(`${node.daemon.pinDirectory}/control`)
    const row = map.lookup(Buffer.alloc(4))
    map.close()
    return row?.readBigUInt64LE(STRUCTS.control.offset.lease) ?? 0n
  }
  const whole = lease()
  await node.daemon.json('enable', '--confirm-within', '60s')
  t.ok(lease() < whole, 'ten minutes shrink to little more than one')
  const { duration, until } = (await status(node)).lease
  t.equal(duration, 600, 'as configured')
  t.ok(Date.parse(until ?? '') < Date.now() + 90_000, `until ${until}`)
  await node.daemon.json('confirm')
  t.ok(lease() > whole, 'and the whole lease is back')
})

t.test(
  'the command outlives a crash, in both directions; the configuration counts when it changes later',
  async (t) => {
    const node = (await servedLab(t, { pods: 1 }, { config: { enabled: true } })).node(0)
    const { daemon } = node
    await daemon.json('disable', '--force')
    await daemon.kill('SIGKILL')
    // as after a reboot: nothing of the run directory but what was configured
    for (const name of ['clsact.json', 'hostrouted.lock']) rmSync(`${daemon.runDirectory}/${name}`, { force: true })
    await daemon.start({ config: plain, waitReady: false })
    await until(
      'it answers',
      async () => (await daemon.command(['status'])).stdout.includes('hostroute disable'),
      patience
    )
    t.equal((await attached(node)).length, 0)
    await daemon.stop()
    await daemon.start({ config: { ...plain, enabled: false }, waitReady: false })
    await until(
      'it answers',
      async () => (await daemon.command(['status'])).stdout.includes('enabled: false'),
      patience
    )
    t.match(await daemon.json<EnableResult>('enable'), { done: true })
    await daemon.kill('SIGKILL')
    await daemon.start({ config: { ...plain, enabled: false } })
    t.equal((await attached(node)).length, 2, 'enabled by command, in spite of enabled: false')
    await daemon.stop()
    await daemon.start({ config: { ...plain, enabled: true } })
    t.equal((await status(node)).mode, 'enabled')
  }
)

t.test('a switch that cannot be kept is told of', async (t) => {
  const node = (await servedLab(t, { pods: 1 })).node(0)
  const { stateDirectory } = node.daemon
  rmSync(stateDirectory, { recursive: true, force: true })
  writeFileSync(stateDirectory, 'in the way')
  t.match(await node.daemon.json<EnableResult>('disable', '--force'), { done: true, why: /does not outlive a restart/ })
  t.match((await status(node)).problems, [{ code: 'switch-not-kept', affects: 'observation' }])
  rmSync(stateDirectory)
  await node.daemon.json('enable')
  t.strictSame((await status(node)).problems, [])
  t.ok(existsSync(`${stateDirectory}/switch.json`))
})

t.test('pipes in the place of all files that are kept: the daemon starts, serves and ends', async (t) => {
  const node = (await servedLab(t, { pods: 1 })).node(0)
  const { daemon } = node
  const { stateDirectory, runDirectory } = daemon
  await daemon.kill('SIGKILL')
  const own = ['switch.json', 'guard.json', 'config.yaml', 'masquerade.json'].map((name) => `${stateDirectory}/${name}`)
  const others = ['directories.json', 'clsact.json', 'guard-holder.json'].map((name) => `${runDirectory}/${name}`)
  for (const path of [...own, ...others]) {
    rmSync(path, { force: true })
    await node.run(['mkfifo', path])
    await node.run(['mkfifo', `${path}.next`])
  }
  await daemon.start({ config: { ...plain, guard: { mode: 'enforce', backend: 'cgroup' } }, timeout: patience })
  const rows = (await status(node)).problems.filter(({ text }) => text.includes('is not a regular file'))
  t.strictSame(rows.map(({ code }) => code).sort(), ['guard-not-kept', 'switch-not-kept'])
  t.match(await daemon.json<EnableResult>('enable'), { done: true })
  t.notOk(
    (await status(node)).problems.some(({ code }) => code === 'switch-not-kept'),
    'the next word is kept'
  )
  t.ok(statSync(`${stateDirectory}/switch.json`).isFile())
  const before = performance.now()
  await daemon.stop()
  t.ok(performance.now() - before < 10_000, 'SIGTERM ends it')
  t.equal((await attached(node)).length, 2)
})

t.test('a wrong configuration at the start: the last good one is in force, and the status says so', async (t) => {
  const node = (await servedLab(t, { pods: 1 })).node(0)
  const { daemon } = node
  await daemon.stop()
  await daemon.start({ config: 'lease: 5 bananas\n' })
  t.match(await status(node), {
    mode: 'enabled',
    configuration: { error: /config\.yaml:1:8.*lease/ },
    problems: [{ code: 'configuration-not-valid' }]
  })
  t.match(daemon.log, /the last good configuration is in force/)
  const text = await daemon.command(['status'])
  t.equal(text.status, 0, 'it serves')
  t.match(text.stdout, /Problems\n.*observation .*bananas.*\n.*hostroute reload/)
  daemon.writeConfig(plain)
  t.match((await control(node).post<ReloadResult>('/v1/reload')).value, { ok: true })
  t.strictSame((await status(node)).problems, [])
})

t.test('refused at the start, then the reason goes: it is enabled without anybody’s help', async (t) => {
  const node = (await servedLab(t, { pods: 2 }, { timeout: patience })).node(0)
  const { daemon } = node
  await daemon.json('disable', '--force')
  await daemon.json('enable')
  await daemon.stop()
  await daemon.removeAfterKill()
  const forward = await node.run(['sysctl', '-n', 'net.ipv4.ip_forward'])
  t.equal(forward.trim(), '1')
  await node.run(['sysctl', '-qw', 'net.ipv4.ip_forward=0'])
  await daemon.start({ config: { ...plain, checks: 'refuse' }, waitReady: false })
  await until('it answers', async () => (await daemon.command(['status'])).stdout.includes('refused'), patience)
  const before = await status(node)
  t.match(before, { mode: 'disabled', why: /ip_forward/, problems: [{ code: 'not-enabled', nextTry: String }] })
  t.strictSame(
    await control(node)
      .get<PodRow[]>('/v1/pods')
      .then(({ value }) => value.map(({ ready }) => ready)),
    [false, false, false, false]
  )
  t.match((await daemon.command(['pods'])).stdout, /through the kernel: hostroute is disabled/)
  const verify = await daemon.command(['verify'])
  t.not(verify.status, 0)
  t.match(verify.stdout + verify.stderr, /hostroute is disabled: there are no maps to compare/)
  t.match(await daemon.command(['confirm']), { status: 2, stdout: /nothing to confirm: hostroute is disabled/ })
  const planned = async () => Date.parse((await status(node)).problems[0]?.nextTry ?? '')
  await until('the next try is far away', async () => (await planned()) > Date.now() + 15_000, patience)
  const next = await planned()
  await node.run(['sysctl', '-qw', 'net.ipv4.ip_forward=1'])
  await until('it is enabled', async () => (await status(node)).mode === 'enabled', patience)
  t.ok(Date.now() < next, 'it was not waited for the planned try')
  t.match(daemon.log, /over: not enabled/)
  await node.run(['sysctl', '-qw', 'net.ipv4.ip_forward=0'])
  await until('and what is set off later is a problem', async () => (await status(node)).mode === 'degraded', patience)
  t.match((await status(node)).problems, [{ code: 'forwarding-off', text: /net\.ipv4\.ip_forward is 0/ }])
  t.not((await daemon.command(['status'])).status, 0)
  await node.run(['sysctl', '-qw', 'net.ipv4.ip_forward=1'])
  t.strictSame((await status(node)).problems, [])
})

t.test('where nobody else masquerades, disable refuses unless it is forced', async (t) => {
  const node = (await servedLab(t, { pods: 1 })).node(0)
  const { daemon } = node
  const refused = await daemon.command(['disable'])
  t.equal(refused.status, 2)
  t.match(refused.stdout, /pods would lose their way out.*no rule of the kernel would.*--force/)
  t.equal((await attached(node)).length, 2, 'nothing has changed')
  await node.run(['nft', '-f', '-'], {
    input:
      'table ip kube-proxy {\nchain masquerading { meta mark & 0x4000 == 0 return; masquerade; }\nchain post { type nat hook postrouting priority 100; jump masquerading; }\n}\n'
  })
  t.equal((await daemon.command(['disable'])).status, 2, 'a rule for marked packets is none for pods')
  await node.run(['nft', '-f', '-'], {
    input:
      'table ip nat2 {\nchain post { type nat hook postrouting priority 100; ip daddr != 10.0.0.0/8 masquerade; }\n}\n'
  })
  const done = await daemon.command(['disable'])
  t.equal(done.status, 0, done.stdout)
  t.equal((await attached(node)).length, 0)
  t.match(readFileSync(`${daemon.stateDirectory}/switch.json`, 'utf8'), /"enabled":false/)
})

t.test('status says what the programs of a daemon that is gone still do', async (t) => {
  const node = (await servedLab(t, { pods: 1 })).node(0)
  const { daemon } = node
  const command = fileURLToPath(new URL('../../src/cli/main.js', import.meta.url))
  const ask = () =>
    node.exec([
      'env',
      `HOSTROUTE_PINS=${daemon.pinDirectory}`,
      process.execPath,
      command,
      '--socket',
      daemon.socket,
      'status'
    ])
  await daemon.kill('SIGKILL')
  const outcome = await ask()
  t.equal(outcome.status, 1)
  t.match(
    outcome.stderr,
    /hostrouted is not running[\s\S]*attached to 2 devices, go on forwarding for 2 pod addresses until .*Z \(\d+ s\)/
  )
  await daemon.endLease()
  t.match((await ask()).stderr, /leave all packets to the kernel: .*their lease is over/)
  await daemon.removeAfterKill()
  t.notMatch((await ask()).stderr, /Its programs/)
})
