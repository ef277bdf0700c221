// Runs inside a test machine: every BPF object of the build passes the
// verifier of the machine's kernel. A refusal shows the verifier's last lines.

import { execFile } from 'node:child_process'
import { mkdirSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import t from 'tap'
import { treeRoot } from './kernels.js'

const run = promisify(execFile)

if (!process.env['HOSTROUTE_VM']) throw new Error('this test runs inside a test machine only: scripts/vm -- node FILE')

const folder = join(treeRoot, 'build', 'bpf')
const objects = readdirSync(folder).filter((file) => file.endsWith('.bpf.o'))
const pins = '/sys/fs/bpf/object-load'
mkdirSync(pins)

const load = (object: string, ...options: string[]) =>
  run('bpftool', [...options, 'prog', 'loadall', join(folder, object), join(pins, object.replaceAll('.', '_'))], {
    maxBuffer: 256 << 20
  })

/** The end of the verifier's log: only a second, slower load with debug output has it. */
async function refusal(object: string): Promise<string> {
  try {
    await load(object, '--debug')
    return 'refused at first, accepted the second time'
  } catch (error) {
    const { stdout, stderr } = error as { stdout: string; stderr: string }
    const lines = `${stdout}${stderr}`.split('\n').filter((line) => !/^libbpf: (map|sec|elf|CO-RE|loading)/.test(line))
    return lines.slice(-60).join('\n')
  }
}

t.ok(objects.length > 0, `objects to load: ${objects.join(', ')}`)

for (const object of objects) {
  t.test(`${object} is accepted by the verifier`, async (t) => {
    try {
      await load(object)
      t.pass(readdirSync(join(pins, object.replaceAll('.', '_'))).join(', '))
    } catch {
      t.fail('refused', { verifier: await refusal(object) })
    }
  })
}
