// Which exempt writers there are, followed in a directory tree that stands for
// the cgroup tree.

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { Subject } from '../../src/guard/exemptions.js'
import { Presence } from '../../src/guard/presence.js'
import { until } from '../lab/process.js'

const kubelet: Subject = { kind: 'unit', name: 'hr-test-kubelet.service' }
const pods: Subject = { kind: 'cgroup', name: '/kubepods' }
const nested: Subject = { kind: 'cgroup', name: '/kubelet.slice/deeper/kubepods' }

function follow(t: Test, subjects: Subject[], version1: string[] = []) {
  const root = mkdtempSync(join(tmpdir(), 'hostroute-presence-'))
  let calls = 0
  const presence = new Presence(root, version1, () => calls++)
  t.teardown(() => {
    presence.close()
    rmSync(root, { recursive: true })
  })
  const make = (path: string) => mkdirSync(join(root, path), { recursive: true })
  const remove = (path: string) => rmSync(join(root, path), { recursive: true })
  return {
    presence,
    make,
    remove,
    root,
    calls: () => calls,
    start: () => presence.follow(subjects),
    appears: (subject: Subject) =>
      until(`${subject.name} to be seen`, async () => presence.exists(subject) && calls > 0, 2000),
    goes: (subject: Subject) => until(`${subject.name} to be gone`, async () => !presence.exists(subject), 2000)
  }
}

t.test('[K11] what is there at the start is known at once and calls nobody', async (t) => {
  const tree = follow(t, [kubelet, pods, nested])
  tree.make('system.slice/hr-test-kubelet.service')
  tree.make('kubepods')
  tree.start()
  t.ok(tree.presence.exists(kubelet))
  t.ok(tree.presence.exists(pods))
  t.notOk(tree.presence.exists(nested))
  t.equal(tree.calls(), 0)
})

t.test('[K11] what comes later calls, however deep, and again after it was gone', async (t) => {
  const tree = follow(t, [kubelet, pods, nested])
  tree.make('system.slice')
  tree.start()
  tree.make('system.slice/hr-test-kubelet.service')
  await tree.appears(kubelet)
  tree.make('kubelet.slice/deeper/kubepods')
  await tree.appears(nested)
  t.equal(tree.calls(), 2)
  tree.remove('kubelet.slice')
  await tree.goes(nested)
  tree.make('kubelet.slice/deeper/kubepods')
  await tree.appears(nested)
  t.equal(tree.calls(), 3)
})

t.test('[K11] a unit is looked for in slices only', async (t) => {
  const tree = follow(t, [kubelet, pods])
  tree.start()
  tree.make('user.slice/user@1.service/hr-test-kubelet.service')
  tree.make('elsewhere/hr-test-kubelet.service')
  tree.make('kubepods')
  await tree.appears(pods)
  t.notOk(tree.presence.exists(kubelet))
  tree.make('a.slice/a-b.slice/hr-test-kubelet.service')
  await tree.appears(kubelet)
})

t.test('[K11] version 1 hierarchies are followed for paths', async (t) => {
  const other = mkdtempSync(join(tmpdir(), 'hostroute-presence-'))
  t.teardown(() => rmSync(other, { recursive: true }))
  const tree = follow(t, [kubelet, pods], [other])
  tree.start()
  mkdirSync(join(other, 'system.slice/hr-test-kubelet.service'), { recursive: true })
  mkdirSync(join(other, 'kubepods'))
  await tree.appears(pods)
  t.notOk(tree.presence.exists(kubelet))
})

t.test('[K11] executables are there as files; a unit that is only installed is expected', async (t) => {
  const tree = follow(t, [])
  const executable: Subject = { kind: 'executable', name: join(tree.root, 'tool') }
  t.notOk(tree.presence.isExpected(executable))
  writeFileSync(executable.name, '')
  t.ok(tree.presence.isExpected(executable))
  t.notOk(tree.presence.isExpected(kubelet))
  const installed: Subject = { kind: 'unit', name: 'systemd-journald.service' }
  t.notOk(tree.presence.exists(installed))
  t.ok(tree.presence.isExpected(installed), 'it may start at any moment')
})
