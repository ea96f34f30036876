// Control's side of DIR/engine.sock: connects, connects again when the engine was restarted, and names each request.
// Who: src/control/control.ts. Bounds: one connection; RETRY_MS_MIN doubling to RETRY_MS_MAX between attempts.
import type { HostFacts } from '../engine/facts.js';
import type { EngineStatus } from '../engine/host.js';
import { connectIpc, IpcError, type Head, type IpcConnection, type Message } from '../engine/ipc.js';
import type { ConfigurePlan } from '../engine/last-applied.js';
import type { RotatePhase, RotateResult, WireguardView } from '../engine/wireguard.js';

const RETRY_MS_MIN = 50;
const RETRY_MS_MAX = 1000;
const CHANGE_TIMEOUT_MS = 60_000; // attaching XDP to many queues, or compiling a hundred thousand rules

export interface EngineEvents {
  onConnect(): void;
  onDisconnect(): void;
  onRecords(flows: number, drops: number, bytes: Uint8Array): void;
  onChanged(): void;
  onCaptured(bytes: Uint8Array): void;
  onCaptureEnded(slot: number): void;
}

export class EngineClient {
  private connection: IpcConnection | undefined;
  private retryMs = RETRY_MS_MIN;
  private retryTimer: NodeJS.Timeout | undefined;
  private closed = false;

  constructor(private readonly path: string, private readonly events: EngineEvents) {}

  get isConnected(): boolean { return this.connection?.isOpen ?? false; }

  start(): void { void this.connect(); }

  close(): void {
    this.closed = true;
    clearTimeout(this.retryTimer);
    this.connection?.close();
  }

  async status(): Promise<EngineStatus> { return (await this.request('status')).head as unknown as EngineStatus; }

  async facts(): Promise<HostFacts> {
    return JSON.parse(Buffer.from((await this.request('facts', {}, undefined, CHANGE_TIMEOUT_MS)).tail).toString('utf8')) as HostFacts;
  }

  async configure(plan: ConfigurePlan): Promise<string[]> {
    const { head } = await this.request('configure', {}, Buffer.from(JSON.stringify(plan)), CHANGE_TIMEOUT_MS);
    return Array.isArray(head['warnings']) ? head['warnings'].map(String) : [];
  }

  async apply(snapshot: Uint8Array): Promise<{ generation: number; microseconds: number }> {
    const { head } = await this.request('apply', {}, snapshot, CHANGE_TIMEOUT_MS);
    return { generation: Number(head['generation']), microseconds: Number(head['microseconds']) };
  }

  async counters(): Promise<Uint8Array> { return (await this.request('counters')).tail; }
  async ruleHits(): Promise<Uint8Array> { return (await this.request('rule-hits')).tail; }
  async neighbours(): Promise<Uint8Array> { return (await this.request('neighbours')).tail; }
  async natPools(): Promise<Uint8Array> { return (await this.request('nat-pools')).tail; }
  async rings(): Promise<Uint8Array> { return (await this.request('rings')).tail; }
  async interfaces(): Promise<Uint8Array> { return (await this.request('interfaces')).tail; }
  async simulate(question: Uint8Array): Promise<Uint8Array> { return (await this.request('simulate', {}, question)).tail; }

  /** Interfaces in force with their peers. */
  async wireguardShow(): Promise<WireguardView[]> {
    return JSON.parse(Buffer.from((await this.request('wireguard-show')).tail).toString('utf8')) as WireguardView[];
  }

  /** One step of the rotation of an interface's static key; each may be repeated. */
  async wireguardRotate(name: string, phase: RotatePhase): Promise<RotateResult> {
    return (await this.request('wireguard-rotate', { interface: name, phase })).head as unknown as RotateResult;
  }

  async startCapture(slot: number, filter: Uint8Array): Promise<void> { await this.request('capture-start', { slot }, filter); }
  async stopCapture(slot: number): Promise<void> { await this.request('capture-stop', { slot }); }

  async sessions(cursor: number, limit: number): Promise<{ count: number; cursor: number; bytes: Uint8Array }> {
    const { head, tail } = await this.request('sessions', { cursor, limit });
    return { count: Number(head['count']), cursor: Number(head['cursor']), bytes: tail };
  }

  async kill(sessionId: string): Promise<boolean> { return (await this.request('kill', { sessionId })).head['killed'] === true; }

  /** Ends it for a restart; answers the pid of the one that ends. */
  async restart(): Promise<number> { return Number((await this.request('restart')).head['pid']); }

  private request(method: string, head: Head = {}, tail?: Uint8Array, timeoutMs?: number): Promise<Message> {
    if (!this.connection?.isOpen) {
      return Promise.reject(new IpcError('SLUICE_ENGINE_AWAY', 'the engine process is not there; the supervisor starts it again'));
    }
    return this.connection.request(method, head, tail, timeoutMs);
  }

  private async connect(): Promise<void> {
    try {
      const connection = await connectIpc(this.path, {
        onEvent: (name, message) => this.onEvent(name, message),
        onClose: () => {
          this.connection = undefined;
          if (this.closed) return;
          this.events.onDisconnect();
          this.retryLater();
        },
      });
      if (this.closed) {
        connection.close();
        return;
      }
      this.connection = connection;
      this.retryMs = RETRY_MS_MIN;
      this.events.onConnect();
    } catch {
      this.retryLater();
    }
  }

  private retryLater(): void {
    if (this.closed) return;
    this.retryTimer = setTimeout(() => void this.connect(), this.retryMs);
    this.retryMs = Math.min(RETRY_MS_MAX, this.retryMs * 2);
  }

  private onEvent(name: string, { head, tail }: Message): void {
    if (name === 'changed') this.events.onChanged();
    else if (name === 'captured') this.events.onCaptured(tail);
    else if (name === 'capture-ended') this.events.onCaptureEnded(Number(head['slot']));
    else if (name === 'records') {
      const flows = Number(head['flows']);
      const drops = Number(head['drops']);
      if (Number.isInteger(flows) && Number.isInteger(drops) && flows >= 0 && drops >= 0) this.events.onRecords(flows, drops, tail);
    }
  }
}
