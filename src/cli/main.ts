// The command line `sluice`. Who: bin/sluice. Exit codes: 0 done, 1 refused or failed, 2 wrong usage. Commands talk to control over
// DIR/api.sock; only `up` and `check` work without one.
import { Command, CommanderError } from 'commander';
import { chosenDirectory, packageVersion } from '../supervisor/run-directory.js';
import { addCheckCommand } from './commands/check.js';
import { addDropsCommand, addFlowsCommand, addObserveCommand } from './commands/records.js';
import { addRulesCommand } from './commands/rules.js';
import { addSimulateCommand } from './commands/simulate.js';
import { addStatusCommand } from './commands/status.js';
import { addUpCommand } from './commands/up.js';
import { describeError, ExitCode } from './output.js';

export function buildProgram(): Command {
  const program = new Command('sluice')
    .description('Sluice: a firewall, NAT and router in user space, steered by XDP')
    .version(packageVersion(), '--version', 'print the version')
    .helpOption('--help', 'explain the command')
    .showHelpAfterError('(--help explains)')
    .configureHelp({ showGlobalOptions: true })
    .exitOverride();
  addUpCommand(program);
  addCheckCommand(program);
  addStatusCommand(program);
  addFlowsCommand(program);
  addDropsCommand(program);
  addObserveCommand(program);
  addSimulateCommand(program);
  addRulesCommand(program);
  for (const command of program.commands) command.exitOverride().helpOption('--help', 'explain the command').showHelpAfterError('(--help explains)');
  return program;
}

/** Runs one command line and answers its exit code. */
export async function main(argv: readonly string[]): Promise<number> {
  const program = buildProgram();
  try {
    await program.parseAsync(argv as string[], { from: 'user' });
    return Number(process.exitCode ?? ExitCode.DONE);
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? ExitCode.DONE : ExitCode.USAGE;
    const dirAt = argv.indexOf('--dir');
    const { text, exitCode } = describeError(error, chosenDirectory(dirAt < 0 ? undefined : argv[dirAt + 1]));
    process.stderr.write(text);
    return exitCode;
  }
}

// A reader that went away (`sluice flows | head`) is not an error.
process.stdout.on('error', (error: NodeJS.ErrnoException) => { if (error.code === 'EPIPE') process.exit(ExitCode.DONE); });
process.exitCode = await main(process.argv.slice(2));
