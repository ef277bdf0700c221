/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * TC ingress of an uplink: answers to SNATed flows, and everything for a pod of
 * this node. What is for the node itself, or to be routed on, is the stack's.
 */
#ifndef HOSTROUTE_FROM_UPLINK_H
#define HOSTROUTE_FROM_UPLINK_H

#include "types.h"
#include "packet.h"
#include "trace.h"
#include "verdict.h"
#include "packet_write.h"
#include "parse.h"
#include "pods.h"
#include "options.h"
#include "detour.h"
#include "fragment.h"
#include "undeliverable.h"
#include "send_to_pod.h"
#include "icmp_error_translate.h"
#include "inbound_owner.h"
#include "answer.h"
#include "fragment_in.h"
#include "hot_path.h"
#include "hot_path_in6.h"
#include "hot_path_in4.h"

static __always_inline int answer_to_pod(struct packet *p, struct rewrite *new, bool six)
{
	struct pod *pod;
	int reason = find_answered(p, &pod, new, six);

	return reason == GO_ON ? send_to_pod(p, pod, new, six) : reason;
}

static __always_inline int route_from_uplink(struct packet *p, bool six)
{
	struct rewrite new = {};
	struct pod *pod;
	int reason;

	reason = six ? parse6(p) : parse4(p);
	if (reason == REASON_OPTIONS)
		reason = six ? judge_options_in6(p) : judge_options_in4(p);
	if (reason != GO_ON)
		return reason;
	if (p->device->flags & (six ? DEVICE_STACK6 : DEVICE_STACK4))
		return REASON_POLICY;
	pod = pod_of(&p->destination, six);
	if (p->fragment)
		reason = six ? parse_fragment6(p->skb, facts_of(p)) : parse_fragment4(p->skb, facts_of(p));
	else
		reason = parse_l4(p, six);
	if (reason != GO_ON)
		return reason;
	if (pod) {
		/* an answer to a SNATed flow is ours whatever its mark: the stack would take it for its own */
		if (is_marked(p->skb))
			return trace_pod(p, pod, REASON_POLICY);
		reason = owner_of_inbound(p, pod, six);
		if (reason != GO_ON)
			return trace_pod(p, pod, reason);
		return send_to_pod(p, pod, &new, six);
	}
	if (p->fragment) {
		reason = six ? find_fragments_pod6(p, &pod, &new) : find_fragments_pod4(p, &pod, &new);
		if (reason != GO_ON)
			return reason;
		if (p->ttl <= 1 || new.by_stack || too_big(p, pod->mtu, six))
			return six ? undeliverable6(p, pod, &new) : undeliverable4(p, pod, &new);
		return six ? fragment_to_pod6(p, pod, &new) : fragment_to_pod4(p, pod, &new);
	}
	if (p->tracked)
		return answer_to_pod(p, &new, six);
	if (is_icmp_error(p, six))
		return six ? error_to_pod6(p) : error_to_pod4(p);
	return REASON_NODE;
}

static __always_inline int stages_from_uplink(struct __sk_buff *skb, struct device *device, bool six)
{
	struct packet p = { .skb = skb, .device = device };
	int reason;

	if (!device)
		return TC_ACT_UNSPEC;
	p.in = device->ifindex;
	p.trace = trace_of(skb);
	reason = judge_outside(skb, device);
	if (reason == GO_ON)
		reason = six || skb->protocol == bpf_htons(ETH_P_IP) ? route_from_uplink(&p, six) : REASON_NOT_IP;
	return conclude(&p, reason, six);
}

/* As stages_from_pod4. */
static __attribute__((noinline)) int stages_from_uplink4(struct __sk_buff *skb, struct device *device)
{
	return stages_from_uplink(skb, device, false);
}

static __attribute__((noinline)) int stages_from_uplink6(struct __sk_buff *skb, struct device *device)
{
	return stages_from_uplink(skb, device, true);
}

SEC("tc")
int from_uplink(struct __sk_buff *skb)
{
	struct device *device = device_of(skb->ifindex);
	int action;

	if (!device) {
		device = detoured_from(skb);
		if (!device)
			return TC_ACT_UNSPEC;
	} else if (hot_from_uplink(skb, device, &action)) {
		return action;
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		action = hot_from_uplink6(skb, device);
		if (action != FOR_STAGES)
			return action;
	}
	return skb->protocol == bpf_htons(ETH_P_IPV6) ? stages_from_uplink6(skb, device) :
							stages_from_uplink4(skb, device);
}

#endif
