// Runs alone: it measures, though nothing here depends on what comes out.
// The benchmark's shape: every way, every kind and every program has a figure.

import { execFileSync } from 'node:child_process'
import t from 'tap'
import { formatReport, type Report, WAYS } from './figures.js'
import { drawPicture } from './picture.js'
import { KINDS } from './traffic.js'

t.setTimeout(300_000)

const root = new URL('../../../../', import.meta.url).pathname

t.test('scripts/bench --quick --json gives a figure for each way, kind and program', async (t) => {
  const text = execFileSync(`${root}scripts/bench`, ['--quick', '--json'], { encoding: 'utf8', maxBuffer: 1 << 24 })
  const report = JSON.parse(text) as Report
  t.equal(report.exact, null)
  const ways = Object.keys(WAYS).filter((way) => !way.startsWith('floor'))
  t.same(Object.keys(report.wall?.traffic ?? {}).sort(), ways.sort())
  for (const [way, figures] of Object.entries(report.wall?.traffic ?? {})) {
    t.same(Object.keys(figures), KINDS, way)
    for (const value of Object.values(figures)) t.ok(value > 0, way)
  }
  t.ok((report.wall?.programs.length ?? 0) >= 12)
  for (const { path, cost } of report.wall?.programs ?? []) t.type(cost, 'number', path)
  const shown = formatReport(report)
  for (const way of ways) t.match(shown, WAYS[way])
  t.match(drawPicture(report), /^<svg [\s\S]*<\/svg>\n$/)
})
