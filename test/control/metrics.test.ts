import t from 'tap'
import type { GuardStatus } from '../../src/control/guard-api.js'
import { renderMetrics } from '../../src/control/metrics.js'
import { fakeDrops, fakeStatus } from './fake.js'

const guard: GuardStatus = {
  mode: 'enforce',
  backend: 'lsm',
  refuses: 'all writes',
  why: null,
  backends: [],
  witness: null,
  counts: { refused: 7, audited: 0, exempt: 2, removals: 1, lost: 0, appeared: 3 },
  tables: [],
  unownedFor: null,
  allowances: [],
  present: [],
  last: null
}
const text = renderMetrics({ status: fakeStatus(), drops: fakeDrops, guard })
const lines = text.split('\n')

t.test('counters carry device, class and reason', async (t) => {
  t.ok(lines.includes('hostroute_packets_total{device="vetha",class="drop",reason="drop-spoof"} 4'))
  t.ok(lines.includes('hostroute_bytes_total{device="vetha",class="drop",reason="drop-spoof"} 400'))
  t.ok(lines.includes('hostroute_map_entries{map="flows4"} 250000'))
  t.ok(lines.includes('hostroute_mode{mode="enabled"} 1'))
  t.ok(lines.includes('hostroute_mode{mode="degraded"} 0'))
  t.ok(lines.includes('hostroute_masquerade_file_error{path="/etc/config/ip-masq-more"} 1'))
})

t.test('packets of the detour, by what became of them; nothing while disabled', async (t) => {
  t.ok(lines.includes('hostroute_detour_open 1'))
  t.ok(lines.includes('hostroute_detour_waiting 2'))
  t.ok(lines.includes('hostroute_detour_packets_total{result="cut"} 12'))
  t.ok(lines.includes('hostroute_detour_packets_total{result="dropped-full"} 4'))
  t.notMatch(renderMetrics({ status: fakeStatus({ detour: null }), drops: [], guard: null }), /detour/)
})

t.test('[G9] attempts that the guard saw, by verdict; nothing without a guard', async (t) => {
  t.ok(lines.includes('hostroute_guard_refuses 1'))
  t.ok(lines.includes('hostroute_guard_attempts_total{verdict="refused"} 7'))
  t.ok(lines.includes('hostroute_guard_attempts_total{verdict="appeared"} 3'))
  t.ok(lines.includes('hostroute_guard_removals_total 1'))
  t.notMatch(renderMetrics({ status: fakeStatus(), drops: [], guard: null }), /guard/)
  const audit = renderMetrics({ status: fakeStatus(), drops: [], guard: { ...guard, mode: 'audit' } })
  t.match(audit, 'hostroute_guard_refuses 0')
})

t.test(
  'every line is a comment or a sample, each family stands together with HELP and TYPE, no series twice',
  async (t) => {
    const sample =
      /^([a-z_]+)(\{[a-z_]+="(?:[^"\\\n]|\\["\\n])*"(?:,[a-z_]+="(?:[^"\\\n]|\\["\\n])*")*\})? (-?[0-9.e+]+|NaN|[+-]Inf)$/
    const seen = new Set<string>()
    let family = ''
    let summary = false
    for (const line of lines.slice(0, -1)) {
      const type = /^# TYPE ([a-z_]+) (gauge|counter|summary)$/.exec(line)
      if (line.startsWith('# HELP ')) continue
      if (type) {
        family = type[1] ?? ''
        summary = type[2] === 'summary'
        if (type[2] === 'counter') t.match(family, /_total$/)
        continue
      }
      const match = sample.exec(line)
      const ofFamily = match?.[1] === family || (summary && /_(sum|count)$/.test(match?.[1] ?? ''))
      if (!match || !ofFamily) t.fail(line)
      const series = line.slice(0, line.lastIndexOf(' '))
      if (seen.has(series)) t.fail(`twice: ${series}`)
      seen.add(series)
    }
    t.ok(seen.size > 40)
    t.equal(lines.at(-1), '', 'ends with a newline')
  }
)

t.test('how late the event loop was, as a summary in seconds', async (t) => {
  const name = 'hostroute_event_loop_delay_seconds'
  t.ok(lines.includes(`# TYPE ${name} summary`))
  t.ok(lines.includes(`${name}{quantile="0.99"} 0.0025`))
  t.ok(lines.includes(`${name}_sum 0.12`))
  t.ok(lines.includes(`${name}_count 4000`))
  t.ok(lines.includes('hostroute_event_loop_longest_delay_seconds 0.0415'))
})

t.test('labels are escaped', async (t) => {
  const status = fakeStatus({ stack: [{ family: 4, devices: ['a"b\\c\nd'], destinations: null, rule: null, why: '' }] })
  t.match(
    renderMetrics({ status, drops: [], guard: null }),
    'hostroute_stack_only{family="4",device="a\\"b\\\\c\\nd"} 1'
  )
})
