// One change of one part of the configuration as a transaction: reads what runs, checks the caller's precondition on that part, makes a
// changed copy, commits it. Another change that came between is no conflict unless it touched the same part: the edit is made again.
// Who: src/api/routes/config-resources.ts. Bounds: edits run one after the other, EDITS_WAITING_MAX wait, ATTEMPTS_MAX tries each.
import type { Config } from '../config/schema.js';
import type { Author, CommitRequest, CommitResult, Version } from '../control/transactions.js';
import { ApiError, escapePointer, pointerOfPath } from './errors.js';

const EDITS_WAITING_MAX = 64;
const ATTEMPTS_MAX = 5;

export interface EditOptions { by: Author; comment?: string; confirmWithinS?: number; dryRun?: boolean }

/** What an edit makes of a configuration. `at`: where in `config` stands what the body holds (at `within` in it): errors point into the body. */
export interface Edited<T> { config: Config; result: T; at?: readonly (string | number)[]; within?: string }
/** The commit is absent when the configuration is so already. */
export interface EditOutcome<T> { result: T; commit?: CommitResult }

/** What edits need of Transactions. */
export interface ConfigCommits { readonly running: Version; commit(request: CommitRequest): Promise<CommitResult> }

export class ConfigEdits {
  private last: Promise<unknown> = Promise.resolve();
  private waiting = 0;

  constructor(private readonly transactions: ConfigCommits) {}

  get running(): Version { return this.transactions.running; }

  /** `edit` may throw ApiError; it gives back the same `config` when there is nothing to change. */
  async make<T>(options: EditOptions, edit: (config: Config) => Edited<T>): Promise<EditOutcome<T>> {
    if (this.waiting >= EDITS_WAITING_MAX) {
      throw new ApiError(503, 'SLUICE_API_BUSY', `${EDITS_WAITING_MAX} changes wait already; commit many changes at once with PUT /api/v1/config`, undefined, { headers: { 'retry-after': '1' } });
    }
    this.waiting += 1;
    const mine = this.last.then(() => this.attempt(options, edit, ATTEMPTS_MAX));
    this.last = mine.catch(() => undefined);
    try {
      return await mine;
    } finally {
      this.waiting -= 1;
    }
  }

  private async attempt<T>(options: EditOptions, edit: (config: Config) => Edited<T>, left: number): Promise<EditOutcome<T>> {
    const { config, etag } = this.transactions.running;
    const { config: next, result, at, within } = edit(config);
    if (next === config) return { result };
    try {
      return { result, commit: await this.transactions.commit({ config: next, base: etag, ...options }) };
    } catch (error) {
      if (left > 1 && error instanceof ApiError && error.code === 'SLUICE_CONFIG_CONFLICT') return this.attempt(options, edit, left - 1);
      throw at ? pointIntoBody(error, at, within ?? '') : error;
    }
  }
}

/** The first problem of an invalid configuration, as a pointer into the body when it stands there. */
function pointIntoBody(error: unknown, at: readonly (string | number)[], within: string): unknown {
  if (!(error instanceof ApiError) || error.code !== 'SLUICE_CONFIG_INVALID') return error;
  const first = error.extras.problems?.find(({ severity }) => severity === 'error');
  if (!first) return error;
  const base = at.map((segment) => `/${escapePointer(segment)}`).join('');
  const pointer = pointerOfPath(first.path);
  if (pointer !== base && !pointer.startsWith(`${base}/`)) return error;
  return new ApiError(error.status, error.code, error.message, `${within}${pointer.slice(base.length)}`, error.extras);
}
