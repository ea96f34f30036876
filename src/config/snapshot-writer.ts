// The snapshot's flat buffer: collects entries section by section, shares equal runs, and lays them out for the engine.
//
// Called by compile.ts and compile-nat.ts. The layout is native/abi/dataplane.h's; sections start at multiples of 8.
import {
  INTERFACE_ADDRESS_BYTES, INTERFACE_BYTES, NAT_ADDRESS_BYTES, NAT_RULE_BYTES, NEXTHOP_BYTES, PREFIX_BYTES, ROUTE_BYTES, RULE_BYTES, SERVICE_BYTES,
  SL_ABI_VERSION, SL_SNAPSHOT_MAGIC, SNAPSHOT_HEADER_BYTES,
  writeInterface, writeInterfaceAddress, writeNatAddress, writeNatRule, writeNexthop, writePrefix, writeRoute, writeRule, writeService, writeSnapshotHeader,
  type Interface, type InterfaceAddress, type NatAddress, type NatRule, type Nexthop, type Route, type Rule, type Section, type Settings, type Span,
} from '../engine/abi.generated.js';
import { bytesOf } from '../lib/address.js';
import type { AddressSet, ServiceSet } from './objects.js';

const NOTHING: Span = { first: 0, count: 0 };

export class SnapshotWriter {
  readonly interfaces: Interface[] = [];
  readonly addresses: InterfaceAddress[] = [];
  readonly natRules: NatRule[] = [];
  readonly routes: Route[] = [];
  readonly #prefixes = new EntryBytes(PREFIX_BYTES);
  readonly #services = new EntryBytes(SERVICE_BYTES);
  readonly #rules = new EntryBytes(RULE_BYTES);
  readonly #natAddresses: NatAddress[] = [];
  readonly #nexthops: Nexthop[] = [];
  readonly #prefixSpans = new Map<AddressSet, Span>();
  readonly #serviceSpans = new Map<ServiceSet, Span>();
  readonly #keyedSpans = new Map<string, Span>();

  /** An empty span means any to the engine, so only `any` may give one. */
  prefixes(set: AddressSet): Span {
    if (set.any) return NOTHING;
    if (set.prefixes.length === 0) throw new Error('a list of addresses without an address would match any');
    let span = this.#prefixSpans.get(set);
    if (span === undefined) {
      span = { first: this.#prefixes.count, count: set.prefixes.length };
      this.#prefixes.append(remembered(prefixBytes, set, () => encode(set.prefixes, PREFIX_BYTES, (view, offset, one) => writePrefix(view, offset, { address: bytesOf(one.address), length: one.length }))));
      this.#prefixSpans.set(set, span);
    }
    return span;
  }

  services(set: ServiceSet): Span {
    if (set.any) return NOTHING;
    if (set.services.length === 0) throw new Error('a list of services without a service would match any');
    let span = this.#serviceSpans.get(set);
    if (span === undefined) {
      span = { first: this.#services.count, count: set.services.length };
      this.#services.append(remembered(serviceBytes, set, () => encode(set.services, SERVICE_BYTES, writeService)));
      this.#serviceSpans.set(set, span);
    }
    return span;
  }

  /** Written at once: `rule` may be used again for the next one. */
  rule(rule: Rule): void {
    const offset = this.#rules.grow(1);
    writeRule(this.#rules.view, offset, rule);
  }

  get ruleCount(): number { return this.#rules.count; }

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
      prefixes: copy(this.#prefixes),
      services: copy(this.#services),
      rules: copy(this.#rules),
      natRules: lay(this.natRules, NAT_RULE_BYTES, writeNatRule),
      natAddresses: lay(this.#natAddresses, NAT_ADDRESS_BYTES, writeNatAddress),
      nexthops: lay(this.#nexthops, NEXTHOP_BYTES, writeNexthop),
      routes: lay(this.routes, ROUTE_BYTES, writeRoute),
    };
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

  constructor(private readonly entryBytes: number) {}

  get bytes(): Uint8Array { return new Uint8Array(this.view.buffer, 0, this.count * this.entryBytes); }

  append(entries: Uint8Array): void {
    const offset = this.grow(entries.length / this.entryBytes);
    new Uint8Array(this.view.buffer).set(entries, offset);
  }

  /** Room for more entries; gives the offset of the first. */
  grow(count: number): number {
    const offset = this.count * this.entryBytes;
    this.count += count;
    const needed = this.count * this.entryBytes;
    if (needed > this.view.byteLength) {
      const larger = new Uint8Array(Math.max(needed, 2 * this.view.byteLength));
      larger.set(new Uint8Array(this.view.buffer));
      this.view = new DataView(larger.buffer);
    }
    return offset;
  }
}

// A set's bytes are the same in every snapshot: only where they stand differs.
const prefixBytes = new WeakMap<AddressSet, Uint8Array>();
const serviceBytes = new WeakMap<ServiceSet, Uint8Array>();

function encode<T>(entries: readonly T[], entryBytes: number, write: (view: DataView, offset: number, entry: T) => void): Uint8Array {
  const bytes = new Uint8Array(entries.length * entryBytes);
  const view = new DataView(bytes.buffer);
  entries.forEach((entry, index) => write(view, index * entryBytes, entry));
  return bytes;
}

function remembered<K extends object>(memory: WeakMap<K, Uint8Array>, key: K, make: () => Uint8Array): Uint8Array {
  let bytes = memory.get(key);
  if (bytes === undefined) {
    bytes = make();
    memory.set(key, bytes);
  }
  return bytes;
}
