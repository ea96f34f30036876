// What outlives the engine: sessions, NAT bindings, and flows that the XDP program forwards. Killed and restarted on purpose.

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest';
import { buildFrame, FrameCount, FrameStream } from '../../lab/frames.js';
import { ADDRESSES, endpoint, FAMILIES } from '../../lab/topology.js';
import { startStream } from '../../lab/traffic.js';
import { until } from '../../lab/until.js';
import { addRawHosts, Conversation, countsOf, expectWhole, OFFLOAD_POLICY, RawHosts, type Path } from './conversation.js';
import { describeNetns, useLab } from './fixture.js';

/** More of them take longer than a test should: the supervisor waits longer after each. `inherit_test.cc` kills at any instruction. */
const KILLS = Number(process.env['SLUICE_TEST_KILLS'] ?? 5);
/** A veth's ring holds what comes in an eighth of a second: so long may its reader wait for a processor. */
const STREAM_RATE = 2000;
const FLOOD_RATE = 3000;
const RULE_SESSIONS = 3;
const ICMP_IDLE_S = 4;
const STAY_PORT = 9999;

/** No UDP session ends by itself while they are counted. */
const POLICY = `${OFFLOAD_POLICY.replace('service: [udp/9998]', `service: [udp/9998], maxSessions: ${RULE_SESSIONS}`)}
limits: { sessions: 65536, sessionsPerSource: 4000 }
timers: { icmp: ${ICMP_IDLE_S}, udpNew: 600 }
observability: { logs: [{ type: system, to: file, path: system.jsonl }] }
`;

interface Restarted {
  process: string;
  pidBefore: number;
  pid: number;
  milliseconds: number;
  sessionsBefore: number;
  sessions: number;
}

describeNetns('survival', () => {
  const bench = useLab({ appliance: { configText: POLICY } });
  let raw: RawHosts;
  beforeAll(() => {
    addRawHosts(bench);
    raw = new RawHosts(bench);
  });
  afterAll(() => raw?.stop());

  const engineLog = (): string => readFileSync(join(bench.appliance.directory, 'engine.log'), 'utf8');
  const listed = async (port: number): Promise<string[]> =>
    (await bench.appliance.flows('--port', String(port)))
      .filter((flow) => flow.event === 'update' && flow.state === 'established')
      .map((flow) => `${flow.sessionId} ${flow.source} ${JSON.stringify(flow.translated)} ${flow.rule}`)
      .sort();

  /** The engine is killed, and another one has taken its place and its sessions. */
  async function killEngine(): Promise<void> {
    const killed = bench.appliance.killProcess('engine');
    await bench.appliance.restarted('engine', killed);
    await bench.appliance.ready();
  }

  test.each(['engine', 'control'] as const)(
    'sluice restart %s: sessions go on',
    async (role) => {
      const streams = FAMILIES.flatMap((family) => [
        startStream(bench.lab, 'client', ADDRESSES[family].far),
        startStream(bench.lab, 'client', ADDRESSES[family].server),
      ]);
      await until('lines flow', () => streams.every((stream) => stream.received() > 5));
      const before = await listed(7);
      expect(before).toHaveLength(streams.length);
      const other = role === 'engine' ? 'control' : 'engine';
      const [pid, otherPid] = [bench.appliance.pid(role), bench.appliance.pid(other)];

      const result = await bench.appliance.json<Restarted>('restart', role);
      expect(result).toMatchObject({ process: role, pidBefore: pid });
      expect(result.sessions).toBeGreaterThanOrEqual(streams.length);
      expect(result.pid).not.toBe(pid);
      expect(bench.appliance.pid(role)).toBe(result.pid);
      expect(bench.appliance.pid(other)).toBe(otherPid);

      const counts = streams.map((stream) => stream.received());
      await until('lines still flow', () => streams.every((stream, n) => stream.received() > counts[n]! + 20));
      expect(await listed(7)).toEqual(before);
      for (const stream of streams) await stream.program.stop();
      await until('their sessions close', async () => (await listed(7)).length === 0);
    },
  );

  test('what each of the processes says is in the system stream, over a restart of control', async () => {
    const said = (): string[] => readFileSync(join(bench.appliance.directory, 'state/logs/system.jsonl'), 'utf8').split('\n').filter(Boolean).map((line) => {
      const { process: of, msg } = JSON.parse(line) as { process: string; msg: string };
      return `${of}: ${msg}`;
    });
    await bench.appliance.json<Restarted>('restart', 'control');
    for (const line of ['control: control is up', 'engine: engine is up', 'supervisor: control ended for a restart; starting it again']) {
      await until(line, () => said().includes(line));
    }
  });

  test('without a supervisor nothing is restarted', async () => {
    const engine = bench.appliance.pid('engine');
    bench.appliance.killProcess('supervisor');
    await bench.appliance.program!.exited;
    const refused = await bench.appliance.command('restart', 'engine');
    expect(refused.code).toBe(1);
    expect(refused.stderr).toMatch(/sluice up/);
    expect(bench.appliance.pid('engine')).toBe(engine);
    await bench.appliance.start();
  });

  test.each(FAMILIES)('%s: offloaded UDP goes on while the engine is killed: nothing lost, nothing out of order', async (family) => {
    const talk = new Conversation(raw, family, 'udp', 'source NAT', { dstPort: 5300 });
    const before = (await countsOf(bench)).offloaded['eth1'] ?? 0;
    const stream = new FrameStream(bench.lab, 'client', buildFrame(talk.fields(0, { payload: Buffer.alloc(32) })), STREAM_RATE);
    onTestFinished(async () => void (await stream.program.stop()));
    // Counted from then on: at the change-over a packet may be overtaken (docs/internals/offload.md).
    await until('the program forwards the stream', async () => ((await countsOf(bench)).offloaded['eth1'] ?? 0) > before + 100);
    const count = new FrameCount(bench.lab, 'internet', 5300);
    onTestFinished(async () => void (await count.program.stop()));
    await until('it arrives', () => count.counted().received > 1000);
    let byEngine = 0;
    for (let kill = 0; kill < 2; kill++) {
      const received = count.counted().received;
      await killEngine();
      await until('it still arrives', () => count.counted().received > received + STREAM_RATE / 4);
      byEngine += (await countsOf(bench)).received; // by this one
    }
    // While nobody reads its sockets, too: between two engines.
    const restarted = await bench.appliance.json<Restarted>('restart', 'engine');
    expect(restarted.pid).not.toBe(restarted.pidBefore);
    await expectWhole(stream, count, async () => byEngine + (await countsOf(bench)).received);
  });

  test('flows that stay in the engine wait for it and go on; NAT bindings and counts are what they were', async () => {
    const service = bench.lab.start('server', endpoint('serve', '--tcp', STAY_PORT));
    await service.waitForOutput(/"event":"ready"/);
    const streams = FAMILIES.map((family) => startStream(bench.lab, 'client', ADDRESSES[family].server, STAY_PORT));
    const paths: Path[] = ['no NAT', 'source NAT', 'destination NAT', 'static NAT'];
    const talks = await Promise.all(FAMILIES.flatMap((family) => paths.flatMap((path) => (['tcp', 'udp'] as const).map((protocol) => new Conversation(raw, family, protocol, path).establish()))));
    // One inside endpoint's second conversation shares its outside endpoint (RFC 4787 REQ-1).
    const first = talks.find((talk) => talk.family === 'IPv4' && talk.protocol === 'udp' && talk.path === 'source NAT')!;
    const limited = await Promise.all(Array.from({ length: RULE_SESSIONS }, () => new Conversation(raw, 'IPv4', 'udp', 'no NAT', { dstPort: 9998 }).establish()));
    await until('lines flow', () => streams.every((stream) => stream.received() > 5));

    await killEngine();

    const counts = streams.map((stream) => stream.received());
    await until('lines flow again', () => streams.every((stream, n) => stream.received() > counts[n]! + 20));
    for (const talk of talks) {
      await talk.pass(0); // judges the outside endpoint: the same as before
      await talk.pass(1);
      expect((await talk.session()).packets).toEqual(talk.packets);
    }
    const second = await new Conversation(raw, 'IPv4', 'udp', 'source NAT', { srcPort: first.srcPort, dstPort: 5353 }).establish();
    expect(second.seenSrcPort).toBe(first.seenSrcPort);
    // New endpoints get ports that nobody has.
    const more = await Promise.all(Array.from({ length: 40 }, () => new Conversation(raw, 'IPv4', 'udp', 'source NAT').establish()));
    const outside = [first, ...more].map((talk) => talk.seenSrcPort);
    expect(new Set(outside).size).toBe(outside.length);
    // The rule counts the sessions that it had: there is no room for one more.
    const before = await countsOf(bench);
    new Conversation(raw, 'IPv4', 'udp', 'no NAT', { dstPort: 9998 }).send(0);
    await until('the rule has as many as it may', async () => (await countsOf(bench)).drops['session-limit']! > (before.drops['session-limit'] ?? 0));
    for (const talk of limited) await talk.pass(0);
    for (const stream of streams) await stream.program.stop();
    await service.stop();
  });

  test('idle sessions of the engine before expire on time, offloaded or not', async () => {
    const began = Date.now();
    const idle = await new Conversation(raw, 'IPv4', 'icmp', 'source NAT').establish();
    const busy = await new Conversation(raw, 'IPv4', 'icmp', 'source NAT').establish();
    // From before the kill: however long the restart takes, the busy one was never idle.
    const beat = setInterval(() => busy.send(0), 250);
    try {
      await killEngine();
      const alive = async (talk: Conversation): Promise<boolean> =>
        (await bench.appliance.flows('--protocol', 'icmp')).some((flow) => flow.event === 'update' && flow.sourcePort === talk.srcPort);
      await until('the idle one is gone', async () => !(await alive(idle)), { deadlineMs: 30_000 });
      expect(Date.now() - began).toBeGreaterThan((ICMP_IDLE_S - 1) * 1000);
      expect(await alive(busy)).toBe(true);
      const ended = await until('its end has a record', async () => (await bench.appliance.flows('--protocol', 'icmp')).find((flow) => flow.event === 'end' && flow.sourcePort === idle.srcPort));
      expect(ended).toMatchObject({ endReason: 'idle' });
    } finally {
      clearInterval(beat);
    }
  });

  test('killed again and again while sessions are set up by the thousand: nothing opens, nothing is left over', async () => {
    const { own, nva } = raw.macs.client;
    const template = { srcMac: own, dstMac: nva, src: '10.0.1.60', protocol: 'udp' as const, srcPort: 2000, payload: Buffer.alloc(16) };
    // Another supervisor: this one waits seconds before each start, after all those kills.
    bench.appliance.killProcess('supervisor');
    await bench.appliance.program!.exited;
    await bench.appliance.start();
    const floods = [
      new FrameStream(bench.lab, 'client', buildFrame({ ...template, dst: '203.0.113.50', dstPort: 5400 }), FLOOD_RATE, { flood: true }),
      new FrameStream(bench.lab, 'client', buildFrame({ ...template, dst: '10.0.2.50', dstPort: 5400 }), FLOOD_RATE, { flood: true }),
      new FrameStream(bench.lab, 'client', buildFrame({ ...template, dst: '10.0.2.50', dstPort: 23 }), FLOOD_RATE / 10, { flood: true }),
    ];
    const forbidden = new FrameCount(bench.lab, 'server', 23);
    const allowed = new FrameCount(bench.lab, 'server', 5400);
    const kept = await new Conversation(raw, 'IPv4', 'tcp', 'source NAT').establish();
    for (let kill = 0; kill < KILLS; kill++) {
      const before = allowed.counted().received;
      await until('sessions are set up', () => allowed.counted().received > before + 200, { deadlineMs: 40_000 });
      const killed = bench.appliance.killProcess('engine');
      await bench.appliance.restarted('engine', killed);
    }
    await bench.appliance.ready();
    for (const flood of floods) await flood.program.stop();
    await kept.pass(0);
    await kept.pass(1);
    expect(forbidden.counted().received).toBe(0);
    // What is listed is what is counted, each once.
    const { sessions } = await bench.appliance.json<{ sessions: { total: number } }>('status');
    const all: { sessionId: string; source: string; sourcePort: number; destination: string; destinationPort: number; translated: unknown }[] = [];
    for (let cursor: string | null = ''; cursor !== null; ) {
      const page: { sessions: typeof all; cursor: string | null } = await bench.appliance.api(`/api/v1/sessions?limit=10000${cursor ? `&cursor=${cursor}` : ''}`);
      all.push(...page.sessions);
      cursor = page.cursor;
    }
    expect(sessions.total).toBeGreaterThan(100);
    expect(Math.abs(all.length - sessions.total)).toBeLessThanOrEqual(5); // pings of another test may end meanwhile
    const keys = all.map((one) => `${one.source} ${one.sourcePort} ${one.destination} ${one.destinationPort}`);
    expect(new Set(keys).size).toBe(keys.length);
    const outside = all.filter((one) => one.translated && one.destinationPort === 5400).map((one) => JSON.stringify(one.translated));
    expect(new Set(outside).size).toBe(outside.length);
    await forbidden.program.stop();
    await allowed.program.stop();
  }, 240_000);

  test('with another limits.sessions it starts afresh, and says so', async () => {
    const talk = await new Conversation(raw, 'IPv4', 'udp', 'source NAT').establish();
    const pid = bench.appliance.pid('engine')!;
    writeFileSync(bench.appliance.config, POLICY.replace('sessions: 65536', 'sessions: 32768'));
    bench.appliance.program!.kill('SIGHUP');
    await bench.appliance.restarted('engine', pid);
    await bench.appliance.ready();
    await until('it says so', () => /given up: limits.sessions was 65536 and is 32768/.test(engineLog()));
    expect((await bench.appliance.flows('--source', talk.ends.src)).filter((flow) => flow.event === 'update')).toEqual([]);
    await new Conversation(raw, 'IPv4', 'udp', 'source NAT').establish();
  });
});
