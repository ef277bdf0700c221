// What of a pin directory is hostroute's, by name.

import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmdirSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { realDirectory } from '../../src/directories.js'
import { native } from '../../src/native.js'
import { isGuardPin, isOwnLink, isOwnMap, removeOwnPins } from '../../src/own-pins.js'
import { run } from '../lab/process.js'

const bpf = new URL('../../../../bpf/', import.meta.url).pathname
const mapsIn = (directory: string) =>
  readdirSync(directory)
    .filter((name) => /\.[hc]$/.test(name))
    .flatMap((name) => [...readFileSync(join(directory, name), 'utf8').matchAll(/\} (\w+) SEC\("\.maps"\)/g)])
    .map((match) => match[1] ?? '')

t.test('every map of the programs is known as ours', (t) => {
  const [maps, guard] = [mapsIn(bpf), mapsIn(join(bpf, 'guard'))]
  t.ok(maps.length > 20 && guard.length > 5, 'they are found')
  t.strictSame(
    maps.filter((name) => !isOwnMap(name)),
    []
  )
  t.strictSame(
    guard.filter((name) => !isGuardPin(name)),
    []
  )
  t.strictSame(['from_pod-12', 'uplink_filter-3', 'cil_from_netdev', 'x', '12'].filter(isOwnLink), [
    'from_pod-12',
    'uplink_filter-3'
  ])
  t.end()
})

t.test('a directory that is on no BPF file system loses nothing', (t) => {
  const directory = t.testdir({ control: 'mine', links: { 'from_pod-1': '' }, guard: { control: '' }, flows4: '' })
  t.match(removeOwnPins(directory), [/cannot be seen.*not on a BPF file system; nothing in it was removed/])
  t.strictSame(readdirSync(directory), ['control', 'flows4', 'guard', 'links'])
  t.strictSame(readdirSync(join(directory, 'links')), ['from_pod-1'])
  const empty = t.testdir({})
  t.strictSame(removeOwnPins(empty), [])
  t.ok(existsSync(empty), 'nor goes it itself')
  t.strictSame(removeOwnPins(join(empty, 'absent')), [])
  t.end()
})

t.test('on one: ours go, those of others stay, and a directory that is none of ours is left alone', async (t) => {
  const root = mkdtempSync('/run/hr-own-pins-')
  native().mountBpffs(root)
  t.teardown(async () => {
    await run(['umount', root])
    rmdirSync(root)
  })
  const pin = (path: string) =>
    run(['bpftool', 'map', 'create', path, ...'type array key 4 value 4 entries 1 name x'.split(' ')])
  // two are the kernel's own
  const before = readdirSync(root)
  const all = (directory: string) => readdirSync(directory, { recursive: true }).map(String).sort()

  const others = join(root, 'others')
  mkdirSync(others)
  for (const name of ['events', 'pods']) await pin(join(others, name))
  t.strictSame(removeOwnPins(others), [])
  t.strictSame(all(others), ['events', 'pods'], 'the names alone do not make it ours')

  const ours = join(root, 'ours')
  for (const name of ['links', 'guard', 'next', 'next-part', 'elsewhere'])
    mkdirSync(join(ours, name), { recursive: true })
  const [own, foreign] = [
    ['control', 'flows4', 'next/flows4', 'next-part/control', 'guard/guard_events', 'links/from_pod-7'],
    ['another', 'elsewhere/flows4', 'guard/another', 'links/another', 'next/another']
  ]
  for (const name of [...own, ...foreign]) await pin(join(ours, name))
  symlinkSync(join(ours, 'elsewhere'), join(ours, 'next-done'))
  t.strictSame(removeOwnPins(ours), [])
  t.strictSame(all(ours), [...foreign, 'elsewhere', 'guard', 'links', 'next', 'next-done', 'next-done/flows4'].sort())

  const root2 = ['links', 'guard'].map((name) => join(root, name))
  for (const path of root2) mkdirSync(path)
  for (const name of ['control', 'pods', 'links/from_pod-1', 'guard/control']) await pin(join(root, name))
  t.strictSame(removeOwnPins(root), [], 'a mount point: the rest goes all the same')
  t.strictSame(readdirSync(root).sort(), [...before, 'others', 'ours'].sort())
})

t.test('where a directory really is, also while a part of it is missing', (t) => {
  const at = realDirectory(t.testdir({ real: { sub: {} } }))
  const link = (to: string, name: string) => symlinkSync(to, join(at, name))
  link('real', 'relative')
  link(join(at, 'missing/pins'), 'dangling')
  link('dangling', 'second')
  link('circle', 'circle')
  for (const [path, wanted] of [
    ['real/sub', 'real/sub'],
    ['relative/sub/new', 'real/sub/new'],
    ['relative/../relative', 'real'],
    ['dangling', 'missing/pins'],
    ['dangling/x', 'missing/pins/x'],
    ['second', 'missing/pins'],
    ['circle', 'circle'],
    ['new', 'new']
  ] as const)
    t.equal(realDirectory(join(at, path)), join(at, wanted), path)
  t.end()
})
