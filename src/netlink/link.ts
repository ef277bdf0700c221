// RTM_NEWLINK, RTM_DELLINK: struct ifinfomsg and IFLA_*.

import type { Link } from '../state/types.js'
import {
  afterAttribute,
  attributeEnd,
  attributeType,
  readI32,
  readMac,
  readText,
  readU8,
  readU16,
  readU32
} from './bytes.js'

const IFF_UP = 0x1
const IFF_RUNNING = 0x40
const IFF_LOWER_UP = 0x10000
const IFLA_ADDRESS = 1
const IFLA_IFNAME = 3
const IFLA_MTU = 4
const IFLA_LINK = 5
const IFLA_MASTER = 10
const IFLA_LINKINFO = 18
const IFLA_LINK_NETNSID = 37
const IFLA_INFO_KIND = 1
const IFLA_INFO_DATA = 2
const IFLA_NETKIT_PRIMARY = 2
const IFLA_NETKIT_MODE = 5
const IFLA_BR_NF_CALL_IPTABLES = 36
const IFLA_BR_NF_CALL_IP6TABLES = 37

/** IFF_RUNNING of a message that decodeLink accepted. */
export function isRunning(bytes: Buffer, body: number, end: number): boolean {
  return (readU32(bytes, body + 8, end) & IFF_RUNNING) !== 0
}

/**
 * null: not about the device itself. AF_BRIDGE messages are about bridge ports
 * (their RTM_DELLINK is no deletion), and wireless events carry a name only.
 */
export function decodeLink(bytes: Buffer, body: number, end: number): Link | null {
  const flags = readU32(bytes, body + 8, end)
  if (readU8(bytes, body, end) !== 0) return null
  const link: Link = {
    ifindex: readI32(bytes, body + 4, end),
    name: '',
    kind: null,
    type: readU16(bytes, body + 2, end),
    mac: null,
    mtu: 0,
    up: (flags & IFF_UP) !== 0,
    carrier: (flags & IFF_LOWER_UP) !== 0,
    link: 0,
    linkNamespace: null,
    master: 0,
    netkitMode: null,
    netkitPrimary: false,
    bridgeNetfilter: false
  }
  let complete = false
  for (let at = body + 16; at < end; at = afterAttribute(bytes, at)) {
    const stop = attributeEnd(bytes, at, end)
    const payload = at + 4
    switch (attributeType(bytes, at)) {
      case IFLA_ADDRESS:
        link.mac = readMac(bytes, payload, stop)
        break
      case IFLA_IFNAME:
        link.name = readText(bytes, payload, stop)
        break
      case IFLA_MTU:
        link.mtu = readU32(bytes, payload, stop)
        complete = true
        break
      case IFLA_LINK:
        link.link = readI32(bytes, payload, stop)
        break
      case IFLA_MASTER:
        link.master = readI32(bytes, payload, stop)
        break
      case IFLA_LINK_NETNSID:
        link.linkNamespace = readI32(bytes, payload, stop)
        break
      case IFLA_LINKINFO:
        decodeLinkInfo(link, bytes, payload, stop)
        break
    }
  }
  return complete ? link : null
}

function decodeLinkInfo(link: Link, bytes: Buffer, first: number, end: number): void {
  let data = 0
  let dataEnd = 0
  for (let at = first; at < end; at = afterAttribute(bytes, at)) {
    const stop = attributeEnd(bytes, at, end)
    const type = attributeType(bytes, at)
    if (type === IFLA_INFO_KIND) link.kind = readText(bytes, at + 4, stop)
    else if (type === IFLA_INFO_DATA) {
      data = at + 4
      dataEnd = stop
    }
  }
  if (link.kind === 'netkit') decodeNetkit(link, bytes, data, dataEnd)
  else if (link.kind === 'bridge') decodeBridge(link, bytes, data, dataEnd)
}

function decodeNetkit(link: Link, bytes: Buffer, first: number, end: number): void {
  for (let at = first; at < end; at = afterAttribute(bytes, at)) {
    const stop = attributeEnd(bytes, at, end)
    const type = attributeType(bytes, at)
    if (type === IFLA_NETKIT_PRIMARY) link.netkitPrimary = readU8(bytes, at + 4, stop) !== 0
    else if (type === IFLA_NETKIT_MODE) link.netkitMode = readU32(bytes, at + 4, stop) === 0 ? 'l2' : 'l3'
  }
}

function decodeBridge(link: Link, bytes: Buffer, first: number, end: number): void {
  for (let at = first; at < end; at = afterAttribute(bytes, at)) {
    const stop = attributeEnd(bytes, at, end)
    const type = attributeType(bytes, at)
    if (type === IFLA_BR_NF_CALL_IPTABLES || type === IFLA_BR_NF_CALL_IP6TABLES)
      link.bridgeNetfilter ||= readU8(bytes, at + 4, stop) !== 0
  }
}
