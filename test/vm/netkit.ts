// A netkit pair between two namespaces. iproute2 knows the device's modes from
// 6.8 on only, which is newer than Debian 12's, so the request is made here.

import { closeSync, openSync } from 'node:fs'
import { createNetlink } from 'netlink'
import { attribute, attributeU32 } from '../../src/netlink/bytes.js'

export interface NetkitEnd {
  namespace: string
  name: string
  /** L2 mode only; in L3 mode an address is refused. */
  mac?: string
}

const RTM_NEWLINK = 16
const CREATE_EXCLUSIVE = 0x600
const IFLA = { address: 1, name: 3, linkInfo: 18, namespaceFile: 28 }
const INFO = { kind: 1, data: 2 }
const NETKIT = { peer: 1, mode: 5 }

/** Makes it, both ends down; `primary` is the end that programs are attached to. Rejects with the kernel's error. */
export async function makeNetkit(mode: 'l2' | 'l3', primary: NetkitEnd, peer: NetkitEnd): Promise<void> {
  const files = [primary, peer].map(({ namespace }) => openSync(`/run/netns/${namespace}`, 'r'))
  const [own = -1, other = -1] = files
  const data = [attribute(NETKIT.peer, link(peer, other)), attributeU32(NETKIT.mode, mode === 'l2' ? 0 : 1)]
  const info = [attribute(INFO.kind, Buffer.from('netkit\0')), attribute(INFO.data, Buffer.concat(data))]
  const request = Buffer.concat([link(primary, own), attribute(IFLA.linkInfo, Buffer.concat(info))])
  const socket = createNetlink(0)
  try {
    await socket.request(RTM_NEWLINK, request, { flags: CREATE_EXCLUSIVE, timeout: 20_000, checkError: true })
  } finally {
    socket.close()
    for (const file of files) closeSync(file)
  }
}

/** struct ifinfomsg and what both ends have. */
function link({ name, mac }: NetkitEnd, namespaceFile: number): Buffer {
  return Buffer.concat([
    Buffer.alloc(16),
    attribute(IFLA.name, Buffer.from(`${name}\0`)),
    attributeU32(IFLA.namespaceFile, namespaceFile),
    ...(mac ? [attribute(IFLA.address, Buffer.from(mac.replaceAll(':', ''), 'hex'))] : [])
  ])
}
