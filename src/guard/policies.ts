// The policies of nf_tables' base chains, to tell `iptables-nft -Z` from a
// change: both are a NEWCHAIN that carries counters and the chain's policy.

import type { NetfilterSocket } from '../native.js'
import { flag, message, nft, parse, type Received, textOf } from '../netfilter/nfnetlink.js'
import type { Change, Transaction } from './watch.js'

const counters = 8
const policy = 5
const accept = 1

export class Policies {
  readonly #socket: NetfilterSocket
  /** "family table chain" → its policy. */
  readonly #known = new Map<string, number>()

  constructor(socket: NetfilterSocket) {
    this.#socket = socket
    this.readAgain()
  }

  /** Transactions were missed. */
  readAgain(): void {
    this.#known.clear()
    for (const chain of parse(this.#socket.request(message(nft.getChain, 0, flag.dump, []))))
      if (chain.type === nft.newChain) this.#learn(chain)
  }

  /** Whether a transaction does nothing but set counters to zero. Has to be asked about every one, in order. */
  onlyZeroes({ added, removed }: Transaction): boolean {
    const zeroes = added.every((change) => this.#isZeroing(change))
    for (const { received } of removed) if (received.type !== nft.delRule) this.#forget(received)
    for (const { received } of added) if (received.type === nft.newChain) this.#learn(received)
    return zeroes
  }

  /** A chain that is new, drops nothing and has no rule yet counts as well: the programs let it pass. */
  #isZeroing({ received }: Change): boolean {
    const { type, attributes } = received
    if (type !== nft.newChain || !attributes.has(counters)) return false
    return policyOf(received) === (this.#known.get(keyOf(received)) ?? accept)
  }

  #learn(chain: Received): void {
    const value = policyOf(chain)
    if (value !== null) this.#known.set(keyOf(chain), value)
  }

  #forget(removed: Received): void {
    if (removed.type === nft.delChain) this.#known.delete(keyOf(removed))
    if (removed.type !== nft.delTable) return
    const prefix = `${removed.family} ${textOf(removed.attributes.get(1)) ?? ''} `
    for (const key of [...this.#known.keys()]) if (key.startsWith(prefix)) this.#known.delete(key)
  }
}

function policyOf({ attributes }: Received): number | null {
  return attributes.get(policy)?.readUInt32BE(0) ?? null
}

function keyOf({ family, attributes }: Received): string {
  return `${family} ${textOf(attributes.get(1)) ?? ''} ${textOf(attributes.get(3)) ?? ''}`
}
