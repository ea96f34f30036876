// A changed policy under load: what it still allows goes on, what it no longer allows ends, a refused one changes nothing.

import { readFileSync, writeFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { ADDRESSES, CONFIG, FAMILIES } from '../../lab/topology.js';
import { startStream, tcpConnect, who } from '../../lab/traffic.js';
import { until } from '../../lab/until.js';
import { describeNetns, useLab } from './fixture.js';

const POLICY = readFileSync(CONFIG, 'utf8');

describeNetns('reload', () => {
  const bench = useLab({ appliance: { configText: POLICY } });

  const generation = async (): Promise<number> => (await bench.appliance.json<{ generation: number }>('status')).generation;

  function reload(text: string): void {
    writeFileSync(bench.appliance.config, text);
    bench.appliance.program!.kill('SIGHUP');
  }

  async function reloaded(text: string): Promise<void> {
    const before = await generation();
    reload(text);
    await until('the new policy is in force', async () => (await generation()) > before);
  }

  describe.each(FAMILIES)('%s', (family) => {
    const at = ADDRESSES[family];

    test('allowed connections go on, forbidden ones end', async () => {
      const kept = startStream(bench.lab, 'client', at.far);
      const ended = startStream(bench.lab, 'client', at.server);
      await until('lines flow', () => kept.received() > 5 && ended.received() > 5);

      await reloaded(POLICY.replace(/^ *- { name: internal,.*\n/m, ''));
      const before = kept.received();
      await until('the allowed connection goes on', () => kept.received() > before + 20);
      let last = -1;
      await until('the forbidden connection stands still', () => last === (last = ended.received()), { intervalMs: 1000 });
      expect(await tcpConnect(bench.lab, 'client', at.server, 80, { timeoutMs: 1000 })).toMatchObject({ result: 'timeout' });

      await reloaded(POLICY);
      expect(await who(bench.lab, 'client', at.server)).toMatchObject({ remote: at.client });
      await kept.program.stop();
      await ended.program.stop();
    });
  });

  test('a refused configuration leaves the one in force', async () => {
    const before = await generation();
    reload(POLICY.replace('action: reject', 'action: rejekt'));
    await bench.appliance.program!.waitForOutput(/rejekt/);
    expect(await who(bench.lab, 'client', ADDRESSES.IPv4.far)).toMatchObject({ remote: ADDRESSES.IPv4.nvaUntrust });
    expect(await generation()).toBe(before);
  });
});
