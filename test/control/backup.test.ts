// Backup and restore through the API: one file, of no use without its passphrase or with any byte changed; back on another appliance.
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { openBackup, readKeys, sealBackup, writeKeys, type Backup } from '../../src/control/store-backup.js';
import { findMissing } from '../../src/control/status.js';
import { makeRunDirectory } from '../engine/fake-addon.js';
import { CONFIG, startBench, type ControlBench } from './bench.js';

const PASSPHRASE = 'correct horse battery staple';
const backup: Backup = { made: '2026-01-01T00:00:00Z', hostname: 'nva-1', revision: 3, text: 'version: 1\n', keys: { 'tokens.json': 'e30=', 'tls/ca.key': 'AAEC' } };

describe('the file', () => {
  test('opens with its passphrase, whole; holds nothing in the clear', async () => {
    const file = await sealBackup(backup, PASSPHRASE);
    expect(await openBackup(file, PASSPHRASE)).toEqual(backup);
    expect(file.includes('version: 1') || file.includes('tokens.json') || file.includes('nva-1')).toBe(false);
    expect(file.equals(await sealBackup(backup, PASSPHRASE))).toBe(false);
  });

  test('another passphrase, or a byte changed anywhere', async () => {
    const file = await sealBackup(backup, PASSPHRASE);
    await expect(openBackup(file, `${PASSPHRASE} `)).rejects.toMatchObject({ code: 'SLUICE_BACKUP_PASSPHRASE' });
    const head = file.indexOf('\n', 20);
    for (const at of [0, 10, 30, head - 10, head + 5, file.length - 20, file.length - 1]) {
      const changed = Buffer.from(file);
      changed[at]! ^= 0x01;
      await expect(openBackup(changed, PASSPHRASE), String(at)).rejects.toMatchObject({ code: expect.stringMatching(/^SLUICE_BACKUP_/) as string });
    }
    for (const length of [0, 5, 20, head, head + 10, file.length - 1]) await expect(openBackup(file.subarray(0, length), PASSPHRASE), String(length)).rejects.toMatchObject({ code: expect.stringMatching(/^SLUICE_BACKUP_/) as string });
  });

  test('parameters that would cost more than a backup does are refused before they cost', async () => {
    const file = Buffer.from(`sluice backup 1\n${JSON.stringify({ kdf: 'scrypt', N: 2 ** 30, r: 8, p: 1, salt: Buffer.alloc(32).toString('base64'), nonce: Buffer.alloc(12).toString('base64') })}\n${'x'.repeat(64)}`);
    await expect(openBackup(file, PASSPHRASE)).rejects.toMatchObject({ code: 'SLUICE_BACKUP_FORMAT' });
  });

  test.each(['../escape', '/etc/passwd', 'a//b', '.hidden', 'a/../../b', ''])('a path that leads out: %s', async (path) => {
    await expect(openBackup(await sealBackup({ ...backup, keys: { [path]: '' } }, PASSPHRASE), PASSPHRASE)).rejects.toMatchObject({ code: 'SLUICE_BACKUP_FORMAT' });
  });

  test('keys are read and written as they are', () => {
    const { apiState } = makeRunDirectory();
    writeKeys(apiState, backup.keys);
    expect(readKeys(apiState)).toEqual(backup.keys);
  });
});

describe('restore', () => {
  const post = async (bench: ControlBench, url: string, payload: object): Promise<{ status: number; body: Record<string, unknown> }> => {
    const answer = await bench.api.inject({ method: 'POST', url, payload });
    const body = answer.json<Record<string, unknown>>();
    return answer.statusCode === 202 ? outcome(bench, answer.headers.location as string) : { status: answer.statusCode, body };
  };
  // Of what a busy machine did not do within the time that a request has.
  const outcome = async (bench: ControlBench, url: string): Promise<{ status: number; body: Record<string, unknown> }> => {
    for (;;) {
      const operation = (await bench.api.inject({ url })).json<{ state: string; result?: Record<string, unknown>; problem?: { status: number } & Record<string, unknown> }>();
      if (operation.state === 'done') return { status: 200, body: operation.result! };
      if (operation.state !== 'running') return { status: operation.problem!.status, body: operation.problem! };
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  };
  const ready = (bench: ControlBench): Promise<void> => expect.poll(() => findMissing(bench.control)).toEqual([]);

  test('on another appliance: its configuration in force as a revision, its keys in place', async () => {
    const one = await startBench(CONFIG.replace('telnet', 'old-telnet'));
    await ready(one);
    mkdirSync(join(one.paths.apiState, 'tls'), { recursive: true });
    writeFileSync(join(one.paths.apiState, 'tls', 'ca.key'), 'a key');
    const { status, body } = await post(one, '/api/v1/backup', { passphrase: PASSPHRASE });
    expect({ status, body }).toMatchObject({ status: 200, body: { revision: 1, keys: 1 } });

    const other = await startBench();
    await ready(other);
    let restarts = 0;
    other.transactions.onKeysRestored = () => { restarts += 1; };
    expect(await post(other, '/api/v1/restore', { passphrase: 'another passphrase', data: body['data'] })).toMatchObject({ status: 403 });
    expect(await post(other, '/api/v1/restore', { passphrase: PASSPHRASE, data: body['data'], dryRun: true })).toMatchObject({ status: 200, body: { commit: { changeCount: 2 } } });
    expect(other.transactions.running).toMatchObject({ revision: 1, text: CONFIG });
    expect(await post(other, '/api/v1/restore', { passphrase: PASSPHRASE, data: body['data'] })).toMatchObject({ status: 200, body: { revision: 1, keys: 1, commit: { revision: 2 } } });
    expect(other.transactions.running.text).toBe(one.transactions.running.text);
    expect(other.control.applied!.compiled.rules.map(({ name }) => name)).toContain('old-telnet');
    expect(readFileSync(join(other.paths.apiState, 'tls', 'ca.key'), 'utf8')).toBe('a key');
    await expect.poll(() => restarts).toBe(1);
  });

  test('of a configuration that this machine cannot carry out: refused, keys as before', async () => {
    const bench = await startBench();
    await ready(bench);
    const file = await sealBackup({ ...backup, text: CONFIG.replace('eth2', 'eth9') }, PASSPHRASE);
    expect(await post(bench, '/api/v1/restore', { passphrase: PASSPHRASE, data: file.toString('base64') })).toMatchObject({ status: 422 });
    expect(bench.transactions.running.revision).toBe(1);
  });
});
