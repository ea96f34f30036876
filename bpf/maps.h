/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * maps.h: the maps that the steering program shares with the engine. The engine (native/io/steer.cc) writes all of them
 * but steer_counters; keys, values and bounds are those of native/abi/dataplane.h.
 */
#ifndef SLUICE_BPF_MAPS_H
#define SLUICE_BPF_MAPS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "dataplane.h"
#include "flow_shared.h"

/* AF_XDP sockets; key: slot * SL_QUEUES_MAX + queue. The kernel empties an entry when its socket closes. */
struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, SL_XSKS_MAX);
	__type(key, __u32);
	__type(value, __u32);
} xsks SEC(".maps");

/* Netdevs that the configuration names; key: ifindex % SL_STEER_PORTS. An array, because each frame asks. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SL_STEER_PORTS);
	__type(key, __u32);
	__type(value, struct sl_steer_port);
} ports SEC(".maps");

/* 802.1Q tags that an interface names, a netdev. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, SL_INTERFACES_MAX);
	__type(key, struct sl_steer_vlan);
	__type(value, __u16);
} vlans SEC(".maps");

/* Addresses of the appliance. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, SL_LOCAL_ADDRESSES_MAX);
	__type(key, struct sl_address);
	__type(value, struct sl_local_address);
} local_addresses SEC(".maps");

/* One bit a port that NAT uses on an address it shares with the host; the engine's memory, too. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SL_NAT_PORT_WORDS);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, __u64);
} nat_ports SEC(".maps");

/* One bit a UDP port on which the engine listens itself (tunnels), on each of our addresses; the engine's memory, too. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SL_ENGINE_PORTS_WORDS);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, __u64);
} engine_ports SEC(".maps");

/* What became of the frames; key: slot; one more row for netdevs that `ports` does not know. */
struct counter_row {
	__u64 value[SL_STEER_KEYS];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SL_STEER_ROWS);
	__type(key, __u32);
	__type(value, struct counter_row);
} steer_counters SEC(".maps");

/* Where the program itself sends frames; key: port slot, value: ifindex. */
struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, SL_PORTS_MAX);
	__type(key, __u32);
	__type(value, __u32);
} tx_ports SEC(".maps");

/*
 * Flow memory: see native/abi/dataplane.h. The engine sets the sizes that it needs before it loads the program. The variable is
 * the value of a map, too, which the engine calls flow_header: no other variable may stand in this section.
 */
struct flow_shared flow;

#define FLOW_MAP(name, entries, type_name)                \
	struct {                                          \
		__uint(type, BPF_MAP_TYPE_ARRAY);         \
		__uint(max_entries, entries);             \
		__uint(map_flags, BPF_F_MMAPABLE);        \
		__type(key, __u32);                       \
		__type(value, type_name);                 \
	} name SEC(".maps")

FLOW_MAP(flow_buckets, 64, struct sl_flow_bucket);
FLOW_MAP(sessions, 64, struct sl_session);
FLOW_MAP(nat_mappings, 64, struct sl_nat_mapping);

_Static_assert(SL_XSKS_MAX == SL_PORTS_MAX * SL_QUEUES_MAX, "one xsks entry a port and queue");
_Static_assert(SL_NAT_PORT_WORDS == SL_NAT_SLOTS_MAX * SL_NAT_PROTOCOLS * 1024, "65536 bits a slot and protocol");
_Static_assert(SL_ENGINE_PORTS_WORDS * 64 == 65536, "a bit a port");
_Static_assert((SL_INTERFACES_MAX & (SL_INTERFACES_MAX - 1)) == 0, "a mask bounds an interface's slot");
_Static_assert(SL_STEER_ROWS == SL_PORTS_MAX + 1, "one row a port, one for unknown netdevs");
_Static_assert((int)SL_DROP_REASON_COUNT <= SL_STEER_BASE, "drop reasons stand below the steering counters");
_Static_assert(SL_STEER_BASE + (int)SL_STEER_COUNTER_COUNT <= SL_STEER_KEYS, "steering counters fit a row");

#endif
