// SPDX-License-Identifier: GPL-2.0-only
/*
 * The datapath, in which the routes are published once between the answer that a program has got and what it does with
 * it: control.event_rate, with its highest bit set, says in which slot.
 */
#include "route.h"

static __always_inline struct nexthop *nexthop_after_publication(__u32 index) {
  __u32 rate = control.event_rate;

  if (rate >> 31) {
    ++*(volatile __u32 *)((volatile void *)control.route_generations + (__u16)rate);
    control.event_rate = 0;
  }
  return nexthop_at(index);
}
#define nexthop_at nexthop_after_publication

#include "hostroute.bpf.c"
