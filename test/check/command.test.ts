// The command: what it prints, and its exit status.

import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { defaultPolicyText } from '../../src/check/default-policy.js'
import type { CheckReport, Finding } from '../../src/check/report.js'
import { renderCheck } from '../../src/cli/render-check.js'
import { painter } from '../../src/cli/text.js'

const command = fileURLToPath(new URL('./run-command.js', import.meta.url))
const directory = mkdtempSync(join(tmpdir(), 'hr-check-command-'))
t.teardown(() => rmSync(directory, { recursive: true }))

function file(name: string, text: string): string {
  const path = join(directory, name)
  writeFileSync(path, text)
  return path
}

/** In a fresh namespace that forwards, after these shell lines. */
function check(setup: string, ...words: string[]) {
  const script = `ip link set lo up; echo 1 > /proc/sys/net/ipv4/ip_forward; ${setup}\nexec "$@"`
  const argv = ['--net', 'sh', '-c', script, 'sh', process.execPath, command, 'check', ...words]
  return spawnSync('unshare', argv, { encoding: 'utf8' })
}

const policy = file('policy.yaml', 'version: 1\notherSystems: pass\naccepted: [kernel-bpffs]\n')
const config = file('config.yaml', '')

t.test('[C10] status 2 and a report with rule, reason and remedy when enabling would be refused', async (t) => {
  const { status, stdout } = check(
    'iptables-nft -A FORWARD -s 10.9.0.1 -j DROP',
    '--policy',
    policy,
    '--config',
    config
  )
  t.equal(status, 2)
  t.match(stdout, /REFUSE {3}A rule in iptables-nft ip filter, FORWARD, would be bypassed/)
  t.match(stdout, / rule {2}-A FORWARD -s 10\.9\.0\.1\/32 -j DROP\n +why {3}.+\n +fix {3}.+/)
  t.match(stdout, /1 rule: 1 bypassed/)
  t.match(stdout, /Refused: 1 finding blocks enabling/)
  t.notOk(stdout.includes('\x1b'), 'no colours in a pipe')
})

t.test('[C10] status 0 and JSON when nothing blocks enabling', async (t) => {
  const { status, stdout } = check(
    'iptables-nft -A INPUT -s 10.9.0.1 -j DROP',
    '--json',
    '--policy',
    policy,
    '--config',
    config
  )
  t.equal(status, 0)
  const report = JSON.parse(stdout) as CheckReport
  t.match(report, { version: 1, pass: true, counts: { refuse: 0 }, rules: { 'host-only': 1 } })
  const keys = ['outcome', 'area', 'code', 'what', 'rule', 'why', 'remedy']
  t.ok(
    report.findings.every((each) => Object.keys(each).join() === keys.join()),
    'every finding has every key'
  )
})

t.test('[C10] status 1 when the check cannot be made', async (t) => {
  const { status, stderr } = check('', '--policy', join(directory, 'absent.yaml'))
  t.equal(status, 1)
  t.match(stderr, /absent\.yaml: cannot be read/)
})

t.test('[C11] the printed policy can be read again; a wrong one is refused with its place', async (t) => {
  t.equal(check('', '--print-policy').stdout, defaultPolicyText)
  const wrong = check('', '--policy', file('wrong.yaml', 'version: 1\nrule: []\n'))
  t.equal(wrong.status, 1)
  t.match(wrong.stderr, /wrong\.yaml:2:1: rule: unknown key; did you mean rules\?/)
})

t.test('[C10] many findings of one kind are cut short, and --all shows them', async (t) => {
  const finding = (index: number): Finding => ({
    outcome: 'refuse',
    area: 'rules',
    code: 'rule-bypassed',
    what: 'A rule would be bypassed.',
    rule: {
      backend: 'nft',
      family: 'ip',
      table: 'x',
      chain: 'c',
      text: `rule ${index}`,
      class: 'bypassed',
      owner: null
    },
    why: 'because',
    remedy: null
  })
  const report: CheckReport = {
    version: 1,
    pass: false,
    time: '2026-01-01T00:00:00Z',
    node: 'n',
    system: 's',
    kernel: 'k',
    namespace: '4:1',
    counts: { refuse: 25, warning: 0, info: 0, pass: 0 },
    rules: { bypassed: 25, 'host-only': 0, harmless: 0, translatable: 0 },
    findings: Array.from({ length: 25 }, (_, index) => finding(index)),
    notLookedAt: ['TCX programs: bpftool is not installed']
  }
  const short = renderCheck(report, painter(false), { all: false, width: 80 })
  t.equal(short.match(/REFUSE/g)?.length, 10)
  t.match(short, /15 findings like those above are not shown\. All of them: hostroute check --all/)
  t.match(short, /skipped {2}TCX programs/)
  const whole = renderCheck(report, painter(true), { all: true, width: 80 })
  t.equal(whole.match(/REFUSE/g)?.length, 25)
  t.ok(whole.includes('\x1b[31mREFUSE'))
})
