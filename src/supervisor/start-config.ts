// Which configuration `sluice up` starts with: the file of its command line, or what the store in the state directory has. Who: up.ts.
// The store wins as long as the file is the one that was last taken over from; a file that differs is a new wish, and control commits it.
// A file that is refused changes nothing where something ran before. Reads only: the store is control's to write.
import { readFileSync } from 'node:fs';
import { ConfigStore, etagOf } from '../control/store.js';

export interface StartConfig {
  /** What the supervisor checks, and by which name problems speak of it. Without text the file could not be read. */
  name: string; text?: string;
  /** Set when it is the store's. */
  revision?: number;
  damage: readonly string[];
}

export function chooseStart(file: string, directory: string): StartConfig {
  const store = ConfigStore.read(directory);
  const text = tryRead(file);
  if (text === undefined || store.running === undefined || etagOf(text) !== store.pointer?.file?.sha256) return { name: file, ...(text === undefined ? {} : { text }), damage: store.damage };
  return storedStart(store)!;
}

/** What ran last, when anything did. */
export function lastStart(directory: string): StartConfig | undefined { return storedStart(ConfigStore.read(directory)); }

function storedStart(store: ConfigStore): StartConfig | undefined {
  if (store.running === undefined) return undefined;
  const { pending } = store.pointer ?? {};
  const isOver = pending !== undefined && pending.deadlineMs <= Date.now(); // control goes back first thing
  const stored = isOver ? store.readRevision(pending.revertTo) ?? store.running : store.running;
  return { name: `revision ${stored.head.revision}`, text: stored.text, revision: stored.head.revision, damage: store.damage };
}

function tryRead(file: string): string | undefined {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return undefined;
  }
}
