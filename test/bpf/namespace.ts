// First import of every test here: runs the test file again in a network
// namespace of its own, which is gone with the process. BPF_PROG_TEST_RUN
// takes the packet's device from the caller's namespace.

import { execFileSync, spawnSync } from 'node:child_process'

const MARK = 'HOSTROUTE_TEST_NAMESPACE'

if (!process.env[MARK]) {
  const { status, signal } = spawnSync(
    'unshare',
    ['--net', process.execPath, ...process.execArgv, ...process.argv.slice(1)],
    { stdio: 'inherit', env: { ...process.env, [MARK]: '1' } }
  )
  process.exit(signal ? 1 : (status ?? 1))
}

export function ip(...words: string[]): string {
  return execFileSync('ip', words, { encoding: 'utf8' })
}

/** A veth whose MAC is `mac`, up; its ifindex. The other end is NAME-p. */
export function makeVeth(name: string, mac: string, mtu = 1500): number {
  ip('link', 'add', 'name', name, 'address', mac, 'mtu', `${mtu}`, 'type', 'veth', 'peer', 'name', `${name}-p`)
  ip('link', 'set', `${name}-p`, 'up')
  ip('link', 'set', name, 'up')
  const [link] = JSON.parse(ip('-j', 'link', 'show', name)) as { ifindex: number }[]
  return link!.ifindex
}
