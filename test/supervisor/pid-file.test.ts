// Process identities and the lock of a run directory: only the very process that was written down counts as alive.
import { spawn, type ChildProcess } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { endProcess, identify, isAlive, readPidFile, takeLock, writePidFile, type ProcessIdentity } from '../../src/supervisor/pid-file.js';
import { makeRunDirectory } from '../engine/fake-addon.js';

const SCRIPT = 'setInterval(() => {}, 1000); /* sluice-test-child */';

async function startChild(script = SCRIPT): Promise<{ child: ChildProcess; identity: ProcessIdentity }> {
  const child = spawn(process.execPath, ['-e', `${script}; console.log('up')`], { stdio: ['ignore', 'pipe', 'inherit'] });
  onTestFinished(() => void child.kill('SIGKILL'));
  await new Promise((resolve) => child.stdout!.once('data', resolve));
  return { child, identity: identify(child.pid!, 'engine', 'sluice-test-child')! };
}

describe('identity', () => {
  test('survives the file', async () => {
    const { identity } = await startChild();
    const { enginePid } = makeRunDirectory();
    writePidFile(enginePid, identity);
    expect(readPidFile(enginePid)).toEqual(identity);
    expect(isAlive(readPidFile(enginePid)!)).toBe(true);
  });

  test('a pid that another process has by now is not it', async () => {
    const { identity } = await startChild();
    expect(isAlive({ ...identity, startTicks: identity.startTicks + 1 })).toBe(false);
    expect(isAlive({ ...identity, bootId: 'another' })).toBe(false);
    expect(isAlive({ ...identity, script: 'something-else' })).toBe(false);
  });

  test('a title counts like the script', async () => {
    const { identity } = await startChild(`process.title = 'sluice: engine'; setInterval(() => {}, 1000); ${' '.repeat(100)}`);
    expect(isAlive({ ...identity, script: 'something-else' })).toBe(true);
    expect(isAlive({ ...identity, role: 'control', script: 'something-else' })).toBe(false);
  });

  test.each(['', 'no json', '{}', '{"pid":1}', '{"pid":-5,"startTicks":1,"bootId":"x","role":"engine","script":"y"}', '{"pid":12,"startTicks":1,"bootId":"x","role":"engine","script":""}'])('a file that holds %j names nobody', (content) => {
    const { enginePid } = makeRunDirectory();
    writeFileSync(enginePid, content);
    expect(readPidFile(enginePid)).toBeUndefined();
  });

  test('ends by SIGTERM, and by SIGKILL when it will not', async () => {
    const polite = await startChild();
    expect(await endProcess(polite.identity, 2000)).toBe(true);
    const stubborn = await startChild(`process.on('SIGTERM', () => {}); ${SCRIPT}`);
    expect(await endProcess(stubborn.identity, 100)).toBe(true);
    expect(isAlive(stubborn.identity)).toBe(false);
  });

  test('a process that only has the pid is left alone', async () => {
    const { child, identity } = await startChild();
    expect(await endProcess({ ...identity, startTicks: 1 }, 100)).toBe(true);
    expect(child.exitCode).toBeNull();
    expect(isAlive(identity)).toBe(true);
  });
});

describe('lock', () => {
  const own = (): ProcessIdentity => identify(process.pid, 'supervisor', 'node')!;

  test('is taken when nobody holds it, and leaves no other file', () => {
    const paths = makeRunDirectory();
    expect(takeLock(paths.supervisorPid, own())).toBeUndefined();
    expect(readPidFile(paths.supervisorPid)?.pid).toBe(process.pid);
    expect(readdirSync(paths.dir)).toEqual(['supervisor.pid']);
  });

  test('a living holder is named', async () => {
    const paths = makeRunDirectory();
    const { identity } = await startChild();
    expect(takeLock(paths.supervisorPid, identity)).toBeUndefined();
    expect(takeLock(paths.supervisorPid, own())).toEqual(identity);
    expect(readPidFile(paths.supervisorPid)).toEqual(identity);
  });

  test.each(['', '{"pid":3999999,"startTicks":1,"bootId":"x","role":"supervisor","script":"y"}'])('a stale one (%j) is replaced', (content) => {
    const paths = makeRunDirectory();
    writeFileSync(paths.supervisorPid, content);
    expect(takeLock(paths.supervisorPid, own())).toBeUndefined();
    expect(readPidFile(paths.supervisorPid)?.pid).toBe(process.pid);
    expect(readdirSync(paths.dir)).toEqual(['supervisor.pid']);
  });

  test('of many that start together over a stale lock, one wins', async () => {
    const paths = makeRunDirectory();
    const module = join(process.cwd(), 'dist/src/supervisor/pid-file.js');
    expect(existsSync(module), 'run the set-up first').toBe(true);
    const go = join(paths.dir, 'go');
    const script = `
      import { existsSync } from 'node:fs';
      import { identify, takeLock } from ${JSON.stringify(module)};
      console.log('up');
      while (!existsSync(${JSON.stringify(go)}));
      const holder = takeLock(${JSON.stringify(paths.supervisorPid)}, identify(process.pid, 'supervisor', 'node'));
      console.log(holder ? 'lost' : 'won');
      setInterval(() => {}, 1000);`;
    for (let round = 0; round < 3; round += 1) {
      writeFileSync(paths.supervisorPid, 'stale');
      const outputs: string[] = [];
      const children = Array.from({ length: 6 }, (_, index) => {
        const child = spawn(process.execPath, ['--input-type=module', '-e', script], { stdio: ['ignore', 'pipe', 'inherit'] });
        outputs[index] = '';
        child.stdout.on('data', (data: Buffer) => { outputs[index] += data.toString(); });
        return child;
      });
      onTestFinished(() => children.forEach((child) => void child.kill('SIGKILL')));
      await expect.poll(() => outputs.every((text) => text.includes('up'))).toBe(true);
      writeFileSync(go, '');
      await expect.poll(() => outputs.every((text) => /won|lost/.test(text))).toBe(true);
      expect(outputs.filter((text) => text.includes('won'))).toHaveLength(1);
      expect(readFileSync(paths.supervisorPid, 'utf8')).toContain(String(children[outputs.findIndex((text) => text.includes('won'))]!.pid));
      await Promise.all(children.map((child) => new Promise((resolve) => { child.once('exit', resolve); child.kill('SIGKILL'); })));
    }
  });
});
