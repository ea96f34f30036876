// Puts the record pipeline between control and everything that wants records. Who: src/control/process.ts; tests of the API.
import { join } from 'node:path';
import type { Control } from '../control/control.js';
import type { Log } from '../supervisor/log.js';
import type { RunDirectory } from '../supervisor/run-directory.js';
import { FlowLog } from './flow-log.js';

/** Where logs with a relative path stand. */
export const logDirectory = (paths: RunDirectory): string => join(paths.state, 'logs');

export function attachFlowLog(control: Control, paths: RunDirectory, log: Log): FlowLog {
  const flowLog = new FlowLog(logDirectory(paths), control.engine, log);
  control.flowLog = flowLog;
  if (control.applied) flowLog.configure(control.applied.compiled);
  return flowLog;
}
