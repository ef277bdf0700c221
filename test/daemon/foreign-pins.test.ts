// The pin directory is wrong, shared with others, a mount point or a symbolic link:
// only what hostroute has pinned goes. And a journal of filters that is damaged.

import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync
} from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import type { EnableResult } from '../../src/control/api.js'
import { controlClient } from '../../src/control/client.js'
import { attached, plain, servedLab, status } from '../forwarding/served.js'
import { Daemon } from '../lab/daemon.js'
import { faultsIn } from '../lab/fault-orders.js'
import { Lab } from '../lab/lab.js'
import { run, until } from '../lab/process.js'
import { command } from './dead.js'

t.setTimeout(400_000)
const patience = 60_000
const main = fileURLToPath(new URL('../../src/daemon/main.js', import.meta.url))
const all = (directory: string) => readdirSync(directory, { recursive: true }).map(String).sort()
const pin = (path: string) =>
  run(['bpftool', 'map', 'create', path, ...'type array key 4 value 4 entries 1 name another'.split(' ')])

async function emptyLab(t: Test) {
  const lab = await Lab.create({ nodes: 1, pods: 1 })
  t.teardown(() => lab.close())
  return { lab, node: lab.node(0) }
}

t.test(
  'a pin directory that is on no BPF file system: each command refuses, and nothing in it is touched',
  async (t) => {
    const { lab, node } = await emptyLab(t)
    const { daemon } = node
    await daemon.start({ config: plain })
    const note = join(daemon.runDirectory, 'directories.json')
    const noted = readFileSync(note, 'utf8')
    await daemon.kill('SIGKILL')
    const victim = join(lab.directory, 'victim')
    for (const path of ['', 'links', 'guard', 'deep/er']) mkdirSync(join(victim, path), { recursive: true })
    for (const path of ['control', 'flows4', 'file', 'links/from_pod-2', 'guard/link_x', 'deep/er/file'])
      writeFileSync(join(victim, path), 'precious')
    const before = all(victim)
    const files = [
      ...['--config', daemon.configFile, '--run-directory', daemon.runDirectory],
      ...['--state-directory', daemon.stateDirectory, '--pin-directory', victim]
    ]
    for (const enabled of [true, false]) {
      daemon.writeConfig({ ...plain, enabled })
      const refused = await node.exec([process.execPath, main, ...files], { timeout: 20_000 })
      t.match(refused, { status: 2, stdout: /victim is not on a BPF file system.*mount -t bpf/ }, 'a start')
      t.equal(readFileSync(note, 'utf8'), noted, 'what is known of the earlier daemon stays known')
    }
    for (const force of [[], ['--force']]) {
      const removed = await node.exec([process.execPath, main, '--remove', ...force, ...files])
      t.match(removed, {
        status: 2,
        stdout: /victim is not on a BPF file system.*nothing was removed.*--pin-directory/
      })
      const environment = ['env', `HOSTROUTE_PINS=${victim}`]
      const disabled = await node.exec([
        ...environment,
        ...[process.execPath, command, '--socket', daemon.socket, 'disable', ...force]
      ])
      t.equal(disabled.status, 1, disabled.stdout)
      t.match(disabled.stderr, /victim is not on a BPF file system.*nothing was removed.*HOSTROUTE_PINS/)
    }
    t.strictSame(all(victim), before)
    t.equal((await attached(node)).length, 2, 'what is pinned elsewhere goes on')
    t.ok(existsSync(join(daemon.runDirectory, 'directories.json')), 'and is known')
    await daemon.removeAfterKill()
    t.equal((await attached(node)).length, 0)
  }
)

t.test('pins of others in the pin directory stay, and hostroute is gone all the same', async (t) => {
  const config = { ...plain, guard: { mode: 'enforce' } }
  const node = (await servedLab(t, { pods: 1 }, { config, timeout: patience })).node(0)
  const { daemon } = node
  const { pinDirectory } = daemon
  mkdirSync(join(pinDirectory, 'cilium'))
  const foreign = ['another', 'cilium/x', 'guard/another', 'links/another']
  for (const path of foreign) await pin(join(pinDirectory, path))
  const left = [...foreign, 'cilium', 'guard', 'links'].sort()
  t.match(await daemon.json<EnableResult>('disable', '--force'), { done: true, why: null })
  t.strictSame(all(pinDirectory), left, 'disabled')
  t.match(await status(node), { mode: 'disabled', problems: [] })
  t.match(await daemon.json<EnableResult>('enable'), { done: true, why: null })
  await until('guarded', async () => Boolean((await status(node)).guard?.backend), patience)
  t.match(await daemon.removeAfterKill(), /removed from this node/)
  t.strictSame(all(pinDirectory), left, 'removed')
  t.equal((await attached(node)).length, 0)
})

t.test('the pin directory is the BPF file system itself: all of hostroute goes', async (t) => {
  const { lab, node } = await emptyLab(t)
  const root = dirname(node.daemon.pinDirectory)
  const daemon = new Daemon(node, join(lab.directory, 'root'), root)
  await daemon.start({ config: plain })
  t.teardown(() => daemon.kill('SIGKILL'))
  mkdirSync(join(root, 'cilium'))
  await pin(join(root, 'cilium/x'))
  // the kernel's own
  const others = ['cilium', 'cilium/x', 'maps.debug', 'progs.debug'].filter((name) => existsSync(join(root, name)))
  t.match(await daemon.json<EnableResult>('disable', '--force'), { done: true, why: null })
  t.strictSame(all(root), others)
  t.match(await daemon.json<EnableResult>('enable'), { done: true, why: null })
  t.equal((await attached(node)).length, 2)
  await daemon.removeAfterKill()
  t.strictSame(all(root), others)
  t.equal((await attached(node)).length, 0)
})

t.test('the pin directory is a symbolic link: it stays, and what it leads to goes and comes again', async (t) => {
  const { lab, node } = await emptyLab(t)
  const real = join(dirname(node.daemon.pinDirectory), 'real')
  const link = join(lab.directory, 'link')
  symlinkSync(real, link)
  const daemon = new Daemon(node, join(lab.directory, 'linked'), link)
  const isLink = () => lstatSync(link).isSymbolicLink()
  const gone = () => !existsSync(real) && isLink()
  await daemon.start({ config: plain })
  t.teardown(() => daemon.kill('SIGKILL'))
  t.ok(existsSync(join(real, 'control')))
  t.match(JSON.parse(readFileSync(join(daemon.runDirectory, 'directories.json'), 'utf8')), { pinDirectory: real })
  t.match(await daemon.json<EnableResult>('disable', '--force'), { done: true, why: null })
  t.ok(gone(), 'disabled')
  t.match(await daemon.json<EnableResult>('enable'), { done: true, why: null })
  t.equal((await attached(node)).length, 2)
  await daemon.removeAfterKill()
  t.ok(gone(), 'removed')
  await daemon.start({ config: plain })
  t.equal((await attached(node)).length, 2, 'by a link that led nowhere')
  await daemon.kill('SIGKILL')
  const disabled = await node.exec([process.execPath, ...[command, '--socket', daemon.socket, 'disable', '--force']])
  t.equal(disabled.status, 0, disabled.stdout + disabled.stderr)
  t.ok(gone(), 'disabled without the daemon')
})

t.test('a damaged journal of filters: what is not known is said, and the journal stays', async (t) => {
  const { order, environment } = faultsIn(t.testdir({}))
  // as on a kernel without TCX
  order({ fail: { label: 'object.attachTcx from_pod', from: 1, once: false, code: 'EOPNOTSUPP' } })
  const node = (await servedLab(t, { pods: 1 }, { environment })).node(0)
  const { daemon } = node
  const journal = join(daemon.runDirectory, 'clsact.json')
  const whole = readFileSync(journal, 'utf8')
  const filters = () => node.run(['tc', 'filter', 'show', 'dev', 'pod1', 'ingress'])
  t.match(await filters(), /from_pod/)
  await daemon.kill('SIGKILL')
  writeFileSync(journal, whole.slice(0, -1))
  const removed = await daemon.remove('--force')
  t.equal(removed.status, 1)
  t.match(removed.stdout, /not all could be removed: which devices still have filters.*clsact\.json cannot be read/)
  t.notMatch(removed.stdout, /removed from this node/)
  t.match(await filters(), /from_pod/, 'it is true')
  t.ok(existsSync(journal))

  await daemon.start({ config: { ...plain, enabled: false }, waitReady: false })
  const problem = async () => (await status(node)).problems.find(({ code }) => code === 'left-behind')
  await until('a daemon says so, too', async () => Boolean(await problem().catch(() => undefined)), patience)
  t.match(await problem(), { text: /which devices still have filters.*tc filter del/, nextTry: String })
  writeFileSync(journal, whole)
  await until('until it is whole', async () => !(await problem()), patience)
  t.notMatch(await filters(), /from_pod/)
  t.notOk(existsSync(journal))

  writeFileSync(journal, '{')
  t.match(await daemon.json<EnableResult>('enable'), { done: true })
  const { value } = await controlClient(daemon.socket).post<EnableResult>('/v1/disable', { force: true })
  t.match(value, { done: true, mode: 'disabled', why: /which devices still have filters/ }, 'of a daemon that serves')
  rmSync(journal)
  await until('until somebody removes it', async () => !(await problem()), patience)
})
