/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Flows: what was decided for the first packet stays decided, whatever changes
 * in configuration. The hot path does one look-up here and gets verdict, SNAT
 * and next hop; the first packet of a flow goes through new_flow().
 *
 * Its key: tuple.h. Where in its life a TCP connection is: tcp_state.h. Who gets
 * an entry when room is short: account.h. The first packet: new_flow.h.
 *
 * Who needs an entry: a flow through SNAT; one that was opened from outside, if
 * its answers would be masqueraded; echoes. All others (FLOW_DIRECT) have one
 * for speed: it may end at any time, and they are decided again.
 *
 * Life of an entry: LIVE -> DYING (expire: idle) -> LIVE again (a packet) or
 * DEAD (expire, or a packet that replaces it). Who moves `life` to DEAD by
 * compare-and-exchange deletes the entry, nobody else does; so an entry that
 * a packet has just touched is never deleted.
 */
#ifndef HOSTROUTE_FLOW_H
#define HOSTROUTE_FLOW_H

#include "maps.h"
#include "packet.h"
#include "trace.h"
#include "account.h"
#include "tuple.h"
#include "tcp_state.h"

static __always_inline struct flow *flow_of(const union tuple *tuple, bool six)
{
	return six ? bpf_map_lookup_elem(&flows6, &tuple->six) : bpf_map_lookup_elem(&flows4, &tuple->four);
}

/* int, as in try_port(). The caller has asked has_room(). */
static __always_inline int insert_flow(const union tuple *tuple, const struct flow *flow, bool six)
{
	int error = six ? bpf_map_update_elem(&flows6, &tuple->six, flow, BPF_NOEXIST) :
			  bpf_map_update_elem(&flows4, &tuple->four, flow, BPF_NOEXIST);

	if (!error)
		charge(flow->pod_id, 1, six);
	return error;
}

/* The caller has claimed it. */
static __always_inline void delete_flow(const union tuple *tuple, __u32 pod_id, bool six)
{
	int error = six ? bpf_map_delete_elem(&flows6, &tuple->six) : bpf_map_delete_elem(&flows4, &tuple->four);

	if (!error)
		charge(pod_id, -1, six);
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

/*
 * claim() of an entry that was looked up by `tuple` a moment ago: its memory may
 * be another flow's since then, which keeps its entry.
 */
static __always_inline bool claim_flow(const union tuple *tuple, struct flow *flow, bool six)
{
	if (!claim(&flow->life))
		return false;
	if (flow_of(tuple, six) == flow)
		return true;
	flow->life = FLOW_LIVE;
	return false;
}

/* Stores only what differs: the line stays shared between CPUs. */
static __always_inline void touch(struct flow *flow, __u8 tcp)
{
	__u32 now = bpf_jiffies64();

	tcp = seen_of(tcp);
	if (flow->seen != now)
		flow->seen = now;
	see(flow, tcp);
}

/* The remote has answered a SNATed flow. */
static __always_inline void note_answer(struct reverse *reverse, __u8 tcp)
{
	__u32 now = bpf_jiffies64();

	tcp &= SEEN_SYN | SEEN_ACK;
	if (reverse->seen != now)
		reverse->seen = now;
	if (!reverse->replied)
		reverse->replied = 1;
	if ((reverse->tcp | tcp) != reverse->tcp)
		reverse->tcp |= tcp;
}

/* The flow at the pod whose answer `answered` is, and its tuple. */
static __always_inline struct flow *flow_of_answer(const union tuple *answered, const struct reverse *reverse,
						   union tuple *tuple, bool six)
{
	struct flow *flow;

	tuple_of_pod(tuple, answered, reverse, six);
	flow = flow_of(tuple, six);
	return flow && flow->pod_id == reverse->pod_id ? flow : NULL;
}

/* The remote's end of a SNATed connection: it counts in the flow's entry. */
static __always_inline void note_end(struct packet *p, const union tuple *answered, const struct reverse *reverse,
				     bool six)
{
	union tuple tuple;
	struct flow *flow = flow_of_answer(answered, reverse, &tuple, six);

	if (flow)
		note_remote(p, flow, six);
}

/* The pod's packet belongs to this flow. false: somebody is deleting it. */
static __always_inline bool join(struct packet *p, struct flow *flow, bool six)
{
	if (p->trace) {
		if (!(p->trace->stages & TRACE_FLOW_NEW))
			trace_flow(p, flow, TRACE_FLOW, 0);
		return flow->life != FLOW_DEAD;
	}
	if (!keep_alive(&flow->life))
		return false;
	if (p->protocol == IPPROTO_TCP) {
		expect(p, flow, six);
		touch(flow, p->tcp);
		if (flow->verdict == FLOW_INBOUND && (p->tcp & SEEN_SYN))
			await_opener(p->in);
	} else {
		touch(flow, flow->verdict == FLOW_INBOUND ? SEEN_ACK : 0);
	}
	return true;
}

#define STREAM_SECONDS 2

/* UDP that is still in use some time after its first packet, as in conntrack (nf_conntrack_proto_udp.c): no mere
 * question. */
static __always_inline bool is_stream(const struct flow *flow, const struct reverse *reverse)
{
	const __u32 least = STREAM_SECONDS * control.jiffies_per_second;

	if (reverse ? !reverse->replied : flow->verdict == FLOW_INBOUND && !(flow->tcp & SEEN_ACK))
		return false;
	return flow->seen - flow->created > least || (reverse && reverse->seen - flow->created > least);
}

/* Jiffies since the last packet of either side. */
static __always_inline __u32 idle_of(const struct flow *flow, const struct reverse *reverse, __u32 now)
{
	__u32 idle = now - flow->seen;

	if (reverse && reverse->replied && now - reverse->seen < idle)
		idle = now - reverse->seen;
	return idle;
}

#endif
