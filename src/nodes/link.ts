// This node's way to another one: calls it, again and again, and at once when there is news. Who: src/nodes/trusted.ts, one a node with a url.
// Bounds: one exchange at a time; EXCHANGE_MS with jitter between two, RETRY_MS_MIN doubling to EXCHANGE_MS while the other end is away or has
// not put in force what it was told.
import { exchange, type Message } from './exchange.js';
import type { NodeIdentity } from './identity.js';

export const EXCHANGE_MS = 30_000;
const RETRY_MS_MIN = 500;
/** All nodes start together after a power cut; they shall not go on together. */
const JITTER = 0.25;

export interface LinkParts {
  message(): Message;
  /** Resolves when what was said is in force, or not for now. */
  taken(answer: Message): Promise<void>;
  failed(error: unknown): void;
  /** The other end has not our newest record in force. */
  isBehind(): boolean;
  /** What is in force of theirs is something else than what was told them. */
  hasNews(told: number | null): boolean;
}

export class Link {
  private timer: NodeJS.Timeout | undefined;
  private running = false;
  private again = false;
  private stopped = false;
  private retryMs = RETRY_MS_MIN;

  constructor(private readonly url: URL, private readonly id: string, private readonly identity: NodeIdentity, private readonly parts: LinkParts) { this.wake(); }

  /** There is something to tell. */
  wake(): void {
    this.retryMs = RETRY_MS_MIN;
    this.again = this.running;
    if (!this.running) this.after(0);
  }

  stop(): void {
    this.stopped = true;
    clearTimeout(this.timer);
  }

  private after(ms: number): void {
    if (this.stopped) return;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => void this.run(), ms);
    this.timer.unref();
  }

  private async run(): Promise<void> {
    this.running = true;
    this.again = false;
    const message = this.parts.message();
    let isGood = false;
    try {
      const answer = await exchange(this.url, this.id, this.identity, message);
      if (!this.stopped) await this.parts.taken(answer);
      isGood = true;
    } catch (error) {
      if (!this.stopped) this.parts.failed(error);
    }
    this.running = false;
    if (this.stopped) return;
    if (this.again || (isGood && this.parts.hasNews(message.have))) return this.after(0);
    if (isGood && !this.parts.isBehind()) {
      this.retryMs = RETRY_MS_MIN;
      return this.after(jittered(EXCHANGE_MS));
    }
    this.after(jittered(this.retryMs));
    this.retryMs = Math.min(EXCHANGE_MS, this.retryMs * 2);
  }
}

const jittered = (ms: number): number => ms * (1 - JITTER + 2 * JITTER * Math.random());
