// Runs a guard in the network namespace it is started in, for tests that need
// one in a process of its own: events as JSON lines on stdout, commands on
// stdin ({"mode": "audit"}, {"allow": {...}}, {"status": true}, {"stop": true}).

import { createInterface } from 'node:readline'
import type { GuardAllowRequest, GuardMode } from '../../src/control/guard-api.js'
import { Guard, type GuardOptions } from '../../src/guard/guard.js'
import { createLogger } from '../../src/log.js'

interface Command {
  mode?: GuardMode
  allow?: GuardAllowRequest
  deny?: GuardAllowRequest
  status?: true
  stop?: { remove: boolean }
}

const say = (value: object) => process.stdout.write(`${JSON.stringify(value)}\n`)
const log = createLogger({ stream: { write: (line: string) => void process.stderr.write(line) } })
const given = JSON.parse(process.argv[2] ?? '{}') as Omit<GuardOptions, 'log'>
const guard = await Guard.start({ ...given, log })
guard.events((event) => say({ event }))
say({ status: guard.status() })

createInterface({ input: process.stdin }).on('line', (line) => {
  const command = JSON.parse(line) as Command
  try {
    if (command.mode) guard.setMode(command.mode)
    if (command.allow) guard.allow(command.allow)
    if (command.deny) guard.deny(command.deny)
  } catch (error) {
    say({ error: (error as Error).message })
    return
  }
  if (command.stop) void guard.stop(command.stop).then(() => process.exit(0))
  else say({ status: guard.status() })
})
