// Looks at machine and configuration again, as a SIGHUP does: devices that came, a file that was replaced.
import { Type } from '@sinclair/typebox';
import type { FastifyInstance } from 'fastify';
import type { ApiContext } from '../context.js';

export function registerReload(api: FastifyInstance, { control }: ApiContext): void {
  api.post('/api/v1/reload', {
    config: { role: 'operator', resource: 'reload' },
    schema: {
      operationId: 'reload', summary: 'Look at the machine and the configuration again', tags: ['Operations'],
      description: 'Answers at once; /api/v1/status tells when the state in force is the wanted one, and what stands in its way.',
      response: { 202: Type.Object({ requested: Type.Boolean() }) },
    },
  }, (_request, reply) => {
    control.reload();
    return reply.status(202).send({ requested: true });
  });
}
