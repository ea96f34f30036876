// The REST API's routes under /api/v1. Who: src/api/server.ts registers them. Each is a named function over Control; schemas check what
// came in, so a function sees good arguments only. Bounds: LIMIT_MAX records or sessions an answer.
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { DROP_REASONS, SESSION_STATES } from '../engine/abi.generated.js';
import { decodeDrop, decodeFlow, protocolNumber, type SimulateQuestion } from '../engine/records.js';
import { AddressError, bytesOf, familyOf, parseAddress } from '../lib/address.js';
import type { Control } from '../control/control.js';
import { buildFilter, FilterError, type Filter, type FilterQuery } from '../control/filter.js';
import { readRoutes } from '../control/routes.js';
import { countersView, statusView } from '../control/status.js';
import type { RunDirectory } from '../supervisor/run-directory.js';
import { ApiError } from './errors.js';

const LIMIT_MAX = 10_000;
const LIMIT_DEFAULT = 100;

const filterProperties = {
  protocol: { type: 'string', maxLength: 20 }, port: { type: 'integer', minimum: 0, maximum: 65535 },
  source: { type: 'string', maxLength: 64 }, destination: { type: 'string', maxLength: 64 },
  rule: { type: 'string', maxLength: 128 }, from: { type: 'string', maxLength: 64 }, to: { type: 'string', maxLength: 64 },
  verdict: { type: 'string', enum: ['allowed', 'dropped'] },
  reason: { type: 'string', enum: DROP_REASONS.map((entry) => entry.name) },
  state: { type: 'string', enum: SESSION_STATES.map((entry) => entry.name) },
};
const query = (properties: object): object => ({ querystring: { type: 'object', additionalProperties: false, properties } });
const limit = { type: 'integer', minimum: 1, maximum: LIMIT_MAX, default: LIMIT_DEFAULT };

const sessionsSchema = query({ ...filterProperties, limit, cursor: { type: 'integer', minimum: 0, maximum: Number.MAX_SAFE_INTEGER, default: 0 } });
const recordsSchema = query({ ...filterProperties, last: limit, after: { type: 'integer', minimum: 0, maximum: Number.MAX_SAFE_INTEGER } });
const simulateSchema = {
  body: {
    type: 'object', additionalProperties: false, required: ['from', 'source', 'destination', 'protocol'],
    properties: {
      from: { type: 'string', maxLength: 64 }, source: { type: 'string', maxLength: 64 }, destination: { type: 'string', maxLength: 64 },
      protocol: { type: 'string', maxLength: 20 },
      sourcePort: { type: 'integer', minimum: 0, maximum: 65535 }, port: { type: 'integer', minimum: 0, maximum: 65535 },
      icmpType: { type: 'integer', minimum: 0, maximum: 255 }, icmpCode: { type: 'integer', minimum: 0, maximum: 255 },
    },
  },
};

interface SessionsQuery extends FilterQuery { limit: number; cursor: number }
interface RecordsQuery extends FilterQuery { last: number; after?: number }

export interface SimulateBody {
  from: string; source: string; destination: string; protocol: string;
  sourcePort?: number; port?: number; icmpType?: number; icmpCode?: number;
}

export function registerRoutes(api: FastifyInstance, control: Control, paths: RunDirectory): void {
  api.get('/api/v1/status', () => statusView(control, paths));
  api.get('/api/v1/counters', () => countersView(control));
  api.get('/api/v1/sessions', { schema: sessionsSchema }, (request) => listSessions(control, request));
  api.get('/api/v1/flows', { schema: recordsSchema }, (request) => listFlows(control, request));
  api.get('/api/v1/drops', { schema: recordsSchema }, (request) => listDrops(control, request));
  api.get('/api/v1/rules', () => listRules(control));
  api.get('/api/v1/neighbours', async () => ({ neighbours: await control.neighbours() }));
  api.get('/api/v1/routes', () => ({ routes: control.applied ? readRoutes(control.applied.compiled.snapshot, control.names) : [] }));
  api.post('/api/v1/simulate', { schema: simulateSchema }, (request) => simulate(control, request.body as SimulateBody));
}

function filterOf(from: FilterQuery): Filter {
  try {
    return buildFilter(from);
  } catch (error) {
    if (error instanceof FilterError) throw new ApiError(400, 'SLUICE_API_ARGUMENT', error.message, `/${error.member}`);
    throw error;
  }
}

async function listSessions(control: Control, request: FastifyRequest): Promise<object> {
  const { limit: count, cursor, ...filter } = request.query as SessionsQuery;
  return control.sessions(cursor, count, filterOf(filter));
}

function listFlows(control: Control, request: FastifyRequest): object {
  const { last, after, ...filter } = request.query as RecordsQuery;
  const accept = filterOf(filter);
  const decode = (view: DataView, offset: number): ReturnType<typeof decodeFlow> => decodeFlow(view, offset, control.names);
  return after === undefined ? control.flows.newest(last, decode, accept) : control.flows.since(after, last, decode, accept);
}

function listDrops(control: Control, request: FastifyRequest): object {
  const { last, after, ...filter } = request.query as RecordsQuery;
  const accept = filterOf(filter);
  const decode = (view: DataView, offset: number): ReturnType<typeof decodeDrop> => decodeDrop(view, offset, control.names);
  return after === undefined ? control.drops.newest(last, decode, accept) : control.drops.since(after, last, decode, accept);
}

async function listRules(control: Control): Promise<object> {
  const hits = await control.ruleHits();
  return { rules: (control.applied?.compiled.rules ?? []).map(({ id, ...rule }) => ({ ...rule, sessions: hits.get(id) ?? (rule.kind === 'firewall' ? 0 : null) })) };
}

async function simulate(control: Control, body: SimulateBody): Promise<object> {
  if (!control.applied) throw new ApiError(503, 'SLUICE_NOT_READY', 'no configuration is in force yet; wait for `sluice status --wait 30`');
  const question = parseQuestion(body, control.applied.compiled.interfaces.map((one) => one.name));
  return { question: body, answer: await control.simulate(question) };
}

const ICMP = 1;
const ICMPV6 = 58;
const ECHO_REQUEST = { [ICMP]: 8, [ICMPV6]: 128 } as const;

/** Also used by `sluice simulate --config`, so that both ways take the same words. Throws ApiError. */
export function parseQuestion(body: SimulateBody, interfaces: readonly string[]): SimulateQuestion {
  const bad = (pointer: string, message: string): ApiError => new ApiError(400, 'SLUICE_API_ARGUMENT', message, pointer);
  const interfaceIndex = interfaces.indexOf(body.from);
  if (interfaceIndex < 0) throw bad('/from', `there is no interface '${body.from}'; interfaces are ${interfaces.join(', ') || 'none'}`);
  const address = (member: 'source' | 'destination'): bigint => {
    try {
      return parseAddress(body[member]);
    } catch (error) {
      if (error instanceof AddressError) throw bad(`/${member}`, `${error.message}; ${error.remedy}`);
      throw error;
    }
  };
  const source = address('source');
  const destination = address('destination');
  if (familyOf(source) !== familyOf(destination)) throw bad('/destination', 'source and destination are of two families');
  let protocol = protocolNumber(body.protocol);
  if (protocol === undefined) throw bad('/protocol', `'${body.protocol}' is no protocol; write tcp, udp, icmp, icmpv6 or a number from 0 to 255`);
  if (protocol === ICMP && familyOf(source) === 'ipv6') protocol = ICMPV6;
  const isIcmp = protocol === ICMP || protocol === ICMPV6;
  if (!isIcmp && (body.icmpType !== undefined || body.icmpCode !== undefined)) throw bad('/icmpType', `${body.protocol} has no ICMP type`);
  if ((body.protocol === 'tcp' || body.protocol === 'udp') && body.port === undefined) throw bad('/port', `${body.protocol} needs a destination port`);
  const type = isIcmp ? body.icmpType ?? ECHO_REQUEST[protocol as keyof typeof ECHO_REQUEST] : 0;
  return {
    interfaceIndex, source: bytesOf(source), destination: bytesOf(destination), protocol,
    sourcePort: body.sourcePort ?? (isIcmp ? 1 : 50000),
    destinationPort: isIcmp ? (type << 8) | (body.icmpCode ?? 0) : body.port ?? 0,
  };
}
