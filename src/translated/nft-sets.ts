// Sets and maps of nf_tables: their messages read, and their elements fetched
// when they are first needed.

import type { NativeError, NetfilterSocket } from '../native.js'
import { attribute, flag, message, netfilterProtocol, nft } from '../netfilter/nfnetlink.js'
import { DumpInbox } from '../netlink/dump-inbox.js'
import type { Slice } from '../netlink/slice.js'
import { afterAttribute, attributeStop, attributeType, hasAttribute, latin1, textIn } from './attributes.js'
import { messagesIn } from './messages.js'
import { drop, leadsTo, readVerdict } from './nft-rules.js'
import type { AddressSet, Chain, Ruleset } from './ruleset.js'

/** NFT_SET_* */
const setFlags = { anonymous: 1, interval: 4, evaluated: 0x20, concatenated: 0x80 } as const
const verdictType = 0xffffff00
/** Sets declared to be larger are read on another thread. */
const mostAtOnce = 1_000

export interface SetHead {
  name: string
  flags: number
  dataType: number
  /** Elements it is declared for; 0: not said. */
  size: number
}

/** The attributes of NEWSET lie in [from, end). */
export function readSetHead(bytes: Buffer, from: number, end: number): SetHead {
  const head: SetHead = { name: '', flags: 0, dataType: 0, size: 0 }
  for (let at = from; hasAttribute(bytes, at, end); at = afterAttribute(bytes, at)) {
    const stop = attributeStop(bytes, at)
    const type = attributeType(bytes, at)
    const number = stop - at >= 8 ? bytes.readUInt32BE(at + 4) : 0
    if (type === 2) head.name = textIn(bytes, at + 4, stop)
    else if (type === 3) head.flags = number
    else if (type === 6) head.dataType = number
    else if (type === 9 && stop - at >= 12 && attributeType(bytes, at + 4) === 1) head.size = bytes.readUInt32BE(at + 8)
  }
  return head
}

/** The set becomes what its head says, empty. */
export function applyHead(set: AddressSet, { flags, dataType }: SetHead): void {
  set.interval = (flags & setFlags.interval) !== 0
  set.concatenated = (flags & setFlags.concatenated) !== 0
  set.dynamic = (flags & setFlags.evaluated) !== 0
  set.verdicts = dataType === verdictType
  set.elements.clear()
}

export function isAnonymous({ flags }: SetHead): boolean {
  return (flags & setFlags.anonymous) !== 0
}

/** Name of the set and where its elements lie, of NEWSETELEM and DELSETELEM. */
export function readElementsHead(bytes: Buffer, from: number, end: number): { set: string; at: number; stop: number } {
  const head = { set: '', at: 0, stop: 0 }
  for (let at = from; hasAttribute(bytes, at, end); at = afterAttribute(bytes, at)) {
    const stop = attributeStop(bytes, at)
    const type = attributeType(bytes, at)
    if (type === 2) head.set = textIn(bytes, at + 4, stop)
    else if (type === 3) {
      head.at = at + 4
      head.stop = stop
    }
  }
  return head
}

/** Adds or removes the elements in [from, end). */
export function applyElements(
  ruleset: Ruleset,
  set: AddressSet,
  bytes: Buffer,
  from: number,
  end: number,
  add: boolean
): void {
  for (let at = from; hasAttribute(bytes, at, end); at = afterAttribute(bytes, at)) {
    const stop = attributeStop(bytes, at)
    let first = '*'
    let last = ''
    let flags = 0
    let chain: Chain | null = null
    for (let part = at + 4; hasAttribute(bytes, part, stop); part = afterAttribute(bytes, part)) {
      const inner = attributeStop(bytes, part)
      const type = attributeType(bytes, part)
      if (type === 1) first = valueIn(bytes, part + 4, inner)
      else if (type === 10) last = valueIn(bytes, part + 4, inner)
      else if (type === 3 && inner - part >= 8) flags = bytes.readUInt32BE(part + 4)
      else if (type === 2 && set.verdicts && add) chain = targetIn(ruleset, bytes, part + 4, inner)
    }
    const key = last !== '' ? `${first}-${last}` : (flags & 1) !== 0 ? `${first}/end` : first
    if (add) set.elements.set(key, chain)
    else set.elements.delete(key)
  }
}

function valueIn(bytes: Buffer, from: number, end: number): string {
  return hasAttribute(bytes, from, end) ? bytes.toString('hex', from + 4, attributeStop(bytes, from)) : ''
}

function targetIn(ruleset: Ruleset, bytes: Buffer, from: number, end: number): Chain | null {
  if (!hasAttribute(bytes, from, end) || attributeType(bytes, from) !== 2) return null
  const verdict = readVerdict(bytes, from + 4, attributeStop(bytes, from))
  if (verdict.code === drop) return ruleset.dropped
  const target = leadsTo(verdict)
  return target === null ? null : ruleset.chain(target)
}

/** Fetches a set from the kernel. One that is not there (any more) becomes empty. */
export async function loadSet(
  socket: NetfilterSocket,
  family: number,
  table: string,
  ruleset: Ruleset,
  set: AddressSet,
  slice: Slice
): Promise<void> {
  const named = [attribute(1, latin1(table)), attribute(2, latin1(set.name))]
  let small = false
  set.elements.clear()
  for (const { type, at, end, bytes } of messagesIn(socket.request(message(nft.getSet, family, 0, named)))) {
    if (type !== nft.newSet) continue
    const head = readSetHead(bytes, at, end)
    applyHead(set, head)
    small = head.size > 0 ? head.size <= mostAtOnce : isAnonymous(head)
  }
  set.loaded = true
  set.assumed = false
  if (set.dynamic) return
  const take = (chunk: Buffer) => {
    for (const { type, at, end, bytes } of messagesIn(chunk)) {
      if (type !== nft.newSetElement) continue
      const head = readElementsHead(bytes, at, end)
      applyElements(ruleset, set, bytes, head.at, head.stop, true)
    }
  }
  if (small) {
    take(socket.request(message(nft.getSetElement, family, flag.dump, named)))
    return
  }
  for (let again = 0; again < 5; again++) {
    const inbox = new DumpInbox({
      protocol: netfilterProtocol,
      type: (10 << 8) | nft.getSetElement,
      body: message(nft.getSetElement, family, 0, named).subarray(16)
    })
    for (let chunk = await inbox.next(); chunk; chunk = await inbox.next()) {
      take(chunk)
      if (slice.due(true)) await slice.rest()
    }
    if (inbox.failure && (inbox.failure as NativeError).code !== 'ENOENT') throw inbox.failure
    if (inbox.failure || !inbox.interrupted) return
  }
}
