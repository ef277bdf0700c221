import {
  appendFileSync,
  mkdirSync,
  mkdtempSync,
  renameSync,
  rmSync,
  symlinkSync,
  unlinkSync,
  writeFileSync
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { hexPrefix } from '../../src/address.js'
import type { MasqueradePolicy } from '../../src/config/masquerade.js'
import { watchMasquerade } from '../../src/config/watch.js'

const settle = 60

function start(t: Test, patterns: string[]) {
  const seen: string[][] = []
  const problems: string[] = []
  const watch = watchMasquerade({
    patterns,
    settle,
    onChange: (policy) => seen.push(excluded(policy)),
    onProblem: (text) => problems.push(text)
  })
  t.teardown(() => watch.close())
  return { watch, seen, problems }
}

function directory(t: Test): string {
  const path = mkdtempSync(join(tmpdir(), 'hr-watch-'))
  t.teardown(() => rmSync(path, { recursive: true, force: true }))
  return path
}

function excluded(policy: MasqueradePolicy): string[] {
  return policy.wanted
    .filter((row) => !row.masquerade && row.prefix.length < 12 && !row.prefix.startsWith('a9fe'))
    .map((row) => row.prefix)
}

async function until(check: () => boolean): Promise<boolean> {
  for (let i = 0; i < 150 && !check(); i++) await sleep(20)
  return check()
}

const defaults = ['0a000000/8', 'ac100000/12', 'c0a80000/16']
const one = 'nonMasqueradeCIDRs: [10.1.0.0/16]\n'
const two = 'nonMasqueradeCIDRs: [10.2.0.0/16]\n'

t.test('[M3] a rewrite in place reaches the policy as one step', async (t) => {
  const path = join(directory(t), 'ip-masq-agent')
  writeFileSync(path, one)
  const { watch, seen } = start(t, [path])
  t.same(excluded(watch.policy), ['0a010000/16'], 'there at once')
  writeFileSync(path, two)
  t.ok(await until(() => seen.length > 0))
  t.same(seen, [['0a020000/16']])
})

t.test('[M3] a truncated write in pieces never shows defaults or half a list', async (t) => {
  const path = join(directory(t), 'ip-masq-agent')
  writeFileSync(path, one)
  const { seen, problems } = start(t, [path])
  writeFileSync(path, '')
  await sleep(settle * 2)
  writeFileSync(path, 'nonMasqueradeCIDRs:\n')
  for (const part of ['- 10.2.0.', '0/16\n', '- 10.3.0.0/16\n']) {
    await sleep(settle / 3)
    appendFileSync(path, part)
  }
  t.ok(await until(() => seen.length > 0))
  t.same(seen, [['0a020000/16', '0a030000/16']])
  t.same(problems, [])
})

t.test('[M3] ConfigMap swaps of the symlink, and files replaced by rename', async (t) => {
  const root = directory(t)
  const swap = (name: string, text: string) => {
    mkdirSync(join(root, name))
    writeFileSync(join(root, name, 'ip-masq-agent'), text)
    symlinkSync(name, join(root, '..data_tmp'))
    renameSync(join(root, '..data_tmp'), join(root, '..data'))
  }
  swap('..2026_1', one)
  symlinkSync('..data/ip-masq-agent', join(root, 'ip-masq-agent'))
  const { watch, seen } = start(t, [join(root, 'ip-masq*')])
  t.same(excluded(watch.policy), ['0a010000/16'])
  swap('..2026_2', two)
  rmSync(join(root, '..2026_1'), { recursive: true })
  t.ok(await until(() => seen.length === 1))
  t.same(seen[0], ['0a020000/16'])
  writeFileSync(join(root, 'new'), one)
  renameSync(join(root, 'new'), join(root, 'ip-masq-agent'))
  t.ok(await until(() => seen.length === 2))
  t.same(seen[1], ['0a010000/16'])
})

t.test('[M3] a swap of any symlink on the way to the file is noticed, wherever it is', async (t) => {
  const root = directory(t)
  for (const [name, text] of [
    ['..1', one],
    ['..2', two]
  ] as const) {
    mkdirSync(join(root, 'volume', name), { recursive: true })
    writeFileSync(join(root, 'volume', name, 'ip-masq-agent'), text)
  }
  const point = (link: string, target: string) => {
    symlinkSync(target, join(root, 'new'))
    renameSync(join(root, 'new'), join(root, link))
  }
  const wanted = { '..1': ['0a010000/16'], '..2': ['0a020000/16'] }
  mkdirSync(join(root, 'config'))
  mkdirSync(join(root, 'releases'))
  point('volume/..data', '..1')
  point('volume/ip-masq-agent', '..data/ip-masq-agent')
  // a file that is a link into a volume; a directory that is one; and one that leads up again
  point('config/linked', '../volume/ip-masq-agent')
  point('releases/current', join(root, 'volume/..1'))
  point('short', 'releases/../releases/current')
  const paths = ['config/linked', 'short/ip-masq-agent', 'volume/..data/../..data/ip-masq-agent']
  const watches = paths.map((path) => start(t, [`${root}/${path}`]))
  for (const { watch } of watches) t.same(excluded(watch.policy), wanted['..1'])
  for (const target of ['..2', '..1', '..2'] as const) {
    point('volume/..data', target)
    point('releases/current', join(root, 'volume', target))
    for (const [at, { watch }] of watches.entries())
      t.ok(await until(() => `${excluded(watch.policy)}` === `${wanted[target]}`), `${paths[at]} is ${target}`)
  }
})

t.test('[M3] a symlink that leads nowhere, or in circles, until its target appears', async (t) => {
  const root = directory(t)
  symlinkSync('volume/ip-masq-agent', join(root, 'ip-masq-agent'))
  symlinkSync('circle', join(root, 'circle'))
  const { watch } = start(t, [join(root, 'ip-masq-agent')])
  const circle = start(t, [join(root, 'circle')])
  t.equal(circle.problems.length, 1, 'told')
  mkdirSync(join(root, 'volume'))
  await sleep(settle * 3)
  writeFileSync(join(root, 'volume/ip-masq-agent'), one)
  t.ok(await until(() => `${excluded(watch.policy)}` === '0a010000/16'), 'it is followed')
})

t.test('[M2] [M3] an invalid file keeps the last good and tells the line, once', async (t) => {
  const path = join(directory(t), 'ip-masq-agent')
  writeFileSync(path, one)
  const { watch, seen, problems } = start(t, [path])
  writeFileSync(path, 'nonMasqueradeCIDRs:\n- 10.1.2.3/8\n')
  t.ok(await until(() => problems.length > 0))
  t.match(problems[0], `${path}:2:3: nonMasqueradeCIDRs: 10.1.2.3/8 is not aligned`)
  t.match(problems[0], 'last good contents stay in force')
  watch.refresh()
  watch.refresh()
  t.equal(problems.length, 1)
  t.same(seen, [])
  t.same(excluded(watch.policy), ['0a010000/16'])
  t.match(watch.files[0], { path, present: true, error: /:2:3/ })
  writeFileSync(path, two)
  t.ok(await until(() => seen.length === 1))
  t.equal(watch.files[0]?.error, null)
})

t.test('[M3] a file removed and made again soon never shows the defaults; removed for good it does', async (t) => {
  const path = join(directory(t), 'ip-masq-agent')
  writeFileSync(path, one)
  const { seen, problems } = start(t, [path])
  unlinkSync(path)
  await sleep(settle * 2)
  writeFileSync(path, two)
  t.ok(await until(() => seen.length > 0))
  t.same(seen, [['0a020000/16']])
  unlinkSync(path)
  t.ok(await until(() => seen.length > 1))
  t.same(seen[1], defaults)
  t.match(problems[0], 'has been removed')
})

t.test('[M3] a directory that appears later, and a second file that joins', async (t) => {
  const root = directory(t)
  const { watch, seen } = start(t, [join(root, 'config', 'ip-masq*')])
  t.same(excluded(watch.policy), defaults)
  mkdirSync(join(root, 'config'))
  await sleep(settle * 3)
  writeFileSync(join(root, 'config', 'ip-masq-agent'), one)
  t.ok(await until(() => seen.length === 1))
  writeFileSync(join(root, 'config', 'ip-masq-more'), two)
  t.ok(await until(() => seen.length === 2))
  t.same(seen[1], ['0a010000/16', '0a020000/16'])
  t.same(watch.policy.from.get(hexPrefix('0a020000/16')), [join(root, 'config', 'ip-masq-more')])
  renameSync(join(root, 'config'), join(root, 'away'))
  mkdirSync(join(root, 'config'))
  writeFileSync(join(root, 'config', 'ip-masq-agent'), two)
  t.ok(await until(() => seen.length === 3))
  t.same(seen[2], ['0a020000/16'], 'another directory stands in the place')
})

t.test('[M2] a warning is told once for as long as it holds', async (t) => {
  const path = join(directory(t), 'ip-masq-agent')
  writeFileSync(path, `${one}foo: 1\n`)
  const { watch, problems } = start(t, [path])
  watch.refresh()
  t.same(problems, [`${path}:2: unknown key foo is ignored`])
  writeFileSync(path, one)
  watch.refresh()
  writeFileSync(path, `${one}foo: 1\n`)
  watch.refresh()
  t.equal(problems.length, 2)
})

t.test('[M3] what is no file, or too long, is told and changes nothing', async (t) => {
  const root = directory(t)
  const path = join(root, 'ip-masq-agent')
  mkdirSync(path)
  const { watch, problems } = start(t, [path])
  t.match(problems[0], 'is not a regular file')
  t.same(excluded(watch.policy), defaults)
  rmSync(path, { recursive: true })
  writeFileSync(path, `# ${'x'.repeat(1024 * 1024)}`)
  watch.refresh()
  t.match(problems[1], 'too long')
})
