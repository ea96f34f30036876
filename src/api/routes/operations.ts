// Work that goes on: what it is, how far it is, what came of it. Whoever started it sees it, and administrators without scopes do; to others
// it is not there.
import { Type, type Static } from '@sinclair/typebox';
import type { FastifyInstance } from 'fastify';
import type { ApiContext } from '../context.js';
import { ApiError } from '../errors.js';
import { OperationSchema, question } from '../schemas.js';

const Id = question({ id: Type.String({ format: 'uuid', pattern: '^[0-9a-f-]{36}$' }) });

export function registerOperations(api: FastifyInstance, { operations }: ApiContext): void {
  api.get('/api/v1/operations', {
    config: { role: 'viewer', resource: 'operations' },
    schema: { operationId: 'listOperations', summary: 'Operations of the caller, newest first', tags: ['Operations'], response: { 200: Type.Object({ operations: Type.Array(OperationSchema) }) } },
  }, (request) => ({ operations: operations.list(request.principal) }));

  api.get<{ Params: Static<typeof Id> }>('/api/v1/operations/:id', {
    config: { role: 'viewer', resource: 'operations' },
    schema: { operationId: 'getOperation', summary: 'One operation', tags: ['Operations'], params: Id, response: { 200: OperationSchema } },
  }, (request, reply) => {
    const operation = operations.get(request.params.id, request.principal);
    if (!operation) throw new ApiError(404, 'SLUICE_API_NOT_FOUND', 'there is no such operation; finished ones are forgotten after a while', '/id');
    if (operation.state === 'running') reply.header('retry-after', '1');
    return operation;
  });
}
