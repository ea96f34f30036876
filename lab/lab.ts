// A laboratory: network namespaces with names of their own, links between them, programs inside them. Everything a Lab
// made goes away with destroy(), also when the process exits without having called it; what a killed process left
// behind is removed when the next Lab is made. Used by lab/main.ts, test/netns and bench.

import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Program, type Exit, type ProgramOptions } from './program.js';

const LABS_DIRECTORY = '/run/sluice-lab';
const NAMESPACE_DIRECTORY = '/run/netns';
const RUN_DEADLINE_MS = 90_000;

export interface Result extends Exit {
  stdout: string;
  stderr: string;
  milliseconds: number;
}

export interface RunOptions extends ProgramOptions {
  deadlineMs?: number;
}

export interface LinkEnd {
  node: string;
  device: string;
  addresses?: readonly string[];
  /** Addresses that the host uses only when a program binds them. */
  further?: readonly string[];
  /** Leave transmit checksum offload on: frames then leave with partial checksums, as a container's do. Default: off. */
  checksumOffload?: boolean;
  /** Generic receive offload, and with it NAPI (default: on). */
  gro?: boolean;
}

/** Why the lab cannot run here, or undefined. */
export function labObstacle(): string | undefined {
  if (process.getuid?.() !== 0) return 'network namespaces need root';
  try {
    const name = `sl-probe-${process.pid}`;
    execFileSync('ip', ['netns', 'add', name], { stdio: 'pipe' });
    try {
      execFileSync('ip', ['-n', name, 'link', 'add', 'name', 'probe0', 'type', 'veth', 'peer', 'name', 'probe1'], { stdio: 'pipe' });
    } finally {
      execFileSync('ip', ['netns', 'delete', name], { stdio: 'pipe' });
    }
  } catch (error) {
    return `this kernel makes no network namespaces or veth pairs: ${(error as Error).message}`;
  }
  return undefined;
}

let labsMade = 0;

export class Lab {
  readonly id: string;
  /** A directory of its own under /run; short, because Unix socket paths are. */
  readonly directory: string;
  readonly #nodes = new Set<string>();
  readonly #programs = new Set<Program>();
  readonly #exitHook = (): void => this.destroyNow();
  #ending = false;
  #destroyed = false;

  constructor() {
    removeOrphans();
    this.id = `${process.pid.toString(36)}${(labsMade++).toString(36)}`;
    this.directory = join(LABS_DIRECTORY, this.id);
    mkdirSync(this.directory, { recursive: true, mode: 0o755 });
    writeFileSync(join(this.directory, 'owner'), `${process.pid} ${processStart(process.pid)}\n`);
    process.on('exit', this.#exitHook);
  }

  namespace(node: string): string {
    return `sl-${this.id}-${node}`;
  }

  // ---- the network ----------------------------------------------------------------------------------------------

  addNode(node: string, sysctls: Record<string, string | number> = {}): void {
    execFileSync('ip', ['netns', 'add', this.namespace(node)], { stdio: 'pipe' });
    this.#nodes.add(node);
    this.ip(node, 'link set lo up');
    this.sysctl(node, sysctls);
  }

  /** A veth pair between two nodes, up, with addresses. */
  addLink(a: LinkEnd, b: LinkEnd): void {
    const [nsA, nsB] = [this.namespace(a.node), this.namespace(b.node)];
    execFileSync('ip', ['link', 'add', 'name', a.device, 'netns', nsA, 'type', 'veth', 'peer', 'name', b.device, 'netns', nsB], {
      stdio: 'pipe',
    });
    // A veth takes frames that XDP redirects to it while its peer has NAPI; GRO gives it that. The kernel looks whether the peer
    // has it when a veth comes up, and when the peer's setting changes while the peer is up: so both have it before either is.
    for (const end of [a, b]) {
      if (!end.checksumOffload) this.runSync(end.node, ['ethtool', '-K', end.device, 'tx', 'off']);
      if (end.gro ?? true) this.runSync(end.node, ['ethtool', '-K', end.device, 'gro', 'on']);
    }
    for (const end of [a, b]) {
      this.ip(
        end.node,
        `link set ${end.device} up`,
        ...(end.addresses ?? []).map((address) => this.addressLine(address, end.device)),
        ...(end.further ?? []).map((address) => `${this.addressLine(address, end.device)} preferred_lft 0`),
      );
    }
  }

  addressLine(address: string, device: string): string {
    return `address add ${address} dev ${device}${address.includes(':') ? ' nodad' : ''}`;
  }

  /** Runs lines of `ip` commands in a node, all or none further after the first that fails. */
  ip(node: string, ...lines: string[]): void {
    execFileSync('ip', ['-n', this.namespace(node), '-batch', '-'], { input: lines.join('\n') + '\n', stdio: ['pipe', 'pipe', 'pipe'] });
  }

  ipJson<T = Record<string, unknown>>(node: string, ...args: string[]): T[] {
    const text = execFileSync('ip', ['-n', this.namespace(node), '-json', ...args], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    return text.trim() ? (JSON.parse(text) as T[]) : [];
  }

  /**
   * Packets that the kernel of all nodes but the appliances threw away so far, as when nobody fetched them in time: a veth's ring holds 256, and
   * whoever empties them, or a UDP socket, may wait for a processor.
   */
  overrun(): number {
    let packets = 0;
    for (const node of [...this.#nodes].filter((name) => !name.startsWith('nva'))) {
      const [devices, protocols] = this.runSync(node, ['cat', '/proc/net/dev', '/proc/net/snmp', '/proc/net/snmp6']).split(/^(?=Ip: F)/m);
      for (const [, received, sent] of devices!.matchAll(/: +(?:\d+ +){3}(\d+) +(?:\d+ +){7}(\d+) /g)) packets += Number(received) + Number(sent);
      for (const [, lost] of protocols!.matchAll(/^(?:Udp: (?:\d+ ){4}|Udp6RcvbufErrors\s+)(\d+)/gm)) packets += Number(lost);
    }
    return packets;
  }

  /** What devices dropped on the way in and out, for whoever reads why a test failed. */
  deviceDrops(): string {
    return [...this.#nodes].flatMap((node) =>
      [...this.runSync(node, ['cat', '/proc/net/dev']).matchAll(/^ *(\S+): +(?:\d+ +){3}(\d+) +(?:\d+ +){7}(\d+) /gm)]
        .filter(([, , received, sent]) => received !== '0' || sent !== '0')
        .map(([, device, received, sent]) => `${node} ${device}: dropped ${received} received, ${sent} to send`),
    ).join('\n');
  }

  sysctl(node: string, values: Record<string, string | number>): void {
    const settings = Object.entries(values).map(([key, value]) => `${key}=${value}`);
    if (settings.length) this.runSync(node, ['sysctl', '-q', '-w', ...settings]);
  }

  // ---- programs ---------------------------------------------------------------------------------------------------

  /** Starts a program in a node; it ends with the lab. */
  start(node: string, argv: readonly string[], options: ProgramOptions = {}): Program {
    return this.startRaw(`${argv[0]} in ${node}`, this.inside(node, argv, options.parentDeathSignal), options);
  }

  startRaw(label: string, argv: readonly string[], options: ProgramOptions = {}): Program {
    if (this.#ending) throw new Error('the lab is gone');
    const program = new Program(label, argv, options);
    this.#programs.add(program);
    void program.exited.then(() => this.#programs.delete(program));
    return program;
  }

  /** A program that start() started and that still runs, by its name and node. */
  running(name: string, node: string): Program | undefined {
    return [...this.#programs].find(({ label }) => label === `${name} in ${node}`);
  }

  /** Runs a program in a node to its end. A failed program is an answer, not an error. */
  async run(node: string, argv: readonly string[], options: RunOptions = {}): Promise<Result> {
    const started = Date.now();
    const program = this.start(node, argv, options);
    const exit = await program.finish(options.deadlineMs ?? RUN_DEADLINE_MS);
    return { ...exit, stdout: program.stdout, stderr: program.stderr, milliseconds: Date.now() - started };
  }

  /** Like run(), but a failure is an error that says what the program said. */
  async must(node: string, argv: readonly string[], options: RunOptions = {}): Promise<string> {
    const result = await this.run(node, argv, options);
    if (result.code !== 0) {
      throw new Error(`${argv.join(' ')} in ${node}: ${result.signal ?? `exit code ${result.code}`}\n${result.stdout}${result.stderr}`);
    }
    return result.stdout;
  }

  runSync(node: string, argv: readonly string[]): string {
    const [file, ...args] = this.inside(node, argv);
    return execFileSync(file!, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
  }

  /** The command that runs another in a node. nsenter and setpriv replace themselves by it: its pid is the program's. */
  inside(node: string, argv: readonly string[], parentDeathSignal: 'KILL' | 'TERM' = 'KILL'): string[] {
    if (!this.#nodes.has(node)) throw new Error(`the lab has no node ${node}`);
    return [
      'nsenter',
      `--net=${join(NAMESPACE_DIRECTORY, this.namespace(node))}`,
      'setpriv',
      '--pdeathsig',
      parentDeathSignal,
      '--',
      ...argv,
    ];
  }

  // ---- the end ----------------------------------------------------------------------------------------------------

  /** Ends the programs, newest first, and removes everything. */
  async destroy(): Promise<void> {
    this.#ending = true;
    for (const program of [...this.#programs].reverse()) await program.stop();
    this.destroyNow();
  }

  destroyNow(): void {
    if (this.#destroyed) return;
    this.#ending = this.#destroyed = true;
    process.off('exit', this.#exitHook);
    for (const program of this.#programs) program.kill('SIGKILL');
    removeLab(this.id);
  }
}

/** Removes what a lab has on this machine: processes in its namespaces, the namespaces, mounts, files. */
function removeLab(id: string): void {
  const prefix = `sl-${id}-`;
  for (const name of listDirectory(NAMESPACE_DIRECTORY).filter((entry) => entry.startsWith(prefix))) {
    for (const pid of lines('ip', ['netns', 'pids', name])) {
      try {
        process.kill(Number(pid), 'SIGKILL');
      } catch {
        // it ended by itself meanwhile
      }
    }
    lines('ip', ['netns', 'delete', name]);
  }
  const directory = join(LABS_DIRECTORY, id);
  const mounts = readFileSync('/proc/self/mounts', 'utf8')
    .split('\n')
    .map((line) => line.split(' ')[1] ?? '');
  for (const mount of mounts.filter((point) => point.startsWith(`${directory}/`)).reverse()) lines('umount', ['--lazy', mount]);
  rmSync(directory, { recursive: true, force: true });
}

/** Labs whose process is gone without having cleaned up. */
function removeOrphans(): void {
  for (const id of listDirectory(LABS_DIRECTORY)) {
    let owner = '';
    try {
      owner = readFileSync(join(LABS_DIRECTORY, id, 'owner'), 'utf8');
    } catch {
      continue; // it is being made or removed
    }
    const [pid, start] = owner.trim().split(' ');
    if (processStart(Number(pid)) !== start) removeLab(id);
  }
}

/** When a process started, in clock ticks since boot: tells a process from a later one with the same pid. */
function processStart(pid: number): string | undefined {
  try {
    return readFileSync(`/proc/${pid}/stat`, 'utf8')
      .replace(/^.*\) /s, '')
      .split(' ')[19];
  } catch {
    return undefined;
  }
}

function listDirectory(path: string): string[] {
  return existsSync(path) ? readdirSync(path) : [];
}

/** Output lines of a command whose failure means "nothing there". */
function lines(file: string, args: readonly string[]): string[] {
  try {
    return execFileSync(file, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] })
      .split('\n')
      .filter(Boolean);
  } catch {
    return [];
  }
}

/** Labs that run now, newest last: what lab/shell.sh looks for. */
export function runningLabs(): string[] {
  return listDirectory(LABS_DIRECTORY);
}
