// Rows of snat_ports: row n is the n-th port that SNAT may take, and says whether
// port n is one of them.

import { MAX_PORTS, STRUCTS } from './layout.js'

/** All rows. `ports`: ascending, host order. */
export function encodePorts(ports: readonly number[]): Buffer {
  const { size, offset } = STRUCTS.snat_port
  const rows = Buffer.alloc(MAX_PORTS * size)
  ports.forEach((port, row) => {
    rows.writeUInt16LE(port, row * size + offset.port)
    rows.writeUInt16LE(1, port * size + offset.may_be_taken)
  })
  return rows
}
