// What programs write into a flow table that another one is about to replace.

import t from 'tap'
import { mergeRows } from '../../src/datapath/map-copy.js'
import { CODES, STRUCTS } from '../../src/maps/layout.js'
import { type BpfMap, type BpfObject, native } from '../../src/native.js'

const { flow, reverse } = STRUCTS
const copied = 100_000
type Fields = Record<string, number>

const objects = [1, 2].map(() => native().loadObject({ programs: ['merge'], sizes: { flows4: 64, reverse4: 64 } })) as [
  BpfObject,
  BpfObject
]
t.teardown(() => {
  for (const object of objects) object.close()
})
let rows = 0

/** Fields after merging a row of the old table; have null: the new one has no such row. */
function merged(
  name: 'flow' | 'reverse',
  was: Fields,
  have: Fields | null,
  since: number | null = copied
): Fields | null {
  const [from, to] = objects.map((object) => object.map(name === 'flow' ? 'flows4' : 'reverse4')) as [BpfMap, BpfMap]
  const key = Buffer.alloc(from.info.keySize)
  key.writeUInt32LE(++rows)
  from.update(key, encode(name, was))
  if (have) to.update(key, encode(name, have))
  mergeRows(from, objects[1], null, from.info.name, since)
  const value = to.lookup(key)
  from.delete(key)
  for (const map of [from, to]) map.close()
  return value && decode(name, value, Object.keys({ ...was, ...have }))
}

const bytes = new Set(['tcp', 'verdict', 'replied'])
const offsetOf = (name: 'flow' | 'reverse', field: string): number =>
  ({ ...(name === 'flow' ? flow : reverse).offset })[field as 'seen']

function encode(name: 'flow' | 'reverse', fields: Fields): Buffer {
  const value = Buffer.alloc(STRUCTS[name].size)
  for (const [field, number] of Object.entries(fields)) {
    if (bytes.has(field)) value.writeUInt8(number, offsetOf(name, field))
    else value.writeUInt32LE(number, offsetOf(name, field))
  }
  return value
}

function decode(name: 'flow' | 'reverse', value: Buffer, fields: string[]): Fields {
  const read = (field: string) =>
    bytes.has(field) ? value.readUInt8(offsetOf(name, field)) : value.readUInt32LE(offsetOf(name, field))
  return Object.fromEntries(fields.map((field) => [field, read(field)]))
}

const { SEEN_SYN, SEEN_ACK, SEEN_FIN, SEEN_REMOTE_FIN, SEEN_REMOTE_RST, SEEN_REMOTE_ACK } = CODES
const open = SEEN_SYN | SEEN_ACK
const quiet = { seen: copied - 500, tcp: open, expected: 7000 }

t.test('the remote says something to a pod that is silent', async (t) => {
  for (const [what, tcp] of Object.entries({ FIN: SEEN_REMOTE_FIN, both: SEEN_FIN | SEEN_REMOTE_FIN }))
    t.match(merged('flow', { ...quiet, tcp: open | tcp }, quiet), { ...quiet, tcp: open | tcp }, what)
  const asked = { seen: copied - 500, tcp: SEEN_SYN }
  const answered = { ...asked, tcp: SEEN_SYN | SEEN_REMOTE_ACK }
  t.match(merged('flow', answered, asked), answered, 'the ACK of its SYN-ACK')
  const reset = { ...quiet, tcp: open | SEEN_REMOTE_RST, expected: copied - 1998 }
  t.match(merged('flow', reset, quiet), reset, 'RST, and when')
})

t.test('a RST that was copied, and was none', async (t) => {
  const reset = { seen: copied - 800, tcp: open | SEEN_REMOTE_RST, expected: copied - 600 }
  const goesOn = { seen: copied + 5, tcp: open, expected: 9000 }
  t.match(merged('flow', reset, goesOn), goesOn)
  t.match(merged('flow', reset, goesOn, null), goesOn, 'also where it is not known when it was copied')
  const late = { ...reset, expected: copied + 3 }
  t.match(merged('flow', late, goesOn), { ...goesOn, ...late, seen: goesOn.seen }, 'one that came later')
})

t.test('the pod goes on by the old programs', async (t) => {
  const later = { seen: copied + 3, tcp: open, expected: 8000 }
  t.match(merged('flow', later, { ...quiet, tcp: SEEN_SYN }), later)
  t.match(merged('flow', later, { ...quiet, life: CODES.FLOW_DYING }), { ...later, life: CODES.FLOW_LIVE })
  const further = { seen: copied + 4, tcp: open, expected: 8500 }
  t.match(merged('flow', later, further), further, 'and by the new ones')
})

t.test('what has ended since stays so', async (t) => {
  const closed = { ...quiet, tcp: open | SEEN_FIN | SEEN_REMOTE_FIN }
  t.equal(merged('flow', closed, null), null)
  t.match(merged('flow', { ...quiet, seen: copied + 1 }, null), { seen: copied + 1 }, 'unless it is new')
  t.equal(merged('flow', { ...quiet, seen: copied + 1, life: CODES.FLOW_DEAD }, null), null)
  const dying = { ...closed, life: CODES.FLOW_DYING }
  t.match(merged('flow', closed, dying), dying, 'and what is about to end, unless somebody has spoken')
})

t.test('an answer by another way', async (t) => {
  const answered = { seen: copied + 2, replied: 6, tcp: SEEN_ACK }
  t.match(merged('reverse', answered, { seen: copied - 9, replied: 9, tcp: SEEN_SYN }), { ...answered, tcp: open })
  t.match(merged('reverse', answered, { seen: copied + 3, replied: 9 }), { seen: copied + 3, replied: 9 })
  t.match(merged('reverse', answered, { seen: copied - 9, replied: 0 }), answered)
})
