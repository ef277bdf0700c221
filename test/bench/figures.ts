// What a benchmark says, and the three ways to show it: a table for people,
// JSON, and a picture (picture.ts).

import type { ProgramCost } from './programs.js'
import type { Kind } from './traffic.js'

/** Way → kind → figure. Nanoseconds, or instructions on the exact clock. */
export type TrafficFigures = Record<string, Partial<Record<Kind, number>>>

export interface Measured {
  traffic: TrafficFigures
  programs: ProgramCost[]
}

export interface Report {
  /** Where and when; load is the machine's at the end. */
  about: { date: string; kernel: string; processor: string; load: number; rounds: number; seconds: number }
  wall: Measured | null
  /** Kernel of the machine with the exact clock, and its figures. */
  exact: (Measured & { kernel: string }) | null
}

const TITLES: Record<Kind, string> = {
  tcp: 'TCP one way',
  udp: 'UDP one way',
  packets: 'UDP packets/s',
  connect: 'connections/s',
  stream: 'TCP stream'
}

/** The ways as people read them, in the order they are shown. */
export const WAYS: Record<string, string> = {
  bare: 'bare veth pair',
  'floor pod': 'pod to pod, a redirect and nothing else',
  'hostroute pod': 'pod to pod, hostroute',
  'kernel pod': 'pod to pod, kernel',
  'legacy pod': 'pod to pod, kernel + 100 rules',
  'floor uplink': 'pod to uplink, a redirect and nothing else',
  'hostroute remote': 'pod to remote pod range, hostroute',
  'kernel remote': 'pod to remote pod range, kernel',
  'legacy remote': 'pod to remote pod range, kernel + 100 rules',
  'hostroute outside': 'pod to outside, hostroute with SNAT',
  'kernel outside': 'pod to outside, kernel without SNAT',
  'legacy outside': 'pod to outside, kernel + rules, MASQUERADE',
  'services service': 'Service on this node, kernel + kube-proxy',
  'services+hostroute service': 'Service on this node, hostroute + kube-proxy',
  'services pod': 'pod to pod, kernel + kube-proxy',
  'services+hostroute pod': 'pod to pod, hostroute + kube-proxy',
  'services remote': 'pod to remote pod range, kernel + kube-proxy',
  'services+hostroute remote': 'pod to remote pod range, hostroute + kube-proxy'
}

function wallCell(kind: Kind, value: number, bare: number): string {
  if (kind === 'tcp' || kind === 'udp') return `${(value / 1_000).toFixed(2)} µs ${(value / bare).toFixed(2)}x`
  const ratio = `${(bare / value).toFixed(2)}x`
  if (kind === 'stream') return `${((8 * 1.048576e6) / value).toFixed(1)} Gbit/s ${ratio}`
  return `${Math.round(1e9 / value).toLocaleString('en')} ${ratio}`
}

function exactCell(value: number, bare: number): string {
  const over = Math.round(value - bare)
  return `${Math.round(value).toLocaleString('en')} ${over ? `+${over.toLocaleString('en')}` : ''}`.trim()
}

function aligned(rows: readonly (readonly string[])[]): string {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)))
  const line = (row: readonly string[]) =>
    row.map((cell, at) => (at === 0 ? cell.padEnd(widths[at] ?? 0) : cell.padStart(widths[at] ?? 0))).join('   ')
  return rows.map((row) => `  ${line(row).trimEnd()}`).join('\n')
}

function table(traffic: TrafficFigures, cell: (kind: Kind, value: number, bare: number) => string): string {
  const kinds = Object.keys(traffic['bare'] ?? {}) as Kind[]
  const rows = Object.entries(WAYS).flatMap(([way, name]) => {
    const figures = traffic[way]
    if (!figures) return []
    return [
      [name, ...kinds.map((kind) => cell(kind, figures[kind] ?? Number.NaN, traffic['bare']?.[kind] ?? Number.NaN))]
    ]
  })
  return aligned([['', ...kinds.map((kind) => TITLES[kind])], ...rows])
}

/** Both tables, one below the other, and the programs' costs side by side. */
export function formatReport({ about, wall, exact }: Report): string {
  const parts: string[] = []
  if (wall) {
    parts.push(
      `Wall clock: Linux ${about.kernel}, ${about.processor}, load ${about.load.toFixed(1)}, medians of ${about.rounds} rounds by turns, one core\n` +
        '(x: against the bare pair; of rates, the share that is reached)',
      table(wall.traffic, wallCell)
    )
  }
  if (exact) {
    parts.push(
      `Exact clock: Linux ${exact.kernel}, one instruction is one nanosecond; instructions, and how many more than the bare pair\n` +
        '(a connection: opened, 64 bytes sent, closed by both sides)',
      table(exact.traffic, (kind, value, bare) => {
        void kind
        return exactCell(value, bare)
      }).replace('connections/s', ' a connection')
    )
  }
  const costs = new Map<string, string[]>()
  const columns = [wall && 'ns', exact && 'instructions'].filter((each) => each !== null)
  for (const measured of [wall, exact]) {
    if (!measured) continue
    for (const { path, cost } of measured.programs) costs.set(path, [...(costs.get(path) ?? []), `${cost}`])
  }
  parts.push(
    'The programs alone (BPF_PROG_TEST_RUN, less an empty program)',
    aligned([['', ...columns], ...[...costs].map(([path, cells]) => [path, ...cells])])
  )
  return `${parts.join('\n\n')}\n`
}
