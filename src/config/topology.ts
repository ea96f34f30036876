// Topology: the interfaces of a configuration with their addresses, zones and subnets, joined with the machine's facts.
//
// Called by check.ts's parts and by compile.ts, so that both see one picture. Lenient: what does not parse is left out
// here and reported by check-interfaces.ts. Addresses: the configured ones, else the device's own; the kernel's
// link-local IPv6 addresses come along in either case, because neighbour discovery needs them. WireGuard interfaces
// stand behind the others; they have no device, and the addresses of the configuration alone.
import { AddressError, contains, isIpv4, isLinkLocalIpv6, maskOf, parseAddress, parseInterfaceAddress, specialUse, type Prefix } from '../lib/address.js';
import { SL_ZONES_MAX } from '../engine/abi.generated.js';
import { findVlanDevice, type Device, type Facts } from './facts.js';
import { ConfigError, quote, suggest, type Path } from './problem.js';
import { asList } from './schema-parts.js';
import type { Config, InterfaceConfig } from './schema.js';
import type { WireguardConfig } from './schema-wireguard.js';

export interface TopologyAddress {
  /** Host bits kept. */
  readonly prefix: Prefix;
  readonly linkLocal: boolean;
  /** Where it stands in the configured list; absent when it was found on the device. */
  readonly listIndex?: number;
}

interface TopologyCommon {
  readonly index: number;
  readonly name: string;
  readonly addresses: readonly TopologyAddress[];
}

/** The untagged frames of a netdev, or those of a VLAN on it. */
export interface TopologyPort extends TopologyCommon {
  readonly kind: 'port';
  readonly config: InterfaceConfig;
  /** The netdev that carries XDP; absent without facts or when it is missing. */
  readonly device?: Device;
  /** The kernel's VLAN device of a tagged interface, when it exists. */
  readonly vlanDevice?: Device;
}

export interface TopologyTunnel extends TopologyCommon {
  readonly kind: 'wireguard';
  readonly config: WireguardConfig;
}

export type TopologyInterface = TopologyPort | TopologyTunnel;

export interface Topology {
  readonly interfaces: readonly TopologyInterface[];
  readonly byName: ReadonlyMap<string, TopologyInterface>;
  /** Zone → bit. In order of first use by interfaces, then by other tunnels. */
  readonly zones: ReadonlyMap<string, number>;
  readonly zoneNames: readonly string[];
  /** Are all interfaces' addresses known? Without, subnets cannot be judged. */
  readonly complete: boolean;
}

export const ALL_ZONES = 0xffff_ffff_ffff_ffffn;

/** `isClaimed`: is this address NAT's? Such addresses were put on the device by ourselves and are not the host's. */
export function buildTopology(config: Config, facts: Facts | undefined, isClaimed: (address: bigint) => boolean): Topology {
  const devices = new Map((facts?.devices ?? []).map((device) => [device.name, device]));
  const interfaces: TopologyInterface[] = [];
  for (const [name, one] of Object.entries(config.interfaces ?? {})) {
    const device = devices.get(one.device);
    const vlanDevice = device !== undefined && one.vlan !== undefined ? findVlanDevice(facts!, device, one.vlan) : undefined;
    const own = deviceAddresses(one.vlan === undefined ? device : vlanDevice, isClaimed);
    const configured = asList<string>(one.addresses).flatMap(tryInterfaceAddress);
    const addresses = one.addresses === undefined ? own : [...configured, ...own.filter((address) => address.linkLocal && !configured.some((other) => other.prefix.address === address.prefix.address))];
    interfaces.push({
      kind: 'port', index: interfaces.length, name, config: one, addresses,
      ...(device === undefined ? {} : { device }), ...(vlanDevice === undefined ? {} : { vlanDevice }),
    });
  }
  for (const [name, one] of Object.entries(config.wireguard ?? {})) {
    interfaces.push({ kind: 'wireguard', index: interfaces.length, name, config: one, addresses: asList<string>(one.addresses).flatMap(tryInterfaceAddress) });
  }
  const zones = new Map<string, number>();
  for (const { zone } of [...interfaces.map((one) => one.config), ...Object.values(config.vxlan ?? {})]) if (!zones.has(zone)) zones.set(zone, zones.size);
  return {
    interfaces, byName: new Map(interfaces.map((one) => [one.name, one])), zones, zoneNames: [...zones.keys()],
    complete: interfaces.every(hasKnownAddresses),
  };
}

/** Those of a device without configured addresses are known with the machine's facts alone. */
export function hasKnownAddresses(one: TopologyInterface): boolean {
  return one.kind === 'wireguard' || one.config.addresses !== undefined || one.device !== undefined;
}

/** Where it stands in the configuration. */
export function pathOf(one: TopologyInterface): Path {
  return [one.kind === 'port' ? 'interfaces' : 'wireguard', one.name];
}

function tryInterfaceAddress(text: string, listIndex: number): TopologyAddress[] {
  try {
    const prefix = parseInterfaceAddress(text);
    return [{ prefix, linkLocal: isLinkLocalIpv6(prefix.address), listIndex }];
  } catch (error) {
    if (error instanceof AddressError) return [];
    throw error;
  }
}

function deviceAddresses(device: Device | undefined, isClaimed: (address: bigint) => boolean): TopologyAddress[] {
  if (device === undefined) return [];
  const all = device.addresses.map(({ address, prefixLength }) => {
    const value = parseAddress(address);
    return { address: value, length: isIpv4(value) ? prefixLength + 96 : prefixLength };
  }).filter((prefix) => specialUse(prefix.address) === undefined);
  return all
    .filter((prefix) => !(prefix.length === 128 && isClaimed(prefix.address) && all.some((other) => other.length < 128 && contains(other, prefix.address))))
    .map((prefix) => ({ prefix, linkLocal: isLinkLocalIpv6(prefix.address) }));
}

/** The interface that has this very address. */
export function ownerOf(topology: Topology, address: bigint): TopologyInterface | undefined {
  return topology.interfaces.find((one) => one.addresses.some(({ prefix }) => prefix.address === address));
}

/** The interface in whose subnet an address lies; link-local subnets do not count, they are everywhere. */
export function connectedInterface(topology: Topology, address: bigint): TopologyInterface | undefined {
  let best: TopologyInterface | undefined;
  let bestLength = -1;
  for (const one of topology.interfaces) {
    for (const { prefix, linkLocal } of one.addresses) {
      if (!linkLocal && prefix.length > bestLength && contains(prefix, address)) { best = one; bestLength = prefix.length; }
    }
  }
  return best;
}

/** Is this the network or broadcast address of an IPv4 subnet of ours? */
export function subnetEdge(topology: Topology, address: bigint): 'network' | 'broadcast' | undefined {
  if (!isIpv4(address)) return undefined;
  for (const { addresses } of topology.interfaces) {
    for (const { prefix } of addresses) {
      if (prefix.length >= 127 || !contains(prefix, address)) continue;
      const network = prefix.address & maskOf(prefix.length);
      if (address === network) return 'network';
      if (address === (network | ((1n << BigInt(128 - prefix.length)) - 1n))) return 'broadcast';
    }
  }
  return undefined;
}

/** The interface's address for interface source NAT: its first one of the family that is not link-local. */
export function primaryAddress(one: TopologyInterface, family: 'ipv4' | 'ipv6'): bigint | undefined {
  return one.addresses.find(({ prefix, linkLocal }) => !linkLocal && isIpv4(prefix.address) === (family === 'ipv4'))?.prefix.address;
}

/** Zones of a rule as a mask. Left out or any: all ones. Throws ConfigError at an unknown one. */
export function zoneMask(topology: Topology, zones: string | readonly string[] | undefined): bigint {
  if (zones === undefined) return ALL_ZONES;
  let mask = 0n;
  for (const zone of asList<string>(zones)) {
    if (zone === 'any') return ALL_ZONES;
    mask |= 1n << BigInt(zoneBit(topology, zone));
  }
  return mask;
}

export function zoneBit(topology: Topology, zone: string): number {
  const bit = topology.zones.get(zone);
  if (bit === undefined) throw new ConfigError('SLUICE_ZONE_UNKNOWN', `no interface has the zone ${quote(zone)}`, suggest(zone, topology.zoneNames, 'zone'));
  if (bit >= SL_ZONES_MAX) throw new ConfigError('SLUICE_ZONES_TOO_MANY', `more than ${SL_ZONES_MAX} zones`, 'give interfaces that are treated alike one zone');
  return bit;
}
