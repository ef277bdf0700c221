// Runs inside a test machine: uplinks of the kinds that only a kernel with
// modules has.

import { kinds, testKinds } from '../forwarding/kinds.js'
import { run } from '../lab/process.js'

if (!process.env['HOSTROUTE_VM']) throw new Error('this test runs inside a test machine only: scripts/vm -- node FILE')

await run(['modprobe', '-a', '8021q', 'bonding', 'ip6_tunnel', 'wireguard', 'bridge'])
// A bridge every kernel has: kinds.test.ts.
testKinds(Object.keys(kinds).filter((name) => name !== 'a bridge'))
