// The daemon is killed (SIGKILL) at random moments of its life, under pings at
// 1 ms, a TCP stream through SNAT and routes that come and go: nothing is lost
// that should not be, nothing is left, and the switch holds.

import { existsSync, readdirSync, readFileSync } from 'node:fs'
import type { Status, VerifyReport } from '../../src/control/api.js'
import { controlClient } from '../../src/control/client.js'
import { OUTSIDE } from '../lab/addresses.js'
import { readPing } from '../lab/host.js'
import { Lab } from '../lab/lab.js'
import { exec, sleep, until } from '../lab/process.js'
import { count, type Report } from './report.js'

const patience = 60_000
const MOMENTS = ['start', 'running', 'reload', 'replace', 'disable', 'enable', 'guard'] as const
type Moment = (typeof MOMENTS)[number]

export interface KillOptions {
  count: number
  /** Ends earlier after so many milliseconds. */
  within?: number
}

/** Pods keep their way out while hostroute is disabled: the kernel masquerades. */
const masquerade = `table ip lab_nat {
  chain post { type nat hook postrouting priority 100; ip saddr 10.0.0.0/8 ip daddr != 10.0.0.0/8 oifname "up0" masquerade; }
}`

export async function kills(report: Report, { count: total, within = Infinity }: KillOptions): Promise<void> {
  const lab = await Lab.create({ nodes: 1, pods: 2 })
  report.teardown(() => lab.close())
  const node = lab.node(0)
  const { daemon } = node
  let guarded = true
  let flows = 65_536
  const config = (number: number) => ({
    checks: 'off',
    onStop: 'keep',
    guard: { mode: guarded ? 'enforce' : 'off' },
    limits: { flows },
    stackPrefixes: [`198.18.${number % 250}.0/24`]
  })
  await lab.outside.echo(7)
  await node.run(['nft', '-f', '-'], { input: masquerade })
  await daemon.start({ config: config(0), timeout: patience })
  const status = () =>
    controlClient(daemon.socket)
      .get<Status>('/v1/status')
      .then(({ value }) => value)
  const attached = async () => (await node.run(['bpftool', '-j', 'net'])).match(/from_pod|from_uplink/g)?.length ?? 0
  const one = node.pod(0)
  for (const address of [node.pod(1).address.v4, OUTSIDE.v4]) await one.ping(address, { count: 2 })

  // what begins while hostroute is enabled is SNATed by it, and ends when it is switched off
  const churn = node.start([
    'sh',
    '-c',
    'i=0; while :; do i=$(((i + 1) % 200)); ip route replace 203.0.113.$i/32 via 192.168.100.1; ip route del 203.0.113.$i/32; done'
  ])
  report.teardown(() => churn.stop('SIGKILL'))
  const begin = performance.now()
  let [done, streams, outsideLost, outsideSent, insideLost, insideSent] = [0, 0, 0, 0, 0, 0]
  const at = new Map<string, number>()
  let enabled = true

  while (done < total && performance.now() - begin < within) {
    const moments = MOMENTS.filter((each) => guarded || each !== 'guard')
    const moment = moments[Math.floor(Math.random() * moments.length)] as Moment
    const name = `kill ${done + 1} (${moment})`
    // each begins enabled and at rest, or with nothing that runs
    if (!enabled) {
      const { status: left } = await daemon.command(['enable'], patience)
      report.check(left === 0, `${name}: enable before it: exit status ${left}`)
    }
    // one for each kill: a ping counts to 65,535 only
    const ping = one.startPing(node.pod(1).address.v4, { interval: 1 })
    // through SNAT, for as long as this kill leaves it enabled
    const switches = moment === 'disable' || moment === 'enable'
    const flow = switches ? null : await one.flow({ protocol: 'tcp', address: OUTSIDE.v4, port: 7 })
    const outside = switches ? null : one.startPing(OUTSIDE.v4, { interval: 1 })
    let acceptable: boolean[] = [true]
    let delay = Math.random()
    if (moment === 'start') {
      await daemon.kill('SIGKILL')
      await daemon.start({ config: config(done), waitReady: false })
      await sleep(delay * 2_500)
    } else if (moment === 'running') await sleep(delay * 200)
    else {
      if (moment === 'enable') await daemon.command(['disable', '--force'], patience)
      // maps of another size, and programs that take over
      if (moment === 'replace') flows = flows === 65_536 ? 32_768 : 65_536
      if (moment === 'reload' || moment === 'replace') daemon.writeConfig(config(done))
      acceptable = moment === 'disable' || moment === 'enable' ? [true, false] : [true]
      // straight to the socket: a process for it would take longer than what it asks for
      const client = controlClient(daemon.socket)
      const path = {
        reload: '/v1/reload',
        replace: '/v1/reload',
        disable: '/v1/disable',
        enable: '/v1/enable',
        guard: '/v1/guard/mode'
      }[moment]
      const body = moment === 'disable' ? { force: true } : moment === 'guard' ? { mode: 'enforce' } : {}
      if (moment === 'guard') await client.post(path, { mode: 'audit' })
      const asked = client.post(path, body).then(
        () => (moment === 'disable' ? [false] : [true]),
        () => null
      )
      delay *= { reload: 300, replace: 2_000, disable: 1_000, enable: 2_500, guard: 600 }[moment]
      const answered = await Promise.race([asked, sleep(delay).then(() => null)])
      // what was answered holds
      if (answered) acceptable = answered
    }
    await daemon.kill('SIGKILL')
    guarded = Math.random() < 0.4
    done++
    at.set(moment, (at.get(moment) ?? 0) + 1)
    const wanted = switchOnDisk(daemon.stateDirectory)
    if (wanted !== null) {
      report.check(
        acceptable.includes(wanted),
        `${name}: the switch says ${wanted}, after an answer that said otherwise`
      )
    }
    await daemon.start({ config: config(done), waitReady: false })
    enabled = wanted ?? true
    try {
      await until(
        enabled ? 'enabled again' : 'disabled again',
        async () => {
          if (!daemon.running)
            throw new Error(`it ended with ${daemon.exitStatus}: ${daemon.log.trim().split('\n').at(-1)}`)
          const { mode, sync, problems } = await status().catch(() => ({ mode: '', sync: { state: '' }, problems: [] }))
          return enabled ? mode === 'enabled' && problems.length === 0 && sync.state === 'synced' : mode === 'disabled'
        },
        patience,
        50
      )
    } catch (error) {
      report.check(
        false,
        `${name}: ${(error as Error).message}: ${JSON.stringify((await status().catch(() => null))?.problems)}`
      )
      break
    }
    if (enabled) {
      await until(
        'no difference',
        async () => (await controlClient(daemon.socket).get<VerifyReport>('/v1/verify')).value.ok,
        10_000,
        100
      ).catch(() => report.check(false, `${name}: verify finds differences for 10 s`))
      report.check((await attached()) === 3, `${name}: ${await attached()} programs attached`)
    } else {
      report.check((await attached()) === 0, `${name}: disabled, but ${await attached()} programs attached`)
      const pins = existsSync(daemon.pinDirectory)
        ? readdirSync(daemon.pinDirectory, { recursive: true }).map(String)
        : []
      report.check(
        pins.every((each) => each === 'links'),
        `${name}: disabled, but pinned: ${pins.join(' ')}`
      )
    }
    const keepers = await holders(node.namespace)
    report.check(keepers.length <= 1, `${name}: ${keepers.length} processes hold the guard's tables`)
    if (!enabled) report.check(keepers.length === 0, `${name}: disabled, but a process holds the guard's tables`)
    await ping.stop('SIGINT')
    const inside = readPing(ping.stdout, 2)
    insideSent += inside.sent
    insideLost += inside.lost.length
    report.check(inside.lost.length === 0, `${name}: ${inside.lost.length} of ${inside.sent} pings between pods lost`)
    if (flow && outside) {
      const { sent, received, error } = await flow.finish()
      report.check(
        sent === received && error === null,
        `${name}: TCP through SNAT: ${received} of ${sent} answered, ${error}`
      )
      streams++
      await outside.stop('SIGINT')
      const reading = readPing(outside.stdout, 2)
      outsideSent += reading.sent
      outsideLost += reading.lost.length
      report.check(
        reading.lost.length === 0,
        `${name}: ${reading.lost.length} of ${reading.sent} pings through SNAT lost`
      )
    }
    report.progress(`${done} kills`)
    if (process.env['HOSTROUTE_KILLS_VERBOSE']) console.log(`${name}: ${enabled ? 'enabled' : 'disabled'}`)
  }
  await churn.stop('SIGKILL')
  await daemon.removeAfterKill()
  report.check((await attached()) === 0, 'programs are left in the end')
  const left = await holders(node.namespace)
  report.check(left.length === 0, `${left.length} processes that hold tables are left in the end`)
  const tables = (await node.run(['nft', 'list', 'tables']))
    .trim()
    .split('\n')
    .filter((line) => !/lab_nat|counters|lab/.test(line))
  report.check(tables.length === 0, `tables left in the end: ${tables.join(', ')}`)
  report.figure(
    `${done} kills (${[...at].map(([moment, number]) => `${number} ${moment}`).join(', ')}), ${streams} TCP streams through SNAT, ` +
      `${count(outsideSent)} pings through SNAT (${outsideLost} lost), ${count(insideSent)} between pods (${insideLost} lost)`
  )
}

/** As the daemon has kept it; null: never switched by command. */
function switchOnDisk(directory: string): boolean | null {
  try {
    return (JSON.parse(readFileSync(`${directory}/switch.json`, 'utf8')) as { enabled: boolean }).enabled
  } catch {
    return null
  }
}

/** Processes in the node's namespace that keep the guard's tables. */
async function holders(namespace: string): Promise<number[]> {
  const { stdout } = await exec(['ip', 'netns', 'pids', namespace])
  const pids = stdout.split('\n').filter(Boolean).map(Number)
  return pids.filter((pid) => {
    try {
      return readFileSync(`/proc/${pid}/cmdline`, 'utf8').startsWith('sleep\0infinity')
    } catch {
      return false // it has ended
    }
  })
}
