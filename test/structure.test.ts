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
  daemon: ['netlink', 'state', 'plan', 'maps', 'check', 'guard', 'conntrack', 'translated', 'config', 'control']
}

function sources(folder: string, ends: RegExp): string[] {
  return readdirSync(root + folder, { recursive: true, encoding: 'utf8' })
    .filter((path) => ends.test(path))
    .map((path) => `${folder}/${path}`)
    .sort()
}

function importsOf(path: string): string[] {
  const text = readFileSync(root + path, 'utf8')
  const found = text.matchAll(/^(?:import|export) (?!type\b)[^'"]*?(?:from )?'(\.[^']+)'/gm)
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
