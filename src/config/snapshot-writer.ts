// The snapshot's flat buffer: collects entries section by section, shares equal runs, and lays them out for the engine.
//
// Called by compile.ts and compile-nat.ts. The layout is native/abi/dataplane.h's; sections start at multiples of 8.
import {
  INTERFACE_ADDRESS_BYTES, INTERFACE_BYTES, NAT_ADDRESS_BYTES, NAT_RULE_BYTES, NEXTHOP_BYTES, PREFIX_BYTES, ROUTE_BYTES, RULE_BYTES, SERVICE_BYTES,
  SL_ABI_VERSION, SL_SNAPSHOT_MAGIC, SNAPSHOT_HEADER_BYTES, WIREGUARD_BYTES, WIREGUARD_PEER_BYTES,
  writeInterface, writeInterfaceAddress, writeNatAddress, writeNatRule, writeNexthop, writePrefix, writeRoute, writeRule, writeService, writeSnapshotHeader, writeWireguard, writeWireguardPeer,
  type Interface, type InterfaceAddress, type NatAddress, type NatRule, type Nexthop, type Route, type Rule, type Section, type Settings, type Span, type Wireguard, type WireguardPeer,
} from '../engine/abi.generated.js';
import { bytesOf } from '../lib/address.js';
import type { AddressSet, ServiceSet } from './objects.js';
import type { FirewallRule } from './schema.js';

const NOTHING: Span = { first: 0, count: 0 };
/** Rules' entries share buffers of so many: one of their own would cost each several times its bytes. */
const RULES_A_BUFFER = 1024;
const ADDRESS = new Uint8Array(16);

/** Prefixes and services of all snapshots of one environment: what a rule points to keeps its place from one snapshot to the next. */
export class SnapshotPools {
  readonly prefixes = new EntryBytes(PREFIX_BYTES);
  readonly services = new EntryBytes(SERVICE_BYTES);
  readonly #prefixSpans = new Map<AddressSet, Span>();
  readonly #serviceSpans = new Map<ServiceSet, Span>();
  /** A rule's entry, for ids of one table. */
  readonly rules = new WeakMap<FirewallRule, { ids: object; bytes: Uint8Array }>();
  #rulesBuffer = new DataView(new ArrayBuffer(RULES_A_BUFFER * RULE_BYTES));
  #rulesUsed = 0;

  ruleEntry(rule: Rule): Uint8Array {
    if (this.#rulesUsed === RULES_A_BUFFER) {
      this.#rulesBuffer = new DataView(new ArrayBuffer(RULES_A_BUFFER * RULE_BYTES));
      this.#rulesUsed = 0;
    }
    const offset = this.#rulesUsed++ * RULE_BYTES;
    writeRule(this.#rulesBuffer, offset, rule);
    return new Uint8Array(this.#rulesBuffer.buffer, offset, RULE_BYTES);
  }

  /** Entries that one snapshot needed when the pools were new. */
  neededFirst = 0;

  get size(): number { return this.prefixes.count + this.services.count; }
  /** More than half of it may be of rules that are gone. */
  get isStale(): boolean { return this.neededFirst > 0 && this.size > 2 * this.neededFirst + 65_536; }

  /** An empty span means any to the engine, so only `any` may give one. */
  prefixSpan(set: AddressSet): Span {
    if (set.any) return NOTHING;
    if (set.prefixes.length === 0) throw new Error('a list of addresses without an address would match any');
    let span = this.#prefixSpans.get(set);
    if (span === undefined) {
      span = { first: this.prefixes.count, count: set.prefixes.length };
      let offset = this.prefixes.grow(set.prefixes.length);
      for (const { address, length } of set.prefixes) {
        writePrefix(this.prefixes.view, offset, { address: bytesOf(address, ADDRESS), length });
        offset += PREFIX_BYTES;
      }
      this.#prefixSpans.set(set, span);
    }
    return span;
  }

  serviceSpan(set: ServiceSet): Span {
    if (set.any) return NOTHING;
    if (set.services.length === 0) throw new Error('a list of services without a service would match any');
    let span = this.#serviceSpans.get(set);
    if (span === undefined) {
      span = { first: this.services.count, count: set.services.length };
      let offset = this.services.grow(set.services.length);
      for (const one of set.services) {
        writeService(this.services.view, offset, one);
        offset += SERVICE_BYTES;
      }
      this.#serviceSpans.set(set, span);
    }
    return span;
  }
}

export class SnapshotWriter {
  readonly interfaces: Interface[] = [];
  readonly addresses: InterfaceAddress[] = [];
  readonly natRules: NatRule[] = [];
  readonly routes: Route[] = [];
  readonly wireguards: Wireguard[] = [];
  readonly wireguardPeers: WireguardPeer[] = [];
  readonly #rules = new EntryBytes(RULE_BYTES);
  readonly #natAddresses: NatAddress[] = [];
  readonly #nexthops: Nexthop[] = [];
  readonly #keyedSpans = new Map<string, Span>();

  constructor(private readonly pools: SnapshotPools) {}

  prefixes(set: AddressSet): Span { return this.pools.prefixSpan(set); }
  services(set: ServiceSet): Span { return this.pools.serviceSpan(set); }

  expectRules(count: number): void { this.#rules.reserve(count); }

  /** The entry of a rule as it was written before; false when it was not. */
  ruleAgain(rule: FirewallRule, ids: object): boolean {
    const known = this.pools.rules.get(rule);
    if (known?.ids !== ids) return false;
    this.#rules.append(known.bytes);
    return true;
  }

  rule(rule: FirewallRule, ids: object, entry: Rule): void {
    const bytes = this.pools.ruleEntry(entry);
    this.pools.rules.set(rule, { ids, bytes });
    this.#rules.append(bytes);
  }

  /** `key` says what the entries stand for; equal keys share one run. */
  natAddresses(key: string, make: () => NatAddress[]): Span {
    return this.#keyed(`pool ${key}`, this.#natAddresses, make);
  }

  nexthops(key: string, make: () => Nexthop[]): Span {
    return this.#keyed(`hops ${key}`, this.#nexthops, make);
  }

  get natAddressCount(): number { return this.#natAddresses.length; }

  #keyed<T>(key: string, entries: T[], make: () => T[]): Span {
    let span = this.#keyedSpans.get(key);
    if (span === undefined) {
      const made = make();
      span = { first: entries.length, count: made.length };
      for (const one of made) entries.push(one);
      this.#keyedSpans.set(key, span);
    }
    return span;
  }

  finish(settings: Settings, generation: bigint): Uint8Array {
    let bytes = SNAPSHOT_HEADER_BYTES;
    const writes: ((view: DataView) => void)[] = [];
    const lay = <T>(entries: readonly T[], entryBytes: number, write: (view: DataView, offset: number, value: T) => void): Section => {
      const offset = bytes = Math.ceil(bytes / 8) * 8;
      bytes += entries.length * entryBytes;
      writes.push((view) => entries.forEach((entry, i) => write(view, offset + i * entryBytes, entry)));
      return { offset, count: entries.length };
    };
    const copy = (entries: EntryBytes): Section => {
      const offset = bytes = Math.ceil(bytes / 8) * 8;
      bytes += entries.bytes.length;
      writes.push((view) => new Uint8Array(view.buffer).set(entries.bytes, offset));
      return { offset, count: entries.count };
    };
    const sections = {
      interfaces: lay(this.interfaces, INTERFACE_BYTES, writeInterface),
      addresses: lay(this.addresses, INTERFACE_ADDRESS_BYTES, writeInterfaceAddress),
      prefixes: copy(this.pools.prefixes),
      services: copy(this.pools.services),
      rules: copy(this.#rules),
      natRules: lay(this.natRules, NAT_RULE_BYTES, writeNatRule),
      natAddresses: lay(this.#natAddresses, NAT_ADDRESS_BYTES, writeNatAddress),
      nexthops: lay(this.#nexthops, NEXTHOP_BYTES, writeNexthop),
      routes: lay(this.routes, ROUTE_BYTES, writeRoute),
      wireguards: lay(this.wireguards, WIREGUARD_BYTES, writeWireguard),
      wireguardPeers: lay(this.wireguardPeers, WIREGUARD_PEER_BYTES, writeWireguardPeer),
    };
    if (this.pools.neededFirst === 0) this.pools.neededFirst = Math.max(1, this.pools.size);
    const snapshot = new Uint8Array(bytes);
    const view = new DataView(snapshot.buffer);
    writeSnapshotHeader(view, 0, { magic: SL_SNAPSHOT_MAGIC, abiVersion: SL_ABI_VERSION, bytes, generation, settings, ...sections });
    for (const write of writes) write(view);
    return snapshot;
  }
}

/** Entries of one size in bytes that grow. */
class EntryBytes {
  view = new DataView(new ArrayBuffer(16 * 1024));
  count = 0;
  #all = new Uint8Array(this.view.buffer);

  constructor(private readonly entryBytes: number) {}

  get bytes(): Uint8Array { return this.#all.subarray(0, this.count * this.entryBytes); }

  append(entries: Uint8Array): void {
    const offset = this.grow(entries.length / this.entryBytes);
    this.#all.set(entries, offset);
  }

  /** Room for more entries; gives the offset of the first. */
  grow(count: number): number {
    const offset = this.count * this.entryBytes;
    this.count += count;
    const needed = this.count * this.entryBytes;
    if (needed > this.view.byteLength) this.#enlarge(Math.max(needed, 2 * this.view.byteLength));
    return offset;
  }

  /** Room for so many in all. */
  reserve(count: number): void {
    if (count * this.entryBytes > this.view.byteLength) this.#enlarge(count * this.entryBytes);
  }

  #enlarge(bytes: number): void {
    const larger = new Uint8Array(bytes);
    larger.set(this.#all);
    this.#all = larger;
    this.view = new DataView(larger.buffer);
  }
}

