// Short parts of the long runs of scripts/soak: much traffic.

import t from 'tap'
import { connections } from './connections.js'
import { dns } from './dns.js'
import { idle } from './idle.js'
import { many } from './many.js'
import { reportTo } from './report.js'
import { short } from './short.js'

t.setTimeout(300_000)

t.test('[S1] 200 connections of curl, open at a time', (t) => connections(reportTo(t), 200))

t.test('[S2] DNS questions of four pods to one resolver: all are answered', (t) =>
  dns(reportTo(t), { pods: 4, perSecond: 1_000, seconds: 3 })
)

t.test('[S1] [S9] 10,000 short TCP connections: none fails', (t) =>
  short(reportTo(t), { connections: 10_000, pods: 4, parallel: 8 })
)

t.test('[S1] [S10] idle connections beside SYN, UDP and ACK floods: none breaks', (t) =>
  idle(reportTo(t), { connections: 20, seconds: 1 })
)

t.test('[S9] [S2] three of four ports to one remote are taken: each flow is answered', (t) =>
  many(reportTo(t), { flows: 3_000, ports: '20000-23999', ways: ['hostroute'] })
)
