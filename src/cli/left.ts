// Where the daemon does not answer: what it has pinned is read, and hostroute taken
// off the node, by processes of hostrouted's own. Only as root, and only with the
// directories that are known to be the daemon's.

import { execFile, spawn } from 'node:child_process'
import { dirname } from 'node:path'
import { fileURLToPath } from 'node:url'
import { type Answer, ControlError, defaultSocket, parsed, queryText, within } from '../control/client.js'
import { directoriesFile, notedDirectories } from '../directories.js'
import type { Session } from './session.js'

const daemon = fileURLToPath(new URL('../daemon/main.js', import.meta.url))
/** Milliseconds without a byte; for a change as a whole. */
const patience = { answer: 30_000, change: 120_000 }
const unanswered = new Set(['not-running', 'no-answer', 'broken-off'])

/** The daemon is gone, or hangs, or cannot be reached. */
export function isUnanswered(error: unknown): error is ControlError {
  return error instanceof ControlError && unanswered.has(error.code)
}

/** The daemon's options for this socket; null: where it pins is not known. */
function optionsOf(socket: string): string[] | null {
  const noted = notedDirectories(dirname(socket))
  const pins = process.env['HOSTROUTE_PINS']
  if (noted === null && !pins && socket !== defaultSocket) return null
  const words = ['--run-directory', dirname(socket)]
  if (noted) words.push('--config', noted.config, '--state-directory', noted.stateDirectory)
  if (pins || noted) words.push('--pin-directory', pins || (noted?.pinDirectory ?? ''))
  return words
}

/** What the programs do meanwhile: a sentence; '' where nothing is pinned; null: it cannot be seen. */
export function leftAtWork(socket: string): Promise<string | null> {
  const options = optionsOf(socket)
  if (options === null) return Promise.resolve(null)
  return new Promise((resolve) => {
    execFile(process.execPath, [daemon, '--left', ...options], { timeout: patience.answer }, (error, stdout) =>
      resolve(error ? null : stdout.trim())
    )
  })
}

/**
 * The answer to a GET from the pins, as it comes. `error`: that of the daemon's client, which is
 * thrown with what is known besides when nothing can be read. Before the first part it is said that
 * the daemon does not answer.
 */
export async function* fromPins(
  session: Session,
  error: unknown,
  path: string,
  query: Record<string, string | number | undefined> = {}
): AsyncGenerator<string> {
  const options = pinsOrThrow(session, error)
  const left = await leftAtWork(session.socket)
  if (left === null) throw said(error, 'What it has pinned could not be read: see hostrouted --left.')
  if (left === '') throw said(error, "Nothing of it is pinned: all packets take the kernel's own way.")
  const child = spawn(process.execPath, [daemon, '--pinned', path + queryText(query), '--log-json', ...options], {
    stdio: ['ignore', 'pipe', 'pipe']
  })
  const late = () => said(error, left, `What it has pinned could not be read within ${patience.answer / 1000} s.`)
  let errors = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    errors += text
  })
  const ended = new Promise<number | null>((resolve) => child.once('close', resolve).once('error', () => resolve(null)))
  try {
    const parts = child.stdout.setEncoding('utf8')[Symbol.asyncIterator]() as AsyncIterator<string>
    for (let first = true; ; first = false) {
      const { done, value } = await within(parts.next(), patience.answer, late)
      if (first && !done) tell(session, error, left)
      if (done) break
      yield value
    }
    if ((await ended) !== 0) throw said(error, left, wordsOf(errors))
  } finally {
    child.kill()
  }
}

/** A whole answer. */
export async function pinned<T extends object>(parts: AsyncIterable<string>): Promise<Answer<T>> {
  let text = ''
  for await (const part of parts) text += part
  return parsed<T>(text)
}

/** Disabled without the daemon; the text of its answer. Throws `error`, with why, where that is not possible. */
export async function disableByPins(session: Session, error: unknown, force: boolean): Promise<string> {
  const options = pinsOrThrow(session, error)
  const words = [daemon, '--disable', '--log-json', ...(force ? ['--force'] : []), ...options]
  return new Promise((resolve, reject) => {
    execFile(process.execPath, words, { timeout: patience.change }, (failed, stdout, stderr) => {
      if (!failed) return resolve(stdout)
      const why = failed.killed ? `it took longer than ${patience.change / 1000} s: run it again` : wordsOf(stderr)
      reject(said(error, why || failed.message))
    })
  })
}

function pinsOrThrow({ socket }: Session, error: unknown): string[] {
  if (!isUnanswered(error)) throw error
  // the note is root's to read, too
  if (process.geteuid?.() !== 0)
    throw said(error, 'Without it only root can do this, from what it has pinned: run the command with sudo.')
  const options = optionsOf(socket)
  if (options === null)
    throw said(error, `Where it pinned its maps is not known: there is no ${directoriesFile(dirname(socket))}.`)
  return options
}

/** In the output where people read it, beside it where programs do. */
function tell(session: Session, error: unknown, left: string): void {
  const { message, code } = error as ControlError
  if (session.json) {
    const words = `${message}; the answer is what it has pinned. ${left}`
    process.stderr.write(`${JSON.stringify({ error: words, code })}\n`)
  } else session.print(`${session.paint.warn(`${message}\nThis is what it has pinned. ${left}`)}\n`)
}

/** `error` with more lines. */
export function said(error: unknown, ...more: string[]): Error {
  if (!(error instanceof ControlError)) return error as Error
  const lines = [error.message, ...more.filter((text) => text !== '')]
  return new ControlError(lines.join('\n'), error.code, { cause: error })
}

/** Of the daemon's log as JSON: why it ended. */
function wordsOf(log: string): string {
  const messages = log.split('\n').flatMap((line) => {
    try {
      const { level, message } = JSON.parse(line) as { level?: number; message?: string }
      return level !== undefined && level >= 50 && message !== undefined ? [message] : []
    } catch {
      return []
    }
  })
  return messages.length > 0 ? messages.join('\n') : log.trim()
}
