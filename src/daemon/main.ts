#!/usr/bin/env -S MALLOC_ARENA_MAX=1 node --max-semi-space-size=1 --no-memory-reducer
// hostrouted: reads its options, starts the node, ends it by signal.
//
// Exit status: 0 stopped as asked, 1 an error that a restart may cure, 2 refused
// (wrong configuration, missing rights, second daemon, kernel without the
// features), 64 wrong options. Never a stack trace for what a user can cause.

import { parseArgs } from 'node:util'
import { ConfigError, configReference, formatProblem } from '../config/config.js'
import { Refusal } from '../datapath/refusal.js'
import { realDirectory } from '../directories.js'
import { watchEventLoop } from '../event-loop.js'
import { createLogger, type Logger } from '../log.js'
import { Ending } from '../steps.js'
import { packageVersion } from '../version.js'
import { disablePinned } from './disable.js'
import { leftBehind } from './left-behind.js'
import { look } from './look.js'
import { Node } from './node.js'
import { defaultPaths } from './options.js'
import { answerFromPins } from './pinned.js'
import { removeFromNode } from './remove.js'

const usage = `hostrouted [options]

Routes the pods of this node (the network namespace it is started in) by eBPF.

  --config FILE              configuration (${defaultPaths.config})
  --run-directory DIRECTORY  control socket and lock (${defaultPaths.runDirectory})
  --state-directory DIRECTORY  what outlives a reboot (${defaultPaths.stateDirectory})
  --pin-directory DIRECTORY  pinned maps and links, on a bpffs (${defaultPaths.pinDirectory})
  --log-json                 log as JSON lines
  --print-config-reference   every key with its default, then end
  --remove                   take what a daemon that is gone left on the node off it, then end;
                             the nft table of onDisable: masquerade goes, too
  --left                     say what a daemon that is gone left at work, then end
  --pinned PATH              answer a GET of the control socket from what is pinned, then end:
                             /v1/pods, /v1/flows, /v1/flows/top
  --disable                  what hostroute disable does, without a daemon; the answer as JSON
  --force                    with --remove and --disable: also where nobody else would masquerade
                             the pods
  --version, --help
`

/** Not yargs: in a process that runs for years it costs 10 MB for seven options. */
function readOptions() {
  try {
    return parseArgs({
      options: {
        config: { type: 'string', default: defaultPaths.config },
        'run-directory': { type: 'string', default: defaultPaths.runDirectory },
        'state-directory': { type: 'string', default: defaultPaths.stateDirectory },
        'pin-directory': { type: 'string', default: defaultPaths.pinDirectory },
        'log-json': { type: 'boolean', default: false },
        'print-config-reference': { type: 'boolean', default: false },
        remove: { type: 'boolean', default: false },
        left: { type: 'boolean', default: false },
        pinned: { type: 'string' },
        disable: { type: 'boolean', default: false },
        force: { type: 'boolean', default: false },
        look: { type: 'boolean', default: false },
        version: { type: 'boolean', default: false },
        help: { type: 'boolean', default: false }
      }
    }).values
  } catch (error) {
    process.stderr.write(`hostrouted: ${(error as Error).message}; see hostrouted --help\n`)
    process.exit(64)
  }
}

async function main(): Promise<void> {
  const options = readOptions()
  if (options.help) return void process.stdout.write(usage)
  if (options.version) return void process.stdout.write(`${packageVersion()}\n`)
  if (options['print-config-reference']) return void process.stdout.write(configReference())
  const apart = options.pinned !== undefined || options.disable
  // their output is the answer
  const log = createLogger({ json: options['log-json'], ...(apart ? { stream: process.stderr } : {}) })
  process.on('uncaughtException', (error) => die(log, error))
  process.on('unhandledRejection', (reason) => die(log, reason))
  const paths = {
    config: options.config,
    runDirectory: options['run-directory'],
    pinDirectory: realDirectory(options['pin-directory']),
    stateDirectory: options['state-directory']
  }
  try {
    if (options.left) return void process.stdout.write(`${leftBehind(paths) ?? ''}\n`)
    if (options.look) return await look()
    if (options.pinned !== undefined)
      return await answerFromPins(options.pinned, paths.pinDirectory, paths.runDirectory)
    if (options.disable) {
      const done = await disablePinned({ ...paths, force: options.force, log })
      return void process.stdout.write(`${JSON.stringify(done)}\n`)
    }
    if (options.remove) return await removeFromNode({ ...paths, force: options.force, log })
    watchEventLoop()
    // the signals first: they are heard between the steps of the start
    const ending = new AbortController()
    const { signal } = ending
    const starting = Promise.resolve().then(() => Node.start({ ...paths, log, signal }))
    handleSignals(starting, ending, log)
    await starting
  } catch (error) {
    // a start that was told to end: whoever told it ends the process
    if (!(error instanceof Ending)) die(log, error)
  }
}

/** A signal that comes while it starts is obeyed at its next step: what has been begun is undone. */
function handleSignals(starting: Promise<Node>, ending: AbortController, log: Logger): void {
  let stopping = false
  const stop = (signal: string) => {
    if (stopping) return
    stopping = true
    log.info(`stopping on ${signal}`)
    ending.abort(new Ending())
    starting
      .then((node) => node.stop())
      .then(
        () => process.exit(0),
        (error: unknown) => (error instanceof Ending ? process.exit(0) : die(log, error))
      )
  }
  process.on('SIGTERM', () => stop('SIGTERM'))
  process.on('SIGINT', () => stop('SIGINT'))
  process.on('SIGHUP', () => {
    void starting.then((node) => node.reload()).catch(() => {}) // one that does not start says so itself
  })
}

/** One sentence each, then the status that tells systemd whether trying again makes sense. */
function die(log: Logger, error: unknown): never {
  if (error instanceof ConfigError) {
    for (const problem of error.problems) log.fatal(formatProblem(problem))
    process.exit(2)
  }
  if (error instanceof Refusal) {
    log.fatal(error.message)
    process.exit(2)
  }
  const { message, detail, stack } = error as { message?: string; detail?: string; stack?: string }
  log.fatal({ ...(detail ? { detail } : {}) }, message ?? String(error))
  if (stack) log.debug(stack)
  process.exit(1)
}

await main()
