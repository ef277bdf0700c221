// Attributes of netlink one after the other, in place:
//   for (let at = from; hasAttribute(bytes, at, end); at = afterAttribute(bytes, at)) {
//     const stop = attributeStop(bytes, at)   // its payload lies in [at + 4, stop)
// What contradicts its own length ends the list.

export function hasAttribute(bytes: Buffer, at: number, end: number): boolean {
  if (at + 4 > end) return false
  const length = bytes.readUInt16LE(at)
  return length >= 4 && at + length <= end
}

export function attributeStop(bytes: Buffer, at: number): number {
  return at + bytes.readUInt16LE(at)
}

export function afterAttribute(bytes: Buffer, at: number): number {
  return at + ((bytes.readUInt16LE(at) + 3) & ~3)
}

export function attributeType(bytes: Buffer, at: number): number {
  return bytes.readUInt16LE(at + 2) & 0x3fff
}

/** Text up to its NUL, as latin1: every name of nf_tables goes there and back. */
export function textIn(bytes: Buffer, from: number, stop: number): string {
  return bytes.toString('latin1', from, bytes[stop - 1] === 0 ? stop - 1 : stop)
}

/** A name that textIn has read, for a request. */
export function latin1(name: string): Buffer {
  return Buffer.from(`${name}\0`, 'latin1')
}
