// Writes packets as pcapng, the format of Wireshark and tcpdump (draft-ietf-opsawg-pcapng). Pure: blocks as bytes, little-endian.
// Who: src/api/capture.ts. One section, one interface block an interface, nanosecond times.

const SECTION_HEADER = 0x0a0d0d0a;
const INTERFACE_DESCRIPTION = 1;
const ENHANCED_PACKET = 6;
const INTERFACE_STATISTICS = 5;
const BYTE_ORDER_MAGIC = 0x1a2b3c4d;
const LINKTYPE_ETHERNET = 1;
const OPTION_END = 0;
const OPTION_COMMENT = 1;
const OPTION_IF_NAME = 2;
const OPTION_IF_TSRESOL = 9;
const OPTION_SHB_USERAPPL = 4;
const OPTION_EPB_FLAGS = 2;
const OPTION_ISB_IFRECV = 4;
const OPTION_ISB_IFDROP = 5;
const OPTION_ISB_OSDROP = 7;
const NANOSECONDS = 9;

export type Direction = 'in' | 'out';
export interface PcapngPacket { interface: number; timeNs: bigint; bytes: Uint8Array; originalBytes: number; direction?: Direction; comment?: string }

type Option = readonly [number, Uint8Array];
const utf8 = (text: string): Uint8Array => new TextEncoder().encode(text);
const padded = (length: number): number => (length + 3) & ~3;

function block(type: number, body: Uint8Array, options: readonly Option[] = []): Uint8Array {
  const optionBytes = options.length === 0 ? 0 : options.reduce((sum, [, value]) => sum + 4 + padded(value.length), 4);
  const total = 12 + padded(body.length) + optionBytes;
  const bytes = new Uint8Array(total);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, type, true);
  view.setUint32(4, total, true);
  bytes.set(body, 8);
  let at = 8 + padded(body.length);
  for (const [code, value] of options) {
    view.setUint16(at, code, true);
    view.setUint16(at + 2, value.length, true);
    bytes.set(value, at + 4);
    at += 4 + padded(value.length);
  }
  if (options.length > 0) view.setUint32(at, OPTION_END, true);
  view.setUint32(total - 4, total, true);
  return bytes;
}

export function sectionHeader(application: string): Uint8Array {
  const body = new Uint8Array(16);
  const view = new DataView(body.buffer);
  view.setUint32(0, BYTE_ORDER_MAGIC, true);
  view.setUint16(4, 1, true);          // version 1.0
  view.setBigInt64(8, -1n, true);      // length not known: it is a stream
  return block(SECTION_HEADER, body, [[OPTION_SHB_USERAPPL, utf8(application)]]);
}

/** Interfaces are numbered in the order of their blocks. */
export function interfaceDescription(name: string, snapBytes: number): Uint8Array {
  const body = new Uint8Array(8);
  const view = new DataView(body.buffer);
  view.setUint16(0, LINKTYPE_ETHERNET, true);
  view.setUint32(4, snapBytes, true);
  return block(INTERFACE_DESCRIPTION, body, [[OPTION_IF_NAME, utf8(name)], [OPTION_IF_TSRESOL, Uint8Array.of(NANOSECONDS)]]);
}

export function enhancedPacket(packet: PcapngPacket): Uint8Array {
  const body = new Uint8Array(20 + packet.bytes.length);
  const view = new DataView(body.buffer);
  view.setUint32(0, packet.interface, true);
  view.setUint32(4, Number(packet.timeNs >> 32n), true);
  view.setUint32(8, Number(packet.timeNs & 0xffffffffn), true);
  view.setUint32(12, packet.bytes.length, true);
  view.setUint32(16, packet.originalBytes, true);
  body.set(packet.bytes, 20);
  const options: Option[] = [];
  if (packet.direction) options.push([OPTION_EPB_FLAGS, Uint8Array.of(packet.direction === 'in' ? 1 : 2, 0, 0, 0)]);
  if (packet.comment) options.push([OPTION_COMMENT, utf8(packet.comment)]);
  return block(ENHANCED_PACKET, body, options);
}

/** So far: how many packets matched; how many of them were not written because the reader was too slow; and lost before they came here. */
export function interfaceStatistics(index: number, timeNs: bigint, { received, dropped, lost, comment }: { received: number; dropped: number; lost?: number; comment?: string | undefined }): Uint8Array {
  const body = new Uint8Array(12);
  const view = new DataView(body.buffer);
  view.setUint32(0, index, true);
  view.setUint32(4, Number(timeNs >> 32n), true);
  view.setUint32(8, Number(timeNs & 0xffffffffn), true);
  const u64 = (value: number): Uint8Array => new Uint8Array(new BigUint64Array([BigInt(value)]).buffer);
  const options: Option[] = [[OPTION_ISB_IFRECV, u64(received)], [OPTION_ISB_IFDROP, u64(dropped)]];
  if (lost !== undefined) options.push([OPTION_ISB_OSDROP, u64(lost)]);
  if (comment !== undefined) options.push([OPTION_COMMENT, utf8(comment)]);
  return block(INTERFACE_STATISTICS, body, options);
}
