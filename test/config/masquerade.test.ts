import t from 'tap'
import { formatPrefix, hexPrefix } from '../../src/address.js'
import {
  defaultMasqueradeOptions,
  type MasqueradeFile,
  type MasqueradeOptions,
  mergeMasquerade
} from '../../src/config/masquerade.js'
import { parseMasqueradeFile, parseWhole } from '../../src/config/masquerade-text.js'
import { ConfigError } from '../../src/config/problem.js'

const path = '/etc/config/ip-masq-agent'
const read = (text: string, name = path) => parseMasqueradeFile(text, name)

/** The policy as text: "-10.0.0.0/8" keeps the address, "+0.0.0.0/0" is masqueraded. */
function policy(...texts: string[]): string[] {
  return policyWith({}, ...texts)
}

function policyWith(some: Partial<MasqueradeOptions>, ...texts: string[]): string[] {
  const options: MasqueradeOptions = { ...defaultMasqueradeOptions, ...some }
  const files = texts.map((text, index) => parseMasqueradeFile(text, `/file${index}`, options.semantics))
  const { wanted } = mergeMasquerade(files, options)
  return wanted.map(({ prefix, masquerade }) => (masquerade ? '+' : '-') + formatPrefix(prefix))
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

const linkLocal = ['-169.254.0.0/16', '-::/0']
const standard = ['+0.0.0.0/0', '-10.0.0.0/8', '-169.254.0.0/16', '-172.16.0.0/12', '-192.168.0.0/16', '-::/0']
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
  t.same(policy('masqLinkLocal: yes'), ['+0.0.0.0/0', '-10.0.0.0/8', '-172.16.0.0/12', '-192.168.0.0/16', '-::/0'])
  const all = 'nonMasqueradeCIDRs: ["fd00::/8"]\nmasqLinkLocal: yes\n'
  t.same(policy(all), ['+0.0.0.0/0', '+::/0', '-fd00::/8', '-fe80::/10'])
  t.same(policy(`${all}masqLinkLocalIPv6: yes`), ['+0.0.0.0/0', '+::/0', '-fd00::/8'])
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

t.test('[M2] what is nested too deeply is rejected at once', async (t) => {
  for (const one of ['[', '{', '- '])
    t.match(problem(one.repeat(200_000)), /^\/etc\/config\/ip-masq-agent:1:\d+: is nested too deeply/, one)
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

t.test('[M2] of many unknown keys the first are told', async (t) => {
  const { warnings } = read(Array.from({ length: 3000 }, (_, n) => `key${n}: 1`).join('\n'))
  t.equal(warnings.length, 21)
  t.match(warnings[0], /ip-masq-agent:1: unknown key key0 is ignored/)
  t.match(warnings.at(-1), /further warnings are not listed/)
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
    ['+0.0.0.0/0', '-10.1.0.0/16', '-10.2.0.0/16', '-::/0']
  )
  t.same(merged.from.get(hexPrefix('0a020000/16')), ['/a', '/b'])
  t.same(merged.from.get(hexPrefix('00000000/0')), ['default'])
  t.equal(merged.resyncInterval, 30_000)
  t.equal(mergeMasquerade([read('resyncInterval: 1ns')]).resyncInterval, 1000, 'not faster than once a second')
})

t.test('[M4] include list: alone only these, beside exclusions the longest prefix decides', async (t) => {
  t.same(policy('masqueradeCIDRs: [203.0.113.0/24]'), ['-0.0.0.0/0', '-169.254.0.0/16', '+203.0.113.0/24', '-::/0'])
  t.same(policy('masqueradeCIDRs: [10.5.0.0/16]\nnonMasqueradeCIDRs: [10.0.0.0/8]'), [
    '+0.0.0.0/0',
    '-10.0.0.0/8',
    '+10.5.0.0/16',
    ...linkLocal
  ])
  t.same(policy('masqueradeCIDRs: []'), ['-0.0.0.0/0', '-169.254.0.0/16', '-::/0'], 'none of it')
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

t.test('[M1] IPv6 is masqueraded only if it is asked for, and never between pods by default', async (t) => {
  t.same(policy(), standard, 'no file')
  t.same(policy('nonMasqueradeCIDRs: [10.0.0.0/8]').at(-1), '-::/0', 'a file about IPv4')
  t.same(policy('nonMasqueradeCIDRs: []').at(-1), '-::/0', 'also one that excludes nothing')
  t.same(policy('masqLinkLocalIPv6: true').at(-1), '-::/0', 'masqLinkLocalIPv6 alone asks for nothing')
  t.same(policy('nonMasqueradeCIDRs: ["fd00::/8"]').slice(-3), ['+::/0', '-fd00::/8', '-fe80::/10'])
  t.same(
    policy('nonMasqueradeCIDRs: [10.0.0.0/8]', 'nonMasqueradeCIDRs: ["2001:db8::/32"]').slice(-3),
    ['+::/0', '-2001:db8::/32', '-fe80::/10'],
    'one of several files is enough, and it alone says what is excluded'
  )
  const asked = { masqueradeIPv6: true }
  t.same(policyWith(asked).slice(-3), ['+::/0', '-fc00::/7', '-fe80::/10'], 'by configuration, without a file')
  t.same(policyWith(asked, 'nonMasqueradeCIDRs: [10.0.0.0/8]').slice(-3), ['+::/0', '-fc00::/7', '-fe80::/10'])
  t.same(policyWith(asked, 'nonMasqueradeCIDRs: []').slice(-2), ['+::/0', '-fe80::/10'], 'everything is everything')
  t.same(policyWith(asked, 'nonMasqueradeCIDRs: ["2001:db8::/32"]').slice(-3), [
    '+::/0',
    '-2001:db8::/32',
    '-fe80::/10'
  ])
  t.same(policyWith(asked, 'masqueradeCIDRs: [203.0.113.0/24]').slice(-3), ['-::/0', '-fc00::/7', '-fe80::/10'])
  t.same(
    policy('nonMasqueradeCIDRs: [10.0.0.0/8]\nmasqueradeCIDRs: ["2001:db8::/32"]').slice(-3),
    ['-::/0', '+2001:db8::/32', '-fe80::/10'],
    'only what is included, where nothing of IPv6 is excluded'
  )
  const never = { masqueradeIPv6: false }
  t.same(policyWith(never, 'nonMasqueradeCIDRs: ["fd00::/8"]'), ['+0.0.0.0/0', ...linkLocal])
  const include = read('masqueradeCIDRs: ["2001:db8::/32"]')
  const merged = mergeMasquerade([include], { ...defaultMasqueradeOptions, ...never })
  t.match(merged.warnings[0], /2001:db8::\/32 in masqueradeCIDRs has no effect, because of snat\.masqueradeIPv6: false/)
  t.same(merged.from.get(hexPrefix(`${'0'.repeat(32)}/0`)), ['snat.masqueradeIPv6'])
  t.match(mergeMasquerade([include]).ipv6, { masqueraded: true, why: /ip-masq-agent names IPv6 prefixes/ })
})

t.test('[M1] the semantics of Cilium', async (t) => {
  const cilium = (...texts: string[]) => policyWith({ semantics: 'cilium' }, ...texts)
  const eleven = [
    '10.0.0.0/8',
    '100.64.0.0/10',
    '169.254.0.0/16',
    '172.16.0.0/12',
    '192.0.0.0/24',
    '192.0.2.0/24',
    '192.88.99.0/24',
    '192.168.0.0/16',
    '198.18.0.0/15',
    '198.51.100.0/24',
    '203.0.113.0/24',
    '240.0.0.0/4'
  ].map((prefix) => `-${prefix}`)
  t.same(cilium(), ['+0.0.0.0/0', ...eleven, '-::/0'], 'no file')
  t.same(cilium(''), ['+0.0.0.0/0', ...eleven, '-::/0'], 'an empty file')
  for (const text of ['\n', '# nothing', '{}', 'masqLinkLocal: false', 'nonMasqueradeCIDRs: []'])
    t.same(cilium(text), nothingExcluded, JSON.stringify(text))
  t.same(cilium('nonMasqueradeCIDRs: [10.1.2.3/16]'), ['+0.0.0.0/0', '-10.1.0.0/16', ...linkLocal], 'host bits')
  const file = parseMasqueradeFile('nonMasqueradeCIDRs:\n- 10.1.2.3/16\n', path, 'cilium')
  t.match(file.warnings, [/ip-masq-agent:2: nonMasqueradeCIDRs: 10\.1\.2\.3\/16 is not aligned .* 10\.1\.0\.0\/16/])
  const many = Array.from({ length: 100 }, (_, i) => `10.${i}.0.0/16`).join(', ')
  t.equal(cilium(`nonMasqueradeCIDRs: [${many}]\ncidrLimit: many\nresyncInterval: 1`).length, 103, 'no limit')
  t.throws(() => parseMasqueradeFile('nonMasqueradeCIDRs: [null]', path, 'cilium'), /found ""; a prefix/)
  t.same(
    cilium('masqueradeCIDRs: [203.0.113.0/24]'),
    ['-0.0.0.0/0', '-169.254.0.0/16', '+203.0.113.0/24', '-::/0'],
    'an include list alone is no list of nothing'
  )
})

t.test('[M2] a key that is given twice: which one counts is told', async (t) => {
  const file = read(
    'nonMasqueradeCIDRs: [10.1.0.0/16]\nNonMasqueradeCIDRs: []\nnonMasqueradeCIDRs: [10.2.0.0/16]\nfoo: 1\n'
  )
  t.same(file.exclude, ['0a020000/16'])
  t.same(file.warnings.sort(), [
    `${path}:1: nonMasqueradeCIDRs is given again in line 3, which counts`,
    `${path}:2: NonMasqueradeCIDRs is given again in line 3, which counts`,
    `${path}:4: unknown key foo is ignored`
  ])
})

t.test('[M1] Windows line ends, a byte order mark, and the lines of entries', async (t) => {
  const file = read('\ufeffnonMasqueradeCIDRs:\r\n  - 10.1.0.0/16\r\n  - fd00::/8\r\nmasqLinkLocal: true\r\n')
  t.same(
    [...file.lines()],
    [
      ['0a010000/16', 2],
      [`fd${'0'.repeat(30)}/8`, 3]
    ]
  )
  t.equal(file.masqLinkLocal, true)
})

t.test('[M5] long lists are read in another way, with the same result', async (t) => {
  let seed = 11
  const random = (below: number) => {
    seed = (Math.imul(seed, 1103515245) + 12345) >>> 0
    return (seed >>> 8) % below
  }
  const item = () => (random(50) ? `10.${random(256)}.${random(256)}.0/24` : `fd00:${random(9999)}::/32`)
  const quote = (text: string) => ['', '"', "'"].map((mark) => mark + text + mark)[random(3)] ?? text
  const odd = ['- # nothing', '- 10.1.2.3/8', '- 5', '# a comment', '- >-\n      10.9.0.0/16', '-', '']
  const lists: ((items: string[]) => string)[] = [
    (items) => `nonMasqueradeCIDRs:\n${items.map((each) => `  - ${quote(each)}\n`).join('')}`,
    (items) => `nonMasqueradeCIDRs:\n${items.map((each) => `- ${each}\r\n`).join('')}`,
    (items) => `other: |\n${items.map((each) => `  - ${each}\n`).join('')}nonMasqueradeCIDRs: [10.1.0.0/16]\n`,
    (items) => `other:\n${items.map((each) => `  - ${each}\n`).join('')}masqLinkLocal: true\n`,
    (items) => `{"nonMasqueradeCIDRs": ${JSON.stringify(items, null, random(2))}}`,
    (items) =>
      `masqueradeCIDRs: ${JSON.stringify(items)}\nnonMasqueradeCIDRs:\n${items.map((each) => `  - ${each}\n`).join('')}`,
    (items) => `masqueradeCIDRs: &a\n${items.map((each) => `  - ${each}\n`).join('')}nonMasqueradeCIDRs: *a\n`,
    (items) => items.map((each) => `  - ${each}\n`).join('')
  ]
  const outcome = (parse: () => MasqueradeFile) => {
    try {
      const { lines, ...file } = parse()
      return { ...file, lines: [...lines()] }
    } catch (error) {
      return (error as Error).message
    }
  }
  let accepted = 0
  for (let run = 0; run < 300; run++) {
    const items = Array.from({ length: 30 + random(60) }, item)
    let text = `cidrLimit: ${random(4) ? 1000 : 40}\n`
    const made = (lists[random(lists.length)] as (items: string[]) => string)(items)
    text = made.startsWith('{') ? made.replace('{', '{"cidrLimit": 1000, ') : text + made
    if (random(3) === 0) {
      const all = text.split('\n')
      all.splice(random(all.length), 0, `  ${odd[random(odd.length)]}`)
      text = all.join('\n')
    }
    const quick = outcome(() => read(text))
    if (typeof quick === 'object') accepted++
    if (JSON.stringify(quick) !== JSON.stringify(outcome(() => parseWhole(text, path, 'ip-masq-agent'))))
      t.fail(`different: ${text}`)
  }
  t.ok(accepted > 50 && accepted < 290, `${accepted} accepted`)
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
