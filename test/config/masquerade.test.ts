import t from 'tap'
import { formatPrefix } from '../../src/address.js'
import { type MasqueradeFile, mergeMasquerade, parseMasqueradeFile } from '../../src/config/masquerade.js'
import { ConfigError } from '../../src/config/problem.js'

const path = '/etc/config/ip-masq-agent'
const read = (text: string, name = path) => parseMasqueradeFile(text, name)

/** The policy as text: "-10.0.0.0/8" keeps the address, "+0.0.0.0/0" is masqueraded. */
function policy(...texts: string[]): string[] {
  const files = texts.map((text, index) => read(text, `/file${index}`))
  return mergeMasquerade(files).wanted.map(({ prefix, masquerade }) => (masquerade ? '+' : '-') + formatPrefix(prefix))
}

function problem(text: string): string {
  try {
    read(text)
    return 'accepted'
  } catch (error) {
    if (error instanceof ConfigError) return error.message
    throw error
  }
}

const linkLocal = ['-169.254.0.0/16', '+::/0', '-fe80::/10']
const standard = [
  '+0.0.0.0/0',
  '-10.0.0.0/8',
  '-169.254.0.0/16',
  '-172.16.0.0/12',
  '-192.168.0.0/16',
  '+::/0',
  '-fe80::/10'
]
const nothingExcluded = ['+0.0.0.0/0', ...linkLocal]

t.test('[M1] no file, an empty file and a file without the key keep the defaults', async (t) => {
  t.same(policy(), standard)
  for (const text of ['', '\n', '# nothing', '{}', 'null', 'cidrLimit: 10', 'resyncInterval: 5s'])
    t.same(policy(text), standard, JSON.stringify(text))
})

t.test('[M1] null and [] masquerade everything', async (t) => {
  for (const text of [
    'nonMasqueradeCIDRs:',
    'nonMasqueradeCIDRs: null',
    'nonMasqueradeCIDRs: ~',
    'nonMasqueradeCIDRs: []',
    '{"nonMasqueradeCIDRs": null}',
    '{"nonMasqueradeCIDRs": []}'
  ]) {
    t.same(policy(text), nothingExcluded, text)
  }
})

t.test('[M1] YAML and JSON, keys in any case', async (t) => {
  const wanted = ['+0.0.0.0/0', '-10.1.0.0/16', ...linkLocal]
  for (const text of [
    'nonMasqueradeCIDRs:\n  - 10.1.0.0/16\n',
    'NonMasqueradeCIDRs: [10.1.0.0/16]',
    'nonmasqueradecidrs: ["10.1.0.0/16"]',
    '{"nonMasqueradeCIDRs": ["10.1.0.0/16"]}',
    '{\n\t"NONMASQUERADECIDRS": [\n\t\t"10.1.0.0/16"\n\t]\n}\n',
    'nonMasqueradeCIDRs:\n- |-\n  10.1.0.0/16\n',
    'nonMasqueradeCIDRs:\n- >-\n  10.1.0.0/16\n',
    'x: &a [10.1.0.0/16]\nnonMasqueradeCIDRs: *a'
  ]) {
    t.same(policy(text), wanted, JSON.stringify(text))
  }
})

t.test('[M1] of two spellings the one counts that Go decodes last', async (t) => {
  t.same(
    policy('nonMasqueradeCIDRs: [10.1.0.0/16]\nNonMasqueradeCIDRs: [10.2.0.0/16]'),
    ['+0.0.0.0/0', '-10.1.0.0/16', ...linkLocal],
    'YAML: sorted'
  )
  t.same(
    policy('{"nonMasqueradeCIDRs": ["10.1.0.0/16"], "NonMasqueradeCIDRs": ["10.2.0.0/16"]}'),
    ['+0.0.0.0/0', '-10.2.0.0/16', ...linkLocal],
    'JSON: as it stands'
  )
})

t.test('[M1] a null item keeps the default at its place, as Go does', async (t) => {
  const file = read('nonMasqueradeCIDRs:\n-\n- 10.2.0.0/16\n')
  t.same(file.exclude, ['0a000000/8', '0a020000/16'])
  t.match(
    file.warnings[0],
    /ip-masq-agent:\d: nonMasqueradeCIDRs: an empty item; ip-masq-agent takes it for 10\.0\.0\.0\/8/
  )
  t.match(problem('nonMasqueradeCIDRs: [10.1.0.0/16, 10.2.0.0/16, 10.3.0.0/16, null]'), /found ""; a prefix/)
})

t.test('[M1] YAML 1.1 booleans', async (t) => {
  for (const word of ['true', 'True', 'yes', 'on', 'y', 'Y', 'ON'])
    t.equal(read(`masqLinkLocal: ${word}`).masqLinkLocal, true, word)
  for (const word of ['false', 'no', 'off', 'n', 'null', ''])
    t.equal(read(`masqLinkLocal: ${word}`).masqLinkLocal, false, word)
  t.match(problem('masqLinkLocal: "true"'), /:1:16: masqLinkLocal: found "true"; true or false is needed/)
  t.same(policy('masqLinkLocal: yes\nmasqLinkLocalIPv6: yes'), [
    '+0.0.0.0/0',
    '-10.0.0.0/8',
    '-172.16.0.0/12',
    '-192.168.0.0/16',
    '+::/0'
  ])
  t.same(policy('masqLinkLocal: yes'), [
    '+0.0.0.0/0',
    '-10.0.0.0/8',
    '-172.16.0.0/12',
    '-192.168.0.0/16',
    '+::/0',
    '-fe80::/10'
  ])
})

t.test('[M1] IPv6 prefixes', async (t) => {
  t.same(policy('nonMasqueradeCIDRs: ["fd00::/8", 10.0.0.0/8]'), [
    '+0.0.0.0/0',
    '-10.0.0.0/8',
    '-169.254.0.0/16',
    '+::/0',
    '-fd00::/8',
    '-fe80::/10'
  ])
  t.same(read('nonMasqueradeCIDRs: ["::ffff:10.0.0.0/104"]').exclude, ['0a000000/8'], 'v4-mapped is IPv4')
  t.same(
    policy('nonMasqueradeCIDRs: [0.0.0.0/0, "::/0"]'),
    ['-0.0.0.0/0', '-169.254.0.0/16', '-::/0', '-fe80::/10'],
    'nothing at all is masqueraded'
  )
})

t.test('[M2] what is not valid is rejected with its line', async (t) => {
  t.equal(
    problem('nonMasqueradeCIDRs:\n- 10.0.0.0/8\n- 10.1.2.3/16\n'),
    `${path}:3:3: nonMasqueradeCIDRs: 10.1.2.3/16 is not aligned to its length; did you mean 10.1.0.0/16?`
  )
  t.match(problem('nonMasqueradeCIDRs:\n- 10.0.0.0\n'), /:2:3: nonMasqueradeCIDRs: found "10\.0\.0\.0"; a prefix/)
  t.match(problem('nonMasqueradeCIDRs: [10.0.0.0/33]'), /found "10\.0\.0\.0\/33"/)
  t.match(problem('nonMasqueradeCIDRs: [010.0.0.0/8]'), /found "010/)
  t.match(problem('nonMasqueradeCIDRs:\n- |\n  10.1.0.0/16\n'), /found "10\.1\.0\.0\/16\\n"/)
  t.match(problem('nonMasqueradeCIDRs: 10.0.0.0/8'), /:1:21: nonMasqueradeCIDRs: found "10\.0\.0\.0\/8"; a list/)
  t.match(problem('nonMasqueradeCIDRs: {a: b}'), /found a mapping; a list/)
  t.match(problem('nonMasqueradeCIDRs: [5]'), /found 5; a prefix/)
  t.match(problem('nonMasqueradeCIDRs: [[10.0.0.0/8]]'), /found a list; a prefix/)
  t.match(problem('cidrLimit: "64"'), /cidrLimit: found "64"; a whole number/)
  t.match(problem('cidrLimit: 1.5'), /found 1\.5; a whole number/)
  t.match(problem('resyncInterval: 60'), /resyncInterval: found 60; a duration in quotes/)
  t.match(problem('resyncInterval: 1d'), /found "1d"/)
  t.match(problem('resyncInterval: null'), /found null/)
  t.match(problem('- a'), /not a mapping/)
  t.match(problem('just text'), /not a mapping/)
  t.match(problem('nonMasqueradeCIDRs: [10.0.0.0/8'), /:1:\d+: is neither YAML nor JSON/)
})

t.test('[M2] more prefixes than cidrLimit; link-local, which is added, does not count', async (t) => {
  const list = (count: number) => Array.from({ length: count }, (_, i) => `- 10.${i}.0.0/16`).join('\n')
  t.equal(read(`nonMasqueradeCIDRs:\n${list(64)}\n`).exclude?.length, 64)
  t.match(
    problem(`nonMasqueradeCIDRs:\n${list(65)}\n`),
    /:66:3: nonMasqueradeCIDRs: 65 prefixes, more than cidrLimit \(64\) allows/
  )
  t.equal(read(`cidrLimit: 65\nnonMasqueradeCIDRs:\n${list(65)}\n`).exclude?.length, 65)
  t.match(problem('cidrLimit: 2'), /3 prefixes/, 'the defaults count')
})

t.test('[M2] unknown keys are accepted with a warning', async (t) => {
  const file = read('nonMasqueradeCIDR: [10.0.0.0/8]\nfoo: bar\n')
  t.equal(file.exclude, null)
  t.same(file.warnings.sort(), [
    `${path}:1: unknown key nonMasqueradeCIDR is ignored; did you mean nonMasqueradeCIDRs?`,
    `${path}:2: unknown key foo is ignored`
  ])
})

t.test('[M3] several files: lists united, switches ORed, shortest interval, with provenance', async (t) => {
  const files = [
    read('nonMasqueradeCIDRs: [10.1.0.0/16, 10.2.0.0/16]\nresyncInterval: 90s', '/a'),
    read('nonMasqueradeCIDRs: [10.2.0.0/16]\nmasqLinkLocal: true\nresyncInterval: 30s', '/b'),
    read('masqLinkLocalIPv6: true', '/c')
  ]
  const merged = mergeMasquerade(files)
  t.same(
    merged.wanted.map(({ prefix, masquerade }) => (masquerade ? '+' : '-') + formatPrefix(prefix)),
    ['+0.0.0.0/0', '-10.1.0.0/16', '-10.2.0.0/16', '+::/0']
  )
  t.same(merged.from.get('0a020000/16'), ['/a', '/b'])
  t.same(merged.from.get('00000000/0'), ['default'])
  t.equal(merged.resyncInterval, 30_000)
  t.equal(mergeMasquerade([read('resyncInterval: 1ns')]).resyncInterval, 1000, 'not faster than once a second')
})

t.test('[M4] include list: alone only these, beside exclusions the longest prefix decides', async (t) => {
  t.same(policy('masqueradeCIDRs: [203.0.113.0/24]'), [
    '-0.0.0.0/0',
    '-169.254.0.0/16',
    '+203.0.113.0/24',
    '-::/0',
    '-fe80::/10'
  ])
  t.same(policy('masqueradeCIDRs: [10.5.0.0/16]\nnonMasqueradeCIDRs: [10.0.0.0/8]'), [
    '+0.0.0.0/0',
    '-10.0.0.0/8',
    '+10.5.0.0/16',
    ...linkLocal
  ])
  t.same(policy('masqueradeCIDRs: []'), ['-0.0.0.0/0', '-169.254.0.0/16', '-::/0', '-fe80::/10'], 'none of it')
  t.same(policy('masqueradeCIDRs: null'), standard, 'not given')
  t.match(
    problem('masqueradeCIDRs: [10.0.0.0/8]\nnonMasqueradeCIDRs: [10.0.0.0/8]'),
    /:1:19: masqueradeCIDRs: 10\.0\.0\.0\/8 is in nonMasqueradeCIDRs as well/
  )
  const merged = mergeMasquerade([
    read('nonMasqueradeCIDRs: [10.0.0.0/8]', '/a'),
    read('masqueradeCIDRs: [10.0.0.0/8]', '/b')
  ])
  t.match(merged.warnings[0], /\/b: 10\.0\.0\.0\/8 is excluded from masquerading by \/a, which wins/)
  t.ok(merged.wanted.some(({ prefix, masquerade }) => prefix === '0a000000/8' && !masquerade))
})

t.test('[M1] fuzz: whatever the bytes, the answer is a policy or a ConfigError with a line', async (t) => {
  let seed = 7
  const random = (below: number) => {
    seed = (Math.imul(seed, 1103515245) + 12345) >>> 0
    return (seed >>> 8) % below
  }
  const parts = [
    'nonMasqueradeCIDRs',
    'masqueradeCIDRs',
    ': ',
    '- ',
    '\n',
    '  ',
    '[',
    ']',
    '{',
    '}',
    ',',
    '10.0.0.0/8',
    'fd00::/8',
    'null',
    '~',
    'yes',
    '|',
    '>',
    '&a ',
    '*a',
    '"',
    "'",
    '\t',
    '---\n',
    '\u0000',
    '#',
    '<<',
    '? ',
    '!!set ',
    '1e3',
    '0x1f',
    '\ud800',
    'cidrLimit',
    'resyncInterval',
    '60s',
    '%YAML 9\n'
  ]
  let accepted = 0
  for (let run = 0; run < 4000; run++) {
    const text = Array.from({ length: 1 + random(14) }, () => parts[random(parts.length)]).join('')
    let file: MasqueradeFile
    try {
      file = read(text)
    } catch (error) {
      if (!(error instanceof ConfigError) || (error.problems[0]?.line ?? 0) < 1)
        t.fail(`${JSON.stringify(text)}: ${error}`)
      continue
    }
    accepted++
    const { wanted } = mergeMasquerade([file])
    if (!wanted.some(({ prefix }) => prefix === '00000000/0')) t.fail(`no default for ${JSON.stringify(text)}`)
    if (new Set(wanted.map(({ prefix }) => prefix)).size !== wanted.length)
      t.fail(`a prefix twice for ${JSON.stringify(text)}`)
  }
  t.ok(accepted > 50, `${accepted} accepted`)
})
