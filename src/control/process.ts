// The control process: control's core, its API, and the way from root to an unprivileged user. Who: src/control/main.ts, once signals are caught.
// It starts as root to bind DIR/api.sock and load its modules, then becomes that user for good (privileges.ts).
import { chmodSync, chownSync, existsSync, readFileSync, rmSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { Access } from '../api/access-service.js';
import { buildApi } from '../api/server.js';
import { attachFlowLog } from '../flowlog/attach.js';
import type { FlowLog } from '../flowlog/flow-log.js';
import { Nodes } from '../nodes/nodes.js';
import { RESTART_EXIT_CODE } from '../supervisor/child.js';
import { createChildLog, type Log } from '../supervisor/log.js';
import { packageRoot, runDirectory, type RunDirectory } from '../supervisor/run-directory.js';
import { Checker } from './checker.js';
import { Control } from './control.js';
import { dropPrivileges, findBarrier, type ControlUser } from './privileges.js';
import { Transactions } from './transactions.js';

/** `isTold`: the log lines of the other processes come on standard input. */
export interface ControlArguments { dir: string; user?: ControlUser; isTold?: boolean }

export interface ControlProcess { reload(): void; stop(): Promise<void> }

export async function startControl({ dir, user, isTold }: ControlArguments): Promise<ControlProcess> {
  let flowLog: FlowLog | undefined;
  const log = createChildLog('control', (line) => flowLog?.system(line));
  process.on('uncaughtException', (error) => {
    log.fatal({ err: error }, 'control failed');
    process.exit(1);
  });
  const paths = runDirectory(dir);
  const checker = new Checker(log);
  // It costs some tens of megabytes, so it waits for the first question, unless this user could not load it then.
  const checkerLoads = user && findBarrier(packageRoot(), user) !== undefined ? checker.start() : undefined;
  const transactions = new Transactions(paths.configState, log);
  const control = new Control(paths.engineSocket, (facts, generation, slots) => transactions.compileRunning(facts, generation, slots), log);
  flowLog = attachFlowLog(control, paths, log);
  if (isTold) {
    process.stdin.on('error', () => { /* the supervisor is gone; we are not */ });
    createInterface(process.stdin).on('line', (line) => flowLog?.system(line));
  }
  const access = new Access({ paths, log, owner: user });
  access.audit.listeners.push((record) => flowLog?.audit(record));
  transactions.follower = access;
  transactions.onKeysRestored = () => process.kill(process.pid, 'SIGTERM'); // the supervisor starts control again
  const nodes = new Nodes(paths.nodeState, log, {
    show: () => control.wireguards(), rotate: (name, phase) => control.engine.wireguardRotate(name, phase),
    refill: () => control.reload(), audit: (event) => access.record(event),
  }, user);
  control.nodes = nodes;
  transactions.fill = (config) => nodes.fill(config);
  const api = buildApi(control, paths, log, { transactions, access, capture: control.captures, check: checker.check });
  // What fastify loads at the first request, it could not load any more from a checkout that only root may read.
  for (const url of ['/api/v1/status', '/api/v1/drops?last=0', '/metrics', '/nothing']) await api.inject({ url, headers: access.internalHeaders });
  rmSync(paths.apiSocket, { force: true });
  const umask = process.umask(0o177);
  await api.listen({ path: paths.apiSocket });
  process.umask(umask);
  await checkerLoads;
  if (user) becomeUser(user, paths, log);
  access.socketIsReady();
  await transactions.start(control);
  await takeOffered(transactions, paths, log);
  void nodes.start();
  await access.configure(transactions.runningConfig ?? { version: 1 });
  control.start();
  log.info({ socket: paths.apiSocket, uid: process.getuid?.() }, 'control is up');
  const stop = async (): Promise<void> => {
    transactions.stop();
    await nodes.stop();
    control.stop();
    await api.close();
    await access.stop();
    await flowLog?.stop();
    await checker.stop();
  };
  control.restartSelf = () => {
    log.info('asked to restart');
    void stop().finally(() => process.exit(RESTART_EXIT_CODE));
  };
  return {
    reload: () => {
      void takeOffered(transactions, paths, log).finally(() => control.reload());
    },
    stop,
  };
}

/** The file that the supervisor published. It was checked there already; what fails here is said, and what runs goes on. */
async function takeOffered(transactions: Transactions, paths: RunDirectory, log: Log): Promise<void> {
  try {
    if (existsSync(paths.runningConfig)) await transactions.takeFile(readFileSync(paths.runningConfig, 'utf8'));
  } catch (error) {
    log.error({ err: error }, `the file given to sluice up was not taken over: ${(error as Error).message}`);
  }
}

function becomeUser(to: ControlUser, paths: RunDirectory, log: Log): void {
  const barrier = findBarrier(paths.dir, to);
  if (barrier !== undefined) {
    log.warn(`control stays root: user ${to.name} may not pass ${barrier}; choose a --dir that others may enter, like /run/sluice`);
    return;
  }
  chownSync(paths.apiSocket, to.uid, to.gid);
  chmodSync(paths.apiSocket, 0o660);
  dropPrivileges(to);
}
