// Prometheus text (exposition format 0.0.4) from one snapshot. Pure: names,
// labels and order depend on the snapshot alone.

import type { Counts, DetourStatus, EventLoopDelay, Fill, Status } from './api.js'
import type { GuardStatus } from './guard-api.js'
import type { DropRow } from './packet-api.js'

export interface Snapshot {
  status: Status
  drops: DropRow[]
  /** null: nothing is guarded. */
  guard: GuardStatus | null
}

type Labels = Record<string, string | number>
type Sample = [labels: Labels, value: number]

export function renderMetrics({ status, drops, guard }: Snapshot): string {
  const { sync, counts } = status
  const fills = Object.entries(counts).filter((entry): entry is [keyof Counts, Fill] => typeof entry[1] === 'object')
  const flag = (value: boolean) => (value ? 1 : 0)
  return [
    family('hostroute_info', 'gauge', 'Version of hostroute and what it runs on.', [
      [{ version: status.version, kernel: status.kernel, libbpf: status.libbpf }, 1]
    ]),
    family('hostroute_uptime_seconds', 'gauge', 'Seconds since the daemon started.', [[{}, status.uptime]]),
    family(
      'hostroute_mode',
      'gauge',
      '1 for the mode the node is in.',
      ['enabled', 'degraded', 'disabled'].map((mode) => [{ mode }, flag(status.mode === mode)])
    ),
    family(
      'hostroute_problem',
      'gauge',
      '1 for each problem that is there now; affects is traffic, protection or observation.',
      status.problems.map(({ code, affects }) => [{ code, affects }, 1])
    ),
    family(
      'hostroute_packets_total',
      'counter',
      'Packets by incoming device and reason; class is forwarded, stack or drop.',
      drops.map((row) => [{ device: row.device, class: row.class, reason: row.reason }, row.packets])
    ),
    family(
      'hostroute_bytes_total',
      'counter',
      'Bytes by incoming device and reason; class is forwarded, stack or drop.',
      drops.map((row) => [{ device: row.device, class: row.class, reason: row.reason }, row.bytes])
    ),
    family(
      'hostroute_map_entries',
      'gauge',
      'Rows of a map in use.',
      fills.map(([map, fill]) => [{ map }, fill.used])
    ),
    family(
      'hostroute_map_capacity',
      'gauge',
      'Rows a map has room for.',
      fills.map(([map, fill]) => [{ map }, fill.capacity])
    ),
    family(
      'hostroute_pod_flows',
      'gauge',
      'Flows of the pods that have most.',
      counts.mostFlows.map(({ device, flows }) => [{ device }, flows])
    ),
    family(
      'hostroute_snat_moved_total',
      'counter',
      'Flows through SNAT decided again since their address or uplink was gone.',
      [[{}, counts.movedFlows]]
    ),
    family('hostroute_snat_ports', 'gauge', 'Source ports SNAT may take towards one remote.', [[{}, counts.snatPorts]]),
    family('hostroute_masquerade_prefixes', 'gauge', 'Prefixes in the masquerade policy.', [[{}, counts.masquerade]]),
    family(
      'hostroute_masquerade_refused',
      'gauge',
      '1: the policy that the files make is refused; the one before stays.',
      [[{}, flag(status.masquerade.refused !== null)]]
    ),
    family(
      'hostroute_masquerade_defaults_only',
      'gauge',
      '1: no file was found and the defaults apply, but an agent runs on the node.',
      [[{}, flag(status.masquerade.defaultsOnly !== null)]]
    ),
    family(
      'hostroute_masquerade_file_error',
      'gauge',
      '1: the file is not valid and its last good contents stay in force.',
      status.masquerade.files.map((file) => [{ path: file.path }, flag(file.error !== null)])
    ),
    family(
      'hostroute_device_served',
      'gauge',
      '1: programs are attached; 0: the device is left to the kernel.',
      status.hooks.map((row) => [{ device: row.device, role: row.role }, flag(row.served)])
    ),
    family(
      'hostroute_stack_only',
      'gauge',
      '1: this family is left to the kernel on the device (empty: everywhere).',
      uniqueByLabels(
        status.stack
          .filter((row) => row.destinations === null)
          .flatMap((row) => (row.devices ?? ['']).map((device): Sample => [{ family: row.family, device }, 1]))
      )
    ),
    family(
      'hostroute_translated_destinations',
      'gauge',
      "Destinations that the node's own rules translate; they use the stack.",
      status.translated.rows.map(({ who, kind, addresses, prefixes }) => [{ who, kind }, addresses + prefixes])
    ),
    family(
      'hostroute_unbounded_rules',
      'gauge',
      'Rules that translate without naming a destination: the fast path bypasses them.',
      [[{}, status.translated.unbounded.length]]
    ),
    family('hostroute_synced', 'gauge', '1: the tables follow rtnetlink.', [[{}, flag(sync.state === 'synced')]]),
    family('hostroute_sync_events_total', 'counter', 'rtnetlink events applied.', [[{}, sync.events]]),
    family('hostroute_sync_dumps_total', 'counter', 'Whole dumps of the kernel tables.', [[{}, sync.dumps]]),
    family('hostroute_sync_overruns_total', 'counter', 'Times the kernel lost events because the socket was full.', [
      [{}, sync.overruns]
    ]),
    family('hostroute_sync_interrupted_total', 'counter', 'Dumps repeated because the tables changed meanwhile.', [
      [{}, sync.interrupted]
    ]),
    family('hostroute_sync_malformed_total', 'counter', 'rtnetlink messages that could not be read.', [
      [{}, sync.malformed]
    ]),
    family('hostroute_sync_unknown_total', 'counter', 'rtnetlink messages of an unknown kind.', [[{}, sync.unknown]]),
    eventLoopFamily(status.eventLoop),
    family('hostroute_event_loop_longest_delay_seconds', 'gauge', 'Longest time that the event loop was held up.', [
      [{}, status.eventLoop.longest / 1000]
    ]),
    family('hostroute_lease_seconds', 'gauge', 'How long the programs go on without the daemon; 0: for ever.', [
      [{}, status.lease.duration ?? 0]
    ]),
    ...(status.detour ? detourFamilies(status.detour) : []),
    ...(guard ? guardFamilies(guard) : []),
    family(
      'hostroute_configuration_error',
      'gauge',
      '1: the configuration file is not valid; the last good one is in force.',
      [[{}, flag(status.configuration.error !== null)]]
    )
  ].join('')
}

function eventLoopFamily({ count, sum, quantiles }: EventLoopDelay): string {
  const name = 'hostroute_event_loop_delay_seconds'
  const lines = [
    ...quantiles.map(({ share, delay }) => `${name}{quantile="${share}"} ${numberText(delay / 1000)}`),
    `${name}_sum ${numberText(sum / 1000)}`,
    `${name}_count ${count}`
  ]
  return `# HELP ${name} How late the event loop came to a timer, since the daemon started.\n# TYPE ${name} summary\n${lines.join('\n')}\n`
}

function detourFamilies({ device, waiting, packets }: DetourStatus): string[] {
  return [
    family('hostroute_detour_open', 'gauge', '1: packets that the programs cannot finish are cut or held.', [
      [{}, device === null ? 0 : 1]
    ]),
    family('hostroute_detour_waiting', 'gauge', 'Packets that are held now.', [[{}, waiting]]),
    family(
      'hostroute_detour_packets_total',
      'counter',
      'Packets that the programs could not finish, by what became of them.',
      Object.entries(packets).map(([result, value]) => [{ result }, value])
    )
  ]
}

function guardFamilies({ mode, backend, counts }: GuardStatus): string[] {
  const { lost, removals, ...verdicts } = counts
  return [
    family('hostroute_guard_refuses', 'gauge', '1: iptables writes are refused on this node.', [
      [{}, mode === 'enforce' && backend !== null ? 1 : 0]
    ]),
    family(
      'hostroute_guard_attempts_total',
      'counter',
      'Attempts to write iptables or nf_tables rules; appeared: found in the kernel all the same.',
      Object.entries(verdicts).map(([verdict, value]) => [{ verdict }, value])
    ),
    family('hostroute_guard_removals_total', 'counter', 'Replacements of legacy tables that only removed.', [
      [{}, removals]
    ]),
    family('hostroute_guard_events_lost_total', 'counter', 'Attempts counted but not recorded.', [[{}, lost]])
  ]
}

/** HELP, TYPE and samples; nothing when there are no samples. */
function family(name: string, type: 'gauge' | 'counter', help: string, samples: Sample[]): string {
  if (samples.length === 0) return ''
  const lines = samples.map(([labels, value]) => `${name}${labelText(labels)} ${numberText(value)}`)
  return `# HELP ${name} ${help}\n# TYPE ${name} ${type}\n${lines.join('\n')}\n`
}

function labelText(labels: Labels): string {
  const pairs = Object.entries(labels).map(([label, value]) => `${label}="${escapeLabel(String(value))}"`)
  return pairs.length === 0 ? '' : `{${pairs.join(',')}}`
}

function escapeLabel(text: string): string {
  return text.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n')
}

function numberText(value: number): string {
  if (Number.isNaN(value)) return 'NaN'
  return Number.isFinite(value) ? String(value) : value > 0 ? '+Inf' : '-Inf'
}

/** A series may stand only once. */
function uniqueByLabels(samples: Sample[]): Sample[] {
  return [...new Map(samples.map((sample) => [labelText(sample[0]), sample])).values()]
}
