// What each command does: ask the daemon, print, say the exit status.

import type { CheckReport } from '../check/report.js'
import type {
  EnableResult,
  MasqueradeAnswer,
  MasqueradeStatus,
  NeighbourRow,
  NexthopRow,
  PodRow,
  ReloadResult,
  RouteAnswer,
  RouteList,
  Status,
  VerifyReport
} from '../control/api.js'
import { metricsPath } from '../control/api.js'
import { type Answer, ControlError, notUnderstood, understood } from '../control/client.js'
import { handedBackLines } from '../control/handed-back.js'
import type { DropRow, EventRow } from '../control/packet-api.js'
import type { PinnedDisabled, PinnedPodRow } from '../control/pinned-api.js'
import { packageVersion } from '../version.js'
import { disableByPins, fromPins, isUnanswered, leftAtWork, pinned, said } from './left.js'
import { renderCheck } from './render-check.js'
import { renderDrops, renderEvent } from './render-drops.js'
import {
  renderNeighbours,
  renderNexthops,
  renderPinnedPods,
  renderPods,
  renderRouteAnswer,
  renderRoutes,
  renderVerify
} from './render-lists.js'
import { renderPolicy, renderPolicyTest } from './render-masquerade.js'
import { renderStatus } from './render-status.js'
import { exitStatus, type Session } from './session.js'
import { span } from './text.js'

type Exit = number

export async function status(session: Session): Promise<Exit> {
  const answer = await session.client.get<Status>('/v1/status').catch(async (error: unknown) => {
    throw isUnanswered(error) ? said(error, (await leftAtWork(session.socket)) ?? '') : error
  })
  session.show(answer, (value) => renderStatus(value, session.paint, Date.now()))
  return answer.value.mode === 'enabled' ? exitStatus.fine : exitStatus.refused
}

export async function pods(session: Session): Promise<Exit> {
  try {
    session.show(await session.client.get<PodRow[]>('/v1/pods'), (value) => renderPods(value, session.paint))
    return exitStatus.fine
  } catch (error) {
    const answer = await pinned<PinnedPodRow[]>(fromPins(session, error, '/v1/pods'))
    session.show(answer, (value) => renderPinnedPods(value, session.paint))
    return exitStatus.refused
  }
}

export interface RouteOptions {
  family?: number | undefined
  within?: string | undefined
  device?: string | undefined
  limit?: number | undefined
}

export async function routes(session: Session, filter: RouteOptions): Promise<Exit> {
  const answer = await session.client.get<RouteList>('/v1/routes', { ...filter })
  if (answer.value.total === 0) await mustServe(session, filter.device)
  session.show(answer, (value) => renderRoutes(value, session.paint))
  return exitStatus.fine
}

export async function routeGet(session: Session, address: string, from: string | undefined): Promise<Exit> {
  session.show(await session.client.get<RouteAnswer>('/v1/routes/get', { address, from }), (value) =>
    renderRouteAnswer(value, session.paint)
  )
  return exitStatus.fine
}

export async function nexthops(session: Session): Promise<Exit> {
  session.show(await session.client.get<NexthopRow[]>('/v1/nexthops'), (value) => renderNexthops(value, session.paint))
  return exitStatus.fine
}

export async function neighbours(session: Session): Promise<Exit> {
  session.show(await session.client.get<NeighbourRow[]>('/v1/neighbours'), (value) =>
    renderNeighbours(value, session.paint)
  )
  return exitStatus.fine
}

export async function policy(session: Session): Promise<Exit> {
  session.show(await session.client.get<MasqueradeStatus>('/v1/masquerade'), (value) =>
    renderPolicy(value, session.paint)
  )
  return exitStatus.fine
}

export async function policyTest(session: Session, address: string): Promise<Exit> {
  session.show(await session.client.get<MasqueradeAnswer>('/v1/masquerade/test', { address }), (value) =>
    renderPolicyTest(value, session.paint)
  )
  return exitStatus.fine
}

export async function drops(session: Session, device: string | undefined): Promise<Exit> {
  const answer = await session.client.get<DropRow[]>('/v1/drops')
  const rows = understood(() => answer.value.filter((row) => device === undefined || row.device === device))
  if (rows.length === 0) await mustServe(session, device)
  session.show(answer, () => renderDrops(rows, session.paint))
  return exitStatus.fine
}

/** Of a device that nobody knows nothing is told, which would pass for: nothing has happened. */
async function mustServe({ client }: Session, device: string | undefined): Promise<void> {
  if (device === undefined) return
  const { value } = await client.get<Status>('/v1/status')
  if (understood(() => value.hooks.some((hook) => hook.device === device))) return
  throw new ControlError(
    `there is no device ${device} that hostroute serves: hostroute status lists them`,
    'bad-request'
  )
}

/** Runs a command again every two seconds on a cleared screen, until Ctrl-C. */
export async function watched(run: () => Promise<Exit>): Promise<Exit> {
  const signal = interrupted()
  while (!signal.aborted) {
    process.stdout.write('\x1b[H\x1b[2J')
    await run()
    await sleep(2000, signal)
  }
  return exitStatus.fine
}

export interface MonitorOptions {
  /** Also what the hot path forwards. */
  all: boolean
  drops: boolean
  address?: string | undefined
  device?: string | undefined
}

export async function monitor(session: Session, options: MonitorOptions): Promise<Exit> {
  const signal = interrupted()
  if (options.all)
    process.stderr.write('All packets are told: the hot path is off, and each costs more, until this ends.\n')
  try {
    await session.client.events(
      (event, line) => {
        if (matches(event, options)) session.print(session.json ? line : renderEvent(event, session.paint))
      },
      signal,
      options.all
    )
  } catch (error) {
    if (!signal.aborted) throw error
  }
  if (signal.aborted) return exitStatus.fine
  throw new ControlError('hostrouted has ended', 'broken-off')
}

function matches(event: EventRow, { drops: dropsOnly, address, device }: MonitorOptions): boolean {
  if (dropsOnly && !(event.type === 'packet' && event.class === 'drop')) return false
  if (address !== undefined && event.source !== address && event.destination !== address) return false
  return device === undefined || event.in === device || event.out === device
}

/** confirmWithin: seconds. */
export async function enable(session: Session, confirmWithin: number | undefined): Promise<Exit> {
  return changed(session, '/v1/enable', confirmWithin === undefined ? {} : { confirmWithin }, (result) =>
    result.confirmBefore === null
      ? 'hostroute is enabled.'
      : `hostroute is enabled. Unless confirmed within ${span(Math.max(0, (Date.parse(result.confirmBefore) - Date.now()) / 1000))} it is undone: hostroute confirm`
  )
}

export async function confirm(session: Session): Promise<Exit> {
  return changed(session, '/v1/confirm', {}, () => 'Confirmed: hostroute stays enabled.')
}

export async function disable(session: Session, force: boolean): Promise<Exit> {
  const words = ({ handedBack }: EnableResult) => {
    const lines = ["hostroute is disabled: all packets take the kernel's own way."]
    if (handedBack) lines.push(...handedBackLines(handedBack))
    return lines.join('\n')
  }
  try {
    return await changed(session, '/v1/disable', force ? { force } : {}, words)
  } catch (error) {
    const text = await disableByPins(session, error, force)
    const value = JSON.parse(text) as PinnedDisabled
    if (!session.json) session.print(session.paint.warn((error as Error).message))
    if (value.done && !value.staysDisabled) {
      const why = session.paint.bad(value.why ?? '')
      session.show({ value, text }, (result) => `${why}\nIt was done without the daemon.\n${words(result)}`)
      return exitStatus.refused
    }
    if (!session.json && value.done)
      session.print('It was done without the daemon, which stays disabled when it starts.')
    return showChange(session, { value, text }, words)
  }
}

async function changed(
  session: Session,
  path: string,
  body: object,
  words: (result: EnableResult) => string
): Promise<Exit> {
  return showChange(session, await session.client.post<EnableResult>(path, body), words)
}

function showChange(session: Session, answer: Answer<EnableResult>, words: (result: EnableResult) => string): Exit {
  const { done, why } = answer.value
  if (typeof done !== 'boolean') throw notUnderstood('it does not say whether it was done')
  session.show(answer, (result) => {
    if (done) return session.paint.good(words(result)) + (why === null ? '' : `\n${session.paint.warn(why)}`)
    const refused = session.paint.bad(`Refused: ${why ?? 'no reason was given'}`)
    if (result.report === null) return refused
    const width = Math.min(process.stdout.columns ?? 120, 120)
    return `${refused}\n\n${renderCheck(result.report as CheckReport, session.paint, { all: false, width })}`
  })
  return done ? exitStatus.fine : exitStatus.refused
}

export async function verify(session: Session, repair: boolean): Promise<Exit> {
  const { client } = session
  const answer = repair
    ? await client.post<VerifyReport>('/v1/verify', { repair })
    : await client.get<VerifyReport>('/v1/verify')
  session.show(answer, (value) => renderVerify(value, session.paint))
  return answer.value.ok ? exitStatus.fine : exitStatus.refused
}

export async function metrics(session: Session): Promise<Exit> {
  session.print(await session.client.text(metricsPath))
  return exitStatus.fine
}

export async function reload(session: Session): Promise<Exit> {
  const answer = await session.client.post<ReloadResult>('/v1/reload')
  session.show(answer, ({ ok, problems, restartNeeded }) => {
    if (!ok)
      return `${session.paint.bad('Refused, the last good configuration stays in force:')}\n${problems.join('\n')}`
    const restart =
      restartNeeded.length === 0
        ? ''
        : `\n${session.paint.warn(`Takes effect only after systemctl restart hostrouted: ${restartNeeded.join(', ')}`)}`
    const notInForce = problems.map((text) => `\n${session.paint.warn(text)}`).join('')
    return `${session.paint.good('The configuration was read again and is in force.')}${notInForce}${restart}`
  })
  return answer.value.ok ? exitStatus.fine : exitStatus.refused
}

/** The command's version, and the daemon's when it answers. */
export async function version(session: Session): Promise<Exit> {
  const daemon = await session.client.get<Status>('/v1/status').then(
    ({ value }) => value.version,
    () => null
  )
  const command = packageVersion()
  if (session.json) session.print(JSON.stringify({ command, daemon }))
  else session.print(`hostroute ${command}, ${daemon === null ? 'hostrouted does not answer' : `hostrouted ${daemon}`}`)
  return exitStatus.fine
}

/** Aborted by Ctrl-C, SIGTERM, or when nobody reads our output any more. */
function interrupted(): AbortSignal {
  const controller = new AbortController()
  const stop = () => controller.abort()
  process.once('SIGINT', stop)
  process.once('SIGTERM', stop)
  process.stdout.once('close', stop)
  return controller.signal
}

function sleep(duration: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, duration)
    signal.addEventListener('abort', () => {
      clearTimeout(timer)
      resolve()
    })
  })
}
