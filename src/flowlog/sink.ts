// What all sinks share: a bounded queue of runs of whole records, numbers about them, and a way on to wherever they go. A sink takes what
// it is given at once and never waits: when its receiver does not keep up, the oldest records go and are counted; no sink touches another.
// Who: stream.ts gives runs; file-sink.ts, connection-sink.ts, datagram-sink.ts and stdout-sink.ts say how they leave.
// Thread: control's main thread. Bound: `bufferBytes` of waiting runs.
import { errorMessage } from '../engine/ipc.js';

/** Records as they leave. `ends`: where each message ends, for sinks that send them one by one. `done`: the bytes are not needed any more. */
export interface Run { bytes: Buffer; records: number; ends?: readonly number[]; stamp?(nowMs: number): void; done?(): void }

export interface SinkStats {
  sent: number;          // records handed to the kernel
  lost: number;          // records given up: the buffer was full, or the receiver refused them
  waitingBytes: number;
  connected: boolean;
  failures: number;      // times it could not send or connect
  lastError: string | null;
}

export type SinkLog = (isUp: boolean, message: string) => void;

export abstract class Sink {
  protected readonly queue: Run[] = [];
  protected connected = false;
  protected closing = false;
  private waitingBytes = 0;
  private sent = 0;
  private lost = 0;
  private failures = 0;
  private lastError: string | null = null;
  private isTold = false;
  private onEmpty: (() => void) | undefined;

  constructor(private readonly bufferBytes: number, private readonly log: SinkLog) {}

  get stats(): SinkStats {
    return { sent: this.sent, lost: this.lost, waitingBytes: this.waitingBytes, connected: this.connected, failures: this.failures, lastError: this.lastError };
  }

  push(run: Run): void {
    if (this.closing) {
      this.lost += run.records;
      return;
    }
    this.queue.push(run);
    this.waitingBytes += run.bytes.length;
    while (this.waitingBytes > this.bufferBytes && this.queue.length > 0) this.lost += this.shift()!.records;
    this.pump();
  }

  /** Tries for `graceMs` to send what waits, then gives it up. */
  async close(graceMs: number): Promise<void> {
    if (this.busy && graceMs > 0) {
      let timer: NodeJS.Timeout | undefined;
      await new Promise<void>((resolve) => {
        timer = setTimeout(resolve, graceMs);
        this.onEmpty = resolve;
      });
      clearTimeout(timer);
    }
    this.closing = true;
    const lostBefore = this.lost;
    while (this.queue.length > 0) this.lost += this.shift()!.records;
    await this.end();
    const lost = this.lost - lostBefore;
    if (lost > 0) this.log(false, `${lost} records that waited were given up at its end`); // its counters go with it
  }

  /** Sends from the queue when it can; returns at once. */
  protected abstract pump(): void;
  protected abstract end(): Promise<void> | void;
  /** Something is under way or waits. */
  protected get busy(): boolean { return this.queue.length > 0; }

  protected shift(): Run | undefined {
    const run = this.queue.shift();
    if (run) this.waitingBytes -= run.bytes.length;
    return run;
  }

  protected unshift(run: Run): void {
    this.queue.unshift(run);
    this.waitingBytes += run.bytes.length;
  }

  protected countSent(records: number): void {
    this.sent += records;
    this.settle();
  }

  /** Whoever waits for the end of all writing learns of it. */
  protected settle(): void { if (!this.busy) this.onEmpty?.(); }

  protected countLost(records: number): void { this.lost += records; }

  protected came(message: string): void {
    this.connected = true;
    if (this.isTold) this.log(true, message);
    this.isTold = false;
  }

  /** Said once until it works again: a receiver that is away must not fill the log. */
  protected failed(error: unknown): void {
    this.connected = false;
    this.failures += 1;
    this.lastError = errorMessage(error);
    if (!this.isTold && !this.closing) this.log(false, this.lastError);
    this.isTold = true;
  }
}

/** Delays between attempts: doubling from the least to the most, with up to a quarter more so that many do not come at once. */
export class Backoff {
  private ms: number;
  constructor(private readonly minimumMs: number, private readonly maximumMs: number, private readonly random: () => number = Math.random) { this.ms = minimumMs; }
  next(): number {
    const delay = this.ms * (1 + this.random() / 4);
    this.ms = Math.min(this.maximumMs, this.ms * 2);
    return delay;
  }
  reset(): void { this.ms = this.minimumMs; }
}
