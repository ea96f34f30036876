// What outlives the engine: sessions, NAT bindings, and flows that the XDP program forwards. Killed and restarted on purpose.

import { expect, test } from 'vitest';
import { ADDRESSES, FAMILIES } from '../../lab/topology.js';
import { startStream } from '../../lab/traffic.js';
import { until } from '../../lab/until.js';
import { describeNetns, useLab } from './fixture.js';

interface Restarted {
  process: string;
  pidBefore: number;
  pid: number;
  milliseconds: number;
  sessionsBefore: number;
  sessions: number;
}

describeNetns('survival', () => {
  const bench = useLab();

  test.each(['engine', 'control'] as const)(
    'sluice restart %s: sessions go on',
    async (role) => {
      const streams = FAMILIES.flatMap((family) => [
        startStream(bench.lab, 'client', ADDRESSES[family].far),
        startStream(bench.lab, 'client', ADDRESSES[family].server),
      ]);
      await until('lines flow', () => streams.every((stream) => stream.received() > 5));
      const before = await bench.appliance.flows('--port', '7');
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
      const after = await bench.appliance.flows('--port', '7');
      const identity = (flows: typeof before): string[] =>
        flows
          .filter((flow) => flow.event === 'update' && flow.state === 'established')
          .map((flow) => `${flow.sessionId} ${flow.source} ${JSON.stringify(flow.translated)} ${flow.rule}`)
          .sort();
      expect(identity(before)).toHaveLength(streams.length);
      expect(identity(after)).toEqual(identity(before));
      for (const stream of streams) await stream.program.stop();
      await until('their sessions close', async () => (await bench.appliance.flows('--port', '7')).every((flow) => flow.event !== 'update' || flow.state !== 'established'));
    },
    60_000,
  );

  test('without a supervisor nothing is restarted', async () => {
    const engine = bench.appliance.pid('engine');
    bench.appliance.killProcess('supervisor');
    await bench.appliance.program!.exited;
    const refused = await bench.appliance.command('restart', 'engine');
    expect(refused.code).toBe(1);
    expect(refused.stderr).toMatch(/sluice up/);
    expect(bench.appliance.pid('engine')).toBe(engine);
    await bench.appliance.start();
  }, 60_000);
});
