// Rules whose lists are too long for the engine's classifier: they hold, but slow down the first packet of each session.
//
// Called by check-firewall.ts with the rules that are in force. Pure. The engine hashes an entry for each combination of a
// rule's listed sources, destinations and services, at most ENTRIES_PER_RULE_MAX a rule and ENTRIES_MAX in all; lists
// beyond that are searched one rule after another (native/policy/classifier.h; docs/internals/classification.md).
// Lists are counted as the engine reduces them; bound: REDUCED_MAX prefixes, further lists are counted as they are written.
import { prefixFamily, type Prefix } from '../lib/address.js';
import type { AddressSet, ServiceSet } from './objects.js';
import { quote, type Problems } from './problem.js';

export const ENTRIES_MAX = 1_048_576;
export const ENTRIES_PER_RULE_MAX = 4096;
/** So many rules compared one after another cost a first packet about ten times what the others do. */
export const COMPARED_MAX = 64;

const REDUCED_MAX = 500_000;

export interface ClassifiedRule { sources: AddressSet; destinations: AddressSet; services: ServiceSet }

/** `index`: of each rule in firewall.rules. */
export function checkClassifier(problems: Problems, rules: readonly ClassifiedRule[], index: readonly number[], nameOf: (index: number) => string): void {
  const sizes = new Map<AddressSet, number>();
  let budget = REDUCED_MAX;
  const sizeOf = (set: AddressSet): number => {
    if (set.any || set.prefixes.length === 1) return 1;
    let size = sizes.get(set);
    if (size === undefined) {
      budget -= set.prefixes.length;
      sizes.set(set, size = budget < 0 ? set.prefixes.length : reducedSize(set.prefixes));
    }
    return size;
  };
  // 1. All rules' entries together. Most configurations are told apart from large ones by the lists' lengths alone.
  let bound = 0;
  for (const { sources, destinations, services } of rules) {
    bound += Math.min(ENTRIES_PER_RULE_MAX, lengthOf(sources) * lengthOf(destinations) * Math.max(1, services.services.length));
  }
  if (bound > ENTRIES_MAX) {
    let total = 0, most = 0, mostAt = 0;
    rules.forEach(({ sources, destinations, services }, i) => {
      const entries = largestProduct([sizeOf(sources), sizeOf(destinations), Math.max(1, services.services.length)]);
      total += entries;
      if (entries > most) [most, mostAt] = [entries, i];
    });
    if (total > ENTRIES_MAX) {
      const at = index[mostAt]!;
      problems.warn('SLUICE_RULES_SLOW', ['firewall', 'rules', at],
        `the rules' lists make about ${total} combinations and the engine hashes ${ENTRIES_MAX}: first packets of sessions will be slow. Most, ${most}, come from rule ${quote(nameOf(at))}`,
        'write wider prefixes instead of long lists, or let fewer rules use the long ones');
    }
  }
  // 2. Rules that no address tells apart: their lists are too long to be hashed at all.
  const compared = new Map<ServiceSet, number[]>();
  const long = (set: AddressSet): boolean => lengthOf(set) > ENTRIES_PER_RULE_MAX && sizeOf(set) > ENTRIES_PER_RULE_MAX;
  rules.forEach(({ sources, destinations, services }, i) => {
    if (!(long(sources) && (destinations.any || long(destinations))) && !(long(destinations) && sources.any)) return;
    const same = compared.get(services);
    if (same === undefined) compared.set(services, [i]);
    else same.push(i);
  });
  for (const same of compared.values()) {
    if (same.length <= COMPARED_MAX) continue;
    const at = index[same[0]!]!;
    problems.warn('SLUICE_RULES_SLOW', ['firewall', 'rules', at],
      `rule ${quote(nameOf(at))} and ${same.length - 1} more with the same services have lists of more than ${ENTRIES_PER_RULE_MAX} addresses and nothing else that tells them apart: each first packet is compared with all of them`,
      `join these rules, write wider prefixes, or add a source, destination or service of at most ${ENTRIES_PER_RULE_MAX} items to each`);
  }
}

function lengthOf(set: AddressSet): number {
  return Math.max(1, set.prefixes.length);
}

/** Of some of the three lists, as many combinations as a rule may have. */
function largestProduct(sizes: readonly [number, number, number]): number {
  let largest = 1;
  for (let chosen = 1; chosen < 8; chosen++) {
    const product = sizes.reduce((all, size, i) => chosen & (1 << i) ? all * size : all, 1);
    if (product <= ENTRIES_PER_RULE_MAX) largest = Math.max(largest, product);
  }
  return largest;
}

/** Prefixes left when covered ones are gone and halves have become wholes. */
function reducedSize(prefixes: readonly Prefix[]): number {
  const sorted = prefixes.map((one) => ({ ...one, family: prefixFamily(one) }));
  sorted.sort((a, b) => a.family !== b.family ? (a.family < b.family ? -1 : 1) : a.address !== b.address ? (a.address < b.address ? -1 : 1) : a.length - b.length);
  const left: { address: bigint; length: number; family: string }[] = [];
  const within = (inner: Prefix, address: bigint, length: number): boolean => inner.length >= length && (inner.address ^ address) >> BigInt(128 - length) === 0n;
  for (const one of sorted) {
    const last = left.at(-1);
    if (last !== undefined && last.family === one.family && within(one, last.address, last.length)) continue;
    left.push(one);
    for (;;) {
      const [whole, half] = left.slice(-2);
      if (whole === undefined || half === undefined || whole.family !== half.family || whole.length !== half.length) break;
      if (whole.length <= (whole.family === 'ipv4' ? 96 : 0)) break;
      const length = whole.length - 1;
      if (!within(half, whole.address, length) || (whole.address >> BigInt(128 - length)) << BigInt(128 - length) !== whole.address) break;
      left.splice(-2, 2, { ...whole, length });
    }
  }
  return left.length;
}
