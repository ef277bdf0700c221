// Which test files run on which kernels. Rows that want the same kernel and the
// same security modules, or do not care which, share a machine; their files run
// one after another in it, in this order, each in a network namespace of its own.
// A row that wants systemd has a machine, and its first namespace, for itself.

import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { type KernelName, offeredKernels, treeRoot } from './kernels.js'

export interface VmSuite {
  /** What the row proves, as the name of its test. */
  name: string
  kernels: KernelName[]
  /** What `scripts/test --all-kernels` adds. */
  also?: KernelName[]
  /** Sources of test files, or folders: all test files below them. */
  files: string[]
  lsm?: string
  modules?: string[]
  init?: 'systemd'
  /** For all files of the row together. */
  timeoutSeconds: number
}

/** One boot. */
export interface VmMachine {
  kernel: KernelName
  lsm?: string
  init?: 'systemd'
  suites: VmSuite[]
}

const probe = 'test/vm/kernel-probe.ts'
const objectLoad = 'test/vm/object-load.ts'

export const suites: VmSuite[] = [
  {
    // First in its machine, in this order: what follows loads the module.
    name: 'nf_conntrack is absent, then loaded later',
    kernels: ['6.1', '6.8'],
    also: ['6.12'],
    files: ['test/vm/conntrack.ts', 'test/vm/conntrack-later.ts'],
    timeoutSeconds: 300
  },
  {
    name: 'conntrack by netlink',
    kernels: [],
    also: ['6.1'],
    files: ['test/conntrack/obstacles.test.ts', 'test/conntrack/hand-back.test.ts'],
    timeoutSeconds: 600
  },
  {
    name: 'a full conntrack table',
    kernels: ['6.8', '6.12'],
    files: ['test/vm/conntrack-full.ts'],
    timeoutSeconds: 400
  },
  {
    name: 'whose a flow is, with nf_conntrack as a module',
    kernels: ['6.12'],
    also: ['6.1'],
    files: ['test/bpf/owner.test.ts'],
    timeoutSeconds: 300
  },
  {
    name: 'machine, verifier and hooks',
    kernels: ['6.1', '6.8', '6.12'],
    files: [probe, objectLoad, 'test/native/attach.test.ts'],
    timeoutSeconds: 300
  },
  {
    // The newest kernel is the build machine's: there all tests of the addon run.
    name: 'addon on the oldest kernel',
    kernels: ['6.1'],
    files: ['test/native/map.test.ts', 'test/native/object.test.ts'],
    timeoutSeconds: 200
  },
  {
    // The row "the daemon in a lab" sends real packets through them.
    name: 'programs',
    kernels: ['6.8'],
    also: ['6.1', '6.12'],
    files: [
      'test/bpf/from_pod.test.ts',
      'test/bpf/from_uplink.test.ts',
      'test/bpf/odd_packets.test.ts',
      'test/bpf/uplink_filter.test.ts'
    ],
    timeoutSeconds: 600
  },
  {
    // 6.1 has no TCX.
    name: 'the detour: its device, cutting, a daemon with it',
    kernels: ['6.1'],
    also: ['6.12'],
    files: ['test/native/tap.test.ts', 'test/daemon/cut.test.ts', 'test/daemon/detour.test.ts'],
    modules: ['tun'],
    timeoutSeconds: 700
  },
  {
    name: 'the daemon in a lab',
    kernels: ['6.1', '6.8'],
    also: ['6.12'],
    files: ['test/vm/forwarding.ts'],
    timeoutSeconds: 700
  },
  {
    name: 'uplinks of every kind, VRFs',
    kernels: ['6.8', '6.12'],
    files: ['test/vm/uplinks.ts', 'test/vm/vrf.ts', 'test/oracle/route.test.ts'],
    // of no matter here: it keeps the machines equally long
    lsm: 'landlock,yama,apparmor',
    timeoutSeconds: 400
  },
  {
    name: 'IPVS services as translated destinations',
    kernels: ['6.12'],
    files: ['test/vm/ipvs.ts'],
    timeoutSeconds: 200
  },
  {
    // Where attaching the guard's LSM programs succeeds and refuses nothing.
    name: 'no bpf among the security modules',
    kernels: ['6.12'],
    files: [probe],
    lsm: 'landlock,yama,apparmor',
    timeoutSeconds: 300
  },
  {
    name: 'guard by LSM',
    kernels: ['6.12'],
    files: ['test/guard/hooks.ts', 'test/guard/beside-kube-proxy.ts'],
    lsm: 'landlock,yama,apparmor,bpf',
    timeoutSeconds: 1000
  },
  {
    name: 'guard by fmod_ret',
    kernels: ['6.1', '6.8'],
    files: ['test/guard/hooks.ts', 'test/guard/beside-kube-proxy.ts', 'test/guard/witness.test.ts'],
    lsm: 'landlock,yama,apparmor',
    timeoutSeconds: 1100
  },
  {
    name: 'guard by fmod_ret, all tools',
    kernels: ['6.12'],
    files: ['test/guard/all-tools.ts', 'test/guard/all-modes.ts'],
    lsm: 'landlock,yama,apparmor',
    timeoutSeconds: 600
  },
  {
    // Which the build machine's kernel does not have; all other modes are tried there.
    name: 'Services, kube-proxy in mode ipvs',
    kernels: ['6.12'],
    files: ['test/vm/services.ts'],
    lsm: 'landlock,yama,apparmor',
    modules: ['ip_vs', 'ip_vs_rr'],
    timeoutSeconds: 1800
  },
  {
    name: 'hostrouted as a system service',
    kernels: ['6.8', '6.12'],
    files: ['test/systemd/life.ts'],
    init: 'systemd',
    timeoutSeconds: 1800
  }
]

/** As few boots as the rows need on the kernels which this distribution offers; the longest first: systemd takes its time. */
export function machinesOf(rows: readonly VmSuite[], all: boolean): VmMachine[] {
  const machines = offeredKernels().flatMap((kernel) => {
    const offered = rows.filter(({ kernels, also = [] }) => [...kernels, ...(all ? also : [])].includes(kernel))
    const wanted = offered.filter((row) => row.init === undefined)
    const lists = new Set(wanted.flatMap((row) => row.lsm ?? []))
    const machines: VmMachine[] = [...lists].map((lsm) => ({
      kernel,
      lsm,
      suites: wanted.filter((row) => row.lsm === lsm)
    }))
    const anywhere = wanted.filter((row) => row.lsm === undefined)
    const [least] = machines.sort((one, other) => limitOf(one) - limitOf(other))
    if (least) least.suites.unshift(...anywhere)
    else if (anywhere.length > 0) machines.push({ kernel, suites: anywhere })
    const alone = offered.filter((row) => row.init !== undefined)
    return [...machines, ...alone.map((row): VmMachine => ({ kernel, init: 'systemd', suites: [row] }))]
  })
  const rank = (machine: VmMachine) => (machine.init === undefined ? 0 : 1e6) + limitOf(machine)
  return machines.sort((one, other) => rank(other) - rank(one))
}

/** Seconds, without the boot. */
export function limitOf(machine: VmMachine): number {
  return machine.suites.reduce((sum, suite) => sum + suite.timeoutSeconds, 0)
}

/** Test sources of a row, relative to the work tree. Throws when an entry names nothing. */
export function testFilesOf(suite: VmSuite): string[] {
  return suite.files.flatMap((entry) => {
    const path = join(treeRoot, entry)
    if (entry.endsWith('.ts') && existsSync(path)) return [entry]
    const found = existsSync(path) ? readdirSync(path, { recursive: true, encoding: 'utf8' }) : []
    const tests = found.filter((file) => file.endsWith('.test.ts')).sort()
    if (tests.length === 0) throw new Error(`test/vm/suites.ts: ${entry} holds no test file`)
    return tests.map((file) => join(entry, file))
  })
}
