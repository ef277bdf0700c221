// A rule of nf_tables in a few words, for people: what it asks of a packet, as
// far as that is plain, and what it does.

import { addressIn, formatAddress } from '../address.js'
import type { Attribute } from '../netfilter/nfnetlink.js'
import { attributesOf, textOf } from '../netfilter/nfnetlink.js'

/** value: of NFTA_RULE_EXPRESSIONS. */
export function describeRule(value: Buffer): string {
  const words: string[] = []
  const labels = new Map<number, string>()
  for (const [name, data] of expressionsOf(value)) {
    const number = (type: number) => data.get(type)?.readUInt32BE(0) ?? 0
    switch (name) {
      case 'payload':
        labels.set(number(1), payloadLabel(number(2), number(3), number(4)))
        break
      case 'meta':
        labels.set(number(1), metaLabels[number(2)] ?? '')
        break
      case 'cmp': {
        const label = labels.get(number(1))
        const content = data.get(3)
        const word = label && content ? valueText(label, attributesOf(content).get(1) ?? Buffer.alloc(0)) : null
        if (label && word !== null) words.push(`${label} ${number(2) === 1 ? '!= ' : ''}${word}`)
        break
      }
      case 'lookup':
        if (labels.get(number(2)))
          words.push(`${labels.get(number(2))} ${number(5) & 1 ? '!= ' : ''}@${textOf(data.get(1)) ?? ''}`)
        break
      case 'match':
        words.push(`-m ${textOf(data.get(1)) ?? ''}`)
        break
      case 'target':
        words.push(`-j ${textOf(data.get(1)) ?? ''}`)
        break
      case 'nat':
        words.push('dnat')
        break
      case 'redir':
        words.push('redirect')
        break
      case 'tproxy':
        words.push('tproxy')
        break
    }
  }
  return words.join(' ')
}

function* expressionsOf(value: Buffer): Generator<[string, Map<number, Buffer>]> {
  for (const { value: expression } of listOf(value)) {
    const parts = attributesOf(expression)
    const name = textOf(parts.get(1))
    if (name !== null) yield [name, attributesOf(parts.get(2) ?? Buffer.alloc(0))]
  }
}

/** Attributes that may come several times. */
function* listOf(bytes: Buffer): Generator<Attribute> {
  for (let offset = 0; offset + 4 <= bytes.length; ) {
    const length = bytes.readUInt16LE(offset)
    if (length < 4 || offset + length > bytes.length) return
    yield { type: bytes.readUInt16LE(offset + 2) & 0x3fff, value: bytes.subarray(offset + 4, offset + length) }
    offset += (length + 3) & ~3
  }
}

/** NFT_META_* */
const metaLabels: Readonly<Record<number, string>> = { 3: 'mark', 6: 'iifname', 7: 'oifname', 16: 'l4proto' }

function payloadLabel(base: number, offset: number, length: number): string {
  if (base === 2 && length === 2) return offset === 0 ? 'sport' : offset === 2 ? 'dport' : ''
  if (base !== 1) return ''
  if ((offset === 12 && length === 4) || (offset === 8 && length === 16)) return 'saddr'
  if ((offset === 16 && length === 4) || (offset === 24 && length === 16)) return 'daddr'
  return offset === 9 && length === 1 ? 'l4proto' : ''
}

const protocols: Readonly<Record<number, string>> = { 6: 'tcp', 17: 'udp', 132: 'sctp' }

function valueText(label: string, value: Buffer): string | null {
  switch (label) {
    case 'iifname':
    case 'oifname':
      return value.length < 16 && !value.includes(0) ? `${value.toString('latin1')}*` : textOf(value)
    case 'sport':
    case 'dport':
      return value.length >= 2 ? String(value.readUInt16BE(0)) : null
    case 'saddr':
    case 'daddr':
      return value.length === 4 || value.length === 16 ? formatAddress(addressIn(value, 0, value.length)) : null
    case 'l4proto':
      return protocols[value[0] ?? 0] ?? String(value[0] ?? 0)
    case 'mark':
      return value.length >= 4 ? `0x${value.readUInt32LE(0).toString(16)}` : null
    default:
      return null
  }
}
