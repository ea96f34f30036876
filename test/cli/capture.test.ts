// What `sluice capture` makes of a stream: blocks however they are cut, and a line a packet. The command itself is test/netns/capture.test.ts's.
import { describe, expect, test } from 'vitest';
import { enhancedPacket, interfaceDescription, interfaceStatistics, sectionHeader } from '../../src/api/pcapng.js';
import { packetLine, packetView } from '../../src/cli/packet-line.js';
import { PcapngReader, type ReadPacket } from '../../src/cli/pcapng-reader.js';
import { frameOf, type Packet } from '../cases/packet-language.js';

const TIME_NS = 1_700_000_000_123_456_789n;
const packet = (bytes: Uint8Array, over: Partial<ReadPacket> = {}): ReadPacket => ({ kind: 'packet', interface: 'trust', timeNs: TIME_NS, bytes: Buffer.from(bytes), originalBytes: bytes.length, direction: 'in', comment: null, ...over });
const frame = (one: Packet): Uint8Array => frameOf(one, new Map(), [2, 0, 0, 0, 0, 1]);
const line = (one: Packet): string => packetLine(packet(frame(one)));

describe('lines', () => {
  test.each<[string, Packet]>([
    ['22:13:20.123456 trust in  tcp 10.0.1.10:4000 → 198.51.100.10:443 [S] 54 bytes', { tcp: '4000>443 S' }],
    ['22:13:20.123456 trust in  udp [2001:db8:2::10]:4000 → [2001:db8:f::10]:53 63 bytes', { src: '2001:db8:2::10', dst: '2001:db8:f::10', udp: '4000>53', data: 'x' }],
    ['22:13:20.123456 trust in  vlan 30 udp 10.0.1.10:1 → 198.51.100.10:53 46 bytes', { vlan: 30, udp: '1>53' }],
    ['22:13:20.123456 trust in  icmp 10.0.1.10 → 198.51.100.10 echo-request id 7 sequence 2 42 bytes', { icmp: { type: 'echo', id: 7, seq: 2 } }],
    ['22:13:20.123456 trust in  udp 10.0.1.10:4000 → 198.51.100.10:53 fragment at 0+ 82 bytes', { udp: '4000>53', data: 100, frag: { offset: 0, length: 48, id: 7 } }],
    ['22:13:20.123456 trust in  udp 10.0.1.10 → 198.51.100.10 fragment at 48 94 bytes', { udp: '4000>53', data: 100, frag: { offset: 48, id: 7 } }],
  ])('%s', (text, one) => expect(line(one)).toBe(text));

  test('flags, a reason, and the members of JSON', () => {
    const one = packet(frame({ tcp: '4000>23 SA' }), { direction: 'out', originalBytes: 1500, comment: 'dropped: policy-deny' });
    expect(packetLine(one)).toBe('22:13:20.123456 trust out tcp 10.0.1.10:4000 → 198.51.100.10:23 [S.] 1500 bytes dropped: policy-deny');
    expect(packetView(one)).toEqual({
      time: '2023-11-14T22:13:20.123456789Z', interface: 'trust', direction: 'out', vlan: null, protocol: 'tcp', source: '10.0.1.10', sourcePort: 4000,
      destination: '198.51.100.10', destinationPort: 23, flags: 'S.', detail: null, bytes: 1500, captured: 54, dropped: 'policy-deny',
    });
  });

  test('a frame cut anywhere has a line', () => {
    for (const whole of [frame({ vlan: 30, tcp: '4000>443 S' }), frame({ src: '2001:db8:2::10', dst: '2001:db8:f::10', ext: [{ hop: '' }], udp: '4000>53' }), new Uint8Array(60).fill(255)]) {
      for (let length = 0; length <= whole.length; length += 1) expect(packetLine(packet(whole.subarray(0, length)))).toMatch(/^22:13:20\.123456 trust in /);
    }
  });
});

describe('the stream', () => {
  const stream = Buffer.concat([
    sectionHeader('test'), interfaceDescription('trust', 256), interfaceDescription('untrust', 256),
    enhancedPacket({ interface: 1, timeNs: TIME_NS, bytes: frame({ udp: '1>2', data: 'abc' }), originalBytes: 900, direction: 'out', comment: 'dropped: no-route' }),
    interfaceStatistics(0, TIME_NS, { received: 5, dropped: 2, lost: 3, comment: 'gone' }), interfaceStatistics(1, TIME_NS, { received: 1, dropped: 4 }),
  ]);

  test.each([1, 7, 64, 100_000])('in chunks of %i bytes', (size) => {
    const reader = new PcapngReader();
    const blocks = Array.from({ length: Math.ceil(stream.length / size) }, (_, n) => [...reader.push(stream.subarray(n * size, (n + 1) * size))]).flat();
    expect(Buffer.concat(blocks.map(({ raw }) => raw))).toEqual(stream);
    expect(blocks.map(({ kind }) => kind)).toEqual(['other', 'other', 'other', 'packet', 'statistics', 'statistics']);
    expect(blocks[3]).toMatchObject({ interface: 'untrust', timeNs: TIME_NS, originalBytes: 900, direction: 'out', comment: 'dropped: no-route' });
    expect(blocks.slice(4)).toMatchObject([{ interface: 'trust', lost: 5, comment: 'gone' }, { interface: 'untrust', lost: 4, comment: null }]);
  });

  test('what is no pcapng ends it', () => {
    expect(() => [...new PcapngReader().push(Buffer.from('{"error":"no"}    '))]).toThrow(/no pcapng/);
    const broken = Buffer.from(stream);
    broken.writeUInt32LE(0, broken.readUInt32LE(4) - 4);
    expect(() => [...new PcapngReader().push(broken)]).toThrow(/two lengths/);
  });
});
