// The log: one sentence per event that a person can act on, to stdout.
//
//   <6>datapath: attached from_pod to vethabc pod=10.1.0.2
//
// Under systemd (JOURNAL_STREAM) each line starts with the priority that
// journald reads; on a terminal it is coloured; with JSON it is pino's own
// record. Fields follow the sentence as key=value.

import { fstatSync } from 'node:fs'
import { isatty } from 'node:tty'
import { type DestinationStream, type Logger, pino } from 'pino'
import { lineOutput } from './log-output.js'

export type { Logger } from 'pino'
export type LogLevel = 'fatal' | 'error' | 'warn' | 'info' | 'debug' | 'trace'

export interface LogOptions {
  level?: LogLevel
  /** pino's JSON lines. */
  json?: boolean
  /** Where to; absent: stdout. */
  stream?: DestinationStream
  /** 'journal' writes priorities, 'terminal' colours; absent: found out from stdout. */
  style?: 'journal' | 'terminal' | 'plain'
}

/** The root; `subsystem(logger, 'datapath')` makes the children. Change the level later by `logger.level`. */
export function createLogger(options: LogOptions = {}): Logger {
  const style = options.style ?? stdoutStyle()
  const stream = options.stream ?? lineOutput((lost, code) => lossLine(lost, code, options.json ? 'json' : style))
  const destination = options.json ? stream : { write: (record: string) => stream.write(formatRecord(record, style)) }
  return pino({ level: options.level ?? 'info', base: null, messageKey: 'message', errorKey: 'error' }, destination)
}

/** A child whose lines start with its name. It follows later changes of the level only through setLevel(). */
export function subsystem(logger: Logger, name: string): Logger {
  const child = logger.child({ subsystem: name })
  children.push(new WeakRef(child))
  return child
}

/** For the root and all subsystems. */
export function setLevel(logger: Logger, level: LogLevel): void {
  logger.level = level
  for (const reference of children) {
    const child = reference.deref()
    if (child) child.level = level
  }
}

const children: WeakRef<Logger>[] = []

interface LimitState {
  until: number
  count: number
  suppressed: number
  level: LogLevel
  text: string
}

/**
 * At most `most` lines of one key in `interval` milliseconds; the rest is summed
 * up in one line "… and 41 more like this" when the interval is over, and in one
 * an interval for as long as it goes on. Of more than `keys` keys at a time all
 * further ones share the lines of one. close() writes what is outstanding.
 */
export function rateLimit(logger: Logger, most = 5, interval = 10_000, keys = Number.POSITIVE_INFINITY) {
  const states = new Map<string, LimitState>()
  const tell = ({ level, text, suppressed }: LimitState) => {
    if (suppressed > 0) logger[level](`${text} … and ${suppressed} more like this`)
  }
  const endInterval = (key: string, state: LimitState, now: number) => {
    tell(state)
    if (state.suppressed === 0) return void states.delete(key)
    state.until = now + interval
    state.suppressed = 0
    state.count = most
  }
  const timer = setInterval(() => {
    const now = performance.now()
    for (const [key, state] of states) if (now >= state.until) endInterval(key, state, now)
  }, interval / 4)
  timer.unref()
  return {
    /** times: of how many events the line tells. */
    log(level: LogLevel, key: string, text: string, fields: Record<string, unknown> = {}, times = 1): void {
      const now = performance.now()
      const own = states.has(`own ${key}`) || states.size < keys ? `own ${key}` : 'others'
      const known = states.get(own)
      if (known && now >= known.until) endInterval(own, known, now)
      const state = states.get(own) ?? { until: now + interval, count: 0, suppressed: 0, level, text }
      states.set(own, state)
      state.level = level
      state.text = text
      if (state.count++ < most) logger[level](fields, text)
      else state.suppressed += times
    },
    close(): void {
      clearInterval(timer)
      for (const state of states.values()) tell(state)
      states.clear()
    }
  }
}

// pino's numbers: 10 trace ... 60 fatal
const priorities: Record<number, number> = { 10: 7, 20: 7, 30: 6, 40: 4, 50: 3, 60: 2 }
const colours: Record<number, string> = {
  10: '\x1b[90m',
  20: '\x1b[90m',
  30: '',
  40: '\x1b[33m',
  50: '\x1b[31m',
  60: '\x1b[1;31m'
}
const words: Record<number, string> = {
  10: 'trace: ',
  20: 'debug: ',
  30: '',
  40: 'warning: ',
  50: 'error: ',
  60: 'fatal: '
}

function formatRecord(record: string, style: 'journal' | 'terminal' | 'plain'): string {
  const { level, time, subsystem: name, message = '', error, ...fields } = JSON.parse(record) as Record<string, unknown>
  const severity = typeof level === 'number' ? level : 30
  const text = [oneLine(String(message)), ...Object.entries(fields).map(([key, value]) => `${key}=${fieldText(value)}`)]
  if (error !== undefined) text.push(`error=${fieldText(errorText(error))}`)
  const sentence = text.filter(Boolean).join(' ')
  const subject = name === undefined ? '' : `${String(name)}: `
  if (style === 'journal') return `<${priorities[severity] ?? 6}>${subject}${sentence}\n`
  const clock = new Date(Number(time)).toISOString().slice(11, 23)
  const severe = words[severity] ?? ''
  if (style === 'plain') return `${clock} ${severe}${subject}${sentence}\n`
  const colour = colours[severity] ?? ''
  return `\x1b[90m${clock}\x1b[0m ${colour}${severe}${subject ? `\x1b[1m${subject}\x1b[22m` : ''}${sentence}\x1b[0m\n`
}

function lossLine(lost: number, code: string, style: 'json' | 'journal' | 'terminal' | 'plain'): string {
  const message = `${lost} ${lost === 1 ? 'line' : 'lines'} of the log could not be written: ${code}`
  const record = JSON.stringify({ level: 40, time: Date.now(), message })
  return style === 'json' ? `${record}\n` : formatRecord(record, style)
}

/** One event is one line: what comes from outside may not make more of it, nor move the terminal's cursor. */
function oneLine(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is taken out
  return text.replaceAll('\n', '; ').replace(/[\x00-\x1f\x7f]/g, '?')
}

function fieldText(value: unknown): string {
  const text = typeof value === 'string' ? value : (JSON.stringify(value) ?? String(value))
  return typeof value === 'string' && /[\s"=]/.test(text) ? JSON.stringify(text) : oneLine(text)
}

function errorText(error: unknown): unknown {
  const known = error as { message?: unknown; code?: unknown } | null
  return typeof known?.message === 'string' ? known.message : error
}

function stdoutStyle(): 'journal' | 'terminal' | 'plain' {
  if (isJournal()) return 'journal'
  return isatty(1) && process.env['NO_COLOR'] === undefined ? 'terminal' : 'plain'
}

/** JOURNAL_STREAM is "device:inode" of the journal's socket; inherited by children whose stdout may be another. */
function isJournal(): boolean {
  const named = process.env['JOURNAL_STREAM']
  if (!named) return false
  try {
    const { dev, ino } = fstatSync(1, { bigint: true })
    return named === `${dev}:${ino}`
  } catch {
    return false
  }
}
