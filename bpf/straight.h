/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The straight path: all stages in one go for the packets that are most
 * frequent and most plain, TCP and UDP of known flows and everything between
 * two pods. It needs no struct packet, so that everything stays in registers:
 * about half the instructions of the stages.
 *
 *   straight_out.h    from a pod: to another pod, to an uplink
 *   straight_out6.h   the same for IPv6
 *   straight_in.h     from an uplink: to a pod, with and without SNAT
 *   straight_in6.h    the same for IPv6
 *
 * Invariants
 * - The stages are the reference: what a straight path forwards leaves as the
 *   stages would have sent it, byte for byte, and leaves the same counters and
 *   entries behind (test/bpf/straight.test.ts).
 * - false: anything unusual about the packet is left to the stages, and nothing
 *   was changed. So every check comes before the first write.
 *   true: *action says what becomes of the packet. TC_ACT_UNSPEC: the stack
 *   owns its flow, and has it unchanged.
 */
#ifndef HOSTROUTE_STRAIGHT_H
#define HOSTROUTE_STRAIGHT_H

/* TCP's byte of flags */
#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

#define FOR_STAGES (-2) /* no action of TC's */

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
static __always_inline bool whole_l4(struct __sk_buff *skb, const struct iphdr *ip, bool tcp)
{
	return !(ip->frag_off & bpf_htons(IP_MF | IP_OFFSET)) &&
	       (void *)(ip + 1) + (tcp ? sizeof(struct tcphdr) : sizeof(struct udphdr)) <= END(skb);
}

/* With its header in reach. What opens may be of another flow than the one before it. */
static __always_inline bool opens_nothing(const void *l4, bool tcp)
{
	return !tcp || (((const __u8 *)l4)[13] & (TCP_SYN | TCP_ACK)) != TCP_SYN;
}

static __always_inline bool plain_l4(struct __sk_buff *skb, const struct iphdr *ip, bool tcp)
{
	const __u8 *l4 = (const void *)(ip + 1);

	return whole_l4(skb, ip, tcp) &&
	       (!tcp || (l4[12] >= 5 << 4 && (l4[13] & (TCP_FIN | TCP_SYN | TCP_RST | TCP_ACK)) == TCP_ACK));
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
	/* a tunnel's headers are for the stages to judge */
	return ip->protocol == IPPROTO_UDP && tells_checksum_state() && !tunnel_headers(skb) &&
	       sizeof(*ip) + sizeof(struct udphdr) + skb->gso_size <= mtu;
}

static __attribute__((noinline)) int segments_fit6(struct __sk_buff *skb, __u32 mtu)
{
	const struct ipv6hdr *ip = DATA(skb) + ETH;
	const struct tcphdr *tcp = (void *)(ip + 1);

	if (!skb->gso_size || (void *)(ip + 1) > END(skb))
		return false;
	if (ip->nexthdr == IPPROTO_TCP)
		return (void *)(tcp + 1) <= END(skb) && sizeof(*ip) + tcp->doff * 4 + skb->gso_size <= mtu;
	return ip->nexthdr == IPPROTO_UDP && tells_checksum_state() && !tunnel_headers(skb) &&
	       sizeof(*ip) + sizeof(struct udphdr) + skb->gso_size <= mtu;
}

/* As !too_big(). `length`: what skb->len says. */
static __always_inline bool fits4(struct __sk_buff *skb, __u32 length, __u32 mtu)
{
	return length <= mtu || segments_fit4(skb, mtu);
}

static __always_inline bool fits6(struct __sk_buff *skb, __u32 length, __u32 mtu)
{
	return length <= mtu || segments_fit6(skb, mtu);
}

/* As count(). The length is read after the look-up, not kept in a register over it. */
static __always_inline void count_whole(const struct device *device, __u32 reason, const struct __sk_buff *skb)
{
	__u32 row = device->counters + reason;
	struct counter *counter = bpf_map_lookup_elem(&counters, &row);

	if (!counter)
		return;
	counter->packets++;
	counter->bytes += skb->len;
}

/* owners* says that the flow is the stack's: so it is counted, and left as it is. */
static __always_inline bool leave_to_stack(struct __sk_buff *skb, const struct device *device, __u32 reason,
					   int *action)
{
	count(device, reason, skb->len);
	*action = TC_ACT_UNSPEC;
	return true;
}

/* Above these: the reason for which it is the stack's. */
enum known_flow {
	FLOW_UNKNOWN, /* for the stages, or for flows4 */
	FLOW_FAST,
	FLOW_ASK,     /* was the stack's: for the stages, whatever flows4 says */
};
_Static_assert((int)REASON_FIRST_STACK > (int)FLOW_ASK, "reasons of the stack and enum known_flow in one number");

/* What owners4 says of a flow that has no entry in flows4. Not inlined: few packets are asked about, and it would
 * need stack. */
static __attribute__((noinline)) __u32 straight_owner4(const struct tuple4 *tuple, __u32 pod_id)
{
	__u32 now = bpf_jiffies64();
	struct owner *owner;

	if (!tuple)
		return FLOW_UNKNOWN;
	owner = bpf_map_lookup_elem(&owners4, tuple);
	if (!owner || !still_counts(owner, pod_id, now))
		return owner && owner->reason && owner->pod_id == pod_id ? FLOW_ASK : FLOW_UNKNOWN;
	renew(owner, now);
	return owner->reason ? owner->reason : FLOW_FAST;
}

static __attribute__((noinline)) __u32 straight_owner6(const struct tuple6 *tuple, __u32 pod_id)
{
	__u32 now = bpf_jiffies64();
	struct owner *owner;

	if (!tuple)
		return FLOW_UNKNOWN;
	owner = bpf_map_lookup_elem(&owners6, tuple);
	if (!owner || !still_counts(owner, pod_id, now))
		return owner && owner->reason && owner->pod_id == pod_id ? FLOW_ASK : FLOW_UNKNOWN;
	renew(owner, now);
	return owner->reason ? owner->reason : FLOW_FAST;
}

/* Local pods reach the pod on this device through the stack, too: its flows with them have to be looked up. */
static __always_inline bool is_shared(__u32 ifindex)
{
	return *(const volatile __u16 *)&control.shared[ifindex & (DEVICE_SLOTS - 1)]; /* delivered, presumed */
}

/* The pod on this device may have pings from before the programs, of which conntrack has not been read yet. */
static __always_inline bool may_have_older_echoes(const struct __sk_buff *skb)
{
	return control.shared[skb->ifindex & (DEVICE_SLOTS - 1)].presumed == 2;
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

/* Whether the length is right is not asked. */
static __always_inline bool plain_header6(const struct ipv6hdr *ip)
{
	return (*(const __u8 *)ip & 0xf0) == 0x60 && ip->hop_limit > 1;
}

/* As whole_l4(). */
static __always_inline bool in_reach6(struct __sk_buff *skb, const __u8 *l4, bool tcp)
{
	return (void *)l4 + (tcp ? sizeof(struct tcphdr) : sizeof(struct udphdr)) <= END(skb);
}

/* As plain_l4(). */
static __always_inline bool in_the_middle6(const __u8 *l4, bool tcp)
{
	return !tcp || (l4[13] & (TCP_FIN | TCP_SYN | TCP_RST | TCP_ACK)) == TCP_ACK;
}

/* Not memcpy: see copy_mac(). */
static __always_inline void copy_address(void *to, const void *from)
{
	((__u64 *)to)[0] = ((const __u64 *)from)[0];
	((__u64 *)to)[1] = ((const __u64 *)from)[1];
}

/* `ports`: both, in the tuple's order. */
static __always_inline void fill_tuple6(struct tuple6 *tuple, const void *local, const void *remote, __u32 ports,
					bool tcp)
{
	copy_address(tuple->local, local);
	copy_address(tuple->remote, remote);
	*(__u32 *)&tuple->local_port = ports;
	*(__u32 *)&tuple->protocol = 0;
	tuple->protocol = tcp ? IPPROTO_TCP : IPPROTO_UDP;
}

/* No checksum to keep right: IPv6 has that in tunnels only. The header is in reach. */
static __always_inline bool without_checksum6(const __u8 *l4, bool tcp)
{
	return !tcp && !((const struct udphdr *)l4)->check;
}

/*
 * The transport's checksum after a change of address and port, as
 * fix_checksums4(). With both and itself the sum over a CHECKSUM_COMPLETE packet
 * stays what it was.
 */
static __always_inline void fix_checksum6(struct __sk_buff *skb, void *l4, const struct snat_difference *difference,
					  bool tcp)
{
	__u16 *check = l4 + (tcp ? offsetof(struct tcphdr, check) : offsetof(struct udphdr, check));
	const int state = checksum_state(skb);
	__u16 value = *check;

	if (state == CHECKSUM_PARTIAL)
		value = fold((__u32)value + difference->header);
	else
		value = ~fold2((__u32)(__u16)~value + difference->transport);
	*check = !tcp && !value ? 0xffff : value;
}

#endif
