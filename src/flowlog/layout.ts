// Where things stand in sl_flow_record and sl_drop_record, and texts of their small enums: for those who read records without decoding
// them into objects. Who: json.ts, match.ts, ipfix.ts, metrics. Everything comes from abi.generated.ts.
import { DROP_REASONS, DropReason, END_REASONS, FLOW_EVENTS, SESSION_STATES, STRUCTS, type ListEntry } from '../engine/abi.generated.js';
import { protocolName, tcpFlagLetters } from '../engine/records.js';
import { snippet, type Snippet } from './output.js';

const flow = STRUCTS.sl_flow_record.fields;
const drop = STRUCTS.sl_drop_record.fields;

export const Flow = {
  SESSION_ID: flow.session_id.offset, START: flow.start_ns.offset, LAST: flow.last_ns.offset,
  PACKETS: flow.packets.offset, BYTES: flow.bytes.offset,
  SOURCE: flow.src.offset, DESTINATION: flow.dst.offset, NAT_SOURCE: flow.nat_src.offset, NAT_DESTINATION: flow.nat_dst.offset,
  SOURCE_PORT: flow.src_port.offset, DESTINATION_PORT: flow.dst_port.offset, NAT_SOURCE_PORT: flow.nat_src_port.offset, NAT_DESTINATION_PORT: flow.nat_dst_port.offset,
  RULE: flow.rule_id.offset, NAT_SOURCE_RULE: flow.nat_source_id.offset, NAT_DESTINATION_RULE: flow.nat_destination_id.offset,
  FROM_INTERFACE: flow.from_interface.offset, TO_INTERFACE: flow.to_interface.offset, FROM_ZONE: flow.from_zone.offset, TO_ZONE: flow.to_zone.offset,
  PROTOCOL: flow.protocol.offset, STATE: flow.state.offset, EVENT: flow.event.offset, END_REASON: flow.end_reason.offset, TCP_FLAGS: flow.tcp_flags.offset,
  EXPIRES: flow.expires_s.offset,
} as const;

export const Drop = {
  TIME: drop.time_ns.offset, SOURCE: drop.src.offset, DESTINATION: drop.dst.offset, SOURCE_PORT: drop.src_port.offset, DESTINATION_PORT: drop.dst_port.offset,
  NAT_SOURCE: drop.nat_src.offset, NAT_DESTINATION: drop.nat_dst.offset, NAT_SOURCE_PORT: drop.nat_src_port.offset, NAT_DESTINATION_PORT: drop.nat_dst_port.offset,
  RULE: drop.rule_id.offset, NAT_SOURCE_RULE: drop.nat_source_id.offset, NAT_DESTINATION_RULE: drop.nat_destination_id.offset,
  INTERFACE: drop.interface.offset, TO_INTERFACE: drop.to_interface.offset, BYTES: drop.bytes.offset, REASON: drop.reason.offset, PROTOCOL: drop.protocol.offset,
  TCP_FLAGS: drop.tcp_flags.offset, TCP_FLAGS_KNOWN: drop.tcp_flags_known.offset,
} as const;

/** What happened, of one list for both kinds of records: flow events first, then what became of packets without a session. */
export const RECORD_EVENTS = [...FLOW_EVENTS.map((entry) => entry.name), 'denied', 'dropped'] as const;
export const EVENT_DENIED = FLOW_EVENTS.length;
export const EVENT_DROPPED = FLOW_EVENTS.length + 1;

/** A rule's decision is "denied"; all else is "dropped". */
export function dropEvent(reason: number): number {
  return reason === DropReason.POLICY_DENY || reason === DropReason.POLICY_REJECT ? EVENT_DENIED : EVENT_DROPPED;
}

const quoted = (names: readonly string[]): readonly Snippet[] => names.map((name) => snippet(JSON.stringify(name)));
const unknowns = (list: readonly ListEntry[]): string[] => Array.from({ length: 256 }, (_, value) => list[value]?.name ?? `unknown-${value}`);

export const EVENT_TEXTS = quoted(RECORD_EVENTS.concat(Array.from({ length: 256 - RECORD_EVENTS.length }, (_, n) => `unknown-${n + RECORD_EVENTS.length}`)));
export const STATE_TEXTS = quoted(unknowns(SESSION_STATES));
export const END_REASON_TEXTS = quoted(unknowns(END_REASONS));
export const DROP_REASON_TEXTS = quoted(unknowns(DROP_REASONS));
export const PROTOCOL_TEXTS = quoted(Array.from({ length: 256 }, (_, number) => protocolName(number)));

export const TCP = 6;

export const TCP_FLAG_TEXTS = quoted(Array.from({ length: 256 }, (_, flags) => tcpFlagLetters(flags)));
