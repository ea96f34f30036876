// Shared by the tests of records: random records that repeat themselves for a seed, names, and waiting for what a receiver got.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import { DROP_RECORD_BYTES, FLOW_RECORD_BYTES, SL_DROP_REASON_COUNT, SL_END_REASON_COUNT, SL_SESSION_STATE_COUNT, writeDropRecord, writeFlowRecord } from '../../src/engine/abi.generated.js';
import { viewOf, type Names } from '../../src/engine/records.js';
import { NameTexts } from '../../src/flowlog/names.js';
import type { RecordSpan } from '../../src/flowlog/stream.js';
import { random } from '../config/support.js';

const RULES = [null, 'outbound', 'published "quoted"', 'Umlaut-ü-€-😀', 'back\\slash'];
const INTERFACES = [null, 'trust', 'untrust', 'dmz-ü'];
const ZONES = ['inside', 'outside', 'dmz'];

export const names: Names = {
  rule: (id) => RULES[id] ?? null, natRule: (id) => (id === 0 ? null : `nat-${id}`), interfaceById: (id) => INTERFACES[id] ?? null,
  interfaceAt: (index) => INTERFACES[index] ?? null, zone: (index) => ZONES[index] ?? null, zoneOfInterface: (id) => (id === 0 ? null : ZONES[id % 3] ?? null),
};
export const nameTexts = (): NameTexts => new NameTexts(names);

/** Addresses of both families, with runs of zeros of every kind. */
function address(next: () => number): Uint8Array {
  const bytes = new Uint8Array(16);
  if (next() < 0.5) {
    bytes.set([0xff, 0xff], 10);
    for (let index = 12; index < 16; index += 1) bytes[index] = Math.floor(next() * 256);
    return bytes;
  }
  for (let group = 0; group < 8; group += 1) {
    if (next() < 0.4) continue;
    if (next() < 0.7) bytes[group * 2] = Math.floor(next() * 256);
    bytes[group * 2 + 1] = Math.floor(next() * 256);
  }
  return bytes;
}

const u64 = (next: () => number): bigint => {
  const scale = next();
  const high = BigInt(Math.floor(next() * 2 ** 32));
  const low = BigInt(Math.floor(next() * 2 ** 32));
  return scale < 0.4 ? low % 1000n : scale < 0.8 ? low : scale < 0.95 ? (high % 0x100000n) << 32n | low : high << 32n | low;
};

export function randomFlows(count: number, seed = 1): Uint8Array {
  const next = random(seed);
  const bytes = new Uint8Array(count * FLOW_RECORD_BYTES);
  const pick = (below: number): number => Math.floor(next() * below);
  for (let index = 0; index < count; index += 1) {
    const src = address(next);
    const dst = address(next);
    const isTranslated = next() < 0.5;
    const srcPort = pick(65536);
    const dstPort = pick(65536);
    const startNs = 1_700_000_000_000_000_000n + BigInt(pick(2 ** 31)) * 1_000_003n;
    writeFlowRecord(viewOf(bytes), index * FLOW_RECORD_BYTES, {
      sessionId: u64(next), startNs, lastNs: next() < 0.1 ? 0n : startNs + BigInt(pick(2 ** 31)) * 1_003n, packets: [u64(next), u64(next)], bytes: [u64(next), u64(next)],
      src, dst, natSrc: isTranslated && next() < 0.7 ? address(next) : src, natDst: isTranslated && next() < 0.3 ? address(next) : dst,
      srcPort, dstPort, natSrcPort: isTranslated && next() < 0.7 ? pick(65536) : srcPort, natDstPort: dstPort,
      ruleId: pick(5), natSourceId: pick(3), natDestinationId: pick(2), fromInterface: pick(4), toInterface: pick(4), expiresS: pick(7440), fromZone: pick(3), toZone: pick(3),
      protocol: [1, 6, 6, 17, 17, 58, 47, 255][pick(8)]!, state: pick(SL_SESSION_STATE_COUNT), event: pick(3), endReason: pick(SL_END_REASON_COUNT), tcpFlags: Uint8Array.of(pick(256), pick(256)),
    });
  }
  return bytes;
}

export function randomDrops(count: number, seed = 1): Uint8Array {
  const next = random(seed);
  const bytes = new Uint8Array(count * DROP_RECORD_BYTES);
  const pick = (below: number): number => Math.floor(next() * below);
  for (let index = 0; index < count; index += 1) {
    const src = address(next);
    const dst = address(next);
    const srcPort = pick(65536);
    const dstPort = pick(65536);
    const isTranslated = next() < 0.5;
    writeDropRecord(viewOf(bytes), index * DROP_RECORD_BYTES, {
      timeNs: 1_700_000_000_000_000_000n + BigInt(pick(2 ** 31)) * 999_983n, src, dst, srcPort, dstPort,
      natSrc: isTranslated && next() < 0.5 ? address(next) : src, natDst: isTranslated && next() < 0.5 ? address(next) : dst, natSrcPort: srcPort, natDstPort: isTranslated && next() < 0.5 ? pick(65536) : dstPort,
      ruleId: pick(5), natSourceId: pick(3), natDestinationId: pick(3), interface: pick(4), toInterface: pick(4), bytes: pick(65536), reason: pick(SL_DROP_REASON_COUNT), protocol: [1, 6, 17, 58][pick(4)]!,
      tcpFlags: pick(256), tcpFlagsKnown: pick(2),
    });
  }
  return bytes;
}

export const spanOf = (bytes: Uint8Array, recordBytes: number, offset = 0): RecordSpan => ({ view: viewOf(bytes), bytes, offset, count: Math.floor((bytes.length - offset) / recordBytes) });

export function temporaryDirectory(): string {
  const directory = mkdtempSync(join(tmpdir(), 'sluice-log-'));
  onTestFinished(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}
