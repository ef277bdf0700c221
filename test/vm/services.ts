// Services beside hostroute on another kernel: kube-proxy in mode ipvs, which the
// build machine's kernel does not have.

import t from 'tap'
import { wholeLife } from '../services/life.js'

t.setTimeout(0) // the row of suites.ts limits it

// Emulated, one processor: all at once would run into their own time limits.
wholeLife(t, 'ipvs', { cases: 36, interval: 250 })
