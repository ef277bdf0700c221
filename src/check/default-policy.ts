// The policy that holds without --policy, as the text that --print-policy shows.

export const defaultPolicyText = `# Policy of "hostroute check": what may stand on a node.

version: 1

# Operating systems that hostroute was tried on: ID and VERSION_ID of
# /etc/os-release. versions: [] is any.
systems:
  - {id: debian, versions: ['12', '13']}
  - {id: ubuntu, versions: ['22.04', '24.04']}
  - {id: azurelinux, versions: ['3.0']}

# Any other one: pass, warn or refuse.
otherSystems: warn

# Codes of findings that do not refuse: they become warnings.
accepted: []

# Rules known by where they stand. backend, family, table, chain and text are
# patterns (* ? []), one or a list; text is compared with the whole rule. What
# is left out matches everything.
# class: harmless, host-only or translatable lets a rule pass that the fast path
# would bypass; bypassed refuses it in any case; without class the entry only
# explains. The first entry that matches is the one that is named.
rules:
  - name: ip-masq-agent
    table: nat
    chain: [IP-MASQ-AGENT, IP-MASQ]
    text: ['* -j MASQUERADE', '* -j MASQUERADE --random-fully']
    class: translatable
    why: ip-masq-agent's rule; hostroute reads the same configuration and masquerades by it
  - name: kube-proxy
    table: filter
    chain: KUBE-FORWARD
    text: '* -m conntrack --ctstate INVALID -j DROP'
    class: harmless
    why: kube-proxy keeps packets from the stack that conntrack cannot place; the fast path follows flows by itself
  - name: kube-proxy
    table: kube-proxy
    chain: filter-forward
    text: 'ct state invalid drop*'
    class: harmless
    why: kube-proxy keeps packets from the stack that conntrack cannot place; the fast path follows flows by itself
  - name: kube-proxy
    chain: KUBE-*
    why: kube-proxy translates Service addresses here; the fast path would send such packets on untranslated
    remedy: Put the Service range (--service-cluster-ip-range) into stackPrefixes of config.yaml.
  - name: kube-proxy
    table: kube-proxy
    why: kube-proxy translates Service addresses here; the fast path would send such packets on untranslated
    remedy: Put the Service range (--service-cluster-ip-range) into stackPrefixes of config.yaml.
  - name: Istio
    chain: ISTIO_*
    why: Istio redirects traffic of pods here; the fast path would take it past the mesh
    remedy: Use Istio with sidecars or ambient mode, whose rules stand inside pods, or keep hostroute off this node.
  - name: Istio
    table: istio*
    why: Istio redirects traffic of pods here; the fast path would take it past the mesh
    remedy: Use Istio with sidecars or ambient mode, whose rules stand inside pods, or keep hostroute off this node.
  - name: Docker
    chain: DOCKER*
    why: Docker's rule for its containers applies to pods, too
    remedy: Run pods under Kubernetes without Docker on this node, or start Docker with "iptables" false.
  - name: Calico
    chain: cali-*
    why: Calico enforces network policy here; the fast path would take packets past it
    remedy: Run either Calico's policy or hostroute on this node.
  - name: Cilium
    chain: ['CILIUM_*', 'OLD_CILIUM_*']
    why: Cilium's datapath steers packets here
    remedy: Run either Cilium or hostroute on this node.
  - name: flannel
    chain: FLANNEL-*
    why: flannel's rule for traffic of pods
    remedy: Run flannel with --ip-masq=false and let hostroute masquerade.
  - name: CNI plugins
    chain: CNI-*
    why: a CNI plugin's rule for hostPort or masquerading
    remedy: Leave ipMasq out of the CNI configuration and let hostroute masquerade.
  - name: ufw
    chain: 'ufw*'
    why: ufw filters forwarded packets here; the fast path would take them past it
    remedy: Disable ufw (ufw disable), or keep its rules to traffic of the node itself.
  - name: firewalld
    table: firewalld
    why: firewalld filters forwarded packets here; the fast path would take them past it
    remedy: Disable firewalld (systemctl disable --now firewalld).
`
