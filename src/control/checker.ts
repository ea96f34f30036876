// Examines configurations that somebody only asks about. A dense one of 4 MiB takes seconds, and any viewer may ask: so it is done in a thread beside
// control's, which goes on answering. Who: src/control/process.ts makes one; src/api/routes/config.ts asks, and the first question starts it. Thread: control's main one.
// Bounds: one question at a time, the others wait; how many may is src/api/limits.ts's business, how long one takes the check's own.
import { Worker } from 'node:worker_threads';
import { ApiError } from '../api/errors.js';
import { checkText } from '../config/check.js';
import type { Facts } from '../config/facts.js';
import type { Problem } from '../config/problem.js';
import type { Log } from '../supervisor/log.js';

export interface CheckQuestion { number: number; text: string; facts: Facts | undefined }
export interface CheckAnswer { number: number; isValid: boolean; problems: Problem[] }
export type Check = (text: string, facts: Facts | undefined) => Promise<Pick<CheckAnswer, 'isValid' | 'problems'>>;

interface Waiter { resolve(answer: CheckAnswer): void; reject(error: Error): void }

/** In the thread that asks: what tests do. */
export const checkHere: Check = async (text, facts) => {
  const { problems, config } = checkText(text, 'configuration', facts);
  return { problems, isValid: config !== undefined };
};

export class Checker {
  private worker: Worker | undefined;
  private readonly waiters = new Map<number, Waiter>();
  private last = 0;

  constructor(private readonly log: Log) {}

  /** Resolves when it is loaded, or cannot be. */
  start(): Promise<void> {
    const worker = new Worker(new URL('./check-worker.js', import.meta.url));
    this.worker = worker;
    worker.unref();
    return new Promise((resolve) => {
      worker.on('message', (message: CheckAnswer | 'ready') => {
        if (message === 'ready') return resolve();
        this.waiters.get(message.number)?.resolve(message);
        this.waiters.delete(message.number);
      });
      worker.on('error', (error) => this.log.error({ err: error }, 'the thread that checks configurations failed'));
      worker.on('exit', () => {
        if (this.worker === worker) this.worker = undefined;
        for (const { reject } of this.waiters.values()) reject(new ApiError(503, 'SLUICE_NOT_READY', 'the check of a configuration broke off; `sluice check` does the same, and so does a commit with dryRun'));
        this.waiters.clear();
        resolve();
      });
    });
  }

  readonly check: Check = (text, facts) => {
    if (!this.worker) void this.start();
    const number = this.last += 1;
    return new Promise((resolve, reject) => {
      this.waiters.set(number, { resolve, reject });
      this.worker!.postMessage({ number, text, facts } satisfies CheckQuestion);
    });
  };

  async stop(): Promise<void> { await this.worker?.terminate(); }
}
