// `hostroute snat` and what it does with flows: list them as they come, delete
// some, say who uses most.

import { parseAddress, parsePrefix } from '../address.js'
import { notUnderstood, understood } from '../control/client.js'
import type { FlowDeletion, FlowRow, FlowSelection, FlowTop, FlowVerdict } from '../control/flow-api.js'
import { fromPins, pinned } from './left.js'
import { flowTable, renderDeletion, renderTop } from './render-flows.js'
import { more } from './render-lists.js'
import { exitStatus, type Session, UsageError } from './session.js'

export interface FlowOptions {
  all: boolean
  family?: number | undefined
  verdict?: FlowVerdict | undefined
  protocol?: string | undefined
  pod?: string | undefined
  remote?: string | undefined
  limit?: number | 'all' | undefined
}

/** So many rows decide about the first widths of the columns. */
const rowsAtOnce = 1000

/** With --json all of them unless there is a limit: nobody counts rows there. */
export async function snat(session: Session, { all, limit, ...filter }: FlowOptions): Promise<number> {
  const verdict = filter.verdict ?? (all ? undefined : 'snat')
  const query = { ...filter, verdict, limit: limit ?? (session.json ? 'all' : undefined) }
  const show = async (parts: AsyncIterable<string>) => {
    if (session.json) for await (const part of parts) await session.write(part)
    else await writeTable(session, parts)
  }
  let begun = false
  try {
    await show(
      noting(session.client.parts('/v1/flows', query), () => {
        begun = true
      })
    )
    return exitStatus.fine
  } catch (error) {
    // a part of another list has been printed
    if (begun) throw error
    await show(fromPins(session, error, '/v1/flows', query))
    return exitStatus.refused
  }
}

async function* noting(parts: AsyncIterable<string>, onPart: () => void): AsyncGenerator<string> {
  for await (const part of parts) {
    onPart()
    yield part
  }
}

async function writeTable(session: Session, parts: AsyncIterable<string>): Promise<void> {
  const table = flowTable(session.paint)
  let rows: FlowRow[] = []
  let shown = 0
  let total: number | null = null
  const write = async () => {
    if (rows.length === 0) return
    shown += rows.length
    await session.write(`${understood(() => table.write(rows))}\n`)
    rows = []
  }
  for await (const line of linesOf(parts)) {
    const text = line.endsWith(',') ? line.slice(0, -1) : line
    if (text.startsWith('{') && text.endsWith('}')) rows.push(understood(() => JSON.parse(text) as FlowRow))
    else if (text.startsWith(']'))
      total = understood(() => (JSON.parse(`{${text.slice(2)}`) as { total: number }).total)
    if (rows.length >= rowsAtOnce) await write()
  }
  await write()
  if (typeof total !== 'number') throw notUnderstood('its list has no end')
  if (shown === 0) session.print('No flow matches.')
  else if (total > shown) session.print(more(shown, total, session.paint).slice(1))
}

async function* linesOf(parts: AsyncIterable<string>): AsyncGenerator<string> {
  let rest = ''
  for await (const part of parts) {
    const lines = (rest + part).split('\n')
    rest = lines.pop() ?? ''
    yield* lines
  }
  if (rest !== '') yield rest
}

export async function top(session: Session, count: number): Promise<number> {
  const render = (value: FlowTop) => renderTop(value, session.paint)
  try {
    session.show(await session.client.get<FlowTop>('/v1/flows/top', { count }), render)
    return exitStatus.fine
  } catch (error) {
    session.show(await pinned<FlowTop>(fromPins(session, error, '/v1/flows/top', { count })), render)
    return exitStatus.refused
  }
}

export interface DeleteOptions extends FlowSelection {
  all: boolean
  dryRun: boolean
}

export async function deleteFlows(session: Session, options: DeleteOptions): Promise<number> {
  session.show(await session.client.post<FlowDeletion>('/v1/flows/delete', options), (value) =>
    renderDeletion(value, options.dryRun)
  )
  return exitStatus.fine
}

/** "203.0.113.7", "203.0.113.0/24:443", "[2001:db8::1]:443", "[2001:db8::]/32:443". */
export function remoteOf(text: string): { remote: string; remotePort?: number } {
  const bracketed = /^\[([^\]]+)\](\/\d+)?(?::(\d+))?$/.exec(text)
  const plain = /^([^:]+)(?::(\d+))?$/.exec(text)
  const prefix = bracketed ? (bracketed[1] ?? '') + (bracketed[2] ?? '') : (plain?.[1] ?? text)
  const digits = bracketed?.[3] ?? plain?.[2]
  const address = parseAddress(prefix)
  if (address === null && parsePrefix(prefix) === null)
    throw new UsageError(`--remote takes ADDRESS, ADDRESS/LENGTH, and :PORT after either, not ${text}`)
  const remote = address === null ? prefix : `${prefix}/${address.length * 4}`
  if (digits === undefined) return { remote }
  const remotePort = Number(digits)
  if (remotePort > 65_535) throw new UsageError(`--remote: there is no port ${digits}`)
  return { remote, remotePort }
}
