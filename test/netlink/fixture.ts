// The recorded node: test/netlink/fixtures/node.json, made by record.ts.

import { readFileSync } from 'node:fs'
import { deflateRawSync, inflateRawSync } from 'node:zlib'
import { type DecodeCounters, decodeAll } from '../../src/netlink/decode.js'
import type { DumpKind, StateMessage } from '../../src/state/messages.js'
import { dumpKinds } from '../../src/state/messages.js'
import type { Oracle } from './oracle.js'

export interface Fixture {
  /** What made it (ip -batch). */
  commands: string[]
  /** Netlink messages, packed. */
  dumps: Record<DumpKind, string>
  events: string
  /** What ip -j said at the time of the dumps: JSON, packed. */
  oracle: string
}

export const fixturePath = new URL('../../../../test/netlink/fixtures/node.json', import.meta.url).pathname

export function readFixture(): Fixture {
  return JSON.parse(readFileSync(fixturePath, 'utf8')) as Fixture
}

/** Deflated, in base64. */
export function pack(bytes: Buffer | string): string {
  return deflateRawSync(bytes, { level: 9 }).toString('base64')
}

function unpack(text: string): Buffer {
  return inflateRawSync(Buffer.from(text, 'base64'))
}

export function dumpBytes(fixture: Fixture, kind: DumpKind): Buffer {
  return unpack(fixture.dumps[kind])
}

export function eventBytes(fixture: Fixture): Buffer {
  return unpack(fixture.events)
}

export function oracleOf(fixture: Fixture): Oracle {
  return JSON.parse(unpack(fixture.oracle).toString()) as Oracle
}

export function decodedDumps(fixture: Fixture, counters: DecodeCounters): [DumpKind, StateMessage[]][] {
  return dumpKinds.map((kind) => [kind, decodeAll(dumpBytes(fixture, kind), counters)])
}
