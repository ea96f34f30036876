// NAT claims: which outside addresses the NAT rules of a configuration use, and for what.
//
// Called by topology.ts's users (an address that NAT claims is not the host's), check-nat.ts (conflicts, reachability) and
// compile.ts (what to answer ARP and neighbour discovery for). Rules that do not parse claim nothing; check-nat.ts says why.
import { rangeOf, type AddressRange } from '../lib/address.js';
import { ConfigError, type Path } from './problem.js';
import { asList } from './schema-parts.js';
import type { Config, SourceNatRule } from './schema.js';
import { plainAddress, plainPrefix, plainRange, type Objects } from './objects.js';
import { ownerOf, primaryAddress, zoneBit, zoneMask, type Topology } from './topology.js';

/** Addresses of one rule's pool; also bounds what one 1:1 prefix or published range may add to the steering map. */
export const POOL_ADDRESSES_MAX = 4096;

export interface NatClaim {
  readonly range: AddressRange;
  readonly kind: 'source' | 'destination' | 'static';
  readonly rule: string;
  readonly path: Path;
}

export function natClaims(config: Config, objects: Objects): NatClaim[] {
  const claims: NatClaim[] = [];
  const claim = (kind: NatClaim['kind'], rule: { name: string; disabled?: boolean }, path: Path, ranges: () => AddressRange[]): void => {
    if (rule.disabled) return;
    try {
      for (const range of ranges()) claims.push({ range, kind, rule: rule.name, path });
    } catch (error) {
      if (!(error instanceof ConfigError)) throw error;
    }
  };
  config.nat?.source?.forEach((rule, i) => claim('source', rule, ['nat', 'source', i, 'translate', 'pool'], () => poolRanges(rule)));
  config.nat?.destination?.forEach((rule, i) => claim('destination', rule, ['nat', 'destination', i, 'destination'],
    () => objects.addressList(rule.destination).prefixes.map(rangeOf)));
  config.nat?.static?.forEach((rule, i) => claim('static', rule, ['nat', 'static', i, 'outside'], () => [rangeOf(plainPrefix(rule.outside))]));
  return claims;
}

/** Is an address within a claim? For the few addresses of devices: a linear search is enough. */
export function isClaimedBy(claims: readonly NatClaim[]): (address: bigint) => boolean {
  return (address) => claims.some(({ range }) => address >= range.lo && address <= range.hi);
}

/** The pool of a source rule; empty for {interface: true} and none. Throws ConfigError. */
export function poolRanges(rule: SourceNatRule): AddressRange[] {
  if (typeof rule.translate === 'string') return [];
  return asList<string>(rule.translate.pool).map(plainRange);
}

export function rangeSize(range: AddressRange): bigint {
  return range.hi - range.lo + 1n;
}

/** nat_addresses entries that the engine takes. */
export const NAT_ADDRESSES_MAX = 4096;

export function ruleFamilies(rule: SourceNatRule): readonly ('ipv4' | 'ipv6')[] {
  return rule.families === undefined ? ['ipv4'] : asList(rule.families) as ('ipv4' | 'ipv6')[];
}

/** Next hops of all routes: addresses that no pool may hold. */
export function nextHopAddresses(config: Config): bigint[] {
  const hops = new Set<string>();
  for (const { via } of config.routes ?? []) {
    if (via === undefined) continue;
    if (typeof via === 'string' || Array.isArray(via)) for (const hop of asList<string>(via)) hops.add(hop);
    else if (via.address !== undefined) hops.add(via.address);
  }
  return [...hops].flatMap((hop) => {
    try {
      return [plainAddress(hop)];
    } catch (error) {
      if (error instanceof ConfigError) return [];
      throw error;
    }
  });
}

/** Interfaces' own addresses that NAT uses as well, sorted: interface SNAT, and published ports. */
export function sharedAddresses(config: Config, topology: Topology, objects: Objects): bigint[] {
  const shared = new Set<bigint>();
  for (const rule of config.nat?.source ?? []) {
    if (rule.disabled || typeof rule.translate === 'string' || !rule.translate.interface) continue;
    const zones = zoneMask(topology, rule.to);
    for (const one of topology.interfaces) {
      if (!((zones >> BigInt(zoneBit(topology, one.config.zone))) & 1n)) continue;
      for (const family of ruleFamilies(rule)) {
        const address = primaryAddress(one, family);
        if (address !== undefined) shared.add(address);
      }
    }
  }
  for (const rule of config.nat?.destination ?? []) {
    if (rule.disabled) continue;
    for (const { address } of objects.addressList(rule.destination).prefixes) if (ownerOf(topology, address) !== undefined) shared.add(address);
  }
  return [...shared].sort((a, b) => (a < b ? -1 : 1));
}
