// The wall clock jumps while flows run, as a machine's does that was suspended, or whose clock was wrong at its start. Sessions and timers
// go by monotonic time and must not notice; records carry the new time. The clock that is stepped is that of the appliance's processes alone
// (lab/step_clock.cc).

import { existsSync, openSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { ADDRESSES, endpoint, FAMILIES, ROOT } from '../../lab/topology.js';
import { startStream } from '../../lab/traffic.js';
import { until } from '../../lab/until.js';
import { addRawHosts, Conversation, countsOf, OFFLOAD_POLICY, RawHosts } from './conversation.js';
import { describeNetns, useLab } from './fixture.js';

const LIBRARY = join(ROOT, 'build', 'native', 'lab_step_clock.so');
const HOUR_S = 3600;
const YEAR_S = 365 * 24 * HOUR_S;
const ICMP_IDLE_S = 4;
const STAY_PORT = 9999;
const NEAR_MS = 10 * 60 * 1000;
const POLICY = `${OFFLOAD_POLICY}timers: { icmp: ${ICMP_IDLE_S} }\n`;

describeNetns('clock steps', () => {
  let clock = -1;
  const bench = useLab({
    appliance: (lab) => {
      const file = join(lab.directory, 'clock');
      writeFileSync(file, Buffer.alloc(8), { mode: 0o644 });
      clock = openSync(file, 'r+');
      if (!existsSync(LIBRARY)) throw new Error(`${LIBRARY} is not built`);
      return { configText: POLICY, env: { LD_PRELOAD: LIBRARY, SLUICE_STEP_CLOCK: file } };
    },
  });
  let raw: RawHosts;
  beforeAll(() => {
    addRawHosts(bench);
    raw = new RawHosts(bench);
  });
  afterAll(() => raw?.stop());

  /** Seconds before or after the real time. */
  function stepTo(seconds: number): void {
    const bytes = Buffer.alloc(8);
    bytes.writeBigInt64LE(BigInt(seconds) * 1_000_000_000n);
    writeSync(clock, bytes, 0, 8, 0);
  }
  const shifted = (time: string, seconds: number): number => Math.abs(Date.parse(time) - (Date.now() + seconds * 1000));
  const listed = async (port: number): Promise<string[]> =>
    (await bench.appliance.flows('--port', String(port))).filter((flow) => flow.event === 'update').map((flow) => `${flow.sessionId} ${flow.source} ${JSON.stringify(flow.translated)}`).sort();
  /** Until engine and control both tell the new time. */
  async function noticed(seconds: number): Promise<void> {
    await until('records carry the new time', async () => {
      const knock = new Conversation(raw, 'IPv4', 'udp', 'no NAT', { dstPort: 23 });
      knock.send(0);
      return (await bench.appliance.drops('--last', '1')).some((drop) => shifted(drop.time, seconds) < NEAR_MS);
    });
    const { processes } = await bench.appliance.json<{ processes: { role: string; uptimeSeconds: number | null }[] }>('status');
    expect(processes.find(({ role }) => role === 'control')!.uptimeSeconds).toBeGreaterThanOrEqual(0);
  }

  test('an hour and a year, ahead and back: flows go on, sessions stay, records carry the new time', async () => {
    const service = bench.lab.start('server', endpoint('serve', '--tcp', STAY_PORT));
    await service.waitForOutput(/"event":"ready"/);
    // Offloaded ones, and ones that stay in the engine.
    const streams = FAMILIES.flatMap((family) => [startStream(bench.lab, 'client', ADDRESSES[family].far), startStream(bench.lab, 'client', ADDRESSES[family].server, STAY_PORT)]);
    const talks = await Promise.all(FAMILIES.map((family) => new Conversation(raw, family, 'udp', 'source NAT').establish()));
    await until('lines flow', () => streams.every((stream) => stream.received() > 5));
    const [engine, control] = [bench.appliance.pid('engine'), bench.appliance.pid('control')];
    const [far, stay, before] = [await listed(7), await listed(STAY_PORT), await countsOf(bench)];

    for (const seconds of [HOUR_S, -HOUR_S, YEAR_S, -YEAR_S, 0]) {
      stepTo(seconds);
      await noticed(seconds);
      const counts = streams.map((stream) => stream.received());
      await until('lines still flow', () => streams.every((stream, n) => stream.received() > counts[n]! + 20));
      for (const talk of talks) {
        await talk.pass(0);
        await talk.pass(1);
        expect((await talk.session()).packets).toEqual(talk.packets);
      }
      expect([await listed(7), await listed(STAY_PORT)]).toEqual([far, stay]);
      const fresh = await new Conversation(raw, 'IPv4', 'udp', 'source NAT', { dstPort: 53 }).establish();
      expect(shifted((await fresh.session()).time, seconds)).toBeLessThan(NEAR_MS);
    }
    expect([bench.appliance.pid('engine'), bench.appliance.pid('control')]).toEqual([engine, control]);
    const after = await countsOf(bench);
    expect(Object.entries(after.drops).filter(([reason, drops]) => reason !== 'policy-deny' && drops > (before.drops[reason] ?? 0))).toEqual([]);
    for (const stream of streams) await stream.program.stop();
    await service.stop();
  });

  test.each([['ahead', YEAR_S], ['back', -YEAR_S]])('a step of a year %s moves no idle timer', async (_name, seconds) => {
    stepTo(0);
    await noticed(0);
    const began = performance.now();
    const idle = await new Conversation(raw, 'IPv4', 'icmp', 'source NAT').establish();
    const busy = await new Conversation(raw, 'IPv4', 'icmp', 'source NAT').establish();
    const beat = setInterval(() => busy.send(0), 250);
    try {
      stepTo(seconds);
      const alive = async (talk: Conversation): Promise<boolean> => (await bench.appliance.flows('--protocol', 'icmp')).some((flow) => flow.event === 'update' && flow.sourcePort === talk.srcPort);
      await until('the idle one is gone', async () => !(await alive(idle)), { deadlineMs: 30_000 });
      expect(performance.now() - began).toBeGreaterThan((ICMP_IDLE_S - 1) * 1000);
      expect(await alive(busy)).toBe(true);
      const ended = await until('its end has a record', async () => (await bench.appliance.flows('--protocol', 'icmp')).find((flow) => flow.event === 'end' && flow.sourcePort === idle.srcPort));
      expect(ended).toMatchObject({ endReason: 'idle' });
      expect(shifted(ended.time, seconds)).toBeLessThan(NEAR_MS);
    } finally {
      clearInterval(beat);
    }
  });
});
