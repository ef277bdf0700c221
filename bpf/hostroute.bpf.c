// SPDX-License-Identifier: GPL-2.0-only
/*
 * The datapath, one translation unit. A packet's way:
 *
 *   from_pod.h       TC ingress of a pod's host-side device
 *   from_uplink.h    TC ingress of an uplink
 *   to_pod.h         TC egress of a pod's host-side device: what the stack delivers
 *   from_detour.h    TC ingress of the daemon's TAP device: what could not be finished at once (detour.h)
 *   uplink_filter.h  XDP on an uplink, before both (by configuration)
 *
 * each a list of stages: parse.h -> source check -> pods.h -> whose flow it is
 * (flow.h; without an entry outbound_owner.h, inbound_owner.h) -> new_flow.h ->
 * route.h -> send.h, send_to_pod.h. A stage returns a reason or GO_ON; verdict.h
 * turns the reason into an action and counts it. fragment*.h and
 * icmp_error_translate.h do the same for what carries no ports of its own,
 * options.h lets those behind IP options and extension headers in. expire.h ends
 * old flows, delete_flows.h those that an operator has chosen, lease.h the hot
 * path when the daemon is gone for long; merge.h takes in what was written into
 * tables that others replace.
 * Before the stages the hot path (hot_path.h) takes what is most plain, and what
 * opens and closes a flow (hot_path_edge.h).
 * Every write to a packet is in packet_write.h, or in packet_store.h for rare ones.
 * trace.h: what a stage finds out about a packet that the daemon asks about.
 *
 * A header includes what it uses and nothing that uses it (test/bpf/headers.test.ts).
 *
 * Never guess: what a stage does not fully know goes to the stack unchanged.
 * Nothing may write to a packet before it is sure to be forwarded.
 */
#include "from_pod.h"
#include "from_uplink.h"
#include "from_detour.h"
#include "to_pod.h"
#include "uplink_filter.h"
#include "expire.h"
#include "delete_flows.h"
#include "merge.h"
#include "lease.h"

/* GPL: bpf_redirect_neigh, bpf_skc_lookup_tcp and others ask for it. */
char LICENSE[] SEC("license") = "GPL";
