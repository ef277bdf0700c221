// hostrouted --remove, which scripts/uninstall relies on, in a lab.

import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import type { EnableResult } from '../../src/control/api.js'
import { ask, flowOf, goesOn, masquerade } from '../daemon/dead.js'
import { attached, plain, servedLab } from '../forwarding/served.js'
import { OUTSIDE } from '../lab/addresses.js'
import { Lab } from '../lab/lab.js'
import { run, until } from '../lab/process.js'

const daemonFile = fileURLToPath(new URL('../../src/daemon/main.js', import.meta.url))

t.test('[L5] --remove takes off what a killed daemon left, and refuses beside a living one', async (t) => {
  const lab = await Lab.create({ nodes: 1, pods: 2 })
  t.teardown(() => lab.close())
  const node = lab.node(0)
  const { runDirectory, pinDirectory, stateDirectory } = await node.startDaemon()
  const directories = [
    ...['--run-directory', runDirectory, '--pin-directory', pinDirectory],
    ...['--state-directory', stateDirectory]
  ]
  const remove = (...words: string[]) => node.exec([process.execPath, daemonFile, '--remove', ...directories, ...words])
  const managed = async () => (await node.run(['ip', '-d', 'neigh', 'show'])).match(/\bmanaged\b/g)?.length ?? 0
  const attached = async () => (await node.run(['bpftool', '-j', 'net'])).match(/from_pod|from_uplink/g)?.length ?? 0
  await node.pod(0).ping(OUTSIDE.v4, { count: 2 })
  await until('pods and gateways are managed', async () => (await managed()) >= 5, 10_000)
  const refused = await remove()
  t.equal(refused.status, 2)
  t.match(refused.stdout, /another hostrouted already runs/)
  t.equal(await attached(), 3)
  await node.daemon.kill('SIGKILL')
  t.equal(await attached(), 3)
  const lossy = await remove()
  t.equal(lossy.status, 2, 'the pods are masqueraded by nobody else')
  t.match(lossy.stdout, /pods would lose their way out.*--force/)
  t.equal(await attached(), 3, 'nothing has changed')
  const removed = await remove('--force')
  t.equal(removed.status, 0, removed.stdout + removed.stderr)
  t.match(removed.stdout, /removed from this node: .* \d neighbours are the kernel's own again/)
  t.equal(await attached(), 0)
  t.equal(await managed(), 0)
  t.notOk(existsSync(pinDirectory))
  const nothing = await remove()
  t.equal(nothing.status, 0, 'with nothing to remove it succeeds as well')
  t.match(nothing.stdout, `nothing of hostroute is in ${pinDirectory}, ${runDirectory} and ${stateDirectory}`)
  t.notMatch(nothing.stdout, /removed/)
})

t.test('what cannot be removed is said, and removed the next time', async (t) => {
  const lab = await Lab.create({ nodes: 1, pods: 1 })
  t.teardown(() => lab.close())
  const node = lab.node(0)
  const { daemon } = node
  await node.startDaemon()
  await daemon.kill('SIGKILL')
  const held = `${daemon.pinDirectory}/accounts`
  await run(['mount', '--bind', daemon.configFile, held])
  const partly = await daemon.remove('--force')
  await run(['umount', held])
  t.equal(partly.status, 1)
  t.match(partly.stdout, /not all could be removed: .* stays/)
  t.notMatch(partly.stdout, /removed from this node/)
  t.ok(existsSync(`${daemon.runDirectory}/directories.json`), 'what stays is found the next time')
  const removed = await daemon.remove('--force')
  t.equal(removed.status, 0, removed.stdout)
  t.notOk(existsSync(daemon.pinDirectory))
})

t.test('in another network namespace it refuses, and connections go on', async (t) => {
  const lab = await servedLab(t, { pods: 1 })
  const node = lab.node(0)
  const { daemon } = node
  const { configFile, runDirectory, stateDirectory, pinDirectory } = daemon
  await node.run(['nft', '-f', '-'], { input: masquerade })
  const flow = await flowOf(node)
  await daemon.kill('SIGKILL')
  for (const force of [[], ['--force']]) {
    const elsewhere = await lab.outside.exec([
      ...[process.execPath, daemonFile, '--remove', ...force, '--config', configFile],
      ...['--run-directory', runDirectory, '--state-directory', stateDirectory, '--pin-directory', pinDirectory]
    ])
    t.equal(elsewhere.status, 2, elsewhere.stdout)
    t.match(elsewhere.stdout, /another network namespace .*run it there \(nsenter --net=\.\.\.\)/)
    t.notMatch(elsewhere.stdout, /connection|removed from/)
  }
  t.equal((await attached(node)).length, 2)
  t.ok(existsSync(`${runDirectory}/directories.json`))
  await goesOn(t, flow, 'nothing has changed')
  const next = await flowOf(node)
  const removed = await daemon.remove()
  t.equal(removed.status, 0, removed.stdout)
  t.match(removed.stdout, /\d connections? through SNAT continues? through the stack; 0 cannot/)
  await goesOn(t, next, 'removed where it has served')
})

t.test('with other directories than the daemon has used it refuses, with the words to run', async (t) => {
  const node = (await servedLab(t, { pods: 1 })).node(0)
  const { daemon } = node
  const { configFile, runDirectory, stateDirectory, pinDirectory } = daemon
  await daemon.command(['disable', '--force'])
  await daemon.command(['enable'])
  await daemon.kill('SIGKILL')
  const own = { '--run-directory': runDirectory, '--state-directory': stateDirectory, '--pin-directory': pinDirectory }
  const remove = (other: Partial<typeof own>, ...words: string[]) =>
    node.exec([process.execPath, daemonFile, '--remove', ...words, ...Object.entries({ ...own, ...other }).flat()])
  const places = [
    ...['--config', configFile, '--run-directory', runDirectory],
    ...['--state-directory', stateDirectory, '--pin-directory', pinDirectory]
  ].join(' ')
  const files = () => [...readdirSync(runDirectory), ...readdirSync(stateDirectory)].sort()
  const before = files()
  for (const other of [{ '--pin-directory': `${pinDirectory}-nobody` }, { '--state-directory': '/var/lib/hr-nobody' }])
    for (const force of [[], ['--force']]) {
      const refused = await remove(other, ...force)
      t.equal(refused.status, 2, refused.stdout)
      t.match(refused.stdout, `not in ${Object.values(other)[0]}. Nothing was changed. Run: `)
      t.match(refused.stdout, `Run: hostrouted --remove ${[...force, places].join(' ')}\n`)
      t.equal((await attached(node)).length, 2)
      t.strictSame(files(), before)
    }
  const advised = await ask(node, 'status')
  t.match(advised.stderr, `hostrouted --remove ${places} takes them off.`)
  const words = /hostrouted --remove (.*) takes/.exec(advised.stderr)?.[1]?.split(' ') ?? []
  const lossy = await node.exec([process.execPath, daemonFile, '--remove', ...words])
  t.match(lossy, { status: 2, stdout: /lose their way out/ }, 'as asked where it has to be asked')

  // without the note nobody knows: what is not hostroute's stays, what is not there is not said to be removed
  const note = readFileSync(`${runDirectory}/directories.json`)
  rmSync(`${runDirectory}/directories.json`)
  const others = `${pinDirectory}-others`
  mkdirSync(`${others}/cilium`, { recursive: true })
  const foreign = await remove({ '--pin-directory': others }, '--force')
  t.match(foreign, { status: 2, stdout: `nothing of hostroute is in ${others}, which holds other files` })
  t.ok(existsSync(`${others}/cilium`))
  t.ok(existsSync(`${stateDirectory}/switch.json`))
  writeFileSync(`${runDirectory}/directories.json`, note)

  const removed = await node.exec([process.execPath, daemonFile, '--remove', '--force', ...words])
  t.match(removed, { status: 0, stdout: /removed from this node: programs, links and maps/ })
  t.strictSame(await attached(node), [])
  t.strictSame(readdirSync(stateDirectory), [])
  // a state directory where the operator keeps the configuration
  writeFileSync(`${runDirectory}/switch.json`, '{}')
  const text = readFileSync(configFile, 'utf8')
  const beside = await remove({ '--state-directory': runDirectory })
  t.equal(beside.status, 0)
  t.match(
    beside.stdout,
    `nothing of hostroute is in ${pinDirectory}; removed from this node: ${runDirectory}/switch.json`
  )
  t.equal(readFileSync(configFile, 'utf8'), text)
})

t.test('a state directory that cannot be written: what stays is named, all else goes', async (t) => {
  const node = (await servedLab(t, { pods: 1 }, { config: { ...plain, onDisable: 'masquerade' } })).node(0)
  const { daemon } = node
  const { stateDirectory, runDirectory } = daemon
  const table = () => node.exec(['nft', 'list', 'table', 'inet', 'hostroute_egress'])
  t.match(await daemon.json<EnableResult>('disable'), { done: true })
  await daemon.stop()
  t.equal((await table()).status, 0)
  await run(['mount', '--bind', stateDirectory, stateDirectory])
  t.teardown(() => run(['umount', stateDirectory]).catch(() => {}))
  await run(['mount', '-o', 'remount,bind,ro', stateDirectory])
  const partly = await daemon.remove('--force')
  t.equal(partly.status, 1, partly.stdout)
  for (const name of ['switch.json', 'last-good.yaml'])
    t.match(
      partly.stdout,
      new RegExp(
        `not all could be removed: .*${stateDirectory}/${name} stays \\(EROFS.*\\): make ${stateDirectory} writable and run this again`
      )
    )
  t.notMatch(partly.stdout, /removed from this node/)
  t.not((await table()).status, 0, 'the table has gone')
  t.notOk(existsSync(daemon.socket))
  t.ok(existsSync(`${runDirectory}/directories.json`), 'what stays is found the next time')
  await run(['umount', stateDirectory])
  const removed = await daemon.remove()
  t.match(removed, { status: 0, stdout: `${stateDirectory}/switch.json` })
  t.strictSame(readdirSync(stateDirectory), [])
  t.notOk(existsSync(`${runDirectory}/directories.json`))
})
