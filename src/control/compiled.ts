// From the running configuration and the machine's facts to what the engine takes and what people see of it: one step of control,
// and of `sluice simulate --config`. Who: src/control/control.ts, src/cli/commands/simulate.ts. Pure but for reading the file.
import { checkFile } from '../config/check.js';
import { compileSnapshot, type Compiled as CompiledConfig, type PortPlan as ConfiguredPort } from '../config/compile.js';
import { engineOptions } from '../config/defaults.js';
import { findVlanDevice, HOST_DEVICE, vlanDeviceName, type Facts } from '../config/facts.js';
import type { NameKind, Names as ConfigNames } from '../config/names.js';
import { ConfigError, type Problem } from '../config/problem.js';
import { asList } from '../config/schema-parts.js';
import type { Config } from '../config/schema.js';
import type { NodesConfig } from '../config/schema-nodes.js';
import { PrefixMap } from '../config/prefix-map.js';
import { allowedPrefixes, listenPort, tunnelMtu } from '../config/wireguard.js';
import { addressOfBytes } from '../lib/address.js';
import type { ConfigurePlan, WireguardPlan } from '../engine/last-applied.js';
import type { Names } from '../engine/records.js';
import type { Filled } from '../nodes/learnt.js';

/** `device` of a tunnel: the one on which its addresses stand. */
export interface InterfaceInfo { name: string; kind: 'port' | 'wireguard'; device: string; zone: string; vlanId: number | null; addresses: string[] }
/** Of a WireGuard interface, what the engine's process does not know or need not say. */
export interface TunnelInfo { name: string; zone: string; addresses: string[]; listen: number; mtuBytes: number; peers: ReadonlyMap<string, TunnelPeerInfo> }
/** `publicKey`: null while the node that it belongs to has not told it. */
export interface TunnelPeerInfo { node: string | null; publicKey: string | null; nextPublicKey: string | null; presharedKey: boolean; endpoint: string | null; allowedIPs: string[]; keepalive: number | null }
export interface RuleInfo { id: number; kind: 'firewall' | 'nat-source' | 'nat-destination' | 'nat-static'; name: string; action: string }

export interface Compiled {
  hostname: string | null;
  snapshot: Uint8Array;
  plan: ConfigurePlan & { wireguards: WireguardPlan[] };
  names: Names;
  interfaces: InterfaceInfo[];
  readonly tunnels: TunnelInfo[];   // made when somebody looks
  readonly rules: RuleInfo[];   // made when somebody looks
  ruleCount: number;
  warnings: string[];
  observability?: Config['observability'];
  nodes?: NodesConfig;
  /** The sequence of each node's record that counted, and what of it did not. */
  nodeSequences: Filled['sequences'];
  nodeNotes: Filled['notes'];
}

export interface CompileResult { problems: Problem[]; compiled?: Compiled }

/** `slots`: what the engine has attached already; devices keep theirs. */
export type Compile = (facts: Facts, generation: number, slots: readonly AttachedSlot[]) => CompileResult;
export interface AttachedSlot { name: string; ifindex: number; slot: number; queues: number }

/** Checks and compiles a file as it stands at the time of the call. */
export function compileFile(file: string, facts: Facts, generation: number, slots: readonly AttachedSlot[]): CompileResult {
  const { problems, config } = checkFile(file, facts);
  return config ? compileChecked(config, problems, file, facts, generation, slots) : { problems };
}

/** `problems`: what the check found; `file`: by what name problems speak of the configuration; `filled`: how nodes' records were put into it. */
export function compileChecked(config: Config, problems: Problem[], file: string, facts: Facts, generation: number, slots: readonly AttachedSlot[], filled?: Filled): CompileResult {
  try {
    const previous = slots.map((one): ConfiguredPort => ({ device: one.name, ifindex: one.ifindex, slot: one.slot, queues: one.queues, untagged: false, vlans: [] }));
    return { problems, compiled: describe(config, facts, compileSnapshot(config, facts, generation, previous), filled) };
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    // It passed check, but not with what the machine has at this moment.
    return { problems: [...problems, { severity: 'error', code: error.code, file, line: 1, column: 1, path: '', message: error.message, remedy: error.remedy }] };
  }
}

const NO_SEQUENCES: Filled['sequences'] = new Map();
const NO_NOTES: Filled['notes'] = new Map();

function describe(config: Config, facts: Facts, result: CompiledConfig, filled: Filled | undefined): Compiled {
  let rules: RuleInfo[] | undefined;
  let tunnels: TunnelInfo[] | undefined;
  return {
    hostname: config.hostname ?? null, snapshot: result.snapshot, names: namesOf(result.names, config), observability: config.observability,
    ...(config.nodes === undefined ? {} : { nodes: config.nodes }), nodeSequences: filled?.sequences ?? NO_SEQUENCES, nodeNotes: filled?.notes ?? NO_NOTES,
    plan: planOf(config, facts, result),
    interfaces: result.names.interfaces.map((name) => describeInterface(name, config, facts)),
    get tunnels() { return (tunnels ??= describeTunnels(config)); },
    get rules() { return (rules ??= describeRules(config, result.names)); },
    ruleCount: countActive(config.firewall?.rules) + countActive(config.nat?.destination) + countActive(config.nat?.static) + countActive(config.nat?.source),
    warnings: [
      ...result.inactiveRoutes.map((index) => `route to ${config.routes?.[index]?.to ?? '?'} is inactive: no connected subnet holds its next hop now`),
      ...result.unencryptedRoutes.map((index) => `route to ${config.routes?.[index]?.to ?? '?'} drops: it wants encryption, and no WireGuard interface has its next hop now`),
    ],
  };
}

// Kinds whose frames may come from programs on this machine, with layer-4 checksums that nobody completed.
const PARTIAL_CHECKSUM_DRIVERS = new Set(['veth', 'tun', 'tap', 'bridge', 'virtio_net', 'macvlan', 'ipvlan']);

function planOf(config: Config, facts: Facts, { ports, addresses, wireguards }: CompiledConfig): Compiled['plan'] {
  const { mode } = engineOptions(config);
  return {
    ports: ports.map(({ device, ifindex, slot, queues }) => {
      const { kind, driver } = facts.devices.find((one) => one.name === device) ?? { kind: '', driver: '' };
      return {
        name: device, ifindex, slot, queues, mode: mode === 'generic' ? 'generic' : 'native', allowGeneric: mode !== 'native',
        partialChecksums: PARTIAL_CHECKSUM_DRIVERS.has(kind) || PARTIAL_CHECKSUM_DRIVERS.has(driver),
      };
    }),
    vlans: ports.flatMap((port) => port.vlans.map((vlanId) => {
      const parent = facts.devices.find((one) => one.name === port.device);
      const existing = parent && findVlanDevice(facts, parent, vlanId);
      return { device: existing?.name ?? vlanDeviceName(port.device, vlanId), parent: port.device, vlanId };
    })),
    addresses: addresses.map(({ device, address, prefixLength, purpose }) => ({ device, address, prefixLength, purpose })),
    wireguards,
  };
}

function namesOf({ ids, zones, interfaces }: ConfigNames, config: Config): Names {
  const zoneOf = (id: number): string | null => {
    const found = ids.get(id);
    return found?.kind === 'interface' ? (config.interfaces?.[found.name] ?? config.wireguard?.[found.name])?.zone ?? null : null;
  };
  const named = (id: number, ...kinds: NameKind[]): string | null => {
    if (id === 0) return null;
    const found = ids.get(id);
    return found && kinds.includes(found.kind) ? found.name : `#${id.toString(16).padStart(8, '0')}`; // of a rule since removed
  };
  return {
    rule: (id) => named(id, 'rule'),
    natRule: (id) => named(id, 'nat-source', 'nat-destination', 'nat-static'),
    interfaceById: (id) => named(id, 'interface'),
    interfaceAt: (index) => interfaces[index] ?? null,
    zone: (index) => zones[index] ?? null,
    zoneOfInterface: zoneOf,
    ...(config.wireguard === undefined ? {} : { peerOf: peersOf(ids, config) }),
  };
}

/** Who is behind an address: the longest of the allowed IPs that hold it. A tunnel's table is made when the first record asks. */
function peersOf(ids: ConfigNames['ids'], config: Config): NonNullable<Names['peerOf']> {
  const tunnels = new Map<number, PrefixMap<string> | undefined>();
  for (const [id, { kind, name }] of ids) if (kind === 'interface' && config.wireguard?.[name] !== undefined) tunnels.set(id, undefined);
  return (id, address) => {
    if (!tunnels.has(id)) return undefined;
    let allowed = tunnels.get(id);
    if (allowed === undefined) {
      tunnels.set(id, allowed = new PrefixMap());
      for (const peer of config.wireguard![ids.get(id)!.name]!.peers ?? []) for (const prefix of allowedPrefixes(peer)) allowed.add(prefix, peer.name);
    }
    return allowed.longest({ address: addressOfBytes(address), length: 128 })?.value ?? null;
  };
}

function describeInterface(name: string, config: Config, facts: Facts): InterfaceInfo {
  const tunnel = config.wireguard?.[name];
  if (tunnel !== undefined) return { name, kind: 'wireguard', device: HOST_DEVICE, zone: tunnel.zone, vlanId: null, addresses: [...asList<string>(tunnel.addresses)] };
  const one = config.interfaces![name]!;
  const parent = facts.devices.find((device) => device.name === one.device);
  const device = parent && one.vlan !== undefined ? findVlanDevice(facts, parent, one.vlan) : parent;
  const own = device?.addresses.map(({ address, prefixLength }) => `${address}/${prefixLength}`) ?? [];
  return { name, kind: 'port', device: one.device, zone: one.zone, vlanId: one.vlan ?? null, addresses: one.addresses === undefined ? own : [one.addresses].flat() };
}

function describeTunnels(config: Config): TunnelInfo[] {
  return Object.entries(config.wireguard ?? {}).map(([name, one]) => ({
    name, zone: one.zone, addresses: [...asList<string>(one.addresses)], listen: listenPort(one), mtuBytes: tunnelMtu(one),
    peers: new Map((one.peers ?? []).map((peer) => [peer.name, { node: peer.node ?? null, publicKey: peer.publicKey ?? null, nextPublicKey: peer.nextPublicKey ?? null, presharedKey: peer.presharedKeyFile !== undefined, endpoint: peer.endpoint ?? null, allowedIPs: [...asList<string>(peer.allowedIPs)], keepalive: peer.keepalive ? peer.keepalive : null }])),
  }));
}

function countActive(list: readonly { disabled?: boolean }[] | undefined): number {
  return (list ?? []).reduce((count, one) => (one.disabled ? count : count + 1), 0);
}

function describeRules(config: Config, names: ConfigNames): RuleInfo[] {
  const idOf = new Map([...names.ids].map(([id, { kind, name }]) => [`${kind}:${name}`, id]));
  const rule = (kind: RuleInfo['kind'], nameKind: NameKind, name: string, action: string): RuleInfo => ({ id: idOf.get(`${nameKind}:${name}`) ?? 0, kind, name, action });
  const active = <T extends { disabled?: boolean }>(list: readonly T[] | undefined): T[] => (list ?? []).filter((one) => !one.disabled);
  return [
    ...active(config.firewall?.rules).map((one) => rule('firewall', 'rule', one.name, one.action)),
    ...active(config.nat?.destination).map((one) => rule('nat-destination', 'nat-destination', one.name, 'translate')),
    ...active(config.nat?.static).map((one) => rule('nat-static', 'nat-static', one.name, 'translate')),
    ...active(config.nat?.source).map((one) => rule('nat-source', 'nat-source', one.name, one.translate === 'none' ? 'exempt' : 'translate')),
  ];
}
