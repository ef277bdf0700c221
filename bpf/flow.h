/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Flows: what was decided for the first packet stays decided, whatever changes
 * in configuration. The hot path does one look-up here and gets verdict, SNAT
 * and next hop; the first packet of a flow goes through new_flow() (snat.h).
 *
 * Life of an entry: LIVE -> DYING (expire: idle) -> LIVE again (a packet) or
 * DEAD (expire, or a packet that replaces it). Who moves `life` to DEAD by
 * compare-and-exchange deletes the entry, nobody else does; so an entry that
 * a packet has just touched is never deleted.
 */
#ifndef HOSTROUTE_FLOW_H
#define HOSTROUTE_FLOW_H

union tuple {
	struct tuple4 four;
	struct tuple6 six;
};

static __always_inline void make_tuple(union tuple *tuple, const struct address *local, const struct address *remote,
				       __be16 local_port, __be16 remote_port, __u8 protocol, bool six)
{
	if (six) {
		__builtin_memset(&tuple->six, 0, sizeof(tuple->six));
		__builtin_memcpy(tuple->six.local, local, 16);
		__builtin_memcpy(tuple->six.remote, remote, 16);
		tuple->six.local_port = local_port;
		tuple->six.remote_port = remote_port;
		tuple->six.protocol = protocol;
	} else {
		__builtin_memset(&tuple->four, 0, sizeof(tuple->four));
		tuple->four.local = PLAIN(*local);
		tuple->four.remote = PLAIN(*remote);
		tuple->four.local_port = local_port;
		tuple->four.remote_port = remote_port;
		tuple->four.protocol = protocol;
	}
}

/* Echo has one identifier: it is the local port, the remote port is 0. */
static __always_inline bool is_echo(const struct packet *p, bool six)
{
	return p->protocol == (six ? IPPROTO_ICMPV6 : IPPROTO_ICMP);
}

static __always_inline bool is_echo_request(const struct packet *p, bool six)
{
	return p->icmp_type == (six ? ICMPV6_ECHO_REQUEST : ICMP_ECHO);
}

/* Conntrack can be asked about nothing but TCP and UDP; errors and echoes are judged by other means. */
static __always_inline bool owner_is_unknown(const struct packet *p, bool six)
{
	return is_translating() && p->protocol != IPPROTO_TCP && p->protocol != IPPROTO_UDP && !is_echo(p, six);
}

/* The tuple of a packet that leaves a pod. */
static __always_inline void tuple_out(union tuple *tuple, const struct packet *p, bool six)
{
	make_tuple(tuple, &p->source, &p->destination, p->source_port, is_echo(p, six) ? 0 : p->destination_port,
		   p->protocol, six);
}

/* The tuple of a packet that arrives: local is its destination. */
static __always_inline void tuple_in(union tuple *tuple, const struct packet *p, bool six)
{
	make_tuple(tuple, &p->destination, &p->source, p->destination_port, is_echo(p, six) ? 0 : p->source_port,
		   p->protocol, six);
}

static __always_inline struct flow *flow_of(const union tuple *tuple, bool six)
{
	return six ? bpf_map_lookup_elem(&flows6, &tuple->six) : bpf_map_lookup_elem(&flows4, &tuple->four);
}

/* int, as in try_port() */
static __always_inline int insert_flow(const union tuple *tuple, const struct flow *flow, bool six)
{
	return six ? bpf_map_update_elem(&flows6, &tuple->six, flow, BPF_NOEXIST) :
		     bpf_map_update_elem(&flows4, &tuple->four, flow, BPF_NOEXIST);
}

static __always_inline void delete_flow(const union tuple *tuple, bool six)
{
	if (six)
		bpf_map_delete_elem(&flows6, &tuple->six);
	else
		bpf_map_delete_elem(&flows4, &tuple->four);
}

static __always_inline struct reverse *reverse_of(const union tuple *tuple, bool six)
{
	return six ? bpf_map_lookup_elem(&reverse6, &tuple->six) : bpf_map_lookup_elem(&reverse4, &tuple->four);
}

static __always_inline void delete_reverse(const union tuple *tuple, bool six)
{
	if (six)
		bpf_map_delete_elem(&reverse6, &tuple->six);
	else
		bpf_map_delete_elem(&reverse4, &tuple->four);
}

/* The key in reverse* that belongs to a SNATed flow. */
static __always_inline void tuple_of_nat(union tuple *reverse, const union tuple *tuple, const struct flow *flow,
					 bool six)
{
	struct address nat;

	__builtin_memcpy(&nat, flow->nat_address, 16);
	*reverse = *tuple;
	if (six) {
		__builtin_memcpy(reverse->six.local, &nat, 16);
		reverse->six.local_port = flow->nat_port;
	} else {
		reverse->four.local = PLAIN(nat);
		reverse->four.local_port = flow->nat_port;
	}
}

/* true: the entry may be used. false: somebody is deleting it. */
static __always_inline bool keep_alive(__u32 *life)
{
	return *life == FLOW_LIVE || __sync_val_compare_and_swap(life, FLOW_DYING, FLOW_LIVE) != FLOW_DEAD;
}

/* keep_alive() for this packet; a traced one only looks. */
static __always_inline bool usable(const struct packet *p, __u32 *life)
{
	return p->trace ? *life != FLOW_DEAD : keep_alive(life);
}

/* true: the caller, and only the caller, deletes the entry. */
static __always_inline bool claim(__u32 *life)
{
	return __sync_val_compare_and_swap(life, FLOW_LIVE, FLOW_DEAD) == FLOW_LIVE ||
	       __sync_val_compare_and_swap(life, FLOW_DYING, FLOW_DEAD) == FLOW_DYING;
}

/* Stores only what differs: the line stays shared between CPUs. */
static __always_inline void touch(struct flow *flow, __u8 tcp)
{
	__u32 now = bpf_jiffies64();

	if (tcp & SEEN_SYN)
		tcp &= ~SEEN_ACK; /* a SYN-ACK does not say that the remote is there */
	if (flow->seen != now)
		flow->seen = now;
	if ((flow->tcp | tcp) != flow->tcp)
		flow->tcp |= tcp;
}

/* The pod's packet belongs to this flow. false: somebody is deleting it. */
static __always_inline bool join(struct packet *p, struct flow *flow)
{
	if (p->trace) {
		if (!(p->trace->stages & TRACE_FLOW_NEW))
			trace_flow(p, flow, TRACE_FLOW, 0);
		return flow->life != FLOW_DEAD;
	}
	if (!keep_alive(&flow->life))
		return false;
	touch(flow, p->tcp);
	return true;
}

/* Not inlined: once a flow, and it needs stack. */
static __attribute__((noinline)) int masquerade_due(const struct address *remote)
{
	struct masquerade_key key = { .prefix_length = 160, .epoch = control.masquerade_epoch };
	struct masquerade *masquerade_entry;

	if (!remote || !(control.flags & CONTROL_SNAT))
		return false;
	__builtin_memcpy(key.address, remote, 16);
	masquerade_entry = bpf_map_lookup_elem(&masquerade, &key);
	return masquerade_entry && masquerade_entry->masquerade;
}

/* A TCP packet that does not open a connection. */
static __always_inline bool is_mid_flow(const struct packet *p)
{
	return p->protocol == IPPROTO_TCP && (p->tcp & (SEEN_SYN | SEEN_ACK)) != SEEN_SYN;
}

/*
 * The first that is seen of a connection is its answer, with a source that is
 * not the pod's own: it was opened from outside and came another way, as with
 * direct server return. Who opened it knows no other address.
 */
static __always_inline bool answers_others(const struct packet *p)
{
	return p->origin && p->protocol == IPPROTO_TCP && (p->tcp & (SEEN_SYN | SEEN_ACK)) == (SEEN_SYN | SEEN_ACK);
}

static __always_inline bool opens(const struct packet *p)
{
	return p->protocol == IPPROTO_TCP && (p->tcp & (SEEN_SYN | SEEN_ACK | SEEN_RST | SEEN_FIN)) == SEEN_SYN;
}

#endif
