// Records to the process's standard output, as JSON lines. A reader that stalls must hold up nothing: the descriptor is opened anew,
// non-blocking, where the system allows it (a pipe, a terminal, a file), and a full pipe is tried again after RETRY_MS.
// Who: stream.ts. Thread: control's main thread. Bound: one write under way.
import { constants, openSync, write } from 'node:fs';
import { Sink, type Run, type SinkLog } from './sink.js';

const RETRY_MS = 20;
const STDOUT = 1;
let opened: number | undefined;

/** Called while the process may still open it; else at the first use. */
export function openStdout(): number {
  if (opened !== undefined) return opened;
  try {
    opened = openSync(`/proc/self/fd/${STDOUT}`, constants.O_WRONLY | constants.O_APPEND | constants.O_NONBLOCK | constants.O_NOCTTY);
  } catch {
    opened = STDOUT; // a socket, like the journal's: it is read always
  }
  return opened;
}

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
