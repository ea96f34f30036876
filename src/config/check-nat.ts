// Checks of NAT: translations that cannot work, pools whose answers never come back, addresses claimed twice.
//
// Called by check.ts. Bounds: a pool holds POOL_ADDRESSES_MAX addresses; overlaps between claims are found by sorting.
import { SL_LOCAL_ADDRESSES_MAX, SL_NAT_SLOTS_MAX } from '../engine/abi.generated.js';
import { contains, formatAddress, formatRange, isIpv4, rangeOf, specialUse, type AddressRange, type Prefix } from '../lib/address.js';
import { addressKindsOf, checkAddressList, checkNames, checkServiceList, checkZones } from './check-lists.js';
import type { CheckContext } from './check.js';
import { plainAddress, plainPrefix, plainRange, type AddressSet, type ServiceSet } from './objects.js';
import { NAT_ADDRESSES_MAX, POOL_ADDRESSES_MAX, poolRanges, rangeSize, ruleFamilies, sharedAddresses, type NatClaim } from './nat-claims.js';
import { quote, type Path } from './problem.js';
import { sharedPortRange, splitPorts } from './nat-ports.js';
import { asList } from './schema-parts.js';
import type { DestinationNatRule, SourceNatRule, StaticNatRule } from './schema.js';
import { hasPorts, parsePorts } from './services.js';
import { connectedInterface, hasKnownAddresses, ownerOf, primaryAddress, subnetEdge, zoneBit } from './topology.js';

const RESERVED: readonly { address: string; use: string }[] = [
  { address: '168.63.129.16', use: 'Azure\'s agent, DNS, DHCP and probes' },
  { address: '169.254.169.254', use: 'instance metadata' },
];

export function checkNat(context: CheckContext): void {
  const { config } = context;
  checkNames(context, config.nat?.source ?? [], ['nat', 'source']);
  checkNames(context, config.nat?.destination ?? [], ['nat', 'destination']);
  checkNames(context, config.nat?.static ?? [], ['nat', 'static']);
  config.nat?.source?.forEach((rule, i) => checkSource(context, rule, ['nat', 'source', i]));
  config.nat?.destination?.forEach((rule, i) => checkDestination(context, rule, ['nat', 'destination', i]));
  config.nat?.static?.forEach((rule, i) => checkStatic(context, rule, ['nat', 'static', i]));
  checkConflicts(context);
  checkTotals(context);
}

function checkSource(context: CheckContext, rule: SourceNatRule, path: Path): void {
  const { problems, topology, facts } = context;
  checkZones(context, rule.from, [...path, 'from']);
  const to = checkZones(context, rule.to, [...path, 'to']);
  warnReserved(context, checkAddressList(context, rule.source, [...path, 'source'], rule), rule.source, [...path, 'source']);
  warnReserved(context, checkAddressList(context, rule.destination, [...path, 'destination'], rule), rule.destination, [...path, 'destination']);
  checkServiceList(context, rule.service, [...path, 'service']);
  if (rule.ports !== undefined) checkPorts(context, rule.ports, [...path, 'ports']);
  const families = ruleFamilies(rule);
  if (typeof rule.translate === 'string') return;

  if (rule.translate.interface) {
    const [lo, hi] = splitPorts(rule.ports);
    if (lo <= hi && sharedPortRange(rule.ports, facts) === undefined) {
      problems.error('SLUICE_NAT_PORTS', [...path, 'ports'], 'the kernel\'s own ephemeral ports take all of this range', 'choose ports outside net.ipv4.ip_local_port_range');
    }
    if (to === undefined) return;
    for (const one of topology.interfaces) {
      if (!((to >> BigInt(zoneBit(topology, one.config.zone))) & 1n)) continue;
      const known = one.kind !== 'port' || one.config.addresses !== undefined;
      for (const family of families) {
        if (primaryAddress(one, family) !== undefined || !hasKnownAddresses(one)) continue;
        const message = `interface ${quote(one.name)} of zone ${quote(one.config.zone)} has no ${family === 'ipv4' ? 'IPv4' : 'IPv6'} address to translate to`;
        const remedy = 'give it one, narrow to:, or use a pool';
        if (known && rule.to !== undefined) problems.error('SLUICE_NAT_TRANSLATE', [...path, 'translate'], message, remedy);
        else problems.warn('SLUICE_NAT_TRANSLATE', [...path, 'translate'], message, remedy);
      }
    }
    return;
  }
  checkPool(context, rule, families, to, [...path, 'translate', 'pool']);
}

function checkPool(context: CheckContext, rule: SourceNatRule, families: readonly string[], to: bigint | undefined, path: Path): void {
  const { problems } = context;
  const pool = typeof rule.translate === 'string' ? undefined : rule.translate.pool;
  let size = 0n;
  const present = new Set<string>();
  let faultless = true;
  asList<string>(pool).forEach((item, i) => {
    const at = Array.isArray(pool) ? [...path, i] : path;
    const range = problems.attempt(at, () => plainRange(item));
    if (range === undefined) { faultless = false; return; }
    size += rangeSize(range);
    const family = isIpv4(range.lo) ? 'ipv4' : 'ipv6';
    present.add(family);
    if (!families.includes(family)) {
      problems.error('SLUICE_ADDRESS_FAMILY', at, `${quote(item)} is ${family === 'ipv4' ? 'IPv4' : 'IPv6'}, which the rule does not translate`, `add families: [${[...families, family].join(', ')}], or take it out of the pool`);
      return;
    }
    checkOutsideRange(context, range, at, 'pool', to);
  });
  if (size > BigInt(POOL_ADDRESSES_MAX)) {
    problems.error('SLUICE_NAT_POOL', path, `the pool has ${size} addresses, and ${POOL_ADDRESSES_MAX} fit`, 'use fewer: each has 64,000 ports');
  }
  for (const family of families) {
    if (faultless && !present.has(family)) problems.error('SLUICE_ADDRESS_FAMILY', path, `the rule translates ${family}, and the pool has no such address`, `add one, or take ${family} out of families:`);
  }
}

/** What pools and 1:1 outside addresses have in common: they must be ours to use, and answers must reach us. */
function checkOutsideRange(context: CheckContext, range: AddressRange, path: Path, what: 'pool' | '1:1', to: bigint | undefined): void {
  const { topology, problems, config, nextHops } = context;
  const inRange = (address: bigint): boolean => address >= range.lo && address <= range.hi;
  const use = specialUse(range.lo) ?? specialUse(range.hi);
  if (use !== undefined) return problems.error('SLUICE_NAT_POOL', path, `${formatRange(range)} holds ${use} addresses`, 'write unicast addresses');
  for (const one of topology.interfaces) {
    for (const { prefix } of one.addresses) {
      if (!inRange(prefix.address)) continue;
      problems.error('SLUICE_NAT_POOL', path, `${formatRange(range)} holds ${formatAddress(prefix.address)}, interface ${quote(one.name)}'s own address`,
        what === 'pool' ? 'leave it out, or write translate: {interface: true}' : 'use another address, or publish single ports with nat.destination');
      return;
    }
  }
  for (const hop of nextHops) {
    if (inRange(hop)) return problems.error('SLUICE_NAT_POOL', path, `${formatRange(range)} holds ${formatAddress(hop)}, a next hop of ours`, 'leave the gateway\'s address out');
  }
  if (!topology.complete || rangeSize(range) > BigInt(POOL_ADDRESSES_MAX)) return;
  const declared: Prefix[] = (config.routes ?? []).filter((route) => route.blackhole || route.reject).flatMap((route) => problemFree(() => plainPrefix(route.to)));
  for (let address = range.lo; address <= range.hi; address++) {
    const edge = what === 'pool' ? subnetEdge(topology, address) : undefined;
    if (edge !== undefined) return problems.error('SLUICE_NAT_POOL', path, `${formatAddress(address)} is the ${edge} address of its subnet`, 'leave it out of the pool');
    const through = connectedInterface(topology, address);
    if (through === undefined && !declared.some((prefix) => contains(prefix, address))) {
      return problems.error('SLUICE_NAT_POOL_UNREACHABLE', path, `${formatAddress(address)} lies in no subnet of an interface: answers to it would not come back`,
        'use addresses of the egress interface\'s subnet; if the network routes them to this appliance, say so with a route: {to: PREFIX, blackhole: true}');
    }
    if (through !== undefined && to !== undefined && !((to >> BigInt(zoneBit(topology, through.config.zone))) & 1n)) {
      return problems.warn('SLUICE_NAT_POOL_UNREACHABLE', path, `${formatAddress(address)} lies in a subnet of interface ${quote(through.name)}, zone ${quote(through.config.zone)}, and not towards the rule's zones`, 'use addresses of the egress interface\'s subnet');
    }
  }
}

function checkDestination(context: CheckContext, rule: DestinationNatRule, path: Path): void {
  const { problems, topology } = context;
  checkZones(context, rule.from, [...path, 'from']);
  warnReserved(context, checkAddressList(context, rule.source, [...path, 'source'], rule), rule.source, [...path, 'source']);
  const outside = checkAddressList(context, rule.destination, [...path, 'destination'], rule);
  warnReserved(context, outside, rule.destination, [...path, 'destination']);
  const services = checkServiceList(context, rule.service, [...path, 'service']);
  const inside = problems.attempt([...path, 'translate', 'address'], () => plainAddress(rule.translate.address));
  if (outside !== undefined && (outside.any || outside.prefixes.some(({ length }) => length !== 128))) {
    problems.error('SLUICE_NAT_TRANSLATE', [...path, 'destination'], `${outside.any ? 'any' : 'a prefix'} cannot be translated to one address`, 'write single addresses; nat.static translates prefixes of equal length');
    return;
  }
  if (inside !== undefined) {
    warnReservedAddress(context, { lo: inside, hi: inside }, [...path, 'translate', 'address']);
    const use = specialUse(inside);
    if (use !== undefined) problems.error('SLUICE_NAT_TRANSLATE', [...path, 'translate', 'address'], `${quote(rule.translate.address)} is a ${use} address`, 'write the address of a server');
    else if (ownerOf(topology, inside) !== undefined) problems.error('SLUICE_NAT_TRANSLATE', [...path, 'translate', 'address'], `${quote(rule.translate.address)} is the appliance's own address`, 'write the address of a server');
    if (outside !== undefined && (isIpv4(inside) ? outside.ipv6 : outside.ipv4)) {
      problems.error('SLUICE_ADDRESS_FAMILY', [...path, 'translate', 'address'], `${addressKindsOf(outside)} cannot become ${isIpv4(inside) ? 'IPv4' : 'IPv6'}`, 'write both in one family');
    }
  }
  if (services === undefined) return;
  if (rule.translate.port !== undefined) checkTranslatedPorts(context, rule, services, path);
  const shared = outside?.prefixes.find((prefix) => ownerOf(topology, prefix.address) !== undefined);
  if (shared !== undefined && (services.any || services.services.some((one) => !hasPorts(one) || (one.dstLo <= 1 && one.dstHi === 65535)))) {
    problems.error('SLUICE_NAT_PORTS', [...path, rule.service === undefined ? 'destination' : 'service'], `this would take all of a protocol away from the appliance's own address ${formatAddress(shared.address)}`, 'name the ports to publish, like service: tcp/8443');
  }
}

function checkTranslatedPorts({ problems }: CheckContext, rule: DestinationNatRule, services: ServiceSet, path: Path): void {
  const target = problems.attempt([...path, 'translate', 'port'], () => parsePorts(String(rule.translate.port)));
  if (target === undefined) return;
  const at = [...path, 'translate', 'port'];
  if (services.any || services.services.some((one) => !hasPorts(one) || (one.dstLo === 0 && one.dstHi === 65535))) {
    problems.error('SLUICE_NAT_PORTS', at, 'a port can be translated only where the service names ports', 'write service: tcp/8443 or the like, or leave translate.port out');
    return;
  }
  const [lo, hi] = target;
  if (lo === 0) problems.error('SLUICE_NAT_PORTS', at, 'port 0 does not exist', 'write a port from 1 to 65535');
  for (const one of services.services) {
    const length = one.dstHi - one.dstLo + 1;
    if (hi > lo && hi - lo + 1 !== length) {
      problems.error('SLUICE_NAT_PORTS', at, `${hi - lo + 1} ports for a service of ${length}`, `write ${lo} or ${lo}-${lo + length - 1}`);
      return;
    }
    if (lo + length - 1 > 65535) {
      problems.error('SLUICE_NAT_PORTS', at, `${length} ports from ${lo} on end past 65535`, `start at ${65536 - length} or below`);
      return;
    }
  }
}

function checkStatic(context: CheckContext, rule: StaticNatRule, path: Path): void {
  const { problems } = context;
  checkZones(context, rule.from, [...path, 'from']);
  const outside = problems.attempt([...path, 'outside'], () => plainPrefix(rule.outside));
  const inside = problems.attempt([...path, 'inside'], () => plainPrefix(rule.inside));
  if (outside !== undefined) {
    warnReservedAddress(context, rangeOf(outside), [...path, 'outside']);
    if (rangeSize(rangeOf(outside)) > BigInt(POOL_ADDRESSES_MAX) && isIpv4(outside.address)) problems.error('SLUICE_NAT_POOL', [...path, 'outside'], `more than ${POOL_ADDRESSES_MAX} addresses`, 'use a longer prefix');
    else checkOutsideRange(context, rangeOf(outside), [...path, 'outside'], '1:1', undefined);
  }
  if (inside !== undefined) warnReservedAddress(context, rangeOf(inside), [...path, 'inside']);
  if (outside === undefined || inside === undefined) return;
  if (isIpv4(outside.address) !== isIpv4(inside.address)) problems.error('SLUICE_ADDRESS_FAMILY', [...path, 'inside'], 'inside and outside are of different families', 'write both in one family');
  else if (outside.length !== inside.length) problems.error('SLUICE_NAT_TRANSLATE', [...path, 'inside'], `${quote(rule.inside)} and ${quote(rule.outside)} do not have the same length`, 'write prefixes of equal length');
}

/** 1:1 addresses are whole addresses: nothing else may use them. */
function checkConflicts({ claims, problems }: CheckContext): void {
  const sorted = [...claims].filter((claim) => claim.kind !== 'destination').sort((a, b) => (a.range.lo < b.range.lo ? -1 : a.range.lo > b.range.lo ? 1 : 0));
  let reach: NatClaim | undefined;
  for (const claim of sorted) {
    if (reach !== undefined && claim.range.lo <= reach.range.hi && (claim.kind === 'static' || reach.kind === 'static') && reach.path !== claim.path) {
      const [at, other] = claim.kind === 'static' ? [claim, reach] : [reach, claim];
      problems.error('SLUICE_NAT_CONFLICT', at.path, `${formatRange(at.range)} overlaps ${formatRange(other.range)} of nat.${other.kind} rule ${quote(other.rule)}`, 'a 1:1 outside address belongs to one rule alone');
    }
    if (reach === undefined || claim.range.hi > reach.range.hi) reach = claim;
  }
}

function checkTotals({ config, topology, problems, claims, objects }: CheckContext): void {
  const own = topology.interfaces.reduce((sum, one) => sum + one.addresses.length, 0);
  let answered = BigInt(own);
  const counted = new Set<string>();
  for (const { range } of claims) {
    const key = formatRange(range);
    if (counted.has(key)) continue;
    counted.add(key);
    if (connectedInterface(topology, range.lo) !== undefined) answered += rangeSize(range);
  }
  if (answered > BigInt(SL_LOCAL_ADDRESSES_MAX)) {
    problems.error('SLUICE_LOCAL_ADDRESSES', ['nat'], `interfaces and NAT have ${answered} addresses on connected subnets, and ${SL_LOCAL_ADDRESSES_MAX} fit`, 'have the network route large pools to this appliance instead, and declare them with a blackhole route');
  }
  const pools = new Set<string>();
  let addresses = 0n;
  for (const rule of config.nat?.source ?? []) {
    if (rule.disabled || typeof rule.translate === 'string') continue;
    const key = `${asList<string>(rule.translate.pool).join()}|${rule.ports ?? ''}`;
    if (pools.has(key)) continue;
    pools.add(key);
    addresses += problemFree(() => poolRanges(rule)).reduce((sum, range) => sum + rangeSize(range), 0n);
  }
  if (addresses > BigInt(NAT_ADDRESSES_MAX)) problems.error('SLUICE_NAT_POOL', ['nat', 'source'], `all pools together have ${addresses} addresses, and ${NAT_ADDRESSES_MAX} fit`, 'use fewer');
  const shared = problemFree(() => [...sharedAddresses(config, topology, objects)]).length;
  if (shared > SL_NAT_SLOTS_MAX) problems.error('SLUICE_NAT_SLOTS', ['nat'], `NAT shares ${shared} addresses with the appliance itself, and ${SL_NAT_SLOTS_MAX} fit`, 'translate to pools instead of interfaces\' addresses');
}

function checkPorts({ problems }: CheckContext, text: string, path: Path): void {
  const ports = problems.attempt(path, () => parsePorts(text));
  if (ports !== undefined && ports[0] === 0) problems.error('SLUICE_NAT_PORTS', path, 'port 0 does not exist', 'start at 1, or better at 1024');
}

function problemFree<T>(make: () => T | T[]): T[] {
  try {
    const made = make();
    return Array.isArray(made) ? made : [made];
  } catch {
    return [];
  }
}

/** Explicit mention only: `any` and wide prefixes hold these addresses too, and the host keeps them anyway. */
function warnReserved(context: CheckContext, set: AddressSet | undefined, list: string | readonly string[] | undefined, path: Path): void {
  if (set === undefined || set.any) return;
  const lone = set.prefixes.filter(({ length }) => length === 128);
  for (const { address } of lone) {
    const written = asList<string>(list).indexOf(formatAddress(address));
    warnReservedAddress(context, { lo: address, hi: address }, written >= 0 && Array.isArray(list) ? [...path, written] : path);
  }
}

function warnReservedAddress({ problems }: CheckContext, range: AddressRange, path: Path): void {
  for (const { address, use } of RESERVED) {
    const value = plainAddress(address);
    if (value < range.lo || value > range.hi) continue;
    problems.warn('SLUICE_ADDRESS_RESERVED', path, `${address} is reserved for ${use}, and is never translated`, 'take it out of the rule');
  }
}
