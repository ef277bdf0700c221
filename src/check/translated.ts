// The destinations that the daemon finds translated, read once by its own
// reader: what the check honours is what the daemon leaves to the stack.

import type { Prefix } from '../state/types.js'
import { startTranslated } from '../translated/translated.js'
import type { Looked } from './report.js'

export interface TranslatedRead {
  destinations: Prefix[]
  notLookedAt: Looked['notLookedAt']
}

/** What cannot be read is missing among the destinations, so that rules on it are not honoured. */
export async function readTranslated(): Promise<TranslatedRead> {
  const notLookedAt: string[] = []
  const reader = startTranslated({ onChange: () => {}, onProblem: (text) => notLookedAt.push(text) })
  await reader.ready
  const destinations = [...reader.destinations()]
  await reader.close()
  return { destinations, notLookedAt }
}
