// "update" records of long sessions: every so often the engine's session table is read page by page, and each session that is older than
// the interval, had packets in it and whose rule records its end becomes one record. The engine does nothing for it but list sessions.
// Who: FlowLog. Bounds: PAGE_SESSIONS a page, pages paced so that a table of SESSIONS_PLANNED takes half the interval at most.
import { FLOW_RECORD_BYTES, readRule, readSnapshotHeader, RULE_BYTES, SL_LOG_END } from '../engine/abi.generated.js';
import { viewOf } from '../engine/records.js';
import { Flow } from './layout.js';
import { readMilliseconds } from './output.js';

const PAGE_SESSIONS = 1024;
const SESSIONS_PLANNED = 1_048_576;
const PAUSE_MS_MAX = 100;

export interface SessionPages { sessions(cursor: number, limit: number): Promise<{ count: number; cursor: number; bytes: Uint8Array }> }

/** Ids of rules that record ends. */
export function loggedRules(snapshot: Uint8Array): Set<number> {
  const view = viewOf(snapshot);
  const { rules } = readSnapshotHeader(view, 0);
  const ids = new Set<number>();
  for (let index = 0; index < rules.count; index += 1) {
    const { id, log } = readRule(view, rules.offset + index * RULE_BYTES);
    if ((log & SL_LOG_END) !== 0) ids.add(id);
  }
  return ids;
}

export class Updates {
  private timer: NodeJS.Timeout | undefined;
  private intervalMs = 0;
  private stopped = false;
  private passes = 0;

  constructor(private readonly engine: SessionPages, private readonly isLogged: (ruleId: number) => boolean, private readonly onRecords: (flows: number, bytes: Uint8Array) => void, private readonly now: () => number = Date.now) {}

  /** 0: none. */
  setInterval(seconds: number): void {
    if (seconds * 1000 === this.intervalMs) return;
    this.intervalMs = seconds * 1000;
    this.passes += 1; // a pass under way ends
    clearTimeout(this.timer);
    this.timer = undefined;
    if (this.intervalMs > 0 && !this.stopped) this.wait(this.intervalMs);
  }

  stop(): void {
    this.stopped = true;
    this.passes += 1;
    clearTimeout(this.timer);
  }

  private wait(ms: number): void {
    this.timer = setTimeout(() => void this.pass(), ms);
    this.timer.unref();
  }

  /** One walk through the table. */
  async pass(): Promise<void> {
    const pass = this.passes;
    const startedMs = this.now();
    const pauseMs = Math.min(PAUSE_MS_MAX, (this.intervalMs / 2) / (SESSIONS_PLANNED / PAGE_SESSIONS));
    let cursor = 0;
    try {
      do {
        const page = await this.engine.sessions(cursor, PAGE_SESSIONS);
        if (pass !== this.passes) return;
        this.take(page.bytes, page.count);
        cursor = page.cursor;
        if (cursor !== 0) await new Promise((resolve) => setTimeout(resolve, pauseMs));
      } while (cursor !== 0 && pass === this.passes);
    } catch { /* the engine is away; the next pass may find it */ }
    if (pass === this.passes && !this.stopped) this.wait(Math.max(1000, this.intervalMs - (this.now() - startedMs)));
  }

  private take(page: Uint8Array, count: number): void {
    const view = viewOf(page);
    const since = this.now() - this.intervalMs;
    const kept = new Uint8Array(page.length);
    let records = 0;
    for (let offset = 0; offset < count * FLOW_RECORD_BYTES; offset += FLOW_RECORD_BYTES) {
      const isLong = readMilliseconds(view, offset + Flow.START) <= since;
      if (!isLong || readMilliseconds(view, offset + Flow.LAST) < since || !this.isLogged(view.getUint32(offset + Flow.RULE, true))) continue;
      kept.set(page.subarray(offset, offset + FLOW_RECORD_BYTES), records * FLOW_RECORD_BYTES);
      records += 1;
    }
    if (records > 0) this.onRecords(records, kept.subarray(0, records * FLOW_RECORD_BYTES));
  }
}
