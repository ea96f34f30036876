// What a capture says about a packet: once as it came, with its fate, and once for each frame that it became. Against the engine in memory;
// the filter and the ring are test/native/capture_test.cc's.
import { describe, expect, onTestFinished, test } from 'vitest';
import {
  CAPTURE_FILTER_BYTES, CAPTURED_BYTES, DROP_REASONS, readCaptured, SL_CAPTURE_DROPPED, SL_CAPTURE_IN, SL_CAPTURE_NOT_DROPPED, SL_CAPTURE_OUT, SL_PROTOCOL_ANY, writeCaptureFilter, type CaptureFilter,
} from '../../src/engine/abi.generated.js';
import { loadAddon } from '../../src/engine/binding.js';
import { decode, frameOf, type Packet } from './packet-language.js';
import { merge, namedConfig, World, type CaseConfig } from './world.js';

const addon = loadAddon(process.env.SLUICE_ADDON || undefined);
const SECOND_NS = 1_000_000_000n;
const SNAP_BYTES = 200;

function filter(over: Partial<CaptureFilter> = {}): Uint8Array {
  const bytes = new Uint8Array(CAPTURE_FILTER_BYTES);
  const any = { address: new Uint8Array(16), length: 0 };
  writeCaptureFilter(new DataView(bytes.buffer), 0, { source: any, destination: any, interface: 0, protocol: SL_PROTOCOL_ANY, port: 0, snapBytes: SNAP_BYTES, directions: SL_CAPTURE_IN | SL_CAPTURE_OUT, flags: 0, ...over });
  return bytes;
}

interface Copy { what: string; captures: number; time: bigint; frame: Uint8Array; originalBytes: number }

class Bench {
  readonly world: World;
  constructor(patch: CaseConfig = {}) {
    this.world = new World(merge(namedConfig('nat'), patch) as CaseConfig, 1024);
    onTestFinished(() => this.world.close());
    addon.setCapture(0, filter());
  }

  send(packet: Packet): void {
    const inside = packet.in ?? 'trust';
    this.world.inject(inside, frameOf(packet, new Map(), [2, 0, 0, 0, 0, this.world.station(inside)]));
  }

  /** Each copy since the last call, as `in|out SOURCE>DESTINATION [reason]`. */
  copies(): Copy[] {
    const into = new Uint8Array(1 << 20);
    const used = addon.captured(into);
    const view = new DataView(into.buffer);
    const out: Copy[] = [];
    for (let at = 0; at < used;) {
      const one = readCaptured(view, at);
      const frame = into.slice(at + CAPTURED_BYTES, at + CAPTURED_BYTES + one.bytes);
      const { src, dst } = decode(frame.slice(14), true);
      const reason = one.reason === 0 ? '' : ` ${DROP_REASONS[one.reason]!.name}`;
      out.push({ what: `${one.direction === SL_CAPTURE_OUT ? 'out' : 'in'} ${src}>${dst}${reason}`, captures: one.captures, time: one.timeNs, frame, originalBytes: one.originalBytes });
      at += one.recordBytes;
    }
    return out;
  }

  what(): string[] { return this.copies().map((one) => one.what); }
}

const QUESTION: Packet = { udp: '4000>53', data: 100 };

describe('capture', () => {
  test('a packet that is translated is copied as it came and as it left', () => {
    const bench = new Bench();
    bench.send(QUESTION);
    const [came, left, ...rest] = bench.copies();
    expect(rest).toEqual([]);
    expect([came!.what, left!.what]).toEqual(['in 10.0.1.10>198.51.100.10', 'out 203.0.113.5>198.51.100.10']);
    expect([came!.originalBytes, left!.originalBytes]).toEqual([142, 142]);
    expect([came!.frame[14 + 8], left!.frame[14 + 8]]).toEqual([64, 63]); // TTL: the first copy was made before the packet was touched
    expect(came!.time).toBe(bench.world.nowNs);
    addon.setCapture(0);
    bench.send(QUESTION);
    expect(bench.what()).toEqual([]);
  });

  test('a long packet is cut, and its length is told', () => {
    const bench = new Bench();
    bench.send({ udp: '4000>53', data: 1400 });
    expect(bench.copies().map(({ frame, originalBytes }) => [frame.length, originalBytes])).toEqual([[SNAP_BYTES, 1442], [SNAP_BYTES, 1442]]);
  });

  test('a dropped packet has its reason, and what was answered to it is there', () => {
    const bench = new Bench();
    bench.send({ udp: '4000>23' });
    expect(bench.what()).toEqual(['in 10.0.1.10>198.51.100.10 policy-deny']);
    bench.send({ tcp: '4000>25 S' });
    expect(bench.what()).toEqual(['in 10.0.1.10>198.51.100.10 policy-reject', 'out 198.51.100.10>10.0.1.10']);
    bench.send({ udp: '4000>53', ttl: 1 });
    expect(bench.what()).toEqual(['in 10.0.1.10>198.51.100.10 ttl-expired', 'out 10.0.1.4>10.0.1.10']);
    bench.send({ ...QUESTION, ipChecksum: 'bad' }); // the parser's word
    expect(bench.what()).toEqual(['in 10.0.1.10>198.51.100.10 checksum-ipv4']);
    bench.send(QUESTION); // the last one's fate is not this one's
    expect(bench.what()).toEqual(['in 10.0.1.10>198.51.100.10', 'out 203.0.113.5>198.51.100.10']);
  });

  test('captures that want only what was dropped, or only what was not', () => {
    const bench = new Bench();
    addon.setCapture(1, filter({ flags: SL_CAPTURE_DROPPED }));
    addon.setCapture(3, filter({ flags: SL_CAPTURE_NOT_DROPPED }));
    bench.send({ udp: '4000>23' });
    bench.send(QUESTION);
    expect(bench.copies().map(({ what, captures }) => [what.slice(0, 3).trim(), captures])).toEqual([['in', 0b0011], ['in', 0b1001], ['out', 0b1001]]);
    addon.setCapture(0);
    addon.setCapture(3);
    bench.send(QUESTION);
    expect(bench.what()).toEqual([]);
  });

  test('a packet that waits for its next hop is copied once, when its fate is known, with the time at which it came', () => {
    const bench = new Bench({ neighbours: { untrust: [] } });
    bench.world.neighbour('untrust', '203.0.113.1', false);
    const came = bench.world.nowNs;
    bench.send(QUESTION);
    expect(bench.what()).toEqual([]);
    bench.world.nowNs += SECOND_NS;
    bench.world.neighbour('untrust', '203.0.113.1', true);
    bench.world.advance();
    const copies = bench.copies();
    expect(copies.map((one) => one.what)).toEqual(['in 10.0.1.10>198.51.100.10', 'out 203.0.113.5>198.51.100.10']);
    expect(copies.map((one) => one.time)).toEqual([came, came + SECOND_NS]);
  });

  test('and when its next hop never answers, with the reason', () => {
    const bench = new Bench({ neighbours: { untrust: [] } });
    addon.setCapture(1, filter({ flags: SL_CAPTURE_NOT_DROPPED, directions: SL_CAPTURE_IN }));
    const came = bench.world.nowNs;
    bench.send(QUESTION);
    bench.world.nowNs += 4n * SECOND_NS;
    bench.world.advance();
    const copies = bench.copies();
    expect(copies.map(({ what, captures }) => [what, captures])).toEqual([['in 10.0.1.10>198.51.100.10 neighbour-unresolved', 1], ['out 10.0.1.4>10.0.1.10', 1]]);
    expect(copies[0]!.time).toBe(came);
  });

  test('fragments are copied as they come; what becomes of those that waited is not the first one\'s fate', () => {
    const bench = new Bench();
    const part = (port: number, offset: number, length: number): Packet => ({ udp: `4000>${port}`, data: 100, frag: { offset, length, id: 7 } });
    bench.send(part(53, 48, 48));
    expect(bench.what()).toEqual(['in 10.0.1.10>198.51.100.10']);
    bench.send(part(53, 0, 48));
    expect(bench.what()).toEqual(['in 10.0.1.10>198.51.100.10', 'out 203.0.113.5>198.51.100.10', 'out 203.0.113.5>198.51.100.10']);
    // Denied: the held one is dropped after it, for a reason of its own.
    bench.send({ ...part(23, 48, 48), frag: { offset: 48, length: 48, id: 8 } });
    bench.send({ ...part(23, 0, 48), frag: { offset: 0, length: 48, id: 8 } });
    expect(bench.what()).toEqual(['in 10.0.1.10>198.51.100.10', 'in 10.0.1.10>198.51.100.10 policy-deny']);
  });

  test('what is cut to the MTU is copied as the frames that leave', () => {
    const bench = new Bench({ interfaces: { untrust: { mtu: 1300 } } });
    bench.send({ udp: '4000>53', data: 1400 });
    expect(bench.copies().map(({ what, originalBytes }) => [what, originalBytes])).toEqual([['in 10.0.1.10>198.51.100.10', 1442], ['out 203.0.113.5>198.51.100.10', 1314], ['out 203.0.113.5>198.51.100.10', 162]]);
  });

  test('a full ring loses copies and counts them; packets go on', () => {
    const bench = new Bench();
    addon.setCapture(0, filter({ snapBytes: 1500 }));
    const count = 4000;
    for (let n = 0; n < count; n += 1) bench.send({ udp: '4000>53', data: 1400 });
    expect(bench.world.counter('fast-path-hits')).toBeGreaterThanOrEqual(count - 1);
    let kept = 0;
    for (let some = bench.copies().length; some > 0; some = bench.copies().length) kept += some;
    expect(bench.world.counter('captures-lost')).toBeGreaterThan(0);
    expect(kept + bench.world.counter('captures-lost')).toBe(2 * count);
  });

  test('what cannot be a filter is refused', () => {
    new Bench();
    expect(() => addon.setCapture(4, filter())).toThrow(/numbered from 0 to 3/);
    expect(() => addon.setCapture(0, filter({ source: { address: new Uint8Array(16), length: 129 } }))).toThrow(/128 bits/);
    expect(() => addon.setCapture(0, new Uint8Array(3))).toThrow();
  });
});
