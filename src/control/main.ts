// Entry of the control process. Arguments: one JSON object (ControlArguments). The supervisor starts it with its stderr on DIR/control.log.
// SIGTERM ends it, SIGHUP makes it read the running configuration again; SIGINT is the supervisor's business. It starts as root to bind
// DIR/api.sock and load its modules, then becomes an unprivileged user for good (privileges.ts).
import { chmodSync, chownSync, rmSync } from 'node:fs';
import { buildApi } from '../api/server.js';
import { createChildLog } from '../supervisor/log.js';
import { runDirectory } from '../supervisor/run-directory.js';
import { compileFile } from './compiled.js';
import { Control } from './control.js';
import { dropPrivileges, findBarrier, type ControlUser } from './privileges.js';

export interface ControlArguments { dir: string; user?: ControlUser }

process.title = 'sluice: control';
const log = createChildLog('control');
process.on('SIGINT', () => { /* see above */ });
process.on('uncaughtException', (error) => {
  log.fatal({ err: error }, 'control failed');
  process.exit(1);
});

const { dir, user } = JSON.parse(process.argv[2] ?? '{}') as ControlArguments;
const paths = runDirectory(dir);
const control = new Control(paths.engineSocket, (facts, generation, slots) => compileFile(paths.runningConfig, facts, generation, slots), log);
const api = buildApi(control, paths, log);

process.on('SIGHUP', () => control.reload());
process.on('SIGTERM', () => {
  control.stop();
  void api.close().finally(() => process.exit(0));
});

// What fastify loads at the first request, it could not load any more from a checkout that only root may read.
for (const url of ['/api/v1/status', '/api/v1/drops?last=0', '/metrics', '/nothing']) await api.inject(url);
rmSync(paths.apiSocket, { force: true });
const umask = process.umask(0o177);
await api.listen({ path: paths.apiSocket });
process.umask(umask);
if (user) becomeUser(user);
control.start();
log.info({ socket: paths.apiSocket, uid: process.getuid?.() }, 'control is up');

function becomeUser(to: ControlUser): void {
  const barrier = findBarrier(paths.dir, to);
  if (barrier !== undefined) {
    log.warn(`control stays root: user ${to.name} may not pass ${barrier}; choose a --dir that others may enter, like /run/sluice`);
    return;
  }
  chownSync(paths.apiSocket, to.uid, to.gid);
  chmodSync(paths.apiSocket, 0o660);
  dropPrivileges(to);
}
