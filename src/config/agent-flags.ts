// ip-masq-agent's command line: the flags that change what it does.
//
// Read as Go's package flag reads them: one or two dashes, the value after "=" or,
// unless the flag is boolean, in the next argument; the last one counts; what is
// no flag ends them. Other flags (those of its log) are passed over.

import { type PortRange, parsePortRanges } from './ports.js'

/** null: not given. */
export interface AgentFlags {
  /** --nomasq-all-reserved-ranges */
  allReservedRanges: boolean | null
  /** --enable-ipv6 */
  ipv6: boolean | null
  /** --to-ports; ranges null: the value is not one. */
  ports: { text: string; ranges: PortRange[] | null } | null
  /** --random-fully */
  randomFully: boolean | null
  /** --masq-chain */
  chain: string | null
}

const booleans = ['nomasq-all-reserved-ranges', 'enable-ipv6', 'random-fully']

/** words: without the program. */
export function parseAgentFlags(words: readonly string[]): AgentFlags {
  const given = valuesOf(words)
  const ports = given.get('to-ports')
  return {
    allReservedRanges: truth(given.get('nomasq-all-reserved-ranges')),
    ipv6: truth(given.get('enable-ipv6')),
    // an empty value is the agent's default
    ports: ports ? { text: ports, ranges: parsePortRanges(ports) } : null,
    randomFully: truth(given.get('random-fully')),
    chain: given.get('masq-chain') ?? null
  }
}

function valuesOf(words: readonly string[]): Map<string, string> {
  const given = new Map<string, string>()
  for (let at = 0; at < words.length; at++) {
    const match = /^--?([^-=][^=]*)(?:=(.*))?$/s.exec(words[at] ?? '')
    if (!match) break
    const [, name = '', value] = match
    if (value !== undefined) given.set(name, value)
    else if (booleans.includes(name)) given.set(name, 'true')
    // of a flag that is not known: where it is boolean, nothing that is no flag may follow
    else if (words[at + 1]?.startsWith('-') === false) given.set(name, words[++at] ?? '')
  }
  return given
}

/** As strconv.ParseBool; with another value the agent does not start. */
function truth(value: string | undefined): boolean | null {
  if (value === undefined) return null
  if (/^(1|t|T|true|TRUE|True)$/.test(value)) return true
  return /^(0|f|F|false|FALSE|False)$/.test(value) ? false : null
}
