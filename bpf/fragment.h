/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Fragments. Only the first one has ports: it is judged like a whole packet,
 * and leaves a note for the others of its datagram, which get the same address
 * and the same way. The transport checksum stands in the first and covers the
 * datagram, so it changes by difference as always. Nothing is put together
 * here: duplicates and overlaps are the receiver's to judge.
 *
 * Without a note, since the first was lost, is late, or 30 s ago:
 * - from a pod, SNAT due: dropped. The stack would send it with the pod's
 *   address; with conntrack it would wait there for a first fragment in vain.
 * - from a pod, SNAT not due: routed, no ports are needed.
 * - from an uplink: the stack's, it may be the node's own.
 *
 * Rare packets: written by bpf_skb_store_bytes as in icmp_error.h.
 */
#ifndef HOSTROUTE_FRAGMENT_H
#define HOSTROUTE_FRAGMENT_H

#define FRAGMENT_SECONDS 30 /* net.ipv4.ipfrag_time */

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

	if (p->fragment != PLACE_FIRST || p->end < p->l4 + length)
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

static __always_inline void leave_note(struct __sk_buff *skb, struct fragment_scratch *scratch)
{
	if (trace_of(skb))
		return;
	scratch->note.seen = bpf_jiffies64();
	bpf_map_update_elem(&fragments, &scratch->key, &scratch->note, BPF_ANY);
}

/* false: the first fragment is not known (any more), or the packet is one. */
static __always_inline bool read_note(const struct facts *p, struct fragment_scratch *scratch)
{
	__u32 now = bpf_jiffies64();
	struct fragment *known;

	if (p->fragment != PLACE_LATER)
		return false;
	known = bpf_map_lookup_elem(&fragments, &scratch->key);
	if (!known || now - known->seen > FRAGMENT_SECONDS * control.jiffies_per_second)
		return false;
	__builtin_memcpy(&scratch->note, known, sizeof(*known));
	return true;
}

/* Address, TTL less by `hops` and, in the first, port and checksum. Not 0: the packet must be dropped. */
static __always_inline int rewrite_fragment(struct packet *p, const struct address *address, __be16 port, bool source,
					    __u8 hops, bool six)
{
	const struct address *old = source ? &p->source : &p->destination;
	const __be16 old_port = source ? p->source_port : p->destination_port;
	__u32 check_offset, difference = difference2(old_port, port);
	__u16 check = 0;
	int error = 0;

	if (p->fragment == PLACE_FIRST) {
		if (p->protocol != IPPROTO_ICMP)
			difference += six ? difference16(old, address) : difference4(PLAIN(*old), PLAIN(*address));
		check_offset = p->l4 + (p->protocol == IPPROTO_TCP ? offsetof(struct tcphdr, check) :
					p->protocol == IPPROTO_UDP ? offsetof(struct udphdr, check) :
								     offsetof(struct icmp_header, checksum));
		error = bpf_skb_load_bytes(p->skb, check_offset, &check, 2);
		if (p->protocol != IPPROTO_UDP || check) {
			check = checksum_after(check, difference);
			if (!check && p->protocol == IPPROTO_UDP)
				check = 0xffff;
			error |= store(p->skb, check_offset, &check, 2);
		}
		error |= store(p->skb, p->l4 + (is_echo(p, six) ? 4 : source ? 0 : 2), &port, 2);
	}
	return error | store_ip(p->skb, old, address, source, hops, six);
}

/*
 * The first one says whose the flow is: the others, which cannot be asked, follow
 * it. Passes `reason` on: GO_ON for the fast path's, or why it is the stack's.
 */
static __always_inline int note_owner(struct __sk_buff *skb, const struct facts *p, int reason, bool six)
{
	struct fragment_scratch *scratch;

	if (reason != REASON_TRANSLATED_FLOW && reason != REASON_UNKNOWN_OWNER &&
	    reason != REASON_TRANSLATED_DESTINATION && reason != REASON_POLICY && reason != REASON_UNKNOWN_DEVICE)
		return reason;
	scratch = begin_note(p, six);
	if (scratch) {
		scratch->note.verdict = FLOW_STACK;
		leave_note(skb, scratch);
	}
	return reason;
}

/* GO_ON: the first has not said that it is the stack's. */
static __always_inline int noted_owner(const struct facts *p, bool six)
{
	struct fragment_scratch *scratch = begin_note(p, six);

	return scratch && read_note(p, scratch) && scratch->note.verdict == FLOW_STACK ? REASON_TRANSLATED_FLOW : GO_ON;
}

/* Away from the node with `new`; by the neighbour entry, which knows all that the maps know. */
static __always_inline int send_translated(struct packet *p, struct nexthop *nexthop, struct rewrite *new, bool six)
{
	if (p->trace)
		return trace_sent(p, nexthop->ifindex, NULL, NULL, &new->address, new->port, REASON_TO_NEIGHBOUR);
	if (rewrite_fragment(p, &new->address, new->port, true, 1, six))
		return REASON_DROP_MALFORMED;
	p->skb->mark = 0;
	p->out = nexthop->ifindex;
	return send_to_neighbour(p, nexthop, six);
}

/*
 * The first one, from a pod and away from the node, after it was judged like a
 * whole packet; `new` has the SNAT that is due. GO_ON: none, send it as it is.
 */
static __always_inline int leave_first(struct packet *p, struct rewrite *new, struct nexthop *nexthop, __u32 index,
				       bool six)
{
	struct fragment_scratch *scratch = begin_note(facts_of(p), six);

	if (!scratch)
		return REASON_DROP_FLOWS;
	scratch->note.verdict = new->what == NAT_SOURCE ? FLOW_SNAT : FLOW_DIRECT;
	scratch->note.pod_id = p->device->pod_id;
	scratch->note.route = (__u64)control.route_generation << 32 | index;
	__builtin_memcpy(scratch->note.address, &new->address, 16);
	leave_note(p->skb, scratch);
	if (new->what != NAT_SOURCE)
		return GO_ON;
	return send_translated(p, nexthop, new, six);
}

/* One that says no ports: on the way of the first. */
static __always_inline int leave_later(struct packet *p, struct rewrite *new, bool six)
{
	struct fragment_scratch *scratch = begin_note(facts_of(p), six);
	struct nexthop *nexthop;
	bool current = false;
	__u32 index = 0;
	int reason;

	if (!scratch)
		return REASON_DROP_FLOWS;
	if (read_note(facts_of(p), scratch) && scratch->note.verdict == FLOW_STACK)
		return REASON_TRANSLATED_FLOW;
	if (scratch->note.verdict && scratch->note.pod_id == p->device->pod_id) {
		index = scratch->note.route;
		current = scratch->note.route >> 32 == control.route_generation;
	} else if (p->origin == SOURCE_STAYS || !trace_masquerade(p, masquerade_due(&p->destination))) {
		if (owner_is_unknown(p, six))
			return REASON_UNKNOWN_OWNER;
		if (returns_by_stack(p, six))
			return REASON_UNKNOWN_DEVICE;
		scratch->note.verdict = FLOW_DIRECT;
	} else if (p->protocol == IPPROTO_TCP || p->protocol == IPPROTO_UDP || is_echo(p, six)) {
		reason = choose_nexthop(p, six, 0, false, &index);
		return reason == GO_ON ? REASON_DROP_FRAGMENT : reason;
	} else {
		return control.flags & CONTROL_DROP_PROTOCOLS ? REASON_DROP_PROTOCOL : REASON_PROTOCOL;
	}
	if (!current) {
		reason = choose_nexthop(p, six, index, false, &index);
		if (reason != GO_ON)
			return reason;
	}
	nexthop = nexthop_at(index);
	if (!nexthop)
		return REASON_ROUTE;
	trace_nexthop(p->trace, index);
	if (too_big(p, nexthop->mtu, six))
		return !six && scratch->note.verdict == FLOW_SNAT ? too_big_to_leave4(p) : REASON_MTU;
	if (scratch->note.verdict != FLOW_SNAT)
		return send_to_uplink(p, nexthop, new, six);
	__builtin_memcpy(&new->address, scratch->note.address, 16);
	return send_translated(p, nexthop, new, six);
}

/*
 * From an uplink, for an address of the node: of an answer to a SNATed flow? The
 * pod and what it gets to see. GO_ON, or why it is the stack's.
 */
static __always_inline int find_fragments_pod(struct packet *p, struct pod **found, struct rewrite *new, bool six)
{
	struct fragment_scratch *scratch = begin_note(facts_of(p), six);
	struct pod *pod;
	int reason;

	if (!scratch)
		return REASON_DROP_FLOWS;
	if (p->tracked) {
		reason = find_answered(p, &pod, new, six);
		if (reason != GO_ON)
			return reason;
		scratch->note.verdict = FLOW_SNAT;
		scratch->note.pod_id = pod->id;
		scratch->note.ifindex = pod->ifindex;
		__builtin_memcpy(scratch->note.address, &new->address, 16);
		leave_note(p->skb, scratch);
	} else {
		if (!read_note(facts_of(p), scratch))
			return REASON_FRAGMENT;
		__builtin_memcpy(&new->address, scratch->note.address, 16);
		pod = sender_of(&new->address, scratch->note.ifindex, scratch->note.pod_id, six);
		if (!pod)
			return REASON_FRAGMENT;
	}
	*found = pod;
	return GO_ON;
}

static __always_inline int fragment_to_pod(struct packet *p, struct pod *pod, struct rewrite *new, bool six)
{
	if (p->trace)
		return trace_to_pod(p, pod, &new->address, new->port);
	if (rewrite_fragment(p, &new->address, new->port, false, 1, six) || store_macs(p, pod))
		return REASON_DROP_MALFORMED;
	return hand_over(p, pod, &new->address, six);
}

/* Global: see owner.h. */
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

__attribute__((noinline)) int noted_owner4(const struct facts *p)
{
	return p ? noted_owner(p, false) : GO_ON;
}

__attribute__((noinline)) int noted_owner6(const struct facts *p)
{
	return p ? noted_owner(p, true) : GO_ON;
}

static __attribute__((noinline)) int leave_first4(struct packet *p, struct rewrite *new, struct nexthop *nexthop,
						  __u32 index)
{
	return leave_first(p, new, nexthop, index, false);
}

static __attribute__((noinline)) int leave_first6(struct packet *p, struct rewrite *new, struct nexthop *nexthop,
						  __u32 index)
{
	return leave_first(p, new, nexthop, index, true);
}

static __attribute__((noinline)) int leave_later4(struct packet *p, struct rewrite *new)
{
	return leave_later(p, new, false);
}

static __attribute__((noinline)) int leave_later6(struct packet *p, struct rewrite *new)
{
	return leave_later(p, new, true);
}

static __attribute__((noinline)) int find_fragments_pod4(struct packet *p, struct pod **found, struct rewrite *new)
{
	return find_fragments_pod(p, found, new, false);
}

static __attribute__((noinline)) int find_fragments_pod6(struct packet *p, struct pod **found, struct rewrite *new)
{
	return find_fragments_pod(p, found, new, true);
}

static __attribute__((noinline)) int fragment_to_pod4(struct packet *p, struct pod *pod, struct rewrite *new)
{
	return fragment_to_pod(p, pod, new, false);
}

static __attribute__((noinline)) int fragment_to_pod6(struct packet *p, struct pod *pod, struct rewrite *new)
{
	return fragment_to_pod(p, pod, new, true);
}

#endif
