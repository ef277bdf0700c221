// Runs inside a test machine (suites.ts lists it first): proves that the
// wanted kernel is running and that it has what the other suites rely on.

import { execFile } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { release } from 'node:os'
import { promisify } from 'node:util'
import t from 'tap'

const run = promisify(execFile)

const wanted = process.env['HOSTROUTE_VM']
if (!wanted) throw new Error('this probe runs inside a test machine only: scripts/vm -- node FILE')

const version = release()
  .split('.')
  .map((part) => Number.parseInt(part, 10))
const atLeast = (major: number, minor: number) =>
  (version[0] ?? 0) > major || (version[0] === major && (version[1] ?? 0) >= minor)

const mounted = (folder: string) => readFileSync('/proc/mounts', 'utf8').includes(` ${folder} `)
const kernelHas = (symbol: string) => new RegExp(` ${symbol}$`, 'm').test(readFileSync('/proc/kallsyms', 'utf8'))
const ip = (...args: string[]) => run('ip', args)

t.test(`kernel ${wanted} is running`, async (t) => {
  t.match(release(), new RegExp(`^${wanted.replace('.', '\\.')}\\.`), `uname -r says ${release()}`)
})

t.test('the file systems that the programs need are mounted', async (t) => {
  // a work tree below /tmp stays visible: nothing is mounted over it then (guest.sh)
  const temporary = process.cwd().startsWith('/tmp/') ? [] : ['/tmp']
  for (const folder of ['/sys/fs/bpf', '/sys/kernel/security', '/sys/fs/cgroup', ...temporary, '/run']) {
    t.ok(mounted(folder), folder)
  }
  t.ok(existsSync('/sys/kernel/btf/vmlinux'), 'the kernel describes its types')
})

t.test('lsm= on the kernel command line decides the active list', async (t) => {
  const wantedList = /\blsm=(\S*)/.exec(readFileSync('/proc/cmdline', 'utf8'))?.[1]
  const active = readFileSync('/sys/kernel/security/lsm', 'utf8').split(',')
  t.ok(active.length > 0, active.join(','))
  if (wantedList !== undefined)
    t.equal(active.includes('bpf'), wantedList.split(',').includes('bpf'), 'bpf as asked for')
})

t.test('a veth pair reaches into another network namespace', async (t) => {
  await ip('netns', 'add', 'probe')
  await ip('link', 'add', 'probe0', 'type', 'veth', 'peer', 'name', 'eth0', 'netns', 'probe')
  t.match((await ip('-o', 'link', 'show', 'probe0')).stdout, 'link-netns probe')
  await ip('link', 'del', 'probe0')
  await ip('netns', 'del', 'probe')
})

t.test('netkit devices exist from 6.8 on', async (t) => {
  if (!atLeast(6, 8)) {
    await t.rejects(ip('link', 'add', 'probe1', 'type', 'netkit'), 'refused')
    return
  }
  await ip('link', 'add', 'probe1', 'type', 'netkit')
  t.match((await ip('-d', '-o', 'link', 'show', 'probe1')).stdout, 'netkit')
  await ip('link', 'del', 'probe1')
})

t.test('TCX exists from 6.6 on', async (t) => {
  t.equal(kernelHas('tcx_link_attach'), atLeast(6, 6))
})

t.test('modules of this kernel can be loaded', async (t) => {
  await run('modprobe', ['dummy'])
  t.match(readFileSync('/proc/modules', 'utf8'), /^dummy /m)
})
