// IPv4 fragmentation, byte for byte as Linux does it: ip_do_fragment(),
// ip_frag_next() and ip_options_fragment() of net/ipv4/ip_output.c and
// ip_options.c; RFC 791, section 3.2. Pure.

const minimumHeader = 20
/** RFC 791: every link takes so much. It leaves 8 bytes of data beside the longest header. */
const minimumMtu = 68
const DF = 0x4000
const MF = 0x2000
const OFFSET = 0x1fff
const optionEnd = 0
const optionNop = 1
const optionCopied = 0x80

/**
 * Fragments of at most `mtu` bytes of the IPv4 packet at the front of `packet` (what follows it is padding), in order,
 * each with `prefix` in front. The packet may be a fragment. One that fits comes back alone. null: no IPv4 packet, one
 * that must not be cut (DF), lengths that contradict each other, or an mtu below 68.
 */
export function cut(packet: Buffer, mtu: number, prefix: Buffer): Buffer[] | null {
  if (mtu < minimumMtu || packet.length < minimumHeader) return null
  const first = packet.readUInt8(0)
  const header = (first & 0xf) * 4
  const length = packet.readUInt16BE(2)
  const flags = packet.readUInt16BE(6)
  if (first >> 4 !== 4 || header < minimumHeader || length < header || length > packet.length) return null
  const start = flags & OFFSET
  // past 13 bits there is no offset
  if ((flags & DF) !== 0 || start + ((length - header) >> 3) > OFFSET) return null
  const most = mtu - header
  const fragments: Buffer[] = []
  for (let at = header; ; ) {
    const left = length - at
    const size = left > most ? most & ~7 : left
    const isLast = size === left
    const fragment = Buffer.allocUnsafe(prefix.length + header + size)
    prefix.copy(fragment)
    const ip = fragment.subarray(prefix.length)
    packet.copy(ip, 0, 0, header)
    packet.copy(ip, header, at, at + size)
    // those of a later fragment are what was left of them already
    if (start === 0 && at > header) blankOptions(ip, header)
    ip.writeUInt16BE(header + size, 2)
    const more = isLast ? flags & MF : MF
    ip.writeUInt16BE((flags & ~(OFFSET | MF)) | more | (start + ((at - header) >> 3)), 6)
    ip.writeUInt16BE(0, 10)
    ip.writeUInt16BE(checksum(ip, header), 10)
    fragments.push(fragment)
    if (isLast) return fragments
    at += size
  }
}

/** Options that only the first fragment has become NOPs (RFC 791: the copied flag). */
function blankOptions(ip: Buffer, header: number): void {
  for (let at = minimumHeader; at < header; ) {
    const type = ip[at] as number
    if (type === optionEnd) return
    if (type === optionNop) {
      at++
      continue
    }
    const size = at + 1 < header ? (ip[at + 1] as number) : 0
    if (size < 2 || size > header - at) return
    if ((type & optionCopied) === 0) ip.fill(optionNop, at, at + size)
    at += size
  }
}

/** RFC 1071. */
function checksum(bytes: Buffer, end: number): number {
  let sum = 0
  for (let at = 0; at < end; at += 2) sum += bytes.readUInt16BE(at)
  sum = (sum & 0xffff) + (sum >>> 16)
  sum = (sum & 0xffff) + (sum >>> 16)
  return ~sum & 0xffff
}
