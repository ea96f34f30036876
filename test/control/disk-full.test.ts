// A state directory whose disk is full: commits are refused with a clear error, what runs goes on, and it works again once there is room.
// On a file system of its own, a megabyte large. Needs root.
import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, rmSync, statfsSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { findMissing } from '../../src/control/status.js';
import { Control } from '../../src/control/control.js';
import { Transactions, type Author } from '../../src/control/transactions.js';
import { silentLog } from '../engine/fake-addon.js';
import { CONFIG, startBench } from './bench.js';

const ann: Author = { name: 'ann', via: 'socket' };

test.skipIf(process.getuid?.() !== 0)('disk full', async () => {
  const bench = await startBench();
  await expect.poll(() => findMissing(bench.control)).toEqual([]);
  const directory = join(bench.paths.dir, 'small');
  mkdirSync(directory);
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', directory]);
  onTestFinished(() => void execFileSync('umount', ['--lazy', directory]));
  bench.control.stop();

  const transactions = new Transactions(directory, silentLog);
  const control = new Control(bench.paths.engineSocket, (facts, generation, slots) => transactions.compileRunning(facts, generation, slots), silentLog);
  onTestFinished(() => {
    transactions.stop();
    control.stop();
  });
  await transactions.start(control, CONFIG);
  control.start();
  await expect.poll(() => findMissing(control)).toEqual([]);

  const filler = join(directory, 'filler');
  const { bavail, bsize } = statfsSync(directory);
  writeFileSync(filler, Buffer.alloc(bavail * bsize));
  const before = bench.addon.calls.length;
  const files = readdirSync(directory);
  const next = CONFIG.replace('telnet', 'old-telnet');
  for (const text of [next, `${next}${'# a comment\n'.repeat(50_000)}`]) {
    await expect(transactions.commit({ text, by: ann })).rejects.toMatchObject({ status: 507, code: 'SLUICE_STATE_DISK', message: expect.stringContaining('is full; nothing was changed') as string });
  }
  expect(bench.addon.calls.slice(before)).toEqual([]); // refused before the engine heard of it
  expect(readdirSync(directory)).toEqual(files);
  expect(transactions.running).toMatchObject({ revision: 1, text: CONFIG });
  expect(control.applied!.compiled.rules.map(({ name }) => name)).toContain('telnet');

  // Room for the revision and not for the pointer: found out when the engine has it, and taken back there.
  truncateSync(filler, (bavail - 1) * bsize);
  await expect(transactions.commit({ text: next, by: ann })).rejects.toMatchObject({ code: 'SLUICE_STATE_DISK' });
  expect(bench.addon.calls.slice(before)).toEqual(['apply 3', 'apply 4']);
  expect(control.applied!.compiled.rules.map(({ name }) => name)).toContain('telnet');
  expect(readdirSync(directory)).toEqual(files);
  expect(new Transactions(directory, silentLog).damage).toEqual([]);

  rmSync(filler);
  expect(await transactions.commit({ text: next, by: ann })).toMatchObject({ revision: 2 });
  expect(new Transactions(directory, silentLog).damage).toEqual([]);
});
