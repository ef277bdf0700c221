// Echo server and its clients, run inside the lab's namespaces as programs of
// their own:
//   node echo.js serve PORT          TCP and UDP, both families
//   node echo.js ask   < questions   JSON array in, JSON array of answers out
//   node echo.js flow  QUESTION      one long-lived flow, until stdin closes
// The server greets with a line {"peer","port"}: the address it saw. Then it
// sends back what it gets.

import { createSocket, type RemoteInfo } from 'node:dgram'
import { connect, createServer, type Socket } from 'node:net'
import { text } from 'node:stream/consumers'

export interface Question {
  protocol: 'tcp' | 'udp'
  address: string
  port: number
  /** Own port; chosen by the kernel when absent. */
  localPort?: number
  /** Bytes to be echoed, 32 when absent; 0 asks for the greeting only. */
  bytes?: number
  /** Milliseconds, 2000 when absent. */
  timeout?: number
  /** flow: milliseconds between two messages, 5 when absent. */
  interval?: number
}

export interface Answer {
  /** The peer's address as the server saw it; null without an answer. */
  peer: string | null
  port: number
  localPort: number
  /** Bytes that came back whole and unchanged. */
  echoed: number
  milliseconds: number
  error: string | null
}

export interface FlowReport {
  peer: string | null
  port: number
  sent: number
  /** Messages that came back, each counted once. */
  received: number
  /** Longest time without an answer, ms. */
  longestGap: number
  error: string | null
}

const unmapped = (address: string | undefined) => (address ?? '').replace(/^::ffff:/, '')
const greeting = (peer: { address?: string; port?: number }) =>
  `${JSON.stringify({ peer: unmapped(peer.address), port: peer.port })}\n`

function serve(port: number): void {
  const server = createServer({ noDelay: true }, (socket) => {
    socket.on('error', () => {})
    socket.write(greeting({ address: socket.remoteAddress ?? '', port: socket.remotePort ?? 0 }))
    socket.pipe(socket)
  })
  const datagrams = createSocket('udp6')
  datagrams.on('message', (message: Buffer, peer: RemoteInfo) => {
    datagrams.send(Buffer.concat([Buffer.from(greeting(peer)), message]), peer.port, peer.address)
  })
  server.listen({ port, host: '::', backlog: 1024 }, () => {
    datagrams.bind(port, '::', () => process.stdout.write('ready\n'))
  })
}

/** Splits the greeting line off what has arrived; null while it is not complete. */
function readGreeting(bytes: Buffer): { peer: string; port: number; rest: Buffer } | null {
  const end = bytes.indexOf(10)
  if (end < 0) return null
  return {
    ...(JSON.parse(bytes.toString('utf8', 0, end)) as { peer: string; port: number }),
    rest: bytes.subarray(end + 1)
  }
}

function ask(question: Question): Promise<Answer> {
  const start = performance.now()
  const payload = Buffer.alloc(question.bytes ?? 32, 'hostroute ')
  const answer: Answer = { peer: null, port: 0, localPort: 0, echoed: 0, milliseconds: 0, error: null }
  return new Promise((resolve) => {
    const finish = (error: string | null) => {
      clearTimeout(timer)
      channel.close()
      resolve({ ...answer, error, milliseconds: performance.now() - start })
    }
    const timer = setTimeout(() => finish('timeout'), question.timeout ?? 2_000)
    const channel = openChannel(question, payload, finish, (bytes) => {
      answer.localPort = channel.localPort()
      const greeted = readGreeting(bytes)
      if (!greeted) return
      answer.peer = greeted.peer
      answer.port = greeted.port
      if (greeted.rest.length < payload.length) return
      if (!greeted.rest.equals(payload)) return finish('the echo differs')
      answer.echoed = greeted.rest.length
      finish(null)
    })
  })
}

interface Channel {
  close(): void
  localPort(): number
}

function openChannel(
  question: Question,
  payload: Buffer,
  fail: (error: string) => void,
  onBytes: (all: Buffer) => void
): Channel {
  if (question.protocol === 'udp') {
    const socket = createSocket(question.address.includes(':') ? 'udp6' : 'udp4')
    socket.on('error', (error) => fail(error.message))
    socket.on('message', onBytes)
    socket.bind(question.localPort ?? 0, () => {
      socket.connect(question.port, question.address, () => socket.send(payload))
    })
    return { close: () => socket.close(), localPort: () => socket.address().port }
  }
  const socket = connectTcp(question)
  let all = Buffer.alloc(0)
  socket.on('error', (error) => fail(error.message))
  socket.on('connect', () => socket.write(payload))
  socket.on('data', (chunk: Buffer) => {
    all = Buffer.concat([all, chunk])
    onBytes(all)
  })
  return { close: () => socket.destroy(), localPort: () => socket.localPort ?? 0 }
}

function connectTcp(question: Question): Socket {
  const local = question.localPort ? { localPort: question.localPort } : {}
  return connect({ host: question.address, port: question.port, noDelay: true, ...local })
}

/** Sends a numbered message every few milliseconds and notes what comes back. */
function flow(question: Question): void {
  const report: FlowReport = { peer: null, port: 0, sent: 0, received: 0, longestGap: 0, error: null }
  const seen = new Set<number>()
  let last = 0
  let rest = ''
  const onText = (words: string) => {
    const now = performance.now()
    if (last > 0) report.longestGap = Math.max(report.longestGap, now - last)
    last = now
    const lines = (rest + words).split('\n')
    rest = lines.pop() ?? ''
    for (const line of lines) {
      if (!line.startsWith('{')) seen.add(Number(line))
      else if (report.peer === null) {
        Object.assign(report, JSON.parse(line))
        process.stdout.write('ready\n')
      }
    }
  }
  const wire = question.protocol === 'tcp' ? tcpWire(question, onText) : udpWire(question, onText)
  const finish = (error: string | null) => {
    report.received = seen.size
    process.stdout.write(`${JSON.stringify({ ...report, error })}\n`, () => process.exit(0))
  }
  wire.onError(finish)
  const ticker = setInterval(() => {
    if (wire.send(`${report.sent}\n`)) report.sent++
  }, question.interval ?? 5)
  process.stdin.resume().on('end', () => {
    clearInterval(ticker)
    const patience = Date.now() + 2_000
    const waiter = setInterval(() => {
      if (seen.size < report.sent && Date.now() < patience) return
      clearInterval(waiter)
      if (last > 0 && seen.size < report.sent) report.longestGap = Math.max(report.longestGap, performance.now() - last)
      finish(null)
    }, 10)
  })
}

interface Wire {
  /** false: it is not open yet, and nothing was sent. */
  send(words: string): boolean
  onError(listener: (error: string) => void): void
}

function tcpWire(question: Question, onText: (words: string) => void): Wire {
  const socket = connectTcp(question)
  socket.on('data', (chunk: Buffer) => onText(chunk.toString()))
  return {
    send(words) {
      if (!socket.connecting) socket.write(words)
      return !socket.connecting
    },
    onError: (listener) => {
      socket.on('error', (error) => listener(error.message))
      socket.on('end', () => listener('the server closed the connection'))
    }
  }
}

function udpWire(question: Question, onText: (words: string) => void): Wire {
  const socket = createSocket(question.address.includes(':') ? 'udp6' : 'udp4')
  let ready = false
  socket.bind(question.localPort ?? 0, () => {
    socket.connect(question.port, question.address, () => {
      ready = true
    })
  })
  socket.on('message', (message) => onText(message.toString()))
  socket.on('error', () => {})
  return {
    send(words) {
      if (ready) socket.send(words)
      return ready
    },
    onError: () => {}
  }
}

const [verb, argument] = process.argv.slice(2)
if (verb === 'serve') serve(Number(argument))
else if (verb === 'flow') flow(JSON.parse(argument ?? '') as Question)
else if (verb === 'ask') {
  const questions = JSON.parse(await text(process.stdin)) as Question[]
  process.stdout.write(JSON.stringify(await Promise.all(questions.map(ask))))
}
