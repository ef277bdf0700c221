// What the tests of translated destinations share: the tools, run in the test's
// own network namespace, and a reader whose changes are kept.

import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import type { Test } from 'tap'
import { formatPrefix } from '../../src/address.js'
import type { Prefix } from '../../src/state/types.js'
import { startTranslated, type Translated, type TranslatedDiff } from '../../src/translated/translated.js'

export function fixture(name: string): string {
  return readFileSync(new URL(`../../../../test/translated/fixtures/${name}`, import.meta.url), 'utf8')
}

/** Throws when the tool does not end with 0. */
export function tool(command: string, input = ''): string {
  const [file = '', ...words] = command.split(' ')
  const { status, stdout, stderr, error } = spawnSync(file, words, { input, encoding: 'utf8', maxBuffer: 1 << 28 })
  if (status !== 0) throw new Error(`${command}: ${error?.message ?? stderr}`)
  return stdout
}

/** nft wants a line to end before a brace that closes a table. */
export function nft(rules: string): void {
  tool('nft -f -', `${rules.replace(/\} \}$/, '}\n}')}\n`)
}

/** No table is left, of any kind. */
export function flush(): void {
  nft('flush ruleset')
  for (const family of ['iptables', 'ip6tables'])
    for (const table of ['nat', 'filter', 'mangle']) {
      tool(`${family}-legacy -t ${table} -F`)
      tool(`${family}-legacy -t ${table} -X`)
    }
}

export interface Watched {
  translated: Translated
  diffs: TranslatedDiff[]
  problems: string[]
  /** Sorted, as text; a single address without its length. */
  list(): string[]
  /** Everything that was ever taken away. */
  removed(): string[]
}

export async function watch(t: Test): Promise<Watched> {
  const diffs: TranslatedDiff[] = []
  const problems: string[] = []
  const translated = startTranslated({
    onChange: (diff) => diffs.push(diff),
    onProblem: (text) => problems.push(text)
  })
  t.teardown(() => translated.close())
  await translated.ready
  return {
    translated,
    diffs,
    problems,
    list: () => textsOf(translated.destinations()),
    removed: () => textsOf(diffs.flatMap((diff) => diff.removed))
  }
}

export function textsOf(prefixes: Iterable<Prefix>): string[] {
  return [...prefixes].map((prefix) => formatPrefix(prefix).replace(/\/(32|128)$/, single)).sort()
}

function single(length: string, digits: string, _at: number, text: string): string {
  return (digits === '128') === text.includes(':') ? '' : length
}

/** Reads once. */
export async function destinationsNow(t: Test): Promise<string[]> {
  const { translated, list } = await watch(t)
  const found = list()
  await translated.close()
  return found
}

/** The rules of one IPv4 fixture in IPv6: 10.96.0.11 becomes fd00::10:96:0:11. */
export function inIpv6(rules: string): string {
  return rules
    .replace(/--mask 255\.255\.255\.255/g, '--mask ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff')
    .replace(/127\.0\.0\.0\/8/g, '::1/128')
    .replace(/icmp-port-unreachable/g, 'icmp6-port-unreachable')
    .replace(/(?<![_0-9.])(\d+)\.(\d+)\.(\d+)\.(\d+)(\/\d+|:\d+)?(?![0-9.])/g, (_, a, b, c, d, rest = '') => {
      const address = `fd00::${a}:${b}:${c}:${d}`
      if (rest.startsWith(':')) return `[${address}]${rest}`
      return rest === '' ? address : `${address}/${rest === '/32' ? 128 : 128 - 2 * (32 - Number(rest.slice(1)))}`
    })
    .replace(/\bip (daddr|saddr)\b/g, 'ip6 $1')
    .replace(/\bipv4_addr\b/g, 'ipv6_addr')
}
