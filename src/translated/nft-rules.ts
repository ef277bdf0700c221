// NEWRULE messages of nf_tables -> what a rule does to destinations.
//
// What is not understood does not limit: an expression that is not known and
// may write a register makes that register unknown. Names are kept as latin1,
// byte by byte.

import { afterAttribute, attributeStop, attributeType, hasAttribute, textIn } from './attributes.js'
import { isOwnType, nothing } from './elements.js'
import { intersect, type Limit } from './ranges.js'
import { compare, type Finding, Registers } from './registers.js'
import type { Effect, Lookup, Ruleset } from './ruleset.js'
import { matchLimit, translatingTargets } from './xtables.js'

/** NF_DROP */
export const drop = 0
/** NFTA_RULE_* */
const ruleChain = 2
const ruleHandle = 3
const ruleExpressions = 4

/** Which attribute of an expression is the register that it writes. */
const writes: Readonly<Record<string, number>> = {
  byteorder: 2,
  ct: 1,
  exthdr: 1,
  hash: 2,
  numgen: 1,
  osf: 1,
  rt: 1,
  socket: 2,
  tunnel: 2,
  xfrm: 1
}
const writesNone: ReadonlySet<string> = new Set([
  'connlimit',
  'counter',
  'dup',
  'dynset',
  'flow_offload',
  'fwd',
  'last',
  'limit',
  'log',
  'masq',
  'notrack',
  'objref',
  'queue',
  'quota',
  'synproxy'
])

export interface DecodedRule {
  chain: string
  handle: number
  effect: Effect | null
}

const nothingThere = Buffer.alloc(0)

/** Where the payloads of the attributes of one expression are, by type. */
class Attributes {
  private readonly starts = new Int32Array(24)
  private readonly stops = new Int32Array(24)
  private bytes: Buffer = nothingThere

  read(bytes: Buffer, from: number, end: number): void {
    this.bytes = bytes
    this.starts.fill(0)
    for (let at = from; hasAttribute(bytes, at, end); at = afterAttribute(bytes, at)) {
      const stop = attributeStop(bytes, at)
      const type = attributeType(bytes, at)
      if (type >= 24) continue
      this.starts[type] = at + 4
      this.stops[type] = stop
    }
  }

  has(type: number): boolean {
    return (this.starts[type] as number) > 0
  }

  start(type: number): number {
    return this.starts[type] as number
  }

  stop(type: number): number {
    return this.stops[type] as number
  }

  number(type: number): number {
    const at = this.starts[type] as number
    return at > 0 && at + 4 <= (this.stops[type] as number) ? this.bytes.readUInt32BE(at) : 0
  }

  text(type: number): string {
    return this.has(type) ? textIn(this.bytes, this.start(type), this.stop(type)) : ''
  }

  raw(type: number): Buffer {
    return this.has(type) ? this.bytes.subarray(this.start(type), this.stop(type)) : nothingThere
  }

  /** NFTA_DATA_VALUE inside. */
  value(type: number): Buffer {
    const at = this.start(type)
    if (!this.has(type) || !hasAttribute(this.bytes, at, this.stop(type))) return nothingThere
    return this.bytes.subarray(at + 4, attributeStop(this.bytes, at))
  }
}

export interface Verdict {
  code: number
  chain: string | null
}

/** The chain of NFT_JUMP and NFT_GOTO. */
export function leadsTo({ code, chain }: Verdict): string | null {
  return code === -3 || code === -4 ? chain : null
}

/** The content of NFTA_DATA_VERDICT. */
export function readVerdict(bytes: Buffer, from: number, end: number): Verdict {
  const verdict: Verdict = { code: 1, chain: null }
  for (let at = from; hasAttribute(bytes, at, end); at = afterAttribute(bytes, at)) {
    const stop = attributeStop(bytes, at)
    const type = attributeType(bytes, at)
    if (type === 1 && stop - at >= 8) verdict.code = bytes.readInt32BE(at + 4)
    else if (type === 2) verdict.chain = textIn(bytes, at + 4, stop)
  }
  return verdict
}

const registers = new Registers()
const attributes = new Attributes()

/** The message's attributes lie in [from, end). ruleset null: without the effect. Returns null when it is no rule. */
export function decodeRule(bytes: Buffer, from: number, end: number, ruleset: Ruleset | null): DecodedRule | null {
  let chain: string | null = null
  let handle = 0
  let effect: Effect | null = null
  for (let at = from; hasAttribute(bytes, at, end); at = afterAttribute(bytes, at)) {
    const stop = attributeStop(bytes, at)
    const type = attributeType(bytes, at)
    if (type === ruleChain) chain = textIn(bytes, at + 4, stop)
    else if (type === ruleHandle && stop - at >= 12)
      handle = bytes.readUInt32BE(at + 4) * 0x1_0000_0000 + bytes.readUInt32BE(at + 8)
    else if (type === ruleExpressions && ruleset)
      effect = new RuleDecoder(ruleset, chain ?? '').read(bytes, at + 4, stop)
  }
  return chain === null ? null : { chain, handle, effect }
}

class RuleDecoder {
  private limit: Limit
  private lookups: Lookup[] = []
  private effect: Effect | null = null

  constructor(
    private readonly ruleset: Ruleset,
    private readonly chain: string
  ) {
    this.limit = ruleset.start
    const only4 = ruleset.start[6] !== 'all'
    const only6 = ruleset.start[4] !== 'all'
    registers.reset(only4 ? 4 : only6 ? 6 : null)
  }

  /** What comes behind the first translation or verdict is not asked, or asked in its turn. */
  read(bytes: Buffer, from: number, end: number): Effect | null {
    for (let at = from; hasAttribute(bytes, at, end) && !this.effect; at = afterAttribute(bytes, at))
      this.expression(bytes, at + 4, attributeStop(bytes, at))
    return this.effect
  }

  private expression(bytes: Buffer, from: number, end: number): void {
    if (!hasAttribute(bytes, from, end) || attributeType(bytes, from) !== 1) return
    const name = textIn(bytes, from + 4, attributeStop(bytes, from))
    const data = afterAttribute(bytes, from)
    const there = hasAttribute(bytes, data, end)
    attributes.read(bytes, there ? data + 4 : end, there ? attributeStop(bytes, data) : end)
    this.evaluate(name, bytes)
  }

  private evaluate(name: string, bytes: Buffer): void {
    switch (name) {
      case 'payload':
        this.payload()
        break
      case 'cmp':
        this.compare(attributes.number(1), attributes.number(2), attributes.value(3))
        break
      case 'bitwise':
        if (attributes.number(6) === 0) {
          registers.mask(attributes.number(1), attributes.number(2), attributes.value(4), attributes.value(5))
        } else registers.forget(attributes.number(2), attributes.number(3))
        break
      case 'range':
        if (attributes.number(2) === compare.equal)
          this.found(registers.between(attributes.number(1), attributes.value(3), attributes.value(4)))
        break
      case 'meta':
        this.meta(attributes.number(1), attributes.number(2))
        break
      case 'fib':
        this.fib(attributes.number(1), attributes.number(2), attributes.number(3))
        break
      case 'lookup':
        this.lookup()
        break
      case 'immediate':
        this.immediate(bytes)
        break
      case 'nat':
        if (attributes.number(1) === 1) this.end({ translates: true })
        break
      case 'redir':
      case 'tproxy':
        this.end({ translates: true })
        break
      case 'target':
        if (translatingTargets.has(attributes.text(1))) this.end({ translates: true })
        else if (attributes.text(1) === 'REJECT') this.reject()
        break
      case 'reject':
        this.reject()
        break
      case 'match':
        this.limit = matchLimit(attributes.text(1), attributes.number(2), attributes.raw(3), this.limit)
        break
      default: {
        const register = writes[name]
        if (register !== undefined) registers.forget(attributes.number(register))
        else if (!writesNone.has(name)) registers.forgetAll()
      }
    }
  }

  private payload(): void {
    const [base, offset, length] = [attributes.number(2), attributes.number(3), attributes.number(4)]
    // Written: the destination itself, without conntrack.
    if (!attributes.has(1)) {
      const start = this.ruleset.start
      const writesDestination =
        (start[4] === 'all' && offset < 20 && offset + length > 16) ||
        (start[6] === 'all' && offset < 40 && offset + length > 24)
      if (base === 1 && attributes.has(5) && writesDestination) this.end({ translates: true })
    } else if (base === 1) registers.loadNetwork(attributes.number(1), offset, length)
    else registers.forget(attributes.number(1), (length + 3) & ~3)
  }

  private compare(register: number, how: number, value: Buffer): void {
    if (how === compare.equal) this.found(registers.equals(register, value))
    else if (how === compare.less || how === compare.lessEqual) this.found(registers.between(register, null, value))
    else if (how === compare.greater || how === compare.greaterEqual)
      this.found(registers.between(register, value, null))
  }

  private found(finding: Finding): void {
    if (!finding) return
    if (finding.kind === 'type') {
      if (isOwnType(finding.type)) this.limit = nothing
      return
    }
    const only = finding.kind === 'destination' ? finding.only : 'all'
    const { family } = finding
    if (family === null) this.limit = nothing
    else {
      registers.know(family)
      const left = intersect(this.limit[family], only)
      const other = this.limit[family === 4 ? 6 : 4]
      if (left === this.limit[family] && other !== 'all' && other.length === 0) return
      this.limit = family === 4 ? { 4: left, 6: nothing[6] } : { 4: nothing[4], 6: left }
    }
  }

  private meta(register: number, key: number): void {
    if (attributes.has(3)) return // it sets
    if (key === 15) registers.loadFamily(register)
    else if (key === 1) registers.loadProtocol(register)
    else registers.forget(register, key === 6 || key === 7 ? 16 : 4)
  }

  /** The destination's type, as the routing table says. */
  private fib(register: number, result: number, flags: number): void {
    if (result === 3 && (flags & 2) !== 0 && (flags & 1) === 0) registers.loadType(register)
    else registers.forget(register)
  }

  private lookup(): void {
    const register = attributes.number(2)
    const to = attributes.has(3) ? attributes.number(3) : null
    const verdicts = to === 0
    if ((attributes.number(5) & 1) !== 0) return // anything but
    const field = registers.field(register)
    if (verdicts || field) {
      const set = this.ruleset.set(attributes.text(1))
      if (field) set.byDestination = true
      if (verdicts) this.end({ verdicts: { set, field } })
      else this.lookups.push({ set, field })
    }
    if (to !== null && !verdicts) registers.forget(to)
  }

  private immediate(bytes: Buffer): void {
    const register = attributes.number(1)
    if (register !== 0) {
      registers.forget(register)
      return
    }
    // NFTA_DATA_VERDICT inside.
    const from = attributes.start(2)
    if (!attributes.has(2) || !hasAttribute(bytes, from, attributes.stop(2))) return
    const verdict = readVerdict(bytes, from + 4, attributeStop(bytes, from))
    if (verdict.code === drop) this.reject()
    const target = leadsTo(verdict)
    if (target !== null) this.end({ target: this.ruleset.chain(target) })
  }

  private reject(): void {
    if (this.ruleset.countsRejects(this.chain)) this.end({ rejects: true })
  }

  private end(end: Parameters<Ruleset['effect']>[2]): void {
    this.effect = this.ruleset.effect(this.limit, this.lookups, end)
  }
}
