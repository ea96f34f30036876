// Services: text like tcp/443 or icmp/echo-request → the ranges that the engine matches.
//
// Called by objects.ts. Pure. ICMP's "ports" are type << 8 | code. A name of an ICMP message means that message in both
// families (icmp/echo-request is ping and ping6); a number means the protocol that is written.
import { SL_PROTOCOL_ANY } from '../engine/abi.generated.js';
import { ConfigError, quote } from './problem.js';
import { asList } from './schema-parts.js';
import type { LongService } from './schema.js';

export interface Service { readonly protocol: number; readonly srcLo: number; readonly srcHi: number; readonly dstLo: number; readonly dstHi: number }

export const TCP = 6;
export const UDP = 17;
export const ICMP = 1;
export const ICMPV6 = 58;

const PROTOCOLS: Readonly<Record<string, number>> = {
  icmp: ICMP, igmp: 2, ipip: 4, tcp: TCP, udp: UDP, gre: 47, esp: 50, ah: 51, icmpv6: ICMPV6, ospf: 89, vrrp: 112, sctp: 132,
};

/** Message name → [type, code] or [type] for all its codes; undefined where a family has no such message. */
const ICMP_MESSAGES: Readonly<Record<string, { v4?: readonly number[]; v6?: readonly number[] }>> = {
  'echo-request': { v4: [8], v6: [128] },
  'echo-reply': { v4: [0], v6: [129] },
  'destination-unreachable': { v4: [3], v6: [1] },
  'packet-too-big': { v4: [3, 4], v6: [2] },
  'time-exceeded': { v4: [11], v6: [3] },
  'parameter-problem': { v4: [12], v6: [4] },
  'timestamp-request': { v4: [13] },
  'timestamp-reply': { v4: [14] },
};

export const ANY_SERVICE: Service = { protocol: SL_PROTOCOL_ANY, srcLo: 0, srcHi: 65535, dstLo: 0, dstHi: 65535 };

/** Words that mean a service by themselves, so no object may be called so. */
export function isServiceWord(name: string): boolean {
  return name === 'any' || name === 'ip' || Object.hasOwn(PROTOCOLS, name);
}

/** Throws ConfigError. */
export function parseService(item: string | LongService): Service[] {
  if (typeof item !== 'string') return parseLongService(item);
  if (item.startsWith('!')) throw new ConfigError('SLUICE_NEGATION_UNSUPPORTED', `${quote(item)}: negation is not supported`, 'write a deny rule for it before this one');
  if (item === 'any') return [ANY_SERVICE];
  const [word = '', ...rest] = item.split('/');
  if (word === 'ip') return [{ ...ANY_SERVICE, protocol: wholeNumber(rest.length === 1 ? rest[0]! : '', 0, 255, item, 'write ip/47, with the protocol\'s number, or any') }];
  const protocol = Object.hasOwn(PROTOCOLS, word) ? PROTOCOLS[word]! : undefined;
  if (protocol === undefined) {
    throw new ConfigError('SLUICE_SERVICE', `${quote(item)} is not a service`, 'write one like tcp/443, udp/8000-8080, icmp/echo-request, gre, ip/47 or any, or the name of an object');
  }
  if (rest.length === 0) return [{ ...ANY_SERVICE, protocol }];
  if (protocol === ICMP || protocol === ICMPV6) return parseIcmp(item, protocol, rest);
  if (protocol !== TCP && protocol !== UDP) throw new ConfigError('SLUICE_SERVICE', `${quote(item)}: ports are matched for tcp and udp only`, `write ${word}`);
  if (rest.length > 1) throw new ConfigError('SLUICE_SERVICE', `${quote(item)} has one slash too many`, `write ${word}/80 or ${word}/8000-8080`);
  const [dstLo, dstHi] = parsePorts(rest[0]!);
  return [{ protocol, srcLo: 0, srcHi: 65535, dstLo, dstHi }];
}

function parseLongService(item: LongService): Service[] {
  const protocol = Object.hasOwn(PROTOCOLS, item.protocol) ? PROTOCOLS[item.protocol]! : -1;
  if (protocol !== TCP && protocol !== UDP) {
    throw new ConfigError('SLUICE_SERVICE', `protocol ${quote(item.protocol)} has no ports to match`, 'write protocol: tcp or udp; other protocols in the short form');
  }
  const all: [number, number][] = [[0, 65535]];
  const sources = item.source === undefined ? all : asList(item.source).map((one) => parsePorts(String(one)));
  const destinations = item.destination === undefined ? all : asList(item.destination).map((one) => parsePorts(String(one)));
  return sources.flatMap(([srcLo, srcHi]) => destinations.map(([dstLo, dstHi]) => ({ protocol, srcLo, srcHi, dstLo, dstHi })));
}

function parseIcmp(item: string, protocol: number, rest: readonly string[]): Service[] {
  const word = rest[0]!;
  if (rest.length === 1 && Object.hasOwn(ICMP_MESSAGES, word)) {
    const { v4, v6 } = ICMP_MESSAGES[word]!;
    const services: Service[] = [];
    if (v4 !== undefined && protocol === ICMP) services.push(icmpService(ICMP, v4[0]!, v4[1]));
    if (v6 !== undefined) services.push(icmpService(ICMPV6, v6[0]!, v6[1]));
    if (services.length > 0) return services;
  }
  const remedy = `write icmp/8 (type), icmp/3/4 (type and code), or one of ${Object.keys(ICMP_MESSAGES).join(', ')}`;
  if (rest.length > 2) throw new ConfigError('SLUICE_SERVICE', `${quote(item)} has one slash too many`, remedy);
  const type = wholeNumber(word, 0, 255, item, remedy);
  const code = rest[1] === undefined ? undefined : wholeNumber(rest[1], 0, 255, item, remedy);
  return [icmpService(protocol, type, code)];
}

function icmpService(protocol: number, type: number, code: number | undefined): Service {
  return { protocol, srcLo: 0, srcHi: 65535, dstLo: (type << 8) | (code ?? 0), dstHi: (type << 8) | (code ?? 255) };
}

/** "80" or "8000-8080". Throws ConfigError. */
export function parsePorts(text: string): [number, number] {
  const remedy = 'write a port like 443 or a range like 8000-8080, from 0 to 65535';
  const dash = text.indexOf('-');
  const lo = wholeNumber(dash < 0 ? text : text.slice(0, dash), 0, 65535, text, remedy);
  const hi = dash < 0 ? lo : wholeNumber(text.slice(dash + 1), 0, 65535, text, remedy);
  if (lo > hi) throw new ConfigError('SLUICE_SERVICE', `the port range ${quote(text)} runs backwards`, `write ${hi}-${lo}`);
  return [lo, hi];
}

function wholeNumber(text: string, min: number, max: number, whole: string, remedy: string): number {
  const value = /^(0|[1-9][0-9]{0,4})$/.test(text) ? Number(text) : NaN;
  if (!(value >= min && value <= max)) throw new ConfigError('SLUICE_SERVICE', `${quote(whole)} is not a service: ${quote(text)} is no number from ${min} to ${max}`, remedy);
  return value;
}

/** Does `outer` match whatever `inner` matches? */
export function serviceCovers(outer: Service, inner: Service): boolean {
  return (outer.protocol === SL_PROTOCOL_ANY || outer.protocol === inner.protocol)
    && outer.srcLo <= inner.srcLo && outer.srcHi >= inner.srcHi && outer.dstLo <= inner.dstLo && outer.dstHi >= inner.dstHi;
}

export function hasPorts(service: Service): boolean {
  return service.protocol === TCP || service.protocol === UDP;
}
