/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Where in its life a TCP connection is, as flow.tcp and flow.expected have it:
 * followed on both sides, so that only what the other side takes for an end is one.
 */
#ifndef HOSTROUTE_TCP_STATE_H
#define HOSTROUTE_TCP_STATE_H

#include "maps.h"
#include "packet.h"

/* A SYN-ACK does not say that the remote is there. */
static __always_inline __u8 seen_of(__u8 tcp)
{
	return tcp & SEEN_SYN ? tcp & ~SEEN_ACK : tcp;
}

/*
 * flow.tcp within a word: the two sides may be on two CPUs, and bytes have no
 * atomic operations.
 */
static __always_inline __u32 *seen_word(struct flow *flow)
{
	_Static_assert(offsetof(struct flow, verdict) % 4 == 0 &&
			       offsetof(struct flow, tcp) == offsetof(struct flow, verdict) + 1,
		       "SEEN_BITS");
	return (void *)flow + offsetof(struct flow, verdict);
}

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define SEEN_BITS(seen) ((__u32)(seen) << 8)
#else
#define SEEN_BITS(seen) ((__u32)(seen) << 16)
#endif

static __always_inline void see(struct flow *flow, __u8 seen)
{
	if ((flow->tcp | seen) != flow->tcp)
		__sync_fetch_and_or(seen_word(flow), SEEN_BITS(seen));
}

/* TCP's header; NULL: of another protocol, or not in reach. */
static __always_inline const struct tcphdr *tcp_of(const struct packet *p, bool six)
{
	/* behind options it is elsewhere */
	const struct tcphdr *tcp = DATA(p->skb) + (p->fragment ? p->l4 & 127 : l4_of(p, six));

	return p->protocol == IPPROTO_TCP && (void *)(tcp + 1) <= END(p->skb) ? tcp : NULL;
}

#define SEEN_RESET (SEEN_RST | SEEN_REMOTE_RST)

/*
 * flow.expected after a packet of the pod's. Who goes on after a RST has not
 * taken it for one: it was out of his window, or forged.
 */
static __always_inline void expect(const struct packet *p, struct flow *flow, bool six)
{
	const struct tcphdr *tcp = tcp_of(p, six);
	__u32 now = bpf_jiffies64();

	if (!tcp)
		return;
	if (p->tcp & SEEN_RST) {
		if (!(flow->tcp & SEEN_RESET))
			flow->expected = now;
		return;
	}
	if (flow->tcp & SEEN_RESET) {
		/* what was on its way when the RST came says nothing */
		if (now - flow->expected <= control.jiffies_per_second)
			return;
		__sync_fetch_and_and(seen_word(flow), ~SEEN_BITS(SEEN_RESET));
	}
	if (p->tcp & SEEN_SYN)
		flow->expected = bpf_htonl(bpf_ntohl(tcp->seq) + 1);
	else if (p->tcp & SEEN_ACK)
		flow->expected = tcp->ack_seq;
}

/* How far beyond what the pod has acknowledged a FIN or RST may stand: what is on its way, which is less where
 * nothing was said for a second. */
#define WINDOW_BUSY (16 * 1024 * 1024)
#define WINDOW_IDLE (16 * 1024) /* within any receiver's window: what it does not take it answers */

/* The pod has not sent anything for a second. */
static __always_inline bool is_quiet(const struct flow *flow)
{
	return (__u32)bpf_jiffies64() - flow->seen > control.jiffies_per_second;
}

/* A remote's FIN or RST that the pod will take for one, as far as can be told (RFC 5961). */
static __always_inline bool is_in_sequence(const struct packet *p, const struct flow *flow, bool six)
{
	const struct tcphdr *tcp = tcp_of(p, six);

	if (!tcp || (flow->tcp & SEEN_RESET))
		return false;
	if (!(flow->tcp & SEEN_ACK))
		return (p->tcp & SEEN_ACK) && tcp->ack_seq == flow->expected;
	return bpf_ntohl(tcp->seq) - bpf_ntohl(flow->expected) <= (is_quiet(flow) ? WINDOW_IDLE : WINDOW_BUSY);
}

/* The remote's FIN, RST, or the acknowledgement of the pod's SYN-ACK. */
static __always_inline void note_remote(const struct packet *p, struct flow *flow, bool six)
{
	const struct tcphdr *tcp = tcp_of(p, six);
	__u32 now = bpf_jiffies64();
	__u8 seen = 0;

	if (flow->verdict == FLOW_INBOUND && tcp && !(flow->tcp & (SEEN_ACK | SEEN_RESET)) &&
	    (p->tcp & (SEEN_ACK | SEEN_RST | SEEN_SYN)) == SEEN_ACK && (flow->tcp & SEEN_SYN) &&
	    bpf_ntohl(tcp->ack_seq) - bpf_ntohl(flow->expected) <= WINDOW_IDLE)
		seen = SEEN_REMOTE_ACK;
	if ((p->tcp & (SEEN_FIN | SEEN_RST)) && is_in_sequence(p, flow, six)) {
		if (p->tcp & SEEN_FIN)
			seen |= SEEN_REMOTE_FIN;
		if (p->tcp & SEEN_RST) {
			seen |= SEEN_REMOTE_RST;
			/* where nothing was on its way the pod's next packet is its answer to a RST that it did not
			 * take */
			flow->expected = is_quiet(flow) ? now - 2 * control.jiffies_per_second : now;
		}
	}
	see(flow, seen);
}

static __always_inline bool is_closed(const struct flow *flow)
{
	return (flow->tcp & SEEN_RESET) || (flow->tcp & (SEEN_FIN | SEEN_REMOTE_FIN)) == (SEEN_FIN | SEEN_REMOTE_FIN);
}

/* Turns of `expire` in which the ACK of a SYN-ACK is looked out for: longer than the kernel repeats one
 * (tcp_synack_retries). */
#define OPENING_TURNS 16

/* The ACKs from outside to the pod on this device are looked at: see struct shared_pod. */
static __always_inline void await_opener(__u32 ifindex)
{
	volatile struct shared_pod *shared = &control.shared[ifindex & (DEVICE_SLOTS - 1)];

	if (shared->opening != OPENING_TURNS)
		shared->opening = OPENING_TURNS;
}

static __always_inline bool awaits_opener(__u32 ifindex)
{
	return control.shared[ifindex & (DEVICE_SLOTS - 1)].opening;
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

static __always_inline bool is_syn_ack(const struct packet *p)
{
	return p->protocol == IPPROTO_TCP && (p->tcp & (SEEN_SYN | SEEN_ACK | SEEN_RST)) == (SEEN_SYN | SEEN_ACK);
}

static __always_inline bool opens(const struct packet *p)
{
	return p->protocol == IPPROTO_TCP && (p->tcp & (SEEN_SYN | SEEN_ACK | SEEN_RST | SEEN_FIN)) == SEEN_SYN;
}

#endif
