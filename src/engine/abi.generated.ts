// Generated from native/abi/dataplane.h by scripts/generate-abi.mjs. Do not edit: change the header and run `npm run abi`.
// Readers return views for byte fields (addresses, MACs): they share the buffer; copy what must outlive it.
// Writers check each value against its field and throw RangeError; they set reserved fields to zero.

// ---- constants ----
export const SL_ABI_VERSION = 2;
export const SL_SNAPSHOT_MAGIC = 1346457171;
export const SL_PORTS_MAX = 32;
export const SL_QUEUES_MAX = 64;
export const SL_XSKS_MAX = 2048;
export const SL_INTERFACES_MAX = 256;
export const SL_ZONES_MAX = 64;
export const SL_RULES_MAX = 131072;
export const SL_LOCAL_ADDRESSES_MAX = 1024;
export const SL_NAT_SLOTS_MAX = 64;
export const SL_VLAN_NONE = 65535;
export const SL_PROTOCOL_ANY = 65535;
export const SL_NAT_SLOT_NONE = 65535;
export const SL_NAT_PORT_RESERVED = 65330;
export const SL_IPV6_EXTENSIONS_MAX = 8;
export const SL_FRAME_BYTES_MAX = 3506;
export const SL_NAME_BYTES = 16;
export const SL_WIREGUARDS_MAX = 64;
export const SL_WIREGUARD_PEERS_MAX = 16384;
export const SL_ENGINE_PORTS_WORDS = 1024;
export const SL_STEER_PORTS = 4096;
export const SL_STEER_PORT_UNTAGGED = 1;
export const SL_STEER_PORT_PARTIAL = 2;
export const SL_LOCAL_ENGINE = 1;
export const SL_NAT_PROTOCOLS = 3;
export const SL_NAT_PORT_WORDS = 196608;
export const SL_STEER_KEYS = 80;
export const SL_STEER_BASE = 64;
export const SL_STEER_ROWS = 33;
export const SL_FLOW_MEMORY_VERSION = 4;
export const SL_ADJACENCIES_MAX = 65536;
export const SL_FLOW_BUCKET_SLOTS = 10;
export const SL_GRACE_TICKS = 1;
export const SL_TICK_SHIFT = 28;
export const SL_TCP_ACK_WINDOW_MIN = 66000;
export const SL_OFFLOAD_NOT_YET = 0;
export const SL_OFFLOAD_ON = 1;
export const SL_OFFLOAD_NEVER = 2;
export const SL_TCP_FIN_SEEN = 1;
export const SL_TCP_FIN_ACKED = 4;
export const SL_TCP_ACK_SEEN = 16;
export const SL_TCP_SCALE_SEEN = 64;
export const SL_OFFLOAD_ONE_WAY_PACKETS = 8;
export const SL_ADJACENCY_RESOLVED = 0;
export const SL_ADJACENCY_FAILED = 0;
export const SL_LOG_START = 1;
export const SL_LOG_END = 2;
export const SL_RULE_NO_OFFLOAD = 1;
export const SL_NAT_RULE_ENDPOINT_DEPENDENT = 1;
export const SL_NAT_RULE_IPV4 = 2;
export const SL_NAT_RULE_IPV6 = 4;
export const SL_CAPTURES_MAX = 4;
export const SL_CAPTURE_IN = 1;
export const SL_CAPTURE_OUT = 2;
export const SL_CAPTURE_PORT = 1;
export const SL_CAPTURE_BOTH_WAYS = 2;
export const SL_CAPTURE_DROPPED = 4;
export const SL_CAPTURE_NOT_DROPPED = 8;
export const SL_LATENCY_BUCKETS = 32;

// ---- lists that people see ----
export interface ListEntry { readonly value: number; readonly name: string; readonly help: string }

export const DropReason = { NONE: 0, TRUNCATED: 1, MALFORMED_ETHERNET: 2, MALFORMED_IPV4: 3, MALFORMED_IPV6: 4, MALFORMED_L4: 5, CHECKSUM_IPV4: 6, CHECKSUM_L4: 7, MARTIAN_SOURCE: 8, MARTIAN_DESTINATION: 9, OTHER_STATION: 10, UNKNOWN_VLAN: 11, UNKNOWN_PORT: 12, NO_ENGINE: 13, ND_HOP_LIMIT: 14, ANTI_SPOOFING: 15, NO_ROUTE: 16, BLACKHOLE_ROUTE: 17, TTL_EXPIRED: 18, TOO_BIG: 19, POLICY_DENY: 20, POLICY_REJECT: 21, POLICY_CHANGED: 22, TCP_NOT_SYN: 23, TCP_BAD_FLAGS: 24, TCP_WINDOW: 25, TCP_RST_SEQUENCE: 26, TCP_STATE: 27, ICMP_NO_SESSION: 28, ICMP_BAD_EMBEDDED: 29, SESSION_TABLE_FULL: 30, SESSION_LIMIT: 31, NAT_PORTS_EXHAUSTED: 32, NAT_CONFLICT: 33, NAT_FILTERED: 34, NEIGHBOUR_UNRESOLVED: 35, NEIGHBOUR_QUEUE_FULL: 36, LINK_DOWN: 37, FRAGMENT_OVERLAP: 38, FRAGMENT_TABLE_FULL: 39, FRAGMENT_TIMEOUT: 40, FRAGMENT_MALFORMED: 41, FRAGMENT_DENIED: 42, UMEM_EXHAUSTED: 43, RX_RING_FULL: 44, TX_RING_FULL: 45, HOST_QUEUE_FULL: 46, NO_SNAPSHOT: 47, RATE_LIMITED: 48, WIREGUARD_MALFORMED: 49, WIREGUARD_HANDSHAKE_MAC: 50, WIREGUARD_HANDSHAKE_LIMIT: 51, WIREGUARD_UNKNOWN_INDEX: 52, WIREGUARD_AUTHENTICATION: 53, WIREGUARD_REPLAY: 54, WIREGUARD_ALLOWED_IPS: 55, WIREGUARD_NO_PEER: 56, WIREGUARD_NO_SESSION: 57, ENCRYPTION_REQUIRED: 58, TUNNEL_CONGESTION: 59, ROUTING_HEADER: 60 } as const;
export type DropReason = (typeof DropReason)[keyof typeof DropReason];
export const SL_DROP_REASON_COUNT = 61;
export const DROP_REASONS: readonly ListEntry[] = [
  { value: 0, name: 'none', help: 'not dropped' },
  { value: 1, name: 'truncated', help: 'frame ends before its headers do, or IP total length exceeds the frame' },
  { value: 2, name: 'malformed-ethernet', help: 'Ethernet header or ethertype that is not IP, ARP or a known VLAN' },
  { value: 3, name: 'malformed-ipv4', help: 'bad version, header length, total length or options' },
  { value: 4, name: 'malformed-ipv6', help: 'bad version, payload length, or extension header chain' },
  { value: 5, name: 'malformed-l4', help: 'TCP, UDP or ICMP header with impossible lengths or flags' },
  { value: 6, name: 'checksum-ipv4', help: 'IPv4 header checksum is wrong' },
  { value: 7, name: 'checksum-l4', help: 'TCP, UDP, ICMP or ICMPv6 checksum is wrong' },
  { value: 8, name: 'martian-source', help: 'source address that no packet may carry: loopback, multicast, broadcast, unspecified' },
  { value: 9, name: 'martian-destination', help: 'destination that is never forwarded: loopback, link-local, multicast, broadcast, unspecified' },
  { value: 10, name: 'other-station', help: 'frame to the link address of another station' },
  { value: 11, name: 'unknown-vlan', help: '802.1Q tag that no interface names' },
  { value: 12, name: 'unknown-port', help: 'frame from a netdev that the configuration does not name' },
  { value: 13, name: 'no-engine', help: 'no engine socket is bound to this queue: closed while the engine is away' },
  { value: 14, name: 'nd-hop-limit', help: 'neighbour discovery with a hop limit other than 255' },
  { value: 15, name: 'anti-spoofing', help: 'source address is not routed to the interface it came in on' },
  { value: 16, name: 'no-route', help: 'no route to the destination' },
  { value: 17, name: 'blackhole-route', help: 'the route says blackhole' },
  { value: 18, name: 'ttl-expired', help: 'TTL or hop limit ran out here' },
  { value: 19, name: 'too-big', help: 'larger than the egress MTU and must not be fragmented' },
  { value: 20, name: 'policy-deny', help: 'a rule denies it, or no rule allows it' },
  { value: 21, name: 'policy-reject', help: 'a rule rejects it; the sender was told' },
  { value: 22, name: 'policy-changed', help: 'the session is no longer allowed after a commit' },
  { value: 23, name: 'tcp-not-syn', help: 'TCP segment without a session that does not open one' },
  { value: 24, name: 'tcp-bad-flags', help: 'TCP flag combination that no stack sends' },
  { value: 25, name: 'tcp-window', help: 'sequence or acknowledgement outside the window' },
  { value: 26, name: 'tcp-rst-sequence', help: 'RST that does not carry the exact sequence (RFC 5961)' },
  { value: 27, name: 'tcp-state', help: 'segment that does not fit the session\'s state' },
  { value: 28, name: 'icmp-no-session', help: 'ICMP error or reply that belongs to no session' },
  { value: 29, name: 'icmp-bad-embedded', help: 'ICMP error whose embedded packet is cut short or does not fit its session' },
  { value: 30, name: 'session-table-full', help: 'no room for another session' },
  { value: 31, name: 'session-limit', help: 'the source or rule has as many sessions as it may' },
  { value: 32, name: 'nat-ports-exhausted', help: 'no free port in the SNAT pool' },
  { value: 33, name: 'nat-conflict', help: 'the translated flow would collide with another session' },
  { value: 34, name: 'nat-filtered', help: 'inbound packet to a NAT mapping that its filtering does not admit' },
  { value: 35, name: 'neighbour-unresolved', help: 'the next hop\'s link address is not known (yet, or at all)' },
  { value: 36, name: 'neighbour-queue-full', help: 'too many packets wait for this next hop\'s link address' },
  { value: 37, name: 'link-down', help: 'the egress interface is down' },
  { value: 38, name: 'fragment-overlap', help: 'overlapping fragments: the whole datagram is discarded (RFC 5722)' },
  { value: 39, name: 'fragment-table-full', help: 'no room for another fragmented datagram' },
  { value: 40, name: 'fragment-timeout', help: 'held fragment whose first fragment never came' },
  { value: 41, name: 'fragment-malformed', help: 'impossible fragment: zero length, past 65535, header chain cut (RFC 7112)' },
  { value: 42, name: 'fragment-denied', help: 'fragment of a datagram whose first fragment was dropped' },
  { value: 43, name: 'umem-exhausted', help: 'no free packet buffer' },
  { value: 44, name: 'rx-ring-full', help: 'the engine did not take packets as fast as they came' },
  { value: 45, name: 'tx-ring-full', help: 'the egress transmit ring is full' },
  { value: 46, name: 'host-queue-full', help: 'the path to the host\'s stack is full' },
  { value: 47, name: 'no-snapshot', help: 'no forwarding state is loaded yet' },
  { value: 48, name: 'rate-limited', help: 'over a rate limit' },
  { value: 49, name: 'wireguard-malformed', help: 'WireGuard message of an unknown type or an impossible length' },
  { value: 50, name: 'wireguard-handshake-mac', help: 'handshake message whose mac1 is not for our key' },
  { value: 51, name: 'wireguard-handshake-limit', help: 'handshake message over a limit: of its source, or under load without a valid cookie' },
  { value: 52, name: 'wireguard-unknown-index', help: 'transport message of a session that we do not have, or no longer' },
  { value: 53, name: 'wireguard-authentication', help: 'transport message that does not authenticate' },
  { value: 54, name: 'wireguard-replay', help: 'transport message that came before, or is older than the replay window' },
  { value: 55, name: 'wireguard-allowed-ips', help: 'decrypted packet whose source is not among its peer\'s allowed IPs' },
  { value: 56, name: 'wireguard-no-peer', help: 'no peer of the interface has the destination among its allowed IPs' },
  { value: 57, name: 'wireguard-no-session', help: 'no session with the peer: no endpoint, or its handshake was not answered' },
  { value: 58, name: 'encryption-required', help: 'the route wants encryption, and no WireGuard interface takes the packet' },
  { value: 59, name: 'tunnel-congestion', help: 'marked as congested on its way through a tunnel, and its sender does not know ECN (RFC 6040)' },
  { value: 60, name: 'routing-header', help: 'IPv6 routing header that sends the packet on to somewhere else than the address that the rules see' },
];

export const Counter = { RX_PACKETS: 0, RX_BYTES: 1, TX_PACKETS: 2, TX_BYTES: 3, HOST_PACKETS: 4, FAST_PATH_HITS: 5, SLOW_PATH_PACKETS: 6, SESSIONS_CREATED: 7, SESSIONS_OFFLOADED: 8, SESSIONS_ENDED: 9, REVALIDATIONS: 10, ICMP_ERRORS_SENT: 11, ICMP_ERRORS_SUPPRESSED: 12, TCP_RESETS_SENT: 13, FRAGMENTS: 14, FRAGMENTS_HELD: 15, NEIGHBOUR_HELD: 16, CHECKSUMS_COMPLETED: 17, CAPTURES_LOST: 18, RECORDS_LOST: 19, DROP_RECORDS_SAMPLED: 20, WIREGUARD_SEALED: 21, WIREGUARD_OPENED: 22, WIREGUARD_HANDSHAKES: 23, WIREGUARD_COOKIES: 24, WIREGUARD_EVENTS_LOST: 25, FROM_HOST_PACKETS: 26, TX_KICKS: 27, POLLS: 28, SESSIONS_EVICTED: 29 } as const;
export type Counter = (typeof Counter)[keyof typeof Counter];
export const SL_COUNTER_COUNT = 30;
export const COUNTERS: readonly ListEntry[] = [
  { value: 0, name: 'rx-packets', help: 'packets received by the engine' },
  { value: 1, name: 'rx-bytes', help: 'bytes received by the engine, Ethernet header included' },
  { value: 2, name: 'tx-packets', help: 'packets sent by the engine' },
  { value: 3, name: 'tx-bytes', help: 'bytes sent by the engine, Ethernet header included' },
  { value: 4, name: 'host-packets', help: 'packets handed to the host\'s stack' },
  { value: 5, name: 'fast-path-hits', help: 'packets of a known session' },
  { value: 6, name: 'slow-path-packets', help: 'packets that needed a decision' },
  { value: 7, name: 'sessions-created', help: 'sessions created' },
  { value: 8, name: 'sessions-offloaded', help: 'sessions handed to the XDP program' },
  { value: 9, name: 'sessions-ended', help: 'sessions ended' },
  { value: 10, name: 'revalidations', help: 'sessions checked again after a commit' },
  { value: 11, name: 'icmp-errors-sent', help: 'ICMP and ICMPv6 errors sent' },
  { value: 12, name: 'icmp-errors-suppressed', help: 'ICMP errors not sent because of the rate limit' },
  { value: 13, name: 'tcp-resets-sent', help: 'TCP resets sent for reject rules' },
  { value: 14, name: 'fragments', help: 'fragments seen' },
  { value: 15, name: 'fragments-held', help: 'fragments held until their first fragment came' },
  { value: 16, name: 'neighbour-held', help: 'packets held until their next hop was resolved' },
  { value: 17, name: 'checksums-completed', help: 'partial checksums of packets born on this machine, completed' },
  { value: 18, name: 'captures-lost', help: 'copies of packets lost because nobody took them in time' },
  { value: 19, name: 'records-lost', help: 'flow or drop records lost because nobody read them in time' },
  { value: 20, name: 'drop-records-sampled', help: 'dropped packets without a record, because many were dropped at once' },
  { value: 21, name: 'wireguard-sealed', help: 'packets encrypted for a WireGuard peer' },
  { value: 22, name: 'wireguard-opened', help: 'packets of WireGuard peers that authenticated, keepalives included' },
  { value: 23, name: 'wireguard-handshakes', help: 'WireGuard handshake messages that passed the gate' },
  { value: 24, name: 'wireguard-cookies', help: 'WireGuard cookie replies sent, under load' },
  { value: 25, name: 'wireguard-events-lost', help: 'WireGuard messages and events lost because nobody took them in time' },
  { value: 26, name: 'from-host-packets', help: 'packets of the host\'s stack taken for tunnels' },
  { value: 27, name: 'tx-kicks', help: 'system calls that started transmission' },
  { value: 28, name: 'polls', help: 'times a worker slept' },
  { value: 29, name: 'sessions-evicted', help: 'sessions that nobody had answered, ended early because the table was nearly full' },
];

export const SteerCounter = { TO_ENGINE: 0, TO_HOST: 1, OFFLOADED: 2, OFFLOADED_BYTES: 3 } as const;
export type SteerCounter = (typeof SteerCounter)[keyof typeof SteerCounter];
export const SL_STEER_COUNTER_COUNT = 4;
export const STEER_COUNTERS: readonly ListEntry[] = [
  { value: 0, name: 'to-engine', help: 'redirected to an engine socket' },
  { value: 1, name: 'to-host', help: 'passed to the host\'s stack' },
  { value: 2, name: 'offloaded', help: 'packets of established sessions, rewritten and redirected by the program itself' },
  { value: 3, name: 'offloaded-bytes', help: 'IP bytes of these packets' },
];

export const RuleAction = { DENY: 0, ALLOW: 1, REJECT: 2 } as const;
export type RuleAction = (typeof RuleAction)[keyof typeof RuleAction];
export const SL_RULE_ACTION_COUNT = 3;
export const RULE_ACTIONS: readonly ListEntry[] = [
  { value: 0, name: 'deny', help: 'drop silently' },
  { value: 1, name: 'allow', help: 'allow and create a session' },
  { value: 2, name: 'reject', help: 'drop and tell the sender: TCP RST or ICMP administratively prohibited' },
];

export const NatKind = { SOURCE: 0, DESTINATION: 1, STATIC: 2, EXEMPT: 3 } as const;
export type NatKind = (typeof NatKind)[keyof typeof NatKind];
export const SL_NAT_KIND_COUNT = 4;
export const NAT_KINDS: readonly ListEntry[] = [
  { value: 0, name: 'source', help: 'SNAT to a pool or the interface\'s address' },
  { value: 1, name: 'destination', help: 'DNAT of an address and ports' },
  { value: 2, name: 'static', help: '1:1 in both directions' },
  { value: 3, name: 'exempt', help: 'source NAT stops here: no translation' },
];

export const NatFiltering = { ENDPOINT: 0, ADDRESS: 1, ADDRESS_PORT: 2 } as const;
export type NatFiltering = (typeof NatFiltering)[keyof typeof NatFiltering];
export const SL_NAT_FILTERING_COUNT = 3;
export const NAT_FILTERINGS: readonly ListEntry[] = [
  { value: 0, name: 'endpoint-independent', help: 'any peer may reach the mapping, as far as rules allow' },
  { value: 1, name: 'address-dependent', help: 'only addresses the inside has sent to' },
  { value: 2, name: 'address-and-port-dependent', help: 'only addresses and ports the inside has sent to' },
];

export const NexthopKind = { FORWARD: 0, BLACKHOLE: 1, REJECT: 2, UNENCRYPTED: 3 } as const;
export type NexthopKind = (typeof NexthopKind)[keyof typeof NexthopKind];
export const SL_NEXTHOP_KIND_COUNT = 4;
export const NEXTHOP_KINDS: readonly ListEntry[] = [
  { value: 0, name: 'forward', help: 'to a gateway, or to the destination itself when via is unspecified' },
  { value: 1, name: 'blackhole', help: 'drop silently' },
  { value: 2, name: 'reject', help: 'drop and answer unreachable' },
  { value: 3, name: 'unencrypted', help: 'the route wants encryption and has no way that encrypts: drop' },
];

export const AntiSpoofing = { STRICT: 0, LOOSE: 1, OFF: 2 } as const;
export type AntiSpoofing = (typeof AntiSpoofing)[keyof typeof AntiSpoofing];
export const SL_ANTI_SPOOFING_COUNT = 3;
export const ANTI_SPOOFINGS: readonly ListEntry[] = [
  { value: 0, name: 'strict', help: 'the route back to the source must leave by the same interface' },
  { value: 1, name: 'loose', help: 'there must be a route back to the source' },
  { value: 2, name: 'off', help: 'not checked' },
];

export const SessionState = { NEW: 0, TCP_SYN_SENT: 1, TCP_SYN_RECEIVED: 2, ESTABLISHED: 3, TCP_FIN_WAIT: 4, TCP_CLOSING: 5, TCP_TIME_WAIT: 6, CLOSED: 7 } as const;
export type SessionState = (typeof SessionState)[keyof typeof SessionState];
export const SL_SESSION_STATE_COUNT = 8;
export const SESSION_STATES: readonly ListEntry[] = [
  { value: 0, name: 'new', help: 'one direction seen' },
  { value: 1, name: 'syn-sent', help: 'SYN seen' },
  { value: 2, name: 'syn-received', help: 'SYN-ACK seen, or both sent SYN' },
  { value: 3, name: 'established', help: 'both directions seen; TCP: handshake done' },
  { value: 4, name: 'fin-wait', help: 'one side sent FIN' },
  { value: 5, name: 'closing', help: 'both sides sent FIN' },
  { value: 6, name: 'time-wait', help: 'both FINs acknowledged' },
  { value: 7, name: 'closed', help: 'reset or ended' },
];

export const SessionProtocol = { TCP: 0, UDP: 1, ICMP: 2, OTHER: 3 } as const;
export type SessionProtocol = (typeof SessionProtocol)[keyof typeof SessionProtocol];
export const SL_SESSION_PROTOCOL_COUNT = 4;
export const SESSION_PROTOCOLS: readonly ListEntry[] = [
  { value: 0, name: 'tcp', help: 'TCP' },
  { value: 1, name: 'udp', help: 'UDP' },
  { value: 2, name: 'icmp', help: 'ICMP and ICMPv6' },
  { value: 3, name: 'other', help: 'any other' },
];

export const FlowEvent = { START: 0, UPDATE: 1, END: 2 } as const;
export type FlowEvent = (typeof FlowEvent)[keyof typeof FlowEvent];
export const SL_FLOW_EVENT_COUNT = 3;
export const FLOW_EVENTS: readonly ListEntry[] = [
  { value: 0, name: 'start', help: 'session created' },
  { value: 1, name: 'update', help: 'still alive; only in session listings' },
  { value: 2, name: 'end', help: 'session ended' },
];

export const InterfaceKind = { PORT: 0, WIREGUARD: 1 } as const;
export type InterfaceKind = (typeof InterfaceKind)[keyof typeof InterfaceKind];
export const SL_INTERFACE_KIND_COUNT = 2;
export const INTERFACE_KINDS: readonly ListEntry[] = [
  { value: 0, name: 'port', help: 'a netdev, or a VLAN on it' },
  { value: 1, name: 'wireguard', help: 'a WireGuard interface' },
];

export const WireguardEvent = { MESSAGE: 0, WANTED: 1, CONFIRMED: 2, ROAMED: 3 } as const;
export type WireguardEvent = (typeof WireguardEvent)[keyof typeof WireguardEvent];
export const SL_WIREGUARD_EVENT_COUNT = 4;
export const WIREGUARD_EVENTS: readonly ListEntry[] = [
  { value: 0, name: 'message', help: 'a handshake message (types 1 to 3) that passed the gate; the message follows' },
  { value: 1, name: 'wanted', help: 'packets wait for a session with the peer' },
  { value: 2, name: 'confirmed', help: 'the first transport message of a session that we answered: it is the current one from here on' },
  { value: 3, name: 'roamed', help: 'the peer\'s endpoint changed: an authenticated message came from another one' },
];

export const EndReason = { NONE: 0, IDLE: 1, TCP_FIN: 2, TCP_RST: 3, POLICY_CHANGED: 4, KILLED: 5, REPLACED: 6, SHUTDOWN: 7, EVICTED: 8 } as const;
export type EndReason = (typeof EndReason)[keyof typeof EndReason];
export const SL_END_REASON_COUNT = 9;
export const END_REASONS: readonly ListEntry[] = [
  { value: 0, name: 'none', help: 'not ended' },
  { value: 1, name: 'idle', help: 'idle timeout' },
  { value: 2, name: 'tcp-fin', help: 'closed by both sides' },
  { value: 3, name: 'tcp-rst', help: 'reset' },
  { value: 4, name: 'policy-changed', help: 'a commit no longer allows it' },
  { value: 5, name: 'killed', help: 'ended by an operator' },
  { value: 6, name: 'replaced', help: 'a new connection took the same addresses and ports' },
  { value: 7, name: 'shutdown', help: 'the engine stopped' },
  { value: 8, name: 'evicted', help: 'nobody had answered, and the session table was nearly full' },
];

// ---- layouts ----
export const STRUCTS = {
  sl_steer_port: { size: 12, fields: {
    ifindex: { offset: 0, size: 4, type: 'u32', count: 1 },
    slot: { offset: 4, size: 2, type: 'u16', count: 1 },
    flags: { offset: 6, size: 2, type: 'u16', count: 1 },
    interface: { offset: 8, size: 2, type: 'u16', count: 1 },
    reserved: { offset: 10, size: 2, type: 'u16', count: 1 },
  } },
  sl_steer_vlan: { size: 8, fields: {
    ifindex: { offset: 0, size: 4, type: 'u32', count: 1 },
    vlan_id: { offset: 4, size: 4, type: 'u32', count: 1 },
  } },
  sl_address: { size: 16, fields: {
    bytes: { offset: 0, size: 16, type: 'u8', count: 16 },
  } },
  sl_local_address: { size: 4, fields: {
    nat_slot: { offset: 0, size: 2, type: 'u16', count: 1 },
    flags: { offset: 2, size: 2, type: 'u16', count: 1 },
  } },
  sl_flow_header: { size: 128, fields: {
    hash_keys: { offset: 0, size: 40, type: 'u64', count: 5 },
    seed: { offset: 40, size: 8, type: 'u64', count: 1 },
    version: { offset: 48, size: 4, type: 'u32', count: 1 },
    capacity: { offset: 52, size: 4, type: 'u32', count: 1 },
    bucket_mask: { offset: 56, size: 4, type: 'u32', count: 1 },
    generations: { offset: 60, size: 8, type: 'u32', count: 2 },
    committed_ticks: { offset: 68, size: 4, type: 'u32', count: 1 },
    captures: { offset: 72, size: 4, type: 'u32', count: 1 },
    reserved: { offset: 76, size: 4, type: 'u32', count: 1 },
    clock: { offset: 80, size: 8, type: 'u64', count: 1 },
    reserved2: { offset: 88, size: 40, type: 'u8', count: 40 },
  } },
  sl_flow_bucket: { size: 64, fields: {
    tag: { offset: 0, size: 20, type: 'u16', count: 10 },
    lock: { offset: 20, size: 2, type: 'u16', count: 1 },
    overflow: { offset: 22, size: 2, type: 'u16', count: 1 },
    reference: { offset: 24, size: 40, type: 'u32', count: 10 },
  } },
  sl_flow_key: { size: 40, fields: {
    src: { offset: 0, size: 16, type: 'sl_address', count: 1 },
    dst: { offset: 16, size: 16, type: 'sl_address', count: 1 },
    src_port: { offset: 32, size: 2, type: 'u16', count: 1 },
    dst_port: { offset: 34, size: 2, type: 'u16', count: 1 },
    protocol: { offset: 36, size: 1, type: 'u8', count: 1 },
    kind: { offset: 37, size: 1, type: 'u8', count: 1 },
    reserved: { offset: 38, size: 2, type: 'u8', count: 2 },
  } },
  sl_session: { size: 192, fields: {
    key0: { offset: 0, size: 40, type: 'sl_flow_key', count: 1 },
    l3_delta: { offset: 40, size: 4, type: 'u16', count: 2 },
    l4_delta: { offset: 44, size: 4, type: 'u16', count: 2 },
    adjacency: { offset: 48, size: 8, type: 'u32', count: 2 },
    generation: { offset: 56, size: 4, type: 'u32', count: 1 },
    state: { offset: 60, size: 1, type: 'u8', count: 1 },
    flags: { offset: 61, size: 1, type: 'u8', count: 1 },
    tcp_bits: { offset: 62, size: 1, type: 'u8', count: 1 },
    tcp_scale: { offset: 63, size: 1, type: 'u8', count: 1 },
    key1: { offset: 64, size: 40, type: 'sl_flow_key', count: 1 },
    rule_id: { offset: 104, size: 4, type: 'u32', count: 1 },
    start_ticks: { offset: 108, size: 4, type: 'u32', count: 1 },
    mapping: { offset: 112, size: 4, type: 'u32', count: 1 },
    nat_destination_id: { offset: 116, size: 4, type: 'u32', count: 1 },
    incarnation: { offset: 120, size: 4, type: 'u32', count: 1 },
    interface_slot: { offset: 124, size: 2, type: 'u8', count: 2 },
    tcp_flags_seen: { offset: 126, size: 2, type: 'u8', count: 2 },
    last_seen_ticks: { offset: 128, size: 4, type: 'u32', count: 1 },
    tcp_end: { offset: 132, size: 8, type: 'u32', count: 2 },
    tcp_edge: { offset: 140, size: 8, type: 'u32', count: 2 },
    tcp_acked: { offset: 148, size: 8, type: 'u32', count: 2 },
    tcp_window_log2: { offset: 156, size: 2, type: 'u8', count: 2 },
    offload: { offset: 158, size: 1, type: 'u8', count: 1 },
    live: { offset: 159, size: 1, type: 'u8', count: 1 },
    packets: { offset: 160, size: 16, type: 'u64', count: 2 },
    bytes: { offset: 176, size: 16, type: 'u64', count: 2 },
  } },
  sl_adjacency: { size: 64, fields: {
    mac: { offset: 0, size: 8, type: 'u64', count: 1 },
    used_ticks: { offset: 8, size: 4, type: 'u32', count: 1 },
    asked_ticks: { offset: 12, size: 4, type: 'u32', count: 1 },
    waiting: { offset: 16, size: 4, type: 'u32', count: 1 },
    incarnation: { offset: 20, size: 2, type: 'u16', count: 1 },
    interface_slot: { offset: 22, size: 2, type: 'u16', count: 1 },
    address: { offset: 24, size: 16, type: 'sl_address', count: 1 },
    in_use: { offset: 40, size: 1, type: 'u8', count: 1 },
    reserved: { offset: 41, size: 23, type: 'u8', count: 23 },
  } },
  sl_nat_mapping: { size: 64, fields: {
    inside: { offset: 0, size: 16, type: 'sl_address', count: 1 },
    outside: { offset: 16, size: 16, type: 'sl_address', count: 1 },
    inside_port: { offset: 32, size: 2, type: 'u16', count: 1 },
    outside_port: { offset: 34, size: 2, type: 'u16', count: 1 },
    protocol: { offset: 36, size: 1, type: 'u8', count: 1 },
    filtering: { offset: 37, size: 1, type: 'u8', count: 1 },
    independent: { offset: 38, size: 1, type: 'u8', count: 1 },
    reserved: { offset: 39, size: 1, type: 'u8', count: 1 },
    references: { offset: 40, size: 4, type: 'u32', count: 1 },
    nat_rule_id: { offset: 44, size: 4, type: 'u32', count: 1 },
    next_inside: { offset: 48, size: 4, type: 'u32', count: 1 },
    next_outside: { offset: 52, size: 4, type: 'u32', count: 1 },
    pool: { offset: 56, size: 4, type: 'u32', count: 1 },
    last_peer_clean: { offset: 60, size: 4, type: 'u32', count: 1 },
  } },
  sl_interface_state: { size: 64, fields: {
    mac: { offset: 0, size: 8, type: 'u64', count: 1 },
    mtu_bytes: { offset: 8, size: 4, type: 'u32', count: 1 },
    up: { offset: 12, size: 1, type: 'u8', count: 1 },
    port_slot: { offset: 13, size: 1, type: 'u8', count: 1 },
    vlan_id: { offset: 14, size: 2, type: 'u16', count: 1 },
    id: { offset: 16, size: 4, type: 'u32', count: 1 },
    kernel_ifindex: { offset: 20, size: 4, type: 'u32', count: 1 },
    ifindex: { offset: 24, size: 4, type: 'u32', count: 1 },
    mtu_limit_bytes: { offset: 28, size: 4, type: 'u32', count: 1 },
    offload: { offset: 32, size: 1, type: 'u8', count: 1 },
    reserved: { offset: 33, size: 31, type: 'u8', count: 31 },
  } },
  sl_span: { size: 8, fields: {
    first: { offset: 0, size: 4, type: 'u32', count: 1 },
    count: { offset: 4, size: 4, type: 'u32', count: 1 },
  } },
  sl_section: { size: 8, fields: {
    offset: { offset: 0, size: 4, type: 'u32', count: 1 },
    count: { offset: 4, size: 4, type: 'u32', count: 1 },
  } },
  sl_settings: { size: 64, fields: {
    tcp_syn_s: { offset: 0, size: 4, type: 'u32', count: 1 },
    tcp_established_s: { offset: 4, size: 4, type: 'u32', count: 1 },
    tcp_transitory_s: { offset: 8, size: 4, type: 'u32', count: 1 },
    tcp_time_wait_s: { offset: 12, size: 4, type: 'u32', count: 1 },
    tcp_reset_s: { offset: 16, size: 4, type: 'u32', count: 1 },
    udp_s: { offset: 20, size: 4, type: 'u32', count: 1 },
    udp_new_s: { offset: 24, size: 4, type: 'u32', count: 1 },
    icmp_s: { offset: 28, size: 4, type: 'u32', count: 1 },
    other_s: { offset: 32, size: 4, type: 'u32', count: 1 },
    fragment_s: { offset: 36, size: 4, type: 'u32', count: 1 },
    nat_port_reuse_s: { offset: 40, size: 4, type: 'u32', count: 1 },
    icmp_errors_per_second: { offset: 44, size: 4, type: 'u32', count: 1 },
    sessions_per_source_max: { offset: 48, size: 4, type: 'u32', count: 1 },
    fragments_max: { offset: 52, size: 4, type: 'u32', count: 1 },
    default_action: { offset: 56, size: 4, type: 'u32', count: 1 },
    default_log: { offset: 60, size: 4, type: 'u32', count: 1 },
  } },
  sl_interface: { size: 28, fields: {
    id: { offset: 0, size: 4, type: 'u32', count: 1 },
    ifindex: { offset: 4, size: 4, type: 'u32', count: 1 },
    kernel_ifindex: { offset: 8, size: 4, type: 'u32', count: 1 },
    vlan_id: { offset: 12, size: 2, type: 'u16', count: 1 },
    zone: { offset: 14, size: 2, type: 'u16', count: 1 },
    anti_spoofing: { offset: 16, size: 2, type: 'u16', count: 1 },
    mss_clamp_bytes: { offset: 18, size: 2, type: 'u16', count: 1 },
    mtu_bytes: { offset: 20, size: 4, type: 'u32', count: 1 },
    kind: { offset: 24, size: 2, type: 'u16', count: 1 },
    reserved: { offset: 26, size: 2, type: 'u16', count: 1 },
  } },
  sl_interface_address: { size: 24, fields: {
    address: { offset: 0, size: 16, type: 'sl_address', count: 1 },
    interface: { offset: 16, size: 2, type: 'u16', count: 1 },
    prefix_length: { offset: 18, size: 1, type: 'u8', count: 1 },
    reserved: { offset: 19, size: 1, type: 'u8', count: 1 },
    nat_slot: { offset: 20, size: 2, type: 'u16', count: 1 },
    flags: { offset: 22, size: 2, type: 'u16', count: 1 },
  } },
  sl_prefix: { size: 24, fields: {
    address: { offset: 0, size: 16, type: 'sl_address', count: 1 },
    length: { offset: 16, size: 1, type: 'u8', count: 1 },
    reserved: { offset: 17, size: 7, type: 'u8', count: 7 },
  } },
  sl_service: { size: 12, fields: {
    protocol: { offset: 0, size: 2, type: 'u16', count: 1 },
    src_lo: { offset: 2, size: 2, type: 'u16', count: 1 },
    src_hi: { offset: 4, size: 2, type: 'u16', count: 1 },
    dst_lo: { offset: 6, size: 2, type: 'u16', count: 1 },
    dst_hi: { offset: 8, size: 2, type: 'u16', count: 1 },
    reserved: { offset: 10, size: 2, type: 'u16', count: 1 },
  } },
  sl_rule: { size: 56, fields: {
    from_zones: { offset: 0, size: 8, type: 'u64', count: 1 },
    to_zones: { offset: 8, size: 8, type: 'u64', count: 1 },
    id: { offset: 16, size: 4, type: 'u32', count: 1 },
    action: { offset: 20, size: 1, type: 'u8', count: 1 },
    log: { offset: 21, size: 1, type: 'u8', count: 1 },
    flags: { offset: 22, size: 2, type: 'u16', count: 1 },
    sources: { offset: 24, size: 8, type: 'sl_span', count: 1 },
    destinations: { offset: 32, size: 8, type: 'sl_span', count: 1 },
    services: { offset: 40, size: 8, type: 'sl_span', count: 1 },
    sessions_max: { offset: 48, size: 4, type: 'u32', count: 1 },
    reserved: { offset: 52, size: 4, type: 'u32', count: 1 },
  } },
  sl_nat_address: { size: 24, fields: {
    address: { offset: 0, size: 16, type: 'sl_address', count: 1 },
    port_lo: { offset: 16, size: 2, type: 'u16', count: 1 },
    port_hi: { offset: 18, size: 2, type: 'u16', count: 1 },
    nat_slot: { offset: 20, size: 2, type: 'u16', count: 1 },
    reserved: { offset: 22, size: 2, type: 'u16', count: 1 },
  } },
  sl_nat_rule: { size: 80, fields: {
    from_zones: { offset: 0, size: 8, type: 'u64', count: 1 },
    to_zones: { offset: 8, size: 8, type: 'u64', count: 1 },
    id: { offset: 16, size: 4, type: 'u32', count: 1 },
    kind: { offset: 20, size: 1, type: 'u8', count: 1 },
    filtering: { offset: 21, size: 1, type: 'u8', count: 1 },
    flags: { offset: 22, size: 2, type: 'u16', count: 1 },
    sources: { offset: 24, size: 8, type: 'sl_span', count: 1 },
    destinations: { offset: 32, size: 8, type: 'sl_span', count: 1 },
    services: { offset: 40, size: 8, type: 'sl_span', count: 1 },
    pool: { offset: 48, size: 8, type: 'sl_span', count: 1 },
    to_address: { offset: 56, size: 16, type: 'sl_address', count: 1 },
    to_port: { offset: 72, size: 2, type: 'u16', count: 1 },
    to_prefix_length: { offset: 74, size: 1, type: 'u8', count: 1 },
    reserved: { offset: 75, size: 1, type: 'u8', count: 1 },
    interface: { offset: 76, size: 2, type: 'u16', count: 1 },
    reserved2: { offset: 78, size: 2, type: 'u16', count: 1 },
  } },
  sl_nexthop: { size: 24, fields: {
    via: { offset: 0, size: 16, type: 'sl_address', count: 1 },
    interface: { offset: 16, size: 2, type: 'u16', count: 1 },
    kind: { offset: 18, size: 1, type: 'u8', count: 1 },
    reserved: { offset: 19, size: 1, type: 'u8', count: 1 },
    reserved2: { offset: 20, size: 4, type: 'u32', count: 1 },
  } },
  sl_route: { size: 32, fields: {
    to: { offset: 0, size: 24, type: 'sl_prefix', count: 1 },
    nexthops: { offset: 24, size: 8, type: 'sl_span', count: 1 },
  } },
  sl_wireguard: { size: 12, fields: {
    interface: { offset: 0, size: 2, type: 'u16', count: 1 },
    listen_port: { offset: 2, size: 2, type: 'u16', count: 1 },
    peers: { offset: 4, size: 8, type: 'sl_span', count: 1 },
  } },
  sl_wireguard_peer: { size: 16, fields: {
    id: { offset: 0, size: 4, type: 'u32', count: 1 },
    reserved: { offset: 4, size: 4, type: 'u32', count: 1 },
    allowed_ips: { offset: 8, size: 8, type: 'sl_span', count: 1 },
  } },
  sl_snapshot_header: { size: 176, fields: {
    magic: { offset: 0, size: 4, type: 'u32', count: 1 },
    abi_version: { offset: 4, size: 4, type: 'u32', count: 1 },
    bytes: { offset: 8, size: 4, type: 'u32', count: 1 },
    reserved: { offset: 12, size: 4, type: 'u32', count: 1 },
    generation: { offset: 16, size: 8, type: 'u64', count: 1 },
    settings: { offset: 24, size: 64, type: 'sl_settings', count: 1 },
    interfaces: { offset: 88, size: 8, type: 'sl_section', count: 1 },
    addresses: { offset: 96, size: 8, type: 'sl_section', count: 1 },
    prefixes: { offset: 104, size: 8, type: 'sl_section', count: 1 },
    services: { offset: 112, size: 8, type: 'sl_section', count: 1 },
    rules: { offset: 120, size: 8, type: 'sl_section', count: 1 },
    nat_rules: { offset: 128, size: 8, type: 'sl_section', count: 1 },
    nat_addresses: { offset: 136, size: 8, type: 'sl_section', count: 1 },
    nexthops: { offset: 144, size: 8, type: 'sl_section', count: 1 },
    routes: { offset: 152, size: 8, type: 'sl_section', count: 1 },
    wireguards: { offset: 160, size: 8, type: 'sl_section', count: 1 },
    wireguard_peers: { offset: 168, size: 8, type: 'sl_section', count: 1 },
  } },
  sl_flow_record: { size: 168, fields: {
    session_id: { offset: 0, size: 8, type: 'u64', count: 1 },
    start_ns: { offset: 8, size: 8, type: 'u64', count: 1 },
    last_ns: { offset: 16, size: 8, type: 'u64', count: 1 },
    packets: { offset: 24, size: 16, type: 'u64', count: 2 },
    bytes: { offset: 40, size: 16, type: 'u64', count: 2 },
    src: { offset: 56, size: 16, type: 'sl_address', count: 1 },
    dst: { offset: 72, size: 16, type: 'sl_address', count: 1 },
    nat_src: { offset: 88, size: 16, type: 'sl_address', count: 1 },
    nat_dst: { offset: 104, size: 16, type: 'sl_address', count: 1 },
    src_port: { offset: 120, size: 2, type: 'u16', count: 1 },
    dst_port: { offset: 122, size: 2, type: 'u16', count: 1 },
    nat_src_port: { offset: 124, size: 2, type: 'u16', count: 1 },
    nat_dst_port: { offset: 126, size: 2, type: 'u16', count: 1 },
    rule_id: { offset: 128, size: 4, type: 'u32', count: 1 },
    nat_source_id: { offset: 132, size: 4, type: 'u32', count: 1 },
    nat_destination_id: { offset: 136, size: 4, type: 'u32', count: 1 },
    from_interface: { offset: 140, size: 4, type: 'u32', count: 1 },
    to_interface: { offset: 144, size: 4, type: 'u32', count: 1 },
    expires_s: { offset: 148, size: 4, type: 'u32', count: 1 },
    from_zone: { offset: 152, size: 2, type: 'u16', count: 1 },
    to_zone: { offset: 154, size: 2, type: 'u16', count: 1 },
    protocol: { offset: 156, size: 1, type: 'u8', count: 1 },
    state: { offset: 157, size: 1, type: 'u8', count: 1 },
    event: { offset: 158, size: 1, type: 'u8', count: 1 },
    end_reason: { offset: 159, size: 1, type: 'u8', count: 1 },
    tcp_flags: { offset: 160, size: 2, type: 'u8', count: 2 },
    reserved: { offset: 162, size: 6, type: 'u8', count: 6 },
  } },
  sl_drop_record: { size: 112, fields: {
    time_ns: { offset: 0, size: 8, type: 'u64', count: 1 },
    src: { offset: 8, size: 16, type: 'sl_address', count: 1 },
    dst: { offset: 24, size: 16, type: 'sl_address', count: 1 },
    nat_src: { offset: 40, size: 16, type: 'sl_address', count: 1 },
    nat_dst: { offset: 56, size: 16, type: 'sl_address', count: 1 },
    src_port: { offset: 72, size: 2, type: 'u16', count: 1 },
    dst_port: { offset: 74, size: 2, type: 'u16', count: 1 },
    nat_src_port: { offset: 76, size: 2, type: 'u16', count: 1 },
    nat_dst_port: { offset: 78, size: 2, type: 'u16', count: 1 },
    rule_id: { offset: 80, size: 4, type: 'u32', count: 1 },
    nat_source_id: { offset: 84, size: 4, type: 'u32', count: 1 },
    nat_destination_id: { offset: 88, size: 4, type: 'u32', count: 1 },
    interface: { offset: 92, size: 4, type: 'u32', count: 1 },
    to_interface: { offset: 96, size: 4, type: 'u32', count: 1 },
    bytes: { offset: 100, size: 2, type: 'u16', count: 1 },
    reason: { offset: 102, size: 1, type: 'u8', count: 1 },
    protocol: { offset: 103, size: 1, type: 'u8', count: 1 },
    tcp_flags: { offset: 104, size: 1, type: 'u8', count: 1 },
    tcp_flags_known: { offset: 105, size: 1, type: 'u8', count: 1 },
    reserved: { offset: 106, size: 6, type: 'u8', count: 6 },
  } },
  sl_capture_filter: { size: 64, fields: {
    source: { offset: 0, size: 24, type: 'sl_prefix', count: 1 },
    destination: { offset: 24, size: 24, type: 'sl_prefix', count: 1 },
    interface: { offset: 48, size: 4, type: 'u32', count: 1 },
    protocol: { offset: 52, size: 2, type: 'u16', count: 1 },
    port: { offset: 54, size: 2, type: 'u16', count: 1 },
    snap_bytes: { offset: 56, size: 2, type: 'u16', count: 1 },
    directions: { offset: 58, size: 1, type: 'u8', count: 1 },
    flags: { offset: 59, size: 1, type: 'u8', count: 1 },
    reserved: { offset: 60, size: 4, type: 'u32', count: 1 },
  } },
  sl_captured: { size: 24, fields: {
    time_ns: { offset: 0, size: 8, type: 'u64', count: 1 },
    record_bytes: { offset: 8, size: 4, type: 'u32', count: 1 },
    interface: { offset: 12, size: 4, type: 'u32', count: 1 },
    bytes: { offset: 16, size: 2, type: 'u16', count: 1 },
    original_bytes: { offset: 18, size: 2, type: 'u16', count: 1 },
    captures: { offset: 20, size: 1, type: 'u8', count: 1 },
    direction: { offset: 21, size: 1, type: 'u8', count: 1 },
    reason: { offset: 22, size: 1, type: 'u8', count: 1 },
    reserved: { offset: 23, size: 1, type: 'u8', count: 1 },
  } },
  sl_simulate_request: { size: 40, fields: {
    src: { offset: 0, size: 16, type: 'sl_address', count: 1 },
    dst: { offset: 16, size: 16, type: 'sl_address', count: 1 },
    src_port: { offset: 32, size: 2, type: 'u16', count: 1 },
    dst_port: { offset: 34, size: 2, type: 'u16', count: 1 },
    interface: { offset: 36, size: 2, type: 'u16', count: 1 },
    protocol: { offset: 38, size: 1, type: 'u8', count: 1 },
    reserved: { offset: 39, size: 1, type: 'u8', count: 1 },
  } },
  sl_simulate_result: { size: 80, fields: {
    verdict: { offset: 0, size: 1, type: 'u8', count: 1 },
    reason: { offset: 1, size: 1, type: 'u8', count: 1 },
    to_interface: { offset: 2, size: 2, type: 'u16', count: 1 },
    rule_id: { offset: 4, size: 4, type: 'u32', count: 1 },
    nat_source_id: { offset: 8, size: 4, type: 'u32', count: 1 },
    nat_destination_id: { offset: 12, size: 4, type: 'u32', count: 1 },
    nat_src: { offset: 16, size: 16, type: 'sl_address', count: 1 },
    nat_dst: { offset: 32, size: 16, type: 'sl_address', count: 1 },
    next_hop: { offset: 48, size: 16, type: 'sl_address', count: 1 },
    nat_src_port_lo: { offset: 64, size: 2, type: 'u16', count: 1 },
    nat_src_port_hi: { offset: 66, size: 2, type: 'u16', count: 1 },
    nat_dst_port: { offset: 68, size: 2, type: 'u16', count: 1 },
    from_zone: { offset: 70, size: 2, type: 'u16', count: 1 },
    to_zone: { offset: 72, size: 2, type: 'u16', count: 1 },
    host: { offset: 74, size: 1, type: 'u8', count: 1 },
    reserved: { offset: 75, size: 5, type: 'u8', count: 5 },
  } },
  sl_rule_hits: { size: 16, fields: {
    rule_id: { offset: 0, size: 4, type: 'u32', count: 1 },
    reserved: { offset: 4, size: 4, type: 'u32', count: 1 },
    sessions: { offset: 8, size: 8, type: 'u64', count: 1 },
  } },
  sl_nat_pool_record: { size: 64, fields: {
    address: { offset: 0, size: 16, type: 'sl_address', count: 1 },
    used: { offset: 16, size: 12, type: 'u32', count: 3 },
    resting: { offset: 28, size: 12, type: 'u32', count: 3 },
    free: { offset: 40, size: 12, type: 'u32', count: 3 },
    total: { offset: 52, size: 12, type: 'u32', count: 3 },
  } },
  sl_ring_record: { size: 24, fields: {
    port_slot: { offset: 0, size: 2, type: 'u16', count: 1 },
    queue: { offset: 2, size: 2, type: 'u16', count: 1 },
    entries: { offset: 4, size: 4, type: 'u32', count: 1 },
    rx: { offset: 8, size: 4, type: 'u32', count: 1 },
    fill: { offset: 12, size: 4, type: 'u32', count: 1 },
    tx: { offset: 16, size: 4, type: 'u32', count: 1 },
    completion: { offset: 20, size: 4, type: 'u32', count: 1 },
  } },
  sl_interface_record: { size: 40, fields: {
    interface: { offset: 0, size: 4, type: 'u32', count: 1 },
    reserved: { offset: 4, size: 4, type: 'u32', count: 1 },
    rx_packets: { offset: 8, size: 8, type: 'u64', count: 1 },
    rx_bytes: { offset: 16, size: 8, type: 'u64', count: 1 },
    tx_packets: { offset: 24, size: 8, type: 'u64', count: 1 },
    tx_bytes: { offset: 32, size: 8, type: 'u64', count: 1 },
  } },
  sl_neighbour_record: { size: 32, fields: {
    address: { offset: 0, size: 16, type: 'sl_address', count: 1 },
    interface: { offset: 16, size: 4, type: 'u32', count: 1 },
    mac: { offset: 20, size: 6, type: 'u8', count: 6 },
    resolved: { offset: 26, size: 1, type: 'u8', count: 1 },
    reserved: { offset: 27, size: 1, type: 'u8', count: 1 },
    waiting: { offset: 28, size: 4, type: 'u32', count: 1 },
  } },
  sl_wireguard_endpoint: { size: 40, fields: {
    address: { offset: 0, size: 16, type: 'sl_address', count: 1 },
    local: { offset: 16, size: 16, type: 'sl_address', count: 1 },
    port: { offset: 32, size: 2, type: 'u16', count: 1 },
    reserved: { offset: 34, size: 6, type: 'u16', count: 3 },
  } },
  sl_wireguard_keypair: { size: 88, fields: {
    peer_id: { offset: 0, size: 4, type: 'u32', count: 1 },
    local_index: { offset: 4, size: 4, type: 'u32', count: 1 },
    remote_index: { offset: 8, size: 4, type: 'u32', count: 1 },
    initiator: { offset: 12, size: 1, type: 'u8', count: 1 },
    reserved: { offset: 13, size: 3, type: 'u8', count: 3 },
    created_ns: { offset: 16, size: 8, type: 'u64', count: 1 },
    send_key: { offset: 24, size: 32, type: 'u8', count: 32 },
    receive_key: { offset: 56, size: 32, type: 'u8', count: 32 },
  } },
  sl_wireguard_event_record: { size: 64, fields: {
    record_bytes: { offset: 0, size: 4, type: 'u32', count: 1 },
    peer_id: { offset: 4, size: 4, type: 'u32', count: 1 },
    interface: { offset: 8, size: 4, type: 'u32', count: 1 },
    message_bytes: { offset: 12, size: 2, type: 'u16', count: 1 },
    event: { offset: 14, size: 1, type: 'u8', count: 1 },
    key: { offset: 15, size: 1, type: 'u8', count: 1 },
    time_ns: { offset: 16, size: 8, type: 'u64', count: 1 },
    from: { offset: 24, size: 40, type: 'sl_wireguard_endpoint', count: 1 },
  } },
  sl_wireguard_gate_key: { size: 64, fields: {
    mac1_key: { offset: 0, size: 32, type: 'u8', count: 32 },
    cookie_key: { offset: 32, size: 32, type: 'u8', count: 32 },
  } },
  sl_wireguard_peer_record: { size: 136, fields: {
    id: { offset: 0, size: 4, type: 'u32', count: 1 },
    interface: { offset: 4, size: 4, type: 'u32', count: 1 },
    endpoint: { offset: 8, size: 40, type: 'sl_wireguard_endpoint', count: 1 },
    last_sent_ns: { offset: 48, size: 8, type: 'u64', count: 1 },
    last_received_ns: { offset: 56, size: 8, type: 'u64', count: 1 },
    last_data_sent_ns: { offset: 64, size: 8, type: 'u64', count: 1 },
    last_data_received_ns: { offset: 72, size: 8, type: 'u64', count: 1 },
    current_created_ns: { offset: 80, size: 8, type: 'u64', count: 1 },
    current_sent: { offset: 88, size: 8, type: 'u64', count: 1 },
    tx_packets: { offset: 96, size: 8, type: 'u64', count: 1 },
    tx_bytes: { offset: 104, size: 8, type: 'u64', count: 1 },
    rx_packets: { offset: 112, size: 8, type: 'u64', count: 1 },
    rx_bytes: { offset: 120, size: 8, type: 'u64', count: 1 },
    waiting: { offset: 128, size: 4, type: 'u32', count: 1 },
    current_initiator: { offset: 132, size: 1, type: 'u8', count: 1 },
    has_next: { offset: 133, size: 1, type: 'u8', count: 1 },
    reserved: { offset: 134, size: 2, type: 'u8', count: 2 },
  } },
} as const;

export const STEER_PORT_BYTES = 12;
export const STEER_VLAN_BYTES = 8;
export const ADDRESS_BYTES = 16;
export const LOCAL_ADDRESS_BYTES = 4;
export const FLOW_HEADER_BYTES = 128;
export const FLOW_BUCKET_BYTES = 64;
export const FLOW_KEY_BYTES = 40;
export const SESSION_BYTES = 192;
export const ADJACENCY_BYTES = 64;
export const NAT_MAPPING_BYTES = 64;
export const INTERFACE_STATE_BYTES = 64;
export const SPAN_BYTES = 8;
export const SECTION_BYTES = 8;
export const SETTINGS_BYTES = 64;
export const INTERFACE_BYTES = 28;
export const INTERFACE_ADDRESS_BYTES = 24;
export const PREFIX_BYTES = 24;
export const SERVICE_BYTES = 12;
export const RULE_BYTES = 56;
export const NAT_ADDRESS_BYTES = 24;
export const NAT_RULE_BYTES = 80;
export const NEXTHOP_BYTES = 24;
export const ROUTE_BYTES = 32;
export const WIREGUARD_BYTES = 12;
export const WIREGUARD_PEER_BYTES = 16;
export const SNAPSHOT_HEADER_BYTES = 176;
export const FLOW_RECORD_BYTES = 168;
export const DROP_RECORD_BYTES = 112;
export const CAPTURE_FILTER_BYTES = 64;
export const CAPTURED_BYTES = 24;
export const SIMULATE_REQUEST_BYTES = 40;
export const SIMULATE_RESULT_BYTES = 80;
export const RULE_HITS_BYTES = 16;
export const NAT_POOL_RECORD_BYTES = 64;
export const RING_RECORD_BYTES = 24;
export const INTERFACE_RECORD_BYTES = 40;
export const NEIGHBOUR_RECORD_BYTES = 32;
export const WIREGUARD_ENDPOINT_BYTES = 40;
export const WIREGUARD_KEYPAIR_BYTES = 88;
export const WIREGUARD_EVENT_RECORD_BYTES = 64;
export const WIREGUARD_GATE_KEY_BYTES = 64;
export const WIREGUARD_PEER_RECORD_BYTES = 136;

// ---- readers and writers ----
function bytesAt(view: DataView, offset: number, length: number): Uint8Array {
  return new Uint8Array(view.buffer, view.byteOffset + offset, length);
}
function putBytes(view: DataView, offset: number, value: Uint8Array, length: number, field: string): void {
  if (value.length !== length) throw new RangeError(`${field} takes ${length} bytes, not ${value.length}`);
  bytesAt(view, offset, length).set(value);
}
function putU8(view: DataView, offset: number, value: number, field: string): void {
  if (!Number.isInteger(value) || value < 0 || value > 255) throw new RangeError(`${field} takes 0..255, not ${value}`);
  view.setUint8(offset, value);
}
function putU16(view: DataView, offset: number, value: number, field: string): void {
  if (!Number.isInteger(value) || value < 0 || value > 65535) throw new RangeError(`${field} takes 0..65535, not ${value}`);
  view.setUint16(offset, value, true);
}
function putU32(view: DataView, offset: number, value: number, field: string): void {
  if (!Number.isInteger(value) || value < 0 || value > 4294967295) throw new RangeError(`${field} takes 0..4294967295, not ${value}`);
  view.setUint32(offset, value, true);
}
function putU64(view: DataView, offset: number, value: bigint, field: string): void {
  if (value < 0n || value > 0xffffffffffffffffn) throw new RangeError(`${field} takes 0..2^64-1, not ${value}`);
  view.setBigUint64(offset, value, true);
}

export interface SteerPort {
  ifindex: number;
  slot: number;
  flags: number;
  interface: number;
}
export function readSteerPort(view: DataView, offset: number): SteerPort {
  return {
    ifindex: view.getUint32(offset, true),
    slot: view.getUint16(offset + 4, true),
    flags: view.getUint16(offset + 6, true),
    interface: view.getUint16(offset + 8, true),
  };
}
export function writeSteerPort(view: DataView, offset: number, value: SteerPort): void {
  putU32(view, offset, value.ifindex, 'sl_steer_port.ifindex');
  putU16(view, offset + 4, value.slot, 'sl_steer_port.slot');
  putU16(view, offset + 6, value.flags, 'sl_steer_port.flags');
  putU16(view, offset + 8, value.interface, 'sl_steer_port.interface');
  bytesAt(view, offset + 10, 2).fill(0);
}

export interface SteerVlan {
  ifindex: number;
  vlanId: number;
}
export function readSteerVlan(view: DataView, offset: number): SteerVlan {
  return {
    ifindex: view.getUint32(offset, true),
    vlanId: view.getUint32(offset + 4, true),
  };
}
export function writeSteerVlan(view: DataView, offset: number, value: SteerVlan): void {
  putU32(view, offset, value.ifindex, 'sl_steer_vlan.ifindex');
  putU32(view, offset + 4, value.vlanId, 'sl_steer_vlan.vlan_id');
}

export interface LocalAddress {
  natSlot: number;
  flags: number;
}
export function readLocalAddress(view: DataView, offset: number): LocalAddress {
  return {
    natSlot: view.getUint16(offset, true),
    flags: view.getUint16(offset + 2, true),
  };
}
export function writeLocalAddress(view: DataView, offset: number, value: LocalAddress): void {
  putU16(view, offset, value.natSlot, 'sl_local_address.nat_slot');
  putU16(view, offset + 2, value.flags, 'sl_local_address.flags');
}

export interface FlowHeader {
  hashKeys: [bigint, bigint, bigint, bigint, bigint];
  seed: bigint;
  version: number;
  capacity: number;
  bucketMask: number;
  generations: [number, number];
  committedTicks: number;
  captures: number;
  clock: bigint;
}
export function readFlowHeader(view: DataView, offset: number): FlowHeader {
  return {
    hashKeys: [view.getBigUint64(offset, true), view.getBigUint64(offset + 8, true), view.getBigUint64(offset + 16, true), view.getBigUint64(offset + 24, true), view.getBigUint64(offset + 32, true)],
    seed: view.getBigUint64(offset + 40, true),
    version: view.getUint32(offset + 48, true),
    capacity: view.getUint32(offset + 52, true),
    bucketMask: view.getUint32(offset + 56, true),
    generations: [view.getUint32(offset + 60, true), view.getUint32(offset + 64, true)],
    committedTicks: view.getUint32(offset + 68, true),
    captures: view.getUint32(offset + 72, true),
    clock: view.getBigUint64(offset + 80, true),
  };
}
export function writeFlowHeader(view: DataView, offset: number, value: FlowHeader): void {
  putU64(view, offset, value.hashKeys[0], 'sl_flow_header.hash_keys'); putU64(view, offset + 8, value.hashKeys[1], 'sl_flow_header.hash_keys'); putU64(view, offset + 16, value.hashKeys[2], 'sl_flow_header.hash_keys'); putU64(view, offset + 24, value.hashKeys[3], 'sl_flow_header.hash_keys'); putU64(view, offset + 32, value.hashKeys[4], 'sl_flow_header.hash_keys');
  putU64(view, offset + 40, value.seed, 'sl_flow_header.seed');
  putU32(view, offset + 48, value.version, 'sl_flow_header.version');
  putU32(view, offset + 52, value.capacity, 'sl_flow_header.capacity');
  putU32(view, offset + 56, value.bucketMask, 'sl_flow_header.bucket_mask');
  putU32(view, offset + 60, value.generations[0], 'sl_flow_header.generations'); putU32(view, offset + 64, value.generations[1], 'sl_flow_header.generations');
  putU32(view, offset + 68, value.committedTicks, 'sl_flow_header.committed_ticks');
  putU32(view, offset + 72, value.captures, 'sl_flow_header.captures');
  bytesAt(view, offset + 76, 4).fill(0);
  putU64(view, offset + 80, value.clock, 'sl_flow_header.clock');
  bytesAt(view, offset + 88, 40).fill(0);
}

export interface FlowBucket {
  tag: [number, number, number, number, number, number, number, number, number, number];
  lock: number;
  overflow: number;
  reference: [number, number, number, number, number, number, number, number, number, number];
}
export function readFlowBucket(view: DataView, offset: number): FlowBucket {
  return {
    tag: [view.getUint16(offset, true), view.getUint16(offset + 2, true), view.getUint16(offset + 4, true), view.getUint16(offset + 6, true), view.getUint16(offset + 8, true), view.getUint16(offset + 10, true), view.getUint16(offset + 12, true), view.getUint16(offset + 14, true), view.getUint16(offset + 16, true), view.getUint16(offset + 18, true)],
    lock: view.getUint16(offset + 20, true),
    overflow: view.getUint16(offset + 22, true),
    reference: [view.getUint32(offset + 24, true), view.getUint32(offset + 28, true), view.getUint32(offset + 32, true), view.getUint32(offset + 36, true), view.getUint32(offset + 40, true), view.getUint32(offset + 44, true), view.getUint32(offset + 48, true), view.getUint32(offset + 52, true), view.getUint32(offset + 56, true), view.getUint32(offset + 60, true)],
  };
}
export function writeFlowBucket(view: DataView, offset: number, value: FlowBucket): void {
  putU16(view, offset, value.tag[0], 'sl_flow_bucket.tag'); putU16(view, offset + 2, value.tag[1], 'sl_flow_bucket.tag'); putU16(view, offset + 4, value.tag[2], 'sl_flow_bucket.tag'); putU16(view, offset + 6, value.tag[3], 'sl_flow_bucket.tag'); putU16(view, offset + 8, value.tag[4], 'sl_flow_bucket.tag'); putU16(view, offset + 10, value.tag[5], 'sl_flow_bucket.tag'); putU16(view, offset + 12, value.tag[6], 'sl_flow_bucket.tag'); putU16(view, offset + 14, value.tag[7], 'sl_flow_bucket.tag'); putU16(view, offset + 16, value.tag[8], 'sl_flow_bucket.tag'); putU16(view, offset + 18, value.tag[9], 'sl_flow_bucket.tag');
  putU16(view, offset + 20, value.lock, 'sl_flow_bucket.lock');
  putU16(view, offset + 22, value.overflow, 'sl_flow_bucket.overflow');
  putU32(view, offset + 24, value.reference[0], 'sl_flow_bucket.reference'); putU32(view, offset + 28, value.reference[1], 'sl_flow_bucket.reference'); putU32(view, offset + 32, value.reference[2], 'sl_flow_bucket.reference'); putU32(view, offset + 36, value.reference[3], 'sl_flow_bucket.reference'); putU32(view, offset + 40, value.reference[4], 'sl_flow_bucket.reference'); putU32(view, offset + 44, value.reference[5], 'sl_flow_bucket.reference'); putU32(view, offset + 48, value.reference[6], 'sl_flow_bucket.reference'); putU32(view, offset + 52, value.reference[7], 'sl_flow_bucket.reference'); putU32(view, offset + 56, value.reference[8], 'sl_flow_bucket.reference'); putU32(view, offset + 60, value.reference[9], 'sl_flow_bucket.reference');
}

export interface FlowKey {
  src: Uint8Array;
  dst: Uint8Array;
  srcPort: number;
  dstPort: number;
  protocol: number;
  kind: number;
}
export function readFlowKey(view: DataView, offset: number): FlowKey {
  return {
    src: bytesAt(view, offset, 16),
    dst: bytesAt(view, offset + 16, 16),
    srcPort: view.getUint16(offset + 32, true),
    dstPort: view.getUint16(offset + 34, true),
    protocol: view.getUint8(offset + 36),
    kind: view.getUint8(offset + 37),
  };
}
export function writeFlowKey(view: DataView, offset: number, value: FlowKey): void {
  putBytes(view, offset, value.src, 16, 'sl_flow_key.src');
  putBytes(view, offset + 16, value.dst, 16, 'sl_flow_key.dst');
  putU16(view, offset + 32, value.srcPort, 'sl_flow_key.src_port');
  putU16(view, offset + 34, value.dstPort, 'sl_flow_key.dst_port');
  putU8(view, offset + 36, value.protocol, 'sl_flow_key.protocol');
  putU8(view, offset + 37, value.kind, 'sl_flow_key.kind');
  bytesAt(view, offset + 38, 2).fill(0);
}

export interface Session {
  key0: FlowKey;
  l3Delta: [number, number];
  l4Delta: [number, number];
  adjacency: [number, number];
  generation: number;
  state: number;
  flags: number;
  tcpBits: number;
  tcpScale: number;
  key1: FlowKey;
  ruleId: number;
  startTicks: number;
  mapping: number;
  natDestinationId: number;
  incarnation: number;
  interfaceSlot: Uint8Array;
  tcpFlagsSeen: Uint8Array;
  lastSeenTicks: number;
  tcpEnd: [number, number];
  tcpEdge: [number, number];
  tcpAcked: [number, number];
  tcpWindowLog2: Uint8Array;
  offload: number;
  live: number;
  packets: [bigint, bigint];
  bytes: [bigint, bigint];
}
export function readSession(view: DataView, offset: number): Session {
  return {
    key0: readFlowKey(view, offset),
    l3Delta: [view.getUint16(offset + 40, true), view.getUint16(offset + 42, true)],
    l4Delta: [view.getUint16(offset + 44, true), view.getUint16(offset + 46, true)],
    adjacency: [view.getUint32(offset + 48, true), view.getUint32(offset + 52, true)],
    generation: view.getUint32(offset + 56, true),
    state: view.getUint8(offset + 60),
    flags: view.getUint8(offset + 61),
    tcpBits: view.getUint8(offset + 62),
    tcpScale: view.getUint8(offset + 63),
    key1: readFlowKey(view, offset + 64),
    ruleId: view.getUint32(offset + 104, true),
    startTicks: view.getUint32(offset + 108, true),
    mapping: view.getUint32(offset + 112, true),
    natDestinationId: view.getUint32(offset + 116, true),
    incarnation: view.getUint32(offset + 120, true),
    interfaceSlot: bytesAt(view, offset + 124, 2),
    tcpFlagsSeen: bytesAt(view, offset + 126, 2),
    lastSeenTicks: view.getUint32(offset + 128, true),
    tcpEnd: [view.getUint32(offset + 132, true), view.getUint32(offset + 136, true)],
    tcpEdge: [view.getUint32(offset + 140, true), view.getUint32(offset + 144, true)],
    tcpAcked: [view.getUint32(offset + 148, true), view.getUint32(offset + 152, true)],
    tcpWindowLog2: bytesAt(view, offset + 156, 2),
    offload: view.getUint8(offset + 158),
    live: view.getUint8(offset + 159),
    packets: [view.getBigUint64(offset + 160, true), view.getBigUint64(offset + 168, true)],
    bytes: [view.getBigUint64(offset + 176, true), view.getBigUint64(offset + 184, true)],
  };
}
export function writeSession(view: DataView, offset: number, value: Session): void {
  writeFlowKey(view, offset, value.key0);
  putU16(view, offset + 40, value.l3Delta[0], 'sl_session.l3_delta'); putU16(view, offset + 42, value.l3Delta[1], 'sl_session.l3_delta');
  putU16(view, offset + 44, value.l4Delta[0], 'sl_session.l4_delta'); putU16(view, offset + 46, value.l4Delta[1], 'sl_session.l4_delta');
  putU32(view, offset + 48, value.adjacency[0], 'sl_session.adjacency'); putU32(view, offset + 52, value.adjacency[1], 'sl_session.adjacency');
  putU32(view, offset + 56, value.generation, 'sl_session.generation');
  putU8(view, offset + 60, value.state, 'sl_session.state');
  putU8(view, offset + 61, value.flags, 'sl_session.flags');
  putU8(view, offset + 62, value.tcpBits, 'sl_session.tcp_bits');
  putU8(view, offset + 63, value.tcpScale, 'sl_session.tcp_scale');
  writeFlowKey(view, offset + 64, value.key1);
  putU32(view, offset + 104, value.ruleId, 'sl_session.rule_id');
  putU32(view, offset + 108, value.startTicks, 'sl_session.start_ticks');
  putU32(view, offset + 112, value.mapping, 'sl_session.mapping');
  putU32(view, offset + 116, value.natDestinationId, 'sl_session.nat_destination_id');
  putU32(view, offset + 120, value.incarnation, 'sl_session.incarnation');
  putBytes(view, offset + 124, value.interfaceSlot, 2, 'sl_session.interface_slot');
  putBytes(view, offset + 126, value.tcpFlagsSeen, 2, 'sl_session.tcp_flags_seen');
  putU32(view, offset + 128, value.lastSeenTicks, 'sl_session.last_seen_ticks');
  putU32(view, offset + 132, value.tcpEnd[0], 'sl_session.tcp_end'); putU32(view, offset + 136, value.tcpEnd[1], 'sl_session.tcp_end');
  putU32(view, offset + 140, value.tcpEdge[0], 'sl_session.tcp_edge'); putU32(view, offset + 144, value.tcpEdge[1], 'sl_session.tcp_edge');
  putU32(view, offset + 148, value.tcpAcked[0], 'sl_session.tcp_acked'); putU32(view, offset + 152, value.tcpAcked[1], 'sl_session.tcp_acked');
  putBytes(view, offset + 156, value.tcpWindowLog2, 2, 'sl_session.tcp_window_log2');
  putU8(view, offset + 158, value.offload, 'sl_session.offload');
  putU8(view, offset + 159, value.live, 'sl_session.live');
  putU64(view, offset + 160, value.packets[0], 'sl_session.packets'); putU64(view, offset + 168, value.packets[1], 'sl_session.packets');
  putU64(view, offset + 176, value.bytes[0], 'sl_session.bytes'); putU64(view, offset + 184, value.bytes[1], 'sl_session.bytes');
}

export interface Adjacency {
  mac: bigint;
  usedTicks: number;
  askedTicks: number;
  waiting: number;
  incarnation: number;
  interfaceSlot: number;
  address: Uint8Array;
  inUse: number;
}
export function readAdjacency(view: DataView, offset: number): Adjacency {
  return {
    mac: view.getBigUint64(offset, true),
    usedTicks: view.getUint32(offset + 8, true),
    askedTicks: view.getUint32(offset + 12, true),
    waiting: view.getUint32(offset + 16, true),
    incarnation: view.getUint16(offset + 20, true),
    interfaceSlot: view.getUint16(offset + 22, true),
    address: bytesAt(view, offset + 24, 16),
    inUse: view.getUint8(offset + 40),
  };
}
export function writeAdjacency(view: DataView, offset: number, value: Adjacency): void {
  putU64(view, offset, value.mac, 'sl_adjacency.mac');
  putU32(view, offset + 8, value.usedTicks, 'sl_adjacency.used_ticks');
  putU32(view, offset + 12, value.askedTicks, 'sl_adjacency.asked_ticks');
  putU32(view, offset + 16, value.waiting, 'sl_adjacency.waiting');
  putU16(view, offset + 20, value.incarnation, 'sl_adjacency.incarnation');
  putU16(view, offset + 22, value.interfaceSlot, 'sl_adjacency.interface_slot');
  putBytes(view, offset + 24, value.address, 16, 'sl_adjacency.address');
  putU8(view, offset + 40, value.inUse, 'sl_adjacency.in_use');
  bytesAt(view, offset + 41, 23).fill(0);
}

export interface NatMapping {
  inside: Uint8Array;
  outside: Uint8Array;
  insidePort: number;
  outsidePort: number;
  protocol: number;
  filtering: number;
  independent: number;
  references: number;
  natRuleId: number;
  nextInside: number;
  nextOutside: number;
  pool: number;
  lastPeerClean: number;
}
export function readNatMapping(view: DataView, offset: number): NatMapping {
  return {
    inside: bytesAt(view, offset, 16),
    outside: bytesAt(view, offset + 16, 16),
    insidePort: view.getUint16(offset + 32, true),
    outsidePort: view.getUint16(offset + 34, true),
    protocol: view.getUint8(offset + 36),
    filtering: view.getUint8(offset + 37),
    independent: view.getUint8(offset + 38),
    references: view.getUint32(offset + 40, true),
    natRuleId: view.getUint32(offset + 44, true),
    nextInside: view.getUint32(offset + 48, true),
    nextOutside: view.getUint32(offset + 52, true),
    pool: view.getUint32(offset + 56, true),
    lastPeerClean: view.getUint32(offset + 60, true),
  };
}
export function writeNatMapping(view: DataView, offset: number, value: NatMapping): void {
  putBytes(view, offset, value.inside, 16, 'sl_nat_mapping.inside');
  putBytes(view, offset + 16, value.outside, 16, 'sl_nat_mapping.outside');
  putU16(view, offset + 32, value.insidePort, 'sl_nat_mapping.inside_port');
  putU16(view, offset + 34, value.outsidePort, 'sl_nat_mapping.outside_port');
  putU8(view, offset + 36, value.protocol, 'sl_nat_mapping.protocol');
  putU8(view, offset + 37, value.filtering, 'sl_nat_mapping.filtering');
  putU8(view, offset + 38, value.independent, 'sl_nat_mapping.independent');
  bytesAt(view, offset + 39, 1).fill(0);
  putU32(view, offset + 40, value.references, 'sl_nat_mapping.references');
  putU32(view, offset + 44, value.natRuleId, 'sl_nat_mapping.nat_rule_id');
  putU32(view, offset + 48, value.nextInside, 'sl_nat_mapping.next_inside');
  putU32(view, offset + 52, value.nextOutside, 'sl_nat_mapping.next_outside');
  putU32(view, offset + 56, value.pool, 'sl_nat_mapping.pool');
  putU32(view, offset + 60, value.lastPeerClean, 'sl_nat_mapping.last_peer_clean');
}

export interface InterfaceState {
  mac: bigint;
  mtuBytes: number;
  up: number;
  portSlot: number;
  vlanId: number;
  id: number;
  kernelIfindex: number;
  ifindex: number;
  mtuLimitBytes: number;
  offload: number;
}
export function readInterfaceState(view: DataView, offset: number): InterfaceState {
  return {
    mac: view.getBigUint64(offset, true),
    mtuBytes: view.getUint32(offset + 8, true),
    up: view.getUint8(offset + 12),
    portSlot: view.getUint8(offset + 13),
    vlanId: view.getUint16(offset + 14, true),
    id: view.getUint32(offset + 16, true),
    kernelIfindex: view.getUint32(offset + 20, true),
    ifindex: view.getUint32(offset + 24, true),
    mtuLimitBytes: view.getUint32(offset + 28, true),
    offload: view.getUint8(offset + 32),
  };
}
export function writeInterfaceState(view: DataView, offset: number, value: InterfaceState): void {
  putU64(view, offset, value.mac, 'sl_interface_state.mac');
  putU32(view, offset + 8, value.mtuBytes, 'sl_interface_state.mtu_bytes');
  putU8(view, offset + 12, value.up, 'sl_interface_state.up');
  putU8(view, offset + 13, value.portSlot, 'sl_interface_state.port_slot');
  putU16(view, offset + 14, value.vlanId, 'sl_interface_state.vlan_id');
  putU32(view, offset + 16, value.id, 'sl_interface_state.id');
  putU32(view, offset + 20, value.kernelIfindex, 'sl_interface_state.kernel_ifindex');
  putU32(view, offset + 24, value.ifindex, 'sl_interface_state.ifindex');
  putU32(view, offset + 28, value.mtuLimitBytes, 'sl_interface_state.mtu_limit_bytes');
  putU8(view, offset + 32, value.offload, 'sl_interface_state.offload');
  bytesAt(view, offset + 33, 31).fill(0);
}

export interface Span {
  first: number;
  count: number;
}
export function readSpan(view: DataView, offset: number): Span {
  return {
    first: view.getUint32(offset, true),
    count: view.getUint32(offset + 4, true),
  };
}
export function writeSpan(view: DataView, offset: number, value: Span): void {
  putU32(view, offset, value.first, 'sl_span.first');
  putU32(view, offset + 4, value.count, 'sl_span.count');
}

export interface Section {
  offset: number;
  count: number;
}
export function readSection(view: DataView, offset: number): Section {
  return {
    offset: view.getUint32(offset, true),
    count: view.getUint32(offset + 4, true),
  };
}
export function writeSection(view: DataView, offset: number, value: Section): void {
  putU32(view, offset, value.offset, 'sl_section.offset');
  putU32(view, offset + 4, value.count, 'sl_section.count');
}

export interface Settings {
  tcpSynS: number;
  tcpEstablishedS: number;
  tcpTransitoryS: number;
  tcpTimeWaitS: number;
  tcpResetS: number;
  udpS: number;
  udpNewS: number;
  icmpS: number;
  otherS: number;
  fragmentS: number;
  natPortReuseS: number;
  icmpErrorsPerSecond: number;
  sessionsPerSourceMax: number;
  fragmentsMax: number;
  defaultAction: number;
  defaultLog: number;
}
export function readSettings(view: DataView, offset: number): Settings {
  return {
    tcpSynS: view.getUint32(offset, true),
    tcpEstablishedS: view.getUint32(offset + 4, true),
    tcpTransitoryS: view.getUint32(offset + 8, true),
    tcpTimeWaitS: view.getUint32(offset + 12, true),
    tcpResetS: view.getUint32(offset + 16, true),
    udpS: view.getUint32(offset + 20, true),
    udpNewS: view.getUint32(offset + 24, true),
    icmpS: view.getUint32(offset + 28, true),
    otherS: view.getUint32(offset + 32, true),
    fragmentS: view.getUint32(offset + 36, true),
    natPortReuseS: view.getUint32(offset + 40, true),
    icmpErrorsPerSecond: view.getUint32(offset + 44, true),
    sessionsPerSourceMax: view.getUint32(offset + 48, true),
    fragmentsMax: view.getUint32(offset + 52, true),
    defaultAction: view.getUint32(offset + 56, true),
    defaultLog: view.getUint32(offset + 60, true),
  };
}
export function writeSettings(view: DataView, offset: number, value: Settings): void {
  putU32(view, offset, value.tcpSynS, 'sl_settings.tcp_syn_s');
  putU32(view, offset + 4, value.tcpEstablishedS, 'sl_settings.tcp_established_s');
  putU32(view, offset + 8, value.tcpTransitoryS, 'sl_settings.tcp_transitory_s');
  putU32(view, offset + 12, value.tcpTimeWaitS, 'sl_settings.tcp_time_wait_s');
  putU32(view, offset + 16, value.tcpResetS, 'sl_settings.tcp_reset_s');
  putU32(view, offset + 20, value.udpS, 'sl_settings.udp_s');
  putU32(view, offset + 24, value.udpNewS, 'sl_settings.udp_new_s');
  putU32(view, offset + 28, value.icmpS, 'sl_settings.icmp_s');
  putU32(view, offset + 32, value.otherS, 'sl_settings.other_s');
  putU32(view, offset + 36, value.fragmentS, 'sl_settings.fragment_s');
  putU32(view, offset + 40, value.natPortReuseS, 'sl_settings.nat_port_reuse_s');
  putU32(view, offset + 44, value.icmpErrorsPerSecond, 'sl_settings.icmp_errors_per_second');
  putU32(view, offset + 48, value.sessionsPerSourceMax, 'sl_settings.sessions_per_source_max');
  putU32(view, offset + 52, value.fragmentsMax, 'sl_settings.fragments_max');
  putU32(view, offset + 56, value.defaultAction, 'sl_settings.default_action');
  putU32(view, offset + 60, value.defaultLog, 'sl_settings.default_log');
}

export interface Interface {
  id: number;
  ifindex: number;
  kernelIfindex: number;
  vlanId: number;
  zone: number;
  antiSpoofing: number;
  mssClampBytes: number;
  mtuBytes: number;
  kind: number;
}
export function readInterface(view: DataView, offset: number): Interface {
  return {
    id: view.getUint32(offset, true),
    ifindex: view.getUint32(offset + 4, true),
    kernelIfindex: view.getUint32(offset + 8, true),
    vlanId: view.getUint16(offset + 12, true),
    zone: view.getUint16(offset + 14, true),
    antiSpoofing: view.getUint16(offset + 16, true),
    mssClampBytes: view.getUint16(offset + 18, true),
    mtuBytes: view.getUint32(offset + 20, true),
    kind: view.getUint16(offset + 24, true),
  };
}
export function writeInterface(view: DataView, offset: number, value: Interface): void {
  putU32(view, offset, value.id, 'sl_interface.id');
  putU32(view, offset + 4, value.ifindex, 'sl_interface.ifindex');
  putU32(view, offset + 8, value.kernelIfindex, 'sl_interface.kernel_ifindex');
  putU16(view, offset + 12, value.vlanId, 'sl_interface.vlan_id');
  putU16(view, offset + 14, value.zone, 'sl_interface.zone');
  putU16(view, offset + 16, value.antiSpoofing, 'sl_interface.anti_spoofing');
  putU16(view, offset + 18, value.mssClampBytes, 'sl_interface.mss_clamp_bytes');
  putU32(view, offset + 20, value.mtuBytes, 'sl_interface.mtu_bytes');
  putU16(view, offset + 24, value.kind, 'sl_interface.kind');
  bytesAt(view, offset + 26, 2).fill(0);
}

export interface InterfaceAddress {
  address: Uint8Array;
  interface: number;
  prefixLength: number;
  natSlot: number;
  flags: number;
}
export function readInterfaceAddress(view: DataView, offset: number): InterfaceAddress {
  return {
    address: bytesAt(view, offset, 16),
    interface: view.getUint16(offset + 16, true),
    prefixLength: view.getUint8(offset + 18),
    natSlot: view.getUint16(offset + 20, true),
    flags: view.getUint16(offset + 22, true),
  };
}
export function writeInterfaceAddress(view: DataView, offset: number, value: InterfaceAddress): void {
  putBytes(view, offset, value.address, 16, 'sl_interface_address.address');
  putU16(view, offset + 16, value.interface, 'sl_interface_address.interface');
  putU8(view, offset + 18, value.prefixLength, 'sl_interface_address.prefix_length');
  bytesAt(view, offset + 19, 1).fill(0);
  putU16(view, offset + 20, value.natSlot, 'sl_interface_address.nat_slot');
  putU16(view, offset + 22, value.flags, 'sl_interface_address.flags');
}

export interface Prefix {
  address: Uint8Array;
  length: number;
}
export function readPrefix(view: DataView, offset: number): Prefix {
  return {
    address: bytesAt(view, offset, 16),
    length: view.getUint8(offset + 16),
  };
}
export function writePrefix(view: DataView, offset: number, value: Prefix): void {
  putBytes(view, offset, value.address, 16, 'sl_prefix.address');
  putU8(view, offset + 16, value.length, 'sl_prefix.length');
  bytesAt(view, offset + 17, 7).fill(0);
}

export interface Service {
  protocol: number;
  srcLo: number;
  srcHi: number;
  dstLo: number;
  dstHi: number;
}
export function readService(view: DataView, offset: number): Service {
  return {
    protocol: view.getUint16(offset, true),
    srcLo: view.getUint16(offset + 2, true),
    srcHi: view.getUint16(offset + 4, true),
    dstLo: view.getUint16(offset + 6, true),
    dstHi: view.getUint16(offset + 8, true),
  };
}
export function writeService(view: DataView, offset: number, value: Service): void {
  putU16(view, offset, value.protocol, 'sl_service.protocol');
  putU16(view, offset + 2, value.srcLo, 'sl_service.src_lo');
  putU16(view, offset + 4, value.srcHi, 'sl_service.src_hi');
  putU16(view, offset + 6, value.dstLo, 'sl_service.dst_lo');
  putU16(view, offset + 8, value.dstHi, 'sl_service.dst_hi');
  bytesAt(view, offset + 10, 2).fill(0);
}

export interface Rule {
  fromZones: bigint;
  toZones: bigint;
  id: number;
  action: number;
  log: number;
  flags: number;
  sources: Span;
  destinations: Span;
  services: Span;
  sessionsMax: number;
}
export function readRule(view: DataView, offset: number): Rule {
  return {
    fromZones: view.getBigUint64(offset, true),
    toZones: view.getBigUint64(offset + 8, true),
    id: view.getUint32(offset + 16, true),
    action: view.getUint8(offset + 20),
    log: view.getUint8(offset + 21),
    flags: view.getUint16(offset + 22, true),
    sources: readSpan(view, offset + 24),
    destinations: readSpan(view, offset + 32),
    services: readSpan(view, offset + 40),
    sessionsMax: view.getUint32(offset + 48, true),
  };
}
export function writeRule(view: DataView, offset: number, value: Rule): void {
  putU64(view, offset, value.fromZones, 'sl_rule.from_zones');
  putU64(view, offset + 8, value.toZones, 'sl_rule.to_zones');
  putU32(view, offset + 16, value.id, 'sl_rule.id');
  putU8(view, offset + 20, value.action, 'sl_rule.action');
  putU8(view, offset + 21, value.log, 'sl_rule.log');
  putU16(view, offset + 22, value.flags, 'sl_rule.flags');
  writeSpan(view, offset + 24, value.sources);
  writeSpan(view, offset + 32, value.destinations);
  writeSpan(view, offset + 40, value.services);
  putU32(view, offset + 48, value.sessionsMax, 'sl_rule.sessions_max');
  bytesAt(view, offset + 52, 4).fill(0);
}

export interface NatAddress {
  address: Uint8Array;
  portLo: number;
  portHi: number;
  natSlot: number;
}
export function readNatAddress(view: DataView, offset: number): NatAddress {
  return {
    address: bytesAt(view, offset, 16),
    portLo: view.getUint16(offset + 16, true),
    portHi: view.getUint16(offset + 18, true),
    natSlot: view.getUint16(offset + 20, true),
  };
}
export function writeNatAddress(view: DataView, offset: number, value: NatAddress): void {
  putBytes(view, offset, value.address, 16, 'sl_nat_address.address');
  putU16(view, offset + 16, value.portLo, 'sl_nat_address.port_lo');
  putU16(view, offset + 18, value.portHi, 'sl_nat_address.port_hi');
  putU16(view, offset + 20, value.natSlot, 'sl_nat_address.nat_slot');
  bytesAt(view, offset + 22, 2).fill(0);
}

export interface NatRule {
  fromZones: bigint;
  toZones: bigint;
  id: number;
  kind: number;
  filtering: number;
  flags: number;
  sources: Span;
  destinations: Span;
  services: Span;
  pool: Span;
  toAddress: Uint8Array;
  toPort: number;
  toPrefixLength: number;
  interface: number;
}
export function readNatRule(view: DataView, offset: number): NatRule {
  return {
    fromZones: view.getBigUint64(offset, true),
    toZones: view.getBigUint64(offset + 8, true),
    id: view.getUint32(offset + 16, true),
    kind: view.getUint8(offset + 20),
    filtering: view.getUint8(offset + 21),
    flags: view.getUint16(offset + 22, true),
    sources: readSpan(view, offset + 24),
    destinations: readSpan(view, offset + 32),
    services: readSpan(view, offset + 40),
    pool: readSpan(view, offset + 48),
    toAddress: bytesAt(view, offset + 56, 16),
    toPort: view.getUint16(offset + 72, true),
    toPrefixLength: view.getUint8(offset + 74),
    interface: view.getUint16(offset + 76, true),
  };
}
export function writeNatRule(view: DataView, offset: number, value: NatRule): void {
  putU64(view, offset, value.fromZones, 'sl_nat_rule.from_zones');
  putU64(view, offset + 8, value.toZones, 'sl_nat_rule.to_zones');
  putU32(view, offset + 16, value.id, 'sl_nat_rule.id');
  putU8(view, offset + 20, value.kind, 'sl_nat_rule.kind');
  putU8(view, offset + 21, value.filtering, 'sl_nat_rule.filtering');
  putU16(view, offset + 22, value.flags, 'sl_nat_rule.flags');
  writeSpan(view, offset + 24, value.sources);
  writeSpan(view, offset + 32, value.destinations);
  writeSpan(view, offset + 40, value.services);
  writeSpan(view, offset + 48, value.pool);
  putBytes(view, offset + 56, value.toAddress, 16, 'sl_nat_rule.to_address');
  putU16(view, offset + 72, value.toPort, 'sl_nat_rule.to_port');
  putU8(view, offset + 74, value.toPrefixLength, 'sl_nat_rule.to_prefix_length');
  bytesAt(view, offset + 75, 1).fill(0);
  putU16(view, offset + 76, value.interface, 'sl_nat_rule.interface');
  bytesAt(view, offset + 78, 2).fill(0);
}

export interface Nexthop {
  via: Uint8Array;
  interface: number;
  kind: number;
}
export function readNexthop(view: DataView, offset: number): Nexthop {
  return {
    via: bytesAt(view, offset, 16),
    interface: view.getUint16(offset + 16, true),
    kind: view.getUint8(offset + 18),
  };
}
export function writeNexthop(view: DataView, offset: number, value: Nexthop): void {
  putBytes(view, offset, value.via, 16, 'sl_nexthop.via');
  putU16(view, offset + 16, value.interface, 'sl_nexthop.interface');
  putU8(view, offset + 18, value.kind, 'sl_nexthop.kind');
  bytesAt(view, offset + 19, 1).fill(0);
  bytesAt(view, offset + 20, 4).fill(0);
}

export interface Route {
  to: Prefix;
  nexthops: Span;
}
export function readRoute(view: DataView, offset: number): Route {
  return {
    to: readPrefix(view, offset),
    nexthops: readSpan(view, offset + 24),
  };
}
export function writeRoute(view: DataView, offset: number, value: Route): void {
  writePrefix(view, offset, value.to);
  writeSpan(view, offset + 24, value.nexthops);
}

export interface Wireguard {
  interface: number;
  listenPort: number;
  peers: Span;
}
export function readWireguard(view: DataView, offset: number): Wireguard {
  return {
    interface: view.getUint16(offset, true),
    listenPort: view.getUint16(offset + 2, true),
    peers: readSpan(view, offset + 4),
  };
}
export function writeWireguard(view: DataView, offset: number, value: Wireguard): void {
  putU16(view, offset, value.interface, 'sl_wireguard.interface');
  putU16(view, offset + 2, value.listenPort, 'sl_wireguard.listen_port');
  writeSpan(view, offset + 4, value.peers);
}

export interface WireguardPeer {
  id: number;
  allowedIps: Span;
}
export function readWireguardPeer(view: DataView, offset: number): WireguardPeer {
  return {
    id: view.getUint32(offset, true),
    allowedIps: readSpan(view, offset + 8),
  };
}
export function writeWireguardPeer(view: DataView, offset: number, value: WireguardPeer): void {
  putU32(view, offset, value.id, 'sl_wireguard_peer.id');
  bytesAt(view, offset + 4, 4).fill(0);
  writeSpan(view, offset + 8, value.allowedIps);
}

export interface SnapshotHeader {
  magic: number;
  abiVersion: number;
  bytes: number;
  generation: bigint;
  settings: Settings;
  interfaces: Section;
  addresses: Section;
  prefixes: Section;
  services: Section;
  rules: Section;
  natRules: Section;
  natAddresses: Section;
  nexthops: Section;
  routes: Section;
  wireguards: Section;
  wireguardPeers: Section;
}
export function readSnapshotHeader(view: DataView, offset: number): SnapshotHeader {
  return {
    magic: view.getUint32(offset, true),
    abiVersion: view.getUint32(offset + 4, true),
    bytes: view.getUint32(offset + 8, true),
    generation: view.getBigUint64(offset + 16, true),
    settings: readSettings(view, offset + 24),
    interfaces: readSection(view, offset + 88),
    addresses: readSection(view, offset + 96),
    prefixes: readSection(view, offset + 104),
    services: readSection(view, offset + 112),
    rules: readSection(view, offset + 120),
    natRules: readSection(view, offset + 128),
    natAddresses: readSection(view, offset + 136),
    nexthops: readSection(view, offset + 144),
    routes: readSection(view, offset + 152),
    wireguards: readSection(view, offset + 160),
    wireguardPeers: readSection(view, offset + 168),
  };
}
export function writeSnapshotHeader(view: DataView, offset: number, value: SnapshotHeader): void {
  putU32(view, offset, value.magic, 'sl_snapshot_header.magic');
  putU32(view, offset + 4, value.abiVersion, 'sl_snapshot_header.abi_version');
  putU32(view, offset + 8, value.bytes, 'sl_snapshot_header.bytes');
  bytesAt(view, offset + 12, 4).fill(0);
  putU64(view, offset + 16, value.generation, 'sl_snapshot_header.generation');
  writeSettings(view, offset + 24, value.settings);
  writeSection(view, offset + 88, value.interfaces);
  writeSection(view, offset + 96, value.addresses);
  writeSection(view, offset + 104, value.prefixes);
  writeSection(view, offset + 112, value.services);
  writeSection(view, offset + 120, value.rules);
  writeSection(view, offset + 128, value.natRules);
  writeSection(view, offset + 136, value.natAddresses);
  writeSection(view, offset + 144, value.nexthops);
  writeSection(view, offset + 152, value.routes);
  writeSection(view, offset + 160, value.wireguards);
  writeSection(view, offset + 168, value.wireguardPeers);
}

export interface FlowRecord {
  sessionId: bigint;
  startNs: bigint;
  lastNs: bigint;
  packets: [bigint, bigint];
  bytes: [bigint, bigint];
  src: Uint8Array;
  dst: Uint8Array;
  natSrc: Uint8Array;
  natDst: Uint8Array;
  srcPort: number;
  dstPort: number;
  natSrcPort: number;
  natDstPort: number;
  ruleId: number;
  natSourceId: number;
  natDestinationId: number;
  fromInterface: number;
  toInterface: number;
  expiresS: number;
  fromZone: number;
  toZone: number;
  protocol: number;
  state: number;
  event: number;
  endReason: number;
  tcpFlags: Uint8Array;
}
export function readFlowRecord(view: DataView, offset: number): FlowRecord {
  return {
    sessionId: view.getBigUint64(offset, true),
    startNs: view.getBigUint64(offset + 8, true),
    lastNs: view.getBigUint64(offset + 16, true),
    packets: [view.getBigUint64(offset + 24, true), view.getBigUint64(offset + 32, true)],
    bytes: [view.getBigUint64(offset + 40, true), view.getBigUint64(offset + 48, true)],
    src: bytesAt(view, offset + 56, 16),
    dst: bytesAt(view, offset + 72, 16),
    natSrc: bytesAt(view, offset + 88, 16),
    natDst: bytesAt(view, offset + 104, 16),
    srcPort: view.getUint16(offset + 120, true),
    dstPort: view.getUint16(offset + 122, true),
    natSrcPort: view.getUint16(offset + 124, true),
    natDstPort: view.getUint16(offset + 126, true),
    ruleId: view.getUint32(offset + 128, true),
    natSourceId: view.getUint32(offset + 132, true),
    natDestinationId: view.getUint32(offset + 136, true),
    fromInterface: view.getUint32(offset + 140, true),
    toInterface: view.getUint32(offset + 144, true),
    expiresS: view.getUint32(offset + 148, true),
    fromZone: view.getUint16(offset + 152, true),
    toZone: view.getUint16(offset + 154, true),
    protocol: view.getUint8(offset + 156),
    state: view.getUint8(offset + 157),
    event: view.getUint8(offset + 158),
    endReason: view.getUint8(offset + 159),
    tcpFlags: bytesAt(view, offset + 160, 2),
  };
}
export function writeFlowRecord(view: DataView, offset: number, value: FlowRecord): void {
  putU64(view, offset, value.sessionId, 'sl_flow_record.session_id');
  putU64(view, offset + 8, value.startNs, 'sl_flow_record.start_ns');
  putU64(view, offset + 16, value.lastNs, 'sl_flow_record.last_ns');
  putU64(view, offset + 24, value.packets[0], 'sl_flow_record.packets'); putU64(view, offset + 32, value.packets[1], 'sl_flow_record.packets');
  putU64(view, offset + 40, value.bytes[0], 'sl_flow_record.bytes'); putU64(view, offset + 48, value.bytes[1], 'sl_flow_record.bytes');
  putBytes(view, offset + 56, value.src, 16, 'sl_flow_record.src');
  putBytes(view, offset + 72, value.dst, 16, 'sl_flow_record.dst');
  putBytes(view, offset + 88, value.natSrc, 16, 'sl_flow_record.nat_src');
  putBytes(view, offset + 104, value.natDst, 16, 'sl_flow_record.nat_dst');
  putU16(view, offset + 120, value.srcPort, 'sl_flow_record.src_port');
  putU16(view, offset + 122, value.dstPort, 'sl_flow_record.dst_port');
  putU16(view, offset + 124, value.natSrcPort, 'sl_flow_record.nat_src_port');
  putU16(view, offset + 126, value.natDstPort, 'sl_flow_record.nat_dst_port');
  putU32(view, offset + 128, value.ruleId, 'sl_flow_record.rule_id');
  putU32(view, offset + 132, value.natSourceId, 'sl_flow_record.nat_source_id');
  putU32(view, offset + 136, value.natDestinationId, 'sl_flow_record.nat_destination_id');
  putU32(view, offset + 140, value.fromInterface, 'sl_flow_record.from_interface');
  putU32(view, offset + 144, value.toInterface, 'sl_flow_record.to_interface');
  putU32(view, offset + 148, value.expiresS, 'sl_flow_record.expires_s');
  putU16(view, offset + 152, value.fromZone, 'sl_flow_record.from_zone');
  putU16(view, offset + 154, value.toZone, 'sl_flow_record.to_zone');
  putU8(view, offset + 156, value.protocol, 'sl_flow_record.protocol');
  putU8(view, offset + 157, value.state, 'sl_flow_record.state');
  putU8(view, offset + 158, value.event, 'sl_flow_record.event');
  putU8(view, offset + 159, value.endReason, 'sl_flow_record.end_reason');
  putBytes(view, offset + 160, value.tcpFlags, 2, 'sl_flow_record.tcp_flags');
  bytesAt(view, offset + 162, 6).fill(0);
}

export interface DropRecord {
  timeNs: bigint;
  src: Uint8Array;
  dst: Uint8Array;
  natSrc: Uint8Array;
  natDst: Uint8Array;
  srcPort: number;
  dstPort: number;
  natSrcPort: number;
  natDstPort: number;
  ruleId: number;
  natSourceId: number;
  natDestinationId: number;
  interface: number;
  toInterface: number;
  bytes: number;
  reason: number;
  protocol: number;
  tcpFlags: number;
  tcpFlagsKnown: number;
}
export function readDropRecord(view: DataView, offset: number): DropRecord {
  return {
    timeNs: view.getBigUint64(offset, true),
    src: bytesAt(view, offset + 8, 16),
    dst: bytesAt(view, offset + 24, 16),
    natSrc: bytesAt(view, offset + 40, 16),
    natDst: bytesAt(view, offset + 56, 16),
    srcPort: view.getUint16(offset + 72, true),
    dstPort: view.getUint16(offset + 74, true),
    natSrcPort: view.getUint16(offset + 76, true),
    natDstPort: view.getUint16(offset + 78, true),
    ruleId: view.getUint32(offset + 80, true),
    natSourceId: view.getUint32(offset + 84, true),
    natDestinationId: view.getUint32(offset + 88, true),
    interface: view.getUint32(offset + 92, true),
    toInterface: view.getUint32(offset + 96, true),
    bytes: view.getUint16(offset + 100, true),
    reason: view.getUint8(offset + 102),
    protocol: view.getUint8(offset + 103),
    tcpFlags: view.getUint8(offset + 104),
    tcpFlagsKnown: view.getUint8(offset + 105),
  };
}
export function writeDropRecord(view: DataView, offset: number, value: DropRecord): void {
  putU64(view, offset, value.timeNs, 'sl_drop_record.time_ns');
  putBytes(view, offset + 8, value.src, 16, 'sl_drop_record.src');
  putBytes(view, offset + 24, value.dst, 16, 'sl_drop_record.dst');
  putBytes(view, offset + 40, value.natSrc, 16, 'sl_drop_record.nat_src');
  putBytes(view, offset + 56, value.natDst, 16, 'sl_drop_record.nat_dst');
  putU16(view, offset + 72, value.srcPort, 'sl_drop_record.src_port');
  putU16(view, offset + 74, value.dstPort, 'sl_drop_record.dst_port');
  putU16(view, offset + 76, value.natSrcPort, 'sl_drop_record.nat_src_port');
  putU16(view, offset + 78, value.natDstPort, 'sl_drop_record.nat_dst_port');
  putU32(view, offset + 80, value.ruleId, 'sl_drop_record.rule_id');
  putU32(view, offset + 84, value.natSourceId, 'sl_drop_record.nat_source_id');
  putU32(view, offset + 88, value.natDestinationId, 'sl_drop_record.nat_destination_id');
  putU32(view, offset + 92, value.interface, 'sl_drop_record.interface');
  putU32(view, offset + 96, value.toInterface, 'sl_drop_record.to_interface');
  putU16(view, offset + 100, value.bytes, 'sl_drop_record.bytes');
  putU8(view, offset + 102, value.reason, 'sl_drop_record.reason');
  putU8(view, offset + 103, value.protocol, 'sl_drop_record.protocol');
  putU8(view, offset + 104, value.tcpFlags, 'sl_drop_record.tcp_flags');
  putU8(view, offset + 105, value.tcpFlagsKnown, 'sl_drop_record.tcp_flags_known');
  bytesAt(view, offset + 106, 6).fill(0);
}

export interface CaptureFilter {
  source: Prefix;
  destination: Prefix;
  interface: number;
  protocol: number;
  port: number;
  snapBytes: number;
  directions: number;
  flags: number;
}
export function readCaptureFilter(view: DataView, offset: number): CaptureFilter {
  return {
    source: readPrefix(view, offset),
    destination: readPrefix(view, offset + 24),
    interface: view.getUint32(offset + 48, true),
    protocol: view.getUint16(offset + 52, true),
    port: view.getUint16(offset + 54, true),
    snapBytes: view.getUint16(offset + 56, true),
    directions: view.getUint8(offset + 58),
    flags: view.getUint8(offset + 59),
  };
}
export function writeCaptureFilter(view: DataView, offset: number, value: CaptureFilter): void {
  writePrefix(view, offset, value.source);
  writePrefix(view, offset + 24, value.destination);
  putU32(view, offset + 48, value.interface, 'sl_capture_filter.interface');
  putU16(view, offset + 52, value.protocol, 'sl_capture_filter.protocol');
  putU16(view, offset + 54, value.port, 'sl_capture_filter.port');
  putU16(view, offset + 56, value.snapBytes, 'sl_capture_filter.snap_bytes');
  putU8(view, offset + 58, value.directions, 'sl_capture_filter.directions');
  putU8(view, offset + 59, value.flags, 'sl_capture_filter.flags');
  bytesAt(view, offset + 60, 4).fill(0);
}

export interface Captured {
  timeNs: bigint;
  recordBytes: number;
  interface: number;
  bytes: number;
  originalBytes: number;
  captures: number;
  direction: number;
  reason: number;
}
export function readCaptured(view: DataView, offset: number): Captured {
  return {
    timeNs: view.getBigUint64(offset, true),
    recordBytes: view.getUint32(offset + 8, true),
    interface: view.getUint32(offset + 12, true),
    bytes: view.getUint16(offset + 16, true),
    originalBytes: view.getUint16(offset + 18, true),
    captures: view.getUint8(offset + 20),
    direction: view.getUint8(offset + 21),
    reason: view.getUint8(offset + 22),
  };
}
export function writeCaptured(view: DataView, offset: number, value: Captured): void {
  putU64(view, offset, value.timeNs, 'sl_captured.time_ns');
  putU32(view, offset + 8, value.recordBytes, 'sl_captured.record_bytes');
  putU32(view, offset + 12, value.interface, 'sl_captured.interface');
  putU16(view, offset + 16, value.bytes, 'sl_captured.bytes');
  putU16(view, offset + 18, value.originalBytes, 'sl_captured.original_bytes');
  putU8(view, offset + 20, value.captures, 'sl_captured.captures');
  putU8(view, offset + 21, value.direction, 'sl_captured.direction');
  putU8(view, offset + 22, value.reason, 'sl_captured.reason');
  bytesAt(view, offset + 23, 1).fill(0);
}

export interface SimulateRequest {
  src: Uint8Array;
  dst: Uint8Array;
  srcPort: number;
  dstPort: number;
  interface: number;
  protocol: number;
}
export function readSimulateRequest(view: DataView, offset: number): SimulateRequest {
  return {
    src: bytesAt(view, offset, 16),
    dst: bytesAt(view, offset + 16, 16),
    srcPort: view.getUint16(offset + 32, true),
    dstPort: view.getUint16(offset + 34, true),
    interface: view.getUint16(offset + 36, true),
    protocol: view.getUint8(offset + 38),
  };
}
export function writeSimulateRequest(view: DataView, offset: number, value: SimulateRequest): void {
  putBytes(view, offset, value.src, 16, 'sl_simulate_request.src');
  putBytes(view, offset + 16, value.dst, 16, 'sl_simulate_request.dst');
  putU16(view, offset + 32, value.srcPort, 'sl_simulate_request.src_port');
  putU16(view, offset + 34, value.dstPort, 'sl_simulate_request.dst_port');
  putU16(view, offset + 36, value.interface, 'sl_simulate_request.interface');
  putU8(view, offset + 38, value.protocol, 'sl_simulate_request.protocol');
  bytesAt(view, offset + 39, 1).fill(0);
}

export interface SimulateResult {
  verdict: number;
  reason: number;
  toInterface: number;
  ruleId: number;
  natSourceId: number;
  natDestinationId: number;
  natSrc: Uint8Array;
  natDst: Uint8Array;
  nextHop: Uint8Array;
  natSrcPortLo: number;
  natSrcPortHi: number;
  natDstPort: number;
  fromZone: number;
  toZone: number;
  host: number;
}
export function readSimulateResult(view: DataView, offset: number): SimulateResult {
  return {
    verdict: view.getUint8(offset),
    reason: view.getUint8(offset + 1),
    toInterface: view.getUint16(offset + 2, true),
    ruleId: view.getUint32(offset + 4, true),
    natSourceId: view.getUint32(offset + 8, true),
    natDestinationId: view.getUint32(offset + 12, true),
    natSrc: bytesAt(view, offset + 16, 16),
    natDst: bytesAt(view, offset + 32, 16),
    nextHop: bytesAt(view, offset + 48, 16),
    natSrcPortLo: view.getUint16(offset + 64, true),
    natSrcPortHi: view.getUint16(offset + 66, true),
    natDstPort: view.getUint16(offset + 68, true),
    fromZone: view.getUint16(offset + 70, true),
    toZone: view.getUint16(offset + 72, true),
    host: view.getUint8(offset + 74),
  };
}
export function writeSimulateResult(view: DataView, offset: number, value: SimulateResult): void {
  putU8(view, offset, value.verdict, 'sl_simulate_result.verdict');
  putU8(view, offset + 1, value.reason, 'sl_simulate_result.reason');
  putU16(view, offset + 2, value.toInterface, 'sl_simulate_result.to_interface');
  putU32(view, offset + 4, value.ruleId, 'sl_simulate_result.rule_id');
  putU32(view, offset + 8, value.natSourceId, 'sl_simulate_result.nat_source_id');
  putU32(view, offset + 12, value.natDestinationId, 'sl_simulate_result.nat_destination_id');
  putBytes(view, offset + 16, value.natSrc, 16, 'sl_simulate_result.nat_src');
  putBytes(view, offset + 32, value.natDst, 16, 'sl_simulate_result.nat_dst');
  putBytes(view, offset + 48, value.nextHop, 16, 'sl_simulate_result.next_hop');
  putU16(view, offset + 64, value.natSrcPortLo, 'sl_simulate_result.nat_src_port_lo');
  putU16(view, offset + 66, value.natSrcPortHi, 'sl_simulate_result.nat_src_port_hi');
  putU16(view, offset + 68, value.natDstPort, 'sl_simulate_result.nat_dst_port');
  putU16(view, offset + 70, value.fromZone, 'sl_simulate_result.from_zone');
  putU16(view, offset + 72, value.toZone, 'sl_simulate_result.to_zone');
  putU8(view, offset + 74, value.host, 'sl_simulate_result.host');
  bytesAt(view, offset + 75, 5).fill(0);
}

export interface RuleHits {
  ruleId: number;
  sessions: bigint;
}
export function readRuleHits(view: DataView, offset: number): RuleHits {
  return {
    ruleId: view.getUint32(offset, true),
    sessions: view.getBigUint64(offset + 8, true),
  };
}
export function writeRuleHits(view: DataView, offset: number, value: RuleHits): void {
  putU32(view, offset, value.ruleId, 'sl_rule_hits.rule_id');
  bytesAt(view, offset + 4, 4).fill(0);
  putU64(view, offset + 8, value.sessions, 'sl_rule_hits.sessions');
}

export interface NatPoolRecord {
  address: Uint8Array;
  used: [number, number, number];
  resting: [number, number, number];
  free: [number, number, number];
  total: [number, number, number];
}
export function readNatPoolRecord(view: DataView, offset: number): NatPoolRecord {
  return {
    address: bytesAt(view, offset, 16),
    used: [view.getUint32(offset + 16, true), view.getUint32(offset + 20, true), view.getUint32(offset + 24, true)],
    resting: [view.getUint32(offset + 28, true), view.getUint32(offset + 32, true), view.getUint32(offset + 36, true)],
    free: [view.getUint32(offset + 40, true), view.getUint32(offset + 44, true), view.getUint32(offset + 48, true)],
    total: [view.getUint32(offset + 52, true), view.getUint32(offset + 56, true), view.getUint32(offset + 60, true)],
  };
}
export function writeNatPoolRecord(view: DataView, offset: number, value: NatPoolRecord): void {
  putBytes(view, offset, value.address, 16, 'sl_nat_pool_record.address');
  putU32(view, offset + 16, value.used[0], 'sl_nat_pool_record.used'); putU32(view, offset + 20, value.used[1], 'sl_nat_pool_record.used'); putU32(view, offset + 24, value.used[2], 'sl_nat_pool_record.used');
  putU32(view, offset + 28, value.resting[0], 'sl_nat_pool_record.resting'); putU32(view, offset + 32, value.resting[1], 'sl_nat_pool_record.resting'); putU32(view, offset + 36, value.resting[2], 'sl_nat_pool_record.resting');
  putU32(view, offset + 40, value.free[0], 'sl_nat_pool_record.free'); putU32(view, offset + 44, value.free[1], 'sl_nat_pool_record.free'); putU32(view, offset + 48, value.free[2], 'sl_nat_pool_record.free');
  putU32(view, offset + 52, value.total[0], 'sl_nat_pool_record.total'); putU32(view, offset + 56, value.total[1], 'sl_nat_pool_record.total'); putU32(view, offset + 60, value.total[2], 'sl_nat_pool_record.total');
}

export interface RingRecord {
  portSlot: number;
  queue: number;
  entries: number;
  rx: number;
  fill: number;
  tx: number;
  completion: number;
}
export function readRingRecord(view: DataView, offset: number): RingRecord {
  return {
    portSlot: view.getUint16(offset, true),
    queue: view.getUint16(offset + 2, true),
    entries: view.getUint32(offset + 4, true),
    rx: view.getUint32(offset + 8, true),
    fill: view.getUint32(offset + 12, true),
    tx: view.getUint32(offset + 16, true),
    completion: view.getUint32(offset + 20, true),
  };
}
export function writeRingRecord(view: DataView, offset: number, value: RingRecord): void {
  putU16(view, offset, value.portSlot, 'sl_ring_record.port_slot');
  putU16(view, offset + 2, value.queue, 'sl_ring_record.queue');
  putU32(view, offset + 4, value.entries, 'sl_ring_record.entries');
  putU32(view, offset + 8, value.rx, 'sl_ring_record.rx');
  putU32(view, offset + 12, value.fill, 'sl_ring_record.fill');
  putU32(view, offset + 16, value.tx, 'sl_ring_record.tx');
  putU32(view, offset + 20, value.completion, 'sl_ring_record.completion');
}

export interface InterfaceRecord {
  interface: number;
  rxPackets: bigint;
  rxBytes: bigint;
  txPackets: bigint;
  txBytes: bigint;
}
export function readInterfaceRecord(view: DataView, offset: number): InterfaceRecord {
  return {
    interface: view.getUint32(offset, true),
    rxPackets: view.getBigUint64(offset + 8, true),
    rxBytes: view.getBigUint64(offset + 16, true),
    txPackets: view.getBigUint64(offset + 24, true),
    txBytes: view.getBigUint64(offset + 32, true),
  };
}
export function writeInterfaceRecord(view: DataView, offset: number, value: InterfaceRecord): void {
  putU32(view, offset, value.interface, 'sl_interface_record.interface');
  bytesAt(view, offset + 4, 4).fill(0);
  putU64(view, offset + 8, value.rxPackets, 'sl_interface_record.rx_packets');
  putU64(view, offset + 16, value.rxBytes, 'sl_interface_record.rx_bytes');
  putU64(view, offset + 24, value.txPackets, 'sl_interface_record.tx_packets');
  putU64(view, offset + 32, value.txBytes, 'sl_interface_record.tx_bytes');
}

export interface NeighbourRecord {
  address: Uint8Array;
  interface: number;
  mac: Uint8Array;
  resolved: number;
  waiting: number;
}
export function readNeighbourRecord(view: DataView, offset: number): NeighbourRecord {
  return {
    address: bytesAt(view, offset, 16),
    interface: view.getUint32(offset + 16, true),
    mac: bytesAt(view, offset + 20, 6),
    resolved: view.getUint8(offset + 26),
    waiting: view.getUint32(offset + 28, true),
  };
}
export function writeNeighbourRecord(view: DataView, offset: number, value: NeighbourRecord): void {
  putBytes(view, offset, value.address, 16, 'sl_neighbour_record.address');
  putU32(view, offset + 16, value.interface, 'sl_neighbour_record.interface');
  putBytes(view, offset + 20, value.mac, 6, 'sl_neighbour_record.mac');
  putU8(view, offset + 26, value.resolved, 'sl_neighbour_record.resolved');
  bytesAt(view, offset + 27, 1).fill(0);
  putU32(view, offset + 28, value.waiting, 'sl_neighbour_record.waiting');
}

export interface WireguardEndpoint {
  address: Uint8Array;
  local: Uint8Array;
  port: number;
}
export function readWireguardEndpoint(view: DataView, offset: number): WireguardEndpoint {
  return {
    address: bytesAt(view, offset, 16),
    local: bytesAt(view, offset + 16, 16),
    port: view.getUint16(offset + 32, true),
  };
}
export function writeWireguardEndpoint(view: DataView, offset: number, value: WireguardEndpoint): void {
  putBytes(view, offset, value.address, 16, 'sl_wireguard_endpoint.address');
  putBytes(view, offset + 16, value.local, 16, 'sl_wireguard_endpoint.local');
  putU16(view, offset + 32, value.port, 'sl_wireguard_endpoint.port');
  bytesAt(view, offset + 34, 6).fill(0);
}

export interface WireguardKeypair {
  peerId: number;
  localIndex: number;
  remoteIndex: number;
  initiator: number;
  createdNs: bigint;
  sendKey: Uint8Array;
  receiveKey: Uint8Array;
}
export function readWireguardKeypair(view: DataView, offset: number): WireguardKeypair {
  return {
    peerId: view.getUint32(offset, true),
    localIndex: view.getUint32(offset + 4, true),
    remoteIndex: view.getUint32(offset + 8, true),
    initiator: view.getUint8(offset + 12),
    createdNs: view.getBigUint64(offset + 16, true),
    sendKey: bytesAt(view, offset + 24, 32),
    receiveKey: bytesAt(view, offset + 56, 32),
  };
}
export function writeWireguardKeypair(view: DataView, offset: number, value: WireguardKeypair): void {
  putU32(view, offset, value.peerId, 'sl_wireguard_keypair.peer_id');
  putU32(view, offset + 4, value.localIndex, 'sl_wireguard_keypair.local_index');
  putU32(view, offset + 8, value.remoteIndex, 'sl_wireguard_keypair.remote_index');
  putU8(view, offset + 12, value.initiator, 'sl_wireguard_keypair.initiator');
  bytesAt(view, offset + 13, 3).fill(0);
  putU64(view, offset + 16, value.createdNs, 'sl_wireguard_keypair.created_ns');
  putBytes(view, offset + 24, value.sendKey, 32, 'sl_wireguard_keypair.send_key');
  putBytes(view, offset + 56, value.receiveKey, 32, 'sl_wireguard_keypair.receive_key');
}

export interface WireguardEventRecord {
  recordBytes: number;
  peerId: number;
  interface: number;
  messageBytes: number;
  event: number;
  key: number;
  timeNs: bigint;
  from: WireguardEndpoint;
}
export function readWireguardEventRecord(view: DataView, offset: number): WireguardEventRecord {
  return {
    recordBytes: view.getUint32(offset, true),
    peerId: view.getUint32(offset + 4, true),
    interface: view.getUint32(offset + 8, true),
    messageBytes: view.getUint16(offset + 12, true),
    event: view.getUint8(offset + 14),
    key: view.getUint8(offset + 15),
    timeNs: view.getBigUint64(offset + 16, true),
    from: readWireguardEndpoint(view, offset + 24),
  };
}
export function writeWireguardEventRecord(view: DataView, offset: number, value: WireguardEventRecord): void {
  putU32(view, offset, value.recordBytes, 'sl_wireguard_event_record.record_bytes');
  putU32(view, offset + 4, value.peerId, 'sl_wireguard_event_record.peer_id');
  putU32(view, offset + 8, value.interface, 'sl_wireguard_event_record.interface');
  putU16(view, offset + 12, value.messageBytes, 'sl_wireguard_event_record.message_bytes');
  putU8(view, offset + 14, value.event, 'sl_wireguard_event_record.event');
  putU8(view, offset + 15, value.key, 'sl_wireguard_event_record.key');
  putU64(view, offset + 16, value.timeNs, 'sl_wireguard_event_record.time_ns');
  writeWireguardEndpoint(view, offset + 24, value.from);
}

export interface WireguardGateKey {
  mac1Key: Uint8Array;
  cookieKey: Uint8Array;
}
export function readWireguardGateKey(view: DataView, offset: number): WireguardGateKey {
  return {
    mac1Key: bytesAt(view, offset, 32),
    cookieKey: bytesAt(view, offset + 32, 32),
  };
}
export function writeWireguardGateKey(view: DataView, offset: number, value: WireguardGateKey): void {
  putBytes(view, offset, value.mac1Key, 32, 'sl_wireguard_gate_key.mac1_key');
  putBytes(view, offset + 32, value.cookieKey, 32, 'sl_wireguard_gate_key.cookie_key');
}

export interface WireguardPeerRecord {
  id: number;
  interface: number;
  endpoint: WireguardEndpoint;
  lastSentNs: bigint;
  lastReceivedNs: bigint;
  lastDataSentNs: bigint;
  lastDataReceivedNs: bigint;
  currentCreatedNs: bigint;
  currentSent: bigint;
  txPackets: bigint;
  txBytes: bigint;
  rxPackets: bigint;
  rxBytes: bigint;
  waiting: number;
  currentInitiator: number;
  hasNext: number;
}
export function readWireguardPeerRecord(view: DataView, offset: number): WireguardPeerRecord {
  return {
    id: view.getUint32(offset, true),
    interface: view.getUint32(offset + 4, true),
    endpoint: readWireguardEndpoint(view, offset + 8),
    lastSentNs: view.getBigUint64(offset + 48, true),
    lastReceivedNs: view.getBigUint64(offset + 56, true),
    lastDataSentNs: view.getBigUint64(offset + 64, true),
    lastDataReceivedNs: view.getBigUint64(offset + 72, true),
    currentCreatedNs: view.getBigUint64(offset + 80, true),
    currentSent: view.getBigUint64(offset + 88, true),
    txPackets: view.getBigUint64(offset + 96, true),
    txBytes: view.getBigUint64(offset + 104, true),
    rxPackets: view.getBigUint64(offset + 112, true),
    rxBytes: view.getBigUint64(offset + 120, true),
    waiting: view.getUint32(offset + 128, true),
    currentInitiator: view.getUint8(offset + 132),
    hasNext: view.getUint8(offset + 133),
  };
}
export function writeWireguardPeerRecord(view: DataView, offset: number, value: WireguardPeerRecord): void {
  putU32(view, offset, value.id, 'sl_wireguard_peer_record.id');
  putU32(view, offset + 4, value.interface, 'sl_wireguard_peer_record.interface');
  writeWireguardEndpoint(view, offset + 8, value.endpoint);
  putU64(view, offset + 48, value.lastSentNs, 'sl_wireguard_peer_record.last_sent_ns');
  putU64(view, offset + 56, value.lastReceivedNs, 'sl_wireguard_peer_record.last_received_ns');
  putU64(view, offset + 64, value.lastDataSentNs, 'sl_wireguard_peer_record.last_data_sent_ns');
  putU64(view, offset + 72, value.lastDataReceivedNs, 'sl_wireguard_peer_record.last_data_received_ns');
  putU64(view, offset + 80, value.currentCreatedNs, 'sl_wireguard_peer_record.current_created_ns');
  putU64(view, offset + 88, value.currentSent, 'sl_wireguard_peer_record.current_sent');
  putU64(view, offset + 96, value.txPackets, 'sl_wireguard_peer_record.tx_packets');
  putU64(view, offset + 104, value.txBytes, 'sl_wireguard_peer_record.tx_bytes');
  putU64(view, offset + 112, value.rxPackets, 'sl_wireguard_peer_record.rx_packets');
  putU64(view, offset + 120, value.rxBytes, 'sl_wireguard_peer_record.rx_bytes');
  putU32(view, offset + 128, value.waiting, 'sl_wireguard_peer_record.waiting');
  putU8(view, offset + 132, value.currentInitiator, 'sl_wireguard_peer_record.current_initiator');
  putU8(view, offset + 133, value.hasNext, 'sl_wireguard_peer_record.has_next');
  bytesAt(view, offset + 134, 2).fill(0);
}
