// Runs in a test machine only (test/vm/suites.ts): the tools, as with every
// backend, with the strongest one of the machine's kernel.

import t from 'tap'
import { hookTests, toolTests } from './common.js'
import { strongestBackend } from './support.js'

if (!process.env['HOSTROUTE_VM']) throw new Error('this test runs inside a test machine only: scripts/vm -- node FILE')

t.setTimeout(0) // the row of suites.ts limits it
hookTests(t, strongestBackend())
toolTests(t, strongestBackend())
