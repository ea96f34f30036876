// The store: revisions of the configuration on disk (state directory, config/), and which of them runs.
// Files: NNNNNNNN.revision (text and head of one revision; .new at its end until it has run), pointer-a and pointer-b (the revision that
// runs, written in turn: whatever happens to the newer one, the older one names the last good), candidate. Form: store-files.ts.
// The commit point is the pointer's rename: before it the old revision runs after a restart, after it the new one.
// Who: src/control/transactions.ts alone writes; the supervisor reads at its start, as root. Thread: main. One write at a time.
// Bounds: REVISIONS_MAX revisions, REVISION_BYTES_MAX for all; the oldest go first. The one that runs, and the one that it would be
// rolled back to, stay.
import { closeSync, openSync, readdirSync, readSync, statSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { EngineOptions } from '../config/defaults.js';
import { passFaultPoint } from './fault-points.js';
import { DamagedFile, readStored, removeStored, renameStored, sha256, writeStored, type StoredFile } from './store-files.js';
import type { Author, Revision } from './transaction-types.js';

const REVISIONS_MAX = 100;
const REVISION_BYTES_MAX = 512 * 1024 * 1024;
const HEAD_BYTES_MAX = 16 * 1024; // the first line and the head of a file

export interface RevisionHead {
  revision: number; etag: string; at: string; by: Author; comment: string; action: Revision['action']; changes: number; bytes: number;
}

/** A commit that is taken back at its deadline unless somebody confirms it. Wall clock: it must hold over a restart of the machine. */
export interface Pending { revision: number; revertTo: number; deadlineMs: number; withinS: number; by: Author }

export interface Pointer {
  sequence: number; revision: number; etag: string;
  pending?: Pending;
  /** The file that was last taken over from `sluice up --config`: it counts again when it differs from this. */
  file?: { sha256: string };
  /** What the supervisor must know without reading the revision. */
  engine: EngineOptions; devices: string[];
}

export interface CandidateHead { etag: string; base: string; by: Author; at: string }

interface Kept extends RevisionHead { isNew: boolean }

/** Of a text: its SHA-256, which its file carries, too. */
export const etagOf = sha256;

export class ConfigStore {
  /** What was found damaged, worded for people. */
  readonly damage: string[] = [];
  pointer: Pointer | undefined;
  running: StoredFile<RevisionHead> | undefined;
  candidate: StoredFile<CandidateHead> | undefined;
  private readonly revisions = new Map<number, Kept>();
  private sequence = 0;
  private slot: 'a' | 'b' = 'b';
  private leftovers: string[] = [];

  private constructor(readonly directory: string) {}

  /** Reads only. Never throws because of what it finds: damage is named, and the last good revision runs. */
  static read(directory: string): ConfigStore {
    const store = new ConfigStore(directory);
    store.list();
    const pointers = (['a', 'b'] as const).flatMap((slot) => {
      const pointer = store.attempt(() => readStored<Pointer>(store.pointerPath(slot), 'pointer')?.head);
      return pointer === undefined ? [] : [{ slot, pointer }];
    }).sort((one, other) => other.pointer.sequence - one.pointer.sequence);
    store.sequence = pointers[0]?.pointer.sequence ?? 0;
    for (const { slot, pointer } of pointers) {
      const running = store.attempt(() => store.readRevision(pointer.revision));
      if (running === undefined || running.head.etag !== pointer.etag) {
        store.damage.push(`revision ${pointer.revision}, which should run, cannot be read`);
        continue;
      }
      Object.assign(store, { slot, pointer, running });
      break;
    }
    if (store.running === undefined) store.runNewestGood();
    store.candidate = store.attempt(() => readStored<CandidateHead>(store.candidatePath, 'candidate'));
    return store;
  }

  /** The pointer alone: what runs, by its number. */
  static readPointer(directory: string): Pointer | undefined {
    const store = new ConfigStore(directory);
    const pointers = (['a', 'b'] as const).map((slot) => store.attempt(() => readStored<Pointer>(store.pointerPath(slot), 'pointer')?.head));
    return pointers.filter((pointer) => pointer !== undefined).sort((one, other) => other.sequence - one.sequence)[0];
  }

  /** Newest first. */
  get history(): readonly RevisionHead[] {
    return [...this.revisions.values()].filter((one) => this.isCommitted(one)).sort((one, other) => other.revision - one.revision);
  }

  get nextRevision(): number { return Math.max(0, this.pointer?.revision ?? 0, ...this.revisions.keys()) + 1; }

  has(revision: number): boolean {
    const known = this.revisions.get(revision);
    return known !== undefined && this.isCommitted(known);
  }

  /** Throws DamagedFile. */
  readRevision(revision: number): StoredFile<RevisionHead> | undefined {
    const isNew = this.revisions.get(revision)?.isNew ?? false;
    return readStored<RevisionHead>(this.revisionPath(revision, isNew), 'revision') ?? readStored<RevisionHead>(this.revisionPath(revision, !isNew), 'revision');
  }

  /** Makes the directory, and takes away what an interrupted write left. */
  async open(): Promise<void> {
    await mkdir(this.directory, { recursive: true, mode: 0o700 });
    for (const name of this.leftovers) await removeStored(join(this.directory, name));
    this.leftovers = [];
    for (const one of [...this.revisions.values()]) {
      if (!one.isNew) continue;
      if (this.isCommitted(one)) await this.settle(one.revision);
      else await this.forget(one.revision);
    }
  }

  /** Its content is durable when it resolves, its name with the pointer's; it does not run yet. */
  async prepare(head: RevisionHead, text: Uint8Array): Promise<void> {
    await writeStored(this.revisionPath(head.revision, true), 'revision', head, text, { textDigest: head.etag, isNameDurable: false });
    this.revisions.set(head.revision, { ...head, isNew: true });
  }

  /** The commit point. */
  async point(to: Omit<Pointer, 'sequence'>): Promise<void> {
    const slot = this.slot === 'a' ? 'b' : 'a';
    const pointer = { ...to, sequence: this.sequence + 1 };
    try {
      await writeStored(this.pointerPath(slot), 'pointer', pointer, '');
    } catch (error) {
      await removeStored(this.pointerPath(slot)).catch(() => undefined); // it may stand there already: then it must not count
      throw error;
    }
    this.sequence = pointer.sequence;
    Object.assign(this, { slot, pointer });
  }

  /** What follows a commit and may be made up for later: the revision's name, and the bounds of history. */
  async settle(revision: number): Promise<void> {
    const known = this.revisions.get(revision);
    if (known?.isNew) {
      await renameStored(this.revisionPath(revision, true), this.revisionPath(revision, false));
      known.isNew = false;
    }
    passFaultPoint('revision-named');
    passFaultPoint('history-pruning');
    await this.prune();
    passFaultPoint('history-pruned');
  }

  async forget(revision: number): Promise<void> {
    this.revisions.delete(revision);
    for (const isNew of [true, false]) await removeStored(this.revisionPath(revision, isNew));
  }

  async setCandidate(head: CandidateHead | undefined, text = ''): Promise<void> {
    if (head === undefined) await removeStored(this.candidatePath);
    else await writeStored(this.candidatePath, 'candidate', head, text);
    this.candidate = head === undefined ? undefined : { head, text };
  }

  private list(): void {
    let names: string[];
    try {
      names = readdirSync(this.directory);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') this.damage.push((error as Error).message);
      return;
    }
    for (const name of names) {
      const match = /^(\d{8,15})\.revision(\.new)?$/.exec(name);
      if (name.endsWith('.tmp')) this.leftovers.push(name);
      if (match === null) continue;
      const head = this.attempt(() => readHead(join(this.directory, name)));
      if (head !== undefined && head.revision === Number(match[1])) this.revisions.set(head.revision, { ...head, isNew: match[2] !== undefined });
    }
  }

  private runNewestGood(): void {
    const settled = [...this.revisions.values()].filter((one) => !one.isNew).sort((one, other) => other.revision - one.revision);
    for (const { revision } of settled) {
      const running = this.attempt(() => this.readRevision(revision));
      if (running === undefined) continue;
      this.running = running;
      return;
    }
  }

  private isCommitted(one: Kept): boolean { return !one.isNew || (this.pointer !== undefined && one.revision <= this.pointer.revision); }

  private async prune(): Promise<void> {
    const stays = new Set([this.pointer?.revision, this.pointer?.pending?.revertTo]);
    let bytes = 0;
    for (const [index, one] of this.history.entries()) {
      bytes += one.bytes;
      if ((index >= REVISIONS_MAX || bytes > REVISION_BYTES_MAX) && !stays.has(one.revision)) await this.forget(one.revision);
    }
  }

  private attempt<T>(read: () => T): T | undefined {
    try {
      return read();
    } catch (error) {
      if (!(error instanceof DamagedFile) && !(error instanceof SyntaxError)) throw error;
      this.damage.push(error.message);
      return undefined;
    }
  }

  private get candidatePath(): string { return join(this.directory, 'candidate'); }
  private pointerPath(slot: 'a' | 'b'): string { return join(this.directory, `pointer-${slot}`); }
  private revisionPath(revision: number, isNew: boolean): string {
    return join(this.directory, `${String(revision).padStart(8, '0')}.revision${isNew ? '.new' : ''}`);
  }
}

/** The head alone, without reading or judging the text: that is done when the revision is used. */
function readHead(path: string): RevisionHead {
  const start = Buffer.alloc(HEAD_BYTES_MAX);
  let bytes: number;
  try {
    const file = openSync(path, 'r');
    try {
      bytes = readSync(file, start);
    } finally {
      closeSync(file);
    }
    const [, head] = start.toString('utf8', 0, bytes).split('\n', 2);
    return { ...JSON.parse(head ?? '') as RevisionHead, bytes: statSync(path).size };
  } catch (error) {
    throw new DamagedFile(path, (error as Error).message);
  }
}
