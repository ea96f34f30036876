// Live sessions: listed in pages, one by its id, ended one by one or by a filter within a bound.
import { Type, type Static } from '@sinclair/typebox';
import type { FastifyInstance } from 'fastify';
import { buildSessionFilter } from '../../control/session-filter.js';
import { killSessions, readSession, writeSessions } from '../../control/session-pages.js';
import type { ApiContext } from '../context.js';
import { decodeCursor, encodeCursor, isPlace } from '../cursor.js';
import { ApiError } from '../errors.js';
import { filterMembers, FlowRecord } from '../record-schemas.js';
import { count, cursor, nextCursor, OperationSchema, question, answer } from '../schemas.js';

const LIMIT_MAX = 10_000;
const LIMIT_DEFAULT = 100;
const KILL_MAX = 100_000;
const LISTING = 'sessions';

const Listing = question({ ...filterMembers, limit: Type.Integer({ minimum: 1, maximum: LIMIT_MAX, default: LIMIT_DEFAULT }), cursor: Type.Optional(cursor) });
const Id = question({ id: Type.String({ pattern: '^[0-9]{1,20}$', description: 'the session\'s `sessionId`' }) });
const KillQuestion = question({
  ...filterMembers,
  limit: Type.Integer({ minimum: 1, maximum: KILL_MAX, description: 'end no more than so many' }),
  all: Type.Optional(Type.Boolean({ description: 'true: without any filter; each session' })),
}, { title: 'KillQuestion', examples: [{ source: '10.0.1.10', protocol: 'tcp', limit: 1000 }] });
const Killed = answer('Killed', {
  killed: count('sessions that were ended'), matched: count('sessions that matched; some may have ended by themselves'),
  complete: Type.Boolean({ description: 'false: more match than `limit`' }),
});

export function registerSessions(api: FastifyInstance, { control, operations }: ApiContext): void {
  api.get<{ Querystring: Static<typeof Listing> }>('/api/v1/sessions', {
    config: { role: 'viewer', resource: 'sessions', heavy: true },
    schema: {
      operationId: 'listSessions', summary: 'Live sessions', tags: ['Traffic'], querystring: Listing,
      description: 'A page may be short, or empty, while there is still a cursor: a bounded number of sessions is looked at for each page.',
      response: { 200: Type.Object({ sessions: Type.Array(FlowRecord), cursor: nextCursor }) },
    },
  }, async ({ query: { limit, cursor: at, ...filter } }, reply) => {
    const place = at === undefined ? 0 : decodeCursor(LISTING, at, isPlace);
    const text = await writeSessions(control.engine, control.names, place, limit, buildSessionFilter(filter, control.names), (next) => encodeCursor(LISTING, next));
    return reply.type('application/json; charset=utf-8').send(text);
  });

  api.get<{ Params: Static<typeof Id> }>('/api/v1/sessions/:id', {
    config: { role: 'viewer', resource: 'sessions' },
    schema: { operationId: 'getSession', summary: 'One live session', tags: ['Traffic'], params: Id, response: { 200: FlowRecord } },
  }, async ({ params: { id } }) => await readSession(control.engine, control.names, sessionId(id)) ?? noSession(id));

  api.delete<{ Params: Static<typeof Id> }>('/api/v1/sessions/:id', {
    config: { role: 'operator', resource: 'sessions' },
    schema: { operationId: 'killSession', summary: 'End one session; its next packet is judged anew', tags: ['Traffic'], params: Id, response: { 204: Type.Null() } },
  }, async ({ params: { id } }, reply) => {
    if (!await control.engine.kill(sessionId(id).toString())) noSession(id);
    return reply.status(204).send();
  });

  api.post<{ Body: Static<typeof KillQuestion> }>('/api/v1/sessions/kill', {
    config: { role: 'operator', resource: 'sessions', heavy: true },
    schema: {
      operationId: 'killSessions', summary: 'End the sessions that a filter takes, at most so many', tags: ['Traffic'], body: KillQuestion,
      response: { 200: Killed, 202: OperationSchema },
    },
  }, (request, reply) => {
    const { limit, all, ...filter } = request.body;
    if (Object.keys(filter).length === 0 && all !== true) throw new ApiError(400, 'SLUICE_API_ARGUMENT', 'no filter means each session; say `all: true` if that is meant', '/all');
    request.auditDetail = { filter, limit };
    const accept = buildSessionFilter(filter, control.names);
    return operations.answer(request, reply, 'kill-sessions', (progress) => killSessions(control.engine, limit, accept, (matched) => progress(`${matched} sessions`)));
  });
}

const ID_MAX = (1n << 64n) - 1n;

function sessionId(text: string): bigint {
  const id = BigInt(text);
  return id <= ID_MAX ? id : noSession(text);
}

function noSession(id: string): never {
  throw new ApiError(404, 'SLUICE_API_NOT_FOUND', `there is no session ${id} (any more)`, '/id');
}
