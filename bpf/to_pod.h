/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * TC egress of a pod's host-side device: what the stack delivers, since
 * bpf_redirect_peer takes packets past it. Never changes or stops a packet.
 *
 * Here conntrack has translated the packet already, so the pod's answer has the
 * inverse of what stands in it. A flow that is translated is the stack's: it is
 * remembered for from_pod and from_uplink, and the pod is marked as shared if
 * its remote is a local pod, as only then from_pod would not ask.
 */
#ifndef HOSTROUTE_TO_POD_H
#define HOSTROUTE_TO_POD_H

#include "maps.h"
#include "packet.h"
#include "verdict.h"
#include "parse.h"
#include "pods.h"
#include "tuple.h"
#include "flow.h"
#include "conntrack.h"
#include "owner.h"
#include "fragment.h"
#include "icmp_error_translate.h"
#include "hot_path.h"

/* An entry from before conntrack began to translate the flow. SNAT's stays: it cannot be the same flow. */
static __always_inline void forget_plain(const union tuple *tuple, bool six)
{
	struct flow *flow = flow_of(tuple, six);

	if (flow && flow->verdict != FLOW_SNAT && claim_flow(tuple, flow, six))
		delete_flow(tuple, flow->pod_id, six);
}

/*
 * A connection that the stack carries and does not translate: so that not each
 * of its packets is asked about. Of IPv4 the pair is enough.
 */
static __always_inline void note_plain(const union tuple *tuple, __u32 pod_id, bool six)
{
	__u8 *pair;

	if (six) {
		remember_owner(tuple, pod_id, 0, true);
		return;
	}
	pair = pair_of(tuple->four.local, tuple->four.remote);
	if (pair && *pair == PAIR_UNKNOWN)
		*pair = PAIR_ASKED;
}

static __always_inline int note_delivered(struct packet *p, bool six)
{
	__u32 pod_id = p->device->pod_id;
	union tuple tuple;
	bool opened;
	int reason;

	reason = six ? parse6(p) : parse4(p);
	if (reason != GO_ON)
		return GO_ON;
	if (p->fragment)
		reason = six ? parse_fragment6(p->skb, facts_of(p)) : parse_fragment4(p->skb, facts_of(p));
	else
		reason = parse_l4(p, six);
	if (reason != GO_ON || p->fragment == PLACE_LATER)
		return GO_ON;
	if (p->tracked && !is_echo(p, six)) {
		opened = p->protocol == IPPROTO_TCP && (p->tcp & SEEN_SYN);
		tuple_in(&tuple, p, six);
		if (!opened) {
			reason = known_owner(p->skb, &tuple, pod_id, six);
			if (reason > 0 || (reason == 0 && p->protocol == IPPROTO_TCP))
				return GO_ON;
		}
		if (ask_about(p->skb, &tuple, true, six) != CONNTRACK_TRANSLATES) {
			if (p->protocol == IPPROTO_TCP && !opened)
				note_plain(&tuple, pod_id, six);
			return GO_ON;
		}
		reason = REASON_TRANSLATED_FLOW;
		raise_translating();
		forget_plain(&tuple, six);
	} else {
		/* conntrack cannot be asked: see owner.h */
		if (!is_translating() || is_icmp_error(p, six))
			return GO_ON;
		if (p->tracked)
			tuple_in(&tuple, p, six);
		else
			portless_tuple(&tuple, p, false, six);
		reason = REASON_UNKNOWN_OWNER;
	}
	remember_owner(&tuple, pod_id, reason, six);
	if (pod_of(&p->source, six))
		share(p->in, SHARED_LOCAL);
	return GO_ON;
}

static __attribute__((noinline)) int note_delivered4(struct __sk_buff *skb, struct device *device)
{
	struct packet p = { .skb = skb, .device = device, .in = skb->ifindex };

	return device ? note_delivered(&p, false) : GO_ON;
}

static __attribute__((noinline)) int note_delivered6(struct __sk_buff *skb, struct device *device)
{
	struct packet p = { .skb = skb, .device = device, .in = skb->ifindex };

	return device ? note_delivered(&p, true) : GO_ON;
}

/*
 * TCP in the middle of a connection, between two of which is known how it is:
 * there is nothing to learn from it. Else it may be one that conntrack has taken
 * up in the middle, since its entry was gone before hostroute came.
 */
static __always_inline bool tells_nothing(struct __sk_buff *skb)
{
	const struct iphdr *ip = DATA(skb) + ETH;
	const __u8 *tcp = (const void *)(ip + 1);
	__u8 *pair;

	if (skb->protocol != bpf_htons(ETH_P_IP) || (void *)(tcp + 14) > END(skb) || *(const __u8 *)ip != 0x45 ||
	    ip->protocol != IPPROTO_TCP || (ip->frag_off & bpf_htons(IP_OFFSET)) || (tcp[13] & TCP_SYN))
		return false;
	pair = pair_of(ip->saddr, ip->daddr);
	return pair && *pair;
}

/* UDP over IPv4 of a flow that is known to be the stack's. */
static __always_inline bool is_known(struct __sk_buff *skb, const struct device *device)
{
	const struct iphdr *ip = DATA(skb) + ETH;
	const __be16 *port = (const void *)(ip + 1);
	struct tuple4 tuple = {};

	if (skb->protocol != bpf_htons(ETH_P_IP) || (void *)(port + 2) > END(skb) || *(const __u8 *)ip != 0x45 ||
	    ip->protocol != IPPROTO_UDP || (ip->frag_off & bpf_htons(IP_MF | IP_OFFSET)))
		return false;
	tuple.local = ip->daddr;
	tuple.remote = ip->saddr;
	tuple.local_port = port[1];
	tuple.remote_port = port[0];
	tuple.protocol = IPPROTO_UDP;
	return hot_owner4(&tuple, device->pod_id) > FLOW_ASK;
}

SEC("tc")
int to_pod(struct __sk_buff *skb)
{
	struct device *device;

	if (tells_nothing(skb))
		return TC_ACT_UNSPEC;
	device = device_of(skb->ifindex);
	if (!device || device->kind != DEVICE_POD || is_known(skb, device))
		return TC_ACT_UNSPEC;
	if (skb->protocol == bpf_htons(ETH_P_IP))
		note_delivered4(skb, device);
	else if (skb->protocol == bpf_htons(ETH_P_IPV6))
		note_delivered6(skb, device);
	return TC_ACT_UNSPEC;
}

#endif
