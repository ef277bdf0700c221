import { statSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { native } from '../../src/native.js'
import { bpffs, childJson, namespace, runChild, scratch } from './support.js'

t.test('the namespace is that of the process', async (t) => {
  const own = statSync('/proc/self/ns/net')
  t.equal(native().networkNamespace(), `${own.dev}:${own.ino}`)
  const other = await childJson<string>(t, 'console.log(JSON.stringify(native.networkNamespace()))', {
    namespace: namespace(t, 'identity')
  })
  t.not(other, native().networkNamespace())
})

t.test('a bpffs is told from other file systems', async (t) => {
  t.equal(native().isBpffs(bpffs(t)), true)
  t.equal(native().isBpffs('/tmp'), false)
  t.equal(native().isBpffs('/nonexistent'), false)
  t.throws(() => native().mountBpffs('/nonexistent'), { code: 'ENOENT', syscall: 'mount', detail: '/nonexistent' })
})

t.test('a lock is exclusive until it is closed, also when its handle is forgotten', async (t) => {
  const path = join(scratch(t), 'lock')
  const held = native().lockFile(path)
  t.ok(held)
  t.equal(native().lockFile(path), null)
  const other = `console.log(JSON.stringify(native.lockFile(${JSON.stringify(path)}) === null))`
  t.equal(await childJson(t, other), true)
  held?.close()
  held?.close()
  t.equal(await childJson(t, other), false)
  const forgotten = `native.lockFile(${JSON.stringify(path)}); for (let i = 0; i < 5; i++) { gc(); await sleep(5) } console.log(JSON.stringify(native.lockFile(${JSON.stringify(path)}) === null))`
  t.equal(await childJson(t, forgotten, { flags: ['--expose-gc'] }), true)
  t.throws(() => native().lockFile('/nonexistent/lock'), { code: 'ENOENT', syscall: 'open' })
})

t.test('notify speaks to NOTIFY_SOCKET by path and in the abstract namespace', async (t) => {
  const directory = scratch(t)
  for (const address of [join(directory, 'notify'), `@hr-native-${process.pid}`]) {
    const socat = address.startsWith('@') ? `ABSTRACT-RECVFROM:${address.slice(1)}` : `UNIX-RECVFROM:${address}`
    const result = await childJson<{ sent: boolean; heard: string }>(
      t,
      `
      const { spawn } = await import('node:child_process')
      const server = spawn('socat', ['-u', ${JSON.stringify(socat)}, '-'])
      let heard = ''
      server.stdout.on('data', data => heard += data)
      process.env.NOTIFY_SOCKET = ${JSON.stringify(address)}
      let sent = false
      for (let i = 0; i < 100 && !sent; i++) { await sleep(20); try { sent = native.notify('READY=1\\nSTATUS=fine') } catch {} }
      await new Promise(done => server.on('close', done))
      console.log(JSON.stringify({ sent, heard }))`
    )
    t.same(result, { sent: true, heard: 'READY=1\nSTATUS=fine' }, address)
  }
  t.equal(await childJson(t, 'delete process.env.NOTIFY_SOCKET; console.log(native.notify("READY=1"))'), false)
  t.match(
    await childJson(
      t,
      'process.env.NOTIFY_SOCKET = "/nonexistent"; console.log(JSON.stringify(attempt(() => native.notify("READY=1"))))'
    ),
    /ENOENT cannot notify systemd/
  )
  t.match(
    await childJson(
      t,
      'process.env.NOTIFY_SOCKET = "relative"; console.log(JSON.stringify(attempt(() => native.notify("READY=1"))))'
    ),
    /EINVAL cannot notify systemd/
  )
})

t.test('the credentials of a peer are those of its process', async (t) => {
  const path = join(scratch(t), 'socket')
  const result = await childJson<object>(
    t,
    `
    const net = await import('node:net')
    const server = net.createServer(peer => {
      console.log(JSON.stringify({ ...native.peerCredentials(peer._handle.fd), wrong: attempt(() => native.peerCredentials(1000)) }))
      peer.end(); server.close()
    }).listen(${JSON.stringify(path)}, () => net.connect(${JSON.stringify(path)}).resume())
    process.on('exit', () => {})`
  )
  t.match(result, { uid: process.getuid?.(), gid: process.getgid?.(), pid: Number, wrong: /EBADF/ })
})

t.test('capabilities and groups by name', async (t) => {
  t.ok(native().capabilities().includes('CAP_NET_ADMIN'))
  t.equal(native().groupId('root'), 0)
  t.equal(native().groupId('no-such-group'), null)
  t.match(native().libbpfVersion(), /^\d+\.\d+/)
})

t.test('wrong arguments are TypeErrors', async (t) => {
  const wrong: [() => unknown, RegExp][] = [
    [() => native().notify(1 as never), /notify: state must be a string/],
    [() => native().peerCredentials(-1), /fd must be an integer/],
    [() => native().isBpffs(''), /path must not be empty/],
    [() => native().isBpffs('a\0b'), /must not hold a NUL/],
    [() => native().lockFile(undefined as never), /path must be a string/],
    [() => native().groupId({} as never), /name must be a string/],
    [() => native().openPinnedMap(5 as never), /path must be a string/],
    [() => native().detachClsact(0, 1), /ifindex must be an integer from 1/],
    [() => native().detachClsact(1, 70000), /priority must be an integer from 1 to 65535/]
  ]
  for (const [work, message] of wrong) t.throws(work, { name: 'TypeError', message })
})

t.test('a process without privilege gets errors, not a crash', async (t) => {
  const result = await runChild(`process.setgroups([]); process.setgid(65534); process.setuid(65534)
    console.log([() => native.capabilities().length, () => native.loadObject({}), () => native.mountBpffs('/tmp')].map(attempt).join('\\n'))`)
  t.match(result, { code: 0, signal: null, stderr: '' })
  t.match(result.stdout, /^0\nError E(PERM|ACCES) cannot load .*\nError EPERM cannot mount/)
})
