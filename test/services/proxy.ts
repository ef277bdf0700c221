// kube-proxy of one node, as far as its rules go: writes them in its mode,
// replaces them when Services change, removes them.

import type { LabHost } from '../lab/host.js'
import {
  type Family,
  labPlan,
  type NodeName,
  type Plan,
  type Service,
  type ServicePort,
  servicePorts
} from './cluster.js'
import { iptablesRules, masqueradeAgentRules, type Ruleset, removal, replacement } from './iptables-rules.js'
import {
  addressCommands,
  DUMMY,
  IPVS_SYSCTLS,
  type IpvsState,
  ipsetLines,
  ipsetRemoval,
  ipvsadmLines,
  ipvsIptablesRules,
  ipvsState
} from './ipvs-rules.js'
import { type NftTable, nftReplacement, nftRules } from './nft-rules.js'

/** 'iptables' is that mode with the nft backend. */
export type Mode = 'iptables' | 'iptables-legacy' | 'nftables' | 'ipvs'

export const FAMILIES: readonly Family[] = [4, 6]

type Backend = 'nft' | 'legacy'

const restoreCommand = (family: Family, backend: Backend) =>
  `${family === 4 ? 'iptables' : 'ip6tables'}-${backend}-restore`

export class ServiceProxy {
  readonly #iptables = new Map<Family, Ruleset>()
  readonly #nft = new Map<Family, NftTable>()
  readonly #ipvs = new Map<Family, IpvsState>()

  constructor(
    readonly node: LabHost,
    readonly name: NodeName,
    readonly mode: Mode
  ) {}

  /** Puts the rules of these Services in place of those written before; each table changes in one step. */
  async write(services: readonly Service[]): Promise<void> {
    if (this.mode === 'ipvs' && this.#ipvs.size === 0) {
      await this.node.sysctl(IPVS_SYSCTLS)
      await this.node.ip(`link add ${DUMMY} type dummy`)
    }
    await Promise.all(FAMILIES.map((family) => this.#write(family, services)))
  }

  /** As when kube-proxy is run with --cleanup. */
  async remove(): Promise<void> {
    for (const [family, rules] of this.#iptables) await this.#restore(family, removal(rules))
    this.#iptables.clear()
    for (const { family } of this.#nft.values()) await this.node.run(['nft', 'delete', 'table', family, 'kube-proxy'])
    this.#nft.clear()
    if (this.#ipvs.size === 0) return
    await this.node.run(['ipvsadm', '-C'])
    await this.node.ip(`link del ${DUMMY}`)
    for (const family of this.#ipvs.keys()) await this.#ipset(ipsetRemoval(labPlan(family)))
    this.#ipvs.clear()
  }

  /** ip-masq-agent's chain beside it; that one always uses the nft backend. */
  async writeMasqueradeAgent(): Promise<void> {
    for (const family of FAMILIES) {
      const input = replacement(masqueradeAgentRules(labPlan(family)), null)
      await this.node.run([restoreCommand(family, 'nft'), '--noflush'], { input })
    }
  }

  async #write(family: Family, services: readonly Service[]): Promise<void> {
    const plan = labPlan(family)
    const ports = servicePorts(plan, this.name, services)
    if (this.mode === 'nftables') {
      const table = nftRules(plan, this.name, ports)
      await this.node.run(['nft', '-f', '-'], { input: nftReplacement(table, this.#nft.get(family) ?? null) })
      this.#nft.set(family, table)
    } else if (this.mode === 'ipvs') {
      await this.#writeIpvs(plan, ports)
    } else {
      const rules = iptablesRules(plan, ports)
      await this.#restore(family, replacement(rules, this.#iptables.get(family) ?? null))
      this.#iptables.set(family, rules)
    }
  }

  async #writeIpvs(plan: Plan, ports: readonly ServicePort[]): Promise<void> {
    const before = this.#ipvs.get(plan.family) ?? null
    const state = ipvsState(plan, this.name, ports)
    this.#ipvs.set(plan.family, state)
    await this.#ipset(ipsetLines(plan, state, before))
    if (!before) {
      const rules = ipvsIptablesRules(plan)
      await this.#restore(plan.family, replacement(rules, null))
      this.#iptables.set(plan.family, rules)
    }
    await this.node.ip(...addressCommands(plan, state, before))
    const input = ipvsadmLines(state, before)
    if (input !== '') await this.node.run(['ipvsadm', '-R'], { input })
  }

  #ipset(input: string): Promise<string> {
    return this.node.run(['ipset', 'restore'], { input })
  }

  #restore(family: Family, input: string): Promise<string> {
    const backend = this.mode === 'iptables-legacy' ? 'legacy' : 'nft'
    return this.node.run([restoreCommand(family, backend), '-w', '--noflush'], { input })
  }
}
