// SPDX-License-Identifier: GPL-2.0-only
/*
 * The datapath, one translation unit. A packet's way:
 *
 *   from_pod.h       TC ingress of a pod's host-side device
 *   from_uplink.h    TC ingress of an uplink
 *   to_pod.h         TC egress of a pod's host-side device: what the stack delivers
 *   uplink_filter.h  XDP on an uplink, before both (by configuration)
 *
 * each a list of stages: parse.h -> source check -> pods.h -> flow.h,
 * owner.h and snat.h -> route.h -> send.h. A stage returns a reason or GO_ON; verdict.h
 * turns the reason into an action and counts it. fragment.h and icmp_error.h
 * do the same for what carries no ports of its own. expire.h ends old flows,
 * delete_flows.h those that an operator has chosen, lease.h the straight path
 * when the daemon is gone for long.
 * Before the stages a straight path (straight.h) takes what is most plain.
 * trace.h: what a stage finds out about a packet that the daemon asks about.
 *
 * Never guess: what a stage does not fully know goes to the stack unchanged.
 * Nothing may write to a packet before it is sure to be forwarded.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/icmpv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <linux/pkt_cls.h>
#include <stdbool.h>
#include <stddef.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#include "types.h"
#include "maps.h"
#include "verdict.h"
#include "trace.h"
#include "checksum.h"
#include "parse.h"
#include "kernel_route.h"
#include "pods.h"
#include "route.h"
#include "account.h"
#include "flow.h"
#include "owner.h"
#include "snat.h"
#include "send.h"
#include "icmp_error.h"
#include "straight.h"
#include "straight_out6.h"
#include "straight_out.h"
#include "straight_in6.h"
#include "straight_in.h"
#include "from_pod.h"
#include "from_uplink.h"
#include "fragment.h"
#include "to_pod.h"
#include "undeliverable.h"
#include "uplink_filter.h"
#include "flow_batch.h"
#include "expire.h"
#include "delete_flows.h"
#include "lease.h"

/* GPL: bpf_redirect_neigh, bpf_skc_lookup_tcp and others ask for it. */
char LICENSE[] SEC("license") = "GPL";
