// A program on a real terminal, as script(1) of util-linux makes one: for tests that press keys and read what is drawn.
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { expect, onTestFinished } from 'vitest';

const SEEN_WITHIN_MS = 20_000;

export interface Terminal {
  type(keys: string): void;
  /** All that was written to the terminal since it began, or since `forget`. */
  output(): string;
  forget(): void;
  sees(what: RegExp | string): Promise<void>;
  ended: Promise<number | null>;
}

/** `command`: for /bin/sh, which outlives Ctrl-C. */
export function openTerminal(command: string, { rows = 40, columns = 120, env = {} }: { rows?: number; columns?: number; env?: NodeJS.ProcessEnv } = {}): Terminal {
  const child = spawn('script', ['--quiet', '--flush', '--return', '--command', `trap : INT; stty rows ${rows} cols ${columns}; ${command}`, '/dev/null'], {
    env: { ...process.env, SHELL: '/bin/sh', TERM: 'xterm', ...env }, // script(1) runs the command with $SHELL
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  let text = '';
  child.stdout.on('data', (data: Buffer) => { text += data.toString('utf8'); });
  const ended = new Promise<number | null>((resolveCode) => child.once('close', (code) => resolveCode(code)));
  onTestFinished(async () => {
    child.kill('SIGKILL'); // the terminal hangs up on what runs there
    await ended;
  });
  return {
    type: (keys) => void child.stdin.write(keys),
    output: () => text,
    forget: () => { text = ''; },
    sees: async (what) => {
      await expect.poll(() => text, { timeout: SEEN_WITHIN_MS, interval: 20 }).toMatch(what);
    },
    ended,
  };
}

/** A directory with `sluice` in it, for PATH, and room for a test's files. */
export function makeProgramDirectory(): string {
  const directory = mkdtempSync(join(tmpdir(), 'sluice-path-'));
  onTestFinished(() => rmSync(directory, { recursive: true, force: true }));
  writeFileSync(join(directory, 'sluice'), `#!/bin/sh\nexec '${process.execPath}' '${resolve('bin/sluice')}' "$@"\n`, { mode: 0o755 });
  return directory;
}
