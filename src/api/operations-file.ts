// Operations that were answered with 202, on disk, so that the next control process can say what became of them: an outcome without its
// result, or that it was interrupted. Who: src/api/operations.ts. Bounds: as many as that keeps. Written whole and renamed: a killed control
// leaves the old file or the new one. Not synced: after a power cut nobody waits for an answer. What cannot be read or written is nothing to stop for.
import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import type { Log } from '../supervisor/log.js';
import { ApiError, toProblemDetails } from './errors.js';
import type { KnownOperation } from './operations.js';

export class OperationsFile {
  constructor(private readonly path: string, private readonly log: Pick<Log, 'warn'>) {}

  /** As the control process before us left them, oldest first; those that ended longer than `keptMs` ago are forgotten. */
  read(keptMs: number): KnownOperation[] {
    try {
      const operations = JSON.parse(readFileSync(this.path, 'utf8')) as KnownOperation[];
      return operations.map((one) => (one.state === 'running' ? interrupted(one) : one)).filter(({ finishedAt }) => Date.now() - Date.parse(finishedAt!) < keptMs);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') this.log.warn({ err: error }, 'operations of before this start are not known');
      return [];
    }
  }

  write(operations: readonly KnownOperation[]): void {
    try {
      mkdirSync(dirname(this.path), { recursive: true, mode: 0o700 });
      writeFileSync(`${this.path}.tmp`, JSON.stringify(operations.map(({ result: _result, ...known }) => known)), { mode: 0o600 });
      renameSync(`${this.path}.tmp`, this.path);
    } catch (error) {
      this.log.warn({ err: error }, 'operations will not be known after a restart of control');
    }
  }
}

function interrupted(operation: KnownOperation): KnownOperation {
  const why = new ApiError(503, 'SLUICE_API_INTERRUPTED', 'control ended while this was being done: it may have taken effect, in part or not at all; read what it was to change');
  return { ...operation, state: 'interrupted', phase: 'ended', finishedAt: new Date().toISOString(), problem: toProblemDetails(why) };
}
