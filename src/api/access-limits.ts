// How often: a bucket for each principal, one for each address that fails to prove itself, and a ledger that makes floods of refusals
// one audit line. Who: access.ts, access-identity.ts. Pure but for the clock that is given.
// A failure budget never locks out who is right: a good token or certificate is let in whatever its address did before (access-identity.ts).
// Bounds: KEYS_MAX buckets of a kind (the one unused longest goes), LINES_PER_MINUTE lines a kind of refusal, LEDGER_MAX kinds,
// of callers that prove nothing STRANGERS_BURST and STRANGERS_PER_SECOND more.
import type { AuditEvent } from '../audit/log.js';
import { ApiError } from './errors.js';
import type { Principal } from './access.js';

const KEYS_MAX = 4096;
const LEDGER_MAX = 1024;
const LINES_PER_MINUTE = 10;
const LEDGER_MS = 60_000;
const STRANGERS = 'strangers';
const STRANGERS_PER_SECOND = 0.1;
const STRANGERS_BURST = 100;

export interface RateSettings { requestsPerSecond: number; burst: number; failuresPerMinute: number }
export const RATES_DEFAULT: RateSettings = { requestsPerSecond: 100, burst: 200, failuresPerMinute: 20 };

interface Bucket { tokens: number; atMs: number }

/** Token buckets by key; the least recently used goes when there are too many. */
export class Buckets {
  private readonly buckets = new Map<string, Bucket>();

  constructor(private readonly nowMs: () => number, private readonly keysMax = KEYS_MAX) {}

  get size(): number { return this.buckets.size; }

  /** 0: taken; else the milliseconds until there is one. */
  take(key: string, perSecond: number, burst: number): number {
    const bucket = this.refresh(key, perSecond, burst);
    if (bucket.tokens >= 1) {
      bucket.tokens -= 1;
      return 0;
    }
    return Math.ceil(((1 - bucket.tokens) / perSecond) * 1000);
  }

  /** As take, but leaves it there. */
  peek(key: string, perSecond: number, burst: number): number {
    const bucket = this.buckets.get(key);
    if (!bucket) return 0;
    const tokens = Math.min(burst, bucket.tokens + ((this.nowMs() - bucket.atMs) / 1000) * perSecond);
    return tokens >= 1 ? 0 : Math.ceil(((1 - tokens) / perSecond) * 1000);
  }

  private refresh(key: string, perSecond: number, burst: number): Bucket {
    const now = this.nowMs();
    const bucket = this.buckets.get(key) ?? { tokens: burst, atMs: now };
    bucket.tokens = Math.min(burst, bucket.tokens + ((now - bucket.atMs) / 1000) * perSecond);
    bucket.atMs = now;
    this.buckets.delete(key);
    this.buckets.set(key, bucket); // now the youngest
    if (this.buckets.size > this.keysMax) this.buckets.delete(this.buckets.keys().next().value!);
    return bucket;
  }
}

interface LedgerLine { event: AuditEvent; written: number; held: number; sinceMs: number }

export class AccessLimits {
  settings: RateSettings = RATES_DEFAULT;
  private readonly requests: Buckets;
  private readonly failures: Buckets;
  private readonly strangers: Buckets;
  private readonly ledger = new Map<string, LedgerLine>();

  constructor(private readonly nowMs: () => number = () => performance.now()) {
    this.requests = new Buckets(nowMs);
    this.failures = new Buckets(nowMs);
    this.strangers = new Buckets(nowMs);
  }

  /** Throws ApiError 429. Root on this machine's socket is not limited: it owns the machine. */
  takeRequest({ id, grant }: Principal): void {
    if (grant.kind === 'root' || grant.kind === 'internal') return;
    const { requestsPerSecond, burst } = this.settings;
    const waitMs = this.requests.take(id, requestsPerSecond, burst);
    if (waitMs > 0) throw tooOften(waitMs, `more than ${requestsPerSecond} requests a second`);
  }

  /** Has this address no failures left? Then what is costly to check is not checked. Throws ApiError 429. */
  requireFailuresLeft(address: string): void {
    const { failuresPerMinute } = this.settings;
    const waitMs = this.failures.peek(networkOf(address), failuresPerMinute / 60, failuresPerMinute);
    if (waitMs > 0) throw tooOften(waitMs, 'too many failed attempts to prove who asks');
  }

  countFailure(address: string): void {
    const { failuresPerMinute } = this.settings;
    this.failures.take(networkOf(address), failuresPerMinute / 60, failuresPerMinute);
  }

  /**
   * Writes the first LINES_PER_MINUTE of a kind; later ones become one line with their count. `isProven`: it is known who was refused. Who is
   * not may have as many addresses as he likes: when new ones come too fast, they are one kind, so that nobody rolls the log over.
   */
  recordRefusal(kind: string, event: AuditEvent, write: (event: AuditEvent) => void, isProven = false): void {
    if (!isProven && !this.ledger.has(kind) && this.strangers.take('', STRANGERS_PER_SECOND, STRANGERS_BURST) > 0) return this.recordRefusal(STRANGERS, event, write, true);
    const now = this.nowMs();
    let line = this.ledger.get(kind);
    if (line && now - line.sinceMs >= LEDGER_MS) {
      this.settle(line, write);
      this.ledger.delete(kind);
      line = undefined;
    }
    if (!line) {
      if (this.ledger.size >= LEDGER_MAX) {
        const [oldest, held] = this.ledger.entries().next().value!;
        this.settle(held, write);
        this.ledger.delete(oldest);
      }
      line = { event, written: 0, held: 0, sinceMs: now };
      this.ledger.set(kind, line);
    }
    if (line.written < LINES_PER_MINUTE) {
      line.written += 1;
      write(event);
    } else {
      line.held += 1;
      line.event = event;
    }
  }

  /** Writes what the ledger holds back of minutes that are over (all: at the end). Called by a timer. */
  settleRefusals(write: (event: AuditEvent) => void, all = false): void {
    for (const [kind, line] of this.ledger) {
      if (!all && this.nowMs() - line.sinceMs < LEDGER_MS) continue;
      this.settle(line, write);
      this.ledger.delete(kind);
    }
  }

  private settle(line: LedgerLine, write: (event: AuditEvent) => void): void {
    if (line.held > 0) write({ ...line.event, count: line.held });
    line.held = 0;
  }
}

function tooOften(waitMs: number, why: string): ApiError {
  const seconds = Math.max(1, Math.ceil(waitMs / 1000));
  return new ApiError(429, 'SLUICE_API_RATE', `${why}; try again in ${seconds} s`, undefined, { headers: { 'retry-after': String(seconds) } });
}

/** Whoever has one IPv6 address has its /64. */
export function networkOf(address: string): string {
  if (!address.includes(':') || address.startsWith('::ffff:')) return address;
  const [head = '', tail = ''] = address.split('%')[0]!.split('::');
  const first = head === '' ? [] : head.split(':');
  const last = tail === '' ? [] : tail.split(':');
  const all = [...first, ...Array<string>(Math.max(0, 8 - first.length - last.length)).fill('0'), ...last];
  return all.slice(0, 4).map((part) => parseInt(part, 16).toString(16)).join(':');
}
