// The command line `sluice`. Who: bin/sluice. Exit codes: 0 done, 1 refused or failed, 2 wrong usage. Commands talk to control over
// DIR/api.sock; only `up`, `check`, `doctor`, `completion` and `simulate --config` work without one. Which commands there are: program.ts.
// Whatever fails says so on stderr: as text, or with --json as one line, a problem.
import { CommanderError } from 'commander';
import { chosenDirectory } from '../supervisor/run-directory.js';
import { ExitCode, failureJson, failureOf, failureText, usageFailure } from './output.js';
import { buildProgram, COMMAND_NAMES } from './program.js';

/** Runs one command line and answers its exit code. */
export async function main(argv: readonly string[]): Promise<number> {
  const words = argv.includes('--') ? argv.slice(0, argv.indexOf('--')) : argv;
  const asJson = words.includes('--json');
  try {
    const program = await buildProgram(argv[0], { isQuiet: asJson });
    // Help about what is no command is wrong usage, which says what is near.
    const isUnknownTopic = argv[0] === 'help' && argv[1] !== undefined && !argv[1].startsWith('-') && !COMMAND_NAMES.includes(argv[1]);
    await program.parseAsync((isUnknownTopic ? argv.slice(1) : argv) as string[], { from: 'user' });
    return Number(process.exitCode ?? ExitCode.DONE);
  } catch (error) {
    if (error instanceof CommanderError) {
      if (error.exitCode === 0) return ExitCode.DONE;
      if (asJson) process.stderr.write(failureJson(usageFailure(error.code === 'commander.help' ? 'a command is missing' : error.message)));
      return ExitCode.USAGE;
    }
    const failure = failureOf(error, chosenDirectory(directoryIn(argv)));
    process.stderr.write(asJson ? failureJson(failure) : failureText(failure));
    return failure.exitCode;
  }
}

/** The option as `--dir DIR` or `--dir=DIR`, for messages. */
function directoryIn(argv: readonly string[]): string | undefined {
  const at = argv.findIndex((word) => word === '--dir' || word.startsWith('--dir='));
  if (at < 0) return undefined;
  return argv[at] === '--dir' ? argv[at + 1] : argv[at]!.slice('--dir='.length);
}

// A reader that went away (`sluice flows | head`) is not an error.
process.stdout.on('error', (error: NodeJS.ErrnoException) => { if (error.code === 'EPIPE') process.exit(ExitCode.DONE); });
process.stderr.on('error', () => { /* nobody hears it: the exit code says it too */ });
process.exitCode = await main(process.argv.slice(2));
