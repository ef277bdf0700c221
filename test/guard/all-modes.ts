// Runs in a test machine only (test/vm/suites.ts): exemptions, modes, events
// and the guard's own life, with the strongest backend of the machine's kernel.

import t from 'tap'
import { lifeTests } from './common.js'
import { strongestBackend } from './support.js'

if (!process.env['HOSTROUTE_VM']) throw new Error('this test runs inside a test machine only: scripts/vm -- node FILE')

t.setTimeout(0) // the row of suites.ts limits it
lifeTests(t, strongestBackend())
