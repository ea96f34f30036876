// Links and neighbours that change under the running appliance: followed without a restart.

import { describe, expect, test } from 'vitest';
import { ADDRESSES, FAMILIES } from '../../lab/topology.js';
import { ping, startStream, tcpConnect } from '../../lab/traffic.js';
import { until } from '../../lab/until.js';
import { describeNetns, useLab } from './fixture.js';

/** Neighbour discovery of the kernel at the other end takes its time. */
const RECOVERY_MS = 60_000;

describeNetns('links', () => {
  const bench = useLab();
  const reaches = async (address: string): Promise<boolean> => (await ping(bench.lab, 'client', address, { count: 1, seconds: 2 })).ok;

  const restoreInternetAddresses = (): void =>
    bench.lab.ip(
      'internet',
      ...FAMILIES.map(
        (family) =>
          `address replace ${ADDRESSES[family].internet}/${family === 'IPv4' ? 24 : 64} dev eth0${family === 'IPv6' ? ' nodad' : ''}`,
      ),
    );

  describe.each(FAMILIES)('%s', (family) => {
    const at = ADDRESSES[family];

    test('carrier lost and back', async () => {
      const engine = bench.appliance.pid('engine');
      expect(await ping(bench.lab, 'client', at.far, { count: 1 })).toMatchObject({ ok: true });
      bench.lab.ip('internet', 'link set eth0 down');
      await until('no answer comes', async () => !(await reaches(at.far)));
      bench.lab.ip('internet', 'link set eth0 up');
      restoreInternetAddresses();
      await until('answers come again', () => reaches(at.far), { deadlineMs: RECOVERY_MS });
      expect(bench.appliance.pid('engine')).toBe(engine);
    });

    test('the netdev set down and up', async () => {
      const engine = bench.appliance.pid('engine');
      bench.lab.ip('nva', 'link set eth0 down');
      await until('no answer comes', async () => !(await reaches(at.far)));
      bench.lab.ip('nva', 'link set eth0 up');
      await until('answers come again', () => reaches(at.far), { deadlineMs: RECOVERY_MS });
      expect(bench.appliance.pid('engine')).toBe(engine);
    });

    test('a connection survives a next hop with a new link address', async () => {
      const stream = startStream(bench.lab, 'client', at.far);
      await until('lines flow', () => stream.received() > 5);
      const mac = `02:00:00:00:${family === 'IPv4' ? '04' : '06'}:01`;
      bench.lab.ip('internet', `link set eth0 address ${mac}`);
      const before = stream.received();
      await until('lines flow again', () => stream.received() > before + 50, { deadlineMs: RECOVERY_MS });
      await stream.program.stop();
    });

    test('a host that never answers: counted, and nobody else is harmed', async () => {
      const stream = startStream(bench.lab, 'client', at.far);
      await until('lines flow', () => stream.received() > 5);
      const silent = family === 'IPv4' ? '203.0.113.77' : '2001:db8:1::77';
      const attempts = await Promise.all(Array.from({ length: 8 }, () => tcpConnect(bench.lab, 'client', silent, 80, { timeoutMs: 3000 })));
      expect(attempts.filter((attempt) => attempt.result === 'connected')).toEqual([]);
      const before = stream.received();
      await until('lines still flow', () => stream.received() > before + 20);
      await stream.program.stop();
      await until('what was for it is counted', async () => (await bench.appliance.api<{ drops: Record<string, number> }>('/api/v1/counters')).drops['neighbour-unresolved']! > 0);
    });
  });
});
