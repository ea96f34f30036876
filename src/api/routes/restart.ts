// Restarts one process on purpose, as an upgrade does: the engine leaves sessions, NAT bindings and what is offloaded to its successor.
// Answers before the process ends; the supervisor starts the next one at once. `sluice restart` waits for it.
import { Type, type Static } from '@sinclair/typebox';
import type { FastifyInstance } from 'fastify';
import type { Control } from '../../control/control.js';
import { errorCode } from '../../engine/ipc.js';
import { isAlive, readPidFile } from '../../supervisor/pid-file.js';
import type { ApiContext } from '../context.js';
import { ApiError } from '../errors.js';
import { answer, oneOf, question } from '../schemas.js';

const RestartBody = question({ process: oneOf(['engine', 'control'], 'which one') }, { title: 'RestartBody', examples: [{ process: 'engine' }] });
const Restarted = answer('Restarted', { process: oneOf(['engine', 'control']), pid: Type.Integer({ description: 'the one that ends; /api/v1/status names the next' }) });

export function registerRestart(api: FastifyInstance, { control, paths }: ApiContext): void {
  api.post<{ Body: Static<typeof RestartBody> }>('/api/v1/restart', {
    config: { role: 'administrator', resource: 'restart' },
    schema: {
      operationId: 'restart', summary: 'Restart a process of the appliance; sessions and what is in force stay', tags: ['Operations'],
      description: 'Established sessions that the XDP program forwards go on without a pause; packets that need the engine are dropped until the next one is up, in less than a second.',
      body: RestartBody, response: { 202: Restarted },
    },
  }, async ({ body }, reply) => {
    requireSupervisor(paths.supervisorPid);
    if (body.process === 'engine') return reply.status(202).send({ process: 'engine', pid: await restartEngine(control) });
    if (!control.restartSelf) throw new ApiError(501, 'SLUICE_API_NOT_IMPLEMENTED', 'this control was not started by a supervisor');
    reply.raw.once('finish', control.restartSelf);
    return reply.status(202).send({ process: 'control', pid: process.pid });
  });
}

/** It ends right after its answer: what else is asked of it then breaks the connection, and the answer may not have been read yet. */
async function restartEngine({ engine }: Control): Promise<number> {
  const { pid } = await engine.status();
  return engine.restart().catch((error: unknown) => {
    if (errorCode(error) === 'SLUICE_IPC_CLOSED') return pid;
    throw error;
  });
}

/** Whoever ends without one stays away. */
function requireSupervisor(pidFile: string): void {
  const supervisor = readPidFile(pidFile);
  if (!supervisor || !isAlive(supervisor)) throw new ApiError(503, 'SLUICE_NOT_READY', 'there is no supervisor that would start it again; run `sluice up` first: it takes over what runs');
}
