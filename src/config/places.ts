// Places: where a path of the configuration stands in its YAML text, by the parser's events.
//
// Called by load.ts, and only when there is something to say about a text: building it costs a pass over the events, a look-up a walk
// over the siblings on the way. Offsets count UTF-16 units; lines and columns start at 1.
import { EVENT_ID, getScalarValue, SCALAR_STYLE, type Event, type ScalarEvent } from 'js-yaml';
import type { At, Path, Position } from './problem.js';

export class Places {
  /** Event → the event after its node. */
  readonly #next: Int32Array;
  readonly #documents: number[] = [];
  #lines: number[] | undefined;
  readonly #keys = new Map<number, Map<string, number>>();

  constructor(private readonly text: string, private readonly events: readonly Event[]) {
    this.#next = new Int32Array(events.length);
    const open: number[] = [];
    events.forEach((event, index) => {
      this.#next[index] = index + 1;
      if (event.type === EVENT_ID.POP) this.#next[open.pop() ?? 0] = index + 1;
      else if (event.type !== EVENT_ID.SCALAR && event.type !== EVENT_ID.ALIAS) {
        if (event.type === EVENT_ID.DOCUMENT) this.#documents.push(index);
        open.push(index);
      }
    });
  }

  at(offset: number): Position {
    this.#lines ??= lineStarts(this.text);
    let low = 0;
    let high = this.#lines.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.#lines[middle]! <= offset) low = middle;
      else high = middle - 1;
    }
    return { line: low + 1, column: Math.max(1, offset - this.#lines[low]! + 1) };
  }

  /** Where a document's content starts. */
  documentOffset(number: number): number {
    const document = this.#documents[number];
    return document === undefined ? 0 : this.#offset(document + 1) ?? 0;
  }

  of(path: Path, at: At): Position {
    const document = this.#documents[0];
    if (document === undefined || this.events.length <= document + 1) return { line: 1, column: 1 };
    let node = document + 1;
    let offset = this.#offset(node) ?? 0;
    for (const [depth, segment] of path.entries()) {
      const type = this.events[node]!.type;
      let child: number | undefined;
      if (type === EVENT_ID.SEQUENCE && typeof segment === 'number') child = this.#item(node, segment);
      else if (type === EVENT_ID.MAPPING) {
        const key = this.#lastKey(node, String(segment));
        if (key !== undefined) {
          offset = this.#offset(key) ?? offset;
          if (depth === path.length - 1 && at === 'key') break;
          child = this.#next[key]!;
        }
      }
      if (child === undefined) break;
      node = child;
      offset = this.#offset(node) ?? offset;
    }
    return this.at(offset);
  }

  /** Keys that stand in one mapping already, as paths. */
  *duplicates(): Generator<Path> {
    for (const document of this.#documents) yield* this.#duplicatesIn(document + 1, []);
  }

  *#duplicatesIn(node: number, path: Path): Generator<Path> {
    const { type } = this.events[node]!;
    if (type === EVENT_ID.SEQUENCE) {
      let index = 0;
      for (const child of this.#children(node)) yield* this.#duplicatesIn(child, [...path, index++]);
    } else if (type === EVENT_ID.MAPPING) {
      const seen = new Set<string>();
      let key: string | undefined;
      for (const child of this.#children(node)) {
        if (key === undefined) {
          key = this.#name(child) ?? '?';
          if (seen.has(key)) yield [...path, key];
          seen.add(key);
        } else {
          yield* this.#duplicatesIn(child, [...path, key]);
          key = undefined;
        }
      }
    }
  }

  *#children(node: number): Generator<number> {
    for (let child = node + 1; child < this.events.length && this.events[child]!.type !== EVENT_ID.POP; child = this.#next[child]!) yield child;
  }

  #item(node: number, index: number): number | undefined {
    let left = index;
    for (let child = node + 1; child < this.events.length && this.events[child]!.type !== EVENT_ID.POP; child = this.#next[child]!) if (left-- === 0) return child;
    return undefined;
  }

  /** Of two pairs with one key the last counts. */
  #lastKey(node: number, name: string): number | undefined {
    let keys = this.#keys.get(node);
    if (keys === undefined) {
      keys = new Map();
      let isKey = true;
      for (const child of this.#children(node)) {
        if (isKey) keys.set(this.#name(child) ?? '?', child);
        isKey = !isKey;
      }
      this.#keys.set(node, keys);
    }
    return keys.get(name);
  }

  #name(node: number): string | undefined {
    const event = this.events[node]!;
    return event.type === EVENT_ID.SCALAR ? getScalarValue(this.text, event) : undefined;
  }

  #offset(node: number): number | undefined {
    const event = this.events[node];
    switch (event?.type) {
      case EVENT_ID.SCALAR: return scalarOffset(event);
      case EVENT_ID.ALIAS: return event.anchorStart - 1;
      case EVENT_ID.SEQUENCE: case EVENT_ID.MAPPING: return event.start;
      default: return undefined;
    }
  }
}

function scalarOffset(event: ScalarEvent): number | undefined {
  if (event.valueStart < 0) return undefined;
  return event.style === SCALAR_STYLE.SINGLE_QUOTED || event.style === SCALAR_STYLE.DOUBLE_QUOTED ? event.valueStart - 1 : event.valueStart;
}

function lineStarts(text: string): number[] {
  const starts = [0];
  for (let at = text.indexOf('\n'); at >= 0; at = text.indexOf('\n', at + 1)) starts.push(at + 1);
  return starts;
}
