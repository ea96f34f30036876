// Entry of the control process. Arguments: one JSON object (ControlArguments). The supervisor starts it with its stderr on DIR/control.log.
// SIGTERM ends it, SIGHUP makes it read the running configuration again; SIGINT is the supervisor's business (a terminal sends it to the
// whole group). Signals are caught before anything large is loaded: none of them may kill a process that only just starts.
import type { ControlArguments, ControlProcess } from './process.js';

process.title = 'sluice: control';
let control: ControlProcess | undefined; // a reload before it is there needs nothing: it has yet to read the file
process.on('SIGINT', () => { /* see above */ });
process.on('SIGHUP', () => control?.reload());
process.on('SIGTERM', () => void (control?.stop() ?? Promise.resolve()).finally(() => process.exit(0)));

const { startControl } = await import('./process.js');
control = await startControl(JSON.parse(process.argv[2] ?? '{}') as ControlArguments);
