// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Refuses iptables, nf_tables, ebtables and arptables writes in one network
 * namespace, which is that of the socket written to, whoever writes.
 *
 * The same bodies hang on three kinds of hooks; user space attaches the
 * strongest that is proved to refuse:
 *   lsm/…       needs bpf in the kernel's list of security modules: without
 *               it the programs attach and are never called
 *   fmod_ret/…  the same places, without that condition
 *   cgroup/…    setsockopt only; what iptables-nft writes is kept away by
 *               tables that user space owns, and a witness names who wrote
 */
#include "guard/maps.h"

#include <linux/ptrace.h>
#include <bpf/bpf_tracing.h>

#include "guard/caller.h"
#include "guard/legacy.h"
#include "guard/nftables.h"
#include "guard/witness.h"

char _license[] SEC("license") = "Dual BSD/GPL";

#define SETSOCKOPT_X86 54
#define SETSOCKOPT_ARM64 208

/*
 * The constant comes from its own branch: from 6.12 on the verifier wants to
 * see that it is in [-4095, 0], and clang makes arithmetic of a plain ?: .
 */
#define RETURN_REFUSED(refused)                                                                                        \
	do {                                                                                                           \
		long result_ = 0;                                                                                      \
		if (refused)                                                                                           \
			asm volatile("%0 = -1" : "=r"(result_));                                                       \
		else                                                                                                   \
			asm volatile("%0 = 0" : "=r"(result_));                                                        \
		return result_;                                                                                        \
	} while (0)

/* Whether the namespace is ours to judge. */
static __always_inline bool watched(__u64 cookie, __u32 backend, bool *probe)
{
	*probe = control.probe_cookie && cookie == control.probe_cookie && control.probe_backend == backend;
	if (*probe)
		return true;
	return control.mode != GUARD_OFF && cookie && cookie == control.namespace_cookie;
}

static __always_inline bool refuse_netlink(struct sock *sk, struct sk_buff *skb, __u32 backend)
{
	struct message_attributes names = {};
	struct attempt attempt = { .kind = GUARD_NFTABLES };
	struct batch_walk walk = { .found = unknown_zero(), .attributes = unknown_zero(), .done = unknown_zero() };
	bool probe;

	if (BPF_CORE_READ(sk, sk_protocol) != NETFILTER_PROTOCOL)
		return false;
	if (!watched(BPF_CORE_READ(sk, __sk_common.skc_net.net, net_cookie), backend, &probe))
		return false;
	walk.data = BPF_CORE_READ(skb, data);
	walk.length = BPF_CORE_READ(skb, len);
	bpf_loop(MOST_MESSAGES, walk_message, &walk, 0);
	if (!walk.found && !walk.done)
		walk.found = GUARD_UNINSPECTABLE;
	if (!walk.found)
		return false;
	attempt.reason = walk.found;
	attempt.message = walk.message;
	attempt.family = walk.family;
	attempt.position = walk.messages;
	if (walk.attributes) {
		read_attributes(&names, walk.data, walk.attributes, walk.end, walk.message);
		if (names.table) {
			attempt.table = walk.data + names.table;
			attempt.table_length = names.table_length;
		}
		if (names.chain) {
			attempt.chain = walk.data + names.chain;
			attempt.chain_length = names.chain_length;
		}
	}
	return refuse(&attempt, backend, probe);
}

static __always_inline bool refuse_replace(__u32 kind, int optname, const struct table_source *source, __u32 backend,
					   bool probe)
{
	char name[32] = {};
	struct attempt attempt = { .kind = kind, .message = optname, .table_name = name };

	attempt.family = family_of(kind);
	attempt.reason = GUARD_UNINSPECTABLE;
	if (source->start) {
		if (kind == GUARD_IPTABLES || kind == GUARD_IP6TABLES)
			attempt.reason = judge_ipt(source, &attempt, name);
		else if (kind == GUARD_ARPTABLES)
			attempt.reason = judge_arpt(source, &attempt, name);
		else
			attempt.reason = judge_ebt(source, &attempt, name);
	}
	if (attempt.reason)
		return refuse(&attempt, backend, probe);
	if (!probe)
		count(GUARD_COUNT_REMOVED);
	return false;
}

/*
 * The value's address, from the registers of a native setsockopt. Anything
 * else (a 32-bit caller, io_uring) stays without one and cannot be inspected.
 */
static __always_inline void source_of_caller(struct table_source *source)
{
	struct task_struct *task = (void *)bpf_get_current_task_btf();
	struct pt_regs___x86 *x86 = (void *)bpf_task_pt_regs((void *)task);
	struct pt_regs___arm64 *arm64 = (void *)x86;

	source->user = true;
	if (BPF_CORE_READ(task, flags) & IO_WORKER)
		return;
	if (bpf_core_field_exists(x86->orig_ax)) {
		if (BPF_CORE_READ(x86, orig_ax) != SETSOCKOPT_X86)
			return;
		source->start = (void *)BPF_CORE_READ(x86, r10);
		source->available = (__u32)BPF_CORE_READ(x86, r8);
	} else if (bpf_core_field_exists(arm64->syscallno)) {
		if (BPF_CORE_READ(arm64, syscallno) != SETSOCKOPT_ARM64)
			return;
		source->start = (void *)BPF_CORE_READ(arm64, regs[3]);
		source->available = (__u32)BPF_CORE_READ(arm64, regs[4]);
	}
}

static __always_inline bool refuse_setsockopt(struct socket *socket, int level, int optname, __u32 backend)
{
	__u32 kind = legacy_kind(level, optname);
	struct table_source source = {};
	bool probe;

	if (!kind || !watched(BPF_CORE_READ(socket, sk, __sk_common.skc_net.net, net_cookie), backend, &probe))
		return false;
	source_of_caller(&source);
	return refuse_replace(kind, optname, &source, backend, probe);
}

SEC("lsm/netlink_send")
int BPF_PROG(guard_lsm_netlink, struct sock *sk, struct sk_buff *skb)
{
	RETURN_REFUSED(refuse_netlink(sk, skb, GUARD_LSM));
}

SEC("lsm/socket_setsockopt")
int BPF_PROG(guard_lsm_option, struct socket *socket, int level, int optname)
{
	RETURN_REFUSED(refuse_setsockopt(socket, level, optname, GUARD_LSM));
}

SEC("fmod_ret/security_netlink_send")
int BPF_PROG(guard_fmod_netlink, struct sock *sk, struct sk_buff *skb)
{
	RETURN_REFUSED(refuse_netlink(sk, skb, GUARD_FMOD_RET));
}

SEC("fmod_ret/security_socket_setsockopt")
int BPF_PROG(guard_fmod_option, struct socket *socket, int level, int optname)
{
	RETURN_REFUSED(refuse_setsockopt(socket, level, optname, GUARD_FMOD_RET));
}

/* 1 lets through, 0 is EPERM to the caller. Called for every setsockopt of the machine. */
SEC("cgroup/setsockopt")
int guard_cgroup_option(struct bpf_sockopt *ctx)
{
	__u32 kind = legacy_kind(ctx->level, ctx->optname);
	struct table_source source = {};
	int length = ctx->optlen;
	bool probe;

	/* Only the first page was copied: 0 tells the kernel to take the caller's own bytes. */
	if (length > 4096)
		ctx->optlen = 0;
	if (!kind || !watched(bpf_get_netns_cookie(ctx), GUARD_CGROUP, &probe))
		return 1;
	source.start = (void *)(long)ctx->optval;
	source.available = length < 0 ? 0 : length > 4096 ? 4096 : length;
	return !refuse_replace(kind, ctx->optname, &source, GUARD_CGROUP, probe);
}

SEC("kprobe/nfnetlink_rcv")
int BPF_KPROBE(guard_witness_kprobe, struct sk_buff *skb)
{
	struct witness_walk walk = {};
	bool probe;

	if (!watched(BPF_CORE_READ(skb, sk, __sk_common.skc_net.net, net_cookie), GUARD_CGROUP, &probe))
		return 0;
	walk.data = BPF_CORE_READ(skb, data);
	walk.length = BPF_CORE_READ(skb, len);
	testify(&walk, probe);
	return 0;
}

/* Called for each check of a capability: what is not CAP_NET_ADMIN goes at once. */
SEC("raw_tp/cap_capable")
int BPF_PROG(guard_witness_capable, const void *cred, const void *target, const void *owner, int capability, int result)
{
	struct witness_walk walk = {};
	struct send_call call = {};
	struct task_struct *task;
	struct sock *sk;
	bool probe;

	if (capability != NET_ADMIN)
		return 0;
	task = (void *)bpf_get_current_task_btf();
	if (BPF_CORE_READ(task, flags) & IO_WORKER)
		return 0;
	read_call(&call, task);
	if (call.kind == SEND_NONE)
		return 0;
	sk = socket_of(task, call.fd);
	if (!sk || BPF_CORE_READ(sk, __sk_common.skc_family) != NETLINK_FAMILY ||
	    BPF_CORE_READ(sk, sk_protocol) != NETFILTER_PROTOCOL)
		return 0;
	if (!watched(BPF_CORE_READ(sk, __sk_common.skc_net.net, net_cookie), GUARD_CGROUP, &probe) ||
	    !find_data(&walk, &call) || !all_checked(&call, !result))
		return 0;
	testify(&walk, probe);
	return 0;
}
