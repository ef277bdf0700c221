/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The witness of the backend cgroup, where no hook before nfnetlink can refuse.
 * It sees each transaction before the kernel does, and says who writes:
 *
 *   something changes a table that user space owns: the kernel will refuse the
 *     whole transaction, because it asks for the owner before anything else
 *   something is added elsewhere: the kernel will let it through; user space
 *     reports it, and knows by whom it was
 *
 * It names the first addition to an owned table, else the first to any. Only
 * transactions count: outside of one nf_tables adds nothing.
 *
 * There are two places to see from. A kprobe has the datagram itself. Where
 * there are no kprobes, the check of CAP_NET_ADMIN that nfnetlink makes for
 * each datagram (a tracepoint from 6.13 on) leads over the system call to the
 * caller's memory; sendmmsg(2), io_uring and 32-bit callers are not followed.
 */
#ifndef HOSTROUTE_GUARD_WITNESS_H
#define HOSTROUTE_GUARD_WITNESS_H

#include "guard/caller.h"
#include "guard/maps.h"
#include "guard/nftables.h"

#define NETLINK_FAMILY 16
#define NETFILTER_PROTOCOL 12
#define NET_ADMIN 12
#define SOCKET_TYPE 0140000
#define TYPE_MASK 0170000
#define IO_WORKER 0x10 /* task_struct.flags */

struct user_msghdr {
	void *name;
	__u32 name_length;
	void *pieces;
	__u64 number;
};

struct user_iovec {
	void *data;
	__u64 length;
};

struct witness_walk {
	const unsigned char *data; /* the piece that is being walked */
	__u32 length;
	__u32 offset;
	__u32 messages;
	const struct user_iovec *pieces; /* the next ones */
	__u32 left;
	bool user;                       /* the pieces are the caller's memory */
	__u32 refused;                   /* 0: no owned table is touched */
	/* The message to be named, none while end is 0. */
	__u32 message;
	__u32 family;
	__u32 position;
	const unsigned char *named; /* its piece, and in that its attributes */
	__u32 attributes;
	__u32 end;
};

struct attribute_search {
	const unsigned char *data;
	__u32 offset;
	__u32 end;
	__u32 table; /* offset of its name; 0: not found */
	__be32 policy;
	__u64 seen;  /* bit per type */
	bool user;
};

static long search_attribute(__u32 index, void *context)
{
	struct attribute_search *search = context;
	struct nlattr attribute = {};
	__u32 type;

	if (search->offset + sizeof(attribute) > search->end ||
	    read_memory(&attribute, sizeof(attribute), search->data + search->offset, search->user) ||
	    attribute.nla_len < sizeof(attribute) || attribute.nla_len > search->end - search->offset)
		return 1;
	type = attribute.nla_type & NLA_TYPE_MASK;
	search->seen |= 1ULL << (type & 63);
	if (type == NFTA_TABLE_NAME)
		search->table = search->offset + sizeof(attribute);
	if (type == NFTA_CHAIN_POLICY)
		read_memory(&search->policy, sizeof(search->policy), search->data + search->offset + sizeof(attribute),
			    search->user);
	search->offset += (attribute.nla_len + 3) & ~3U;
	return 0;
}

enum {
	MESSAGE_OWNED = 1,    /* of a table that user space owns */
	MESSAGE_HARMLESS = 2, /* a chain with counters that drops nothing: see nftables.h */
};

/* Not static: the verifier looks at it once, not with each state of the loop around it. */
__noinline __u32 look_at_attributes(__u64 data, __u32 offset, __u32 end, __u32 family, bool user)
{
	struct attribute_search search = {
		.data = (void *)data,
		.offset = offset,
		.end = end,
		.table = unknown_zero(),
		.policy = bpf_htonl(NF_ACCEPT + unknown_zero()),
		.user = user,
	};
	struct guard_owned_table key = { .family = family };
	__u32 result = 0;

	bpf_loop(MOST_ATTRIBUTES, search_attribute, &search, 0);
	if (!search.table)
		return 0;
	if (user)
		bpf_probe_read_user_str(key.name, sizeof(key.name), search.data + search.table);
	else
		bpf_probe_read_kernel_str(key.name, sizeof(key.name), search.data + search.table);
	if (bpf_map_lookup_elem(&owned_tables, &key))
		result |= MESSAGE_OWNED;
	if (search.seen & (1ULL << NFTA_CHAIN_COUNTERS) && search.policy == bpf_htonl(NF_ACCEPT))
		result |= MESSAGE_HARMLESS;
	return result;
}

#define READING_MESSAGES                                                                                               \
	(MESSAGE(GETTABLE) | MESSAGE(GETCHAIN) | MESSAGE(GETRULE) | MESSAGE(GETSET) | MESSAGE(GETSETELEM) |            \
	 MESSAGE(GETGEN) | MESSAGE(GETOBJ) | MESSAGE(GETOBJ_RESET) | MESSAGE(GETFLOWTABLE))

static __always_inline bool only_reads(__u32 message)
{
	return message < 64 && READING_MESSAGES >> message & 1;
}

/* True when nothing further can say more. */
static __always_inline bool look_at_message(struct witness_walk *walk, __u32 message, __u32 family, __u32 attributes,
					    __u32 end)
{
	__u32 found = look_at_attributes((__u64)walk->data, attributes, end, family, walk->user);
	bool owned = found & MESSAGE_OWNED;

	walk->refused |= found & MESSAGE_OWNED;
	if (!judge_message(message) || (walk->end && !owned))
		return false;
	if (message == NFT_MSG_NEWCHAIN && found & MESSAGE_HARMLESS)
		return false;
	walk->message = message;
	walk->family = family;
	walk->position = walk->messages;
	walk->named = walk->data;
	walk->attributes = attributes;
	walk->end = end;
	return owned;
}

static __always_inline long next_piece(struct witness_walk *walk)
{
	struct user_iovec piece = {};

	if (!walk->left || bpf_probe_read_user(&piece, sizeof(piece), walk->pieces))
		return 1;
	walk->left--;
	walk->pieces++;
	walk->data = piece.data;
	walk->length = piece.length > 0xffffffff ? 0xffffffff : piece.length;
	walk->offset = 0;
	return 0;
}

static long witness_message(__u32 index, void *context)
{
	struct witness_walk *walk = context;
	struct {
		struct nlmsghdr header;
		struct nfgenmsg nfgen;
	} read = {};
	__u32 rest, step, message;

	if (walk->offset >= walk->length)
		return next_piece(walk);
	/* What contradicts itself ends the transaction, for the kernel too. */
	if (walk->length - walk->offset < sizeof(read))
		return 1;
	rest = walk->length - walk->offset;
	if (read_memory(&read, sizeof(read), walk->data + walk->offset, walk->user) ||
	    read.header.nlmsg_len < sizeof(read) || read.header.nlmsg_len > rest)
		return 1;
	message = NFNL_MSG_TYPE(read.header.nlmsg_type);
	if (NFNL_SUBSYS_ID(read.header.nlmsg_type) == NFNL_SUBSYS_NFTABLES && !only_reads(message) &&
	    look_at_message(walk, message, read.nfgen.nfgen_family, walk->offset + sizeof(read),
			    walk->offset + read.header.nlmsg_len))
		return 1;
	walk->messages++;
	step = (read.header.nlmsg_len + 3) & ~3U;
	walk->offset += step < rest ? step : rest;
	return 0;
}

static __always_inline void testify(struct witness_walk *walk, bool probe)
{
	struct attempt attempt = { .kind = GUARD_NFTABLES };
	struct message_attributes names = {};
	struct nlmsghdr first = {};
	__u32 verdict = GUARD_SEEN;

	if (!walk->data && next_piece(walk))
		return;
	if (read_memory(&first, sizeof(first), walk->data, walk->user) || first.nlmsg_type != NFNL_MSG_BATCH_BEGIN)
		return;
	walk->end = walk->refused = unknown_zero();
	bpf_loop(MOST_MESSAGES, witness_message, walk, 0);
	if (!walk->end)
		return;
	if (probe) {
		control.probe_seen = 1;
		return;
	}
	names.user = walk->user;
	read_attributes(&names, walk->named, walk->attributes, walk->end, walk->message);
	attempt.reason = judge_message(walk->message);
	attempt.message = walk->message;
	attempt.family = walk->family;
	attempt.position = walk->position;
	attempt.user = walk->user;
	if (names.table) {
		attempt.table = walk->named + names.table;
		attempt.table_length = names.table_length;
	}
	if (names.chain) {
		attempt.chain = walk->named + names.chain;
		attempt.chain_length = names.chain_length;
	}
	attempt.exemption = exemption_of_caller();
	/* The owner refuses the exempt as well: user space then gives the tables up. */
	if (walk->refused) {
		verdict = GUARD_REFUSED;
		count(GUARD_COUNT_REFUSED);
	} else if (attempt.exemption) {
		verdict = GUARD_EXEMPT;
		count(GUARD_COUNT_EXEMPT);
	} else if (control.mode == GUARD_AUDIT) {
		verdict = GUARD_AUDITED;
		count(GUARD_COUNT_AUDITED);
	}
	report(&attempt, GUARD_CGROUP, verdict);
}

enum send_kind {
	SEND_NONE,
	SEND_FLAT,    /* sendto, write: data, length */
	SEND_VECTOR,  /* writev: pieces, number */
	SEND_MESSAGE, /* sendmsg: struct msghdr */
};

/* A system call that may write to a socket. */
struct send_call {
	enum send_kind kind;
	__u32 fd;
	void *memory;
	__u64 number;
	bool addressed;
};

static __always_inline void read_call(struct send_call *call, struct task_struct *task)
{
	struct pt_regs___x86 *x86 = (void *)bpf_task_pt_regs((void *)task);
	struct pt_regs___arm64 *arm64 = (void *)x86;
	bool address = false;

	if (bpf_core_field_exists(x86->orig_ax)) {
		call->fd = BPF_CORE_READ(x86, di);
		call->memory = (void *)BPF_CORE_READ(x86, si);
		call->number = BPF_CORE_READ(x86, dx);
		address = BPF_CORE_READ(x86, r8) && (__u32)BPF_CORE_READ(x86, r9);
		switch (BPF_CORE_READ(x86, orig_ax)) {
		case 44:
			call->addressed = address;
			call->kind = SEND_FLAT;
			break;
		case 1:
			call->kind = SEND_FLAT;
			break;
		case 20:
			call->kind = SEND_VECTOR;
			break;
		case 46:
			call->kind = SEND_MESSAGE;
		}
	} else if (bpf_core_field_exists(arm64->syscallno)) {
		call->fd = BPF_CORE_READ(arm64, orig_x0);
		call->memory = (void *)BPF_CORE_READ(arm64, regs[1]);
		call->number = BPF_CORE_READ(arm64, regs[2]);
		address = BPF_CORE_READ(arm64, regs[4]) && (__u32)BPF_CORE_READ(arm64, regs[5]);
		switch (BPF_CORE_READ(arm64, syscallno)) {
		case 206:
			call->addressed = address;
			call->kind = SEND_FLAT;
			break;
		case 64:
			call->kind = SEND_FLAT;
			break;
		case 66:
			call->kind = SEND_VECTOR;
			break;
		case 211:
			call->kind = SEND_MESSAGE;
		}
	}
}

/* False when the caller's memory cannot be read. */
static __always_inline bool find_data(struct witness_walk *walk, struct send_call *call)
{
	struct user_msghdr message = {};

	walk->user = true;
	if (call->kind == SEND_FLAT) {
		walk->data = call->memory;
		walk->length = call->number;
		return true;
	}
	walk->pieces = call->memory;
	walk->left = call->number;
	if (call->kind == SEND_VECTOR)
		return true;
	if (bpf_probe_read_user(&message, sizeof(message), call->memory))
		return false;
	walk->pieces = message.pieces;
	walk->left = message.number;
	call->addressed = message.name && message.name_length;
	return true;
}

/* The socket behind a descriptor of the caller's; 0: it is no socket. */
static __always_inline struct sock *socket_of(struct task_struct *task, __u32 fd)
{
	struct fdtable *table = BPF_CORE_READ(task, files, fdt);
	struct file **files = BPF_CORE_READ(table, fd);
	struct socket *socket;
	struct file *file = 0;

	if (fd >= BPF_CORE_READ(table, max_fds) || bpf_probe_read_kernel(&file, sizeof(file), files + fd) || !file)
		return 0;
	if ((BPF_CORE_READ(file, f_inode, i_mode) & TYPE_MASK) != SOCKET_TYPE)
		return 0;
	socket = BPF_CORE_READ(file, private_data);
	return BPF_CORE_READ(socket, sk);
}

/*
 * One check for each datagram, of who writes; one more before it, of who opened
 * the socket, when no address is given. True after the last.
 */
static __always_inline bool all_checked(const struct send_call *call, bool passed)
{
	__u32 thread = (__u32)bpf_get_current_pid_tgid();

	if (call->addressed || !bpf_map_delete_elem(&half_checked, &thread))
		return passed;
	if (passed)
		bpf_map_update_elem(&half_checked, &thread, &thread, BPF_ANY);
	return false;
}

#endif
