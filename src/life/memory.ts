// A daemon that idles for years should not hold what only its start needed:
// full collections, then malloc's free pages back to the kernel. Measured on Node
// 20: about 10 MB of 90; a second collection, for what the first has only let go, 1 to 4.

import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { native } from '../native.js'

/** Takes some 20 ms, more with many routes: for rare moments. */
export function releaseMemory(): void {
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc') as (options?: object) => void
  setFlagsFromString('--no-expose-gc')
  collect({ type: 'major', execution: 'sync', flavor: 'last-resort' })
  collect()
  native().trimMemory()
}
