// The harness itself: what goes into a machine, what comes back, and what is
// said when nothing does. Every case boots a machine (5 to 15 s each).
// A machine with systemd is what test/systemd is about.

import t from 'tap'
import { fetchKernel, offeredKernels, treeRoot } from './kernels.js'
import { runInVm, VmFailure } from './machine.js'

t.setTimeout(0)

const kernel = offeredKernels().at(-1)
if (!kernel) throw new Error('no kernel is known for this distribution: see test/vm/kernels.ts')

const untimed = { timeout: 0 }

t.test('a script sees the work tree and its environment; status, output and files come back', untimed, async (t) => {
  const pieces: string[] = []
  const result = await runInVm({
    kernel,
    env: { PHRASE: `it's "quoted" $HOME` },
    lsm: 'landlock,yama,bpf',
    modules: ['dummy'],
    command: `
      uname -r; pwd; echo "$PHRASE"; cat /sys/kernel/security/lsm
      grep -q ^dummy /proc/modules || exit 1
      echo complaint >&2
      mkdir $HOSTROUTE_VM_OUT/deep
      printf '\\000\\377' > $HOSTROUTE_VM_OUT/deep/bytes
      touch ${treeRoot}/package.json.touched && exit 3`,
    onOutput: (stream, chunk) => {
      if (stream === 'stdout') pieces.push(chunk.toString())
    }
  })
  t.equal(result.status, 3)
  const [release, directory, phrase, security] = result.stdout.split('\n')
  t.equal(release, fetchKernel(kernel).release)
  t.equal(directory, treeRoot)
  t.equal(phrase, `it's "quoted" $HOME`)
  t.match(security, /landlock,yama,bpf/)
  t.equal(result.stderr, 'complaint\n')
  t.equal(pieces.join(''), result.stdout, 'output was handed on as it came')
  t.same([...result.files], [['deep/bytes', Buffer.from([0, 255])]])
  t.comment(`command started at ${result.bootSeconds} s; ${result.wallSeconds.toFixed(1)} s in all`)
})

t.test('a machine that takes too long is killed, and the failure says when and how far it was', untimed, async (t) => {
  const failure = await runInVm({ kernel, command: ['true'], timeoutSeconds: 1 }).catch((error: unknown) => error)
  t.type(failure, VmFailure)
  t.match(failure, { message: /^kernel \S+: killed after 1 s, while booting\nlast lines of the console:/ })
})

t.test('a kernel panic is a failure which shows the console and keeps the output', untimed, async (t) => {
  const command = 'echo before; echo c > /proc/sysrq-trigger'
  const failure = await runInVm({ kernel, command }).catch((error: unknown) => error)
  t.match(failure, {
    message: /the machine stopped while the command ran.*sysrq triggered crash/s,
    stdout: 'before\n'
  })
})

t.test('a module that does not exist is a failure of the machine, not of the command', untimed, async (t) => {
  const failure = await runInVm({ kernel, command: ['true'], modules: ['no_such_module'] }).catch(
    (error: unknown) => error
  )
  t.match(failure, { message: /modprobe no_such_module failed/ })
})

t.test('the exact clock gives the same figure for the same program every time', untimed, async (t) => {
  const result = await runInVm({
    kernel,
    icount: true,
    command: `
      bpftool prog loadall build/bpf/hostroute.bpf.o /sys/fs/bpf/exact || exit 1
      head -c 64 /dev/zero > /tmp/packet
      for turn in 1 2 3 4 5; do
        bpftool prog run pinned /sys/fs/bpf/exact/from_pod data_in /tmp/packet repeat 1000
      done`
  })
  const lines = result.stdout.trim().split('\n')
  t.match(lines[0], /duration \(average\): \d+ns/)
  t.same(lines, Array(5).fill(lines[0]), lines[0] ?? '')
})
