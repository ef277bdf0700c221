// Names of chains and sets as kube-proxy makes them: a hash of what they stand for.

import { createHash } from 'node:crypto'
import type { Endpoint, ServicePort } from './cluster.js'

const ALPHABET = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567'

function base32(bytes: Buffer): string {
  let [text, value, bits] = ['', 0, 0]
  for (const byte of bytes) {
    value = (value << 8) | byte
    for (bits += 8; bits >= 5; bits -= 5) text += ALPHABET[(value >>> (bits - 5)) & 31]
    value &= (1 << bits) - 1
  }
  return text
}

const hash = (words: string, length: number) => base32(createHash('sha256').update(words).digest()).slice(0, length)

/** "10.0.0.1:80", "[fd00::1]:80" */
export const socketAddress = ({ ip, port }: { ip: string; port: number }) =>
  ip.includes(':') ? `[${ip}]:${port}` : `${ip}:${port}`

/** Mode iptables: KUBE-SVC-…, KUBE-SVL-…, KUBE-EXT-…, KUBE-FW-… share a hash, each endpoint has its own. */
export function iptablesNames(port: ServicePort) {
  const id = hash(port.name + port.protocol, 16)
  return {
    service: `KUBE-SVC-${id}`,
    local: `KUBE-SVL-${id}`,
    external: `KUBE-EXT-${id}`,
    firewall: `KUBE-FW-${id}`,
    endpoint: (endpoint: Endpoint) => `KUBE-SEP-${hash(port.name + port.protocol + socketAddress(endpoint), 16)}`
  }
}

/** Mode nftables: readable names behind a shorter hash; no colons in them. */
export function nftNames(port: ServicePort) {
  const plain = `${port.qualified}/${port.protocol}/${port.protocol}`
  const id = `${hash(plain, 8)}-${plain}`
  const endpointId = ({ ip, port: number }: Endpoint) => {
    const words = `${plain}__${ip.replaceAll(':', '.')}/${number}`
    return `${hash(words, 8)}-${words}`
  }
  return {
    service: `service-${id}`,
    local: `local-${id}`,
    external: `external-${id}`,
    firewall: `firewall-${id}`,
    endpoint: (endpoint: Endpoint) => `endpoint-${endpointId(endpoint)}`,
    affinity: (endpoint: Endpoint) => `affinity-${endpointId(endpoint)}`
  }
}
