// Sharing: a new configuration that reuses the parts of the running one which it leaves as they are.
//
// Called by control's transactions before anything is examined: what is the same object was checked, compiled and written before, so a
// commit of one changed rule in 10,000 pays for one rule. Pure; `next` is not altered. Lists of entries with a name (or, for routes,
// a destination) are matched by that, so that an inserted rule moves none of its neighbours' identity.

type Entry = Record<string, unknown>;

/** Equal to `next` in all it says; each part that equals its counterpart in `previous` is that very object. */
export function shareWith<T>(next: T, previous: unknown): T {
  return share(next, previous, 0) as T;
}

const DEPTH_MAX = 64; // as deep as a file may nest; deeper values, and cycles, are left alone for the schema to refuse

function share(next: unknown, previous: unknown, depth: number): unknown {
  if (next === previous || typeof next !== 'object' || next === null || typeof previous !== 'object' || previous === null || depth > DEPTH_MAX) return next;
  if (Array.isArray(next)) return Array.isArray(previous) ? shareList(next, previous, depth) : next;
  return Array.isArray(previous) ? next : shareEntry(next as Entry, previous as Entry, depth);
}

function shareList(next: readonly unknown[], previous: readonly unknown[], depth: number): unknown {
  let byName: Map<string, unknown> | undefined; // most lists differ in few entries, and those mostly keep their place
  const find = (key: string): unknown => {
    byName ??= new Map(previous.map((item) => [keyOf(item) ?? '', item]));
    return byName.get(key);
  };
  let isSame = next.length === previous.length;
  const result = next.map((item, index) => {
    const beside = previous[index];
    if (item === beside) return item;
    const key = keyOf(item);
    const shared = share(item, key === undefined || keyOf(beside) === key ? beside : find(key), depth + 1);
    if (shared !== beside) isSame = false;
    return shared;
  });
  return isSame ? previous : result;
}

function shareEntry(next: Entry, previous: Entry, depth: number): unknown {
  let isSame = true;
  let count = 0;
  const result: Entry = {};
  for (const key of Object.keys(next)) {
    const shared = share(next[key], Object.hasOwn(previous, key) ? previous[key] : undefined, depth + 1);
    if (shared !== previous[key] || !Object.hasOwn(previous, key)) isSame = false;
    // Defined, not assigned: a key called __proto__ stays a key.
    if (key === '__proto__') Object.defineProperty(result, key, { value: shared, enumerable: true, writable: true, configurable: true });
    else result[key] = shared;
    count += 1;
  }
  return isSame && count === Object.keys(previous).length ? previous : result;
}

/** By what an entry of a list is known: its name, or a route's destination. */
export function keyOf(item: unknown): string | undefined {
  if (typeof item !== 'object' || item === null) return undefined;
  const { name, to } = item as { name?: unknown; to?: unknown };
  if (typeof name === 'string') return name;
  return typeof to === 'string' ? to : undefined;
}
