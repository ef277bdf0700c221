// Native calls that fail at start, enable and reload, also with other limits, and kills at random moments:
// a small part of what scripts/soak faults and scripts/soak kills do.

import t from 'tap'
import { faults } from '../soak/faults.js'
import { kills } from '../soak/kills.js'
import { reportTo } from '../soak/report.js'

t.setTimeout(400_000)

t.test('a native call fails: all or nothing, told, and right again afterwards', async (t) => {
  const some = { code: 'EMFILE', guard: 'off' } as const
  await faults(reportTo(t), {
    ...some,
    phases: ['enable', 'reload'],
    ways: ['for good'],
    only: /^(loadObjectLater hostroute|object\.attachTcx from_pod|map\.update routes4|map\.lookup counters|map\.updateBatch snat_ports)$/
  })
  await faults(reportTo(t), { ...some, phases: ['start'], ways: ['once'], only: /^(openNetlinkReader|readRing)$/ })
})

t.test(
  'a native call fails while maps of other sizes take over: the old or the new, and they are what is pinned',
  async (t) => {
    await faults(reportTo(t), {
      code: 'ENOMEM',
      guard: 'off',
      phases: ['limits'],
      ways: ['once'],
      only: /^(openPinnedMap flows4|object\.attachTcx from_pod)$/
    })
  }
)

t.test('SIGKILL at random moments', async (t) => {
  await kills(reportTo(t), { count: 15 })
})
