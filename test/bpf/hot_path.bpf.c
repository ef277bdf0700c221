// SPDX-License-Identifier: GPL-2.0-only
/* The datapath, and its hot path as programs of their own. -2: the stages would take over. */
#include "hostroute.bpf.c"

SEC("tc")
int only_from_pod(struct __sk_buff *skb) {
  struct device *device = device_of(skb->ifindex);
  int action;

  return device && hot_from_pod(skb, device, &action) ? action : -2;
}

SEC("tc")
int only_from_uplink(struct __sk_buff *skb) {
  struct device *device = device_of(skb->ifindex);
  int action;

  if (!device) return -2;
  if (hot_from_uplink(skb, device, &action)) return action;
  return skb->protocol == bpf_htons(ETH_P_IPV6) ? hot_from_uplink6(skb, device) : -2;
}
