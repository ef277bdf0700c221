// A container of the agent's pod, as far as hostroute sees it: a process that runs
// with flags in the cgroup that kubelet makes for the pod.

import { existsSync, mkdirSync, readFileSync, rmdirSync } from 'node:fs'
import { dirname, join } from 'node:path'
import type { Test } from 'tap'
import { cgroupRoot } from '../../src/guard/cgroups.js'
import { compile } from '../lab/compile.js'
import { Background, enter, until } from '../lab/process.js'

/** kubelet's UIDs, as they are in the names of directories. */
export const uids = ['0f6d3c1e-64a2-4f0b-9a51-2b4c1d9e7a01', '0f6d3c1e-64a2-4f0b-9a51-2b4c1d9e7a02'] as const

/** Names the pod's cgroup as kubelet's drivers do. */
export const cgroupNames = {
  systemd: (uid: string) =>
    `kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod${uid.replaceAll('-', '_')}.slice`,
  cgroupfs: (uid: string) => `kubepods/besteffort/pod${uid}`
}

export interface AgentContainer {
  pid: number
  /** Resolves when the process is gone. */
  stop(): Promise<void>
}

/** cgroup: path below the root. Resolves when the program runs; it ends with the test. */
export async function startAgentIn(
  t: Pick<Test, 'teardown'>,
  cgroup: string,
  flags: readonly string[],
  { program = compile('test/config/ip-masq-agent.c'), namespace = null as string | null } = {}
): Promise<AgentContainer> {
  const root = join(cgroupRoot() ?? '', `hostroute-test-${process.pid}`)
  const directory = join(root, cgroup)
  mkdirSync(directory, { recursive: true })
  const line = `echo $$ > "${directory}/cgroup.procs" && exec "$0" "$@"`
  const running = new Background(enter(namespace, ['sh', '-c', line, program, ...flags]))
  const stop = async () => {
    await running.stop('SIGTERM')
    for (let path = directory; path.startsWith(root); path = dirname(path)) removeIfEmpty(path)
  }
  t.teardown(stop)
  const command = () => readFileSync(`/proc/${running.pid}/cmdline`, 'utf8').split('\0')
  await until('the program runs', async () => command()[0] === program)
  return { pid: running.pid, stop }
}

function removeIfEmpty(path: string): void {
  try {
    if (existsSync(path)) rmdirSync(path)
  } catch (error) {
    if (!['EBUSY', 'ENOTEMPTY', 'ENOENT'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error
  }
}
