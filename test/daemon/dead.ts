// The command beside a daemon that is dead, and a connection that is to go on.

import { fileURLToPath } from 'node:url'
import type { Test } from 'tap'
import { OUTSIDE } from '../lab/addresses.js'
import type { LabNode } from '../lab/node.js'
import type { Outcome } from '../lab/process.js'

export const command = fileURLToPath(new URL('../../src/cli/main.js', import.meta.url))
export const masquerade = `table ip nat2 {
chain post { type nat hook postrouting priority 100; ip daddr != 10.0.0.0/8 oifname up0 masquerade; }
}
`

/** The command in the node's network namespace, as an operator runs it. */
export function ask(node: LabNode, ...words: string[]): Promise<Outcome> {
  return node.exec([process.execPath, command, '--socket', node.daemon.socket, ...words])
}

export function flowOf(node: LabNode, protocol: 'tcp' | 'udp' = 'tcp') {
  return node.pod(0).flow({ protocol, address: OUTSIDE.v4, port: 7 })
}

export async function goesOn(t: Test, flow: Awaited<ReturnType<typeof flowOf>>, what: string): Promise<void> {
  const { received, sent, error } = await flow.finish()
  t.match({ received, error }, { received: sent, error: null }, what)
}
