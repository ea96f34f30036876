// Raw frames in the lab: built and read here, sent and received by build/native/lab_frames inside a namespace. For what no
// program of a host would send, and for bytes that matter one by one. Addresses as text; checksums right unless asked otherwise.

import { join } from 'node:path';
import { bytesOf, formatAddress, parseAddress } from '../src/lib/address.js';
import type { Lab } from './lab.js';
import type { Program } from './program.js';
import { ROOT } from './topology.js';
import { until } from './until.js';

const TOOL = join(ROOT, 'build', 'native', 'lab_frames');

export type L4 = 'tcp' | 'udp' | 'icmp';
const PROTOCOLS: Record<number, L4> = { 1: 'icmp', 6: 'tcp', 17: 'udp', 58: 'icmp' };
export const TCP = { FIN: 1, SYN: 2, RST: 4, PSH: 8, ACK: 16 } as const;

export interface FrameFields {
  srcMac: string;
  dstMac: string;
  vlan?: number;
  src: string;
  dst: string;
  ttl?: number;
  protocol: L4;
  /** Ports; of an echo: the identifier. */
  srcPort?: number;
  dstPort?: number;
  payload?: Buffer | string;
  /** TCP. */
  flags?: number;
  seq?: number;
  ack?: number;
  window?: number;
  tcpOptions?: Buffer;
  /** ICMP: an echo request, or its reply. */
  reply?: boolean;
  icmpSequence?: number;
  /** IPv4 options, padded to words; the flags and offset word. */
  ipOptions?: Buffer;
  fragment?: number;
  /** Added to the right layer-4 checksum, to make it wrong. */
  checksumError?: number;
}

export interface Frame extends Required<Pick<FrameFields, 'srcMac' | 'dstMac' | 'src' | 'dst' | 'ttl' | 'protocol' | 'srcPort' | 'dstPort' | 'flags' | 'seq' | 'ack' | 'window'>> {
  vlan: number | undefined;
  version: 4 | 6;
  payload: Buffer;
  reply: boolean;
  icmpType: number;
  icmpCode: number;
  ipBytes: number;
  headerChecksumRight: boolean;
  checksumRight: boolean;
}

const macBytes = (text: string): Buffer => Buffer.from(text.replaceAll(':', ''), 'hex');
const macText = (bytes: Buffer): string => bytes.toString('hex').replace(/..(?!$)/g, '$&:');

function onesSum(bytes: Buffer, start = 0): number {
  let sum = start;
  for (let i = 0; i + 1 < bytes.length; i += 2) sum += bytes.readUInt16BE(i);
  if (bytes.length % 2) sum += bytes[bytes.length - 1]! << 8;
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return sum;
}

/** Bytes of an address, 4 or 16. */
function addressBytes(text: string): Buffer {
  const bytes = Buffer.from(bytesOf(parseAddress(text)));
  return text.includes(':') ? bytes : bytes.subarray(12);
}

export function buildFrame(fields: FrameFields): Buffer {
  const { ttl = 64, srcPort = 0, dstPort = 0, protocol, vlan } = fields;
  const [src, dst] = [addressBytes(fields.src), addressBytes(fields.dst)];
  const v4 = src.length === 4;
  const payload = Buffer.from(fields.payload ?? '');
  let l4: Buffer;
  let checksumAt: number;
  let number: number;
  if (protocol === 'tcp') {
    const options = fields.tcpOptions ?? Buffer.alloc(0);
    l4 = Buffer.concat([Buffer.alloc(20), options, payload]);
    l4.writeUInt16BE(srcPort, 0);
    l4.writeUInt16BE(dstPort, 2);
    l4.writeUInt32BE((fields.seq ?? 0) >>> 0, 4);
    l4.writeUInt32BE((fields.ack ?? 0) >>> 0, 8);
    l4[12] = ((20 + options.length) / 4) << 4;
    l4[13] = fields.flags ?? TCP.ACK;
    l4.writeUInt16BE(fields.window ?? 65535, 14);
    [checksumAt, number] = [16, 6];
  } else if (protocol === 'udp') {
    l4 = Buffer.concat([Buffer.alloc(8), payload]);
    l4.writeUInt16BE(srcPort, 0);
    l4.writeUInt16BE(dstPort, 2);
    l4.writeUInt16BE(l4.length, 4);
    [checksumAt, number] = [6, 17];
  } else {
    l4 = Buffer.concat([Buffer.alloc(8), payload]);
    l4[0] = v4 ? (fields.reply ? 0 : 8) : fields.reply ? 129 : 128;
    l4.writeUInt16BE(srcPort, 4);
    l4.writeUInt16BE(fields.icmpSequence ?? 1, 6);
    [checksumAt, number] = [2, v4 ? 1 : 58];
  }
  const pseudo = v4 && protocol === 'icmp' ? 0 : onesSum(Buffer.concat([src, dst]), number + l4.length);
  l4.writeUInt16BE((~onesSum(l4, pseudo) + (fields.checksumError ?? 0)) & 0xffff, checksumAt);
  let ip: Buffer;
  if (v4) {
    const options = fields.ipOptions ?? Buffer.alloc(0);
    ip = Buffer.concat([Buffer.alloc(12), src, dst, options]);
    ip[0] = 0x40 | (ip.length / 4);
    ip.writeUInt16BE(ip.length + l4.length, 2);
    ip.writeUInt16BE(fields.fragment ?? 0x4000, 6);
    [ip[8], ip[9]] = [ttl, number];
    ip.writeUInt16BE(~onesSum(ip) & 0xffff, 10);
  } else {
    ip = Buffer.concat([Buffer.from([0x60, 0, 0, 0]), Buffer.alloc(4), src, dst]);
    ip.writeUInt16BE(l4.length, 4);
    [ip[6], ip[7]] = [number, ttl];
  }
  const tag = vlan === undefined ? Buffer.alloc(0) : Buffer.from([0x81, 0, vlan >> 8, vlan & 255]);
  return Buffer.concat([macBytes(fields.dstMac), macBytes(fields.srcMac), tag, Buffer.from(v4 ? [8, 0] : [0x86, 0xdd]), ip, l4]);
}

/** Undefined: no TCP, UDP or ICMP over IP. */
export function readFrame(frame: Buffer): Frame | undefined {
  let [at, type] = [14, frame.length >= 14 ? frame.readUInt16BE(12) : 0];
  let vlan: number | undefined;
  if (type === 0x8100 && frame.length >= 18) [vlan, type, at] = [frame.readUInt16BE(14) & 0xfff, frame.readUInt16BE(16), 18];
  const v4 = type === 0x0800;
  if ((!v4 && type !== 0x86dd) || frame.length < at + (v4 ? 20 : 40)) return undefined;
  const header = v4 ? (frame[at]! & 15) * 4 : 40;
  const ipBytes = v4 ? frame.readUInt16BE(at + 2) : 40 + frame.readUInt16BE(at + 4);
  const ip = frame.subarray(at, at + header);
  const l4 = frame.subarray(at + header, at + ipBytes);
  const number = ip[v4 ? 9 : 6]!;
  const protocol = PROTOCOLS[number];
  if (!protocol || l4.length < 8) return undefined;
  const [src, dst] = v4 ? [ip.subarray(12, 16), ip.subarray(16, 20)] : [ip.subarray(8, 24), ip.subarray(24, 40)];
  const text = (bytes: Buffer): string => (v4 ? bytes.join('.') : formatAddress(new Uint8Array(bytes)));
  const pseudo = v4 && protocol === 'icmp' ? 0 : onesSum(Buffer.concat([src, dst]), number + l4.length);
  const tcp = protocol === 'tcp';
  const tcpHeader = tcp ? (l4[12]! >> 4) * 4 : 8;
  return {
    srcMac: macText(frame.subarray(6, 12)),
    dstMac: macText(frame.subarray(0, 6)),
    vlan,
    version: v4 ? 4 : 6,
    src: text(src),
    dst: text(dst),
    ttl: ip[v4 ? 8 : 7]!,
    protocol,
    srcPort: protocol === 'icmp' ? l4.readUInt16BE(4) : l4.readUInt16BE(0),
    dstPort: protocol === 'icmp' ? l4.readUInt16BE(4) : l4.readUInt16BE(2),
    flags: tcp ? l4[13]! : 0,
    seq: tcp ? l4.readUInt32BE(4) : 0,
    ack: tcp ? l4.readUInt32BE(8) : 0,
    window: tcp ? l4.readUInt16BE(14) : 0,
    payload: Buffer.from(l4.subarray(tcpHeader)),
    reply: protocol === 'icmp' && l4[0] === (v4 ? 0 : 129),
    icmpType: protocol === 'icmp' ? l4[0]! : -1,
    icmpCode: protocol === 'icmp' ? l4[1]! : -1,
    ipBytes,
    headerChecksumRight: !v4 || onesSum(ip) === 0xffff,
    checksumRight: (protocol === 'udp' && v4 && l4.readUInt16BE(6) === 0) || onesSum(l4, pseudo) === 0xffff,
  };
}

/** To these ports streams and floods go: a FrameHost does not keep them. */
export const STREAM_PORTS = [5300, 5400] as const;

/** A host of bytes: sends what it is told, keeps what came. */
export class FrameHost {
  readonly program: Program;
  #parsed = 0;
  readonly #frames: Frame[] = [];

  constructor(lab: Lab, node: string, device = 'eth0') {
    this.program = lab.start(node, [TOOL, device, 'exchange', ...STREAM_PORTS.map(String)], { keepInput: true });
  }

  send(frame: Buffer): void {
    this.program.write(`${frame.toString('hex')}\n`);
  }

  get frames(): readonly Frame[] {
    const text = this.program.stdout;
    for (let end = text.indexOf('\n', this.#parsed); end >= 0; end = text.indexOf('\n', this.#parsed)) {
      const frame = readFrame(Buffer.from(text.slice(this.#parsed, end), 'hex'));
      if (frame) this.#frames.push(frame);
      this.#parsed = end + 1;
    }
    return this.#frames;
  }

  /** Waits for `count` frames that fit; what came before `from` does not count. */
  async receive(what: string, fits: (frame: Frame) => boolean, { count = 1, from = 0, deadlineMs = 30_000 } = {}): Promise<Frame[]> {
    return until(what, () => {
      const found = this.frames.slice(from).filter(fits);
      return found.length >= count ? found : undefined;
    }, { deadlineMs, intervalMs: 5 });
  }
}

export interface Counted {
  received: number;
  lost: number;
  reordered: number;
  repeated: number;
  last: number;
}

const lastLine = (program: Program): string => program.stdout.slice(0, program.stdout.lastIndexOf('\n')).split('\n').at(-1) ?? '';

/** Sends a UDP frame so many times a second, a counter in its last eight bytes. */
export class FrameStream {
  readonly program: Program;
  constructor(lab: Lab, node: string, frame: Buffer, rate: number, options: { device?: string; flood?: boolean } = {}) {
    this.program = lab.start(node, [TOOL, options.device ?? 'eth0', options.flood ? 'flood' : 'stream', frame.toString('hex'), String(rate)]);
  }
  sent(): number {
    if (!this.program.running) throw new Error(`the stream ended: ${this.program.describeExit()} ${this.program.tail()}`);
    return Number((JSON.parse(lastLine(this.program) || '{"sent":0}') as { sent: number }).sent);
  }
}

/** Counts what a FrameStream sends to a port, where it arrives. */
export class FrameCount {
  readonly program: Program;
  readonly #overrunBefore: number;
  constructor(private readonly lab: Lab, node: string, port: number, device = 'eth0') {
    this.#overrunBefore = lab.overrun();
    this.program = lab.start(node, [TOOL, device, 'count', String(port)]);
  }
  counted(): Counted {
    if (!this.program.running) throw new Error(`the count ended: ${this.program.describeExit()} ${this.program.tail()}`);
    return JSON.parse(lastLine(this.program) || '{"received":0,"lost":0,"reordered":0,"repeated":0,"last":-1}') as Counted;
  }

  /** What went wrong on the way, but for what the hosts' own kernels lost. */
  faults(): { lost: number; reordered: number; repeated: number } {
    const { lost, reordered, repeated } = this.counted();
    return { lost: lost === 0 ? 0 : Math.max(0, lost - (this.lab.overrun() - this.#overrunBefore)), reordered, repeated };
  }
}
