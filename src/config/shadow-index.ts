// Shadowed rules from one configuration to the next: what was found before holds for pairs of rules that are still there.
//
// Called by check-firewall.ts. Rules that are new are compared with all others, one pair at a time; what was covered by a rule that is
// gone is searched again. Where much is new, or the order changed, shadow.ts searches everything. Gives what shadow.ts gives.
// Bound: PAIRS_MAX pairs, about 100 ms; beyond, everything is searched, which has its own bound.
import { coversRule, findShadowed, type ShadowRule, type Shadows } from './shadow.js';

const PAIRS_MAX = 1_000_000;
const REPLACED_MAX = 100;
/** Searching so many takes a quarter of a second. */
const HURRIED_MAX = 20_000;

export class ShadowIndex {
  #rules: readonly ShadowRule[] = [];
  #places = new Map<ShadowRule, number>();
  /** A covered rule → the first that covers it. */
  #coverers = new Map<ShadowRule, ShadowRule>();
  /** Where a search of everything stopped: these were not examined. */
  #unexamined = new Set<ShadowRule>();

  /** `isHurried`: rather leave more than HURRIED_MAX rules unexamined than search everything. */
  find(rules: readonly ShadowRule[], isHurried = false): Shadows {
    const fresh = this.#replaced(rules) ?? this.#placed(rules);
    const places = this.#places;
    if (fresh === undefined || places.size !== rules.length || !this.#update(rules, fresh)) this.#searchAll(rules, isHurried && rules.length > HURRIED_MAX);
    this.#rules = rules;
    const pairs = [...this.#coverers].map(([inner, outer]) => [places.get(inner)!, places.get(outer)!] as const);
    const covered = new Map(pairs.sort(([a], [b]) => a - b));
    const cappedAt = this.#unexamined.size === 0 ? undefined : rules.findIndex((rule) => this.#unexamined.has(rule));
    return { covered, ...(cappedAt === undefined || cappedAt < 0 ? {} : { cappedAt }) };
  }

  #searchAll(rules: readonly ShadowRule[], isSkipped: boolean): void {
    const { covered, cappedAt } = isSkipped ? { covered: new Map<number, number>(), cappedAt: 0 } : findShadowed(rules);
    this.#coverers = new Map([...covered].map(([inner, outer]) => [rules[inner]!, rules[outer]!]));
    this.#unexamined = new Set(cappedAt === undefined ? [] : rules.slice(cappedAt));
  }

  /** Most commits replace a rule or a few: then the places of all others stay. Undefined when this one does more. */
  #replaced(rules: readonly ShadowRule[]): number[] | undefined {
    const before = this.#rules;
    if (before.length !== rules.length) return undefined;
    const replaced: number[] = [];
    for (let index = 0; index < rules.length; index += 1) {
      if (rules[index] === before[index]) continue;
      if (this.#places.has(rules[index]!) || replaced.length === REPLACED_MAX) return undefined;
      replaced.push(index);
    }
    for (const index of replaced) this.#places.delete(before[index]!);
    for (const index of replaced) this.#places.set(rules[index]!, index);
    return replaced;
  }

  /** All places anew; gives those of rules that are new, or undefined when the order of the others changed. */
  #placed(rules: readonly ShadowRule[]): number[] | undefined {
    const former = this.#places;
    const places = new Map<ShadowRule, number>();
    for (let index = 0; index < rules.length; index += 1) places.set(rules[index]!, index);
    this.#places = places;
    const fresh: number[] = [];
    let before = -1;
    for (let index = 0; index < rules.length; index += 1) {
      const place = former.get(rules[index]!);
      if (place === undefined) fresh.push(index);
      else if (place < before) return undefined;
      else before = place;
    }
    return fresh;
  }

  /** False when searching everything is the better way. */
  #update(rules: readonly ShadowRule[], fresh: readonly number[]): boolean {
    const places = this.#places;
    if (this.#rules.length === 0) return false;
    const orphans: number[] = [];
    for (const [inner, outer] of this.#coverers) if (places.has(inner) && !places.has(outer)) orphans.push(places.get(inner)!);
    if ((fresh.length + orphans.length) * rules.length > PAIRS_MAX) return false;

    for (const [inner] of this.#coverers) if (!places.has(inner)) this.#coverers.delete(inner);
    for (const rule of this.#unexamined) if (!places.has(rule)) this.#unexamined.delete(rule);
    // 1. What lost its coverer, and what is new, is compared with all before it.
    for (const inner of [...orphans, ...fresh]) {
      let outer = 0;
      while (outer < inner && !coversRule(rules[outer]!, rules[inner]!)) outer += 1;
      if (outer < inner) this.#coverers.set(rules[inner]!, rules[outer]!);
      else this.#coverers.delete(rules[inner]!);
    }
    // 2. What is new may cover what comes after it, unless an earlier one does.
    for (const outer of fresh) {
      for (let inner = outer + 1; inner < rules.length; inner += 1) {
        const known = this.#coverers.get(rules[inner]!);
        if (known !== undefined && places.get(known)! <= outer) continue;
        if (!this.#unexamined.has(rules[inner]!) && coversRule(rules[outer]!, rules[inner]!)) this.#coverers.set(rules[inner]!, rules[outer]!);
      }
    }
    return true;
  }
}
