// The policy that holds without --policy, as the text that --print-policy shows.

export const defaultPolicyText = `# Policy of "hostroute check": what is fine on a node.

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
    text: ['* -j MASQUERADE', '* -j MASQUERADE --random-fully', '* -j MASQUERADE --to-ports *', '*masquerade*']
    class: translatable
    why: ip-masq-agent's rule; hostroute reads the same configuration and flags and masquerades by them
  - name: kube-proxy
    table: filter
    chain: KUBE-FORWARD
    text: '* --ctstate INVALID*-j DROP'
    class: harmless
    why: kube-proxy drops packets that conntrack cannot place; flows of the fast path are not conntrack's, and flows of the stack pass it in both directions
  - name: kube-proxy
    table: kube-proxy
    chain: filter-forward
    text: 'ct state invalid drop*'
    class: harmless
    why: kube-proxy drops packets that conntrack cannot place; flows of the fast path are not conntrack's, and flows of the stack pass it in both directions
  - name: kube-router
    chain: ['KUBE-ROUTER-*', 'KUBE-NWPLCY-*', 'KUBE-POD-FW-*']
    why: kube-router enforces NetworkPolicy here; the fast path would bypass it
    remedy: "Run either kube-router's NetworkPolicy (k3s has --disable-network-policy) or hostroute on this node. Its chains stay until the next boot."
  - name: Istio
    chain: ISTIO_*
    why: Istio redirects traffic of pods here; the fast path would bypass the mesh
    remedy: Use Istio with sidecars or ambient mode, whose rules stand inside pods, or keep hostroute off this node.
  - name: Istio
    table: istio*
    why: Istio redirects traffic of pods here; the fast path would bypass the mesh
    remedy: Use Istio with sidecars or ambient mode, whose rules stand inside pods, or keep hostroute off this node.
  - name: Docker
    chain: DOCKER-USER
    why: the rule applies to pods, too; the fast path would bypass it
    remedy: Limit it to Docker's containers (-i docker0 or -o docker0).
  - name: Docker
    chain: DOCKER*
    why: Docker's rule applies to pods, too; the fast path would bypass it
    remedy: If its network is gone (docker network ls), remove the rule; else limit it to Docker's containers (-i or -o of their bridge).
  - name: Calico
    chain: cali-*
    why: Calico enforces network policy here; the fast path would bypass it
    remedy: Run either Calico's policy or hostroute on this node.
  - name: Cilium
    chain: ['CILIUM_*', 'OLD_CILIUM_*']
    why: Cilium's datapath steers packets here
    remedy: Run either Cilium or hostroute on this node.
  - name: flannel
    chain: FLANNEL-*
    why: flannel's rule for traffic of pods
    remedy: Run flannel with --ip-masq=false and let hostroute masquerade.
  - name: portmap
    chain: ['CNI-HOSTPORT-*', 'CNI-DN-*', 'CNI-SN-*']
    why: the portmap plugin's rule for a hostPort
  - name: portmap
    table: cni_hostport
    why: "the portmap plugin's rule for a hostPort; in its nftables mode before 1.9.0 it also translates packets to other addresses"
    remedy: Update the CNI plugins to 1.9.0 or later, or set portmap's backend to iptables; then make the pods with a hostPort anew.
  - name: CNI plugins
    chain: CNI-*
    why: a CNI plugin's rule, most often for masquerading
    remedy: Leave ipMasq out of the CNI configuration and let hostroute masquerade.
  - name: ufw
    chain: 'ufw*'
    why: ufw filters forwarded packets here; the fast path would bypass it
    remedy: Keep ufw's rules to traffic of the node itself. Delete those for forwarded packets (ufw status shows them as FWD), set DEFAULT_FORWARD_POLICY="ACCEPT" in /etc/default/ufw, then ufw logging low and ufw reload.
  - name: firewalld
    table: firewalld
    why: firewalld filters forwarded packets here; the fast path would bypass it
    remedy: Replace firewalld by rules for the node itself (hook input), then systemctl disable --now firewalld.
`
