// The control process's core: keeps the engine in the state that configuration and machine ask for, and the recent records at hand.
// Who: src/control/main.ts; the API reads from it. Thread: Node's main thread of the control process.
// One loop, `converge`: facts → compile → configure → facts again, when netdevs were changed → apply. It starts at each connection to
// the engine, each change of the machine and each reload; what fails is tried again, the engine keeps what it has. A commit takes its
// turn between two rounds of it (`change`): it puts another configuration in force whole, or leaves the former one in force whole.
// Bounds: FLOW_RECORDS_MAX and DROP_RECORDS_MAX records.
import { setTimeout as delay } from 'node:timers/promises';
import { DROP_RECORD_BYTES, FLOW_RECORD_BYTES, NEIGHBOUR_RECORD_BYTES, RULE_HITS_BYTES, readRuleHits } from '../engine/abi.generated.js';
import { readCounters, type Counters } from '../engine/binding.js';
import { findObstacles, type Obstacle } from '../engine/conflicts.js';
import type { HostFacts } from '../engine/facts.js';
import type { EngineStatus } from '../engine/host.js';
import type { WireguardView as EngineWireguard } from '../engine/wireguard.js';
import { errorCode, errorMessage, IpcError } from '../engine/ipc.js';
import { decodeNeighbour, decodeSimulate, encodeSimulate, viewOf, type NeighbourView, type SimulateQuestion } from '../engine/records.js';
import type { Problem } from '../config/problem.js';
import type { FlowLog } from '../flowlog/flow-log.js';
import type { Nodes } from '../nodes/nodes.js';
import type { Log } from '../supervisor/log.js';
import type { Compile, Compiled } from './compiled.js';
import { EngineCaptures } from './capture-source.js';
import { EngineClient } from './engine-client.js';
import { passFaultPoint } from './fault-points.js';
import { RecordRing } from './record-ring.js';
import { namePeer } from './wireguard.js';

const FLOW_RECORDS_MAX = 10_000;
const DROP_RECORDS_MAX = 10_000;
const CHANGED_DEBOUNCE_MS = 150;
const RETRY_MS_MIN = 500;
const RETRY_MS_MAX = 5000;
const CONFIGURE_ROUNDS_MAX = 3; // a VLAN device that configure creates changes the facts once
const GENERATION_OFFSET = 16;   // of sl_snapshot_header

export interface Applied { compiled: Compiled; generation: number; enginePid: number; at: string }
export interface Failure { code: string; message: string; at: string }

/** What a commit wants of control. */
export interface ChangePlan {
  compile: Compile;
  /** Resolves when what the change needs is on disk; awaited before anything is touched. */
  prepared: Promise<void>;
  /** Makes it last: when this rejects, the former configuration is in force again. */
  keep(): Promise<void>;
}
export interface ChangeTimes { compileMs: number; applyMs: number; generation: number }

export class Control {
  readonly flows = new RecordRing(FLOW_RECORD_BYTES, FLOW_RECORDS_MAX);
  readonly drops = new RecordRing(DROP_RECORD_BYTES, DROP_RECORDS_MAX);
  readonly startedAt = new Date();
  readonly engine: EngineClient;
  readonly captures = new EngineCaptures(this);
  /** Takes records, and each configuration as it comes into force; src/flowlog/attach.ts sets it. */
  flowLog: FlowLog | undefined;
  /** Told of each configuration as it is found in force; src/control/process.ts sets it. */
  nodes: Nodes | undefined;
  /** Ends this process for a restart; src/control/process.ts sets it. */
  restartSelf: (() => void) | undefined;
  private inForce: Applied | undefined;
  facts: HostFacts | undefined;
  engineStatus: EngineStatus | undefined;
  problems: Problem[] = [];
  obstacles: Obstacle[] = [];
  failure: Failure | undefined;
  private wanted = false;
  private converging = false;
  private retryMs = RETRY_MS_MIN;
  private timer: NodeJS.Timeout | undefined;
  private stopped = false;
  private turn: Promise<unknown> = Promise.resolve();

  constructor(engineSocket: string, private readonly compile: Compile, private readonly log: Log) {
    this.engine = new EngineClient(engineSocket, {
      onConnect: () => {
        this.log.info('connected to the engine');
        this.convergeSoon(0);
      },
      onDisconnect: () => {
        this.engineStatus = undefined;
        this.captures.end();
        this.log.warn('the engine is away; established state stays in its XDP programs, nothing new is let through');
      },
      onRecords: (flows, drops, bytes) => {
        this.flows.push(bytes.subarray(0, flows * FLOW_RECORD_BYTES));
        this.drops.push(bytes.subarray(flows * FLOW_RECORD_BYTES, flows * FLOW_RECORD_BYTES + drops * DROP_RECORD_BYTES));
        this.flowLog?.take(flows, drops, bytes);
      },
      onChanged: () => this.convergeSoon(CHANGED_DEBOUNCE_MS),
      onCaptured: (bytes) => this.captures.take(bytes),
      onCaptureEnded: (slot) => this.captures.end(slot, 'the engine ended it: control did not answer for too long'),
    });
  }

  get applied(): Applied | undefined { return this.inForce; }
  set applied(applied: Applied | undefined) {
    this.inForce = applied;
    if (!applied) return;
    this.flowLog?.configure(applied.compiled);
    this.nodes?.inForce(applied.compiled);
  }

  start(): void { this.engine.start(); }

  stop(): void {
    this.stopped = true;
    clearTimeout(this.timer);
    this.engine.close();
  }

  /** The running configuration was replaced. */
  reload(): void { this.convergeSoon(0); }

  get names(): Compiled['names'] { return this.applied?.compiled.names ?? NO_NAMES; }

  // ---- towards the wanted state -----------------------------------------------------------------------------------

  private convergeSoon(inMs: number): void {
    if (this.stopped) return;
    this.wanted = true;
    if (this.converging) return;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => void this.convergeAll(), inMs);
  }

  private async convergeAll(): Promise<void> {
    this.converging = true;
    while (this.wanted && !this.stopped && this.engine.isConnected) {
      this.wanted = false;
      try {
        await this.inTurn(() => this.converge());
        this.failure = undefined;
        this.retryMs = RETRY_MS_MIN;
      } catch (error) {
        if (this.stopped || !this.engine.isConnected) break; // the next connection starts anew
        this.fail(error);
        await delay(this.retryMs, undefined, { ref: false });
        this.retryMs = Math.min(RETRY_MS_MAX, this.retryMs * 2);
        this.wanted = true;
      }
    }
    this.converging = false;
    if (this.wanted && this.engine.isConnected) this.convergeSoon(CHANGED_DEBOUNCE_MS);
  }

  private fail(error: unknown): void {
    const failure = { code: errorCode(error), message: errorMessage(error), at: new Date().toISOString() };
    if (this.failure?.message !== failure.message) this.log.error({ code: failure.code }, `the configuration is not in force: ${failure.message}`);
    this.failure = failure;
  }

  private async converge(): Promise<void> {
    const status = await this.engine.status();
    const { compiled, facts } = await this.prepareNetdevs(this.compile, await this.engine.facts(), status);
    this.facts = facts;
    const { applied } = this;
    const isInForce = applied !== undefined && applied.enginePid === status.pid && applied.generation === status.generation && isSame(applied.compiled, compiled);
    if (!isInForce) this.applied = await this.apply(compiled, status);
    else this.nodes?.inForce(compiled); // the same, and other records may stand behind it
    this.engineStatus = await this.engine.status();
  }

  /** Has netdevs, addresses and ports made as the plan says, and compiles again while that changes the facts. */
  private async prepareNetdevs(compile: Compile, before: HostFacts, status: EngineStatus): Promise<{ compiled: Compiled; facts: HostFacts }> {
    let facts = before;
    const generation = this.nextGeneration(status);
    let compiled = this.compileOrThrow(compile, facts, generation, status);
    this.watchObstacles(facts, compiled);
    for (let round = 0; round < CONFIGURE_ROUNDS_MAX; round += 1) {
      for (const warning of await this.engine.configure(compiled.plan)) this.log.warn(warning);
      const after = await this.engine.facts();
      const isSettled = deviceState(after) === deviceState(facts);
      facts = after;
      if (isSettled) break;
      compiled = this.compileOrThrow(compile, facts, generation, status);
    }
    return { compiled, facts };
  }

  private async apply(compiled: Compiled, status: EngineStatus): Promise<Applied> {
    const result = await this.engine.apply(compiled.snapshot);
    for (const warning of compiled.warnings) this.log.warn(warning);
    this.log.info({ generation: result.generation, rules: compiled.ruleCount, microseconds: result.microseconds }, 'configuration is in force');
    return { compiled, generation: result.generation, enginePid: status.pid, at: new Date().toISOString() };
  }

  private nextGeneration(status: EngineStatus): number { return Math.max(status.generation, this.applied?.generation ?? 0) + 1; }

  private compileOrThrow(compile: Compile, facts: HostFacts, generation: number, { ports }: EngineStatus): Compiled {
    const { problems, compiled } = compile(facts, generation, ports);
    this.problems = problems;
    if (compiled) return compiled;
    const first = problems.find((problem) => problem.severity === 'error');
    throw Object.assign(new IpcError(first?.code ?? 'SLUICE_CONFIG', first ? `${first.path}: ${first.message} (${first.remedy})` : 'the configuration cannot be compiled'), { problems });
  }

  // ---- a commit ---------------------------------------------------------------------------------------------------

  /** What `compile` gives for the machine as it is, without touching anything. */
  async tryCompile(compile: Compile): Promise<Compiled> {
    const status = await this.engine.status();
    const { problems } = this;
    try {
      return this.compileOrThrow(compile, this.freshFacts() ?? await this.engine.facts(), this.nextGeneration(status), status);
    } finally {
      this.problems = problems;
    }
  }

  /** All or nothing. When it rejects, the former configuration is in force, or, while the engine is away, will be once it is back. */
  async change(plan: ChangePlan): Promise<ChangeTimes> {
    return this.inTurn(() => this.changeNow(plan));
  }

  private async changeNow({ compile, prepared, keep }: ChangePlan): Promise<ChangeTimes> {
    const former = this.applied;
    const formerProblems = this.problems;
    let touched = false;
    try {
      passFaultPoint('change-begun');
      const begunMs = performance.now();
      const status = await this.engine.status();
      const known = this.freshFacts();
      let compiled = this.compileOrThrow(compile, known ?? await this.engine.facts(), this.nextGeneration(status), status);
      const compiledMs = performance.now();
      passFaultPoint('change-compiled');
      await prepared;
      const applyMs = performance.now();
      const isSamePlan = known !== undefined && former?.enginePid === status.pid && JSON.stringify(former.compiled.plan) === JSON.stringify(compiled.plan);
      touched = true;
      if (!isSamePlan) {
        passFaultPoint('change-configuring');
        let facts: HostFacts;
        ({ compiled, facts } = await this.prepareNetdevs(compile, known ?? await this.engine.facts(), status));
        this.facts = facts;
        passFaultPoint('change-configured');
      }
      passFaultPoint('change-applying');
      const applied = await this.apply(compiled, status);
      const appliedMs = performance.now();
      passFaultPoint('change-applied');
      await keep();
      passFaultPoint('change-kept');
      this.applied = applied;
      this.failure = undefined;
      if (!isSamePlan) this.engineStatus = await this.engine.status();
      else if (this.engineStatus) this.engineStatus = { ...this.engineStatus, generation: applied.generation, appliedAt: applied.at };
      return { compileMs: compiledMs - begunMs, applyMs: appliedMs - applyMs, generation: applied.generation };
    } catch (error) {
      this.problems = formerProblems;
      if (touched) await this.reestablish(former);
      throw error;
    }
  }

  /** Back to what was in force. What cannot be done now, the loop does: its configuration is still the former one. */
  private async reestablish(former: Applied | undefined): Promise<void> {
    if (former === undefined || !this.engine.isConnected) return this.convergeSoon(0);
    try {
      await this.engine.configure(former.compiled.plan);
      const status = await this.engine.status();
      const generation = this.nextGeneration(status);
      const snapshot = Uint8Array.from(former.compiled.snapshot);
      new DataView(snapshot.buffer).setBigUint64(GENERATION_OFFSET, BigInt(generation), true);
      const result = await this.engine.apply(snapshot);
      this.applied = { ...former, generation: result.generation, enginePid: status.pid };
      this.log.warn({ generation: result.generation }, 'the former configuration is in force again');
    } catch (error) {
      this.fail(error);
    }
    this.convergeSoon(0); // the machine may have changed on the way
  }

  /** The machine as last read, unless something happened to it since. */
  private freshFacts(): HostFacts | undefined { return this.wanted ? undefined : this.facts; }

  /** Rounds of the loop and commits, one after the other. */
  private inTurn<T>(work: () => Promise<T>): Promise<T> {
    const result = this.turn.then(work);
    this.turn = result.catch(() => undefined);
    return result;
  }

  /** Somebody may load an nftables chain while we run; it does not stop us, and must not stay unsaid. */
  private watchObstacles(facts: HostFacts, compiled: Compiled): void {
    const obstacles = findObstacles(facts, compiled.plan.ports.map((port) => port.name), () => true);
    for (const obstacle of obstacles) {
      if (!this.obstacles.some((known) => known.message === obstacle.message)) this.log.warn({ remedy: obstacle.remedy }, obstacle.message);
    }
    this.obstacles = obstacles;
  }

  // ---- questions --------------------------------------------------------------------------------------------------

  async counters(): Promise<Counters> { return readCounters(await this.engine.counters()); }

  async ruleHits(): Promise<Map<number, number>> {
    const bytes = await this.engine.ruleHits();
    const view = viewOf(bytes);
    const hits = new Map<number, number>();
    for (let offset = 0; offset + RULE_HITS_BYTES <= bytes.length; offset += RULE_HITS_BYTES) {
      const { ruleId, sessions } = readRuleHits(view, offset);
      hits.set(ruleId, Number(sessions));
    }
    return hits;
  }

  async neighbours(): Promise<NeighbourView[]> {
    const bytes = await this.engine.neighbours();
    const view = viewOf(bytes);
    return Array.from({ length: Math.floor(bytes.length / NEIGHBOUR_RECORD_BYTES) }, (_, index) => decodeNeighbour(view, index * NEIGHBOUR_RECORD_BYTES, this.names));
  }

  /** What the engine's process knows of tunnels; without any it is not asked. */
  async wireguards(): Promise<EngineWireguard[]> {
    return this.applied?.compiled.plan.wireguards.length ? this.engine.wireguardShow() : [];
  }

  async simulate(question: SimulateQuestion): Promise<ReturnType<typeof namePeer>> {
    return namePeer(decodeSimulate(await this.engine.simulate(encodeSimulate(question)), this.names), this.applied?.compiled.tunnels ?? []);
  }
}

const NO_NAMES: Compiled['names'] = { rule: () => null, natRule: () => null, interfaceById: () => null, interfaceAt: () => null, zone: () => null, zoneOfInterface: () => null };

const deviceState = (facts: HostFacts): string => JSON.stringify([facts.devices, facts.localPortRange]);

/** Differ the two in their generation at most? */
function isSame(one: Compiled, other: Compiled): boolean {
  const partsOf = ({ plan, observability }: Compiled): string => JSON.stringify([plan, observability]);
  const [a, b] = [Buffer.from(one.snapshot.buffer), Buffer.from(other.snapshot.buffer)];
  return a.length === b.length && partsOf(one) === partsOf(other)
    && a.compare(b, 0, GENERATION_OFFSET, 0, GENERATION_OFFSET) === 0 && a.compare(b, GENERATION_OFFSET + 8, b.length, GENERATION_OFFSET + 8, a.length) === 0;
}
