// src/guard/layout.ts against bpf/guard/types.h, and records against rows.

import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import t from 'tap'
import type { GuardEventRow } from '../../src/control/guard-api.js'
import { Journal, sentence } from '../../src/guard/journal.js'
import { controlOffset, countRow, decodeEvent, eventOffset, eventSize } from '../../src/guard/layout.js'
import { GuardLines } from '../../src/guard/lines.js'
import { createLogger } from '../../src/log.js'
import { attributesOf, batch, family, flag, message, parse } from '../../src/netfilter/nfnetlink.js'
import { treeRoot } from '../vm/kernels.js'

/** Compiles assertions about bpf/guard/types.h; the compiler's complaint, or nothing. */
function compile(assertions: string[]): string {
  const text = [
    '#include <stddef.h>',
    '#include "guard/types.h"',
    ...assertions.map((one) => `_Static_assert(${one}, "${one}");`)
  ]
  const { stderr } = spawnSync('cc', ['-fsyntax-only', `-I${join(treeRoot, 'bpf')}`, '-x', 'c', '-'], {
    input: text.join('\n'),
    encoding: 'utf8'
  })
  return stderr
}

const offset = (of: string, members: Record<string, number>) =>
  Object.entries(members).map(([member, at]) => `offsetof(struct ${of}, ${member}) == ${at}`)

t.test('events and the control section are where the programs have them', async (t) => {
  const { argumentsLength, ...same } = eventOffset
  const { namespaceCookie, probeCookie, probeBackend, probeSeen, cgroupRoot, paths, executables, ...head } =
    controlOffset
  const assertions = [
    `sizeof(struct guard_event) == ${eventSize}`,
    ...offset('guard_event', { ...same, arguments_length: argumentsLength }),
    ...offset('guard_control', {
      ...head,
      namespace_cookie: namespaceCookie,
      probe_cookie: probeCookie,
      probe_backend: probeBackend,
      probe_seen: probeSeen,
      cgroup_root: cgroupRoot,
      exempt_paths: paths,
      exempt_executables: executables
    }),
    'sizeof(struct guard_control) == 56',
    'sizeof(struct guard_allowance) == 16',
    'sizeof(struct guard_executable) == 16',
    'sizeof(struct guard_step) == 100',
    'sizeof(struct guard_place) == 8',
    'sizeof(struct guard_table) == 36',
    'sizeof(struct guard_owned_table) == 36',
    ...Object.entries(countRow).map(
      ([name, row]) => `GUARD_COUNT_${name === 'removals' ? 'REMOVED' : name.toUpperCase()} == ${row}`
    )
  ]
  t.equal(compile(assertions), '')
  t.match(compile(['sizeof(struct guard_event) == 1']), /static assertion failed/, 'the compiler looks at all')
})

t.test('a record of another layout is not misread', async (t) => {
  t.equal(decodeEvent(Buffer.alloc(eventSize - 1)), null)
  t.equal(decodeEvent(Buffer.alloc(eventSize)), null)
})

t.test('messages are read back as they were written; contradictions end the list', async (t) => {
  const bytes = batch([message(6, family.ip6, flag.create, [], 7)])
  t.match(parse(bytes)[1], { type: 6, family: 10, sequence: 7 })
  t.equal(parse(bytes).length, 3)
  bytes.writeUInt32LE(0xffff, 20)
  t.equal(parse(bytes).length, 1)
  t.equal(attributesOf(Buffer.from([3, 0, 1, 0])).size, 0)
  t.equal(attributesOf(Buffer.from([9, 0, 1, 0])).size, 0)
})

const row: GuardEventRow = {
  time: '2026-01-01T00:00:00.000Z',
  verdict: 'refused',
  reason: 'write',
  backend: 'lsm',
  system: 'nftables',
  family: 'ip',
  table: 'filter',
  chain: 'FORWARD',
  message: 'NEWRULE',
  position: 3,
  pid: 7,
  uid: 0,
  command: 'iptables',
  arguments: 'iptables -A FORWARD',
  executable: '/usr/sbin/xtables-nft-multi',
  cgroup: '/x',
  unit: 'x.service',
  exemption: null,
  repeated: 1
}

t.test('[G9] equal attempts are summed up, none is lost', async (t) => {
  const journal = new Journal()
  const told: GuardEventRow[] = []
  journal.listen((event) => told.push(event))
  for (let at = 0; at < 100; at++) journal.add(row)
  journal.add({ ...row, chain: 'INPUT' })
  t.same(
    told.map(({ chain, repeated }) => [chain, repeated]),
    [
      ['FORWARD', 1],
      ['INPUT', 1]
    ]
  )
  journal.flush()
  t.same(
    told.map(({ repeated }) => repeated),
    [1, 1, 99]
  )
  t.equal(journal.recent(1)[0]?.repeated, 99)
})

t.test('refused writes without end, each with other words and pid, are one line and a number', async (t) => {
  const lines: string[] = []
  const log = createLogger({ style: 'journal', stream: { write: (line) => lines.push(line) } })
  const guardLines = new GuardLines(log)
  const flood = (count: number, change: (at: number) => Partial<GuardEventRow> = () => ({})) => {
    for (let at = 0; at < count; at++)
      guardLines.write({ ...row, pid: 100 + at, arguments: `iptables -A FORWARD -s 10.9.0.${at}`, ...change(at) })
  }
  flood(526)
  t.equal(lines.length, 1)
  flood(1, () => ({ cgroup: '/other', repeated: 3 }))
  t.equal(lines.length, 2, 'another program has a line of its own')
  flood(500, (at) => ({ executable: `/tmp/iptables${at}` }))
  t.equal(lines.length, 11, 'a copy of the program for each write makes a few')
  guardLines.close()
  const more = lines.slice(11).map((line) => Number(/ … and (\d+) more like this\n$/.exec(line)?.[1]))
  t.same(more, [525, 491])
})

t.test('[K11] an exempt writer is told once, and counted in its row', async (t) => {
  const journal = new Journal()
  const told: GuardEventRow[] = []
  journal.listen((event) => told.push({ ...event }))
  const exempt: GuardEventRow = {
    ...row,
    verdict: 'exempt',
    exemption: 'cgroup /kubepods (default)',
    cgroup: '/kubepods/a'
  }
  for (let at = 0; at < 50; at++) journal.add({ ...exempt, pid: at, table: `t${at % 3}`, arguments: `restore ${at}` })
  journal.add({ ...exempt, cgroup: '/kubepods/b' })
  t.same(
    told.map(({ cgroup, repeated }) => [cgroup, repeated]),
    [
      ['/kubepods/a', 1],
      ['/kubepods/b', 1]
    ]
  )
  t.same(
    journal.recent(10).map(({ repeated }) => repeated),
    [50, 1]
  )
  for (let at = 0; at < 1000; at++) journal.add({ ...row, chain: `c${at}` })
  journal.add(exempt)
  t.equal(told.at(-1)?.verdict, 'exempt', 'told again when its row is gone')
  journal.flush()
  t.match(
    sentence(exempt),
    /^exempt: cgroup \/kubepods \(default\): nftables NEWRULE in ip filter FORWARD by "iptables -A FORWARD" of x.service \(pid 7\); its further/
  )
})

t.test('a person can read who wanted what', async (t) => {
  t.equal(sentence(row), 'refused nftables NEWRULE in ip filter FORWARD by "iptables -A FORWARD" of x.service (pid 7)')
  t.match(
    sentence({ ...row, repeated: 41, reason: 'uninspectable' }),
    'refused 41 times more nftables NEWRULE which cannot be inspected'
  )
})
