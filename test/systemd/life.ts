// hostrouted as a system service, from installation to removal. Runs inside a
// test machine (its row in test/vm/suites.ts) and changes that machine's own first
// network namespace: never run it anywhere else.

import { existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { readPing } from '../lab/host.js'
import { type Background, exec, type Outcome, run, sleep, until } from '../lab/process.js'
import { makePods, type NodePods } from './pods.js'
import * as service from './service.js'
import {
  configFile,
  configure,
  hostroute,
  hostrouteAs,
  journal,
  patience,
  restarted,
  show,
  systemctl
} from './service.js'

if (!process.env['HOSTROUTE_VM']) throw new Error('this changes the machine it runs on: run scripts/test vm/suites')

const tree = fileURLToPath(new URL('../../../../', import.meta.url))
const untimed = { timeout: 0, bail: false }
t.setTimeout(0)

const net: NodePods = await makePods()
const [one, two] = net.pods
await net.outside.echo(7)
await run(['modprobe', 'sch_ingress'])
/** An emulated machine beside a busy one may take longer than a real one is given. */
const dropIns = '/run/systemd/system/hostrouted.service.d'
mkdirSync(dropIns, { recursive: true })
writeFileSync(`${dropIns}/slow.conf`, '[Service]\nTimeoutStartSec=600s\n')
const untouched = await service.snapshot()

const script = (name: string, ...words: string[]) =>
  exec([`${tree}scripts/${name}`, ...words], { timeout: 2 * patience })

/** Pings and a SNATed TCP flow that go on while `action` runs; what was lost. */
async function traffic(action: () => Promise<unknown>) {
  const start = (address: string) => one.startPing(address, { interval: 100, wait: 5_000 })
  const pings: Background[] = [two.address.v4, two.address.v6, net.outsideAddress.v4, net.outsideAddress.v6].map(start)
  const flow = await one.flow({ protocol: 'tcp', address: net.outsideAddress.v4, port: 7, interval: 100 })
  await sleep(1_000)
  await action()
  await sleep(1_000)
  for (const ping of pings) await ping.stop('SIGINT')
  const reports = pings.map((ping) => readPing(ping.stdout, 2))
  const report = await flow.finish()
  return {
    sent: Math.min(...reports.map(({ sent }) => sent)),
    lost: reports.flatMap(({ lost }) => lost),
    flow: { unanswered: report.sent - report.received, error: report.error }
  }
}

const nothingLost = { lost: [], flow: { unanswered: 0, error: null } }

t.test('install --now: files, group, unit, and the service runs', untimed, async (t) => {
  const outcome = await script('install', '--now')
  t.equal(outcome.status, 0, outcome.stderr)
  t.comment(outcome.stdout)
  t.equal(await show('ActiveState'), 'active')
  t.equal(await show('UnitFileState'), 'enabled')
})

t.test('systemctl status, and what the service may do', untimed, async (t) => {
  const { stdout, status } = await systemctl('status', '--no-pager', '-l', 'hostrouted')
  t.equal(status, 0)
  t.comment(stdout)
  t.match(stdout, /hostrouted\.service - eBPF host routing of this node's pods \(hostroute\)\n/)
  t.match(stdout, /Loaded: loaded \(\S+\/hostrouted\.service; enabled/)
  t.match(stdout, /Active: active \(running\)/)
  t.match(stdout, /hostrouted\[\d+\]: node: (routing by eBPF|took over)/, 'its own words stand under its own name')
  const facts = readFileSync(`/proc/${await show('MainPID')}/status`, 'utf8')
  // NET_ADMIN, NET_RAW, SYS_PTRACE, SYS_ADMIN, PERFMON, BPF
  const bits = [12n, 13n, 19n, 21n, 38n, 39n].reduce((all, bit) => all | (1n << bit), 0n)
  const expected = bits.toString(16).padStart(16, '0')
  t.match(facts, new RegExp(`CapEff:\\t${expected}\\n`))
  t.match(facts, /NoNewPrivs:\t1\n/)
  t.match(facts, /Seccomp:\t2\n/)
  const resident = Number(/VmRSS:\s+(\d+)/.exec(facts)?.[1]) / 1024
  t.comment(`resident ${resident.toFixed(1)} MB`)
  const answer = JSON.parse((await hostroute('status', '--json')).stdout) as { mode: string; detour: object }
  t.equal(answer.mode, 'enabled')
  t.match(answer.detour, { device: 'hostroute0', why: null }, 'of all devices it may use /dev/net/tun')
  t.equal(await show('DevicePolicy'), 'closed')
  // ProtectClock= adds the clock, for reading
  t.strictSame((await show('DeviceAllow')).split('\n').sort(), ['/dev/net/tun rw', 'char-rtc r'])
  t.equal(await service.attached(), 3)
})

t.test('journalctl -u: sentences with priority, under its own name', untimed, async (t) => {
  const own = (await journal()).filter(({ SYSLOG_IDENTIFIER }) => SYSLOG_IDENTIFIER === 'hostrouted')
  t.ok(own.length > 3, `${own.length} lines`)
  for (const line of own) {
    t.match(line, { PRIORITY: /^[2-7]$/, _SYSTEMD_UNIT: 'hostrouted.service' })
    t.notMatch(line.MESSAGE, /^<\d>/, line.MESSAGE)
  }
  t.ok(own.some(({ MESSAGE, PRIORITY }) => MESSAGE.startsWith('node: routing by eBPF: ') && PRIORITY === '6'))
})

t.test('[L9] the unit is sound, and the kubelet starts only once the programs are attached', untimed, async (t) => {
  const verify = await exec(['systemd-analyze', 'verify', 'hostrouted.service'], { timeout: patience })
  t.equal(verify.status, 0)
  t.notMatch(verify.stdout + verify.stderr, /hostrouted/)
  const [before, after] = [(await show('Before')).split(' '), (await show('After')).split(' ')]
  for (const unit of ['kubelet.service', 'k3s.service', 'k3s-agent.service', 'multi-user.target'])
    t.ok(before.includes(unit), `before ${unit}`)
  for (const unit of ['systemd-sysctl.service', 'network-pre.target']) t.ok(after.includes(unit), `after ${unit}`)
  // One transaction, as at boot: two words of one `systemctl start` would be two.
  const [kubelet, boot] = ['/run/systemd/system/kubelet.service', '/run/systemd/system/boot.target']
  writeFileSync(boot, '[Unit]\nWants=kubelet.service hostrouted.service\n')
  writeFileSync(
    kubelet,
    '[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -c "bpftool -j net > /run/seen-by-kubelet"\n'
  )
  configure('onStop: detach\n')
  await systemctl('daemon-reload')
  t.match(await systemctl('reload', 'hostrouted'), { status: 0 })
  await systemctl('stop', 'hostrouted')
  t.equal(await service.attached(), 0)
  t.match(await systemctl('start', 'boot.target'), { status: 0 })
  await until('the kubelet has run', () => existsSync('/run/seen-by-kubelet'), patience, 200)
  t.match(readFileSync('/run/seen-by-kubelet', 'utf8'), /from_pod.*from_pod/s)
  await systemctl('stop', 'kubelet', 'boot.target')
  rmSync(kubelet)
  rmSync(boot)
  rmSync('/run/seen-by-kubelet')
  configure('')
  await systemctl('daemon-reload')
  t.match(await systemctl('reload', 'hostrouted'), { status: 0 })
})

t.test('the socket: the group reads, root changes, nobody else comes in', untimed, async (t) => {
  const group = service.groupId('hostroute') ?? -1
  const { mode, uid, gid } = statSync('/run/hostroute/control.sock')
  t.strictSame([(mode & 0o7777).toString(8), uid, gid], ['660', 0, group])
  const member = await hostrouteAs([group], 'status', '--json')
  t.equal(member.status, 0, member.stderr)
  const change = await hostrouteAs([group], 'disable')
  t.equal(change.status, 1)
  t.match(change.stderr, /changing the node needs root: run the command with sudo/)
  t.equal(await service.attached(), 3)
  const stranger = await hostrouteAs([], 'status')
  t.equal(stranger.status, 1)
  t.match(stranger.stderr, /permission denied on \/run\/hostroute\/control.sock: use sudo, or join the group hostroute/)
})

t.test('[L7] without rights it refuses in one sentence and with status 2', untimed, async (t) => {
  const user = ['setpriv', '--reuid', '4242', '--regid', '4242', '--clear-groups', '--']
  const outcome = await exec([...user, 'hostrouted', '--run-directory', '/tmp/run'], { timeout: patience })
  t.equal(outcome.status, 2)
  t.match(
    outcome.stdout + outcome.stderr,
    /lacks CAP_NET_ADMIN, CAP_BPF, CAP_PERFMON: start it as root or by its systemd unit/
  )
})

t.test('[L7] a second daemon is refused with status 2, and the first goes on', untimed, async (t) => {
  const second = await exec(['hostrouted'], { timeout: patience })
  t.equal(second.status, 2)
  t.match(second.stdout + second.stderr, /another hostrouted already runs with \/run\/hostroute/)
  const remove = await exec(['hostrouted', '--remove'], { timeout: patience })
  t.equal(remove.status, 2, '--remove does not take the ground from under it')
  t.equal(await service.attached(), 3)
})

t.test('[L1] kill -9: systemd starts it again, and no ping and no flow notices', untimed, async (t) => {
  const from = await service.mark()
  const pid = await show('MainPID')
  const result = await traffic(async () => {
    await systemctl('kill', '-s', 'KILL', '--kill-who=main', 'hostrouted')
    await restarted(pid)
  })
  t.match(result, nothingLost, `${result.sent} pings each`)
  t.equal(await show('NRestarts'), '1')
  t.ok((await journal(...from)).some(({ MESSAGE }) => MESSAGE.includes('took over the running datapath')))
})

t.test('[G10] the guard refuses under the service, while it is dead, and after its restart', untimed, async (t) => {
  const add = () => exec(['iptables', '-A', 'INPUT', '-p', 'tcp', '--dport', '9', '-j', 'DROP'], { timeout: patience })
  const refused = (t: Test, outcome: Outcome) => {
    t.not(outcome.status, 0)
    t.match(outcome.stderr, /Permission denied|Operation not permitted/)
  }
  const { stdout } = await hostroute('guard', 'status', '--json')
  t.comment(stdout)
  t.match(JSON.parse(stdout), { mode: 'enforce', backend: 'lsm' })
  const alive = await add()
  refused(t, alive)
  const told = (await journal()).filter(({ MESSAGE }) => MESSAGE.startsWith('guard: '))
  t.ok(
    told.some(({ MESSAGE }) => /iptables/.test(MESSAGE) && /refused/.test(MESSAGE)),
    JSON.stringify(told.map(({ MESSAGE }) => MESSAGE))
  )
  const pid = await show('MainPID')
  await systemctl('kill', '-s', 'KILL', '--kill-who=main', 'hostrouted')
  const dead = await add()
  t.equal(await show('ActiveState'), 'activating', 'it was dead meanwhile')
  refused(t, dead)
  await restarted(pid)
  refused(t, await add())
})

t.test('reload: a changed configuration is in force, a broken one is refused and told', untimed, async (t) => {
  const pid = await show('MainPID')
  configure('log:\n  level: debug\n')
  const from = await service.mark()
  t.match(await systemctl('reload', 'hostrouted'), { status: 0 })
  t.ok((await journal(...from)).some(({ MESSAGE }) => MESSAGE.includes('configuration read again')))
  configure('log:\n  levle: debug\n')
  const broken = await service.mark()
  const refused = await systemctl('reload', 'hostrouted')
  t.equal(refused.status, 1, 'systemctl reload says so')
  const told = (await journal(...broken)).filter(({ PRIORITY }) => PRIORITY === '3')
  t.ok(
    told.some(({ MESSAGE }) => /config\.yaml.*levle/.test(MESSAGE)),
    JSON.stringify(told.map(({ MESSAGE }) => MESSAGE))
  )
  t.equal(await show('ActiveState'), 'active')
  t.equal(await show('MainPID'), pid)
  t.equal(await service.attached(), 3)
})

t.test(
  'a start with a broken configuration: the last good one is in force, and pods notice nothing',
  untimed,
  async (t) => {
    const result = await traffic(async () => {
      t.equal((await systemctl('restart', 'hostrouted')).status, 0)
    })
    t.match(result, nothingLost, `${result.sent} pings each`)
    t.equal(await show('ActiveState'), 'active')
    const status = await exec(['hostroute', 'status', '--json'], { timeout: patience })
    t.match(JSON.parse(status.stdout), {
      configuration: { error: /config\.yaml/ },
      problems: [{ code: 'configuration-not-valid' }]
    })
  }
)

t.test('without a last good one it fails at once, for good, and pods notice nothing', untimed, async (t) => {
  rmSync('/var/lib/hostroute/last-good.yaml')
  const result = await traffic(async () => {
    t.equal((await systemctl('restart', 'hostrouted')).status, 1)
    await sleep(3_000)
  })
  t.match(result, nothingLost, `${result.sent} pings each`)
  t.equal(await show('ActiveState'), 'failed', 'it is not tried again and again')
  t.equal(await show('ExecMainStatus'), '2')
  t.equal(await service.attached(), 3, 'the datapath goes on')
  configure('')
  t.equal((await systemctl('start', 'hostrouted')).status, 0)
})

t.test('[L1] a daemon that hangs is ended by the watchdog and started again', untimed, async (t) => {
  writeFileSync(`${dropIns}/watchdog.conf`, '[Service]\nWatchdogSec=8s\nLimitCORE=0\n')
  await systemctl('daemon-reload')
  await systemctl('restart', 'hostrouted')
  await sleep(10_000)
  const pid = await show('MainPID')
  t.equal(await show('NRestarts'), '0', 'it keeps the watchdog content while it lives')
  const from = await service.mark()
  const result = await traffic(async () => {
    process.kill(Number(pid), 'SIGSTOP')
    await restarted(pid)
  })
  t.match(result, nothingLost, `${result.sent} pings each`)
  t.ok((await journal(...from)).some(({ MESSAGE }) => /Watchdog timeout/.test(MESSAGE)))
  rmSync(`${dropIns}/watchdog.conf`)
  await systemctl('daemon-reload')
  // a slow machine may have met the short watchdog once more
  await until('the service is active', async () => (await show('ActiveState')) === 'active', patience, 200)
})

t.test('[L2] an upgrade restarts the daemon under running traffic', untimed, async (t) => {
  const installed = '/usr/lib/hostroute/package.json'
  writeFileSync(installed, readFileSync(installed, 'utf8').replace(/"version": "[^"]*"/, '"version": "0.0.1"'))
  const pid = await show('MainPID')
  const result = await traffic(async () => {
    const upgrade = await script('install', '--now')
    t.match(
      upgrade.stdout,
      /^put the program into .*is there and stays as it is.*restart hostrouted: the datapath goes on/s
    )
  })
  t.match(result, nothingLost, `${result.sent} pings each`)
  t.not(await show('MainPID'), pid)
})

t.test(
  '[L5] stop with onStop: keep goes on forwarding, with detach the kernel routes and nothing is left',
  untimed,
  async (t) => {
    const kept = await traffic(() => systemctl('stop', 'hostrouted'))
    t.match(kept, nothingLost)
    t.equal(await service.attached(), 3)
    configure('onStop: detach\n')
    t.match(await systemctl('start', 'hostrouted'), { status: 0 })
    const from = await service.mark()
    await systemctl('stop', 'hostrouted')
    t.equal(await show('Result'), 'success')
    t.equal(await service.attached(), 0)
    t.notOk(existsSync('/sys/fs/bpf/hostroute/flows4'))
    t.ok((await journal(...from)).some(({ MESSAGE }) => MESSAGE.includes('stopping on SIGTERM')))
    t.equal((await one.ping(two.address.v4, { count: 3, interval: 50 })).received, 3, 'the kernel routes')
    configure('')
  }
)

t.test('[L5] uninstall with a dead daemon leaves nothing but the configuration', untimed, async (t) => {
  t.match(await systemctl('start', 'hostrouted'), { status: 0 })
  await one.ping(net.outsideAddress.v4, { count: 3, interval: 50 })
  await until('a managed neighbour', async () => (await run(['ip', '-d', 'neigh'])).includes('managed'), patience, 200)
  await systemctl('stop', 'hostrouted')
  t.equal(await service.attached(), 3, 'the programs of the daemon that is gone')
  const refused = await exec(['/usr/lib/hostroute/uninstall'], { timeout: 2 * patience })
  t.equal(refused.status, 1)
  t.match(refused.stderr, /pods would lose their way out.*--force/)
  t.equal(await service.attached(), 3, 'nothing was taken away')
  const outcome = await exec(['/usr/lib/hostroute/uninstall', '--force'], { timeout: 2 * patience })
  t.equal(outcome.status, 0, outcome.stderr)
  t.comment(outcome.stdout)
  const left = (await service.snapshot()).filter((each) => !untouched.includes(each))
  t.strictSame(left, ['/etc/hostroute', configFile])
})

t.test('[L5] uninstall --purge of a running one leaves nothing at all, and pods go on', untimed, async (t) => {
  writeFileSync(configFile, '# mine\n')
  t.match(await script('install', '--now'), { status: 0 })
  t.equal(readFileSync(configFile, 'utf8'), '# mine\n', "an administrator's configuration is not overwritten")
  await one.ping(net.outsideAddress.v4, { count: 3, interval: 50 })
  const ping = one.startPing(two.address.v4, { interval: 100, wait: 5_000 })
  const refused = await script('uninstall', '--purge')
  t.equal(refused.status, 1)
  t.match(refused.stderr, /pods would lose their way out.*--force/)
  t.equal(await service.attached(), 3, 'nothing was taken away')
  const outcome = await script('uninstall', '--purge', '--force')
  t.equal(outcome.status, 0, outcome.stderr)
  await ping.stop('SIGINT')
  t.strictSame(readPing(ping.stdout, 2).lost, [])
  t.strictSame(await service.snapshot(), untouched)
  t.equal((await exec(['iptables', '-A', 'INPUT', '-j', 'ACCEPT'])).status, 0, 'and rules can be written again')
  t.equal((await systemctl('status', 'hostrouted')).status, 4, 'systemd has forgotten the unit')
})

t.teardown(() => process.exit())
