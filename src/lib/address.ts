// Addresses, prefixes and ranges: text ↔ the 128-bit space of the data plane, where IPv4 is ::ffff:a.b.c.d.
//
// Called by src/config (parsing what people wrote), and by whoever shows addresses of records (API, CLI, metrics).
// Pure functions over bigint (arithmetic) and 16-byte arrays (what crosses to the engine). node:net judges (strictly: four
// decimal parts), ipaddr.js parses and prints IPv6; zone identifiers and the mapped form are not taken from people.
// Bounds: a range splits into at most 254 prefixes.
import { isIPv4, isIPv6 } from 'node:net';
import ipaddr from 'ipaddr.js';

export type Family = 'ipv4' | 'ipv6';
/** A prefix in the 128-bit space; bits beyond `length` are zero unless it is an interface's address. */
export interface Prefix { readonly address: bigint; readonly length: number }
/** Inclusive on both ends. */
export interface AddressRange { readonly lo: bigint; readonly hi: bigint }

/** What was written is no address; `remedy` says what would be right. */
export class AddressError extends Error {
  constructor(message: string, readonly remedy: string) { super(message); }
}

const MAPPED_BASE = 0xffff_0000_0000n;
const MAPPED_LAST = 0xffff_ffff_ffffn;
export const ADDRESS_MAX = (1n << 128n) - 1n;
export const ANY_IPV4: Prefix = { address: MAPPED_BASE, length: 96 };
export const ANY_IPV6: Prefix = { address: 0n, length: 0 };

export function isIpv4(address: bigint): boolean {
  return address >= MAPPED_BASE && address <= MAPPED_LAST;
}

export function familyOf(address: bigint): Family {
  return isIpv4(address) ? 'ipv4' : 'ipv6';
}

export function prefixFamily(prefix: Prefix): Family {
  return prefix.length >= 96 && isIpv4(prefix.address) ? 'ipv4' : 'ipv6';
}

/** `bytes`: where to write them, when they need not last. */
export function bytesOf(address: bigint, bytes = new Uint8Array(16)): Uint8Array {
  if (isIpv4(address)) {
    const number = Number(address - MAPPED_BASE);
    bytes.fill(0, 0, 10).fill(0xff, 10, 12);
    for (let at = 0; at < 4; at += 1) bytes[12 + at] = (number >>> (24 - 8 * at)) & 0xff;
    return bytes;
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  view.setBigUint64(0, address >> 64n);
  view.setBigUint64(8, address & 0xffff_ffff_ffff_ffffn);
  return bytes;
}

export function addressOfBytes(bytes: Uint8Array): bigint {
  const view = new DataView(bytes.buffer, bytes.byteOffset, 16);
  return (view.getBigUint64(0) << 64n) | view.getBigUint64(8);
}

/** "10.0.1.4" or "2001:db8::1" → its place in the 128-bit space. Throws AddressError. */
export function parseAddress(text: string): bigint {
  if (isIPv4(text)) {
    let address = 0;
    for (const part of text.split('.')) address = address * 256 + Number(part);
    return MAPPED_BASE + BigInt(address);
  }
  if (!text.includes('%') && isIPv6(text)) {
    let address = 0n;
    for (const part of ipaddr.IPv6.parse(text).parts) address = (address << 16n) | BigInt(part);
    if (isIpv4(address)) throw new AddressError(`'${text}' is an IPv4 address in IPv6 clothes`, `write ${formatAddress(address)}`);
    return address;
  }
  throw new AddressError(`'${text}' is not an IP address`, 'write an IPv4 address like 10.0.1.4 or an IPv6 address like 2001:db8::4');
}

/** RFC 5952 text; IPv4 for the mapped form. */
export function formatAddress(address: bigint | Uint8Array): string {
  // What pages of sessions are made of: no arithmetic where four numbers do.
  if (typeof address !== 'bigint' && isMappedBytes(address)) return `${address[12]}.${address[13]}.${address[14]}.${address[15]}`;
  const value = typeof address === 'bigint' ? address : addressOfBytes(address);
  const bytes = bytesOf(value);
  if (isIpv4(value)) return bytes.subarray(12).join('.');
  return new ipaddr.IPv6([...bytes]).toRFC5952String();
}

function isMappedBytes(bytes: Uint8Array): boolean {
  for (let index = 0; index < 10; index += 1) if (bytes[index] !== 0) return false;
  return bytes[10] === 0xff && bytes[11] === 0xff;
}

export function maskOf(length: number): bigint {
  return (ADDRESS_MAX << BigInt(128 - length)) & ADDRESS_MAX;
}

export function networkOf(prefix: Prefix): Prefix {
  return { address: prefix.address & maskOf(prefix.length), length: prefix.length };
}

export function rangeOf(prefix: Prefix): AddressRange {
  const lo = prefix.address & maskOf(prefix.length);
  return { lo, hi: lo | (ADDRESS_MAX >> BigInt(prefix.length)) };
}

export function contains(prefix: Prefix, address: bigint): boolean {
  return ((prefix.address ^ address) >> BigInt(128 - prefix.length)) === 0n;
}

/** Do two prefixes share an address? */
export function overlaps(a: Prefix, b: Prefix): boolean {
  return a.length <= b.length ? contains(a, b.address) : contains(b, a.address);
}

export function formatPrefix(prefix: Prefix): string {
  const length = prefixFamily(prefix) === 'ipv4' ? prefix.length - 96 : prefix.length;
  return `${formatAddress(prefix.address)}/${length}`;
}

/** The length as people write it: an IPv4 /24 is 120 in the 128-bit space. */
export function writtenLength(prefix: Prefix): number {
  return prefixFamily(prefix) === 'ipv4' ? prefix.length - 96 : prefix.length;
}

/** "10.0.1.4/24" → address and length with host bits kept: the form of an interface's address. Throws AddressError. */
export function parseInterfaceAddress(text: string): Prefix {
  const slash = text.indexOf('/');
  if (slash < 0) {
    const address = parseAddress(text);
    throw new AddressError(`'${text}' has no prefix length`, `write ${text}/${isIpv4(address) ? 24 : 64}, with the length of its subnet`);
  }
  const address = parseAddress(text.slice(0, slash));
  const digits = text.slice(slash + 1);
  const lengthMax = isIpv4(address) ? 32 : 128;
  const length = /^(0|[1-9][0-9]{0,2})$/.test(digits) ? Number(digits) : Infinity;
  if (length > lengthMax) {
    throw new AddressError(`'/${digits}' is not a prefix length`, `write a length from 0 to ${lengthMax}: netmasks like 255.255.255.0 are not understood`);
  }
  return { address, length: length + 128 - lengthMax };
}

/** "10.0.0.0/16" or a lone address → a prefix. Throws AddressError, also when host bits are set. */
export function parsePrefix(text: string): Prefix {
  if (!text.includes('/')) return { address: parseAddress(text), length: 128 };
  const prefix = parseInterfaceAddress(text);
  const network = networkOf(prefix);
  if (network.address !== prefix.address) {
    const alone = formatAddress(prefix.address);
    throw new AddressError(`'${text}' has bits set beyond its length`, `write ${formatAddress(network.address)}/${writtenLength(prefix)} for the network, or ${alone} for the address`);
  }
  return prefix;
}

/** An address, a prefix, or "first-last", as the addresses it holds. Throws AddressError. */
export function parseRange(text: string): AddressRange {
  const dash = text.indexOf('-');
  if (dash < 0) return rangeOf(parsePrefix(text));
  const lo = parseAddress(text.slice(0, dash).trim());
  const hi = parseAddress(text.slice(dash + 1).trim());
  if (familyOf(lo) !== familyOf(hi)) throw new AddressError(`'${text}' mixes IPv4 and IPv6`, 'write a range within one family');
  if (lo > hi) throw new AddressError(`'${text}' runs backwards`, `write ${formatAddress(hi)}-${formatAddress(lo)}`);
  return { lo, hi };
}

export function formatRange(range: AddressRange): string {
  return range.lo === range.hi ? formatAddress(range.lo) : `${formatAddress(range.lo)}-${formatAddress(range.hi)}`;
}

/** The fewest prefixes that hold exactly this range, in order. */
export function rangeToPrefixes(range: AddressRange): Prefix[] {
  const prefixes: Prefix[] = [];
  let lo = range.lo;
  while (lo <= range.hi) {
    let hostBits = 0;
    while (hostBits < 128 && (lo & (1n << BigInt(hostBits))) === 0n && lo + (1n << BigInt(hostBits + 1)) - 1n <= range.hi) hostBits++;
    prefixes.push({ address: lo, length: 128 - hostBits });
    lo += 1n << BigInt(hostBits);
  }
  return prefixes;
}

/**
 * The addresses that a prefix matches. In the data plane an IPv6 prefix never matches IPv4, although ::/0 reaches around
 * ::ffff:0:0/96 by its bits: then there are two ranges, one on each side.
 */
export function matchedRanges(prefix: Prefix): AddressRange[] {
  const { lo, hi } = rangeOf(prefix);
  if (prefix.length >= 96 || hi < MAPPED_BASE || lo > MAPPED_BASE) return [{ lo, hi }];
  return [{ lo, hi: MAPPED_BASE - 1n }, { lo: MAPPED_LAST + 1n, hi }];
}

/** Addresses that no interface may have and no NAT may use; undefined when the address is an ordinary one. */
export function specialUse(address: bigint): string | undefined {
  if (isIpv4(address)) {
    const first = Number((address >> 24n) & 0xffn);
    if (first === 0) return 'unspecified';
    if (first === 127) return 'loopback';
    if (first >= 224 && first < 240) return 'multicast';
    if (first >= 240) return 'reserved';
    return undefined;
  }
  if (address === 0n) return 'unspecified';
  if (address === 1n) return 'loopback';
  if (address >> 120n === 0xffn) return 'multicast';
  return undefined;
}

export function isLinkLocalIpv6(address: bigint): boolean {
  return address >> 118n === 0x3fan;
}
