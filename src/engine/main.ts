// Entry of the engine process. Arguments: one JSON object (EngineArguments). The supervisor starts it with its stderr on DIR/engine.log.
// SIGTERM ends it; SIGINT and SIGHUP are the supervisor's business (a terminal sends them to the whole group). Exit codes: 0 ended as
// asked, RESTART_EXIT_CODE ended for a restart, 1 a fault that a restart may cure, FATAL_EXIT_CODE one that it cannot.
import type { EngineHost } from './host.js';
import type { EngineArguments } from './process.js';

process.title = 'sluice: engine';
let host: EngineHost | undefined;
process.on('SIGINT', () => { /* see above */ });
process.on('SIGHUP', () => { /* see above */ });
process.on('SIGTERM', () => {
  host?.stop();
  process.exit(0);
});

const { startEngine } = await import('./process.js');
host = await startEngine(JSON.parse(process.argv[2] ?? '{}') as EngineArguments);
