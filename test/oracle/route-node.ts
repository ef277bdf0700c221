// The namespace the route oracle works in, and how commands get into it. The
// process is in that namespace already (enterNamespace).

import { existsSync, writeFileSync } from 'node:fs'
import { peerNamespace } from '../netlink/namespace.js'
import { ipBatch } from './kernel.js'
import { Programs } from './programs.js'
import { baseCommands, deviceCommands, pods, TAG, uplinks, vrf, vrfCommand } from './topology.js'

const SETTLE = 20_000

export class RouteNode {
  private constructor(
    readonly programs: Programs,
    private readonly peer: ReturnType<typeof peerNamespace>,
    /** The kernel has VRFs. */
    readonly hasVrf: boolean
  ) {}

  /** useNeigh: IPv4 multipath routes look at neighbours, too. */
  static async open(useNeigh: boolean): Promise<RouteNode> {
    for (const path of [
      'ipv4/ip_forward=1',
      'ipv6/conf/all/forwarding=1',
      'ipv6/conf/all/keep_addr_on_down=1',
      'ipv6/conf/default/keep_addr_on_down=1',
      'ipv4/conf/all/rp_filter=0',
      'ipv4/conf/default/rp_filter=0',
      'ipv4/fib_multipath_hash_policy=1',
      `ipv4/fib_multipath_use_neigh=${useNeigh ? 1 : 0}`,
      'ipv6/fib_multipath_hash_policy=1'
    ]) {
      const [name, value] = path.split('=')
      writeFileSync(`/proc/sys/net/${name}`, value!)
    }
    const peer = peerNamespace()
    await ipBatch(deviceCommands(peer.pid))
    await ipBatch([vrfCommand])
    const hasVrf = existsSync(`/proc/sys/net/ipv4/conf/${vrf.device}`)
    peer.run('link set lo up')
    const programs = await Programs.open(useNeigh)
    const node = new RouteNode(programs, peer, hasVrf)
    await node.reset()
    return node
  }

  async close(): Promise<void> {
    await this.programs.close()
    this.peer.stop()
  }

  /** Back to the state every case begins with. */
  async reset(): Promise<void> {
    const flush = [`route flush table all proto ${TAG}`, `rule flush proto ${TAG}`]
    const ends = [...uplinks.slice(0, 3), ...pods, vrf.pod, vrf.uplink].map(({ device }) => `far link set ${device} up`)
    const marks = `route flush table ${Programs.markTable}`
    await this.run([
      ...flush.map((line) => `-6 ${line}`),
      ...ends,
      ...flush,
      marks,
      'nexthop flush',
      ...baseCommands(this.hasVrf)
    ])
  }

  /** Runs the commands, refused ones and all, and waits until the maps are in step. */
  async run(commands: readonly string[]): Promise<void> {
    const groups: { kind: string; lines: string[] }[] = []
    for (const command of commands) {
      const kind = /^(far|-6) /.exec(command)?.[1] ?? ''
      const line = kind === '' ? command : command.slice(kind.length + 1)
      const last = groups.at(-1)
      if (last?.kind === kind) last.lines.push(line)
      else groups.push({ kind, lines: [line] })
    }
    for (const { kind, lines } of groups) {
      const enter = kind === 'far' ? ['nsenter', `--net=/proc/${this.peer.pid}/ns/net`] : []
      await ipBatch(lines, kind === '-6' ? ['-6', '-force'] : ['-force'], enter)
    }
    // by itself: some refusals end the whole batch
    await ipBatch([this.programs.nextMark()])
    await this.settle()
  }

  private async settle(): Promise<void> {
    const end = Date.now() + SETTLE
    while (!this.programs.settled()) {
      if (Date.now() > end) throw new Error(`the maps did not come in step within 20 s: ${this.programs.describe()}`)
      await new Promise((resolve) => setTimeout(resolve, 1))
    }
  }
}
