// Each child works in a namespace of its own with the veth pair va - vb.
// Mostly waits: for packets.
import { readFileSync } from 'node:fs'
import t, { type Test } from 'tap'
import { bpffs, childJson, inside, namespace, scratch, standin } from './support.js'

t.setTimeout(180_000)

const objectFile = JSON.stringify(standin(scratch(t)))
const pins = bpffs(t)
/** From Linux 6.6 on. */
const hasTcx = / tcx_link_attach$/m.test(readFileSync('/proc/kallsyms', 'utf8'))
function tcxTest(name: string, body: (t: Test) => Promise<void>): void {
  if (hasTcx) void t.test(name, body)
}

function pair(t: Test, suffix: string): string {
  const name = namespace(t, suffix)
  inside(name, 'ip', 'link', 'add', 'va', 'type', 'veth', 'peer', 'name', 'vb')
  for (const device of ['va', 'vb']) inside(name, 'ip', 'link', 'set', device, 'up')
  return name
}

const ready = `
const { existsSync } = await import('node:fs')
const index = device => Number(execFileSync('ip', ['-o', 'link', 'show', device], { encoding: 'utf8' }).split(':')[0])
const object = native.loadObject({ objectFile: ${objectFile} })
const a = index('va')
const packets = () => { const v = object.map('counts').lookup(Buffer.alloc(4)); let n = 0; for (let i = 0; i < v.length; i += 8) n += v.readUInt32LE(i); return n }
// A multicast from vb arrives at va.
const seen = () => { const before = packets(); try { execFileSync('ping', ['-q', '-c', '1', '-W', '1', '-I', 'vb', 'ff02::1'], { stdio: 'ignore' }) } catch {} return packets() > before }
`

if (!hasTcx) {
  t.test('a kernel without TCX refuses it with EINVAL, and clsact is there', async (t) => {
    const result = await childJson<object>(
      t,
      `${ready}
      const refused = attempt(() => object.attachTcx('from_pod', a))
      const before = seen()
      object.attachClsact('from_pod', a, 5)
      console.log(JSON.stringify({ refused, before, after: seen() }))`,
      { namespace: pair(t, 'old') }
    )
    t.match(result, { refused: /EINVAL cannot attach from_pod to device \d+/, before: false, after: true })
  })
}

t.test('what hangs on a device by links is listed, with its name', async (t) => {
  const listed = await childJson<object>(
    t,
    `${ready}
    const list = () => native.attachedPrograms(a)
    const tcx = ${hasTcx} ? [object.linkTcx('from_pod', a)] : []
    const found = list()
    for (const link of tcx) link.close()
    const name = native.programName(object.programId('from_pod'))
    console.log(JSON.stringify({ found, id: object.programId('from_pod'), name, after: list(), none: native.attachedPrograms(65000), gone: native.programName(2 ** 31) }))`,
    { namespace: pair(t, 'list') }
  )
  const { id } = listed as { id: number }
  t.strictSame(listed, {
    found: hasTcx ? [{ how: 'tcx', where: 'ingress', id }] : [],
    id,
    name: 'from_pod',
    after: [],
    none: [],
    gone: null
  })
})

tcxTest('a TCX link is pinned, replaced in place, found defunct, and detached', async (t) => {
  const name = pair(t, 'tcx')
  const pin = JSON.stringify(`${pins}/link-a`)
  const first = await childJson<object>(
    t,
    `${ready}
    const attached = object.attachTcx('from_pod', a, ${pin})
    const sees = seen()
    console.log(JSON.stringify({ attached, sees, pinned: existsSync(${pin}) }))`,
    { namespace: name }
  )
  t.same(first, { attached: { replaced: false }, sees: true, pinned: true })
  const second = await childJson<object>(
    t,
    `${ready}
    const before = seen()
    const attached = object.attachTcx('from_pod', a, ${pin})
    console.log(JSON.stringify({ before, attached, after: seen() }))`,
    { namespace: name }
  )
  t.same(
    second,
    { before: false, attached: { replaced: true }, after: true },
    'the link outlived its process and took the new program'
  )
  inside(name, 'ip', 'link', 'del', 'va')
  inside(name, 'ip', 'link', 'add', 'va', 'type', 'veth', 'peer', 'name', 'vb')
  for (const device of ['va', 'vb']) inside(name, 'ip', 'link', 'set', device, 'up')
  const third = await childJson<object>(
    t,
    `${ready}
    const attached = object.attachTcx('from_pod', a, ${pin})
    const sees = seen()
    const detached = [native.detachPinned(${pin}), native.detachPinned(${pin})]
    console.log(JSON.stringify({ attached, sees, detached, after: seen() }))`,
    { namespace: name }
  )
  t.same(third, { attached: { replaced: false }, sees: true, detached: [true, false], after: false })
})

tcxTest('a TCX link without a pin lives as long as its object', async (t) => {
  const result = await childJson<object>(
    t,
    `${ready}
    object.attachTcx('from_pod', a)
    const during = seen()
    const map = object.map('counts')
    object.close()
    object.close()
    const count = () => { let n = 0; const v = map.lookup(Buffer.alloc(4)); for (let i = 0; i < v.length; i += 8) n += v.readUInt32LE(i); return n }
    const before = count()
    try { execFileSync('ping', ['-q', '-c', '1', '-W', '1', '-I', 'vb', 'ff02::1'], { stdio: 'ignore' }) } catch {}
    console.log(JSON.stringify({ during, after: count() > before }))`,
    { namespace: pair(t, 'bare') }
  )
  t.same(result, { during: true, after: false })
})

tcxTest('what is pinned for another device gives way', async (t) => {
  const pin = JSON.stringify(`${pins}/link-moves`)
  const result = await childJson<object>(
    t,
    `${ready}
    const results = [object.attachTcx('from_pod', index('vb'), ${pin}), object.attachTcx('from_pod', a, ${pin}), object.attachTcx('from_pod', a, ${pin})]
    console.log(JSON.stringify({ results, sees: seen(), gone: native.detachPinned(${pin}) }))`,
    { namespace: pair(t, 'moves') }
  )
  t.same(result, { results: [{ replaced: false }, { replaced: false }, { replaced: true }], sees: true, gone: true })
})

t.test('clsact filters are attached, replaced in one step and removed with the qdisc that we made', async (t) => {
  const name = pair(t, 'clsact')
  const result = await childJson<object>(
    t,
    `${ready}
    const qdisc = () => execFileSync('tc', ['qdisc', 'show', 'dev', 'va'], { encoding: 'utf8' }).includes('clsact')
    const results = [object.attachClsact('from_pod', a, 5), object.attachClsact('from_pod', a, 5)]
    const sees = seen()
    const removed = [native.detachClsact(a, 6), native.detachClsact(a, 5), native.detachClsact(a, 5)]
    console.log(JSON.stringify({ results, sees, removed, after: seen(), qdisc: qdisc() }))`,
    { namespace: name }
  )
  t.same(result, {
    results: [{ replaced: false }, { replaced: true }],
    sees: true,
    removed: [false, true, false],
    after: false,
    qdisc: false
  })
})

t.test('a clsact filter of somebody else is neither replaced nor removed, nor is their qdisc', async (t) => {
  const name = pair(t, 'foreign')
  const result = await childJson<{ refused: string; removed: boolean; ours: boolean; qdisc: boolean }>(
    t,
    `${ready}
    object.attachClsact('other', a, 5)
    const refused = attempt(() => object.attachClsact('from_pod', a, 5))
    const removed = native.detachClsact(a, 5)
    object.attachClsact('from_pod', a, 6)
    const ours = native.detachClsact(a, 6)
    const qdisc = execFileSync('tc', ['qdisc', 'show', 'dev', 'va'], { encoding: 'utf8' }).includes('clsact')
    console.log(JSON.stringify({ refused, removed, ours, qdisc }))`,
    { namespace: name }
  )
  t.match(result, {
    refused: /EEXIST cannot replace the clsact filter of priority 5/,
    removed: false,
    ours: true,
    qdisc: true
  })
})

t.test('XDP is attached native and generic, replaced in place, and the mode can change', async (t) => {
  const pin = JSON.stringify(`${pins}/xdp-a`)
  const result = await childJson<object>(
    t,
    `${ready}
    const modes = ['native', 'native', 'generic', 'generic']
    const results = modes.map(mode => object.attachXdp('pass', a, mode, ${pin}).replaced)
    const shown = execFileSync('ip', ['link', 'show', 'va'], { encoding: 'utf8' }).includes('xdpgeneric')
    const busy = attempt(() => object.attachXdp('pass', a, 'native'))
    console.log(JSON.stringify({ results, shown, busy, sees: seen(), gone: native.detachPinned(${pin}) }))`,
    { namespace: pair(t, 'xdp') }
  )
  t.match(result, {
    results: [false, true, false, true],
    shown: true,
    sees: true,
    gone: true,
    busy: /cannot attach pass to device \d+/
  })
})

t.test('attaching says what could not be done', async (t) => {
  const result = await childJson<string[]>(
    t,
    `${ready}
    console.log(JSON.stringify([
      () => object.attachTcx('from_pod', 99999), () => object.attachTcx('pass', a), () => object.attachTcx('from_pod', 0),
      () => object.attachXdp('pass', a, 'fast'), () => object.attachTcx('from_pod', a, '/nonexistent/pin'), () => object.attachNetkit('from_pod', a, true),
      () => object.attachClsact('from_pod', 99999, 1), () => native.detachPinned('/proc/self/exe'), () => object.attachTcx('from_pod', a, ''),
    ].map(attempt)))`,
    { namespace: pair(t, 'wrong') }
  )
  const expected = [
    hasTcx ? /ENODEV cannot attach from_pod to device 99999: No such device/ : /EINVAL cannot attach from_pod/,
    /EINVAL cannot attach pass/,
    /TypeError .*ifindex must be an integer from 1/,
    /TypeError .*mode must be 'native' or 'generic'/,
    hasTcx ? /ENOENT cannot pin the link of from_pod at \/nonexistent\/pin/ : /EINVAL cannot attach from_pod/,
    /cannot attach from_pod to device/,
    /cannot make the clsact qdisc of device 99999/,
    /cannot open the pinned link/,
    /TypeError .*pinPath must not be empty/
  ]
  for (const [i, pattern] of expected.entries()) t.match(result[i], pattern)
})

t.test('a cgroup program attaches only with a path that is a cgroup', async (t) => {
  const result = await childJson<string>(
    t,
    `${ready}
    console.log(JSON.stringify(attempt(() => object.attachCgroup('from_pod', '/nonexistent'))))`,
    { namespace: pair(t, 'cgroup') }
  )
  t.match(result, /ENOENT cannot open the cgroup \/nonexistent/)
})

t.test('a kprobe or a tracepoint that the kernel does not have is ENOENT', async (t) => {
  const result = await childJson<string[]>(
    t,
    `const guard = native.loadObject({ object: 'guard', programs: ['guard_witness_kprobe', 'guard_witness_capable'] })
    console.log(JSON.stringify([
      () => guard.attachKprobe('guard_witness_kprobe', 'no_such_function'),
      () => guard.attachRawTracepoint('guard_witness_capable', 'no_such_tracepoint'),
      () => guard.attachKprobe('guard_lsm_netlink', 'nfnetlink_rcv'), () => guard.attachRawTracepoint('guard_witness_capable', 5)
    ].map(attempt)))`
  )
  const expected = [
    /ENOENT (cannot probe no_such_function|this kernel has no kprobes)/,
    /ENOENT cannot attach guard_witness_capable to tracepoint no_such_tracepoint/,
    /guard_lsm_netlink/,
    /TypeError .*tracepoint/
  ]
  for (const [i, pattern] of expected.entries()) t.match(result[i], pattern)
})
