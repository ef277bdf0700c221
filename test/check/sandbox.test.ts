// Confidential machines and sandboxed pods, by what such machines have in
// /proc, /dev and /sys: made below a folder.

import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import t, { type Test } from 'tap'
import { judgeSandbox } from '../../src/check/system.js'

/** Files by path: contents, or '-> target' for a link. */
function judge(t: Test, files: Record<string, string>): string[] {
  const root = mkdtempSync(join(tmpdir(), 'hostroute-sandbox-'))
  t.teardown(() => rmSync(root, { recursive: true }))
  mkdirSync(join(root, 'proc'))
  for (const [path, content] of Object.entries(files)) {
    mkdirSync(dirname(join(root, path)), { recursive: true })
    if (content.startsWith('-> ')) symlinkSync(content.slice(3), join(root, path))
    else writeFileSync(join(root, path), content)
  }
  return judgeSandbox(root).map(({ outcome, code, what }) => `${outcome} ${code}: ${what}`)
}

const cpu = (...flags: string[]) => ({ 'proc/cpuinfo': `processor\t: 0\nflags\t\t: fpu vme ${flags.join(' ')}\n` })
const confidential = (kind: string) => [`info sandbox-confidential: This is a confidential virtual machine (${kind}).`]

t.test('[C2] a confidential virtual machine is said, and refuses nothing', async (t) => {
  t.strictSame(judge(t, cpu()), [], 'an ordinary machine')
  t.strictSame(judge(t, cpu('hypervisor')), [], 'an ordinary virtual machine')
  t.strictSame(judge(t, cpu('hypervisor', 'tdx_guest')), confidential('Intel TDX'))
  t.strictSame(judge(t, { ...cpu('hypervisor'), 'dev/tdx_guest': '' }), confidential('Intel TDX'))
  t.strictSame(judge(t, { ...cpu('hypervisor'), 'dev/sev-guest': '' }), confidential('AMD SEV-SNP'))
  t.strictSame(judge(t, cpu('hypervisor', 'sev', 'sev_es')), confidential('AMD SEV'))
  t.strictSame(judge(t, cpu('sev', 'sev_es', 'sev_snp')), [], 'a host that can start such machines is none')
  t.strictSame(judge(t, {}), [], 'no /proc/cpuinfo')
})

t.test('[C2] sandboxed pods: a warning while some run, said when they could', async (t) => {
  const shim = '-> /opt/kata/bin/containerd-shim-kata-v2'
  const installed = ['info sandbox-kata: Kata Containers are installed; no such pod runs now.']
  t.strictSame(judge(t, { 'opt/kata/bin/kata-runtime': '' }), installed)
  t.strictSame(judge(t, { 'etc/kata-containers/configuration.toml': '' }), installed)
  t.strictSame(
    judge(t, {
      'opt/kata/bin/kata-runtime': '',
      'proc/71/exe': shim,
      'proc/72/exe': shim,
      'proc/73/exe': '-> /usr/bin/containerd-shim-runc-v2'
    }),
    ['warning sandbox-kata: 2 sandboxed pods (Kata Containers) run here.']
  )
})
