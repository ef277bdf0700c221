/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Fragments from an uplink, for an address of the node: of an answer to a SNATed
 * flow, to its pod. Without a note they are the stack's, they may be the node's
 * own; a copy is held for a moment (detour.h).
 */
#ifndef HOSTROUTE_FRAGMENT_IN_H
#define HOSTROUTE_FRAGMENT_IN_H

#include "types.h"
#include "packet.h"
#include "packet_write.h"
#include "packet_store.h"
#include "parse_options.h"
#include "parse.h"
#include "pods.h"
#include "send.h"
#include "detour.h"
#include "fragment.h"
#include "answer.h"

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
		/* so that nobody waits for the others */
		if (reason != GO_ON)
			return six ? note_owner6(p->skb, facts_of(p), reason) :
				     note_owner4(p->skb, facts_of(p), reason);
		if (p->options == OPTIONS_READ)
			return REASON_DROP_OPTIONS;
		scratch->note.verdict = FLOW_SNAT;
		scratch->note.pod_id = pod->id;
		scratch->note.ifindex = pod->ifindex;
		__builtin_memcpy(scratch->note.address, &new->address, 16);
		scratch->note.by_stack = !six && too_big(p, pod->mtu, six);
		leave_note(p->skb, facts_of(p), scratch, six);
	} else {
		if (p->fragment == PLACE_OPTIONS)
			return REASON_OPTIONS;
		if (!read_note(p->skb, facts_of(p), scratch, six))
			return detour_copy(p);
		if (scratch->note.verdict == FLOW_STACK)
			return REASON_FRAGMENT;
		__builtin_memcpy(&new->address, scratch->note.address, 16);
		new->by_stack = scratch->note.by_stack;
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
