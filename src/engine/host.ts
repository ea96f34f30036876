// The engine process (`sluice: engine`): owns the addon, prepares netdevs, answers control over DIR/engine.sock.
// Who: started by the supervisor through engine/main.ts; tests construct EngineHost over an addon of their own. Thread: Node's main
// thread; the addon's workers are its own business. Bounds: BACKLOG_BYTES_MAX of records wait while no control is connected (the
// oldest go first), SESSIONS_PAGE_MAX sessions a page.
// Order of a change: configure (netdevs, new ports; keys and ports of WireGuard) → apply (snapshot, WireGuard's peers). After a crash
// both are repeated from last-applied.bin.
import type { Server } from 'node:net';
import { CAPTURE_FILTER_BYTES, DROP_RECORD_BYTES, FLOW_RECORD_BYTES, SL_CAPTURES_MAX, SL_PORTS_MAX } from './abi.generated.js';
import { readCounters, type Addon, type OpenOptions, type XdpMode } from './binding.js';
import type { Device } from '../config/facts.js';
import type { HostFacts } from './facts.js';
import { IpcConnection, IpcError, listenIpc, type Head, type Message } from './ipc.js';
import { loadLastApplied, parsePlan, removeLastApplied, saveLastApplied, type ConfigurePlan, type LastApplied, type PortPlan } from './last-applied.js';
import { prepareNetdevs } from './netdevs.js';
import { ROTATE_PHASES, WireguardHost, type WireguardParts } from './wireguard.js';
import { CleanupJournal } from '../supervisor/cleanup.js';
import type { Log } from '../supervisor/log.js';
import type { RunDirectory } from '../supervisor/run-directory.js';

const DRAIN_INTERVAL_MS = 50;
const RECORDS_BUFFER_BYTES = 1024 * 1024;
const DRAINS_MAX = 8;                       // full buffers a turn: the event loop must come round
const BACKLOG_BYTES_MAX = 4 * 1024 * 1024;
const SESSIONS_PAGE_MAX = 4096;
const CHANGED_DEBOUNCE_MS = 100;
const TAKER_SILENT_MS_MAX = 5000;
const GUARD_INTERVAL_MS = 5000;
const SAVE_MS = 200;                        // after the last change: the disk is for the commit itself, and changes come in rows
const SAVE_MS_MAX = 5000;                   // after the first
const GENERATION_OFFSET = 16;               // of sl_snapshot_header

export interface HostOptions {
  paths: RunDirectory;
  open: OpenOptions;
  socketGid?: number;   // the group that control runs in
}

export interface HostParts {
  addon: Addon;
  log: Log;
  readFacts(): Promise<HostFacts>;
  readDevices(): Promise<Device[]>;
  prepare: typeof prepareNetdevs;
  stopKernelForwarding(device: string): boolean;
  /** For tests: its own clock, its own names. */
  wireguard?: Partial<WireguardParts>;
  /** Ends the process for a restart; what the next engine inherits stays. */
  restart?(): void;
}

interface AttachedPort extends PortPlan { attachedMode: XdpMode; workers: number }
interface Capture { taker: IpcConnection; heardMs: number }
interface RecordBatch { flows: number; drops: number; bytes: Uint8Array }

export interface EngineStatus {
  pid: number; startedAt: string; generation: number; applyMicroseconds: number | null; appliedAt: string | null; restored: boolean;
  ports: { name: string; ifindex: number; slot: number; queues: number; mode: XdpMode }[];
  workers: number; warnings: string[]; recordsShed: number;
}

export class EngineHost {
  private readonly connections = new Set<IpcConnection>();
  private readonly ports = new Map<string, AttachedPort>();
  private readonly recordsBuffer = new Uint8Array(RECORDS_BUFFER_BYTES);
  private readonly journal: CleanupJournal;
  private readonly startedAt = new Date().toISOString();
  private backlog: RecordBatch[] = [];
  private backlogBytes = 0;
  private recordsShed = 0;
  private server: Server | undefined;
  private drainTimer: NodeJS.Timeout | undefined;
  private changedTimer: NodeJS.Timeout | undefined;
  private guardTimer: NodeJS.Timeout | undefined;
  private plan: ConfigurePlan = { ports: [], vlans: [], addresses: [] };
  private warnings: string[] = [];
  private generation = 0;
  private applied: { microseconds: number; at: string; restored: boolean } | undefined;
  private turn: Promise<unknown> = Promise.resolve();
  private unsaved: { state: LastApplied; sinceMs: number } | undefined;
  private saveTimer: NodeJS.Timeout | undefined;
  private drainedMs = 0;
  private stopped = false;
  private readonly captures = new Map<number, Capture>(); // by slot
  private readonly wireguard: WireguardHost;

  constructor(private readonly options: HostOptions, private readonly parts: HostParts) {
    this.journal = CleanupJournal.load(options.paths.cleanup);
    this.wireguard = new WireguardHost(options.paths.wireguardState, { addon: parts.addon, log: parts.log, ...parts.wireguard });
  }

  async start(): Promise<void> {
    this.parts.addon.onEvent((event) => this.onAddonEvent(event));
    const last = loadLastApplied(this.options.paths.lastApplied);
    const devices = last && this.parts.readDevices(); // by tools, which run while the addon opens: packets wait for both
    devices?.catch(() => { /* restore() sees it */ });
    this.parts.addon.open(this.options.open);
    this.generation = readCounters(this.parts.addon.counters()).gauges.generation; // inherited: the next one must be greater
    if (last && devices) await this.restore(last, devices);
    this.server = await listenIpc(this.options.paths.engineSocket, (socket) => this.accept(socket), this.options.socketGid);
    this.drainTimer = setInterval(() => this.drainRecords(), DRAIN_INTERVAL_MS);
    this.guardTimer = setInterval(() => this.guardForwarding(), GUARD_INTERVAL_MS);
    this.parts.log.info({ workers: this.options.open.workers, generation: this.generation }, 'engine is up');
  }

  stop(): void {
    if (this.stopped) return;
    this.save();
    this.drainRecords(); // the last ones: the rings go with this process
    this.stopped = true;
    clearInterval(this.drainTimer);
    clearInterval(this.guardTimer);
    clearTimeout(this.changedTimer);
    this.server?.close();
    for (const connection of this.connections) connection.close();
    this.wireguard.stop();
    this.parts.addon.close();
  }

  // ---- requests ---------------------------------------------------------------------------------------------------

  private accept(socket: import('node:net').Socket): void {
    const connection: IpcConnection = new IpcConnection(socket, {
      onRequest: (method, message) => this.answer(connection, method, message),
      onClose: (error) => {
        this.connections.delete(connection);
        // Nobody takes what they copy.
        if (!this.stopped) for (const [slot, { taker }] of [...this.captures]) if (taker === connection) this.stopCapture({ slot });
        if (error) this.parts.log.warn({ err: error }, 'the connection to control broke');
      },
    });
    this.connections.add(connection);
  }

  private async answer(connection: IpcConnection, method: string, { head, tail }: Message): Promise<Partial<Message>> {
    const { addon } = this.parts;
    for (const capture of this.captures.values()) if (capture.taker === connection) capture.heardMs = performance.now();
    switch (method) {
      case 'status': return { head: { ...this.status() } };
      case 'facts': return { tail: Buffer.from(JSON.stringify(await this.parts.readFacts())) };
      case 'configure': return { head: { warnings: await this.inTurn(() => this.configure(parsePlan(JSON.parse(Buffer.from(tail).toString('utf8'))), true)) } };
      case 'apply': return { head: await this.inTurn(async () => this.apply(tail, false)) };
      case 'counters': return { tail: addon.counters() };
      case 'sessions': return this.sessions(head);
      case 'kill': return { head: { killed: addon.killSession(parseSessionId(head['sessionId'])) } };
      case 'simulate': return { tail: addon.simulate(tail) };
      case 'rule-hits': return { tail: addon.ruleHits() };
      case 'neighbours': return { tail: addon.neighbours() };
      case 'nat-pools': return { tail: addon.natPools() };
      case 'rings': return { tail: addon.rings() };
      case 'interfaces': return { tail: addon.interfaces() };
      case 'restart': return this.inTurn(async () => this.restart());
      case 'wireguard-show': return { tail: Buffer.from(JSON.stringify(this.wireguard.show())) };
      case 'wireguard-rotate': return { head: await this.inTurn(async () => this.rotateWireguard(head)) };
      case 'capture-start': return this.startCapture(connection, head, tail);
      case 'capture-stop': return this.stopCapture(head);
      default: throw new IpcError('SLUICE_IPC_METHOD', `unknown request '${method.slice(0, 60)}'`);
    }
  }

  /** In its turn: a change that is being made is finished before. The answer leaves first. */
  private restart(): Partial<Message> {
    const end = this.parts.restart;
    if (!end) throw new IpcError('SLUICE_IPC_METHOD', 'this engine is nobody\'s child: nobody would start it again');
    this.parts.log.info('asked to restart; sessions and the steering program stay for the next engine');
    setImmediate(() => {
      this.stop();
      end();
    });
    return { head: { pid: process.pid } };
  }

  status(): EngineStatus {
    return {
      pid: process.pid, startedAt: this.startedAt, generation: this.generation,
      applyMicroseconds: this.applied?.microseconds ?? null, appliedAt: this.applied?.at ?? null, restored: this.applied?.restored ?? false,
      ports: [...this.ports.values()].map(({ name, ifindex, slot, queues, attachedMode }) => ({ name, ifindex, slot, queues, mode: attachedMode })),
      workers: this.options.open.workers, warnings: this.warnings, recordsShed: this.recordsShed,
    };
  }

  private sessions(head: Head): Partial<Message> {
    const cursor = Number(head['cursor'] ?? 0);
    const limit = Math.min(SESSIONS_PAGE_MAX, Math.max(1, Number(head['limit'] ?? SESSIONS_PAGE_MAX)));
    if (!Number.isSafeInteger(cursor) || cursor < 0 || !Number.isInteger(limit)) throw new IpcError('SLUICE_IPC_ARGUMENT', 'cursor and limit are whole numbers from 0 on');
    const into = new Uint8Array(limit * FLOW_RECORD_BYTES);
    const page = this.parts.addon.sessions(cursor, into);
    return { head: { count: page.count, cursor: page.cursor }, tail: into.subarray(0, page.count * FLOW_RECORD_BYTES) };
  }

  private rotateWireguard(head: Head): Head {
    const phase = ROTATE_PHASES.find((one) => one === head['phase']);
    if (phase === undefined || typeof head['interface'] !== 'string') throw new IpcError('SLUICE_IPC_ARGUMENT', `interface is a name, phase one of ${ROTATE_PHASES.join(', ')}`);
    return { ...this.wireguard.rotate(head['interface'], phase) };
  }

  private startCapture(connection: IpcConnection, head: Head, filter: Uint8Array): Partial<Message> {
    const slot = parseCaptureSlot(head['slot']);
    if (filter.length !== CAPTURE_FILTER_BYTES) throw new IpcError('SLUICE_IPC_ARGUMENT', `a capture's filter has ${CAPTURE_FILTER_BYTES} bytes`);
    this.parts.addon.setCapture(slot, filter);
    this.captures.set(slot, { taker: connection, heardMs: performance.now() });
    return {};
  }

  private stopCapture(head: Head): Partial<Message> {
    const slot = parseCaptureSlot(head['slot']);
    this.parts.addon.setCapture(slot);
    this.drainCaptured(); // what was copied before is still its taker's
    this.captures.delete(slot);
    return {};
  }

  /** Changes run one after the other. */
  private inTurn<T>(change: () => Promise<T>): Promise<T> {
    const result = this.turn.then(change);
    this.turn = result.catch(() => undefined);
    return result;
  }

  // ---- changes ----------------------------------------------------------------------------------------------------

  /** `isCommit`: somebody waits for the answer; else the state of before is restored, as far as it can be. `read`: the netdevs of a moment ago. */
  private async configure(plan: ConfigurePlan, isCommit: boolean, read?: Device[]): Promise<string[]> {
    if (plan.ports.length > SL_PORTS_MAX) throw new IpcError('SLUICE_PORTS', `${plan.ports.length} netdevs; ${SL_PORTS_MAX} at most`);
    const wireguardFaults = await this.wireguard.stage(plan.wireguards ?? [], isCommit);
    const devices = read ?? await this.parts.readDevices();
    // A worker must be able to send on every port, so no more workers receive than the port with the fewest queues has.
    const workers = Math.max(1, Math.min(this.options.open.workers, ...plan.ports.map((port) => port.queues)));
    const isSame = (port: PortPlan): boolean => {
      const attached = this.ports.get(port.name);
      return attached !== undefined && attached.ifindex === port.ifindex && attached.slot === port.slot && attached.queues === port.queues && attached.workers === workers
        && attached.mode === port.mode && attached.partialChecksums === port.partialChecksums;
    };
    const fresh = plan.ports.filter((port) => !isSame(port));
    // What is restored had its links raised and LRO off already; what somebody changed since is his, and asking would keep packets waiting.
    const warnings = await this.parts.prepare({
      devices: plan.ports.map((port) => port.name), raise: isCommit ? fresh.map((port) => port.name) : [], vlans: plan.vlans, addresses: plan.addresses,
    }, devices, this.journal);
    for (const attached of [...this.ports.values()]) {
      if (!plan.ports.some((port) => port.name === attached.name && isSame(port))) this.detach(attached);
    }
    for (const port of fresh) warnings.push(...this.attach(port, workers));
    for (const port of this.ports.values()) {
      if (port.attachedMode === 'generic' && port.mode === 'native' && !fresh.some((one) => one.name === port.name)) warnings.push(genericWarning(port));
    }
    this.plan = plan;
    this.warnings = warnings;
    return [...warnings, ...wireguardFaults];
  }

  private attach(port: PortPlan, workers: number): string[] {
    const { allowGeneric, ...options } = port;
    const { mode } = this.parts.addon.addPort({ ...options, workers });
    if (mode === 'generic' && port.mode === 'native' && !allowGeneric) {
      this.parts.addon.removePort(port.slot);
      throw new IpcError('SLUICE_XDP_MODE', `${port.name}: its driver has no native XDP, and the configuration wants nothing else; set engine.mode to auto`);
    }
    this.ports.set(port.name, { ...port, attachedMode: mode, workers });
    this.parts.log.info({ device: port.name, mode, queues: port.queues, workers, slot: port.slot }, 'port attached');
    return mode === 'generic' && port.mode === 'native' ? [genericWarning(port)] : [];
  }

  private detach(port: AttachedPort): void {
    this.ports.delete(port.name);
    this.parts.addon.removePort(port.slot);
    this.parts.log.info({ device: port.name, slot: port.slot }, 'port detached');
  }

  private apply(snapshot: Uint8Array, restored: boolean): Head {
    const { generation, microseconds } = this.parts.addon.apply(snapshot);
    this.wireguard.commit();
    this.generation = Math.max(Number(generation), restored ? this.generation : 0);
    this.applied = { microseconds, at: new Date().toISOString(), restored };
    if (!restored) this.saveSoon({ plan: this.plan, snapshot });
    this.parts.log.info({ generation: this.generation, microseconds }, restored ? 'forwarding state restored' : 'forwarding state applied');
    return { generation: this.generation, microseconds };
  }

  /**
   * For a crash of ours: after the answer, since the disk must not stand between a commit and its data plane. Until it is written, and when it
   * cannot be, an older state does no harm: sessions bear the newer one's generation, so a restarted engine waits, closed, for control.
   */
  private saveSoon(state: LastApplied): void {
    const nowMs = performance.now();
    const sinceMs = this.unsaved?.sinceMs ?? nowMs;
    this.unsaved = { state, sinceMs };
    clearTimeout(this.saveTimer);
    this.saveTimer = setTimeout(() => this.save(), Math.min(SAVE_MS, sinceMs + SAVE_MS_MAX - nowMs));
  }

  private save(): void {
    const { unsaved } = this;
    this.unsaved = undefined;
    clearTimeout(this.saveTimer);
    if (unsaved === undefined || this.stopped) return;
    try {
      saveLastApplied(this.options.paths.lastApplied, unsaved.state);
    } catch (error) {
      this.parts.log.warn({ err: error }, 'the forwarding state cannot be kept for a restart of the engine');
      removeLastApplied(this.options.paths.lastApplied);
    }
  }

  /** XDP lets nothing to the kernel that it could forward; should XDP ever be taken away, the kernel must not forward either. */
  private guardForwarding(): void {
    const { hostDevice } = this.options.open;
    for (const name of [...this.ports.keys(), ...(hostDevice === '' ? [] : [hostDevice])]) {
      try {
        if (this.parts.stopKernelForwarding(name)) this.parts.log.warn({ device: name }, 'somebody switched the kernel\'s forwarding on; switched it off again');
      } catch (error) {
        this.parts.log.warn({ err: error, device: name }, 'the kernel\'s forwarding cannot be switched off');
      }
    }
  }

  /** After a crash: the state in force goes on, over those of its netdevs that are still the same ones. */
  private async restore(last: LastApplied, readDevices: Promise<Device[]>): Promise<void> {
    try {
      const generation = Number(new DataView(last.snapshot.buffer, last.snapshot.byteOffset).getBigUint64(GENERATION_OFFSET, true));
      if (generation < this.generation) { // a crash between a commit and the writing of it: the older one may allow what the newer forbids
        this.parts.log.warn({ generation, inherited: this.generation }, 'the state kept for a restart is older than what was in force; waiting, closed, for control');
        return;
      }
      const devices = await readDevices;
      const ports = last.plan.ports.filter((port) => devices.some((device) => device.name === port.name && device.ifindex === port.ifindex));
      const isThere = (name: string): boolean => ports.some((port) => port.name === name);
      const lost = last.plan.ports.map((port) => port.name).filter((name) => !isThere(name));
      if (lost.length > 0) this.parts.log.warn({ devices: lost }, 'netdevs are gone or were replaced; going on without them until control says what they are now');
      if (ports.length === 0) return;
      await this.configure({ ...last.plan, ports, vlans: last.plan.vlans.filter((vlan) => isThere(vlan.parent)), addresses: last.plan.addresses.filter((one) => one.device === this.options.open.hostDevice || devices.some((device) => device.name === one.device)) }, false, devices);
      this.apply(last.snapshot, true);
    } catch (error) {
      this.parts.log.error({ err: error }, 'the last forwarding state could not be restored; waiting, closed, for control');
    }
  }

  // ---- records and events -----------------------------------------------------------------------------------------

  private drainRecords(): void {
    try {
      for (let turn = 0; turn < DRAINS_MAX; turn += 1) {
        const { flows, drops, bytes } = this.parts.addon.records(this.recordsBuffer);
        if (flows + drops === 0) break;
        const used = flows * FLOW_RECORD_BYTES + drops * DROP_RECORD_BYTES;
        this.keep({ flows, drops, bytes: this.recordsBuffer.slice(0, used) });
        if (Math.max(bytes, used) < RECORDS_BUFFER_BYTES / 2) break;
      }
    } catch (error) {
      this.parts.log.error({ err: error }, 'reading records failed');
    }
    if (this.connections.size > 0) this.sendBacklog();
    if (this.captures.size > 0) {
      this.endSilentCaptures();
      this.drainCaptured();
    }
  }

  /** While a capture runs no flow is offloaded: not for one whose taker hangs. A taker that lives asks how much was lost each second. */
  private endSilentCaptures(): void {
    const nowMs = performance.now();
    const wasAway = nowMs - this.drainedMs > TAKER_SILENT_MS_MAX / 2; // we were: what it said is still to be read
    this.drainedMs = nowMs;
    for (const [slot, capture] of [...this.captures]) {
      const { taker, heardMs } = capture;
      if (wasAway) capture.heardMs = nowMs;
      if (wasAway || nowMs - heardMs <= TAKER_SILENT_MS_MAX) continue;
      this.parts.log.warn({ slot }, `a capture ends: control said nothing for ${TAKER_SILENT_MS_MAX / 1000} s`);
      this.stopCapture({ slot });
      taker.event('capture-ended', { slot });
    }
  }

  /** While a taker does not read, copies stay in the engine's rings; what does not fit there is counted as lost. */
  private drainCaptured(): void {
    const takers = new Set([...this.captures.values()].map(({ taker }) => taker));
    for (let turn = 0; turn < DRAINS_MAX; turn += 1) {
      for (const taker of takers) if (taker.isOpen && taker.isCongested) return;
      const used = this.parts.addon.captured(this.recordsBuffer);
      if (used === 0) return;
      const bytes = this.recordsBuffer.slice(0, used);
      for (const taker of takers) taker.event('captured', {}, bytes);
    }
  }

  private keep(batch: RecordBatch): void {
    this.backlog.push(batch);
    this.backlogBytes += batch.bytes.length;
    while (this.backlogBytes > BACKLOG_BYTES_MAX) {
      const oldest = this.backlog.shift()!;
      this.backlogBytes -= oldest.bytes.length;
      this.recordsShed += oldest.flows + oldest.drops;
    }
  }

  private sendBacklog(): void {
    const { backlog } = this;
    this.backlog = [];
    this.backlogBytes = 0;
    for (const batch of backlog) {
      const { flows, drops, bytes } = batch;
      for (const connection of this.connections) {
        // What control did not take because it died is for the next one.
        if (!connection.event('records', { flows, drops }, bytes, () => this.keep(batch))) this.recordsShed += flows + drops;
      }
    }
  }

  private broadcast(name: string, head: Head): void {
    for (const connection of this.connections) connection.event(name, head);
  }

  private onAddonEvent(event: unknown): void {
    const { type, level, text } = parseAddonEvent(event);
    if (type === 'log') {
      const write = level === 'error' ? 'error' : level === 'warn' || level === 'warning' ? 'warn' : level === 'debug' ? 'debug' : 'info';
      this.parts.log[write](text);
      return;
    }
    if (type === 'wireguard') return this.wireguard.onEvents();
    // One change of the machine is many netlink messages.
    if (this.changedTimer || this.stopped) return;
    this.changedTimer = setTimeout(() => {
      this.changedTimer = undefined;
      this.broadcast('changed', { what: type });
    }, CHANGED_DEBOUNCE_MS);
    this.changedTimer.unref();
  }
}

function genericWarning(port: PortPlan): string {
  return `${port.name}: its driver has no native XDP; the generic mode costs several times as much per packet`;
}

function parseCaptureSlot(value: unknown): number {
  if (!Number.isInteger(value) || Number(value) < 0 || Number(value) >= SL_CAPTURES_MAX) throw new IpcError('SLUICE_IPC_ARGUMENT', `slot is a whole number from 0 to ${SL_CAPTURES_MAX - 1}`);
  return Number(value);
}

function parseSessionId(value: unknown): bigint {
  if (typeof value !== 'string' || !/^\d{1,20}$/.test(value)) throw new IpcError('SLUICE_IPC_ARGUMENT', 'sessionId is a decimal number as text');
  return BigInt(value);
}

function parseAddonEvent(event: unknown): { type: string; level: string; text: string } {
  if (typeof event === 'string') return { type: event, level: '', text: '' };
  const { type, level, text } = (event ?? {}) as { type?: string; level?: string; text?: string };
  return { type: type ?? (text === undefined ? 'links-changed' : 'log'), level: level ?? 'info', text: text ?? '' };
}

