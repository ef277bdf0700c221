/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Internet checksum by difference (RFC 1624). Differences are one's complement
 * sums of "new minus old" words as they stand in memory, not folded.
 */
#ifndef HOSTROUTE_CHECKSUM_H
#define HOSTROUTE_CHECKSUM_H

static __always_inline __u32 difference2(__u16 old, __u16 new)
{
	return (__u32)(__u16)~old + new;
}

static __always_inline __u32 difference4(__u32 old, __u32 new)
{
	return difference2(old & 0xffff, new & 0xffff) + difference2(old >> 16, new >> 16);
}

/* A header's sum with the TTL one less: the first byte of a word in memory. */
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define TTL_LESS 0xfffeU
#else
#define TTL_LESS 0xfeffU
#endif

/* The same of IPv6's hop limit, which is the second byte. */
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define HOP_LIMIT_LESS 0xfeffU
#else
#define HOP_LIMIT_LESS 0xfffeU
#endif

/* Of two words only: one step is enough. */
static __always_inline __u16 fold2(__u32 sum)
{
	return sum + (sum >> 16);
}

static __always_inline __u16 fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

static __always_inline struct snat_difference snat_differences(__be32 old, __be32 new, __be16 old_port, __be16 new_port)
{
	const __u32 address = difference4(old, new);

	return (struct snat_difference){
		.header = fold(address + TTL_LESS),
		.transport = fold(address + difference2(old_port, new_port)),
	};
}

/* Of an address's word, as a sum of smaller ones. */
static __always_inline __u64 halves(__u64 word)
{
	return (__u32)word + (word >> 32);
}

/* Folded; never 0 for two addresses that a packet may have. */
static __always_inline __u16 difference16(const struct address *old, const struct address *new)
{
	__u64 sum = halves(new->high) + halves(new->low) + halves(~old->high) + halves(~old->low);

	sum = halves(sum);
	return fold((__u32)(sum >> 16) + (sum & 0xffff));
}

/* `address`: difference16() of the addresses. */
static __always_inline struct snat_difference snat_differences6(__u16 address, __be16 old_port, __be16 new_port)
{
	return (struct snat_difference){
		.header = address,
		.transport = fold(address + difference2(old_port, new_port)),
	};
}

/* Of the way back. 0xffff is the zero that differences have. */
static __always_inline __u16 inverse_difference(__u16 difference)
{
	return difference == 0xffff ? difference : ~difference;
}

/* A stored checksum after its covered words changed by `difference`. */
static __always_inline __u16 checksum_after(__u16 check, __u32 difference)
{
	return ~fold((__u32)(__u16)~check + difference);
}

/* TTL one less, and the header's checksum with it (RFC 1141; as ip_decrease_ttl). */
static __always_inline void decrease_ttl4(struct iphdr *ip)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	/* TTL, protocol and checksum in one word: 1 off the lowest byte, 1 and a carry to the upper half */
	__u32 *word = (__u32 *)&ip->ttl;
	__u32 old = *word, new = old + 0xffff;

	if (old >= 0xfffe0000) {
		/* a jump that is hardly ever taken; clang would compute both */
		asm volatile("" : "+r"(new));
		new += 0x10000;
	}
	*word = new;
#else
	__u32 check = ip->check + bpf_htons(0x0100);

	ip->check = check + (check >= 0xffff);
	ip->ttl--;
#endif
}

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
