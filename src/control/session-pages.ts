// Live sessions in pages, one session by its id, and ending them. Who: src/api/routes/sessions.ts. The engine's cursor is the place in its
// table where the next page begins, and a session's id has its place in its low 32 bits: so a page may end anywhere.
// Bounds: SCAN_MAX sessions looked at a page; ENGINE_PAGE sessions an answer of the engine; KILLS_AT_ONCE requests to it.
import { FLOW_RECORD_BYTES, readFlowRecord } from '../engine/abi.generated.js';
import { decodeFlow, viewOf, type FlowRecordView, type Names } from '../engine/records.js';
import type { EngineClient } from './engine-client.js';
import type { SessionFilter } from './session-filter.js';

const SCAN_MAX = 65_536;
const ENGINE_PAGE = 1024;
const KILLS_AT_ONCE = 32;
const PLACE_MASK = 0xffff_ffffn;

type Engine = Pick<EngineClient, 'sessions' | 'kill'>;
/** `cursor` 0: that was the end. */
export interface SessionPage<T> { sessions: T[]; cursor: number }

/** With a narrow filter a page may be short, or empty, and still have a cursor. */
export async function readSessions(engine: Engine, names: Names, cursor: number, limit: number, filter: SessionFilter | undefined): Promise<SessionPage<FlowRecordView>> {
  return scan(engine, cursor, limit, filter, (view, offset) => decodeFlow(view, offset, names));
}

async function scan<T>(engine: Engine, cursor: number, limit: number, filter: SessionFilter | undefined, take: (view: DataView, offset: number) => T): Promise<SessionPage<T>> {
  const sessions: T[] = [];
  let at = cursor;
  for (let scanned = 0; scanned < SCAN_MAX && sessions.length < limit;) {
    const page = await engine.sessions(at, filter ? ENGINE_PAGE : Math.min(ENGINE_PAGE, limit - sessions.length));
    const view = viewOf(page.bytes);
    at = page.cursor;
    for (let index = 0; index < page.count; index += 1) {
      const offset = index * FLOW_RECORD_BYTES;
      if (filter && !filter(readFlowRecord(view, offset))) continue;
      sessions.push(take(view, offset));
      if (sessions.length < limit) continue;
      if (index + 1 < page.count) at = placeOf(view.getBigUint64(offset, true)) + 1;
      break;
    }
    scanned += Math.max(1, page.count);
    if (at === 0) break;
  }
  return { sessions, cursor: at };
}

const placeOf = (sessionId: bigint): number => Number(sessionId & PLACE_MASK);

export async function readSession(engine: Engine, names: Names, sessionId: bigint): Promise<FlowRecordView | undefined> {
  const page = await engine.sessions(placeOf(sessionId), 1);
  const view = viewOf(page.bytes);
  return page.count > 0 && view.getBigUint64(0, true) === sessionId ? decodeFlow(view, 0, names) : undefined;
}

export interface Killed { killed: number; matched: number; complete: boolean }

/** Ends at most `limit` sessions that the filter takes; `complete`: no other one was seen that matches. */
export async function killSessions(engine: Engine, limit: number, filter: SessionFilter | undefined, progress: (matched: number) => void): Promise<Killed> {
  let killed = 0;
  let matched = 0;
  let cursor = 0;
  do {
    // One more than may be ended: is there one left?
    const page = await scan(engine, cursor, limit - matched + 1, filter, (view, offset) => view.getBigUint64(offset, true));
    const ids = page.sessions.slice(0, limit - matched);
    matched += ids.length;
    for (let index = 0; index < ids.length; index += KILLS_AT_ONCE) {
      const answers = await Promise.all(ids.slice(index, index + KILLS_AT_ONCE).map((id) => engine.kill(id.toString())));
      killed += answers.filter(Boolean).length;
    }
    progress(matched);
    if (page.sessions.length > ids.length) return { killed, matched, complete: false };
    cursor = page.cursor;
  } while (cursor !== 0);
  return { killed, matched, complete: true };
}
