// A capture: packets from a source, within bounds, as a stream of pcapng. The source (a tap in the engine) filters and cuts; this file
// bounds and writes. Who: src/api/routes/capture.ts. Bounds: the request's packets, bytes and seconds; UNSENT_BYTES_MAX wait for a slow
// reader, what comes then is counted and left out; CAPTURES_MAX at a time.
import { Readable } from 'node:stream';
import { packageVersion } from '../supervisor/run-directory.js';
import { enhancedPacket, interfaceDescription, interfaceStatistics, sectionHeader, type Direction } from './pcapng.js';

export const CAPTURES_MAX = 4;
const UNSENT_BYTES_MAX = 4 * 1024 * 1024;
const LOSSES_INTERVAL_MS = 1000;

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

export interface RunningCapture {
  /** Resolves when the last packet was given. */
  stop(): Promise<void>;
  /** Copies that the engine could not keep since the start; packets went on without them. */
  lost(): Promise<number>;
}

export interface CaptureSource {
  /** Calls `onPacket` until `stop`. Rejects with an IpcError when the engine is away. `onEnd`: it ended by itself, the engine went. */
  start(filter: CaptureFilter, snapBytes: number, onPacket: (packet: CapturedPacket) => void, onEnd: (error?: Error) => void): Promise<RunningCapture>;
}

export interface CaptureBounds { packets: number; bytes: number; seconds: number; snapBytes: number }

/**
 * Ends at the first bound that is met, or when the reader goes away. `known`: interfaces described at once: readers refuse a file without any.
 * Statistics stand at the end, and before it whenever something was lost, so that a reader who goes knows of it: an interface's own, and with
 * the first interface what the engine lost of all of them.
 */
export async function capture(source: CaptureSource, filter: CaptureFilter, bounds: CaptureBounds, known: readonly string[] = filter.interfaces): Promise<Readable> {
  const interfaces = new Map<string, { index: number; received: number; dropped: number }>();
  let packets = 0;
  let bytes = 0;
  let isFull = false; // nothing more is taken
  let isEnding = false;
  let running: RunningCapture | undefined;
  let told = 0;
  const out = new Readable({ read: () => undefined, highWaterMark: UNSENT_BYTES_MAX, destroy: (error, done) => { void end(); done(error); } });
  const write = (block: Uint8Array): void => { out.push(block); };
  const interfaceOf = (name: string): { index: number; received: number; dropped: number } => {
    let one = interfaces.get(name);
    if (!one) {
      one = { index: interfaces.size, received: 0, dropped: 0 };
      interfaces.set(name, one);
      write(interfaceDescription(name, bounds.snapBytes));
    }
    return one;
  };
  const writeStatistics = (lost: number, comment?: string): void => {
    if (interfaces.size === 0 && (lost > 0 || comment !== undefined)) interfaceOf('any');
    const now = BigInt(Date.now()) * 1_000_000n;
    for (const one of interfaces.values()) write(interfaceStatistics(one.index, now, one.index === 0 ? { ...one, lost, comment } : one));
  };
  const writeLosses = async (): Promise<void> => {
    const lost = await running?.lost() ?? 0;
    const missed = [...interfaces.values()].reduce((sum, { dropped }) => sum + dropped, lost);
    if (isEnding || missed === told) return;
    told = missed;
    writeStatistics(lost);
  };
  const end = async (failure?: Error): Promise<void> => {
    if (isEnding) return;
    isEnding = true;
    clearTimeout(timer);
    clearInterval(reporter);
    await running?.stop();
    const lost = await running?.lost() ?? 0;
    isFull = true;
    if (out.destroyed) return;
    writeStatistics(lost, failure?.message);
    out.push(null);
  };
  const take = (packet: CapturedPacket): void => {
    if (isFull || out.destroyed) return;
    const one = interfaceOf(packet.interface);
    one.received += 1;
    if (out.readableLength > UNSENT_BYTES_MAX) {
      one.dropped += 1;
      return;
    }
    const kept = packet.bytes.length > bounds.snapBytes ? packet.bytes.subarray(0, bounds.snapBytes) : packet.bytes;
    const block = enhancedPacket({ ...packet, interface: one.index, bytes: kept, ...(packet.reason ? { comment: `dropped: ${packet.reason}` } : {}) });
    isFull = bytes + block.length > bounds.bytes;
    if (!isFull) {
      write(block);
      packets += 1;
      bytes += block.length;
      isFull = packets >= bounds.packets;
    }
    if (isFull) void end();
  };
  const timer = setTimeout(() => void end(), bounds.seconds * 1000);
  const reporter = setInterval(() => void writeLosses(), LOSSES_INTERVAL_MS);
  write(sectionHeader(`sluice ${packageVersion()}`));
  for (const name of known) interfaceOf(name);
  try {
    running = await source.start(filter, bounds.snapBytes, take, (failure) => void end(failure));
    if (isEnding) await running.stop(); // a bound was met, or the reader went, before the source had said so
  } catch (error) {
    isEnding = true;
    clearTimeout(timer);
    clearInterval(reporter);
    throw error;
  }
  return out;
}
