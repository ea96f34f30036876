// The control process's core: keeps the engine in the state that configuration and machine ask for, and the recent records at hand.
// Who: src/control/main.ts; the API reads from it. Thread: Node's main thread of the control process.
// One loop, `converge`: facts → compile → configure → facts again, when netdevs were changed → apply. It starts at each connection to
// the engine, each change of the machine and each reload; what fails is tried again, the engine keeps what it has.
// Bounds: FLOW_RECORDS_MAX and DROP_RECORDS_MAX records, SCAN_MAX sessions looked at a request.
import { createHash } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { DROP_RECORD_BYTES, FLOW_RECORD_BYTES, NEIGHBOUR_RECORD_BYTES, RULE_HITS_BYTES, readRuleHits } from '../engine/abi.generated.js';
import { readCounters, type Counters } from '../engine/binding.js';
import { findObstacles, type Obstacle } from '../engine/conflicts.js';
import type { HostFacts } from '../engine/facts.js';
import type { EngineStatus } from '../engine/host.js';
import { errorCode, errorMessage, IpcError } from '../engine/ipc.js';
import { decodeFlow, decodeNeighbour, decodeSimulate, encodeSimulate, viewOf, type FlowRecordView, type NeighbourView, type SimulateAnswer, type SimulateQuestion } from '../engine/records.js';
import type { Problem } from '../config/problem.js';
import type { Log } from '../supervisor/log.js';
import type { Compile, Compiled } from './compiled.js';
import { EngineClient } from './engine-client.js';
import type { Filter } from './filter.js';
import { RecordRing } from './record-ring.js';

const FLOW_RECORDS_MAX = 10_000;
const DROP_RECORDS_MAX = 10_000;
const SCAN_MAX = 200_000;
const PAGE_MAX = 4096;
const CHANGED_DEBOUNCE_MS = 150;
const RETRY_MS_MIN = 500;
const RETRY_MS_MAX = 5000;
const CONFIGURE_ROUNDS_MAX = 3; // a VLAN device that configure creates changes the facts once
const GENERATION_OFFSET = 16;   // of sl_snapshot_header

export interface Applied { compiled: Compiled; fingerprint: string; generation: number; enginePid: number; at: string }
export interface Failure { code: string; message: string; at: string }

export class Control {
  readonly flows = new RecordRing(FLOW_RECORD_BYTES, FLOW_RECORDS_MAX);
  readonly drops = new RecordRing(DROP_RECORD_BYTES, DROP_RECORDS_MAX);
  readonly startedAt = new Date();
  readonly engine: EngineClient;
  applied: Applied | undefined;
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

  constructor(engineSocket: string, private readonly compile: Compile, private readonly log: Log) {
    this.engine = new EngineClient(engineSocket, {
      onConnect: () => {
        this.log.info('connected to the engine');
        this.convergeSoon(0);
      },
      onDisconnect: () => {
        this.engineStatus = undefined;
        this.log.warn('the engine is away; established state stays in its XDP programs, nothing new is let through');
      },
      onRecords: (flows, drops, bytes) => {
        this.flows.push(bytes.subarray(0, flows * FLOW_RECORD_BYTES));
        this.drops.push(bytes.subarray(flows * FLOW_RECORD_BYTES, flows * FLOW_RECORD_BYTES + drops * DROP_RECORD_BYTES));
      },
      onChanged: () => this.convergeSoon(CHANGED_DEBOUNCE_MS),
    });
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
        await this.converge();
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
    let facts = await this.engine.facts();
    const generation = Math.max(status.generation, this.applied?.generation ?? 0) + 1;
    let compiled = this.compileOrThrow(facts, generation, status);
    this.watchObstacles(facts, compiled);
    for (let round = 0; round < CONFIGURE_ROUNDS_MAX; round += 1) {
      for (const warning of await this.engine.configure(compiled.plan)) this.log.warn(warning);
      const after = await this.engine.facts();
      const isSettled = deviceState(after) === deviceState(facts);
      facts = after;
      if (isSettled) break;
      compiled = this.compileOrThrow(facts, generation, status);
    }
    this.facts = facts;
    const fingerprint = fingerprintOf(compiled);
    const isInForce = this.applied?.fingerprint === fingerprint && this.applied.enginePid === status.pid && this.applied.generation === status.generation;
    if (!isInForce) {
      const result = await this.engine.apply(compiled.snapshot);
      this.applied = { compiled, fingerprint, generation: result.generation, enginePid: status.pid, at: new Date().toISOString() };
      for (const warning of compiled.warnings) this.log.warn(warning);
      this.log.info({ generation: result.generation, rules: compiled.rules.length, microseconds: result.microseconds }, 'configuration is in force');
    }
    this.engineStatus = await this.engine.status();
  }

  private compileOrThrow(facts: HostFacts, generation: number, { ports }: EngineStatus): Compiled {
    const { problems, compiled } = this.compile(facts, generation, ports);
    this.problems = problems;
    if (compiled) return compiled;
    const first = problems.find((problem) => problem.severity === 'error');
    throw new IpcError(first?.code ?? 'SLUICE_CONFIG', first ? `${first.path}: ${first.message} (${first.remedy})` : 'the configuration cannot be compiled');
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

  /** Sessions that `accept` takes. A cursor of 0 means the end; with a narrow filter a page may be short, or empty. */
  async sessions(cursor: number, limit: number, accept: Filter): Promise<{ sessions: FlowRecordView[]; cursor: number }> {
    const sessions: FlowRecordView[] = [];
    let at = cursor;
    for (let scanned = 0; scanned < SCAN_MAX && sessions.length < limit;) {
      // Never more than are missing: what does not fit could not be asked for again.
      const page = await this.engine.sessions(at, Math.min(limit - sessions.length, PAGE_MAX));
      const view = viewOf(page.bytes);
      for (let index = 0; index < page.count; index += 1) {
        const session = decodeFlow(view, index * FLOW_RECORD_BYTES, this.names);
        if (accept(session)) sessions.push(session);
      }
      scanned += Math.max(1, page.count);
      at = page.cursor;
      if (at === 0) break;
    }
    return { sessions, cursor: at };
  }

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

  async simulate(question: SimulateQuestion): Promise<SimulateAnswer> {
    return decodeSimulate(await this.engine.simulate(encodeSimulate(question)), this.names);
  }
}

const NO_NAMES: Compiled['names'] = { rule: () => null, natRule: () => null, interfaceById: () => null, interfaceAt: () => null, zone: () => null };

const deviceState = (facts: HostFacts): string => JSON.stringify([facts.devices, facts.localPortRange]);

/** Two compilations with one fingerprint differ in their generation at most. */
function fingerprintOf({ snapshot, plan }: Compiled): string {
  return createHash('sha256').update(snapshot.subarray(0, GENERATION_OFFSET)).update(snapshot.subarray(GENERATION_OFFSET + 8)).update(JSON.stringify(plan)).digest('hex');
}
