/* SPDX-License-Identifier: GPL-2.0-only */
/* A sender with 802.1p: its IP goes out tagged with priority 3 and no VLAN. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

SEC("tc")
int tag(struct __sk_buff *skb)
{
	if (!skb->vlan_present && (skb->protocol == bpf_htons(ETH_P_IP) || skb->protocol == bpf_htons(ETH_P_IPV6)))
		bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), 3 << 13);
	return TC_ACT_UNSPEC;
}

char _license[] SEC("license") = "GPL";
