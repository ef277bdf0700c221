// A second build of hostroute whose maps have another layout: fields that this one
// does not know, others moved, keys of another size. For upgrades and the way back.

import { createHash } from 'node:crypto'
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Layout, Type } from '../../src/maps/convert.js'
import { LAYOUT, STRUCTS } from '../../src/maps/layout.js'
import type { Native } from '../../src/native.js'
import { run } from './process.js'

const root = fileURLToPath(new URL('../../../../', import.meta.url))
const tree = join(root, 'build/other-layout')

/** What stands in the headers, and what instead. */
const edits: Record<string, [string | RegExp, string][]> = {
  'bpf/flow_types.h': [
    [/(struct flow \{\n(?:[^\n]*\n){3}\t__u16 nexthop;[^\n]*\n)/, '$1\t__u64 note;\n'],
    [/(\t__u32 created;[^\n]*\n)(\tstruct snat_difference difference;[^\n]*\n)/, '$2$1'],
    [/struct reverse \{\n/, '$&\t__u64 note;\n'],
    [/struct account \{\n/, '$&\t__u32 note;\n'],
    [/struct usage \{\n/, '$&\t__u64 note;\n']
  ],
  'bpf/types.h': [
    [/#define HR_LAYOUT \d+/, `#define HR_LAYOUT ${LAYOUT + 1}`],
    [/struct nexthop \{\n/, '$&\t__u64 note;\n'],
    [/struct neighbour_key \{\n/, '$&\t__u32 note;\n'],
    [/(\t__u64 lease;[^\n]*\n)/, '$1\t__u64 note;\n'],
    [/(\t__u32 event_rate;[^\n]*\n)(\t__u32 timeout\[TIMEOUT_MAX\];\n)/, '$2$1']
  ]
}

/** The daemon's main file of the other build, made if it is not there or no more of these sources. */
export async function otherLayout(): Promise<string> {
  const sources = ['bpf', 'native', 'scripts', 'CMakeLists.txt', 'package.json']
  const hash = createHash('sha256').update(JSON.stringify(edits, (_, value) => `${value}`))
  for (const name of ['bpf', 'native'])
    for (const file of readdirSync(join(root, name), { recursive: true, encoding: 'utf8' }).sort())
      if (/\.(c|cc|h)$/.test(file)) hash.update(readFileSync(join(root, name, file)))
  const stamp = join(tree, `made-${hash.digest('hex').slice(0, 16)}`)
  if (!existsSync(stamp)) {
    rmSync(tree, { recursive: true, force: true })
    mkdirSync(tree, { recursive: true })
    for (const name of sources) cpSync(join(root, name), join(tree, name), { recursive: true })
    symlinkSync(join(root, 'node_modules'), join(tree, 'node_modules'))
    for (const [file, changes] of Object.entries(edits)) edit(join(tree, file), changes)
    await run([join(tree, 'scripts/build-native')], { timeout: 300_000 })
    writeFileSync(stamp, '')
  }
  rmSync(join(tree, 'build/js'), { recursive: true, force: true })
  cpSync(join(root, 'build/js'), join(tree, 'build/js'), { recursive: true })
  writeLayout(join(tree, 'build/js/src/maps/layout.js'), join(tree, 'build/native/hostroute.node'))
  return join(tree, 'build/js/src/daemon/main.js')
}

function edit(path: string, changes: [string | RegExp, string][]): void {
  let text = readFileSync(path, 'utf8')
  for (const [from, to] of changes) {
    const after = text.replace(from, to)
    if (after === text) throw new Error(`${path} has no ${from}`)
    text = after
  }
  writeFileSync(path, text)
}

/** The offsets that the other object's BTF has, in the place of these. */
function writeLayout(path: string, addon: string): void {
  const other = createRequire(import.meta.url)(addon) as Native
  const object = other.loadObject({ programs: [] })
  const types = new Map<string, Type>()
  for (const name of [
    'flows4',
    'reverse4',
    'accounts',
    'usage',
    'nexthops',
    'neighbours',
    'control',
    'traces',
    'merge_rows'
  ]) {
    const { key, value } = JSON.parse(object.map(name).layout()) as Layout
    for (const type of [key, value]) note(type, types)
  }
  object.close()
  let text = readFileSync(path, 'utf8').replace(/LAYOUT = \d+/, `LAYOUT = ${LAYOUT + 1}`)
  for (const [name, { size, fields = [] }] of types) {
    const known = (STRUCTS as Record<string, { offset: Record<string, number> }>)[name]?.offset
    if (!known) continue
    const offset = Object.fromEntries(
      fields.filter((field) => field.name in known).map((field) => [field.name, field.offset])
    )
    text += `STRUCTS.${name}.size = ${size};\nObject.assign(STRUCTS.${name}.offset, ${JSON.stringify(offset)});\n`
  }
  writeFileSync(path, text)
}

function note(type: Type | null | undefined, into: Map<string, Type>): void {
  if (!type) return
  if (type.name) into.set(type.name, type)
  for (const field of type.fields ?? []) note(field.type, into)
  note(type.element, into)
}
