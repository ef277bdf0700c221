/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The first packet of a flow: is SNAT due, and with which port.
 *
 * A port is taken by inserting its reverse entry with NOEXIST: that is the one
 * decision, atomic between CPUs. The flow entry follows; the CPU that loses
 * there gives its port back and uses the winner's.
 */
#ifndef HOSTROUTE_SNAT_H
#define HOSTROUTE_SNAT_H

#define PORT_TRIES 128

/*
 * Entries in the making. Not on the stack: from 512 bytes for all calls in a
 * row, as Linux 6.1 counts them, nothing is left for these.
 */
struct new_entries {
	struct flow flow;
	struct reverse reverse;
	union tuple tuple;    /* of `reverse`; after a successful search tuple.local_port is taken */
	__u32 next;           /* row of snat_ports */
	__u32 step;
	__be16 own;           /* the pod's port, as long as it has to be tried; else 0 */
	union tuple finished; /* of the flow that has the port: see recycle() */
};

/* The programs write and read */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct new_entries);
} new_entries SEC(".maps");

struct port_search {
	struct __sk_buff *skb;
	struct new_entries *new;
	int result;    /* GO_ON: found */
	bool traced;
	bool borrowed; /* traced, and the port is that of a flow that would be ended */
};

static __always_inline bool has_socket(struct __sk_buff *skb, struct bpf_sock_tuple *tuple, __u32 size, __u8 protocol)
{
	struct bpf_sock *found;

	if (protocol == IPPROTO_TCP)
		found = bpf_skc_lookup_tcp(skb, tuple, size, BPF_F_CURRENT_NETNS, 0);
	else if (protocol == IPPROTO_UDP)
		found = bpf_sk_lookup_udp(skb, tuple, size, BPF_F_CURRENT_NETNS, 0);
	else
		return false;
	if (found)
		bpf_sk_release(found);
	return found;
}

/* A connection or a listener of the node's own has this port, or conntrack gave it to a flow of the stack's. */
__attribute__((noinline)) int node_uses4(struct __sk_buff *skb, const struct tuple4 *tuple)
{
	struct conntrack_scratch *scratch = bpf_map_lookup_elem(&conntrack_scratch, &(__u32){ 0 });
	struct bpf_sock_tuple *sock;

	if (!tuple || !scratch)
		return true;
	sock = &scratch->tuple;
	sock->ipv4.saddr = tuple->remote;
	sock->ipv4.daddr = tuple->local;
	sock->ipv4.sport = tuple->remote_port;
	sock->ipv4.dport = tuple->local_port;
	return has_socket(skb, sock, sizeof(sock->ipv4), tuple->protocol) ||
	       (is_translating() && ask_about4(skb, tuple, false) != CONNTRACK_NONE);
}

__attribute__((noinline)) int node_uses6(struct __sk_buff *skb, const struct tuple6 *tuple)
{
	struct conntrack_scratch *scratch = bpf_map_lookup_elem(&conntrack_scratch, &(__u32){ 0 });
	struct bpf_sock_tuple *sock;

	if (!tuple || !scratch)
		return true;
	sock = &scratch->tuple;
	__builtin_memcpy(sock->ipv6.saddr, tuple->remote, 16);
	__builtin_memcpy(sock->ipv6.daddr, tuple->local, 16);
	sock->ipv6.sport = tuple->remote_port;
	sock->ipv6.dport = tuple->local_port;
	return has_socket(skb, sock, sizeof(sock->ipv6), tuple->protocol) ||
	       (is_translating() && ask_about6(skb, tuple, false) != CONNTRACK_NONE);
}

/*
 * Nobody will miss it: a connection that both sides have closed, or a question
 * that was answered, as the kernel has it where ports are scarce (nf_nat_core.c,
 * nf_nat_used_tuple_harder). Or nobody has answered, and it is one of the many
 * of a pod that leaves others no port.
 */
static __always_inline bool is_dispensable(const struct flow *flow, const struct reverse *reverse, __u8 protocol,
					   __u32 pod_id, bool six)
{
	if (!reverse->replied)
		return has_far_more(flow->pod_id, pod_id, six);
	if (idle_of(flow, reverse, bpf_jiffies64()) <= control.jiffies_per_second)
		return false;
	return protocol == IPPROTO_TCP ? is_closed(flow) : !is_stream(flow, reverse);
}

/* Ends the flow that has the port in new->tuple, if it is_dispensable(). true: the port is free; if traced, it could
 * be.
 */
static __always_inline int recycle(struct new_entries *new, bool traced, bool six)
{
	struct reverse *reverse = reverse_of(&new->tuple, six);
	union tuple *tuple = &new->finished;
	struct flow *flow;

	if (!reverse)
		return true;
	tuple_of_pod(tuple, &new->tuple, reverse, six);
	flow = flow_of(tuple, six);
	if (!flow || flow->verdict != FLOW_SNAT ||
	    flow->nat_port != (six ? new->tuple.six.local_port : new->tuple.four.local_port) ||
	    !is_dispensable(flow, reverse, six ? tuple->six.protocol : tuple->four.protocol, new->flow.pod_id, six))
		return false;
	if (traced)
		return true;
	if (!claim_flow(tuple, flow, six))
		return false;
	delete_reverse(&new->tuple, six);
	delete_flow(tuple, flow->pod_id, six);
	return true;
}

static __attribute__((noinline)) int recycle4(struct new_entries *new, bool traced)
{
	return new && recycle(new, traced, false);
}

static __attribute__((noinline)) int recycle6(struct new_entries *new, bool traced)
{
	return new && recycle(new, traced, true);
}

static __always_inline int take(struct new_entries *new, bool six)
{
	return six ? bpf_map_update_elem(&reverse6, &new->tuple.six, &new->reverse, BPF_NOEXIST) :
		     bpf_map_update_elem(&reverse4, &new->tuple.four, &new->reverse, BPF_NOEXIST);
}

static __always_inline long try_port(struct port_search *search, __u32 round, bool six)
{
	struct new_entries *new = search->new;
	__be16 *local_port = six ? &new->tuple.six.local_port : &new->tuple.four.local_port;
	int error; /* before Linux 6.4 the upper half of a map update's result is not the sign's */

	if (new->own) {
		*local_port = new->own;
		new->own = 0;
	} else {
		__u32 row = new->next;
		struct snat_port *port = bpf_map_lookup_elem(&snat_ports, &row);

		new->next += new->step;
		if (new->next >= control.port_count)
			new->next -= control.port_count;
		/* towards a remote that has most ports a socket that asks again finds others taken, too */
		if (round == PORT_TRIES / 2 && control.port_count > PORT_TRIES)
			new->next = bpf_get_prandom_u32() % control.port_count;
		if (!port)
			return 1;
		*local_port = bpf_htons(port->port);
	}
	if (six ? node_uses6(search->skb, &new->tuple.six) : node_uses4(search->skb, &new->tuple.four))
		return 0;
	if (six)
		new->reverse.difference =
			snat_differences6(new->reverse.difference.header, *local_port, new->reverse.pod_port);
	else
		new->reverse.difference = snat_differences(new->tuple.four.local, *(__be32 *)(new->reverse.pod + 12),
							   *local_port, new->reverse.pod_port);
	error = take(new, six);
	if (error == -17 /* EEXIST */ && round > PORT_TRIES / 2 &&
	    (six ? recycle6(new, search->traced) : recycle4(new, search->traced))) {
		search->borrowed = search->traced;
		error = search->traced ? 0 : take(new, six);
	}
	if (error == -17)
		return 0;
	search->result = error ? REASON_DROP_FLOWS : GO_ON;
	return 1;
}

static long try_port4(__u32 round, struct port_search *search)
{
	return try_port(search, round, false);
}

static long try_port6(__u32 round, struct port_search *search)
{
	return try_port(search, round, true);
}

/*
 * Where the search for a port begins: at the same one for all remotes of a
 * socket, which thus keeps one port outside where it can (RFC 4787, REQ-1),
 * and at one that nobody outside can tell (RFC 6056).
 */
static __always_inline __u32 socket_hash(const struct packet *p)
{
	__u64 hash = (p->source.high ^ control.port_key) * 0x9e3779b97f4a7c15ULL;

	hash ^= hash >> 32;
	hash = (hash ^ p->source.low) * 0xff51afd7ed558ccdULL;
	hash ^= hash >> 32;
	hash = (hash ^ ((__u64)control.port_key << 32 | (__u32)p->source_port << 8 | p->protocol)) *
	       0xc4ceb9fe1a85ec53ULL;
	return hash ^ hash >> 32;
}

/* The pod's own port is one that SNAT may take. */
static __always_inline bool may_keep_port(__be16 own)
{
	__u32 row = bpf_ntohs(own);
	struct snat_port *port = bpf_map_lookup_elem(&snat_ports, &row);

	return port && port->may_be_taken;
}

/*
 * Of several addresses a pod has always the same (RFC 4787, REQ-2), and keeps
 * it when one of the others goes: which stands where is the daemon's to say.
 */
static __always_inline __u32 source_place(const struct address *pod)
{
	__u64 word = pod->high ^ pod->low;

	return bpf_ntohl(word ^ word >> 32) * 0x9e3779b1U >> 26;
}

/* GO_ON: `chosen` is what SNAT gives to the pod's new flow; or why there is none. All stand where words may. */
static __always_inline int choose_source(const struct packet *p, const struct nexthop *nexthop, struct address *chosen,
					 bool six)
{
	__u32 row = nexthop->sources;

	if (row) {
		struct snat_sources *shared = bpf_map_lookup_elem(&snat_sources, &row);
		const struct address *place;

		if (!shared)
			return REASON_DROP_SOURCE;
		place = (const void *)shared->address[source_place(&p->source)];
		chosen->high = place->high;
		chosen->low = place->low;
		/* zero: taken away a moment ago */
		return chosen->low | chosen->high ? GO_ON : REASON_DROP_SOURCE;
	}
	if (!(nexthop->flags & (six ? NEXTHOP_SNAT6 : NEXTHOP_SNAT4)))
		return nexthop->flags & NEXTHOP_NO_SOURCE ? REASON_DROP_SOURCE : REASON_NO_SOURCE;
	if (six) {
		chosen->high = ((const struct address *)nexthop->snat6)->high;
		chosen->low = ((const struct address *)nexthop->snat6)->low;
	} else {
		chosen->high = 0;
		chosen->low = MAPPED(nexthop->snat4);
	}
	return GO_ON;
}

/* Takes a port towards the remote in `tuple`; after GO_ON new->tuple is the reverse entry's. */
static __always_inline int take_port(struct packet *p, const union tuple *tuple, struct new_entries *new,
				     struct port_search *search, bool six)
{
	__u32 ports = control.port_count;
	__u32 hash = socket_hash(p);
	__u16 address;

	if (!ports || ports > MAX_PORTS)
		return REASON_DROP_PORTS;
	search->skb = p->skb;
	search->result = REASON_DROP_PORTS;
	search->traced = p->trace;
	search->new = new;
	tuple_of_nat(&new->tuple, tuple, &new->flow, six);
	__builtin_memset(&new->reverse, 0, sizeof(new->reverse));
	__builtin_memcpy(new->reverse.pod, &p->source, 16);
	new->reverse.pod_port = p->source_port;
	new->reverse.pod_id = p->device->pod_id;
	new->reverse.ifindex = p->origin ? p->skb->ifindex : 0;
	new->reverse.seen = new->flow.seen;
	new->next = hash % ports;
	/* in the middle of a connection that nobody knows, too: the kernel has most likely left its port as it was */
	new->own = is_mid_flow(p) || may_keep_port(p->source_port) ? p->source_port : 0;
	if (is_mid_flow(p))
		new->reverse.tcp = REVERSE_MIDDLE;
	/* so small that no row is tried twice; not 1, since neighbours tend to be taken together */
	new->step = ports < 2 * PORT_TRIES ? 1 : 1 + (hash >> 16) % (ports / PORT_TRIES);
	if (six) {
		address = difference16(&p->source, (const struct address *)new->flow.nat_address);
		/* all ports have this in common */
		new->reverse.difference.header = inverse_difference(address);
		bpf_loop(PORT_TRIES, try_port6, search, 0);
		new->flow.nat_port = new->tuple.six.local_port;
		new->flow.difference = snat_differences6(address, p->source_port, new->flow.nat_port);
	} else {
		bpf_loop(PORT_TRIES, try_port4, search, 0);
		new->flow.nat_port = new->tuple.four.local_port;
		new->flow.difference = snat_differences(tuple->four.local, new->tuple.four.local,
							tuple->four.local_port, new->flow.nat_port);
	}
	return search->result;
}

/* Removes an entry that no longer counts. false: somebody else is at it. */
static __always_inline bool forget(const union tuple *tuple, struct flow *flow, bool six)
{
	union tuple reverse;

	if (!claim_flow(tuple, flow, six))
		return false;
	if (flow->verdict == FLOW_SNAT) {
		tuple_of_nat(&reverse, tuple, flow, six);
		delete_reverse(&reverse, six);
	}
	delete_flow(tuple, flow->pod_id, six);
	return true;
}

/* Off the hot path, and it needs stack. */
static __attribute__((noinline)) int forget4(const union tuple *tuple, struct flow *flow)
{
	return flow && forget(tuple, flow, false);
}

static __attribute__((noinline)) int forget6(const union tuple *tuple, struct flow *flow)
{
	return flow && forget(tuple, flow, true);
}

/* forget() for this packet; a traced one only says that it would. */
static __always_inline bool replace(struct packet *p, const union tuple *tuple, struct flow *flow, bool six)
{
	if (!p->trace)
		return six ? forget6(tuple, flow) : forget4(tuple, flow);
	trace_flow(p, flow, TRACE_FLOW_OUTDATED, 0);
	return flow->life != FLOW_DEAD;
}

/*
 * Decides for a packet without a usable flow that leaves by nexthops[index]. After GO_ON the flow's entry
 * exists, or its verdict is plain routing and the pod gets no more room.
 */
static __always_inline int new_flow(struct packet *p, const union tuple *tuple, __u32 index, bool six)
{
	struct port_search search = {};
	struct new_entries *new;
	struct nexthop *nexthop;
	struct flow *flow;
	__u32 generation = control.route_generation;
	int error, reason;

	nexthop = nexthop_at(index);
	if (!nexthop)
		return REASON_ROUTE;
	new = bpf_map_lookup_elem(&new_entries, &(__u32){ 0 });
	if (!new)
		return REASON_DROP_FLOWS;
	flow = &new->flow;
	__builtin_memset(flow, 0, sizeof(*flow));
	flow->route = (__u64)generation << 32 | index;
	flow->seen = flow->created = bpf_jiffies64();
	flow->pod_id = p->device->pod_id;
	flow->tcp = seen_of(p->tcp);
	flow->verdict = FLOW_DIRECT;
	if (answers_others(p)) {
		flow->verdict = FLOW_INBOUND;
		flow->ifindex = p->skb->ifindex;
		if (!has_room(flow->pod_id, FOR_OPENING, six))
			return REASON_DROP_FLOWS;
	} else if (is_syn_ack(p)) {
		/* opened from outside, whatever is known of it */
		if (trace_masquerade(p, masquerade_due(&p->destination)))
			flow->verdict = FLOW_INBOUND;
	} else if (p->origin != SOURCE_STAYS && trace_masquerade(p, masquerade_due(&p->destination))) {
		reason = choose_source(p, nexthop, (struct address *)flow->nat_address, six);
		if (reason != GO_ON)
			return reason;
		flow->verdict = FLOW_SNAT;
		flow->ifindex = nexthop->ifindex;
		if (!has_room(flow->pod_id, FOR_SNAT, six))
			return REASON_DROP_FLOWS;
		reason = take_port(p, tuple, new, &search, six);
		if (reason != GO_ON)
			return reason;
	}
	if (p->trace) {
		if (flow->verdict == FLOW_SNAT && !search.borrowed)
			delete_reverse(&new->tuple, six); /* gives the port back */
		return trace_flow(p, flow, TRACE_FLOW_NEW, GO_ON);
	}
	/* for speed only: of what ends nothing follows */
	if (flow->verdict == FLOW_DIRECT && ((p->tcp & SEEN_RST) || !has_room(flow->pod_id, FOR_SPEED, six)))
		return GO_ON;
	/* when the opener speaks again there is more room for it: see note_opener() */
	if (flow->verdict == FLOW_INBOUND && !has_room(flow->pod_id, FOR_OPENING, six)) {
		await_opener(p->skb->ifindex);
		return GO_ON;
	}
	error = insert_flow(tuple, flow, six);
	if (error && flow->verdict == FLOW_SNAT) {
		delete_reverse(&new->tuple, six);
		if (error != -17 /* EEXIST: another CPU was first, use its port */)
			return REASON_DROP_FLOWS;
	}
	if (!error && (control.flags & CONTROL_MONITOR)) {
		p->out = nexthop->ifindex;
		tell(p->skb, facts_of(p), REASON_TO_UPLINK, six, flow);
	}
	return GO_ON;
}

/* Subprograms, not inlined: they are off the hot path. */
static __attribute__((noinline)) int new_flow4(struct packet *p, const union tuple *tuple, __u32 index)
{
	return tuple ? new_flow(p, tuple, index, false) : REASON_DROP_FLOWS;
}

static __attribute__((noinline)) int new_flow6(struct packet *p, const union tuple *tuple, __u32 index)
{
	return tuple ? new_flow(p, tuple, index, true) : REASON_DROP_FLOWS;
}

/*
 * Rewrites the transport checksum for a changed address and port, and leaves
 * the port itself and the IP header to the caller. The helper knows the states
 * of ip_summed; a direct write would break CHECKSUM_PARTIAL.
 */
static __always_inline int fix_l4(struct packet *p, const struct address *old, const struct address *new,
				  __be16 old_port, __be16 new_port, bool six)
{
	struct __sk_buff *skb = p->skb;
	const __u32 l4 = l4_of(p, six);
	__u32 difference;
	__u64 mangled = 0;
	__u32 offset;
	int error;

	switch (p->protocol) {
	case IPPROTO_TCP:
		offset = l4 + offsetof(struct tcphdr, check);
		break;
	case IPPROTO_UDP:
		offset = l4 + offsetof(struct udphdr, check);
		mangled = BPF_F_MARK_MANGLED_0;
		break;
	default:
		offset = l4 + offsetof(struct icmp_header, checksum);
		break;
	}
	if (six) {
		difference = difference16(old, new);
		error = bpf_l4_csum_replace(skb, offset, 0, difference, BPF_F_PSEUDO_HDR | mangled);
		/*
		 * The helper takes a CHECKSUM_COMPLETE sum for IPv4's, whose header
		 * checksum balances the address. IPv6 has none: undo that part.
		 */
		bpf_csum_update(skb, difference);
	} else if (p->protocol == IPPROTO_ICMP) {
		error = 0; /* no pseudo header */
	} else {
		error = bpf_l4_csum_replace(skb, offset, PLAIN(*old), PLAIN(*new), BPF_F_PSEUDO_HDR | mangled | 4);
	}
	if (!error && old_port != new_port)
		error = bpf_l4_csum_replace(skb, offset, old_port, new_port, mangled | 2);
	return error;
}

#endif
