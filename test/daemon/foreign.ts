// A program of somebody else's, on the hooks that ours use.

import { mkdirSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import type { Lab } from '../lab/lab.js'
import { exec, run } from '../lab/process.js'

const source = fileURLToPath(new URL('../../../../test/daemon/passing.bpf.c', import.meta.url))

/** Compiles the foreign programs and loads them, pinned below the lab's own bpffs. */
export async function loadForeign(
  lab: Lab,
  name = 'foreign'
): Promise<{ object: string; tc: string; seen(): Promise<number> }> {
  const object = `${lab.directory}/passing.o`
  const { stdout: machine } = await exec(['uname', '-m'])
  const clang = (await exec(['sh', '-c', 'command -v clang-19 || command -v clang'])).stdout.trim()
  await run([
    clang,
    '-O2',
    '-g',
    '-target',
    'bpf',
    `-I/usr/include/${machine.trim()}-linux-gnu`,
    '-c',
    source,
    '-o',
    object
  ])
  const pins = `${lab.node(0).daemon.pinDirectory}-${name}`
  mkdirSync(pins, { recursive: true })
  await run(['bpftool', 'prog', 'loadall', object, pins, 'pinmaps', pins])
  return {
    object,
    tc: `${pins}/foreign_tc`,
    async seen() {
      const [row] = JSON.parse(await run(['bpftool', '-j', 'map', 'dump', 'pinned', `${pins}/seen`])) as {
        formatted?: { value: number }
      }[]
      return row?.formatted?.value ?? 0
    }
  }
}

/** bpftool's words that attach it. */
export const tcx = (program: string, device: string) => [
  'bpftool',
  'net',
  'attach',
  'tcx_ingress',
  'pinned',
  program,
  'dev',
  device
]
