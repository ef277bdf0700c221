// The YAML reader takes 100 ms and more for 10,000 prefixes. So long lists of
// plain prefixes are taken out of the text before, all but their first item, and
// put back where that item was found.
//
// Invariant: the condensed text is as long as the text, and each line stands at
// its place, so that every position holds for both. Whoever does not meet the
// first item of each run as an item of a list has to read the text itself: then
// it was no list (a block of text, a comment).

/** Items that follow on the one at `start`. */
export interface Run {
  items: { text: string; offset: number }[]
}

const prefix = '[0-9a-fA-F][0-9a-fA-F:.]*\\/[0-9]{1,3}'
const blockItem = new RegExp(`^( *- +)(["']?)(${prefix})\\2[ \\t]*(?=\\r?$)`, 'gm')
const flowItem = new RegExp(`(")(${prefix})"[ \\t\\r\\n]*,[ \\t\\r\\n]*`, 'g')
/** Shorter ones are not worth it. */
const leastItems = 32

/** runs: by the offset of their first item, where its quotation mark is if it has one. */
export function condense(text: string): { text: string; runs: Map<number, Run> } {
  const runs = new Map<number, Run>()
  const pieces: string[] = []
  let kept = 0
  for (const { start, from, to, items } of [...blockRuns(text), ...flowRuns(text)]) {
    if (items.length < leastItems || from < kept) continue
    pieces.push(text.slice(kept, from), text.slice(from, to).replace(/[^\r\n]/g, ' '))
    kept = to
    runs.set(start, { items })
  }
  return { text: pieces.join('') + text.slice(kept), runs }
}

interface Found extends Run {
  start: number
  /** What to take out. */
  from: number
  to: number
}

/** Lines "- 10.0.0.0/8" of one indentation, one after the other. */
function* blockRuns(text: string): Iterable<Found> {
  let run: (Found & { lead: string }) | null = null
  for (const match of text.matchAll(blockItem)) {
    const [whole, lead = '', , item = ''] = match
    const offset = match.index + lead.length
    if (run && lead === run.lead && /^\r?\n$/.test(text.slice(run.to, match.index))) {
      run.items.push({ text: item, offset })
      run.to = match.index + whole.length
      continue
    }
    if (run) yield run
    const end = match.index + whole.length
    run = { lead, start: offset, from: end, to: end, items: [] }
  }
  if (run) yield run
}

/** '"10.0.0.0/8", "172.16.0.0/12", ' as in JSON. */
function* flowRuns(text: string): Iterable<Found> {
  let run = null as Found | null
  for (const match of text.matchAll(flowItem)) {
    const [whole, , item = ''] = match
    const end = match.index + whole.length
    if (run && run.to === match.index) {
      run.items.push({ text: item, offset: match.index })
      run.to = end
      continue
    }
    if (run) yield run
    run = { start: match.index, from: end, to: end, items: [] }
  }
  if (run) yield run
}
