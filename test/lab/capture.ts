// tcpdump in a namespace, its file read back with the parser of test/packets.

import { type CapturedPacket, type ParsedPacket, parsePacket, readPcap } from '../packets/packet.js'
import type { LabHost } from './host.js'
import { sleep } from './process.js'

export type LabPacket = CapturedPacket & { packet: ParsedPacket }

/** A capture that is running. */
export interface Capture {
  /** What it has seen until now; the capture goes on. */
  packets(): LabPacket[]
  /** Ends it; everything it saw. */
  stop(): Promise<LabPacket[]>
}

/** Resolves once the socket is open: what is sent afterwards is seen. */
export async function startCapture(host: LabHost, device: string, filter: string): Promise<Capture> {
  const options = ['--immediate-mode', '-U', '-n', '-p', '-s', '0', '-B', '8192']
  const tcpdump = host.start(['tcpdump', '-i', device, ...options, '-w', '-', ...(filter ? [filter] : [])])
  await tcpdump.waitFor('listening on')
  const packets = () => read(tcpdump.output)
  return {
    packets,
    async stop() {
      await sleep(50)
      await tcpdump.stop('SIGINT')
      return packets()
    }
  }
}

function read(file: Buffer): LabPacket[] {
  if (file.length < 24) return []
  return readPcap(file).map((captured) => ({ ...captured, packet: parsePacket(captured.frame) }))
}
