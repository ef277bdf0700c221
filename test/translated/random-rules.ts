// Random nat rules of nf_tables, reproducible by seed.

export type Random = (below: number) => number

interface Family {
  /** Of the table. */
  name: 'ip' | 'ip6' | 'inet'
  six: boolean
}

const chains = 6

/** One table. six: its rules name IPv6 destinations. */
export function randomTable(random: Random, number: number): string {
  const family: Family = [
    { name: 'ip', six: false } as const,
    { name: 'ip6', six: true } as const,
    { name: 'inet', six: false } as const,
    { name: 'inet', six: true } as const
  ][random(4)] as Family
  const table = new RandomTable(random, family)
  const bodies = Array.from({ length: chains }, (_, index) => table.chain(index))
  const bases = Array.from({ length: 1 + random(2) }, (_, index) => table.base(index))
  return `table ${family.name} t${number} {\n${[...table.objects(), ...bodies, ...bases].join('\n')}\n}\n`
}

class RandomTable {
  constructor(
    private readonly random: Random,
    private readonly family: Family
  ) {}

  objects(): string[] {
    const type = this.family.six ? 'ipv6_addr' : 'ipv4_addr'
    const list = (make: () => string, most = 6) =>
      [...new Map(Array.from({ length: 1 + this.random(most) }, () => [make(), 0] as const)).keys()].join(', ')
    const plain = list(() => this.host())
    const wide = list(() => this.wide())
    const triples = list(() => `${this.host()} . ${this.pick(['tcp', 'udp'])} . ${1 + this.random(3)}`)
    const wideTriples = list(() => `${this.wide()} . ${this.pick(['tcp', 'udp'])} . ${1 + this.random(3)}`, 2)
    return [
      `set plain { type ${type}; elements = { ${plain} }; }`,
      `set wide { type ${type}; flags interval; auto-merge; elements = { ${wide} }; }`,
      `set triple { type ${type} . inet_proto . inet_service; elements = { ${triples} }; }`,
      `set wideTriple { type ${type} . inet_proto . inet_service; flags interval; elements = { ${this.first(wideTriples)} }; }`,
      `set empty { type ${type}; }`
    ]
  }

  private first(list: string): string {
    return list.split(', ')[0] ?? ''
  }

  /** Jumps only to chains of a higher number. */
  chain(index: number): string {
    const rules = Array.from({ length: this.random(4) }, () => `  ${this.rule(index)}`)
    return ` chain c${index} {\n${rules.join('\n')}\n }`
  }

  base(index: number): string {
    const rules = Array.from({ length: 1 + this.random(4) }, () => `  ${this.rule(-1)}`)
    const priority = [-100, -90, -150, 10][this.random(4)]
    return ` chain base${index} {\n  type nat hook prerouting priority ${priority}; policy accept;\n${rules.join('\n')}\n }`
  }

  private rule(chain: number): string {
    const matches: string[] = []
    if (this.random(3) === 0) matches.push(this.other())
    if (this.random(8) > 0) matches.push(this.destination())
    if (this.random(8) === 0) matches.push(this.destination())
    if (this.random(4) === 0) matches.push(this.other())
    return `${matches.join(' ')} ${this.end(chain)}`
  }

  private get ip(): string {
    return this.family.six ? 'ip6' : 'ip'
  }

  private get daddr(): string {
    return `${this.ip} daddr`
  }

  private other(): string {
    return this.pick([
      'tcp dport 80',
      'tcp dport { 53, 54 }',
      `${this.ip} saddr ${this.host()}`,
      `${this.ip} saddr ${this.wide()}`,
      'meta l4proto tcp',
      'iifname "pod*"',
      'meta mark 1',
      'ct mark != 2',
      'counter',
      this.family.name === 'inet' ? `meta nfproto ${this.family.six ? 'ipv6' : 'ipv4'}` : 'counter'
    ])
  }

  private destination(): string {
    const { daddr } = this
    const ports = 'meta l4proto . th dport'
    switch (this.random(15)) {
      case 0:
      case 1:
        return `${daddr} ${this.host()}`
      case 2:
      case 3:
        return `${daddr} ${this.prefix()}`
      case 4:
        return `${daddr} ${this.range()}`
      case 5:
        return `${daddr} { ${this.host()}, ${this.host()}, ${this.prefix()} }`
      case 6:
        return `${daddr} @plain`
      case 7:
        return `${daddr} @wide`
      case 8:
        return `${daddr} . ${ports} @triple`
      case 9:
        return `${daddr} . ${ports} @wideTriple`
      case 10:
        return `${daddr} != ${this.pick([this.host(), this.prefix(), this.range(), '@plain', '@wide'])}`
      case 11:
        return `${daddr} ${this.pick(['<', '<=', '>', '>='])} ${this.host()}`
      case 12:
        return `${this.ip} saddr ${this.host()} ${daddr} ${this.host()}`
      case 13:
        return `${daddr} & ${this.mask()} == ${this.family.six ? 'fd00::' : '10.0.0.0'}`
      default:
        return `${daddr} @empty`
    }
  }

  private end(chain: number): string {
    const target = chain + 1 + this.random(chains - chain)
    const jump = target < chains ? `${this.pick(['jump', 'goto'])} c${target}` : 'accept'
    const to = this.family.six ? 'fd00:1::9' : '192.0.2.9'
    const nat = this.family.name === 'inet' ? `dnat ${this.ip} to ${to}` : `dnat to ${to}`
    switch (this.random(9)) {
      case 0:
      case 1:
        return nat
      case 2:
        return this.family.name === 'inet' ? nat : 'redirect'
      case 3:
        return this.pick(['return', 'accept', 'counter'])
      case 4:
        return `${this.daddr} vmap { ${this.host()} : ${jump}, fd00::/16 : accept }`.replace(
          'fd00::/16 : accept',
          this.family.six ? 'fd00:7::1 : accept' : '10.9.9.9 : accept'
        )
      case 5:
        return `${this.daddr} . tcp dport vmap { ${this.host()} . 80 : ${jump}, ${this.host()} . 81 : return }`
      case 6:
        return `${this.pick(['numgen random mod 2', 'meta mark'])} vmap { 0 : ${jump}, 1 : accept }`
      case 7:
        return `${this.daddr} vmap { ${this.prefix()} : ${jump} }`
      default:
        return jump
    }
  }

  private host(): string {
    const { random } = this
    return this.family.six
      ? `fd00::${random(3)}:${(random(12) * 3).toString(16)}`
      : `10.${random(3)}.${random(3)}.${random(12) * 3}`
  }

  private prefix(): string {
    const { random } = this
    if (this.family.six) {
      const length = [16, 96, 112, 124][random(4)] ?? 112
      return { 16: 'fd00::/16', 96: 'fd00::/96', 112: `fd00::${random(3)}:0/112`, 124: `fd00::${random(3)}:10/124` }[
        length
      ] as string
    }
    return this.pick([
      '10.0.0.0/8',
      `10.${random(3)}.0.0/16`,
      `10.${random(3)}.${random(3)}.0/24`,
      `10.0.1.${16 * random(3)}/28`
    ])
  }

  private range(): string {
    const { random } = this
    const low = random(8)
    const high = low + 1 + random(25)
    return this.family.six ? `fd00::1:${low.toString(16)}-fd00::1:${high.toString(16)}` : `10.1.1.${low}-10.1.1.${high}`
  }

  private wide(): string {
    return this.pick([this.host(), this.prefix(), this.range()])
  }

  private mask(): string {
    return this.family.six
      ? this.pick(['ffff:ffff::', 'ffff::ff00', 'ffff:ffff:ffff:ffff:ffff:ffff:ffff:0'])
      : this.pick(['255.255.0.0', '255.0.255.0', '255.255.255.240'])
  }

  private pick<T>(list: readonly T[]): T {
    return list[this.random(list.length)] as T
  }
}
