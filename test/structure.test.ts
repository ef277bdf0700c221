// The shape of the tree: imports go one way, files stay short.

import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, normalize } from 'node:path'
import t from 'tap'

const root = new URL('../../../', import.meta.url).pathname

/** What each folder of src may import besides itself and the files at the top of src. Types alone (import type) are free. */
const MAY_IMPORT: Record<string, string[]> = {
  config: [],
  state: [],
  netlink: ['state'],
  plan: ['state', 'config'],
  maps: ['plan'],
  check: ['netlink', 'plan', 'config', 'translated'],
  netfilter: [],
  guard: ['config', 'netfilter'],
  conntrack: ['netlink', 'state', 'netfilter'],
  translated: ['netfilter', 'netlink'],
  control: [],
  cli: ['control', 'config', 'check', 'guard'],
  datapath: ['state', 'netlink', 'conntrack', 'plan', 'maps', 'config'],
  life: ['config', 'netfilter', 'netlink', 'maps', 'check', 'guard', 'datapath'],
  answers: ['config', 'state', 'netlink', 'conntrack', 'plan', 'maps', 'control', 'datapath', 'life'],
  daemon: [
    'config',
    'state',
    'netlink',
    'plan',
    'translated',
    'maps',
    'check',
    'guard',
    'control',
    'datapath',
    'life',
    'answers'
  ]
}

function sources(folder: string, ends: RegExp): string[] {
  return readdirSync(root + folder, { recursive: true, encoding: 'utf8' })
    .filter((path) => ends.test(path))
    .map((path) => `${folder}/${path}`)
    .sort()
}

const values = /^(?:import|export) (?!type\b)[^'"]*?(?:from )?'(\.[^']+)'/gm
const valuesAndTypes = /^(?:import|export) [^'"]*?(?:from )?'(\.[^']+)'/gm

function importsOf(path: string, kind = values): string[] {
  const found = readFileSync(root + path, 'utf8').matchAll(kind)
  return [...found].map((match) => normalize(join(dirname(path), match[1] ?? '')))
}

t.test('imports go one way through the stages', async (t) => {
  for (const path of sources('src', /\.ts$/)) {
    const [, folder = '', ...rest] = path.split('/')
    if (rest.length === 0) continue // at the top of src: used by all stages
    t.ok(MAY_IMPORT[folder], `src/${folder} has its place among the stages (MAY_IMPORT)`)
    for (const target of importsOf(path)) {
      const [top, other = '', ...inner] = target.split('/')
      const free = inner.length === 0 || other === folder
      t.ok(top === 'src' && (free || MAY_IMPORT[folder]?.includes(other)), `${path} → ${target}`)
    }
  }
})

t.test('files do not import each other in a circle, for types neither', async (t) => {
  const paths = sources('src', /\.ts$/)
  const imports = new Map(
    paths.map((path) => [path, importsOf(path, valuesAndTypes).map((target) => target.replace(/\.js$/, '.ts'))])
  )
  // what imports nothing that is left is taken away; circles, and what needs them, remain
  for (let before = -1; before !== imports.size; ) {
    before = imports.size
    for (const [path, targets] of imports) if (!targets.some((target) => imports.has(target))) imports.delete(path)
  }
  t.equal(paths.length > 200, true, 'the tree has been found')
  t.strictSame([...imports.keys()], [], 'what is in a circle, or needs one')
})

t.test('addresses, prefixes, MACs and keys are made in their own places, and not by a cast elsewhere', async (t) => {
  const makers = ['src/address.ts', 'src/plan/keys.ts', 'src/maps/keys.ts']
  const cast = /\bas (Address|Prefix|Mac|NeighbourKey|AddressList|NexthopKey|ClassKey|ClassRouteKey|ClassRow)\b/
  for (const path of sources('src', /\.ts$/))
    t.equal(cast.test(readFileSync(root + path, 'utf8')), makers.includes(path), path)
})

t.test('no file is longer than 600 lines', async (t) => {
  const files = ['src', 'test', 'bpf', 'native', 'scripts'].flatMap((folder) =>
    sources(folder, /\.(ts|[ch]|cc)$|^[a-z-]+$/).filter((path) => !path.includes('/fixtures/'))
  )
  for (const path of files) {
    let text = ''
    try {
      text = readFileSync(root + path, 'utf8')
    } catch {
      continue // a folder
    }
    const lines = text.split('\n').length
    t.ok(lines <= 600, `${path} has ${lines} lines`)
  }
})

t.test('programs for the kernel and sources for users carry their licence', async (t) => {
  for (const path of sources('bpf', /\.[ch]$/)) {
    t.match(readFileSync(root + path, 'utf8').split('\n')[0], /SPDX-License-Identifier: .*GPL-2\.0/, path)
  }
})
