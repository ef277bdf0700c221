/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Packets of SNATed flows that end here, or are too big to go on as they are.
 * As they came the stack cannot have them: it would take an answer for its own
 * and tell the remote that nobody listens, and it would send a pod's packet
 * with the pod's address. So, as the kernel does with MASQUERADE:
 *
 * - An answer whose TTL is used up, or that is too big and must not be cut, is
 *   dropped; the packet becomes the ICMP error that its sender gets
 *   (icmp_error_send.h).
 * - An answer too big that may be cut (IPv4 without DF) gets the pod's address
 *   and is then the stack's, which forwards it in fragments.
 *
 * One too big to leave that may be cut takes a detour (detour.h). If it cannot, it
 * gets DF set before the stack has it, which then tells the pod, and the pod's
 * own stack cuts what follows, if it listens.
 */
#ifndef HOSTROUTE_UNDELIVERABLE_H
#define HOSTROUTE_UNDELIVERABLE_H

#include "maps.h"
#include "packet.h"
#include "packet_write.h"
#include "packet_store.h"
#include "pods.h"
#include "detour.h"
#include "icmp_error_send.h"

/* IPv4: the pod's address and port, nothing else. */
static __always_inline int translate(struct packet *p, struct rewrite *new)
{
	int error;

	if (p->trace)
		return REASON_REWRITTEN;
	if (p->fragment)
		error = rewrite_fragment(p, &new->address, new->port, false, 0, false);
	else
		error = rewrite_whole4(p, &new->address, new->port);
	return error ? REASON_DROP_MALFORMED : REASON_REWRITTEN;
}

static __always_inline bool may_be_cut(struct packet *p)
{
	__be16 offset = bpf_htons(IP_DF);

	bpf_skb_load_bytes(p->skb, ETH + offsetof(struct iphdr, frag_off), &offset, 2);
	return !(offset & bpf_htons(IP_DF));
}

/* An answer with its TTL used up, or larger than the pod takes. */
static __always_inline int undeliverable(struct packet *p, struct pod *pod, struct rewrite *new, bool six)
{
	const bool expired = p->ttl <= 1;
	int reason = expired ? REASON_DROP_TTL : REASON_DROP_MTU;

	if (!six && !expired && may_be_cut(p))
		return translate(p, new);
	if (p->trace)
		return reason;
	swap_ends(p);
	if (!tell_sender(p,
			 expired ? (six ? ICMPV6_TIME_EXCEED : ICMP_TIME_EXCEEDED) << 8 :
			 six     ? ICMPV6_PKT_TOOBIG << 8 :
				   ICMP_DEST_UNREACH << 8 | 4,
			 expired ? 0 : pod->mtu, six))
		p->action = TC_ACT_SHOT;
	swap_ends(p);
	return reason;
}

static __attribute__((noinline)) int undeliverable4(struct packet *p, struct pod *pod, struct rewrite *new)
{
	return undeliverable(p, pod, new, false);
}

static __attribute__((noinline)) int undeliverable6(struct packet *p, struct pod *pod, struct rewrite *new)
{
	return undeliverable(p, pod, new, true);
}

/*
 * From a pod, larger than `mtu`: see above. IPv6 has no such packets. `verdict`
 * is its flow's: an answer to outside, whose request did not pass the stack, would
 * be masqueraded there. GO_ON: it is traced, and would leave in pieces.
 */
static __attribute__((noinline)) int too_big_to_leave4(struct packet *p, __u32 mtu, __u32 verdict)
{
	struct iphdr ip;
	int reason;

	if ((verdict != FLOW_SNAT && !(verdict == FLOW_INBOUND && (control.flags & CONTROL_NAT_CHAIN))) ||
	    !may_be_cut(p))
		return REASON_MTU;
	if (p->trace)
		return control.detour ? GO_ON : REASON_MTU;
	reason = detour(p, mtu, REASON_MTU);
	if (reason == DETOURED || verdict != FLOW_SNAT || bpf_skb_load_bytes(p->skb, ETH, &ip, sizeof(ip)))
		return reason;
	return forbid_fragments4(p->skb, &ip) ? REASON_DROP_MALFORMED : REASON_MTU;
}

/*
 * From a pod, IPv6: the stack tells it that a packet is too big, but would wait
 * with a fragment, if conntrack is there, for others that do not pass it. So the
 * pod is told here, by the node's address, and by the first fragment: it is as
 * large as the others.
 */
static __attribute__((noinline)) int too_big_to_leave6(struct packet *p, struct nexthop *nexthop)
{
	const struct address source = p->source, destination = p->destination;
	struct pod *pod;

	if (!nexthop || p->fragment != PLACE_FIRST)
		return REASON_MTU;
	pod = pod_of(&p->source, true);
	if (p->trace || !pod || !(pod->flags & POD_READY))
		return REASON_DROP_MTU;
	p->destination = source;
	if (nexthop->flags & NEXTHOP_SNAT6)
		__builtin_memcpy(&p->source, nexthop->snat6, 16);
	else
		p->source = destination;
	if (become_error6(p->skb, facts_of(p), ICMPV6_PKT_TOOBIG << 8, nexthop->mtu) && !store_macs(p, pod)) {
		p->out = pod->ifindex;
		p->action = bpf_redirect(pod->ifindex, 0);
	}
	p->source = source;
	p->destination = destination;
	return REASON_DROP_MTU;
}

#endif
