// SPDX-License-Identifier: GPL-2.0-only
/*
 * The least that a program on the pod's or the uplink's device can do and the
 * packet still arrives: what these ways cost is the kernel's, not hostroute's.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <stdbool.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* One object a device: everything it sends goes there. */
volatile struct {
	__u32 layout;
	__u32 ifindex;
	__u16 macs[6]; /* destination, source */
} control SEC(".data.control");

static __always_inline bool write_macs(struct __sk_buff *skb)
{
	__u16 *to = (void *)(long)skb->data;
	int i;

	if (skb->protocol != bpf_htons(ETH_P_IP) || (void *)(to + 6) > (void *)(long)skb->data_end)
		return false;
#pragma unroll
	for (i = 0; i < 6; i++)
		to[i] = control.macs[i];
	return true;
}

SEC("tc")
int to_pod(struct __sk_buff *skb)
{
	return write_macs(skb) ? bpf_redirect_peer(control.ifindex, 0) : TC_ACT_UNSPEC;
}

SEC("tc")
int to_uplink(struct __sk_buff *skb)
{
	return write_macs(skb) ? bpf_redirect(control.ifindex, 0) : TC_ACT_UNSPEC;
}

char LICENSE[] SEC("license") = "GPL";
