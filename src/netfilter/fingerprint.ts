// Whether somebody has written rules: the generation of nf_tables (the kernel
// raises it with each transaction, net/netfilter/nf_tables_api.c) and what the
// legacy tables say of themselves. Asking is cheap; what has changed is for
// others to see. A legacy table that was replaced by one of the same size and
// the same number of rows looks the same.

import { readFileSync } from 'node:fs'
import type { NetfilterSocket } from '../native.js'
import { message, nft } from './nfnetlink.js'

const legacyTables = [
  { names: '/proc/self/net/ip_tables_names', level: 0 },
  { names: '/proc/self/net/ip6_tables_names', level: 41 }
]
/** IPT_SO_GET_INFO and IP6T_SO_GET_INFO; sizeof(struct ipt_getinfo). */
const getInfo = 64
const infoSize = 84
const headerSize = 16

/** Compared, never read. '' where there are no rules at all. */
export function rulesFingerprint(socket: NetfilterSocket): string {
  const parts = [generation(socket)]
  for (const { names, level } of legacyTables)
    for (const table of namesIn(names)) parts.push(`${level} ${table} ${info(socket, level, table)}`)
  return parts.filter((part) => part !== '').join('\n')
}

function generation(socket: NetfilterSocket): string {
  try {
    return socket
      .request(message(nft.getGeneration, 0, 0, []))
      .subarray(headerSize)
      .toString('hex')
  } catch {
    return '' // no nf_tables in this kernel
  }
}

function info(socket: NetfilterSocket, level: number, table: string): string {
  const question = Buffer.alloc(infoSize)
  question.write(table)
  try {
    return socket.getOption(level, getInfo, question).toString('hex')
  } catch (error) {
    return (error as { code?: string }).code ?? '' // it has gone
  }
}

function namesIn(path: string): string[] {
  try {
    return readFileSync(path, 'utf8')
      .split('\n')
      .filter((name) => name !== '')
  } catch {
    return []
  }
}
