// `hostroute explain`: the question on the command line, and the answer for people.

import type { CommandModule } from 'yargs'
import { formatAddress, parseAddress } from '../address.js'
import type { ExplainRequest, Explanation } from '../control/explain-api.js'
import { explainReason } from '../reasons.js'
import { exitStatus, type GlobalOptions, openSession, type Session, UsageError } from './session.js'
import { endpoint, facts, type Paint } from './text.js'

interface ExplainArguments extends GlobalOptions {
  from: string
  to: string
  proto: 'tcp' | 'udp' | 'icmp' | undefined
  sourcePort: number | undefined
  size: number | undefined
  ttl: number | undefined
  flags: string | undefined
  device: string | undefined
}

export const explainCommand: CommandModule<GlobalOptions, ExplainArguments> = {
  command: 'explain',
  describe: 'What becomes of a packet and why, stage by stage, from the programs themselves; nothing is sent',
  builder: (cli) =>
    cli
      .option('from', {
        type: 'string',
        requiresArg: true,
        demandOption: true,
        describe: "A pod's address or device, or an address outside; :PORT as with --to"
      })
      .option('to', {
        type: 'string',
        requiresArg: true,
        demandOption: true,
        describe: 'ADDRESS or ADDRESS:PORT ([ADDRESS]:PORT for IPv6)'
      })
      .option('proto', {
        choices: ['tcp', 'udp', 'icmp'] as const,
        requiresArg: true,
        describe: 'Absent: tcp with a port, an ICMP echo without'
      })
      .option('source-port', {
        type: 'number',
        requiresArg: true,
        describe: 'To ask about a known flow; ICMP: the identifier. Absent: a new one'
      })
      .option('size', { type: 'number', requiresArg: true, describe: 'Bytes of the IP packet' })
      .option('ttl', { type: 'number', requiresArg: true, describe: 'TTL or hop limit, 64 when absent' })
      .option('flags', {
        type: 'string',
        requiresArg: true,
        describe: 'TCP flags, letters of FSRPAU: S opens (default), A is in the middle'
      })
      .option('device', {
        type: 'string',
        requiresArg: true,
        describe: 'Where it comes in, e.g. an uplink; absent: found from --from'
      })
      .example('$0 explain --from 10.1.0.2 --to 203.0.113.7:443', 'a connection that a pod opens')
      .example('$0 explain --from 203.0.113.7:443 --to 192.0.2.10:24511 --flags SA', 'the answer to it') as never,
  handler: async (options) => {
    process.exitCode = await explain(openSession(options), requestOf(options))
  }
}

function requestOf(options: ExplainArguments): ExplainRequest {
  const from = placeOf(options.from, '--from')
  const to = placeOf(options.to, '--to')
  if (parseAddress(to.host) === null) throw new UsageError(`--to takes ADDRESS or ADDRESS:PORT, not ${options.to}`)
  const { proto: protocol, device } = options
  if (from.port !== undefined && options.sourcePort !== undefined && from.port !== options.sourcePort)
    throw new UsageError('--from and --source-port name different ports')
  const flags = options.flags?.toUpperCase()
  if (flags !== undefined && !/^[FSRPAU]{1,6}$/.test(flags))
    throw new UsageError(`--flags takes letters of FSRPAU, not ${options.flags}`)
  if (protocol === 'icmp' && to.port !== undefined)
    throw new UsageError('--proto icmp has no ports: --to takes an address only')
  if ((protocol === 'tcp' || protocol === 'udp') && to.port === undefined)
    throw new UsageError(`--proto ${protocol} needs a port: --to ${endpoint(to.host, 0).slice(0, -1)}PORT`)
  if (flags !== undefined && (protocol ?? (to.port === undefined ? 'icmp' : 'tcp')) !== 'tcp')
    throw new UsageError('--flags are for TCP')
  return {
    from: from.host,
    to: to.host,
    ...given('fromPort', from.port ?? wholeNumber(options.sourcePort, '--source-port', 0, 65_535)),
    ...given('toPort', to.port),
    ...given('protocol', protocol),
    ...given('device', device),
    ...given('size', wholeNumber(options.size, '--size', 28, 65_535)),
    ...given('ttl', wholeNumber(options.ttl, '--ttl', 0, 255)),
    ...given('flags', flags)
  }
}

function given<Key extends string, Value>(key: Key, value: Value | undefined): { [K in Key]?: Value } {
  return value === undefined ? {} : ({ [key]: value } as { [K in Key]?: Value })
}

function wholeNumber(value: number | undefined, option: string, least: number, most: number): number | undefined {
  if (value === undefined || (Number.isInteger(value) && value >= least && value <= most)) return value
  throw new UsageError(`${option} takes a whole number from ${least} to ${most}`)
}

/** "10.1.0.2:443", "[fd00::2]:443", "fd00::2", or the name of a device. */
function placeOf(text: string, option: string): { host: string; port: number | undefined } {
  const address = parseAddress(text)
  if (address !== null) return { host: formatAddress(address), port: undefined }
  const match = /^\[([^\]]*)\](?::(\d+))?$/.exec(text) ?? /^([^:]*)(?::(\d+))?$/.exec(text)
  const host = match?.[1] ?? ''
  const known = parseAddress(host)
  // digits and dots or colons alone are meant as an address
  if (!match || host === '' || (known === null && /^[\d.]+$|:/.test(host)))
    throw new UsageError(`${option}: ${text} is not an address, with or without a port`)
  const port = match[2] === undefined ? undefined : Number(match[2])
  if (port !== undefined && port > 65_535) throw new UsageError(`${option}: there is no port ${match[2]}`)
  return { host: known === null ? host : formatAddress(known), port }
}

async function explain(session: Session, request: ExplainRequest): Promise<number> {
  session.show(await session.client.get<Explanation>('/v1/explain', { ...request }), (value) =>
    renderExplanation(value, session.paint)
  )
  return exitStatus.fine
}

export function renderExplanation({ packet, in: where, ...answer }: Explanation, paint: Paint): string {
  const tone = { forwarded: paint.good, stack: paint.warn, drop: paint.bad }[answer.verdict]
  const kind =
    packet.protocol === 'icmp'
      ? `ICMP echo ${packet.echo}, id ${packet.sourcePort}`
      : `${packet.protocol}${packet.flags ? ` ${packet.flags}` : ''}`
  const ends =
    packet.destinationPort === null
      ? `${packet.source} → ${packet.destination}`
      : `${endpoint(packet.source, packet.sourcePort)} → ${endpoint(packet.destination, packet.destinationPort)}`
  const { remedy } = explainReason(answer.reason)
  // what is to be done about many packets is no advice about one
  const advice =
    answer.verdict === 'forwarded' || remedy === '' || remedy.startsWith('if many') ? [] : ['', `→ ${remedy}`]
  return [
    `${paint.bold(ends)}  ${kind}, ${packet.size} bytes, TTL ${packet.ttl}, in by ${where.device}`,
    ...(where.why === null ? [] : [paint.dim(where.why)]),
    tone(answer.summary),
    '',
    facts(
      paint,
      answer.stages.map(({ stage, found }) => [stage, found])
    ),
    ...advice
  ].join('\n')
}
