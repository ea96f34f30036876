// What every route of the API works with, and how it says what it is: role and resource (access), operation (OpenAPI), schemas.
// Who: src/api/server.ts makes one context a server, src/api/routes/ take it.
import type { FastifyInstance } from 'fastify';
import type { Check } from '../control/checker.js';
import type { Control } from '../control/control.js';
import type { Transactions } from '../control/transactions.js';
import type { Log } from '../supervisor/log.js';
import type { RunDirectory } from '../supervisor/run-directory.js';
import type { CaptureSource } from './capture.js';
import type { ConfigEdits } from './edits.js';
import type { Operations } from './operations.js';

export interface ApiContext {
  readonly control: Control;
  readonly paths: RunDirectory;
  readonly log: Log;
  readonly transactions: Transactions;
  readonly edits: ConfigEdits;
  readonly operations: Operations;
  readonly check: Check;
  /** Absent in tests that have no engine's tap: capture answers 501. */
  readonly capture?: CaptureSource;
}

export type Register = (api: FastifyInstance, context: ApiContext) => void;
