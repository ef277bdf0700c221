// What the kernel must be able to do, proved by doing it, and the rights and
// file systems the daemon needs.

import { existsSync, readFileSync } from 'node:fs'
import { release } from 'node:os'
import { dirname } from 'node:path'
import { fileURLToPath } from 'node:url'
import { type NativeError, native } from '../native.js'
import { type ProbeResult, probeSizes } from './probe-result.js'
import { type Finding, finding, type Looked } from './report.js'
import type { Tools } from './tool.js'

export async function checkKernel(tools: Tools, pinDirectory: string): Promise<Looked> {
  const notLookedAt: string[] = []
  const probed = await probeApart(tools)
  if (typeof probed === 'string') notLookedAt.push(`TCX, clsact and managed neighbours: ${probed}`)
  const result = typeof probed === 'string' ? probeHere() : probed
  if (result.managed === 'untried' && typeof probed !== 'string')
    notLookedAt.push('managed neighbours: no program ip to make a device with')
  const findings = [...judgeProbe(result), bpffs(pinDirectory), jit()].filter((each) => each !== null)
  return { findings, notLookedAt }
}

/** What lacks for the check itself, as a sentence with the remedy; null: nothing. */
export function missingRights(): string | null {
  const have = new Set(native().capabilities())
  const needed = have.has('CAP_SYS_ADMIN') ? ['CAP_NET_ADMIN'] : ['CAP_NET_ADMIN', 'CAP_BPF', 'CAP_PERFMON']
  const missing = needed.filter((name) => !have.has(name))
  return missing.length === 0 ? null : `the check lacks ${missing.join(', ')}: run it as root`
}

/** In a network namespace of its own; a sentence if that cannot be made. */
async function probeApart(tools: Tools): Promise<ProbeResult | string> {
  const script = fileURLToPath(new URL('./probe.js', import.meta.url))
  const answer = await tools.run(['unshare', '--net', '--', process.execPath, script])
  if (answer.kind === 'missing') return 'no program unshare (package util-linux) to make a namespace with'
  if (answer.kind === 'failed') return `no namespace to try them in: ${answer.why}`
  try {
    return JSON.parse(answer.stdout) as ProbeResult
  } catch {
    return `the probe said nothing that is understood: ${answer.stdout.slice(0, 200)}`
  }
}

/** Without a namespace only loading can be tried. */
function probeHere(): ProbeResult {
  const result: ProbeResult = { load: null, tcx: 'untried', clsact: 'untried', xdp: 'untried', managed: 'untried' }
  try {
    native().loadObject({ sizes: probeSizes }).close()
  } catch (error) {
    const { message, detail } = error as NativeError
    result.load = detail ? `${message} (${detail.trim().split('\n').slice(-3).join(' | ')})` : message
  }
  return result
}

export function judgeProbe(result: ProbeResult): Finding[] {
  if (result.load !== null) {
    return [
      finding('refuse', 'kernel', 'kernel-load', `The kernel (${release()}) does not load the BPF programs.`, {
        why: result.load,
        remedy:
          'Linux 5.17 or later with CONFIG_BPF_SYSCALL, CONFIG_BPF_JIT and CONFIG_NET_CLS_BPF is needed; where lockdown is on, BPF must be allowed.'
      })
    ]
  }
  const findings = [
    finding(
      'pass',
      'kernel',
      'kernel-load',
      'BPF programs load: bpf_redirect_peer, bpf_redirect_neigh, bpf_loop, LPM tries, ring buffer.'
    )
  ]
  findings.push(...judgeHook(result))
  if (result.xdp !== null && result.xdp !== 'untried') {
    findings.push(
      finding('info', 'kernel', 'kernel-xdp', 'XDP does not work here; uplink.xdp must stay off.', { why: result.xdp })
    )
  }
  if (result.managed === null)
    findings.push(
      finding(
        'pass',
        'kernel',
        'kernel-managed',
        'The kernel keeps neighbours fresh for hostroute (managed neighbours).'
      )
    )
  else if (result.managed !== 'untried') {
    findings.push(
      finding('warning', 'kernel', 'kernel-managed', 'The kernel has no managed neighbours (Linux 5.16).', {
        why: `${result.managed}; next hops whose MAC is not fresh go through the kernel's neighbour table, which is slower`,
        remedy: 'Linux 5.16 or later.'
      })
    )
  }
  return findings
}

function judgeHook(result: ProbeResult): Finding[] {
  if (result.tcx === null) return [finding('pass', 'kernel', 'kernel-hook', 'Programs attach by TCX links.')]
  if (result.clsact === null) {
    return [
      finding('info', 'kernel', 'kernel-hook', 'No TCX on this kernel (Linux 6.6): programs attach through clsact.', {
        why: 'other programs on the same devices share one list of filters'
      })
    ]
  }
  if (result.tcx === 'untried') return []
  return [
    finding('refuse', 'kernel', 'kernel-hook', 'Programs cannot be attached to devices.', {
      why: `TCX: ${result.tcx}; clsact: ${result.clsact}`,
      remedy:
        'A kernel with CONFIG_NET_XGRESS (6.6), or CONFIG_NET_SCH_INGRESS and CONFIG_NET_CLS_BPF; load the modules sch_ingress and cls_bpf.'
    })
  ]
}

function bpffs(pinDirectory: string): Finding {
  let existing = pinDirectory
  while (!existsSync(existing) && existing !== '/') existing = dirname(existing)
  if (native().isBpffs(existing))
    return finding('pass', 'kernel', 'kernel-bpffs', `${pinDirectory} is on a BPF file system.`)
  return finding('refuse', 'kernel', 'kernel-bpffs', `${pinDirectory} is not on a BPF file system.`, {
    why: 'maps and programs could not outlive the daemon',
    remedy: 'mount -t bpf bpf /sys/fs/bpf, or name another place with --pin-directory.'
  })
}

/** The switch is shown in the machine's first network namespace only; null elsewhere. */
function jit(): Finding | null {
  const path = '/proc/sys/net/core/bpf_jit_enable'
  if (!existsSync(path)) return null
  if (readFileSync(path, 'utf8').trim() !== '0')
    return finding('pass', 'kernel', 'kernel-jit', 'BPF programs are compiled (JIT).')
  return finding('warning', 'kernel', 'kernel-jit', 'BPF programs are interpreted: the JIT compiler is off.', {
    why: 'each packet costs several times more',
    remedy: 'sysctl -w net.core.bpf_jit_enable=1, and the same in /etc/sysctl.d.'
  })
}
