// Runs one command on another kernel: an emulated machine (QEMU without KVM)
// boots that kernel with the host's own root, work tree included, mounted
// read-only below a tmpfs. What the command writes stays in the machine,
// except its output and what it puts into $HOSTROUTE_VM_OUT.
//
// The folder shared with the machine is the only channel: files in it say what
// to run (release, init, directory, environment, modules, command), and bring
// back ready, stdout, stderr, status, failure and files/. A missing status
// means that the command did not end: boot failure, panic or time-out.

import { type ChildProcess, spawn } from 'node:child_process'
import {
  closeSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  rmSync,
  writeFileSync
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join, relative } from 'node:path'
import { initramfsOf } from './initramfs.js'
import { architecture, fetchKernel, type Kernel, type KernelName, treeRoot } from './kernels.js'

export interface VmRun {
  kernel: KernelName
  /** A program with its arguments, or the text of a bash script. */
  command: string[] | string
  /** Working directory, default the work tree. */
  directory?: string
  env?: Record<string, string>
  /** Kernel modules to load before the command. */
  modules?: string[]
  /** The kernel's list of security modules, e.g. 'landlock,yama,apparmor,bpf'. */
  lsm?: string
  /** Exact clock: one instruction is one nanosecond of guest time; one processor. */
  icount?: boolean
  /** 'systemd' boots systemd and runs the command after multi-user.target. */
  init?: 'plain' | 'systemd'
  memoryMegabytes?: number
  processors?: number
  /** Whole run, boot included; default 120, with systemd 300. */
  timeoutSeconds?: number
  /** Called with output as it comes. */
  onOutput?: (stream: 'stdout' | 'stderr' | 'console', chunk: Buffer) => void
}

export interface VmResult {
  /** Exit status of the command. */
  status: number
  stdout: string
  stderr: string
  /** The machine's serial console. */
  console: string
  /** What the command left in $HOSTROUTE_VM_OUT, by relative path. */
  files: Map<string, Buffer>
  /** Guest's own clock when the command was started, in seconds. */
  bootSeconds: number
  /** Host's clock, from start to power-off. */
  wallSeconds: number
}

/** The machine gave no exit status; the message ends with the console's last lines. */
export class VmFailure extends Error {
  constructor(
    message: string,
    readonly stdout: string,
    readonly stderr: string,
    readonly console: string,
    readonly files: Map<string, Buffer>
  ) {
    super(
      `${message}\nlast lines of the console:\n${tellingLines(console)
        .map((line) => `  ${line}`)
        .join('\n')}`
    )
    this.name = 'VmFailure'
  }
}

/** The console's last 25 lines, and all from the head of a crash report on when it ends with one. */
function tellingLines(console: string): string[] {
  const lines = console.replaceAll('\r', '').trimEnd().split('\n')
  const crash = lines.findIndex((line) => /Kernel panic|BUG: |Oops: /.test(line))
  const last = Math.max(0, lines.length - 25)
  return lines.slice(crash >= 0 ? Math.min(crash, last) : last)
}

/**
 * Boots the kernel, runs the command, powers off.
 * Any exit status of the command is a result. Throws VmFailure when there is
 * none (the kernel did not boot, was another one, or time ran out: the machine
 * is killed then), Error when the kernel cannot be had.
 */
export async function runInVm(run: VmRun): Promise<VmResult> {
  const kernel = fetchKernel(run.kernel)
  const initramfs = initramfsOf(kernel)
  const shared = mkdtempSync(join(tmpdir(), 'hostroute-vm-'))
  try {
    writeOrders(run, kernel, shared)
    const started = performance.now()
    const ended = await runQemu(qemuArguments(run, kernel, initramfs, shared), run, shared)
    return readResult(run, shared, ended, (performance.now() - started) / 1000)
  } finally {
    rmSync(shared, { recursive: true, force: true })
  }
}

function writeOrders(run: VmRun, kernel: Kernel, shared: string): void {
  const orders: Record<string, string> = {
    release: kernel.release,
    init: run.init ?? 'plain',
    directory: run.directory ?? treeRoot,
    'modules-folder': kernel.modules,
    modules: (run.modules ?? []).map((module) => `${module}\n`).join(''),
    environment: environmentText(run),
    command: typeof run.command === 'string' ? run.command : `exec ${run.command.map(quoted).join(' ')}\n`,
    stdout: '',
    stderr: ''
  }
  for (const [name, text] of Object.entries(orders)) writeFileSync(join(shared, name), text)
  for (const name of ['guest.sh', 'masked-units']) copyFileSync(join(treeRoot, 'test', 'vm', name), join(shared, name))
  mkdirSync(join(shared, 'files'))
}

function environmentText(run: VmRun): string {
  const env = { HOSTROUTE_VM: run.kernel, HOSTROUTE_VM_OUT: '/hostroute-vm/files', ...run.env }
  return Object.entries(env)
    .map(([key, value]) => `${key}=${quoted(value)}\n`)
    .join('')
}

function quoted(word: string): string {
  return `'${word.replaceAll("'", "'\\''")}'`
}

/**
 * An emulated processor: nothing to be protected from at a third of each system call's
 * time; a clock without a call of the emulator; namespaces removed without long waits.
 */
const quicker = ['mitigations=off', 'tsc=reliable', 'rcupdate.rcu_expedited=1']

function qemuArguments(run: VmRun, kernel: Kernel, initramfs: string, shared: string): string[] {
  const accelerator = run.icount
    ? ['-accel', 'tcg,thread=single', '-icount', 'shift=0,sleep=off', '-smp', '1']
    : ['-accel', 'tcg,thread=multi', '-smp', String(run.processors ?? 2)]
  const commandLine = [
    `console=${architecture.console}`,
    'panic=-1',
    ...(run.icount ? [] : quicker),
    'loglevel=4',
    'systemd.log_target=journal',
    // For systemd's own messages on the console: no colours, no cut lines.
    'TERM=dumb',
    ...(run.lsm === undefined ? [] : [`lsm=${run.lsm}`])
  ]
  return [
    ...architecture.machine,
    ...accelerator,
    ...['-cpu', run.icount ? 'max' : architecture.processor, '-m', String(run.memoryMegabytes ?? 3072)],
    ...['-nodefaults', '-no-user-config', '-no-reboot', '-display', 'none', '-serial', 'stdio'],
    ...['-kernel', kernel.vmlinuz, '-initrd', initramfs, '-append', commandLine.join(' ')],
    ...['-fsdev', 'local,id=host,path=/,security_model=none,readonly=on,multidevs=remap'],
    ...['-device', 'virtio-9p-pci,fsdev=host,mount_tag=host'],
    ...['-fsdev', `local,id=out,path=${shared},security_model=none`],
    ...['-device', 'virtio-9p-pci,fsdev=out,mount_tag=out']
  ]
}

interface Ended {
  console: string
  timedOut: boolean
  timeoutSeconds: number
}

async function runQemu(args: string[], run: VmRun, shared: string): Promise<Ended> {
  const timeoutSeconds = run.timeoutSeconds ?? (run.init === 'systemd' ? 300 : 120)
  // setpriv ties the machine's life to ours: no emulator is left behind when we are killed.
  const child = spawn('setpriv', ['--pdeathsig', 'KILL', '--', architecture.qemu, ...args], {
    stdio: ['ignore', 'pipe', 'pipe']
  })
  const console: Buffer[] = []
  const collect = (chunk: Buffer) => {
    console.push(chunk)
    run.onOutput?.('console', chunk)
  }
  child.stdout.on('data', collect)
  child.stderr.on('data', collect)
  let timedOut = false
  const killer = setTimeout(() => {
    timedOut = true
    child.kill('SIGKILL')
  }, timeoutSeconds * 1000)
  const stopFollowing = followOutput(run, shared)
  try {
    await closed(child)
  } finally {
    clearTimeout(killer)
    stopFollowing()
  }
  return { console: Buffer.concat(console).toString('utf8'), timedOut, timeoutSeconds }
}

function closed(child: ChildProcess): Promise<void> {
  return new Promise((resolve, reject) => {
    child.once('error', (error) => reject(new Error(`cannot start ${architecture.qemu}: ${error.message}`)))
    child.once('close', () => resolve())
  })
}

/** Hands on what the command writes while it runs; returns how to stop, which hands on the rest. */
function followOutput(run: VmRun, shared: string): () => void {
  const { onOutput } = run
  if (!onOutput) return () => {}
  const chunk = Buffer.alloc(65536)
  const streams = (['stdout', 'stderr'] as const).map((name) => ({ name, file: openSync(join(shared, name), 'r') }))
  const poll = () => {
    for (const { name, file } of streams) {
      for (let length = readSync(file, chunk); length > 0; length = readSync(file, chunk)) {
        onOutput(name, Buffer.from(chunk.subarray(0, length)))
      }
    }
  }
  const timer = setInterval(poll, 100)
  return () => {
    clearInterval(timer)
    poll()
    for (const { file } of streams) closeSync(file)
  }
}

function readResult(run: VmRun, shared: string, ended: Ended, wallSeconds: number): VmResult {
  const text = (name: string) => (existsSync(join(shared, name)) ? readFileSync(join(shared, name), 'utf8') : '')
  const files = readFiles(join(shared, 'files'))
  const stdout = text('stdout')
  const stderr = text('stderr')
  const status = text('status').trim()
  if (status === '') {
    const message = `kernel ${run.kernel}: ${failureReason(text('failure').trim(), text('ready'), ended)}`
    throw new VmFailure(message, stdout, stderr, ended.console, files)
  }
  const bootSeconds = Number(text('ready'))
  return { status: Number(status), stdout, stderr, console: ended.console, files, bootSeconds, wallSeconds }
}

function failureReason(failure: string, ready: string, ended: Ended): string {
  if (failure) return failure
  const phase = ready ? 'while the command ran' : 'while booting'
  if (ended.timedOut) return `killed after ${ended.timeoutSeconds} s, ${phase}`
  return `the machine stopped ${phase}`
}

function readFiles(folder: string): Map<string, Buffer> {
  const files = new Map<string, Buffer>()
  for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue
    const path = join(entry.parentPath, entry.name)
    files.set(relative(folder, path), readFileSync(path))
  }
  return files
}
