// IPVS: its virtual services, read through generic netlink. Nothing tells of
// their changes, so they are read again and again, at a small share of a CPU.
//
// IPVS is asked only when /proc/net/ip_vs says that it is there: the question
// would load its module.

import { existsSync, readFileSync } from 'node:fs'
import { addressIn, hostPrefix } from '../address.js'
import type { NativeError } from '../native.js'
import { attributesOf, textOf } from '../netfilter/nfnetlink.js'
import { DumpInbox } from '../netlink/dump-inbox.js'
import { Slice } from '../netlink/slice.js'
import type { Address, Prefix } from '../state/types.js'
import type { Publish, SourceResult, UnboundedRule } from './result.js'

const genericNetlink = 16
const controller = 16
const getFamily = 3
const getService = 4
const headerSize = 16
const pollMilliseconds = 1_000
/** Share of a CPU that reading may take, as its inverse. */
const pause = 50

export interface VirtualService {
  /** null: it is for packets with a mark. */
  address: Address | null
  mark: number
}

export class IpvsReader {
  private timer: NodeJS.Timeout | undefined
  private turn: Promise<void> = Promise.resolve()
  private family: number | null = null
  private published = ''
  private told = false
  private closed = false

  constructor(
    private readonly publish: Publish,
    private readonly onProblem: (text: string) => void
  ) {}

  /** Resolves when everything that is there has been published. */
  async start(): Promise<void> {
    this.again(await this.look())
  }

  async close(): Promise<void> {
    this.closed = true
    clearTimeout(this.timer)
    await this.turn
  }

  private again(spent: number): void {
    if (this.closed) return
    const wait = Math.max(pollMilliseconds, pause * spent)
    this.timer = setTimeout(() => {
      this.turn = this.look().then((next) => this.again(next))
    }, wait).unref()
  }

  /** Milliseconds that it took. */
  private async look(): Promise<number> {
    const start = performance.now()
    try {
      const services = existsSync('/proc/self/net/ip_vs') ? await this.read() : []
      this.take(services)
    } catch (error) {
      this.family = null
      if (!this.closed)
        this.onProblem(`IPVS services could not be read: ${(error as Error).message}; they are read again`)
    }
    return performance.now() - start
  }

  private take(services: VirtualService[]): void {
    const content = services.map(({ address, mark }) => address ?? `mark ${mark}`).join()
    if (content === this.published) return
    this.published = content
    this.publish([['ipvs', services.length === 0 ? null : resultOf(services)]])
    if (services.length > 0 && !this.told && readSwitch() === '0')
      this.onProblem(
        'IPVS keeps its connections from conntrack: set net.ipv4.vs.conntrack to 1, or their replies may leave with the address of the backend'
      )
    this.told = services.length > 0
  }

  private async read(): Promise<VirtualService[]> {
    this.family ??= await familyId()
    if (this.family === null) return []
    const services: VirtualService[] = []
    const slice = new Slice()
    await ask(
      this.family,
      getService,
      Buffer.alloc(0),
      (message) => {
        const service = readService(message)
        if (service) services.push(service)
      },
      slice
    )
    return services
  }
}

function readSwitch(): string | null {
  try {
    return readFileSync('/proc/sys/net/ipv4/vs/conntrack', 'utf8').trim()
  } catch {
    return null
  }
}

/** The number that the kernel has given to the family IPVS; null: it has none. */
async function familyId(): Promise<number | null> {
  let id: number | null = null
  const find = (message: Buffer) => {
    const attributes = attributesOf(message)
    if (textOf(attributes.get(2)) === 'IPVS') id = attributes.get(1)?.readUInt16LE(0) ?? null
  }
  await ask(controller, getFamily, Buffer.alloc(0), find, new Slice())
  return id
}

/** Hands over the attributes of each message of a dump. */
async function ask(
  family: number,
  command: number,
  attributes: Buffer,
  take: (attributes: Buffer) => void,
  slice: Slice
): Promise<void> {
  const body = Buffer.concat([Buffer.from([command, 1, 0, 0]), attributes])
  const inbox = new DumpInbox({ protocol: genericNetlink, type: family, body })
  for (let chunk = await inbox.next(); chunk; chunk = await inbox.next()) {
    for (let at = 0; at + headerSize + 4 <= chunk.length; ) {
      const length = chunk.readUInt32LE(at)
      if (length < headerSize + 4 || at + length > chunk.length) break
      take(chunk.subarray(at + headerSize + 4, at + length))
      at += (length + 3) & ~3
      if (slice.due()) await slice.rest()
    }
  }
  if (inbox.failure) throw inbox.failure as NativeError
}

/** IPVS_CMD_ATTR_SERVICE of one message; null: it is none. */
export function readService(message: Buffer): VirtualService | null {
  const service = attributesOf(message).get(1)
  if (!service) return null
  const attributes = attributesOf(service)
  const mark = attributes.get(5)
  if (mark) return { address: null, mark: mark.readUInt32LE(0) }
  const family = attributes.get(1)?.readUInt16LE(0)
  const address = attributes.get(3)
  if (!address || address.length < 16) return null
  return { address: addressIn(address, 0, family === 2 ? 4 : 16), mark: 0 }
}

function resultOf(services: readonly VirtualService[]): SourceResult {
  const destinations = new Map<Prefix, null>()
  const unbounded: UnboundedRule[] = []
  for (const { address, mark } of services) {
    if (address !== null) destinations.set(hostPrefix(address), null)
    else
      unbounded.push({
        kind: 'ipvs',
        family: '',
        table: '',
        chain: '',
        handle: 0,
        text: `virtual service for packets with mark ${mark}`
      })
  }
  return { kind: 'ipvs', name: 'virtual services', destinations, unbounded }
}
