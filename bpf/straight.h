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
 * - GO_ON means that nothing was changed. There is anything to say about this
 *   packet, and the stages say it. So every check comes before the first write.
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
	return (control.flags & (CONTROL_ON | CONTROL_MONITOR)) == CONTROL_ON && bpf_jiffies64() < control.lease &&
	       !skb->vlan_proto && skb->pkt_type == 0 /* PACKET_HOST */ && !skb->mark;
}

/* The caller has looked that the header is there. Fragments are plain. */
static __always_inline bool plain_header4(struct __sk_buff *skb, const struct iphdr *ip)
{
	__u32 length = bpf_ntohs(ip->tot_len);

	return *(const __u8 *)ip == 0x45 && ip->ttl > 1 && length >= sizeof(*ip) && length <= skb->len - ETH &&
	       header_checksum_ok(ip);
}

/*
 * TCP in the middle of a flow, or UDP, whole, with its header in reach. `acks`
 * is SEEN_ACK or 0, as tcp_flags() has it. What knows the protocol is made
 * twice: the verifier would not see that one check is meant for both branches.
 */
static __always_inline bool plain_l4(struct __sk_buff *skb, const void *l4, __u32 length, __u8 *acks, bool tcp)
{
	const __u8 *byte = l4;

	*acks = 0;
	if (!tcp)
		return length >= sizeof(struct udphdr) && l4 + sizeof(struct udphdr) <= END(skb);
	if (length < sizeof(struct tcphdr) || l4 + sizeof(struct tcphdr) > END(skb))
		return false;
	*acks = (byte[13] & TCP_ACK) / TCP_ACK * SEEN_ACK;
	return byte[12] >= 5 << 4 && !(byte[13] & (TCP_FIN | TCP_SYN | TCP_RST));
}

/* As !too_big(). `l4` need not be in reach. */
static __always_inline bool fits(struct __sk_buff *skb, const void *l4, __u8 protocol, __u32 header, __u32 mtu)
{
	const __u8 *byte = l4;

	if (skb->len - ETH <= mtu)
		return true;
	if (!skb->gso_size)
		return false;
	if (protocol == IPPROTO_TCP)
		return l4 + sizeof(struct tcphdr) <= END(skb) && header + byte[12] / 16 * 4 + skb->gso_size <= mtu;
	return protocol == IPPROTO_UDP && header + sizeof(struct udphdr) + skb->gso_size <= mtu;
}

/* Destination and source, from where they stand side by side. Not memcpy: see copy_mac(). */
static __always_inline void copy_macs(__u8 *to, const __u8 *from)
{
	*(__u64 *)to = *(const __u64 *)from;
	*(__u32 *)(to + 8) = *(const __u32 *)(from + 8);
}

/* To a pod of this node: all is checked, and TTL and addresses are written. */
static __always_inline int deliver(struct __sk_buff *skb, const struct device *device, const struct pod *pod,
				   struct ethhdr *eth)
{
	copy_macs(eth->h_dest, pod->mac); /* host_mac follows mac */
	count(device, REASON_TO_POD, skb->len);
	return bpf_redirect_peer(pod->ifindex, 0);
}

/*
 * The transport checksum after a change of address and port, as fix_l4() does
 * by helper, by direct write. false: this kernel does not say which kind of
 * checksum it is; nothing was changed.
 */
static __always_inline bool fix_l4_directly(struct __sk_buff *skb, void *l4, __u32 address_difference, __be16 old_port,
					    __be16 new_port, bool tcp)
{
	__u16 *check = l4 + (tcp ? offsetof(struct tcphdr, check) : offsetof(struct udphdr, check));
	int state = checksum_state(skb);
	__u16 value = *check;

	if (state == CHECKSUM_UNKNOWN)
		return false;
	if (!tcp && !value)
		return true;
	if (state == CHECKSUM_PARTIAL)
		/* so far the pseudo header's sum, not inverted; whoever completes it sees the new port */
		value = fold(value + address_difference);
	else
		value = checksum_after(value, address_difference + difference2(old_port, new_port));
	if (!tcp && !value)
		value = 0xffff;
	*check = value;
	/* the header's checksum balances the address, and a port this one; the address in this one nothing */
	if (state == CHECKSUM_COMPLETE)
		bpf_csum_update(skb, (__u16)~fold(address_difference));
	return true;
}

#endif
