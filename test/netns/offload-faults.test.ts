// What goes wrong while the XDP program forwards: links, neighbours, netdevs, policy, memory. None of it opens anything, and none of it
// loses an allowed established flow that still has a way.

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest';
import { buildFrame, FrameCount, FrameStream } from '../../lab/frames.js';
import { ADDRESSES, endpoint } from '../../lab/topology.js';
import { until } from '../../lab/until.js';
import { addRawHosts, Conversation, countsDuring, countsOf, expectWhole, OFFLOAD_POLICY, RAW, RawHosts, setNeighbours, type Node, type Path } from './conversation.js';
import { describeNetns, useLab } from './fixture.js';

/** A veth's ring holds what comes in an eighth of a second: so long may its reader wait for a processor. */
const RATE = 2000;
const SESSIONS = 4096;
/** Free places that a worker has at hand are none to the others (native/flow/table.cc). */
const WORKER_BATCHES = 256;
const POLICY = `${OFFLOAD_POLICY}limits: { sessions: ${SESSIONS} }\n`;

describeNetns('faults under offload', () => {
  const bench = useLab({ appliance: { configText: POLICY } });
  let raw: RawHosts;
  beforeAll(() => {
    addRawHosts(bench);
    raw = new RawHosts(bench);
  });
  afterAll(() => raw?.stop());

  const generation = async (): Promise<number> => (await bench.appliance.json<{ generation: number }>('status')).generation;

  async function reloaded(text: string): Promise<void> {
    const before = await generation();
    writeFileSync(bench.appliance.config, text);
    bench.appliance.program!.kill('SIGHUP');
    await until('the new policy is in force', async () => (await generation()) > before, { deadlineMs: 60_000 });
  }

  /** A stream that the program forwards, and its count at the other end. */
  async function startOffloaded(path: Path = 'source NAT', to: Node = 'internet'): Promise<{ stream: FrameStream; count: FrameCount; talk: Conversation }> {
    const talk = new Conversation(raw, 'IPv4', 'udp', path, { dstPort: 5300 });
    const stream = new FrameStream(bench.lab, 'client', buildFrame(talk.fields(0, { payload: Buffer.alloc(32) })), RATE);
    onTestFinished(async () => void (await stream.program.stop()));
    const before = (await countsOf(bench)).offloaded['eth1'] ?? 0;
    await until('the program forwards the stream', async () => ((await countsOf(bench)).offloaded['eth1'] ?? 0) > before + 100);
    const count = new FrameCount(bench.lab, to, 5300);
    onTestFinished(async () => void (await count.program.stop()));
    await until('it arrives', () => count.counted().received > 500);
    return { stream, count, talk };
  }

  const arrivesOn = async (count: FrameCount): Promise<void> => {
    const before = count.counted().received;
    await until('it arrives', () => count.counted().received > before + 200, { deadlineMs: 30_000 });
  };

  test('a link that goes down and comes up again: nothing is sent into it, then the flow goes on', async () => {
    const { count } = await startOffloaded('no NAT', 'server');
    const engine = bench.appliance.pid('engine');
    const restore = (): void => {
      bench.lab.ip('server', 'link set eth0 up', `route replace default via ${ADDRESSES.IPv4.nvaDmz}`); // which went with the link
      setNeighbours(bench);
    };
    onTestFinished(restore);
    bench.lab.ip('server', 'link set eth0 down');
    await until('the loss is counted', async () => ((await countsOf(bench)).drops['link-down'] ?? 0) > 0);
    let received = -1;
    await until('what was on its way has arrived', () => received === (received = count.counted().received), { intervalMs: 1000 });
    const during = await countsDuring(bench, async () => {
      const before = await countsOf(bench);
      await until('more of it was dropped', async () => (await countsOf(bench)).drops['link-down']! > before.drops['link-down']! + 100);
    });
    expect(during.offloaded['eth1']).toBe(0);
    expect(count.counted().received).toBe(received);
    restore();
    await arrivesOn(count);
    await until('the program forwards it again', async () => {
      const again = await countsDuring(bench, () => arrivesOn(count));
      return again.offloaded['eth1']! > 100 && again.received === 0;
    });
    expect(bench.appliance.pid('engine')).toBe(engine);
  });

  test('a next hop with another link address: the very next packets carry it', async () => {
    const talk = await new Conversation(raw, 'IPv6', 'udp', 'no NAT').establish();
    const other = '02:00:00:00:99:01';
    const change = (mac: string): void => bench.lab.ip('nva', `neighbour replace ${RAW.IPv6.server} lladdr ${mac} dev eth2 nud permanent`);
    const host = talk.host(1);
    bench.lab.ip('server', 'link set eth0 promisc on'); // the host's own filter would take it for another's
    change(other);
    try {
      await until('frames carry it', async () => {
        const from = host.frames.length;
        const fields = talk.send(0);
        const [frame] = await host.receive('it arrives', talk.isSame(fields), { from });
        return frame!.dstMac === other;
      });
      const counts = await countsDuring(bench, async () => {
        const from = host.frames.length;
        const fields = talk.send(0);
        await host.receive('it arrives', talk.isSame(fields), { from });
      });
      expect([counts.received, counts.offloaded['eth1']]).toEqual([0, 1]);
    } finally {
      change(raw.macs.server.own);
    }
  });

  test('a veth whose peer takes no redirected frames any more: flows go back to the engine, and return', async () => {
    const { count } = await startOffloaded('no NAT', 'server');
    bench.lab.runSync('server', ['ethtool', '-K', 'eth0', 'gro', 'off']);
    try {
      await until('the engine forwards it', async () => {
        const during = await countsDuring(bench, () => arrivesOn(count));
        return during.received > 100 && during.offloaded['eth1'] === 0;
      }, { deadlineMs: 30_000 });
    } finally {
      bench.lab.runSync('server', ['ethtool', '-K', 'eth0', 'gro', 'on']);
    }
    await until('the program forwards it again', async () => {
      const during = await countsDuring(bench, () => arrivesOn(count));
      return during.offloaded['eth1']! > 100 && during.received === 0;
    }, { deadlineMs: 30_000 });
  });

  test('policy changed under load, to 10,000 rules and back: an allowed flow loses nothing', async () => {
    const { stream, count } = await startOffloaded();
    const before = await countsOf(bench);
    await reloaded(POLICY.replace('    - { name: forbidden,', '    - { name: extra, from: [trust], to: [dmz], service: [tcp/1], action: deny }\n    - { name: forbidden,'));
    const many = Array.from({ length: 10_000 }, (_, n) => `    - { name: r${n}, source: [10.${n >> 8}.${n & 255}.0/28], service: [tcp/${1000 + (n % 5000)}], action: ${n % 2 ? 'allow' : 'deny'} }`).join('\n');
    await reloaded(POLICY.replace('    - { name: forbidden,', () => `${many}\n    - { name: forbidden,`));
    await reloaded(POLICY);
    await expectWhole(stream, count, async () => (await countsOf(bench)).received - before.received);
  });

  test('the rule of a flow at full rate is deleted: it ends by the data plane, and is counted', async () => {
    const { stream, count, talk } = await startOffloaded();
    const other = await new Conversation(raw, 'IPv4', 'udp', 'no NAT').establish();
    const before = await countsOf(bench);
    await reloaded(POLICY.replace(/^.*name: out,.*\n/m, ''));
    const sent = stream.sent(); // the commit has been answered
    await until('the rest is denied', async () => ((await countsOf(bench)).drops['policy-deny'] ?? 0) > (before.drops['policy-deny'] ?? 0) + RATE / 2);
    const { last } = count.counted();
    expect(last).toBeLessThan(sent + RATE / 10); // the stream's own counter is the clock: 100 ms of it
    await until('it stays so', () => stream.sent() > sent + RATE);
    expect(count.counted().last).toBe(last);
    const ended = await until('its end has a record', async () => (await bench.appliance.flows('--port', '5300')).find((flow) => flow.event === 'end' && flow.sourcePort === talk.srcPort));
    expect(ended).toMatchObject({ endReason: 'policy-changed' });
    await other.pass(0);
    await reloaded(POLICY);
    await arrivesOn(count);
  });

  test('flow memory is full of conversations: new sessions are refused and counted, established ones go on', async () => {
    // Each frame of the flood begins a conversation, since it is answered: what nobody answers would be displaced.
    const echo = bench.lab.start('server', endpoint('serve', '--udp', 5400));
    onTestFinished(async () => void (await echo.stop()));
    await echo.waitForOutput(/"event":"ready"/);
    const kept = await new Conversation(raw, 'IPv4', 'tcp', 'source NAT').establish();
    const { own, nva } = raw.macs.client;
    const flood = new FrameStream(bench.lab, 'client',
      buildFrame({ srcMac: own, dstMac: nva, src: RAW.IPv4.client, dst: ADDRESSES.IPv4.server, protocol: 'udp', srcPort: 1, dstPort: 5400, payload: Buffer.alloc(16) }), RATE, { flood: true });
    onTestFinished(async () => void (await flood.program.stop()));
    const sessions = async (): Promise<number> => (await bench.appliance.json<{ sessions: { total: number } }>('status')).sessions.total;
    await until('the table is full', async () => ((await countsOf(bench)).drops['session-table-full'] ?? 0) > 100);
    const counts = await countsDuring(bench, async () => {
      await kept.pass(0);
      await kept.pass(1);
    });
    expect([counts.offloaded[kept.device(0)], counts.offloaded[kept.device(1)]]).toEqual([1, 1]);
    await flood.program.stop();
    const full = await sessions();
    expect(full).toBeGreaterThan(SESSIONS - WORKER_BATCHES);
    // A restart in that state keeps all of them.
    const restarted = await bench.appliance.json<{ sessions: number }>('restart', 'engine');
    expect(restarted.sessions).toBe(full);
    await kept.pass(0);
  });

  test('pins that cannot be written: the next engine does not start, what is offloaded goes on, and nothing opens', async () => {
    // The table is full of the test before: a fresh appliance.
    await bench.appliance.stop();
    writeFileSync(bench.appliance.config, POLICY);
    await bench.appliance.start();
    setNeighbours(bench);
    const { stream, count } = await startOffloaded();
    const forbidden = new FrameCount(bench.lab, 'server', 23);
    onTestFinished(async () => void (await forbidden.program.stop()));
    const control = bench.appliance.pid('control')!;
    const remount = (how: string): string => bench.lab.runSync('nva', ['nsenter', `--mount=/proc/${control}/ns/mnt`, 'mount', '-o', `remount,${how}`, join(bench.appliance.directory, 'bpf')]);
    const engine = bench.appliance.pid('engine')!;
    remount('ro');
    try {
      writeFileSync(bench.appliance.config, POLICY.replace(`sessions: ${SESSIONS}`, `sessions: ${SESSIONS * 2}`));
      bench.appliance.program!.kill('SIGHUP');
      await until('the engine is refused', () => /cannot pin/.test(readFileSync(join(bench.appliance.directory, 'engine.log'), 'utf8')), { deadlineMs: 30_000 });
      expect(bench.appliance.pid('engine')).not.toBe(engine);
      const knocking = new Conversation(raw, 'IPv4', 'udp', 'no NAT', { dstPort: 23 });
      for (let n = 0; n < 20; n++) knocking.send(0);
      await arrivesOn(count);
      await expectWhole(stream, count);
      expect(forbidden.counted().received).toBe(0);
    } finally {
      remount('rw');
    }
    await bench.appliance.ready();
    await until('it arrives by the new engine', async () => {
      await arrivesOn(count);
      return true;
    });
  });

  test('a netdev is deleted in the middle of a flow: other flows lose nothing, and the engine lives', async () => {
    const { stream, count } = await startOffloaded();
    const doomed = await new Conversation(raw, 'IPv4', 'udp', 'no NAT').establish();
    await doomed.pass(0);
    const engine = bench.appliance.pid('engine');
    const before = await countsOf(bench);
    bench.lab.ip('nva', 'link delete eth2');
    await until('what would have gone there is dropped and counted', async () => {
      doomed.send(0);
      const { drops } = await countsOf(bench);
      return (drops['link-down'] ?? 0) > (before.drops['link-down'] ?? 0) + 3;
    }, { deadlineMs: 30_000 });
    await arrivesOn(count);
    await expectWhole(stream, count);
    expect(bench.appliance.pid('engine')).toBe(engine);
  });
});
