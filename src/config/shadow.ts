// Shadowed rules: which rules can never match, because one earlier rule matches whatever they match.
//
// Called by shadow-index.ts. Pure. Never a false alarm: cover is decided exactly over zones × addresses × services by
// one earlier rule; rules that only several earlier ones cover together are not looked for. Sets are merged into ranges
// over ranks (the endpoints of all sets, in order), so that a comparison is a few integers. A rule is compared only with
// those whose source (or destination, whichever are fewer) covers its own. Bound: STEPS_MAX comparisons, then it stops
// and says at which rule.
import { matchedRanges, rangeOf, ADDRESS_MAX, type AddressRange } from '../lib/address.js';
import type { AddressSet, ServiceSet } from './objects.js';
import { ANY_SERVICE, serviceCovers, type Service } from './services.js';

export interface ShadowRule { from: bigint; to: bigint; sources: AddressSet; destinations: AddressSet; services: ServiceSet }
export interface Shadows {
  /** Rule → the first rule that covers it. */
  covered: Map<number, number>;
  /** The rule at which the search stopped, when it did. */
  cappedAt?: number;
}

export const STEPS_MAX = 50_000_000;
/** A comparison of two sets costs about as much as four of two rules. */
const SWEEP_STEPS = 4;

export function findShadowed(rules: readonly ShadowRule[], stepsMax = STEPS_MAX): Shadows {
  const budget = { left: stepsMax };
  const covered = new Map<number, number>();
  const ranks = new Ranks(rules);
  const sources = new Dimension(ranks, rules.map((rule) => rule.sources), budget);
  const destinations = new Dimension(ranks, rules.map((rule) => rule.destinations), budget);
  const services = internServices(rules);
  const masks = rules.map((rule) => [Number(rule.from >> 32n), Number(rule.from & 0xffff_ffffn), Number(rule.to >> 32n), Number(rule.to & 0xffff_ffffn)] as const);
  const same = new Map<string, number>();

  for (let j = 0; j < rules.length; j++) {
    if (budget.left <= 0) return { covered, cappedAt: j };
    const source = sources.idOf[j]!;
    const destination = destinations.idOf[j]!;
    const key = `${masks[j]!.join()}|${source}|${destination}|${services.idOf[j]!}`;
    let first = same.get(key);
    if (first === undefined) {
      const bySource = sources.coveringLists(source);
      const byDestination = destinations.coveringLists(destination);
      for (const list of total(bySource) <= total(byDestination) ? bySource : byDestination) {
        for (const i of list) {
          if (first !== undefined && i >= first) break;
          budget.left--;
          const a = masks[i]!;
          const b = masks[j]!;
          if ((b[0] & ~a[0]) | (b[1] & ~a[1]) | (b[2] & ~a[2]) | (b[3] & ~a[3])) continue;
          if (!services.covers(services.idOf[i]!, services.idOf[j]!)) continue;
          if (!sources.covers(sources.idOf[i]!, source, budget) || !destinations.covers(destinations.idOf[i]!, destination, budget)) continue;
          first = i;
          break;
        }
      }
    }
    if (first !== undefined) { covered.set(j, first); continue; }
    // A covered rule need not be remembered: whatever it covers, its own coverer covers.
    same.set(key, j);
    sources.remember(source, j);
    destinations.remember(destination, j);
  }
  return { covered };
}

function total(lists: readonly (readonly number[])[]): number {
  let sum = 0;
  for (const list of lists) sum += list.length;
  return sum;
}

/** Does `outer` match whatever `inner` matches? One pair alone, for shadow-index.ts. */
export function coversRule(outer: ShadowRule, inner: ShadowRule): boolean {
  return coversAddresses(outer.sources, inner.sources) && coversServices(outer.services, inner.services) && coversAddresses(outer.destinations, inner.destinations)
    && coversZones(outer.from, inner.from) && coversZones(outer.to, inner.to);
}

const coversZones = (outer: bigint, inner: bigint): boolean => outer === inner || (inner & ~outer) === 0n;

function coversAddresses(outer: AddressSet, inner: AddressSet): boolean {
  if (outer === inner || outer.any) return true;
  const a = remembered(rangesOfSets, outer, mergedRanges);
  const b = remembered(rangesOfSets, inner, mergedRanges);
  let i = 0;
  for (const { lo, hi } of b) {
    while (i < a.length && a[i]!.hi < hi) i++;
    if (i >= a.length || a[i]!.lo > lo) return false;
  }
  return true;
}

function coversServices(outer: ServiceSet, inner: ServiceSet): boolean {
  if (outer === inner || outer.any) return true;
  const a = remembered(mergedOfSets, outer, merged);
  const b = remembered(mergedOfSets, inner, merged);
  for (let i = 0; i < b.length; i += 1) {
    let k = 0;
    while (k < a.length && !serviceCovers(a[k]!, b[i]!)) k += 1;
    if (k === a.length) return false;
  }
  return true;
}

const rangesOfSets = new WeakMap<AddressSet, readonly AddressRange[]>();
const mergedOfSets = new WeakMap<ServiceSet, readonly Service[]>();
const merged = (set: ServiceSet): readonly Service[] => (set.any ? [ANY_SERVICE] : set.services.length === 1 ? set.services : mergedServices(set.services));

function remembered<K extends object, V>(memory: WeakMap<K, V>, key: K, make: (key: K) => V): V {
  let value = memory.get(key);
  if (value === undefined) {
    value = make(key);
    memory.set(key, value);
  }
  return value;
}

/** Sorted, disjoint, not touching. */
function mergedRanges(set: AddressSet): AddressRange[] {
  const ranges = set.any ? [rangeOf({ address: 0n, length: 0 })] : set.prefixes.flatMap(matchedRanges);
  ranges.sort((a, b) => (a.lo < b.lo ? -1 : a.lo > b.lo ? 1 : 0));
  const merged: { lo: bigint; hi: bigint }[] = [];
  for (const { lo, hi } of ranges) {
    const last = merged.at(-1);
    if (last !== undefined && (lo <= last.hi || lo === last.hi + 1n)) { if (hi > last.hi) last.hi = hi; } else merged.push({ lo, hi });
  }
  return merged;
}

/** Endpoints of all sets as small integers: [lo, end) pairs in one flat array a set. */
class Ranks {
  readonly #ranges = new Map<AddressSet, AddressRange[]>();
  readonly #rankOf = new Map<bigint, number>();

  constructor(rules: readonly ShadowRule[]) {
    const ends = new Set<bigint>([0n, ADDRESS_MAX + 1n]);
    for (const rule of rules) {
      for (const set of [rule.sources, rule.destinations]) {
        if (this.#ranges.has(set)) continue;
        const ranges = mergedRanges(set);
        this.#ranges.set(set, ranges);
        for (const { lo, hi } of ranges) { ends.add(lo); ends.add(hi + 1n); }
      }
    }
    [...ends].sort((a, b) => (a < b ? -1 : a > b ? 1 : 0)).forEach((end, rank) => this.#rankOf.set(end, rank));
  }

  of(set: AddressSet): Int32Array {
    return Int32Array.from(this.#ranges.get(set)!.flatMap(({ lo, hi }) => [this.#rankOf.get(lo)!, this.#rankOf.get(hi + 1n)!]));
  }
}

/** The distinct sets of one field of all rules, and which of them cover which. */
class Dimension {
  readonly idOf: number[] = [];
  readonly #sets: Int32Array[] = [];
  readonly #covering: number[][] = [];
  readonly #rules: number[][] = [];

  constructor(ranks: Ranks, sets: readonly AddressSet[], budget: { left: number }) {
    const ids = new Map<AddressSet, number>();
    const canonical = new Map<string, number>();
    for (const set of sets) {
      let id = ids.get(set);
      if (id === undefined) {
        const flat = ranks.of(set);
        const key = flat.join();
        id = canonical.get(key);
        if (id === undefined) {
          id = this.#sets.length;
          canonical.set(key, id);
          this.#sets.push(flat);
          this.#rules.push([]);
        }
        ids.set(set, id);
      }
      this.idOf.push(id);
    }
    this.#findCovering(budget);
  }

  /** Lists of the remembered rules whose set covers this one. */
  coveringLists(id: number): number[][] {
    const lists: number[][] = [];
    for (const other of this.#covering[id]!) if (this.#rules[other]!.length > 0) lists.push(this.#rules[other]!);
    return lists;
  }

  remember(id: number, rule: number): void {
    this.#rules[id]!.push(rule);
  }

  covers(outer: number, inner: number, budget: { left: number }): boolean {
    if (outer === inner) return true;
    const a = this.#sets[outer]!;
    const b = this.#sets[inner]!;
    let i = 0;
    for (let k = 0; k < b.length; k += 2) {
      while (i < a.length && a[i + 1]! < b[k + 1]!) { i += 2; budget.left--; }
      if (i >= a.length || a[i]! > b[k]!) return false;
    }
    return true;
  }

  /** A sweep over first points: the sets with a range around a set's first point are the only ones that may cover it. */
  #findCovering(budget: { left: number }): void {
    this.#covering.push(...this.#sets.map(() => [] as number[]));
    const ranges: { lo: number; end: number; id: number }[] = [];
    this.#sets.forEach((flat, id) => { for (let i = 0; i < flat.length; i += 2) ranges.push({ lo: flat[i]!, end: flat[i + 1]!, id }); });
    ranges.sort((a, b) => a.lo - b.lo);
    const order = this.#sets.map((flat, id) => ({ point: flat[0]!, id })).sort((a, b) => a.point - b.point);
    let active: { lo: number; end: number; id: number }[] = [];
    let next = 0;
    for (const { point, id } of order) {
      while (next < ranges.length && ranges[next]!.lo <= point) active.push(ranges[next++]!);
      budget.left -= active.length * SWEEP_STEPS;
      if (budget.left <= 0) return;
      active = active.filter((range) => range.end > point);
      for (const range of active) if (this.covers(range.id, id, budget)) this.#covering[id]!.push(range.id);
    }
  }
}

function internServices(rules: readonly ShadowRule[]): { idOf: number[]; covers: (outer: number, inner: number) => boolean } {
  const ids = new Map<ServiceSet, number>();
  const sets: Service[][] = [];
  const idOf = rules.map(({ services }) => {
    let id = ids.get(services);
    if (id === undefined) {
      id = sets.length;
      sets.push(services.any ? [ANY_SERVICE] : mergedServices(services.services));
      ids.set(services, id);
    }
    return id;
  });
  const covers = (outer: number, inner: number): boolean => {
    if (outer === inner) return true;
    const a = sets[outer]!;
    return sets[inner]!.every((one) => a.some((other) => serviceCovers(other, one)));
  };
  return { idOf, covers };
}

/** Joins destination ranges that touch, so that tcp/1-10 with tcp/11-20 covers tcp/5-15. */
function mergedServices(services: readonly Service[]): Service[] {
  const sorted = [...services].sort((a, b) => a.protocol - b.protocol || a.srcLo - b.srcLo || a.srcHi - b.srcHi || a.dstLo - b.dstLo);
  const merged: { protocol: number; srcLo: number; srcHi: number; dstLo: number; dstHi: number }[] = [];
  for (const one of sorted) {
    const last = merged.at(-1);
    if (last !== undefined && last.protocol === one.protocol && last.srcLo === one.srcLo && last.srcHi === one.srcHi && one.dstLo <= last.dstHi + 1) {
      last.dstHi = Math.max(last.dstHi, one.dstHi);
    } else merged.push({ ...one });
  }
  return merged;
}
