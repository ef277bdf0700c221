import t from 'tap'
import { compile } from '../lab/compile.js'
import { childJson, inside, namespace, runChild } from './support.js'

/** One device, what came out of it, and a program that sends frames to it as the kernel does. */
const ready = `
const seen = []
let gone = 0, largest = 0
const open = name => native.openTap(name, frames => {
  if (frames === null) { gone++; return }
  largest = Math.max(largest, frames.length)
  seen.push(...frames)
})
const ip = (...words) => execFileSync('ip', words, { encoding: 'utf8' })
const tap = open('hostroute0')
const send = frames => execFileSync(${JSON.stringify(compile('test/oracle/frames.c'))}, ['hostroute0'], { input: Buffer.concat(frames.flatMap(({ frame, offload = Buffer.alloc(10) }) => [Buffer.from(Uint32Array.of(frame.length).buffer), offload, frame])) })
const frame = (length, fill = 7) => { const f = Buffer.alloc(length, fill); f.write('02687264000005dc00000005', 0, 'hex'); f.writeUInt16BE(0x0800, 12); return f }
const until = async condition => { for (let i = 0; i < 300 && !condition(); i++) await sleep(10); return condition() }
`
const done = '\ntap.close()\n'

t.test('a device of this process: up, its size, its queue, no addresses, no offloads', async (t) => {
  const name = namespace(t, 'tap')
  const result = await childJson<{ link: object; handle: object; offloads: string; addresses: unknown[] }>(
    t,
    `${ready}
    const [link] = JSON.parse(ip('-j', '-d', 'link', 'show', 'hostroute0'))
    const [{ addr_info: addresses }] = JSON.parse(ip('-j', 'address', 'show', 'hostroute0'))
    const offloads = execFileSync('ethtool', ['-k', 'hostroute0'], { encoding: 'utf8' })
    console.log(JSON.stringify({ link, handle: { name: tap.name, ifindex: tap.ifindex }, addresses, offloads }))${done}`,
    { namespace: name }
  )
  t.match(result.link, {
    mtu: 65_521,
    txqlen: 1000,
    link_type: 'ether',
    linkinfo: { info_kind: 'tun', info_data: { type: 'tap', persist: false, vnet_hdr: false } }
  })
  t.match((result.link as { flags: string[] }).flags, /UP/)
  t.match(result.handle, { name: 'hostroute0', ifindex: (result.link as { ifindex: number }).ifindex })
  t.strictSame(result.addresses, [])
  for (const feature of ['tx-checksumming', 'tcp-segmentation-offload'])
    t.match(result.offloads, new RegExp(`^${feature}: off`, 'm'))
  t.notMatch(inside(name, 'ip', 'link'), /hostroute0/, 'and it is gone with the process')
})

t.test('frames arrive whole and in order, and what is written is received', async (t) => {
  const name = namespace(t, 'tap-frames')
  const result = await childJson<object>(
    t,
    `${ready}
    const lengths = [14, 60, 1514, 65535, 20]
    send(lengths.map((length, number) => ({ frame: frame(length, number) })))
    const ours = () => seen.filter(f => f.readUInt32BE(0) === 0x02687264)
    await until(() => ours().length >= lengths.length)
    const same = ours().every((f, number) => f.equals(frame(lengths[number], number)))
    const received = () => JSON.parse(ip('-j', '-s', 'link', 'show', 'hostroute0'))[0].stats64.rx.packets
    const before = received()
    const wrote = [tap.write(frame(60)), tap.write(frame(65535)), tap.write(Buffer.alloc(13))]
    console.log(JSON.stringify({ seen: ours().length, same, wrote, received: received() - before }))${done}`,
    { namespace: name }
  )
  t.same(result, { seen: 5, same: true, wrote: [true, true, false], received: 2 })
})

t.test('segments are cut and checksums finished before they are read', async (t) => {
  const result = await childJson<object>(
    t,
    `${ready}
    const sum = (bytes, start) => { let s = start; for (let i = 0; i < bytes.length; i += 2) s += (bytes[i] << 8) + (bytes[i + 1] ?? 0); while (s > 65535) s = (s & 65535) + (s >>> 16); return s }
    // TCP, 30,000 bytes in segments of 1,000; the checksum is the pseudo header's
    const large = frame(54 + 30000, 0)
    large.write('4500756000010000400600000a0900010a090002', 14, 'hex')
    large.writeUInt16BE(65535 - sum(large.subarray(14, 34), 0), 24)
    large.write('00070009000000010000000150100400', 34, 'hex')
    large.writeUInt16BE(sum(large.subarray(26, 34), 6 + 30020), 50)
    for (let i = 54; i < large.length; i++) large[i] = i * 7
    // struct virtio_net_hdr: checksum to be done, TCPv4, header 54, size 1,000, from 34, at 16
    send([{ frame: large, offload: Buffer.from([1, 1, 54, 0, 0xe8, 3, 34, 0, 16, 0]) }])
    await until(() => seen.length >= 30)
    const tcp = seen.filter(f => f.readUInt16BE(12) === 0x0800 && f[23] === 6)
    const wrong = tcp.filter(f => sum(f.subarray(26), 6 + f.length - 34) !== 65535)
    console.log(JSON.stringify({ seen: tcp.length, lengths: [...new Set(tcp.map(f => f.length))], magic: tcp.every(f => f.readUInt32BE(0) === 0x02687264), wrong: wrong.length }))${done}`,
    { namespace: namespace(t, 'tap-gso') }
  )
  t.same(result, { seen: 30, lengths: [1054], magic: true, wrong: 0 })
})

t.test('a flood while JavaScript is busy: the queue bounds it, portions are small, and reading goes on', async (t) => {
  const result = await childJson<{ seen: number; more: boolean; largest: number }>(
    t,
    `${ready}
    const flood = count => send(Array.from({ length: count }, () => ({ frame: frame(100) })))
    flood(5000)
    await sleep(200)
    const before = seen.length
    flood(10)
    await until(() => seen.length >= before + 10)
    console.log(JSON.stringify({ seen: before, more: seen.length === before + 10, largest }))${done}`,
    { namespace: namespace(t, 'tap-flood') }
  )
  t.ok(result.seen >= 1000 && result.seen < 2500, `${result.seen} of 5,000`)
  t.ok(result.more, 'later ones arrive')
  t.ok(result.largest <= 64, `${result.largest} at once`)
})

t.test('a name that is taken, names that cannot be, and no module', async (t) => {
  const name = namespace(t, 'tap-names')
  inside(name, 'ip', 'link', 'add', 'hostroute1', 'type', 'veth', 'peer', 'name', 'x')
  inside(name, 'ip', 'tuntap', 'add', 'hostroute2', 'mode', 'tap')
  const result = await childJson<string[]>(
    t,
    `${ready}
    console.log(JSON.stringify([() => open('hostroute0'), () => open('hostroute1'), () => open('hostroute2'), () => open(''), () => open('x'.repeat(16)), () => open('a/b'), () => native.openTap('hr3'), () => open(5)].map(attempt)))${done}`,
    { namespace: name }
  )
  const expected = [
    /EBUSY/,
    /EBUSY/,
    /EBUSY/,
    /EINVAL/,
    /EINVAL/,
    /EINVAL/,
    /onFrames must be a function/,
    /name must be/
  ]
  for (const [i, pattern] of expected.entries()) t.match(result[i], pattern)
  const hidden = await runChild(
    `console.log(execFileSync('unshare', ['-m', 'sh', '-c', 'mount -t tmpfs none /dev/net && exec "$0" "$@"', process.execPath, '-e',
      'try { require(process.argv[1]).openTap("hr0", () => {}) } catch (error) { console.log(error.code, error.syscall, error.message) }', addonPath], { encoding: 'utf8' }))`,
    { namespace: name }
  )
  t.match(hidden.stdout, /^ENOENT open cannot open \/dev\/net\/tun: /)
})

t.test('a held link: its program is replaced in place, and it goes with its handle', async (t) => {
  const result = await childJson<{ ids: number[]; hung: number[][]; detached: string }>(
    t,
    `${ready}
    const [one, two] = [1, 2].map(() => native.loadObject({ programs: ['from_detour'] }))
    const ids = [one, two].map(o => o.programId('from_detour'))
    // links of all namespaces are listed
    const links = () => JSON.parse(execFileSync('bpftool', ['-j', 'link', 'show'], { encoding: 'utf8' })).filter(l => ids.includes(l.prog_id))
    const hung = []
    const note = () => hung.push(links().map(l => l.prog_id))
    const link = attempt(() => one.linkTcx('from_detour', tap.ifindex))
    if (typeof link === 'string') { console.log(JSON.stringify({ ids, hung, detached: link })); process.exit(0) }
    note()
    two.updateLink('from_detour', link.fd)
    one.close()
    note()
    two.updateLink('from_detour', link.fd)
    execFileSync('bpftool', ['link', 'detach', 'id', String(links()[0].id)])
    const detached = attempt(() => two.updateLink('from_detour', link.fd))
    link.close()
    const again = two.linkTcx('from_detour', tap.ifindex)
    note()
    again.close()
    await until(() => links().length === 0)
    note()
    console.log(JSON.stringify({ ids, hung, detached }))${done}`,
    { namespace: namespace(t, 'tap-link') }
  )
  if (/EINVAL|EOPNOTSUPP/.test(result.detached)) {
    t.pass('no TCX before Linux 6.6')
    return
  }
  const [one, two] = result.ids
  t.strictSame(result.hung, [[one], [two], [two], []])
  t.match(result.detached, /ENOLINK/)
})

t.test('somebody deletes the device: that is told once, and nothing spins', async (t) => {
  const result = await childJson<{ gone: number; wrote: boolean; cpu: number; again: boolean }>(
    t,
    `${ready}
    ip('link', 'del', 'hostroute0')
    await until(() => gone > 0)
    const start = process.cpuUsage()
    await sleep(300)
    const { user, system } = process.cpuUsage(start)
    const wrote = tap.write(frame(60))
    tap.close()
    const again = open('hostroute0')
    again.close()
    again.close()
    console.log(JSON.stringify({ gone, wrote, cpu: (user + system) / 1000, again: again.write(frame(60)) }))`,
    { namespace: namespace(t, 'tap-gone') }
  )
  t.match(result, { gone: 1, wrote: false, again: false })
  t.ok(result.cpu < 150, `${result.cpu} ms of CPU`)
})

const endings: [string, string][] = [
  ['an open device does not hold the process', ''],
  [
    'a device may be closed inside its callback',
    "const other = native.openTap('hr-other', () => other.close()); ip('address', 'add', '10.9.0.1/24', 'dev', 'hr-other'); ip('neigh', 'add', '10.9.0.2', 'lladdr', '02:00:00:00:00:02', 'dev', 'hr-other'); try { execFileSync('ping', ['-c', '1', '-W', '0.1', '10.9.0.2']) } catch {} await sleep(100); if (/hr-other/.test(ip('link'))) throw new Error('still there')"
  ],
  [
    'devices may be forgotten',
    "tap.close(); for (let i = 0; i < 20; i++) { native.openTap('hr' + i, () => {}).close(); gc() } await sleep(10); gc()"
  ],
  [
    'a worker that ends with a device open',
    `const code = "const native = require(" + JSON.stringify(addonPath) + "); native.openTap('hr-worker', () => {}); require('worker_threads').parentPort.postMessage(1); setInterval(() => {}, 10)"
    for (let i = 0; i < 5; i++) { const worker = new Worker(code, { eval: true, execArgv: [] }); worker.on('error', e => console.error(e)); await new Promise(end => worker.once('message', end)); await sleep(i * 3); await worker.terminate() }`
  ]
]
for (const [title, snippet] of endings) {
  t.test(title, async (t) => {
    const options = { flags: ['--expose-gc'], namespace: namespace(t, 'tap-end') }
    t.match(await runChild(ready + snippet, options), { code: 0, signal: null, stderr: '' })
  })
}

t.test('SIGKILL takes the device along', async (t) => {
  const name = namespace(t, 'tap-kill')
  t.match(await runChild(`${ready} process.kill(process.pid, 'SIGKILL')`, { namespace: name }), { signal: 'SIGKILL' })
  t.notMatch(inside(name, 'ip', 'link'), /hostroute0/)
})
