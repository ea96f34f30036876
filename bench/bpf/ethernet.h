/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
#ifndef SLUICE_BENCH_ETHERNET_H
#define SLUICE_BENCH_ETHERNET_H
#include <linux/if_ether.h>

/* Both addresses from a configuration that starts with them. Read as volatile: a plain copy of a constant that is filled
 * in at load time would be folded to the zeros it has at compile time. */
static __always_inline void write_macs(struct ethhdr *eth, const volatile void *config) {
  const volatile __u32 *from = config;
  __u32 *to = (void *)eth;
  to[0] = from[0];
  to[1] = from[1];
  to[2] = from[2];
}

#endif
