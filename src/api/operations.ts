// Work that may take longer than a request should: it is answered at once when it is quick, and 202 with a resource to watch when not.
// Who: src/api/routes/. Bounds: RUNNING_MAX at a time, KEPT_MAX finished ones for KEPT_MS; further ones are refused or forgotten.
import { randomUUID } from 'node:crypto';
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { Author } from '../control/transactions.js';
import type { Log } from '../supervisor/log.js';
import { authorOf } from './access.js';
import { ApiError, toProblemDetails, type ProblemDetails } from './errors.js';

const ACCEPTED_AFTER_MS = 2000;
const RUNNING_MAX = 96;  // most of them changes that wait for their turn
const KEPT_MAX = 100;
const KEPT_MS = 15 * 60_000;

export interface Operation {
  id: string; kind: string; state: 'running' | 'done' | 'failed'; by: Author; phase: string;
  startedAt: string; finishedAt: string | null; milliseconds: number; result?: unknown; problem?: ProblemDetails;
}

interface Entry { operation: Operation; startedMs: number; finishedMs: number }
export type Work<T> = (progress: (phase: string) => void) => Promise<T>;

export class Operations {
  private readonly entries = new Map<string, Entry>();

  constructor(private readonly log: Pick<Log, 'error'>, private readonly acceptedAfterMs = ACCEPTED_AFTER_MS, private readonly now: () => number = () => performance.now()) {}

  /** Newest first. */
  list(): Operation[] {
    this.forget();
    return [...this.entries.values()].map((entry) => this.view(entry)).reverse();
  }

  get(id: string): Operation | undefined {
    this.forget();
    const entry = this.entries.get(id);
    return entry && this.view(entry);
  }

  /**
   * Does the work and gives its result, or answers 202 when it takes long or the caller wants no waiting (Prefer: respond-async, RFC 7240).
   * `finish` may set status and headers of the direct answer. What the work throws before 202 is the request's own error.
   */
  async answer<T>(request: FastifyRequest, reply: FastifyReply, kind: string, work: Work<T>, finish: (result: T) => unknown = (result) => result): Promise<unknown> {
    this.forget();
    if ([...this.entries.values()].filter(({ operation }) => operation.state === 'running').length >= RUNNING_MAX) {
      throw new ApiError(503, 'SLUICE_API_BUSY', `${RUNNING_MAX} operations run already; wait for one of /api/v1/operations to end`, undefined, { headers: { 'retry-after': '1' } });
    }
    const entry: Entry = {
      startedMs: this.now(), finishedMs: 0,
      operation: { id: randomUUID(), kind, state: 'running', by: authorOf(request), phase: 'started', startedAt: new Date().toISOString(), finishedAt: null, milliseconds: 0 },
    };
    const outcome = work((phase) => { entry.operation.phase = phase; }).then((result) => ({ result }), (error: unknown) => ({ error }));
    this.entries.set(entry.operation.id, entry);
    const settled = outcome.then((ended) => this.settle(entry, ended));
    const isAsync = /(^|[\s,;])respond-async([\s,;]|$)/.test(String(request.headers['prefer'] ?? ''));
    const first = isAsync ? undefined : await Promise.race([settled.then(() => outcome), later(this.acceptedAfterMs)]);
    if (first !== undefined) {
      this.entries.delete(entry.operation.id); // answered directly: nobody knows its id
      if ('error' in first) throw first.error;
      return finish(first.result);
    }
    reply.status(202).header('location', `/api/v1/operations/${entry.operation.id}`).header('retry-after', '1');
    return this.view(entry);
  }

  private settle({ operation }: Entry, ended: { result: unknown } | { error: unknown }): void {
    const entry = this.entries.get(operation.id);
    if (entry) entry.finishedMs = this.now();
    operation.finishedAt = new Date().toISOString();
    operation.phase = 'ended';
    if ('error' in ended) {
      operation.state = 'failed';
      operation.problem = toProblemDetails(ended.error);
      if (operation.problem.code === 'SLUICE_API_INTERNAL') this.log.error({ err: ended.error, operation: operation.id }, 'an operation failed');
    } else {
      operation.state = 'done';
      operation.result = ended.result;
    }
  }

  private view({ operation, startedMs, finishedMs }: Entry): Operation {
    return { ...operation, milliseconds: Math.round((finishedMs || this.now()) - startedMs) };
  }

  private forget(): void {
    const finished = [...this.entries].filter(([, { operation }]) => operation.state !== 'running');
    const over = finished.length - KEPT_MAX;
    finished.forEach(([id, { finishedMs }], index) => {
      if (index < over || this.now() - finishedMs > KEPT_MS) this.entries.delete(id);
    });
  }
}

const later = (ms: number): Promise<undefined> => new Promise((resolve) => void setTimeout(() => resolve(undefined), ms).unref());
