// Flows that the XDP program forwards: each byte of them right, each packet counted, and what needs the engine still reaches it.

import { get } from 'node:http';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { buildFrame, TCP, type L4 } from '../../lab/frames.js';
import { FAMILIES } from '../../lab/topology.js';
import { until } from '../../lab/until.js';
import { addRawHosts, Conversation, countsDuring, OFFLOAD_POLICY, PATHS, RawHosts, type Path } from './conversation.js';
import { parseExposition, valueOf } from '../metrics/exposition.js';
import { describeNetns, useLab } from './fixture.js';

const ROUNDS = 5;

function metricsOf(directory: string): Promise<string> {
  return new Promise((resolve, reject) => {
    get({ socketPath: join(directory, 'api.sock'), path: '/metrics', headers: { host: 'sluice' } }, (response) => {
      text(response).then(resolve, reject);
    }).on('error', reject);
  });
}

describeNetns('offload', () => {
  const bench = useLab({ appliance: { configText: `${OFFLOAD_POLICY}timers: { tcpReset: 120 }\n` } });
  let raw: RawHosts;
  beforeAll(() => {
    addRawHosts(bench);
    raw = new RawHosts(bench);
  });
  afterAll(() => raw?.stop());

  const everyWay = FAMILIES.flatMap((family) =>
    (['tcp', 'udp', 'icmp'] as const).flatMap((protocol) =>
      PATHS.filter((path) => protocol !== 'icmp' || path !== 'destination NAT').map((path) => ({ family, protocol, path })),
    ),
  );

  describe.each(everyWay)('$family $protocol, $path', ({ family, protocol, path }) => {
    test('forwarded by the XDP program, both ways; counted exactly', async () => {
      const talk = await new Conversation(raw, family, protocol, path).establish();
      const counts = await countsDuring(bench, async () => {
        for (let round = 0; round < ROUNDS; round++) {
          await talk.pass(0, { ttl: 64 - round, payload: Buffer.alloc(round * 200 + 1, `${path} ${round} ${talk.srcPort}`) });
          await talk.pass(1, { ttl: 2 + round });
        }
      });
      expect(counts.received).toBe(0);
      expect(counts.toEngine).toEqual({ eth0: 0, eth1: 0, eth2: 0 });
      expect([counts.offloaded[talk.device(0)], counts.offloaded[talk.device(1)]]).toEqual([ROUNDS, ROUNDS]);
      const session = await talk.session();
      expect(session).toMatchObject({ packets: talk.packets, bytes: talk.bytes, state: 'established' });
    });
  });

  const to = (family: 'IPv4' | 'IPv6', protocol: L4, path: Path = 'source NAT'): Promise<Conversation> => new Conversation(raw, family, protocol, path).establish();

  describe.each(FAMILIES)('%s', (family) => {
    test('UDP that nobody answers, after eight packets', async () => {
      const talk = new Conversation(raw, family, 'udp', 'source NAT');
      for (let n = 0; n < 8; n++) await talk.pass(0);
      const counts = await countsDuring(bench, async () => {
        for (let n = 0; n < 3; n++) await talk.pass(0);
      });
      expect([counts.received, counts.offloaded[talk.device(0)]]).toEqual([0, 3]);
      // The first answer is the engine's: it establishes the session.
      await talk.pass(1);
      expect(await talk.session()).toMatchObject({ packets: [11, 1], state: 'established' });
    });

    test('offload: never stays in the engine', async () => {
      for (const protocol of ['tcp', 'udp'] as const) {
        const talk = await new Conversation(raw, family, protocol, 'no NAT', { dstPort: 9999 }).establish();
        const counts = await countsDuring(bench, async () => {
          for (let n = 0; n < ROUNDS; n++) await talk.pass(0);
        });
        expect([counts.received, counts.offloaded[talk.device(0)]]).toEqual([ROUNDS, 0]);
      }
    });

    test('what needs the engine reaches it: TTL 1 is answered, a bad checksum and a forbidden port go nowhere', async () => {
      const talk = await to(family, 'udp');
      const host = talk.host(0);
      let from = host.frames.length;
      const counts = await countsDuring(bench, async () => {
        talk.send(0, { ttl: 1 });
        await host.receive('time exceeded', (frame) => frame.icmpType === (family === 'IPv4' ? 11 : 3), { from });
      });
      expect(counts.drops['ttl-expired']).toBe(1);
      from = host.frames.length;
      await talk.pass(0);
      const forbidden = new Conversation(raw, family, 'udp', 'source NAT', { dstPort: 23 });
      forbidden.send(0);
      await talk.pass(0);
      expect(talk.host(1).frames.filter((frame) => frame.dstPort === 23)).toEqual([]);
    });

    test('TCP: FIN after many offloaded segments closes the session', async () => {
      const talk = await to(family, 'tcp');
      for (let n = 0; n < 30; n++) {
        await talk.pass(0, { payload: Buffer.alloc(500, `${n}-${talk.srcPort} `) });
        if (n % 3 === 0) await talk.pass(1, { payload: '' });
      }
      await talk.pass(0, { flags: TCP.FIN | TCP.ACK, payload: '' });
      expect((await talk.session()).state).toBe('fin-wait');
      await talk.pass(1, { flags: TCP.FIN | TCP.ACK, payload: '' });
      await talk.pass(0, { payload: '' });
      expect((await talk.session()).state).toBe('time-wait');
    });

    test('TCP: a RST counts when it carries the exact sequence, a blind one is dropped and counted', async () => {
      const talk = await to(family, 'tcp');
      for (let n = 0; n < 20; n++) {
        await talk.pass(0, { payload: Buffer.alloc(700, `r${n}-${talk.srcPort} `) });
        await talk.pass(1, { payload: '' });
      }
      const here = talk.fields(0).seq!;
      const back = talk.fields(1).seq!;
      // From the right addresses, as somebody would forge it who does not see the connection.
      const counts = await countsDuring(bench, async () => {
        for (const off of [1, -1, 1000, -20_000, 1_000_000]) await talk.expectDropped(0, { flags: TCP.RST, seq: here + off, payload: '' });
        for (const off of [1, -100, 60_000]) await talk.expectDropped(1, { flags: TCP.RST, seq: back + off, payload: '' });
      });
      expect(counts.drops['tcp-rst-sequence']).toBe(8);
      expect((await talk.session()).state).toBe('established');
      await talk.pass(0, { flags: TCP.RST, payload: '' });
      expect((await talk.session()).state).toBe('closed');
      const after = talk.host(1).frames.length;
      talk.send(0);
      await (await to(family, 'udp')).pass(0);
      expect(talk.host(1).frames.slice(after).filter((frame) => frame.protocol === 'tcp')).toEqual([]);
    });

    test('TCP: data outside the window is dropped and counted; data inside goes on', async () => {
      const talk = await to(family, 'tcp');
      await talk.pass(0);
      await talk.pass(1);
      const here = talk.fields(0).seq!;
      const counts = await countsDuring(bench, async () => {
        // 502 << 7: what the responder lets the originator send.
        for (const off of [66_000, 10_000_000, -9_000_000]) await talk.expectDropped(0, { seq: here + off });
        await talk.expectDropped(0, { seq: here, ack: talk.fields(0).ack! + 5000 });
      });
      expect(counts.drops['tcp-window']).toBe(4);
    });

    test('a SYN in the middle goes to the engine and changes nothing', async () => {
      const talk = await to(family, 'tcp');
      await talk.pass(0);
      const counts = await countsDuring(bench, async () => {
        talk.send(0, { flags: TCP.SYN, seq: 77, payload: '' });
        await talk.pass(0);
      });
      expect([counts.received, counts.offloaded[talk.device(0)]]).toEqual([1, 1]);
      expect((await talk.session()).state).toBe('established');
    });

    test('a frame of the flow from another link, or to another station, is not forwarded', async () => {
      const talk = await to(family, 'udp', 'no NAT');
      const fields = talk.fields(0);
      const intruder = raw.hosts.internet;
      const { own, nva } = raw.macs.internet;
      const from = talk.host(1).frames.length;
      const counts = await countsDuring(bench, async () => {
        intruder.send(buildFrame({ ...fields, srcMac: own, dstMac: nva, payload: 'spoofed' }));
        talk.host(0).send(buildFrame({ ...fields, dstMac: '02:ff:ff:ff:ff:ff', payload: 'elsewhere' }));
        await talk.pass(0);
        await until('both are counted', async () => {
          const { drops } = await bench.appliance.api<{ drops: Record<string, number> }>('/api/v1/counters');
          return (drops['anti-spoofing'] ?? 0) > 0;
        });
      });
      expect(counts.drops['anti-spoofing']).toBe(1);
      expect(talk.host(1).frames.slice(from).filter((frame) => /spoofed|elsewhere/.test(frame.payload.toString()))).toEqual([]);
    });

    test('a packet above the egress MTU is answered; a small one is still offloaded', async () => {
      const talk = await to(family, 'udp');
      bench.lab.ip('nva', 'link set eth0 mtu 1400');
      try {
        const host = talk.host(0);
        await until('the sender is told', async () => {
          const from = host.frames.length;
          talk.send(0, { payload: Buffer.alloc(1420, 1) });
          return (await host.receive('too big', (frame) => frame.icmpType === (family === 'IPv4' ? 3 : 2) && frame.icmpCode === (family === 'IPv4' ? 4 : 0), { from, deadlineMs: 500 })).length;
        });
        const counts = await countsDuring(bench, async () => void (await talk.pass(0)));
        expect([counts.received, counts.offloaded[talk.device(0)]]).toEqual([0, 1]);
      } finally {
        bench.lab.ip('nva', 'link set eth0 mtu 1500');
      }
    });

    test('listed at once, with what the program counted', async () => {
      const talk = await to(family, 'udp');
      for (let n = 0; n < 20; n++) await talk.pass(0);
      const session = await talk.session();
      expect(session.packets).toEqual(talk.packets);
      expect(session.bytes).toEqual(talk.bytes);
    });
  });

  test('metrics: what the engine counts beside it', async () => {
    const talk = await to('IPv4', 'udp', 'source NAT');
    const { interfaces, natPools } = await bench.appliance.api<{ interfaces: Record<string, { rxPackets: number; txPackets: number }>; natPools: { protocols: { udp: { used: number } } }[] }>('/api/v1/counters');
    for (const name of ['trust', 'untrust']) {
      expect(interfaces[name]!.rxPackets).toBeGreaterThan(0);
      expect(interfaces[name]!.txPackets).toBeGreaterThan(0);
    }
    expect(Math.max(...natPools.map(({ protocols }) => protocols.udp.used))).toBeGreaterThan(0);
    // The engine counts sessions once a second.
    const families = await until('the offloaded session in the metrics', async () => {
      const all = parseExposition(await metricsOf(bench.appliance.directory));
      return valueOf(all, 'sluice_sessions_offloaded')! > 0 && valueOf(all, 'sluice_sessions', { state: 'established', protocol: 'udp' })! > 0 ? all : undefined;
    });
    expect(families.get('sluice_engine_batch_seconds')!.samples.find(({ name }) => name.endsWith('_count'))!.value).toBeGreaterThan(0);
    expect(valueOf(families, 'sluice_nat_ports', { protocol: 'udp', state: 'used' })).toBeGreaterThan(0);
    for (const device of ['eth0', 'eth1']) {
      const [level, size] = ['sluice_ring_entries', 'sluice_ring_entries_max'].map((name) => valueOf(families, name, { device, ring: 'fill' })!);
      expect(level).toBeGreaterThan(0);
      expect(level).toBeLessThanOrEqual(size!);
    }
    await talk.pass(0);
  });

  describe('IPv4', () => {
    test('IP options, fragments: through the engine, and right', async () => {
      const talk = await to('IPv4', 'udp', 'no NAT');
      const counts = await countsDuring(bench, async () => {
        await talk.pass(0, { ipOptions: Buffer.from([1, 1, 1, 0]) });
      });
      expect([counts.received, counts.offloaded[talk.device(0)]]).toEqual([1, 0]);
    });

    test('a wrong IP header checksum does not pass', async () => {
      const talk = await to('IPv4', 'udp', 'no NAT');
      const from = talk.host(1).frames.length;
      const frame = buildFrame({ ...talk.fields(0), payload: 'broken header' });
      frame[14 + 11]! ^= 1;
      const counts = await countsDuring(bench, async () => {
        talk.host(0).send(frame);
        await talk.pass(0);
      });
      expect(counts.drops['checksum-ipv4']).toBe(1);
      expect(talk.host(1).frames.slice(from).filter((one) => one.payload.toString() === 'broken header')).toEqual([]);
    });
  });
});
