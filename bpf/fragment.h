/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Fragments. Only the first one has ports: it is judged like a whole packet,
 * and leaves a note for the others of its datagram, which get the same address
 * and the same way. The transport checksum stands in the first and covers the
 * datagram, so it changes by difference as always (packet_store.h). Nothing is put
 * together here: duplicates and overlaps are the receiver's to judge.
 *
 * Here: what a first fragment says, and the notes. What follows from them:
 * fragment_out.h (from a pod), fragment_in.h (from an uplink).
 */
#ifndef HOSTROUTE_FRAGMENT_H
#define HOSTROUTE_FRAGMENT_H

#include "maps.h"
#include "packet.h"
#include "trace.h"
#include "parse.h"

#define FRAGMENT_SECONDS 10 /* net.ipv4.ipfrag_time is 30: but an id may be another pod's by then */

/* A note in the making or in use. Not on the stack, as new_entries. */
struct fragment_scratch {
	struct fragment_key key;
	struct fragment note;
};

/* The programs write and read */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct fragment_scratch);
} fragment_scratch SEC(".maps");

/* As parse_l4(), for a fragment. Leaves `tracked` 0 also if the ports are not in the first. */
static __always_inline void parse_fragment(struct __sk_buff *skb, struct facts *p, bool six)
{
	const __u32 length = p->protocol == IPPROTO_TCP ? sizeof(struct tcphdr) : 8;
	union {
		struct tcphdr tcp;
		struct icmp_header icmp;
		__be16 ports[2];
	} head = {};

	if (p->fragment == PLACE_LATER || p->end < p->l4 + length)
		return;
	switch (p->protocol) {
	case IPPROTO_TCP:
		if (bpf_skb_load_bytes(skb, p->l4, &head, sizeof(head.tcp)))
			return;
		p->tcp = tcp_flags(&head.tcp);
		break;
	case IPPROTO_UDP:
		if (bpf_skb_load_bytes(skb, p->l4, &head, sizeof(head.icmp)))
			return;
		break;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		if (p->protocol != (six ? IPPROTO_ICMPV6 : IPPROTO_ICMP) ||
		    bpf_skb_load_bytes(skb, p->l4, &head, sizeof(head.icmp)))
			return;
		p->icmp_type = head.icmp.type;
		if (p->icmp_type != (six ? ICMPV6_ECHO_REQUEST : ICMP_ECHO) &&
		    p->icmp_type != (six ? ICMPV6_ECHO_REPLY : ICMP_ECHOREPLY))
			return;
		head.ports[0] = head.ports[1] = head.icmp.id;
		break;
	default:
		return;
	}
	p->source_port = head.ports[0];
	p->destination_port = head.ports[1];
	p->tracked = 1;
}

/* For this packet: its key, and an empty note. NULL never happens. */
static __always_inline struct fragment_scratch *begin_note(const struct facts *p, bool six)
{
	struct fragment_scratch *scratch = bpf_map_lookup_elem(&fragment_scratch, &(__u32){ 0 });

	if (!scratch)
		return NULL;
	__builtin_memset(scratch, 0, sizeof(*scratch));
	__builtin_memcpy(scratch->key.source, &p->source, 16);
	__builtin_memcpy(scratch->key.destination, &p->destination, 16);
	scratch->key.id = p->fragment_id;
	scratch->key.protocol = six ? 0 : p->protocol;
	return scratch;
}

/* Where in its datagram a fragment stands, in 8 bytes. */
struct stretch {
	__u16 from;
	__u16 to;
	bool last;
};

static __always_inline bool stretch_of(struct __sk_buff *skb, const struct facts *p, struct stretch *stretch, bool six)
{
	__u16 field;

	if (bpf_skb_load_bytes(
		    skb, six ? p->l4 - sizeof(struct fragment_header) + 2 : ETH + offsetof(struct iphdr, frag_off),
		    &field, sizeof(field)))
		return false;
	field = bpf_ntohs(field);
	stretch->from = six ? field >> 3 : field & IP_OFFSET;
	stretch->last = !(field & (six ? 1 : IP_MF));
	stretch->to = stretch->from + (p->end - p->l4) / 8;
	return true;
}

#define NOT_IN_ORDER 0xffff /* fragment.next: no fragment begins there */

/* Of the first, for those that follow it. */
static __always_inline void leave_note(struct __sk_buff *skb, const struct facts *p, struct fragment_scratch *scratch,
				       bool six)
{
	struct stretch stretch;

	if (p->fragment != PLACE_FIRST || trace_of(skb) || !stretch_of(skb, p, &stretch, six) || stretch.last)
		return;
	scratch->note.next = skb->ifindex == p->in ? stretch.to : NOT_IN_ORDER;
	scratch->note.seen = bpf_jiffies64();
	bpf_map_update_elem(&fragments, &scratch->key, &scratch->note, BPF_ANY);
}

/*
 * false: the first fragment is not known (any more), or the packet is one. After
 * the last of those that came in order the note goes: its id may soon stand for
 * another pod's.
 */
static __always_inline bool read_note(struct __sk_buff *skb, const struct facts *p, struct fragment_scratch *scratch,
				      bool six)
{
	__u32 now = bpf_jiffies64();
	struct fragment *known;
	struct stretch stretch;

	if (p->fragment != PLACE_LATER)
		return false;
	known = bpf_map_lookup_elem(&fragments, &scratch->key);
	if (!known || now - known->seen > FRAGMENT_SECONDS * control.jiffies_per_second)
		return false;
	__builtin_memcpy(&scratch->note, known, sizeof(*known));
	if (skb->ifindex != p->in) {
		/* pieces of others may still be on their detour */
		known->next = NOT_IN_ORDER;
	} else if (!trace_of(skb) && stretch_of(skb, p, &stretch, six) && stretch.from == known->next) {
		known->next = stretch.to;
		if (stretch.last)
			bpf_map_delete_elem(&fragments, &scratch->key);
	}
	return true;
}

/*
 * The first one says whose the flow is: the others, which cannot be asked, follow
 * it. Passes `reason` on: GO_ON for the fast path's, or why it is the stack's.
 */
static __always_inline int note_owner(struct __sk_buff *skb, const struct facts *p, int reason, bool six)
{
	struct fragment_scratch *scratch;

	if (p->fragment != PLACE_FIRST)
		return reason;
	if (reason == GO_ON) {
		/* what an earlier datagram with its id has left does not count for this one */
		scratch = begin_note(p, six);
		if (scratch && !trace_of(skb))
			bpf_map_delete_elem(&fragments, &scratch->key);
		return reason;
	}
	if (reason != REASON_MTU && reason != REASON_NODE && reason != REASON_TRANSLATED_FLOW &&
	    reason != REASON_UNKNOWN_OWNER && reason != REASON_TRANSLATED_DESTINATION && reason != REASON_POLICY &&
	    reason != REASON_UNKNOWN_DEVICE)
		return reason;
	scratch = begin_note(p, six);
	if (scratch) {
		scratch->note.verdict = FLOW_STACK;
		scratch->note.way = reason;
		leave_note(skb, p, scratch, six);
	}
	return reason;
}

/* GO_ON: the first has not said that it is the stack's. */
static __always_inline int noted_owner(struct __sk_buff *skb, const struct facts *p, bool six)
{
	struct fragment_scratch *scratch = begin_note(p, six);

	return scratch && read_note(skb, p, scratch, six) && scratch->note.verdict == FLOW_STACK ?
		       (int)(scratch->note.way & (REASON_MAX - 1)) :
		       GO_ON;
}

/*
 * To a pod, without SNAT: all fragments of a datagram by one way. If the first is
 * too big for the pod's device the stack has them all: conntrack, if it is there,
 * puts them together, and would wait in vain for those that are not.
 */
static __always_inline int follow_first(struct packet *p, struct pod *pod, bool six)
{
	int reason = too_big(p, pod->mtu, six) ? REASON_MTU : GO_ON;

	if (p->fragment == PLACE_LATER && reason == GO_ON)
		return noted_owner(p->skb, facts_of(p), six);
	return note_owner(p->skb, facts_of(p), reason, six);
}

/* For those that follow the first one from a pod: its flow's verdict, and the SNAT that is due. */
static __always_inline bool note_way(struct packet *p, const void *address, __u64 way, __u32 verdict, bool six)
{
	struct fragment_scratch *scratch = begin_note(facts_of(p), six);

	if (!scratch)
		return false;
	scratch->note.verdict = verdict;
	scratch->note.pod_id = p->device->pod_id;
	scratch->note.way = way;
	__builtin_memcpy(scratch->note.address, address, 16);
	leave_note(p->skb, facts_of(p), scratch, six);
	return true;
}

/* The first one is too big and goes to be cut: those behind it, which are in its wake, have nothing to wait for. */
static __attribute__((noinline)) int note_detoured4(struct packet *p, const struct flow *flow, __u64 way)
{
	if (p && flow && p->fragment == PLACE_FIRST)
		note_way(p, flow->nat_address, way, flow->verdict, false);
	return DETOURED;
}

/* Global: see packet.h. */
__attribute__((noinline)) int parse_fragment4(struct __sk_buff *skb, struct facts *p)
{
	if (p)
		parse_fragment(skb, p, false);
	return GO_ON;
}

__attribute__((noinline)) int parse_fragment6(struct __sk_buff *skb, struct facts *p)
{
	if (p)
		parse_fragment(skb, p, true);
	return GO_ON;
}

__attribute__((noinline)) int note_owner4(struct __sk_buff *skb, const struct facts *p, int reason)
{
	return p ? note_owner(skb, p, reason, false) : reason;
}

__attribute__((noinline)) int note_owner6(struct __sk_buff *skb, const struct facts *p, int reason)
{
	return p ? note_owner(skb, p, reason, true) : reason;
}

__attribute__((noinline)) int noted_owner4(struct __sk_buff *skb, const struct facts *p)
{
	return p ? noted_owner(skb, p, false) : GO_ON;
}

__attribute__((noinline)) int noted_owner6(struct __sk_buff *skb, const struct facts *p)
{
	return p ? noted_owner(skb, p, true) : GO_ON;
}

static __attribute__((noinline)) int follow_first4(struct packet *p, struct pod *pod)
{
	return pod ? follow_first(p, pod, false) : GO_ON;
}

static __attribute__((noinline)) int follow_first6(struct packet *p, struct pod *pod)
{
	return pod ? follow_first(p, pod, true) : GO_ON;
}

#endif
