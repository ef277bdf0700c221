// The control socket: HTTP with JSON on a unix socket.
//
// Invariants
// - Reading is open to whoever may open the socket; changing (POST), and events of
//   all packets, which make the node slower, need uid 0,
//   known from the socket itself (SO_PEERCRED), never from what the caller says.
// - Nothing a caller sends or leaves unsent hurts the daemon: sizes, times and
//   numbers are bounded, every failure becomes an answer or a closed connection.
// - A reader that is too slow for the events loses events and is told how many.
// - Whoever only reads keeps neither root out nor other readers (connections.ts).

import { createServer, type IncomingMessage, type Server, type ServerResponse, STATUS_CODES } from 'node:http'
import type { Socket } from 'node:net'
import { native } from '../native.js'
import { beatHeader, type ErrorAnswer, eventsPath, metricsPath, type NodeControl } from './api.js'
import { type Connection, Connections, mostConnections, type ServerLimits, serverLimits } from './connections.js'
import { Failure, type FailureCode, failureStatus } from './failure.js'
import type { EventRow } from './packet-api.js'
import { endpoints, eventOptions } from './requests.js'
import { RowStream, sendRows } from './row-stream.js'
import { sendText } from './send.js'
import { keepSocket, listenOnSocket } from './socket.js'

export interface ControlServerOptions {
  path: string
  control: NodeControl
  /** Group that may read; absent: 'hostroute'. */
  group?: string
  /** Those that are not given are serverLimits. */
  limits?: Partial<ServerLimits>
  /** Milliseconds after which it is seen that the socket was removed. */
  lookEvery?: number
  /** Milliseconds between two signs of life in a stream of events. */
  beatEvery?: number
  /** A request failed inside the daemon, or somebody has removed the socket. */
  onError?(text: string, error: unknown): void
}

export interface ControlServer {
  /** Ends the streams, finishes what is being answered, removes the socket. */
  close(): Promise<void>
}

const lookEvery = 2000
const beatEvery = 10_000
const largestBody = 64 * 1024
const mostBuffered = 1024 * 1024
const tooMuchUnread = 'answers that nobody takes fill all the room there is: try again'

/** Listens; rejects when another daemon answers there. */
export async function startControlServer(options: ControlServerOptions): Promise<ControlServer> {
  const server = createServer({
    maxHeaderSize: 8 * 1024,
    // long enough for a request that has come while something held the event loop
    headersTimeout: 12_000,
    requestTimeout: 20_000,
    keepAliveTimeout: 5000,
    connectionsCheckingInterval: 1000
  })
  server.maxConnections = mostConnections
  const monitors = new Set<ServerResponse>()
  const connections = new Connections({ ...serverLimits, ...options.limits })
  server.on('request', (request, response) => {
    const connection = connections.of(request.socket)
    if (!connection) return void request.socket.destroy()
    void new Exchange(request, response, connection, { ...options, connections, monitors }).handle()
  })
  server.on('clientError', (error: NodeJS.ErrnoException, socket) => refuseGarbage(error, socket as Socket))
  server.on('connection', (socket) => {
    // whatever goes wrong with one connection is the end of that connection only
    socket.on('error', () => socket.destroy())
    connections.add(socket)
  })
  const group = native().groupId(options.group ?? 'hostroute')
  await listenOnSocket(server, options.path, group)
  server.on('error', (error) => options.onError?.('control socket', error))
  const leaveSocket = keepSocket(server, options.path, group, options.lookEvery ?? lookEvery, (text) =>
    options.onError?.('control socket', new Error(text))
  )
  return {
    close: async () => {
      leaveSocket()
      await closeServer(server, monitors)
      connections.close()
    }
  }
}

interface Served extends ControlServerOptions {
  connections: Connections
  monitors: Set<ServerResponse>
}

/** One request and its answer. */
class Exchange {
  constructor(
    private readonly request: IncomingMessage,
    private readonly response: ServerResponse,
    private readonly connection: Connection,
    private readonly served: Served
  ) {}

  /** Resolves when it is answered, whatever becomes of it. */
  async handle(): Promise<void> {
    const { request, response, connection, served } = this
    response.on('error', () => response.destroy())
    if (connection.refused !== null || connection.isAnswering) {
      response.setHeader('connection', 'close')
      return this.fail('busy', connection.refused ?? 'the request before this one is not answered yet')
    }
    connection.isAnswering = true
    response.once('close', () => {
      connection.isAnswering = false
    })
    try {
      await this.answer()
    } catch (error) {
      if (error instanceof Failure) return this.fail(error.code, error.message)
      if (request.destroyed && !request.complete) return
      served.onError?.(`${request.method} ${request.url} failed`, error)
      this.fail('failed', error instanceof Error ? error.message : String(error))
    }
  }

  private async answer(): Promise<void> {
    const { request, response, connection, served } = this
    const { control, connections } = served
    const url = parseUrl(request.url ?? '/')
    if (!url) return this.fail('bad-request', 'the path of the request cannot be read')
    if (connections.isFull(connection.caller)) return this.fail('busy', tooMuchUnread)
    if (url.pathname === metricsPath || url.pathname === '/metrics') return await this.sendMetrics()
    if (url.pathname === eventsPath) return this.streamEvents(url.searchParams)
    const known = Object.hasOwn(endpoints, url.pathname) ? endpoints[url.pathname] : undefined
    if (!known)
      return this.fail('no-such-path', `there is no ${url.pathname}`, {
        paths: [...Object.keys(endpoints), metricsPath, eventsPath]
      })
    const endpoint = known.find(({ method }) => method === request.method)
    if (!endpoint) {
      response.setHeader('allow', known.map(({ method }) => method).join(', '))
      const methods = known.map(({ method }) => method).join(' or ')
      return this.fail('wrong-method', `${url.pathname} takes ${methods}, not ${request.method}`)
    }
    if (endpoint.method === 'POST' && connection.caller?.uid !== 0) {
      return this.fail('not-permitted', 'changing the node needs root: run the command with sudo')
    }
    const body = await readBody(request)
    if (body === null) return this.fail('body-too-long', `the body is longer than ${largestBody} bytes`)
    const parameters = endpoint.method === 'POST' ? parseBody(body) : Object.fromEntries(url.searchParams)
    const answer = await endpoint.answer(control, parameters, connection.caller)
    if (!(answer instanceof RowStream)) return await this.sendJson(200, answer)
    const share = connections.take('lists', connection.caller)
    if (typeof share === 'string') return this.fail('busy', share)
    await sendRows(response, answer).finally(share)
  }

  private async sendMetrics(): Promise<void> {
    if (!isRead(this.request)) return this.fail('wrong-method', 'metrics take GET')
    const text = await this.served.control.metrics()
    await this.send(200, 'text/plain; version=0.0.4; charset=utf-8', text)
  }

  /** One JSON object a line, from now until the caller goes; an empty line where nothing else is told for long. */
  private streamEvents(given: URLSearchParams): void {
    const { request, response, connection, served } = this
    if (!isRead(request)) return this.fail('wrong-method', 'events take GET')
    const { all } = eventOptions(Object.fromEntries(given))
    if (all && connection.caller?.uid !== 0)
      return this.fail('not-permitted', 'all packets slow the node down: run the command with sudo, or without --all')
    const share = served.connections.take('monitors', connection.caller)
    if (typeof share === 'string') return this.fail('busy', share)
    request.resume()
    const beat = served.beatEvery ?? beatEvery
    response.writeHead(200, {
      'content-type': 'application/x-ndjson',
      'cache-control': 'no-store',
      [beatHeader]: String(beat)
    })
    response.flushHeaders()
    const beating = setInterval(() => {
      if (response.writableLength === 0) response.write('\n')
    }, beat)
    let lost = 0
    const stop = served.control.events((event: EventRow) => {
      if (response.writableLength > mostBuffered) {
        lost += 1 + event.lost
        return
      }
      response.write(Buffer.from(`${JSON.stringify(lost > 0 ? { ...event, lost: event.lost + lost } : event)}\n`))
      lost = 0
    }, all)
    served.monitors.add(response)
    response.once('close', () => {
      clearInterval(beating)
      served.monitors.delete(response)
      stop()
      share()
    })
  }

  private fail(code: FailureCode, error: string, more: object = {}): void {
    const answer: ErrorAnswer = { error, code, ...more }
    void this.sendJson(failureStatus[code], answer)
  }

  private async sendJson(status: number, body: unknown): Promise<void> {
    // a body that was not read to its end cannot be followed by another request
    if ((status === 413 || status === 403) && !this.response.headersSent) this.response.setHeader('connection', 'close')
    await this.send(status, 'application/json', `${JSON.stringify(body)}\n`)
  }

  private async send(status: number, type: string, text: string): Promise<void> {
    const { response, connection, served } = this
    // others may have been answered since it was asked
    if (status === 200 && served.connections.isFull(connection.caller)) return this.fail('busy', tooMuchUnread)
    await sendText(response, status, type, text, (bytes) => {
      connection.held = bytes
    })
  }
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
