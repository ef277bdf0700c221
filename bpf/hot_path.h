/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The hot path: all stages in one go for the packets that are most
 * frequent and most plain, TCP and UDP of known flows and everything between
 * two pods. It needs no struct packet, so that everything stays in registers:
 * about half the instructions of the stages.
 *
 *   hot_path_out4.h    from a pod: to another pod, to an uplink
 *   hot_path_out6.h   the same for IPv6
 *   hot_path_in4.h     from an uplink: to a pod, with and without SNAT
 *   hot_path_in6.h    the same for IPv6
 *   hot_path_edge.h   where a flow begins or ends
 *
 * Invariants
 * - The stages are the reference: what the hot path forwards leaves as the
 *   stages would have sent it, byte for byte, and leaves the same counters and
 *   entries behind (test/bpf/hot_path.test.ts).
 * - false: anything unusual about the packet is left to the stages, and nothing
 *   was changed but that a new flow may have its entry by then, as they would
 *   have made it. So every check comes before the first write.
 *   true: *action says what becomes of the packet. TC_ACT_UNSPEC: the stack
 *   owns its flow, and has it unchanged.
 */
#ifndef HOSTROUTE_HOT_PATH_H
#define HOSTROUTE_HOT_PATH_H

#include "maps.h"
#include "packet.h"
#include "verdict.h"
#include "checksum.h"
#include "kernel_skb.h"
#include "packet_write.h"
#include "owner.h"

#define FOR_STAGES (-2) /* no action of TC's */
#define FOR_EDGE (-3)   /* nor this: hot_edge6() or hot_answer6() may do it */

/*
 * What can be said before looking into the packet. A mark may be a trace's, and
 * has to be cleared. vlan_proto costs less than vlan_present; before 6.2 it may
 * stay when the tag has been taken off: then the stages look.
 */
static __always_inline bool may_take_hot_path(struct __sk_buff *skb)
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

/* As plain_l4(), of a header of which the length has been looked at. */
static __always_inline bool in_the_middle(const __u8 *l4, bool tcp)
{
	return !tcp || (l4[13] & (TCP_FIN | TCP_SYN | TCP_RST | TCP_ACK)) == TCP_ACK;
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
static __attribute__((noinline)) __u32 hot_owner4(const struct tuple4 *tuple, __u32 pod_id)
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

static __attribute__((noinline)) __u32 hot_owner6(const struct tuple6 *tuple, __u32 pod_id)
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

/* To a pod of this node: all is checked, and TTL and addresses are written. */
static __always_inline bool deliver(struct __sk_buff *skb, const struct device *device, const struct pod *pod,
				    struct ethhdr *eth, int *action)
{
	copy_macs(eth->h_dest, pod->mac); /* host_mac follows mac */
	count(device, REASON_TO_POD, skb->len);
	*action = bpf_redirect_peer(pod->ifindex, 0);
	return true;
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

#endif
