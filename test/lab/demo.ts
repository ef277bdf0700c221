// The demo: one lab with hostroute, real traffic, and what came of it in plain
// words. Every line with a tick is a check; the exit status is 0 only when all
// of them held. --keep leaves the lab up, --clean removes labs that were kept.

import { parseArgs } from 'node:util'
import { showChanges } from './demo-changes.js'
import { showGuard } from './demo-guard.js'
import { showPerformance } from './demo-performance.js'
import { showReach } from './demo-reach.js'
import { Lab } from './lab.js'
import { sweep } from './lease.js'
import { Story } from './story.js'

const DRAWING = `
     pod 1      pod 2          pod 1      pod 2          each pod: a namespace on a veth pair
  10.244.1.2  10.244.1.3    10.244.2.2  10.244.2.3       and fd00:244:1::2 … in IPv6
        └──node 1──┘              └──node 2──┘           hostrouted runs in each node
       192.168.100.11            192.168.100.12
              └──────── router ────────┘                 knows the nodes, not the pods
                           │
                   203.0.113.10 outside                  can answer only nodes' addresses: SNAT is needed
`

async function tell(story: Story, keep: boolean): Promise<void> {
  const begin = performance.now()
  const lab = await Lab.create()
  const made = Math.round(performance.now() - begin)
  const config = { checks: 'refuse' }
  await lab.node(0).startDaemon({ config: { ...config, guard: { mode: 'enforce' } } })
  await lab.node(1).startDaemon({ config })
  const ready = Math.round(performance.now() - begin) - made
  story.chapter('A small cluster out of network namespaces on this machine')
  story.text(DRAWING)
  story.text(`  made in ${made} ms; hostroute on both nodes attached and in step with the kernel ${ready} ms later\n`)
  await showReach(story, lab)
  await showChanges(story, lab)
  await showGuard(story, lab)
  await showPerformance(story, lab)
  if (keep) explainKept(story, lab)
  else await lab.close()
}

function explainKept(story: Story, lab: Lab): void {
  lab.keep()
  story.chapter('The lab stays up')
  const { socket } = lab.node(0).daemon
  story.text(
    [
      `  into a node       nsenter --net=/run/netns/${lab.node(0).namespace} bash`,
      `  into a pod        nsenter --net=/run/netns/${lab.node(0).pod(0).namespace} bash`,
      `  hostroute there   ${process.execPath} build/js/src/cli/main.js --socket ${socket} status`,
      '  remove it         scripts/demo --clean\n'
    ].join('\n')
  )
}

const { values: flags } = parseArgs({ options: { keep: { type: 'boolean' }, clean: { type: 'boolean' } } })
if (flags.clean) {
  const removed = sweep(true)
  console.log(removed.length > 0 ? `Removed: ${removed.join(', ')}` : 'There was no lab to remove.')
} else {
  const story = new Story()
  try {
    await tell(story, flags.keep ?? false)
  } catch (error) {
    story.fact(false, 'the demo ran to its end', (error as Error).message)
  }
  process.exit(story.end())
}
