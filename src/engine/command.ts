// Runs the system's own tools (ip, ethtool, nft, mount). One place for their time limit, output bound and error text.
// Who: facts, conflicts and netdevs of the engine, clean-up and bpffs of the supervisor.
import { execFile } from 'node:child_process';

const OUTPUT_BYTES_MAX = 64 * 1024 * 1024; // a ruleset of a hundred thousand rules as JSON
const TIME_LIMIT_MS = 15_000;

export class CommandError extends Error {
  readonly code = 'SLUICE_COMMAND';
  constructor(readonly command: string, readonly stderr: string, readonly missing: boolean) {
    super(missing ? `${command.split(' ')[0]} is not installed` : `\`${command}\` failed: ${stderr}`);
    this.name = 'CommandError';
  }
}

export type Run = (program: string, ...args: string[]) => Promise<string>;

export const run: Run = (program, ...args) => new Promise((resolve, reject) => {
  const options = {
    maxBuffer: OUTPUT_BYTES_MAX, timeout: TIME_LIMIT_MS, killSignal: 'SIGKILL' as const, encoding: 'utf8' as const,
    env: { ...process.env, LC_ALL: 'C', PATH: `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin` },
  };
  execFile(program, args, options, (error, stdout, stderr) => {
    if (!error) {
      resolve(stdout);
      return;
    }
    const missing = (error as NodeJS.ErrnoException).code === 'ENOENT';
    const reason = stderr.trim() || (error.killed ? `no end within ${TIME_LIMIT_MS} ms` : error.message);
    reject(new CommandError([program, ...args].join(' '), reason, missing));
  });
});

/** Output of a tool that may be missing or may not know what it is asked: undefined then. */
export async function tryRun(execute: Run, program: string, ...args: string[]): Promise<string | undefined> {
  try {
    return await execute(program, ...args);
  } catch (error) {
    if (error instanceof CommandError) return undefined;
    throw error;
  }
}
