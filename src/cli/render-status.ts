// `hostroute status` for people: one sentence that says how it is, then the rest.

import type { DetourStatus, Fill, HookRow, PacketCounts, Status, TranslatedRow } from '../control/api.js'
import { refusedWords } from './guard.js'
import { renderMasquerading } from './render-masquerade.js'
import { bitRate, bytes, count, facts, type Paint, plural, rate, section, since, span, table } from './text.js'

/** now: milliseconds since 1970. */
export function renderStatus(status: Status, paint: Paint, now: number): string {
  const parts = [
    headline(status, paint, now),
    section(paint, 'Packets', packets(status, paint)),
    problems(status, paint, now),
    devices(status, paint),
    leftToKernel(status, paint),
    services(status, paint),
    section(paint, 'Maps', maps(status, paint)),
    renderMasquerading(status.masquerade, paint, now),
    section(paint, 'Daemon', daemon(status, paint, now)),
    errors(status, paint, now)
  ]
  return parts.filter((part) => part !== '').join('\n\n')
}

function headline(status: Status, paint: Paint, now: number): string {
  const served = status.hooks.filter((row) => row.served).length
  const name = `hostroute ${status.version} on ${status.node}`
  const why = status.why === null ? '' : `: ${status.why}`
  const lines: string[] = []
  if (status.mode === 'enabled') {
    lines.push(
      `${paint.good('●')} ${name} is ${paint.good('enabled')}: it routes for ${plural(status.counts.pods.used, 'pod address', 'pod addresses')} on ${plural(served, 'device')}.`
    )
  } else if (status.mode === 'degraded') {
    lines.push(
      `${paint.warn('●')} ${name} is ${paint.warn('degraded')}${sentence(why || ': part of the traffic is left to the kernel')}`
    )
  } else {
    lines.push(
      `${paint.bad('●')} ${name} is ${paint.bad('disabled')}${sentence(why || ": all packets take the kernel's own way")}`
    )
    lines.push('  Enable it with: hostroute enable --confirm-within 60s')
  }
  if (status.confirmBefore !== null) {
    const left = span(Math.max(0, Date.parse(status.confirmBefore) - now) / 1000)
    lines.push(`  ${paint.warn(`Not confirmed: it is undone in ${left} unless you run: hostroute confirm`)}`)
  }
  const invalid = notValid(status)
  if (invalid.length > 0) lines.push(`  ${paint.warn(`Not valid, and so not in force: ${few(invalid)}; see below`)}`)
  return lines.join('\n')
}

/** Files that are followed and were changed to something that is not valid. */
function notValid({ configuration, masquerade }: Status): string[] {
  const files = masquerade.enabled ? masquerade.files.filter(({ error }) => error !== null) : []
  return [...(configuration.error === null ? [] : [configuration.path]), ...files.map(({ path }) => path)]
}

function sentence(text: string): string {
  return /[.!?]$/.test(text) ? text : `${text}.`
}

function packets({ packets: counts }: Status, paint: Paint): string {
  const row = (name: string, counts: PacketCounts) => [
    name,
    count(counts.packets),
    bytes(counts.bytes),
    rate(counts.packetsPerSecond),
    counts.bytesPerSecond === 0 ? '-' : bitRate(counts.bytesPerSecond)
  ]
  const dropped = row('dropped', counts.dropped)
  return table(
    paint,
    [
      { title: '' },
      { title: 'PACKETS', right: true },
      { title: 'BYTES', right: true },
      { title: 'NOW', right: true },
      { title: '', right: true }
    ],
    [
      row('forwarded', counts.forwarded),
      row('left to kernel', counts.stack),
      counts.dropped.packetsPerSecond > 0 ? dropped.map(paint.bad) : dropped
    ],
    '  '
  )
}

function devices({ hooks }: Status, paint: Paint): string {
  if (hooks.length === 0) return section(paint, 'Devices', '  No pod device and no uplink was found.')
  const row = (hook: HookRow) => [
    hook.device,
    hook.role,
    hook.kind ?? 'physical',
    hook.programs.map(({ name, how }) => `${name} (${how})`).join(', ') || '-',
    hook.served ? paint.good('served') : paint.warn(`not served: ${hook.why ?? 'no reason given'}`)
  ]
  // what needs attention stands first
  const rows = [...hooks].sort((a, b) => Number(a.served) - Number(b.served)).map(row)
  return section(
    paint,
    'Devices',
    table(
      paint,
      ['DEVICE', 'ROLE', 'KIND', 'PROGRAMS', 'STATE'].map((title) => ({ title })),
      rows,
      '  '
    )
  )
}

function leftToKernel({ stack }: Status, paint: Paint): string {
  if (stack.length === 0) return ''
  const rows = stack.map(({ family, devices, destinations, why }) => {
    const from = devices === null ? (destinations === null ? ' everywhere' : ' from all pods') : ` from ${few(devices)}`
    return `  IPv${family}${from}${destinations === null ? '' : ` to ${few(destinations)}`}: ${why}`
  })
  return section(paint, 'Left to the kernel', rows.join('\n'))
}

function services({ translated: { rows, unbounded } }: Status, paint: Paint): string {
  const lines: string[] = []
  if (rows.length > 0) lines.push(`Services: ${rows.map(translatedWords).join('; ')}`)
  const text = 'Rules that translate without naming a destination; the fast path bypasses them'
  if (unbounded.length > 0)
    lines.push(
      section(
        paint,
        text,
        few(
          unbounded.map((rule) => `  ${paint.warn(rule)}`),
          10,
          '\n'
        )
      )
    )
  return lines.join('\n\n')
}

const kindWords: Record<TranslatedRow['kind'], string> = {
  nftables: 'nftables',
  'iptables-nft': 'iptables-nft',
  'iptables-legacy': 'iptables-legacy',
  ipvs: 'IPVS'
}

/** "43 addresses from kube-proxy, nftables" */
function translatedWords({ who, kind, addresses, prefixes }: TranslatedRow): string {
  const counts = [
    addresses > 0 || prefixes === 0 ? plural(addresses, 'address', 'addresses') : '',
    prefixes > 0 ? plural(prefixes, 'prefix', 'prefixes') : ''
  ]
  return `${counts.filter(Boolean).join(' and ')} from ${who}, ${kindWords[kind]}`
}

function few(names: readonly string[], most = 6, between = ', '): string {
  if (names.length <= most) return names.join(between)
  return `${names.slice(0, most).join(between)}${between === ', ' ? '' : between} and ${names.length - most} more`
}

/** Share of the flow table in use from which on it is told who has it. */
const tellPodsAt = 0.25

function maps({ counts }: Status, paint: Paint): string {
  const { snatPorts, mostFlows, flowLimit, movedFlows: _moved, masquerade: _masquerade, ...fills } = counts
  const names: Record<keyof typeof fills, string> = {
    pods: 'pods',
    devices: 'devices',
    routes4: 'routes IPv4',
    routes6: 'routes IPv6',
    classRoutes4: 'class routes IPv4',
    classRoutes6: 'class routes IPv6',
    nexthops: 'next hops',
    neighbours: 'neighbours',
    flows4: 'flows IPv4',
    flows6: 'flows IPv6'
  }
  const rows = Object.entries(fills)
    .filter(([key, fill]) => fill.used > 0 || !key.startsWith('class'))
    .map(([key, fill]) => [
      names[key as keyof typeof fills],
      count(fill.used),
      count(fill.capacity),
      percent(fill, paint)
    ])
  const body = table(
    paint,
    [{ title: '' }, { title: 'USED', right: true }, { title: 'OF', right: true }, { title: '', right: true }],
    rows,
    '  '
  )
  const most = [fills.flows4, fills.flows6].some(({ used, capacity }) => used >= capacity * tellPodsAt)
    ? `\n  Most flows: ${mostFlows.map(({ device, flows }) => `${device} ${count(flows)}`).join(', ')}`
    : ''
  const limit = flowLimit.problem === null ? '' : `\n  ${paint.warn(flowLimit.problem)}`
  return `${body}${limit}${most}\n  ${plural(snatPorts, 'SNAT port')} towards each remote`
}

function percent({ used, capacity }: Fill, paint: Paint): string {
  const share = capacity === 0 ? 0 : (100 * used) / capacity
  const text = share > 0 && share < 1 ? '<1 %' : `${Math.floor(share)} %`
  return share >= 90 ? paint.bad(text) : share >= 75 ? paint.warn(text) : text
}

function daemon(status: Status, paint: Paint, now: number): string {
  const { sync, lease, configuration } = status
  const trouble = [
    sync.overruns && plural(sync.overruns, 'overrun'),
    sync.interrupted && plural(sync.interrupted, 'interrupted dump'),
    sync.malformed && `${count(sync.malformed)} malformed`,
    sync.unknown && `${count(sync.unknown)} unknown`
  ].filter(Boolean)
  const state = sync.state === 'synced' ? paint.good('synced') : paint.warn(sync.state)
  const lastSync = sync.lastSync === null ? 'no dump yet' : `last dump ${since(sync.lastSync, now)}`
  const found = configuration.present ? configuration.path : `${configuration.path} (not there: defaults)`
  return facts(paint, [
    ['process', `pid ${status.pid}, up ${span(status.uptime)}`],
    ['kernel', `${status.kernel}, libbpf ${status.libbpf}, network namespace ${status.namespace}`],
    [
      'sync',
      `${state}, ${lastSync}, ${plural(sync.events, 'event')}, ${plural(sync.dumps, 'dump')}${trouble.length > 0 ? `; ${trouble.join(', ')}` : ''}`
    ],
    [
      'lease',
      lease.duration === null
        ? 'off: the programs go on without the daemon for ever'
        : `the programs go on for ${span(lease.duration)} without the daemon`
    ],
    ['guard', guardWords(status.guard, paint)],
    ...(status.detour === null ? [] : [['detour', detourWords(status.detour, paint)] satisfies [string, string]]),
    [
      'configuration',
      configuration.error === null
        ? found
        : `${found}\n${' '.repeat(17)}${paint.bad(configuration.error.replaceAll('\n', `\n${' '.repeat(17)}`))}`
    ]
  ])
}

function guardWords(guard: Status['guard'], paint: Paint): string {
  if (guard === null) return 'off: iptables writes are not monitored'
  const what =
    guard.mode === 'enforce' ? refusedWords(guard.refuses) : `iptables writes are let through (${guard.mode})`
  if (guard.backend === null) return paint.bad(guard.why ?? 'no backend refuses on this kernel')
  return `${what}, by ${guard.backend}; ${count(guard.refused)} so far; see: hostroute guard status`
}

function detourWords({ device, why, packets }: DetourStatus, paint: Paint): string {
  if (device === null) return paint.warn(`none: ${why ?? 'it is being opened'}`)
  const { cut, held, ignored: _ignored, ...drops } = packets
  const dropped = Object.values(drops).reduce((sum, each) => sum + each, 0)
  const lost = dropped === 0 ? '' : `, ${paint.warn(`${count(dropped)} dropped`)}`
  return `${device}, for what the programs cannot finish: ${count(cut)} cut into fragments, ${count(held)} held${lost}`
}

function problems({ problems: rows }: Status, paint: Paint, now: number): string {
  if (rows.length === 0) return ''
  const lines = rows.flatMap(({ affects, since: from, text, remedy, nextTry }) => [
    `  ${paint.warn(affects.padEnd(12))} ${text} (${since(from, now)})`,
    `${' '.repeat(15)}${remedy}${nextTry === null ? '' : `; next try in ${span(Math.max(0, Date.parse(nextTry) - now) / 1000)}`}`
  ])
  return section(paint, 'Problems', lines.join('\n'))
}

function errors({ errors: rows }: Status, paint: Paint, now: number): string {
  if (rows.length === 0) return ''
  return section(
    paint,
    'Last errors',
    rows.map(({ time, subsystem, text }) => `  ${since(time, now).padEnd(14)} ${subsystem}: ${text}`).join('\n')
  )
}
