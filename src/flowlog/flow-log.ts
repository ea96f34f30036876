// The record pipeline of control: takes batches as the engine sent them, and feeds log streams, live observers and flow metrics.
// Who: src/control/process.ts makes one and gives it records, entries and configurations; the API asks for observers and numbers.
// Thread: control's main thread, in turns of TURN_MS so that the API answers meanwhile. Bound: INTAKE_BYTES_MAX of batches wait; more are
// given up and counted, oldest first. Nothing here ever waits for a receiver.
// What comes before the first configuration is in force (the engine hands over what it kept while control was away) waits for its streams,
// HOLD_MS at most; of entries EARLY_ENTRIES_MAX.
import { hostname } from 'node:os';
import { SERIES_MAX_DEFAULT, UPDATE_SECONDS_DEFAULT, type LogConfig, type ObservabilityConfig } from '../config/schema-observability.js';
import { DROP_RECORD_BYTES, FLOW_RECORD_BYTES, INTERFACE_BYTES, readInterface, readSnapshotHeader } from '../engine/abi.generated.js';
import { viewOf, type Names } from '../engine/records.js';
import { errorMessage } from '../engine/ipc.js';
import type { Log } from '../supervisor/log.js';
import { FlowMetrics } from '../metrics/flow-metrics.js';
import type { Criteria } from './match.js';
import { NameTexts, nameTextsOf } from './names.js';
import { Observers, type LineWriter } from './observers.js';
import { Stream, type RecordSpan } from './stream.js';
import type { SinkStats } from './sink.js';
import { loggedRules, Updates, type SessionPages } from './updates.js';

const INTAKE_BYTES_MAX = 32 * 1024 * 1024;
const TURN_MS = 4;
const SPAN_RECORDS = 256;  // between looks at the clock
const CLOSE_GRACE_MS = 1000;
const HOLD_MS = 60_000;    // a configuration that cannot be in force now must not blind those who look for the cause
const EARLY_ENTRIES_MAX = 1000;

/** What a configuration in force means for records. */
export interface FlowLogConfig {
  names: Names;
  hostname: string | null;
  snapshot: Uint8Array;
  observability?: ObservabilityConfig | undefined;
}

interface Batch { flows: number; drops: number; bytes: Uint8Array; done: number }

export interface StreamStats extends SinkStats { name: string; type: string; to: string }

const NO_NAMES: Names = { rule: () => null, natRule: () => null, interfaceById: () => null, interfaceAt: () => null, zone: () => null, zoneOfInterface: () => null };

export class FlowLog {
  readonly observers = new Observers();
  readonly metrics = new FlowMetrics(SERIES_MAX_DEFAULT);
  private readonly updates: Updates;
  private streams: Stream[] = [];
  private names = new NameTexts(NO_NAMES);
  private interfaces: readonly { id: number; name: string }[] = [];
  private hostName = hostname();
  private rulesLogged = new Set<number>();
  private batches: Batch[] = [];
  private waitingBytes = 0;
  private isTurnDue = false;
  private stopped = false;
  private inEntry = false;
  private early: { type: 'audit' | 'system'; entry: object }[] | undefined = []; // undefined: streams are there
  private holdTimer: NodeJS.Timeout | undefined;
  private isHeld = true;
  private looked = 0; // of those taken: streams and observers saw them, or they were lost
  taken = 0;
  lost = 0;

  constructor(private readonly directory: string, engine: SessionPages, private readonly log: Log) {
    this.updates = new Updates(engine, (rule) => this.rulesLogged.has(rule), (flows, bytes) => this.take(flows, 0, bytes));
  }

  /** Records taken and not yet looked at. */
  get waiting(): number { return this.taken - this.looked; }

  /** Live records from now on; what was taken before is among the recent ones already. Answers how to end it. */
  observe(criteria: Criteria, to: LineWriter): () => void { return this.observers.add(criteria, to, this.taken); }

  get streamStats(): StreamStats[] {
    return this.streams.map((stream) => ({ name: stream.name, type: stream.type, to: stream.config.to, ...stream.stats }));
  }

  /** A configuration came into force. Streams that it leaves as they were go on, with what they have buffered. */
  configure(config: FlowLogConfig): void {
    this.names = nameTextsOf(config.names);
    const interfaces = interfacesOf(config);
    const isNamedAnew = JSON.stringify(interfaces) !== JSON.stringify(this.interfaces);
    this.interfaces = interfaces;
    const hostName = config.hostname ?? hostname();
    const isRenamed = hostName !== this.hostName;
    this.hostName = hostName;
    this.rulesLogged = loggedRules(config.snapshot);
    const { observability } = config;
    const wanted = namedLogs(observability?.logs ?? []);
    const kept = new Map(this.streams.map((stream) => [stream.name, stream]));
    const next: Stream[] = [];
    for (const [name, log] of wanted) {
      const old = kept.get(name);
      if (old && !isRenamed && JSON.stringify(old.config) === JSON.stringify(log)) {
        kept.delete(name);
        next.push(old);
        if (isNamedAnew) old.nameInterfaces(interfaces);
        continue;
      }
      const stream = this.open(name, log);
      if (stream) next.push(stream);
    }
    this.streams = next;
    for (const stream of kept.values()) void stream.close(CLOSE_GRACE_MS);
    this.metrics.configure(observability?.metrics);
    const wantsUpdates = next.some((stream) => stream.type === 'flow');
    this.updates.setInterval(wantsUpdates ? observability?.flows?.updateSeconds ?? UPDATE_SECONDS_DEFAULT : 0);
    const { early } = this;
    this.early = undefined;
    for (const { type, entry } of early ?? []) this.entry(type, entry);
    this.release();
  }

  /** Records go on to whoever wants them. */
  private release(): void {
    this.isHeld = false;
    clearTimeout(this.holdTimer);
    this.turnSoon();
  }

  private open(name: string, log: LogConfig): Stream | undefined {
    try {
      return new Stream(name, log, {
        directory: this.directory, hostName: this.hostName, interfaces: () => this.interfaces,
        log: (isUp, message) => {
          if (isUp) this.log.info({ stream: name, to: log.to }, `log ${name} works again: ${message}`);
          else this.log.warn({ stream: name, to: log.to }, `log ${name} does not get through: ${message}`);
        },
      });
    } catch (error) {
      this.log.error({ stream: name, err: error }, `log ${name} cannot be opened: ${errorMessage(error)}`);
      return undefined;
    }
  }

  /** Records as the engine sent them: flows first, drops after them. The bytes are ours from now on. */
  take(flows: number, drops: number, bytes: Uint8Array): void {
    this.taken += flows + drops;
    this.batches.push({ flows, drops, bytes, done: 0 });
    this.waitingBytes += bytes.length;
    while (this.waitingBytes > INTAKE_BYTES_MAX && this.batches.length > 1) {
      const oldest = this.batches.shift()!;
      this.waitingBytes -= oldest.bytes.length;
      const lost = oldest.flows + oldest.drops - oldest.done;
      this.lost += lost;
      this.looked += lost;
    }
    this.turnSoon();
  }

  /** An entry of the audit log. */
  audit(entry: object): void { this.entry('audit', entry); }

  /** A line of the processes' logs, as pino writes it. */
  system(line: string): void {
    if (this.early === undefined && !this.streams.some((stream) => stream.type === 'system')) return;
    try {
      this.entry('system', JSON.parse(line) as object);
    } catch { /* no entry: a process that crashes writes what it likes */ }
  }

  private entry(type: 'audit' | 'system', entry: object): void {
    if (this.early) {
      this.early.push({ type, entry });
      if (this.early.length > EARLY_ENTRIES_MAX) this.early.shift();
      return;
    }
    if (this.inEntry) return; // a sink that fails while it takes an entry logs: that line is not sent again
    this.inEntry = true;
    try {
      for (const stream of this.streams) {
        if (stream.type !== type) continue;
        stream.entry({ kind: type, ...entry });
        stream.flush();
      }
    } finally {
      this.inEntry = false;
    }
  }

  private turnSoon(): void {
    if (this.isTurnDue || this.stopped || this.batches.length === 0) return;
    if (this.isHeld) {
      this.holdTimer ??= setTimeout(() => this.release(), HOLD_MS).unref();
      return;
    }
    this.isTurnDue = true;
    setImmediate(() => {
      this.isTurnDue = false;
      this.turn();
    });
  }

  private turn(): void {
    const endMs = performance.now() + TURN_MS;
    do {
      const batch = this.batches[0];
      if (!batch) break;
      if (this.work(batch)) {
        this.batches.shift();
        this.waitingBytes -= batch.bytes.length;
      }
    } while (performance.now() < endMs);
    if (this.batches.length > 0) {
      this.turnSoon();
      return;
    }
    this.flush();
  }

  /** A span of a batch; true at its end. */
  private work(batch: Batch): boolean {
    const { flows, drops, bytes, done } = batch;
    const view = viewOf(bytes);
    if (done < flows) {
      const span = { view, bytes, offset: done * FLOW_RECORD_BYTES, count: Math.min(SPAN_RECORDS, flows - done) };
      this.each(span, 'flows');
      batch.done += span.count;
    } else if (done < flows + drops) {
      const span = { view, bytes, offset: flows * FLOW_RECORD_BYTES + (done - flows) * DROP_RECORD_BYTES, count: Math.min(SPAN_RECORDS, flows + drops - done) };
      this.each(span, 'drops');
      batch.done += span.count;
    }
    return batch.done === flows + drops;
  }

  private each(span: RecordSpan, kind: 'flows' | 'drops'): void {
    const { names } = this;
    const nth = this.looked;
    this.looked += span.count;
    for (const stream of this.streams) if (stream.type === 'flow' || stream.type === 'firewall') stream[kind](span, names);
    this.observers[kind](span, names, nth);
    this.metrics[kind](span, names);
  }

  private flush(): void {
    for (const stream of this.streams) stream.flush();
    this.observers.flush();
  }

  async stop(): Promise<void> {
    if (this.stopped) return;
    this.stopped = true;
    clearTimeout(this.holdTimer);
    this.updates.stop();
    while (this.batches.length > 0) if (this.work(this.batches[0]!)) this.batches.shift();
    this.flush();
    await Promise.all(this.streams.map((stream) => stream.close(CLOSE_GRACE_MS)));
  }
}

function interfacesOf({ snapshot, names }: FlowLogConfig): { id: number; name: string }[] {
  const view = viewOf(snapshot);
  const { interfaces } = readSnapshotHeader(view, 0);
  return Array.from({ length: interfaces.count }, (_, index) => ({ id: readInterface(view, interfaces.offset + index * INTERFACE_BYTES).id, name: names.interfaceAt(index) ?? '' }));
}

/** The name of a log: its own, else its kind and place, like flow-to-syslog or flow-to-syslog-2. */
function namedLogs(logs: readonly LogConfig[]): Map<string, LogConfig> {
  const named = new Map<string, LogConfig>();
  const given = new Set(logs.map(({ name }) => name));
  for (const log of logs) {
    let name = log.name;
    for (let n = 1; name === undefined || (log.name === undefined && (named.has(name) || given.has(name))); n += 1) name = n === 1 ? `${log.type}-to-${log.to}` : `${log.type}-to-${log.to}-${n}`;
    named.set(name, log);
  }
  return named;
}
