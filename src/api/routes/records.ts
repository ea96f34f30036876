// The most recent records of flows and drops, as control keeps them; `after` follows what comes.
import { Type, type Static } from '@sinclair/typebox';
import type { FastifyInstance } from 'fastify';
import { buildFilter } from '../../control/filter.js';
import { decodeDrop, decodeFlow } from '../../engine/records.js';
import type { ApiContext } from '../context.js';
import { DropRecord, filterMembers, FlowRecord } from '../record-schemas.js';
import { count, question } from '../schemas.js';

const LIMIT_MAX = 10_000;
const LIMIT_DEFAULT = 100;

const Listing = question({
  ...filterMembers,
  last: Type.Integer({ minimum: 1, maximum: LIMIT_MAX, default: LIMIT_DEFAULT, description: 'at most so many' }),
  after: Type.Optional(Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER, description: 'only what came after this number: the `last` of the answer before' })),
});
const page = <T extends typeof FlowRecord | typeof DropRecord>(record: T) => Type.Object({
  records: Type.Array(record, { description: 'oldest first' }), last: count('number of the newest record looked at'),
  missed: count('records after `after` that were overwritten before anybody asked'),
});

export function registerRecords(api: FastifyInstance, { control }: ApiContext): void {
  api.get<{ Querystring: Static<typeof Listing> }>('/api/v1/flows', {
    config: { role: 'viewer', resource: 'flows', heavy: true },
    schema: { operationId: 'listFlows', summary: 'Recent records of sessions', tags: ['Traffic'], querystring: Listing, response: { 200: page(FlowRecord) } },
  }, ({ query: { last, after, ...filter } }) => {
    const accept = buildFilter(filter);
    const decode = (view: DataView, offset: number): ReturnType<typeof decodeFlow> => decodeFlow(view, offset, control.names);
    return after === undefined ? control.flows.newest(last, decode, accept) : control.flows.since(after, last, decode, accept);
  });

  api.get<{ Querystring: Static<typeof Listing> }>('/api/v1/drops', {
    config: { role: 'viewer', resource: 'drops', heavy: true },
    schema: { operationId: 'listDrops', summary: 'Recent dropped packets, sampled under load', tags: ['Traffic'], querystring: Listing, response: { 200: page(DropRecord) } },
  }, ({ query: { last, after, ...filter } }) => {
    const accept = buildFilter(filter);
    const decode = (view: DataView, offset: number): ReturnType<typeof decodeDrop> => decodeDrop(view, offset, control.names);
    return after === undefined ? control.drops.newest(last, decode, accept) : control.drops.since(after, last, decode, accept);
  });
}
