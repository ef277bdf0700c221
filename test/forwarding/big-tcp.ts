// Lets a device of this network namespace take GSO packets of more than 64 KiB,
// of both families. iproute2 knows IPv4's limits from 6.3 on only.
//
//   node build/js/test/forwarding/big-tcp.js DEVICE BYTES

import { createNetlink } from 'netlink'
import { attribute, attributeU32 } from '../../src/netlink/bytes.js'

const RTM_NEWLINK = 16
const IFLA = { name: 3, gsoMaxSize: 41, groMaxSize: 58, gsoIpv4MaxSize: 63, groIpv4MaxSize: 64 }

const [device = '', bytes = ''] = process.argv.slice(2)
const { name, ...limits } = IFLA
const request = Buffer.concat([
  Buffer.alloc(16), // struct ifinfomsg: by name
  attribute(name, Buffer.from(`${device}\0`)),
  ...Object.values(limits).map((type) => attributeU32(type, Number(bytes)))
])
const socket = createNetlink(0)
try {
  await socket.request(RTM_NEWLINK, request, { timeout: 5_000, checkError: true })
} finally {
  socket.close()
}
