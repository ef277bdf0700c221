// Asks the daemon over its control socket. Every failure is a sentence that says
// what to do.

import { type IncomingMessage, request } from 'node:http'
import { dirname } from 'node:path'
import { lockHolder } from '../lock-holder.js'
import { type ErrorAnswer, eventsPath } from './api.js'
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
  get<T>(path: string, query?: Record<string, string | number | undefined>): Promise<Answer<T>>
  post<T>(path: string, body?: object): Promise<Answer<T>>
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

/** What changes the node, or reads all of the kernel's tables, may take a while. */
const patience = { short: 30_000, long: 120_000 }
const slowPaths = /^\/v1\/(verify|events)/

/** timeout: milliseconds without a byte from the daemon; absent: as the question deserves. */
export function controlClient(socketPath: string, timeout?: number): ControlClient {
  const patienceFor = (method: string, path: string) =>
    timeout ?? (method === 'POST' || slowPaths.test(path) ? patience.long : patience.short)
  const ask = async (method: string, path: string, body?: object) => {
    const response = await open(socketPath, method, path, body, patienceFor(method, path))
    if (response.statusCode !== 200) throw await refusal(response)
    return readAll(response)
  }
  const parsed = <T>(text: string): Answer<T> => ({ value: JSON.parse(text) as T, text })
  return {
    get: async (path, query = {}) => parsed(await ask('GET', path + queryText(query))),
    post: async (path, body = {}) => parsed(await ask('POST', path, body)),
    text: (path) => ask('GET', path),
    async *parts(path, query = {}) {
      const response = await open(socketPath, 'GET', path + queryText(query), undefined, patienceFor('GET', path))
      if (response.statusCode !== 200) throw await refusal(response)
      // whoever reads what we print may take all the time there is
      response.socket.setTimeout(0)
      response.setEncoding('utf8')
      try {
        for await (const part of response) yield part as string
      } catch (error) {
        throw brokenOff(error)
      }
    },
    events: async (onEvent, signal, all = false) => {
      const path = eventsPath + queryText(all ? { all: 'true' } : {})
      const response = await open(socketPath, 'GET', path, undefined, 0, signal)
      if (response.statusCode !== 200) throw await refusal(response)
      await readLines(response, onEvent, signal)
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
    const sent = request(
      { socketPath, method, path, headers, timeout, agent: false, ...(signal ? { signal } : {}) },
      resolve
    )
    sent.once('timeout', () =>
      sent.destroy(
        new ControlError(
          `hostrouted did not answer on ${socketPath} within ${timeout / 1000} s; look at: journalctl -u hostrouted`,
          'no-answer'
        )
      )
    )
    // a second error may follow the first, e.g. a reset after a refusal
    sent.on('error', (error: NodeJS.ErrnoException) => reject(explain(error, socketPath)))
    sent.end(payload)
  })
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
async function refusal(response: IncomingMessage): Promise<ControlError> {
  const text = await readAll(response)
  try {
    const { error, code } = JSON.parse(text) as Partial<ErrorAnswer>
    if (typeof error === 'string') return new ControlError(error, code ?? 'failed')
  } catch {
    // not from hostrouted, or cut off
  }
  return new ControlError(`hostrouted answered with status ${response.statusCode ?? 'unknown'}`, 'failed')
}

async function readAll(response: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = []
  try {
    for await (const chunk of response) chunks.push(chunk as Buffer)
  } catch (error) {
    throw brokenOff(error)
  }
  return Buffer.concat(chunks).toString('utf8')
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
  response: IncomingMessage,
  onEvent: (event: EventRow, line: string) => void,
  signal: AbortSignal
): Promise<void> {
  response.setEncoding('utf8')
  let rest = ''
  try {
    for await (const chunk of response) {
      const lines = (rest + String(chunk)).split('\n')
      rest = lines.pop() ?? ''
      for (const line of lines) if (line !== '') onEvent(JSON.parse(line) as EventRow, line)
    }
  } catch (error) {
    if (!signal.aborted) throw new ControlError('hostrouted has ended', 'broken-off', { cause: error })
  }
}

function queryText(query: Record<string, string | number | undefined>): string {
  const given = Object.entries(query).flatMap(([key, value]) =>
    value === undefined ? [] : [[key, String(value)] as [string, string]]
  )
  return given.length === 0 ? '' : `?${new URLSearchParams(given)}`
}
