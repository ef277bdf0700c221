// Lists for people: pods, routes, next hops, neighbours.

import type {
  NeighbourRow,
  NexthopRow,
  PodRow,
  RouteAnswer,
  RouteLeg,
  RouteList,
  RouteRow,
  VerifyReport
} from '../control/api.js'
import type { PinnedPodRow } from '../control/pinned-api.js'
import { count, type Paint, plural, span, table } from './text.js'

export function renderPods(pods: PodRow[], paint: Paint): string {
  if (pods.length === 0) return 'No pod is known: no host route points to a device whose peer is in another namespace.'
  const rows = pods.map((pod) => [
    pod.address,
    pod.device,
    pod.l3 ? '(L3)' : (pod.mac ?? '-'),
    String(pod.mtu),
    podState(pod, paint)
  ])
  return table(
    paint,
    [{ title: 'ADDRESS' }, { title: 'DEVICE' }, { title: 'MAC' }, { title: 'MTU', right: true }, { title: 'STATE' }],
    rows
  )
}

/** Of a daemon that does not answer. */
export function renderPinnedPods(pods: PinnedPodRow[], paint: Paint): string {
  if (pods.length === 0) return 'No pod address is pinned.'
  const rows = pods.map((pod) => [
    pod.address,
    pod.device ?? '-',
    pod.l3 ? '(L3)' : (pod.mac ?? '-'),
    String(pod.mtu),
    pod.programs === null ? 'not seen' : pod.programs.map(({ name, how }) => `${name} (${how})`).join(', ') || '-',
    pod.flows === null ? '-' : count(pod.flows),
    pinnedState(pod, paint)
  ])
  const columns = [
    { title: 'ADDRESS' },
    { title: 'DEVICE' },
    { title: 'MAC' },
    { title: 'MTU', right: true },
    { title: 'PROGRAMS' },
    { title: 'FLOWS', right: true },
    { title: 'STATE' }
  ]
  return table(paint, columns, rows)
}

function pinnedState({ ready, forwarding, programs, device, ifindex, mac, l3 }: PinnedPodRow, paint: Paint): string {
  if (ready) return paint.good('forwarding')
  if (!forwarding) return paint.warn('through the kernel: the programs are off, or their lease is over')
  if (mac === null && !l3) return paint.warn('through the kernel: its MAC was not known')
  if (ready === null)
    return paint.warn(`not known: device ${ifindex} is in another network namespace than this command`)
  if (device === null) return paint.warn(`its device, number ${ifindex}, is gone`)
  const others = programs?.length ? 'from_pod is not attached' : 'no program is attached'
  return paint.warn(`through the kernel: ${others}`)
}

export function renderRoutes({ routes, classes, total }: RouteList, paint: Paint): string {
  if (routes.length === 0) return 'No route in the maps matches.'
  const columns = [{ title: 'PREFIX' }, { title: 'WHERE' }, { title: 'SNAT' }]
  const ofClass = (name: string | null) =>
    routes.filter((route) => route.class === name).map((route) => [route.prefix, ...routeCells(route, paint)])
  const parts = routes.some((route) => route.class === null) ? [table(paint, columns, ofClass(null))] : []
  for (const { class: name, family, devices, tables } of classes) {
    const rows = ofClass(name)
    if (rows.length > 0)
      parts.push(`IPv${family} from ${devices.join(', ')} asks ${tables}:\n${table(paint, columns, rows)}`)
  }
  return parts.join('\n\n') + more(routes.length, total, paint)
}

/** One line, as `ip route get` has it. */
export function renderRouteAnswer(answer: RouteAnswer, paint: Paint): string {
  const { address, from, out, route, masquerade, source } = answer
  const words = [paint.bold(address)]
  if (from !== null) words.push(`from ${from}`)
  if (answer.verdict === 'stack' || answer.verdict === 'drop') {
    const tone = answer.verdict === 'stack' ? paint.warn : paint.bad
    words.push(`${tone(answer.verdict)}: ${answer.why}`)
    if (route) words.push(`(route ${route.prefix})`)
    return words.join(' ')
  }
  if (!out) return `${words.join(' ')}: ${answer.why}`
  if (out.nextHop !== address) words.push(`via ${out.nextHop}`)
  words.push(`dev ${out.device}`)
  words.push(out.mac === null ? paint.warn("by the kernel's neighbour entry") : `lladdr ${out.mac}`)
  if (out.mtu !== null) words.push(`mtu ${out.mtu}`)
  if (answer.verdict === 'pod') return `${words.join(' ')} ${paint.good('pod of this node')}`
  if (source !== null) words.push(`snat ${source}`)
  const by = [`route ${route?.prefix ?? '?'}`]
  if (masquerade) by.push(`${masquerade.masquerade ? 'masqueraded' : 'not masqueraded'} by ${masquerade.prefix}`)
  return `${words.join(' ')} (${by.join(', ')})`
}

export function renderNexthops(nexthops: NexthopRow[], paint: Paint): string {
  if (nexthops.length === 0) return 'No next hop is in use.'
  const rows = nexthops.map((row) => [
    String(row.index),
    row.device,
    row.gateway ?? 'on-link',
    row.gateway === null ? '-' : (row.mac ?? '-'),
    row.gateway === null ? 'by neighbour' : row.macKnown ? paint.good('known') : paint.warn('through the kernel'),
    String(row.mtu),
    [row.snat4, row.snat6].filter((address) => address !== null).join(', ') || '-',
    count(row.routes)
  ])
  const columns = [
    { title: 'ID', right: true },
    { title: 'DEVICE' },
    { title: 'GATEWAY' },
    { title: 'MAC' },
    { title: 'STATE' },
    { title: 'MTU', right: true },
    { title: 'SNAT' },
    { title: 'ROUTES', right: true }
  ]
  return table(paint, columns, rows)
}

export function renderNeighbours(neighbours: NeighbourRow[], paint: Paint): string {
  if (neighbours.length === 0) return 'No neighbour is in the maps.'
  const rows = neighbours.map((row) => [
    row.address,
    row.device,
    row.mac,
    row.known ? paint.good('known') : paint.warn('through the kernel')
  ])
  return table(
    paint,
    ['ADDRESS', 'DEVICE', 'MAC', 'STATE'].map((title) => ({ title })),
    rows
  )
}

export function renderVerify(report: VerifyReport, paint: Paint): string {
  const took = `${plural(report.checked, 'entry', 'entries')} compared in ${span(report.duration)}`
  if (report.total === 0) return `${paint.good('The maps hold what they should')}: ${took}.`
  const head = report.repaired
    ? `${paint.warn(`${plural(report.total, 'difference')}, all repaired`)}: ${took}.`
    : `${paint.bad(plural(report.total, 'difference'))}: ${took}.${report.ok ? '' : ' Repair with: hostroute verify --repair'}`
  const rows = report.differences.map((row) => [row.map, row.key, row.kind, row.found ?? '-', row.wanted ?? '-'])
  const body = table(
    paint,
    ['MAP', 'KEY', 'WHAT', 'FOUND', 'WANTED'].map((title) => ({ title })),
    rows
  )
  return `${head}\n${body}${more(report.differences.length, report.total, paint, '')}`
}

function routeCells(route: RouteRow, paint: Paint): [where: string, snat: string] {
  if (route.action === 'main') return [paint.dim("the node's own routes"), '-']
  if (route.action === 'stack') return [paint.warn(`kernel: ${route.why ?? 'no reason given'}`), '-']
  const snat = [...new Set(route.legs.map((leg) => leg.snat ?? '-'))].join(', ')
  return [route.legs.map((leg) => legText(leg, route.legs.length > 1)).join(', '), snat]
}

function legText(leg: RouteLeg, several: boolean): string {
  const where = leg.gateway === null ? `on-link dev ${leg.device}` : `via ${leg.gateway} dev ${leg.device}`
  return several ? `${where} weight ${leg.weight}` : where
}

export function more(shown: number, total: number, paint: Paint, remedy = '; raise --limit or filter'): string {
  return total > shown ? `\n${paint.dim(`… and ${count(total - shown)} more${remedy}`)}` : ''
}

function podState({ ready, mac, l3 }: PodRow, paint: Paint): string {
  if (ready) return paint.good('ready')
  if (mac !== null || l3) return paint.warn('through the kernel: hostroute is disabled')
  return paint.warn('waiting for its MAC: through the kernel meanwhile')
}
