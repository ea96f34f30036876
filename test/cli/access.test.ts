// `sluice token` and `sluice audit` as users call them, against the real access on a real socket.
import { spawn } from 'node:child_process';
import { cpSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { startAccess, temporaryDirectory } from '../api/access-bench.js';

interface Outcome { code: number | null; stdout: string; stderr: string }
const sluice = (...args: string[]): Promise<Outcome> => new Promise((resolve) => {
  const child = spawn(process.execPath, ['bin/sluice', ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (data: Buffer) => { stdout += data.toString(); });
  child.stderr.on('data', (data: Buffer) => { stderr += data.toString(); });
  child.once('close', (code) => resolve({ code, stdout, stderr }));
});

describe('token', () => {
  test('is made, used, listed and revoked', async () => {
    const bench = await startAccess();
    const dir = ['--dir', bench.paths.dir];
    const made = await sluice('token', 'create', 'deploy', '--role', 'operator', '--scope', 'rules', '--scope', 'sessions:read', '--expires', '12h', ...dir);
    expect(made).toMatchObject({ code: 0, stdout: expect.stringMatching(/^sluice_[0-9a-f]{16}_[A-Za-z0-9_-]{43}\n$/) as string, stderr: expect.stringContaining('shown this once') as string });
    expect(made.stderr).not.toContain(made.stdout.trim());
    const headers = { authorization: `Bearer ${made.stdout.trim()}` };
    expect((await bench.socket('/rules', { headers })).status).toBe(200);
    const list = await sluice('token', 'list', ...dir);
    expect(list.stdout).toMatch(/deploy +operator +rules, sessions:read +valid/);
    expect(await sluice('token', 'revoke', 'deploy', ...dir)).toMatchObject({ code: 0, stdout: expect.stringContaining('is revoked') as string });
    expect((await bench.socket('/rules', { headers })).status).toBe(401);
    expect(await sluice('token', 'revoke', 'deploy', ...dir)).toMatchObject({ code: 1, stderr: expect.stringContaining('there is no token') as string });
    expect(await sluice('token', 'create', 'x', '--role', 'viewer', '--scope', 'cake', ...dir)).toMatchObject({ code: 2, stderr: expect.stringContaining('resources are') as string });
  });

  test.each([
    [['create', 'x']], [['create', '--role', 'viewer']], [['create', 'x', '--role', 'king']], [['create', 'x', '--role', 'viewer', '--expires', 'soon']], [['create', 'x', '--role', 'viewer', '--expires', '0d']], [['revoke']], [['fly']],
  ])('%j is wrong usage', async (args) => expect(await sluice('token', ...args)).toMatchObject({ code: 2, stdout: '' }));
});

describe('audit', () => {
  test('is shown, verified, and compared with a head that was noted', async () => {
    const bench = await startAccess();
    await bench.socket('/rules', { method: 'PUT', body: {} });
    const dir = ['--dir', bench.paths.dir];
    expect((await sluice('audit', 'show', ...dir)).stdout).toMatch(/root \(socket, administrator\).* outcome +PUT \/rules +200/);
    const whole = await sluice('audit', 'verify', ...dir);
    expect(whole).toMatchObject({ code: 0, stdout: expect.stringContaining('The audit log is whole: 2 lines, 1 to 2') as string });
    const head = /Head: (\S+)/.exec(whole.stdout)![1]!;
    await bench.socket('/rules', { method: 'PUT', body: {} });
    expect(await sluice('audit', 'verify', '--expect', head, ...dir)).toMatchObject({ code: 0 });
    expect(await sluice('audit', 'verify', '--expect', head.replace(/:./, head.includes(':0') ? ':1' : ':0'), ...dir)).toMatchObject({ code: 1, stdout: expect.stringContaining('another hash') as string });

    const copy = temporaryDirectory();
    cpSync(bench.paths.auditState, copy, { recursive: true });
    const file = join(copy, 'audit.jsonl');
    writeFileSync(file, readFileSync(file, 'utf8').replace('"status":200', '"status":403'));
    expect(await sluice('audit', 'verify', '--directory', copy)).toMatchObject({ code: 1, stdout: expect.stringMatching(/NOT whole[^]*audit\.jsonl:2: line 2 was changed/) as string });
    const json = JSON.parse((await sluice('audit', 'verify', '--json', '--directory', copy)).stdout) as object;
    expect(json).toMatchObject({ isWhole: false, problems: [{ kind: 'altered', sequence: 2 }] });
  });

  test('says what is missing', async () => {
    expect(await sluice('audit', 'verify', '--directory', '/nowhere')).toMatchObject({ code: 1, stderr: expect.stringContaining('/nowhere holds no audit log') as string });
    expect(await sluice('audit', 'verify', '--dir', '/tmp/sluice-nobody-is-here')).toMatchObject({ code: 1, stderr: expect.stringContaining('no appliance runs') as string });
    expect(await sluice('audit', 'verify', '--expect', 'x')).toMatchObject({ code: 2 });
  });
});
