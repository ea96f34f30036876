// A child of the supervisor: restarted when it dies, not when it says that this is no use, ended within its time.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, onTestFinished, test, vi } from 'vitest';
import { FATAL_EXIT_CODE, ManagedChild } from '../../src/supervisor/child.js';
import { createLog } from '../../src/supervisor/log.js';
import { isAlive, readPidFile } from '../../src/supervisor/pid-file.js';
import { makeRunDirectory } from '../engine/fake-addon.js';

interface Managed { child: ManagedChild; lines: string[]; logged: string[]; fatal: string[]; pidFile: string }

function manage(script: string, niceness?: number, isTold = false): Managed {
  const paths = makeRunDirectory();
  const lines: string[] = [];
  const logged: string[] = [];
  const fatal: string[] = [];
  const child = new ManagedChild({
    role: 'engine', script: 'sluice-test-child', pidFile: paths.enginePid, logFile: paths.engineLog,
    command: [process.execPath, '-e', `/* sluice-test-child */ ${script}`], isTold, ...(niceness === undefined ? {} : { niceness }),
  }, createLog('test', (line) => logged.push(line)), (line) => lines.push(line), (role) => fatal.push(role));
  onTestFinished(() => child.stop(100));
  return { child, lines, logged, fatal, pidFile: paths.enginePid };
}

const LIVE = "console.error('up ' + process.pid); setInterval(() => {}, 1000);";

describe('a child', () => {
  test('is written down, heard, and ended', async () => {
    const { child, lines, pidFile } = manage(LIVE);
    child.start();
    await expect.poll(() => lines.length).toBe(1);
    const identity = readPidFile(pidFile)!;
    expect(identity.pid).toBe(child.pid);
    expect(isAlive(identity)).toBe(true);
    await child.stop();
    expect(isAlive(identity)).toBe(false);
    expect(readPidFile(pidFile)).toBeUndefined();
    expect(child.restarts).toBe(0);
  });

  test('that gives way does so with each of its threads', async () => {
    const threads = "console.error([...new Set(fs.readdirSync('/proc/self/task').map((id) => fs.readFileSync('/proc/self/task/' + id + '/stat', 'utf8').split(') ')[1].split(' ')[16]))].join());";
    const { child, lines } = manage(`${threads} ${LIVE}`, 7);
    child.start();
    await expect.poll(() => lines.length).toBe(2);
    expect(lines[0]).toContain(`"msg":"7"`);
  });

  test('that is told lines gets those of before its start, and of the time that it was away: the newest', async () => {
    const { child, lines } = manage("require('node:readline').createInterface(process.stdin).on('line', (line) => line === 'end' ? process.exit(1) : console.error('told ' + line));", undefined, true);
    child.tell('early\n');
    child.start();
    const told = (): string[] => lines.map((line) => (JSON.parse(line) as { msg: string }).msg).filter((text) => text.startsWith('told ')).map((text) => text.slice(5));
    await expect.poll(told).toEqual(['early']);
    child.tell('end\n');
    await expect.poll(() => child.pid, { interval: 1 }).toBeUndefined();
    for (let n = 0; n < 1002; n += 1) child.tell(`${n}\n`);
    await expect.poll(() => told().length).toBe(1002);
    expect(told()[1]).toContain('2 log lines were not passed on');
    expect([told()[2], told().at(-1)]).toEqual(['2', '1001']);
  });

  test('that is killed comes back, with another pid in its file', async () => {
    const { child, lines, pidFile } = manage(LIVE);
    child.start();
    await expect.poll(() => lines.length).toBe(1);
    const first = child.pid!;
    process.kill(first, 'SIGKILL');
    await expect.poll(() => lines.length).toBe(2);
    expect(child.restarts).toBe(1);
    expect(readPidFile(pidFile)!.pid).not.toBe(first);
  });

  test('that dies again and again comes back more and more slowly', async () => {
    const { child, logged } = manage('process.exit(1)');
    child.start();
    await expect.poll(() => child.restarts).toBeGreaterThanOrEqual(4);
    expect(logged.slice(0, 4).map((line) => (JSON.parse(line) as { restartMs: number }).restartMs)).toEqual([100, 200, 400, 800]);
  });

  test('that ran well before it was killed comes back at once; then slowly again', async () => {
    const { child, lines, logged } = manage(LIVE);
    let aheadMs = 0;
    const now = performance.now.bind(performance);
    const clock = vi.spyOn(performance, 'now').mockImplementation(() => now() + aheadMs);
    onTestFinished(() => clock.mockRestore());
    child.start();
    await expect.poll(() => lines.length).toBe(1);
    aheadMs = 11_000;
    const first = child.pid!;
    process.kill(first, 'SIGKILL');
    await expect.poll(() => lines.length).toBe(2);
    process.kill(child.pid!, 'SIGKILL');
    await expect.poll(() => lines.length).toBe(3);
    expect(logged.map((line) => (JSON.parse(line) as { restartMs: number }).restartMs)).toEqual([0, 100]);
  });

  test('with a fault that no restart cures is not started again', async () => {
    const { child, fatal } = manage(`process.exit(${FATAL_EXIT_CODE})`);
    child.start();
    await expect.poll(() => fatal).toEqual(['engine']);
    expect(child.restarts).toBe(0);
  });

  test('that ignores SIGTERM is killed after its grace', async () => {
    const { child, lines } = manage(`process.on('SIGTERM', () => {}); ${LIVE}`);
    child.start();
    await expect.poll(() => lines.length).toBe(1);
    const { pid } = child;
    await child.stop(100);
    expect(() => process.kill(pid!, 0)).toThrow();
  });

  test('a program that does not exist is tried again, not a crash', async () => {
    const paths = makeRunDirectory();
    const child = new ManagedChild({ role: 'engine', script: 'x', pidFile: paths.enginePid, logFile: join(paths.dir, 'log'), command: ['/nonexistent/program'] }, createLog('test', () => undefined), () => undefined, () => undefined);
    child.start();
    await expect.poll(() => child.restarts).toBeGreaterThan(0);
    await child.stop();
    expect(readFileSync(join(paths.dir, 'log'), 'utf8')).toBe('');
  });
});
