// Flows for people: the list, who uses most, what was deleted.

import type { FlowDeletion, FlowRow, FlowTop, PodUse } from '../control/flow-api.js'
import { count, endpoint, type Paint, plural, rate, section, span, TableWriter, table } from './text.js'

const flowColumns = [
  { title: 'PROTO' },
  { title: 'POD' },
  { title: 'SOURCE OUTSIDE' },
  { title: 'REMOTE' },
  { title: 'STATE' },
  { title: 'IDLE', right: true },
  { title: 'AGE', right: true }
]
/** Share of the ports towards a remote from which on it is near its limit. */
const near = 0.8

export function flowTable(paint: Paint): { write(rows: FlowRow[]): string } {
  const writer = new TableWriter(paint, flowColumns)
  return { write: (rows) => writer.write(rows.map((row) => flowCells(row, paint))) }
}

function flowCells(flow: FlowRow, paint: Paint): string[] {
  return [
    flow.protocol,
    endpoint(flow.pod, flow.podPort),
    flow.natAddress === null || flow.natPort === null
      ? paint.dim(flow.verdict)
      : endpoint(flow.natAddress, flow.natPort),
    endpoint(flow.remote, flow.remotePort),
    flow.state,
    span(flow.idle),
    flow.age === null ? '-' : span(flow.age)
  ]
}

export function renderTop(top: FlowTop, paint: Paint): string {
  if (top.flows === 0) return 'There are no flows.'
  const parts = [remotesPart(top, paint)]
  parts.push(section(paint, 'Pods by flows', podTable(top.podsByFlows, paint)))
  parts.push(
    top.podsByNewFlows.length === 0
      ? `No pod has opened a flow in the last ${top.window} s.`
      : section(
          paint,
          `Pods by new flows per second, over the last ${top.window} s`,
          podTable(top.podsByNewFlows, paint)
        )
  )
  if (top.uncertainty > 0)
    parts.push(
      paint.warn(`There are so many remotes or pods that up to ${count(top.uncertainty)} flows are missing in a row.`)
    )
  return parts.join('\n\n')
}

function remotesPart({ remotes, ports, flows }: FlowTop, paint: Paint): string {
  if (remotes.length === 0) return `None of ${plural(flows, 'flow')} goes through SNAT.`
  const rows = remotes.map(({ protocol, remote, remotePort, source, flows: used, share }) => {
    const percent = `${(share * 100).toFixed(1)} %`
    return [
      protocol,
      endpoint(remote, remotePort),
      source,
      count(used),
      share >= 1 ? paint.bad(percent) : share >= near ? paint.warn(percent) : percent
    ]
  })
  const columns = [
    { title: 'PROTO' },
    { title: 'REMOTE' },
    { title: 'SOURCE OUTSIDE' },
    { title: 'FLOWS', right: true },
    { title: 'OF PORTS', right: true }
  ]
  return section(
    paint,
    `Remotes by flows through SNAT, of ${plural(ports, 'port')} towards each`,
    table(paint, columns, rows, '  ')
  )
}

function podTable(pods: PodUse[], paint: Paint): string {
  const rows = pods.map(({ pod, device, flows, snat, newPerSecond }) => [
    pod,
    device ?? '-',
    count(flows),
    count(snat),
    rate(newPerSecond)
  ])
  const columns = [
    { title: 'POD' },
    { title: 'DEVICE' },
    { title: 'FLOWS', right: true },
    { title: 'SNAT', right: true },
    { title: 'NEW', right: true }
  ]
  return table(paint, columns, rows, '  ')
}

export function renderDeletion({ deleted, matching, duration }: FlowDeletion, dryRun: boolean): string {
  if (dryRun) return `${plural(matching, 'flow')} would be deleted.`
  const kept = matching - deleted
  const besides = kept > 0 ? ` (${plural(kept, 'other', 'others')} ended by themselves meanwhile)` : ''
  return `${plural(deleted, 'flow')} deleted in ${span(duration)}${besides}.`
}
