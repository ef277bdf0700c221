// The shape of bpf/: each header compiles alone, includes go one way, and
// packets are written in few places.

import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import t from 'tap'

const root = join(import.meta.dirname, '../../../..')
const folder = join(root, 'bpf')

const files = readdirSync(folder, { recursive: true, encoding: 'utf8' })
  .filter((path) => /\.[ch]$/.test(path))
  .sort()
const code = new Map(
  files.map((path) => [path, readFileSync(join(folder, path), 'utf8').replace(/\/\*[\s\S]*?\*\/|\/\/.*/g, ' ')])
)

/** The file of bpf/ that an #include means, as the compiler looks for it (-Ibpf); undefined: there is none. */
function included(from: string, name: string): string | undefined {
  const places = [join(folder, dirname(from), name), join(folder, name)]
  const found = places.find((place) => existsSync(place))
  return found && relative(folder, found)
}

const includes = new Map(
  files.map((path) => [
    path,
    [...(code.get(path) ?? '').matchAll(/^#include "([^"]+)"/gm)].map(([, name = '']) => ({
      name,
      path: included(path, name)
    }))
  ])
)

/** A way from `path` through #includes that comes to a file a second time. */
function cycleFrom(path: string, way: string[], done: Set<string>): string[] | undefined {
  if (way.includes(path)) return [...way.slice(way.indexOf(path)), path]
  if (done.has(path)) return undefined
  for (const next of includes.get(path) ?? []) {
    const cycle = next.path && cycleFrom(next.path, [...way, path], done)
    if (cycle) return cycle
  }
  done.add(path)
  return undefined
}

t.test('every header compiles alone', async (t) => {
  let complaints = ''
  try {
    execFileSync(join(root, 'scripts/build-native'), ['--headers'], { encoding: 'utf8', stdio: 'pipe' })
  } catch (error) {
    complaints = (error as { stderr?: string }).stderr || String(error)
  }
  t.equal(complaints, '')
})

t.test('includes have no cycle, and the guard and the datapath nothing in common', async (t) => {
  for (const path of files) {
    for (const { name, path: target } of includes.get(path) ?? []) {
      t.ok(target, `${path} includes "${name}", which is there`)
      if (target) t.equal(dirname(target), dirname(path), `${path} → ${target}`)
    }
    t.same(cycleFrom(path, [], new Set()), undefined, `no cycle from ${path}`)
  }
})

t.test('what a header declares it defines', async (t) => {
  for (const [path, text] of code) {
    const declared = text.matchAll(
      /^(?!extern|typedef|return|volatile)(?:static )?[a-z_][\w ]*[ *](?!SEC\b)(\w+)\([^;{}()]*\);/gm
    )
    for (const [, name] of declared)
      t.match(text, new RegExp(`\\b${name}\\([^;{}]*\\)\\s*\\{`), `${path} has ${name}(), which it declares`)
  }
})

/** What changes a packet, or the sums that go with it, and where that may stand. */
const WRITES: [what: RegExp, where: string[]][] = [
  [
    /\bbpf_skb_store_bytes\(/,
    // the last two make another packet of it
    ['packet_store.h', 'detour.h', 'icmp_error_send.h']
  ],
  [/\bbpf_(l3|l4)_csum_replace\(|\bbpf_csum_update\(/, ['packet_write.h']],
  [/\b(ttl|hop_limit)(--| -= )/, ['packet_write.h', 'packet_store.h']],
  [/->(saddr|daddr|check) = /, ['packet_write.h', 'packet_store.h', 'icmp_error_send.h']],
  [/(?<!ipv[46])\.(saddr|daddr|check) = /, ['packet_store.h']],
  [/\bport\[\d\] = |\(__be16 \*\)l4\)?(\[\d\])? = /, ['packet_write.h']],
  [
    /\b(checksum_after|checksum_after_folded|difference(2|4|16))\(/,
    ['checksum.h', 'packet_write.h', 'packet_store.h', 'snat_port.h']
  ]
]

t.test('packets are written, and checksums corrected, in one place', async (t) => {
  for (const [what, where] of WRITES)
    t.same(
      files.filter((path) => !path.startsWith('guard/') && what.test(code.get(path) ?? '') && !where.includes(path)),
      [],
      `${what.source} only in ${where.join(', ')}`
    )
})
