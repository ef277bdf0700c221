// Runs in a test machine only (test/vm/suites.ts): kube-proxy in a container
// beside the strongest backend of the machine's kernel.

import t from 'tap'
import { kubeProxyTests } from './kube-proxy.js'
import { strongestBackend } from './support.js'

if (!process.env['HOSTROUTE_VM']) throw new Error('this test runs inside a test machine only: scripts/vm -- node FILE')

t.setTimeout(0) // the row of suites.ts limits it
kubeProxyTests(t, strongestBackend())
