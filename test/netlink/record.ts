// Records test/netlink/fixtures/node.json anew: dumps of every kind, the
// events that made them, and what `ip -j` says. Run it after a build with
// node build/js/test/netlink/record.js

import { writeFileSync } from 'node:fs'
import { native } from '../../src/native.js'
import { joinedGroups } from '../../src/netlink/constants.js'
import { dumpRequests } from '../../src/netlink/dumps.js'
import { dumpKinds } from '../../src/state/messages.js'
import { type Fixture, fixturePath, pack } from './fixture.js'
import { layout } from './layout.js'
import { enterNamespace, ip, peerNamespace } from './namespace.js'
import { askOracle } from './oracle.js'

enterNamespace(import.meta.url)
const peer = peerNamespace()
const events: Buffer[] = []
const reader = native().openNetlinkReader({ groups: joinedGroups, receiveBuffer: 1 << 22 }, (messages) =>
  events.push(Buffer.from(messages))
)
for (const command of layout) ip(command.replace('VETH_PEER_PID', String(peer.pid)))
// IPv6 addresses are tentative for a second or two.
await new Promise((resolve) => setTimeout(resolve, 4000))
const fixture: Fixture = {
  commands: layout,
  dumps: {} as Fixture['dumps'],
  events: '',
  oracle: pack(JSON.stringify(askOracle()))
}
for (const kind of dumpKinds) {
  const chunks: Buffer[] = []
  for (const { type, body } of dumpRequests(kind)) {
    await native().dumpNetlink(type, body, (chunk) => chunks.push(Buffer.from(chunk)))
  }
  fixture.dumps[kind] = pack(Buffer.concat(chunks))
}
fixture.events = pack(Buffer.concat(events))
reader.close()
peer.stop()
writeFileSync(fixturePath, `${JSON.stringify(fixture, null, 1)}\n`)
