/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What only the kernel's own sk_buff says of a packet, not struct __sk_buff: how
 * far its checksum is, and whether it is a tunnel's. By CO-RE, from Linux 6.4 on.
 */
#ifndef HOSTROUTE_KERNEL_SKB_H
#define HOSTROUTE_KERNEL_SKB_H

#include <linux/bpf.h>
#include <bpf/bpf_core_read.h>

#include "packet.h"

/* enum of the kernel's skb->ip_summed; UNKNOWN: the kernel does not say. */
enum checksum_state {
	CHECKSUM_UNKNOWN = -1,
	CHECKSUM_NONE = 0,
	CHECKSUM_UNNECESSARY = 1,
	CHECKSUM_COMPLETE = 2,
	CHECKSUM_PARTIAL = 3,
};

/* libbpf puts the running kernel's offset in (CO-RE). */
struct sk_buff {
	__u8 ip_summed : 2;
	__u8 encapsulation : 1;
	__u16 inner_transport_header;
	__u16 network_header;
} __attribute__((preserve_access_index));

/* Came with Linux 6.4, after the kfunc. bpf_ksym_exists() would not pass the verifiers of 6.2 and 6.3. */
struct bpf_iter_num___since_6_4 {
	int any;
};

extern void *bpf_cast_to_kern_ctx(void *context) __ksym __weak;

/* Of all packets of this kernel: a constant by the time the program is loaded. */
static __always_inline bool tells_checksum_state(void)
{
	return bpf_core_type_exists(struct bpf_iter_num___since_6_4);
}

/*
 * What the transport checksum field holds. Costs few instructions: the verifier
 * resolves the call, libbpf the offset and the shifts of a field within a byte.
 */
static __always_inline int checksum_state(struct __sk_buff *skb)
{
	const __u8 *kernel_skb;

	if (!tells_checksum_state())
		return CHECKSUM_UNKNOWN;
	kernel_skb = bpf_cast_to_kern_ctx(skb);
	return (__u64)kernel_skb[__CORE_RELO((struct sk_buff *)0, ip_summed, BYTE_OFFSET)]
		       << __CORE_RELO((struct sk_buff *)0, ip_summed, LSHIFT_U64) >>
	       __CORE_RELO((struct sk_buff *)0, ip_summed, RSHIFT_U64);
}

/* What no tunnel's headers exceed, from its UDP header on: VXLAN or Geneve with 8 bytes, Ethernet with a tag, IPv6,
 * TCP. */
#define MOST_TUNNEL_HEADERS (8 + 16 + 18 + 40 + 60)

/*
 * Of a GSO packet: bytes that each segment repeats, from the network header on,
 * if it is that of a tunnel whose payload is what gets cut (as
 * skb_gso_network_seglen has it). 0: none, or the kernel does not say.
 */
static __attribute__((noinline)) __u32 tunnel_headers(struct __sk_buff *skb)
{
	const struct sk_buff *kernel_skb;
	__u8 length = 0;
	__u32 at;

	if (!tells_checksum_state())
		return 0;
	kernel_skb = bpf_cast_to_kern_ctx(skb);
	if (!((__u64)((const __u8 *)kernel_skb)[__CORE_RELO((struct sk_buff *)0, encapsulation, BYTE_OFFSET)]
		      << __CORE_RELO((struct sk_buff *)0, encapsulation, LSHIFT_U64) >>
	      __CORE_RELO((struct sk_buff *)0, encapsulation, RSHIFT_U64)))
		return 0;
	at = (__u16)(kernel_skb->inner_transport_header - kernel_skb->network_header);
	/* TCP's; of UDP within the tunnel this is too much, never too little */
	if (bpf_skb_load_bytes(skb, ETH_HLEN + at + offsetof(struct tcphdr, check) - 4, &length, 1) || length >> 4 < 5)
		length = 15 << 4;
	return at + (length >> 4) * 4;
}

#endif
