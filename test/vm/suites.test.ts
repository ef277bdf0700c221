// Runs the rows of suites.ts and hands on what their files reported: each file
// becomes a subtest with its own counts, as if it had run here.
// Runs alone: two emulated machines at a time keep two cores busy.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { runInVm, VmFailure } from './machine.js'
import { limitOf, machinesOf, suites, testFilesOf, type VmMachine, type VmSuite } from './suites.js'

/** What came back from one machine: the files' reports, and why it ended early if it did. */
interface Reports {
  files: Map<string, Buffer>
  failure: string | null
  summary: string
}

const machinesAtATime = 2

t.setTimeout(3_600_000)

// HOSTROUTE_VM_KERNEL and HOSTROUTE_VM_SUITE narrow the rows while one works on something;
// HOSTROUTE_VM_ALL is set by scripts/test --all-kernels.
const onlyKernel = process.env['HOSTROUTE_VM_KERNEL'] ?? ''
const onlySuite = process.env['HOSTROUTE_VM_SUITE'] ?? ''
const all = (process.env['HOSTROUTE_VM_ALL'] ?? '') !== ''
const machines = machinesOf(
  suites.filter((suite) => suite.name.includes(onlySuite)),
  all
).filter(({ kernel }) => onlyKernel === '' || kernel === onlyKernel)
if (machines.length === 0)
  t.fail('no row of test/vm/suites.ts fits this distribution and the chosen kernel: nothing was tested')

const started = inTurn(
  machines.map((machine) => () => runFiles(machine)),
  machinesAtATime
)
for (const [index, machine] of machines.entries()) {
  const lsm = machine.lsm === undefined ? '' : `, lsm=${machine.lsm}`
  const init = machine.init === undefined ? '' : `, ${machine.init}`
  t.test(`kernel ${machine.kernel}${lsm}${init}`, { timeout: 0 }, async (t) => {
    const reports = (await started[index]) as Reports
    t.comment(reports.summary)
    if (reports.failure !== null) t.fail(reports.failure)
    for (const [row, suite] of machine.suites.entries())
      await t.test(suite.name, { timeout: 0 }, (t) => replayRow(t, machine, suite, `${row}-`, reports))
  })
}

/** Starts so many jobs at once, and one more whenever one has ended. */
function inTurn<Result>(jobs: (() => Promise<Result>)[], atATime: number): Promise<Result>[] {
  const waiting: (() => void)[] = []
  return jobs.map((job, index) => {
    const turn = index < atATime ? Promise.resolve() : new Promise<void>((resolve) => waiting.push(resolve))
    return turn.then(job).finally(() => waiting.shift()?.())
  })
}

// The recorded report, then what was written to stderr if the file failed, then its exit status.
const replay = `
cat "$0.tap"
status=$(cat "$0.status")
[ "$status" = 0 ] || sed 's/^/# stderr: /' "$0.err"
[ "$status" = 124 ] && echo "# ended: the row's time was over"
exit "$status"
`

async function replayRow(t: Test, machine: VmMachine, suite: VmSuite, prefix: string, reports: Reports): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'hostroute-vm-reports-'))
  t.teardown(() => rmSync(folder, { recursive: true }))
  for (const [name, content] of reports.files) writeFileSync(join(folder, name), content)
  for (const [index, file] of testFilesOf(suite).entries()) {
    const report = prefix + index
    const name = `${file} on ${machine.kernel}`
    if (reports.files.has(`${report}.status`)) {
      await t.spawn('sh', ['-c', replay, join(folder, report)], {}, name)
    } else {
      const output = reports.files.get(`${report}.tap`)?.toString() ?? 'not started'
      t.fail(`${name} did not end`, { output })
    }
  }
}

async function runFiles(machine: VmMachine): Promise<Reports> {
  try {
    const result = await runInVm({
      kernel: machine.kernel,
      command: guestScript(machine),
      processors: 1,
      ...(machine.init === undefined ? {} : { init: machine.init }),
      modules: [...new Set(machine.suites.flatMap((suite) => suite.modules ?? []))],
      timeoutSeconds: 60 + limitOf(machine),
      ...(machine.lsm === undefined ? {} : { lsm: machine.lsm })
    })
    const times = result.files.get('times')?.toString().trim().replaceAll('\n', '; ')
    const boot = `boot ${result.bootSeconds.toFixed(1)} s, in all ${result.wallSeconds.toFixed(1)} s`
    return { files: result.files, failure: null, summary: `${boot}; ${times}` }
  } catch (error) {
    if (!(error instanceof VmFailure)) throw error
    return { files: error.files, failure: error.message, summary: 'the machine gave no exit status' }
  }
}

const LIGHT_TAP = `
export HOSTROUTE_TEST_NAMESPACE=1
mount -t tmpfs tap node_modules/tap
echo '{"name": "tap", "type": "module", "exports": "./index.js"}' > node_modules/tap/package.json
echo "export { default } from '$PWD/build/js/test/vm/light-tap.js'" > node_modules/tap/index.js
`

/**
 * Each file with what is left of its row's time; but under systemd in a network
 * namespace of its own and with the light stand-in for tap. No source maps:
 * reading them costs an emulated processor seconds.
 */
function guestScript({ suites, init }: VmMachine): string {
  const rows = suites.map((suite, row) => {
    const runs = testFilesOf(suite).map((file, index) => {
      const compiled = `build/js/${file.replace(/\.ts$/, '.js')}`
      return `run ${row}-${index} ${file} '${compiled}'`
    })
    return `end=$((SECONDS + ${suite.timeoutSeconds}))\n${runs.join('\n')}\n`
  })
  return `
out=$HOSTROUTE_VM_OUT
export TAP=1 TAP_TIMEOUT=0
${init === undefined ? LIGHT_TAP : ''}
run() {
  local started=$SECONDS left=$((end - SECONDS))
  timeout -k 5 $((left > 1 ? left : 1)) ${init === undefined ? 'unshare --net' : ''} '${process.execPath}' "$3" > "$out/$1.tap" 2> "$out/$1.err"
  echo $? > "$out/$1.status"
  echo "$2 $((SECONDS - started)) s" >> "$out/times"
}
${rows.join('')}`
}
