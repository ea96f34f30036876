// Records to a file: appended, rotated by size and age, old files removed, optionally compressed. One write is under way at a time, of
// everything that waits; a disk that is full or slow costs records (counted), never time. Who: stream.ts.
// A rotated file is PATH.YYYYMMDDTHHMMSS.mmmZ, with .gz when compressed: names sort by age, and none is ever renamed again.
// A file that somebody else moved or removed (logrotate) is opened anew within CHECK_MS. A line cut by a crash is ended before we append.
import { createReadStream, createWriteStream, type Stats } from 'node:fs';
import { mkdir, open, readdir, rename, rm, stat, type FileHandle } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { createGzip } from 'node:zlib';
import { Backoff, Sink, type Run, type SinkLog } from './sink.js';

const WRITE_RUNS_MAX = 32;
const CHECK_MS = 5000;
const RETRY_MS_MIN = 500;
const RETRY_MS_MAX = 30_000;
const NEWLINE = 10;

const ROTATED = /^(\d{8}T\d{6}\.\d{3}Z)(?:-(\d+))?(\.gz|\.gz\.tmp)?$/;

export interface Rotation { bytes: number; hours?: number; files: number; gzip: boolean }

export class FileSink extends Sink {
  private file: FileHandle | undefined;
  private size = 0;
  private openedAtMs = 0;
  private identity = '';
  private checkedAtMs = 0;
  private isWriting = false;
  private retryTimer: NodeJS.Timeout | undefined;
  private compressing: Promise<void> = Promise.resolve();
  private readonly backoff = new Backoff(RETRY_MS_MIN, RETRY_MS_MAX);

  constructor(private readonly path: string, private readonly rotation: Rotation, bufferBytes: number, log: SinkLog, private readonly now: () => number = Date.now) {
    super(bufferBytes, log);
    this.pump();
  }

  /** Waits for compression too: for tests and a clean end. */
  get settled(): Promise<void> { return this.compressing; }

  protected override get busy(): boolean { return super.busy || this.isWriting; }

  protected pump(): void {
    if (this.isWriting || this.closing || this.retryTimer) return;
    if (this.queue.length === 0 && this.file) return;
    this.isWriting = true;
    void this.write();
  }

  private async write(): Promise<void> {
    try {
      const file = await this.ready();
      while (this.queue.length > 0) {
        const runs: Run[] = [];
        while (runs.length < WRITE_RUNS_MAX && this.queue.length > 0) runs.push(this.shift()!);
        const records = runs.reduce((sum, run) => sum + run.records, 0);
        const bytes = runs.reduce((sum, run) => sum + run.bytes.length, 0);
        try {
          await writeWhole(file, runs.map((run) => run.bytes), bytes);
        } catch (error) {
          this.countLost(records); // part of it may stand there; repeating it would double what does
          throw error;
        }
        for (const run of runs) run.done?.();
        this.size += bytes;
        this.countSent(records);
        if (this.isDue()) break;
      }
      this.isWriting = false;
      if (this.queue.length > 0) this.pump();
      else this.settle();
    } catch (error) {
      this.failed(error);
      await this.file?.close().catch(() => undefined);
      this.file = undefined;
      this.isWriting = false;
      if (!this.closing) {
        this.retryTimer = setTimeout(() => {
          this.retryTimer = undefined;
          this.pump();
        }, this.backoff.next());
        this.retryTimer.unref();
      }
    }
  }

  private isDue(): boolean {
    return this.size >= this.rotation.bytes || (this.rotation.hours !== undefined && this.size > 0 && this.now() - this.openedAtMs >= this.rotation.hours * 3_600_000);
  }

  private async ready(): Promise<FileHandle> {
    if (this.file && this.now() - this.checkedAtMs >= CHECK_MS) {
      this.checkedAtMs = this.now();
      const there = await stat(this.path).catch(() => undefined);
      if (!there || identityOf(there) !== this.identity) await this.closeFile();
    }
    if (this.file && this.isDue()) {
      await this.closeFile();
      await this.rotate();
    }
    this.file ??= await this.open();
    return this.file;
  }

  private async open(): Promise<FileHandle> {
    await mkdir(dirname(this.path), { recursive: true, mode: 0o750 });
    const file = await open(this.path, 'a+', 0o640);
    try {
      const stats = await file.stat();
      if (stats.size > 0 && stats.size >= this.rotation.bytes) {
        await file.close();
        await this.rotate();
        return await this.open();
      }
      if (stats.size > 0) {
        const last = Buffer.alloc(1);
        await file.read(last, 0, 1, stats.size - 1);
        if (last[0] !== NEWLINE) await file.write('\n');
      }
      this.size = stats.size;
      this.identity = identityOf(stats);
      // Not every file system knows when a file was made.
      this.openedAtMs = stats.size > 0 ? Math.min(stats.birthtimeMs > 0 ? stats.birthtimeMs : stats.ctimeMs, this.now()) : this.now();
    } catch (error) {
      await file.close().catch(() => undefined); // it may be closed already
      throw error;
    }
    this.checkedAtMs = this.now();
    this.backoff.reset();
    this.came(`writing to ${this.path}`);
    return file;
  }

  private async rotate(): Promise<void> {
    const stamp = new Date(this.now()).toISOString().replaceAll(/[-:]/g, '');
    let to = `${this.path}.${stamp}`;
    for (let n = 1; await exists(to) || await exists(`${to}.gz`); n += 1) to = `${this.path}.${stamp}-${n}`;
    await rename(this.path, to);
    // One after the other: of two at once the later could end first, and files be counted while one has two names.
    this.compressing = this.compressing.then(async () => {
      await this.removeOld(); // first: it may be one of too many itself
      if (this.rotation.gzip && await exists(to)) await compress(to);
    }).catch((error: unknown) => this.failed(error));
  }

  private async removeOld(): Promise<void> {
    const directory = dirname(this.path);
    const prefix = `${basename(this.path)}.`;
    const names = (await readdir(directory)).filter((name) => name.startsWith(prefix));
    const rotated = names.flatMap((name) => {
      const match = ROTATED.exec(name.slice(prefix.length));
      return match ? [{ name, stamp: match[1]!, nth: Number(match[2] ?? 0), isHalf: match[3] === '.gz.tmp' }] : [];
    });
    const whole = rotated.filter(({ isHalf }) => !isHalf).sort((a, b) => (a.stamp === b.stamp ? a.nth - b.nth : a.stamp < b.stamp ? -1 : 1));
    // What a compression left that was cut short is of no use: its source still stands there.
    const gone = [...rotated.filter(({ isHalf }) => isHalf), ...whole.slice(0, Math.max(0, whole.length - this.rotation.files))];
    for (const { name } of gone) await rm(join(directory, name), { force: true });
  }

  private async closeFile(): Promise<void> {
    const { file } = this;
    this.file = undefined;
    await file?.close();
  }

  protected async end(): Promise<void> {
    clearTimeout(this.retryTimer);
    await this.closeFile().catch(() => undefined);
    await this.compressing;
  }
}

/** writev may write less than all. */
async function writeWhole(file: FileHandle, buffers: readonly Buffer[], bytes: number): Promise<void> {
  const { bytesWritten } = await file.writev(buffers);
  if (bytesWritten === bytes) return;
  const rest = Buffer.concat(buffers).subarray(bytesWritten);
  for (let done = 0; done < rest.length;) done += (await file.write(rest, done)).bytesWritten;
}

async function compress(path: string): Promise<void> {
  const temporary = `${path}.gz.tmp`;
  try {
    await pipeline(createReadStream(path), createGzip({ level: 1 }), createWriteStream(temporary, { mode: 0o640 }));
    await rename(temporary, `${path}.gz`);
    await rm(path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
}

const identityOf = ({ dev, ino }: Stats): string => `${dev}:${ino}`;
const exists = (path: string): Promise<boolean> => stat(path).then(() => true, () => false);
