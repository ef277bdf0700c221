/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Whose is what comes from an uplink for a pod and answers no SNATed flow: the
 * fast path's, or the stack's, and why; and that it was opened from outside.
 */
#ifndef HOSTROUTE_INBOUND_OWNER_H
#define HOSTROUTE_INBOUND_OWNER_H

#include "maps.h"
#include "packet.h"
#include "trace.h"
#include "pods.h"
#include "masquerade.h"
#include "account.h"
#include "tuple.h"
#include "tcp_state.h"
#include "flow.h"
#include "conntrack.h"
#include "detour.h"
#include "owner.h"
#include "new_entries.h"
#include "new_flow.h"
#include "fragment.h"
#include "icmp_error_translate.h"
#include "way_back.h"

/*
 * The pod may use the same port for a flow of the stack's, whose answers look
 * like those of an entry that is still there: a SYN-ACK where a connection was
 * known already, or UDP where the port has sent to a translated destination.
 */
static __always_inline bool may_be_another(struct packet *p, const union tuple *tuple, const struct flow *flow,
					   bool six)
{
	if (flow->verdict == FLOW_SNAT)
		return false;
	if (p->protocol == IPPROTO_TCP)
		return (p->tcp & (SEEN_SYN | SEEN_ACK)) == (SEEN_SYN | SEEN_ACK) && (flow->tcp & SEEN_ACK);
	if (p->protocol != IPPROTO_UDP || !is_translating())
		return false;
	return six ? port_is_remembered6(&tuple->six, flow->pod_id) : port_is_remembered4(&tuple->four, flow->pod_id);
}

/*
 * The verdict of a flow that begins here. Only of what would be masqueraded, and
 * of echoes, it has to be known who has begun; the others are DIRECT.
 */
static __always_inline __u8 verdict_of_inbound(struct packet *p, bool six)
{
	return is_echo(p, six) || masquerade_due(&p->source) ? FLOW_INBOUND : FLOW_DIRECT;
}

static __always_inline int insert_inbound(struct packet *p, const struct pod *pod, const union tuple *tuple,
					  __u8 verdict, enum purpose purpose, bool six)
{
	struct new_entries *new = bpf_map_lookup_elem(&new_entries, &(__u32){ 0 });
	struct flow *flow;

	if (!new || !has_room(pod->id, purpose, six))
		return GO_ON;
	flow = &new->flow;
	__builtin_memset(flow, 0, sizeof(*flow));
	flow->verdict = verdict;
	flow->pod_id = pod->id;
	if (p->trace)
		return trace_flow(p, flow, TRACE_FLOW_NEW, GO_ON);
	/* generation 0 is never current: the answer looks its route up */
	flow->seen = flow->created = bpf_jiffies64();
	insert_flow(tuple, flow, six);
	return GO_ON;
}

/* The opener of a connection that found no room when it began: it speaks again, a flood of SYNs does not. */
static __always_inline int note_opener(struct packet *p, const struct pod *pod, const union tuple *tuple, bool six)
{
	if (!awaits_opener(pod->ifindex) || (p->tcp & (SEEN_FIN | SEEN_RST)) || !masquerade_due(&p->source))
		return GO_ON;
	return insert_inbound(p, pod, tuple, FLOW_INBOUND, FOR_INBOUND, six);
}

/*
 * A packet for a pod that was not SNATed: whose its flow is, and that it was
 * opened from outside, so that its answers keep the pod's address whatever the
 * masquerade policy says. GO_ON, or why it is the stack's.
 */
static __always_inline int note_inbound(struct packet *p, struct pod *pod, bool six)
{
	union tuple tuple;
	struct flow *flow;
	bool opening = opens(p), middle = is_mid_flow(p);
	bool asked =
		is_translating() && (six || may_answer_stacks(PLAIN(p->source), PLAIN(p->destination), pod->ifindex));
	int reason;

	/* between pods of the node nothing comes by an uplink: as the device's rp_filter says */
	if (pod_of(&p->source, six))
		return REASON_ROUTE;
	/* of plain TCP only what says how the connection is */
	if (middle && !asked && !(p->tcp & (SEEN_SYN | SEEN_FIN | SEEN_RST)) && !awaits_opener(pod->ifindex))
		return GO_ON;
	tuple_in(&tuple, p, six);
	flow = flow_of(&tuple, six);
	if (middle && !asked && !(p->tcp & SEEN_SYN) && !flow)
		return note_opener(p, pod, &tuple, six);
	if (flow && flow->pod_id == pod->id && may_be_another(p, &tuple, flow, six) &&
	    ask_about(p->skb, &tuple, false, six) == CONNTRACK_TRANSLATES) {
		if (!p->trace) {
			raise_translating();
			remember_owner(&tuple, pod->id, REASON_TRANSLATED_FLOW, six);
			if (claim_flow(&tuple, flow, six))
				delete_flow(&tuple, flow->pod_id, six);
		}
		return REASON_TRANSLATED_FLOW;
	}
	if (flow && flow->pod_id == pod->id && usable(p, &flow->life)) {
		/* nor does a SYN from outside end a live SNATed flow */
		if (!opening ||
		    (flow->verdict != FLOW_DIRECT && !(flow->tcp & (SEEN_FIN | SEEN_REMOTE_FIN | SEEN_RESET)))) {
			if (p->trace)
				return trace_flow(p, flow, TRACE_FLOW, GO_ON);
			note_remote(p, flow, six);
			touch(flow, 0);
			return GO_ON;
		}
	} else if (!opening || owner_of(&tuple, six)) {
		/*
		 * Of a connection that begins here conntrack cannot know anything; but its answers may look like
		 * those of a flow of the stack's, and then conntrack has to tell the two apart.
		 */
		reason = six ? judge_owner6(p->skb, &tuple.six, pod->id, question_of(p, opening ? ASK_AS_SENT : 0)) :
			       judge_owner4(p->skb, &tuple.four, pod->id, question_of(p, opening ? ASK_AS_SENT : 0));
		if (reason != GO_ON)
			return reason;
		if (middle && !(control.flags & CONTROL_HAND_OVER) && known_owner(p->skb, &tuple, pod->id, six) == 0)
			return GO_ON;
	}
	/* its request has not come through here */
	if (is_echo(p, six) && !is_echo_request(p, six))
		return REASON_UNKNOWN_OWNER;
	reason = six ? way_back6(&p->source, pod->ifindex) : way_back4(&p->source, pod->ifindex);
	if (reason != GO_ON) {
		if (!p->trace) {
			raise_translating();
			remember_owner(&tuple, pod->id, reason, six);
		}
		return reason;
	}
	if (!six && p->device->reply_tag && !may_come_here4(p, &p->destination, pod->ifindex))
		return REASON_DROP_MARTIAN;
	if (control.flags & CONTROL_HAND_OVER)
		return REASON_OFF;
	if (middle) {
		if (!p->trace)
			remember_owner(&tuple, pod->id, 0, six);
		return GO_ON;
	}
	if (is_paused(p))
		return wait_for_tables(p);
	if (!flow || replace(p, &tuple, flow, six)) {
		__u8 verdict = verdict_of_inbound(p, six);

		/* of TCP the SYN-ACK makes it; no room: answers are judged as new */
		if (verdict == FLOW_INBOUND)
			return insert_inbound(p, pod, &tuple, verdict, FOR_OPENING, six);
		if (p->protocol != IPPROTO_TCP)
			return insert_inbound(p, pod, &tuple, verdict, FOR_SPEED, six);
	}
	return GO_ON;
}

static __attribute__((noinline)) int note_inbound4(struct packet *p, struct pod *pod)
{
	return pod ? note_inbound(p, pod, false) : GO_ON;
}

static __attribute__((noinline)) int note_inbound6(struct packet *p, struct pod *pod)
{
	return pod ? note_inbound(p, pod, true) : GO_ON;
}

/* Whose is a packet for a pod that was not SNATed. GO_ON, or why it is the stack's. */
static __always_inline int owner_of_inbound(struct packet *p, struct pod *pod, bool six)
{
	int reason;

	if (p->tracked) {
		reason = six ? note_inbound6(p, pod) : note_inbound4(p, pod);
		return !p->fragment ? reason :
		       six          ? note_owner6(p->skb, facts_of(p), reason) :
				      note_owner4(p->skb, facts_of(p), reason);
	}
	if (owner_is_unknown(p, six))
		return REASON_UNKNOWN_OWNER;
	if (!is_translating())
		return GO_ON;
	if (p->fragment)
		return six ? noted_owner6(p->skb, facts_of(p)) : noted_owner4(p->skb, facts_of(p));
	if (is_icmp_error(p, six))
		return six ? error_owner_to_pod6(p, pod) : error_owner_to_pod4(p, pod);
	return GO_ON;
}

#endif
