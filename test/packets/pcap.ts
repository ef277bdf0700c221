// Capture files as tcpdump -w writes them (classic pcap, either byte order,
// micro- or nanoseconds).

export interface CapturedPacket {
  /** Seconds since 1970 */
  time: number
  frame: Buffer
}

/** Packets of a capture; a last record that is cut short (tcpdump still running) is left out. */
export function readPcap(file: Buffer): CapturedPacket[] {
  if (file.length < 24) throw new Error('not a capture file: shorter than a pcap header')
  const magic = file.readUInt32LE(0)
  const little = magic === 0xa1b2c3d4 || magic === 0xa1b23c4d
  const nano = magic === 0xa1b23c4d || magic === 0x4d3cb2a1
  if (!little && magic !== 0xd4c3b2a1 && magic !== 0x4d3cb2a1) {
    throw new Error(`not a pcap file (magic ${magic.toString(16)}): write it with "tcpdump -w"`)
  }
  const word = (at: number) => (little ? file.readUInt32LE(at) : file.readUInt32BE(at))
  const packets: CapturedPacket[] = []
  let at = 24
  while (at + 16 <= file.length) {
    const length = word(at + 8)
    if (at + 16 + length > file.length) break
    const time = word(at) + word(at + 4) / (nano ? 1e9 : 1e6)
    packets.push({ time, frame: file.subarray(at + 16, at + 16 + length) })
    at += 16 + length
  }
  return packets
}
