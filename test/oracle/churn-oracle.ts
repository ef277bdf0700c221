// Churn: while pods send, routes, rules, addresses, links and neighbours of the
// node change at random. After each step the maps must be in step with the
// kernel, and each packet must have gone where a table that was in force then
// sends it. What the kernel would do is asked before, between and after all
// commands of a step; where a packet went is read from the port it left by and
// from its destination MAC, for every gateway has its own.

import type { RouteList, VerifyReport } from '../../src/control/api.js'
import { control } from '../forwarding/served.js'
import { mac, routerAddress } from '../lab/addresses.js'
import { compile } from '../lab/compile.js'
import type { LabHost } from '../lab/host.js'
import { Lab } from '../lab/lab.js'
import type { LabNode } from '../lab/node.js'
import { type Background, sleep, until } from '../lab/process.js'
import { ethernet, ip, parsePacket, readPcap, udp } from '../packets/packet.js'
import { randomSource } from '../plan/churn.js'
import { askBetween, type Leg, type Question } from './kernel.js'
import { pick, type Random } from './tables.js'

export interface ChurnOptions {
  seed: number
  steps: number
  /** performance.now() after which no further step is begun. */
  deadline: number
  progress?(totals: ChurnTotals): void
}

export interface ChurnTotals {
  seed: number
  steps: number
  commands: number
  /** Packets of ours that were seen behind the node. */
  packets: number
  faults: string[]
}

const DESTINATIONS = {
  4: ['198.18.0.1', '198.18.0.9', '198.18.1.1', '198.18.1.9', '198.18.200.1', '198.19.0.1'],
  6: ['2001:db8:18::1', '2001:db8:18::9', '2001:db8:18:1::1', '2001:db8:19::1']
} as const
const PREFIXES = [
  '0.0.0.0/0 198.18.0.0/15 198.18.0.0/16 198.18.0.0/24 198.18.1.0/24 198.18.0.9/32 198.18.1.9/32',
  '::/0 2001:db8:18::/47 2001:db8:18::/48 2001:db8:18::/64 2001:db8:18::9/128'
].map((line) => line.split(' '))
/** A pause this long after the maps are in step: packets in it obey the last table alone. */
const QUIET = 300
const MARGIN = 20

interface Gateway {
  device: string
  address: string
  mac: string
}

/** The router itself, and routers that nobody sees but by their MAC. */
const allGateways = (): Gateway[] =>
  [0, 1].flatMap((uplink) => [
    ...[routerAddress(uplink).v4, routerAddress(uplink).v6].map((address) => ({
      device: `up${uplink}`,
      address,
      mac: mac('router', 0, uplink)
    })),
    ...[41, 42, 43].flatMap((last) => [
      { device: `up${uplink}`, address: `192.168.${100 + uplink}.${last}`, mac: `02:aa:04:00:0${uplink}:${last}` },
      { device: `up${uplink}`, address: `fd00:168:${100 + uplink}::${last}`, mac: `02:aa:06:00:0${uplink}:${last}` }
    ])
  ])

/** Where packets may be seen, from a time on. */
interface Era {
  from: number
  /** By destination: 'up0 192.168.100.1', 'pod2'. */
  allowed: Map<string, Set<string>>
  text: string
}

export async function runChurn(options: ChurnOptions): Promise<ChurnTotals> {
  const totals: ChurnTotals = { seed: options.seed, steps: 0, commands: 0, packets: 0, faults: [] }
  const lab = await Lab.create({ nodes: 1, pods: 2, uplinks: 2, counters: false })
  try {
    const random = randomSource(Math.imul(options.seed, 0x9e3779b1))
    await run(await ChurnLab.open(lab), random, options, totals)
  } finally {
    await lab.close()
  }
  return totals
}

async function run(churn: ChurnLab, random: Random, options: ChurnOptions, totals: ChurnTotals): Promise<void> {
  let down: string | null = null
  for (let step = 0; step < options.steps && totals.faults.length === 0; step++) {
    if (performance.now() > options.deadline) break
    const commands: string[] = []
    if (down !== null) {
      commands.push(`link set ${down} up`, ...neighbourCommands(churn.gateways, down))
      down = null
    } else if (random(8) === 0 || step === 5) {
      down = pick(random, ['up0', 'up1'])
      commands.push(`link set ${down} down`)
    }
    for (let count = 1 + random(5); count > 0; count--) commands.push(...change(random, churn.gateways))
    if (step % 4 === 3) commands.push(churn.moveGateway(pick(random, churn.gateways.slice(2)), step))
    totals.commands += commands.length
    await churn.step(commands, totals)
    totals.steps++
    options.progress?.(totals)
  }
}

function change(random: Random, gateways: readonly Gateway[]): string[] {
  const family = random(3) === 0 ? 1 : 0
  const prefix = pick(random, PREFIXES[family]!)
  const suitable = gateways.filter(({ address }) => address.includes(':') === (family === 1))
  const { device, address } = pick(random, suitable)
  const metric = random(3) === 0 ? ` metric ${pick(random, [10, 100])}` : ''
  switch (random(12)) {
    case 0:
    case 1:
      return [`route del ${prefix}${metric}`]
    case 2:
      return [`route replace ${pick(random, ['blackhole', 'unreachable', 'prohibit', 'throw'])} ${prefix}${metric}`]
    case 3: {
      const legs = [pick(random, suitable), pick(random, suitable), pick(random, suitable)]
      const hops = legs.map((each) => `nexthop via ${each.address} dev ${each.device} weight ${1 + random(4)}`)
      return [`route replace ${prefix}${metric} ${hops.join(' ')}`]
    }
    case 4: {
      const id = 1 + random(3) + 10 * family
      const group = 5 + 10 * family
      const object = `nexthop replace id ${id} via ${address} dev ${device}`
      if (random(2) === 0) return [object, `route replace ${prefix} nhid ${id}`]
      const others = [1, 2, 3].filter((each) => each + 10 * family !== id && random(2) === 0)
      const members = [id, ...others.map((each) => each + 10 * family)]
      return [object, `nexthop replace id ${group} group ${members.join('/')}`, `route replace ${prefix} nhid ${group}`]
    }
    case 5:
      return [`nexthop del id ${1 + random(3) + 10 * family}`]
    case 6:
      return [`addr ${pick(random, ['replace', 'del'])} 192.168.${100 + Number(device[2])}.77/24 dev ${device}`]
    case 7:
      return [`route replace ${pick(random, DESTINATIONS[family === 1 ? 6 : 4])} dev pod2`]
    case 8:
      return family === 1
        ? []
        : [
            `route replace 0.0.0.0/0 via ${address} dev ${device} table 100`,
            `rule add pref ${100 + random(9)} ${ruleWords(random)}`
          ]
    case 9:
      return [`rule del pref ${100 + random(9)}`]
    default:
      return [`route ${pick(random, ['add', 'replace'])} ${prefix}${metric} via ${address} dev ${device}`]
  }
}

function ruleWords(random: Random): string {
  const match = pick(random, ['from 10.244.1.2', 'from 10.244.1.3', `to ${pick(random, DESTINATIONS[4])}`, 'iif pod1'])
  return `${match} lookup ${pick(random, [100, 100, 254])}`
}

function neighbourCommands(gateways: readonly Gateway[], device: string): string[] {
  return gateways
    .filter((each) => each.device === device)
    .map(({ address, mac }) => `neigh replace ${address} lladdr ${mac} dev ${device} nud permanent`)
}

class ChurnLab {
  readonly #node: LabNode
  readonly #questions: Question[]
  readonly gateways = allGateways()
  /** Whose MAC it is or was, by family and MAC. */
  readonly #owners = new Map<string, Gateway>()
  readonly #captures = new Map<string, Background>()
  readonly #seen = new Map<string, number>()
  #marks = 0

  private constructor(readonly lab: Lab) {
    this.#node = lab.node(0)
    for (const gateway of this.gateways) this.#owners.set(owned(gateway), gateway)
    const pod = this.#node.pod(0)
    this.#questions = ([4, 6] as const).flatMap((family) =>
      DESTINATIONS[family].map(
        (destination): Question => ({
          family,
          input: pod.hostDevice,
          source: pod.address[family === 4 ? 'v4' : 'v6'],
          destination,
          protocol: 'udp',
          sourcePort: 40_000,
          destinationPort: 9,
          tos: 0,
          mark: 0
        })
      )
    )
  }

  static async open(lab: Lab): Promise<ChurnLab> {
    const churn = new ChurnLab(lab)
    const node = lab.node(0)
    const pod2 = node.pod(1)
    await node.sysctl({
      'net.ipv6.conf.all.keep_addr_on_down': 1,
      'net.ipv6.conf.up0.keep_addr_on_down': 1,
      'net.ipv6.conf.up1.keep_addr_on_down': 1
    })
    const all = Object.values(DESTINATIONS).flat()
    await node.ip(
      ...['up0', 'up1'].flatMap((device) => neighbourCommands(churn.gateways, device)),
      ...all.map((address) => `neigh replace ${address} lladdr ${pod2.mac} dev ${pod2.hostDevice} nud permanent`)
    )
    await node.startDaemon({ config: { snat: { enabled: false } } })
    await churn.#capture('up0', lab.router, 'n1u0')
    await churn.#capture('up1', lab.router, 'n1u1')
    await churn.#capture('pod2', pod2, 'eth0')
    churn.#send()
    return churn
  }

  async #capture(name: string, host: LabHost, device: string): Promise<void> {
    const options = ['--immediate-mode', '-U', '-n', '-p', '-s', '200', '-Q', 'in', '-w', '-']
    const tcpdump = host.start(['tcpdump', '-i', device, ...options, 'udp port 9'])
    await tcpdump.waitFor('listening on')
    this.#captures.set(name, tcpdump)
    this.#seen.set(name, 0)
  }

  /** All destinations, every few milliseconds, until the lab is closed. */
  #send(): void {
    const pod = this.#node.pod(0)
    const macs = { source: pod.mac, destination: pod.hostMac }
    const records = this.#questions.map(({ source, destination, sourcePort, destinationPort }) => {
      const frame = ethernet(macs, ip({ source, destination }, udp({ sourcePort, destinationPort }, 'churn')))
      const head = Buffer.alloc(14)
      head.writeUInt32LE(frame.length)
      return Buffer.concat([head, frame])
    })
    const program = pod.start([compile('test/oracle/frames.c'), 'eth0'])
    const round = Buffer.concat(records)
    const timer = setInterval(() => {
      if (program.running) program.child.stdin?.write(round)
      else clearInterval(timer)
    }, 10)
    timer.unref()
  }

  /** The command that gives a gateway another MAC; from now on it is judged by that. */
  moveGateway(gateway: Gateway, number: number): string {
    gateway.mac = gateway.mac.replace(
      /^..:..:..:../,
      `02:ab:${(number >> 8).toString(16).padStart(2, '0')}:${(number & 255).toString(16).padStart(2, '0')}`
    )
    this.#owners.set(owned(gateway), gateway)
    return `neigh replace ${gateway.address} lladdr ${gateway.mac} dev ${gateway.device} nud permanent`
  }

  /** Runs the commands under traffic and judges every packet of that time. */
  async step(commands: readonly string[], totals: ChurnTotals): Promise<void> {
    const enter = ['nsenter', `--net=/run/netns/${this.#node.namespace}`]
    const begin = now()
    const tables = await askBetween(commands, this.#questions, enter)
    await this.#inStep()
    const settled = now()
    await sleep(QUIET)
    const end = now()
    const text = commands.map((command) => `    ip ${command}`).join('\n')
    const during: Era = { from: begin, allowed: this.#allowed(tables), text }
    const after: Era = { from: settled + MARGIN / 1000, allowed: this.#allowed(tables.slice(-1)), text }
    await this.#judge(during, after, end, totals)
    const report = (await control(this.#node).get<VerifyReport>('/v1/verify')).value
    if (!report.ok || report.total > 0)
      totals.faults.push(`verify: ${JSON.stringify(report.differences.slice(0, 5))} after\n${text}`)
  }

  /** The maps know what all commands until now have done: a route told after them is there. */
  async #inStep(): Promise<void> {
    this.#marks = (this.#marks + 1) % 250
    const address = `192.0.0.${this.#marks}`
    await this.#node.ip(`route replace unreachable ${address}/32`)
    const known = async () => {
      const { value } = await control(this.#node).get<RouteList>('/v1/routes', { within: `${address}/32` })
      return value.routes.some(({ prefix }) => prefix === `${address}/32`)
    }
    await until('the maps are in step', known, 20_000, 10)
    await until(
      'synced',
      async () =>
        (await control(this.#node).get<{ sync: { state: string } }>('/v1/status')).value.sync.state === 'synced',
      20_000,
      10
    )
    await this.#node.ip(`route del unreachable ${address}/32`)
  }

  #allowed(tables: readonly Leg[][][]): Map<string, Set<string>> {
    const allowed = new Map<string, Set<string>>()
    this.#questions.forEach(({ destination }, index) => {
      const places = new Set<string>()
      for (const table of tables) for (const leg of table[index]!) places.add(this.#place(leg))
      allowed.set(destination, places)
    })
    return allowed
  }

  /** As #judge names it. On-link destinations have no neighbour that is known: '?'. */
  #place({ device, nexthop }: Leg): string {
    if (device === 'pod2') return 'pod2'
    const known = this.gateways.some((each) => each.device === device && each.address === nexthop)
    return `${device} ${known ? nexthop : '?'}`
  }

  async #judge(during: Era, after: Era, end: number, totals: ChurnTotals): Promise<void> {
    const wrong = new Map<string, number>()
    const arrived = new Set<string>()
    for (const [name, capture] of this.#captures) {
      const packets = readPcap(capture.output)
      for (const { time, frame } of packets.slice(this.#seen.get(name))) {
        const { ip, destinationMac } = parsePacket(frame)
        if (!ip || time < during.from) continue
        totals.packets++
        const quiet = time > after.from && time < end
        const owner = this.#owners.get(`${ip.family} ${destinationMac}`)
        const right = owner?.device === name && (!quiet || owner.mac === destinationMac)
        const where = name === 'pod2' ? 'pod2' : `${name} ${right ? owner.address : destinationMac}`
        if (quiet) arrived.add(ip.destination)
        const places = (quiet ? after : during).allowed.get(ip.destination)
        if (places?.has(where) || time > end) continue
        const words = `${ip.destination} ${quiet ? 'when all was quiet' : 'during the change'} by ${where}, allowed: ${[...(places ?? [])].join(', ') || 'nowhere'}`
        wrong.set(words, (wrong.get(words) ?? 0) + 1)
      }
      this.#seen.set(name, packets.length)
    }
    for (const [words, count] of wrong) totals.faults.push(`${count} packets to ${words}\n${during.text}`)
    for (const [destination, places] of after.allowed)
      if (places.size > 0 && !arrived.has(destination) && ![...places].some((each) => each.includes('?')))
        totals.faults.push(
          `no packet to ${destination} when all was quiet, allowed: ${[...places].join(', ')}\n${during.text}`
        )
  }
}

const owned = ({ address, mac }: Gateway): string => `${address.includes(':') ? 6 : 4} ${mac}`
const now = (): number => Date.now() / 1000
