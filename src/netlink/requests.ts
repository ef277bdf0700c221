// Requests that change neighbours, sent with npm `netlink`.
//
// That package is safe in one shape only, which this file keeps: a single
// request in flight, no memberships, always a timeout, always an 'error'
// listener. After a timeout or a socket error the socket is thrown away and
// the next request opens another. Its index would load five families more, for
// 40 ms of CPU at every start.
//
// What the kernel does with RTM_NEWNEIGH and NTF_USE (5.16 to 6.18, measured):
// - Each such message sets NTF_EXT_MANAGED to what it says: one that only
//   probes must repeat the flag, and NTF_USE without it is how it is cleared.
//   The entry's MAC and state stay.
// - It takes NUD_PERMANENT away from an entry, after which the kernel resolves
//   it: a static MAC would be lost. So entries are looked at first.

import { getSystemErrorName } from 'node:util'
import { createNetlink, type NetlinkSocket } from 'netlink/dist/netlink.js'
import type { NetlinkMessage } from 'netlink/dist/structs.js'
import { familyOf, formatAddress } from '../address.js'
import type { Address, Neighbour } from '../state/types.js'
import { NeighbourState } from '../state/types.js'
import { attribute, attributeU32, readI32, writeU32 } from './bytes.js'
import { AF_INET, AF_INET6, NLM_F_CREATE, NLM_F_REPLACE, NLMSG_ERROR, RTM_GETNEIGH, RTM_NEWNEIGH } from './constants.js'
import { decodeNeighbour, NDA_DST, NDA_FLAGS_EXT, NTF_EXT_MANAGED } from './neighbour.js'

const NETLINK_ROUTE = 0
const NTF_USE = 0x01
const NTF_EXT_LEARNED = 0x10
const timeoutMilliseconds = 2000
const fixedStates = NeighbourState.permanent | NeighbourState.noarp

/**
 * What came of a request. 'fixed': the entry is permanent or needs no ARP and
 * was left alone. 'gone': the device does not exist (any more). Both are normal.
 */
export type NeighbourOutcome = 'done' | 'unchanged' | 'fixed' | 'gone'

export interface NeighbourRequests {
  /** Makes the kernel keep (or no longer keep) the neighbour resolved and fresh. Equivalent to: `ip neigh replace ADDRESS dev DEVICE managed`. */
  setManaged(ifindex: number, address: Address, on: boolean): Promise<NeighbourOutcome>
  /** Makes the kernel resolve the neighbour now. Equivalent to: `ip neigh replace ADDRESS dev DEVICE use`. */
  probe(ifindex: number, address: Address): Promise<NeighbourOutcome>
  /** Requests that have not been answered reject. */
  close(): void
}

/** The kernel refused a request. `code` is the errno's name, or 'ETIMEDOUT'. */
export class RequestError extends Error {
  constructor(
    message: string,
    readonly code: string
  ) {
    super(message)
  }
}

/** Requests are sent one after the other, in the order of the calls, in the network namespace of the process. Opens nothing yet. */
export function openNeighbourRequests(): NeighbourRequests {
  return new Requests()
}

class Requests implements NeighbourRequests {
  private socket: NetlinkSocket | null = null
  private last: Promise<unknown> = Promise.resolve()
  private closed = false
  private abort: (error: Error) => void = () => {}

  setManaged(ifindex: number, address: Address, on: boolean): Promise<NeighbourOutcome> {
    return this.inTurn(
      `set neighbour ${formatAddress(address)} on device ${ifindex} ${on ? 'managed' : 'unmanaged'}`,
      async () => {
        const known = await this.find(ifindex, address)
        if (known && (known.state & fixedStates) !== 0) return 'fixed'
        if ((known?.managed ?? false) === on) return 'unchanged'
        return this.use(ifindex, address, on, known)
      }
    )
  }

  probe(ifindex: number, address: Address): Promise<NeighbourOutcome> {
    return this.inTurn(`probe neighbour ${formatAddress(address)} on device ${ifindex}`, async () => {
      const known = await this.find(ifindex, address)
      if (known && (known.state & fixedStates) !== 0) return 'fixed'
      return this.use(ifindex, address, known?.managed ?? false, known)
    })
  }

  close(): void {
    this.closed = true
    this.drop()
    this.abort(new RequestError('netlink requests are closed', 'ECANCELED'))
  }

  /** Runs after all earlier requests; ENODEV becomes 'gone', other failures get a sentence. */
  private inTurn(what: string, run: () => Promise<NeighbourOutcome>): Promise<NeighbourOutcome> {
    const result = this.last.then(run).catch((error: unknown): NeighbourOutcome => {
      const code = error instanceof RequestError ? error.code : ((error as NodeJS.ErrnoException).code ?? 'EIO')
      if (code === 'ENODEV') return 'gone'
      throw new RequestError(`cannot ${what}: ${error instanceof Error ? error.message : String(error)}`, code)
    })
    this.last = result.catch(() => {})
    return result
  }

  /** The kernel's entry; null when there is none. */
  private async find(ifindex: number, address: Address): Promise<Neighbour | null> {
    try {
      const [answer] = await this.ask(RTM_GETNEIGH, 0, [header(ifindex, address, 0), destination(address)])
      if (!answer || answer.type !== RTM_NEWNEIGH) return null
      return decodeNeighbour(Buffer.from(answer.data), 0, answer.data.length)
    } catch (error) {
      if (error instanceof RequestError && error.code === 'ENOENT') return null
      throw error
    }
  }

  private async use(ifindex: number, address: Address, managed: boolean, known: Neighbour | null): Promise<'done'> {
    const flags = NTF_USE | ((known?.flags ?? 0) & NTF_EXT_LEARNED)
    const parts = [header(ifindex, address, flags), destination(address)]
    if (managed) parts.push(attributeU32(NDA_FLAGS_EXT, NTF_EXT_MANAGED))
    await this.ask(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, parts)
    return 'done'
  }

  /** One request and its answer. Throws RequestError with the kernel's errno. */
  private async ask(type: number, flags: number, parts: Buffer[]): Promise<NetlinkMessage[]> {
    if (this.closed) throw new RequestError('netlink requests are closed', 'ECANCELED')
    const socket = this.open()
    const aborted = new Promise<never>((_, reject) => {
      this.abort = reject
    })
    let answer: NetlinkMessage[]
    try {
      const asked = socket.request(type, Buffer.concat(parts), {
        flags,
        timeout: timeoutMilliseconds,
        checkError: false
      })
      ;[answer] = await Promise.race([asked, aborted])
    } catch (error) {
      this.drop()
      if (error instanceof RequestError || (error as NodeJS.ErrnoException).code) throw error
      throw new RequestError('the kernel did not answer', 'ETIMEDOUT')
    }
    const first = answer[0]
    if (first?.type === NLMSG_ERROR) {
      const errno = readI32(Buffer.from(first.data), 0, first.data.length)
      if (errno !== 0) throw new RequestError(getSystemErrorName(errno), getSystemErrorName(errno))
    }
    return answer
  }

  private open(): NetlinkSocket {
    if (this.socket) return this.socket
    const socket = createNetlink(NETLINK_ROUTE)
    socket.on('error', (error) => {
      if (this.socket !== socket) return
      // The package has closed it already.
      this.socket = null
      this.abort(error)
    })
    this.socket = socket
    return socket
  }

  private drop(): void {
    this.socket?.close()
    this.socket = null
  }
}

/** struct ndmsg. */
function header(ifindex: number, address: Address, flags: number): Buffer {
  const bytes = Buffer.alloc(12)
  bytes[0] = familyOf(address) === 4 ? AF_INET : AF_INET6
  writeU32(bytes, ifindex, 4)
  bytes[10] = flags
  return bytes
}

function destination(address: Address): Buffer {
  return attribute(NDA_DST, Buffer.from(address, 'hex'))
}
