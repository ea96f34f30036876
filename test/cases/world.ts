// One engine in memory for one case: the configuration compiled against made-up devices, known neighbours, a clock of ours.
//
// Called by cases.test.ts. Nothing here touches the machine: the addon's offline mode has no netdevs.
import { readFileSync } from 'node:fs';
import { parse, stringify } from 'yaml';
import { checkText } from '../../src/config/check.js';
import { compileSnapshot, type PortPlan } from '../../src/config/compile.js';
import type { Device, Facts } from '../../src/config/facts.js';
import { loadAddon, readCounters, type Addon, type InjectResult } from '../../src/engine/binding.js';
import { COUNTERS, DROP_REASONS, FLOW_RECORD_BYTES, readFlowRecord, SESSION_STATES, type FlowRecord } from '../../src/engine/abi.generated.js';
import type { Names } from '../../src/engine/records.js';
import { bytesOf, formatAddress, parseAddress } from '../../src/lib/address.js';
import { macOf } from './packet-language.js';

/** A configuration in the product's form, and beside it `neighbours`: interface → addresses whose link address is known. */
export type CaseConfig = Record<string, unknown>;

const addon: Addon = loadAddon(process.env.SLUICE_ADDON || undefined);
const directory = new URL('.', import.meta.url);

export function namedConfig(name: string): CaseConfig {
  return parse(readFileSync(new URL(`configs/${name}.yaml`, directory), 'utf8')) as CaseConfig;
}

/** Mappings are merged, anything else is replaced, null takes a key away. */
export function merge(base: unknown, patch: unknown): unknown {
  if (patch === null || typeof patch !== 'object' || Array.isArray(patch) || base === null || typeof base !== 'object' || Array.isArray(base)) return patch;
  const out: Record<string, unknown> = { ...(base as Record<string, unknown>) };
  for (const [key, value] of Object.entries(patch)) {
    if (value === null) delete out[key];
    else out[key] = key in out ? merge(out[key], value) : value;
  }
  return out;
}

function factsOf(config: CaseConfig): Facts {
  const names = [...new Set(Object.values(config.interfaces as Record<string, { device: string }>).map((one) => one.device))];
  return {
    devices: names.map((name, i): Device => ({ name, ifindex: i + 2, mtu: 1500, mac: `02:00:00:00:00:0${i + 1}`, driver: 'veth', up: true, queues: 1, kind: 'veth', addresses: [] })),
    localPortRange: [32768, 60999],
  };
}

export class World {
  readonly interfaces: string[] = [];
  #config: CaseConfig = {};
  #generation = 0n;
  #ports: PortPlan[] = [];
  /** As records name things. */
  names: Names = { rule: () => null, natRule: () => null, interfaceById: () => null, interfaceAt: () => null, zone: () => null, zoneOfInterface: () => null };
  nowNs = 1_000_000_000_000n;

  constructor(config: CaseConfig, sessionsMax: number) {
    addon.open({ workers: 1, sessionsMax, offline: true } as Parameters<Addon['open']>[0]);
    try {
      this.apply(config);
    } catch (error) {
      this.close();
      throw error;
    }
  }

  get config(): CaseConfig { return this.#config; }
  close(): void { addon.close(); }

  apply(config: CaseConfig): void {
    const { neighbours, ...product } = config;
    const facts = factsOf(product);
    const checked = checkText(stringify(product), 'case.yaml', facts);
    if (checked.config === undefined) throw new Error(`the case's configuration is refused:\n${checked.problems.map((p) => `${p.line}: ${p.path}: ${p.message}; ${p.remedy}`).join('\n')}\n${stringify(product)}`);
    const compiled = compileSnapshot(checked.config, facts, ++this.#generation, this.#ports);
    this.#ports = compiled.ports;
    addon.apply(compiled.snapshot);
    this.#config = config;
    const { ids } = compiled.names;
    const named = (id: number): string | null => ids.get(id)?.name ?? null;
    const zones = product.interfaces as Record<string, { zone: string }>;
    this.names = { ...this.names, rule: named, natRule: named, interfaceById: named, zoneOfInterface: (id) => zones[named(id) ?? '']?.zone ?? null };
    this.interfaces.splice(0, this.interfaces.length, ...compiled.names.interfaces);
    for (const [name, addresses] of Object.entries((neighbours ?? {}) as Record<string, string[]>))
      for (const address of addresses) this.neighbour(name, address, true);
  }

  /** Last byte of the link address of an interface: the VLANs of a device share it. */
  station(name: string): number {
    const devices = this.#config.interfaces as Record<string, { device: string }>;
    return this.interfaces.findIndex((other) => devices[other]?.device === devices[name]?.device) + 1;
  }

  index(name: string): number {
    const index = this.interfaces.indexOf(name);
    if (index < 0) throw new Error(`no interface ${name}`);
    return index;
  }

  /** The interface that takes a port's frames of a tag; without one, the port's own. */
  receiver(name: string, vlan: number | undefined): number {
    const interfaces = this.#config.interfaces as Record<string, { device: string; vlan?: number }>;
    const tagged = this.interfaces.find((one) => vlan !== undefined && interfaces[one]?.vlan === vlan && interfaces[one].device === interfaces[name]?.device);
    return this.index(tagged ?? name);
  }

  neighbour(name: string, address: string, known: boolean): void {
    const call = addon.setNeighbour as (i: number, a: Uint8Array, mac: Uint8Array | null) => void;
    call(this.index(name), bytesOf(parseAddress(address)), known ? macOf(address) : null);
  }

  /** Frames of a tagged interface enter by its port. */
  inject(interfaceName: string, frame: Uint8Array): InjectResult { return addon.inject(this.index(interfaceName), frame, this.nowNs); }
  advance(): InjectResult { return addon.advance(this.nowNs) as unknown as InjectResult; }

  /** Counters by name, drops as drop/REASON, gauges as gauge/NAME. */
  counter(name: string): number {
    const all = readCounters(addon.counters());
    const [kind, rest] = name.split('/');
    if (kind === 'drop' && rest !== undefined) return all.drops[entry(DROP_REASONS, rest)] ?? NaN;
    if (kind === 'gauge' && rest !== undefined) return (all.gauges as Record<string, number>)[rest] ?? NaN;
    return all.counters[entry(COUNTERS, name)] ?? NaN;
  }

  sessions(): Record<string, string | number>[] {
    const into = new Uint8Array(FLOW_RECORD_BYTES * 4096);
    const { count } = addon.sessions(0, into);
    const view = new DataView(into.buffer);
    return Array.from({ length: count }, (_, i) => describe(readFlowRecord(view, i * FLOW_RECORD_BYTES)));
  }

  kill(id: bigint): boolean { return addon.killSession(id); }
  sessionIds(): bigint[] {
    const into = new Uint8Array(FLOW_RECORD_BYTES * 4096);
    const { count } = addon.sessions(0, into);
    return Array.from({ length: count }, (_, i) => readFlowRecord(new DataView(into.buffer), i * FLOW_RECORD_BYTES).sessionId);
  }
}

function entry(list: readonly { name: string; value: number }[], name: string): number {
  const found = list.find((one) => one.name === name);
  if (found === undefined) throw new Error(`no counter or reason is called ${name}`);
  return found.value;
}

function describe(r: FlowRecord): Record<string, string | number> {
  return {
    src: formatAddress(r.src), dst: formatAddress(r.dst), natSrc: formatAddress(r.natSrc), natDst: formatAddress(r.natDst),
    sport: r.srcPort, dport: r.dstPort, natSport: r.natSrcPort, natDport: r.natDstPort, protocol: r.protocol,
    state: SESSION_STATES[r.state]?.name ?? '', expires: r.expiresS, packets: `${r.packets[0]}/${r.packets[1]}`, bytes: `${r.bytes[0]}/${r.bytes[1]}`,
  };
}
