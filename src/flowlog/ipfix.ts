// Flow and drop records as IPFIX (RFC 7011): templates for IPv4 and IPv6 flows with their addresses and ports before and after NAT, for
// dropped packets, and an options template that names interfaces (ingressInterface → interfaceName). Pure: bytes in, messages out;
// sequence numbers and export times are stamped when a message leaves. Who: stream.ts.
// Element numbers are IANA's registry "IP Flow Information Export (IPFIX) Entities". What is redacted or dropped is left out of the templates.
// With an enterprise number of the user's, texts that IANA has no element for go along under it: 1 rule, 2 from zone, 3 to zone, 4 reason,
// 5 from peer, 6 to peer (of tunnels).
// Bounds: a message has `messageBytesMax` at most; over UDP that is MESSAGE_BYTES_UDP, what passes an Ethernet path unfragmented.
import { DROP_REASONS, DropReason, EndReason, FlowEvent } from '../engine/abi.generated.js';
import { Treatment, type FieldPlan, type Place } from './fields.js';
import { isTranslated } from './json.js';
import { Drop, Flow, TCP } from './layout.js';
import type { NameTexts } from './names.js';
import { isMapped, readMilliseconds } from './output.js';
import type { Run } from './sink.js';

export const MESSAGE_BYTES_UDP = 1400;
export const MESSAGE_BYTES_TCP = 16_384;
export const TEMPLATE_REPEAT_MS = 60_000;

const VERSION = 10;
const HEADER_BYTES = 16;
const SET_HEADER_BYTES = 4;
const INTERFACES_NAMED_MAX = 256;
const TEMPLATE_SET = 2;
const OPTIONS_TEMPLATE_SET = 3;
const VARIABLE = 0xffff;
const REVERSE = 29_305; // RFC 5103: the element of the other direction
const TEXT_BYTES_MAX = 254; // longer ones would need the three-byte length

const DROP_ADDRESSES = [Drop.SOURCE, Drop.DESTINATION, Drop.NAT_SOURCE, Drop.NAT_DESTINATION] as const;
const TEMPLATE = { FLOW_IPV4: 256, FLOW_IPV6: 257, DROP_IPV4: 258, DROP_IPV6: 259, INTERFACE: 260 } as const;

/** Of a record: where it goes, which element it is, how it is written. */
interface Field { place: Place | undefined; element: number; enterprise?: 'own' | number; length: number; write: Write }
type Write = (to: Buffer, at: number, view: DataView, bytes: Uint8Array, offset: number, names: NameTexts) => number;

const u8 = (of: (view: DataView, bytes: Uint8Array, offset: number) => number): Write => (to, at, view, bytes, offset) => to.writeUInt8(of(view, bytes, offset), at);
const u16At = (where: number): Write => (to, at, view, _bytes, offset) => to.writeUInt16BE(view.getUint16(offset + where, true), at);
const u32At = (where: number): Write => (to, at, view, _bytes, offset) => to.writeUInt32BE(view.getUint32(offset + where, true), at);
const u64At = (where: number): Write => (to, at, view, _bytes, offset) => {
  to.writeUInt32BE(view.getUint32(offset + where + 4, true), at);
  return to.writeUInt32BE(view.getUint32(offset + where, true), at + 4);
};
const millisecondsAt = (where: number): Write => (to, at, view, _bytes, offset) => {
  const value = readMilliseconds(view, offset + where);
  to.writeUInt32BE(Math.floor(value / 4294967296), at);
  return to.writeUInt32BE(value % 4294967296, at + 4);
};
const ipv4At = (where: number): Write => (to, at, _view, bytes, offset) => {
  to.set(bytes.subarray(offset + where + 12, offset + where + 16), at);
  return at + 4;
};
const ipv6At = (where: number): Write => (to, at, _view, bytes, offset) => {
  to.set(bytes.subarray(offset + where, offset + where + 16), at);
  return at + 16;
};
const textOf = (of: (view: DataView, bytes: Uint8Array, offset: number, names: NameTexts) => string | null): Write => (to, at, view, bytes, offset, names) => writeText(to, at, of(view, bytes, offset, names) ?? '');

function writeText(to: Buffer, at: number, text: string): number {
  let written = Buffer.from(text, 'utf8');
  if (written.length > TEXT_BYTES_MAX) written = Buffer.from(written.subarray(0, TEXT_BYTES_MAX).toString('utf8').replace(/\ufffd+$/, ''), 'utf8');
  to.writeUInt8(written.length, at);
  to.set(written, at + 1);
  return at + 1 + written.length;
}

const FIREWALL_EVENT = { CREATED: 1, DELETED: 2, DENIED: 3, ALERT: 4, UPDATE: 5 } as const;
/** flowEndReason: 1 idle, 2 active timeout (it goes on), 3 end of flow detected, 4 forced end, 5 lack of resources. */
const FLOW_END_REASON: Record<number, number> = { [EndReason.IDLE]: 1, [EndReason.NONE]: 2, [EndReason.TCP_FIN]: 3, [EndReason.TCP_RST]: 3, [EndReason.REPLACED]: 3, [EndReason.POLICY_CHANGED]: 4, [EndReason.KILLED]: 4, [EndReason.SHUTDOWN]: 4, [EndReason.EVICTED]: 5 };
const NAT_EVENT = { CREATED: 4, DELETED: 5 } as const; // of NAT44 sessions
const FORWARDING_STATUS_DROPPED_ACL = 129; // "dropped: ACL deny"
const FORWARDING_STATUS_DROPPED = 128;

/** Of a tunnel, the peer behind which an address is; else the empty text. */
const peerOf = (interfaceAt: number, addressAt: number): Write => textOf((view, bytes, offset, names) => names.names.peerOf?.(view.getUint32(offset + interfaceAt, true), bytes.subarray(offset + addressAt, offset + addressAt + 16)) ?? null);

function flowFields(isIpv4: boolean): Field[] {
  const address = isIpv4 ? ipv4At : ipv6At;
  const addressBytes = isIpv4 ? 4 : 16;
  return [
    { place: 'sessionId', element: 148, length: 8, write: u64At(Flow.SESSION_ID) },
    { place: 'start', element: 152, length: 8, write: millisecondsAt(Flow.START) },
    { place: 'time', element: 153, length: 8, write: millisecondsAt(Flow.LAST) },
    { place: 'source', element: isIpv4 ? 8 : 27, length: addressBytes, write: address(Flow.SOURCE) },
    { place: 'destination', element: isIpv4 ? 12 : 28, length: addressBytes, write: address(Flow.DESTINATION) },
    { place: 'sourcePort', element: 7, length: 2, write: u16At(Flow.SOURCE_PORT) },
    { place: 'destinationPort', element: 11, length: 2, write: u16At(Flow.DESTINATION_PORT) },
    { place: 'translatedSource', element: isIpv4 ? 225 : 281, length: addressBytes, write: address(Flow.NAT_SOURCE) },
    { place: 'translatedDestination', element: isIpv4 ? 226 : 282, length: addressBytes, write: address(Flow.NAT_DESTINATION) },
    { place: 'translatedSourcePort', element: 227, length: 2, write: u16At(Flow.NAT_SOURCE_PORT) },
    { place: 'translatedDestinationPort', element: 228, length: 2, write: u16At(Flow.NAT_DESTINATION_PORT) },
    { place: 'protocol', element: 4, length: 1, write: u8((_view, bytes, offset) => bytes[offset + Flow.PROTOCOL]!) },
    // Totals as one-way collectors know them, with their way back (RFC 5103), and as those of firewalls do.
    { place: 'bytes', element: 85, length: 8, write: u64At(Flow.BYTES) },
    { place: 'bytes', element: 85, enterprise: REVERSE, length: 8, write: u64At(Flow.BYTES + 8) },
    { place: 'packets', element: 86, length: 8, write: u64At(Flow.PACKETS) },
    { place: 'packets', element: 86, enterprise: REVERSE, length: 8, write: u64At(Flow.PACKETS + 8) },
    { place: 'bytes', element: 231, length: 8, write: u64At(Flow.BYTES) },
    { place: 'bytes', element: 232, length: 8, write: u64At(Flow.BYTES + 8) },
    { place: 'packets', element: 298, length: 8, write: u64At(Flow.PACKETS) },
    { place: 'packets', element: 299, length: 8, write: u64At(Flow.PACKETS + 8) },
    { place: 'tcpFlags', element: 6, length: 2, write: (to, at, _view, bytes, offset) => to.writeUInt16BE(bytes[offset + Flow.PROTOCOL] === TCP ? bytes[offset + Flow.TCP_FLAGS]! | bytes[offset + Flow.TCP_FLAGS + 1]! : 0, at) },
    { place: 'fromInterface', element: 10, length: 4, write: u32At(Flow.FROM_INTERFACE) },
    { place: 'toInterface', element: 14, length: 4, write: u32At(Flow.TO_INTERFACE) },
    { place: 'event', element: 233, length: 1, write: u8((_view, bytes, offset) => firewallEvent(bytes[offset + Flow.EVENT]!)) },
    { place: 'event', element: 230, length: 1, write: u8((view, bytes, offset) => natEvent(bytes[offset + Flow.EVENT]!, isTranslated(Flow, view, offset))) },
    { place: 'endReason', element: 136, length: 1, write: u8((_view, bytes, offset) => FLOW_END_REASON[bytes[offset + Flow.END_REASON]!] ?? 2) },
    { place: 'rule', element: 1, enterprise: 'own', length: VARIABLE, write: textOf((view, _bytes, offset, names) => names.names.rule(view.getUint32(offset + Flow.RULE, true))) },
    { place: 'fromZone', element: 2, enterprise: 'own', length: VARIABLE, write: textOf((view, _bytes, offset, names) => names.names.zoneOfInterface(view.getUint32(offset + Flow.FROM_INTERFACE, true))) },
    { place: 'toZone', element: 3, enterprise: 'own', length: VARIABLE, write: textOf((view, _bytes, offset, names) => names.names.zoneOfInterface(view.getUint32(offset + Flow.TO_INTERFACE, true))) },
    { place: 'fromPeer', element: 5, enterprise: 'own', length: VARIABLE, write: peerOf(Flow.FROM_INTERFACE, Flow.SOURCE) },
    { place: 'toPeer', element: 6, enterprise: 'own', length: VARIABLE, write: peerOf(Flow.TO_INTERFACE, Flow.NAT_DESTINATION) },
  ];
}

function dropFields(isIpv4: boolean): Field[] {
  const address = isIpv4 ? ipv4At : ipv6At;
  const addressBytes = isIpv4 ? 4 : 16;
  const isDenied = (bytes: Uint8Array, offset: number): boolean => bytes[offset + Drop.REASON] === DropReason.POLICY_DENY || bytes[offset + Drop.REASON] === DropReason.POLICY_REJECT;
  return [
    { place: 'time', element: 323, length: 8, write: millisecondsAt(Drop.TIME) },
    { place: 'source', element: isIpv4 ? 8 : 27, length: addressBytes, write: address(Drop.SOURCE) },
    { place: 'destination', element: isIpv4 ? 12 : 28, length: addressBytes, write: address(Drop.DESTINATION) },
    { place: 'sourcePort', element: 7, length: 2, write: u16At(Drop.SOURCE_PORT) },
    { place: 'destinationPort', element: 11, length: 2, write: u16At(Drop.DESTINATION_PORT) },
    { place: 'translatedSource', element: isIpv4 ? 225 : 281, length: addressBytes, write: address(Drop.NAT_SOURCE) },
    { place: 'translatedDestination', element: isIpv4 ? 226 : 282, length: addressBytes, write: address(Drop.NAT_DESTINATION) },
    { place: 'translatedSourcePort', element: 227, length: 2, write: u16At(Drop.NAT_SOURCE_PORT) },
    { place: 'translatedDestinationPort', element: 228, length: 2, write: u16At(Drop.NAT_DESTINATION_PORT) },
    { place: 'protocol', element: 4, length: 1, write: u8((_view, bytes, offset) => bytes[offset + Drop.PROTOCOL]!) },
    { place: 'tcpFlags', element: 6, length: 2, write: (to, at, _view, bytes, offset) => to.writeUInt16BE(bytes[offset + Drop.TCP_FLAGS_KNOWN] === 0 ? 0 : bytes[offset + Drop.TCP_FLAGS]!, at) },
    { place: 'fromInterface', element: 10, length: 4, write: u32At(Drop.INTERFACE) },
    { place: 'toInterface', element: 14, length: 4, write: u32At(Drop.TO_INTERFACE) },
    { place: 'bytes', element: 352, length: 8, write: (to, at, view, _bytes, offset) => {
      to.writeUInt32BE(0, at);
      return to.writeUInt32BE(view.getUint16(offset + Drop.BYTES, true), at + 4);
    } },
    { place: 'event', element: 233, length: 1, write: u8((_view, bytes, offset) => (isDenied(bytes, offset) ? FIREWALL_EVENT.DENIED : FIREWALL_EVENT.ALERT)) },
    { place: 'reason', element: 89, length: 1, write: u8((_view, bytes, offset) => (isDenied(bytes, offset) ? FORWARDING_STATUS_DROPPED_ACL : FORWARDING_STATUS_DROPPED)) },
    { place: 'rule', element: 1, enterprise: 'own', length: VARIABLE, write: textOf((view, _bytes, offset, names) => names.names.rule(view.getUint32(offset + Drop.RULE, true))) },
    { place: 'fromZone', element: 2, enterprise: 'own', length: VARIABLE, write: textOf((view, _bytes, offset, names) => names.names.zoneOfInterface(view.getUint32(offset + Drop.INTERFACE, true))) },
    { place: 'toZone', element: 3, enterprise: 'own', length: VARIABLE, write: textOf((view, _bytes, offset, names) => names.names.zoneOfInterface(view.getUint32(offset + Drop.TO_INTERFACE, true))) },
    { place: 'fromPeer', element: 5, enterprise: 'own', length: VARIABLE, write: peerOf(Drop.INTERFACE, Drop.SOURCE) },
    { place: 'toPeer', element: 6, enterprise: 'own', length: VARIABLE, write: peerOf(Drop.TO_INTERFACE, Drop.NAT_DESTINATION) },
    { place: 'reason', element: 4, enterprise: 'own', length: VARIABLE, write: textOf((_view, bytes, offset) => DROP_REASONS[bytes[offset + Drop.REASON]!]?.name ?? null) },
  ];
}

function firewallEvent(event: number): number {
  return event === FlowEvent.START ? FIREWALL_EVENT.CREATED : event === FlowEvent.END ? FIREWALL_EVENT.DELETED : FIREWALL_EVENT.UPDATE;
}

function natEvent(event: number, translated: boolean): number {
  if (!translated) return 0;
  return event === FlowEvent.START ? NAT_EVENT.CREATED : event === FlowEvent.END ? NAT_EVENT.DELETED : 0;
}

export interface IpfixOptions { observationDomain: number; enterprise?: number; messageBytesMax: number }

/** A transport session's numbering: RFC 7011 section 3.1, per session and observation domain, of data records only. */
export class IpfixSequence { next = 0 }

export class IpfixFormat {
  private readonly templates = new Map<number, Field[]>();
  private readonly namesInterfaces: boolean;
  private message = Buffer.alloc(0);
  private at = 0;
  private setAt = 0;
  private setTemplate = 0;
  private records = 0;

  /** `sequence` begins anew with each connection. `onMessage` takes finished ones. */
  constructor(private readonly options: IpfixOptions, plan: FieldPlan, readonly sequence: IpfixSequence, private readonly onMessage: (run: Run) => void) {
    const kept = (fields: Field[], treat: FieldPlan['places']): Field[] => fields.filter(({ place, enterprise }) => (place === undefined || treat[place] === Treatment.KEEP) && (enterprise !== 'own' || options.enterprise !== undefined));
    this.templates.set(TEMPLATE.FLOW_IPV4, kept(flowFields(true), plan.places));
    this.templates.set(TEMPLATE.FLOW_IPV6, kept(flowFields(false), plan.places));
    this.templates.set(TEMPLATE.DROP_IPV4, kept(dropFields(true), plan.ofDrops));
    this.templates.set(TEMPLATE.DROP_IPV6, kept(dropFields(false), plan.ofDrops));
    this.namesInterfaces = plan.places.fromInterface === Treatment.KEEP && plan.places.toInterface === Treatment.KEEP;
  }

  flow(view: DataView, bytes: Uint8Array, offset: number, names: NameTexts): void {
    // Both ends of a session have one family; a translation does not change it in this version.
    this.record(isMapped(view, offset + Flow.SOURCE) ? TEMPLATE.FLOW_IPV4 : TEMPLATE.FLOW_IPV6, view, bytes, offset, names);
  }

  drop(view: DataView, bytes: Uint8Array, offset: number, names: NameTexts): void {
    const isIpv4 = DROP_ADDRESSES.every((at) => isMapped(view, offset + at)); // of a packet that was not understood, all are unspecified
    this.record(isIpv4 ? TEMPLATE.DROP_IPV4 : TEMPLATE.DROP_IPV6, view, bytes, offset, names);
  }

  /** Ends the message under way. */
  flush(): void {
    if (this.records === 0) return;
    this.endSet();
    const { records } = this;
    const bytes = this.message.subarray(0, this.at);
    bytes.writeUInt16BE(this.at, 2);
    this.onMessage({ bytes, records, stamp: (nowMs) => this.stamp(bytes, nowMs, records) });
    this.records = 0;
    this.at = 0;
  }

  private record(template: number, view: DataView, bytes: Uint8Array, offset: number, names: NameTexts): void {
    const fields = this.templates.get(template)!;
    if (fields.length === 0) return; // everything is left out
    if (this.records === 0) this.startMessage();
    const restore = this.at;
    if (this.setTemplate !== template) this.startSet(template);
    for (const field of fields) this.at = field.write(this.message, this.at, view, bytes, offset, names);
    if (this.at > this.options.messageBytesMax && this.records > 0) {
      this.at = restore; // it opens the next one
      if (this.setAt >= restore) this.setTemplate = 0;
      this.flush();
      this.record(template, view, bytes, offset, names);
      return;
    }
    this.records += 1;
  }

  private startMessage(): void {
    this.message = Buffer.alloc(this.options.messageBytesMax + 2048); // a record beyond the bound is moved, not cut
    this.at = writeHeader(this.message, 0, 0, 0, this.options.observationDomain);
    this.setTemplate = 0;
  }

  private startSet(template: number): void {
    this.endSet();
    this.setTemplate = template;
    this.setAt = this.at;
    this.message.writeUInt16BE(template, this.at);
    this.at += SET_HEADER_BYTES;
  }

  private endSet(): void {
    if (this.setTemplate !== 0) this.message.writeUInt16BE(this.at - this.setAt, this.setAt + 2);
    this.setTemplate = 0;
  }

  /** All templates, and the names of interfaces: what a connection starts with, and what is repeated over UDP. */
  templateMessage(nowMs: number, interfaces: readonly { id: number; name: string }[]): Buffer {
    const { observationDomain, enterprise } = this.options;
    const message = Buffer.alloc(4096 + interfaces.length * 300);
    let at = writeHeader(message, 0, nowMs, this.sequence.next, observationDomain);
    const setAt = at;
    at = message.writeUInt16BE(TEMPLATE_SET, at) + 2;
    for (const [template, fields] of this.templates) {
      if (fields.length === 0) continue;
      at = message.writeUInt16BE(template, at);
      at = message.writeUInt16BE(fields.length, at);
      for (const field of fields) {
        at = message.writeUInt16BE(field.element | (field.enterprise === undefined ? 0 : 0x8000), at);
        at = message.writeUInt16BE(field.length, at);
        if (field.enterprise !== undefined) at = message.writeUInt32BE(field.enterprise === 'own' ? enterprise! : field.enterprise, at);
      }
    }
    message.writeUInt16BE(at - setAt, setAt + 2);
    if (this.namesInterfaces) at = this.interfaceNames(message, at, interfaces);
    message.writeUInt16BE(at, 2);
    return message.subarray(0, at);
  }

  private interfaceNames(message: Buffer, from: number, interfaces: readonly { id: number; name: string }[]): number {
    let at = message.writeUInt16BE(OPTIONS_TEMPLATE_SET, from) + 2;
    at = message.writeUInt16BE(TEMPLATE.INTERFACE, at);
    at = message.writeUInt16BE(2, at); // fields
    at = message.writeUInt16BE(1, at); // of which scope
    for (const [element, length] of [[10, 4], [82, VARIABLE]] as const) {
      at = message.writeUInt16BE(element, at);
      at = message.writeUInt16BE(length, at);
    }
    message.writeUInt16BE(at - from, from + 2);
    const named = interfaces.slice(0, INTERFACES_NAMED_MAX);
    this.sequence.next = (this.sequence.next + named.length) >>> 0; // records of options count too
    return writeNames(message, at, named);
  }

  /** The names alone, for a connection that has the templates: there they are sent once (RFC 7011 section 8.1). No record of ours is in it. */
  namesRun(interfaces: readonly { id: number; name: string }[]): Run | undefined {
    const named = interfaces.slice(0, INTERFACES_NAMED_MAX);
    if (!this.namesInterfaces || named.length === 0) return undefined;
    const message = Buffer.alloc(HEADER_BYTES + SET_HEADER_BYTES + named.length * (4 + 1 + TEXT_BYTES_MAX));
    const end = writeNames(message, writeHeader(message, 0, 0, 0, this.options.observationDomain), named);
    const bytes = message.subarray(0, end);
    bytes.writeUInt16BE(end, 2);
    return { bytes, records: 0, stamp: (nowMs) => this.stamp(bytes, nowMs, named.length) };
  }

  private stamp(message: Buffer, nowMs: number, records: number): void {
    message.writeUInt32BE(Math.floor(nowMs / 1000) >>> 0, 4);
    message.writeUInt32BE(this.sequence.next >>> 0, 8);
    this.sequence.next = (this.sequence.next + records) >>> 0;
  }
}

function writeNames(message: Buffer, from: number, named: readonly { id: number; name: string }[]): number {
  if (named.length === 0) return from;
  let at = message.writeUInt16BE(TEMPLATE.INTERFACE, from) + 2;
  for (const { id, name } of named) at = writeText(message, message.writeUInt32BE(id, at), name);
  message.writeUInt16BE(at - from, from + 2);
  return at;
}

function writeHeader(message: Buffer, at: number, nowMs: number, sequence: number, domain: number): number {
  message.writeUInt16BE(VERSION, at);
  message.writeUInt32BE(Math.floor(nowMs / 1000) >>> 0, at + 4);
  message.writeUInt32BE(sequence >>> 0, at + 8);
  return message.writeUInt32BE(domain, at + 12);
}
