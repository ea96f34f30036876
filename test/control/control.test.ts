// Control over the engine's socket: the engine comes to what configuration and machine ask for, and back to it after anything.
import { describe, expect, test } from 'vitest';
import { findMissing } from '../../src/control/status.js';
import { CONFIG, makeDrop, makeFlow, startBench, type ControlBench } from './bench.js';

const ready = (bench: ControlBench): Promise<void> => expect.poll(() => findMissing(bench.control)).toEqual([]);

describe('control', () => {
  test('configures ports, then applies', async () => {
    const bench = await startBench();
    await ready(bench);
    expect(bench.addon.calls).toEqual(['open', 'addPort eth1 slot 0', 'addPort eth2 slot 1', 'apply 1']);
    expect([...bench.addon.ports.values()]).toMatchObject([{ name: 'eth1', ifindex: 2, queues: 1, mode: 'native', partialChecksums: true }, { name: 'eth2' }]);
  });

  test('applies again when the machine changed, and not when nothing that matters did', async () => {
    const bench = await startBench();
    await ready(bench);
    bench.addon.emit({ type: 'links-changed' });
    bench.facts.devices[1]!.ifindex = 30;
    await expect.poll(() => bench.addon.calls.at(-1)).toBe('apply 2');
    await expect.poll(() => bench.control.applied?.generation).toBe(2); // its answer came
    expect(bench.addon.calls).toContain('addPort eth2 slot 1');
    const { length } = bench.addon.calls;
    const { at } = bench.control.applied!;
    bench.facts.carriers = ['eth1'];
    bench.addon.emit({ type: 'links-changed' });
    await expect.poll(() => bench.control.facts?.carriers).toEqual(['eth1']);
    expect(bench.addon.calls).toHaveLength(length);
    expect(bench.control.applied!.at).toBe(at);
  });

  test('connects to a restarted engine and applies a later generation', async () => {
    const bench = await startBench();
    await ready(bench);
    await bench.restartEngine();
    expect(bench.addon.calls).toContain('apply 1'); // restored by the engine itself
    await expect.poll(() => bench.control.engine.isConnected).toBe(true);
    await ready(bench);
    expect(bench.host.status().generation).toBeGreaterThanOrEqual(1);
  });

  test('a changed file is taken over; a broken one, or the same one again, changes nothing', async () => {
    const bench = await startBench();
    await ready(bench);
    await expect(bench.transactions.takeFile(CONFIG.replace('action: reject', 'action: rejekt'))).rejects.toMatchObject({ code: 'SLUICE_CONFIG_INVALID' });
    expect(bench.addon.calls.at(-1)).toBe('apply 1');
    const changed = CONFIG.replace('name: telnet', 'name: old-telnet');
    expect(await bench.transactions.takeFile(changed)).toMatchObject({ revision: 2 });
    expect(bench.addon.calls.at(-1)).toBe('apply 2');
    await ready(bench);
    expect(bench.control.failure).toBeUndefined();
    expect(bench.control.applied!.compiled.rules.map((rule) => rule.name)).toEqual(['outbound', 'old-telnet', 'egress']);
    expect(await bench.transactions.takeFile(changed)).toBeUndefined();
    expect(bench.transactions.history().map((one) => one.by.via)).toEqual(['file', 'file']);
  });

  test('what the engine refuses is told, and tried again', async () => {
    const bench = await startBench();
    bench.addon.refusePort = Object.assign(new Error('eth1: another program is attached'), { code: 'SLUICE_PORT' });
    await expect.poll(() => bench.control.failure).toMatchObject({ code: 'SLUICE_PORT', message: 'eth1: another program is attached' });
    expect(findMissing(bench.control)).toContain('eth1: another program is attached');
    bench.addon.refusePort = undefined;
    await ready(bench);
  });

  test('a firewall that somebody loads meanwhile is noticed', async () => {
    const bench = await startBench();
    await ready(bench);
    bench.facts.conflicts = [{ kind: 'nftables-forward', name: 'inet guard f' }];
    bench.addon.emit({ type: 'links-changed' });
    await expect.poll(() => bench.control.obstacles).toMatchObject([{ code: 'SLUICE_FOREIGN_FIREWALL' }]);
    expect(findMissing(bench.control)).toEqual([]);
  });

  test('keeps records and decodes them with names', async () => {
    const bench = await startBench();
    await ready(bench);
    bench.addon.pendingRecords = { flows: [makeFlow()], drops: [makeDrop(), makeDrop()] };
    await expect.poll(() => [bench.control.flows.last, bench.control.drops.last]).toEqual([1, 2]);
  });
});
