// IP protocol numbers (IANA) by the names people use.

const names: Record<number, string> = {
  1: 'icmp',
  6: 'tcp',
  17: 'udp',
  47: 'gre',
  50: 'esp',
  58: 'icmpv6',
  132: 'sctp'
}

export function protocolName(number: number): string {
  return names[number] ?? `protocol ${number}`
}
