// The HTTP server of control: REST API, /metrics and /healthz on the Unix socket DIR/api.sock. Who: src/control/main.ts listens; tests inject.
// Bounds: BODY_BYTES_MAX a request, CONNECTIONS_MAX callers, REQUEST_TIMEOUT_MS for a request to arrive.
import { fastify, type FastifyInstance } from 'fastify';
import type { Control } from '../control/control.js';
import { healthOf } from '../control/status.js';
import type { Log } from '../supervisor/log.js';
import type { RunDirectory } from '../supervisor/run-directory.js';
import { ApiError, toProblemDetails } from './errors.js';
import { Metrics } from './metrics.js';
import { registerRoutes } from './routes.js';

const BODY_BYTES_MAX = 64 * 1024;
const CONNECTIONS_MAX = 256;
const REQUEST_TIMEOUT_MS = 10_000;

export function buildApi(control: Control, paths: RunDirectory, log: Log): FastifyInstance {
  const api = fastify({
    logger: false, bodyLimit: BODY_BYTES_MAX, requestTimeout: REQUEST_TIMEOUT_MS, forceCloseConnections: true,
    // Unknown members are told, not dropped; a query's text becomes numbers, a body's does not.
    ajv: { customOptions: { removeAdditional: false, coerceTypes: true, allErrors: false } },
  });
  api.server.maxConnections = CONNECTIONS_MAX;
  const metrics = new Metrics();
  api.setErrorHandler((error, _request, reply) => {
    const problem = toProblemDetails(error);
    if (problem.status >= 500 && problem.code === 'SLUICE_API_INTERNAL') log.error({ err: error }, 'a request failed');
    void reply.status(problem.status).type('application/problem+json').send(problem);
  });
  api.setNotFoundHandler((request) => {
    throw new ApiError(404, 'SLUICE_API_NOT_FOUND', `${request.method} ${request.url.slice(0, 200)} is not part of this API; it stands under /api/v1`);
  });
  registerRoutes(api, control, paths);
  api.get('/metrics', async (_request, reply) => {
    const text = await metrics.render(control);
    return reply.type(metrics.contentType).send(text);
  });
  api.get('/healthz', (_request, reply) => {
    const health = healthOf(control);
    void reply.status(health.status === 'ok' ? 200 : 503).send(health);
  });
  return api;
}
