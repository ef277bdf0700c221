// Kinds of values a key of config.yaml may have. Each kind is a valibot schema
// from what YAML gives to what the daemon works with, and the words that tell
// people what is allowed.

import * as v from 'valibot'
import { hostPrefix, maskAddress, parseAddress, parsePrefix, prefixKey } from '../address.js'
import type { Prefix } from '../state/types.js'
import { formatDuration, parseDuration } from './duration.js'
import { type PortRange, parsePortRanges } from './ports.js'

export interface Kind<T> {
  schema: v.GenericSchema<unknown, T>
  /** Completes "allowed: ". */
  allowed: string
  /** Of a list of mappings: the fields of one, each with what completes "allowed: ". */
  fields?: Readonly<Record<string, string>>
}

/** YAML 1.1 words count as well: yes, no, on, off. */
export function flag(): Kind<boolean> {
  return { schema: transformed((value) => truth(value)), allowed: 'true or false' }
}

/** YAML 1.1 tools write the word off as false: taken for the word where it is one of them. */
export function word<const T extends string>(...words: T[]): Kind<T> {
  const find = (value: unknown) =>
    words.find((candidate) => candidate === value || (candidate === 'off' && value === false))
  return { schema: transformed(find), allowed: words.join(', ').replace(/, ([^,]*)$/, ' or $1') }
}

export function integer(least: number, most: number): Kind<number> {
  return {
    schema: v.pipe(v.number(), v.integer(), v.minValue(least), v.maxValue(most)),
    allowed: `a whole number from ${least} to ${most}`
  }
}

/** A whole number or the word auto. */
export function integerOrAuto(least: number, most: number): Kind<number | 'auto'> {
  const { schema, allowed } = integer(least, most)
  return { schema: v.union([v.literal('auto'), schema]), allowed: `auto, or ${allowed}` }
}

/** Milliseconds. */
export function duration(least: number, most: number): Kind<number> {
  return {
    schema: transformed((value) => durationWithin(value, least, most)),
    allowed: `a duration from ${formatDuration(least)} to ${formatDuration(most)}, like 90s, 10m, 2h4m or 500ms`
  }
}

/** Milliseconds; null is off. */
export function durationOrOff(least: number, most: number): Kind<number | null> {
  const given = duration(least, most)
  return {
    schema: transformed((value) => (value === 'off' || value === false ? null : durationWithin(value, least, most))),
    allowed: `${given.allowed}, or off`
  }
}

/** Patterns of device names. */
export function devices(): Kind<'auto' | string[]> {
  return {
    schema: v.union([v.literal('auto'), v.pipe(v.array(devicePattern), v.minLength(1))]),
    allowed: 'auto, or a list of device names with * ? [] like ["veth*", "lxc*"]'
  }
}

/** Absolute paths with * ? [], or the word: ['auto'] for the word alone. */
export function pathsOrAuto(): Kind<string[]> {
  const path = v.union([v.literal('auto'), v.pipe(v.string(), v.regex(/^\/[^\0]*[^/\0]$/))])
  return {
    schema: v.union([
      v.pipe(
        v.literal('auto'),
        v.transform((word): string[] => [word])
      ),
      v.array(path)
    ]),
    allowed: 'auto, or a list of absolute paths with * ? [], in which auto may be one'
  }
}

/** An absolute path of a directory. */
export function directory(): Kind<string> {
  return { schema: v.pipe(v.string(), v.regex(/^\/[^\0]*[^/\0]$/)), allowed: 'an absolute path' }
}

/** true, false or the word auto. */
export function flagOrAuto(): Kind<boolean | 'auto'> {
  return { schema: transformed((value) => (value === 'auto' ? 'auto' : truth(value))), allowed: 'auto, true or false' }
}

/** Absolute paths without patterns. */
export function plainPaths(): Kind<string[]> {
  return { schema: v.array(v.pipe(v.string(), v.regex(/^\/[^\0]*[^/\0]$/))), allowed: 'a list of absolute paths' }
}

/** Names of systemd units. */
export function names(): Kind<string[]> {
  return { schema: v.array(v.pipe(v.string(), v.regex(/^[^\s/]{1,95}$/))), allowed: 'a list of names' }
}

/** Paths below the root of the cgroup tree. */
export function cgroups(): Kind<string[]> {
  return {
    schema: v.array(v.pipe(v.string(), v.regex(/^(\/[^/\s]{1,95})+$/))),
    allowed: 'a list of paths like [/kubepods.slice], each name in them at most 95 bytes'
  }
}

export function prefixes(): Kind<Prefix[]> {
  return {
    schema: v.array(transformed(prefix)),
    allowed: 'a list of prefixes like [10.0.0.0/8, "fd00::/8"] without host bits'
  }
}

/** Prefixes (one address: of a host) and device names or patterns. */
export function snatAddresses(): Kind<'auto' | ({ prefix: Prefix } | { device: string })[]> {
  return {
    schema: v.union([v.literal('auto'), v.pipe(v.array(transformed(snatAddress)), v.minLength(1))]),
    allowed:
      'auto, or a list of addresses, prefixes without host bits and device names with * ? [], like [192.0.2.10, 192.0.2.32/28, "eth*"]'
  }
}

/** By device and prefix. */
export function podSources(): Kind<{ device: string; prefix: Prefix; masquerade: boolean }[]> {
  const entry = v.strictObject({
    device: devicePattern,
    prefix: transformed(prefix),
    masquerade: v.optional(
      transformed((value) => truth(value)),
      true
    )
  })
  return {
    schema: v.array(entry),
    allowed:
      'a list like [{device: "lxc*", prefix: 10.96.0.0/12}]: device is a name with * ? [], prefix has no host bits, and masquerade may be false',
    fields: {
      device: 'a device name with * ? [] like "lxc*"',
      prefix: 'a prefix like 10.96.0.0/12 or "fd00::/8" without host bits',
      masquerade: 'true or false'
    }
  }
}

export function portsOrAuto(): Kind<'auto' | PortRange[]> {
  return {
    schema: transformed((value) => (value === 'auto' ? 'auto' : portRanges(value))),
    allowed: 'auto, or port ranges within 1-65535 like "1024-29999,61000-65535"'
  }
}

export function portsOrNone(): Kind<PortRange[]> {
  return {
    schema: transformed((value) => (value === 'none' ? [] : portRanges(value))),
    allowed: 'none, or port ranges within 1-65535 like "30000-32767"'
  }
}

const devicePattern = v.pipe(v.string(), v.regex(/^[^\s/]{1,64}$/))

/** undefined from `convert` means: not allowed. */
function transformed<T>(convert: (value: unknown) => T | undefined): v.GenericSchema<unknown, T> {
  return v.pipe(
    v.unknown(),
    v.rawTransform(({ dataset, addIssue, NEVER }) => {
      const value = convert(dataset.value)
      if (value !== undefined) return value
      addIssue()
      return NEVER
    })
  )
}

function truth(value: unknown): boolean | undefined {
  if (typeof value === 'boolean') return value
  if (typeof value !== 'string') return undefined
  if (/^(yes|on|true)$/i.test(value)) return true
  return /^(no|off|false)$/i.test(value) ? false : undefined
}

function durationWithin(value: unknown, least: number, most: number): number | undefined {
  const parsed = typeof value === 'string' ? parseDuration(value) : null
  return parsed !== null && parsed >= least && parsed <= most ? parsed : undefined
}

function portRanges(value: unknown): PortRange[] | undefined {
  const text = Array.isArray(value) ? value.join(',') : value
  return (typeof text === 'string' || typeof text === 'number' ? parsePortRanges(String(text)) : null) ?? undefined
}

function snatAddress(value: unknown): { prefix: Prefix } | { device: string } | undefined {
  if (typeof value !== 'string') return undefined
  const address = parseAddress(value)
  if (address !== null) return { prefix: hostPrefix(address) }
  const found = prefix(value)
  if (found !== undefined) return { prefix: found }
  // what looks like an address and is none is a mistake
  return v.is(devicePattern, value) && !/^[\d.]+$|:/.test(value) ? { device: value } : undefined
}

function prefix(value: unknown): Prefix | undefined {
  const parsed = typeof value === 'string' ? parsePrefix(value) : null
  if (!parsed || maskAddress(parsed.address, parsed.length) !== parsed.address) return undefined
  return prefixKey(parsed.address, parsed.length)
}
