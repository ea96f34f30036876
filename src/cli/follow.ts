// Follows records as they come: asks control for what came after the last one seen. Who: flows, drops and observe with --follow.
// Bounds: PAGE_MAX records an answer, INTERVAL_MS between answers that brought nothing. Ends at SIGINT, or when control does.
import { setTimeout as delay } from 'node:timers/promises';
import { ApiClient, ClientError, type Query } from '../api/client.js';
import type { AnyRecord } from '../control/filter.js';

const PAGE_MAX = 1000;
const INTERVAL_MS = 250;
const AWAY_MS_MAX = 30_000; // control restarts within this, or is gone

export interface RecordPage<T> { records: T[]; last: number; missed: number }
export type RecordPath = '/api/v1/flows' | '/api/v1/drops';

/** `paths`: one list or both, merged by time. */
export async function followRecords<T extends AnyRecord>(
  client: ApiClient, paths: readonly RecordPath[], query: Query, show: (record: T) => void, showMissed: (count: number) => void,
): Promise<void> {
  process.once('SIGINT', () => process.exit(0)); // the way to end it is no failure
  const positions = new Map<RecordPath, number>();
  for (const path of paths) positions.set(path, (await client.get<RecordPage<T>>(path, { last: 1 })).last);
  let awaySinceMs: number | undefined;
  for (;;) {
    const fresh: T[] = [];
    let isFull = false;
    try {
      for (const path of paths) {
        const page = await client.get<RecordPage<T>>(path, { ...query, last: PAGE_MAX, after: positions.get(path) ?? 0 });
        positions.set(path, page.last);
        if (page.missed > 0) showMissed(page.missed);
        isFull ||= page.records.length >= PAGE_MAX;
        fresh.push(...page.records);
      }
      awaySinceMs = undefined;
    } catch (error) {
      if (!(error instanceof ClientError) || error.code !== 'NOT_RUNNING') throw error;
      awaySinceMs ??= performance.now();
      if (performance.now() - awaySinceMs > AWAY_MS_MAX) throw error;
    }
    fresh.sort((a, b) => (a.time < b.time ? -1 : 1)).forEach(show);
    if (!isFull) await delay(INTERVAL_MS);
  }
}
