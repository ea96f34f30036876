// Checks of interfaces and routes: what only the whole configuration, or the machine's facts, can tell.
//
// Called by check.ts. Bounds: interfaces and addresses are compared pairwise, up to SL_LOCAL_ADDRESSES_MAX addresses.
import { SL_FRAME_BYTES_MAX, SL_LOCAL_ADDRESSES_MAX, SL_PORTS_MAX, SL_ZONES_MAX } from '../engine/abi.generated.js';
import { AddressError, contains, formatAddress, formatPrefix, isIpv4, isLinkLocalIpv6, maskOf, networkOf, overlaps, parseInterfaceAddress, prefixFamily, specialUse, writtenLength, type Prefix } from '../lib/address.js';
import { quote, suggest, type Path } from './problem.js';
import { asList } from './schema-parts.js';
import type { RouteConfig } from './schema.js';
import { plainAddress, plainPrefix } from './objects.js';
import { checkEncrypt } from './check-wireguard.js';
import { HOST_DEVICE } from './facts.js';
import { connectedInterface, hasKnownAddresses, ownerOf, pathOf, subnetEdge, type TopologyInterface, type TopologyPort } from './topology.js';
import type { CheckContext } from './check.js';

const ETHERNET_BYTES = 14;
const VLAN_BYTES = 4;
const IPV6_MTU_MIN = 1280;

/** The largest L3 MTU whose frames XDP takes without multi-buffer. */
export function mtuMax(vlan: number | undefined): number {
  return SL_FRAME_BYTES_MAX - ETHERNET_BYTES - (vlan === undefined ? 0 : VLAN_BYTES);
}

export function checkInterfaces(context: CheckContext): void {
  const { topology, problems } = context;
  const takers = new Map<string, string>();
  const devices = new Set<string>();
  for (const one of topology.interfaces) {
    const path = pathOf(one);
    if (one.config.zone === 'any') problems.error('SLUICE_CONFIG_VALUE', [...path, 'zone'], "'any' stands for each zone", 'choose another name');
    checkAddresses(context, one, path);
    if (one.kind !== 'port') continue;
    const { device, vlan } = one.config;
    const frames = `${device}/${vlan ?? 'untagged'}`;
    const other = takers.get(frames);
    if (other !== undefined) {
      problems.error('SLUICE_INTERFACE_DUPLICATE', [...path, 'device'], `interface ${quote(other)} already takes ${vlan === undefined ? 'the untagged frames' : `VLAN ${vlan}`} of ${device}`, 'give one of them another device or vlan');
    }
    takers.set(frames, one.name);
    if (!devices.has(device) && devices.size === SL_PORTS_MAX) {
      problems.error('SLUICE_INTERFACE_DEVICE', [...path, 'device'], `more than ${SL_PORTS_MAX} devices`, 'use VLANs on fewer devices');
    }
    devices.add(device);
    checkMtu(context, one, path);
    checkDevice(context, one, path);
  }
  if (topology.zones.size > SL_ZONES_MAX) {
    problems.error('SLUICE_ZONES_TOO_MANY', ['interfaces'], `${topology.zones.size} zones, and ${SL_ZONES_MAX} fit`, 'give interfaces that are treated alike one zone');
  }
  checkOverlaps(context);
}

function checkMtu({ problems }: CheckContext, one: TopologyPort, path: Path): void {
  const { mtu, vlan, device } = one.config;
  const max = mtuMax(vlan);
  if (mtu !== undefined && mtu > max) {
    problems.error('SLUICE_INTERFACE_MTU', [...path, 'mtu'], `an MTU of ${mtu} is more than XDP takes`, `write ${max} or less`);
  } else if (mtu !== undefined && one.device !== undefined && mtu > one.device.mtu) {
    problems.error('SLUICE_INTERFACE_MTU', [...path, 'mtu'], `an MTU of ${mtu} is more than ${device} carries (${one.device.mtu})`, `raise the device's: ip link set dev ${device} mtu ${mtu}`);
  }
  if (one.device !== undefined && one.device.mtu > mtuMax(undefined)) {
    problems.error('SLUICE_INTERFACE_MTU', [...path, 'device'], `${device} has an MTU of ${one.device.mtu}, more than XDP takes`, `lower the device's: ip link set dev ${device} mtu ${mtuMax(undefined)}`);
  }
  if (mtu !== undefined && mtu < IPV6_MTU_MIN && one.addresses.some(({ prefix }) => !isIpv4(prefix.address))) {
    problems.error('SLUICE_INTERFACE_MTU', [...path, 'mtu'], `an MTU of ${mtu} is too small for IPv6`, `write ${IPV6_MTU_MIN} or more`);
  }
}

function checkDevice({ facts, problems }: CheckContext, one: TopologyPort, path: Path): void {
  const { device } = one.config;
  if (device === 'lo') {
    problems.error('SLUICE_INTERFACE_DEVICE', [...path, 'device'], 'the loopback device forwards nothing', 'name a network device, like eth1');
    return;
  }
  if (device === HOST_DEVICE) {
    problems.error('SLUICE_INTERFACE_DEVICE', [...path, 'device'], `${HOST_DEVICE} is the appliance's own device`, 'name a network device, like eth1');
    return;
  }
  if (facts === undefined) return;
  if (one.device === undefined) {
    problems.error('SLUICE_INTERFACE_DEVICE', [...path, 'device'], `there is no device ${quote(device)}`, suggest(device, facts.devices.map(({ name }) => name).filter((name) => name !== 'lo'), 'device'));
    return;
  }
  if (one.device.kind === 'vlan') {
    problems.warn('SLUICE_INTERFACE_DEVICE', [...path, 'device'], `${device} is a VLAN device, which carries XDP slowly if at all`, 'name the device below it, and the tag with vlan:');
  }
  if (one.config.addresses === undefined && one.addresses.every(({ linkLocal }) => linkLocal)) {
    problems.warn('SLUICE_INTERFACE_ADDRESS', path, `${device} has no address yet`, 'write addresses: [...], or see to it that DHCP answers');
  }
}

function checkAddresses({ problems }: CheckContext, one: TopologyInterface, path: Path): void {
  const { addresses } = one.config;
  for (const [i, text] of asList<string>(addresses).entries()) {
    const at = Array.isArray(addresses) ? [...path, 'addresses', i] : [...path, 'addresses'];
    const fail = (message: string, remedy: string) => problems.error('SLUICE_INTERFACE_ADDRESS', at, message, remedy);
    let prefix: Prefix;
    try {
      prefix = parseInterfaceAddress(text);
    } catch (error) {
      if (!(error instanceof AddressError)) throw error;
      problems.error('SLUICE_ADDRESS', at, error.message, error.remedy);
      continue;
    }
    const use = specialUse(prefix.address);
    const network = prefix.address & maskOf(prefix.length);
    if (use !== undefined) fail(`${quote(text)} is a ${use} address`, 'write a unicast address');
    else if (prefix.length === 0 || (isIpv4(prefix.address) && prefix.length <= 96)) fail(`${quote(text)} takes the whole address family as its subnet`, 'write the length of its subnet');
    else if (prefix.length < 127 && prefix.address === network) {
      fail(`${quote(text)} is the network, not an address in it`, `write ${formatAddress(network + 1n)}/${writtenLength(prefix)}, or whichever address is ours`);
    } else if (isIpv4(prefix.address) && prefix.length < 127 && prefix.address === (network | ((1n << BigInt(128 - prefix.length)) - 1n))) {
      fail(`${quote(text)} is the broadcast address of its subnet`, 'write an address below it');
    }
  }
}

function checkOverlaps({ topology, problems }: CheckContext): void {
  const all = topology.interfaces.flatMap((one) => one.addresses.filter(({ linkLocal }) => !linkLocal).map((address) => ({ one, address })));
  if (all.length > SL_LOCAL_ADDRESSES_MAX) {
    problems.error('SLUICE_LOCAL_ADDRESSES', ['interfaces'], `${all.length} addresses, and ${SL_LOCAL_ADDRESSES_MAX} fit`, 'use fewer addresses');
    return;
  }
  for (const [i, a] of all.entries()) {
    for (const b of all.slice(0, i)) {
      const same = a.address.prefix.address === b.address.prefix.address;
      if (!same && (a.one === b.one || !overlaps(a.address.prefix, b.address.prefix))) continue;
      const path = addressPath(a.one, a.address.listIndex);
      if (same) problems.error('SLUICE_INTERFACE_OVERLAP', path, `${formatAddress(a.address.prefix.address)} stands twice, here and on ${quote(b.one.name)}`, 'keep one of them');
      else {
        problems.error('SLUICE_INTERFACE_OVERLAP', path, `${formatPrefix(networkOf(a.address.prefix))} overlaps ${formatPrefix(networkOf(b.address.prefix))} of interface ${quote(b.one.name)}`, 'give each interface a subnet of its own');
      }
      break;
    }
  }
}

function addressPath(one: TopologyInterface, index: number | undefined): Path {
  const { addresses } = one.config;
  if (addresses === undefined || index === undefined) return pathOf(one);
  return Array.isArray(addresses) ? [...pathOf(one), 'addresses', index] : [...pathOf(one), 'addresses'];
}

export function checkRoutes(context: CheckContext): void {
  const { config, topology, problems } = context;
  const seen = new Map<string, number>();
  for (const one of topology.interfaces) {
    for (const { prefix, linkLocal } of one.addresses) if (!linkLocal) seen.set(formatPrefix(networkOf(prefix)), -1);
  }
  config.routes?.forEach((route, i) => {
    const path: Path = ['routes', i];
    const to = problems.attempt([...path, 'to'], () => plainPrefix(route.to));
    if (to !== undefined) {
      const text = formatPrefix(to);
      const earlier = seen.get(text);
      if (earlier !== undefined && earlier < 0) problems.error('SLUICE_ROUTE_DUPLICATE', [...path, 'to'], `${text} is the network of an interface, which has its route already`, 'take this route away');
      else if (earlier !== undefined) problems.error('SLUICE_ROUTE_DUPLICATE', [...path, 'to'], `${text} has a route already, routes[${earlier}]`, 'write one route; several next hops are a list: via: [A, B]');
      else seen.set(text, i);
    }
    const kinds = ['via', 'blackhole', 'reject'].filter((key) => route[key as keyof RouteConfig] !== undefined);
    if (kinds.length !== 1) {
      problems.error('SLUICE_ROUTE', path, kinds.length === 0 ? 'the route leads nowhere' : `${kinds.join(' and ')} exclude each other`, 'write one of via: ADDRESS, blackhole: true, reject: true');
      return;
    }
    if (route.via !== undefined) checkNextHops(context, route.via, to, [...path, 'via']);
    if (route.encrypt !== undefined) checkEncrypt(context, route, path);
  });
}

function checkNextHops(context: CheckContext, via: NonNullable<RouteConfig['via']>, to: Prefix | undefined, path: Path): void {
  const { topology, problems } = context;
  if (typeof via === 'object' && !Array.isArray(via)) {
    const through = topology.byName.get(via.interface);
    if (through === undefined) problems.error('SLUICE_ROUTE_NEXT_HOP', [...path, 'interface'], `there is no interface ${quote(via.interface)}`, suggest(via.interface, topology.byName.keys(), 'interface'));
    if (via.address !== undefined) checkNextHop(context, via.address, to, [...path, 'address'], through);
    return;
  }
  const hops = asList<string>(via);
  for (const [i, hop] of hops.entries()) {
    const at = Array.isArray(via) ? [...path, i] : path;
    if (hops.indexOf(hop) < i) problems.error('SLUICE_ROUTE_NEXT_HOP', at, `${quote(hop)} stands twice`, 'name each next hop once');
    checkNextHop(context, hop, to, at, undefined);
  }
}

/** `through`: the interface that the route names; its subnet need not hold the next hop then when that is link-local. */
function checkNextHop({ topology, problems }: CheckContext, text: string, to: Prefix | undefined, path: Path, through: TopologyInterface | undefined): void {
  const hop = problems.attempt(path, () => plainAddress(text));
  if (hop === undefined) return;
  const fail = (message: string, remedy: string) => problems.error('SLUICE_ROUTE_NEXT_HOP', path, message, remedy);
  if (to !== undefined && (prefixFamily(to) === 'ipv4') !== isIpv4(hop)) {
    problems.error('SLUICE_ADDRESS_FAMILY', path, `a next hop of the other family than ${formatPrefix(to)}`, `write an ${prefixFamily(to) === 'ipv4' ? 'IPv4' : 'IPv6'} next hop`);
    return;
  }
  if (specialUse(hop) !== undefined) return fail(`${quote(text)} is a ${specialUse(hop)} address`, 'write the address of a router');
  if (isLinkLocalIpv6(hop)) {
    if (through === undefined) fail(`${quote(text)} is link-local: it is on each interface`, `write via: {interface: NAME, address: "${text}"}`);
    return;
  }
  if (ownerOf(topology, hop) !== undefined) return fail(`${quote(text)} is our own address`, 'write the address of the router behind it');
  const edge = subnetEdge(topology, hop);
  if (edge !== undefined) return fail(`${quote(text)} is the ${edge} address of its subnet`, 'write the address of a router');
  if (through !== undefined) {
    if (hasKnownAddresses(through) && !through.addresses.some(({ prefix }) => contains(prefix, hop))) fail(`${quote(text)} lies in no subnet of ${quote(through.name)}`, 'write a next hop on that interface');
    return;
  }
  if (topology.complete && connectedInterface(topology, hop) === undefined) {
    const subnets = topology.interfaces.flatMap((one) => one.addresses).filter(({ linkLocal }) => !linkLocal).slice(0, 8).map(({ prefix }) => formatPrefix(networkOf(prefix)));
    fail(`${quote(text)} lies in no subnet of an interface`, subnets.length === 0 ? 'give an interface an address first' : `write a next hop in one of ${subnets.join(', ')}`);
  }
}
