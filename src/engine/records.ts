// Turns what the engine sends back (flow, drop, neighbour and rule-hit structs of native/abi/dataplane.h) into the objects that the
// API, the CLI and logs show, and packs simulate requests. Names of rules, zones and interfaces come from the compiled configuration.
// Who: src/control/, src/cli/commands/simulate.ts. Pure functions; nothing is kept but the texts of MINUTES_KEPT minutes.
import {
  DROP_REASONS, DropReason, END_REASONS, FLOW_EVENTS, RULE_ACTIONS, SESSION_STATES, SIMULATE_REQUEST_BYTES, type ListEntry,
  readDropRecord, readFlowRecord, readNeighbourRecord, readSimulateResult, writeSimulateRequest,
} from './abi.generated.js';
import { formatAddress } from '../lib/address.js';

/** What ids and indexes of a snapshot mean. Ids are hashes of names, so records outlive a recompilation. */
export interface Names {
  rule(id: number): string | null;
  natRule(id: number): string | null;
  interfaceById(id: number): string | null;
  interfaceAt(index: number): string | null;
  zone(index: number): string | null;
  /** Records go by this one: indexes of zones belong to one snapshot, and a record may be older, or newer, than what is known here. */
  zoneOfInterface(id: number): string | null;
  /** Of a tunnel, the peer behind which an address is; null: none. Undefined: this interface is no tunnel. */
  peerOf?(interfaceId: number, address: Uint8Array): string | null | undefined;
}

/** Where a record's packets came in or left; `peer`: of tunnels alone. */
export interface PlaceView { interface: string | null; zone: string | null; peer?: string | null }

function placeOf(names: Names, interfaceId: number, address: Uint8Array): PlaceView {
  const peer = names.peerOf?.(interfaceId, address);
  return { interface: names.interfaceById(interfaceId), zone: names.zoneOfInterface(interfaceId), ...(peer === undefined ? {} : { peer }) };
}

export interface TranslatedView { source: string; sourcePort: number; destination: string; destinationPort: number }

export interface FlowRecordView {
  kind: 'flow';
  time: string;
  event: string;
  sessionId: string;
  protocol: string;
  source: string; sourcePort: number;
  destination: string; destinationPort: number;
  translated: TranslatedView | null;
  rule: string | null; natSource: string | null; natDestination: string | null;
  from: PlaceView;
  to: PlaceView;
  state: string; endReason: string | null;
  packets: [number, number]; bytes: [number, number];
  start: string; last: string; durationMs: number; expiresSeconds: number;
  tcpFlags: [string, string] | null;   // all that each direction carried
  verdict: 'allowed';
}

export interface DropRecordView {
  kind: 'drop';
  time: string;
  event: string;                       // denied by policy, or dropped
  reason: string; help: string;
  protocol: string;
  source: string; sourcePort: number;
  destination: string; destinationPort: number;
  translated: TranslatedView | null;   // as it would have left, as far as that was decided
  rule: string | null; natSource: string | null; natDestination: string | null;
  from: PlaceView;
  to: PlaceView | null;                // null: not decided
  bytes: number;
  tcpFlags: string | null;
  verdict: 'dropped';
}

const PROTOCOLS: ReadonlyMap<number, string> = new Map([
  [1, 'icmp'], [2, 'igmp'], [4, 'ipip'], [6, 'tcp'], [17, 'udp'], [41, 'ipv6'], [47, 'gre'], [50, 'esp'], [51, 'ah'],
  [58, 'icmpv6'], [89, 'ospf'], [112, 'vrrp'], [132, 'sctp'],
]);

export function protocolName(number: number): string { return PROTOCOLS.get(number) ?? String(number); }

export function protocolNumber(text: string): number | undefined {
  if (/^\d{1,3}$/.test(text)) return Number(text) <= 255 ? Number(text) : undefined;
  for (const [number, name] of PROTOCOLS) if (name === text.toLowerCase()) return number;
  return undefined;
}

export function entryName(list: readonly ListEntry[], value: number): string { return list[value]?.name ?? `unknown-${value}`; }

const MINUTES_KEPT = 4096;
const MINUTE_MS = 60_000;
const minutes = new Map<number, string>();
const SECONDS = Array.from({ length: 60 }, (_, second) => String(second).padStart(2, '0'));
const MILLISECONDS = Array.from({ length: 1000 }, (_, one) => `.${String(one).padStart(3, '0')}Z`);

/** Times are nanoseconds since the epoch; what lies outside Date's range (a broken record) becomes the epoch. Pages hold thousands of times of few minutes. */
export function isoTime(nanoseconds: bigint): string {
  const exact = Number(nanoseconds / 1_000_000n);
  const milliseconds = exact <= 8.64e15 ? exact : 0;
  const minute = Math.floor(milliseconds / MINUTE_MS);
  let start = minutes.get(minute);
  if (start === undefined) {
    if (minutes.size >= MINUTES_KEPT) minutes.clear();
    start = new Date(minute * MINUTE_MS).toISOString().slice(0, -'00.000Z'.length);
    minutes.set(minute, start);
  }
  const rest = milliseconds - minute * MINUTE_MS;
  return `${start}${SECONDS[Math.floor(rest / 1000)]!}${MILLISECONDS[rest % 1000]!}`;
}

/** Flags as letters from FIN up: "FSPA" is a whole connection. */
export function tcpFlagLetters(flags: number): string {
  return [...'FSRPAUEC'].filter((_, bit) => (flags >> bit) & 1).join('');
}

export function viewOf(bytes: Uint8Array): DataView { return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength); }

interface Addressed { src: Uint8Array; dst: Uint8Array; natSrc: Uint8Array; natDst: Uint8Array; srcPort: number; dstPort: number; natSrcPort: number; natDstPort: number }

function tupleOf(record: Addressed): Pick<FlowRecordView, 'source' | 'sourcePort' | 'destination' | 'destinationPort' | 'translated'> {
  const own = { source: formatAddress(record.src), sourcePort: record.srcPort, destination: formatAddress(record.dst), destinationPort: record.dstPort };
  const translated = { source: formatAddress(record.natSrc), sourcePort: record.natSrcPort, destination: formatAddress(record.natDst), destinationPort: record.natDstPort };
  const isTranslated = translated.source !== own.source || translated.destination !== own.destination
    || translated.sourcePort !== own.sourcePort || translated.destinationPort !== own.destinationPort;
  return { ...own, translated: isTranslated ? translated : null };
}

export function decodeFlow(view: DataView, offset: number, names: Names): FlowRecordView {
  const record = readFlowRecord(view, offset);
  const [start, last] = [isoTime(record.startNs), isoTime(record.lastNs)];
  return {
    kind: 'flow',
    time: record.lastNs > record.startNs ? last : start,
    event: entryName(FLOW_EVENTS, record.event),
    sessionId: record.sessionId.toString(),
    protocol: protocolName(record.protocol),
    ...tupleOf(record),
    rule: names.rule(record.ruleId),
    natSource: names.natRule(record.natSourceId), natDestination: names.natRule(record.natDestinationId),
    from: placeOf(names, record.fromInterface, record.src),
    to: placeOf(names, record.toInterface, record.natDst),
    state: entryName(SESSION_STATES, record.state),
    endReason: record.endReason === 0 ? null : entryName(END_REASONS, record.endReason),
    packets: [Number(record.packets[0] ?? 0), Number(record.packets[1] ?? 0)],
    bytes: [Number(record.bytes[0] ?? 0), Number(record.bytes[1] ?? 0)],
    start, last, expiresSeconds: record.expiresS,
    durationMs: record.lastNs > record.startNs ? Number(record.lastNs / 1_000_000n - record.startNs / 1_000_000n) : 0,
    tcpFlags: record.protocol === 6 ? [tcpFlagLetters(record.tcpFlags[0] ?? 0), tcpFlagLetters(record.tcpFlags[1] ?? 0)] : null,
    verdict: 'allowed',
  };
}

export function decodeDrop(view: DataView, offset: number, names: Names): DropRecordView {
  const record = readDropRecord(view, offset);
  return {
    kind: 'drop',
    time: isoTime(record.timeNs),
    event: record.reason === DropReason.POLICY_DENY || record.reason === DropReason.POLICY_REJECT ? 'denied' : 'dropped',
    reason: entryName(DROP_REASONS, record.reason), help: DROP_REASONS[record.reason]?.help ?? '',
    protocol: protocolName(record.protocol),
    ...tupleOf(record),
    rule: names.rule(record.ruleId),
    natSource: names.natRule(record.natSourceId), natDestination: names.natRule(record.natDestinationId),
    from: placeOf(names, record.interface, record.src),
    to: record.toInterface === 0 ? null : placeOf(names, record.toInterface, record.natDst),
    bytes: record.bytes,
    tcpFlags: record.tcpFlagsKnown === 0 ? null : tcpFlagLetters(record.tcpFlags),
    verdict: 'dropped',
  };
}

export interface NeighbourView { address: string; interface: string | null; mac: string | null; resolved: boolean; waiting: number }

export function decodeNeighbour(view: DataView, offset: number, names: Names): NeighbourView {
  const record = readNeighbourRecord(view, offset);
  const resolved = record.resolved !== 0;
  return {
    address: formatAddress(record.address), interface: names.interfaceById(record.interface), resolved, waiting: record.waiting,
    mac: resolved ? Array.from(record.mac, (byte) => byte.toString(16).padStart(2, '0')).join(':') : null,
  };
}

export interface SimulateQuestion {
  interfaceIndex: number;
  source: Uint8Array; destination: Uint8Array;
  sourcePort: number; destinationPort: number;
  protocol: number;
}

export function encodeSimulate(question: SimulateQuestion): Uint8Array {
  const bytes = new Uint8Array(SIMULATE_REQUEST_BYTES);
  writeSimulateRequest(viewOf(bytes), 0, {
    src: question.source, dst: question.destination, srcPort: question.sourcePort, dstPort: question.destinationPort,
    interface: question.interfaceIndex, protocol: question.protocol,
  });
  return bytes;
}

export interface SimulateAnswer {
  verdict: string; reason: string | null; help: string | null; host: boolean;
  rule: string | null; natSource: string | null; natDestination: string | null;
  from: { zone: string | null }; to: { interface: string | null; zone: string | null };
  translated: { source: string; sourcePorts: [number, number]; destination: string; destinationPort: number };
  nextHop: string | null;
}

const INTERFACE_NONE = 0xffff;

export function decodeSimulate(bytes: Uint8Array, names: Names): SimulateAnswer {
  const result = readSimulateResult(viewOf(bytes), 0);
  const reason = result.reason === 0 ? undefined : DROP_REASONS[result.reason];
  const isReached = result.toInterface !== INTERFACE_NONE;
  const nextHop = formatAddress(result.nextHop);
  return {
    verdict: entryName(RULE_ACTIONS, result.verdict), reason: reason?.name ?? null, help: reason?.help ?? null, host: result.host !== 0,
    rule: names.rule(result.ruleId), natSource: names.natRule(result.natSourceId), natDestination: names.natRule(result.natDestinationId),
    from: { zone: names.zone(result.fromZone) },
    to: { interface: isReached ? names.interfaceAt(result.toInterface) : null, zone: isReached ? names.zone(result.toZone) : null },
    translated: {
      source: formatAddress(result.natSrc), sourcePorts: [result.natSrcPortLo, result.natSrcPortHi],
      destination: formatAddress(result.natDst), destinationPort: result.natDstPort,
    },
    nextHop: nextHop === '::' || nextHop === '0.0.0.0' ? null : nextHop,
  };
}
