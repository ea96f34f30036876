// Names: the stable 32-bit ids by which records speak of interfaces, rules and tunnels' peers, and the way back to what people wrote.
//
// Called by compile.ts; the result goes to whoever shows records (API, CLI, metrics). An id is the FNV-1a hash of
// "kind:name", so it survives reordering and restarts. Two names that collide get theirs in the order of their text, by
// hashing on with a suffix: the outcome depends on the set of names alone, not on their order in the file.

export type NameKind = 'interface' | 'rule' | 'nat-source' | 'nat-destination' | 'nat-static' | 'wireguard-peer';

export interface Names {
  /** Id in records → what it names. 0 is never an id. */
  readonly ids: ReadonlyMap<number, { readonly kind: NameKind; readonly name: string }>;
  /** Zone bit in records → its name. */
  readonly zones: readonly string[];
  /** Index in the snapshot → interface name. */
  readonly interfaces: readonly string[];
}

export function fnv1a32(text: string): number {
  let hash = 0x811c9dc5;
  for (let index = 0; index < text.length; index += 1) {
    const code = text.charCodeAt(index);
    if (code > 0x7f) return hashBytes(Buffer.from(text, 'utf8')); // of text beyond ASCII the bytes count
    hash = Math.imul(hash ^ code, 0x01000193);
  }
  return hash >>> 0;
}

function hashBytes(bytes: Uint8Array): number {
  let hash = 0x811c9dc5;
  for (const byte of bytes) hash = Math.imul(hash ^ byte, 0x01000193);
  return hash >>> 0;
}

export class IdTable {
  readonly ids = new Map<number, { kind: NameKind; name: string }>();
  readonly #idOf: Record<NameKind, Map<string, number>> = { interface: new Map(), rule: new Map(), 'nat-source': new Map(), 'nat-destination': new Map(), 'nat-static': new Map(), 'wireguard-peer': new Map() };

  /** `hash` is a parameter so that tests can make names collide. */
  constructor(names: Iterable<{ kind: NameKind; name: string }>, hash: (text: string) => number = fnv1a32) {
    const sharing = new Map<number, { key: string; kind: NameKind; name: string }[]>();
    for (const { kind, name } of names) {
      const key = `${kind}:${name}`;
      const hashed = hash(key);
      const group = sharing.get(hashed);
      if (group === undefined) sharing.set(hashed, [{ key, kind, name }]);
      else if (!group.some((other) => other.key === key)) group.push({ key, kind, name });
    }
    const late: { key: string; kind: NameKind; name: string }[] = [];
    for (const [id, group] of sharing) {
      group.sort((a, b) => (a.key < b.key ? -1 : 1));
      if (id !== 0) this.#assign(id, group.shift()!);
      late.push(...group);
    }
    late.sort((a, b) => (a.key < b.key ? -1 : 1));
    for (const one of late) {
      let id = 0;
      for (let n = 1; id === 0 || this.ids.has(id); n++) id = n < 1000 ? hash(`${one.key}#${n}`) : (id % 0xffffffff) + 1;
      this.#assign(id, one);
    }
  }

  id(kind: NameKind, name: string): number {
    const id = this.#idOf[kind].get(name);
    if (id === undefined) throw new Error(`no id was made for ${kind} '${name}'`);
    return id;
  }

  #assign(id: number, { kind, name }: { kind: NameKind; name: string }): void {
    this.ids.set(id, { kind, name });
    this.#idOf[kind].set(name, id);
  }
}
