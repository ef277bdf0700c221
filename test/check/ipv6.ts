// Recorded IPv4 rules, in the form in which the same program writes them for IPv6.

/** 10.96.1.12 is fd00:96::1:c, and so on; lengths of prefixes grow alike. */
export function asIpv6(text: string): string {
  return (
    text
      // names of chains and sets stay as they are
      .replace(
        /(?<![\d._])(\d+)\.(\d+)\.(\d+)\.(\d+)(\/\d+)?(:\d+)?(?=[\s,;}]|$)/gm,
        (all, a, b, c, d, length, port) => {
          if (all === '255.255.255.255') return 'ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff'
          const address = a === '127' ? '::1' : addressOf(Number(a), Number(b), Number(c), Number(d))
          const prefix =
            length === '/32' || a === '127' ? '/128' : length === '/16' ? '/32' : length === '/8' ? '/16' : ''
          return port ? `[${address}]${port}` : `${address}${length ? prefix : ''}`
        }
      )
      .replaceAll('icmp-port-unreachable', 'icmp6-port-unreachable')
      .replace(/\bip (daddr|saddr)\b/g, 'ip6 $1')
      .replaceAll('ipv4_addr', 'ipv6_addr')
      .replaceAll('table ip ', 'table ip6 ')
  )
}

function addressOf(a: number, b: number, c: number, d: number): string {
  const net = { 10: `fd00:${b}`, 192: 'fd00:168', 198: '2001:db8', 172: 'fd00:172', 203: '2001:db8' }[a] ?? 'fd00'
  if (a === 10 && c === 0 && d === 0) return `${net}::`
  return `${net}::${c.toString(16)}:${d.toString(16)}`
}
