// Transactions: the one way in which the configuration changes. Running, candidate, history; commit, confirm, rollback.
// Who: src/control/process.ts makes one and gives it to the API; src/api/routes/ and the supervisor's SIGHUP (through control) use it.
// Thread: Node's main thread of the control process; commits run one after the other.
import type { Author, Candidate, Change, CommitRequest, CommitResult, Revision, Version } from './transaction-types.js';

export type { Author, Candidate, Change, CommitRequest, CommitResult, Revision, Version } from './transaction-types.js';

export class Transactions {
  /** Throws ApiError SLUICE_NOT_READY while there is none. */
  get running(): Version { throw notYet(); }

  get candidate(): Candidate | undefined { return undefined; }

  commit(_request: CommitRequest): Promise<CommitResult> { return Promise.reject(notYet()); }

  /** Keeps what a commit with confirmWithinS put in force. */
  confirm(_by: Author): Promise<Revision> { return Promise.reject(notYet()); }

  /** Commits the content of an earlier revision again, as a new one. */
  rollback(_revision: number, _by: Author, _comment?: string): Promise<CommitResult> { return Promise.reject(notYet()); }

  /** Newest first. */
  history(): Revision[] { return []; }

  /** Throws ApiError SLUICE_API_NOT_FOUND. */
  revisionText(_revision: number): string { throw notYet(); }

  diff(_from: number | 'running' | 'candidate', _to: number | 'running' | 'candidate'): Change[] { throw notYet(); }

  setCandidate(_text: string, _by: Author, _base?: string): Promise<Candidate> { return Promise.reject(notYet()); }

  discardCandidate(): Promise<void> { return Promise.reject(notYet()); }
}

const notYet = (): Error => new Error('transactions are being built');
