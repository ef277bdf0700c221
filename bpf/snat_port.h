/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A new flow's port for SNAT, and the address it goes with.
 *
 * A port is taken by inserting its reverse entry with NOEXIST: that is the one
 * decision, atomic between CPUs. The flow entry follows; the CPU that loses
 * there gives its port back and uses the winner's.
 */
#ifndef HOSTROUTE_SNAT_PORT_H
#define HOSTROUTE_SNAT_PORT_H

#include "maps.h"
#include "packet.h"
#include "checksum.h"
#include "account.h"
#include "tuple.h"
#include "tcp_state.h"
#include "flow.h"
#include "conntrack.h"
#include "new_entries.h"

#define PORT_TRIES 128

struct port_search {
	struct __sk_buff *skb;
	struct new_entries *new;
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

/*
 * A connection or a listener of the node's own has this port, or conntrack gave it to a flow of the stack's: the
 * same question to both.
 */
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
	       (is_translating() && may_be_asked(tuple->protocol) &&
		ask_conntrack(skb, scratch, tuple->protocol, sizeof(sock->ipv4)) != CONNTRACK_NONE);
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
	       (is_translating() && may_be_asked(tuple->protocol) &&
		ask_conntrack(skb, scratch, tuple->protocol, sizeof(sock->ipv6)) != CONNTRACK_NONE);
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

/* The port in new->tuple. 0: it is not to be had; else new->found says what came of it. */
static __always_inline long try_this(struct port_search *search, __u32 round, bool six)
{
	struct new_entries *new = search->new;
	const __be16 local_port = six ? new->tuple.six.local_port : new->tuple.four.local_port;
	int error; /* before Linux 6.4 the upper half of a map update's result is not the sign's */

	if (six ? node_uses6(search->skb, &new->tuple.six) : node_uses4(search->skb, &new->tuple.four))
		return 0;
	if (six)
		new->reverse.difference =
			snat_differences6(new->reverse.difference.header, local_port, new->reverse.pod_port);
	else
		new->reverse.difference = snat_differences(new->tuple.four.local, *(__be32 *)(new->reverse.pod + 12),
							   local_port, new->reverse.pod_port);
	error = take(new, six);
	if (error == -17 /* EEXIST */ && round > PORT_TRIES / 2 &&
	    (six ? recycle6(new, new->traced) : recycle4(new, new->traced))) {
		new->borrowed = new->traced;
		error = new->traced ? 0 : take(new, six);
	}
	if (error == -17)
		return 0;
	new->found = error ? REASON_DROP_FLOWS : GO_ON;
	return 1;
}

/* The port in a row of snat_ports; 0: there is none. */
static __always_inline __be16 port_in_row(__u32 row)
{
	struct snat_port *port = bpf_map_lookup_elem(&snat_ports, &row);

	return port ? bpf_htons(port->port) : 0;
}

static __always_inline void set_port(struct new_entries *new, __be16 port, bool six)
{
	if (six)
		new->tuple.six.local_port = port;
	else
		new->tuple.four.local_port = port;
}

static __always_inline void step_on(struct new_entries *new)
{
	new->next += new->step;
	if (new->next >= control.port_count)
		new->next -= control.port_count;
}

/* The first try was not one of these. */
static __always_inline long try_port(struct port_search *search, __u32 round, bool six)
{
	struct new_entries *new = search->new;
	__be16 port = port_in_row(new->next);

	step_on(new);
	/* towards a remote that has most ports; not in steps: where pods keep their own ports these lie side by side */
	if (++round >= PORT_TRIES / 2 && control.port_count > PORT_TRIES)
		new->next = bpf_get_prandom_u32() % control.port_count;
	if (!port)
		return 1;
	set_port(new, port, six);
	return try_this(search, round, six);
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
static __always_inline __u32 socket_hash(const struct facts *p)
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

/* Takes a port for new->tuple, whose local port is the pod's own if that is to be tried first: see take_port(). */
static __always_inline int find_port(struct __sk_buff *skb, const struct facts *p, bool kept, bool traced, bool six)
{
	struct new_entries *new = bpf_map_lookup_elem(&new_entries, &(__u32){ 0 });
	struct port_search search = { .skb = skb, .new = new };
	__u32 ports = control.port_count, hash;
	__be16 port;

	if (!new || !p || !ports || ports > MAX_PORTS)
		return REASON_DROP_PORTS;
	new->found = REASON_DROP_PORTS;
	new->traced = traced;
	new->borrowed = false;
	if (!kept) {
		port = port_in_row(socket_hash(p) % ports);
		if (!port)
			return REASON_DROP_PORTS;
		set_port(new, port, six);
	}
	/* most often the first is free: then the others need no thought */
	if (try_this(&search, 0, six))
		return new->found;
	hash = socket_hash(p);
	new->next = hash % ports;
	/* so small that no row is tried twice; not 1, since neighbours tend to be taken together */
	new->step = ports < 2 * PORT_TRIES ? 1 : 1 + (hash >> 16) % (ports / PORT_TRIES);
	if (!kept)
		step_on(new);
	if (six)
		bpf_loop(PORT_TRIES - 1, try_port6, &search, 0);
	else
		bpf_loop(PORT_TRIES - 1, try_port4, &search, 0);
	return new->found;
}

/* Global: see packet.h. */
__attribute__((noinline)) int find_port4(struct __sk_buff *skb, const struct facts *p, int kept, int traced)
{
	return find_port(skb, p, kept, traced, false);
}

__attribute__((noinline)) int find_port6(struct __sk_buff *skb, const struct facts *p, int kept, int traced)
{
	return find_port(skb, p, kept, traced, true);
}

/* Takes a port towards the remote in `tuple`; after GO_ON new->tuple is the reverse entry's. */
static __always_inline int take_port(struct packet *p, const union tuple *tuple, struct new_entries *new, bool six)
{
	const bool traced = p->trace;
	bool kept;
	int reason;

	/* in the middle of a connection that nobody knows, too: the kernel has most likely left its port as it was */
	kept = p->source_port && (is_mid_flow(p) || may_keep_port(p->source_port));
	tuple_of_nat(&new->tuple, tuple, &new->flow, six);
	if (kept)
		set_port(new, p->source_port, six);
	__builtin_memset(&new->reverse, 0, sizeof(new->reverse));
	__builtin_memcpy(new->reverse.pod, &p->source, 16);
	new->reverse.pod_port = p->source_port;
	new->reverse.pod_id = p->device->pod_id;
	new->reverse.ifindex = p->origin ? p->in : 0;
	new->reverse.seen = new->flow.seen;
	if (is_mid_flow(p))
		new->reverse.tcp = REVERSE_MIDDLE;
	if (six) {
		/* all ports have this in common */
		new->reverse.difference.header =
			inverse_difference(difference16(&p->source, (const struct address *)new->flow.nat_address));
		reason = find_port6(p->skb, facts_of(p), kept, traced);
		new->flow.nat_port = new->tuple.six.local_port;
		new->flow.difference = snat_differences6(inverse_difference(new->reverse.difference.header),
							 p->source_port, new->flow.nat_port);
	} else {
		reason = find_port4(p->skb, facts_of(p), kept, traced);
		new->flow.nat_port = new->tuple.four.local_port;
		new->flow.difference = snat_differences(tuple->four.local, new->tuple.four.local,
							tuple->four.local_port, new->flow.nat_port);
	}
	return reason;
}

#endif
