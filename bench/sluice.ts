// The appliance as device under test: its configuration for the benches, start, status, end.

import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Program } from "../lab/program.js";
import { processTree, projectDirectory } from "./machine.js";
import { progress } from "./report.js";
import { placed, type Placement } from "./tool.js";
import { applianceRules, fillerRules } from "./rule-set.js";
import { networks, type Bench, type Family } from "./topology.js";

/** A hundred thousand rules on a busy machine. */
const START_DEADLINE_S = 240;
const COMMIT_DEADLINE_MS = 120_000;
/** The name of the log stream that `flowLog` makes. */
export const FLOW_LOG = "bench";
const sluicePath = join(projectDirectory, "bin/sluice");

export interface SluiceOptions {
  placement?: Placement;
  /** Filler rules before the one that allows the traffic; none of them matches. */
  rules?: number;
  /** Sessions it holds at most. */
  sessions?: number;
  /** A source NAT pool with ports for millions of sessions. */
  largePool?: boolean;
  workers?: number;
  /** Whether the traffic's flows may leave the engine (auto). */
  offload?: "auto" | "never";
  /** A log stream of flow records to a file; which sessions are recorded, the rule says. */
  flowLog?: boolean;
  /** Timers of the configuration, in seconds. */
  timers?: Record<string, number>;
  /** Where it runs: the device under test, unless a bench has more than one. */
  node?: string;
  /** Another configuration than the benches' firewall with SNAT. */
  configuration?: string;
}

/** The members of `sluice status --json` that benches read. */
export interface SluiceStatus {
  processes: { role: string; pid: number | null }[];
  sessions: { total: number; byState: Record<string, number> } | null;
  natMappings: number | null;
  buffers: { free: number; total: number } | null;
  drops: Record<string, number>;
}

/** The members of `sluice config commit --json` that benches read. */
export interface CommitAnswer {
  changeCount: number;
  milliseconds: { validate: number; compile: number; apply: number; total: number };
}

/** Everything from inside to outside passes, through SNAT to the pool; nothing else does. */
function configurationText(options: SluiceOptions, family: Family, fillerSeed?: number): string {
  const network = networks[family];
  // JSON is YAML.
  return JSON.stringify({
    version: 1,
    hostname: "bench",
    interfaces: {
      trust: { device: network.insideDevice, zone: "trust" },
      untrust: { device: network.outsideDevice, zone: "untrust" },
    },
    routes: [
      { to: network.insidePrefix, via: network.insideGateway },
      { to: network.remotePrefix, via: network.outsideGateway },
    ],
    firewall: {
      default: "deny",
      rules: [
        ...applianceRules(fillerRules(options.rules ?? 0, family, fillerSeed)),
        { name: "outbound", from: ["trust"], to: ["untrust"], source: [network.insidePrefix], action: "allow", ...(options.offload ? { offload: options.offload } : {}) },
      ],
    },
    ...(options.workers ? { engine: { workers: options.workers } } : {}),
    ...(options.timers ? { timers: options.timers } : {}),
    ...(options.sessions ? { limits: { sessions: options.sessions } } : {}),
    ...(options.flowLog ? { observability: { logs: [{ name: FLOW_LOG, type: "flow", to: "file", path: "flows.jsonl", rotate: { megabytes: 1024, files: 2 } }] } } : {}),
    nat: {
      source: [
        {
          ...{ name: "egress", from: ["trust"], to: ["untrust"], source: [network.insidePrefix], families: [`ipv${family}`] },
          translate: { pool: [options.largePool ? network.largePool : network.pool] },
        },
      ],
    },
  });
}

export class Sluice {
  readonly #bench: Bench;
  readonly #program: Program;
  readonly #directory: string;
  readonly #file: string;
  readonly #options: SluiceOptions;

  private constructor(bench: Bench, program: Program, directory: string, file: string, options: SluiceOptions) {
    this.#bench = bench;
    this.#program = program;
    this.#directory = directory;
    this.#file = file;
    this.#options = options;
  }

  static async start(bench: Bench, options: SluiceOptions = {}): Promise<Sluice> {
    const { node = "dut" } = options;
    const directory = join(bench.lab.directory, node === "dut" ? "sluice" : `sluice-${node}`);
    const file = `${directory}.yaml`;
    mkdirSync(directory, { recursive: true });
    writeFileSync(file, options.configuration ?? configurationText(options, bench.family));
    const argv = [...placed(options.placement ?? {}), sluicePath, "up", "--config", file, "--dir", directory];
    const program = bench.lab.start(node, argv, { parentDeathSignal: "TERM" });
    const sluice = new Sluice(bench, program, directory, file, options);
    try {
      // It may refuse at once; then there is no point in waiting for the status.
      const ended = program.exited.then(() => Promise.reject(new Error(program.describeExit())));
      ended.catch(() => {}); // later ends are not this function's
      await Promise.race([sluice.#cli(["status", "--wait", String(START_DEADLINE_S), "--json"]), ended]);
    } catch (error) {
      await program.stop();
      throw new Error(`sluice did not start: ${program.tail()}\n${(error as Error).message}`);
    }
    return sluice;
  }

  /** Of its REST API. */
  get apiSocket(): string {
    return join(this.#directory, "api.sock");
  }

  /** Process id of one of its processes, as the run directory names it; 0: it has none. */
  pidOf(role: "engine" | "control"): number {
    try {
      return (JSON.parse(readFileSync(join(this.#directory, `${role}.pid`), "utf8")) as { pid: number }).pid;
    } catch {
      return 0;
    }
  }

  /** Process id of the supervisor and of all that it runs. */
  pids(): number[] {
    return processTree(this.#program.pid);
  }

  /** Waits until it forwards by its configuration. */
  async ready(): Promise<void> {
    await this.#cli(["status", "--wait", String(START_DEADLINE_S), "--json"]);
  }

  async status(): Promise<SluiceStatus> {
    return JSON.parse(await this.#cli(["status", "--json"])) as SluiceStatus;
  }

  /** Sessions that live now, the first few. */
  async sessions(limit: number): Promise<unknown> {
    return JSON.parse(await this.#cli(["flows", "--live", "--limit", String(limit), "--json"])) as unknown;
  }

  /** Puts a configuration with other filler rules in force, by the command that a user would take. */
  async commit(rules: number, seed: number): Promise<CommitAnswer> {
    writeFileSync(this.#file, configurationText({ ...this.#options, rules }, this.#bench.family, seed));
    const argv = [...placed(this.#options.placement ?? {}), sluicePath, "config", "commit", this.#file, "--dir", this.#directory, "--json"];
    return JSON.parse(await this.#bench.lab.must("dut", argv, { deadlineMs: COMMIT_DEADLINE_MS })) as CommitAnswer;
  }

  async stop(): Promise<void> {
    const exit = await this.#program.stop("SIGTERM", 20_000);
    // A clean end is what the end-to-end tests judge; here it must not cost the figures.
    if (exit.code !== 0) progress(`sluice ended with ${this.#program.describeExit()}: ${this.#program.tail(3)}`);
  }

  /** What a command of its answers. */
  async ask<T>(...args: string[]): Promise<T> {
    return JSON.parse(await this.#cli([...args, "--json"])) as T;
  }

  #cli(args: readonly string[]): Promise<string> {
    return this.#bench.lab.must(this.#options.node ?? "dut", [sluicePath, ...args, "--dir", this.#directory], { deadlineMs: (START_DEADLINE_S + 10) * 1000 });
  }
}
