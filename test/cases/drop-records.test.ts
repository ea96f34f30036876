// From a packet to the line that tells of its drop: what it was, what it would have become as far as that was decided, its TCP flags, and
// where it came from and would have gone. Against the engine in memory; what a line may hide is test/flowlog/json.test.ts's.
import { describe, expect, onTestFinished, test } from 'vitest';
import { DROP_RECORD_BYTES, FLOW_RECORD_BYTES } from '../../src/engine/abi.generated.js';
import { loadAddon } from '../../src/engine/binding.js';
import { decodeDrop, viewOf } from '../../src/engine/records.js';
import { planFields } from '../../src/flowlog/fields.js';
import { JsonFormat } from '../../src/flowlog/json.js';
import { NameTexts } from '../../src/flowlog/names.js';
import { Output } from '../../src/flowlog/output.js';
import { frameOf, type Packet } from './packet-language.js';
import { merge, namedConfig, World, type CaseConfig } from './world.js';

const addon = loadAddon(process.env.SLUICE_ADDON || undefined);

class Bench {
  readonly world: World;
  constructor(patch: CaseConfig = {}) {
    this.world = new World(merge(namedConfig('nat'), patch) as CaseConfig, 1024);
    onTestFinished(() => this.world.close());
  }

  /** The port that SNAT took, when the packet leaves. */
  send(packet: Packet): number {
    const inside = packet.in ?? 'trust';
    const { frames } = this.world.inject(inside, frameOf(packet, new Map(), [2, 0, 0, 0, 0, this.world.station(inside)]));
    const frame = frames[0]?.frame;
    return frame === undefined ? 0 : new DataView(frame.buffer, frame.byteOffset).getUint16(34);
  }

  /** The one drop since the last call, as the log's line says it, which is what the decoder says. */
  dropped(packet: Packet): Record<string, unknown> {
    this.world.nowNs += 1_000_000n;
    this.records();
    this.send(packet);
    const [line, ...more] = this.records();
    expect(more).toEqual([]);
    return line!;
  }

  private records(): Record<string, unknown>[] {
    const into = new Uint8Array(1 << 20);
    const { flows, drops } = addon.records(into);
    const { names } = this.world;
    const out = new Output(1024);
    const format = new JsonFormat(out, planFields());
    const texts = new NameTexts(names);
    const bytes = into.subarray(flows * FLOW_RECORD_BYTES);
    return Array.from({ length: drops }, (_, index) => {
      format.drop(viewOf(bytes), bytes, index * DROP_RECORD_BYTES, texts);
      const line = JSON.parse(out.take().toString()) as Record<string, unknown>;
      const { help: _help, ...decoded } = decodeDrop(viewOf(bytes), index * DROP_RECORD_BYTES, names);
      expect(line).toEqual(decoded);
      return line;
    });
  }
}

const tuple = (source: string, sourcePort: number, destination: string, destinationPort: number) => ({ source, sourcePort, destination, destinationPort });
const TRUST = { interface: 'trust', zone: 'trust' };
const UNTRUST = { interface: 'untrust', zone: 'untrust' };
const DMZ = { interface: 'dmz', zone: 'dmz' };
const OUTSIDE = '198.51.100.10';

describe('a packet without a session', () => {
  test('denied by a rule: its flags, and where it would have gone', () => {
    const line = new Bench().dropped({ tcp: '4000>23 S' });
    expect(line).toMatchObject({ event: 'denied', reason: 'policy-deny', rule: 'no-telnet', ...tuple('10.0.1.10', 4000, OUTSIDE, 23), translated: null, natSource: null, natDestination: null, from: TRUST, to: UNTRUST, tcpFlags: 'S' });
  });

  test('denied behind a destination that was translated', () => {
    const bench = new Bench({ firewall: { rules: [] } });
    expect(bench.dropped({ in: 'untrust', src: OUTSIDE, dst: '203.0.113.6', tcp: '5000>8443 S' })).toMatchObject({
      reason: 'policy-deny', rule: null, ...tuple(OUTSIDE, 5000, '203.0.113.6', 8443), translated: tuple(OUTSIDE, 5000, '10.0.2.10', 443), natDestination: 'publish', natSource: null, from: UNTRUST, to: DMZ,
    });
    expect(bench.dropped({ in: 'untrust', src: '2001:db8:9::1', dst: '2001:db8:1::6', tcp: '5000>8443 S' })).toMatchObject({ translated: tuple('2001:db8:9::1', 5000, '2001:db8:3::10', 443), natDestination: 'publish6' });
  });

  test('that opens nothing: its flags, ECN\'s too; a scan\'s ports', () => {
    const bench = new Bench();
    expect(bench.dropped({ in: 'untrust', src: OUTSIDE, dst: '203.0.113.6', tcp: '5000>8443 FA' })).toMatchObject({ reason: 'tcp-not-syn', tcpFlags: 'FA', translated: tuple(OUTSIDE, 5000, '10.0.2.10', 443), rule: 'published' });
    expect(bench.dropped({ tcp: '4000>80 FPU' })).toMatchObject({ reason: 'tcp-bad-flags', tcpFlags: 'FPU', ...tuple('10.0.1.10', 4000, OUTSIDE, 80), to: null });
    expect(bench.dropped({ tcp: { sport: 4000, dport: 80, flags: '' } })).toMatchObject({ reason: 'tcp-bad-flags', tcpFlags: '' });
  });

  test('whose TTL ran out, from a host with an address of its own outside', () => {
    expect(new Bench().dropped({ in: 'dmz', src: '10.0.2.20', ttl: 1, tcp: '4000>80 S' })).toMatchObject({ reason: 'ttl-expired', rule: 'mail-out', translated: tuple('203.0.113.9', 4000, OUTSIDE, 80), natSource: 'mail', natDestination: null });
  });

  test('that was not understood, or is not TCP: no flags', () => {
    const bench = new Bench();
    expect(bench.dropped({ udp: '4000>23' })).toMatchObject({ reason: 'policy-deny', tcpFlags: null, protocol: 'udp' });
    expect(bench.dropped({ tcp: '4000>23 S', cut: 40 })).toMatchObject({ reason: 'truncated', tcpFlags: null });
    expect(bench.dropped({ tcp: '4000>23 S', cut: 10 })).toMatchObject({ reason: 'truncated', tcpFlags: null, to: null, translated: null });
  });
});

describe('a packet of a session', () => {
  test('out of the window, either way: as it would have left', () => {
    const bench = new Bench();
    const port = bench.send({ tcp: { ports: '4000>80', flags: 'S', seq: 1000, win: 1000 } });
    bench.send({ in: 'untrust', src: OUTSIDE, dst: '203.0.113.5', tcp: { sport: 80, dport: port, flags: 'SA', seq: 5000, ack: 1001, win: 1000 } });
    bench.send({ tcp: { ports: '4000>80', flags: 'A', seq: 1001, ack: 5001, win: 1000 } });
    expect(bench.dropped({ tcp: { ports: '4000>80', flags: 'PA', seq: 900_000, ack: 5001 }, data: 10 })).toMatchObject({
      reason: 'tcp-window', rule: 'outbound', ...tuple('10.0.1.10', 4000, OUTSIDE, 80), translated: tuple('203.0.113.5', port, OUTSIDE, 80), natSource: 'egress', natDestination: null, from: TRUST, to: UNTRUST, tcpFlags: 'PA',
    });
    expect(bench.dropped({ in: 'untrust', src: OUTSIDE, dst: '203.0.113.5', tcp: { sport: 80, dport: port, flags: 'R', seq: 900_000 } })).toMatchObject({
      reason: 'tcp-rst-sequence', ...tuple(OUTSIDE, 80, '203.0.113.5', port), translated: tuple(OUTSIDE, 80, '10.0.1.10', 4000), natSource: 'egress', from: UNTRUST, to: TRUST, tcpFlags: 'R',
    });
    // An error about it has no ports of its own.
    expect(bench.dropped({ in: 'untrust', src: '192.0.2.77', dst: '203.0.113.5', icmp: { type: 'unreachable', code: 1, about: { src: '203.0.113.5', dst: OUTSIDE, tcp: { sport: port, dport: 80, flags: 'A', seq: 900_000 } } } })).toMatchObject({
      reason: 'icmp-bad-embedded', protocol: 'icmp', ...tuple('192.0.2.77', 0, '203.0.113.5', 0), translated: tuple('192.0.2.77', 0, '10.0.1.10', 0), tcpFlags: null,
    });
  });

  test('of ping: the identifier stands in both ports, before and after', () => {
    const bench = new Bench();
    bench.send({ icmp: { type: 'echo', id: 77 } });
    const line = bench.dropped({ icmp: { type: 'echo', id: 77 }, ttl: 1 });
    expect(line).toMatchObject({ reason: 'ttl-expired', ...tuple('10.0.1.10', 77, OUTSIDE, 77), natSource: 'egress', tcpFlags: null });
    const { sourcePort, destinationPort } = line['translated'] as { sourcePort: number; destinationPort: number };
    expect(sourcePort).toBe(destinationPort);
  });

  test('after a commit that forbids it', () => {
    const bench = new Bench();
    const port = bench.send({ udp: '4000>53' });
    bench.world.apply(merge(bench.world.config, { firewall: { default: 'deny', rules: [] } }) as CaseConfig);
    expect(bench.dropped({ udp: '4000>53' })).toMatchObject({ reason: 'policy-changed', translated: tuple('203.0.113.5', port, OUTSIDE, 53), natSource: null, to: UNTRUST });
  });

  test('of which a fragment is dropped: a later one has no ports', () => {
    const bench = new Bench({ interfaces: { untrust: { mtu: 1300 } } });
    bench.send({ udp: '4000>53' });
    const whole: Packet = { udp: '4000>53', data: 100 };
    bench.send({ ...whole, frag: { offset: 0, length: 64, more: true, id: 9 } });
    expect(bench.dropped({ ...whole, frag: { offset: 64, more: false, id: 9 }, ttl: 1 })).toMatchObject({ reason: 'ttl-expired', ...tuple('10.0.1.10', 0, OUTSIDE, 0), translated: { source: '203.0.113.5', sourcePort: 0, destination: OUTSIDE, destinationPort: 0 } });
  });
});
