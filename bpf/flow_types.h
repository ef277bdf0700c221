/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Flows, what SNAT keeps of them, and how many a pod has. Part of types.h, whose invariants hold here. */
#ifndef HOSTROUTE_FLOW_TYPES_H
#define HOSTROUTE_FLOW_TYPES_H

#include <linux/types.h>

/*
 * A flow as seen from one side. In flows*: local = pod. In reverse*: local =
 * SNAT address and port. ICMP echo: local_port = identifier, remote_port = 0,
 * or ECHO_ASKED where the remote asks: each side may use an identifier of the other's.
 */
struct tuple4 {
	__be32 local;
	__be32 remote;
	__be16 local_port;
	__be16 remote_port;
	__u8 protocol;
	__u8 pad[3];
}; /* 16 */

struct tuple6 {
	__u8 local[16];
	__u8 remote[16];
	__be16 local_port;
	__be16 remote_port;
	__u8 protocol;
	__u8 pad[3];
}; /* 40 */

enum flow_verdict {
	FLOW_DIRECT = 1,  /* routed, source left alone */
	FLOW_SNAT = 2,    /* source becomes nat_address:nat_port */
	FLOW_INBOUND = 3, /* opened from outside: source left alone */
	FLOW_STACK = 4,   /* in fragment.verdict only: the stack owns it */
};

/* flow.life and reverse.life: see bpf/expire.h for who moves what. */
enum flow_life {
	FLOW_LIVE = 0,
	FLOW_DYING = 1, /* idle for too long; a packet may still revive it */
	FLOW_DEAD = 2,  /* being deleted: nobody may use it */
};

#define ECHO_ASKED 1 /* host order */

/* flow.tcp and reverse.tcp: flags seen from that side. */
#define SEEN_SYN (1U << 0)
#define SEEN_FIN (1U << 1)
#define SEEN_RST (1U << 2)
#define SEEN_ACK (1U << 3) /* FLOW_INBOUND, and not TCP: the pod has answered */
/* flow.tcp: of the remote's packets that were in sequence. */
#define SEEN_REMOTE_FIN (1U << 4)
#define SEEN_REMOTE_RST (1U << 5)
#define SEEN_REMOTE_ACK (1U << 6) /* FLOW_INBOUND: of the pod's SYN-ACK */

/*
 * What SNAT of a flow adds to its packets' checksums, as one's complement sums,
 * never 0: to the header's by the address and the TTL, to the transport's by the
 * address and the port. IPv6 has no header checksum: there the first is what the
 * address alone adds.
 */
struct snat_difference {
	__u16 header;
	__u16 transport;
};

struct flow {
	/* The answer of the routes, which is read and written as one word: see bpf/generation.h. */
	__u32 generation __attribute__((aligned(8))); /* control.route_generations when they were asked; 0: not yet */
	__u16 slot;                                   /* of the remote address there, in bytes */
	__u16 nexthop;                                /* row of nexthops */
	__u32 seen;                                   /* jiffies (low 32 bits) of the pod's last packet */
	__u32 pod_id;
	__u32 life;                                   /* enum flow_life, changed by compare-and-exchange */
	__u8 verdict;                                 /* enum flow_verdict */
	__u8 tcp;                                     /* SEEN_* */
	__be16 nat_port;
	__u8 nat_address[16];                         /* v4-mapped or IPv6 */
	__u32 created;                                /* jiffies, low 32 bits */
	struct snat_difference difference;            /* FLOW_SNAT */
	__u32 ifindex; /* FLOW_SNAT: the uplink for which nat_address was chosen; FLOW_INBOUND: 0, or the pod's device
			  if the opener's packets come another way (pod_sources) */
	/*
	 * TCP, network order. After SEEN_ACK the sequence number of which the pod has
	 * asked for the next byte; before it the acknowledgement that its SYN, or
	 * SYN-ACK, gets. After a RST of either side: when that was (jiffies).
	 */
	__u32 expected;
}; /* 56 */

#define REVERSE_MIDDLE (1U << 7) /* made by a packet in the middle of a connection: no SYN-ACK is for it */

struct reverse {
	__u8 pod[16];  /* v4-mapped or IPv6 */
	__be16 pod_port;
	__u8 tcp;      /* SEEN_SYN, SEEN_ACK from the remote; REVERSE_MIDDLE */
	__u8 replied;  /* the remote has answered, by a device where its packets may come: its reply_tag, else 1 */
	__u32 seen;    /* jiffies of the remote's last packet, valid if replied */
	__u32 pod_id;
	__u32 life;    /* enum flow_life */
	struct snat_difference difference;
	__u32 ifindex; /* the pod's device if `pod` is not its own address (pod_sources), else 0 */
}; /* 40 */

/* A row of stack_pairs. */
enum pair {
	PAIR_UNKNOWN = 0,
	PAIR_STACKS = 1,
	PAIR_ASKED = 2, /* by to_pod, in the middle of a connection: that one is not translated */
};

/*
 * What is remembered of a flow without an entry in flows*: whose it is. Key as
 * there. It may be forgotten at any time: conntrack is asked again.
 */
struct owner {
	__u32 seen;   /* jiffies (low 32 bits) of the last packet */
	__u32 pod_id;
	__u32 reason; /* the stack's: enum reason to count under; 0: the fast path's */
}; /* 12 */

/* Fragments of one datagram, as in the kernel's own reassembly. */
struct fragment_key {
	__u8 source[16]; /* as on the packet: v4-mapped or IPv6 */
	__u8 destination[16];
	__u32 id;        /* as it stands in the header */
	__u8 protocol;   /* IPv4; 0: IPv6 */
	__u8 pad[3];
}; /* 40 */

/* What the first fragment's ports have decided for the others. */
struct fragment {
	__u64 way;        /* from a pod: as flow.generation, slot and nexthop; FLOW_STACK: enum reason */
	__u8 address[16]; /* FLOW_SNAT: replaces the pod's address, or is the pod's */
	__u32 seen;       /* jiffies of the first fragment */
	__u32 pod_id;
	__u8 verdict;     /* enum flow_verdict */
	__u8 by_stack;    /* FLOW_SNAT, to a pod: the first was too big for its device, so the stack has them all */
	__u16 next;       /* where the one after those that came in order begins, in 8 bytes */
	__u32 ifindex;    /* to a pod: its device */
}; /* 40 */

/* A port that SNAT may take (row of snat_ports), and whether it may take the one whose number is the row's. */
struct snat_port {
	__u16 port; /* host order */
	__u16 may_be_taken;
}; /* 4 */

/* Entries of flows* that a pod has: see account.h. */
struct account {
	__u32 flows4;
	__u32 flows6;
}; /* 8 */

/* The one row of `usage`. */
struct usage {
	__u32 flows4; /* of all pods */
	__u32 flows6;
	__u32 moved;  /* flows decided again since their address, or their way out of the node, was gone */
	__u32 pad;
}; /* 16 */

#endif
