// Finds out how a NAT behaves (RFC 5780, RFC 4787), from behind it:
//   node stun-client.js SERVER-ADDRESS [LIFETIMES]
// prints a Behaviour as JSON. The server has a second address and port. With
// LIFETIMES, seconds as in "20,40,100", it also waits for mappings to end.

import { createSocket, type Socket } from 'node:dgram'
import { once } from 'node:events'
import { decodeResponse, type Endpoint, encodeRequest, type StunRequest, words } from './stun-message.js'

export type Dependence = 'endpoint-independent' | 'address-dependent' | 'address- and port-dependent'

export interface Behaviour {
  /** One socket as different remotes see it. */
  seen: string[]
  mapping: Dependence
  filtering: Dependence
  /** Of the sockets with a port below those that the kernel hands out: how many kept it. */
  preservedLow: [kept: number, of: number]
  /** Of sockets whose port the kernel chose. */
  preservedHigh: [kept: number, of: number]
  parity: [kept: number, of: number]
  hairpinning: boolean
  /** Seconds after which mappings were there still, and were gone; null where not asked for, or never. */
  lifetimeAfterOne: [there: number | null, gone: number | null]
  lifetimeAfterMore: [there: number | null, gone: number | null]
}

const [server = '', lifetimes = ''] = process.argv.slice(2)
const main: Endpoint = { address: server, port: 3478 }
const ATTEMPTS = 3
const PATIENCE = 500
const SAMPLE = 32

const pause = (milliseconds: number) => new Promise((resolve) => setTimeout(resolve, milliseconds))

async function open(port = 0): Promise<Socket> {
  const socket = createSocket('udp4')
  socket.bind(port)
  await once(socket, 'listening')
  return socket
}

/** Whether a message that `fits` comes within a moment. */
function arrives<Result>(socket: Socket, fits: (bytes: Buffer) => Result | null): Promise<Result | null> {
  return new Promise((resolve) => {
    const end = (result: Result | null) => {
      clearTimeout(timer)
      socket.off('message', look)
      resolve(result)
    }
    const timer = setTimeout(end, PATIENCE, null)
    const look = (bytes: Buffer) => {
      const result = fits(bytes)
      if (result) end(result)
    }
    socket.on('message', look)
  })
}

/** Asks `to` until it answers at `at`; null when it does not. */
async function ask(socket: Socket, to: Endpoint, request: Partial<StunRequest> = {}, at = socket) {
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    const { id, bytes } = encodeRequest(request)
    const answer = arrives(at, (found) => {
      const response = decodeResponse(found)
      return response?.id.equals(id) ? response : null
    })
    socket.send(bytes, to.port, to.address)
    const response = await answer
    if (response) return response
  }
  return null
}

async function mappedOf(socket: Socket, to: Endpoint): Promise<Endpoint> {
  const response = await ask(socket, to)
  if (!response?.mapped) throw new Error(`${words(to)} did not answer`)
  return response.mapped
}

async function mapping(other: Endpoint) {
  const socket = await open()
  const remotes = [main, { ...main, port: other.port }, { ...other, port: main.port }, other]
  const seen: string[] = []
  for (const remote of remotes) seen.push(words(await mappedOf(socket, remote)))
  socket.close()
  const behaviour: Dependence =
    new Set(seen).size === 1
      ? 'endpoint-independent'
      : seen[0] === seen[1] && seen[2] === seen[3]
        ? 'address-dependent'
        : 'address- and port-dependent'
  return { seen, mapping: behaviour }
}

async function filtering(): Promise<Dependence> {
  const socket = await open()
  await mappedOf(socket, main)
  const both = await ask(socket, main, { changeAddress: true, changePort: true })
  const port = await ask(socket, main, { changePort: true })
  socket.close()
  return both ? 'endpoint-independent' : port ? 'address-dependent' : 'address- and port-dependent'
}

/** Own ports, and what has become of them. */
async function ports(first: number | null): Promise<[own: number, outside: number][]> {
  const pairs: [number, number][] = []
  for (let index = 0; index < SAMPLE; index++) {
    const socket = await open(first === null ? 0 : first + index)
    pairs.push([socket.address().port, (await mappedOf(socket, main)).port])
    socket.close()
  }
  return pairs
}

async function hairpinning(): Promise<boolean> {
  const [one, two] = [await open(), await open()]
  const [mapped] = [await mappedOf(one, main), await mappedOf(two, main)]
  let through = false
  for (let attempt = 0; attempt < ATTEMPTS && !through; attempt++) {
    const came = arrives(one, (bytes) => bytes.toString() === 'hairpin' || null)
    two.send('hairpin', mapped.port, mapped.address)
    through = (await came) === true
  }
  one.close()
  two.close()
  return through
}

/** A mapping for each age, each asked about once: the question would keep it alive. */
async function lifetime(ages: number[], more: boolean): Promise<[number | null, number | null]> {
  const states = await Promise.all(
    ages.map(async (age) => {
      const [socket, asking] = [await open(), await open()]
      const mapped = await mappedOf(socket, main)
      if (more) {
        await pause(2_500)
        await mappedOf(socket, main)
      }
      await pause(age * 1_000)
      const there = await ask(asking, main, { responsePort: mapped.port }, socket)
      socket.close()
      asking.close()
      return { age, there: there !== null }
    })
  )
  const gone = states.find(({ there }) => !there)?.age ?? null
  const there = states.filter((each) => each.there && (gone === null || each.age < gone)).at(-1)?.age ?? null
  return [there, gone]
}

const kept = (pairs: [number, number][], same: (own: number, outside: number) => boolean): [number, number] => [
  pairs.filter(([own, outside]) => same(own, outside)).length,
  pairs.length
]

const probe = await open()
const other = (await ask(probe, main))?.other
probe.close()
if (!other) throw new Error(`${words(main)} has no other address`)
const low = await ports(20_001)
const high = await ports(null)
const ages = lifetimes.split(',').map(Number).filter(Boolean)
const [after1, afterMore] = await Promise.all([lifetime(ages, false), lifetime(ages, true)])
const behaviour: Behaviour = {
  ...(await mapping(other)),
  filtering: await filtering(),
  preservedLow: kept(low, (own, outside) => own === outside),
  preservedHigh: kept(high, (own, outside) => own === outside),
  parity: kept(high, (own, outside) => (own & 1) === (outside & 1)),
  hairpinning: await hairpinning(),
  lifetimeAfterOne: after1,
  lifetimeAfterMore: afterMore
}
console.log(JSON.stringify(behaviour))
