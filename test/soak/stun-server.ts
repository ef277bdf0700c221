// A small STUN server with the two addresses and two ports that finding out
// about a NAT needs, for tests that shall not need coturn:
//   node stun-server.js ADDRESS OTHER-ADDRESS

import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { decodeRequest, encodeResponse } from './stun-message.js'

const PORTS = [3478, 3479]
const addresses = process.argv.slice(2)

const sockets = await Promise.all(
  addresses.map((address) =>
    Promise.all(
      PORTS.map(async (port) => {
        const socket = createSocket('udp4')
        socket.bind(port, address)
        await once(socket, 'listening')
        return socket
      })
    )
  )
)

for (const [row, address] of addresses.entries()) {
  for (const [column] of PORTS.entries()) {
    sockets[row]?.[column]?.on('message', (bytes, { address: peer, port }) => {
      const request = decodeRequest(bytes)
      if (!request) return
      const by = sockets[request.changeAddress ? 1 - row : row]?.[request.changePort ? 1 - column : column]
      const other = { address: addresses[1 - row] ?? address, port: PORTS[1 - column] ?? 0 }
      by?.send(encodeResponse(request.id, { address: peer, port }, other), request.responsePort ?? port, peer)
    })
  }
}
process.stdout.write('ready\n')
