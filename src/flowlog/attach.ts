// Puts the record pipeline between control and everything that wants records. Who: src/control/process.ts; tests of the API.
import type { Control } from '../control/control.js';
import type { Log } from '../supervisor/log.js';
import type { RunDirectory } from '../supervisor/run-directory.js';
import { FlowLog } from './flow-log.js';
import { openStdout } from '../supervisor/relay.js';

/** Before control gives up root. Logs with a relative path stand in the state directory's part for them. */
export function attachFlowLog(control: Control, paths: RunDirectory, log: Log): FlowLog {
  openStdout(); // an unprivileged user may not open what root handed down
  const flowLog = new FlowLog(paths.logState, control.engine, log);
  control.flowLog = flowLog;
  if (control.applied) flowLog.configure(control.applied.compiled);
  return flowLog;
}
