// The native tools of bench/native: where they are, and how the long-lived ones are spoken to (one line in, one JSON
// object out; they end when their standard input does).

import { execFileSync, spawn, type ChildProcess } from "node:child_process";
import { join } from "node:path";
import { createInterface } from "node:readline";
import type { Lab } from "../lab/lab.js";
import { projectDirectory } from "./machine.js";

const TOOL_DIRECTORY = join(projectDirectory, "build/native");
const ANSWER_DEADLINE_MS = 10_000;

/** Compiles the traffic programs and these tools, if they are stale. */
export function prepareTools(...names: string[]): void {
  execFileSync(join(projectDirectory, "bench/build.sh"), names, { stdio: ["ignore", "ignore", "inherit"] });
}

export function toolPath(name: string): string {
  return join(TOOL_DIRECTORY, name);
}

/** Where and how urgently a program runs; nothing said: as the scheduler likes. */
export interface Placement {
  cpus?: string | undefined;
  /** Before every other process, by real-time priority: for a machine that others work on. */
  urgent?: boolean | undefined;
}

/** The command that places another. */
export function placed(placement: Placement): string[] {
  return [...(placement.cpus === undefined ? [] : ["taskset", "--cpu-list", placement.cpus]), ...(placement.urgent ? ["chrt", "--rr", "1"] : [])];
}

/** Lets this process read clocks on time while urgent ones run; what it starts is not urgent by that. */
export function becomeUrgent(): void {
  execFileSync("chrt", ["--all-tasks", "--reset-on-fork", "--rr", "--pid", "2", String(process.pid)]);
}

export class Tool<Sample> {
  readonly #child: ChildProcess;
  readonly #lines: AsyncIterator<string>;
  readonly #label: string;
  #stderr = "";

  private constructor(label: string, argv: readonly string[]) {
    const [file, ...args] = argv;
    this.#label = label;
    this.#child = spawn(file!, args, { stdio: ["pipe", "pipe", "pipe"], detached: true });
    this.#child.stdin!.on("error", () => {}); // it ended; the next answer says so
    this.#child.stderr!.setEncoding("utf8").on("data", (text: string) => (this.#stderr += text));
    this.#lines = createInterface({ input: this.#child.stdout! })[Symbol.asyncIterator]();
  }

  /** Starts a tool in a node and waits until it is ready. */
  static async start<Sample>(lab: Lab, node: string, name: string, args: readonly string[], placement: Placement = {}): Promise<Tool<Sample>> {
    const tool = new Tool<Sample>(name, lab.inside(node, [...placed(placement), toolPath(name), ...args]));
    await tool.#answer();
    return tool;
  }

  get pid(): number {
    return this.#child.pid!;
  }

  async sample(): Promise<Sample> {
    this.#child.stdin!.write("\n");
    return (await this.#answer()) as Sample;
  }

  async stop(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const exited = new Promise((resolve) => this.#child.once("exit", resolve));
    const insist = setTimeout(() => this.#child.kill("SIGKILL"), ANSWER_DEADLINE_MS);
    this.#child.stdin!.end();
    await exited;
    clearTimeout(insist);
  }

  async #answer(): Promise<unknown> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, reject) => (timer = setTimeout(() => reject(new Error(`${this.#label} does not answer`)), ANSWER_DEADLINE_MS)));
    try {
      const line = await Promise.race([this.#lines.next(), late]);
      if (line.done) throw new Error(`${this.#label} ended: ${this.#stderr.trim()}`);
      return JSON.parse(line.value);
    } finally {
      clearTimeout(timer);
    }
  }
}
