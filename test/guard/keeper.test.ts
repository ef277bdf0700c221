// The daemon is killed at the moment at which its guard has taken its tables and
// has not yet written down which process keeps them.

import { readFileSync } from 'node:fs'
import t from 'tap'
import type { GuardStatus } from '../../src/control/guard-api.js'
import { plain, status } from '../forwarding/served.js'
import { Lab } from '../lab/lab.js'
import { exec, until } from '../lab/process.js'

t.setTimeout(240_000)
const patience = 60_000

t.test('SIGKILL while the guard takes its tables: no process is left that holds them', async (t) => {
  const lab = await Lab.create({ nodes: 1, pods: 1 })
  t.teardown(() => lab.close())
  const node = lab.node(0)
  const { daemon } = node
  const keepers = async () => {
    const { stdout } = await exec(['ip', 'netns', 'pids', node.namespace])
    return stdout.split('\n').filter((pid) => {
      try {
        return pid !== '' && /^sh\0-c\0read|^sleep\0infinity/.test(readFileSync(`/proc/${pid}/cmdline`, 'utf8'))
      } catch {
        return false // it has ended
      }
    })
  }
  const tables = async () =>
    (await node.run(['nft', 'list', 'tables'])).match(/table \w+ (filter|nat|raw|mangle)$/gm) ?? []
  const guarded = { ...plain, guard: { mode: 'enforce', backend: 'cgroup' } }

  // who is to write it down waits for good
  const waits = `
    import fs from 'node:fs'
    import { syncBuiltinESMExports } from 'node:module'
    const { openSync } = fs
    fs.openSync = (path, ...more) => {
      if (String(path).endsWith('guard-holder.json.next')) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)
      return openSync(path, ...more)
    }
    syncBuiltinESMExports()`
  const environment = { NODE_OPTIONS: `--import=data:text/javascript,${encodeURIComponent(waits)}` }
  await daemon.start({ config: guarded, waitReady: false, environment })
  await until('a process holds the tables', async () => !daemon.running || (await keepers()).length > 0, patience)
  t.equal((await keepers()).length, 1, daemon.log)
  t.not((await tables()).length, 0, 'they are taken')
  await daemon.kill('SIGKILL')
  await until('it has ended', async () => (await keepers()).length === 0, 10_000)
  t.strictSame(await tables(), [], 'and the tables with it')

  await daemon.start({ config: guarded, timeout: patience })
  await until('the guard refuses', async () => (await status(node)).guard?.refuses !== 'nothing', patience)
  t.match(await status(node), { mode: 'enabled', problems: [] })
  t.equal((await keepers()).length, 1)
  await daemon.kill('SIGKILL')
  t.equal((await keepers()).length, 1, 'a killed daemon leaves its guard')
  await daemon.start({ config: guarded, timeout: patience })
  t.equal((await keepers()).length, 1, 'which the next one finds')
  const [keeper] = await keepers()
  process.kill(Number(keeper), 'SIGKILL')
  await until(
    'the tables are taken again',
    async () => (await keepers()).length === 1 && (await tables()).length > 0,
    patience
  )
  t.match(daemon.log, /tables of iptables-nft that the guard owned have gone; it takes them again/)
  t.not((await node.exec(['iptables-nft', '-A', 'FORWARD', '-j', 'DROP'])).status, 0, 'and writes are refused again')
  await daemon.json('disable', '--force')
  t.strictSame([await keepers(), await tables()], [[], []], 'and ends')
})

t.test('what hostroute guard said outlives a killed daemon, until the configuration has another mode', async (t) => {
  const lab = await Lab.create({ nodes: 1, pods: 1 })
  t.teardown(() => lab.close())
  const { daemon } = lab.node(0)
  const guarded = (mode: string) => ({ config: { ...plain, guard: { mode } }, timeout: patience })
  const guard = () => daemon.json<GuardStatus>('guard', 'status')
  const named = ({ allowances }: GuardStatus) =>
    allowances.filter(({ source }) => source === 'command').map(({ name, until }) => ({ name, ends: until !== null }))
  await daemon.start(guarded('enforce'))
  await daemon.json('guard', 'mode', 'audit')
  await daemon.json('guard', 'allow', '--unit', 'a.service', '--for', '1h')
  await daemon.json('guard', 'allow', '--unit', 'b.service', '--for', '1h')
  await daemon.json('guard', 'allow', '--unit', 'c.service')
  await daemon.json('guard', 'deny', '--unit', 'b.service')
  await daemon.kill('SIGKILL')
  await daemon.start(guarded('enforce'))
  const taken = await guard()
  t.equal(taken.mode, 'audit')
  t.strictSame(named(taken), [{ name: 'a.service', ends: true }], 'what had no time has ended with the daemon')

  daemon.writeConfig({ ...plain, guard: { mode: 'off' } })
  await daemon.json('reload')
  daemon.writeConfig({ ...plain, guard: { mode: 'enforce' } })
  await daemon.json('reload')
  t.equal((await guard()).mode, 'enforce', 'the configuration is the later word')
  t.match(named(await guard()), [{ name: 'a.service' }])
  await daemon.json('guard', 'mode', 'enforce')
  await daemon.kill('SIGKILL')
  await daemon.start(guarded('audit'))
  t.equal((await guard()).mode, 'audit')
  await daemon.json('guard', 'mode', 'enforce')
  await daemon.kill('SIGKILL')
  await daemon.start(guarded('enforce'))
  t.equal((await guard()).mode, 'enforce')
})
