/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The straight path: all stages in one go for the packets that are most
 * frequent and most plain, TCP and UDP of known flows and everything between
 * two pods. It needs no struct packet, so that everything stays in registers:
 * less than half the instructions of the stages.
 *
 *   straight_out.h   from a pod: to another pod, to an uplink
 *   straight_in.h    from an uplink: to a pod, with and without SNAT
 *
 * Invariants
 * - The stages are the reference: what a straight path forwards leaves as the
 *   stages would have sent it, byte for byte, and leaves the same counters and
 *   entries behind (test/bpf/straight.test.ts).
 * - false means that nothing was changed. There is anything to say about this
 *   packet, and the stages say it. So every check comes before the first write.
 *   true: the packet is on its way, *action says how.
 */
#ifndef HOSTROUTE_STRAIGHT_H
#define HOSTROUTE_STRAIGHT_H

/* TCP's byte of flags */
#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

/*
 * What can be said before looking into the packet. A mark may be a trace's, and
 * has to be cleared. vlan_proto costs less than vlan_present; before 6.2 it may
 * stay when the tag has been taken off: then the stages look.
 */
static __always_inline bool may_go_straight(struct __sk_buff *skb)
{
	return control.straight && !(skb->vlan_proto | skb->pkt_type /* 0: PACKET_HOST */ | skb->mark);
}

/* The caller has looked that the header is there. Fragments are plain. Whether the length is right is not asked. */
static __always_inline bool plain_header4(const struct iphdr *ip)
{
	return *(const __u8 *)ip == 0x45 && ip->ttl > 1 && header_checksum_ok(ip);
}

static __always_inline struct pod_slot *slot_of4(__be32 address)
{
	__u32 index = bpf_ntohl(address) & (POD_SLOTS - 1);

	return bpf_map_lookup_elem(&pod_slots, &index);
}

/*
 * TCP in the middle of a flow, or UDP, whole, with its header in reach. What
 * knows the protocol is made twice: the verifier would not see that one check
 * is meant for both branches.
 */
static __always_inline bool plain_l4(struct __sk_buff *skb, const struct iphdr *ip, bool tcp)
{
	const __u8 *l4 = (const void *)(ip + 1);

	if ((ip->frag_off & bpf_htons(IP_MF | IP_OFFSET)) ||
	    (void *)l4 + (tcp ? sizeof(struct tcphdr) : sizeof(struct udphdr)) > END(skb))
		return false;
	return !tcp || (l4[12] >= 5 << 4 && !(l4[13] & (TCP_FIN | TCP_SYN | TCP_RST)));
}

/* Whether the segments of a GSO packet fit. Its IP header is in reach. */
static __attribute__((noinline)) int segments_fit4(struct __sk_buff *skb, __u32 mtu)
{
	const struct iphdr *ip = DATA(skb) + ETH;
	const struct tcphdr *tcp = (void *)(ip + 1);

	if (!skb->gso_size || (void *)(ip + 1) > END(skb))
		return false;
	if (ip->protocol == IPPROTO_TCP)
		return (void *)(tcp + 1) <= END(skb) && sizeof(*ip) + tcp->doff * 4 + skb->gso_size <= mtu;
	return ip->protocol == IPPROTO_UDP && sizeof(*ip) + sizeof(struct udphdr) + skb->gso_size <= mtu;
}

static __attribute__((noinline)) int segments_fit6(struct __sk_buff *skb, __u32 mtu)
{
	const struct ipv6hdr *ip = DATA(skb) + ETH;
	const struct tcphdr *tcp = (void *)(ip + 1);

	if (!skb->gso_size || (void *)(ip + 1) > END(skb))
		return false;
	if (ip->nexthdr == IPPROTO_TCP)
		return (void *)(tcp + 1) <= END(skb) && sizeof(*ip) + tcp->doff * 4 + skb->gso_size <= mtu;
	return ip->nexthdr == IPPROTO_UDP && sizeof(*ip) + sizeof(struct udphdr) + skb->gso_size <= mtu;
}

/* As !too_big(). `length`: what skb->len says. */
static __always_inline bool fits4(struct __sk_buff *skb, __u32 length, __u32 mtu)
{
	return length <= mtu || segments_fit4(skb, mtu);
}

/* Destination and source, from where they stand side by side. Not memcpy: see copy_mac(). */
static __always_inline void copy_macs(__u8 *to, const __u8 *from)
{
	*(__u64 *)to = *(const __u64 *)from;
	*(__u32 *)(to + 8) = *(const __u32 *)(from + 8);
}

/* To a pod of this node: all is checked, and TTL and addresses are written. */
static __always_inline bool deliver(struct __sk_buff *skb, const struct device *device, const struct pod *pod,
				    struct ethhdr *eth, int *action)
{
	copy_macs(eth->h_dest, pod->mac); /* host_mac follows mac */
	count(device, REASON_TO_POD, skb->len);
	*action = bpf_redirect_peer(pod->ifindex, 0);
	return true;
}

/*
 * All checksums after a change of address, port and TTL, as fix_l4() does by
 * helper, by direct write. Only where the kernel tells_checksum_state().
 */
static __always_inline void fix_checksums4(struct __sk_buff *skb, struct iphdr *ip,
					   const struct snat_difference *difference, bool tcp)
{
	__u16 *check = (void *)(ip + 1) + (tcp ? offsetof(struct tcphdr, check) : offsetof(struct udphdr, check));
	const __u32 header = difference->header;
	/* the TTL is in no transport checksum */
	const __u32 address = header + (__u16)~TTL_LESS;
	int state = checksum_state(skb);
	__u16 value = *check;

	if (tcp || value) {
		if (state == CHECKSUM_PARTIAL) {
			/* so far the pseudo header's sum, not inverted; whoever completes it sees the new port */
			value = fold(value + address);
		} else {
			value = ~fold2((__u32)(__u16)~value + difference->transport);
			/* the header's checksum balances the address, and a port this one; the address in this one
			 * nothing */
			if (state == CHECKSUM_COMPLETE)
				bpf_csum_update(skb, (__u16)~fold(address));
		}
		*check = !tcp && !value ? 0xffff : value;
	}
	ip->check = ~fold2((__u32)(__u16)~ip->check + header);
	ip->ttl--;
}

#endif
