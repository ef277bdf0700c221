/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What the guard's programs and user space say to each other. src/guard/layout.ts
 * holds the same offsets; a test compares the two through the object's BTF.
 */
#ifndef HOSTROUTE_GUARD_TYPES_H
#define HOSTROUTE_GUARD_TYPES_H

#include <linux/types.h>

#define GUARD_LAYOUT 0x67000003

enum guard_mode {
	GUARD_OFF = 0,
	GUARD_AUDIT = 1,
	GUARD_ENFORCE = 2,
};

enum guard_backend {
	GUARD_LSM = 1,
	GUARD_FMOD_RET = 2,
	GUARD_CGROUP = 3,
};

enum guard_kind {
	GUARD_NFTABLES = 1, /* message: NFT_MSG_* */
	GUARD_IPTABLES = 2, /* legacy, by setsockopt; message: its optname */
	GUARD_IP6TABLES = 3,
	GUARD_EBTABLES = 4,
	GUARD_ARPTABLES = 5,
};

enum guard_verdict {
	GUARD_REFUSED = 1,
	GUARD_AUDITED = 2, /* would have been refused */
	GUARD_EXEMPT = 3,  /* allowed by unit, cgroup or executable */
	GUARD_SEEN = 4,    /* by the witness, which cannot refuse: user space reports it */
};

enum guard_reason {
	GUARD_WRITE = 1,
	GUARD_UNINSPECTABLE = 2, /* lying lengths, too long, unreadable */
	GUARD_POLICY = 3,        /* legacy: a removal that would also change a policy */
};

/* Section .data.control. */
struct guard_control {
	__u32 layout;             /* GUARD_LAYOUT */
	__u32 mode;               /* enum guard_mode */
	__u64 namespace_cookie;   /* the protected network namespace; 0: none */
	__u64 probe_cookie;       /* a throw-away one in which all writes are refused; 0: none */
	__u64 cgroup_root;        /* id of the cgroup2 directory that the daemon sees as the root; 0: unknown */
	__u32 exempt_paths;       /* rows of cgroup_paths */
	__u32 exempt_executables; /* rows of allowed_executables */
	__u32 probe_backend;      /* enum guard_backend: who refuses there; programs of an earlier daemon's do not */
	__u32 probe_seen;         /* the witness sets it when something is written there */
	__u32 zero;               /* see unknown_zero() */
	__u32 version1;           /* 1: version 1 hierarchies are mounted, look there as well */
};

/* Value of exemptions; the key is the exemption's number, from 1. */
struct guard_allowance {
	__u64 until; /* CLOCK_BOOTTIME, ns; 0: for ever */
	__u64 used;  /* writes it let through */
};

struct guard_executable {
	__u64 inode;
	__u32 device; /* as the kernel keeps it: major << 20 | minor */
	__u32 pad;
};

#define GUARD_CGROUP_NAME 96
#define GUARD_ROOT 0           /* node: the root directory */
#define GUARD_UNITS 0xffffffff /* node: any directory with nothing but slices above it */

/* Key of cgroup_paths: one directory below a node. */
struct guard_step {
	__u32 node;
	char name[GUARD_CGROUP_NAME];
};

struct guard_place {
	__u32 node;      /* of this directory; 0: no path leads further */
	__u32 exemption; /* of this directory and all below it; 0: none */
};

/* Key of legacy_policies: chains whose policy is not ACCEPT by right, because it was so before. */
struct guard_table {
	__u32 kind; /* enum guard_kind */
	char name[32];
};

/* Key of owned_tables. */
struct guard_owned_table {
	__u32 family; /* NFPROTO_* */
	char name[32];
};

/* Rows of guard_counts. */
enum guard_count {
	GUARD_COUNT_REFUSED = 0,
	GUARD_COUNT_AUDITED,
	GUARD_COUNT_EXEMPT,
	GUARD_COUNT_LOST,    /* events that found no room */
	GUARD_COUNT_REMOVED, /* legacy removals let through */
	GUARD_COUNT_MAX,
};

#define GUARD_PARTS 12
#define GUARD_PART 48
#define GUARD_NAME 64
#define GUARD_ARGUMENTS 256

struct guard_event {
	__u64 time;  /* CLOCK_BOOTTIME, ns */
	__u64 cgroup;
	__u64 inode; /* of the executable, 0: none */
	__u32 device;
	__u32 pid;   /* the process; user space calls it so */
	__u32 thread;
	__u32 uid;
	__u32 verdict;   /* enum guard_verdict */
	__u32 reason;    /* enum guard_reason */
	__u32 backend;   /* enum guard_backend */
	__u32 kind;      /* enum guard_kind */
	__u32 message;   /* NFT_MSG_*, or the optname */
	__u32 family;    /* NFPROTO_* */
	__u32 position;  /* of the message in its batch, from 0 */
	__u32 entries;   /* legacy: rows of the new table */
	__u32 before;    /* legacy: rows of the old one */
	__u32 arguments_length;
	__u32 exemption; /* that the writer has, 0: none */
	__u32 pad;
	char command[16];
	char table[GUARD_NAME];
	char chain[GUARD_NAME];
	char arguments[GUARD_ARGUMENTS];    /* command line, NUL between */
	char path[GUARD_PARTS][GUARD_PART]; /* executable, last part first */
};

#endif
