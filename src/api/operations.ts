// Work that may take longer than a request should: it is answered at once when it is quick, and 202 with a resource to watch when not.
// Who: src/api/routes/. Bounds: RUNNING_MAX at a time, KEPT_MAX finished ones for KEPT_MS; further ones are refused or forgotten. Those that were
// answered with 202 outlast control (operations-file.ts).
import { randomUUID } from 'node:crypto';
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { Author } from '../control/transactions.js';
import type { Log } from '../supervisor/log.js';
import { authorOf, type Principal } from './access.js';
import { ApiError, toProblemDetails, type ProblemDetails } from './errors.js';
import type { OperationsFile } from './operations-file.js';

const ACCEPTED_AFTER_MS = 2000;
const RUNNING_MAX = 96;  // most of them changes that wait for their turn
const KEPT_MAX = 100;
const KEPT_MS = 15 * 60_000;

export interface Operation {
  id: string; kind: string; state: 'running' | 'done' | 'failed' | 'interrupted'; by: Author; phase: string;
  startedAt: string; finishedAt: string | null; milliseconds: number; result?: unknown; problem?: ProblemDetails;
}

/** `owner`: the id of who started it. Names are for people: two may have the same. */
export interface KnownOperation extends Operation { owner: string }
/** `isKnown`: somebody was told its id. */
interface Entry { operation: KnownOperation; startedMs: number; finishedMs: number; isKnown: boolean }
export type Work<T> = (progress: (phase: string) => void) => Promise<T>;

export class Operations {
  private entries: Map<string, Entry> | undefined;

  constructor(private readonly log: Pick<Log, 'error'>, private readonly file: Pick<OperationsFile, 'read' | 'write'>) {}

  /** Read when somebody asks: at its start control is still root, and follows nothing that it might have put there itself. */
  private get known(): Map<string, Entry> {
    if (this.entries === undefined) {
      const before = this.file.read(KEPT_MS);
      this.entries = new Map(before.map((operation) => [operation.id, { operation, startedMs: this.now() - operation.milliseconds, finishedMs: this.now(), isKnown: true }]));
      if (before.length > 0) this.keep();
    }
    return this.entries;
  }

  /** What this caller may see, newest first. */
  list(caller: Principal): Operation[] {
    this.forget();
    return [...this.known.values()].filter(({ operation }) => maySee(caller, operation)).map((entry) => this.view(entry)).reverse();
  }

  get(id: string, caller: Principal): Operation | undefined {
    this.forget();
    const entry = this.known.get(id);
    return entry && maySee(caller, entry.operation) ? this.view(entry) : undefined;
  }

  /**
   * Does the work and gives its result, or answers 202 when it takes long or the caller wants no waiting (Prefer: respond-async, RFC 7240).
   * `finish` may set status and headers of the direct answer. What the work throws before 202 is the request's own error.
   */
  async answer<T>(request: FastifyRequest, reply: FastifyReply, kind: string, work: Work<T>, finish: (result: T) => unknown = (result) => result): Promise<unknown> {
    this.forget();
    const { known } = this;
    if ([...known.values()].filter(({ operation }) => operation.state === 'running').length >= RUNNING_MAX) {
      throw new ApiError(503, 'SLUICE_API_BUSY', `${RUNNING_MAX} operations run already; wait for one of /api/v1/operations to end`, undefined, { headers: { 'retry-after': '1' } });
    }
    const entry: Entry = {
      startedMs: this.now(), finishedMs: 0, isKnown: false,
      operation: { id: randomUUID(), kind, state: 'running', by: authorOf(request), owner: request.principal.id, phase: 'started', startedAt: new Date().toISOString(), finishedAt: null, milliseconds: 0 },
    };
    const outcome = work((phase) => { entry.operation.phase = phase; }).then((result) => ({ result }), (error: unknown) => ({ error }));
    known.set(entry.operation.id, entry);
    const settled = outcome.then((ended) => this.settle(entry, ended));
    const isAsync = /(^|[\s,;])respond-async([\s,;]|$)/.test(String(request.headers['prefer'] ?? ''));
    const first = isAsync ? undefined : await Promise.race([settled.then(() => outcome), later(ACCEPTED_AFTER_MS)]);
    if (first !== undefined) {
      known.delete(entry.operation.id); // answered directly: nobody knows its id
      if ('error' in first) throw first.error;
      return finish(first.result);
    }
    entry.isKnown = true;
    this.keep();
    reply.status(202).header('location', `/api/v1/operations/${entry.operation.id}`).header('retry-after', '1');
    return this.view(entry);
  }

  private settle(entry: Entry, ended: { result: unknown } | { error: unknown }): void {
    const { operation } = entry;
    entry.finishedMs = this.now();
    operation.milliseconds = Math.round(entry.finishedMs - entry.startedMs);
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
    if (entry.isKnown) this.keep();
  }

  private view({ operation: { owner: _, ...operation }, startedMs, finishedMs }: Entry): Operation {
    return { ...operation, milliseconds: Math.round((finishedMs || this.now()) - startedMs) };
  }

  private keep(): void {
    this.file.write([...this.known.values()].filter(({ isKnown }) => isKnown).map(({ operation }) => operation));
  }

  private now(): number { return performance.now(); }

  private forget(): void {
    const { known } = this;
    const finished = [...known].filter(([, { operation }]) => operation.state !== 'running');
    const over = finished.length - KEPT_MAX;
    finished.forEach(([id, { finishedMs }], index) => {
      if (index < over || this.now() - finishedMs > KEPT_MS) known.delete(id);
    });
  }
}

/** Results may hold what only some scopes may see. */
const maySee = ({ id, role, scopes }: Principal, { owner }: KnownOperation): boolean => id === owner || (role === 'administrator' && scopes === undefined);

const later = (ms: number): Promise<undefined> => new Promise((resolve) => void setTimeout(() => resolve(undefined), ms).unref());
