// The YAML reader takes 100 ms and more for 10,000 prefixes. So long lists of
// plain prefixes are taken out of the text before, all but their first item, and
// put back where that item was found.
//
// Whoever does not meet the first item of each run as an item of a list has to
// read the text itself: then it was no list (a block of text, a comment).

/** An item as it stands in the whole text. */
export interface ListItem {
  text: string
  offset: number
}

export interface Condensed {
  text: string
  /** What follows on a run's first item; by that item's offset in the whole text, with its quotation mark. */
  runs: ReadonlyMap<number, readonly ListItem[]>
  /** Offset in the condensed text -> in the whole one. */
  whole(offset: number): number
}

interface Run {
  start: number
  /** What is taken out. */
  from: number
  to: number
  items: ListItem[]
}

const prefix = '[0-9a-fA-F][0-9a-fA-F:.]*\\/[0-9]{1,3}'
const blockItem = new RegExp(`^( *- +)(["']?)(${prefix})\\2[ \\t]*(?=\\r?$)`, 'gm')
const flowItem = new RegExp(`(")(${prefix})"[ \\t\\r\\n]*,[ \\t\\r\\n]*`, 'g')
/** Shorter ones are not worth it. */
const leastItems = 32

export function uncondensed(text: string): Condensed {
  return { text, runs: new Map(), whole: (offset) => offset }
}

export function condense(text: string): Condensed {
  const runs = new Map<number, ListItem[]>()
  const taken: { at: number; length: number }[] = []
  const pieces: string[] = []
  let kept = 0
  let length = 0
  for (const run of [...blockRuns(text), ...flowRuns(text)]) {
    if (run.items.length < leastItems || run.from < kept) continue
    pieces.push(text.slice(kept, run.from))
    length += run.from - kept
    kept = run.to
    taken.push({ at: length, length: run.to - run.from })
    runs.set(run.start, run.items)
  }
  const whole = (offset: number) => {
    let moved = offset
    for (const piece of taken) if (offset >= piece.at) moved += piece.length
    return moved
  }
  return { text: pieces.join('') + text.slice(kept), runs, whole }
}

/** Lines "- 10.0.0.0/8" of one indentation, one after the other. */
function blockRuns(text: string): Run[] {
  const found: Run[] = []
  let run: Run | null = null
  let leadOfRun = ''
  for (const match of text.matchAll(blockItem)) {
    const [whole, lead = '', , item = ''] = match
    const offset = match.index + lead.length
    const end = match.index + whole.length
    if (run && lead === leadOfRun && isLineEnd(text, run.to, match.index)) {
      run.items.push({ text: item, offset })
      run.to = end
    } else {
      run = { start: offset, from: end, to: end, items: [] }
      leadOfRun = lead
      found.push(run)
    }
  }
  return found
}

function isLineEnd(text: string, from: number, to: number): boolean {
  if (text[to - 1] !== '\n') return false
  return to - from === 1 || (to - from === 2 && text[from] === '\r')
}

/** '"10.0.0.0/8", "172.16.0.0/12", ' as in JSON. */
function flowRuns(text: string): Run[] {
  const found: Run[] = []
  let run: Run | null = null
  for (const match of text.matchAll(flowItem)) {
    const [whole, , item = ''] = match
    const end = match.index + whole.length
    if (run && run.to === match.index) {
      run.items.push({ text: item, offset: match.index })
      run.to = end
    } else {
      run = { start: match.index, from: end, to: end, items: [] }
      found.push(run)
    }
  }
  return found
}
