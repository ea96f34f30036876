// The HTTP server of control: REST API, its OpenAPI document, /metrics and /healthz. Who: src/control/process.ts makes it and listens on
// DIR/api.sock (and HTTPS, where configured); tests inject. One resource a file in src/api/routes/.
// A request passes: head (Node, bounded) → who, how often, may he (access.ts) → how much at once (limits.ts) → body (bodies.ts) → schemas
// (validation.ts) → route. Bounds: CONNECTIONS_MAX, HEAD_BYTES_MAX, TIMEOUTS for slow senders and for whoever does not read on.
import type { Socket } from 'node:net';
import { join } from 'node:path';
import { fastify, type FastifyInstance, type FastifyReply } from 'fastify';
import { checkHere, type Check } from '../control/checker.js';
import type { Control } from '../control/control.js';
import { healthOf } from '../control/status.js';
import type { Transactions } from '../control/transactions.js';
import type { Log } from '../supervisor/log.js';
import type { RunDirectory } from '../supervisor/run-directory.js';
import { protectRoutes, type AccessParts } from './access.js';
import { BODY_BYTES_MAX, registerBodies } from './bodies.js';
import type { CaptureSource } from './capture.js';
import type { ApiContext } from './context.js';
import { ConfigEdits } from './edits.js';
import { ApiError, headersOf, toProblemDetails } from './errors.js';
import { LIMITS, registerLimits, Throttle, type Limits } from './limits.js';
import { Metrics } from '../metrics/metrics.js';
import { OpenApi } from './openapi.js';
import { Operations } from './operations.js';
import { OperationsFile } from './operations-file.js';
import { registerBackup } from './routes/backup.js';
import { registerCapture } from './routes/capture.js';
import { registerConfig } from './routes/config.js';
import { registerConfigResources } from './routes/config-resources.js';
import { registerNodes } from './routes/nodes.js';
import { registerObserve } from './routes/observe.js';
import { registerOperations } from './routes/operations.js';
import { registerRecords } from './routes/records.js';
import { registerReload } from './routes/reload.js';
import { registerRestart } from './routes/restart.js';
import { registerSessions } from './routes/sessions.js';
import { registerSimulate } from './routes/simulate.js';
import { registerStatus } from './routes/status.js';
import { registerWireguard } from './routes/wireguard.js';
import { validatorCompiler } from './validation.js';

export const CONNECTIONS_MAX = 512;
const HEAD_BYTES_MAX = 16 * 1024;
/** For slow callers, in milliseconds: until a head, and a request, is whole; and without a byte either way. 64 MiB over 10 Mbit/s take 54 s. */
export interface Timeouts { head: number; request: number; silence: number; check: number }
const TIMEOUTS: Timeouts = { head: 10_000, request: 60_000, silence: 60_000, check: 2000 };
/** A name of 64 characters, each four bytes, each byte %XX. */
const PATH_PART_CHARACTERS_MAX = 1024;
const PROBLEM_TYPE = 'application/problem+json';

export interface ApiParts {
  access: AccessParts;
  transactions: Transactions;
  capture?: CaptureSource;
  /** Left out: on the thread that asks. */
  check?: Check;
  limits?: Limits;
  timeouts?: Timeouts;
}

export function buildApi(control: Control, paths: RunDirectory, log: Log, parts: ApiParts): FastifyInstance {
  const timeouts = parts.timeouts ?? TIMEOUTS;
  const api = fastify({
    logger: false, bodyLimit: BODY_BYTES_MAX, requestTimeout: timeouts.request, connectionTimeout: timeouts.silence, forceCloseConnections: true, exposeHeadRoutes: false,
    http: { maxHeaderSize: HEAD_BYTES_MAX, headersTimeout: timeouts.head, connectionsCheckingInterval: timeouts.check },
    routerOptions: { maxParamLength: PATH_PART_CHARACTERS_MAX, caseSensitive: true, ignoreTrailingSlash: false },
    clientErrorHandler: answerClientError, frameworkErrors: (error, _request, reply) => sendProblem(error, reply as unknown as FastifyReply, log),
  });
  api.server.maxConnections = CONNECTIONS_MAX;
  const { transactions, access } = parts;
  const context: ApiContext = {
    control, paths, log, transactions, edits: new ConfigEdits(transactions), operations: new Operations(log, new OperationsFile(join(paths.apiState, 'operations.json'), log)), ...(parts.capture ? { capture: parts.capture } : {}),
    check: parts.check ?? checkHere,
  };
  // Answers are what their routes say: views make them member by member, and tests hold them against the schemas.
  api.setSerializerCompiler(() => (data) => JSON.stringify(data));
  api.setValidatorCompiler(validatorCompiler);
  api.setErrorHandler((error, _request, reply) => sendProblem(error, reply, log));
  const document = new OpenApi();
  document.collect(api);
  protectRoutes(api, access);
  registerLimits(api, new Throttle(parts.limits ?? LIMITS));
  registerBodies(api);
  api.addHook('onSend', async (_request, reply, payload) => {
    reply.headers({ 'cache-control': 'no-store', 'x-content-type-options': 'nosniff' });
    return payload;
  });
  api.setNotFoundHandler((request) => { throw notFound(document, request.method, request.url); });

  for (const register of [registerStatus, registerWireguard, registerNodes, registerSessions, registerRecords, registerSimulate, registerObserve, registerCapture, registerConfig, registerBackup, registerConfigResources, registerReload, registerRestart, registerOperations]) register(api, context);
  registerOwn(api, context, document);
  return api;
}

function registerOwn(api: FastifyInstance, { control, transactions }: ApiContext, document: OpenApi): void {
  const metrics = new Metrics();
  transactions.onCommit = (result, milliseconds) => metrics.observeCommit(result, milliseconds);
  api.get('/api/v1/openapi.json', {
    config: { role: 'viewer', resource: 'openapi' },
    schema: { operationId: 'getOpenApi', summary: 'This document', tags: ['API'], response: { 200: { type: 'object' } } },
  }, () => document.build());
  api.get('/metrics', { config: { role: 'viewer', resource: 'metrics' } }, async (_request, reply) => {
    const text = await metrics.render(control);
    return reply.type(metrics.contentType).send(text);
  });
  api.get('/healthz', { config: { role: 'public', resource: 'health' } }, (_request, reply) => {
    const health = healthOf(control);
    void reply.status(health.status === 'ok' ? 200 : 503).send(health);
  });
}

// ---- errors -----------------------------------------------------------------------------------------------------------

function sendProblem(error: unknown, reply: FastifyReply, log: Log): void {
  const problem = toProblemDetails(error);
  if (problem.status >= 500 && problem.code === 'SLUICE_API_INTERNAL') log.error({ err: error }, 'a request failed');
  void reply.status(problem.status).headers(headersOf(error)).type(PROBLEM_TYPE).serializer((value: unknown) => JSON.stringify(value)).send(problem);
}

/** What is there by another method is 405 and says by which (RFC 9110, 15.5.6). */
function notFound(document: OpenApi, method: string, url: string): ApiError {
  const path = url.split('?', 1)[0]!;
  const others = document.methodsOf(path);
  if (others.length > 0) return new ApiError(405, 'SLUICE_API_METHOD', `${path.slice(0, 200)} takes ${others.join(', ')}, not ${method}`, undefined, { headers: { allow: others.join(', ') } });
  return new ApiError(404, 'SLUICE_API_NOT_FOUND', `${method} ${url.slice(0, 200)} is not part of this API; it stands under /api/v1, and /api/v1/openapi.json describes it`);
}

/** What is no HTTP, or came too slowly, or with too large a head: fastify does not see it. */
function answerClientError(error: Error & { code: string }, socket: Socket): void {
  if (error.code === 'ECONNRESET' || !socket.writable) return;
  const found = toProblemDetails(error);
  const problem = found.status === 500 ? toProblemDetails(new ApiError(400, 'SLUICE_API_REQUEST', 'this is no HTTP/1.1 request')) : found;
  const body = JSON.stringify(problem);
  socket.end(`HTTP/1.1 ${problem.status} ${problem.title}\r\ncontent-type: ${PROBLEM_TYPE}\r\ncontent-length: ${Buffer.byteLength(body)}\r\nconnection: close\r\n\r\n${body}`);
}
