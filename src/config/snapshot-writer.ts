// The snapshot's flat buffer: collects entries section by section, shares equal runs, and lays them out for the engine.
//
// Called by compile.ts and compile-nat.ts. The layout is native/abi/dataplane.h's; sections start at multiples of 8.
import {
  INTERFACE_ADDRESS_BYTES, INTERFACE_BYTES, NAT_ADDRESS_BYTES, NAT_RULE_BYTES, NEXTHOP_BYTES, PREFIX_BYTES, ROUTE_BYTES, RULE_BYTES, SERVICE_BYTES,
  SL_ABI_VERSION, SL_SNAPSHOT_MAGIC, SNAPSHOT_HEADER_BYTES,
  writeInterface, writeInterfaceAddress, writeNatAddress, writeNatRule, writeNexthop, writePrefix, writeRoute, writeRule, writeService, writeSnapshotHeader,
  type Interface, type InterfaceAddress, type NatAddress, type NatRule, type Nexthop, type Prefix as PrefixEntry, type Route, type Rule, type Section, type Service as ServiceEntry, type Settings, type Span,
} from '../engine/abi.generated.js';
import { bytesOf } from '../lib/address.js';
import type { AddressSet, ServiceSet } from './objects.js';

const NOTHING: Span = { first: 0, count: 0 };

export class SnapshotWriter {
  readonly interfaces: Interface[] = [];
  readonly addresses: InterfaceAddress[] = [];
  readonly rules: Rule[] = [];
  readonly natRules: NatRule[] = [];
  readonly routes: Route[] = [];
  readonly #prefixes: PrefixEntry[] = [];
  readonly #services: ServiceEntry[] = [];
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
      span = { first: this.#prefixes.length, count: set.prefixes.length };
      for (const { address, length } of set.prefixes) this.#prefixes.push({ address: bytesOf(address), length });
      this.#prefixSpans.set(set, span);
    }
    return span;
  }

  services(set: ServiceSet): Span {
    if (set.any) return NOTHING;
    if (set.services.length === 0) throw new Error('a list of services without a service would match any');
    let span = this.#serviceSpans.get(set);
    if (span === undefined) {
      span = { first: this.#services.length, count: set.services.length };
      this.#services.push(...set.services);
      this.#serviceSpans.set(set, span);
    }
    return span;
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
    const sections = {
      interfaces: lay(this.interfaces, INTERFACE_BYTES, writeInterface),
      addresses: lay(this.addresses, INTERFACE_ADDRESS_BYTES, writeInterfaceAddress),
      prefixes: lay(this.#prefixes, PREFIX_BYTES, writePrefix),
      services: lay(this.#services, SERVICE_BYTES, writeService),
      rules: lay(this.rules, RULE_BYTES, writeRule),
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
