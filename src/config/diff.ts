// Differences between two configurations: by structure and by name, not by line. And the text in which people read them.
//
// Called by control's transactions and the command line. Pure. Parts that are the same object (share.ts) cost one comparison.
// Bound: CHANGES_MAX changes are named; all are counted.
import { printable } from '../lib/text.js';
import { keyOf, shareWith } from './share.js';

/** `path`: like firewall.rules[web].service: entries of lists go by their name (routes by destination), or by their place. */
export interface Change { path: string; kind: 'added' | 'removed' | 'changed' | 'moved'; before?: unknown; after?: unknown }

export const CHANGES_MAX = 1000;

export interface Difference { changes: Change[]; /** Of which `changes` holds the first CHANGES_MAX. */ count: number }

export function diffConfigs(before: unknown, after: unknown): Difference {
  const found = new Found();
  compare(found, '', before, shareWith(after, before));
  return { changes: found.changes, count: found.count };
}

class Found {
  readonly changes: Change[] = [];
  count = 0;

  /** No more are named: their paths need not be made. */
  get isFull(): boolean { return this.changes.length >= CHANGES_MAX; }

  add(make: () => Change): void {
    this.count += 1;
    if (this.changes.length < CHANGES_MAX) this.changes.push(make());
  }
}

function compare(found: Found, path: string, before: unknown, after: unknown): void {
  if (before === after) return;
  if (before === undefined) return found.add(() => ({ path, kind: 'added', after }));
  if (after === undefined) return found.add(() => ({ path, kind: 'removed', before }));
  if (isMapping(before) && isMapping(after)) return compareMappings(found, path, before, after);
  if (Array.isArray(before) && Array.isArray(after) && isTrimmable(before, after)) return compareLists(found, path, before, after);
  found.add(() => ({ path, kind: 'changed', before, after }));
}

type Mapping = Record<string, unknown>;
const isMapping = (value: unknown): value is Mapping => typeof value === 'object' && value !== null && !Array.isArray(value);
const isNamedList = (value: readonly unknown[]): boolean => value.every((item) => keyOf(item) !== undefined);
const at = (value: Mapping, key: string): unknown => (Object.hasOwn(value, key) ? value[key] : undefined);

function compareMappings(found: Found, path: string, before: Mapping, after: Mapping): void {
  const pathOf = (key: string): string => (found.isFull ? '' : join(path, key));
  for (const key of Object.keys(before)) {
    const [one, other] = [before[key], at(after, key)];
    if (one !== other) compare(found, pathOf(key), one, other);
  }
  for (const key of Object.keys(after)) if (!Object.hasOwn(before, key)) compare(found, pathOf(key), undefined, after[key]);
}

const isTrimmable = (before: readonly unknown[], after: readonly unknown[]): boolean => keyOf(before[0]) !== undefined || keyOf(after[0]) !== undefined;

function compareLists(found: Found, path: string, wholeBefore: readonly unknown[], wholeAfter: readonly unknown[]): void {
  // What both start and end with needs no look-up.
  let first = 0;
  while (first < wholeBefore.length && first < wholeAfter.length && wholeBefore[first] === wholeAfter[first]) first += 1;
  let last = 0;
  while (last < Math.min(wholeBefore.length, wholeAfter.length) - first && wholeBefore.at(-1 - last) === wholeAfter.at(-1 - last)) last += 1;
  const before = wholeBefore.slice(first, wholeBefore.length - last);
  const after = wholeAfter.slice(first, wholeAfter.length - last);
  if (!isNamedList(before) || !isNamedList(after)) return found.add(() => ({ path, kind: 'changed', before: wholeBefore, after: wholeAfter }));
  const oldPlaces = placesOf(before);
  const newPlaces = placesOf(after);
  if (oldPlaces.size !== before.length || newPlaces.size !== after.length) { // a name stands twice: only places tell
    for (let index = 0; index < Math.max(before.length, after.length); index += 1) compare(found, `${path}[${first + index}]`, before[index], after[index]);
    return;
  }
  const kept: { key: string; from: number; to: number }[] = [];
  for (const [key, from] of oldPlaces) {
    const to = newPlaces.get(key);
    if (to === undefined) found.add(() => ({ path: entryPath(path, key), kind: 'removed', before: before[from] }));
    else kept.push({ key, from, to });
  }
  for (const index of outOfOrder(kept.map(({ to }) => to))) {
    const { key, from, to } = kept[index]!;
    found.add(() => ({ path: entryPath(path, key), kind: 'moved', before: first + from, after: first + to }));
  }
  for (const [key, to] of newPlaces) {
    const from = oldPlaces.get(key);
    if (from === undefined) found.add(() => ({ path: entryPath(path, key), kind: 'added', after: after[to] }));
    else if (before[from] !== after[to]) compare(found, found.isFull ? '' : entryPath(path, key), before[from], after[to]);
  }
}

function placesOf(list: readonly unknown[]): Map<string, number> {
  return new Map(list.map((item, index) => [keyOf(item)!, index]));
}

/** The fewest items that must move so that all ascend: those outside a longest ascending run. */
function outOfOrder(values: readonly number[]): number[] {
  if (values.every((value, index) => index === 0 || value > values[index - 1]!)) return [];
  const tails: number[] = [];      // length of a run → index of its smallest last value
  const previous = new Int32Array(values.length).fill(-1);
  values.forEach((value, index) => {
    let low = 0;
    let high = tails.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (values[tails[middle]!]! < value) low = middle + 1;
      else high = middle;
    }
    previous[index] = low === 0 ? -1 : tails[low - 1]!;
    tails[low] = index;
  });
  const inRun = new Set<number>();
  for (let index = tails.at(-1) ?? -1; index >= 0; index = previous[index]!) inRun.add(index);
  return values.map((_, index) => index).filter((index) => !inRun.has(index));
}

function join(path: string, key: string): string {
  const part = /^[A-Za-z_][A-Za-z0-9_-]*$/.test(key) ? key : `[${JSON.stringify(key)}]`;
  return path === '' || part.startsWith('[') ? `${path}${part}` : `${path}.${part}`;
}

const entryPath = (path: string, key: string): string => `${path}[${key}]`;

/** A line a change: + added, - removed, ~ changed, > moved. */
export function formatChanges({ changes, count }: Difference): string {
  const lines = changes.map(({ path, kind, before, after }) => {
    switch (kind) {
      case 'added': return `+ ${path}: ${brief(after)}`;
      case 'removed': return `- ${path}: ${brief(before)}`;
      case 'moved': return `> ${path}: from place ${Number(before) + 1} to ${Number(after) + 1}`;
      case 'changed': return `~ ${path}: ${brief(before)} → ${brief(after)}`;
    }
  });
  if (count > changes.length) lines.push(`  and ${count - changes.length} more`);
  return lines.map((line) => `${printable(line)}\n`).join('');
}

const BRIEF_CHARACTERS_MAX = 200;

function brief(value: unknown): string {
  const text = typeof value === 'string' ? value : JSON.stringify(value) ?? '';
  return text.length > BRIEF_CHARACTERS_MAX ? `${text.slice(0, BRIEF_CHARACTERS_MAX - 3)}...` : text;
}
