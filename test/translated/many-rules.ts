// The rules that kube-proxy would write for many Services, in each form.

const endpointsOf = 10

export function serviceAddress(service: number): string {
  return `10.${96 + (service >> 16)}.${(service >> 8) & 255}.${service & 255}`
}

function endpointAddress(service: number, endpoint: number): string {
  const number = service * endpointsOf + endpoint
  return `10.${128 + (number >> 16)}.${(number >> 8) & 255}.${number & 255}`
}

const numbers = (count: number) => Array.from({ length: count }, (_, index) => index)

/** Commands for nft -f: table, chains, rules, elements. */
export function manyForNft(services: number): string {
  const lines = [
    'add table ip kube-proxy',
    'add chain ip kube-proxy mark-it',
    'add rule ip kube-proxy mark-it meta mark set meta mark | 0x4000',
    'add map ip kube-proxy service-ips { type ipv4_addr . inet_proto . inet_service : verdict; }',
    'add chain ip kube-proxy services',
    'add chain ip kube-proxy pre { type nat hook prerouting priority -100; }',
    'add rule ip kube-proxy pre jump services',
    'add rule ip kube-proxy services ip daddr . meta l4proto . th dport vmap @service-ips'
  ]
  for (const service of numbers(services)) lines.push(...oneForNft(service))
  return `${lines.join('\n')}\n`
}

export function oneForNft(service: number): string[] {
  const lines: string[] = []
  for (const endpoint of numbers(endpointsOf)) {
    const chain = `endpoint-${service}-${endpoint}`
    const address = endpointAddress(service, endpoint)
    lines.push(
      `add chain ip kube-proxy ${chain}`,
      `add rule ip kube-proxy ${chain} ip saddr ${address} jump mark-it`,
      `add rule ip kube-proxy ${chain} meta l4proto tcp dnat to ${address}:8080`
    )
  }
  const map = numbers(endpointsOf).map((endpoint) => `${endpoint} : goto endpoint-${service}-${endpoint}`)
  lines.push(
    `add chain ip kube-proxy service-${service}`,
    `add rule ip kube-proxy service-${service} ip daddr ${serviceAddress(service)} tcp dport 80 ip saddr != 10.128.0.0/9 jump mark-it`,
    `add rule ip kube-proxy service-${service} numgen random mod ${endpointsOf} vmap { ${map.join(', ')} }`,
    `add element ip kube-proxy service-ips { ${serviceAddress(service)} . tcp . 80 : goto service-${service} }`
  )
  return lines
}

/** For iptables-restore, either backend. */
export function manyForIptables(services: number): string {
  const lines = ['*nat', ':KUBE-SERVICES - [0:0]', ':KUBE-MARK-MASQ - [0:0]']
  for (const service of numbers(services)) {
    lines.push(`:KUBE-SVC-${service} - [0:0]`)
    for (const endpoint of numbers(endpointsOf)) lines.push(`:KUBE-SEP-${service}-${endpoint} - [0:0]`)
  }
  lines.push('-A PREROUTING -j KUBE-SERVICES', '-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000')
  for (const service of numbers(services)) {
    const comment = `-m comment --comment "default/service-${service}:http"`
    lines.push(
      `-A KUBE-SERVICES -d ${serviceAddress(service)}/32 -p tcp ${comment} -m tcp --dport 80 -j KUBE-SVC-${service}`
    )
    for (const endpoint of numbers(endpointsOf)) {
      const address = endpointAddress(service, endpoint)
      const chain = `KUBE-SEP-${service}-${endpoint}`
      lines.push(
        `-A KUBE-SVC-${service} ${comment} -m statistic --mode random --probability 0.1 -j ${chain}`,
        `-A ${chain} -s ${address}/32 ${comment} -j KUBE-MARK-MASQ`,
        `-A ${chain} -p tcp ${comment} -m tcp -j DNAT --to-destination ${address}:8080`
      )
    }
  }
  return `${lines.join('\n')}\nCOMMIT\n`
}
