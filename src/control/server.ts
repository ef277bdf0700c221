// The control socket: HTTP with JSON on a unix socket.
//
// Invariants
// - Reading is open to whoever may open the socket; changing (POST) needs uid 0,
//   known from the socket itself (SO_PEERCRED), never from what the caller says.
// - Nothing a caller sends or leaves unsent hurts the daemon: sizes, times and
//   numbers are bounded, every failure becomes an answer or a closed connection.
// - A reader that is too slow for the events loses events and is told how many.

import { createServer, type IncomingMessage, type Server, type ServerResponse, STATUS_CODES } from 'node:http'
import type { Socket } from 'node:net'
import { native } from '../native.js'
import { type ErrorAnswer, eventsPath, metricsPath, type NodeControl } from './api.js'
import { Failure, type FailureCode, failureStatus } from './failure.js'
import type { Caller } from './flow-api.js'
import type { EventRow } from './packet-api.js'
import { endpoints } from './requests.js'
import { RowStream, sendRows } from './row-stream.js'
import { listenOnSocket } from './socket.js'

export interface ControlServerOptions {
  path: string
  control: NodeControl
  /** Group that may read; absent: 'hostroute'. */
  group?: string
  /** A request failed inside the daemon. */
  onError?(text: string, error: unknown): void
}

export interface ControlServer {
  /** Ends the streams, finishes what is being answered, removes the socket. */
  close(): Promise<void>
}

const largestBody = 64 * 1024
const mostMonitors = 16
const mostStreams = 16
const mostBuffered = 1024 * 1024

/** Listens; rejects when another daemon answers there. */
export async function startControlServer(options: ControlServerOptions): Promise<ControlServer> {
  const server = createServer({
    maxHeaderSize: 8 * 1024,
    headersTimeout: 5000,
    requestTimeout: 10_000,
    keepAliveTimeout: 5000,
    connectionsCheckingInterval: 1000
  })
  server.maxConnections = 512
  const monitors = new Set<ServerResponse>()
  const streams = new Set<ServerResponse>()
  server.on('request', (request, response) => {
    void handle(request, response, options, monitors, streams)
  })
  server.on('clientError', (error: NodeJS.ErrnoException, socket) => refuseGarbage(error, socket as Socket))
  // whatever goes wrong with one connection is the end of that connection only
  server.on('connection', (socket) => socket.on('error', () => socket.destroy()))
  await listenOnSocket(server, options.path, native().groupId(options.group ?? 'hostroute'))
  server.on('error', (error) => options.onError?.('control socket', error))
  return { close: () => closeServer(server, monitors) }
}

async function handle(
  request: IncomingMessage,
  response: ServerResponse,
  options: ControlServerOptions,
  monitors: Set<ServerResponse>,
  streams: Set<ServerResponse>
): Promise<void> {
  const fail = (code: FailureCode, error: string, more: object = {}) => sendFailure(response, code, error, more)
  response.on('error', () => response.destroy())
  try {
    const url = parseUrl(request.url ?? '/')
    if (!url) return fail('bad-request', 'the path of the request cannot be read')
    if (url.pathname === metricsPath || url.pathname === '/metrics')
      return await sendMetrics(request, response, options)
    if (url.pathname === eventsPath) return streamEvents(request, response, options, monitors)
    const known = Object.hasOwn(endpoints, url.pathname) ? endpoints[url.pathname] : undefined
    if (!known)
      return fail('no-such-path', `there is no ${url.pathname}`, {
        paths: [...Object.keys(endpoints), metricsPath, eventsPath]
      })
    const endpoint = known.find(({ method }) => method === request.method)
    if (!endpoint) {
      response.setHeader('allow', known.map(({ method }) => method).join(', '))
      const methods = known.map(({ method }) => method).join(' or ')
      return fail('wrong-method', `${url.pathname} takes ${methods}, not ${request.method}`)
    }
    const caller = callerOf(request.socket)
    if (endpoint.method === 'POST' && caller?.uid !== 0) {
      return fail('not-permitted', 'changing the node needs root: run the command with sudo')
    }
    const body = await readBody(request)
    if (body === null) return fail('body-too-long', `the body is longer than ${largestBody} bytes`)
    const parameters = endpoint.method === 'POST' ? parseBody(body) : Object.fromEntries(url.searchParams)
    const answer = await endpoint.answer(options.control, parameters, caller)
    if (!(answer instanceof RowStream)) return sendJson(response, 200, answer)
    if (streams.size >= mostStreams) return fail('busy', `${mostStreams} lists are being sent already`)
    streams.add(response)
    await sendRows(response, answer).finally(() => streams.delete(response))
  } catch (error) {
    if (error instanceof Failure) return fail(error.code, error.message)
    if (request.destroyed && !request.complete) return
    options.onError?.(`${request.method} ${request.url} failed`, error)
    fail('failed', error instanceof Error ? error.message : String(error))
  }
}

async function sendMetrics(
  request: IncomingMessage,
  response: ServerResponse,
  options: ControlServerOptions
): Promise<void> {
  if (!isRead(request)) return sendFailure(response, 'wrong-method', 'metrics take GET')
  const text = await options.control.metrics()
  response.writeHead(200, { 'content-type': 'text/plain; version=0.0.4; charset=utf-8' }).end(text)
}

/** One JSON object a line, from now until the caller goes. */
function streamEvents(
  request: IncomingMessage,
  response: ServerResponse,
  options: ControlServerOptions,
  monitors: Set<ServerResponse>
): void {
  if (!isRead(request)) return sendFailure(response, 'wrong-method', 'events take GET')
  if (monitors.size >= mostMonitors)
    return sendFailure(response, 'busy', `${mostMonitors} monitors are running already`)
  request.resume()
  response.writeHead(200, { 'content-type': 'application/x-ndjson', 'cache-control': 'no-store' })
  response.flushHeaders()
  let lost = 0
  const stop = options.control.events((event: EventRow) => {
    if (response.writableLength > mostBuffered) {
      lost += 1 + event.lost
      return
    }
    response.write(`${JSON.stringify(lost > 0 ? { ...event, lost: event.lost + lost } : event)}\n`)
    lost = 0
  })
  monitors.add(response)
  response.once('close', () => {
    monitors.delete(response)
    stop()
  })
}

function sendFailure(response: ServerResponse, code: FailureCode, error: string, more: object = {}): void {
  const answer: ErrorAnswer = { error, code, ...more }
  sendJson(response, failureStatus[code], answer)
}

function sendJson(response: ServerResponse, status: number, body: unknown): void {
  if (response.headersSent || response.destroyed) return
  const text = `${JSON.stringify(body)}\n`
  // a body that was not read to its end cannot be followed by another request
  if (status === 413 || status === 403) response.setHeader('connection', 'close')
  response
    .writeHead(status, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) })
    .end(text)
}

/** null: too long. What is too long is not read any further. */
async function readBody(request: IncomingMessage): Promise<Buffer | null> {
  if (Number(request.headers['content-length'] ?? 0) > largestBody) return null
  const chunks: Buffer[] = []
  let length = 0
  // not `for await`: leaving it would destroy the connection before the answer
  return new Promise((resolve, reject) => {
    request.on('data', (chunk: Buffer) => {
      length += chunk.length
      if (length > largestBody) {
        request.pause()
        resolve(null)
      } else {
        chunks.push(chunk)
      }
    })
    request.once('end', () => resolve(Buffer.concat(chunks)))
    request.once('error', reject)
    request.once('close', () => reject(new Error('the caller went away')))
  })
}

function parseBody(body: Buffer): Record<string, unknown> {
  if (body.length === 0) return {}
  let value: unknown
  try {
    value = JSON.parse(body.toString('utf8'))
  } catch (error) {
    throw new Failure('bad-request', `the body is not JSON: ${(error as Error).message}`)
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new Failure('bad-request', 'the body is not a JSON object')
  return value as Record<string, unknown>
}

function parseUrl(text: string): URL | null {
  try {
    return new URL(text, 'http://hostroute')
  } catch {
    return null
  }
}

function isRead(request: IncomingMessage): boolean {
  return request.method === 'GET' || request.method === 'HEAD'
}

/** node:net has no public descriptor; without one nobody is known. */
function callerOf(socket: Socket): Caller | null {
  const fd = (socket as Socket & { _handle?: { fd?: number } })._handle?.fd
  if (fd === undefined || fd < 0) return null
  try {
    return native().peerCredentials(fd)
  } catch {
    return null
  }
}

function refuseGarbage(error: NodeJS.ErrnoException, socket: Socket): void {
  if (!socket.writable || error.code === 'ECONNRESET') return void socket.destroy()
  const late = error.code === 'ERR_HTTP_REQUEST_TIMEOUT'
  const long = error.code === 'HPE_HEADER_OVERFLOW'
  const code = late ? 'late' : long ? 'headers-too-long' : 'not-http'
  const answer: ErrorAnswer = {
    error: late ? 'the request did not end in time' : long ? 'the headers are too long' : 'this is not an HTTP request',
    code
  }
  const status = failureStatus[code]
  const body = `${JSON.stringify(answer)}\n`
  socket.end(
    `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`
  )
  // a caller that never closes its side would keep the descriptor
  setTimeout(() => socket.destroy(), 1000).unref()
}

function closeServer(server: Server, monitors: Set<ServerResponse>): Promise<void> {
  for (const response of monitors) response.end()
  return new Promise((resolve) => {
    server.close(() => resolve())
    server.closeIdleConnections()
    setTimeout(() => server.closeAllConnections(), 1000).unref()
  })
}
