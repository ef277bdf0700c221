import { cpus } from 'node:os'
import t from 'tap'
import { native } from '../../src/native.js'
import { bpffs, scratch, standin, uint32 } from './support.js'

const objectFile = standin(scratch(t))
const object = native().loadObject({ objectFile, sizes: { table: 70000 } })
t.teardown(() => object.close())

const value = (n: number): Buffer => Buffer.concat([uint32(n), Buffer.alloc(4)])

t.test('a map says its name, type, sizes and the size that was set before loading', async (t) => {
  t.match(object.map('table').info, { name: 'table', type: 1, keySize: 4, valueSize: 8, maxEntries: 70000 })
  t.match(object.map('counts').info, { type: 6, valueSize: 8 }, 'per-CPU values are rounded up to 8')
  t.match(object.map('control').info, { name: '.data.control', valueSize: 24 })
})

t.test('single entries are written, read and deleted, with the flags of update', async (t) => {
  const map = object.map('table')
  t.equal(map.lookup(uint32(1)), null)
  map.update(uint32(1), value(11))
  t.same(map.lookup(uint32(1)), value(11))
  t.throws(() => map.update(uint32(1), value(12), 1), {
    code: 'EEXIST',
    errno: 17,
    syscall: 'bpf(BPF_MAP_UPDATE_ELEM)'
  })
  t.throws(() => map.update(uint32(2), value(12), 2), { code: 'ENOENT' })
  t.equal(map.delete(uint32(1)), true)
  t.equal(map.delete(uint32(1)), false)
})

t.test('a batch is written, dumped completely and deleted, absent keys passed over', async (t) => {
  const map = object.map('table')
  const count = 60000
  const keys = uint32(...Array.from({ length: count }, (_, i) => i * 3))
  const values = Buffer.concat(Array.from({ length: count }, (_, i) => value(i)))
  t.equal(map.updateBatch(keys, values, count), count)
  const dump = map.dump()
  t.equal(dump.count, count)
  const seen = new Map(
    Array.from({ length: count }, (_, i) => [dump.keys.readUInt32LE(i * 4), dump.values.readUInt32LE(i * 8)])
  )
  t.equal(seen.size, count)
  t.ok([...seen].every(([key, v]) => key === v * 3))
  const half = uint32(...Array.from({ length: count }, (_, i) => i)) // every third is there
  t.equal(map.deleteBatch(half, count), count / 3)
  t.equal(map.dump().count, count - count / 3)
  t.equal(map.deleteBatch(keys, count), count - count / 3)
  t.equal(map.dump().count, 0)
})

t.test('a hash map is read in parts, each entry once, while others come and go', async (t) => {
  const map = object.map('table')
  const count = 50_000
  const keys = uint32(...Array.from({ length: count }, (_, i) => i))
  map.updateBatch(keys, Buffer.concat(Array.from({ length: count }, (_, i) => value(i))), count)
  const seen = new Set<number>()
  let entries = 0
  let position: Buffer | null = null
  let parts = 0
  do {
    const part = map.readBatch(position, 1000)
    t.ok(part.count <= 1000)
    for (let at = 0; at < part.count; at++) {
      const key = part.keys.readUInt32LE(4 * at)
      if (part.values.readUInt32LE(8 * at) !== key) t.fail(`the value of ${key}`)
      if (key < count) entries++
      seen.add(key)
    }
    map.delete(uint32(part.keys.readUInt32LE(0)))
    map.update(uint32(1_000_000 + parts), value(1_000_000 + parts))
    parts++
    position = part.next
  } while (position)
  t.equal(entries, seen.size - [...seen].filter((key) => key >= count).length, 'none twice')
  for (let key = 0; key < count; key++) if (!seen.has(key)) t.fail(`${key} was not read`)
  map.deleteBatch(uint32(...seen), seen.size)
  for (let at = 0; at < parts; at++) map.delete(uint32(1_000_000 + at))
  t.match(map.readBatch(null, 1), { count: 0, next: null })
  t.throws(() => map.readBatch(Buffer.alloc(3), 1), TypeError)
  t.throws(() => map.readBatch(null, 0), TypeError)
  t.throws(() => object.map('counts').readBatch(null, 1), { code: 'EINVAL' })
})

t.test('a batch that fails on the way says how many entries it wrote', async (t) => {
  const map = object.map('table')
  const small = native().loadObject({ objectFile, sizes: { table: 100 } })
  const keys = uint32(...Array.from({ length: 150 }, (_, i) => i))
  t.throws(() => small.map('table').updateBatch(keys, Buffer.alloc(150 * 8), 150), { code: 'E2BIG', written: 100 })
  t.equal(small.map('table').dump().count, 100)
  small.close()
  t.equal(map.dump().count, 0, 'the other object has a map of its own')
})

t.test('a trie takes batches and is dumped with each prefix once', async (t) => {
  const map = object.map('prefixes')
  const count = 100000
  const keys = Buffer.alloc(count * 8)
  for (let i = 0; i < count; i++) {
    keys.writeUInt32LE(32, i * 8)
    keys.writeUInt32BE(0x0a000000 + i, i * 8 + 4)
  }
  const values = uint32(...Array.from({ length: count }, (_, i) => i))
  t.equal(map.updateBatch(keys, values, count), count)
  const dump = map.dump()
  t.equal(dump.count, count)
  const seen = new Set(Array.from({ length: count }, (_, i) => dump.keys.readUInt32BE(i * 8 + 4)))
  t.equal(seen.size, count)
  t.same(map.lookup(keys.subarray(8, 16)), uint32(1))
  t.equal(map.deleteBatch(keys, count), count)
  t.equal(map.dump().count, 0)
})

t.test('arrays are dumped whole and refuse deletion', async (t) => {
  const map = object.map('rows')
  map.update(uint32(63), uint32(5))
  const dump = map.dump()
  t.equal(dump.count, 64)
  t.equal(dump.values.readUInt32LE(63 * 4), 5)
  t.same(map.dumpPresent(), { keys: uint32(63), values: uint32(5), count: 1 }, 'or without rows of zeros')
  t.throws(() => map.delete(uint32(63)), { code: 'EINVAL' })
  t.throws(() => map.update(uint32(64), uint32(1)), { code: 'E2BIG' })
})

t.test('a per-CPU value is that of all CPUs joined', async (t) => {
  const map = object.map('counts')
  const one = map.lookup(uint32(1)) as Buffer
  t.ok(one.length >= cpus().length * 8 && one.length % 8 === 0)
  map.update(uint32(1), Buffer.alloc(one.length, 1))
  t.equal((map.lookup(uint32(1)) as Buffer).readUInt32LE(0), 0x01010101)
  t.equal(map.dump().values.length, one.length * 4)
  t.same(map.dumpPresent(), map.dump())
})

t.test('a ring buffer cannot be dumped', async (t) => {
  t.throws(() => object.map('records').dump(), { code: 'EOPNOTSUPP', message: /records/ })
})

t.test('wrong arguments are TypeErrors that say what is wanted', async (t) => {
  const map = object.map('table')
  const bad = (work: () => unknown, message: string | RegExp) => t.throws(work, { name: 'TypeError', message })
  bad(() => map.lookup(Buffer.alloc(3)), 'lookup: key must be 4 bytes, not 3')
  bad(() => map.lookup('x' as never), 'lookup: key must be a Buffer')
  bad(() => map.lookup(undefined as never), /must be a Buffer/)
  bad(() => map.update(uint32(1), Buffer.alloc(9)), 'update: value must be 8 bytes, not 9')
  bad(() => map.update(uint32(1), value(1), 3), 'update: flags must be an integer from 0 to 2')
  bad(() => map.updateBatch(uint32(1, 2), value(1), 2), /values must be 16 bytes, not 8/)
  bad(() => map.updateBatch(uint32(1, 2), value(1), -1), /count must be an integer/)
  bad(() => map.deleteBatch(uint32(1), 0.5), /count must be an integer/)
  bad(() => Reflect.apply(map.lookup, {}, [uint32(1)]), /Illegal invocation/)
  bad(() => Reflect.apply(map.lookup, object, [uint32(1)]), /Illegal invocation/)
})

t.test('a closed map says so, and closing twice is no error', async (t) => {
  const map = object.map('table')
  map.close()
  map.close()
  t.throws(() => map.lookup(uint32(1)), { code: 'ERR_CLOSED', message: 'the BPF map table is closed' })
  t.throws(() => map.dump(), { code: 'ERR_CLOSED' })
  t.equal(object.map('table').lookup(uint32(9)), null, 'another handle is not touched')
})

t.test('a map is pinned, and is the same one when it is opened there', async (t) => {
  const path = `${bpffs(t)}/table`
  const map = object.map('table')
  map.pin(path)
  t.equal(native().openPinnedMap(path).info.id, map.info.id)
  t.throws(() => map.pin(path), { code: 'EEXIST', syscall: 'bpf(BPF_OBJ_PIN)', detail: path })
  t.throws(() => map.pin(`${scratch(t)}/table`), { code: 'EPERM' })
  t.throws(() => map.pin(''), TypeError)
  map.close()
  t.throws(() => map.pin(`${path}2`), { code: 'ERR_CLOSED' })
})
