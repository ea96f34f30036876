// An appliance without traffic sleeps; and who goes first when there is some.

import { readdirSync, readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { pause } from '../../lab/until.js';
import { who } from '../../lab/traffic.js';
import { ADDRESSES } from '../../lab/topology.js';
import { describeNetns, useLab } from './fixture.js';

const WINDOW_MS = 5_000;
const TICKS_PER_SECOND = 100; // USER_HZ, the same on each architecture Debian has
const CORE_SHARE_MAX = 0.02;

describeNetns('idle', () => {
  const bench = useLab();

  function ticks(pid: number): number {
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8')
      .replace(/^.*\) /s, '')
      .split(' ');
    return Number(fields[11]) + Number(fields[12]);
  }

  test('the engine costs under 2 % of a core', async () => {
    await who(bench.lab, 'client', ADDRESSES.IPv4.far); // it has worked before
    const engine = bench.appliance.pid('engine')!;
    const shares: number[] = [];
    // The window is what is measured. A connection's timers may fall into the first one, hence a second.
    for (let round = 0; round < 2 && !(Math.min(...shares) < CORE_SHARE_MAX); round++) {
      const before = ticks(engine);
      await pause(WINDOW_MS);
      shares.push((ticks(engine) - before) / TICKS_PER_SECOND / (WINDOW_MS / 1000));
    }
    expect(Math.min(...shares)).toBeLessThan(CORE_SHARE_MAX);
  });

  test('workers go before others, control after them', () => {
    const nicenessOf = (role: 'engine' | 'control'): Record<string, number[]> => {
      const threads: Record<string, Set<number>> = {};
      for (const thread of readdirSync(`/proc/${bench.appliance.pid(role)}/task`)) {
        const [, name, rest] = /\((.*)\) (.*)/.exec(readFileSync(`/proc/${bench.appliance.pid(role)}/task/${thread}/stat`, 'utf8'))!;
        (threads[name!.startsWith('sl-worker-') ? 'workers' : 'others'] ??= new Set()).add(Number(rest!.split(' ')[16]));
      }
      return Object.fromEntries(Object.entries(threads).map(([who, values]) => [who, [...values]]));
    };
    expect(nicenessOf('engine')).toEqual({ workers: [-5], others: [0] });
    expect(nicenessOf('control')).toEqual({ others: [5] });
  });
});
