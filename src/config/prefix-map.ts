// A table of prefixes, for the questions that check asks: what holds this address by the longest prefix, and is anything within this prefix?
//
// Called by check-wireguard.ts. Plain maps by length: a look-up costs one step for each length that occurs, which is few.
import { isIpv4, maskOf, rangeOf, type Prefix } from '../lib/address.js';

export class PrefixMap<T> {
  readonly #byLength = new Map<number, Map<bigint, T>>();
  #lengths: number[] | undefined;
  #addresses: bigint[] | undefined;

  /** The first value of a prefix stays; it is given back when there is one already. */
  add(prefix: Prefix, value: T): T | undefined {
    let entries = this.#byLength.get(prefix.length);
    if (entries === undefined) this.#byLength.set(prefix.length, entries = new Map());
    const known = entries.get(prefix.address);
    if (known !== undefined) return known;
    entries.set(prefix.address, value);
    this.#lengths = this.#addresses = undefined;
    return undefined;
  }

  *entries(): Generator<[Prefix, T]> {
    for (const [length, entries] of this.#byLength) for (const [address, value] of entries) yield [{ address, length }, value];
  }

  /** By the longest prefix that holds all of `prefix`. IPv4's lengths start at 96: a shorter one is IPv6's. */
  longest({ address, length: most }: Prefix): { prefix: Prefix; value: T } | undefined {
    this.#lengths ??= [...this.#byLength.keys()].sort((a, b) => b - a);
    for (const length of this.#lengths) {
      if (length > most || (length < 96 && isIpv4(address))) continue;
      const network = address & maskOf(length);
      const value = this.#byLength.get(length)!.get(network);
      if (value !== undefined) return { prefix: { address: network, length }, value };
    }
    return undefined;
  }

  /** Does a prefix of the table lie within this one? */
  hasWithin(prefix: Prefix): boolean {
    this.#addresses ??= [...this.#byLength].flatMap(([length, entries]) => (length === 0 ? [] : [...entries.keys()])).sort((a, b) => (a < b ? -1 : a > b ? 1 : 0));
    const { lo, hi } = rangeOf(prefix);
    let low = 0;
    let high = this.#addresses.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#addresses[middle]! < lo) low = middle + 1;
      else high = middle;
    }
    const first = this.#addresses[low];
    return first !== undefined && first <= hi && (prefix.length >= 96 || !isIpv4(first) || !isIpv4(hi));
  }
}
