// One run of the command: where the daemon is, how to print, which exit status.

import { parseDuration } from '../config/duration.js'
import { type Answer, type ControlClient, controlClient, understood } from '../control/client.js'
import { type Paint, painter } from './text.js'

export const exitStatus = { fine: 0, error: 1, refused: 2, usage: 64 } as const

/** A command line that yargs takes and we do not. */
export class UsageError extends Error {
  override name = 'YError'
}

export interface GlobalOptions {
  socket: string
  timeout?: string | undefined
  json: boolean
  color: boolean
}

export interface Session {
  client: ControlClient
  socket: string
  /** Milliseconds that are waited for the daemon; undefined: as each question deserves. */
  timeout: number | undefined
  json: boolean
  paint: Paint
  /** Prints the answer: with --json the daemon's very text, else what `render` makes of it. */
  show<T>(answer: Answer<T>, render: (value: T) => string): void
  print(text: string): void
  /** A part of a long output; resolves when the next may come. */
  write(text: string): Promise<void>
}

export function openSession(options: GlobalOptions): Session {
  const paint = painter(options.color && !options.json && isColourTerminal())
  const timeout = options.timeout === undefined ? undefined : timeoutOf(options.timeout)
  return {
    client: controlClient(options.socket, timeout),
    socket: options.socket,
    timeout,
    json: options.json,
    paint,
    show: (answer, render) => print(options.json ? answer.text : understood(() => render(answer.value))),
    print,
    write
  }
}

function timeoutOf(text: string): number {
  const duration = parseDuration(text)
  if (duration === null || duration < 100 || duration > 3_600_000)
    throw new UsageError(`--timeout takes a duration from 100ms to 1h, not ${text}`)
  return duration
}

export function print(text: string): void {
  process.stdout.write(text.endsWith('\n') ? text : `${text}\n`)
}

async function write(text: string): Promise<void> {
  if (!process.stdout.write(text)) await new Promise((resolve) => process.stdout.once('drain', resolve))
}

function isColourTerminal(): boolean {
  const refused = process.env['NO_COLOR']
  return process.stdout.isTTY === true && (refused === undefined || refused === '') && process.env['TERM'] !== 'dumb'
}
