// Runs functions of src/conntrack in the namespace it is started in: a JSON
// question on stdin, a JSON answer on stdout, with the milliseconds it took and
// the longest time that the event loop was held, as this thread's own CPU time.

import { readFileSync } from 'node:fs'
import { text } from 'node:stream/consumers'
import { hexAddress } from '../../src/address.js'
import { forgetUntranslated } from '../../src/conntrack/forget.js'
import { handBack, type LiveFlow } from '../../src/conntrack/hand-back.js'
import { readTranslated } from '../../src/conntrack/translated.js'
import type { Address } from '../../src/state/types.js'

export type Act =
  | { verb: 'translated'; pods: Address[] }
  | { verb: 'forget'; pods: Address[]; node: Address[]; idle?: number }
  | { verb: 'handBack'; flows: LiveFlow[] }
  /** Makes entries of a pod with so many remotes, each tenth of them translated. */
  | { verb: 'fill'; pod: Address; nat: Address; count: number }

function filling({ pod, nat, count }: Extract<Act, { verb: 'fill' }>): LiveFlow[] {
  return Array.from({ length: count }, (_, index) => ({
    family: 4,
    protocol: 6,
    pod,
    podPort: 1024 + (index >> 8),
    remote: hexAddress(`c6${(0x120000 + (index & 0xffff)).toString(16).padStart(6, '0')}`),
    remotePort: 443 + (index >> 16),
    nat: index % 10 === 0 ? { address: nat, port: 1024 + (index >> 8) } : null,
    opener: 'pod',
    stage: 'established'
  }))
}

async function run(act: Act): Promise<unknown> {
  if (act.verb === 'fill') {
    const { continues, cannot } = await handBack(filling(act))
    return { continues, cannot: cannot.slice(0, 3) }
  }
  if (act.verb === 'handBack') return handBack(act.flows)
  const pods = new Set(act.pods)
  const isPod = (address: Address) => pods.has(address)
  if (act.verb === 'translated') return readTranslated(isPod)
  const node = new Set(act.node)
  const { failed, ...rest } = await forgetUntranslated({
    isPod,
    isStacks: (one, other) => node.has(one) || node.has(other),
    ...(act.idle === undefined ? {} : { idle: act.idle })
  })
  return { ...rest, failed: Object.fromEntries(failed) }
}

/** Milliseconds that this thread has computed; what other processes take away does not count. */
function computed(): number {
  return Number(readFileSync(`/proc/self/task/${process.pid}/schedstat`, 'utf8').split(' ')[0]) / 1e6
}

const act = JSON.parse(await text(process.stdin)) as Act
// so that V8 has compiled most of it before the loop is watched, and does not collect this program's start in it
if (act.verb === 'forget' || act.verb === 'translated') {
  await readTranslated(() => false)
  globalThis.gc?.()
}
let held = 0
let last = computed()
const look = () => {
  const now = computed()
  held = Math.max(held, now - last)
  last = now
}
const ticker = setInterval(look, 1)
const start = performance.now()
const result = await run(act)
const milliseconds = performance.now() - start
look()
clearInterval(ticker)
process.stdout.write(JSON.stringify({ result, milliseconds, held }))
