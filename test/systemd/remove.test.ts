// hostrouted --remove, which scripts/uninstall relies on, in a lab.

import { existsSync, mkdirSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { OUTSIDE } from '../lab/addresses.js'
import { Lab } from '../lab/lab.js'
import { run, until } from '../lab/process.js'

const daemonFile = fileURLToPath(new URL('../../src/daemon/main.js', import.meta.url))

t.test('[L5] --remove takes off what a killed daemon left, and refuses beside a living one', async (t) => {
  const lab = await Lab.create({ nodes: 1, pods: 2 })
  t.teardown(() => lab.close())
  const node = lab.node(0)
  const { runDirectory, pinDirectory, stateDirectory } = await node.startDaemon()
  const directories = [
    ...['--run-directory', runDirectory, '--pin-directory', pinDirectory],
    ...['--state-directory', stateDirectory]
  ]
  const remove = (...words: string[]) => node.exec([process.execPath, daemonFile, '--remove', ...directories, ...words])
  const managed = async () => (await node.run(['ip', '-d', 'neigh', 'show'])).match(/\bmanaged\b/g)?.length ?? 0
  const attached = async () => (await node.run(['bpftool', '-j', 'net'])).match(/from_pod|from_uplink/g)?.length ?? 0
  await node.pod(0).ping(OUTSIDE.v4, { count: 2 })
  await until('pods and gateways are managed', async () => (await managed()) >= 5, 10_000)
  const refused = await remove()
  t.equal(refused.status, 2)
  t.match(refused.stdout, /another hostrouted already runs/)
  t.equal(await attached(), 3)
  await node.daemon.kill('SIGKILL')
  t.equal(await attached(), 3)
  const lossy = await remove()
  t.equal(lossy.status, 2, 'the pods are masqueraded by nobody else')
  t.match(lossy.stdout, /pods would lose their way out.*--force/)
  t.equal(await attached(), 3, 'nothing has changed')
  const removed = await remove('--force')
  t.equal(removed.status, 0, removed.stdout + removed.stderr)
  t.match(removed.stdout, /removed from this node: .* \d neighbours are the kernel's own again/)
  t.equal(await attached(), 0)
  t.equal(await managed(), 0)
  t.notOk(existsSync(pinDirectory))
  t.equal((await remove()).status, 0, 'with nothing to remove it succeeds as well')
})

t.test('what cannot be removed is said, and removed the next time', async (t) => {
  const lab = await Lab.create({ nodes: 1, pods: 1 })
  t.teardown(() => lab.close())
  const node = lab.node(0)
  const { daemon } = node
  await node.startDaemon()
  await daemon.kill('SIGKILL')
  const held = `${daemon.pinDirectory}/held`
  mkdirSync(held)
  await run(['mount', '-t', 'tmpfs', 'tmpfs', held])
  const partly = await daemon.remove('--force')
  await run(['umount', held])
  t.equal(partly.status, 1)
  t.match(partly.stdout, /not all could be removed: .* stays/)
  t.notMatch(partly.stdout, /removed from this node/)
  const removed = await daemon.remove('--force')
  t.equal(removed.status, 0, removed.stdout)
  t.notOk(existsSync(daemon.pinDirectory))
})
