// The audit log: who changed or tried what, as lines of JSON in a hash chain (chain.ts), appended and never rewritten.
// Who: src/api/access.ts for every state-changing and every refused request; control for its own changes. Thread: Node's main thread.
// Files in the audit directory: `audit.jsonl` is written; at FILE_BYTES it becomes `audit-SEQUENCE.jsonl` (its first line's number) and
// the next file goes on with the chain. Of more than FILES the oldest is deleted, which is a line of its own. `head`: the last
// durable line's number and hash, so that lines cut off the end are missed.
// Durability: a line is handed to the kernel before `append` returns (a killed control loses none); `sync` makes it survive a power cut.
// Requests that change something wait for it; all else is synced within SYNC_MS. Bounds: LINE_BYTES_MAX a line, FILE_BYTES × FILES in all.
// A log that cannot be opened (a full disk at the start) refuses lines, and is opened by the first that it can take.
import { closeSync, fdatasync, fstatSync, fsyncSync, ftruncateSync, mkdirSync, openSync, readdirSync, readSync, renameSync, rmSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { FIRST_PREVIOUS, LINE_BYTES_MAX, makeLine, parseLine, type ChainLink } from './chain.js';

export const CURRENT_FILE = 'audit.jsonl';
export const HEAD_FILE = 'head';
export const HEAD_BYTES = 96;
const ROTATED = /^audit-(\d{12})\.jsonl$/;
const NEXT_FILE = 'audit.next';
const CLOSED = -1;
const SYNC_MS = 1000;
const TEXT_CHARACTERS_MAX = 1024;

export interface AuditLimits { fileBytes: number; files: number }
export const AUDIT_LIMITS: AuditLimits = { fileBytes: 16 * 1024 * 1024, files: 64 };

/** Who did it, as far as it is known. */
export interface AuditActor { name: string; via: string; role?: string; address?: string }

export interface AuditEvent {
  /** request: a change begins · outcome: how it ended · refused: not let in · system: control itself · retention, recovered: the log itself */
  event: 'request' | 'outcome' | 'refused' | 'system' | 'retention' | 'recovered';
  by?: AuditActor;
  /** Ties an outcome to its request. */
  request?: string;
  method?: string;
  /** Without its query. */
  path?: string;
  resource?: string;
  status?: number;
  code?: string;
  milliseconds?: number;
  /** How many of the same this line stands for. */
  count?: number;
  /** What more there is to say; never a secret. */
  detail?: Record<string, unknown>;
}

/** As it stands in the file: a copy sent elsewhere proves what the file should hold. */
export interface AuditRecord extends AuditEvent { sequence: number; time: string; previous: string; hash: string }

/** The log cannot be written: nothing may be changed until it can. */
export class AuditError extends Error {
  readonly code = 'SLUICE_AUDIT_WRITE';
  constructor(message: string) {
    super(message);
    this.name = 'AuditError';
  }
}

/** Names of rotated files, oldest first. */
export function rotatedFiles(directory: string): string[] {
  return readdirSync(directory).filter((name) => ROTATED.test(name)).sort();
}

export class AuditLog {
  /** Told of each line, like a sink that sends them elsewhere. */
  readonly listeners: ((record: AuditRecord) => void)[] = [];
  private file = CLOSED;
  private headFile = CLOSED;
  private bytes = 0;
  private firstOfFile = 1;
  private last: ChainLink = { sequence: 0, hash: FIRST_PREVIOUS };
  private durable = 0;
  private syncing: Promise<void> | undefined;
  private timer: NodeJS.Timeout | undefined;

  private constructor(readonly directory: string, private readonly limits: AuditLimits, private readonly now: () => Date) {}

  /** `failed` is told when it cannot be opened now; lines are refused until it can. */
  static open(directory: string, { limits = AUDIT_LIMITS, now = () => new Date(), failed = (error) => { throw error; } }: { limits?: AuditLimits; now?: () => Date; failed?: (error: AuditError) => void } = {}): AuditLog {
    const log = new AuditLog(directory, limits, now);
    try {
      log.open();
    } catch (error) {
      failed(error as AuditError);
    }
    return log;
  }

  get head(): ChainLink { return this.last; }

  /** Throws AuditError when the line could not be written whole; the log is then as it was. */
  append(event: AuditEvent): AuditRecord {
    if (this.file === CLOSED) this.open();
    if (this.bytes >= this.limits.fileBytes) this.rotate();
    return this.write(event);
  }

  /** Resolves when every line appended so far would survive a power cut. */
  async sync(): Promise<void> {
    const wanted = this.last.sequence;
    while (this.durable < wanted) {
      this.syncing ??= this.syncOnce().finally(() => { this.syncing = undefined; });
      await this.syncing;
    }
  }

  close(): void {
    clearTimeout(this.timer);
    if (this.file === CLOSED) return;
    try {
      fsyncSync(this.file);
      this.writeHead(this.last);
    } finally {
      closeSync(this.file);
      closeSync(this.headFile);
      this.file = CLOSED;
    }
  }

  // ---- writing ----------------------------------------------------------------------------------------------------

  private write(event: AuditEvent): AuditRecord {
    const sequence = this.last.sequence + 1;
    const time = this.now().toISOString();
    let kept = event;
    let { line, hash } = makeLine(sequence, time, this.last.hash, kept);
    if (Buffer.byteLength(line) > LINE_BYTES_MAX) {
      kept = shorten(event);
      ({ line, hash } = makeLine(sequence, time, this.last.hash, kept));
    }
    const bytes = Buffer.from(line);
    try {
      const written = writeSync(this.file, bytes);
      if (written !== bytes.length) throw new Error(`only ${written} of ${bytes.length} bytes were taken`);
    } catch (error) {
      try {
        ftruncateSync(this.file, this.bytes); // half a line would break the chain
      } catch { /* recover() takes it away at the next start */ }
      throw new AuditError(`the audit log cannot be written (${(error as Error).message}); make room in ${this.directory}`);
    }
    const record = { sequence, time, previous: this.last.hash, ...kept, hash };
    this.bytes += bytes.length;
    this.last = { sequence, hash };
    this.timer ??= setTimeout(() => {
      this.timer = undefined;
      this.sync().catch(() => { /* a request that waits for it is told */ });
    }, SYNC_MS).unref();
    for (const listener of this.listeners) {
      try {
        listener(record);
      } catch { /* what is sent elsewhere must not stop what happens here; senders count their own losses */ }
    }
    return record;
  }

  private async syncOnce(): Promise<void> {
    const { file, last } = this;
    await new Promise<void>((resolve, reject) => {
      fdatasync(file, (error) => (error ? reject(new AuditError(`the audit log cannot be made durable (${error.message})`)) : resolve()));
    }).catch((error: unknown) => { if (file === this.file) throw error; }); // rotated meanwhile: rotate() has synced it
    if (last.sequence > this.durable) {
      this.durable = last.sequence;
      this.writeHead(last);
    }
  }

  /** In place, within one sector: old or new, and verify knows a torn one. */
  private writeHead({ sequence, hash }: ChainLink): void {
    writeSync(this.headFile, `${sequence} ${hash}`.padEnd(HEAD_BYTES - 1) + '\n', 0);
  }

  private rotate(): void {
    fsyncSync(this.file);
    this.durable = this.last.sequence;
    const name = `audit-${String(this.firstOfFile).padStart(12, '0')}.jsonl`;
    const at = (file: string): string => join(this.directory, file);
    let next: number;
    try {
      rmSync(at(NEXT_FILE), { force: true });
      next = openSync(at(NEXT_FILE), 'ax+', 0o600); // what can fail fails before anything is moved
      renameSync(at(CURRENT_FILE), at(name));
      renameSync(at(NEXT_FILE), at(CURRENT_FILE));
    } catch (error) {
      throw new AuditError(`the audit log cannot go on in a new file (${(error as Error).message}); make room in ${this.directory}`);
    }
    closeSync(this.file);
    this.file = next;
    this.bytes = 0;
    this.firstOfFile = this.last.sequence + 1;
    this.writeHead(this.last);
    this.retain();
  }

  /** What is deleted was said before it is: a crash in between deletes it at the next rotation. */
  private retain(): void {
    const files = rotatedFiles(this.directory);
    const going = files.slice(0, Math.max(0, files.length - this.limits.files));
    if (going.length === 0) return;
    const left = files[going.length];
    const through = left === undefined ? this.last.sequence : Number(ROTATED.exec(left)![1]) - 1;
    this.write({ event: 'retention', detail: { files: going, through } });
    fsyncSync(this.file);
    for (const name of going) rmSync(join(this.directory, name), { force: true });
  }

  // ---- start ------------------------------------------------------------------------------------------------------

  /** Throws AuditError. */
  private open(): void {
    const at = (file: string): string => join(this.directory, file);
    let headFile = CLOSED;
    try {
      mkdirSync(this.directory, { recursive: true, mode: 0o700 });
      closeSync(openSync(at(HEAD_FILE), 'a', 0o600));
      headFile = openSync(at(HEAD_FILE), 'r+');
      this.headFile = headFile;
      if (fstatSync(headFile).size === 0) this.writeHead(this.last);
      this.file = openSync(at(CURRENT_FILE), 'a+', 0o600);
      this.recover();
    } catch (error) {
      if (headFile !== CLOSED) closeSync(headFile);
      if (this.file !== CLOSED) closeSync(this.file);
      this.file = CLOSED;
      throw error instanceof AuditError ? error : new AuditError(`the audit log cannot be opened (${(error as Error).message}); make room in ${this.directory}, and let control write there`);
    }
  }

  /** Finds the end of the chain. Half a line at the end (a power cut) is cut off, and said. */
  private recover(): void {
    this.bytes = fstatSync(this.file).size;
    const end = lastLineOf(this.file, this.bytes);
    const torn = this.bytes - end.end;
    if (torn > 0) {
      ftruncateSync(this.file, end.end);
      this.bytes = end.end;
    }
    let line = end.line;
    if (line === undefined) line = this.lastRotatedLine();
    else this.firstOfFile = parseLine(firstLineOf(this.file))?.sequence ?? 1;
    const parsed = line === undefined ? undefined : parseLine(line);
    if (parsed) this.last = { sequence: parsed.sequence, hash: parsed.hash };
    if (end.line === undefined) this.firstOfFile = this.last.sequence + 1;
    this.durable = 0;
    if (torn > 0 || (line !== undefined && !parsed?.isIntact)) {
      this.write({ event: 'recovered', detail: torn > 0 ? { cutBytes: torn } : { damagedSequence: this.last.sequence } });
    }
  }

  private lastRotatedLine(): string | undefined {
    const name = rotatedFiles(this.directory).at(-1);
    if (name === undefined) return undefined;
    const file = openSync(join(this.directory, name), 'r');
    try {
      return lastLineOf(file, fstatSync(file).size).line;
    } finally {
      closeSync(file);
    }
  }
}

function lastLineOf(file: number, size: number): { line: string | undefined; end: number } {
  const from = Math.max(0, size - 2 * LINE_BYTES_MAX);
  const buffer = Buffer.alloc(size - from);
  readSync(file, buffer, 0, buffer.length, from);
  const end = buffer.lastIndexOf(0x0a);
  if (end < 0) return { line: undefined, end: 0 };
  const start = end === 0 ? -1 : buffer.lastIndexOf(0x0a, end - 1);
  return { line: buffer.toString('utf8', start + 1, end), end: from + end + 1 };
}

function firstLineOf(file: number): string {
  const buffer = Buffer.alloc(LINE_BYTES_MAX);
  const count = readSync(file, buffer, 0, buffer.length, 0);
  return buffer.toString('utf8', 0, Math.max(0, buffer.subarray(0, count).indexOf(0x0a)));
}

/** An event whose line would be too long keeps who and what; its detail says that it was cut. */
function shorten({ detail: _, path, ...event }: AuditEvent): AuditEvent {
  return { ...event, ...(path === undefined ? {} : { path: path.slice(0, TEXT_CHARACTERS_MAX) }), detail: { cut: true } };
}
