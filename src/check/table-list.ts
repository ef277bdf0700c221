// Which tables nf_tables holds, asked without any tool: so a node without `nft`
// is known to be clean, or known not to be.

import { createNetlink } from 'netlink/dist/netlink.js'
import type { RuleFamily } from './ruleset.js'

const NETLINK_NETFILTER = 12
const NFT_MSG_NEWTABLE = 0x0a00
const NFT_MSG_GETTABLE = 0x0a01
const NFT_MSG_NEWCHAIN = 0x0a03
const NFT_MSG_GETCHAIN = 0x0a04
const NLMSG_ERROR = 2
const NLM_F_DUMP = 0x300
const NFTA_TABLE_NAME = 1
const NFTA_CHAIN_TABLE = 1
const NFTA_CHAIN_NAME = 3
const NFTA_CHAIN_USE = 6
const families: Record<number, RuleFamily> = { 1: 'inet', 2: 'ip', 3: 'arp', 5: 'netdev', 7: 'bridge', 10: 'ip6' }

export interface TableName {
  family: RuleFamily
  name: string
}

/** Equivalent to: `nft list tables`. Empty where the kernel has no nf_tables. Rejects when the kernel refuses. */
export async function listNfTables(): Promise<TableName[]> {
  const tables: TableName[] = []
  for (const { type, data } of await dump(NFT_MSG_GETTABLE)) {
    const name = type === NFT_MSG_NEWTABLE ? textOf(data, NFTA_TABLE_NAME) : null
    const family = families[data[0] ?? 0]
    if (name !== null && family) tables.push({ family, name })
  }
  return tables
}

/**
 * How often each chain is used, by "family table" and name: its rules and the
 * jumps to it. The kernel counts by itself; to list the rules costs it a time
 * that grows with their square (20 s for 50,000 on 6.18).
 */
export async function countChainUses(): Promise<Map<string, Map<string, number>>> {
  const tables = new Map<string, Map<string, number>>()
  for (const { type, data } of await dump(NFT_MSG_GETCHAIN)) {
    if (type !== NFT_MSG_NEWCHAIN) continue
    const key = `${families[data[0] ?? 0]} ${textOf(data, NFTA_CHAIN_TABLE)}`
    const chains = tables.get(key) ?? new Map<string, number>()
    tables.set(key, chains)
    chains.set(textOf(data, NFTA_CHAIN_NAME) ?? '', attribute(data, NFTA_CHAIN_USE)?.readUInt32BE(0) ?? -1)
  }
  return tables
}

/** Empty where the kernel has no nf_tables. */
async function dump(message: number): Promise<{ type: number; data: Buffer }[]> {
  const socket = createNetlink(NETLINK_NETFILTER)
  const failed = new Promise<never>((_, reject) => socket.on('error', reject))
  try {
    const asked = socket.request(message, Buffer.alloc(4), { flags: NLM_F_DUMP, timeout: 30_000, checkError: false })
    const [messages] = await Promise.race([asked, failed])
    const found: { type: number; data: Buffer }[] = []
    for (const each of messages) {
      const data = Buffer.from(each.data)
      if (each.type === NLMSG_ERROR) {
        const errno = data.readInt32LE(0)
        if (errno === 0) continue
        // EINVAL, EOPNOTSUPP, EPROTONOSUPPORT: no such subsystem
        if ([-22, -95, -93].includes(errno)) return []
        throw new Error(`the kernel refused to list nf_tables (errno ${-errno})`)
      }
      found.push({ type: each.type, data })
    }
    return found
  } finally {
    socket.close()
  }
}

function textOf(data: Buffer, wanted: number): string | null {
  return attribute(data, wanted)?.toString('utf8').replace(/\0.*$/s, '') ?? null
}

/** The value of an attribute behind struct nfgenmsg. */
function attribute(data: Buffer, wanted: number): Buffer | null {
  for (let offset = 4; offset + 4 <= data.length; ) {
    const length = data.readUInt16LE(offset)
    if (length < 4 || offset + length > data.length) return null
    if ((data.readUInt16LE(offset + 2) & 0x3fff) === wanted) return data.subarray(offset + 4, offset + length)
    offset += (length + 3) & ~3
  }
  return null
}
