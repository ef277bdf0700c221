// `hostroute drops` and `hostroute monitor` for people.

import type { DropRow, EventRow } from '../control/packet-api.js'
import { explainReason } from '../reasons.js'
import { count, endpoint, type Paint, plural, rate } from './text.js'

interface ReasonSum {
  reason: string
  packets: number
  perSecond: number
  devices: DropRow[]
}

/** Drops first, each with its remedy; then what was left to the kernel, most first. */
export function renderDrops(rows: DropRow[], paint: Paint): string {
  const drops = sumByReason(rows.filter((row) => row.class === 'drop'))
  const stack = sumByReason(rows.filter((row) => row.class === 'stack'))
  const dropped = drops.reduce((sum, row) => sum + row.packets, 0)
  const parts = [
    drops.length === 0
      ? paint.good('hostroute has dropped no packet.')
      : `${paint.bad(`hostroute has dropped ${plural(dropped, 'packet')}.`)}\n\n${drops.map((row) => paragraph(row, paint, paint.bad)).join('\n\n')}`
  ]
  if (stack.length === 0) parts.push('Nothing was left to the kernel.')
  else
    parts.push(
      `${paint.bold('Left to the kernel')} (delivered, on the slower way)\n\n${stack.map((row) => paragraph(row, paint, (text) => text)).join('\n\n')}`
    )
  return parts.join('\n\n')
}

function sumByReason(rows: DropRow[]): ReasonSum[] {
  const sums = new Map<string, ReasonSum>()
  for (const row of rows) {
    if (row.packets === 0) continue
    const sum = sums.get(row.reason) ?? { reason: row.reason, packets: 0, perSecond: 0, devices: [] }
    sum.packets += row.packets
    sum.perSecond += row.packetsPerSecond
    sum.devices.push(row)
    sums.set(row.reason, sum)
  }
  return [...sums.values()].sort((a, b) => b.packets - a.packets)
}

function paragraph(sum: ReasonSum, paint: Paint, tone: (text: string) => string): string {
  const { text, remedy } = explainReason(sum.reason)
  const now = sum.perSecond > 0 ? `, now ${rate(sum.perSecond)}` : ''
  const devices = [...sum.devices].sort((a, b) => b.packets - a.packets)
  const named = devices.slice(0, 5).map((row) => `${row.device} ${count(row.packets)}`)
  if (devices.length > 5) named.push(`${devices.length - 5} more devices`)
  const lines = [
    `${tone(paint.bold(sum.reason))}  ${plural(sum.packets, 'packet')}${now}`,
    `  ${text}`,
    `  ${paint.dim(`from: ${named.join(', ')}`)}`
  ]
  if (remedy !== '') lines.push(`  → ${remedy}`)
  return lines.join('\n')
}

/** One line: time, verdict, in → out, source → destination, protocol, reason, length. */
export function renderEvent(event: EventRow, paint: Paint): string {
  const lost = event.lost > 0 ? `${paint.warn(`(${plural(event.lost, 'event')} lost here)`)}\n` : ''
  const way = `${event.in} → ${event.out ?? '?'}`
  if (event.type === 'flow') {
    const nat =
      event.natAddress === null || event.natPort === null ? '' : ` as ${endpoint(event.natAddress, event.natPort)}`
    const flow = `${endpoint(event.source, event.sourcePort)} → ${endpoint(event.destination, event.destinationPort)} ${event.protocol}`
    return `${lost}${clock(event.time)} ${'new flow'.padEnd(9)} ${way}  ${flow}${nat}`
  }
  const verdict =
    event.class === 'drop'
      ? paint.bad('dropped'.padEnd(9))
      : event.class === 'stack'
        ? paint.warn('kernel'.padEnd(9))
        : paint.good('forwarded')
  const packet = `${place(event.source, event.sourcePort)} → ${place(event.destination, event.destinationPort)} ${event.protocol ?? 'not IP'}`
  return `${lost}${clock(event.time)} ${verdict} ${way}  ${packet}  ${event.reason}  ${event.length} B`
}

function place(address: string | null, port: number | null): string {
  if (address === null) return '?'
  return port === null ? address : endpoint(address, port)
}

/** Local time of day with milliseconds. */
function clock(time: string): string {
  const date = new Date(time)
  const two = (value: number) => String(value).padStart(2, '0')
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}.${String(date.getMilliseconds()).padStart(3, '0')}`
}
