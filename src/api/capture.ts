// A capture: packets from a source, within bounds, as a stream of pcapng. The source (a tap in the engine) filters and cuts; this file
// bounds and writes. Who: src/api/routes/capture.ts. Bounds: the request's packets, bytes and seconds; UNSENT_BYTES_MAX wait for a slow
// reader, what comes then is counted and left out; CAPTURES_MAX at a time.
import { Readable } from 'node:stream';
import { packageVersion } from '../supervisor/run-directory.js';
import { enhancedPacket, interfaceDescription, interfaceStatistics, sectionHeader, type Direction } from './pcapng.js';

export const CAPTURES_MAX = 4;
const UNSENT_BYTES_MAX = 4 * 1024 * 1024;

/** What to capture. Addresses are prefixes of the 128-bit space (src/lib/address.ts); left-out members match everything. */
export interface CaptureFilter {
  interfaces: readonly string[];      // empty: each
  protocol?: number;
  source?: { address: bigint; length: number };
  destination?: { address: bigint; length: number };
  port?: number;                      // either side's
  direction?: Direction;
  bothWays: boolean;                  // source and destination also the other way round
  dropped?: boolean;                  // only what was dropped
}

export interface CapturedPacket {
  interface: string;
  timeNs: bigint;
  bytes: Uint8Array;                  // cut to the snap length; the receiver may keep it
  originalBytes: number;
  direction: Direction;
  reason?: string;                    // why it was dropped
}

export interface CaptureSource {
  /** Calls `onPacket` until `stop`. Rejects with an IpcError when the engine is away. `onEnd`: it ended by itself, the engine went. */
  start(filter: CaptureFilter, snapBytes: number, onPacket: (packet: CapturedPacket) => void, onEnd: (error?: Error) => void): Promise<{ stop(): void; lost(): number }>;
}

export interface CaptureBounds { packets: number; bytes: number; seconds: number; snapBytes: number }

/** Ends at the first bound that is met, or when the reader goes away. `known`: interfaces described at once: readers refuse a file without any. */
export async function capture(source: CaptureSource, filter: CaptureFilter, bounds: CaptureBounds, known: readonly string[] = filter.interfaces): Promise<Readable> {
  const interfaces = new Map<string, { index: number; received: number; dropped: number }>();
  let packets = 0;
  let bytes = 0;
  let ended = false;
  let stop = (): void => undefined;
  const out = new Readable({ read: () => undefined, highWaterMark: UNSENT_BYTES_MAX, destroy: (error, done) => { end(); done(error); } });
  const write = (block: Uint8Array): void => { out.push(block); };
  const end = (): void => {
    if (ended) return;
    ended = true;
    clearTimeout(timer);
    stop();
    if (out.destroyed) return;
    const now = BigInt(Date.now()) * 1_000_000n;
    for (const { index, received, dropped } of interfaces.values()) write(interfaceStatistics(index, now, received, dropped));
    out.push(null);
  };
  const interfaceOf = (name: string): { index: number; received: number; dropped: number } => {
    let one = interfaces.get(name);
    if (!one) {
      one = { index: interfaces.size, received: 0, dropped: 0 };
      interfaces.set(name, one);
      write(interfaceDescription(name, bounds.snapBytes));
    }
    return one;
  };
  const take = (packet: CapturedPacket): void => {
    if (ended) return;
    const one = interfaceOf(packet.interface);
    one.received += 1;
    if (out.readableLength > UNSENT_BYTES_MAX) {
      one.dropped += 1;
      return;
    }
    const kept = packet.bytes.length > bounds.snapBytes ? packet.bytes.subarray(0, bounds.snapBytes) : packet.bytes;
    const block = enhancedPacket({ ...packet, interface: one.index, bytes: kept, ...(packet.reason ? { comment: `dropped: ${packet.reason}` } : {}) });
    if (bytes + block.length > bounds.bytes) {
      end();
      return;
    }
    write(block);
    packets += 1;
    bytes += block.length;
    if (packets >= bounds.packets) end();
  };
  const timer = setTimeout(end, bounds.seconds * 1000);
  write(sectionHeader(`sluice ${packageVersion()}`));
  for (const name of known) interfaceOf(name);
  try {
    const started = await source.start(filter, bounds.snapBytes, take, () => end());
    stop = () => started.stop();
    if (ended) started.stop(); // a bound was met before the source had said so
  } catch (error) {
    ended = true;
    clearTimeout(timer);
    throw error;
  }
  return out;
}
