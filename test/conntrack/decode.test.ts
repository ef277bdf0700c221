// Entries as bytes: what is written reads as it was, and no bytes are too odd.

import t from 'tap'
import { hexAddress } from '../../src/address.js'
import { attributes, decodeEntry, type Entry, isTranslated, type Tuple } from '../../src/conntrack/entry.js'
import { Batch, messageType } from '../../src/conntrack/messages.js'
import { Malformed, messagesOf, nextMessage } from '../../src/netlink/bytes.js'

const tcp: Tuple = {
  source: hexAddress('0a000001'),
  destination: hexAddress('0a000002'),
  protocol: 6,
  sourcePort: 40_000,
  destinationPort: 443,
  type: 0,
  code: 0,
  zone: 0
}
const echo: Tuple = {
  ...tcp,
  source: hexAddress('fd000000000000000000000000000001'),
  destination: hexAddress('fd000000000000000000000000000002'),
  protocol: 58,
  sourcePort: 4711,
  destinationPort: 0,
  type: 128,
  zone: 7
}

function inverse(tuple: Tuple): Tuple {
  const { source, destination, sourcePort, destinationPort, protocol } = tuple
  const back = { ...tuple, source: destination, destination: source }
  return protocol === 58
    ? { ...back, type: 129 }
    : { ...back, sourcePort: destinationPort, destinationPort: sourcePort }
}

const entries: Entry[] = [
  {
    family: 4,
    original: tcp,
    reply: inverse(tcp),
    status: 0xe,
    timeout: 432_000,
    id: 0xfedcba98,
    zone: 3,
    tcp: { state: 3, flags: [8, 8] }
  },
  { family: 6, original: echo, reply: inverse(echo), status: 0x2, timeout: 30, id: 1, zone: 0, tcp: null }
]

function write(entry: Entry): Buffer {
  const batch = new Batch(1)
  batch.begin(messageType.new, 0, entry.family)
  batch.key(entry.family, entry.original, entry.zone)
  batch.tuple(attributes.entry.reply, entry.family, entry.reply)
  batch.u32(attributes.entry.status, entry.status)
  batch.u32(attributes.entry.timeout, entry.timeout)
  batch.u32(attributes.entry.id, entry.id)
  if (entry.tcp) batch.tcp(entry.tcp.state, entry.tcp.flags[0])
  batch.end()
  return Buffer.from(batch.content)
}

/** null: malformed. */
function read(bytes: Buffer): Entry | null {
  const cursor = messagesOf(bytes)
  if (nextMessage(cursor) !== 'message') return null
  try {
    return decodeEntry(bytes, cursor.body, cursor.end)
  } catch (error) {
    if (error instanceof Malformed) return null
    throw error
  }
}

t.test('an entry reads as it was written', async (t) => {
  for (const entry of entries) t.strictSame(read(write(entry)), entry)
})

t.test('translated is what the reply tells', async (t) => {
  for (const entry of entries) {
    t.notOk(isTranslated(entry), 'the inverse of the original')
    const changes: Partial<Tuple>[] = [
      { source: entry.original.source },
      { destination: entry.original.destination },
      { sourcePort: 9 }
    ]
    for (const change of changes) t.ok(isTranslated({ ...entry, reply: { ...entry.reply, ...change } }))
  }
})

t.test('bytes that contradict themselves are malformed, and nothing outside of a message is read', async (t) => {
  let malformed = 0
  let seed = 1
  const random = (limit: number) => {
    seed = (Math.imul(seed, 1_103_515_245) + 12_345) & 0x7fffffff
    return seed % limit
  }
  for (const entry of entries) {
    const whole = write(entry)
    for (let length = 16; length < whole.length; length++) {
      const cut = Buffer.from(whole.subarray(0, length))
      cut.writeUInt32LE(length, 0)
      if (read(cut) === null) malformed++
    }
    for (let turn = 0; turn < 20_000; turn++) {
      const odd = Buffer.from(whole)
      for (let change = 0; change <= random(4); change++) odd[16 + random(odd.length - 16)] = random(256)
      if (read(odd) === null) malformed++
    }
  }
  t.ok(malformed > 1000, `${malformed} were malformed, none was read past its end`)
})
