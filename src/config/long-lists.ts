// The YAML reader takes 100 ms and more for 10,000 prefixes. So long lists of
// plain prefixes are taken out of the text before, all but their first item, and
// put back where that item was found.
//
// Whoever does not meet the first item of each run as an item of a list has to
// read the text itself: then it was no list (a block of text, a comment).

/** Texts and where they stand in the whole text, one for one. Arrays of their own: ten thousand pairs cost more. */
export interface Items {
  texts: (string | null)[]
  offsets: number[]
}

export interface Condensed {
  text: string
  /** What follows on a run's first item; by that item's offset in the whole text, with its quotation mark. */
  runs: ReadonlyMap<number, Items>
  /** Offset in the condensed text -> in the whole one. */
  whole(offset: number): number
}

const quoted = (prefix: string) => `(?:"${prefix}"|'${prefix}'|${prefix})`
const prefix = '[0-9a-fA-F][0-9a-fA-F:.]*\\/[0-9]{1,3}'
/** Shorter ones are not worth it. */
const leastItems = 32
/** Lines "- 10.0.0.0/8" of one indentation, one after the other. */
const blockRun = new RegExp(
  `^( *- +)${quoted(prefix)}[ \\t]*(?:\\r?\\n\\1${quoted(prefix)}[ \\t]*(?=\\r?\\n)){${leastItems},}`,
  'gm'
)
/** '"10.0.0.0/8", "172.16.0.0/12", ' as in JSON. */
const flowRun = new RegExp(`(?:"${prefix}"[ \\t\\r\\n]*,[ \\t\\r\\n]*){${leastItems + 1},}`, 'g')

export function uncondensed(text: string): Condensed {
  return { text, runs: new Map(), whole: (offset) => offset }
}

export function condense(text: string): Condensed {
  const runs = new Map<number, Items>()
  const taken: { at: number; length: number }[] = []
  const pieces: string[] = []
  let kept = 0
  let length = 0
  for (const { index: from, 0: found, 1: lead = '' } of [...text.matchAll(blockRun), ...text.matchAll(flowRun)]) {
    if (from < kept) continue
    const { items, firstEnd } = lead === '' ? flowItems(found, from) : blockItems(found, from, lead.length)
    pieces.push(text.slice(kept, firstEnd))
    length += firstEnd - kept
    kept = from + found.length
    taken.push({ at: length, length: kept - firstEnd })
    runs.set(from + lead.length, items)
  }
  const whole = (offset: number) => {
    let moved = offset
    for (const piece of taken) if (offset >= piece.at) moved += piece.length
    return moved
  }
  return { text: pieces.join('') + text.slice(kept), runs, whole }
}

interface Rest {
  /** All of a run but the first. */
  items: Items
  /** Where the first ends. */
  firstEnd: number
}

function blockItems(run: string, from: number, lead: number): Rest {
  const texts: string[] = []
  const offsets: number[] = []
  const lines = run.split('\n')
  const [first = ''] = lines
  let at = from + first.length + 1
  for (let index = 1; index < lines.length; index++) {
    const line = lines[index] ?? ''
    texts.push(bare(line.slice(lead)))
    offsets.push(at + lead)
    at += line.length + 1
  }
  return { items: { texts, offsets }, firstEnd: from + first.length - (first.endsWith('\r') ? 1 : 0) }
}

function flowItems(run: string, from: number): Rest {
  const texts: string[] = []
  const offsets: number[] = []
  const parts = run.split(',')
  const [first = ''] = parts
  let at = from + first.length + 1
  for (let index = 1; index < parts.length - 1; index++) {
    const part = parts[index] ?? ''
    texts.push(bare(part))
    offsets.push(at + part.indexOf('"'))
    at += part.length + 1
  }
  return { items: { texts, offsets }, firstEnd: from + first.length + 1 }
}

/** Without blanks, line end and quotation marks. */
function bare(text: string): string {
  const plain = text.trim()
  return plain.startsWith('"') || plain.startsWith("'") ? plain.slice(1, -1) : plain
}
