// What the daemon does not start with: each ends in one clear sentence and an
// exit status, never in a stack trace.

import { mkdirSync, readdirSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { attached, plain, status } from '../forwarding/served.js'
import { Lab } from '../lab/lab.js'
import { type Outcome, run, until } from '../lab/process.js'

const daemon = fileURLToPath(new URL('../../src/daemon/main.js', import.meta.url))

/** Lines of the log without what is merely informative; asserts that there is no stack trace among them. */
function complaint(t: Test, outcome: Outcome): string {
  const text = outcome.stdout + outcome.stderr
  t.notMatch(text, /^\s+at |node:internal|file:\/\/|\.js:\d+/m, 'no stack trace')
  t.notMatch(text, /undefined|\[object Object\]|NaN/, 'nothing unfinished')
  return text.trim()
}

t.test('a daemon that cannot start says why', async (t) => {
  const lab = await Lab.create({ nodes: 1, pods: 1 })
  t.teardown(() => lab.close())
  const node = lab.node(0)
  const { runDirectory, pinDirectory, stateDirectory, configFile } = node.daemon
  mkdirSync(runDirectory, { recursive: true })
  mkdirSync(pinDirectory, { recursive: true })
  const usual = [
    ...['--config', configFile, '--run-directory', runDirectory, '--pin-directory', pinDirectory],
    ...['--state-directory', stateDirectory]
  ]
  /** Starts it with this configuration; the later of two equal options counts. */
  const start = (config: string, options: string[] = [], prefix: string[] = []) => {
    writeFileSync(configFile, config)
    return node.exec([...prefix, process.execPath, '--enable-source-maps', daemon, ...usual, ...options], {
      timeout: 20_000
    })
  }
  const quiet = 'checks: off\nguard: {mode: off}\n'

  await t.test('wrong configuration: status 2, file, line, column and key', async (t) => {
    const cases: [name: string, text: string, place: string, key: RegExp][] = [
      ['unknown key', 'enabled: true\nsnat:\n  timeoutz: {}\n', '3:3', /snat\.timeoutz/],
      ['wrong values', 'enabled: true\nlease: 5 bananas\nlimits:\n  flows: 3\n', '2:8', /lease[\s\S]*limits\.flows/],
      ['wrong type', 'ipv4: [maybe]\n', '1:8', /ipv4/],
      ['not YAML', 'enabled: {\nsnat: ]\n', '', /./],
      ['a list', '- enabled\n', '1:1', /./]
    ]
    for (const [name, text, place, key] of cases) {
      const outcome = await start(text)
      t.equal(outcome.status, 2, `${name}: status 2`)
      const words = complaint(t, outcome)
      t.ok(words.includes(`${configFile}:${place}`), `${name}: ${words.slice(0, 200)}`)
      t.match(words, key, `${name}: names the key`)
    }
  })

  await t.test('[L7] capabilities, bpffs, second daemon: status 2 and a remedy', async (t) => {
    const without = (drop: string) => ['setpriv', '--bounding-set', drop, '--inh-caps', drop]
    for (const [drop, name] of [
      ['-net_admin', 'CAP_NET_ADMIN'],
      ['-sys_admin,-bpf', 'CAP_BPF'],
      ['-sys_admin,-perfmon', 'CAP_PERFMON']
    ] as const) {
      const outcome = await start(quiet, [], without(drop))
      t.equal(outcome.status, 2, `without ${name}`)
      t.match(complaint(t, outcome), new RegExp(`${name}.*root|systemd`), `without ${name}`)
    }
    const elsewhere = `${runDirectory}/not-bpffs`
    const missing = await start(quiet, ['--pin-directory', elsewhere])
    t.equal(missing.status, 2, 'no bpffs')
    t.match(complaint(t, missing), /not on a BPF file system.*mount -t bpf/)

    // a read-only bpffs, in a mount namespace of its own
    const readOnly = `${runDirectory}/read-only`
    mkdirSync(readOnly, { recursive: true })
    const script = `mount -t bpf -o ro bpf ${readOnly} && exec "$@"`
    const refused = await start(
      quiet,
      ['--pin-directory', `${readOnly}/n1`],
      ['unshare', '-m', 'sh', '-c', script, 'sh']
    )
    t.equal(refused.status, 2, 'read-only bpffs')
    t.match(complaint(t, refused), /cannot make .*read-only/i)

    await node.startDaemon({ config: plain })
    const second = await start(quiet)
    t.equal(second.status, 2, 'second daemon')
    t.match(complaint(t, second), /another hostrouted already runs/)
    t.equal((await node.pod(0).ping('203.0.113.10', { count: 3 })).received, 3, 'the first does not notice')
    await node.daemon.json('disable', '--force')
    await node.stopDaemon()
  })

  await t.test('[L6] programs that the kernel does not load: said, and the node stays on the stack', async (t) => {
    await node.startDaemon({ config: { ...plain, enabled: false }, waitReady: false })
    await until('it answers', async () => (await node.hostroute(['status'])).stdout.includes('disabled'))
    const limit = (files: number) => run(['prlimit', '--pid', `${node.daemon.pid}`, `--nofile=${files}:`])
    // A kernel that gives no more descriptors refuses a map or a program in the midst of loading.
    await limit(readdirSync(`/proc/${node.daemon.pid}/fd`).length + 12)
    const refused = await node.hostroute(['enable'])
    t.not(refused.status, 0, `status ${refused.status}`)
    t.match(complaint(t, refused), /open files|EMFILE/i, 'what and why')
    t.strictSame(await attached(node), [], 'nothing is attached')
    t.match((await status(node)).mode, 'disabled')
    t.equal((await node.pod(0).ping(node.address.v4, { count: 2 })).received, 2, 'the kernel goes on')
    await limit(1024)
    t.equal((await node.hostroute(['enable'])).status, 0, 'enabled once the kernel loads them')
    t.strictSame((await attached(node)).sort(), ['from_pod', 'from_uplink'])
    await node.daemon.json('disable', '--force')
    await node.stopDaemon()
  })

  await t.test('wrong options: status 64; --help and --version: 0', async (t) => {
    for (const options of [['--confg', 'x'], ['extra'], ['--config']]) {
      const outcome = await node.exec([process.execPath, daemon, ...options])
      t.equal(outcome.status, 64, options.join(' '))
      t.match(complaint(t, outcome), /^hostrouted: .*see hostrouted --help$/, options.join(' '))
    }
    for (const option of ['--help', '--version', '--print-config-reference']) {
      t.equal((await node.exec([process.execPath, daemon, option])).status, 0, option)
    }
  })
})
