// The commands of `sluice`, one line each. Who: main.ts for what a command line names, completion for all of them.
// A new command: src/cli/commands/NAME.ts exports `addNameCommand(program)`, and a line stands here. A group (`sluice config show`)
// is one line too: its module adds a command with subcommands, which inherit everything that is set below.
// A command's module is loaded when the command line names it, or all when it asks for help: each command starts at once.
import { Command } from 'commander';
import { packageVersion } from '../supervisor/run-directory.js';

type AddCommand = (program: Command) => void;

/** In the order in which `sluice --help` lists them. */
const COMMANDS: Record<string, () => Promise<AddCommand>> = {
  up: async () => (await import('./commands/up.js')).addUpCommand,
  check: async () => (await import('./commands/check.js')).addCheckCommand,
  doctor: async () => (await import('./commands/doctor.js')).addDoctorCommand,
  status: async () => (await import('./commands/status.js')).addStatusCommand,
  top: async () => (await import('./commands/top.js')).addTopCommand,
  flows: async () => (await import('./commands/records.js')).addFlowsCommand,
  drops: async () => (await import('./commands/records.js')).addDropsCommand,
  observe: async () => (await import('./commands/records.js')).addObserveCommand,
  capture: async () => (await import('./commands/capture.js')).addCaptureCommand,
  simulate: async () => (await import('./commands/simulate.js')).addSimulateCommand,
  rules: async () => (await import('./commands/rules.js')).addRulesCommand,
  restart: async () => (await import('./commands/restart.js')).addRestartCommand,
  config: async () => (await import('./commands/config.js')).addConfigCommand,
  wireguard: async () => (await import('./commands/wireguard.js')).addWireguardCommand,
  node: async () => (await import('./commands/node.js')).addNodeCommand,
  token: async () => (await import('./commands/token.js')).addTokenCommand,
  audit: async () => (await import('./commands/audit.js')).addAuditCommand,
  backup: async () => (await import('./commands/backup.js')).addBackupCommand,
  restore: async () => (await import('./commands/backup.js')).addRestoreCommand,
  completion: async () => (await import('./commands/completion.js')).addCompletionCommand,
  'completion-names': async () => (await import('./commands/completion.js')).addCompletionNamesCommand,
};

export const COMMAND_NAMES: readonly string[] = Object.keys(COMMANDS);

/** `only`: the one command that is needed; left out or unknown: all of them. `isQuiet`: wrong usage is only thrown, not printed. */
export async function buildProgram(only?: string, { isQuiet = false } = {}): Promise<Command> {
  const program = new Command('sluice')
    .description('Sluice: a stateful firewall and router with NAT and WireGuard, on XDP and AF_XDP')
    .version(packageVersion(), '--version', 'print the version')
    .helpOption('--help', 'explain the command')
    .helpCommand('help [COMMAND]', 'explain a command')
    .showHelpAfterError('(--help explains)')
    .configureHelp({ showGlobalOptions: true })
    .configureOutput(isQuiet ? { writeErr: () => undefined } : {})
    .exitOverride();
  const wanted = only !== undefined && Object.hasOwn(COMMANDS, only) ? [COMMANDS[only]!] : Object.values(COMMANDS);
  for (const add of await Promise.all(wanted.map((load) => load()))) add(program);
  return program;
}
