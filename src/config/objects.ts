// Objects: named addresses and services, and groups of them, resolved to the sets that rules match.
//
// Called by check.ts's parts (which report what is wrong, each at its place) and by compile.ts (which has a checked
// configuration). Lists are interned: rules that write the same list get the same set, which the snapshot then stores
// once. Bounds: groups nest GROUP_DEPTH_MAX deep; one set holds SET_ENTRIES_MAX entries, all sets SETS_ENTRIES_MAX.
import { AddressError, parseAddress, parsePrefix, parseRange, prefixFamily, rangeToPrefixes, type AddressRange, type Prefix } from '../lib/address.js';
import { ConfigError, quote, suggest, type ProblemCode } from './problem.js';
import { asList } from './schema-parts.js';
import type { Config, ServiceItem } from './schema.js';
import { isServiceWord, parseService, type Service } from './services.js';
import { SL_PROTOCOL_ANY } from '../engine/abi.generated.js';

export const GROUP_DEPTH_MAX = 32;
export const SET_ENTRIES_MAX = 65_536;
export const SETS_ENTRIES_MAX = 4_000_000;

/** Prefixes are those of the 128-bit space, ready for the engine. `any` has none. Never empty otherwise. */
export interface AddressSet { readonly any: boolean; readonly prefixes: readonly Prefix[]; readonly ipv4: boolean; readonly ipv6: boolean }
export interface ServiceSet { readonly any: boolean; readonly services: readonly Service[] }

export const ANY_ADDRESS: AddressSet = { any: true, prefixes: [], ipv4: true, ipv6: true };
export const ANY_SERVICES: ServiceSet = { any: true, services: [] };

interface Resolved<S> { set?: S; depth: number }

export class Objects {
  readonly addressNames: string[];
  readonly serviceNames: string[];
  readonly #addresses: Map<string, string | string[]>;
  readonly #services: Map<string, ServiceItem | ServiceItem[]>;
  readonly #resolvedAddresses = new Map<string, Resolved<AddressSet>>();
  readonly #resolvedServices = new Map<string, Resolved<ServiceSet>>();
  readonly #open: string[] = [];
  readonly #addressLists = new Map<string, AddressSet>();
  readonly #serviceLists = new Map<string, ServiceSet>();
  readonly #literals = new Map<string, AddressSet>();
  #entries = 0;

  /** Entries of all lists that were united so far. */
  get entries(): number { return this.#entries; }
  get lists(): number { return this.#addressLists.size + this.#serviceLists.size + this.#literals.size; }

  constructor(config: Config) {
    this.#addresses = new Map(Object.entries(config.objects?.addresses ?? {}));
    this.#services = new Map(Object.entries(config.objects?.services ?? {}));
    this.addressNames = [...this.#addresses.keys()];
    this.serviceNames = [...this.#services.keys()];
  }

  /** What a rule's source or destination means. Throws ConfigError at the first item that means nothing. */
  addressList(list: string | readonly string[] | undefined): AddressSet {
    if (list === undefined) return ANY_ADDRESS;
    const items = asList<string>(list);
    const key = items.join('\0');
    const known = this.#addressLists.get(key);
    if (known !== undefined) return known;
    const set = this.#uniteAddresses(items.map((item) => this.addressItem(item)));
    this.#addressLists.set(key, set);
    return set;
  }

  serviceList(list: ServiceItem | readonly ServiceItem[] | undefined): ServiceSet {
    if (list === undefined) return ANY_SERVICES;
    const items = asList<ServiceItem>(list);
    const key = items.map((item) => typeof item === 'string' ? item : JSON.stringify(item)).join('\0');
    const known = this.#serviceLists.get(key);
    if (known !== undefined) return known;
    const set = this.#uniteServices(items.map((item) => this.serviceItem(item)));
    this.#serviceLists.set(key, set);
    return set;
  }

  /** One item of a list. Throws ConfigError. */
  addressItem(item: string): AddressSet {
    if (item === 'any') return ANY_ADDRESS;
    if (this.#addresses.has(item)) return this.#addressObject(item).set!;
    let set = this.#literals.get(item);
    if (set === undefined) {
      set = this.#literal(item);
      this.#literals.set(item, set);
    }
    return set;
  }

  serviceItem(item: ServiceItem): ServiceSet {
    if (typeof item === 'string' && this.#services.has(item)) return this.#serviceObject(item).set!;
    if (typeof item === 'string' && item !== 'any' && !item.includes('/') && !item.startsWith('!') && !isServiceWord(item)) {
      throw new ConfigError('SLUICE_OBJECT_UNKNOWN', `there is no service object ${quote(item)}`, `${suggest(item, this.serviceNames, 'service object')}; protocol and port are written like tcp/443`);
    }
    const services = parseService(item);
    return services[0]!.protocol === SL_PROTOCOL_ANY && services.length === 1 ? ANY_SERVICES : { any: false, services };
  }

  /** A fault of a group as a whole, not of one literal in it. */
  isWholeFault(error: unknown): boolean {
    return !(error instanceof ConfigError) || error.code === 'SLUICE_OBJECT_CYCLE' || error.code === 'SLUICE_OBJECT_TOO_LARGE';
  }

  #addressObject(name: string): Resolved<AddressSet> {
    return this.#resolve(name, 'address', this.#resolvedAddresses, () => {
      const items = asList<string>(this.#addresses.get(name)!);
      const depth = this.#depthOf(items.filter((item) => this.#addresses.has(item)), (inner) => this.#addressObject(inner));
      return { set: this.#uniteAddresses(items.map((item) => this.addressItem(item))), depth };
    });
  }

  #serviceObject(name: string): Resolved<ServiceSet> {
    return this.#resolve(name, 'service', this.#resolvedServices, () => {
      const items = asList<ServiceItem>(this.#services.get(name)!);
      const names = items.filter((item): item is string => typeof item === 'string' && this.#services.has(item));
      const depth = this.#depthOf(names, (inner) => this.#serviceObject(inner));
      return { set: this.#uniteServices(items.map((item) => this.serviceItem(item))), depth };
    });
  }

  #resolve<S>(name: string, kind: string, memo: Map<string, Resolved<S>>, make: () => Resolved<S>): Resolved<S> {
    const known = memo.get(name);
    if (known?.set !== undefined) return known;
    const label = `${kind}:${name}`;
    if (known !== undefined) throw new ConfigError('SLUICE_OBJECT_UNKNOWN', `${kind} object ${quote(name)} is not usable`, 'repair the object', true);
    const at = this.#open.indexOf(label);
    if (at >= 0) {
      const circle = [...this.#open.slice(at), label].map((one) => one.slice(kind.length + 1)).join(' → ');
      throw new ConfigError('SLUICE_OBJECT_CYCLE', `${kind} object contains itself: ${circle}`, 'take one of these names out of the circle');
    }
    if (this.#open.length >= GROUP_DEPTH_MAX) throw this.#tooLarge(`${kind} objects nest deeper than ${GROUP_DEPTH_MAX}`);
    this.#open.push(label);
    try {
      const resolved = make();
      memo.set(name, resolved);
      return resolved;
    } catch (error) {
      // The cause is reported once, where the object stands; whoever uses the object stays silent.
      if (error instanceof ConfigError) memo.set(name, { depth: 0 });
      throw error;
    } finally {
      this.#open.pop();
    }
  }

  #depthOf(names: readonly string[], depthOf: (name: string) => Resolved<unknown>): number {
    let depth = 0;
    for (const name of names) depth = Math.max(depth, depthOf(name).depth);
    if (depth + 1 > GROUP_DEPTH_MAX) throw this.#tooLarge(`objects nest deeper than ${GROUP_DEPTH_MAX}`);
    return depth + 1;
  }

  #literal(item: string): AddressSet {
    const fail = (code: ProblemCode, message: string, remedy: string) => new ConfigError(code, message, remedy);
    if (item.startsWith('!')) throw fail('SLUICE_NEGATION_UNSUPPORTED', `${quote(item)}: negation is not supported`, 'write a deny rule for it before this one');
    if (item.startsWith('fqdn:')) {
      throw fail('SLUICE_FQDN_UNSUPPORTED', `${quote(item)} cannot be enforced in this version`, 'write addresses instead, or disable the rule');
    }
    // What starts with a letter and has no colon is a name; what has a digit or a colon is meant as an address.
    if (!/^[0-9]/.test(item) && !item.includes(':')) {
      throw fail('SLUICE_OBJECT_UNKNOWN', `there is no address object ${quote(item)}`, suggest(item, this.addressNames, 'address object'));
    }
    try {
      const prefixes = item.includes('-') ? rangeToPrefixes(parseRange(item)) : [parsePrefix(item)];
      return addressSet(prefixes);
    } catch (error) {
      if (error instanceof AddressError) throw fail('SLUICE_ADDRESS', error.message, error.remedy);
      throw error;
    }
  }

  #uniteAddresses(sets: readonly AddressSet[]): AddressSet {
    if (sets.length === 1) return sets[0]!;
    if (sets.some((set) => set.any)) return ANY_ADDRESS;
    const unique = new Map<string, Prefix>();
    for (const set of sets) {
      for (const prefix of set.prefixes) unique.set(`${prefix.address.toString(36)}/${prefix.length}`, prefix);
      this.#account(unique.size, set.prefixes.length);
    }
    return addressSet([...unique.values()]);
  }

  #uniteServices(sets: readonly ServiceSet[]): ServiceSet {
    if (sets.length === 1) return sets[0]!;
    if (sets.some((set) => set.any)) return ANY_SERVICES;
    const unique = new Map<string, Service>();
    for (const set of sets) {
      for (const one of set.services) unique.set(`${one.protocol}/${one.srcLo}-${one.srcHi}/${one.dstLo}-${one.dstHi}`, one);
      this.#account(unique.size, set.services.length);
    }
    return { any: false, services: [...unique.values()] };
  }

  #account(size: number, added: number): void {
    this.#entries += added;
    if (size > SET_ENTRIES_MAX) throw this.#tooLarge(`expands to more than ${SET_ENTRIES_MAX} entries`);
    if (this.#entries > SETS_ENTRIES_MAX) throw this.#tooLarge(`with it, all lists expand to more than ${SETS_ENTRIES_MAX} entries`);
  }

  #tooLarge(message: string): ConfigError {
    return new ConfigError('SLUICE_OBJECT_TOO_LARGE', message, 'use wider prefixes, or fewer groups of groups');
  }
}

function addressSet(prefixes: readonly Prefix[]): AddressSet {
  return { any: false, prefixes, ipv4: prefixes.some((one) => prefixFamily(one) === 'ipv4'), ipv6: prefixes.some((one) => prefixFamily(one) === 'ipv6') };
}

/** Names that would shadow something written literally: 10.0.0.1, any, tcp. */
export function isReservedAddressName(name: string): boolean {
  if (name === 'any' || /^[0-9]/.test(name)) return true;
  try {
    parseAddress(name);
    return true;
  } catch {
    return false;
  }
}

/** One plain address, prefix or range from text; a ConfigError when it is none. */
export const plainAddress = (text: string): bigint => parsePlain(parseAddress, text);
export const plainPrefix = (text: string): Prefix => parsePlain(parsePrefix, text);
export const plainRange = (text: string): AddressRange => parsePlain(parseRange, text);

function parsePlain<T>(parse: (text: string) => T, text: string): T {
  try {
    return parse(text);
  } catch (error) {
    if (error instanceof AddressError) throw new ConfigError('SLUICE_ADDRESS', error.message, error.remedy);
    throw error;
  }
}

