// Messages of nfnetlink one after the other, without copying.

const headerSize = 20
const subsystem = 10

export interface TableMessage {
  bytes: Buffer
  /** NFT_MSG_*, or -1 for what is not of nf_tables. */
  type: number
  family: number
  /** Its attributes lie in [at, end). */
  at: number
  end: number
}

/** One object for all: read it before going on. What contradicts its own length ends the list. */
export function* messagesIn(bytes: Buffer): Generator<TableMessage> {
  const message: TableMessage = { bytes, type: 0, family: 0, at: 0, end: 0 }
  for (let offset = 0; offset + headerSize <= bytes.length; ) {
    const length = bytes.readUInt32LE(offset)
    if (length < 16 || offset + length > bytes.length) return
    const type = bytes.readUInt16LE(offset + 4)
    message.type = type >> 8 === subsystem && length >= headerSize ? type & 0xff : -1
    message.family = bytes[offset + 16] as number
    message.at = offset + headerSize
    message.end = offset + length
    yield message
    offset += (length + 3) & ~3
  }
}
