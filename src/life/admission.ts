// The checks before enabling: the same as `hostroute check`, with the same
// report. What they refuse stays off, with the first reason as a sentence.

import type { Config } from '../config/config.js'
import type { Logger } from '../log.js'
import { filesReplaced } from '../version.js'

/** Absent report: the checks are configured away, or could not be made. */
export interface Admission {
  /** One sentence; null: may be enabled. */
  refusal: string | null
  report: object | null
}

/** Never throws: a check that cannot be made refuses. Loaded only here, since a running daemon does not need it. */
export async function admit(config: Config, pinDirectory: string, log: Logger): Promise<Admission> {
  if (config.checks === 'off') return { refusal: null, report: null }
  // the checks are read from disk at this moment
  const replaced = filesReplaced()
  if (replaced !== null) return { refusal: `${replaced}: systemctl restart hostrouted`, report: null }
  const { runChecks, refusal } = await import('../check/check.js')
  try {
    const report = await runChecks({ config, pinDirectory })
    for (const { outcome, what, why, rule } of report.findings) {
      if (outcome === 'refuse') log.warn(`check: ${what}${rule ? `: ${rule.text}` : ''}${why ? ` (${why})` : ''}`)
    }
    const sentence = refusal(report)
    if (sentence && config.checks === 'report') {
      log.warn(`enabled in spite of the checks, as configured (checks: report): ${sentence}`)
      return { refusal: null, report }
    }
    return { refusal: sentence, report }
  } catch (error) {
    return { refusal: `the checks could not be made: ${(error as Error).message}`, report: null }
  }
}
