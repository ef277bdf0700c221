import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import {
  CLASS_ROUTES,
  CODES,
  DEVICE_SLOTS,
  FLOW_BATCH,
  GROUP_LEGS,
  LAYOUT,
  MAX_NEXTHOPS,
  POD_SLOTS,
  ROUTE_SLOTS,
  SOURCE_PLACES,
  STRUCTS,
  type Struct
} from '../../src/maps/layout.js'
import { REASON_MAX, REASONS } from '../../src/reasons.js'

// The compiler's own account of bpf/types.h and call_types.h: BTF of a small program that uses
// every struct and enum, and holds the values of the #defines.

interface BtfType {
  id: number
  kind: string
  name: string
  size?: number
  members?: { name: string; bits_offset: number }[]
  values?: { name: string; val: number }[]
}

const defines = {
  LAYOUT: 'HR_LAYOUT',
  DEVICE_SLOTS: 'DEVICE_SLOTS',
  POD_SLOTS: 'POD_SLOTS',
  MAX_NEXTHOPS: 'MAX_NEXTHOPS',
  ROUTE_SLOTS: 'ROUTE_SLOTS',
  SOURCE_PLACES: 'SOURCE_PLACES',
  GROUP_LEGS: 'GROUP_LEGS',
  CLASS_ROUTES: 'CLASS_ROUTES',
  FLOW_BATCH: 'FLOW_BATCH'
}
const flags = Object.keys(CODES).filter((name) =>
  /^(DEVICE_(STACK|CLASS)|POD_|NEXTHOP_|SEEN_|CONTROL_|TRACE_|DELETE_)/.test(name)
)
const root = join(import.meta.dirname, '../../../..')

function tool(names: string[]): string {
  for (const name of names) {
    try {
      execFileSync(name, ['--version'], { stdio: 'ignore' })
      return name
    } catch {}
  }
  throw new Error(`none of ${names.join(', ')} is installed`)
}

function readBtf(): BtfType[] {
  const directory = mkdtempSync(join(tmpdir(), 'hostroute-layout-'))
  try {
    const source = join(directory, 'layout.c')
    const object = join(directory, 'layout.o')
    const lines = ['#include "types.h"', '#include "call_types.h"']
    for (const name of Object.keys(STRUCTS)) lines.push(`struct ${name} a_${name};`)
    for (const name of [
      'reason',
      'device_kind',
      'source',
      'route_action',
      'flow_verdict',
      'flow_life',
      'timeout',
      'event_type'
    ])
      lines.push(`enum ${name} an_${name};`)
    for (const name of [...flags, ...Object.values(defines), 'REASON_FIRST_STACK', 'REASON_FIRST_DROP'])
      lines.push(`enum e_${name} { VALUE_${name} = ${name} }; enum e_${name} v_${name};`)
    writeFileSync(source, `${lines.join('\n')}\n`)
    const clang = tool(['clang-19', 'clang-20', 'clang-21', 'clang-18', 'clang-17', 'clang-16', 'clang'])
    const triple = execFileSync('uname', ['-m'], { encoding: 'utf8' }).trim()
    execFileSync(clang, [
      '-target',
      'bpf',
      '-g',
      '-c',
      `-I${join(root, 'bpf')}`,
      `-I/usr/include/${triple}-linux-gnu`,
      source,
      '-o',
      object
    ])
    const text = execFileSync(tool(['bpftool', '/usr/sbin/bpftool']), ['btf', 'dump', 'file', object, '-j'], {
      encoding: 'utf8'
    })
    return (JSON.parse(text) as { types: BtfType[] }).types
  } finally {
    rmSync(directory, { recursive: true })
  }
}

const types = readBtf()
const values = new Map(
  types.flatMap((type) => (type.kind === 'ENUM' ? (type.values ?? []) : [])).map((entry) => [entry.name, entry.val])
)

t.test('every struct of the header has the compiler’s size and offsets, and none is missing', async (t) => {
  for (const [name, expected] of Object.entries(STRUCTS) as [string, Struct][]) {
    const type = types.find((candidate) => candidate.kind === 'STRUCT' && candidate.name === name)
    t.equal(type?.size, expected.size, `size of ${name}`)
    const offsets = Object.fromEntries(
      (type?.members ?? [])
        .filter((member) => !/^pad\d?$/.test(member.name))
        .map((member) => [member.name, member.bits_offset / 8])
    )
    t.strictSame(expected.offset, offsets, `offsets of ${name}`)
  }
})

t.test('codes, flags and sizes are those of the header', async (t) => {
  for (const [name, code] of Object.entries(CODES)) t.equal(code, values.get(name) ?? values.get(`VALUE_${name}`), name)
  t.strictSame(
    {
      LAYOUT,
      DEVICE_SLOTS,
      POD_SLOTS,
      MAX_NEXTHOPS,
      ROUTE_SLOTS,
      SOURCE_PLACES,
      GROUP_LEGS,
      CLASS_ROUTES,
      FLOW_BATCH
    },
    Object.fromEntries(Object.entries(defines).map(([ours, theirs]) => [ours, values.get(`VALUE_${theirs}`)]))
  )
})

t.test('every reason of the header has its name, kind and text', async (t) => {
  const header = [...values]
    .filter(([name]) => /^REASON_/.test(name) && name !== 'REASON_MAX')
    .sort((a, b) => a[1] - b[1])
  t.strictSame(
    REASONS.map((reason) => [`REASON_${reason.name.toUpperCase().replaceAll('-', '_')}`, reason.code]),
    header
  )
  t.equal(REASON_MAX, values.get('REASON_MAX'))
  t.equal(REASONS.find((reason) => reason.kind === 'stack')?.code, values.get('VALUE_REASON_FIRST_STACK'))
  t.equal(REASONS.find((reason) => reason.kind === 'drop')?.code, values.get('VALUE_REASON_FIRST_DROP'))
  t.notOk(REASONS.some((reason) => reason.text === ''))
})
