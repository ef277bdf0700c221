// What became of the connections of the fast path when it ended, in words: for
// the log and for `hostroute disable`.

import type { HandedBack } from './api.js'

/** "1,000 connections through SNAT continue through the stack; 0 cannot.", then why: a sentence each. Nothing if there were none. */
export function handedBackLines({ continues, cannot, reasons }: HandedBack): string[] {
  const count = (value: number) => value.toLocaleString('en-US')
  const continuing = continues === 1 ? 'connection through SNAT continues' : 'connections through SNAT continue'
  const first = `${count(continues)} ${continuing} through the stack; ${count(cannot)} cannot`
  return (continues + cannot > 0 ? [first, ...reasons] : reasons).map((text) => `${text}.`)
}
