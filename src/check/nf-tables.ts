// Which tables nf_tables holds, asked without any tool: so a node without `nft`
// is known to be clean, or known not to be.

import { createNetlink } from 'netlink'
import type { RuleFamily } from './ruleset.js'

const NETLINK_NETFILTER = 12
const NFT_MSG_NEWTABLE = 0x0a00
const NFT_MSG_GETTABLE = 0x0a01
const NLMSG_ERROR = 2
const NLM_F_DUMP = 0x300
const NFTA_TABLE_NAME = 1
const families: Record<number, RuleFamily> = { 1: 'inet', 2: 'ip', 3: 'arp', 5: 'netdev', 7: 'bridge', 10: 'ip6' }

export interface TableName {
  family: RuleFamily
  name: string
}

/** Equivalent to: `nft list tables`. Empty where the kernel has no nf_tables. Rejects when the kernel refuses. */
export async function listNfTables(): Promise<TableName[]> {
  const socket = createNetlink(NETLINK_NETFILTER)
  const failed = new Promise<never>((_, reject) => socket.on('error', reject))
  try {
    const asked = socket.request(NFT_MSG_GETTABLE, Buffer.alloc(4), {
      flags: NLM_F_DUMP,
      timeout: 5000,
      checkError: false
    })
    const [messages] = await Promise.race([asked, failed])
    const tables: TableName[] = []
    for (const { type, data } of messages) {
      if (type === NLMSG_ERROR) {
        const errno = Buffer.from(data).readInt32LE(0)
        if (errno === 0) continue
        // EINVAL, EOPNOTSUPP, EPROTONOSUPPORT: no such subsystem
        if ([-22, -95, -93].includes(errno)) return []
        throw new Error(`the kernel refused to list nf_tables (errno ${-errno})`)
      }
      const name = type === NFT_MSG_NEWTABLE ? tableName(Buffer.from(data)) : null
      const family = families[data[0] ?? 0]
      if (name !== null && family) tables.push({ family, name })
    }
    return tables
  } finally {
    socket.close()
  }
}

/** NFTA_TABLE_NAME behind struct nfgenmsg. */
function tableName(data: Buffer): string | null {
  for (let offset = 4; offset + 4 <= data.length; ) {
    const length = data.readUInt16LE(offset)
    if (length < 4 || offset + length > data.length) return null
    if ((data.readUInt16LE(offset + 2) & 0x3fff) === NFTA_TABLE_NAME) {
      return data.toString('utf8', offset + 4, offset + length).replace(/\0.*$/s, '')
    }
    offset += (length + 3) & ~3
  }
  return null
}
