// Checks of WireGuard interfaces: names, ports, keys, allowed IPs, endpoints, and routes that lead into tunnels.
//
// Called by check.ts. What is an interface's like any other's (addresses, overlaps, zones) is check-interfaces.ts's. Whether a peer has our own
// public key only the engine can tell: it alone has the private ones. Bounds: SL_WIREGUARD_PEERS_MAX peers and ALLOWED_IPS_MAX allowed IPs in all.
import { SL_FRAME_BYTES_MAX, SL_INTERFACES_MAX, SL_PROTOCOL_ANY, SL_WIREGUARD_PEERS_MAX } from '../engine/abi.generated.js';
import { ANY_IPV4, ANY_IPV6, formatAddress, formatPrefix, isIpv4, networkOf, specialUse, type Prefix } from '../lib/address.js';
import type { CheckContext } from './check.js';
import { allowedIpRoutes } from './compile-wireguard.js';
import { NAT_PORT_LO, sharedPortRange } from './nat-ports.js';
import { plainAddress, plainPrefix } from './objects.js';
import { PrefixMap } from './prefix-map.js';
import { ConfigError, quote, type Path } from './problem.js';
import { asList } from './schema-parts.js';
import type { RouteConfig } from './schema.js';
import { LISTEN_DEFAULT, type WireguardPeerConfig } from './schema-wireguard.js';
import { connectedInterface, ownerOf, pathOf, type Topology, type TopologyInterface, type TopologyTunnel } from './topology.js';
import { allowedPrefixes, endpointOf, listenPort, OVERHEAD_BYTES, parseEndpoint, prefixKey, tunnelMtu } from './wireguard.js';

/** Of all peers together: what the engine's tables and a commit bear without anybody noticing. */
export const ALLOWED_IPS_MAX = 262_144;
const ETHERNET_AND_VLAN_BYTES = 18;
const IPV6_MTU_MIN = 1280;
const VXLAN_PORT_DEFAULT = 4789;
const UDP = 17;
/** All zero: what an empty variable in a script leaves, and no key. */
const ZERO_KEY = `${'A'.repeat(43)}=`;

/** The largest packet inside whose frame, sealed, still fits one buffer. */
export const TUNNEL_MTU_MAX = SL_FRAME_BYTES_MAX - ETHERNET_AND_VLAN_BYTES - OVERHEAD_BYTES.ipv6;

/** What was examined last and had no fault: the parts of the configuration that are looked at here, and what else counts. */
let lastGood: { parts: readonly unknown[]; machine: string } | undefined;

export function checkWireguard(context: CheckContext): void {
  const { config: { interfaces, wireguard, vxlan, routes, nat, objects }, topology, facts, problems } = context;
  const parts = [interfaces, wireguard, vxlan, routes, nat, objects];
  const machine = JSON.stringify([topology.interfaces.map((one) => [one.name, one.addresses.map(({ prefix }) => prefixKey(prefix)), one.kind === 'port' ? one.device?.mtu : 0]), facts?.localPortRange]);
  if (lastGood?.machine === machine && parts.every((part, index) => part === lastGood!.parts[index])) return;
  const before = problems.list.length;
  checkAll(context);
  if (problems.errors === 0 && problems.list.length === before) lastGood = { parts, machine };
}

function checkAll(context: CheckContext): void {
  const tunnels = context.topology.interfaces.filter((one): one is TopologyTunnel => one.kind === 'wireguard');
  checkInterfaceNames(context);
  if (tunnels.length === 0) return;
  checkTotals(context, tunnels);
  checkPorts(context, tunnels);
  checkKeyFiles(context, tunnels);
  for (const tunnel of tunnels) {
    checkMtu(context, tunnel);
    checkPeers(context, tunnel);
  }
  if (context.problems.errors > 0) return; // what follows looks at where routes lead, and says nothing new about what is wrong already
  checkWays(context, tunnels);
}

/** Routes, rules' interfaces and records speak of an interface by its name, of whatever kind it is. */
function checkInterfaceNames({ config, topology, problems }: CheckContext): void {
  if (topology.interfaces.length > SL_INTERFACES_MAX) {
    problems.error('SLUICE_CONFIG_TOO_LARGE', ['wireguard'], `${topology.interfaces.length} interfaces and tunnels, and ${SL_INTERFACES_MAX} fit`, 'use fewer');
  }
  const seen = new Map<string, string>();
  for (const section of ['interfaces', 'wireguard', 'vxlan'] as const) {
    for (const name of Object.keys(config[section] ?? {})) {
      const other = seen.get(name);
      if (other === undefined) seen.set(name, section);
      else problems.error('SLUICE_NAME_DUPLICATE', [section, name], `${quote(name)} stands in section ${other} already`, 'give each interface and tunnel a name of its own: routes and records go by it', 'key');
    }
  }
}

function checkTotals({ problems }: CheckContext, tunnels: readonly TopologyTunnel[]): void {
  const peers = tunnels.flatMap(({ config }) => config.peers ?? []);
  if (peers.length > SL_WIREGUARD_PEERS_MAX) problems.error('SLUICE_CONFIG_TOO_LARGE', ['wireguard'], `${peers.length} peers, and ${SL_WIREGUARD_PEERS_MAX} fit`, 'use fewer');
  const prefixes = peers.reduce((sum, { allowedIPs }) => sum + asList(allowedIPs).length, 0);
  if (prefixes > ALLOWED_IPS_MAX) problems.error('SLUICE_CONFIG_TOO_LARGE', ['wireguard'], `${prefixes} allowed IPs, and ${ALLOWED_IPS_MAX} fit`, 'join prefixes');
}

/** A tunnel's packets are the appliance's own before anything else looks at them: nobody else can have its port. */
function checkPorts({ config, topology, objects, facts, problems }: CheckContext, tunnels: readonly TopologyTunnel[]): void {
  const takers = new Map<number, string>();
  for (const [name, { port, internal, external }] of Object.entries(config.vxlan ?? {})) {
    for (const taken of [port ?? VXLAN_PORT_DEFAULT, internal?.port, external?.port]) if (taken !== undefined) takers.set(taken, `VXLAN tunnel ${quote(name)}`);
  }
  const sharesOwn = (config.nat?.source ?? []).find((rule) => !rule.disabled && typeof rule.translate !== 'string' && rule.translate.interface);
  const shared = sharesOwn && sharedPortRange(sharesOwn.ports, facts);
  for (const tunnel of tunnels) {
    const port = listenPort(tunnel.config);
    const path: Path = tunnel.config.listen === undefined ? pathOf(tunnel) : [...pathOf(tunnel), 'listen'];
    const fail = (taker: string): void => problems.error('SLUICE_WIREGUARD_PORT', path, `UDP port ${port} is ${taker}'s already`, tunnel.config.listen === undefined ? `write listen: PORT; left out, it is ${LISTEN_DEFAULT}` : 'choose another port');
    const taker = takers.get(port);
    if (taker !== undefined) fail(taker);
    else takers.set(port, `interface ${quote(tunnel.name)}`);
    for (const rule of config.nat?.destination ?? []) {
      if (rule.disabled) continue;
      const publishes = problemFree(() => objects.addressList(rule.destination).prefixes.some(({ address }) => ownerOf(topology, address) !== undefined)
        && objects.serviceList(rule.service).services.some(({ protocol, dstLo, dstHi }) => (protocol === UDP || protocol === SL_PROTOCOL_ANY) && dstLo <= port && port <= dstHi));
      if (publishes) fail(`nat.destination rule ${quote(rule.name)}`);
    }
    if (port < NAT_PORT_LO || shared === undefined || port < shared[0] || port > shared[1]) continue;
    problems.warn('SLUICE_WIREGUARD_PORT', path, `UDP port ${port} is among those that nat.source rule ${quote(sharesOwn!.name)} translates to on our own addresses`,
      `choose one outside ${shared.join('-')}, like ${LISTEN_DEFAULT}, or narrow the rule's ports`);
  }
}

function checkKeyFiles({ problems }: CheckContext, tunnels: readonly TopologyTunnel[]): void {
  const takers = new Map<string, string>();
  for (const tunnel of tunnels) {
    const { privateKeyFile } = tunnel.config;
    if (privateKeyFile === undefined) continue;
    const other = takers.get(privateKeyFile);
    if (other !== undefined) problems.error('SLUICE_WIREGUARD_KEY', [...pathOf(tunnel), 'privateKeyFile'], `interface ${quote(other)} has this private key already`, 'give each interface a key of its own: peers know it by that');
    takers.set(privateKeyFile, tunnel.name);
  }
}

function checkMtu({ problems }: CheckContext, tunnel: TopologyTunnel): void {
  const path: Path = tunnel.config.mtu === undefined ? pathOf(tunnel) : [...pathOf(tunnel), 'mtu'];
  const mtu = tunnelMtu(tunnel.config);
  if (mtu > TUNNEL_MTU_MAX) problems.error('SLUICE_INTERFACE_MTU', path, `an MTU of ${mtu} leaves no room for the tunnel's headers`, `write ${TUNNEL_MTU_MAX} or less`);
  const needsIpv6 = tunnel.addresses.some(({ prefix }) => !isIpv4(prefix.address));
  if (mtu < IPV6_MTU_MIN && needsIpv6) problems.error('SLUICE_INTERFACE_MTU', path, `an MTU of ${mtu} is too small for IPv6`, `write ${IPV6_MTU_MIN} or more`);
}

function checkPeers(context: CheckContext, tunnel: TopologyTunnel): void {
  const { problems } = context;
  const names = new Map<string, number>();
  const keys = new Map<string, string>();
  const taken = new PrefixMap<WireguardPeerConfig>();
  tunnel.config.peers?.forEach((peer, i) => {
    const path: Path = [...pathOf(tunnel), 'peers', i];
    const earlier = names.get(peer.name);
    if (earlier === undefined) names.set(peer.name, i);
    else problems.error('SLUICE_NAME_DUPLICATE', [...path, 'name'], `peer ${earlier} is called ${quote(peer.name)} too`, 'give each peer of an interface a name of its own: records and metrics go by it');
    for (const member of ['publicKey', 'nextPublicKey'] as const) {
      const key = peer[member];
      if (key === undefined) continue;
      const other = keys.get(key);
      if (key === ZERO_KEY) problems.error('SLUICE_WIREGUARD_KEY', [...path, member], 'this key is all zero, which nobody can have', 'write the peer\'s public key');
      else if (other !== undefined) problems.error('SLUICE_WIREGUARD_KEY', [...path, member], `${other === peer.name ? 'it is the peer\'s publicKey' : `peer ${quote(other)} has this public key`} already`, 'a public key belongs to one peer of an interface');
      else keys.set(key, peer.name);
    }
    checkAllowedIps(context, tunnel, peer, taken, path);
    if (peer.endpoint !== undefined) checkEndpoint(context, peer, [...path, 'endpoint']);
  });
}

function checkAllowedIps({ problems, topology }: CheckContext, tunnel: TopologyTunnel, peer: WireguardPeerConfig, taken: PrefixMap<WireguardPeerConfig>, path: Path): void {
  const { allowedIPs } = peer;
  if (allowedIPs === undefined) {
    problems.warn('SLUICE_WIREGUARD_ALLOWED_IPS', path, `peer ${quote(peer.name)} has no allowed IPs: nothing is sent to it, and nothing from it is taken`, 'write allowedIPs: [PREFIX, ...], at least its address in the tunnel');
    return;
  }
  asList<string>(allowedIPs).forEach((text, i) => {
    const at = Array.isArray(allowedIPs) ? [...path, 'allowedIPs', i] : [...path, 'allowedIPs'];
    const prefix = problems.attempt(at, () => plainPrefix(text));
    if (prefix === undefined) return;
    const other = taken.add(prefix, peer);
    if (other !== undefined) {
      problems.error('SLUICE_WIREGUARD_ALLOWED_IPS', at, `${formatPrefix(prefix)} is ${other === peer ? 'named twice' : `among the allowed IPs of peer ${quote(other.name)}`} already`, 'give a prefix to one peer of an interface; a longer one may go to another');
    }
    if (prefix.length === 128 && tunnel.addresses.some((own) => own.prefix.address === prefix.address)) {
      problems.error('SLUICE_WIREGUARD_ALLOWED_IPS', at, `${formatAddress(prefix.address)} is our own address in the tunnel`, 'write the peer\'s');
    } else if (prefix.length === 128 && ownerOf(topology, prefix.address) !== undefined) {
      problems.error('SLUICE_WIREGUARD_ALLOWED_IPS', at, `${formatAddress(prefix.address)} is our own address`, 'write what is behind the peer');
    }
  });
}

function checkEndpoint({ problems, topology }: CheckContext, peer: WireguardPeerConfig, path: Path): void {
  const endpoint = endpointOf(peer) ?? problems.attempt(path, () => parseEndpoint(peer.endpoint!));
  if (endpoint?.literal === undefined) return;
  const use = specialUse(endpoint.literal);
  if (use !== undefined) problems.error('SLUICE_WIREGUARD_ENDPOINT', path, `${quote(endpoint.address)} is a ${use} address`, 'write where the peer is reached');
  else if (ownerOf(topology, endpoint.literal) !== undefined) problems.error('SLUICE_WIREGUARD_ENDPOINT', path, `${quote(endpoint.address)} is our own address`, 'write where the peer is reached');
}

// ---- where routes lead -----------------------------------------------------------------------------------------------

/** `undefined` as interface: a route that leads nowhere, or somewhere that is not known now. */
interface Way { through: TopologyInterface | undefined }

/** Endpoints must be reached outside of tunnels, and what routes send into a tunnel must be for one of its peers. */
function checkWays(context: CheckContext, tunnels: readonly TopologyTunnel[]): void {
  const ways = waysOf(context);
  warnSkippedRoutes(context);
  for (const tunnel of tunnels) {
    tunnel.config.peers?.forEach((peer, i) => {
      const endpoint = endpointOf(peer);
      if (endpoint?.literal === undefined) return;
      checkOuterWay(context, ways, tunnel, endpoint.literal, [...pathOf(tunnel), 'peers', i, 'endpoint']);
    });
  }
  for (const tunnel of tunnels) warnSpoofing(context, ways, tunnel);
  const allowed = new Map(tunnels.map((tunnel) => [tunnel, allowedBy(tunnel)]));
  context.config.routes?.forEach((route, i) => {
    if (route.via === undefined) return;
    for (const { through, hop } of nextHops(context.topology, route.via)) {
      if (through?.kind === 'wireguard') checkInnerRoute(context, through, allowed.get(through)!, plainPrefix(route.to), hop, ['routes', i]);
    }
  });
}

function allowedBy(tunnel: TopologyTunnel): PrefixMap<WireguardPeerConfig> {
  const map = new PrefixMap<WireguardPeerConfig>();
  for (const peer of tunnel.config.peers ?? []) for (const prefix of allowedPrefixes(peer)) map.add(prefix, peer);
  return map;
}

function waysOf(context: CheckContext): PrefixMap<Way> {
  const { config, topology } = context;
  const ways = new PrefixMap<Way>();
  for (const one of topology.interfaces) for (const { prefix, linkLocal } of one.addresses) if (!linkLocal) ways.add(networkOf(prefix), { through: one });
  for (const { to, via } of config.routes ?? []) ways.add(plainPrefix(to), { through: via === undefined ? undefined : nextHops(topology, via)[0]?.through });
  for (const { tunnel, prefix, skipped } of allowedIpRoutes(config, topology)) if (skipped === undefined) ways.add(prefix, { through: topology.byName.get(tunnel) });
  return ways;
}

function nextHops(topology: Topology, via: NonNullable<RouteConfig['via']>): { through: TopologyInterface | undefined; hop: bigint | undefined }[] {
  if (typeof via === 'object' && !Array.isArray(via)) return [{ through: topology.byName.get(via.interface), hop: via.address === undefined ? undefined : plainAddress(via.address) }];
  return asList<string>(via).map((text) => {
    const hop = plainAddress(text);
    return { through: connectedInterface(topology, hop), hop };
  });
}

function checkOuterWay({ topology, problems }: CheckContext, ways: PrefixMap<Way>, tunnel: TopologyTunnel, endpoint: bigint, path: Path): void {
  const way = ways.longest({ address: endpoint, length: 128 });
  const family = isIpv4(endpoint) ? 'ipv4' : 'ipv6';
  if (way === undefined) {
    if (topology.complete) problems.warn('SLUICE_WIREGUARD_ENDPOINT', path, `no route leads to ${formatAddress(endpoint)}`, `add one, like routes: [{ to: ${formatPrefix(family === 'ipv4' ? ANY_IPV4 : ANY_IPV6)}, via: GATEWAY }]`);
    return;
  }
  const { through } = way.value;
  if (through?.kind === 'wireguard') {
    problems.error('SLUICE_WIREGUARD_ENDPOINT', path, `${formatAddress(endpoint)} would itself be reached through tunnel ${quote(through.name)}, by ${formatPrefix(way.prefix)}`,
      `add a route to it outside of tunnels: { to: ${formatAddress(endpoint)}/${family === 'ipv4' ? 32 : 128}, via: GATEWAY }`);
    return;
  }
  const outer = through?.config.mtu ?? through?.device?.mtu;
  const needed = tunnelMtu(tunnel.config) + OVERHEAD_BYTES[family];
  if (outer !== undefined && needed > outer) {
    problems.warn('SLUICE_INTERFACE_MTU', path, `packets of the tunnel's MTU of ${tunnelMtu(tunnel.config)} become ${needed} bytes, and ${quote(through!.name)} carries ${outer}`, `write mtu: ${outer - OVERHEAD_BYTES[family]} or less at the tunnel`);
  }
}

/** Allowed IPs whose packets a route of the same prefix leads elsewhere: whoever comes from wg-quick expects them in the tunnel. */
function warnSkippedRoutes({ config, topology, problems }: CheckContext): void {
  for (const { tunnel: name, peer, prefix, skipped } of allowedIpRoutes(config, topology)) {
    if (skipped === undefined) continue;
    const tunnel = topology.byName.get(name)!;
    const path: Path = [...pathOf(tunnel), 'peers', config.wireguard![name]!.peers!.indexOf(peer), 'allowedIPs'];
    const silence = `write routes: false at ${quote(name)} when that is meant`;
    if (typeof skipped === 'object') {
      problems.error('SLUICE_ROUTE_DUPLICATE', path, `${formatPrefix(prefix)} is routed to tunnel ${quote(skipped.tunnel)} already, by allowed IPs there`, 'write a route that says which, or routes: false at one of them');
    } else if (skipped === 'connected') {
      const own = tunnel.addresses.some((one) => networkOf(one.prefix).address === prefix.address && one.prefix.length === prefix.length);
      if (!own) problems.warn('SLUICE_ROUTE_DUPLICATE', path, `${formatPrefix(prefix)} is the network of an interface: its packets stay there`, silence);
    } else {
      const { via } = config.routes![skipped]!;
      if (via !== undefined && nextHops(topology, via).some(({ through }) => through === tunnel)) continue;
      problems.warn('SLUICE_ROUTE_DUPLICATE', path, `${formatPrefix(prefix)} has a route already, routes[${skipped}], which does not lead into the tunnel`, silence);
    }
  }
}

/** Without routes of their own, allowed IPs need configured ones: what no route leads back into the tunnel may not come out of it either. */
function warnSpoofing({ problems }: CheckContext, ways: PrefixMap<Way>, tunnel: TopologyTunnel): void {
  if (tunnel.config.routes !== false || (tunnel.config.antiSpoofing ?? 'strict') !== 'strict') return;
  const into = new PrefixMap<true>();
  for (const [prefix, { through }] of ways.entries()) if (through === tunnel) into.add(prefix, true);
  tunnel.config.peers?.forEach((peer, i) => {
    const lost = allowedPrefixes(peer).find((prefix) => into.longest(prefix) === undefined && !into.hasWithin(prefix));
    if (lost === undefined) return;
    problems.warn('SLUICE_WIREGUARD_ALLOWED_IPS', [...pathOf(tunnel), 'peers', i, 'allowedIPs'], `no route leads to ${formatPrefix(lost)} through ${quote(tunnel.name)}: anti-spoofing drops what comes from there`,
      `add a route: { to: ${formatPrefix(lost)}, via: { interface: ${tunnel.name} } }, or write antiSpoofing: loose`);
  });
}

function checkInnerRoute({ problems }: CheckContext, tunnel: TopologyTunnel, allowed: PrefixMap<WireguardPeerConfig>, to: Prefix, hop: bigint | undefined, path: Path): void {
  const found = allowed.longest(to);
  if (found === undefined && !allowed.hasWithin(to)) {
    problems.warn('SLUICE_WIREGUARD_ALLOWED_IPS', [...path, 'to'], `no peer of ${quote(tunnel.name)} has anything of ${formatPrefix(to)} among its allowed IPs: such packets are dropped`, 'add it to the allowed IPs of the peer that it is behind');
    return;
  }
  const named = hop === undefined ? undefined : allowed.longest({ address: hop, length: 128 });
  if (found !== undefined && named !== undefined && named.value !== found.value) {
    problems.warn('SLUICE_WIREGUARD_ALLOWED_IPS', [...path, 'via'], `the next hop is peer ${quote(named.value.name)}'s, but ${formatPrefix(to)} is among the allowed IPs of peer ${quote(found.value.name)}, and goes there`, 'allowed IPs choose the peer: change them, or the next hop');
  }
}

/** Does this route keep its promise to encrypt? Called by check-interfaces.ts, as far as can be known now. */
export function checkEncrypt(context: CheckContext, route: RouteConfig, path: Path): void {
  const { topology, problems } = context;
  if (route.via === undefined) {
    problems.error('SLUICE_ROUTE', [...path, 'encrypt'], 'nothing leaves by this route that could be encrypted', 'write via: {interface: TUNNEL}, or take encrypt away');
    return;
  }
  const tunnels = topology.interfaces.filter(({ kind }) => kind === 'wireguard').map(({ name }) => name);
  const hops = problemFree(() => nextHops(topology, route.via!)) ?? [];
  for (const { through } of hops) {
    if (through === undefined || through.kind === 'wireguard') continue;
    problems.error('SLUICE_ROUTE_UNENCRYPTED', [...path, 'via'], `the route wants encryption, and interface ${quote(through.name)} does not encrypt`,
      tunnels.length === 0 ? 'there is no WireGuard interface yet: add one under wireguard:' : `write via: {interface: ${tunnels.slice(0, 8).join(' or ')}}`);
    return;
  }
}

function problemFree<T>(make: () => T): T | undefined {
  try {
    return make();
  } catch (error) {
    if (error instanceof ConfigError) return undefined;
    throw error;
  }
}
