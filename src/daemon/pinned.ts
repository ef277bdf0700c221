// `hostrouted --pinned PATH`: answers a question of the control socket from what a
// daemon that is gone, or hangs, has pinned. For the command.

import { once } from 'node:events'
import { type Devices, PinnedAnswers } from '../answers/pinned-answers.js'
import type { NodeControl } from '../control/api.js'
import { type PinnedControls, pinnedPaths } from '../control/pinned-api.js'
import { endpoints } from '../control/requests.js'
import { RowStream, textOf } from '../control/row-stream.js'
import { journalOf } from '../datapath/clsact-journal.js'
import { PinnedControl } from '../datapath/pinned-control.js'
import { PinnedMaps } from '../datapath/pinned-maps.js'
import { Refusal } from '../datapath/refusal.js'
import { native } from '../native.js'
import { messagesOf } from '../netlink/bytes.js'
import { nextFact } from '../netlink/decode.js'
import { dumpRequests } from '../netlink/dumps.js'
import type { Mac } from '../state/types.js'
import { isElsewhere } from './noted.js'

/** question: path and query. Throws Refusal, Failure and NativeError. */
export async function answerFromPins(question: string, pinDirectory: string, runDirectory: string): Promise<void> {
  const url = new URL(question, 'http://hostroute')
  const endpoint = pinnedPaths.some((path) => path === url.pathname) ? endpoints[url.pathname]?.[0] : undefined
  if (!endpoint) throw new Refusal(`${url.pathname} cannot be answered from pins; ${pinnedPaths.join(', ')} can`)
  const control = PinnedControl.open(pinDirectory)
  if (!control) throw new Refusal(`there are no maps in ${pinDirectory} that can be read`)
  const maps = new PinnedMaps(pinDirectory)
  try {
    const devices = isElsewhere(runDirectory) ? null : await readDevices()
    const answers: PinnedControls = new PinnedAnswers({
      maps,
      control,
      devices,
      journalPath: journalOf(runDirectory)
    })
    // it asks nothing else: see pinnedPaths
    const answer = await endpoint.answer(answers as unknown as NodeControl, Object.fromEntries(url.searchParams), null)
    if (answer instanceof RowStream) for await (const text of textOf(answer)) await write(text)
    else await write(`${JSON.stringify(answer)}\n`)
  } finally {
    control.close()
    maps.close()
  }
}

async function write(text: string): Promise<void> {
  if (!process.stdout.write(text)) await once(process.stdout, 'drain')
}

async function readDevices(): Promise<Devices> {
  const devices = new Map<number, { name: string; mac: Mac | null }>()
  const counters = { malformed: 0, unknown: 0 }
  for (const { type, body } of dumpRequests('links')) {
    await native().dumpNetlink(type, body, (messages) => {
      const cursor = messagesOf(messages)
      for (let fact = nextFact(cursor, counters); fact; fact = nextFact(cursor, counters))
        if (fact.kind === 'link') devices.set(fact.link.ifindex, { name: fact.link.name, mac: fact.link.mac })
    })
  }
  return devices
}
