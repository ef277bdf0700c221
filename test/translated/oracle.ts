// What `nft -j` says about a ruleset, asked for one destination at a time: could
// a packet to it be translated? Slow and simple. Whatever is not about the
// destination may be true; so may be what is asked with "not", and the order of
// rules does not count.

import { parseAddress } from '../../src/address.js'

type Json = Record<string, unknown>

interface Chain {
  family: string
  table: string
  name: string
  hook?: string
  rules: Json[][]
}

export class Oracle {
  private readonly chains = new Map<string, Chain>()
  private readonly sets = new Map<string, unknown[]>()

  /** text: of `nft -j list ruleset`. */
  constructor(text: string) {
    const { nftables } = JSON.parse(text) as { nftables: Json[] }
    for (const entry of nftables) {
      const chain = entry['chain'] as Chain | undefined
      if (chain) this.chains.set(keyOf(chain, chain.name), { ...chain, rules: [] })
      const set = (entry['set'] ?? entry['map']) as { family: string; table: string; name: string; elem?: unknown[] }
      if (set) this.sets.set(keyOf(set, set.name), set.elem ?? [])
    }
    for (const entry of nftables) {
      const rule = entry['rule'] as { family: string; table: string; chain: string; expr: Json[] } | undefined
      if (rule) this.chains.get(keyOf(rule, rule.chain))?.rules.push(rule.expr)
    }
  }

  /** address: as src/address.ts has it. */
  translates(address: string): boolean {
    const family = address.length === 8 ? 'ip' : 'ip6'
    for (const chain of this.chains.values())
      if (
        chain.hook === 'prerouting' &&
        (chain.family === family || chain.family === 'inet') &&
        this.walk(chain, address)
      )
        return true
    return false
  }

  private walk(chain: Chain, address: string): boolean {
    return chain.rules.some((expressions) => this.rule(chain, expressions, address))
  }

  private rule(chain: Chain, expressions: Json[], address: string): boolean {
    for (const expression of expressions) {
      const [kind = '', body] = Object.entries(expression)[0] ?? []
      if (kind === 'match' && !this.match(chain, body as Json, address)) return false
      if (kind === 'dnat' || kind === 'redirect' || kind === 'tproxy') return true
      if ((kind === 'jump' || kind === 'goto') && this.jump(chain, body, address)) return true
      if (kind === 'vmap' && this.vmap(chain, body as Json, address)) return true
    }
    return false
  }

  private jump(chain: Chain, body: unknown, address: string): boolean {
    const target = this.chains.get(keyOf(chain, (body as { target: string }).target))
    return target !== undefined && this.walk(target, address)
  }

  private vmap(chain: Chain, { key, data }: Json, address: string): boolean {
    const place = destinationIn(key, chain)
    for (const entry of this.elements(chain, data)) {
      const [value, verdict] = entry as [unknown, Json]
      const [kind = '', body] = Object.entries(verdict)[0] ?? []
      if (kind !== 'jump' && kind !== 'goto') continue
      if (place && (place.family !== familyOf(address) || !holds(partOf(value, place.at), address))) continue
      if (this.jump(chain, body, address)) return true
    }
    return false
  }

  private match(chain: Chain, { op, left, right }: Json, address: string): boolean {
    const nfproto = ((left as Json)['meta'] as Json | undefined)?.['key'] === 'nfproto'
    if (nfproto && op !== '!=') return right === (address.length === 8 ? 'ipv4' : 'ipv6')
    const masked = (left as Json)['&'] as [unknown, string] | undefined
    const place = destinationIn(masked ? masked[0] : left, chain)
    if (!place) return ofFamily(left, address)
    if (place.family !== familyOf(address)) return false
    if (masked)
      return op === '!=' || leading(address, masked[1]) === leading(parseAddress(right as string) ?? '', masked[1])
    switch (op) {
      case '!=':
        return true
      case '<':
      case '<=':
        return address <= (parseAddress(right as string) ?? '')
      case '>':
      case '>=':
        return address >= (parseAddress(right as string) ?? '')
      default: {
        if (typeof right === 'string' && !right.startsWith('@')) return holds(right, address)
        const listed = typeof right === 'string' || (right as Json)['set'] !== undefined
        if (!listed) return holds(right, address)
        return this.elements(chain, right).some((entry) => holds(partOf(entry, place.at), address))
      }
    }
  }

  private elements(chain: Chain, from: unknown): unknown[] {
    if (typeof from === 'string') return this.sets.get(keyOf(chain, from.slice(1))) ?? []
    return ((from as Json)['set'] as unknown[]) ?? []
  }
}

function keyOf({ family, table }: { family: string; table: string }, name: string): string {
  return `${family} ${table} ${name}`
}

function familyOf(address: string): string {
  return address.length === 8 ? 'ip' : 'ip6'
}

/** A comparison of another field of the network header tells the family, too. */
function ofFamily(left: unknown, address: string): boolean {
  const protocol = ((left as Json)['payload'] as Json | undefined)?.['protocol']
  return (protocol !== 'ip' && protocol !== 'ip6') || protocol === familyOf(address)
}

/** Which part of a key is the destination. */
function destinationIn(key: unknown, _chain: Chain): { family: string; at: number | null } | null {
  const parts = (key as Json)['concat'] as Json[] | undefined
  const isDestination = (part: Json) => (part['payload'] as Json | undefined)?.['field'] === 'daddr'
  const protocol = (part: Json) => String((part['payload'] as Json)['protocol'])
  if (!parts) return isDestination(key as Json) ? { family: protocol(key as Json), at: null } : null
  const at = parts.findIndex(isDestination)
  return at < 0 ? null : { family: protocol(parts[at] as Json), at }
}

function partOf(value: unknown, at: number | null): unknown {
  const inner = ((value as Json)?.['elem'] as Json | undefined)?.['val'] ?? value
  return at === null ? inner : ((inner as Json)['concat'] as unknown[])[at]
}

/** An address, {prefix} or {range} holds the address. */
function holds(value: unknown, address: string): boolean {
  if (typeof value === 'string') return parseAddress(value) === address
  const { prefix, range } = value as { prefix?: { addr: string; len: number }; range?: [string, string] }
  if (prefix) return bits(address).slice(0, prefix.len) === bits(parseAddress(prefix.addr) ?? '').slice(0, prefix.len)
  if (range) return address >= (parseAddress(range[0]) ?? '') && address <= (parseAddress(range[1]) ?? '')
  throw new Error(`the oracle does not know ${JSON.stringify(value)}`)
}

function bits(address: string): string {
  return [...address].map((digit) => Number.parseInt(digit, 16).toString(2).padStart(4, '0')).join('')
}

/** The bits before the first 0 of the mask. */
function leading(address: string, mask: string): string {
  const ones = /^1*/.exec(bits(parseAddress(mask) ?? ''))?.[0].length ?? 0
  return bits(address).slice(0, ones)
}
