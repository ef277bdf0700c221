/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Whose flow is it? Each flow has one owner in both directions and for its
 * whole life: what conntrack translates is the stack's, all else the fast
 * path's. A program that meets a flow without an entry in flows* asks conntrack
 * (conntrack.h) once and remembers the answer in owners*.
 *
 * Invariants
 * - An answer counts for OWNER_SECONDS after the flow's last packet, which is
 *   less than any timeout of conntrack for a flow in use. Then it is asked for
 *   again; a TCP connection that conntrack has forgotten meanwhile stays where
 *   it was, since the stack would go on with it, too. What follows from the
 *   routes (a translated destination) counts no longer than that in any case.
 * - A translated flow shows itself first to to_pod (the stack delivers the
 *   opening packet to a pod) or to from_uplink (a SYN-ACK, or a UDP packet,
 *   without an entry). These two always ask and raise control.translating; only
 *   then TCP in the middle of a flow is asked about. So a node that translates
 *   nothing pays nothing, and none is missed.
 * - Conntrack can be asked about TCP and UDP only. An echo, or a protocol
 *   without ports, is the stack's if the stack delivers its other direction.
 */
#ifndef HOSTROUTE_OWNER_H
#define HOSTROUTE_OWNER_H

#include "maps.h"
#include "packet.h"
#include "trace.h"
#include "tuple.h"
#include "tcp_state.h"
#include "conntrack.h"

#define OWNER_SECONDS 10
#define PORT_SECONDS 30 /* of a port, see remember_port4() */

/* Conntrack can be asked about nothing but TCP and UDP; errors and echoes are judged by other means. */
static __always_inline bool owner_is_unknown(const struct packet *p, bool six)
{
	return is_translating() && p->protocol != IPPROTO_TCP && p->protocol != IPPROTO_UDP && !is_echo(p, six);
}

static __always_inline struct owner *owner_of(const union tuple *tuple, bool six)
{
	return six ? bpf_map_lookup_elem(&owners6, &tuple->six) : bpf_map_lookup_elem(&owners4, &tuple->four);
}

/* A global function's argument as a map's key; NULL never happens. */
static __always_inline union tuple *key4(const struct tuple4 *tuple)
{
	struct conntrack_scratch *scratch = bpf_map_lookup_elem(&conntrack_scratch, &(__u32){ 0 });

	if (!tuple || !scratch)
		return NULL;
	scratch->key.four = *tuple;
	return &scratch->key;
}

static __always_inline union tuple *key6(const struct tuple6 *tuple)
{
	struct conntrack_scratch *scratch = bpf_map_lookup_elem(&conntrack_scratch, &(__u32){ 0 });

	if (!tuple || !scratch)
		return NULL;
	scratch->key.six = *tuple;
	return &scratch->key;
}

static __always_inline bool still_counts(const struct owner *owner, __u32 pod_id, __u32 now)
{
	return owner->pod_id == pod_id && now - owner->seen <= OWNER_SECONDS * control.jiffies_per_second;
}

static __always_inline void renew(struct owner *owner, __u32 now)
{
	if (owner->seen != now && owner->reason != REASON_TRANSLATED_DESTINATION)
		owner->seen = now;
}

static __always_inline void raise_translating(void)
{
	if (!control.translating.seen)
		control.translating.seen = 1;
}

/* Whether a flow between the two can be the stack's; until conntrack has been read, any can. */
static __always_inline bool may_be_stacks(__be32 one, __be32 other)
{
	__u8 *pair = pair_of(one, other);

	return !pair || *pair == PAIR_STACKS || control.translating.presumed;
}

/* Never lowered but for a device that is new in its row. */
static __always_inline void share(__u32 ifindex, __u8 how)
{
	volatile struct shared_pod *shared = &control.shared[ifindex & (DEVICE_SLOTS - 1)];

	if ((shared->delivered & how) != how)
		shared->delivered |= how;
}

/* Local pods reach the pod on this device through the stack, too: its flows with them have to be looked up. */
static __always_inline bool is_shared(__u32 ifindex)
{
	return *(const volatile __u16 *)&control.shared[ifindex & (DEVICE_SLOTS - 1)]; /* delivered, presumed */
}

/* The pod on this device may have pings from before the programs, of which conntrack has not been read yet. */
static __always_inline bool may_have_older_echoes(__u32 ifindex)
{
	return control.shared[ifindex & (DEVICE_SLOTS - 1)].presumed == 2;
}

/* As may_be_stacks(), of a packet from outside to the pod on this device. */
static __always_inline bool may_answer_stacks(__be32 one, __be32 other, __u32 ifindex)
{
	return may_be_stacks(one, other) || (control.shared[ifindex & (DEVICE_SLOTS - 1)].delivered & SHARED_TAKEN);
}

static __always_inline int insert_owner(const union tuple *key, __u32 pod_id, __u32 reason, bool six)
{
	struct owner owner = { .seen = bpf_jiffies64(), .pod_id = pod_id, .reason = reason };

	if (!key)
		return 0;
	if (reason && !six)
		mark_pair(key->four.local, key->four.remote);
	return six ? bpf_map_update_elem(&owners6, &key->six, &owner, BPF_ANY) :
		     bpf_map_update_elem(&owners4, &key->four, &owner, BPF_ANY);
}

__attribute__((noinline)) int remember_owner4(const struct tuple4 *tuple, __u32 pod_id, __u32 reason)
{
	return insert_owner(key4(tuple), pod_id, reason, false);
}

__attribute__((noinline)) int remember_owner6(const struct tuple6 *tuple, __u32 pod_id, __u32 reason)
{
	return insert_owner(key6(tuple), pod_id, reason, true);
}

static __always_inline void remember_owner(const union tuple *tuple, __u32 pod_id, __u32 reason, bool six)
{
	if (six)
		remember_owner6(&tuple->six, pod_id, reason);
	else
		remember_owner4(&tuple->four, pod_id, reason);
}

static __always_inline int known_reason(struct __sk_buff *skb, const union tuple *key, __u32 pod_id, bool six)
{
	struct owner *owner = key ? owner_of(key, six) : NULL;
	__u32 now = bpf_jiffies64();

	if (!owner || !still_counts(owner, pod_id, now))
		return GO_ON;
	if (!trace_of(skb))
		renew(owner, now);
	return owner->reason < REASON_FIRST_DROP ? (int)owner->reason : REASON_UNKNOWN_OWNER;
}

__attribute__((noinline)) int known_owner4(struct __sk_buff *skb, const struct tuple4 *tuple, __u32 pod_id)
{
	return known_reason(skb, key4(tuple), pod_id, false);
}

__attribute__((noinline)) int known_owner6(struct __sk_buff *skb, const struct tuple6 *tuple, __u32 pod_id)
{
	return known_reason(skb, key6(tuple), pod_id, true);
}

/* What is remembered: a reason of the stack's, 0 for the fast path's, GO_ON for nothing that counts. */
static __always_inline int known_owner(struct __sk_buff *skb, const union tuple *tuple, __u32 pod_id, bool six)
{
	return six ? known_owner6(skb, &tuple->six, pod_id) : known_owner4(skb, &tuple->four, pod_id);
}

/*
 * Of a local port that has sent to a translated destination, whatever that was.
 * Longer than the destination, which is judged again before this is over.
 */
static __always_inline union tuple *port4(const struct tuple4 *tuple)
{
	union tuple *key = key4(tuple);

	if (key)
		key->four.remote = key->four.remote_port = 0;
	return key;
}

static __always_inline union tuple *port6(const struct tuple6 *tuple)
{
	union tuple *key = key6(tuple);

	if (key) {
		__builtin_memset(key->six.remote, 0, 16);
		key->six.remote_port = 0;
	}
	return key;
}

__attribute__((noinline)) int remember_port4(const struct tuple4 *tuple, __u32 pod_id)
{
	return insert_owner(port4(tuple), pod_id, REASON_TRANSLATED_DESTINATION, false);
}

__attribute__((noinline)) int remember_port6(const struct tuple6 *tuple, __u32 pod_id)
{
	return insert_owner(port6(tuple), pod_id, REASON_TRANSLATED_DESTINATION, true);
}

static __always_inline void remember_port(const union tuple *tuple, __u32 pod_id, bool six)
{
	if (six)
		remember_port6(&tuple->six, pod_id);
	else
		remember_port4(&tuple->four, pod_id);
}

static __always_inline int is_remembered(const union tuple *port, __u32 pod_id, bool six)
{
	struct owner *owner = port ? owner_of(port, six) : NULL;
	__u32 now = bpf_jiffies64();

	return owner && owner->pod_id == pod_id && now - owner->seen <= PORT_SECONDS * control.jiffies_per_second;
}

__attribute__((noinline)) int port_is_remembered4(const struct tuple4 *tuple, __u32 pod_id)
{
	return is_remembered(port4(tuple), pod_id, false);
}

__attribute__((noinline)) int port_is_remembered6(const struct tuple6 *tuple, __u32 pod_id)
{
	return is_remembered(port6(tuple), pod_id, true);
}

/* How judge_owner() asks. */
enum question {
	ASK_AS_SENT = 1,  /* as a packet from the local side */
	ASK_KEEP = 2,     /* remember the answer if it is the fast path, too */
	ASK_OPENS = 4,    /* opens() */
	ASK_MID_FLOW = 8, /* is_mid_flow() */
	ASK_BOTH = 16,    /* also as an answer: it would be taken for one to a flow of the stack's */
};

static __always_inline __u32 question_of(const struct packet *p, __u32 how)
{
	return how | (opens(p) ? ASK_OPENS : 0) | (is_mid_flow(p) ? ASK_MID_FLOW : 0);
}

static __always_inline int judge_owner(struct __sk_buff *skb, const union tuple *key, __u32 pod_id, __u32 question,
				       bool six)
{
	struct trace *trace = trace_of(skb);
	struct owner *owner;
	__u32 before = 0;
	int answer, known, reason = 0;

	if (!key)
		return GO_ON;
	if (trace)
		trace->stages |= TRACE_ASKED_OWNER;
	known = known_reason(skb, key, pod_id, six);
	/* a new connection over an old one's ports may have another owner */
	if (known >= 0 && !(question & ASK_OPENS) && !trace)
		return known ? known : GO_ON;
	answer = ask_about(skb, key, question & ASK_AS_SENT, six);
	if (answer != CONNTRACK_TRANSLATES && (question & ASK_BOTH) &&
	    (six || may_be_stacks(key->four.local, key->four.remote)) &&
	    ask_about(skb, key, !(question & ASK_AS_SENT), six) == CONNTRACK_TRANSLATES)
		answer = CONNTRACK_TRANSLATES;
	if (trace && known > 0 && !(question & ASK_OPENS))
		return known;
	owner = owner_of(key, six);
	if (owner && owner->pod_id == pod_id)
		before = owner->reason;
	if (answer == CONNTRACK_TRANSLATES)
		reason = REASON_TRANSLATED_FLOW;
	else if (answer == CONNTRACK_NONE && before < REASON_FIRST_DROP && (question & ASK_MID_FLOW))
		reason = before;
	if (trace)
		return reason ? reason : GO_ON;
	if (reason)
		raise_translating();
	if (reason || before || (question & ASK_KEEP))
		insert_owner(key, pod_id, reason, six);
	return reason ? reason : GO_ON;
}

/*
 * The owner of a flow without an entry in flows*. GO_ON: the fast path; else the
 * reason for which it is the stack's. The answer is remembered if it is the
 * stack. `question`: enum question.
 */
__attribute__((noinline)) int judge_owner4(struct __sk_buff *skb, const struct tuple4 *tuple, __u32 pod_id,
					   __u32 question)
{
	return judge_owner(skb, key4(tuple), pod_id, question, false);
}

__attribute__((noinline)) int judge_owner6(struct __sk_buff *skb, const struct tuple6 *tuple, __u32 pod_id,
					   __u32 question)
{
	return judge_owner(skb, key6(tuple), pod_id, question, true);
}

/*
 * Of a packet that may have an entry in flows*, whatever that says: what the
 * stack has delivered is answered through the stack. It may have been a direct
 * flow's, or a SNATed one's, before (UDP keeps its ports for as long as it
 * likes). GO_ON: nothing is remembered, or the flow is the stack's no longer.
 */
static __always_inline int owner_outranks(struct __sk_buff *skb, const union tuple *key, __u32 pod_id, __u32 question,
					  bool six)
{
	struct owner *owner;

	if (!key || (!six && !may_be_stacks(key->four.local, key->four.remote)))
		return GO_ON;
	owner = owner_of(key, six);
	if (!owner || !owner->reason || owner->pod_id != pod_id)
		return GO_ON;
	return judge_owner(skb, key, pod_id, question, six);
}

__attribute__((noinline)) int owner_outranks4(struct __sk_buff *skb, const struct tuple4 *tuple, __u32 pod_id,
					      __u32 question)
{
	return owner_outranks(skb, key4(tuple), pod_id, question, false);
}

__attribute__((noinline)) int owner_outranks6(struct __sk_buff *skb, const struct tuple6 *tuple, __u32 pod_id,
					      __u32 question)
{
	return owner_outranks(skb, key6(tuple), pod_id, question, true);
}

#endif
