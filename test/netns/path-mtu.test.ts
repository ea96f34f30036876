// Path MTU discovery and fragments through NAT, both families and directions: the errors are translated with the packets
// they quote, and a changed MTU counts from the next packet on.

import { afterEach, describe, expect, test } from 'vitest';
import { ADDRESSES, FAMILIES, type Family } from '../../lab/topology.js';
import { download, ping, udpExchange, upload } from '../../lab/traffic.js';
import { until } from '../../lab/until.js';
import { describeNetns, useLab } from './fixture.js';

const TRANSFER_BYTES = 3_000_000;
/** Bytes of a ping's payload that make a packet of `mtu` bytes. */
const payload = (family: Family, mtu: number): number => mtu - (family === 'IPv4' ? 28 : 48);

describeNetns('path MTU', () => {
  const bench = useLab();

  /** What a host has learnt about the path to an address, 1500 when nothing. */
  function learntMtu(node: string, address: string): number {
    const [route] = bench.lab.ipJson<{ metrics?: { mtu?: number }[]; mtu?: number }>(node, 'route', 'get', address);
    return route?.metrics?.[0]?.mtu ?? route?.mtu ?? 1500;
  }

  function forgetPaths(): void {
    for (const node of ['client', 'server', 'internet', 'far']) {
      for (const family of ['-4', '-6']) bench.lab.runSync(node, ['ip', family, 'route', 'flush', 'cache']);
    }
  }

  afterEach(() => {
    bench.lab.ip('nva', ...['eth0', 'eth1', 'eth2'].map((device) => `link set ${device} mtu 1500`));
    bench.lab.ip('internet', 'link set eth0 mtu 1500', 'link set eth1 mtu 1500');
    bench.lab.ip('far', 'link set eth0 mtu 1500');
    forgetPaths();
  });

  describe.each(FAMILIES)('%s', (family) => {
    const at = ADDRESSES[family];

    test("a router beyond the NAT: its error reaches the client's socket", async () => {
      bench.lab.ip('internet', 'link set eth1 mtu 1300');
      expect(await upload(bench.lab, 'client', at.far, TRANSFER_BYTES)).toMatchObject({ ok: true });
      expect(learntMtu('client', at.far)).toBe(1300);
    });

    test('a router beyond the NAT: large UDP datagrams and pings are told, too', async () => {
      bench.lab.ip('internet', 'link set eth1 mtu 1300');
      const told = await ping(bench.lab, 'client', at.far, { count: 1, size: payload(family, 1500), extra: ['-M', 'do'] });
      expect(told.output).toMatch(/mtu ?= ?1300/);
      forgetPaths();
      bench.lab.ip('far', 'link set eth0 mtu 1300'); // its answers are as large
      const exchange = await udpExchange(bench.lab, 'client', at.far, { count: 3, size: payload(family, 1500) });
      expect(exchange).toMatchObject({ answered: 3, damaged: 0 });
      expect(learntMtu('client', at.far)).toBe(1300);
    });

    test('the appliance itself: a smaller MTU of its egress, changed while it runs', async () => {
      bench.lab.ip('nva', 'link set eth0 mtu 1400');
      expect(await upload(bench.lab, 'client', at.far, TRANSFER_BYTES)).toMatchObject({ ok: true });
      expect(learntMtu('client', at.far)).toBe(1400);
    });

    test('the appliance itself, towards inside: the error reaches the outside host, and quotes what that host sent', async () => {
      bench.lab.ip('nva', 'link set eth1 mtu 1400');
      expect(await download(bench.lab, 'client', at.far, TRANSFER_BYTES)).toMatchObject({ ok: true });
      expect(learntMtu('far', at.nvaUntrust)).toBe(1400);
    });

    test('destination NAT: the outside client is told about the inside path', async () => {
      bench.lab.ip('nva', 'link set eth2 mtu 1400');
      expect(await upload(bench.lab, 'internet', at.nvaUntrust, TRANSFER_BYTES, 8443)).toMatchObject({ ok: true });
      expect(learntMtu('internet', at.nvaUntrust)).toBe(1400);
    });

    test('an MTU raised while the appliance runs', async () => {
      const full = { count: 1, size: payload(family, 1500), extra: ['-M', 'do'] };
      bench.lab.ip('nva', 'link set eth0 mtu 1400');
      await until('the smaller MTU counts', async () => /mtu ?= ?1400/.test((await ping(bench.lab, 'client', at.far, full)).output));
      bench.lab.ip('nva', 'link set eth0 mtu 1500');
      await until('the larger MTU counts', async () => {
        forgetPaths();
        return (await ping(bench.lab, 'client', at.far, full)).ok;
      });
    });

    test('fragments pass source NAT in both directions', async () => {
      expect(await ping(bench.lab, 'client', at.far, { size: 4000 })).toMatchObject({ ok: true });
      expect(await udpExchange(bench.lab, 'client', at.far, { count: 10, size: 8000 })).toMatchObject({ answered: 10, damaged: 0 });
    });

    test('fragments pass 1:1 NAT and pass without NAT', async () => {
      expect(await ping(bench.lab, 'internet', at.mailOutside, { size: 4000 })).toMatchObject({ ok: true });
      expect(await ping(bench.lab, 'client', at.server, { size: 4000 })).toMatchObject({ ok: true });
      expect(await udpExchange(bench.lab, 'client', at.server, { count: 10, size: 8000 })).toMatchObject({ answered: 10, damaged: 0 });
    });
  });

  test('IPv4 without DF: the appliance fragments for a smaller egress', async () => {
    bench.lab.ip('nva', 'link set eth0 mtu 1400');
    bench.lab.ip('internet', 'link set eth0 mtu 1400'); // its answers are as large
    const plain = { count: 2, size: payload('IPv4', 1500), extra: ['-M', 'dont'] };
    expect(await ping(bench.lab, 'client', ADDRESSES.IPv4.far, plain)).toMatchObject({ ok: true });
  });
});
