// Who sends most, found by looking at sessions twice. Who: src/cli/commands/top.ts.
// Bounds: a look takes WINDOW_SESSIONS_MAX sessions, and two looks are taken a round, however large the table is. A table that fits is
// seen whole each round. Of a larger one a window is looked at in one round and again in the next, then the next window: a talker found
// so is kept for KEEP_MS. TALKERS_MAX are kept.
import type { ApiClient } from '../../api/client.js';
import type { FlowRecordView } from '../../engine/records.js';

export const WINDOW_SESSIONS_MAX = 1000;
const KEEP_MS = 30_000;
const TALKERS_MAX = 200;

/** Sessions between two hosts to one port: a browser's many connections are one talker. */
export interface Talker {
  protocol: string; source: string; destination: string; destinationPort: number; rule: string | null;
  sessions: number; bitsPerSecond: number; packetsPerSecond: number;
}

/** As control gave it; undefined: where the table begins. */
type Cursor = string | undefined;
interface SessionPage { sessions: FlowRecordView[]; cursor: string | null }
interface Volume { bytes: number; packets: number }
interface Look { start: Cursor; next: Cursor; atMs: number; sessions: FlowRecordView[]; volumes: Map<string, Volume> }

const volumeOf = ({ bytes, packets }: FlowRecordView): Volume => ({ bytes: bytes[0] + bytes[1], packets: packets[0] + packets[1] });

export class TalkerSampler {
  private baseline: Look | undefined;
  private readonly found = new Map<string, Talker & { atMs: number }>();

  constructor(private readonly client: Pick<ApiClient, 'get'>, private readonly nowMs: () => number = () => performance.now()) {}

  async round(): Promise<{ talkers: Talker[]; sampled: number }> {
    const { baseline } = this;
    const look = await this.look(baseline?.start);
    if (baseline) this.compare(baseline, look);
    const isWhole = look.start === undefined && look.next === undefined;
    this.baseline = isWhole || !baseline ? look : await this.look(look.next);
    const keepSince = this.nowMs() - (isWhole ? 0 : KEEP_MS);
    const sorted = [...this.found.entries()].filter(([, talker]) => talker.atMs >= (isWhole ? look.atMs : keepSince))
      .sort(([, a], [, b]) => b.bitsPerSecond - a.bitsPerSecond).slice(0, TALKERS_MAX);
    this.found.clear();
    for (const [key, talker] of sorted) this.found.set(key, talker);
    return { talkers: sorted.map(([, { atMs: _, ...talker }]) => talker), sampled: look.sessions.length };
  }

  private async look(start: Cursor): Promise<Look> {
    const page = await this.client.get<SessionPage>('/api/v1/sessions', { limit: WINDOW_SESSIONS_MAX, cursor: start });
    return {
      start, next: page.cursor ?? undefined, atMs: this.nowMs(), sessions: page.sessions,
      volumes: new Map(page.sessions.map((session) => [session.sessionId, volumeOf(session)])),
    };
  }

  private compare(before: Look, after: Look): void {
    const seconds = (after.atMs - before.atMs) / 1000;
    if (seconds <= 0) return;
    const fresh = new Map<string, Talker & { atMs: number }>();
    for (const session of after.sessions) {
      const then = before.volumes.get(session.sessionId);
      const now = volumeOf(session);
      // A session that the first look did not see began since, when that look saw the whole table.
      const known = then ?? (before.next === undefined && before.start === undefined ? { bytes: 0, packets: 0 } : undefined);
      if (!known || now.bytes <= known.bytes) continue;
      const { protocol, source, destination, rule } = session;
      const destinationPort = protocol.startsWith('icmp') ? 0 : session.destinationPort;
      const key = `${protocol} ${source} ${destination} ${destinationPort}`;
      const talker = fresh.get(key) ?? { protocol, source, destination, destinationPort, rule, sessions: 0, bitsPerSecond: 0, packetsPerSecond: 0, atMs: after.atMs };
      talker.sessions += 1;
      talker.bitsPerSecond += (now.bytes - known.bytes) * 8 / seconds;
      talker.packetsPerSecond += (now.packets - known.packets) / seconds;
      fresh.set(key, talker);
    }
    for (const [key, talker] of fresh) this.found.set(key, talker);
  }
}
