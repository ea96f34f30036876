// TAI64N labels of initiations: https://cr.yp.to/libtai/tai64.html, as WireGuard uses them (whitepaper section 5.1).
//
// 12 bytes, big-endian: 2^62 + 10 + seconds since the epoch, then nanoseconds. Two things beside the label itself:
//   - It is coarse: nanoseconds lose their low 24 bits (steps of 16.8 ms, as other implementations have it), so that it tells
//     little about the clock. Nobody accepts initiations faster than that anyway.
//   - It only grows. A peer refuses what is not newer than the last; a wall clock that was set back must not lock us out.
import { TIMESTAMP_BYTES } from './messages.js';
import { compareBytes } from './bytes.js';

const BASE_S = 0x4000_0000_0000_000an;
const NS_PER_S = 1_000_000_000n;
const STEP_NS = 1n << 24n;

/** The label of `wallNs` (nanoseconds since the epoch), or the next one after `last` if that is later. */
export function timestampAfter(last: Uint8Array | undefined, wallNs: bigint): Uint8Array {
  const now = encode(BASE_S + wallNs / NS_PER_S, (wallNs % NS_PER_S) & ~(STEP_NS - 1n));
  if (last === undefined || isNewer(now, last)) return now;
  const view = new DataView(last.buffer, last.byteOffset, TIMESTAMP_BYTES);
  const ns = BigInt(view.getUint32(8)) + STEP_NS;
  return ns < NS_PER_S ? encode(view.getBigUint64(0), ns) : encode(view.getBigUint64(0) + 1n, 0n);
}

export function isNewer(timestamp: Uint8Array, than: Uint8Array): boolean {
  return compareBytes(timestamp, than) > 0;
}

function encode(seconds: bigint, ns: bigint): Uint8Array {
  const bytes = new Uint8Array(TIMESTAMP_BYTES);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, seconds);
  view.setUint32(8, Number(ns));
  return bytes;
}
