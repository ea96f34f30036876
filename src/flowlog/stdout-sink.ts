// Records to the process's standard output, as JSON lines: under `sluice up` that is the supervisor's (src/supervisor/relay.ts), under
// systemd the journal. A reader that stalls holds up nothing: a full pipe is tried again after RETRY_MS.
// Who: stream.ts. Thread: control's main thread. Bound: one run under way a descriptor; streams that share it take turns, for a pipe takes
// a part of a run at a time, and lines must stay whole.
import { write } from 'node:fs';
import { openStdout } from '../supervisor/relay.js';
import { Sink, type Run, type SinkLog } from './sink.js';

const RETRY_MS = 20;
const NEWLINE = Buffer.from('\n');

/** `isCut`: a run was given up within a line; the next one ends that first. */
interface Turns { holder: StdoutSink | undefined; readonly waiting: Set<StdoutSink>; isCut: boolean }
const turnsOf = new Map<number, Turns>();

export class StdoutSink extends Sink {
  private current: { records: number; bytes: Buffer; at: number } | undefined;
  private isWriting = false;
  private timer: NodeJS.Timeout | undefined;
  private readonly turns: Turns;

  constructor(bufferBytes: number, log: SinkLog, private readonly descriptor = openStdout()) {
    super(bufferBytes, log);
    this.turns = turnsOf.get(descriptor) ?? { holder: undefined, waiting: new Set(), isCut: false };
    turnsOf.set(descriptor, this.turns);
    this.came('writing to standard output');
  }

  protected override get busy(): boolean { return super.busy || this.current !== undefined; }

  protected pump(): void {
    if (this.isWriting || this.timer || this.closing) return;
    const current = this.current ??= this.begin();
    if (!current) return;
    this.isWriting = true;
    write(this.descriptor, current.bytes, current.at, (error, written) => this.onWritten(error, written));
  }

  private begin(): StdoutSink['current'] {
    const { turns } = this;
    if (turns.holder) {
      if (this.queue.length > 0) turns.waiting.add(this);
      return undefined;
    }
    const run: Run | undefined = this.shift();
    if (!run) return undefined;
    turns.holder = this;
    const bytes = turns.isCut ? Buffer.concat([NEWLINE, run.bytes]) : run.bytes;
    turns.isCut = false;
    return { records: run.records, bytes, at: 0 };
  }

  /** The others first. */
  private pass(): void {
    const { turns } = this;
    this.current = undefined;
    turns.holder = undefined;
    for (const next of [...turns.waiting]) {
      turns.waiting.delete(next);
      next.pump();
      if (turns.holder) break;
    }
    this.pump();
  }

  private onWritten(error: NodeJS.ErrnoException | null, written: number): void {
    this.isWriting = false;
    const current = this.current!;
    if (this.closing) { // it was given up, and counted, meanwhile
      if (!error) current.at += written;
      this.giveUp(current);
      return;
    }
    if (error?.code === 'EAGAIN') {
      this.timer = setTimeout(() => {
        this.timer = undefined;
        this.pump();
      }, RETRY_MS);
      this.timer.unref();
      return;
    }
    if (error) {
      this.countLost(current.records);
      this.failed(error);
      this.giveUp(current);
      return;
    }
    current.at += written;
    if (current.at < current.bytes.length) {
      this.pump();
      return;
    }
    this.came('writing to standard output');
    const { records } = current;
    this.pass();
    this.countSent(records);
  }

  protected end(): void {
    clearTimeout(this.timer);
    this.turns.waiting.delete(this);
    if (!this.current) return;
    this.countLost(this.current.records);
    if (!this.isWriting) this.giveUp(this.current);
  }

  private giveUp({ at, bytes }: { at: number; bytes: Buffer }): void {
    this.turns.isCut ||= at > 0 && at < bytes.length;
    this.pass();
  }
}
