// Records to the process's standard output, as JSON lines: under `sluice up` that is the supervisor's (src/supervisor/relay.ts), under
// systemd the journal. A reader that stalls holds up nothing: a full pipe is tried again after RETRY_MS.
// Who: stream.ts. Thread: control's main thread. Bound: one write under way.
import { write } from 'node:fs';
import { openStdout } from '../supervisor/relay.js';
import { Sink, type Run, type SinkLog } from './sink.js';

const RETRY_MS = 20;

export class StdoutSink extends Sink {
  private current: { run: Run; at: number } | undefined;
  private isWriting = false;
  private timer: NodeJS.Timeout | undefined;

  constructor(bufferBytes: number, log: SinkLog, private readonly descriptor = openStdout()) {
    super(bufferBytes, log);
    this.came('writing to standard output');
  }

  protected override get busy(): boolean { return super.busy || this.current !== undefined; }

  protected pump(): void {
    if (this.isWriting || this.timer || this.closing) return;
    const run = this.current?.run ?? this.shift();
    if (!run) return;
    this.current ??= { run, at: 0 };
    this.isWriting = true;
    write(this.descriptor, run.bytes, this.current.at, (error, written) => this.onWritten(error, written));
  }

  private onWritten(error: NodeJS.ErrnoException | null, written: number): void {
    this.isWriting = false;
    const current = this.current!;
    if (error?.code === 'EAGAIN') {
      this.timer = setTimeout(() => {
        this.timer = undefined;
        this.pump();
      }, RETRY_MS);
      this.timer.unref();
      return;
    }
    if (error) {
      this.countLost(current.run.records);
      this.current = undefined;
      this.failed(error);
    } else {
      current.at += written;
      if (current.at === current.run.bytes.length) {
        this.current = undefined;
        this.came('writing to standard output');
        this.countSent(current.run.records);
      }
    }
    this.pump();
  }

  protected end(): void { clearTimeout(this.timer); }
}
