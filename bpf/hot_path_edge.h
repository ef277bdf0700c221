/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the hot path does where a flow begins or ends: see hot_path.h. The
 * decisions are the stages' own functions; what is saved is to get there.
 */
#ifndef HOSTROUTE_HOT_PATH_EDGE_H
#define HOSTROUTE_HOT_PATH_EDGE_H

#include "flow_types.h"
#include "packet.h"
#include "verdict.h"
#include "kernel_skb.h"
#include "parse.h"
#include "tuple.h"
#include "tcp_state.h"
#include "flow.h"
#include "new_entries.h"
#include "new_flow.h"
#include "outbound_owner.h"
#include "hot_path.h"

/* Of TCP's byte of flags what says where in a connection the packet is. */
#define TCP_EDGE (TCP_FIN | TCP_SYN | TCP_RST | TCP_ACK)

/* The header is in reach, and as long as it must be at least. */
static __always_inline bool is_edge(const __u8 *l4, __u8 flags)
{
	return l4[12] >= 5 << 4 && (l4[13] & TCP_EDGE) == flags;
}

/* join() of a packet with the edges of a connection in it; with the SYN open4() has done it. false: a RST was there. */
static __always_inline bool joins_edge(struct flow *flow, const void *l4)
{
	if (is_edge(l4, TCP_SYN))
		return true;
	if (flow->tcp & SEEN_RESET)
		return false;
	flow->expected = ((const struct tcphdr *)l4)->ack_seq;
	see(flow, SEEN_FIN | SEEN_ACK);
	return true;
}

/* An entry is made of what stands in the tuple: the rest of a struct packet that its makers read. */
static __always_inline void fill_facts(struct packet *p, __u8 protocol, __u16 l4, __u8 tcp)
{
	p->protocol = protocol;
	p->tracked = 1;
	p->l4 = l4;
	p->end = p->skb->len;
	p->tcp = tcp;
}

#define MADE (-4) /* neither an action of TC's, nor FOR_STAGES, nor FOR_EDGE */

/* The decision, and what conclude() says if there is no flow. */
static __always_inline int open(struct packet *p, struct new_entries *new, bool six)
{
	__u64 way = 0;
	int reason = six ? judge_unknown6(p, &new->opened, &way) : judge_unknown4(p, &new->opened, &way);

	if (reason == GO_ON)
		reason = six ? new_flow6(p, &new->opened, way) : new_flow4(p, &new->opened, way);
	if (reason != GO_ON)
		return conclude(p, reason, six);
	/* else another CPU was first, or there is no room: the stages know what to do */
	return new->made ? MADE : FOR_STAGES;
}

/*
 * A pod's packet without an entry that opens a flow: makes it. MADE: the entry
 * is there, and as it was made in made_flow(). Or what becomes of the packet;
 * FOR_STAGES: nothing has been decided. Global: see packet.h.
 */
__attribute__((noinline)) int open4(struct __sk_buff *skb, const struct tuple4 *key)
{
	struct packet p = { .skb = skb, .device = device_of(skb->ifindex), .in = skb->ifindex };
	struct new_entries *new = bpf_map_lookup_elem(&new_entries, &(__u32){ 0 });

	if (!p.device || !key || !new || !tells_checksum_state() || stays4(key->local) || stays4(key->remote))
		return FOR_STAGES;
	new->opened.four = *key;
	p.source.low = MAPPED(key->local);
	p.destination.low = MAPPED(key->remote);
	p.source_port = key->local_port;
	p.destination_port = key->remote_port;
	fill_facts(&p, key->protocol, ETH + sizeof(struct iphdr), key->protocol == IPPROTO_TCP ? SEEN_SYN : 0);
	return open(&p, new, false);
}

__attribute__((noinline)) int open6(struct __sk_buff *skb, const struct tuple6 *key)
{
	struct packet p = { .skb = skb, .device = device_of(skb->ifindex), .in = skb->ifindex };
	struct new_entries *new = bpf_map_lookup_elem(&new_entries, &(__u32){ 0 });

	if (!p.device || !key || !new || !tells_checksum_state())
		return FOR_STAGES;
	new->opened.six = *key;
	__builtin_memcpy(&p.source, key->local, 16);
	__builtin_memcpy(&p.destination, key->remote, 16);
	if (special6(&p.source) || special6(&p.destination))
		return FOR_STAGES;
	p.source_port = key->local_port;
	p.destination_port = key->remote_port;
	fill_facts(&p, key->protocol, ETH + sizeof(struct ipv6hdr), key->protocol == IPPROTO_TCP ? SEEN_SYN : 0);
	return open(&p, new, true);
}

/* After open4() or open6(). */
static __always_inline struct flow *made_flow(void)
{
	struct new_entries *new = bpf_map_lookup_elem(&new_entries, &(__u32){ 0 });

	return new ? &new->flow : NULL;
}

/* The remote's FIN, in the entry of the flow that it answers. Not inlined, for the stack's sake. */
static __attribute__((noinline)) int hot_end4(struct __sk_buff *skb, const union tuple *answered,
					      const struct reverse *reverse)
{
	struct packet p = { .skb = skb };

	fill_facts(&p, IPPROTO_TCP, ETH + sizeof(struct iphdr), SEEN_FIN | SEEN_ACK);
	if (answered && reverse)
		note_end(&p, answered, reverse, false);
	return 0;
}

static __attribute__((noinline)) int hot_end6(struct __sk_buff *skb, const union tuple *answered,
					      const struct reverse *reverse)
{
	struct packet p = { .skb = skb };

	fill_facts(&p, IPPROTO_TCP, ETH + sizeof(struct ipv6hdr), SEEN_FIN | SEEN_ACK);
	if (answered && reverse)
		note_end(&p, answered, reverse, true);
	return 0;
}

/* An answer's SYN-ACK or FIN may take the hot path: whether it is one. A FIN without an ACK is the stages'. */
static __always_inline bool is_answer_edge(const __u8 *l4)
{
	return is_edge(l4, TCP_SYN | TCP_ACK) || is_edge(l4, TCP_FIN | TCP_ACK);
}

/* The first answer that is neither SYN-ACK nor FIN. As note_answer(), but that the caller writes `seen`. */
static __always_inline void replied(struct reverse *reverse, bool tcp)
{
	if (!reverse->replied)
		reverse->replied = 1;
	if (tcp)
		reverse->tcp |= SEEN_ACK;
}

/* What find_answered() notes of a packet that is_answer_edge(). false: it is the stages'. */
static __always_inline bool answers_edge4(struct __sk_buff *skb, const struct tuple4 *answered, struct reverse *reverse,
					  const __u8 *l4)
{
	if (is_edge(l4, TCP_SYN | TCP_ACK)) {
		if (reverse->tcp & REVERSE_MIDDLE)
			return false;
		note_answer(reverse, SEEN_SYN | SEEN_ACK);
	} else {
		hot_end4(skb, (const union tuple *)answered, reverse);
		note_answer(reverse, SEEN_ACK);
	}
	return true;
}

static __always_inline bool answers_edge6(struct __sk_buff *skb, const struct tuple6 *answered, struct reverse *reverse,
					  const __u8 *l4)
{
	if (is_edge(l4, TCP_SYN | TCP_ACK)) {
		if (reverse->tcp & REVERSE_MIDDLE)
			return false;
		note_answer(reverse, SEEN_SYN | SEEN_ACK);
	} else {
		hot_end6(skb, (const union tuple *)answered, reverse);
		note_answer(reverse, SEEN_ACK);
	}
	return true;
}

#endif
