import { existsSync, mkdirSync, readdirSync, unlinkSync } from 'node:fs'
import t from 'tap'
import { native } from '../../src/native.js'
import { bpffs, scratch, standin, uint32 } from './support.js'

const directory = scratch(t)
const objectFile = standin(directory)
const pins = bpffs(t)

t.test('the embedded object loads, and only the programs that were asked for', async (t) => {
  const object = native().loadObject({ programs: [] })
  t.ok(object.map('devices').info.id > 0)
  t.throws(() => object.programId('from_pod'), { code: 'ENOENT', message: /no loaded program from_pod/ })
  object.close()
})

t.test('unknown names are refused with the name', async (t) => {
  t.throws(() => native().loadObject({ objectFile, programs: ['nix'] }), { code: 'ENOENT', message: /no program nix/ })
  t.throws(() => native().loadObject({ objectFile, sizes: { nix: 5 } }), { code: 'ENOENT', message: /no map nix/ })
  t.throws(() => native().loadObject({ object: 'nix' }), { code: 'ENOENT', message: /no BPF object nix/ })
  t.throws(() => native().loadObject({ objectFile: '/nonexistent' }), { code: 'ENOENT', message: /\/nonexistent/ })
  t.throws(() => native().loadObject({ sizes: { table: 'x' } } as never), { name: 'TypeError', message: /sizes.table/ })
  t.throws(() => native().loadObject({ programs: 'x' } as never), {
    name: 'TypeError',
    message: /programs must be an array/
  })
  t.throws(() => native().loadObject(undefined as never), { name: 'TypeError', message: /options must be an object/ })
})

t.test('a program the verifier refuses is named, with the end of the log as detail', async (t) => {
  try {
    native().loadObject({ objectFile: standin(directory, '-DBROKEN') })
    t.fail('loaded')
  } catch (error) {
    t.match(error, {
      code: 'EACCES',
      message: /cannot load program broken/,
      syscall: 'bpf(BPF_PROG_LOAD)',
      detail: /invalid mem access 'map_value_or_null'/
    })
    t.ok((error as { detail: string }).detail.length <= 4096)
  }
})

t.test('pinned maps are taken over with their entries and their size', async (t) => {
  const pinDirectory = `${pins}/take`
  mkdirSync(pinDirectory)
  const first = native().loadObject({ objectFile, pinDirectory, sizes: { table: 500 } })
  t.same(first.reused, [])
  t.same(readdirSync(pinDirectory).sort(), ['control', 'counts', 'prefixes', 'records', 'rows', 'table'])
  first.map('table').update(uint32(7), Buffer.alloc(8, 7))
  first.writeControl(4, uint32(2))
  first.close()
  const second = native().loadObject({ objectFile, pinDirectory, sizes: { table: 900 } })
  t.same(second.reused.sort(), ['control', 'counts', 'prefixes', 'records', 'rows', 'table'])
  t.equal(second.map('table').info.maxEntries, 500, 'changing the size would cost the entries')
  t.same(second.map('table').lookup(uint32(7)), Buffer.alloc(8, 7))
  t.same(second.readControl().subarray(0, 8), uint32(7, 2))
  second.close()
  const opened = native().openPinnedMap(`${pinDirectory}/table`)
  t.same(opened.lookup(uint32(7)), Buffer.alloc(8, 7))
  opened.close()
  t.throws(() => native().openPinnedMap(`${pinDirectory}/nix`), { code: 'ENOENT', detail: `${pinDirectory}/nix` })
})

t.test('pinned maps of another layout are refused and stay as they are', async (t) => {
  const pinDirectory = `${pins}/layout`
  mkdirSync(pinDirectory)
  native().loadObject({ objectFile, pinDirectory }).close()
  const wider = standin(directory, '-DVALUE=16')
  const newer = standin(directory, '-DLAYOUT=8')
  t.throws(() => native().loadObject({ objectFile: wider, pinDirectory }), {
    code: 'ELAYOUT',
    message: /the pinned map table is of another layout \(value size 8 instead of 16\)/,
    detail: `${pinDirectory}/table`
  })
  t.throws(() => native().loadObject({ objectFile: newer, pinDirectory }), {
    code: 'ELAYOUT',
    message: /layout 7, this version has layout 8/
  })
  const again = native().loadObject({ objectFile, pinDirectory })
  t.equal(again.reused.length, 6)
  again.close()
})

t.test('a set of pins that was never complete is made anew', async (t) => {
  const pinDirectory = `${pins}/half`
  mkdirSync(pinDirectory)
  const first = native().loadObject({ objectFile, pinDirectory })
  first.map('rows').update(uint32(0), uint32(9))
  first.close()
  unlinkSync(`${pinDirectory}/control`)
  const second = native().loadObject({ objectFile, pinDirectory })
  t.same(second.reused, [])
  t.same(second.map('rows').lookup(uint32(0)), uint32(0))
  t.ok(existsSync(`${pinDirectory}/control`))
  second.close()
})

t.test('a failed load leaves no pins behind', async (t) => {
  const pinDirectory = `${pins}/failed`
  mkdirSync(pinDirectory)
  t.throws(() => native().loadObject({ objectFile: standin(directory, '-DBROKEN'), pinDirectory }))
  t.same(readdirSync(pinDirectory), [])
})

t.test('pins outside a bpffs are refused', async (t) => {
  t.throws(() => native().loadObject({ objectFile, pinDirectory: directory }), /cannot load the BPF object/)
})

t.test('writes to the control section reach the programs at once', async (t) => {
  const object = native().loadObject({ objectFile })
  const data = Buffer.alloc(64)
  t.equal(object.testRun('from_pod', { data }).retval, 0)
  object.writeControl(4, uint32(2))
  t.equal(object.testRun('from_pod', { data }).retval, 2)
  object.writeControl(4, uint32(0xffffffff))
  t.equal(object.testRun('from_pod', { data }).retval, -1)
  object.writeControl(9, Buffer.from([1, 2, 3]))
  t.same(object.readControl().subarray(8, 16), Buffer.from([0, 1, 2, 3, 0, 0, 0, 0]))
  t.throws(() => object.writeControl(23, uint32(1)), { name: 'TypeError', message: /within the 24 bytes/ })
  t.throws(() => object.writeControl(-1, uint32(1)), { name: 'TypeError' })
  object.close()
})

t.test('programs of each kind run on made input', async (t) => {
  const object = native().loadObject({ objectFile })
  const data = Buffer.alloc(80, 1)
  const tc = object.testRun('other', { data, repeat: 100, ifindex: 1 })
  t.match(tc, { retval: 3, data })
  t.equal(tc.context.readUInt32LE(48), 1, 'the program saw the device')
  t.match(object.testRun('pass', { data }), { retval: 2, data })
  const context = uint32(10, 0)
  const call = object.testRun('emit', { context })
  t.equal(call.retval, 42)
  t.same(call.context, uint32(10, 10))
  t.throws(() => object.testRun('other', { data: Buffer.alloc(5) }), {
    code: 'EINVAL',
    syscall: 'bpf(BPF_PROG_TEST_RUN)'
  })
  t.throws(() => object.testRun('nix', { data }), { code: 'ENOENT', message: /nix/ })
  t.throws(() => object.testRun('other', { data: 5 } as never), { name: 'TypeError', message: /data must be a Buffer/ })
  t.ok(object.programId('other') > 0)
  object.close()
})

t.test('a closed object says so', async (t) => {
  const object = native().loadObject({ objectFile })
  const map = object.map('rows')
  object.close()
  object.close()
  for (const work of [
    () => object.map('rows'),
    () => object.readControl(),
    () => object.testRun('other', {}),
    () => object.programId('other'),
    () => object.attachTcx('other', 1)
  ])
    t.throws(work, { code: 'ERR_CLOSED', message: 'the BPF object is closed' })
  t.same(map.lookup(uint32(0)), uint32(0), 'a map of its lives on by itself')
})
