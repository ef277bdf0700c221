// Asks the daemon over its control socket. Every failure is a sentence that says
// what to do.

import { type IncomingMessage, request } from 'node:http'
import { dirname } from 'node:path'
import { lockHolder } from '../lock-holder.js'
import { beatHeader, type ErrorAnswer, eventsPath } from './api.js'
import type { FailureCode, UnansweredCode } from './failure.js'
import type { EventRow } from './packet-api.js'

export const defaultSocket = '/run/hostroute/control.sock'

/** The daemon cannot be asked, or says no. */
export class ControlError extends Error {
  override name = 'ControlError'
  constructor(
    text: string,
    readonly code: FailureCode | UnansweredCode,
    options?: ErrorOptions
  ) {
    super(text, options)
  }
}

export interface ControlClient {
  /** The answer and its very text. Throws ControlError. */
  get<T extends object>(path: string, query?: Record<string, string | number | undefined>): Promise<Answer<T>>
  post<T extends object>(path: string, body?: object): Promise<Answer<T>>
  /** The text of a long answer as it comes; what is not taken yet is not sent either. Throws ControlError. */
  parts(path: string, query?: Record<string, string | number | undefined>): AsyncGenerator<string>
  /** Text that is not JSON. */
  text(path: string): Promise<string>
  /** Resolves when the daemon ends the stream or the signal says so. all: NodeControl.events(). */
  events(onEvent: (event: EventRow, line: string) => void, signal: AbortSignal, all?: boolean): Promise<void>
}

export interface Answer<T> {
  value: T
  text: string
}

/** An answer as JSON. Throws ControlError where it is none. */
export function parsed<T extends object>(text: string): Answer<T> {
  const value = understood(() => JSON.parse(text) as T | null)
  if (typeof value !== 'object' || value === null) throw notUnderstood('it is no object')
  return { value, text }
}

/** What is made of an answer. Throws ControlError where that fails: it is not what was expected. */
export function understood<T>(action: () => T): T {
  try {
    return action()
  } catch (error) {
    throw error instanceof ControlError ? error : notUnderstood((error as Error).message, error)
  }
}

export function notUnderstood(why: string, cause?: unknown): ControlError {
  const text = `the daemon's answer cannot be read (${why.replace(/\s+/g, ' ')}): is it of another version? See: hostroute version`
  return new ControlError(text, 'failed', { cause })
}

/** What changes the node, or reads all of the kernel's tables, may take a while. */
const patience = { short: 30_000, long: 120_000 }
const slowPaths = /^\/v1\/verify/
/** Signs of life that may be missing. */
const missedBeats = 3

/** timeout: milliseconds without a byte from the daemon while it is waited for; absent: as the question deserves. */
export function controlClient(socketPath: string, timeout?: number): ControlClient {
  const patienceFor = (method: string, path: string) =>
    timeout ?? (method === 'POST' || slowPaths.test(path) ? patience.long : patience.short)
  const begin = async (method: string, path: string, body?: object) => {
    const limit = patienceFor(method, path)
    const response = await open(socketPath, method, path, body, limit)
    const parts = partsOf(response, limit, socketPath)
    if (response.statusCode !== 200) throw await refusal(response.statusCode, parts)
    return parts
  }
  const ask = async (method: string, path: string, body?: object) => readAll(await begin(method, path, body))
  return {
    get: async (path, query = {}) => parsed(await ask('GET', path + queryText(query))),
    post: async (path, body = {}) => parsed(await ask('POST', path, body)),
    text: (path) => ask('GET', path),
    async *parts(path, query = {}) {
      yield* await begin('GET', path + queryText(query))
    },
    events: async (onEvent, signal, all = false) => {
      const path = eventsPath + queryText(all ? { all: 'true' } : {})
      const limit = patienceFor('GET', path)
      const response = await open(socketPath, 'GET', path, undefined, limit, signal)
      if (response.statusCode !== 200) throw await refusal(response.statusCode, partsOf(response, limit, socketPath))
      const beat = Number(response.headers[beatHeader] ?? 0)
      // a daemon of an earlier version gives none
      const silence = beat > 0 ? missedBeats * beat : null
      await readLines(partsOf(response, silence, socketPath), onEvent, signal)
    }
  }
}

function open(
  socketPath: string,
  method: string,
  path: string,
  body: object | undefined,
  timeout: number,
  signal?: AbortSignal
): Promise<IncomingMessage> {
  const payload = body === undefined ? undefined : JSON.stringify(body)
  const headers =
    payload === undefined ? {} : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(payload) }
  return new Promise((resolve, reject) => {
    const late = setTimeout(() => sent.destroy(noAnswer(socketPath, timeout)), timeout)
    const sent = request(
      { socketPath, method, path, headers, agent: false, ...(signal ? { signal } : {}) },
      (response) => {
        clearTimeout(late)
        resolve(response)
      }
    )
    // a second error may follow the first, e.g. a reset after a refusal
    sent.on('error', (error: NodeJS.ErrnoException) => {
      clearTimeout(late)
      reject(explain(error, socketPath))
    })
    sent.end(payload)
  })
}

function noAnswer(socketPath: string, timeout: number): ControlError {
  return new ControlError(
    `hostrouted did not answer on ${socketPath} within ${timeout / 1000} s; look at: journalctl -u hostrouted`,
    'no-answer'
  )
}

/** The text of an answer as it comes. Whoever takes it may take all the time there is, the daemon `timeout`; null: it, too. */
async function* partsOf(response: IncomingMessage, timeout: number | null, socketPath: string): AsyncGenerator<string> {
  response.setEncoding('utf8')
  const parts = response[Symbol.asyncIterator]() as AsyncIterator<string>
  try {
    for (;;) {
      const part = parts.next()
      const limited = timeout === null ? part : within(part, timeout, () => noAnswer(socketPath, timeout))
      const { done, value } = await limited
      if (done) return
      yield value
    }
  } catch (error) {
    throw error instanceof ControlError ? error : brokenOff(error)
  } finally {
    response.destroy()
  }
}

/** Rejects with `late` when it takes longer; what becomes of it then is nobody's concern. */
export async function within<T>(action: Promise<T>, milliseconds: number, late: () => Error): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const limit = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(late()), milliseconds)
  })
  action.catch(() => {})
  try {
    return await Promise.race([action, limit])
  } finally {
    clearTimeout(timer)
  }
}

function explain(error: NodeJS.ErrnoException, socketPath: string): Error {
  if (error instanceof ControlError || error.name === 'AbortError') return error
  const cause = { cause: error }
  const notRunning = (why: string) => {
    const holder = lockHolder(dirname(socketPath))
    if (holder !== null)
      return new ControlError(
        `hostrouted runs (process ${holder}), but ${why} ${socketPath}: it listens there again within seconds; if it does not, look at: journalctl -u hostrouted`,
        'no-answer',
        cause
      )
    return new ControlError(
      `hostrouted is not running: ${why} ${socketPath}. Start it with: systemctl start hostrouted`,
      'not-running',
      cause
    )
  }
  switch (error.code) {
    case 'ENOENT':
    case 'ENOTDIR':
      return notRunning('there is no socket')
    case 'ECONNREFUSED':
      return notRunning('nobody answers on')
    case 'EACCES':
    case 'EPERM':
      return new ControlError(
        `permission denied on ${socketPath}: use sudo, or join the group hostroute (usermod -aG hostroute $USER) and log in again`,
        'no-access',
        cause
      )
    default:
      return new ControlError(`hostrouted on ${socketPath}: ${error.message}`, 'no-answer', cause)
  }
}

/** Of an answer that is not 200. */
async function refusal(status: number | undefined, parts: AsyncIterable<string>): Promise<ControlError> {
  const text = await readAll(parts)
  try {
    const { error, code } = JSON.parse(text) as Partial<ErrorAnswer>
    if (typeof error === 'string') return new ControlError(error, code ?? 'failed')
  } catch {
    // not from hostrouted, or cut off
  }
  return new ControlError(`hostrouted answered with status ${status ?? 'unknown'}`, 'failed')
}

async function readAll(parts: AsyncIterable<string>): Promise<string> {
  const texts: string[] = []
  for await (const text of parts) texts.push(text)
  return texts.join('')
}

function brokenOff(cause: unknown): ControlError {
  return new ControlError(
    'hostrouted ended in the middle of its answer; look at: journalctl -u hostrouted',
    'broken-off',
    {
      cause
    }
  )
}

async function readLines(
  parts: AsyncIterable<string>,
  onEvent: (event: EventRow, line: string) => void,
  signal: AbortSignal
): Promise<void> {
  let rest = ''
  try {
    for await (const part of parts) {
      const lines = (rest + part).split('\n')
      rest = lines.pop() ?? ''
      for (const line of lines) if (line !== '') understood(() => onEvent(JSON.parse(line) as EventRow, line))
    }
  } catch (error) {
    if (signal.aborted) return
    if (error instanceof ControlError && error.code !== 'broken-off') throw error
    throw new ControlError('hostrouted has ended', 'broken-off', { cause: error })
  }
}

/** "?a=1", or nothing. */
export function queryText(query: Record<string, string | number | undefined>): string {
  const given = Object.entries(query).flatMap(([key, value]) =>
    value === undefined ? [] : [[key, String(value)] as [string, string]]
  )
  return given.length === 0 ? '' : `?${new URLSearchParams(given)}`
}
