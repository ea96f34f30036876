/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * flow_shared.h: the part of flow memory (dataplane.h) that stands at an address which the XDP program knows: its global
 * variable, so that a packet looks none of it up. The engine maps it as the map flow_header. Not in dataplane.h, because
 * nothing in TypeScript reads it, and its arrays are long.
 */
#ifndef SLUICE_FLOW_SHARED_H
#define SLUICE_FLOW_SHARED_H

#include "dataplane.h"

#define SL_RECENT_FLOWS_BITS 15

struct flow_shared {
  struct sl_flow_header header;
  struct sl_interface_state interfaces[SL_INTERFACES_MAX];
  struct sl_adjacency adjacencies[SL_ADJACENCIES_MAX];
  sl_u64 recent[1 << SL_RECENT_FLOWS_BITS]; /* the program's own: flows seen lately, see bpf/offload.h */
};

#endif
