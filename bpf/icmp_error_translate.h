/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * ICMP errors about SNATed flows (RFC 5508), as others make them: the packet
 * inside the error has the flow's other face, so the inner address, port and
 * checksums change along with the outer address. Rare packets: see packet_store.h.
 * Errors of our own: icmp_error_send.h.
 */
#ifndef HOSTROUTE_ICMP_ERROR_TRANSLATE_H
#define HOSTROUTE_ICMP_ERROR_TRANSLATE_H

#include "maps.h"
#include "packet.h"
#include "trace.h"
#include "packet_store.h"
#include "parse_options.h"
#include "parse.h"
#include "pods.h"
#include "route.h"
#include "tuple.h"
#include "flow.h"
#include "conntrack.h"
#include "owner.h"
#include "send.h"

/* Not on the stack, as new_entries. */
struct error_scratch {
	struct inner inner;
	union tuple tuple; /* of its flow */
};

/* The programs write and read */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct error_scratch);
} error_scratch SEC(".maps");

static __always_inline bool is_icmp_error(const struct packet *p, bool six)
{
	if (!is_echo(p, six) || p->tracked)
		return false;
	if (six)
		return p->icmp_type >= ICMPV6_DEST_UNREACH && p->icmp_type <= ICMPV6_PARAMPROB;
	return p->icmp_type == ICMP_DEST_UNREACH || p->icmp_type == ICMP_SOURCE_QUENCH ||
	       p->icmp_type == ICMP_TIME_EXCEEDED || p->icmp_type == ICMP_PARAMETERPROB;
}

/* GO_ON: `inner` is a packet whose flow can be looked up. */
static __always_inline int parse_inner(struct __sk_buff *skb, const struct facts *p, struct inner *inner, bool six)
{
	__be16 ports[4]; /* the eight bytes that every error carries */

	inner->ip = p->l4 + sizeof(struct icmp_header);
	if (six) {
		struct ipv6hdr ip;

		if (bpf_skb_load_bytes(skb, inner->ip, &ip, sizeof(ip)))
			return REASON_MALFORMED;
		__builtin_memcpy(&inner->source, &ip.saddr, 16);
		__builtin_memcpy(&inner->destination, &ip.daddr, 16);
		inner->protocol = ip.nexthdr;
		inner->l4 = inner->ip + sizeof(ip);
		for (int i = 0; i < MOST_EXTENSION_HEADERS; i++) {
			struct fragment_header header; /* of the others only the first two bytes count */

			if (inner->protocol != IPPROTO_DSTOPTS && inner->protocol != IPPROTO_ROUTING &&
			    inner->protocol != NEXTHDR_FRAGMENT)
				break;
			if (bpf_skb_load_bytes(skb, inner->l4, &header, sizeof(header)))
				return REASON_MALFORMED;
			if (inner->protocol != NEXTHDR_FRAGMENT)
				inner->l4 += (header.reserved + 1) * 8;
			else if (header.offset & bpf_htons(IP6_OFFSET))
				return REASON_FRAGMENT;
			else
				inner->l4 += sizeof(header);
			inner->protocol = header.next;
		}
	} else {
		struct iphdr ip;

		if (bpf_skb_load_bytes(skb, inner->ip, &ip, sizeof(ip)) || ip.ihl < 5)
			return REASON_MALFORMED;
		if (ip.frag_off & bpf_htons(IP_OFFSET))
			return REASON_FRAGMENT;
		inner->source.high = 0;
		inner->source.low = MAPPED(ip.saddr);
		inner->destination.high = 0;
		inner->destination.low = MAPPED(ip.daddr);
		inner->protocol = ip.protocol;
		inner->l4 = inner->ip + ip.ihl * 4;
	}
	if (inner->l4 + sizeof(ports) > p->end || bpf_skb_load_bytes(skb, inner->l4, ports, sizeof(ports)))
		return REASON_MALFORMED;
	switch (inner->protocol) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
		inner->source_port = ports[0];
		inner->destination_port = ports[1];
		return GO_ON;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		inner->source_port = inner->destination_port = ports[2];
		inner->is_request = *(const __u8 *)ports == (six ? ICMPV6_ECHO_REQUEST : ICMP_ECHO);
		return GO_ON;
	}
	return REASON_PROTOCOL;
}

static __always_inline void tuple_of_inner(union tuple *tuple, const struct inner *inner, bool six)
{
	bool echo = inner->protocol == IPPROTO_ICMP || inner->protocol == IPPROTO_ICMPV6;
	__be16 port = echo_port(inner->is_request != inner->local_is_source);

	if (inner->local_is_source)
		make_tuple(tuple, &inner->source, &inner->destination, inner->source_port,
			   echo ? port : inner->destination_port, inner->protocol, six);
	else
		make_tuple(tuple, &inner->destination, &inner->source, inner->destination_port,
			   echo ? port : inner->source_port, inner->protocol, six);
}

/* GO_ON: error_scratch has a packet whose flow can be looked up. Global: see packet.h. */
__attribute__((noinline)) int fill_scratch4(struct __sk_buff *skb, const struct facts *p, int local_is_source)
{
	struct error_scratch *about = bpf_map_lookup_elem(&error_scratch, &(__u32){ 0 });
	int reason;

	if (!about || !p)
		return REASON_MALFORMED;
	about->inner.local_is_source = local_is_source;
	reason = parse_inner(skb, p, &about->inner, false);
	if (reason == GO_ON)
		tuple_of_inner(&about->tuple, &about->inner, false);
	return reason;
}

__attribute__((noinline)) int fill_scratch6(struct __sk_buff *skb, const struct facts *p, int local_is_source)
{
	struct error_scratch *about = bpf_map_lookup_elem(&error_scratch, &(__u32){ 0 });
	int reason;

	if (!about || !p)
		return REASON_MALFORMED;
	about->inner.local_is_source = local_is_source;
	reason = parse_inner(skb, p, &about->inner, true);
	if (reason == GO_ON)
		tuple_of_inner(&about->tuple, &about->inner, true);
	return reason;
}

/* NULL: none whose flow can be looked up, and *reason says why. */
static __always_inline struct error_scratch *parse_error(struct packet *p, bool local_is_source, int *reason, bool six)
{
	*reason = six ? fill_scratch6(p->skb, facts_of(p), local_is_source) :
			fill_scratch4(p->skb, facts_of(p), local_is_source);
	return *reason == GO_ON ? bpf_map_lookup_elem(&error_scratch, &(__u32){ 0 }) : NULL;
}

/* For what stands in error_scratch. Global: see packet.h. */
__attribute__((noinline)) int rewrite_error4(struct __sk_buff *skb, const struct facts *p,
					     const struct address *address, __u32 port)
{
	struct error_scratch *about = bpf_map_lookup_elem(&error_scratch, &(__u32){ 0 });

	return about && p && address ? rewrite_error(skb, p, &about->inner, address, port, false) : -1;
}

__attribute__((noinline)) int rewrite_error6(struct __sk_buff *skb, const struct facts *p,
					     const struct address *address, __u32 port)
{
	struct error_scratch *about = bpf_map_lookup_elem(&error_scratch, &(__u32){ 0 });

	return about && p && address ? rewrite_error(skb, p, &about->inner, address, port, true) : -1;
}

/*
 * Whose is an error from or to a pod: about a packet that the pod was sent (out),
 * or has sent. If its flow is the stack's, conntrack has to translate it.
 */
static __always_inline int owner_of_error(struct packet *p, __u32 pod_id, bool out, bool six)
{
	struct error_scratch *about;
	struct flow *flow;
	int reason;

	if (!is_translating())
		return GO_ON;
	about = parse_error(p, !out, &reason, six);
	if (!about)
		return REASON_UNKNOWN_OWNER;
	reason = known_owner(p->skb, &about->tuple, pod_id, six);
	if (reason >= 0)
		return reason ? reason : GO_ON;
	if (about->inner.protocol != IPPROTO_TCP && about->inner.protocol != IPPROTO_UDP) {
		/* an echo: one that came through here has an entry */
		flow = flow_of(&about->tuple, six);
		return flow && flow->pod_id == pod_id ? GO_ON : REASON_UNKNOWN_OWNER;
	}
	return ask_about(p->skb, &about->tuple, out, six) == CONNTRACK_TRANSLATES ? REASON_TRANSLATED_FLOW : GO_ON;
}

static __attribute__((noinline)) int error_owner_from_pod4(struct packet *p)
{
	return p ? owner_of_error(p, p->device->pod_id, true, false) : GO_ON;
}

static __attribute__((noinline)) int error_owner_from_pod6(struct packet *p)
{
	return p ? owner_of_error(p, p->device->pod_id, true, true) : GO_ON;
}

static __attribute__((noinline)) int error_owner_to_pod4(struct packet *p, const struct pod *pod)
{
	return p && pod ? owner_of_error(p, pod->id, false, false) : GO_ON;
}

static __attribute__((noinline)) int error_owner_to_pod6(struct packet *p, const struct pod *pod)
{
	return p && pod ? owner_of_error(p, pod->id, false, true) : GO_ON;
}

/* An error from outside about a flow that left with our address: to its pod. */
static __always_inline int error_to_pod(struct packet *p, bool six)
{
	struct error_scratch *about;
	struct reverse *reverse;
	struct address address;
	struct pod *pod;
	int reason;

	about = parse_error(p, true, &reason, six);
	if (!about)
		return reason == GO_ON ? REASON_MALFORMED : reason;
	/* it must be for the address that the inner packet came from */
	if (!same_address(&p->destination, &about->inner.source))
		return REASON_NODE;
	reverse = reverse_of(&about->tuple, six);
	trace(p, TRACE_ICMP_ERROR | TRACE_ASKED_REVERSE, 0);
	if (!reverse || !usable(p, &reverse->life))
		return REASON_NODE;
	__builtin_memcpy(&address, reverse->pod, 16);
	pod = sender_of(&address, reverse->ifindex, reverse->pod_id, six);
	if (!pod)
		return REASON_NODE;
	trace(p, TRACE_REVERSE, trace_pod(p, pod, 0));
	if (p->ttl <= 1)
		return REASON_DROP_TTL; /* nobody is told of an error's end */
	if (too_big(p, pod->mtu, six))
		return REASON_DROP_MTU;
	if (p->trace)
		return trace_to_pod(p, pod, &address, reverse->pod_port);
	if (six ? rewrite_error6(p->skb, facts_of(p), &address, reverse->pod_port) :
		  rewrite_error4(p->skb, facts_of(p), &address, reverse->pod_port))
		return REASON_DROP_MALFORMED;
	if (store_macs(p, pod))
		return REASON_DROP_MALFORMED;
	return hand_over(p, pod, &address, six);
}

/*
 * An error that a pod sends about a packet it was sent over a SNATed flow: it
 * leaves with the flow's face. GO_ON: no such flow, route it like any packet.
 */
static __always_inline int error_from_pod(struct packet *p, bool six)
{
	const struct address *address;
	struct error_scratch *about;
	struct nexthop *nexthop;
	struct flow *flow;
	__u64 way = 0;
	int reason;

	about = parse_error(p, false, &reason, six);
	if (!about)
		return reason;
	if (!same_address(&p->source, &about->inner.destination))
		return GO_ON;
	flow = flow_of(&about->tuple, six);
	if (!flow || flow->pod_id != p->device->pod_id || !usable(p, &flow->life))
		return GO_ON;
	trace_flow(p, flow, TRACE_FLOW | TRACE_ICMP_ERROR, 0);
	if (flow->verdict != FLOW_SNAT) {
		p->related = 1;
		return GO_ON;
	}
	reason = choose_nexthop(p, six, nexthop_in(way_of(flow)), false, &way);
	if (reason != GO_ON)
		return reason;
	nexthop = nexthop_at(nexthop_in(way));
	if (!nexthop)
		return REASON_ROUTE;
	if (too_big(p, nexthop->mtu, six))
		return REASON_MTU;
	address = (void *)flow->nat_address;
	if (p->trace)
		return trace_sent(p, nexthop->ifindex, NULL, NULL, address, flow->nat_port, REASON_TO_NEIGHBOUR);
	if (six ? rewrite_error6(p->skb, facts_of(p), address, flow->nat_port) :
		  rewrite_error4(p->skb, facts_of(p), address, flow->nat_port))
		return REASON_DROP_MALFORMED;
	p->skb->mark = 0;
	p->out = nexthop->ifindex;
	return six ? by_neighbour6(p, nexthop) : by_neighbour4(p, nexthop);
}

static __attribute__((noinline)) int error_to_pod4(struct packet *p)
{
	return error_to_pod(p, false);
}

static __attribute__((noinline)) int error_to_pod6(struct packet *p)
{
	return error_to_pod(p, true);
}

static __attribute__((noinline)) int error_from_pod4(struct packet *p)
{
	return error_from_pod(p, false);
}

static __attribute__((noinline)) int error_from_pod6(struct packet *p)
{
	return error_from_pod(p, true);
}

#endif
