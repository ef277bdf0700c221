// nf_tables: read once, then followed by its events, rule by rule and element
// by element.
//
// Only tables with a chain at hook prerouting count, and of hook forward those
// in which kube-proxy rejects what a Service without endpoints gets. A table is read while the
// events wait, and they are applied afterwards, in order: whatever a dump has
// caught of a change, the events bring it to the end. For the same reason an
// interrupted dump is repeated into what the first has brought: what is too
// much of it an event takes away.
//
// One loop does everything, so that nothing changes while something is read or
// evaluated. A table is evaluated only between transactions (NEWGEN ends one):
// what kube-proxy deletes and adds in one of them never vanishes.

import { type NativeError, type NetfilterSocket, type NetlinkReader, native } from '../native.js'
import { attribute, family, message, netfilterProtocol, nft, tablesGroup } from '../netfilter/nfnetlink.js'
import { DumpInbox } from '../netlink/dump-inbox.js'
import { Slice } from '../netlink/slice.js'
import { afterAttribute, attributeStop, attributeType, hasAttribute, latin1, textIn } from './attributes.js'
import { collect, type Unlimited } from './collect.js'
import { anything, nothing } from './elements.js'
import { messagesIn, type TableMessage } from './messages.js'
import { decodeRule } from './nft-rules.js'
import { applyElements, applyHead, isAnonymous, loadSet, readElementsHead, readSetHead } from './nft-sets.js'
import { describeRule } from './nft-text.js'
import type { Limit } from './ranges.js'
import { mostDescribed, type Publish, type SourceResult, type UnboundedRule } from './result.js'
import { type AddressSet, Ruleset } from './ruleset.js'

interface Table {
  key: string
  family: number
  name: string
  ruleset: Ruleset
}

interface ChainHead {
  table: string
  name: string
  /** It stands at a hook where its rules count. */
  base: boolean
}

/** NF_INET_* */
const prerouting = 0
const forward = 2
const familyNames: Readonly<Record<number, string>> = { [family.ip]: 'ip', [family.ip6]: 'ip6', [family.inet]: 'inet' }
const starts: Readonly<Record<number, Limit>> = {
  [family.ip]: { 4: 'all', 6: nothing[6] },
  [family.ip6]: { 4: nothing[4], 6: 'all' },
  [family.inet]: anything
}
/** Events that wait, while a table is read: more are given up, and all is read again. */
const mostQueued = 64 << 20
const mostDumps = 5
/** Elements of an anonymous set that are taken from events; a larger one is read when it is needed. */
const mostOfEvents = 4096
/**
 * Sets that are read in any case. Of more the anonymous verdict maps that do not
 * ask for the destination (one for each Service in kube-proxy's nftables mode)
 * are taken to translate: the kernel finds a set by going through all of them.
 */
const mostRead = 256
/** Share of a CPU that evaluating may take, as its inverse. */
const pause = 9
const longestPause = 2_000
/** What the kernel answers without nf_tables, and when the table has gone. */
const notThere: ReadonlySet<string> = new Set(['EINVAL', 'ENOENT', 'EOPNOTSUPP', 'EPROTONOSUPPORT'])

export class TablesReader {
  private readonly tables = new Map<string, Table>()
  private readonly published = new Set<string>()
  private queue: Buffer[] = []
  private queued = 0
  /** Events were lost: everything has to be read. */
  private lost = true
  private inTransaction = false
  private readonly toRead = new Set<string>()
  private readonly changed = new Set<string>()
  private notBefore = 0
  private closed = false
  private wake: () => void = () => {}
  private socket: NetfilterSocket | null = null
  private events: NetlinkReader | null = null
  private running: Promise<void> = Promise.resolve()

  constructor(
    private readonly publish: Publish,
    private readonly onProblem: (text: string) => void
  ) {}

  /** Resolves when everything that is there has been published. */
  async start(): Promise<void> {
    try {
      this.socket = native().openNetfilter(false)
      this.events = native().openNetlinkReader(
        { protocol: netfilterProtocol, groups: [tablesGroup], receiveBuffer: 16 << 20, batchBytes: 128 << 10 },
        (bytes, overrun) => this.receive(bytes, overrun)
      )
    } catch (error) {
      this.onProblem(`nf_tables cannot be followed: ${(error as Error).message}`)
      return
    }
    try {
      await this.readAll()
      await this.evaluateChanged()
      this.notBefore = 0
    } catch (error) {
      this.failed(error)
    }
    this.running = this.loop()
  }

  async close(): Promise<void> {
    this.closed = true
    this.events?.close()
    this.wake()
    await this.running
    this.socket?.close()
  }

  private receive(bytes: Buffer, overrun: boolean): void {
    if (overrun || this.queued + bytes.length > mostQueued) {
      this.queue = []
      this.queued = 0
      this.lost = true
    } else if (bytes.length > 0) {
      this.queue.push(bytes)
      this.queued += bytes.length
    }
    this.wake()
  }

  private async loop(): Promise<void> {
    while (!this.closed) {
      try {
        await this.turn()
      } catch (error) {
        if (this.closed) return
        this.failed(error)
        await new Promise((resolve) => setTimeout(resolve, 1_000).unref())
      }
    }
  }

  private failed(error: unknown): void {
    this.lost = true
    this.onProblem(`nf_tables could not be read: ${(error as Error).message}; it is read again`)
  }

  private async turn(): Promise<void> {
    const now = performance.now()
    const due = this.changed.size > 0 && !this.inTransaction && now >= this.notBefore
    if (this.lost) await this.readAll()
    else if (this.queue.length > 0 && !(due && now > this.notBefore + longestPause)) await this.applyNext()
    else if (this.toRead.size > 0) await this.read([...this.toRead])
    else if (due) await this.evaluateChanged()
    else await this.rest(this.changed.size > 0 && !this.inTransaction ? this.notBefore - now : null)
  }

  /** Until something comes, or for so many milliseconds. */
  private async rest(milliseconds: number | null): Promise<void> {
    let timer: NodeJS.Timeout | undefined
    await new Promise<void>((resolve) => {
      this.wake = resolve
      if (milliseconds !== null) timer = setTimeout(resolve, milliseconds).unref()
    })
    clearTimeout(timer)
    this.wake = () => {}
  }

  /** From here on events count. */
  private async readAll(): Promise<void> {
    this.lost = false
    this.inTransaction = false
    this.toRead.clear()
    for (const key of this.tables.keys()) this.changed.add(key)
    this.tables.clear()
    await this.read(null)
  }

  /** keys: null for all. */
  private async read(keys: string[] | null): Promise<void> {
    const slice = new Slice()
    const bases = new Map<string, { family: number; table: string; chains: Set<string> }>()
    await this.dump(nft.getChain, 0, [], slice, ({ bytes, type, family, at, end }) => {
      const head = type === nft.newChain ? readChain(bytes, at, end) : null
      const table = head?.base ? head.table : ''
      const key = keyOf(family, table)
      if (!head?.base || key === null || (keys && !keys.includes(key))) return
      const entry = bases.get(key) ?? { family, table, chains: new Set() }
      entry.chains.add(head.name)
      bases.set(key, entry)
    })
    for (const key of keys ?? []) {
      this.toRead.delete(key)
      this.tables.delete(key)
      this.changed.add(key)
    }
    for (const [key, { family, table, chains }] of bases) {
      const ruleset = new Ruleset(starts[family] as Limit, table === 'kube-proxy')
      for (const chain of chains) ruleset.chain(chain).base = true
      const named = [attribute(1, latin1(table))]
      await this.dump(nft.getRule, family, named, slice, ({ bytes, type, at, end }) => {
        if (type !== nft.newRule) return
        const rule = decodeRule(bytes, at, end, ruleset)
        if (rule?.effect) ruleset.chain(rule.chain).rules.put(rule.handle, rule.effect)
      })
      this.tables.set(key, { key, family, name: table, ruleset })
      this.changed.add(key)
    }
  }

  private async dump(
    type: number,
    of: number,
    attributes: Buffer[],
    slice: Slice,
    take: (message: TableMessage) => void
  ): Promise<void> {
    for (let number = 0; number < mostDumps && !this.closed; number++) {
      const body = message(type, of, 0, attributes).subarray(16)
      const inbox = new DumpInbox({ protocol: netfilterProtocol, type: (10 << 8) | type, body })
      for (let chunk = await inbox.next(); chunk; chunk = await inbox.next()) {
        for (const each of messagesIn(chunk)) {
          take(each)
          if (slice.due()) await slice.rest()
        }
      }
      if (inbox.failure) {
        if (notThere.has((inbox.failure as NativeError).code)) return
        throw inbox.failure
      }
      if (!inbox.interrupted) return
    }
    this.onProblem('nf_tables changes faster than it can be read; what has been read so far counts')
  }

  private async applyNext(): Promise<void> {
    const bytes = this.queue.shift() as Buffer
    this.queued -= bytes.length
    const slice = new Slice()
    for (const each of messagesIn(bytes)) {
      this.apply(each)
      if (slice.due()) await slice.rest()
    }
  }

  private apply(message: TableMessage): void {
    const { type, bytes, at, end, family } = message
    if (type === nft.newGeneration) {
      this.inTransaction = false
      return
    }
    if (type < 0 || type > nft.delSetElement) return
    this.inTransaction = true
    const key = keyOf(family, tableName(bytes, at, end))
    if (key === null) return
    const table = this.tables.get(key)
    if (type === nft.delTable) {
      this.tables.delete(key)
      this.toRead.delete(key)
      if (table) this.changed.add(key)
    } else if (table) {
      if (applyTo(table, message)) this.changed.add(key)
    } else if (type === nft.newChain && readChain(bytes, at, end)?.base) this.toRead.add(key)
  }

  /** All that changed, at once: a Service that loses its endpoints goes from one table to another. */
  private async evaluateChanged(): Promise<void> {
    const before = process.cpuUsage()
    const results: [string, SourceResult | null][] = []
    for (const key of [...this.changed]) {
      const table = this.tables.get(key)
      if (table) results.push([key, await this.evaluate(table)])
      else if (this.published.has(key)) results.push([key, null])
    }
    this.changed.clear()
    this.publish(results)
    for (const [key, result] of results) {
      if (result) this.published.add(key)
      else this.published.delete(key)
    }
    const { user, system } = process.cpuUsage(before)
    this.notBefore = performance.now() + Math.min(longestPause, (pause * (user + system)) / 1000)
  }

  private async evaluate({ family, name, ruleset }: Table): Promise<SourceResult> {
    const slice = new Slice()
    const load = async (set: AddressSet): Promise<void> => {
      await loadSet(this.socket as NetfilterSocket, family, name, ruleset, set, slice)
      if (slice.due(true)) await slice.rest()
    }
    const missing = [...ruleset.sets.values()].filter((set) => !set.loaded && !set.assumed)
    for (const set of missing) {
      if (missing.length <= mostRead || set.byDestination || !set.name.startsWith('__')) await load(set)
      else set.assumed = true
    }
    let collected = await collect(ruleset)
    for (let again = 0; collected.needed.size > 0 && again < 16; again++) {
      for (const set of collected.needed) await load(set)
      collected = await collect(ruleset)
    }
    const { destinations, unlimited } = collected
    const ofIptables =
      family !== 1 && [...ruleset.chains.values()].some(({ base, name }) => base && /^(PREROUTING|FORWARD)$/.test(name))
    const kind = ofIptables ? 'iptables-nft' : 'nftables'
    const label = `table ${familyNames[family]} ${name}`
    return {
      kind,
      name: name === 'kube-proxy' ? name : label,
      destinations,
      unbounded: unlimited.slice(0, mostDescribed).map((rule): UnboundedRule => {
        const text = this.describe(family, name, rule)
        return { kind, family: familyNames[family] ?? '', table: name, ...rule, text }
      })
    }
  }

  private describe(family: number, table: string, { chain, handle }: Unlimited): string {
    const number = Buffer.alloc(8)
    number.writeBigUInt64BE(BigInt(handle))
    const named = [attribute(1, latin1(table)), attribute(2, latin1(chain)), attribute(3, number)]
    try {
      const answer = (this.socket as NetfilterSocket).request(message(nft.getRule, family, 0, named))
      for (const { bytes, type, at, end } of messagesIn(answer)) {
        if (type !== nft.newRule) continue
        for (let part = at; hasAttribute(bytes, part, end); part = afterAttribute(bytes, part))
          if (attributeType(bytes, part) === 4)
            return describeRule(bytes.subarray(part + 4, attributeStop(bytes, part)))
      }
    } catch {
      // it has gone: an event will say so
    }
    return ''
  }
}

/** true: what is translated may be something else now. */
function applyTo({ ruleset }: Table, { type, bytes, at, end }: TableMessage): boolean {
  switch (type) {
    case nft.newChain: {
      const head = readChain(bytes, at, end)
      if (!head?.base || ruleset.chain(head.name).base) return false
      ruleset.chain(head.name).base = true
      return true
    }
    case nft.delChain: {
      const head = readChain(bytes, at, end)
      const chain = head && ruleset.chains.get(head.name)
      if (!chain) return false
      chain.rules.clear()
      chain.base = false
      return ruleset.chains.delete(chain.name)
    }
    case nft.newRule: {
      const rule = decodeRule(bytes, at, end, ruleset)
      if (!rule?.effect) return false
      ruleset.chain(rule.chain).rules.put(rule.handle, rule.effect)
      return true
    }
    case nft.delRule: {
      const rule = decodeRule(bytes, at, end, null)
      return (rule && ruleset.chains.get(rule.chain)?.rules.remove(rule.handle)) ?? false
    }
    case nft.newSet: {
      const head = readSetHead(bytes, at, end)
      if (!isAnonymous(head)) return false
      const set = ruleset.set(head.name)
      applyHead(set, head)
      set.loaded = head.size <= mostOfEvents
      return false
    }
    case nft.delSet:
      ruleset.sets.delete(readSetHead(bytes, at, end).name)
      return false
    case nft.newSetElement:
    case nft.delSetElement: {
      const head = readElementsHead(bytes, at, end)
      const set = ruleset.sets.get(head.set)
      if (!set?.loaded) return false
      applyElements(ruleset, set, bytes, head.at, head.stop, type === nft.newSetElement)
      return true
    }
    default:
      return false
  }
}

/** null: of another family than those that count. */
function keyOf(of: number, table: string): string | null {
  const name = familyNames[of]
  return name === undefined ? null : `${name} ${table}`
}

/** Attribute 1 of all messages of nf_tables. */
function tableName(bytes: Buffer, from: number, end: number): string {
  for (let at = from; hasAttribute(bytes, at, end); at = afterAttribute(bytes, at))
    if (attributeType(bytes, at) === 1) return textIn(bytes, at + 4, attributeStop(bytes, at))
  return ''
}

function readChain(bytes: Buffer, from: number, end: number): ChainHead | null {
  let table = ''
  let name: string | null = null
  let hook = -1
  let type = ''
  for (let at = from; hasAttribute(bytes, at, end); at = afterAttribute(bytes, at)) {
    const stop = attributeStop(bytes, at)
    const attribute = attributeType(bytes, at)
    if (attribute === 1) table = textIn(bytes, at + 4, stop)
    else if (attribute === 3) name = textIn(bytes, at + 4, stop)
    else if (attribute === 7) type = textIn(bytes, at + 4, stop)
    else if (attribute === 4 && stop - at >= 12 && attributeType(bytes, at + 4) === 1) hook = bytes.readUInt32BE(at + 8)
  }
  if (name === null) return null
  const counts =
    (hook === prerouting && (type === 'nat' || type === 'filter')) ||
    (hook === forward && type === 'filter' && (table === 'kube-proxy' || table === 'filter'))
  return { table, name, base: counts }
}
