import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { run, start } from './run.js'

t.test('changes: what was done, what was refused, and the exit status', async (t) => {
  const { ask, node } = await start(t)
  const enabled = await ask('enable', '--confirm-within', '1m')
  t.equal(enabled.code, 0)
  t.match(
    enabled.out,
    /^hostroute is enabled\. Unless confirmed within (59|1 min|1 min \d) ?s? ?it is undone: hostroute confirm\n$/
  )
  t.equal(node.calls.at(-1), 'enable {"confirmWithin":60}')
  t.match(await ask('confirm'), { code: 2, out: 'Refused: nothing waits for a confirmation\n' })
  t.match(await ask('disable'), { code: 0, out: "hostroute is disabled: all packets take the kernel's own way.\n" })
  t.match(await ask('reload'), {
    code: 0,
    out: /in force\.\nTakes effect only after systemctl restart hostrouted: uplink\.xdp\n/
  })
  const differs = await ask('verify')
  t.equal(differs.code, 2)
  t.equal(
    differs.out,
    `1 difference: 100 entries compared in 12 ms. Repair with: hostroute verify --repair
MAP      KEY          WHAT     FOUND  WANTED
routes4  10.7.0.0/16  missing  -      nexthop 1
`
  )
  t.match(await ask('verify', '--repair'), { code: 0, out: /^1 difference, all repaired: / })
  const invalid = await start(t, {
    reload: async () => ({ ok: false, problems: ['config.yaml:1:1: x: unknown key'], restartNeeded: [] })
  })
  t.match(await invalid.ask('reload'), { code: 2, out: /Refused[\s\S]*config\.yaml:1:1/ })
})

t.test('an option that is given twice is refused, never half obeyed', async (t) => {
  const { ask, node } = await start(t)
  const calls = node.calls.length
  const twice: [string, string[]][] = [
    ['pod', ['snat', 'delete', '--pod', '10.0.0.1', '--pod', '10.0.0.2']],
    ['remote', ['snat', 'delete', '--remote', '203.0.113.1', '--remote=203.0.113.2', '--dry-run']],
    ['older-than', ['snat', 'delete', '--older-than', '1m', '--older-than', '2m']],
    ['verdict', ['snat', 'delete', '--all', '--verdict', 'snat', '--verdict', 'any']],
    ['limit', ['routes', '--limit', '1', '--limit', '2']],
    ['family', ['routes', '--family', '4', '--family', '6']],
    ['device', ['drops', '--device', 'a', '--device', 'b']],
    ['from', ['explain', '--from', '10.0.0.1', '--from', '10.0.0.2', '--to', '10.0.0.3']],
    ['confirm-within', ['enable', '--confirm-within', '1m', '--confirm-within', '2m']]
  ]
  for (const [name, words] of twice) {
    t.match(await ask(...words), { code: 64, err: new RegExp(`^hostroute: --${name} may be given only once\\n`) }, name)
  }
  t.equal(node.calls.length, calls, 'the daemon was not asked')
  t.match(await ask('status', '--json', '--json'), { code: 0 }, 'a switch may be')
})

t.test('snat delete says how many flows it has deleted', async (t) => {
  const { ask, node } = await start(t)
  t.match(await ask('snat', 'delete', '--pod', 'FD00::2', '--older-than', '10m'), {
    code: 0,
    out: '1,200 flows deleted in 12 ms.\n'
  })
  t.equal(node.calls.at(-1), 'deleteFlows {"pod":"fd00::2","verdict":"snat","olderThan":600} false 0')
  t.match(await ask('snat', 'delete', '--remote', '203.0.113.0/24:443', '--dry-run'), {
    code: 0,
    out: '1,200 flows would be deleted.\n'
  })
  t.equal(node.calls.at(-1), 'deleteFlows {"remote":"203.0.113.0/24","remotePort":443,"verdict":"snat"} true 0')
  const remotes: [string, object][] = [
    ['203.0.113.7', { remote: '203.0.113.7/32' }],
    ['203.0.113.7:53', { remote: '203.0.113.7/32', remotePort: 53 }],
    ['2001:db8::1', { remote: '2001:db8::1/128' }],
    ['2001:db8::/32', { remote: '2001:db8::/32' }],
    ['[2001:db8::1]:443', { remote: '2001:db8::1/128', remotePort: 443 }],
    ['[2001:db8::]/32:443', { remote: '2001:db8::/32', remotePort: 443 }]
  ]
  for (const [text, filter] of remotes) {
    await ask('snat', 'delete', '--remote', text, '--verdict', 'any')
    t.equal(node.calls.at(-1), `deleteFlows ${JSON.stringify(filter)} false 0`, text)
  }
  await ask('snat', 'delete', '--all', '--verdict', 'any')
  t.equal(node.calls.at(-1), 'deleteFlows {} false 0')
  t.equal(JSON.parse((await ask('snat', 'delete', '--idle', '90s', '--json')).out).deleted, 1200)
  t.equal(node.calls.at(-1), 'deleteFlows {"verdict":"snat","idle":90} false 0')
  await ask('snat', 'delete', '--pod', 'veth1', '--idle', '0s')
  t.equal(node.calls.at(-1), 'deleteFlows {"pod":"veth1","verdict":"snat","idle":0} false 0')
  await ask('snat', 'delete', '--older-than', '0s', '--idle', '1s')
  t.equal(node.calls.at(-1), 'deleteFlows {"verdict":"snat","olderThan":0,"idle":1} false 0')
})

t.test('with --json errors are JSON, too, with a code for programs', async (t) => {
  const { ask } = await start(t)
  const failed = async (...args: string[]) => {
    const { code, out, err } = await ask(...args, '--json')
    return { status: code, out, ...(JSON.parse(err) as { error: string; code: string }) }
  }
  const missing = await run(['status', '--json'], { HOSTROUTE_SOCKET: '/run/nowhere/control.sock' })
  t.match(JSON.parse(missing.err), { code: 'not-running', error: /no socket \/run\/nowhere/ })
  t.match(await failed('snat', 'delete', '--remote', 'x'), { code: 'usage', out: '', error: /x/ })
  t.match(await failed('routes', 'get', 'nowhere'), { code: 'usage', out: '' })
})

t.test('a daemon that fails or is not there is exit status 1 with a remedy', async (t) => {
  const missing = await run(['status'], { HOSTROUTE_SOCKET: '/run/nowhere/control.sock' })
  t.match(missing, {
    code: 1,
    out: '',
    err: 'hostroute: hostrouted is not running: there is no socket /run/nowhere/control.sock. Start it with: systemctl start hostrouted\n'
  })
  const { ask } = await start(t, {
    nexthops: () => {
      throw new Error('the map is gone')
    }
  })
  t.match(await ask('nexthops'), { code: 1, out: '', err: 'hostroute: the map is gone\n' })
})

t.test('an answer that is not what was expected is exit status 1, and says so', async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'hr-cli-'))
  const socket = join(directory, 'control.sock')
  let answer = ''
  const server = createServer((_, response) => response.end(answer))
  await new Promise<void>((resolve) => server.listen(socket, resolve))
  t.teardown(() => {
    server.close()
    rmSync(directory, { recursive: true })
  })
  const commands = [
    ...[['status'], ['pods'], ['routes'], ['nexthops'], ['neighbors'], ['drops'], ['drops', '--device', 'eth0']],
    ...[['snat'], ['snat', 'top'], ['snat', 'policy'], ['guard', 'status'], ['verify'], ['reload'], ['disable']],
    ...[['monitor'], ['explain', '--from', '10.0.0.1', '--to', '10.0.0.2']]
  ]
  const err =
    /^hostroute: the daemon's answer cannot be read \(.+\): is it of another version\? See: hostroute version\n$/
  for (answer of ['', 'null', '{}', '<html>\n</html>\n']) {
    // nothing is no event, and what says nothing of a policy is taken for: none
    const asked = commands.filter(
      ([name, second]) => (name !== 'monitor' || answer.startsWith('<')) && (second !== 'policy' || answer !== '{}')
    )
    const outcomes = await Promise.all(asked.map((words) => run([...words, '--socket', socket])))
    for (const [index, words] of asked.entries())
      t.match(outcomes[index], { code: 1, out: '', err }, `${words.join(' ')}: ${answer}`)
  }
})

t.test('wrong usage is exit status 64', async (t) => {
  const cases: [string[], RegExp][] = [
    [[], /Which command/],
    [['statu'], /Did you mean status/],
    [['status', '--bogus'], /Unknown argument: bogus/],
    [['snat', 'delete'], /Which flows\? --pod/],
    [['snat', 'delete', '--verdict', 'direct'], /Which flows\?/],
    [['snat', 'delete', '--idle', '0s'], /--idle 0 fit every flow: that is --all/],
    [['snat', 'delete', '--older-than', '0', '--idle', '0ms', '--verdict', 'any'], /fit every flow/],
    [['snat', 'delete', '--all', '--idle', '0s'], /--all is for every flow/],
    [['snat', 'delete', '--all', '--pod', '10.1.0.2'], /--all is for every flow/],
    [['snat', 'delete', '--all', '--protocol', 'udp'], /Unknown argument: protocol/],
    [['snat', 'delete', '--remote', 'example'], /--remote takes ADDRESS/],
    [['snat', 'delete', '--remote', '10.0.0.1:70000'], /there is no port 70000/],
    [['snat', 'delete', '--remote', '10.0.0.1/33'], /--remote takes ADDRESS/],
    [['snat', 'delete', '--idle', '10'], /--idle takes a duration/],
    [['snat', 'top', '--count', '0'], /--count takes a whole number/],
    [['snat', '--limit', '0'], /--limit takes a whole number/],
    [['routes', 'bogus'], /Unknown argument: bogus/],
    [['routes', 'get', '1.2.3'], /1\.2\.3 is not an IPv4 or IPv6 address/],
    [['routes', 'get'], /Not enough/],
    [['routes', '--family', '5'], /Invalid values/],
    [['explain', '--from', '10.1.0.2'], /Missing required argument: to/],
    [['explain', '--from', '10.1.0.2', '--to', '10.1.0.300'], /--to: 10\.1\.0\.300 is not an address/],
    [['explain', '--from', '10.1.0.2', '--to', 'example'], /--to takes ADDRESS or ADDRESS:PORT, not example/],
    [['explain', '--from', '10.1.0.2', '--to', '10.1.0.3:70000'], /there is no port 70000/],
    [
      ['explain', '--from', '10.1.0.2', '--to', '10.1.0.3', '--proto', 'tcp'],
      /tcp needs a port: --to 10\.1\.0\.3:PORT/
    ],
    [['explain', '--from', '10.1.0.2', '--to', 'fd00::3', '--proto', 'udp'], /--to \[fd00::3\]:PORT/],
    [['explain', '--from', '10.1.0.2', '--to', '10.1.0.3:1', '--proto', 'icmp'], /icmp has no ports/],
    [['explain', '--from', '10.1.0.2', '--to', '10.1.0.3:1', '--flags', 'X'], /letters of FSRPAU, not X/],
    [['explain', '--from', '10.1.0.2', '--to', '10.1.0.3', '--flags', 'S'], /--flags are for TCP/],
    [['explain', '--from', '10.1.0.2', '--to', '10.1.0.3', '--ttl', '256'], /--ttl takes a whole number from 0 to 255/],
    [['explain', '--from', '10.1.0.2', '--to', '10.1.0.3', '--size', '1'], /--size takes a whole number from 28/],
    [['enable', '--confirm-within', '60'], /takes a duration from 5s to 1h, not 60/],
    [['config', '--check', ''], /--check takes the path of a file, which must not be empty/],
    [['completion', 'fish'], /Choices: "bash", "zsh"/],
    [['status', '--socket'], /Not enough arguments following: socket/]
  ]
  const outcomes = await Promise.all(cases.map(([args]) => run(args)))
  for (const [index, [args, message]] of cases.entries())
    t.match(outcomes[index], { code: 64, err: message, out: '' }, args.join(' '))
})

t.test('help, versions, completion and the configuration reference need no daemon', async (t) => {
  const help = await run(['--help'])
  t.equal(help.code, 0)
  for (const name of [
    'status',
    'pods',
    'routes',
    'explain',
    'nexthops',
    'neighbors',
    'snat',
    'drops',
    'monitor',
    'enable',
    'confirm',
    'disable',
    'verify',
    'metrics',
    'reload',
    'completion',
    'config',
    'version'
  ]) {
    t.match(help.out, `hostroute ${name}`)
  }
  t.match(await run(['--version']), { code: 0, out: /^\d+\.\d+\.\d+\n$/ })
  t.match(await run(['version', '--socket', '/nowhere']), { code: 0, out: /hostrouted does not answer/ })
  t.match((await run(['completion', 'bash'])).out, /complete .*-F _hostroute_yargs_completions hostroute/)
  t.match((await run(['completion', 'zsh'])).out, /#compdef hostroute/)
  t.match((await run(['config'])).out, /masqueradeFiles: auto/)
  const path = join(mkdtempSync(join(tmpdir(), 'hr-check-')), 'config.yaml')
  writeFileSync(path, 'enable: true\n')
  t.match(await run(['config', '--check', path]), {
    code: 1,
    err: `${path}:1:1: enable: unknown key; did you mean enabled?\n`
  })
})
