// SPDX-License-Identifier: GPL-2.0-only
/* What BPF_PROG_TEST_RUN says of a program that does nothing: taken off every other figure. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "types.h"

volatile struct control control SEC(".data.control");

SEC("tc")
int empty(struct __sk_buff *skb)
{
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
