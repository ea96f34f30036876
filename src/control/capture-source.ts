// The engine's tap as a source of captures. Who: src/control/process.ts gives it to the API. Thread: control's main thread.
// While a capture runs the XDP program leaves all packets to the engine, so a capture costs throughput: the API bounds it.
// Bounds: SL_CAPTURES_MAX captures; copies that the engine could not keep are counted there (captures-lost, of all captures) and told by lost().
import type { CapturedPacket, CaptureFilter, CaptureSource, RunningCapture } from '../api/capture.js';
import {
  CAPTURE_FILTER_BYTES, CAPTURED_BYTES, DROP_REASONS, Counter, INTERFACE_BYTES, readCaptured, readInterface, readSnapshotHeader, SL_CAPTURE_BOTH_WAYS, SL_CAPTURE_DROPPED,
  SL_CAPTURE_IN, SL_CAPTURE_NOT_DROPPED, SL_CAPTURE_OUT, SL_CAPTURE_PORT, SL_CAPTURES_MAX, SL_PROTOCOL_ANY, writeCaptureFilter,
} from '../engine/abi.generated.js';
import { IpcError } from '../engine/ipc.js';
import { viewOf } from '../engine/records.js';
import { bytesOf } from '../lib/address.js';
import type { Control } from './control.js';

interface Running { onPacket(packet: CapturedPacket): void; onEnd(error?: Error): void }

export class EngineCaptures implements CaptureSource {
  private readonly running = new Map<number, Running>();
  private nextSlot = 0; // in turn: copies for the last capture of a slot, still on their way, must not meet the next one

  constructor(private readonly control: Control) {}

  async start(filter: CaptureFilter, snapBytes: number, onPacket: Running['onPacket'], onEnd: Running['onEnd']): Promise<RunningCapture> {
    const slot = Array.from({ length: SL_CAPTURES_MAX }, (_, index) => (this.nextSlot + index) % SL_CAPTURES_MAX).find((index) => !this.running.has(index));
    if (slot === undefined) throw new IpcError('SLUICE_CAPTURE', `${SL_CAPTURES_MAX} captures run already`);
    this.nextSlot = (slot + 1) % SL_CAPTURES_MAX;
    const mine: Running = { onPacket, onEnd };
    this.running.set(slot, mine);
    const forget = (): void => { if (this.running.get(slot) === mine) this.running.delete(slot); };
    let lostBefore: number;
    try {
      lostBefore = await this.lostCount();
      await this.control.engine.startCapture(slot, this.encode(filter, snapBytes));
    } catch (error) {
      forget();
      throw error;
    }
    let known = 0;
    const lost = async (): Promise<number> => {
      const count = await this.lostCount().catch(() => undefined); // an engine that is away tells no more
      if (count !== undefined && count >= lostBefore) known = count - lostBefore;
      return known;
    };
    let stopped: Promise<void> | undefined;
    // What was copied before comes until the engine has answered.
    const stop = (): Promise<void> => stopped ??= this.running.get(slot) === mine
      ? this.control.engine.stopCapture(slot).catch(() => undefined).then(forget)
      : Promise.resolve(); // its engine is away, and the next one may run another in this slot
    return { stop, lost };
  }

  /** Whole records of struct sl_captured, from the engine. */
  take(bytes: Uint8Array): void {
    const view = viewOf(bytes);
    for (let at = 0; at + CAPTURED_BYTES <= bytes.length;) {
      const { timeNs, recordBytes, interface: id, bytes: kept, originalBytes, captures, direction, reason } = readCaptured(view, at);
      if (recordBytes < CAPTURED_BYTES + kept || at + recordBytes > bytes.length) return;
      const packet: CapturedPacket = {
        interface: this.control.names.interfaceById(id) ?? 'unknown', timeNs, bytes: bytes.slice(at + CAPTURED_BYTES, at + CAPTURED_BYTES + kept), originalBytes,
        direction: direction === SL_CAPTURE_OUT ? 'out' : 'in', ...(reason ? { reason: DROP_REASONS[reason]?.name ?? String(reason) } : {}),
      };
      for (const [slot, one] of this.running) if (captures & (1 << slot)) one.onPacket(packet);
      at += recordBytes;
    }
  }

  /** The engine ended a capture by itself; without a slot: it went away, and all of them with it. */
  end(ended?: number, why = 'the engine process went away'): void {
    for (const [slot, one] of [...this.running]) {
      if (ended !== undefined && slot !== ended) continue;
      this.running.delete(slot);
      one.onEnd(new IpcError('SLUICE_CAPTURE_ENDED', why));
    }
  }

  private async lostCount(): Promise<number> { return (await this.control.counters()).counters[Counter.CAPTURES_LOST] ?? 0; }

  private encode(filter: CaptureFilter, snapBytes: number): Uint8Array {
    const bytes = new Uint8Array(CAPTURE_FILTER_BYTES);
    const prefix = (one: { address: bigint; length: number } | undefined): { address: Uint8Array; length: number } =>
      (one ? { address: bytesOf(one.address), length: one.length } : { address: new Uint8Array(16), length: 0 });
    const wanted = filter.interfaces[0];
    writeCaptureFilter(viewOf(bytes), 0, {
      source: prefix(filter.source), destination: prefix(filter.destination), interface: wanted === undefined ? 0 : this.idOf(wanted),
      protocol: filter.protocol ?? SL_PROTOCOL_ANY, port: filter.port ?? 0, snapBytes,
      directions: filter.direction === 'in' ? SL_CAPTURE_IN : filter.direction === 'out' ? SL_CAPTURE_OUT : SL_CAPTURE_IN | SL_CAPTURE_OUT,
      flags: (filter.port === undefined ? 0 : SL_CAPTURE_PORT) | (filter.bothWays ? SL_CAPTURE_BOTH_WAYS : 0)
        | (filter.dropped === undefined ? 0 : filter.dropped ? SL_CAPTURE_DROPPED : SL_CAPTURE_NOT_DROPPED),
    });
    return bytes;
  }

  private idOf(name: string): number {
    const snapshot = this.control.applied?.compiled.snapshot;
    if (!snapshot) throw new IpcError('SLUICE_NOT_READY', 'no configuration is in force yet');
    const view = viewOf(snapshot);
    const { interfaces } = readSnapshotHeader(view, 0);
    for (let index = 0; index < interfaces.count; index += 1) {
      const { id } = readInterface(view, interfaces.offset + index * INTERFACE_BYTES);
      if (this.control.names.interfaceById(id) === name) return id;
    }
    throw new IpcError('SLUICE_CAPTURE', `there is no interface '${name}'`);
  }
}
