// The operating system, and what the machine is: a confidential VM, a host of
// sandboxed pods.

import { existsSync, readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { join } from 'node:path'
import type { Policy } from './policy.js'
import { type Finding, finding } from './report.js'

export interface System {
  id: string
  version: string
  /** For people. */
  name: string
}

/** From the text of os-release(5). */
export function parseSystem(text: string): System {
  const values = new Map<string, string>()
  for (const line of text.split('\n')) {
    const match = /^([A-Z_]+)=(?:"(.*)"|'(.*)'|(.*))$/.exec(line.trim())
    if (match?.[1]) values.set(match[1], (match[2] ?? match[3] ?? match[4] ?? '').replace(/\\(.)/g, '$1'))
  }
  const id = values.get('ID') ?? 'linux'
  return { id, version: values.get('VERSION_ID') ?? '', name: values.get('PRETTY_NAME') ?? id }
}

/** /etc/os-release, else /usr/lib/os-release. */
export function readSystem(): System {
  for (const path of ['/etc/os-release', '/usr/lib/os-release']) {
    try {
      return parseSystem(readFileSync(path, 'utf8'))
    } catch {}
  }
  return parseSystem('')
}

export function judgeSystem(system: System, policy: Policy): Finding {
  const known = policy.systems.find(({ id }) => id === system.id)
  if (known && (known.versions.length === 0 || known.versions.includes(system.version))) {
    return finding('pass', 'system', 'system-known', `${system.name} is among the systems of the policy.`)
  }
  const outcome = { pass: 'pass', warn: 'warning', refuse: 'refuse' } as const
  return finding(
    outcome[policy.otherSystems],
    'system',
    'system-unknown',
    `${system.name} (ID=${system.id}, VERSION_ID=${system.version}) is not among the systems of the policy.`,
    {
      why: 'hostroute was not tried there; what it needs of the kernel is probed below',
      remedy: 'Add it to systems in a policy file (--policy) once you have tried it.'
    }
  )
}

/** hostroute needs no boot parameters, so a confidential VM makes no difference: it is said, not judged. `root` is where /proc and /dev hang. */
export function judgeSandbox(root = '/'): Finding[] {
  const findings: Finding[] = []
  const kind = confidential(root)
  if (kind) {
    findings.push(
      finding('info', 'sandbox', 'sandbox-confidential', `This is a confidential virtual machine (${kind}).`, {
        why: 'its kernel command line may be measured; hostroute needs no boot parameter'
      })
    )
  }
  const shims = runningShims(root)
  if (shims > 0) {
    findings.push(
      finding('warning', 'sandbox', 'sandbox-kata', `${shims} sandboxed pods (Kata Containers) run here.`, {
        why: 'a virtual machine stands behind their devices; traffic control inside the pod hands packets on to it',
        remedy: 'Try such a pod after enabling (hostroute explain), or leave their devices out by pods.devices.'
      })
    )
  } else if (kataInstalled(root)) {
    findings.push(finding('info', 'sandbox', 'sandbox-kata', 'Kata Containers are installed; no such pod runs now.'))
  }
  return findings
}

function confidential(root: string): string | null {
  const there = (path: string) => existsSync(join(root, path))
  const flags = cpuFlags(root)
  if (there('/dev/tdx_guest') || flags.has('tdx_guest')) return 'Intel TDX'
  if (there('/dev/sev-guest')) return 'AMD SEV-SNP'
  const active =
    there('/sys/devices/system/cpu/sev') ||
    there('/sys/firmware/efi/coco') ||
    there('/sys/kernel/security/secrets/coco')
  // a host that can start such machines has the flag as well
  return active || (flags.has('hypervisor') && (flags.has('sev') || flags.has('sev_snp'))) ? 'AMD SEV' : null
}

function cpuFlags(root: string): Set<string> {
  try {
    const line = readFileSync(join(root, 'proc/cpuinfo'), 'utf8')
      .split('\n')
      .find((each) => each.startsWith('flags'))
    return new Set(line?.split(/\s+/) ?? [])
  } catch {
    return new Set()
  }
}

function runningShims(root: string): number {
  let count = 0
  for (const pid of readdirSync(join(root, 'proc'))) {
    if (!/^\d+$/.test(pid)) continue
    try {
      if (readlinkSync(join(root, 'proc', pid, 'exe')).endsWith('/containerd-shim-kata-v2')) count++
    } catch {}
  }
  return count
}

function kataInstalled(root: string): boolean {
  return [
    '/opt/kata',
    '/etc/kata-containers',
    '/usr/share/kata-containers',
    '/usr/share/defaults/kata-containers'
  ].some((path) => existsSync(join(root, path)))
}
