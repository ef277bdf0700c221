// Which rules are kube-proxy's. It is known by the whole set of its chains or by
// its table: other programs (kube-router, Calico) use names that begin alike.

import type { RuleChain, RuleTable } from './ruleset.js'

export type ProxyMode = 'iptables' | 'ipvs' | 'nftables'

/** Chains that kube-proxy has made in a table since Kubernetes 1.12, each set by itself enough. */
const marks: { table: string; mode: ProxyMode; chains: string[] }[] = [
  {
    table: 'nat',
    mode: 'iptables',
    chains: ['KUBE-SERVICES', 'KUBE-POSTROUTING', 'KUBE-NODEPORTS', 'KUBE-MARK-MASQ']
  },
  { table: 'filter', mode: 'iptables', chains: ['KUBE-SERVICES', 'KUBE-EXTERNAL-SERVICES', 'KUBE-FORWARD'] },
  {
    table: 'nat',
    mode: 'ipvs',
    chains: ['KUBE-SERVICES', 'KUBE-POSTROUTING', 'KUBE-NODE-PORT', 'KUBE-LOAD-BALANCER', 'KUBE-MARK-MASQ']
  },
  { table: 'filter', mode: 'ipvs', chains: ['KUBE-FORWARD', 'KUBE-NODE-PORT'] },
  { table: 'kube-proxy', mode: 'nftables', chains: ['services', 'masquerading', 'nat-prerouting', 'nat-postrouting'] }
]

const known = new WeakMap<RuleTable, ProxyMode | null>()

/** null: kube-proxy does not work in this table. */
export function kubeProxyMode(table: RuleTable): ProxyMode | null {
  const before = known.get(table)
  if (before !== undefined) return before
  const found = marks.find((each) => each.table === table.name && each.chains.every((chain) => table.chains.has(chain)))
  known.set(table, found?.mode ?? null)
  return found?.mode ?? null
}

const chainNames =
  /^KUBE-(SERVICES|EXTERNAL-SERVICES|NODEPORTS|NODE-PORT|FORWARD|FIREWALL|PROXY-FIREWALL|SOURCE-RANGES-FIREWALL|IPVS-FILTER|IPVS-OUT-FILTER|POSTROUTING|MARK-MASQ|MARK-DROP|LOAD-BALANCER|(SVC|SVL|SEP|EXT|FW|XLB)-[A-Z2-7]{16}|PROXY-CANARY|KUBELET-CANARY|IPTABLES-HINT)$/

/** A chain that kube-proxy fills. Base chains of iptables hold rules of others, too. */
export function isKubeProxys(table: RuleTable, chain: RuleChain): boolean {
  const mode = kubeProxyMode(table)
  return mode === 'nftables' || (mode !== null && chainNames.test(chain.name))
}

/** Sets of kube-proxy's mode ipvs whose members are addresses of Services. */
export const serviceSets = /^KUBE-(6-)?(CLUSTER-IP|EXTERNAL-IP|EXTERNAL-IP-LOCAL|LOAD-BALANCER[A-Z-]*)$/

/** Source and destination of its members are one pod. */
export const hairpinSets = /--match-set KUBE-(6-)?LOOP-BACK /
