// What stands in the first bytes of a frame, as an object for programs and as a line for people. Who: src/cli/commands/capture.ts.
// Pure; reads no further than the bytes that were captured: what is not there is left out.
import { protocolName } from '../engine/records.js';
import { formatAddress } from '../lib/address.js';
import { endpoint } from './output.js';
import type { ReadPacket } from './pcapng-reader.js';

const EXTENSIONS_MAX = 8;
const TCP_FLAGS = ['F', 'S', 'R', 'P', '.', 'U', 'E', 'C'] as const; // as tcpdump writes them; the dot is ACK
const ICMP_TYPES: ReadonlyMap<number, string> = new Map([[0, 'echo-reply'], [3, 'unreachable'], [5, 'redirect'], [8, 'echo-request'], [11, 'time-exceeded'], [12, 'parameter-problem'], [13, 'timestamp-request'], [14, 'timestamp-reply']]);
const ICMPV6_TYPES: ReadonlyMap<number, string> = new Map([[1, 'unreachable'], [2, 'packet-too-big'], [3, 'time-exceeded'], [4, 'parameter-problem'], [128, 'echo-request'], [129, 'echo-reply'], [135, 'neighbour-solicitation'], [136, 'neighbour-advertisement']]);

export interface PacketView {
  time: string;                       // nanoseconds
  interface: string;
  direction: 'in' | 'out' | null;
  vlan: number | null;
  protocol: string;
  source: string | null; sourcePort: number | null;
  destination: string | null; destinationPort: number | null;
  flags: string | null;               // of TCP
  detail: string | null;              // of ICMP and fragments
  bytes: number;                      // of the frame as it was
  captured: number;                   // of them here
  dropped: string | null;             // why it was
}

type Headers = Pick<PacketView, 'vlan' | 'protocol' | 'source' | 'sourcePort' | 'destination' | 'destinationPort' | 'flags' | 'detail'>;

export function packetView(packet: ReadPacket): PacketView {
  const seconds = packet.timeNs / 1_000_000_000n;
  const fraction = String(packet.timeNs % 1_000_000_000n).padStart(9, '0');
  return {
    time: `${new Date(Number(seconds) * 1000).toISOString().slice(0, 19)}.${fraction}Z`, interface: packet.interface, direction: packet.direction,
    ...readHeaders(packet.bytes), bytes: packet.originalBytes, captured: packet.bytes.length, dropped: /^dropped: (.+)$/.exec(packet.comment ?? '')?.[1] ?? null,
  };
}

export function packetLine(packet: ReadPacket): string {
  const { time, interface: name, direction, vlan, protocol, source, sourcePort, destination, destinationPort, flags, detail, bytes, dropped } = packetView(packet);
  const side = (address: string | null, port: number | null): string => (address === null ? '?' : port === null ? address : endpoint(address, port));
  return [
    time.slice(11, 26), name, (direction ?? '?').padEnd(3), vlan === null ? '' : `vlan ${vlan}`, protocol, source === null ? '' : `${side(source, sourcePort)} → ${side(destination, destinationPort)}`,
    flags === null ? '' : `[${flags}]`, detail ?? '', `${bytes} bytes`, dropped === null ? '' : `dropped: ${dropped}`,
  ].filter((part) => part !== '').join(' ');
}

function readHeaders(frame: Buffer): Headers {
  const nothing: Headers = { vlan: null, protocol: 'ethernet', source: null, sourcePort: null, destination: null, destinationPort: null, flags: null, detail: null };
  if (frame.length < 14) return nothing;
  let type = frame.readUInt16BE(12);
  let at = 14;
  let vlan: number | null = null;
  if (type === 0x8100 && frame.length >= 18) {
    vlan = frame.readUInt16BE(14) & 0xfff;
    type = frame.readUInt16BE(16);
    at = 18;
  }
  const head = { ...nothing, vlan };
  if (type === 0x0806) return { ...head, protocol: 'arp' };
  if (type === 0x0800 && frame.length >= at + 20) return readIpv4(head, frame, at);
  if (type === 0x86dd && frame.length >= at + 40) return readIpv6(head, frame, at);
  return { ...head, protocol: `ethertype 0x${type.toString(16).padStart(4, '0')}` };
}

const ipv4At = (frame: Buffer, at: number): string => frame.subarray(at, at + 4).join('.');
const ipv6At = (frame: Buffer, at: number): string => formatAddress(new Uint8Array(frame.subarray(at, at + 16)));

function readIpv4(head: Headers, frame: Buffer, at: number): Headers {
  const field = frame.readUInt16BE(at + 6);
  const ip = { ...head, source: ipv4At(frame, at + 12), destination: ipv4At(frame, at + 16) };
  return readTransport(ip, frame, at + (frame[at]! & 15) * 4, frame[at + 9]!, (field & 0x1fff) * 8, (field & 0x2000) !== 0);
}

function readIpv6(head: Headers, frame: Buffer, start: number): Headers {
  const ip = { ...head, source: ipv6At(frame, start + 8), destination: ipv6At(frame, start + 24) };
  let next = frame[start + 6]!;
  let at = start + 40;
  let offset = 0;
  let more = false;
  for (let count = 0; count < EXTENSIONS_MAX && [0, 43, 44, 51, 60, 135].includes(next) && frame.length >= at + 8; count += 1) {
    const bytes = next === 44 ? 8 : next === 51 ? (frame[at + 1]! + 2) * 4 : (frame[at + 1]! + 1) * 8;
    if (next === 44) {
      const field = frame.readUInt16BE(at + 2);
      offset = field & 0xfff8;
      more = (field & 1) !== 0;
    }
    next = frame[at]!;
    at += bytes;
    if (offset > 0) break; // behind it stands a part of the datagram
  }
  return readTransport(ip, frame, at, next, offset, more);
}

function readTransport(ip: Headers, frame: Buffer, at: number, number: number, offset: number, more: boolean): Headers {
  const protocol = protocolName(number);
  const fragment = offset > 0 || more ? `fragment at ${offset}${more ? '+' : ''}` : null;
  const head = { ...ip, protocol, detail: fragment };
  if (offset > 0) return head;
  if ((protocol === 'tcp' || protocol === 'udp' || protocol === 'sctp') && frame.length >= at + 4) {
    const flags = protocol === 'tcp' && frame.length >= at + 14 ? TCP_FLAGS.filter((_, bit) => frame[at + 13]! >> bit & 1).join('') : null;
    return { ...head, sourcePort: frame.readUInt16BE(at), destinationPort: frame.readUInt16BE(at + 2), flags };
  }
  if ((number === 1 || number === 58) && frame.length >= at + 8) {
    const type = frame[at]!;
    const name = (number === 1 ? ICMP_TYPES : ICMPV6_TYPES).get(type) ?? `type ${type} code ${frame[at + 1]!}`;
    const query = name.endsWith('-request') || name.endsWith('-reply') ? ` id ${frame.readUInt16BE(at + 4)} sequence ${frame.readUInt16BE(at + 6)}` : '';
    return { ...head, detail: [`${name}${query}`, fragment].filter(Boolean).join(' ') };
  }
  return head;
}
