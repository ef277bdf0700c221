// What holds with every backend, in two halves because a test machine is slow.
// Each test has a node of its own.

import { copyFileSync, mkdirSync, rmdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Test } from 'tap'
import type { GuardBackendName } from '../../src/control/guard-api.js'
import { cgroupRoot } from '../../src/guard/cgroups.js'
import { GuardedNode, sleep } from './support.js'

const legacyRules = (count: number) =>
  `*filter\n${Array.from({ length: count }, (_, index) => `-A FORWARD -s 10.9.${index >> 8}.${index & 255}/32 -j DROP\n`).join('')}COMMIT\n`
// iptables-restore names the line of its COMMIT instead of the error.
const refusedText = /Operation not permitted|line 1002 failed|unable to update the kernel|Permission denied/i

/** Not every kernel is built with its tables; in the test machines it is there. */
function hasLegacyEbtables(node: GuardedNode): boolean {
  return process.env['HOSTROUTE_VM'] !== undefined || node.run('ebtables-legacy', '-L').status === 0
}

const adds: Record<string, string[]> = {
  'iptables-legacy -A': ['iptables-legacy', '-A', 'FORWARD', '-s', '10.0.0.1', '-j', 'DROP'],
  'iptables-legacy -N': ['iptables-legacy', '-N', 'MINE'],
  'iptables-legacy -P': ['iptables-legacy', '-P', 'FORWARD', 'DROP'],
  'ip6tables-legacy -A': ['ip6tables-legacy', '-A', 'FORWARD', '-s', 'fd00::1', '-j', 'DROP'],
  'iptables-legacy -t nat -A': ['iptables-legacy', '-t', 'nat', '-A', 'POSTROUTING', '-j', 'MASQUERADE'],
  'ebtables-legacy -A': ['ebtables-legacy', '-A', 'FORWARD', '-j', 'DROP'],
  'arptables-legacy -A': ['arptables-legacy', '-A', 'INPUT', '-j', 'DROP'],
  'iptables-nft -A': ['iptables-nft', '-A', 'FORWARD', '-s', '10.0.0.1', '-j', 'DROP'],
  'iptables-nft -P': ['iptables-nft', '-P', 'FORWARD', 'DROP'],
  'ip6tables-nft -A': ['ip6tables-nft', '-A', 'FORWARD', '-s', 'fd00::1', '-j', 'DROP'],
  'ebtables-nft -A': ['ebtables-nft', '-A', 'FORWARD', '-j', 'DROP'],
  'arptables-nft -A': ['arptables-nft', '-A', 'INPUT', '-j', 'DROP']
}

/** The tools: what they may and may not do. */
export function toolTests(t: Test, backend: GuardBackendName): void {
  t.test(`[G1] [G3] [G4] [G5] ${backend}: adds are refused with EPERM; listing and flushing are not`, async (t) => {
    const node = new GuardedNode(t)
    const status = await node.start()
    t.equal(status.backend, backend, 'the strongest backend of this kernel')
    const ebtables = hasLegacyEbtables(node)
    for (const [what, command] of Object.entries(adds)) {
      if (what.startsWith('ebtables-legacy') && !ebtables) continue
      const [tool = '', ...args] = command
      const { status, output } = node.run(tool, ...args)
      t.ok(status !== 0 && refusedText.test(output), `${what}: ${output.trim().split('\n').at(-1)}`)
    }
    for (const tool of ['iptables-legacy-restore', 'iptables-nft-restore']) {
      const { status, output } = node.runWith(legacyRules(1000), tool, '--noflush')
      t.ok(
        status !== 0 && refusedText.test(output),
        `${tool} --noflush with 1,000 rules: ${output.trim().split('\n')[0]}`
      )
    }
    const harmless = ['-L', '-S', '-X', '-t nat -L', '-L -v -x', '-F']
    // A table that the guard owns is empty; flushing it is refused as well.
    for (const tool of ['iptables-legacy', 'ip6tables-legacy', 'iptables-nft', 'ip6tables-nft'])
      for (const args of harmless.slice(0, backend === 'cgroup' && tool.endsWith('nft') ? -1 : undefined))
        t.match(node.run(tool, ...args.split(' ')), { status: 0 }, `${tool} ${args}`)
    for (const line of [
      'iptables-legacy-save',
      'iptables-nft-save',
      'nft list ruleset',
      'nft -j list ruleset',
      'conntrack -L',
      'conntrack -F',
      'arptables-legacy -L',
      ...(ebtables ? ['ebtables-legacy -L'] : [])
    ])
      t.match(node.shell(line), { status: 0 }, line)
    const found = node.shell('iptables-legacy-save; iptables-nft-save; ebtables-legacy-save').output
    t.notMatch(found, /^-A|DROP/m, 'nothing has come into any table')
  })

  t.test(`[G5] ${backend}: what was there before can be deleted and flushed`, async (t) => {
    const node = new GuardedNode(t)
    for (const tool of ['iptables-legacy', 'iptables-nft', 'ip6tables-legacy']) {
      node.shell(`${tool} -N MINE && ${tool} -A MINE -j RETURN && ${tool} -A FORWARD -p tcp -j MINE`)
      node.shell(`for port in 1 2 3; do ${tool} -A FORWARD -p tcp --dport $port -j DROP; done`)
    }
    node.shell('ebtables-legacy -A FORWARD -s 02:00:00:00:00:01 -j DROP; arptables-legacy -A INPUT -s 10.0.0.1 -j DROP')
    node.shell(
      'nft add table inet own; nft add chain inet own c "{ type filter hook forward priority 0; }"; nft add rule inet own c drop'
    )
    const status = await node.start()
    t.ok(
      status.present.some(({ system, rules }) => system === 'iptables' && rules >= 5),
      '[G11] rules from before are told'
    )
    t.ok(
      status.present.some(({ family, table }) => family === 'inet' && table === 'own'),
      '[G11] also native ones'
    )
    for (const tool of ['iptables-legacy', 'iptables-nft', 'ip6tables-legacy']) {
      for (const args of ['-D FORWARD -p tcp --dport 2 -j DROP', '-D FORWARD 1', '-F FORWARD', '-F', '-X MINE', '-F'])
        t.match(node.run(tool, ...args.split(' ')), { status: 0 }, `${tool} ${args}`)
    }
    const ebtables = hasLegacyEbtables(node) ? ['ebtables-legacy -D FORWARD 1', 'ebtables-legacy -F'] : []
    for (const line of [
      ...ebtables,
      'arptables-legacy -D INPUT 1',
      'nft flush chain inet own c',
      'nft delete table inet own',
      'nft delete table ip filter'
    ])
      t.match(node.shell(line), { status: 0 }, line)
    t.notMatch(node.shell('iptables-legacy-save; iptables-nft-save; nft list ruleset').output, /drop/i)
  })

  t.test(`[G6] ${backend}: other network namespaces are untouched, whoever writes`, async (t) => {
    const node = new GuardedNode(t)
    const pod = new GuardedNode(t)
    await node.start()
    t.match(pod.run('iptables-legacy', '-A', 'FORWARD', '-j', 'DROP'), { status: 0 })
    t.match(pod.run('iptables-nft', '-A', 'FORWARD', '-j', 'DROP'), { status: 0 })
    t.match(pod.shell('nft add table inet x; nft add chain inet x c; nft add rule inet x c accept'), { status: 0 })
    await sleep(700)
    t.match(pod.shell('nft list ruleset').output, /table inet x/, 'nor removed afterwards')
    t.equal((await node.status()).counts.refused, 0)
  })

  t.test(`[G5] [G11] ${backend}: a legacy removal that brings a rule in is noticed within a second`, async (t) => {
    const node = new GuardedNode(t)
    node.shell('for port in 1 2 3 4; do iptables-legacy -A FORWARD -p tcp --dport $port -j DROP; done')
    await node.start()
    const smuggled = '*filter\n-A FORWARD -s 10.6.6.6 -j DROP\nCOMMIT\n'
    t.equal(node.runWith(smuggled, 'iptables-legacy-restore').status, 0, 'fewer rules than before: let through')
    const event = await node.event(({ verdict, system }) => verdict === 'appeared' && system === 'iptables', 1.5)
    t.match(event, { table: 'filter', repeated: 1 })
    const drop = '*filter\n:FORWARD DROP [0:0]\nCOMMIT\n'
    t.not(node.runWith(drop, 'iptables-legacy-restore').status, 0, 'a removal that sets a policy is refused')
    t.ok(await node.event(({ reason }) => reason === 'policy'), 'and says why')
  })

  t.test(`[G5] ${backend}: a policy that stood before does not hinder deleting`, async (t) => {
    const node = new GuardedNode(t)
    node.shell(
      'iptables-legacy -P FORWARD DROP; iptables-legacy -A FORWARD -j ACCEPT; iptables-legacy -A INPUT -j ACCEPT'
    )
    await node.start()
    t.match(node.run('iptables-legacy', '-D', 'INPUT', '1'), { status: 0 })
    t.match(node.run('iptables-legacy', '-F'), { status: 0 })
  })
}

/** Exemptions, modes, events, and the guard's own life. */
export function lifeTests(t: Test, backend: GuardBackendName): void {
  t.test(`[G7] ${backend}: exemptions by executable and cgroup, for a time, counted; never by name`, async (t) => {
    const node = new GuardedNode(t)
    await node.start()
    const own = join(node.directory, 'my-tool')
    copyFileSync('/usr/sbin/xtables-legacy-multi', own)
    const add = ['iptables', '-A', 'FORWARD', '-j', 'ACCEPT']
    t.not(node.run(own, ...add).status, 0, 'not exempt yet')
    await node.tell({ allow: { executable: own, seconds: 3 } })
    t.equal(node.run(own, ...add).status, 0, 'exempt')
    t.not(node.run('/usr/sbin/xtables-legacy-multi', ...add).status, 0, 'the same program elsewhere is another one')
    mkdirSync(join(node.directory, 'x'))
    const namesake = join(node.directory, 'x/my-tool')
    copyFileSync('/usr/sbin/xtables-legacy-multi', namesake)
    t.not(node.run(namesake, ...add).status, 0, 'a process of the same name is another one')
    const { allowances } = await node.status()
    t.match(allowances, [{ kind: 'executable', name: own, source: 'command', used: 1, present: true }])
    t.ok(
      await node.event(({ verdict, executable }) => verdict === 'exempt' && executable === own),
      'reported as exempt'
    )
    await sleep(3100)
    t.not(node.run(own, ...add).status, 0, 'its time is over')

    const cgroup = join(cgroupRoot() ?? '', node.name)
    mkdirSync(join(cgroup, 'inner'), { recursive: true })
    t.teardown(() => {
      rmdirSync(join(cgroup, 'inner'))
      rmdirSync(cgroup)
    })
    const inside = () => node.shell(`echo $$ > ${cgroup}/inner/cgroup.procs; exec iptables-legacy -A FORWARD -j ACCEPT`)
    t.not(inside().status, 0)
    await node.tell({ allow: { cgroup: `/${node.name}` } })
    t.equal(inside().status, 0, 'a cgroup below the one allowed')
    await node.tell({ deny: { cgroup: `/${node.name}` } })
    t.not(inside().status, 0, 'taken back')
  })

  t.test(`[G8] ${backend}: audit refuses nothing and reports all; modes switch at once`, async (t) => {
    const node = new GuardedNode(t)
    await node.start({ mode: 'audit' })
    t.equal(node.run('iptables-legacy', '-A', 'FORWARD', '-j', 'ACCEPT').status, 0)
    t.equal(node.run('iptables-nft', '-A', 'FORWARD', '-j', 'ACCEPT').status, 0)
    t.ok(
      await node.event(({ verdict, system }) => verdict === 'audited' && system === 'iptables'),
      'legacy is reported'
    )
    t.ok(await node.event(({ verdict, system }) => verdict === 'audited' && system === 'nftables'), 'nf_tables too')
    node.run('nft', 'flush', 'ruleset')
    await node.mode('enforce')
    t.not(node.run('iptables-legacy', '-A', 'FORWARD', '-j', 'ACCEPT').status, 0)
    t.not(node.run('iptables-nft', '-A', 'FORWARD', '-j', 'ACCEPT').status, 0)
    await node.mode('off')
    t.equal(node.run('iptables-nft', '-A', 'FORWARD', '-j', 'ACCEPT').status, 0)
    t.equal(node.run('iptables-legacy', '-A', 'FORWARD', '-j', 'ACCEPT').status, 0)
    await sleep(1300)
    t.equal(
      node.events.filter(({ verdict }) => verdict === 'appeared').length,
      0,
      'audited writes are not reported twice'
    )
  })

  t.test(`[G9] ${backend}: an attempt is reported once and names who and what; floods are summed up`, async (t) => {
    const node = new GuardedNode(t)
    await node.start()
    node.run('iptables-legacy', '-t', 'mangle', '-A', 'FORWARD', '-s', '10.0.0.7', '-j', 'DROP')
    const event = await node.event(({ table }) => table === 'mangle')
    t.match(event, {
      verdict: 'refused',
      backend,
      system: 'iptables',
      family: 'ip',
      uid: 0,
      arguments: 'iptables-legacy -t mangle -A FORWARD -s 10.0.0.7 -j DROP',
      repeated: 1
    })
    t.match(event?.executable, /xtables-legacy-multi$/)
    t.ok((event?.pid ?? 0) > 0 && event?.cgroup, 'process and cgroup')
    t.ok(Math.abs(Date.parse(event?.time ?? '') - Date.now()) < 60_000, 'time')
    const before = (await node.status()).counts.refused
    t.same(node.write({ option: [0, 64, '00'.repeat(96)], times: 2000 }), ['EPERM'])
    await sleep(1500)
    const { counts } = await node.status()
    t.equal(counts.refused - before, 2000, 'all are counted')
    const rows = node.events.filter(({ command }) => command.startsWith('node'))
    t.equal(
      rows.reduce((sum, { repeated }) => sum + repeated, 0) + counts.lost,
      2000,
      'all are told, or counted as lost'
    )
    t.ok(rows.length < 20, `in ${rows.length} rows`)
    t.equal(node.events.filter(({ table }) => table === 'mangle').length, 1, 'once')
  })

  t.test(`[G10] ${backend}: it outlives the daemon, is taken over, and is off after disable`, async (t) => {
    const node = new GuardedNode(t)
    await node.start()
    const refuses = (when: string) => {
      for (const tool of ['iptables-legacy', 'iptables-nft'])
        t.not(node.run(tool, '-A', 'FORWARD', '-j', 'DROP').status, 0, `${tool} is refused ${when}`)
    }
    await node.kill()
    refuses('after SIGKILL')
    const status = await node.start()
    t.equal(status.backend, backend)
    t.same(
      status.tables.filter(({ owned }) => !owned),
      [],
      'owned tables are taken over'
    )
    refuses('by the next daemon')
    t.ok(await node.event(({ verdict }) => verdict === 'refused'), 'and reported again')
    await node.stop(false)
    refuses('after it has ended')
    await node.start()
    await node.stop(true)
    for (const tool of ['iptables-legacy', 'iptables-nft'])
      t.equal(node.run(tool, '-A', 'FORWARD', '-j', 'DROP').status, 0, `${tool} works after disable`)
    t.equal(
      node.shell(`ls ${node.directory}/bpf/guard ${node.directory}/run/* 2>/dev/null`).output,
      '',
      'nothing is left'
    )
  })

  t.test(`[G12] ${backend}: setsockopt of other processes goes on as ever`, async (t) => {
    const node = new GuardedNode(t)
    await node.start()
    const script = join(node.directory, 'options.mjs')
    writeFileSync(
      script,
      "import { createSocket } from 'node:dgram'; const s = createSocket('udp4'); s.bind(() => { for (let i = 0; i < 5000; i++) s.setTTL(64); s.close() })"
    )
    t.match(node.run(process.execPath, script), { status: 0 }, 'no error')
    t.equal((await node.status()).counts.refused, 0)
  })
}

/** In the test machines: the choice between the two that stand before nfnetlink. */
export function hookTests(t: Test, backend: GuardBackendName): void {
  t.test(`the backend of this kernel is ${backend}; a hook that attaches and refuses nothing is noticed`, async (t) => {
    const node = new GuardedNode(t)
    const { backend: chosen, backends } = await node.start()
    t.equal(chosen, backend)
    const lsm = backends.find(({ name }) => name === 'lsm')
    if (backend === 'lsm') t.equal(lsm?.state, 'in use')
    else t.match(lsm, { state: 'failed', why: /attached without an error, but refuses nothing.*bpf is not among/ })
  })
}
