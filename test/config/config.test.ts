import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { ConfigError, configReference, defaultConfig, loadConfig, parseConfig } from '../../src/config/config.js'
import { formatDuration, parseDuration } from '../../src/config/duration.js'
import { matchesGlob } from '../../src/config/glob.js'
import { formatPortRanges, parsePortRanges, readKernelPorts, snatPorts } from '../../src/config/ports.js'

function problemsOf(text: string): string[] {
  try {
    parseConfig(text, 'config.yaml')
    return []
  } catch (error) {
    if (error instanceof ConfigError) return error.message.split('\n')
    throw error
  }
}

t.test('a file that is not there means the defaults', async (t) => {
  const { config, present } = loadConfig('/nonexistent/config.yaml')
  t.equal(present, false)
  t.same(config, defaultConfig)
  t.not(config, defaultConfig, 'the caller may change what it gets')
  t.equal(config.lease, 600_000)
  t.equal(config.snat.timeouts.tcpEstablished, 86_400_000)
  t.same(config.snat.nodePorts, [{ first: 30000, last: 32767 }])
})

t.test('the printed reference is a configuration with every default', async (t) => {
  t.same(parseConfig(configReference(), 'reference'), defaultConfig)
  for (const key of ['stackPrefixes:', 'masqueradeFiles:', 'udpOneWay:', 'neighbours:']) t.match(configReference(), key)
})

t.test('every kind of value is read', async (t) => {
  const config = parseConfig(
    `
enabled: no
ipv6: off
pods:
  devices: ["veth*", lxc_?]
uplink: { devices: [eth0], xdp: off }
stackPrefixes: [10.9.0.0/16, "fd00::/8"]
snat:
  masqueradeFiles: [/etc/config/ip-masq*]
  ports: "1024-29999, 61000-65535"
  nodePorts: none
  timeouts: { icmp: 1m30s }
onStop: detach
lease: off
expireInterval: 500ms
limits:
  flows: 4096
`,
    'config.yaml'
  )
  t.equal(config.enabled, false)
  t.equal(config.ipv6, false)
  t.same(config.pods.devices, ['veth*', 'lxc_?'])
  t.equal(config.uplink.xdp, 'off')
  t.same(config.stackPrefixes, ['0a090000/16', `fd${'0'.repeat(30)}/8`])
  t.same(config.snat.ports, [
    { first: 1024, last: 29999 },
    { first: 61000, last: 65535 }
  ])
  t.same(config.snat.nodePorts, [])
  t.equal(config.snat.timeouts.icmp, 90_000)
  t.equal(config.snat.timeouts.udpOneWay, 30_000, 'keys beside it keep their defaults')
  t.equal(config.lease, null)
  t.equal(config.expireInterval, 500)
  t.equal(config.limits.flows, 4096)
  t.equal(parseConfig('uplink: {xdp: false}\nlease: false', 'x').uplink.xdp, 'off', 'off as YAML 1.1 tools write it')
})

t.test('an empty file and empty sections are defaults', async (t) => {
  for (const text of ['', '# nothing\n', '---\n', 'snat:\nlimits: {}\n']) t.same(parseConfig(text, 'x'), defaultConfig)
})

t.test('all problems are told at once, each with its place', async (t) => {
  t.same(
    problemsOf(`enable: yes
uplink:
  xdp: fast
  devices: [eth0, 5]
snat:
  timeouts:
    icmp: 30
  port: auto
limits: 5
log:
  level:
stackPrefixes: [10.0.0.1/8]
ports: 1024-2000
`),
    [
      'config.yaml:1:1: enable: unknown key; did you mean enabled?',
      'config.yaml:3:8: uplink.xdp: found "fast"; allowed: off, native or generic',
      'config.yaml:4:19: uplink.devices: found 5; allowed: auto, or a list of device names with * ? [] like ["veth*", "lxc*"]',
      'config.yaml:7:11: snat.timeouts.icmp: found 30; allowed: a duration from 1s to 1h, like 90s, 10m, 2h4m or 500ms',
      'config.yaml:8:3: snat.port: unknown key; did you mean snat.ports?',
      'config.yaml:9:9: limits: found a value that is not a mapping; allowed: keys routes4, routes6, flows, neighbours, masquerade, devices',
      'config.yaml:11:3: log.level: has no value; leave the key out for the default (info); allowed: error, warn, info, debug or trace',
      'config.yaml:12:17: stackPrefixes: found "10.0.0.1/8"; allowed: a list of prefixes like [10.0.0.0/8, "fd00::/8"] without host bits',
      'config.yaml:13:1: ports: unknown key; did you mean snat.ports?'
    ]
  )
})

t.test('in a list of mappings the field that is wrong is named, with its own place', async (t) => {
  const allowed = {
    device: 'a device name with * ? [] like "lxc*"',
    prefix: 'a prefix like 10.96.0.0/12 or "fd00::/8" without host bits'
  }
  t.same(
    problemsOf(`pods:
  sources:
    - {device: lxc0, prefix: 10.96.0.0/12}
    - device: lxc1
      prefix: 10.96.0.1/12
    - prefix: fd00::/8
      device: "a b"
      masquerade: maybe
    - device: lxc2
    - devise: lxc3
      prefix: 10.0.0.0/8
    - 10.0.0.0/8
    - device:
      prefix: [10.0.0.0/8]
`),
    [
      `config.yaml:5:15: pods.sources[1].prefix: found "10.96.0.1/12"; allowed: ${allowed.prefix}`,
      `config.yaml:7:15: pods.sources[2].device: found "a b"; allowed: ${allowed.device}`,
      'config.yaml:8:19: pods.sources[2].masquerade: found "maybe"; allowed: true or false',
      `config.yaml:9:7: pods.sources[3].prefix: is missing; allowed: ${allowed.prefix}`,
      `config.yaml:10:7: pods.sources[4].device: is missing; allowed: ${allowed.device}`,
      'config.yaml:10:7: pods.sources[4].devise: unknown key; did you mean device?',
      'config.yaml:12:7: pods.sources[5]: found "10.0.0.0/8"; allowed: a list like [{device: "lxc*", prefix: 10.96.0.0/12}]: device is a name with * ? [], prefix has no host bits, and masquerade may be false',
      `config.yaml:13:14: pods.sources[6].device: found null; allowed: ${allowed.device}`,
      `config.yaml:14:15: pods.sources[6].prefix: found ["10.0.0.0/8"]; allowed: ${allowed.prefix}`
    ]
  )
  t.match(
    problemsOf('x: &all {device: lxc0, prefix: none}\npods: {sources: [*all]}').at(-1),
    /^config\.yaml:1:32: pods\.sources\[0\]\.prefix: found "none"/,
    'behind an alias'
  )
  t.match(problemsOf('pods: {sources: 5}')[0], /^config\.yaml:1:17: pods\.sources: found 5; allowed: a list like/)
})

t.test('out of range, wrong type, twice the same key, no YAML', async (t) => {
  t.match(
    problemsOf('limits: {flows: 3}')[0],
    /limits\.flows: found 3; allowed: auto, or a whole number from 1024 to 16777216/
  )
  t.match(problemsOf('limits: {flows: 4096.5}')[0], /limits\.flows/)
  t.match(problemsOf('enabled: 1')[0], /enabled: found 1; allowed: true or false/)
  t.match(problemsOf('lease: 5s')[0], /lease: found "5s"/)
  t.match(problemsOf('snat: {ports: "5-1"}')[0], /snat\.ports/)
  t.match(problemsOf('snat: {ports: "0-70000"}')[0], /snat\.ports/)
  t.match(problemsOf('snat: {masqueradeFiles: [relative]}')[0], /absolute paths/)
  t.equal(problemsOf('snat: {masqueradeFiles: [/etc/*/x]}').length, 0)
  t.match(problemsOf('snat: {masqueradeFiles: automatic}')[0], /auto, or a list of absolute paths/)
  t.match(problemsOf('snat: {semantics: azure}')[0], /snat\.semantics: found "azure"; allowed: ip-masq-agent or cilium/)
  t.equal(parseConfig('snat: {allReservedRanges: yes}', 'config.yaml').snat.allReservedRanges, true)
  t.match(problemsOf('snat: {allReservedRanges: 5}')[0], /snat\.allReservedRanges: found 5; allowed: auto, true or/)
  t.match(problemsOf('snat: {masqueradeIPv6: maybe}')[0], /snat\.masqueradeIPv6: found "maybe"; allowed: auto, true or/)
  t.match(problemsOf('pods: {devices: []}')[0], /pods\.devices/)
  t.strictSame(problemsOf('lease: 5m\nlease: 6m'), [
    'config.yaml:2:1: is not YAML: the key "lease" is there twice: remove one'
  ])
  t.match(problemsOf('ipv4: [')[0], /config\.yaml:1:\d+: is not YAML/)
  t.match(problemsOf('- a\n- b')[0], /config\.yaml:1:1: the file is not a mapping/)
  t.match(problemsOf('ipv4: true\n---\nipv6: true')[0], /second document/)
  t.match(problemsOf('__proto__: 1')[0], /__proto__: unknown key/)
  t.match(problemsOf('constructor: {a: 1}')[0], /constructor: unknown key/)
})

t.test('anchors are followed, and a bomb of them is refused', async (t) => {
  t.same(parseConfig('pods: {devices: &d [a]}\nuplink: {devices: *d}', 'x').uplink.devices, ['a'])
  const bomb = [
    'a: &a [x,x,x,x,x,x,x,x,x]',
    ...'bcdefgh'.split('').map((name, i) => `${name}: &${name} [${Array(9).fill(`*${'abcdefgh'[i]}`)}]`),
    'stackPrefixes: *h'
  ]
  t.ok(problemsOf(bomb.join('\n')).length > 0)
})

t.test('a pipe, a device or a file without end in its place is an error, and holds nobody up', async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'hr-config-'))
  t.teardown(() => rmSync(directory, { recursive: true }))
  const path = join(directory, 'config.yaml')
  const refused = (message: RegExp) => t.throws(() => loadConfig(path), { name: 'ConfigError', message })
  execFileSync('mkfifo', [path])
  refused(/cannot be read: is not a regular file/)
  rmSync(path)
  symlinkSync('/dev/zero', path)
  refused(/cannot be read: is not a regular file/)
  rmSync(path)
  writeFileSync(path, '')
  truncateSync(path, 2 ** 40)
  refused(/cannot be read: 1099511627776 bytes is too long for a configuration \(at most 262144\)/)
  rmSync(path)
  // of those in /proc none says how long it is
  symlinkSync('/proc/kallsyms', path)
  refused(/cannot be read: \d+ bytes is too long/)
})

t.test('a file that cannot be read is an error with its name', async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'hr-config-'))
  t.teardown(() => rmSync(directory, { recursive: true }))
  t.throws(() => loadConfig(directory), { name: 'ConfigError', message: /cannot be read/ })
  const path = join(directory, 'config.yaml')
  writeFileSync(path, 'log: {level: debug}\n')
  t.match(loadConfig(path), { present: true, config: { log: { level: 'debug' } } })
})

t.test('what is nested too deeply is told at once, where; what is not is read', async (t) => {
  for (const one of ['{', '[', '- ', '? ', '- {a: ', '[{a: [],']) {
    for (const text of [one.repeat(Math.floor(200_000 / one.length)), `lease: 5m\nx:\n  ${one.repeat(20_000)}`]) {
      const started = performance.now()
      const problems = problemsOf(text)
      t.ok(performance.now() - started < 1_000, `${one}: at once`)
      t.equal(problems.length, 1, one)
      t.match(problems[0], /^config\.yaml:[13]:\d+: is nested too deeply \(at most 100 levels\)$/, one)
    }
  }
  const lists = (levels: number) => problemsOf(`x: ${'['.repeat(levels)}${']'.repeat(levels)}`)
  t.match(lists(99), [/x: unknown key/])
  t.match(lists(110), [/^config\.yaml:1:10\d: is nested too deeply/])
  const indented = Array.from({ length: 150 }, (_, n) => `${' '.repeat(n)}a:`).join('\n')
  t.match(problemsOf(indented), [/^config\.yaml:10\d:\d+: is nested too deeply/])
  t.ok(Error.stackTraceLimit > 0, 'other errors have their traces')
})

t.test('durations are those of Go', async (t) => {
  const cases: [string, number | null][] = [
    ['90s', 90_000],
    ['2h4m', 7_440_000],
    ['1.5h', 5_400_000],
    ['.5s', 500],
    ['1h1m1s1ms', 3_661_001],
    ['100us', 0.1],
    ['100µs', 0.1],
    ['-5s', -5000],
    ['+5s', 5000],
    ['0', 0],
    ['5', null],
    ['', null],
    ['s', null],
    ['5 s', null],
    ['5d', null],
    ['1m30', null],
    ['.s', null]
  ]
  for (const [text, wanted] of cases) t.equal(parseDuration(text), wanted, text)
  for (const text of ['2h4m', '500ms', '90h', '1m30s', '0s']) t.equal(formatDuration(parseDuration(text) ?? -1), text)
})

t.test('patterns of names', async (t) => {
  t.ok(matchesGlob('veth*', 'veth1234'))
  t.notOk(matchesGlob('veth*', 'xveth1'))
  t.ok(matchesGlob('eth?', 'eth0'))
  t.notOk(matchesGlob('eth?', 'eth10'))
  t.ok(matchesGlob('eth[0-3]', 'eth2'))
  t.notOk(matchesGlob('eth[!0-3]', 'eth2'))
  t.ok(matchesGlob('a.b', 'a.b'))
  t.notOk(matchesGlob('a.b', 'axb'))
  for (const odd of ['[', '[z-a]', '(', '\\', '[]', '[!]', '*[', '[^', '+'])
    t.doesNotThrow(() => matchesGlob(odd, 'eth0'), odd)
})

t.test('[S8] auto takes no port that the kernel, a NodePort or a listener uses', async (t) => {
  const kernel = { local: [{ first: 32768, last: 60999 }], reserved: [{ first: 2000, last: 2001 }], listening: [10250] }
  const nodePorts = [{ first: 30000, last: 32767 }]
  const ports = snatPorts('auto', nodePorts, kernel)
  t.equal(ports[0], 1024)
  t.equal(ports.at(-1), 65535)
  t.equal(ports.length, 65535 - 1024 + 1 - 28232 - 2 - 2768 - 1)
  for (const taken of [2000, 2001, 10250, 30000, 32767, 32768, 60999]) t.notOk(ports.includes(taken), `${taken}`)
  t.same(
    snatPorts([{ first: 31999, last: 32769 }], nodePorts, kernel),
    [32768, 32769],
    'configured ranges keep clear of NodePorts'
  )
  t.equal(formatPortRanges(parsePortRanges('5,1-3,4,9') ?? []), '1-5,9')
  t.equal(parsePortRanges('1-2-3'), null)
  t.ok(readKernelPorts().local.length > 0)
})

t.test('[S14] addresses for SNAT are given by address, prefix and device', async (t) => {
  const read = (list: string) => parseConfig(`snat:\n  addresses: ${list}\n`, 'config.yaml').snat.addresses
  t.strictSame(defaultConfig.snat.addresses, 'auto')
  t.strictSame(read('[192.0.2.10, 192.0.2.32/28, "2001:db8::10", "eth*"]'), [
    { prefix: 'c000020a/32' },
    { prefix: 'c0000220/28' },
    { prefix: `20010db8${'0'.repeat(22)}10/128` },
    { device: 'eth*' }
  ])
  for (const wrong of ['192.0.2.300', '192.0.2.10/28', '2001:db8:::1', '7', 'eth/1'])
    t.match(problemsOf(`snat:\n  addresses:\n    - eth0\n    - ${wrong}\n`), [
      /^config\.yaml:4:7: snat\.addresses: found .*; allowed: auto, or a list of addresses, prefixes without host bits/
    ])
  t.match(problemsOf('snat:\n  addresses: []\n'), [/^config\.yaml:2:14: snat\.addresses: found \[\]/])
})

t.test('[D7] what pods may send with is named by device and prefix', async (t) => {
  const config = parseConfig(
    'pods:\n  sources:\n    - {device: "lxc*", prefix: 10.96.0.0/12}\n    - device: eth7\n      prefix: fd00:96::/32\n      masquerade: false\n',
    'config.yaml'
  )
  t.strictSame(config.pods.sources, [
    { device: 'lxc*', prefix: '0a600000/12', masquerade: true },
    { device: 'eth7', prefix: `fd000096${'0'.repeat(24)}/32`, masquerade: false }
  ])
})

t.test('of a file that is something else the first problems are told, and how many there are', async (t) => {
  const started = performance.now()
  const problems = problemsOf(Array.from({ length: 30_000 }, (_, n) => `key${n}: 1`).join('\n'))
  t.equal(problems.length, 21)
  t.match(problems[0], /^config\.yaml:1:1: key0: unknown key/)
  t.equal(problems.at(-1), 'config.yaml: 29980 more problems are not listed')
  t.ok(performance.now() - started < 10_000, 'no key is compared with each')
  t.strictSame(problemsOf('ipv4: true\nsnat: {enabled: true, enabled: true}'), [
    'config.yaml:2:23: is not YAML: the key "enabled" is there twice: remove one'
  ])
  t.ok(problemsOf(`snat:\n a: ${'['.repeat(20_000)}`).length <= 21, 'of what is no YAML, too')
})
