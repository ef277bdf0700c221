/* SPDX-License-Identifier: GPL-2.0-only */
/* The last stage towards a pod of this node: whether the packet can go there as it is, else what becomes of it. */
#ifndef HOSTROUTE_SEND_TO_POD_H
#define HOSTROUTE_SEND_TO_POD_H

#include "types.h"
#include "packet.h"
#include "trace.h"
#include "packet_write.h"
#include "parse.h"
#include "send.h"
#include "fragment.h"
#include "undeliverable.h"

/*
 * To a pod of this node. bpf_redirect_peer frees the packet after the program
 * when the peer is gone or down: the count then overstates; nothing can be done
 * here. Before 6.15 it leaves the mark set, so clear it.
 *
 * Without the pod's MAC the kernel's stack forwards, except for the answer to a
 * SNATed flow: it would take that for its own. The neighbour entry asks then.
 */
static __always_inline int send_to_pod(struct packet *p, struct pod *pod, struct rewrite *new, bool six)
{
	const bool ready = pod->flags & POD_READY;

	if (p->fragment && new->what == NAT_NONE) {
		int reason = six ? follow_first6(p, pod) : follow_first4(p, pod);

		if (reason != GO_ON)
			return trace_pod(p, pod, reason);
	}
	if (new->what != NAT_NONE && (p->ttl <= 1 || too_big(p, pod->mtu, six)))
		return six ? undeliverable6(p, pod, new) : undeliverable4(p, pod, new);
	if (p->ttl <= 1)
		return trace_pod(p, pod, REASON_TTL);
	if (!ready && new->what == NAT_NONE)
		return trace_pod(p, pod, REASON_POD_NOT_READY);
	if (too_big(p, pod->mtu, six))
		return trace_pod(p, pod, REASON_MTU);
	if (p->trace)
		return trace_to_pod(p, pod, new->what == NAT_NONE ? NULL : &new->address, new->port);
	if (!rewrite(p, new, six))
		return REASON_MALFORMED;
	if (ready)
		write_macs(p, pod->mac, pod->host_mac);
	return hand_over(p, pod, &new->address, six);
}

#endif
