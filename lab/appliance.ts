// The appliance in a node of the lab: started, asked and ended through its documented command line alone.

import { execFile } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { get } from 'node:http';
import { join } from 'node:path';
import type { DropRecordView, FlowRecordView } from '../src/engine/records.js';
import type { Lab, Result } from './lab.js';
import { Program } from './program.js';
import { CONFIG, ROOT } from './topology.js';
import { until } from './until.js';

const SLUICE = [process.execPath, join(ROOT, 'bin', 'sluice')];
const READY_SECONDS = 90;

export type Role = 'supervisor' | 'engine' | 'control';

export interface ApplianceOptions {
  node?: string;
  /** A configuration file; `configText` is written to one. */
  config?: string;
  configText?: string;
  /** The run directory; default: one in the lab's. */
  directory?: string;
  /** How the namespace is entered: `ip netns exec` also hides the system's /sys. */
  enter?: 'nsenter' | 'ip-netns';
  /** Further variables of its environment. */
  env?: NodeJS.ProcessEnv;
}

export class Appliance {
  readonly directory: string;
  readonly config: string;
  program: Program | undefined;
  readonly #lab: Lab;
  readonly #node: string;
  readonly #enter: 'nsenter' | 'ip-netns';
  readonly #env: NodeJS.ProcessEnv;

  constructor(lab: Lab, options: ApplianceOptions = {}) {
    this.#lab = lab;
    this.#node = options.node ?? 'nva';
    this.#enter = options.enter ?? 'nsenter';
    this.#env = options.env ?? {};
    this.directory = options.directory ?? join(lab.directory, this.#node);
    this.config = options.config ?? CONFIG;
    if (options.configText !== undefined) {
      this.config = join(lab.directory, `${this.#node}.yaml`);
      writeFileSync(this.config, options.configText);
    }
  }

  // ---- its life ---------------------------------------------------------------------------------------------------

  /** Starts `sluice up`. It is asked to end, rather than killed, when this process dies: so that it can clean up. */
  up(): Program {
    const argv = [...SLUICE, 'up', '--config', this.config, '--dir', this.directory];
    this.program =
      this.#enter === 'nsenter'
        ? this.#lab.start(this.#node, argv, { parentDeathSignal: 'TERM', env: this.#env })
        : this.#lab.startRaw('sluice up', [
            'ip',
            'netns',
            'exec',
            this.#lab.namespace(this.#node),
            'setpriv',
            '--pdeathsig',
            'TERM',
            ...argv,
          ]);
    return this.program;
  }

  /** Starts it and waits until it forwards. */
  async start(): Promise<this> {
    const program = this.up();
    await this.ready();
    if (!program.running) throw new Error(`sluice up ended (${program.describeExit()}):\n${program.tail()}`);
    return this;
  }

  async ready(): Promise<void> {
    // up may refuse at once; then there is no point in waiting for the status
    const status = this.command('status', '--wait', String(READY_SECONDS));
    const program = this.program;
    const ended = program?.exited.then((exit) => {
      throw new Error(`sluice up ended (${exit.signal ?? `exit code ${exit.code}`}):\n${program.tail()}`);
    });
    const result = await (ended ? Promise.race([status, ended]) : status);
    if (result.code !== 0)
      throw new Error(`sluice status --wait: exit code ${result.code}\n${result.stdout}${result.stderr}\nsluice up:\n${program?.tail()}`);
  }

  /** Ends it as a user would and waits until it is gone. */
  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<number | null> {
    return (await this.program!.stop(signal, 60_000)).code;
  }

  /** The identity of one of its processes, as it stands in the run directory; undefined while it has none. */
  pid(role: Role): number | undefined {
    try {
      const { pid } = JSON.parse(readFileSync(join(this.directory, `${role}.pid`), 'utf8')) as { pid: number };
      return existsSync(`/proc/${pid}`) ? pid : undefined;
    } catch {
      return undefined;
    }
  }

  /** Kills one of its processes; answers its pid. */
  killProcess(role: Role): number {
    const pid = this.pid(role);
    if (pid === undefined) throw new Error(`the appliance has no ${role} process`);
    process.kill(pid, 'SIGKILL');
    return pid;
  }

  /** Waits until another process has taken the killed one's place. */
  async restarted(role: Role, killed: number, deadlineMs = 30_000): Promise<number> {
    return until(`${role} runs again`, () => (this.pid(role) !== killed ? this.pid(role) : undefined), { deadlineMs });
  }

  // ---- its command line -------------------------------------------------------------------------------------------

  async command(...args: string[]): Promise<Result> {
    const started = Date.now();
    const program = this.#lab.startRaw(`sluice ${args[0]}`, [...SLUICE, ...args, '--dir', this.directory]);
    const exit = await program.finish(120_000);
    return { ...exit, stdout: program.stdout, stderr: program.stderr, milliseconds: Date.now() - started };
  }

  async json<T>(...args: string[]): Promise<T> {
    const result = await this.command(...args, '--json');
    if (result.code !== 0) throw new Error(`sluice ${args.join(' ')}: exit code ${result.code}\n${result.stdout}${result.stderr}`);
    return JSON.parse(result.stdout) as T;
  }

  /** Sessions and the records of ended ones, newest last; filters as the command takes them. */
  async flows(...filters: string[]): Promise<FlowRecordView[]> {
    return (await this.json<{ records: FlowRecordView[] }>('flows', ...filters)).records;
  }

  async drops(...filters: string[]): Promise<DropRecordView[]> {
    return (await this.json<{ records: DropRecordView[] }>('drops', ...filters)).records;
  }

  /** Asks its REST API. */
  async api<T>(path: string): Promise<T> {
    const text = await new Promise<string>((resolve, reject) => {
      get({ socketPath: join(this.directory, 'api.sock'), path, headers: { host: 'sluice' } }, (response) => {
        let body = '';
        response.setEncoding('utf8').on('data', (chunk: string) => (body += chunk));
        response.on('end', () =>
          response.statusCode === 200 ? resolve(body) : reject(new Error(`${path}: ${response.statusCode} ${body}`)),
        );
      }).on('error', reject);
    });
    return JSON.parse(text) as T;
  }

  logs(): string {
    return ['engine.log', 'control.log']
      .map((name) => join(this.directory, name))
      .filter((path) => existsSync(path))
      .map((path) => `--- ${path}\n${readFileSync(path, 'utf8').split('\n').slice(-40).join('\n')}`)
      .join('\n');
  }
}

/** `sluice check`: needs no appliance and no namespace. */
export function check(file: string, ...options: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  const [node, script] = SLUICE as [string, string];
  return new Promise((resolve) => {
    execFile(node, [script, 'check', file, ...options], (error, stdout, stderr) => resolve({ code: error ? Number(error.code ?? -1) : 0, stdout, stderr }));
  });
}
