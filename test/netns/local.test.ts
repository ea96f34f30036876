// The appliance as a host: its own addresses answer and its own connections work on every side, beside source NAT on the
// same address.

import { beforeAll, describe, expect, test } from 'vitest';
import { ADDRESSES, endpoint, FAMILIES } from '../../lab/topology.js';
import { download, ping, startStream, udpExchange, who } from '../../lab/traffic.js';
import { until } from '../../lab/until.js';
import { describeNetns, useLab } from './fixture.js';

const SERVICE_PORT = 2222;
const ECHO_PORT = 2223;

describeNetns('local traffic', () => {
  const bench = useLab();

  beforeAll(async () => {
    const service = bench.lab.start('nva', endpoint('serve', '--http', SERVICE_PORT, '--tcp', ECHO_PORT, '--udp', ECHO_PORT));
    await service.waitForOutput(/"event":"ready"/);
  });

  describe.each(FAMILIES)('%s', (family) => {
    const at = ADDRESSES[family];
    const sides = [
      { from: 'client', address: at.nvaTrust, seen: at.client },
      { from: 'server', address: at.nvaDmz, seen: at.server },
      { from: 'internet', address: at.nvaUntrust, seen: at.internet },
      { from: 'far', address: at.nvaUntrust, seen: at.far },
    ];

    test.each(sides)('ping, TCP and UDP from $from', async ({ from, address, seen }) => {
      expect(await ping(bench.lab, from, address)).toMatchObject({ ok: true });
      expect(await ping(bench.lab, from, address, { size: 4000 })).toMatchObject({ ok: true });
      expect(await who(bench.lab, from, address, SERVICE_PORT)).toMatchObject({ remote: seen, local: address });
      expect(await udpExchange(bench.lab, from, address, { port: ECHO_PORT })).toMatchObject({ answered: 20, damaged: 0 });
    });

    test('its own outgoing connections', async () => {
      expect(await who(bench.lab, 'nva', at.far)).toMatchObject({ remote: at.nvaUntrust });
      expect(await who(bench.lab, 'nva', at.server)).toMatchObject({ remote: at.nvaDmz });
      expect(await download(bench.lab, 'nva', at.far, 5_000_000)).toMatchObject({ ok: true });
      expect(await udpExchange(bench.lab, 'nva', at.far)).toMatchObject({ answered: 20, damaged: 0 });
      expect(await ping(bench.lab, 'nva', at.far)).toMatchObject({ ok: true });
    });

    test('both at a time: source NAT, a local service and own connections share the address', async () => {
      const stream = startStream(bench.lab, 'client', at.far);
      await until('lines flow', () => stream.received() > 5);
      const work = await Promise.all([
        ...Array.from({ length: 6 }, () => download(bench.lab, 'client', at.far, 2_000_000)),
        ...Array.from({ length: 6 }, () => download(bench.lab, 'nva', at.far, 2_000_000)),
        ...Array.from({ length: 6 }, () => download(bench.lab, 'internet', at.nvaUntrust, 2_000_000, { port: SERVICE_PORT })),
      ]);
      expect(work.filter((transfer) => !transfer.ok)).toEqual([]);
      const before = stream.received();
      await until('lines still flow', () => stream.received() > before + 5);
      await stream.program.stop();
    });
  });
});
