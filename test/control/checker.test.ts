// Configurations that somebody only asks about are examined beside control: its thread goes on, whatever the text costs.
import { spawn } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { ApiClient } from '../../src/api/client.js';
import type { StatusView } from '../../src/control/status.js';
import type * as CheckerModule from '../../src/control/checker.js';
import { until } from '../../lab/until.js';
import { makeRunDirectory, silentLog } from '../engine/fake-addon.js';
import { CONFIG } from './bench.js';

const BUILT = join(process.cwd(), 'dist/src/control'); // a thread runs what was built
/** Many small rules: of all texts of its size nearly the dearest. */
const dense = (rules: number): string => `version: 1\nfirewall:\n  rules:\n${Array.from({ length: rules }, (_, n) => `  - {name: r${n}, service: [tcp/${n + 1}, udp/${n + 1}, tcp/1-${n + 2}], action: deny}\n`).join('')}`;

describe('the thread that checks', () => {
  async function startChecker(): Promise<CheckerModule.Checker> {
    if (!existsSync(BUILT)) throw new Error(`${BUILT} is not built: run npm run setup`);
    const { Checker } = await import(join(BUILT, 'checker.js')) as typeof CheckerModule;
    const checker = new Checker(silentLog);
    onTestFinished(() => checker.stop());
    await checker.start();
    return checker;
  }

  test('leaves the one that asks to others', async () => {
    const checker = await startChecker();
    let turns = 0;
    const answer = checker.check(dense(1000), undefined);
    let isAnswered = false;
    void answer.then(() => { isAnswered = true; });
    while (!isAnswered) await new Promise((resolve) => setImmediate(() => resolve(turns += 1)));
    expect(turns).toBeGreaterThan(10); // one, were it done here
    expect(await answer).toMatchObject({ isValid: true });
  }, 60_000);

  test('answers each its own', async () => {
    const checker = await startChecker();
    const answers = await Promise.all([CONFIG, CONFIG.replace('untrust: {', 'untrust: { colour: red,'), 'version: 1\nversion: 1\n', CONFIG].map((text) => checker.check(text, undefined)));
    expect(answers.map(({ isValid }) => isValid)).toEqual([true, false, false, true]);
    expect(answers.map(({ problems }) => problems[0]?.code)).toEqual([undefined, 'SLUICE_CONFIG_UNKNOWN_KEY', 'SLUICE_CONFIG_DUPLICATE_KEY', undefined]);
  });

  test('that breaks off says so to whoever waits, and is there for the next one', async () => {
    const checker = await startChecker();
    const refused = expect(checker.check(dense(1000), undefined)).rejects.toMatchObject({ status: 503 });
    await checker.stop();
    await refused;
    expect((await checker.check(CONFIG, undefined)).isValid).toBe(true);
  });
});

test('a viewer\'s dense text costs control\'s own thread little of what it costs', async () => {
  const { dir, apiSocket, runningConfig } = makeRunDirectory();
  writeFileSync(runningConfig, CONFIG);
  const control = spawn(process.execPath, [join(BUILT, 'main.js'), JSON.stringify({ dir })], { stdio: 'ignore' });
  onTestFinished(async () => {
    const gone = new Promise((resolve) => control.once('exit', resolve));
    control.kill('SIGTERM');
    await gone;
  });
  const client = new ApiClient(apiSocket);
  await until('the API answers', async () => await client.get<StatusView>('/api/v1/status'), { intervalMs: 25, deadlineMs: 45_000 });
  const tasks = `/proc/${control.pid}/task`;
  const fieldOf = (thread: string, field: number): number => Number(readFileSync(`${tasks}/${thread}/stat`, 'utf8').replace(/^.*\) /s, '').split(' ')[field - 3]);
  // proc_pid_stat(5): 14 and 15 CPU time in ticks, 19 the niceness.
  const costOf = (thread: string): number => fieldOf(thread, 14) + fieldOf(thread, 15);
  const check = (text: string) => client.post<{ problems: unknown[]; valid: boolean }>('/api/v1/config/check', { text });
  expect(await check(CONFIG)).toMatchObject({ running: 1 });
  const main = String(control.pid);
  const checking = await until('there is a thread that goes after control', () => Promise.resolve(readdirSync(tasks).find((thread) => fieldOf(thread, 19) > fieldOf(main, 19))));
  const before = [costOf(checking), costOf(main)] as const;
  expect(await check(dense(6000))).toMatchObject({ valid: true });
  const [ofCheck, ofControl] = [costOf(checking) - before[0], costOf(main) - before[1]];
  expect(ofControl).toBeLessThan(ofCheck / 2);
}, 90_000);
