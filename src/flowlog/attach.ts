// Puts the record pipeline between control and everything that wants records. Who: src/control/process.ts; tests of the API.
import { lchownSync, mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Control } from '../control/control.js';
import type { Log } from '../supervisor/log.js';
import type { RunDirectory } from '../supervisor/run-directory.js';
import { FlowLog } from './flow-log.js';
import { openStdout } from './stdout-sink.js';

/** Where logs with a relative path stand. */
export const logDirectory = (paths: RunDirectory): string => join(paths.state, 'logs');

/** `owner`: whom its directory shall belong to, while we may still say so. */
export function attachFlowLog(control: Control, paths: RunDirectory, log: Log, owner?: { uid: number; gid: number }): FlowLog {
  openStdout(); // an unprivileged user may not open what root handed down
  if (owner) {
    const directory = logDirectory(paths);
    mkdirSync(directory, { recursive: true, mode: 0o750 });
    for (const path of [directory, ...readdirSync(directory).map((name) => join(directory, name))]) lchownSync(path, owner.uid, owner.gid);
  }
  const flowLog = new FlowLog(logDirectory(paths), control.engine, log);
  control.flowLog = flowLog;
  if (control.applied) flowLog.configure(control.applied.compiled);
  return flowLog;
}
