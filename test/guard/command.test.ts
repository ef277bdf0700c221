// `hostroute guard …` and its paths on the control socket, against a guard
// that exists only as answers.

import t from 'tap'
import type {
  GuardAllowRequest,
  GuardControl,
  GuardEventRow,
  GuardMode,
  GuardStatus
} from '../../src/control/guard-api.js'
import { start } from '../cli/run.js'

const event: GuardEventRow = {
  time: '2026-01-02T03:04:05.000Z',
  verdict: 'refused',
  reason: 'write',
  backend: 'cgroup',
  system: 'iptables',
  family: 'ip',
  table: 'filter',
  chain: null,
  message: 'REPLACE',
  position: 0,
  pid: 7,
  uid: 0,
  command: 'iptables',
  arguments: 'iptables -A FORWARD -j DROP',
  executable: '/usr/sbin/xtables-legacy-multi',
  cgroup: '/system.slice/x.service',
  unit: 'x.service',
  exemption: null,
  repeated: 3
}

function fakeGuard(change: Partial<GuardStatus> = {}) {
  const calls: (GuardMode | GuardAllowRequest)[] = []
  const guard: GuardControl = {
    status: () => ({
      mode: 'enforce',
      backend: 'cgroup',
      refuses: 'iptables writes',
      why: null,
      backends: [
        { name: 'lsm', state: 'failed', why: 'refuses nothing' },
        { name: 'cgroup', state: 'in use', why: null }
      ],
      witness: { name: 'capability', why: 'kprobe: this kernel has no kprobes' },
      counts: { refused: 1234, audited: 0, exempt: 2, removals: 0, lost: 0, appeared: 1 },
      tables: [
        { family: 'ip', table: 'filter', owned: true, why: null },
        { family: 'ip', table: 'nat', owned: false, why: 'somebody has made it' }
      ],
      unownedFor: null,
      allowances: [
        { kind: 'unit', name: 'kube-proxy.service', source: 'default', until: null, used: 5, present: true },
        { kind: 'unit', name: 'k3s.service', source: 'default', until: null, used: 0, present: false },
        { kind: 'cgroup', name: '/x', source: 'configuration', until: null, used: 0, present: false }
      ],
      present: [{ system: 'iptables', family: 'ip', table: 'nat', rules: 1 }],
      last: event,
      ...change
    }),
    recentEvents: (limit) => [event].slice(0, limit),
    setMode: (mode) => void calls.push(mode),
    allow: (request) => void calls.push(request),
    deny: (request) => calls.push(request) > 5
  }
  return { guard, calls }
}

t.test('status says in words how writes are refused, and why not otherwise', async (t) => {
  const { ask } = await start(t, { guard: fakeGuard().guard })
  const { code, out } = await ask('guard', 'status')
  t.equal(code, 0)
  for (const words of [
    'iptables writes are refused, other nf_tables writes are reported, by cgroup',
    '1,234',
    'lsm       failed: refuses nothing',
    'not ip nat: somebody has made it',
    'is seen by capability',
    'kube-proxy.service',
    'by default as well, not on this node now:\n    k3s.service',
    'not there now',
    '1 rule in ip nat',
    'by "iptables -A FORWARD -j DROP" (pid 7'
  ])
    t.ok(out.includes(words), words)
  t.same(JSON.parse((await ask('guard', 'status', '--json')).out).counts.refused, 1234)
})

t.test('a guard that guards nothing is unhealthy', async (t) => {
  const { ask } = await start(t, { guard: fakeGuard({ backend: null, why: 'no backend refuses' }).guard })
  t.match(await ask('guard', 'status'), { code: 2, out: /Nothing is guarded/ })
})

t.test('that nobody is named is said', async (t) => {
  const { ask } = await start(t, {
    guard: fakeGuard({ witness: { name: null, why: 'kprobe: no; capability: no' } }).guard
  })
  t.match((await ask('guard', 'status')).out, /not seen: .*without a report/)
})

t.test('events are a table', async (t) => {
  const { ask } = await start(t, { guard: fakeGuard().guard })
  t.match(
    (await ask('guard', 'events')).out,
    /2026-01-02 03:04:05 +refused +3 +7 +x.service +iptables REPLACE +ip filter +iptables -A FORWARD -j DROP/
  )
})

t.test('mode, allow and deny reach the guard', async (t) => {
  const { guard, calls } = fakeGuard()
  const { ask } = await start(t, { guard })
  t.equal((await ask('guard', 'mode', 'audit')).code, 0)
  t.equal((await ask('guard', 'allow', '--unit', 'x.service', '--for', '10m')).code, 0)
  t.equal((await ask('guard', 'allow', '--executable', '/bin/x')).code, 0)
  t.equal((await ask('guard', 'deny', '--cgroup', '/x')).code, 1, 'there was none')
  t.same(calls, ['audit', { unit: 'x.service', seconds: 600 }, { executable: '/bin/x' }, { cgroup: '/x' }])
  for (const wrong of [
    ['mode', 'loud'],
    ['allow'],
    ['allow', '--unit', 'x', '--cgroup', '/x'],
    ['allow', '--unit', 'x', '--for', 'long'],
    []
  ])
    t.equal((await ask('guard', ...wrong)).code, 64, `guard ${wrong.join(' ')}`)
  t.match(await ask('guard', 'allow', '--executable', 'relative'), { code: 1, err: /absolute path/ })
})

t.test('a daemon without a guard says so', async (t) => {
  const { ask } = await start(t)
  t.match(await ask('guard', 'status'), { code: 1, err: /guard does not run/ })
})
