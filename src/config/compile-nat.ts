// The NAT part of the snapshot: rules, pools, and the addresses that NAT shares with the host or has to itself.
//
// Called by compile.ts. A source rule with {interface: true} becomes one entry for each egress interface, with that
// interface's first address as its pool, so the address of an interface is never used on another.
import { NatFiltering, NatKind, SL_LOCAL_ADDRESSES_MAX, SL_NAT_RULE_ENDPOINT_DEPENDENT, SL_NAT_RULE_IPV4, SL_NAT_RULE_IPV6, SL_NAT_SLOT_NONE, SL_NAT_SLOTS_MAX, type NatAddress, type NatRule } from '../engine/abi.generated.js';
import { ANY_IPV4, ANY_IPV6, bytesOf, formatAddress, formatRange, isIpv4, prefixFamily, type AddressRange, type Family } from '../lib/address.js';
import type { CompileContext } from './compile.js';
import { fnv1a32 } from './names.js';
import { NAT_ADDRESSES_MAX, poolRanges, rangeSize, ruleFamilies, sharedAddresses } from './nat-claims.js';
import { sharedPortRange, splitPorts } from './nat-ports.js';
import { ANY_ADDRESS, plainAddress, plainPrefix, type AddressSet } from './objects.js';
import { ConfigError, quote } from './problem.js';
import type { SourceNatRule, StaticNatRule } from './schema.js';
import { parsePorts } from './services.js';
import { ALL_ZONES, connectedInterface, ownerOf, primaryAddress, zoneBit, zoneMask, type TopologyInterface } from './topology.js';

const NO_INTERFACE = 0xffff;
const NO_SPAN = { first: 0, count: 0 };
const NO_ADDRESS = new Uint8Array(16);

/** Shared address → slot. By hash of the address, so that most keep theirs when others come and go. */
export function slotsOf({ config, topology, objects }: CompileContext): Map<bigint, number> {
  const slots = new Map<bigint, number>();
  const taken = new Set<number>();
  const shared = sharedAddresses(config, topology, objects);
  if (shared.length > SL_NAT_SLOTS_MAX) {
    throw new ConfigError('SLUICE_NAT_SLOTS', `NAT shares ${shared.length} addresses with the appliance itself, and ${SL_NAT_SLOTS_MAX} fit`, 'translate to pools instead of interfaces\' addresses');
  }
  for (const address of shared) {
    let slot = fnv1a32(formatAddress(address)) % SL_NAT_SLOTS_MAX;
    while (taken.has(slot)) slot = (slot + 1) % SL_NAT_SLOTS_MAX;
    taken.add(slot);
    slots.set(address, slot);
  }
  return slots;
}

/** NAT's addresses on connected subnets that are no interface's own: somebody must answer ARP for them. */
export function engineAddresses({ claims, topology }: CompileContext): { address: bigint; through: TopologyInterface }[] {
  const found = new Map<bigint, TopologyInterface>();
  for (const { range } of claims) {
    const touches = topology.interfaces.some((one) => one.addresses.some(({ prefix, linkLocal }) => !linkLocal && reaches(range, prefix)));
    if (!touches) continue;
    if (rangeSize(range) > BigInt(NAT_ADDRESSES_MAX)) {
      throw new ConfigError('SLUICE_LOCAL_ADDRESSES', `${formatRange(range)} has more addresses than the ${SL_LOCAL_ADDRESSES_MAX} that fit`, 'translate a smaller prefix');
    }
    for (let address = range.lo; address <= range.hi; address++) {
      const through = connectedInterface(topology, address);
      if (through !== undefined && ownerOf(topology, address) === undefined) found.set(address, through);
    }
  }
  return [...found].map(([address, through]) => ({ address, through }));
}

function reaches(range: AddressRange, prefix: { address: bigint; length: number }): boolean {
  const shift = BigInt(128 - prefix.length);
  return range.hi >> shift >= prefix.address >> shift && range.lo >> shift <= prefix.address >> shift;
}

const FILTERINGS = {
  'endpoint-independent': NatFiltering.ENDPOINT, 'address-dependent': NatFiltering.ADDRESS, 'address-and-port-dependent': NatFiltering.ADDRESS_PORT,
} as const;

export function compileNat(context: CompileContext): void {
  const { config } = context;
  const slots = slotsOf(context);
  for (const rule of config.nat?.source ?? []) if (!rule.disabled) compileSource(context, rule, slots);
  if (context.writer.natAddressCount > NAT_ADDRESSES_MAX) {
    throw new ConfigError('SLUICE_NAT_POOL', `all pools together have ${context.writer.natAddressCount} addresses, and ${NAT_ADDRESSES_MAX} fit`, 'use fewer');
  }
  compileDestinations(context);
  compileStatics(context);
}

function compileSource(context: CompileContext, rule: SourceNatRule, slots: ReadonlyMap<bigint, number>): void {
  const { topology, objects, writer, ids, facts } = context;
  const toZones = zoneMask(topology, rule.to);
  const families = ruleFamilies(rule);
  const destinations = ofFamilies(objects.addressList(rule.destination), families);
  if (destinations === undefined) return;
  const base: NatRule = {
    fromZones: zoneMask(topology, rule.from),
    toZones,
    id: ids.id('nat-source', rule.name),
    kind: rule.translate === 'none' ? NatKind.EXEMPT : NatKind.SOURCE,
    filtering: FILTERINGS[rule.filtering ?? 'address-and-port-dependent'],
    flags: (rule.mapping === 'endpoint-dependent' ? SL_NAT_RULE_ENDPOINT_DEPENDENT : 0) | familyFlags(families.includes('ipv4'), families.includes('ipv6')),
    sources: writer.prefixes(objects.addressList(rule.source)),
    destinations: writer.prefixes(destinations),
    services: writer.services(objects.serviceList(rule.service)),
    pool: NO_SPAN, toAddress: NO_ADDRESS, toPort: 0, toPrefixLength: 0, interface: NO_INTERFACE,
  };
  if (typeof rule.translate === 'string') {
    writer.natRules.push(base);
    return;
  }
  if (!rule.translate.interface) {
    const ranges = poolRanges(rule);
    const [portLo, portHi] = splitPorts(rule.ports);
    const pool = writer.natAddresses(`${ranges.map(formatRange).join()} ${portLo}-${portHi}`, () => poolEntries(ranges, portLo, portHi));
    writer.natRules.push({ ...base, pool });
    return;
  }
  const ports = sharedPortRange(rule.ports, facts);
  if (ports === undefined) throw new ConfigError('SLUICE_NAT_PORTS', `rule ${quote(rule.name)}: the kernel's own ephemeral ports take all of its range`, 'choose ports outside net.ipv4.ip_local_port_range');
  for (const one of topology.interfaces) {
    if (!((toZones >> BigInt(zoneBit(topology, one.config.zone))) & 1n)) continue;
    const own = families.flatMap((family) => primaryAddress(one, family) ?? []);
    // No address yet: no connected subnet either, so nothing of this family leaves here.
    if (own.length === 0) continue;
    const pool = writer.natAddresses(`${own.map(formatAddress).join()} ${ports.join('-')}`, () => own.map((address) => ({
      address: bytesOf(address), portLo: ports[0], portHi: ports[1], natSlot: slots.get(address) ?? SL_NAT_SLOT_NONE,
    })));
    const flags = (base.flags & SL_NAT_RULE_ENDPOINT_DEPENDENT) | familyFlags(own.some(isIpv4), own.some((address) => !isIpv4(address)));
    writer.natRules.push({ ...base, flags, pool, interface: one.index });
  }
}

const FAMILY_SETS = {
  ipv4: { any: false, prefixes: [ANY_IPV4], ipv4: true, ipv6: false },
  ipv6: { any: false, prefixes: [ANY_IPV6], ipv4: false, ipv6: true },
} as const;

// A set that is made here has to be the same object in the next snapshot, or it would be stored there a second time.
const partsOfSets = new WeakMap<AddressSet, Map<Family, AddressSet | undefined>>();
const outsideSets = new WeakMap<StaticNatRule, AddressSet>();

/** The part of a set that is of the rule's families, so that a rule for IPv4 is never the first match of IPv6. */
function ofFamilies(set: AddressSet, families: readonly Family[]): AddressSet | undefined {
  const [only, other] = families;
  if (only === undefined || other !== undefined) return set;
  if (set.any) return FAMILY_SETS[only];
  let parts = partsOfSets.get(set);
  if (parts === undefined) partsOfSets.set(set, parts = new Map());
  if (!parts.has(only)) {
    const prefixes = set.prefixes.filter((prefix) => prefixFamily(prefix) === only);
    parts.set(only, prefixes.length === 0 ? undefined : { any: false, prefixes, ipv4: only === 'ipv4', ipv6: only === 'ipv6' });
  }
  return parts.get(only);
}

function outsideSet(rule: StaticNatRule): AddressSet {
  let set = outsideSets.get(rule);
  if (set === undefined) {
    const outside = plainPrefix(rule.outside);
    const ipv4 = isIpv4(outside.address);
    set = { any: false, prefixes: [outside], ipv4, ipv6: !ipv4 };
    outsideSets.set(rule, set);
  }
  return set;
}

function poolEntries(ranges: readonly AddressRange[], portLo: number, portHi: number): NatAddress[] {
  const size = ranges.reduce((sum, range) => sum + rangeSize(range), 0n);
  if (size > BigInt(NAT_ADDRESSES_MAX)) throw new ConfigError('SLUICE_NAT_POOL', `a pool of ${size} addresses, and ${NAT_ADDRESSES_MAX} fit`, 'use fewer');
  const unique = new Set<bigint>();
  for (const { lo, hi } of ranges) for (let address = lo; address <= hi; address++) unique.add(address);
  return [...unique].map((address) => ({ address: bytesOf(address), portLo, portHi, natSlot: SL_NAT_SLOT_NONE }));
}

function compileDestinations({ config, topology, objects, writer, ids }: CompileContext): void {
  for (const rule of config.nat?.destination ?? []) {
    if (rule.disabled) continue;
    const outside = objects.addressList(rule.destination);
    writer.natRules.push({
      fromZones: zoneMask(topology, rule.from), toZones: ALL_ZONES,
      id: ids.id('nat-destination', rule.name), kind: NatKind.DESTINATION, filtering: NatFiltering.ENDPOINT,
      flags: familyFlags(outside.ipv4, outside.ipv6),
      sources: writer.prefixes(objects.addressList(rule.source)),
      destinations: writer.prefixes(outside),
      services: writer.services(objects.serviceList(rule.service)),
      pool: NO_SPAN,
      toAddress: bytesOf(plainAddress(rule.translate.address)),
      toPort: rule.translate.port === undefined ? 0 : parsePorts(String(rule.translate.port))[0],
      toPrefixLength: 0, interface: NO_INTERFACE,
    });
  }
}

function compileStatics({ config, topology, writer, ids }: CompileContext): void {
  for (const rule of config.nat?.static ?? []) {
    if (rule.disabled) continue;
    const outside = plainPrefix(rule.outside);
    const inside = plainPrefix(rule.inside);
    const ipv4 = isIpv4(outside.address);
    writer.natRules.push({
      fromZones: zoneMask(topology, rule.from), toZones: ALL_ZONES,
      id: ids.id('nat-static', rule.name), kind: NatKind.STATIC, filtering: NatFiltering.ENDPOINT,
      flags: familyFlags(ipv4, !ipv4),
      sources: writer.prefixes(ANY_ADDRESS), destinations: writer.prefixes(outsideSet(rule)), services: NO_SPAN,
      pool: NO_SPAN, toAddress: bytesOf(inside.address), toPort: 0, toPrefixLength: inside.length, interface: NO_INTERFACE,
    });
  }
}

function familyFlags(ipv4: boolean, ipv6: boolean): number {
  return (ipv4 ? SL_NAT_RULE_IPV4 : 0) | (ipv6 ? SL_NAT_RULE_IPV6 : 0);
}
