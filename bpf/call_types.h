/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* What the daemon asks of programs that it runs itself: a traced packet, expiry, deletion. Part of types.h, whose
 * invariants hold here. */
#ifndef HOSTROUTE_CALL_TYPES_H
#define HOSTROUTE_CALL_TYPES_H

#include "flow_types.h"
#include "types.h"

/* trace.stages: where the traced packet came through, and what was found there. */
#define TRACE_SOURCE (1U << 0)        /* the source is the pod's own: said where it ends soon after */
#define TRACE_POD (1U << 1)           /* trace.pod is the device of the destination's pod */
#define TRACE_FLOW (1U << 2)          /* trace.flow was found and is used */
#define TRACE_FLOW_OUTDATED (1U << 3) /* one was found that no longer counts */
#define TRACE_FLOW_NEW (1U << 4)      /* trace.flow is what this packet would make */
#define TRACE_ASKED_REVERSE (1U << 5) /* is it an answer to a SNATed flow? */
#define TRACE_REVERSE (1U << 6)       /* it is */
#define TRACE_ASKED_ROUTE (1U << 7)   /* the routes were asked */
#define TRACE_ROUTE (1U << 8)         /* trace.route is the answer */
#define TRACE_ASKED_MASQUERADE (1U << 9)
#define TRACE_MASQUERADE (1U << 10)   /* SNAT is due */
#define TRACE_NEXTHOP (1U << 11)      /* trace.nexthop is the row; without: the flow's own */
#define TRACE_SENT (1U << 12)         /* it would be sent: out, to, from, nat_* */
#define TRACE_ICMP_ERROR (1U << 13)   /* about trace.flow, or the reverse entry */
#define TRACE_ASKED_OWNER (1U << 14)  /* no entry in flows*: whose flow is it? */
#define TRACE_CONNTRACK (1U << 15)    /* trace.original and trace.reply are conntrack's */

/* Of an entry of conntrack, as it keeps them. */
struct conntrack_tuple {
	__u8 source[16];    /* IPv4: the first four bytes */
	__be16 source_port; /* ICMP: identifier */
	__u16 family;
	__u8 destination[16];
	__be16 destination_port;
	__u8 protocol;
	__u8 direction;
}; /* 40 */

/* The one row of `traces`: what a program found out about a traced packet. */
struct trace {
	__u32 stages;         /* TRACE_* */
	__u32 reason;         /* enum reason; the daemon puts REASON_MAX there before */
	__u32 pod;            /* ifindex */
	__u32 nexthop;        /* row of nexthops */
	__u32 out;            /* ifindex */
	struct route route;
	__u8 to[6];           /* MACs; zero: the kernel's neighbour entry fills them in */
	__u8 from[6];
	__u8 nat_address[16]; /* new source, or new destination; zero: none */
	__be16 nat_port;
	__u8 pad[2];
	__u32 pad1;
	struct flow flow;
	struct conntrack_tuple original;
	struct conntrack_tuple reply;
}; /* 208 */

/* Context of the `charge_flows` program. */
struct charge_args {
	__u32 family; /* 4 or 6 */
	__u32 pod_id;
	__s32 entries;
}; /* 12 */

/* Context of the `expire` program (SEC("syscall")): in and out. */
struct expire_args {
	__u32 family;    /* in: 4 or 6; 0: only read the clock */
	__u32 pressure;  /* in: 1: little room is left, what is over or never answered ends sooner */
	__u64 jiffies;   /* out: jiffies64 now */
	__u64 time;      /* out: CLOCK_MONOTONIC, ns, at the same moment */
	__u32 live;      /* added to: flows kept, of all verdicts */
	__u32 live_snat; /* added to: of them with FLOW_SNAT */
	__u32 dying;     /* added to: newly marked */
	__u32 deleted;   /* added to */
	__u32 count;     /* in: keys in flow_keys* */
	__u32 pad;
}; /* 48 */

/* delete_args.filters: all that are set have to hold. */
#define DELETE_POD_ADDRESS (1U << 0)
#define DELETE_POD_ID (1U << 1)
#define DELETE_REMOTE (1U << 2)
#define DELETE_REMOTE_PORT (1U << 3)
#define DELETE_OLDER (1U << 4)
#define DELETE_IDLE (1U << 5)
#define DELETE_VERDICT (1U << 6)
#define DELETE_DRY_RUN (1U << 7) /* only counts */

/* Context of the `delete_flows` program (SEC("syscall")). Addresses and mask: v4-mapped or IPv6. */
struct delete_args {
	__u8 pod[16];
	__u8 remote[16];
	__u8 remote_mask[16];
	__u32 family;  /* 4 or 6 */
	__u32 count;   /* keys in flow_keys* */
	__u32 filters; /* DELETE_* */
	__u32 pod_id;
	__u32 age;     /* jiffies at least */
	__u32 idle;    /* jiffies at least */
	__u32 started; /* jiffies (low 32 bits): younger flows stay */
	__be16 remote_port;
	__u8 verdict;  /* enum flow_verdict */
	__u8 pad;
	__u32 chosen;  /* added to: flows that every filter fits */
	__u32 deleted; /* added to */
}; /* 88 */

/* Rows of flows* or reverse* of an earlier generation. */
struct merge_rows {
	union {
		struct tuple4 four;
		struct tuple6 six;
	} key[FLOW_BATCH];
	union {
		struct flow flow;
		struct reverse reverse;
	} value[FLOW_BATCH];
}; /* 49152 */

/* Context of the `merge` program (SEC("syscall")): rows of an earlier table, in merge_rows. */
struct merge_args {
	__u32 family;      /* 4 or 6 */
	__u32 reverse;     /* 1: of reverse*, 0: of flows* */
	__u32 count;       /* rows in merge_rows */
	__u32 knows_since; /* 0: `since` is not known */
	__u32 since;       /* jiffies (low 32 bits): what was written before is the same in both */
	__s32 error;       /* out: of a row that could not be inserted, negative; 0: none */
}; /* 24 */

#endif
