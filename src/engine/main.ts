// Entry of the engine process. Arguments: one JSON object (EngineArguments). The supervisor starts it with its stderr on DIR/engine.log.
// SIGTERM ends it; SIGINT and SIGHUP are the supervisor's business (a terminal sends them to the whole group). Exit codes: 0 ended as
// asked, 1 a fault that a restart may cure, FATAL_EXIT_CODE a fault that it cannot.
import { bpfObjectPath, loadAddon, type OpenOptions } from './binding.js';
import { readDevices, readFacts } from './facts.js';
import { EngineHost } from './host.js';
import { errorCode } from './ipc.js';
import { prepareNetdevs } from './netdevs.js';
import { FATAL_EXIT_CODE } from '../supervisor/child.js';
import { createChildLog } from '../supervisor/log.js';
import { runDirectory } from '../supervisor/run-directory.js';

export interface EngineArguments extends Omit<OpenOptions, 'pinDirectory' | 'bpfObject' | 'offline'> {
  dir: string;
  socketGid?: number;
}

process.title = 'sluice: engine';
const log = createChildLog('engine');
process.on('SIGINT', () => { /* see above */ });
process.on('SIGHUP', () => { /* see above */ });
process.on('uncaughtException', (error) => {
  log.fatal({ err: error }, 'engine failed');
  process.exit(1);
});

const { dir, socketGid, ...tuning } = JSON.parse(process.argv[2] ?? '{}') as EngineArguments;
const paths = runDirectory(dir);
try {
  const host = new EngineHost({
    paths, ...(socketGid === undefined ? {} : { socketGid }),
    open: { ...tuning, pinDirectory: paths.bpf, bpfObject: bpfObjectPath(), offline: false },
  }, { addon: loadAddon(), log, readFacts: () => readFacts(), readDevices: () => readDevices(), prepare: prepareNetdevs });
  process.on('SIGTERM', () => {
    host.stop();
    process.exit(0);
  });
  await host.start();
} catch (error) {
  log.fatal({ err: error, code: errorCode(error) }, 'engine cannot start');
  process.exit(errorCode(error).startsWith('SLUICE_ADDON_') ? FATAL_EXIT_CODE : 1);
}
