// What others have hung on the devices that hostroute serves: BPF programs,
// filters, shapers. hostroute's programs stand at TC ingress and send packets
// on from there, so whatever stands behind them sees those packets no more:
// - at the same ingress: filters and programs of others;
// - on the way into a pod (bpf_redirect_peer): the root qdisc and the egress
//   programs of the pod's device. The uplink's are passed as ever.

import type { Config } from '../config/config.js'
import { isOurs, linkedPrograms } from '../linked-programs.js'
import { type Finding, finding, type Looked } from './report.js'
import type { Tools } from './tool.js'

export interface ForeignProgram {
  device: string
  where: 'ingress' | 'egress' | 'xdp' | 'netkit'
  /** 'tcx', 'clsact', ... */
  how: string
  /** The program's or the filter's name. */
  name: string
}

/** A device that hostroute serves. */
export interface ServedDevice {
  ifindex: number
  name: string
  role: 'pod' | 'uplink'
}

export interface Qdisc {
  device: string
  kind: string
  where: 'root' | 'clsact' | 'ingress' | 'other'
}

/** Root qdiscs that only queue. */
const plainQdiscs = new Set(['noqueue', 'noop', 'pfifo_fast', 'pfifo', 'bfifo', 'fq', 'fq_codel', 'mq', 'sfq', 'codel'])

export async function checkPrograms(
  tools: Tools,
  served: readonly ServedDevice[],
  config: Pick<Config, 'uplink'>
): Promise<Looked> {
  if (served.length === 0) return { findings: [], notLookedAt: [] }
  const looked: Looked = { findings: [], notLookedAt: [] }
  const programs: ForeignProgram[] = []
  const qdiscs = await readQdiscs(tools, looked)
  programs.push(...(await readFilters(tools, qdiscs, looked)))
  programs.push(...(await readXdp(tools, looked)))
  programs.push(...readLinked(served, looked))
  looked.findings.push(...judgePrograms(distinct(programs), qdiscs, served, config))
  return looked
}

async function readJson<Row>(tools: Tools, argv: string[], packageName: string, looked: Looked): Promise<Row[]> {
  const answer = await tools.run(argv)
  if (answer.kind === 'done') {
    try {
      return JSON.parse(answer.stdout.trim() || '[]') as Row[]
    } catch {}
  }
  const why =
    answer.kind === 'missing'
      ? `${argv[0]} is not installed`
      : answer.kind === 'failed'
        ? answer.why
        : `the output of ${argv.join(' ')} is not understood`
  looked.findings.push(
    finding('refuse', 'programs', 'programs-unread', 'Filters and programs on the devices cannot be read.', {
      why: `${why}; one that is not seen could be one that hostroute would bypass`,
      remedy: `Install the package ${packageName}.`
    })
  )
  return []
}

async function readQdiscs(tools: Tools, looked: Looked): Promise<Qdisc[]> {
  const rows = await readJson<{ kind: string; dev: string; root?: boolean }>(
    tools,
    ['tc', '-j', 'qdisc', 'show'],
    'iproute2',
    looked
  )
  return rows.map(({ kind, dev, root }) => ({
    kind,
    device: dev,
    where: kind === 'clsact' || kind === 'ingress' ? kind : root ? 'root' : 'other'
  }))
}

interface FilterRow {
  kind: string
  options?: { bpf_name?: string; prog?: { name?: string } }
}

async function readFilters(tools: Tools, qdiscs: readonly Qdisc[], looked: Looked): Promise<ForeignProgram[]> {
  const programs: ForeignProgram[] = []
  for (const { device, where: place } of qdiscs) {
    if (place !== 'clsact' && place !== 'ingress') continue
    for (const where of place === 'clsact' ? (['ingress', 'egress'] as const) : (['ingress'] as const)) {
      const rows = await readJson<FilterRow>(
        tools,
        ['tc', '-j', 'filter', 'show', 'dev', device, where],
        'iproute2',
        looked
      )
      for (const { kind, options } of rows) {
        if (!options) continue // a heading
        const name = options.bpf_name ?? options.prog?.name ?? kind
        programs.push({ device, where, how: place, name: kind === 'bpf' ? name.replace(/:\[\d+\]$/, '') : kind })
      }
    }
  }
  return programs
}

interface LinkRow {
  ifname: string
  xdp?: { prog?: { id: number; name?: string }; attached?: { prog?: { id: number; name?: string } }[] }
}

async function readXdp(tools: Tools, looked: Looked): Promise<ForeignProgram[]> {
  const rows = await readJson<LinkRow>(tools, ['ip', '-j', '-d', 'link', 'show'], 'iproute2', looked)
  return rows.flatMap(({ ifname, xdp }) => {
    const programs = [xdp?.prog, ...(xdp?.attached ?? []).map(({ prog }) => prog)].filter((prog) => prog !== undefined)
    return programs.map(
      ({ id, name }): ForeignProgram => ({ device: ifname, where: 'xdp', how: 'xdp', name: name ?? `program ${id}` })
    )
  })
}

function readLinked(served: readonly ServedDevice[], looked: Looked): ForeignProgram[] {
  try {
    return served.flatMap(({ ifindex, name: device }) =>
      linkedPrograms(ifindex).map(
        ({ how, where, name }): ForeignProgram => ({ device, how, name, where: how === 'netkit' ? 'netkit' : where })
      )
    )
  } catch (error) {
    looked.findings.push(
      finding('refuse', 'programs', 'programs-unread', 'Programs at TCX hooks of the devices cannot be read.', {
        why: `${(error as Error).message}; one that is not seen could be one that hostroute would bypass`,
        remedy: 'Run it as root, with CAP_BPF and CAP_NET_ADMIN.'
      })
    )
    return []
  }
}

function distinct(programs: readonly ForeignProgram[]): ForeignProgram[] {
  const seen = new Map<string, ForeignProgram>()
  for (const program of programs) seen.set(`${program.device} ${program.where} ${program.name}`, program)
  return [...seen.values()]
}

export function judgePrograms(
  programs: readonly ForeignProgram[],
  qdiscs: readonly Qdisc[],
  served: readonly ServedDevice[],
  config: Pick<Config, 'uplink'>
): Finding[] {
  const roles = new Map(served.map(({ name, role }) => [name, role]))
  const findings: Finding[] = []
  for (const program of programs) {
    const role = roles.get(program.device)
    if (role && !isOurs(program.name)) findings.push(judgeProgram(program, role, config))
  }
  for (const { device, kind, where } of qdiscs) {
    if (where === 'root' && roles.get(device) === 'pod' && !plainQdiscs.has(kind)) {
      findings.push(
        finding(
          'refuse',
          'programs',
          'qdisc-bypassed',
          `The queue ${kind} of pod device ${device} would be bypassed.`,
          {
            why: 'hostroute hands packets to pods past the queue of their host-side device, so what it shapes or delays would flow freely',
            remedy:
              'Take the bandwidth limit off the pod (annotation kubernetes.io/ingress-bandwidth), or leave the device out by pods.devices.'
          }
        )
      )
    }
  }
  if (findings.length === 0)
    findings.push(finding('pass', 'programs', 'programs-none', 'No conflicting tc or XDP programs or qdiscs.'))
  return findings
}

function judgeProgram(
  { device, where, how, name }: ForeignProgram,
  role: ServedDevice['role'],
  config: Pick<Config, 'uplink'>
): Finding {
  const subject = `${name} (${how}) on ${role === 'pod' ? 'pod device' : 'uplink'} ${device}`
  if (where === 'xdp') {
    const wanted = role === 'uplink' && config.uplink.xdp !== 'off'
    return finding(
      wanted ? 'refuse' : 'info',
      'programs',
      'program-xdp',
      `The XDP program ${subject} belongs to somebody else.`,
      {
        why: wanted
          ? 'a device has room for one XDP program, and uplink.xdp asks for it'
          : 'it runs before hostroute and sees all packets',
        ...(wanted ? { remedy: 'Set uplink.xdp: off in config.yaml, or detach the program.' } : {})
      }
    )
  }
  if (where === 'egress' && role === 'uplink') {
    return finding('info', 'programs', 'program-egress', `The egress program ${subject} belongs to somebody else.`, {
      why: 'packets of the fast path still pass it'
    })
  }
  const cilium = name.startsWith('cil_')
  return finding(
    'refuse',
    'programs',
    `program-${where}`,
    `The ${where} program ${subject} would not see packets that hostroute takes, or take them from it.`,
    {
      why: cilium
        ? 'it is Cilium, another datapath for the same packets'
        : where === 'egress'
          ? 'hostroute hands packets to pods past the egress of their host-side device'
          : 'both stand at the same hook',
      remedy: cilium
        ? 'Run either Cilium or hostroute on this node.'
        : `Detach it (tc filter del dev ${device} ${where}, or whoever made it), or leave the device out by ${role === 'pod' ? 'pods' : 'uplink'}.devices.`
    }
  )
}
