// Many connections that are told when to speak, run inside the lab's
// namespaces as a program of its own:
//   node connections.js serve PORT
//   node connections.js connect PROTOCOL ADDRESS PORT COUNT
// Words on stdin, one answer line each on stdout:
//   speak   sends on each connection and waits for the other side's answers: how many came
//   blow N  sends N bytes on each connection and waits until the other side has them all: how many have
//   list    serve: [{peer, port, own}], the other side as it is seen and as it names its own port
//   add N   connect: opens N more
// Both ends answer what they are asked: who speaks first is the caller's choice.

import { createSocket, type Socket as Datagrams, type RemoteInfo } from 'node:dgram'
import { connect, createServer, type Socket } from 'node:net'
import { createInterface } from 'node:readline'

/** What is answered at all is answered long before; an emulated machine is slow. */
const patience = process.env['HOSTROUTE_VM'] ? 30_000 : 8_000

class Peer {
  own = 0
  ready: Promise<void>
  #isReady: () => void = () => {}
  #answers = new Map<string, () => void>()
  #asked = 0
  #rest = ''
  #swallow = 0
  #swallowed = 0

  constructor(
    readonly peer: string,
    readonly port: number,
    readonly send: (text: string | Buffer) => void
  ) {
    this.ready = new Promise((resolve) => {
      this.#isReady = resolve
    })
  }

  read(chunk: Buffer): void {
    let bytes = chunk
    while (bytes.length > 0) {
      if (this.#swallow > 0) {
        const part = Math.min(this.#swallow, bytes.length)
        this.#swallow -= part
        this.#swallowed += part
        bytes = bytes.subarray(part)
        if (this.#swallow === 0) this.send('a blown\n')
        continue
      }
      const end = bytes.indexOf(10)
      if (end < 0) {
        this.#rest += bytes.toString()
        return
      }
      const line = this.#rest + bytes.toString('utf8', 0, end)
      this.#rest = ''
      bytes = bytes.subarray(end + 1)
      this.#line(line)
    }
  }

  #line(line: string): void {
    const [verb, word = ''] = line.split(' ')
    if (verb === 'h') {
      this.own = Number(word)
      this.#isReady()
    } else if (verb === 'q') this.send(`a ${word}\n`)
    else if (verb === 'b') this.#swallow = Number(word)
    else if (verb === 'a') this.#answers.get(word)?.()
  }

  speak(): Promise<boolean> {
    const word = `${++this.#asked}`
    const answered = this.#expect(word)
    this.send(`q ${word}\n`)
    return answered
  }

  blow(bytes: number): Promise<boolean> {
    const answered = this.#expect('blown')
    this.send(`b ${bytes}\n`)
    this.send(Buffer.alloc(bytes, 'x'))
    return answered
  }

  #expect(word: string): Promise<boolean> {
    return new Promise((resolve) => {
      const timer = setTimeout(() => resolve(false), patience)
      this.#answers.set(word, () => {
        clearTimeout(timer)
        resolve(true)
      })
    })
  }
}

const peers = new Map<string, Peer>()

function adopt(socket: Socket): Peer {
  const peer = new Peer(unmapped(socket.remoteAddress), socket.remotePort ?? 0, (text) => socket.write(text))
  socket.on('data', (chunk: Buffer) => peer.read(chunk))
  socket.on('error', () => {})
  peers.set(`tcp ${socket.remoteAddress} ${socket.remotePort} ${socket.localPort}`, peer)
  return peer
}

function unmapped(address: string | undefined): string {
  return (address ?? '').replace(/^::ffff:/, '')
}

function serve(port: number): void {
  const server = createServer({ noDelay: true }, (socket) => {
    const peer = adopt(socket)
    peer.send(`h ${port}\n`)
  })
  const datagrams = createSocket('udp6')
  datagrams.on('message', (message: Buffer, { address, port: from }: RemoteInfo) => {
    const key = `udp ${address} ${from}`
    let peer = peers.get(key)
    if (!peer) {
      peer = new Peer(unmapped(address), from, (text) => datagrams.send(text, from, address))
      peers.set(key, peer)
      peer.send(`h ${port}\n`)
    }
    peer.read(message)
  })
  server.listen({ port, host: '::', backlog: 4096 }, () => datagrams.bind(port, '::', () => say('ready')))
}

async function open(protocol: string, address: string, port: number, count: number): Promise<void> {
  const some: Promise<void>[] = []
  for (let index = 0; index < count; index++) {
    some.push(protocol === 'udp' ? openDatagrams(address, port) : openStream(address, port))
    if (some.length === 50) await Promise.all(some.splice(0))
  }
  await Promise.all(some)
}

async function openStream(address: string, port: number): Promise<void> {
  const socket = connect({ host: address, port, noDelay: true })
  await new Promise((resolve) => socket.on('connect', resolve))
  const peer = adopt(socket)
  peer.send(`h ${socket.localPort}\n`)
  await peer.ready
}

async function openDatagrams(address: string, port: number): Promise<void> {
  const socket: Datagrams = createSocket(address.includes(':') ? 'udp6' : 'udp4')
  await new Promise<void>((resolve) => socket.connect(port, address, resolve))
  const own = socket.address().port
  const peer = new Peer(address, port, (text) => socket.send(text))
  socket.on('message', (message: Buffer) => peer.read(message))
  socket.on('error', () => {})
  peers.set(`udp ${own}`, peer)
  peer.send(`h ${own}\n`)
  await peer.ready
}

function say(value: unknown): void {
  process.stdout.write(`${typeof value === 'string' ? value : JSON.stringify(value)}\n`)
}

/** A hundred at a time: the server has one socket for all datagrams, with room for some 270. */
async function countOf(ask: (peer: Peer) => Promise<boolean>): Promise<number> {
  const all = [...peers.values()]
  let count = 0
  while (all.length > 0) count += (await Promise.all(all.splice(0, 100).map(ask))).filter(Boolean).length
  return count
}

const [verb = '', ...rest] = process.argv.slice(2)
const [protocol = '', address = '', port = '0'] = rest
if (verb === 'serve') serve(Number(rest[0]))
else {
  await open(protocol, address, Number(port), Number(rest[3]))
  say('ready')
}
for await (const line of createInterface({ input: process.stdin })) {
  const [word, number = '0'] = line.split(' ')
  if (word === 'speak') say(await countOf((peer) => peer.speak()))
  if (word === 'blow') say(await countOf((peer) => peer.blow(Number(number))))
  if (word === 'list') say([...peers.values()].map(({ peer, port: seen, own }) => ({ peer, port: seen, own })))
  if (word === 'add') {
    await open(protocol, address, Number(port), Number(number))
    say('added')
  }
}
process.exit(0)
