// Records as they come, as a stream of JSON lines: `curl --unix-socket DIR/api.sock 'http://localhost/api/v1/observe?follow=true'`.
// First the `last` ones that control still has, then, with `follow`, each as the engine tells of it. A caller who reads too slowly
// gets a line {"kind":"lost","records":N} in place of what it missed. Bounds: OBSERVERS_MAX callers that follow, bounded buffers each.
import { Readable } from 'node:stream';
import { Type, type Static } from '@sinclair/typebox';
import type { FastifyInstance } from 'fastify';
import { DROP_RECORD_BYTES, FLOW_RECORD_BYTES } from '../../engine/abi.generated.js';
import type { Control } from '../../control/control.js';
import { JsonFormat } from '../../flowlog/json.js';
import { Drop, Flow, RECORD_EVENTS } from '../../flowlog/layout.js';
import { compileMatch, CriteriaError, type Criteria } from '../../flowlog/match.js';
import { NameTexts } from '../../flowlog/names.js';
import { OBSERVERS_MAX, type LineWriter } from '../../flowlog/observers.js';
import { Output, readMilliseconds } from '../../flowlog/output.js';
import type { ApiContext } from '../context.js';
import { ApiError } from '../errors.js';
import { filterMembers } from '../record-schemas.js';
import { oneOf, question } from '../schemas.js';

const LAST_MAX = 10_000;
const MEDIA_TYPE = 'application/x-ndjson';
const NEWLINE = 10;
const QUIET_MS = 20_000; // a blank line in between: a caller behind a proxy keeps its connection, and a gone one is noticed

const Listing = question({
  ...filterMembers,
  event: Type.Optional(oneOf([...RECORD_EVENTS], 'what happened')),
  last: Type.Integer({ minimum: 0, maximum: LAST_MAX, default: 50, description: 'at most so many of the records that are there' }),
  follow: Type.Boolean({ default: false, description: 'true: go on with what comes, until the caller hangs up' }),
});
type Listing = Static<typeof Listing>;

export function registerObserve(api: FastifyInstance, { control }: ApiContext): void {
  api.get<{ Querystring: Listing }>('/api/v1/observe', {
    config: { role: 'viewer', resource: 'flows', streams: true },
    schema: {
      operationId: 'observe', summary: 'Records of flows and dropped packets, recent and live, a JSON object a line', tags: ['Traffic'], querystring: Listing, produces: { 200: MEDIA_TYPE },
      description: 'Lines have the form of log files: docs/operations/logs.md. A line {"kind":"lost","records":N} stands where a slow reader missed N records; blank lines mean nothing.',
    },
  }, (request, reply) => {
    const { last, follow, ...query } = request.query;
    const criteria = criteriaOfQuery(query);
    const recent = recentLines(control, criteria, last);
    if (!follow) return reply.type(MEDIA_TYPE).send(recent);
    const { flowLog } = control;
    if (!flowLog) throw new ApiError(503, 'SLUICE_NOT_READY', 'control does not take records yet');
    if (flowLog.observers.isFull) throw new ApiError(503, 'SLUICE_API_BUSY', `${OBSERVERS_MAX} callers follow already`, undefined, { headers: { 'retry-after': '5' } });
    const stream = new LineStream(recent);
    const leave = flowLog.observe(criteria, stream);
    const timer = setInterval(() => stream.write(Buffer.from('\n')), QUIET_MS);
    timer.unref();
    stream.once('close', () => {
      leave();
      clearInterval(timer);
    });
    request.raw.socket.setTimeout(0); // silence is no stall here
    return reply.type(MEDIA_TYPE).send(stream);
  });
}

/** Takes lines at any speed; what the socket has not taken yet counts as unsent, and the observer sheds by it. */
class LineStream extends Readable implements LineWriter {
  constructor(first: Buffer) {
    super({ highWaterMark: 64 * 1024 });
    this.push(first.length > 0 ? first : '\n'); // something at once: the caller learns that it is let in
  }
  override _read(): void { /* lines are pushed as they come */ }
  write(bytes: Buffer): boolean { return this.destroyed ? false : this.push(bytes); }
  get writableLength(): number { return this.readableLength; }
}

function criteriaOfQuery(query: Omit<Listing, 'last' | 'follow'>): Criteria {
  const criteria = Object.fromEntries(Object.entries(query).map(([member, value]) => [member, [value]])) as Criteria;
  try {
    compileMatch(criteria, undefined);
  } catch (error) {
    if (error instanceof CriteriaError) throw new ApiError(400, 'SLUICE_API_ARGUMENT', `${error.message}; ${error.remedy}`, `/${error.member}`);
    throw error;
  }
  return criteria;
}

/** The newest records of both rings, in the order of their times. */
function recentLines(control: Control, criteria: Criteria, last: number): Buffer {
  if (last === 0) return Buffer.alloc(0);
  const match = compileMatch(criteria, undefined);
  const names = new NameTexts(control.names);
  const copy = (view: DataView, offset: number, bytes: number): Uint8Array => new Uint8Array(view.buffer, view.byteOffset + offset, bytes);
  const pick = (recordBytes: number, isWanted: (view: DataView, bytes: Uint8Array, names: NameTexts) => boolean) => (view: DataView, offset: number): Uint8Array | undefined => {
    const bytes = copy(view, offset, recordBytes);
    return isWanted(new DataView(bytes.buffer, bytes.byteOffset, recordBytes), bytes, names) ? bytes : undefined;
  };
  const there = (record: Uint8Array | undefined): boolean => record !== undefined;
  const flows = control.flows.newest(last, pick(FLOW_RECORD_BYTES, (view, bytes) => match.flow(view, bytes, 0, names)), there).records as Uint8Array[];
  const drops = control.drops.newest(last, pick(DROP_RECORD_BYTES, (view, bytes) => match.drop(view, bytes, 0, names)), there).records as Uint8Array[];
  const viewOf = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const records = [
    ...flows.map((bytes) => ({ bytes, isFlow: true, timeMs: Math.max(readMilliseconds(viewOf(bytes), Flow.START), readMilliseconds(viewOf(bytes), Flow.LAST)) })),
    ...drops.map((bytes) => ({ bytes, isFlow: false, timeMs: readMilliseconds(viewOf(bytes), Drop.TIME) })),
  ].sort((a, b) => a.timeMs - b.timeMs).slice(-last);
  const out = new Output(64 * 1024);
  const format = new JsonFormat(out);
  for (const { bytes, isFlow } of records) {
    if (isFlow) format.flow(viewOf(bytes), bytes, 0, names);
    else format.drop(viewOf(bytes), bytes, 0, names);
    out.byte(NEWLINE);
  }
  return out.take();
}
