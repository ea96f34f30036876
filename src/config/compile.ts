// compile: a checked configuration and the machine's facts → the snapshot that the engine applies, and the host's plan.
//
// Called by `control` at start, at a commit, and when facts changed (an address by DHCP, a device that came back). Pure.
// The configuration must have passed check.ts: what does not resolve here throws ConfigError and nothing is applied, so
// the old snapshot stays in force. A route whose next hop is on no connected subnet now is left out and named in
// `inactiveRoutes`; one that wants encryption stays, and drops, when no WireGuard interface has its next hop (`unencryptedRoutes`). VLAN devices: until the host has made them (facts then list them), a tagged interface resolves
// neighbours on the parent; compile again when facts changed.
import { AntiSpoofing, InterfaceKind, NexthopKind, RuleAction, SL_LOCAL_ADDRESSES_MAX, SL_LOCAL_ENGINE, SL_LOG_END, SL_LOG_START, SL_NAT_SLOT_NONE, SL_PORTS_MAX, SL_RULE_NO_OFFLOAD, SL_RULES_MAX, SL_VLAN_NONE, type Interface, type Nexthop, type Settings, type Span } from '../engine/abi.generated.js';
import type { WireguardPlan } from '../engine/last-applied.js';
import { bytesOf, formatAddress, formatPrefix, isIpv4, networkOf } from '../lib/address.js';
import { compileNat, engineAddresses, slotsOf } from './compile-nat.js';
import { allowedIpRoutes, compileWireguards } from './compile-wireguard.js';
import { LIMITS, timerSeconds } from './defaults.js';
import { environmentOf, type Environment } from './environment.js';
import { HOST_DEVICE, vlanDeviceName, type Device, type Facts } from './facts.js';
import { isClaimedBy, natClaims, type NatClaim } from './nat-claims.js';
import { IdTable, type NameKind, type Names } from './names.js';
import { Objects, plainAddress, plainPrefix } from './objects.js';
import { ConfigError, quote } from './problem.js';
import { asList } from './schema-parts.js';
import type { Config, RouteConfig } from './schema.js';
import { SnapshotWriter } from './snapshot-writer.js';
import { buildTopology, connectedInterface, zoneBit, zoneMask, type Topology, type TopologyInterface, type TopologyPort } from './topology.js';
import { allPeers, peerName, tunnelMtu } from './wireguard.js';

/** A netdev that carries our XDP program: what addPort and the steering maps need. */
export interface PortPlan {
  device: string;
  ifindex: number;
  slot: number;
  queues: number;
  /** An interface takes this port's untagged frames. */
  untagged: boolean;
  vlans: number[];
}

/** An address that the host sets on a netdev. */
export interface AddressPlan {
  device: string;
  address: string;
  /** As people write it: 24, 32, 64, 128. */
  prefixLength: number;
  /** nat: the kernel only answers ARP and neighbour discovery for it. */
  purpose: 'interface' | 'nat';
}

export interface Compiled {
  snapshot: Uint8Array;
  names: Names;
  ports: PortPlan[];
  addresses: AddressPlan[];
  /** Indexes into `routes` of the configuration that have no usable next hop now. */
  inactiveRoutes: number[];
  /** Indexes of those that want encryption and have no next hop that encrypts: they drop. */
  unencryptedRoutes: number[];
  wireguards: WireguardPlan[];
}

/** What the parts of the compiler share. */
export interface CompileContext {
  config: Config;
  facts: Facts;
  objects: Objects;
  topology: Topology;
  claims: readonly NatClaim[];
  ids: IdTable;
  writer: SnapshotWriter;
}

/** `previousPorts`: slots that devices keep, so that adding a device moves no other. */
export function compileSnapshot(config: Config, facts: Facts, generation: number | bigint, previousPorts: readonly PortPlan[] = []): Compiled {
  const claims = natClaims(config, new Objects(config));
  const topology = buildTopology(config, facts, isClaimedBy(claims));
  const environment = environmentOf(config, topology);
  const context: CompileContext = { config, facts, objects: environment.objects, topology, claims, ids: idsOf(config), writer: new SnapshotWriter(environment.pools) };
  const ports = planPorts(topology, previousPorts);
  compileInterfaces(context);
  const addresses = compileAddresses(context);
  const { inactiveRoutes, unencryptedRoutes } = compileRoutes(context);
  compileRules(context, environment.matches);
  compileNat(context);
  const wireguards = compileWireguards(context);
  return {
    snapshot: context.writer.finish(settingsOf(config), BigInt(generation)),
    names: { ids: context.ids.ids, zones: topology.zoneNames, interfaces: topology.interfaces.map((one) => one.name) },
    ports, addresses, inactiveRoutes, unencryptedRoutes, wireguards,
  };
}

let lastIds: { config: Config; table: IdTable } | undefined;

/** Most commits change no name: then the ids are those of the last one. */
function idsOf(config: Config): IdTable {
  if (lastIds === undefined || !hasSameNames(lastIds.config, config)) lastIds = { config, table: new IdTable(allNames(config)) };
  lastIds.config = config;
  return lastIds.table;
}

function hasSameNames(a: Config, b: Config): boolean {
  return sameKeys(a.interfaces, b.interfaces) && (a.wireguard === b.wireguard || isEqual(wireguardNames(a), wireguardNames(b))) && sameNames(a.firewall?.rules, b.firewall?.rules)
    && sameNames(a.nat?.source, b.nat?.source) && sameNames(a.nat?.destination, b.nat?.destination) && sameNames(a.nat?.static, b.nat?.static);
}

type Named = readonly { readonly name: string }[];
function sameNames(a: Named = [], b: Named = []): boolean {
  if (a === b) return true;
  if (a.length !== b.length) return false;
  for (let index = 0; index < a.length; index += 1) if (a[index] !== b[index] && a[index]!.name !== b[index]!.name) return false;
  return true;
}

const isEqual = (a: readonly string[], b: readonly string[]): boolean => a.length === b.length && a.every((one, index) => one === b[index]);
const sameKeys = (a: object = {}, b: object = {}): boolean => a === b || isEqual(Object.keys(a), Object.keys(b));
const wireguardNames = (config: Config): string[] => [...Object.keys(config.wireguard ?? {}), ...[...allPeers(config)].map(({ interfaceName, peer }) => peerName(interfaceName, peer))];

function* allNames(config: Config): Generator<{ kind: NameKind; name: string }> {
  for (const name of Object.keys(config.interfaces ?? {})) yield { kind: 'interface', name };
  for (const name of Object.keys(config.wireguard ?? {})) yield { kind: 'interface', name };
  for (const { interfaceName, peer } of allPeers(config)) yield { kind: 'wireguard-peer', name: peerName(interfaceName, peer) };
  for (const { name } of config.firewall?.rules ?? []) yield { kind: 'rule', name };
  for (const { name } of config.nat?.source ?? []) yield { kind: 'nat-source', name };
  for (const { name } of config.nat?.destination ?? []) yield { kind: 'nat-destination', name };
  for (const { name } of config.nat?.static ?? []) yield { kind: 'nat-static', name };
}

function planPorts(topology: Topology, previous: readonly PortPlan[]): PortPlan[] {
  const ports = new Map<string, PortPlan>();
  for (const one of topology.interfaces) {
    if (one.kind !== 'port') continue;
    const device = deviceOf(one);
    let port = ports.get(device.name);
    if (port === undefined) {
      port = { device: device.name, ifindex: device.ifindex, slot: -1, queues: device.queues, untagged: false, vlans: [] };
      ports.set(device.name, port);
    }
    if (one.config.vlan === undefined) port.untagged = true;
    else port.vlans.push(one.config.vlan);
  }
  if (ports.size > SL_PORTS_MAX) throw new ConfigError('SLUICE_INTERFACE_DEVICE', `more than ${SL_PORTS_MAX} devices`, 'use VLANs on fewer devices');
  const taken = new Set<number>();
  for (const { device, slot } of previous) {
    const port = ports.get(device);
    if (port !== undefined) { port.slot = slot; taken.add(slot); }
  }
  let next = 0;
  for (const port of ports.values()) {
    if (port.slot >= 0) continue;
    while (taken.has(next)) next++;
    port.slot = next++;
  }
  return [...ports.values()];
}

function deviceOf(one: TopologyPort): Device {
  if (one.device !== undefined) return one.device;
  throw new ConfigError('SLUICE_INTERFACE_DEVICE', `interface ${quote(one.name)}: there is no device ${quote(one.config.device)}`, 'name a device that is there');
}

/** The netdev that has the interface's addresses. */
function addressDevice(one: TopologyInterface): string {
  if (one.kind !== 'port') return HOST_DEVICE;
  if (one.config.vlan === undefined) return one.config.device;
  return one.vlanDevice?.name ?? vlanDeviceName(one.config.device, one.config.vlan);
}

const ANTI_SPOOFING = { strict: AntiSpoofing.STRICT, loose: AntiSpoofing.LOOSE, off: AntiSpoofing.OFF } as const;

function compileInterfaces({ topology, ids, writer }: CompileContext): void {
  for (const one of topology.interfaces) {
    const { zone, antiSpoofing, mssClamp } = one.config;
    writer.interfaces.push({
      id: ids.id('interface', one.name),
      zone: zoneBit(topology, zone),
      antiSpoofing: ANTI_SPOOFING[antiSpoofing ?? 'strict'],
      mssClampBytes: typeof mssClamp === 'number' ? mssClamp : mssClamp ? 1 : 0,
      ...carrierOf(one),
    });
  }
}

/** What carries its packets, and how large they may be. */
function carrierOf(one: TopologyInterface): Pick<Interface, 'kind' | 'ifindex' | 'kernelIfindex' | 'vlanId' | 'mtuBytes'> {
  if (one.kind === 'wireguard') return { kind: InterfaceKind.WIREGUARD, ifindex: 0, kernelIfindex: 0, vlanId: SL_VLAN_NONE, mtuBytes: tunnelMtu(one.config) };
  const device = deviceOf(one);
  return { kind: InterfaceKind.PORT, ifindex: device.ifindex, kernelIfindex: one.vlanDevice?.ifindex ?? device.ifindex, vlanId: one.config.vlan ?? SL_VLAN_NONE, mtuBytes: one.config.mtu ?? 0 };
}

/** Interfaces' own addresses, then NAT's addresses on connected subnets. */
function compileAddresses(context: CompileContext): AddressPlan[] {
  const { topology, writer } = context;
  const plan: AddressPlan[] = [];
  const slots = slotsOf(context);
  for (const one of topology.interfaces) {
    for (const { prefix, listIndex } of one.addresses) {
      writer.addresses.push({ address: bytesOf(prefix.address), interface: one.index, prefixLength: prefix.length, natSlot: slots.get(prefix.address) ?? SL_NAT_SLOT_NONE, flags: 0 });
      if (listIndex === undefined) continue;
      plan.push({ device: addressDevice(one), address: formatAddress(prefix.address), prefixLength: isIpv4(prefix.address) ? prefix.length - 96 : prefix.length, purpose: 'interface' });
    }
  }
  for (const { address, through } of engineAddresses(context)) {
    writer.addresses.push({ address: bytesOf(address), interface: through.index, prefixLength: 128, natSlot: SL_NAT_SLOT_NONE, flags: SL_LOCAL_ENGINE });
    if (through.kind !== 'port') continue; // in a tunnel nobody asks for neighbours
    plan.push({ device: addressDevice(through), address: formatAddress(address), prefixLength: isIpv4(address) ? 32 : 128, purpose: 'nat' });
  }
  if (writer.addresses.length > SL_LOCAL_ADDRESSES_MAX) {
    throw new ConfigError('SLUICE_LOCAL_ADDRESSES', `${writer.addresses.length} addresses of interfaces and NAT, and ${SL_LOCAL_ADDRESSES_MAX} fit`, 'have the network route large pools to this appliance instead');
  }
  return plan;
}

const ON_LINK = new Uint8Array(16);

function compileRoutes({ config, topology, writer }: CompileContext): Pick<Compiled, 'inactiveRoutes' | 'unencryptedRoutes'> {
  const connected = new Set<string>();
  const onLink = (one: TopologyInterface): Span => writer.nexthops(`on-link ${one.index}`, () => [forward(one, ON_LINK)]);
  for (const one of topology.interfaces) {
    for (const { prefix, linkLocal } of one.addresses) {
      const network = networkOf(prefix);
      if (linkLocal || connected.has(formatPrefix(network))) continue;
      connected.add(formatPrefix(network));
      writer.routes.push({ to: { address: bytesOf(network.address), length: network.length }, nexthops: onLink(one) });
    }
  }
  const interfaceOf = new Map<string, TopologyInterface | undefined>();
  const through = (hop: string): TopologyInterface | undefined => {
    if (!interfaceOf.has(hop)) interfaceOf.set(hop, connectedInterface(topology, plainAddress(hop)));
    return interfaceOf.get(hop);
  };
  const inactiveRoutes: number[] = [];
  const unencryptedRoutes: number[] = [];
  config.routes?.forEach((route, i) => {
    const to = plainPrefix(route.to);
    const key = route.via === undefined ? `${route.blackhole ? 'blackhole' : 'reject'}` : `${route.encrypt ?? ''}${JSON.stringify(route.via)}`;
    const nexthops = writer.nexthops(key, () => (route.encrypt ? encryptedHops(nextHopsOf(route, topology, through), topology) : nextHopsOf(route, topology, through)));
    if (nexthops.count === 0 && !route.encrypt) {
      inactiveRoutes.push(i);
      return;
    }
    if (nexthops.count === 0) unencryptedRoutes.push(i);
    writer.routes.push({ to: { address: bytesOf(to.address), length: to.length }, nexthops: nexthops.count === 0 ? writer.nexthops('unencrypted', () => [UNENCRYPTED]) : nexthops });
  });
  for (const { tunnel, prefix, skipped } of allowedIpRoutes(config, topology)) {
    if (skipped === undefined) writer.routes.push({ to: { address: bytesOf(prefix.address), length: prefix.length }, nexthops: onLink(topology.byName.get(tunnel)!) });
  }
  return { inactiveRoutes, unencryptedRoutes };
}

/** Never dropped from the table: a route that wants encryption must not leave its packets to a less specific one. */
const UNENCRYPTED: Nexthop = { via: ON_LINK, interface: 0, kind: NexthopKind.UNENCRYPTED };

function encryptedHops(hops: readonly Nexthop[], topology: Topology): Nexthop[] {
  return hops.filter((hop) => hop.kind === NexthopKind.FORWARD && topology.interfaces[hop.interface]?.kind === 'wireguard');
}

function nextHopsOf(route: RouteConfig, topology: Topology, through: (hop: string) => TopologyInterface | undefined): Nexthop[] {
  if (route.via === undefined) return [{ via: ON_LINK, interface: 0, kind: route.blackhole ? NexthopKind.BLACKHOLE : NexthopKind.REJECT }];
  if (typeof route.via === 'object' && !Array.isArray(route.via)) {
    const one = topology.byName.get(route.via.interface);
    if (one === undefined) throw new ConfigError('SLUICE_ROUTE_NEXT_HOP', `there is no interface ${quote(route.via.interface)}`, 'name an interface');
    return [forward(one, route.via.address === undefined ? ON_LINK : bytesOf(plainAddress(route.via.address)))];
  }
  return asList<string>(route.via).flatMap((hop) => {
    const one = through(hop);
    return one === undefined ? [] : [forward(one, bytesOf(plainAddress(hop)))];
  });
}

function forward(one: TopologyInterface, via: Uint8Array): Nexthop {
  return { via, interface: one.index, kind: NexthopKind.FORWARD };
}

const ACTIONS = { allow: RuleAction.ALLOW, deny: RuleAction.DENY, reject: RuleAction.REJECT } as const;
const LOGS = { none: 0, start: SL_LOG_START, end: SL_LOG_END, both: SL_LOG_START | SL_LOG_END } as const;

/** `matches`: what check.ts found out about rules; what it did not keep is resolved here. */
function compileRules({ config, objects, topology, ids, writer }: CompileContext, matches: Environment['matches']): void {
  const rules = config.firewall?.rules ?? [];
  if (rules.length > SL_RULES_MAX) throw new ConfigError('SLUICE_CONFIG_TOO_LARGE', `more than ${SL_RULES_MAX} rules`, 'join rules');
  writer.expectRules(rules.length);
  for (const rule of rules) {
    if (rule.disabled) continue;
    if (rule.l7 !== undefined) throw new ConfigError('SLUICE_L7_UNSUPPORTED', `rule ${quote(rule.name)}: l7 cannot be enforced in this version`, 'disable the rule');
    if (writer.ruleAgain(rule, ids)) continue;
    const known = matches.get(rule);
    writer.rule(rule, ids, {
      fromZones: zoneMask(topology, rule.from),
      toZones: zoneMask(topology, rule.to),
      id: ids.id('rule', rule.name),
      action: ACTIONS[rule.action],
      // What a rule stops is recorded unless it says otherwise; what it allows only when it asks for it.
      log: LOGS[rule.log ?? (rule.action === 'allow' ? 'none' : 'start')],
      flags: rule.offload === 'never' ? SL_RULE_NO_OFFLOAD : 0,
      sources: writer.prefixes(known?.sources ?? objects.addressList(rule.source)),
      destinations: writer.prefixes(known?.destinations ?? objects.addressList(rule.destination)),
      services: writer.services(known?.services ?? objects.serviceList(rule.service)),
      sessionsMax: rule.maxSessions ?? 0,
    });
  }
}

function settingsOf(config: Config): Settings {
  return {
    tcpSynS: timerSeconds(config, 'tcpSyn'),
    tcpEstablishedS: timerSeconds(config, 'tcpEstablished'),
    tcpTransitoryS: timerSeconds(config, 'tcpTransitory'),
    tcpTimeWaitS: timerSeconds(config, 'tcpTimeWait'),
    tcpResetS: timerSeconds(config, 'tcpReset'),
    udpS: timerSeconds(config, 'udp'),
    udpNewS: timerSeconds(config, 'udpNew'),
    icmpS: timerSeconds(config, 'icmp'),
    otherS: timerSeconds(config, 'other'),
    fragmentS: timerSeconds(config, 'fragment'),
    natPortReuseS: timerSeconds(config, 'natPortReuse'),
    icmpErrorsPerSecond: config.limits?.icmpErrorsPerSecond ?? LIMITS.icmpErrorsPerSecond,
    sessionsPerSourceMax: config.limits?.sessionsPerSource ?? LIMITS.sessionsPerSource,
    fragmentsMax: config.limits?.fragments ?? LIMITS.fragments,
    defaultAction: ACTIONS[config.firewall?.default ?? 'deny'],
    defaultLog: LOGS[config.firewall?.log ?? 'start'],
  };
}

