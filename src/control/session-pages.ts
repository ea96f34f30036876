// Live sessions in pages, one session by its id, and ending them. Who: src/api/routes/sessions.ts. The engine's cursor is the place in its
// table where the next page begins, and a session's id has its place in its low 32 bits: so a page may end anywhere.
// Bounds: SCAN_MAX sessions looked at a page; ENGINE_PAGE sessions an answer of the engine; KILLS_AT_ONCE requests to it.
import { FLOW_RECORD_BYTES, readFlowRecord } from '../engine/abi.generated.js';
import { decodeFlow, viewOf, type FlowRecordView, type Names } from '../engine/records.js';
import { JsonFormat } from '../flowlog/json.js';
import { nameTextsOf } from '../flowlog/names.js';
import { Output } from '../flowlog/output.js';
import type { EngineClient } from './engine-client.js';
import type { SessionFilter } from './session-filter.js';

const SCAN_MAX = 65_536;
const ENGINE_PAGE = 1024;
const KILLS_AT_ONCE = 32;
const PLACE_MASK = 0xffff_ffffn;
const SESSION_BYTES = 640; // of text; with IPv6 and long names it may be more
const COMMA = 44;

type Engine = Pick<EngineClient, 'sessions' | 'kill'>;

/**
 * The API's answer as text, from the records' bytes: a page as objects would hold control's thread for several times as long, and the garbage collector
 * after it. With a narrow filter a page may be short, or empty, and still have a cursor. `cursorOf`: what stands for the next page's place.
 */
export async function writeSessions(engine: Engine, names: Names, cursor: number, limit: number, filter: SessionFilter | undefined, cursorOf: (place: number) => string): Promise<Buffer> {
  const texts = nameTextsOf(names);
  const out = new Output(Math.min(limit, ENGINE_PAGE) * SESSION_BYTES);
  const format = new JsonFormat(out);
  out.ascii('{"sessions":[');
  const first = out.at;
  const next = await scan(engine, cursor, limit, filter, (view, bytes, offset) => {
    if (out.at > first) out.byte(COMMA);
    format.session(view, bytes, offset, texts);
  });
  out.ascii(`],"cursor":${JSON.stringify(next === 0 ? null : cursorOf(next))}}`);
  return out.bytes.subarray(0, out.at);
}

/** Gives up to `limit` sessions to `take`, and answers where the next page begins; 0: that was the end. */
async function scan(engine: Engine, cursor: number, limit: number, filter: SessionFilter | undefined, take: (view: DataView, bytes: Uint8Array, offset: number) => void): Promise<number> {
  let at = cursor;
  for (let scanned = 0, taken = 0; scanned < SCAN_MAX && taken < limit;) {
    const page = await engine.sessions(at, filter ? ENGINE_PAGE : Math.min(ENGINE_PAGE, limit - taken));
    const view = viewOf(page.bytes);
    at = page.cursor;
    for (let index = 0; index < page.count; index += 1) {
      const offset = index * FLOW_RECORD_BYTES;
      if (filter && !filter(readFlowRecord(view, offset))) continue;
      take(view, page.bytes, offset);
      taken += 1;
      if (taken < limit) continue;
      if (index + 1 < page.count) at = placeOf(view.getBigUint64(offset, true)) + 1;
      break;
    }
    scanned += Math.max(1, page.count);
    if (at === 0) break;
  }
  return at;
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
    const found: bigint[] = [];
    cursor = await scan(engine, cursor, limit - matched + 1, filter, (view, _bytes, offset) => void found.push(view.getBigUint64(offset, true)));
    const ids = found.slice(0, limit - matched);
    matched += ids.length;
    for (let index = 0; index < ids.length; index += KILLS_AT_ONCE) {
      const answers = await Promise.all(ids.slice(index, index + KILLS_AT_ONCE).map((id) => engine.kill(id.toString())));
      killed += answers.filter(Boolean).length;
    }
    progress(matched);
    if (found.length > ids.length) return { killed, matched, complete: false };
  } while (cursor !== 0);
  return { killed, matched, complete: true };
}
