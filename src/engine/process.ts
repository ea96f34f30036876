// The engine process: the addon and its host. Who: src/engine/main.ts, once signals are caught.
import { readdirSync, readFileSync } from 'node:fs';
import { getPriority, setPriority } from 'node:os';
import { bpfObjectPath, loadAddon, type OpenOptions } from './binding.js';
import { readDevices, readFacts } from './facts.js';
import { EngineHost } from './host.js';
import { errorCode } from './ipc.js';
import { prepareNetdevs, stopKernelForwarding } from './netdevs.js';
import { FATAL_EXIT_CODE, RESTART_EXIT_CODE } from '../supervisor/child.js';
import { createChildLog } from '../supervisor/log.js';
import { runDirectory } from '../supervisor/run-directory.js';

export interface EngineArguments extends Omit<OpenOptions, 'pinDirectory' | 'bpfObject' | 'offline'> {
  dir: string;
  socketGid?: number;
}

/** Ends the process when it cannot start: the supervisor starts it again, unless that would not help. */
export async function startEngine({ dir, socketGid, ...tuning }: EngineArguments): Promise<EngineHost> {
  const log = createChildLog('engine');
  process.on('uncaughtException', (error) => {
    log.fatal({ err: error }, 'engine failed');
    process.exit(1);
  });
  const paths = runDirectory(dir);
  try {
    const host = new EngineHost({
      paths, ...(socketGid === undefined ? {} : { socketGid }),
      open: { ...tuning, pinDirectory: paths.bpf, bpfObject: bpfObjectPath(), offline: false },
    }, { addon: loadAddon(), log, readFacts: () => readFacts(), readDevices: () => readDevices(), prepare: prepareNetdevs, stopKernelForwarding, restart: () => process.exit(RESTART_EXIT_CODE) });
    await host.start();
    letWorkersGoFirst();
    return host;
  } catch (error) {
    log.fatal({ err: error, code: errorCode(error) }, 'engine cannot start');
    process.exit(errorCode(error).startsWith('SLUICE_ADDON_') ? FATAL_EXIT_CODE : 1);
  }
}

/** The supervisor started this process before others' priority; that is meant for its workers. Our own thread is the first: those that it makes from then on are like it. */
function letWorkersGoFirst(): void {
  if (getPriority() >= 0) return;
  for (const thread of readdirSync('/proc/self/task')) {
    try {
      if (!readFileSync(`/proc/self/task/${thread}/comm`, 'utf8').startsWith('sl-worker-')) setPriority(Number(thread), 0);
    } catch { /* it ended */ }
  }
}
