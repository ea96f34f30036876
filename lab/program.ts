// A program the lab started: its pid, what it wrote so far, and its end. Owned by lab.ts.

import { spawn, type ChildProcess } from 'node:child_process';
import { until } from './until.js';

/** Output kept of each stream; older bytes of a chatty program are forgotten. */
const OUTPUT_BYTES_MAX = 4 * 1024 * 1024;

export interface Exit {
  code: number | null;
  signal: NodeJS.Signals | null;
}

export interface ProgramOptions {
  input?: string;
  /** Standard input stays open for write(). */
  keepInput?: boolean;
  env?: NodeJS.ProcessEnv;
  /** The signal the program gets when the process that started it dies. */
  parentDeathSignal?: 'KILL' | 'TERM';
}

export class Program {
  readonly label: string;
  readonly exited: Promise<Exit>;
  stdout = '';
  stderr = '';
  exit: Exit | undefined;
  readonly #child: ChildProcess;

  constructor(label: string, argv: readonly string[], options: ProgramOptions = {}) {
    this.label = label;
    const [file, ...args] = argv;
    // A session of its own: Ctrl-C in the terminal reaches the lab alone, which then ends its programs in order.
    const child = spawn(file!, args, {
      stdio: [options.input === undefined && !options.keepInput ? 'ignore' : 'pipe', 'pipe', 'pipe'],
      detached: true,
      env: { ...process.env, LC_ALL: 'C', ...options.env }, // what programs write is read here
    });
    this.#child = child;
    child.stdout!.setEncoding('utf8').on('data', (chunk: string) => (this.stdout = (this.stdout + chunk).slice(-OUTPUT_BYTES_MAX)));
    child.stderr!.setEncoding('utf8').on('data', (chunk: string) => (this.stderr = (this.stderr + chunk).slice(-OUTPUT_BYTES_MAX)));
    child.stdin?.on('error', () => {}); // it may end without reading everything
    if (options.input !== undefined) {
      child.stdin!.end(options.input);
    }
    this.exited = new Promise((resolve) => {
      const done = (exit: Exit): void => resolve((this.exit ??= exit));
      child.on('close', (code, signal) => done({ code, signal }));
      child.on('error', (error) => {
        this.stderr += error.message;
        done({ code: 127, signal: null });
      });
    });
  }

  /** To its standard input, with keepInput. */
  write(text: string): void {
    this.#child.stdin!.write(text);
  }

  get pid(): number {
    return this.#child.pid ?? -1;
  }

  get running(): boolean {
    return this.exit === undefined;
  }

  /** SIGKILL goes to what the program started, too: a pipeline would hold its output open. */
  kill(signal: NodeJS.Signals): void {
    if (!this.running || this.#child.pid === undefined) return;
    if (signal !== 'SIGKILL') {
      this.#child.kill(signal);
      return;
    }
    try {
      process.kill(-this.#child.pid, signal);
    } catch {
      // it ended by itself meanwhile
    }
  }

  /** Waits until the output matches; the error says what was there instead. */
  async waitForOutput(pattern: RegExp, deadlineMs = 30_000): Promise<RegExpMatchArray> {
    return until(
      `${this.label} writes ${pattern}`,
      () => {
        const match = `${this.stdout}\n${this.stderr}`.match(pattern);
        if (match) return match;
        if (!this.running) throw new Error(`it ended (${this.describeExit()}): ${this.tail()}`);
        return undefined;
      },
      { deadlineMs },
    );
  }

  /** Ends the program: asks first, insists after the deadline. */
  async stop(signal: NodeJS.Signals = 'SIGTERM', deadlineMs = 30_000): Promise<Exit> {
    this.kill(signal);
    const insist = setTimeout(() => this.kill('SIGKILL'), deadlineMs);
    const exit = await this.exited;
    clearTimeout(insist);
    return exit;
  }

  /** Waits for the end; kills the program when the deadline passes. */
  async finish(deadlineMs: number): Promise<Exit> {
    const insist = setTimeout(() => {
      this.stderr += `\nkilled after ${deadlineMs / 1000} s`;
      this.kill('SIGKILL');
    }, deadlineMs);
    const exit = await this.exited;
    clearTimeout(insist);
    return exit;
  }

  describeExit(): string {
    if (!this.exit) return 'running';
    return this.exit.signal ? `signal ${this.exit.signal}` : `exit code ${this.exit.code}`;
  }

  tail(lines = 15): string {
    return `${this.stdout}\n${this.stderr}`.trim().split('\n').slice(-lines).join('\n');
  }
}
