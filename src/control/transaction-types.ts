// What transactions speak of: versions, changes, requests and results. The seam between transactions.ts and whoever changes or shows
// the configuration (src/api/routes/, src/cli/). Add members, rename none.
import type { Change } from '../config/diff.js';
import type { Problem } from '../config/problem.js';
import type { Config } from '../config/schema.js';

/** Who changes something, as history and audit log name it. */
export interface Author { name: string; via: 'socket' | 'token' | 'oidc' | 'mtls' | 'file' | 'system' }

export type { Change } from '../config/diff.js';

/** A configuration that was or is in force. `config` is frozen by convention: make a changed copy (sharing what stays) and commit it. */
export interface Version { readonly revision: number; readonly etag: string; readonly text: string; readonly config: Config }

/** What is edited and not yet committed. `base`: etag of the version it was made from. */
export interface Candidate { readonly etag: string; readonly base: string; readonly text: string; readonly by: Author; readonly at: string }

export interface Revision {
  revision: number; etag: string; at: string; by: Author; comment: string;
  /** How it came about. */
  action: 'commit' | 'rollback' | 'file' | 'not-confirmed' | 'restore';
  /** Set while it waits for its confirmation: until when, as ISO time. */
  confirmBy?: string;
  running: boolean; bytes: number; changes: number;
}

export interface CommitRequest {
  /** YAML or JSON text, kept as it is; or `config`, of which the text is made. Neither: the candidate. */
  text?: string;
  config?: unknown;
  /** Etag of the version that the editor started from; another one running now means a conflict. */
  base?: string;
  by: Author;
  comment?: string;
  /** Rolled back by itself unless confirmed within so many seconds. */
  confirmWithinS?: number;
  /** Validate, compare and compile; change nothing. */
  dryRun?: boolean;
  /** Whatever `base` says, and also when it changes nothing or would cut off the caller. */
  force?: boolean;
}

export interface CommitResult {
  revision: number; etag: string;
  /** The first 1,000; `changeCount` counts all. */
  changes: Change[];
  changeCount: number;
  warnings: Problem[];
  milliseconds: { validate: number; compile: number; apply: number; total: number };
  confirmBy?: string;
}

/** A part of control that follows the configuration beside the engine: the API's own access and listeners. */
export interface Follower {
  /** Throws ApiError when it cannot have this configuration, and when its author must not make this change. One of the two is called then. */
  prepare(after: Config, before: Config | undefined, request: CommitRequest): Promise<{ commit(): Promise<void>; abandon(): Promise<void> }>;
  /** As far as it can be had. Never throws. */
  configure(config: Config): Promise<void>;
  /** A revision came in force, whoever wanted it. Never throws. */
  changed(revision: Pick<Revision, 'revision' | 'by' | 'action' | 'changes'>): void;
}
