/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What user space and the BPF programs say to each other: keys, values and
 * codes. Included by bpf/ and native/; src/maps/layout.ts holds the same
 * offsets and a test compares the two through the object's BTF.
 *
 * Invariants
 * - Every struct has explicit padding that writers set to zero, so that equal
 *   contents are equal bytes.
 * - Addresses and ports are in network byte order, everything else in host
 *   order. An IPv4 address in a 16-byte field is v4-mapped (::ffff:a.b.c.d)
 *   unless the field says otherwise.
 * - A change to any layout here raises HR_LAYOUT: pinned maps of another
 *   layout are converted by the names of fields (src/datapath/upgrade.ts), never
 *   misread. A field that is renamed stands in src/maps/convert.ts; what a code or
 *   a field means does not change under the same name.
 */
#ifndef HOSTROUTE_TYPES_H
#define HOSTROUTE_TYPES_H

#include <linux/types.h>

#include "flow_types.h"

#define HR_LAYOUT 6

/* Table sizes that index arithmetic relies on: powers of two. */
#define DEVICE_SLOTS 16384  /* devices: ifindex & (DEVICE_SLOTS - 1) */
#define POD_SLOTS 16384     /* pod_slots: see pod_slot_index() */
#define STACK_PAIRS 65536   /* stack_pairs: see pair_of() */
#define MAX_NEXTHOPS 16384
#define ROUTE_SLOTS 1024    /* control.route_generations: see slot_of() */
#define MAX_PORTS 65536
#define ACCOUNT_SLOTS 16384 /* accounts: pod id & (ACCOUNT_SLOTS - 1) */
#define CLASS_ROUTES 65536  /* of all classes of a family */
#define FLOW_BATCH 512      /* flows that a program looks at in one run */

/*
 * Why a packet went where it went. Each packet counts under exactly one.
 * Forwarded reasons come first, then stack, then drop: compare with
 * REASON_FIRST_STACK and REASON_FIRST_DROP.
 */
enum reason {
	REASON_TO_POD = 0,             /* redirected into a pod of this node */
	REASON_TO_UPLINK,              /* sent with a MAC from the maps */
	REASON_TO_NEIGHBOUR,           /* sent through the kernel's neighbour entry */

	REASON_OFF,                    /* switched off, or the daemon's lease ran out */
	REASON_UNKNOWN_DEVICE,         /* device, or address behind it, not in the maps (yet) */
	REASON_NOT_FOR_ROUTER,         /* another MAC, broadcast, multicast */
	REASON_NOT_IP,                 /* ARP and all other ethertypes */
	REASON_VLAN,                   /* tagged frame on the parent device */
	REASON_MALFORMED,              /* short or contradictory headers */
	REASON_OPTIONS,                /* IP options or extension headers */
	REASON_FRAGMENT,               /* fragment for the node that belongs to no answer we know */
	REASON_TTL,                    /* TTL or hop limit 1 or less */
	REASON_MTU,                    /* larger than the next hop takes */
	REASON_LINK_LOCAL,             /* link-local, multicast, loopback, unspecified */
	REASON_POLICY,                 /* ip rules or configuration: kernel decides */
	REASON_NO_ROUTE,               /* no prefix in the maps covers it */
	REASON_LOCAL,                  /* an address of the node */
	REASON_ROUTE,                  /* a route that the maps cannot express */
	REASON_POD_NOT_READY,          /* the pod's MAC is not known yet */
	REASON_SAME_POD,               /* a pod that sends to itself */
	REASON_PROTOCOL,               /* SNAT is due, the protocol has no ports */
	REASON_TRANSLATED_FLOW,        /* conntrack translates this flow */
	REASON_TRANSLATED_DESTINATION, /* the node's own rules translate this address */
	REASON_UNKNOWN_OWNER,          /* conntrack cannot be asked, and has or may have the flow's other direction */
	REASON_NO_SOURCE,              /* SNAT is due, no source address on the device */
	REASON_NODE,                   /* from an uplink, for the node or beyond it */
	REASON_UNRESOLVED,     /* the next hop's MAC is not known: the kernel asks, and tells if nobody answers */
	REASON_REWRITTEN,      /* an answer, with the pod's address by now: the stack cuts it into fragments */

	REASON_DROP_SPOOF,     /* source address is not the pod's */
	REASON_DROP_PORTS,     /* no free SNAT port towards this remote */
	REASON_DROP_FLOWS,     /* the pod gets no more room for flows */
	REASON_DROP_PROTOCOL,  /* REASON_PROTOCOL, configured as drop */
	REASON_DROP_MALFORMED, /* XDP: header no stack would take */
	REASON_DROP_MARTIAN,   /* XDP: source that cannot be on the wire; strict rp_filter: nor here */
	REASON_DROP_FRAGMENT,  /* SNAT is due, the datagram's first fragment was not seen */
	REASON_DROP_TTL,       /* TTL of an answer to a SNATed flow; its sender is told */
	REASON_DROP_MTU,       /* such an answer, or a pod's IPv6 fragment, is too big to go on; its sender is told */
	REASON_DROP_SOURCE,    /* SNAT is due, the node has none of the addresses configured for it */
	REASON_DROP_OPTIONS,   /* SNAT is due, and a router has to read or write the packet's options */
	REASON_MAX = 64,       /* room to grow; fixes the counters' row length */
};
#define REASON_FIRST_STACK REASON_OFF
#define REASON_FIRST_DROP REASON_DROP_SPOOF

enum device_kind {
	DEVICE_NONE = 0,
	DEVICE_POD = 1,
	DEVICE_UPLINK = 2,
};

/* device.flags */
#define DEVICE_STACK4 (1U << 0) /* all IPv4 from here goes to the stack (policy); or a pod without IPv4 address */
#define DEVICE_STACK6 (1U << 1)
#define DEVICE_CLASS4 (1U << 2) /* class4 is set: ip rules route its IPv4 by tables of their own */
#define DEVICE_CLASS6 (1U << 3)

/* One row per served device, at ifindex & (DEVICE_SLOTS - 1). */
struct device {
	__u32 ifindex;     /* 0: empty row; else must equal the packet's */
	__u32 row;         /* row in counters, dense from 0 */
	__u32 kind;        /* enum device_kind */
	__u32 flags;       /* DEVICE_* */
	__u32 pod_id;      /* DEVICE_POD: the same as pod.id of its addresses */
	__u32 mtu;         /* bytes of L3 */
	__be32 address4;   /* DEVICE_POD: first IPv4 address, 0 none (plain) */
	__u16 class4;      /* DEVICE_CLASS4: in keys of class_routes4 */
	__u16 class6;
	__u8 address6[16]; /* DEVICE_POD: first IPv6 address, :: none */
	__u8 mac[6];       /* the device's own */
	__u8 reply_tag;    /* DEVICE_UPLINK, strict rp_filter: 2 or more, its own among the uplinks; else 0 */
	__u8 pad1;
	__u32 counters;    /* row * REASON_MAX: its first row there */
	__u32 pad2;
}; /* 64 */

/* pod.flags */
#define POD_READY (1U << 0) /* mac is known: may be redirected to */
#define POD_L3 (1U << 1)    /* netkit in L3 mode: no Ethernet header to fill */

/* A pod's address on this node. */
struct pod {
	__u32 ifindex;    /* host-side device */
	__u32 id;         /* unique for one life of the pod; flows of another id are dead */
	__u32 mtu;        /* of the host-side device, bytes of L3 */
	__u32 flags;      /* POD_* */
	__u8 mac[6];      /* the pod's */
	__u8 host_mac[6]; /* of the host-side device */
}; /* 28 */

/*
 * Direct-mapped front of `pods`: one array look-up instead of a hash. Holds
 * addresses of pods that are ready only. Written in three steps, so that nobody
 * meets an address with another pod's row: addresses away, the pod, addresses.
 */
struct pod_slot {
	__u8 address[16]; /* v4-mapped; all zero: empty */
	struct pod pod;   /* all zero if the slot is empty */
	__u32 more;       /* `pods` has other addresses for this slot: on mismatch ask there */
	__be32 address4;  /* plain; 0: empty, or an IPv6 address */
}; /* 52 */

/* Addresses that the pod on a device may send with besides its own, by configuration. */
struct pod_source_key {
	__u32 prefix_length; /* 32 bits of device + bits of address */
	__u32 ifindex;
	__u8 address[16];    /* v4-mapped */
}; /* 24 */

struct pod_source {
	__u32 source; /* enum source */
};

/* Also what is known of a packet's source. */
enum source {
	SOURCE_OWN = 0,   /* the pod's: never in the map */
	SOURCE_OTHER = 1, /* masqueraded like the pod's own */
	SOURCE_STAYS = 2, /* never masqueraded */
};

enum route_action {
	ROUTE_STACK = 0,   /* route.reason says why */
	ROUTE_NEXTHOP = 1, /* route.nexthop indexes nexthops */
	ROUTE_GROUP = 2,   /* route.nexthop indexes groups */
	ROUTE_MAIN = 3,    /* in a class: pods and routes4, routes6 answer */
};

struct route4_key {
	__u32 prefix_length; /* 0..32 */
	__u8 address[4];
};

struct route6_key {
	__u32 prefix_length; /* 0..128 */
	__u8 address[16];
};

struct class_route4_key {
	__u32 prefix_length; /* 32 bits of class + bits of address */
	__u32 route_class;   /* device.class4 */
	__u8 address[4];
}; /* 12 */

struct class_route6_key {
	__u32 prefix_length;
	__u32 route_class;
	__u8 address[16];
}; /* 24 */

struct route {
	__u32 action;  /* enum route_action */
	__u32 nexthop; /* index */
	__u32 reason;  /* ROUTE_STACK: enum reason to count under */
	__u32 pad;
}; /* 16 */

/* nexthop.flags */
#define NEXTHOP_GATEWAY (1U << 0)   /* send to `gateway`; else the destination is on-link */
#define NEXTHOP_SNAT4 (1U << 1)     /* snat4 is set */
#define NEXTHOP_SNAT6 (1U << 2)     /* snat6 is set */
#define NEXTHOP_NO_SOURCE (1U << 3) /* neither is, nor may the stack choose: what is due for SNAT is dropped */

struct nexthop {
	__u32 ifindex; /* 0: free row */
	__u32 flags;   /* NEXTHOP_* */
	/* The eight bytes that a MAC change writes, aligned together. */
	__u8 mac[6];        /* gateway's */
	__u8 mac_known;     /* 1: mac may be used without asking the kernel; never without a gateway */
	__u8 pad0;
	__u8 source_mac[6]; /* the device's */
	__u16 sources;      /* row of snat_sources: several addresses, of which snat4 or snat6 is one; 0: none */
	__u8 gateway[16];   /* v4-mapped or IPv6, whatever the route's family */
	__u32 mtu;          /* bytes of L3: route's own, else the device's */
	__be32 snat4;       /* plain */
	__u8 snat6[16];
}; /* 64 */

#define SOURCE_PLACES 64
/* Addresses that share the pods: each pod has its place, by source_place(). */
struct snat_sources {
	__u8 address[SOURCE_PLACES][16]; /* v4-mapped or IPv6 */
}; /* 1024 */

#define GROUP_LEGS 64
/* ECMP: leg = leg[hash % GROUP_LEGS]; weights are how often a leg stands here. */
struct group {
	__u32 leg[GROUP_LEGS]; /* indexes of nexthops */
}; /* 256 */

struct neighbour_key {
	__u32 ifindex;
	__u8 address[16];
}; /* 20 */

struct neighbour {
	__u8 mac[6];
	__u8 known; /* 1: REACHABLE, PERMANENT or NOARP: may be used */
	__u8 pad;
}; /* 8 */

/* Masquerade policy: longest prefix of the current epoch wins. */
struct masquerade_key {
	__u32 prefix_length; /* 32 bits of epoch + bits of address */
	__u32 epoch;         /* control.masquerade_epoch; so one write switches all */
	__u8 address[16];    /* v4-mapped */
}; /* 24 */

struct masquerade {
	__u32 masquerade; /* 1: SNAT is due, 0: leave the source alone */
};

struct counter {
	__u64 packets;
	__u64 bytes;
};

/* Timeouts in jiffies, by what is known of a flow. Defaults: src/config. */
enum timeout {
	TIMEOUT_TCP_OPENING = 0, /* no answer yet */
	TIMEOUT_TCP_ESTABLISHED,
	TIMEOUT_TCP_CLOSING,     /* FIN from both sides, or RST */
	TIMEOUT_UDP_ONE_WAY,     /* no answer yet, or no stream: see is_stream() */
	TIMEOUT_UDP_REPLIED,
	TIMEOUT_ICMP,
	TIMEOUT_MAX = 8,
};

/* control.flags */
#define CONTROL_ON (1U << 0)      /* else everything goes to the stack */
#define CONTROL_MONITOR (1U << 1) /* an event for every new flow and every packet of the stages, within the rate */
#define CONTROL_SNAT (1U << 2)    /* SNAT is ours; else it is never due */
#define CONTROL_DROP_PROTOCOLS (1U << 3) /* SNAT due, but no ports, or options to be read: drop, not stack */
#define CONTROL_MARKS (1U << 4)          /* ip rules ask for marks: a marked packet is the stack's */
#define CONTROL_LINK_LOCAL (1U << 6) /* IPv4 link-local destinations are routed as any: the policy masquerades some */
#define CONTROL_NAT_CHAIN (1U << 7)  /* the stack may translate what passes it: a nat chain or IPVS */
#define CONTROL_HAND_OVER (1U << 5)  /* flows without an entry go to the stack: hostroute is about to leave */
#define CONTROL_PAUSED (1U << 8)     /* maps are being replaced: what would make an entry takes the detour first */

/*
 * The stack owns some flows that look like the fast path's (see owner.h): flows
 * are looked up. A byte for each cause, with one writer each; never lowered but
 * where said.
 */
struct translating {
	__u8 seen;       /* 1: by the programs, which have met such a flow */
	__u8 presumed;   /* 1: by the daemon, until it has read conntrack */
	__u8 configured; /* 1: by the daemon, as long as destinations are the stack's by configuration or by the node's
			    rules */
	__u8 known;      /* 1: by the daemon, for what it read from conntrack */
}; /* 4 */

/*
 * Local pods reach the pod on this device through the stack, too, or may do: its
 * packets to local pods, and theirs to it, are looked up in owners*; looked at
 * while `translating` only. A byte for each writer.
 */
struct shared_pod {
	__u8 delivered; /* SHARED_*: by the programs, or by the daemon for what it read from conntrack */
	__u8 presumed; /* by the daemon, until it has read conntrack; 2: the pod may have flows from before the programs
			*/
	__u8 opening;  /* FLOW_INBOUND of this pod wait for the opener's ACK: by the programs; `expire` counts down */
	__u8 pad;
}; /* 4 */

#define SHARED_LOCAL (1U << 0) /* as above */
#define SHARED_TAKEN (1U << 1) /* it goes on with connections that conntrack may not know: answers are looked up */

/* Section .data.control, pinned: written by the daemon but where said, all programs read. */
struct control {
	__u32 layout; /* HR_LAYOUT */
	__u32 flags;  /* CONTROL_* */
	__u64 lease;  /* jiffies64 after which the programs step aside */
	struct translating translating;
	__u32 masquerade_epoch;
	__u32 port_count; /* rows of snat_ports in use */
	__u32 event_rate; /* events a CPU may send in a second */
	__u32 timeout[TIMEOUT_MAX];
	__u32 jiffies_per_second;
	__u32 trace_mark; /* a packet with this mark is traced, not forwarded; 0: none */
	__u32 straight;   /* 1: the hot path is open: on, not all packets are watched, the lease not over; lease.h takes
			     it away */
	__u32 port_key;   /* the daemon's secret: see socket_hash() */
	__u32 flow_limit; /* entries that flows4 and flows6 may each have; at most what these maps take */
	__u32 detour;     /* ifindex of the device for what the programs cannot finish: see detour.h; 0: none */
	__u32 route_generations[ROUTE_SLOTS];   /* never 0; raised after a change of what routes or groups answer */
	struct shared_pod shared[DEVICE_SLOTS]; /* rows as in devices */
}; /* 88 + 4 * ROUTE_SLOTS + 4 * DEVICE_SLOTS */

enum event_type {
	EVENT_PACKET = 1, /* a packet and its reason (drops always, all if monitored) */
	EVENT_FLOW_NEW = 2,
};

/* Record of the ring buffer `events`. */
struct event {
	__u64 time;    /* CLOCK_MONOTONIC, ns */
	__u32 type;    /* enum event_type */
	__u32 reason;  /* enum reason */
	__u32 ifindex; /* where it came in */
	__u32 out;     /* where it goes, 0 unknown */
	__u32 length;  /* bytes of the packet */
	__u8 family;   /* 4, 6 or 0 */
	__u8 protocol;
	__be16 source_port;
	__be16 destination_port;
	__be16 nat_port;
	__u32 lost; /* events not sent on this CPU since the last */
	__u8 source[16];
	__u8 destination[16];
	__u8 nat_address[16];
}; /* 88 */

#endif
