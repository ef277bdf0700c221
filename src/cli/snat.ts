// The grammar of `hostroute snat`.

import type { Argv } from 'yargs'
import { formatAddress, parseAddress } from '../address.js'
import { parseDuration } from '../config/duration.js'
import { fitsEveryFlow } from '../control/flow-api.js'
import { policy, policyTest } from './commands.js'
import { type DeleteOptions, deleteFlows, remoteOf, snat, top } from './flows.js'
import { type GlobalOptions, type Session, UsageError } from './session.js'

type Globals = Argv<GlobalOptions>
type Run = (action: (session: Session) => Promise<number>) => (options: GlobalOptions) => Promise<void>

const afterwards = `What becomes of a connection whose flow was deleted: its next packet is decided anew,
by the routes and the policy of now, like the first of a new flow. UDP gets the same port
outside again where it can, and goes on. A TCP connection through SNAT gets another one:
its remote resets it. Until the pod sends something, answers do not reach it. One that was
opened from outside may end, since the pod's next packet may be masqueraded.`

/** Adds the command to the grammar. `run` opens the session. */
export function snatCommand(cli: Globals, run: Run): void {
  cli.command(
    'snat',
    'Flows that are masqueraded, who uses most, or the policy',
    (y) => listOptions(subcommands(y as unknown as Globals, run)),
    (o) =>
      run((session) =>
        snat(session, {
          all: o.all,
          family: o.family,
          protocol: o.protocol?.toLowerCase(),
          pod: o.pod && addressOf(o.pod),
          remote: o.remote && addressOf(o.remote),
          limit: o.limit === undefined ? undefined : limitOf(o.limit)
        })
      )(o)
  )
}

/** Not of the subcommands: a filter that is taken and means nothing there would be worse than an error. */
function listOptions(cli: Globals) {
  return cli
    .option('all', { type: 'boolean', default: false, global: false, describe: 'Flows of all verdicts' })
    .option('family', {
      type: 'number',
      choices: [4, 6],
      requiresArg: true,
      global: false,
      describe: 'Only this IP version'
    })
    .option('protocol', { type: 'string', requiresArg: true, global: false, describe: 'tcp, udp, icmp, ...' })
    .option('pod', { type: 'string', requiresArg: true, global: false, describe: "A pod's address" })
    .option('remote', { type: 'string', requiresArg: true, global: false, describe: 'Address of the other side' })
    .option('limit', {
      type: 'string',
      requiresArg: true,
      global: false,
      describe: 'Most rows, the most recently used first; or all, as they come',
      defaultDescription: '1000, with --json all'
    })
}

function subcommands(cli: Globals, run: Run): Globals {
  return cli
    .command(
      'top',
      'Remotes nearest to their port limit; pods by flows and by new flows per second',
      (y) => y.option('count', { type: 'number', requiresArg: true, default: 10, describe: 'Rows of each list' }),
      (o) => run((session) => top(session, countOf(o.count)))(o)
    )
    .command(
      'delete',
      'Delete flows; all filters that are given have to fit',
      (y) => deleteOptions(y as unknown as Globals),
      (o) => run((session) => deleteFlows(session, deletionOf(o)))(o)
    )
    .command(
      'policy',
      'Which destinations are masqueraded, and which file says so',
      (y) =>
        y.command(
          'test <address>',
          'What the policy says about one address, and the entry that decides',
          (z) => z.positional('address', { type: 'string', demandOption: true, describe: 'IPv4 or IPv6 address' }),
          (o) => run((session) => policyTest(session, addressOf(o.address)))(o)
        ),
      (o) => run(policy)(o as unknown as GlobalOptions)
    ) as unknown as Globals
}

function deleteOptions(cli: Globals) {
  return cli
    .option('pod', { type: 'string', requiresArg: true, describe: "A pod's address, or its device" })
    .option('remote', {
      type: 'string',
      requiresArg: true,
      describe: 'ADDRESS or ADDRESS/LENGTH, and :PORT after either ([ADDRESS]:PORT for IPv6)'
    })
    .option('verdict', {
      choices: ['snat', 'direct', 'inbound', 'any'] as const,
      requiresArg: true,
      default: 'snat' as const,
      describe: "Masqueraded, sent out with the pod's address, opened from outside"
    })
    .option('older-than', { type: 'string', requiresArg: true, describe: 'Since the first packet, e.g. 10m' })
    .option('idle', { type: 'string', requiresArg: true, describe: 'Since the last packet, e.g. 1h' })
    .option('all', { type: 'boolean', default: false, describe: 'Every flow of the verdict' })
    .option('dry-run', { type: 'boolean', default: false, describe: 'Only count them' })
    .example('$0 snat delete --pod 10.1.0.2 --idle 10m', '')
    .example('$0 snat delete --remote 203.0.113.0/24:443 --dry-run', '')
    .epilogue(afterwards)
}

interface DeleteArguments {
  pod: string | undefined
  remote: string | undefined
  verdict: 'snat' | 'direct' | 'inbound' | 'any'
  olderThan: string | undefined
  idle: string | undefined
  all: boolean
  dryRun: boolean
}

function deletionOf({ pod, remote, verdict, olderThan, idle, all, dryRun }: DeleteArguments): DeleteOptions {
  const selection = {
    ...(pod === undefined ? {} : { pod: podOf(pod) }),
    ...(remote === undefined ? {} : remoteOf(remote)),
    ...(olderThan === undefined ? {} : { olderThan: secondsOf(olderThan, '--older-than') }),
    ...(idle === undefined ? {} : { idle: secondsOf(idle, '--idle') })
  }
  const filters = Object.keys(selection).length
  if (all && filters > 0) throw new UsageError('--all is for every flow: leave the filters out, or --all')
  if (!all && filters === 0) throw new UsageError('Which flows? --pod, --remote, --older-than, --idle, or --all')
  if (!all && fitsEveryFlow(selection))
    throw new UsageError('--older-than 0 and --idle 0 fit every flow: that is --all, or add --pod or --remote')
  return { ...selection, ...(verdict === 'any' ? {} : { verdict }), all, dryRun }
}

/** What is no address is a device. */
function podOf(text: string): string {
  const address = parseAddress(text)
  if (address !== null) return formatAddress(address)
  if (text.includes(':') || text === '') throw new UsageError(`--pod takes an address or a device, not ${text}`)
  return text
}

function addressOf(text: string): string {
  const address = parseAddress(text)
  if (address === null) throw new UsageError(`${text} is not an IPv4 or IPv6 address`)
  return formatAddress(address)
}

function secondsOf(text: string, option: string): number {
  const duration = parseDuration(text)
  if (duration === null || duration < 0 || duration > 365 * 86_400_000)
    throw new UsageError(`${option} takes a duration like 90s, 10m or 2h, not ${text}`)
  return duration / 1000
}

function limitOf(text: string): number | 'all' {
  if (text === 'all') return 'all'
  const limit = Number(text)
  if (!Number.isInteger(limit) || limit < 1 || limit > 100_000)
    throw new UsageError('--limit takes a whole number from 1 to 100000, or all')
  return limit
}

function countOf(count: number): number {
  if (!Number.isInteger(count) || count < 1 || count > 1000)
    throw new UsageError('--count takes a whole number from 1 to 1000')
  return count
}
