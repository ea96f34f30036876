// The packet language of the cases: a packet as a mapping ↔ the bytes of a frame. README.md lists its keys.
//
// Called by the runner (cases.test.ts, world.ts) and by test/fuzz/make-corpus.ts. Pure. The checksums here are computed in
// full and byte by byte, on purpose not as the engine does it: what both agree on is right.
import { bytesOf, formatAddress, parseAddress } from '../../src/lib/address.js';

export type Value = string | number;
export interface Ports { sport: Value; dport: Value }
export interface Fragment { offset?: number; length?: number; more?: boolean; id: number }
export interface Extension { hop?: string; dst?: string; routing?: number; ah?: true; frag?: { offset?: number; more?: boolean; id: number }; raw?: { type: number; hex: string }; bytes?: number }
export interface Udp { ports?: string; sport?: Value; dport?: Value; length?: number; checksum?: string | number }
export interface Tcp {
  ports?: string; sport?: Value; dport?: Value; flags?: string; seq?: Value; ack?: Value; win?: number; offset?: number;
  mss?: Value; wscale?: number; options?: string; checksum?: string | number;
}
export interface Icmp { type?: string | number; code?: number; id?: Value; seq?: number; mtu?: Value; quote?: number; about?: Packet; checksum?: string | number }
/** A packet to build. Unknown keys are refused, so that a slip of the pen tests nothing silently. */
export interface Packet {
  in?: string; vlan?: number; ethertype?: number; to?: string;
  src?: Value; dst?: Value; ttl?: number; df?: boolean; id?: number; tos?: number; options?: string; frag?: Fragment;
  version?: number; ihl?: number; total?: number; reservedBit?: boolean; ipChecksum?: 'bad'; ext?: Extension[];
  udp?: string | Udp; tcp?: string | Tcp; icmp?: Icmp; proto?: number; data?: string | number;
  cut?: number; pad?: number; hex?: string; allow?: 'bad-l4';
}
export type Variables = Map<string, string | number>;

const PACKET_KEYS = new Set(['in', 'vlan', 'ethertype', 'to', 'src', 'dst', 'ttl', 'df', 'id', 'tos', 'options', 'frag', 'version', 'ihl', 'total', 'reservedBit',
  'ipChecksum', 'ext', 'udp', 'tcp', 'icmp', 'proto', 'data', 'cut', 'pad', 'hex', 'allow']);
const TCP_FLAGS = 'FSRPAU';
const ICMP4: Record<string, number> = { 'echo-reply': 0, unreachable: 3, quench: 4, redirect: 5, echo: 8, 'router-advertisement': 9, 'time-exceeded': 11, 'parameter-problem': 12, timestamp: 13, 'timestamp-reply': 14 };
const ICMP6: Record<string, number> = { unreachable: 1, 'packet-too-big': 2, 'time-exceeded': 3, 'parameter-problem': 4, echo: 128, 'echo-reply': 129, 'router-advertisement': 134, 'neighbour-solicitation': 135, 'neighbour-advertisement': 136 };

export function refuseUnknownKeys(value: object, known: Iterable<string>, where: string): void {
  const set = new Set(known);
  for (const key of Object.keys(value)) if (!set.has(key)) throw new Error(`${where}: unknown key "${key}"`);
}

/** $name, $name+5, $name-1, a number, or any text. */
export function resolve(value: Value, variables: Variables): string | number {
  if (typeof value === 'number') return value;
  const match = /^\$([a-zA-Z_]\w*)(?:([+-])(\d+))?$/.exec(value);
  if (!match) return /^\d+$/.test(value) ? Number(value) : value;
  const found = variables.get(match[1]!);
  if (found === undefined) throw new Error(`${value} was never captured`);
  if (match[2] === undefined) return found;
  return Number(found) + (match[2] === '+' ? 1 : -1) * Number(match[3]);
}
const number = (value: Value | undefined, variables: Variables, fallback: number): number => value === undefined ? fallback : Number(resolve(value, variables));

export function isV4(address: string): boolean { return !address.includes(':'); }
export function wireAddress(address: string): number[] {
  const bytes = [...bytesOf(parseAddress(address))];
  return isV4(address) ? bytes.slice(12) : bytes;
}
export function textOf(bytes: Uint8Array): string {
  return formatAddress(bytes.length === 4 ? Uint8Array.from([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, ...bytes]) : bytes);
}

/** A link address for a neighbour, told apart by its IP address. */
export function macOf(address: string): Uint8Array {
  let h = 0x811c9dc5;
  for (const byte of bytesOf(parseAddress(address))) h = Math.imul(h ^ byte, 0x01000193) >>> 0;
  return Uint8Array.from([0x06, 0, h >>> 24, (h >>> 16) & 255, (h >>> 8) & 255, h & 255]);
}

/** RFC 1071, the slow way. */
export function sum16(bytes: ArrayLike<number>, initial = 0): number {
  let sum = initial;
  for (let i = 0; i < bytes.length; i += 2) {
    sum += (bytes[i]! << 8) | (i + 1 < bytes.length ? bytes[i + 1]! : 0);
    sum = (sum & 0xffff) + Math.floor(sum / 0x10000);
  }
  return sum;
}
const complement = (sum: number): number => ~sum & 0xffff;
function pseudo(src: ArrayLike<number>, dst: ArrayLike<number>, protocol: number, length: number): number {
  return sum16([...Array.from(src), ...Array.from(dst), 0, 0, length >> 8, length & 255, 0, protocol]);
}

const u16 = (n: number): number[] => [(n >> 8) & 255, n & 255];
const u32 = (n: number): number[] => [(n >>> 24) & 255, (n >>> 16) & 255, (n >>> 8) & 255, n & 255];
const unhex = (hex: string): number[] => (hex.replace(/\s+/g, '').match(/../g) ?? []).map((two) => parseInt(two, 16));
const payloadOf = (data: string | number | undefined): number[] =>
  data === undefined ? [] : typeof data === 'number' ? Array.from({ length: data }, (_, i) => (i * 31 + (i >> 8)) & 255) : [...Buffer.from(data, 'utf8')];

function split(ports: string | undefined, own: { sport?: Value; dport?: Value }, variables: Variables): [number, number] {
  const [sport, dport] = (ports ?? '').split('>').map((one) => one.trim());
  return [number(own.sport ?? (sport || undefined), variables, 1000), number(own.dport ?? (dport || undefined), variables, 2000)];
}

/** Puts a checksum in, or what the case asks for instead: 'bad', 'zero', 'partial' (the pseudo-header's sum), or a number. */
function seal(l4: number[], at: number, wanted: string | number | undefined, start: number, udp: boolean): void {
  if (wanted === 'zero') return;
  if (typeof wanted === 'number') { l4.splice(at, 2, ...u16(wanted)); return; }
  if (wanted === 'partial') { l4.splice(at, 2, ...u16(start)); return; }
  let value = complement(sum16(l4, start));
  if (udp && value === 0) value = 0xffff;
  if (wanted === 'bad') value = value === 0x1234 ? 0x4321 : 0x1234;
  l4.splice(at, 2, ...u16(value));
}

function layer4(p: Packet, v4: boolean, src: number[], dst: number[], variables: Variables): { protocol: number; bytes: number[] } {
  const data = payloadOf(p.data);
  if (p.udp !== undefined) {
    const udp: Udp = typeof p.udp === 'string' ? { ports: p.udp } : p.udp;
    refuseUnknownKeys(udp, ['ports', 'sport', 'dport', 'length', 'checksum'], 'udp');
    const [sport, dport] = split(udp.ports, udp, variables);
    const length = 8 + data.length;
    const bytes = [...u16(sport), ...u16(dport), ...u16(udp.length ?? length), 0, 0, ...data];
    seal(bytes, 6, udp.checksum, pseudo(src, dst, 17, length), true);
    return { protocol: 17, bytes };
  }
  if (p.tcp !== undefined) {
    const tcp: Tcp = typeof p.tcp === 'string' ? { ports: p.tcp.split(' ')[0]!, flags: p.tcp.split(' ')[1] ?? 'S' } : p.tcp;
    refuseUnknownKeys(tcp, ['ports', 'sport', 'dport', 'flags', 'seq', 'ack', 'win', 'offset', 'mss', 'wscale', 'options', 'checksum'], 'tcp');
    const [sport, dport] = split(tcp.ports, tcp, variables);
    const options = [...(tcp.mss === undefined ? [] : [2, 4, ...u16(number(tcp.mss, variables, 0))]), ...(tcp.wscale === undefined ? [] : [3, 3, tcp.wscale, 1]), ...(tcp.options === undefined ? [] : unhex(tcp.options))];
    while (options.length % 4) options.push(1);
    let flags = 0;
    for (const letter of tcp.flags === 'none' ? '' : tcp.flags ?? 'S') {
      const bit = TCP_FLAGS.indexOf(letter);
      if (bit < 0) throw new Error(`unknown TCP flag ${letter}`);
      flags |= 1 << bit;
    }
    const bytes = [...u16(sport), ...u16(dport), ...u32(number(tcp.seq, variables, 0) >>> 0), ...u32(number(tcp.ack, variables, 0) >>> 0), (tcp.offset ?? 5 + options.length / 4) << 4, flags, ...u16(tcp.win ?? 65535), 0, 0, 0, 0, ...options, ...data];
    seal(bytes, 16, tcp.checksum, pseudo(src, dst, 6, bytes.length), false);
    return { protocol: 6, bytes };
  }
  if (p.icmp !== undefined) {
    const icmp = p.icmp;
    refuseUnknownKeys(icmp, ['type', 'code', 'id', 'seq', 'mtu', 'quote', 'about', 'checksum'], 'icmp');
    const table = v4 ? ICMP4 : ICMP6;
    const type = typeof icmp.type === 'number' ? icmp.type : table[icmp.type ?? 'echo'];
    if (type === undefined) throw new Error(`unknown ICMP type ${icmp.type}`);
    let quoted: number[] = [];
    if (icmp.about) quoted = ipPacket(icmp.about, variables).slice(0, icmp.quote);
    const mtu = number(icmp.mtu, variables, 0);
    const rest = icmp.mtu !== undefined ? (v4 ? [0, 0, ...u16(mtu)] : u32(mtu)) : [...u16(number(icmp.id, variables, 0)), ...u16(icmp.seq ?? 0)];
    const bytes = [type, icmp.code ?? 0, 0, 0, ...rest, ...quoted, ...data];
    const protocol = v4 ? 1 : 58;
    seal(bytes, 2, icmp.checksum, v4 ? 0 : pseudo(src, dst, 58, bytes.length), false);
    return { protocol, bytes };
  }
  return { protocol: p.proto ?? 59, bytes: data };
}

function extension(one: Extension): { type: number; body: (next: number) => number[] } {
  refuseUnknownKeys(one, ['hop', 'dst', 'routing', 'ah', 'frag', 'raw', 'bytes'], 'ext');
  const options = (hex: string | undefined): number[] => {
    const body = unhex(hex === 'pad' || hex === undefined ? '' : hex);
    const wanted = one.bytes ?? Math.ceil((body.length + 2) / 8) * 8;
    const missing = wanted - 2 - body.length;
    return missing === 1 ? [...body, 0] : missing > 1 ? [...body, 1, missing - 2, ...Array<number>(missing - 2).fill(0)] : body;
  };
  const header = (body: number[]) => (next: number): number[] => [next, (body.length + 2) / 8 - 1, ...body];
  if (one.hop !== undefined) return { type: 0, body: header(options(one.hop)) };
  if (one.dst !== undefined) return { type: 60, body: header(options(one.dst)) };
  if (one.routing !== undefined) return { type: 43, body: (next) => [next, 0, one.routing!, 0, 0, 0, 0, 0] };
  if (one.ah) return { type: 51, body: (next) => [next, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1] };
  if (one.raw) return { type: one.raw.type, body: (next) => [next, ...unhex(one.raw!.hex)] };
  const f = one.frag!;
  return { type: 44, body: (next) => [next, 0, ...u16((f.offset ?? 0) | (f.more ? 1 : 0)), ...u32(f.id)] };
}

/** The IP packet, without Ethernet. */
export function ipPacket(p: Packet, variables: Variables): number[] {
  refuseUnknownKeys(p, PACKET_KEYS, 'packet');
  const source = String(resolve(p.src ?? '10.0.1.10', variables)), destination = String(resolve(p.dst ?? '198.51.100.10', variables));
  const v4 = isV4(source);
  const src = wireAddress(source), dst = wireAddress(destination);
  const l4 = layer4(p, v4, src, dst, variables);
  let payload = l4.bytes, offset = 0, more = false;
  if (p.frag) {
    refuseUnknownKeys(p.frag, ['offset', 'length', 'more', 'id'], 'frag');
    offset = p.frag.offset ?? 0;
    const end = p.frag.length === undefined ? payload.length : offset + p.frag.length;
    more = p.frag.more ?? end < payload.length;
    payload = payload.slice(offset, end);
    while (p.frag.length !== undefined && payload.length < p.frag.length) payload.push(0xee);
  }
  if (v4) {
    const options = p.options === undefined ? [] : unhex(p.options);
    while (options.length % 4) options.push(0);
    const header = [((p.version ?? 4) << 4) | (p.ihl ?? 5 + options.length / 4), p.tos ?? 0, ...u16(p.total ?? 20 + options.length + payload.length), ...u16(p.frag?.id ?? p.id ?? 1),
      ...u16((p.reservedBit ? 0x8000 : 0) | (p.df ? 0x4000 : 0) | (more ? 0x2000 : 0) | (offset >> 3)), p.ttl ?? 64, l4.protocol, 0, 0, ...src, ...dst, ...options];
    let checksum = complement(sum16(header.slice(0, Math.max(20, (p.ihl ?? 15) * 4))));
    if (p.ipChecksum === 'bad') checksum ^= 0x5555;
    header.splice(10, 2, ...u16(checksum));
    return [...header, ...payload];
  }
  const chain = [...(p.ext ?? []), ...(p.frag ? [{ frag: { offset, more, id: p.frag.id } }] : [])].map(extension);
  const headers: number[] = [];
  chain.forEach((one, i) => headers.push(...one.body(chain[i + 1]?.type ?? l4.protocol)));
  const length = p.total ?? headers.length + payload.length;
  return [((p.version ?? 6) << 4) | ((p.tos ?? 0) >> 4), ((p.tos ?? 0) & 15) << 4, 0, 0, ...u16(length), chain[0]?.type ?? l4.protocol, p.ttl ?? 64, ...src, ...dst, ...headers, ...payload];
}

export function frameOf(p: Packet, variables: Variables, ownMac: ArrayLike<number>): Uint8Array {
  if (p.hex !== undefined) return Uint8Array.from(unhex(p.hex));
  const ip = ipPacket(p, variables);
  const source = String(resolve(p.src ?? '10.0.1.10', variables));
  const type = p.ethertype ?? (isV4(source) ? 0x0800 : 0x86dd);
  const destination = p.to === undefined ? Array.from(ownMac) : unhex(p.to.replaceAll(':', ''));
  let frame = [...destination, ...macOf(source), ...(p.vlan === undefined ? [] : [0x81, 0, ...u16(p.vlan)]), ...u16(type), ...ip];
  if (p.cut !== undefined) frame = frame.slice(0, p.cut);
  if (p.pad !== undefined) frame.push(...Array<number>(p.pad).fill(0));
  return Uint8Array.from(frame);
}

// ---- reading ------------------------------------------------------------------------------------------------------

export interface Decoded {
  family: 4 | 6; src: string; dst: string; ttl: number; tos: number; length: number; protocol: number;
  df?: boolean; id?: number; frag?: { offset: number; more: boolean; id: number };
  sport?: number; dport?: number; flags?: string; seq?: number; ack?: number; win?: number; mss?: number; wscale?: number; udpChecksum?: number;
  icmp?: { type: string; code: number; id: number; seq: number; mtu: number; about?: Decoded };
  data: Uint8Array; payload: Uint8Array;
  /** What is wrong with it; empty for a good packet. */
  faults: string[];
  whole: boolean;
}

const view16 = (b: Uint8Array, at: number): number => (b[at]! << 8) | b[at + 1]!;
const view32 = (b: Uint8Array, at: number): number => ((b[at]! << 24) | (b[at + 1]! << 16) | (b[at + 2]! << 8) | b[at + 3]!) >>> 0;
function icmpName(type: number, v4: boolean): string {
  const found = Object.entries(v4 ? ICMP4 : ICMP6).find(([, n]) => n === type);
  return found ? found[0] : String(type);
}

/** The layer-4 checksum of a whole payload, by full computation. Returns a fault or nothing. */
export function l4Fault(protocol: number, v4: boolean, src: Uint8Array, dst: Uint8Array, payload: Uint8Array): string | undefined {
  const right = (start: number, bytes = payload): boolean => sum16(bytes, start) === 0xffff;
  if (protocol === 6 && !right(pseudo(src, dst, 6, payload.length))) return 'TCP checksum is wrong';
  if (protocol === 17) {
    if (view16(payload, 6) === 0) return v4 ? undefined : 'UDP over IPv6 without a checksum';
    const length = view16(payload, 4);
    if (!right(pseudo(src, dst, 17, length), payload.slice(0, length))) return 'UDP checksum is wrong';
  }
  if (protocol === 1 && v4 && !right(0)) return 'ICMP checksum is wrong';
  if (protocol === 58 && !v4 && !right(pseudo(src, dst, 58, payload.length))) return 'ICMPv6 checksum is wrong';
  return undefined;
}

/** Reads an IP packet. `quoted`: it stands in an ICMP error and may be cut short. */
export function decode(ip: Uint8Array, quoted = false): Decoded {
  const faults: string[] = [];
  const v4 = ip[0]! >> 4 === 4;
  const header = v4 ? (ip[0]! & 15) * 4 : 40;
  const length = v4 ? view16(ip, 2) : 40 + view16(ip, 4);
  if (v4 && sum16(ip.slice(0, header)) !== 0xffff) faults.push('IPv4 header checksum is wrong');
  if (!quoted && length !== ip.length) faults.push(`IP length ${length}, but ${ip.length} bytes`);
  const src = v4 ? ip.slice(12, 16) : ip.slice(8, 24), dst = v4 ? ip.slice(16, 20) : ip.slice(24, 40);
  let at = header, protocol = v4 ? ip[9]! : ip[6]!, fragment: Decoded['frag'];
  if (v4) {
    const field = view16(ip, 6);
    if (field & 0x3fff) fragment = { offset: (field & 0x1fff) * 8, more: (field & 0x2000) !== 0, id: view16(ip, 4) };
  } else {
    while ([0, 43, 44, 51, 60, 135].includes(protocol) && at + 8 <= ip.length && !(fragment && fragment.offset > 0)) {
      const next = ip[at]!;
      if (protocol === 44) {
        const field = view16(ip, at + 2);
        fragment = { offset: field & 0xfff8, more: (field & 1) !== 0, id: view32(ip, at + 4) };
        at += 8;
      } else at += protocol === 51 ? (ip[at + 1]! + 2) * 4 : (ip[at + 1]! + 1) * 8;
      protocol = next;
    }
  }
  const l4 = ip.slice(at, Math.min(length, ip.length));
  const atomic = fragment && fragment.offset === 0 && !fragment.more;
  const whole = (!fragment || atomic === true) && l4.length === length - at;
  const out: Decoded = {
    family: v4 ? 4 : 6, src: textOf(src), dst: textOf(dst), ttl: v4 ? ip[8]! : ip[7]!, tos: v4 ? ip[1]! : ((ip[0]! & 15) << 4) | (ip[1]! >> 4), length, protocol,
    ...(v4 ? { df: (view16(ip, 6) & 0x4000) !== 0, id: view16(ip, 4) } : {}), ...(fragment ? { frag: fragment } : {}), data: l4, payload: l4, faults, whole,
  };
  if (whole) {
    const fault = l4Fault(protocol, v4, src, dst, l4);
    if (fault) faults.push(fault);
  }
  if (fragment && fragment.offset > 0) return out;
  if (protocol === 17 && l4.length >= 8) Object.assign(out, { sport: view16(l4, 0), dport: view16(l4, 2), udpChecksum: view16(l4, 6), data: l4.slice(8) });
  if (protocol === 6 && l4.length >= 4) Object.assign(out, { sport: view16(l4, 0), dport: view16(l4, 2) });
  if (protocol === 6 && l4.length >= 8) out.seq = view32(l4, 4);
  if (protocol === 6 && l4.length >= 20) {
    const bytes = (l4[12]! >> 4) * 4;
    Object.assign(out, { ack: view32(l4, 8), win: view16(l4, 14), flags: [...TCP_FLAGS].filter((_, i) => l4[13]! & (1 << i)).join(''), data: l4.slice(bytes) });
    for (let i = 20; i + 1 < bytes;) {
      const kind = l4[i]!;
      if (kind === 0) break;
      if (kind === 1) { i++; continue; }
      if (kind === 2) out.mss = view16(l4, i + 2);
      if (kind === 3) out.wscale = l4[i + 2]!;
      if (l4[i + 1]! < 2) break;
      i += l4[i + 1]!;
    }
  }
  if ((protocol === 1 && v4) || (protocol === 58 && !v4)) {
    const type = l4[0]!;
    const error = v4 ? [3, 4, 5, 11, 12].includes(type) : type < 128;
    out.icmp = { type: icmpName(type, v4), code: l4[1]!, id: view16(l4, 4), seq: view16(l4, 6), mtu: v4 ? view16(l4, 6) : view32(l4, 4) };
    out.data = l4.slice(8);
    if (error && l4.length >= 8 + (v4 ? 20 : 40)) {
      out.icmp.about = decode(l4.slice(8), true);
      for (const fault of out.icmp.about.faults) faults.push(`quoted packet: ${fault}`);
    }
  }
  return out;
}
