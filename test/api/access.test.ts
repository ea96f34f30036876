// Who may what, over a real Unix socket and with real tokens: principals, roles, scopes, limits, audit.
import { spawn } from 'node:child_process';
import { chmodSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fastify } from 'fastify';
import { afterAll, describe, expect, onTestFinished, test, vi } from 'vitest';
import { Buckets, AccessLimits } from '../../src/api/access-limits.js';
import { Accounts, roleOfPeer, type PeerCredentials } from '../../src/api/access-peer.js';
import { protectRoutes, scopesAllow } from '../../src/api/access.js';
import { localAccess } from './local-access.js';
import { TOKENS_MAX, TokenStore } from '../../src/api/tokens.js';
import { verifyAudit } from '../../src/audit/read.js';
import { silentLog } from '../engine/fake-addon.js';
import { startAccess, temporaryDirectory } from './access-bench.js';

const peer = (uid: number, ...groups: number[]): PeerCredentials => ({ pid: 1, uid, gid: groups[0] ?? uid, groups });

describe('routes', () => {
  const add = (config: object | undefined, method: 'GET' | 'POST' = 'GET') => () => {
    const api = fastify();
    protectRoutes(api, localAccess(silentLog));
    api.route({ method, url: '/x', ...(config ? { config } : {}), handler: () => ({}) });
  };
  test('say who may use them, or the start ends', () => {
    expect(add(undefined)).toThrow(/GET \/x does not say who may use it/);
    expect(add({ role: 'viewer' })).toThrow(/does not say/);
    expect(add({ resource: 'x' })).toThrow(/does not say/);
    expect(add({ role: 'king', resource: 'x' })).toThrow(/no role/);
    expect(add({ role: 'viewer', resource: 'X Y' })).toThrow(/name of a resource/);
    expect(add({ role: 'viewer', resource: 'x' })).not.toThrow();
  });
  test('do not let a viewer change anything', () => {
    expect(add({ role: 'viewer', resource: 'x' }, 'POST')).toThrow(/must not/);
    expect(add({ role: 'public', resource: 'x' }, 'POST')).toThrow(/must not/);
    expect(add({ role: 'viewer', resource: 'x', audit: false }, 'POST')).not.toThrow();
    expect(add({ role: 'operator', resource: 'x' }, 'POST')).not.toThrow();
  });
});

describe('the Unix socket', () => {
  test('the kernel says who comes', async () => {
    const bench = await startAccess();
    const { status, body } = await bench.socket('/rules');
    expect({ status, body }).toEqual({ status: 200, body: { by: { name: new Accounts().userName(process.getuid!()), via: 'socket' }, role: 'administrator' } });
  });

  test.skipIf(process.getuid?.() !== 0)('another user has the role that its name gives, and none without', async () => {
    const bench = await startAccess();
    chmodSync(bench.paths.dir, 0o755);
    const run = (): Promise<{ status: number; body: string }> => new Promise((resolve, reject) => {
      const child = spawn('setpriv', ['--reuid=65534', '--regid=65534', '--clear-groups', 'curl', '-s', '--max-time', '10', '-w', '\n%{http_code}', '--unix-socket', bench.paths.apiSocket, 'http://localhost/rules'], { cwd: '/' });
      let output = '';
      child.stdout.on('data', (data: Buffer) => { output += data.toString(); });
      child.on('error', reject).on('close', () => {
        const [body = '', status = body] = output.split('\n');
        resolve({ status: Number(status), body });
      });
    });
    expect(await run()).toMatchObject({ status: 0 }); // the file's mode already
    await bench.configure({ socket: { users: { nobody: 'viewer' } } });
    expect(statSync(bench.paths.apiSocket).mode & 0o777).toBe(0o666);
    expect(await run()).toMatchObject({ status: 200, body: expect.stringContaining('"viewer"') as string });
    await bench.configure({ socket: { users: { daemon: 'viewer' } } });
    expect(await run()).toMatchObject({ status: 403, body: expect.stringContaining('user nobody has no role here') as string });
    await bench.configure({});
    expect(statSync(bench.paths.apiSocket).mode & 0o777).toBe(0o660);
    expect(bench.handled).toHaveLength(1);
  });

  test('a caller that the kernel does not name is nobody', async () => {
    const bench = await startAccess({ peer: () => { throw new Error('no descriptor'); } });
    expect(await bench.socket('/rules')).toMatchObject({ status: 401, body: { code: 'SLUICE_AUTHENTICATION' } });
    expect(bench.handled).toEqual([]);
  });

  const owners = new Set([0]);
  const accounts = new Accounts(writeTable('passwd', 'root:x:0:0::/:\nalice:x:1000:1000::/:\n7777:x:2000:1::/:\n'), writeTable('group', 'root:x:0:\nnetops:x:50:alice\nadmins:x:60:\n'));
  test.each([
    ['root', peer(0), {}, 'administrator', 'root'],
    ['a named user', peer(1000), { users: { alice: 'operator' } }, 'operator', 'socket-user'],
    ['a uid', peer(1234), { users: { '1234': 'viewer' } }, 'viewer', 'socket-user'],
    ['a user whose name looks like a uid', peer(7777), { users: { '7777': 'administrator' } }, undefined, undefined],
    ['a supplementary group', peer(1000, 1000, 50), { groups: { netops: 'operator' } }, 'operator', 'socket-member'],
    ['the highest of its groups', peer(1000, 1000, 50, 60), { groups: { netops: 'viewer', admins: 'administrator' } }, 'administrator', 'socket-member'],
    ['a user before its groups', peer(1000, 1000, 60), { users: { alice: 'viewer' }, groups: { admins: 'administrator' } }, 'viewer', 'socket-user'],
    ['the group of the socket', peer(1001, 1001, 99), {}, 'viewer', 'socket-group'],
    ['anybody else', peer(1001), { users: { alice: 'administrator' } }, undefined, undefined],
    ['a name that no account has', peer(1001), { users: { bob: 'administrator' }, groups: { nobodies: 'administrator' } }, undefined, undefined],
  ] as const)('%s', (_name, credentials, config, role, kind) => {
    const found = roleOfPeer(credentials, owners, 99, config, accounts);
    expect([found?.role, found?.grant.kind]).toEqual([role, kind]);
  });
});

describe('roles and scopes', () => {
  test.each([
    ['viewer', 'GET', '/rules', 200], ['viewer', 'PUT', '/rules', 403], ['viewer', 'DELETE', '/sessions/1', 403], ['viewer', 'POST', '/question', 200], ['viewer', 'GET', '/everything', 403],
    ['operator', 'GET', '/rules', 200], ['operator', 'PUT', '/rules', 200], ['operator', 'DELETE', '/sessions/1', 200], ['operator', 'GET', '/everything', 403],
    ['administrator', 'PUT', '/rules', 200], ['administrator', 'GET', '/everything', 200],
  ] as const)('%s: %s %s is %d', async (role, method, path, status) => {
    const bench = await startAccess();
    const { bearer } = bench.token(role);
    expect((await bench.socket(path, { method, headers: bearer })).status).toBe(status);
    expect(bench.handled).toHaveLength(status === 200 ? 1 : 0);
  });

  test.each([
    [['rules'], 'GET', '/rules', 200], [['rules'], 'PUT', '/rules', 200], [['rules:read'], 'GET', '/rules', 200], [['rules:read'], 'PUT', '/rules', 403],
    [['rules'], 'GET', '/sessions', 403], [['sessions:read', 'rules:read'], 'DELETE', '/sessions/1', 403], [['sessions'], 'DELETE', '/sessions/1', 200], [['rule'], 'GET', '/rules', 403],
  ] as const)('scopes %j: %s %s is %d', async (scopes, method, path, status) => {
    const bench = await startAccess();
    expect((await bench.socket(path, { method, headers: bench.token('operator', [...scopes]).bearer })).status).toBe(status);
  });

  test('no scope is everything, an empty list is nothing', () => {
    expect([scopesAllow(undefined, 'administrator', 'x'), scopesAllow([], 'viewer', 'x'), scopesAllow(['x:write'], 'viewer', 'x')]).toEqual([true, false, false]);
  });

  test('a header that proves nothing is refused, also where the socket alone would do', async () => {
    const bench = await startAccess();
    for (const authorization of ['', 'Bearer', 'Bearer ', 'Bearer x y', 'Basic cm9vdDo=', `Bearer ${'x'.repeat(9000)}`, bench.access.internalHeaders.authorization]) {
      expect(await bench.socket('/rules', { headers: { authorization } })).toMatchObject({ status: 401, headers: { 'www-authenticate': 'Bearer realm="sluice"' } });
    }
    expect(bench.handled).toEqual([]);
  });

  test('who is not known does not learn what there is', async () => {
    const bench = await startAccess({ peer: () => { throw new Error('nobody'); } });
    expect((await bench.socket('/rules')).status).toBe(401);
    expect((await bench.socket('/nothing')).status).toBe(401);
    expect(await bench.socket('/health')).toMatchObject({ status: 200, body: { status: 'ok' } });
  });

  test('a request of control itself needs its own word', async () => {
    const bench = await startAccess();
    expect((await bench.api.inject('/rules')).statusCode).toBe(401);
    expect((await bench.api.inject({ url: '/rules', headers: { authorization: 'Internal AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA' } })).statusCode).toBe(401);
    expect((await bench.api.inject({ url: '/rules', headers: bench.access.internalHeaders })).statusCode).toBe(200);
  });
});

describe('tokens', () => {
  test('are shown once, kept as hashes, and found nowhere else', async () => {
    const bench = await startAccess();
    const made = await bench.socket('/api/v1/tokens', { method: 'POST', body: { name: 'deploy', role: 'operator', scopes: ['rules'] } });
    expect(made).toMatchObject({ status: 201, headers: { location: `/api/v1/tokens/${String(made.body['id'])}` }, body: { name: 'deploy', role: 'operator', scopes: ['rules'], state: 'valid' } });
    const secret = made.body['secret'] as string;
    expect(secret).toMatch(/^sluice_[0-9a-f]{16}_[A-Za-z0-9_-]{43}$/);
    expect(await bench.socket('/rules', { headers: { authorization: `Bearer ${secret}` } })).toMatchObject({ status: 200, body: { by: { name: 'deploy', via: 'token' }, role: 'operator' } });
    const list = await bench.socket('/api/v1/tokens');
    expect(list.body).toMatchObject({ tokens: [{ name: 'deploy', lastUsedAt: expect.any(String) as string }] });
    bench.access.tokens.stop();
    const hidden = secret.split('_').slice(2).join('_');
    const file = join(bench.paths.apiState, 'tokens.json');
    const everything = [readFileSync(file, 'utf8'), list.text, bench.logged(), readFileSync(join(bench.paths.auditState, 'audit.jsonl'), 'utf8')].join('');
    expect(everything).not.toContain(hidden);
    expect(list.text).not.toContain('hash');
    expect(statSync(file).mode & 0o777).toBe(0o600);
  });

  test('end by revocation at once', async () => {
    const bench = await startAccess();
    const { id, bearer } = bench.token('operator');
    expect((await bench.socket('/rules', { headers: bearer })).status).toBe(200);
    expect((await bench.socket(`/api/v1/tokens/${id}`, { method: 'DELETE' })).status).toBe(204);
    expect(await bench.socket('/rules', { headers: bearer })).toMatchObject({ status: 401, body: { detail: 'the token is not valid' } });
    expect((await bench.socket(`/api/v1/tokens/${id}`)).body).toMatchObject({ state: 'revoked' });
    expect((await bench.socket('/api/v1/tokens/0123456789abcdef', { method: 'DELETE' })).status).toBe(404);
    expect((await bench.socket('/api/v1/tokens/..%2f..', { method: 'DELETE' })).status).toBe(400);
  });

  test('end when their time is over', () => {
    let now = Date.parse('2026-01-01T00:00:00Z');
    const store = new TokenStore(join(temporaryDirectory(), 'tokens.json'), () => now);
    const { secret } = store.create({ name: 'short', role: 'viewer', expiresInS: 60, createdBy: 'test' });
    now += 59_999;
    expect(store.check(secret)).toMatchObject({ name: 'short', state: 'valid' });
    now += 1;
    expect(store.check(secret)).toBeUndefined();
    expect(store.list()).toMatchObject([{ state: 'expired' }]);
    store.stop(); // it would note the use later, in a directory that is gone
  });

  test('survive a restart, and changed ones never pass', () => {
    const file = join(temporaryDirectory(), 'tokens.json');
    const first = new TokenStore(file);
    const { secret, token } = first.create({ name: 'a', role: 'viewer', expiresInS: null, createdBy: 'test' });
    const other = first.create({ name: 'b', role: 'administrator', expiresInS: null, createdBy: 'test' });
    const store = new TokenStore(file);
    expect(store.check(secret)).toMatchObject({ id: token.id, expiresAt: null });
    const flip = (text: string, at: number): string => text.slice(0, at) + (text[at] === 'A' ? 'B' : 'A') + text.slice(at + 1);
    const otherSecret = other.secret.split('_').slice(2).join('_');
    for (const wrong of [flip(secret, secret.length - 10), secret.slice(0, -1), `${secret}A`, secret.toUpperCase(), `sluice_${token.id}_${otherSecret}`, `sluice_${token.id}_`, '', `sluice_${'0'.repeat(16)}_${'A'.repeat(43)}`, `sluice___proto___${'A'.repeat(43)}`]) {
      expect(store.check(wrong), wrong).toBeUndefined();
    }
    store.stop();
  });

  test.each([['half a file', '{"version":1,"tokens":[{"id":'], ['another version', '{"version":2,"tokens":[]}'], ['a hash that is none', '{"version":1,"tokens":[{"id":"a","name":"a","role":"administrator","hash":"","expiresAt":null,"revokedAt":null,"lastUsedAt":null}]}'], ['nothing', '']])('a damaged file (%s) lets nobody in, and is not overwritten', (_name, content) => {
    const file = join(temporaryDirectory(), 'tokens.json');
    writeFileSync(file, content);
    const store = new TokenStore(file);
    expect(store.damage).toBeDefined();
    expect(store.list()).toEqual([]);
    expect(() => store.create({ name: 'x', role: 'viewer', expiresInS: null, createdBy: 'test' })).toThrow(expect.objectContaining({ code: 'SLUICE_TOKENS_DAMAGED' }) as Error);
    expect(readFileSync(file, 'utf8')).toBe(content);
  });

  test('are bounded in number; dead ones make room', () => {
    const file = join(temporaryDirectory(), 'tokens.json');
    const stored = Array.from({ length: TOKENS_MAX }, (_, n) => ({ id: n.toString(16).padStart(16, '0'), name: 'n', role: 'viewer', hash: '0'.repeat(64), createdAt: '2026-01-01T00:00:00Z', createdBy: 'x', expiresAt: null, lastUsedAt: null, revokedAt: null }));
    writeFileSync(file, JSON.stringify({ version: 1, tokens: stored }));
    const store = new TokenStore(file);
    const create = (): unknown => store.create({ name: 'x', role: 'viewer', expiresInS: null, createdBy: 'test' });
    expect(create).toThrow(expect.objectContaining({ code: 'SLUICE_TOKENS_TOO_MANY' }) as Error);
    store.revoke('0000000000000000');
    expect(create).not.toThrow();
  });

  test('are made by administrators alone, and with scopes that there are', async () => {
    const bench = await startAccess();
    const create = (headers: Record<string, string>, body: object): ReturnType<typeof bench.socket> => bench.socket('/api/v1/tokens', { method: 'POST', headers, body });
    expect((await create(bench.token('operator').bearer, { name: 'x', role: 'viewer' })).status).toBe(403);
    const bounded = bench.token('administrator', ['tokens', 'rules:read']).bearer;
    expect((await create(bounded, { name: 'x', role: 'administrator' })).status).toBe(403);
    expect((await create(bounded, { name: 'x', role: 'operator', scopes: ['rules'] })).status).toBe(403);
    expect((await create(bounded, { name: 'x', role: 'operator', scopes: ['sessions:read'] })).status).toBe(403);
    expect((await create(bounded, { name: 'x', role: 'operator', scopes: ['rules:read'] })).status).toBe(201);
    for (const [body, pointer] of [[{ name: 'x', role: 'viewer', scopes: ['cake'] }, '/scopes/0'], [{ name: 'x', role: 'king' }, '/role'], [{ name: 'x\u0007', role: 'viewer' }, '/name'], [{ role: 'viewer' }, '/name'], [{ name: 'x', role: 'viewer', expiresInSeconds: 1 }, '/expiresInSeconds'], [{ name: 'x', role: 'viewer', secret: 'mine' }, '/secret'], [{ name: 'x', role: 'viewer', scopes: [] }, '/scopes']] as const) {
      expect(await create({}, body)).toMatchObject({ status: 400, body: { code: 'SLUICE_API_ARGUMENT', pointer } });
    }
  });
});

describe('limits', () => {
  test('a caller has a rate of its own; root has none', async () => {
    const bench = await startAccess();
    await bench.configure({ limits: { requestsPerSecond: 1, burst: 3 } });
    const [one, two] = [bench.token('viewer').bearer, bench.token('viewer').bearer];
    for (let n = 0; n < 3; n += 1) expect((await bench.socket('/rules', { headers: one })).status).toBe(200);
    // All at once: on the slowest machine they do not take the seconds in which so many more were allowed.
    const statuses = (await Promise.all(Array.from({ length: 30 }, () => bench.socket('/rules', { headers: one })))).map(({ status }) => status);
    expect(statuses).toContain(429);
    expect((await bench.socket('/rules', { headers: two })).status).toBe(200);
    for (let n = 0; n < 10; n += 1) expect((await bench.socket('/rules')).status).toBe(200);
    const refused = (await bench.audit()).filter((line) => line.event === 'refused');
    expect(refused[0]).toMatchObject({ status: 429, code: 'SLUICE_API_RATE', by: { name: 'viewer-token' } });
  });

  test('buckets fill with time, are bounded in number, and forget the one unused longest', () => {
    let now = 0;
    const buckets = new Buckets(() => now, 3);
    expect([buckets.take('a', 2, 2), buckets.take('a', 2, 2), buckets.take('a', 2, 2)]).toEqual([0, 0, 500]);
    expect(buckets.peek('a', 2, 2)).toBe(500);
    now += 500;
    expect(buckets.peek('a', 2, 2)).toBe(0);
    for (const key of ['b', 'c', 'a', 'd']) buckets.take(key, 0.001, 2);
    expect(buckets.size).toBe(3);
    expect(buckets.take('a', 0.001, 2)).toBeGreaterThan(0); // was used lately: remembered
  });

  test('failures of one address do not count for another; an IPv6 caller has its /64', () => {
    const limits = new AccessLimits(() => 0);
    limits.settings = { ...limits.settings, failuresPerMinute: 2 };
    for (const address of ['2001:db8::1', '2001:db8:0:0:ffff::2']) limits.countFailure(address);
    expect(() => limits.requireFailuresLeft('2001:db8:0:0:1:2:3:4')).toThrow(expect.objectContaining({ status: 429 }) as Error);
    expect(() => limits.requireFailuresLeft('2001:db8:0:1::1')).not.toThrow();
    expect(() => limits.requireFailuresLeft('192.0.2.1')).not.toThrow();
  });

  test('a flood of refusals becomes a line with its count', () => {
    let now = 0;
    const limits = new AccessLimits(() => now);
    const lines: { count?: number }[] = [];
    const refuse = (kind: string): void => limits.recordRefusal(kind, { event: 'refused', path: `/${kind}` }, (event) => void lines.push(event));
    for (let n = 0; n < 1000; n += 1) refuse('one');
    refuse('two');
    expect(lines).toHaveLength(11);
    now += 60_000;
    limits.settleRefusals((event) => void lines.push(event));
    expect(lines.slice(11)).toEqual([{ event: 'refused', path: '/one', count: 990 }]);
    for (let n = 0; n < 5000; n += 1) refuse(`address ${n}`);
    expect((limits as unknown as { ledger: Map<string, unknown> }).ledger.size).toBeLessThanOrEqual(1024);
  });
});

test('a flood of refusals from many addresses does not roll the audit log over, and hides nobody who is known', () => {
  let now = 0;
  const limits = new AccessLimits(() => now);
  const lines: { path?: string; count?: number }[] = [];
  const refuse = (kind: string, isProven = false): void => limits.recordRefusal(kind, { event: 'refused', path: `/${kind}` }, (event) => void lines.push(event), isProven);
  for (let minute = 0; minute < 60; minute += 1) {
    for (let n = 0; n < 1000; n += 1) refuse(`address ${minute} ${n}`);
    refuse('token:1', true);
    now += 60_000;
    limits.settleRefusals((event) => void lines.push(event));
  }
  expect(lines.length).toBeLessThan(2000);
  expect(lines.filter(({ path }) => path === '/token:1')).toHaveLength(60);
  expect(lines.reduce((sum, { count = 1 }) => sum + count, 0)).toBe(60 * 1001);
});

test('when a token was used last is kept within a minute, also when the clock was set back', () => {
  vi.useFakeTimers();
  onTestFinished(() => void vi.useRealTimers());
  let now = Date.parse('2030-01-01T00:00:00Z');
  const file = join(temporaryDirectory(), 'tokens.json');
  const store = new TokenStore(file, () => now);
  const { secret } = store.create({ name: 'a', role: 'viewer', expiresInS: null, createdBy: 'test' });
  now = Date.parse('2026-01-01T00:00:00Z');
  expect(store.check(secret)).toBeDefined();
  vi.advanceTimersByTime(60_000);
  expect(readFileSync(file, 'utf8')).toContain('"lastUsedAt": "2026-01-01');
  expect(vi.getTimerCount()).toBe(0);
});

describe('the audit log', () => {
  test('holds each change before and after, each refusal, and no question', async () => {
    const bench = await startAccess();
    const viewer = bench.token('viewer');
    await bench.socket('/rules');
    await bench.socket('/question', { method: 'POST', body: {} });
    await bench.socket('/rules?token=secret', { method: 'PUT', body: { some: 'thing' } });
    await bench.socket('/rules', { method: 'PUT', headers: viewer.bearer, body: {} });
    const lines = await bench.audit();
    expect(lines).toMatchObject([
      { event: 'request', method: 'PUT', path: '/rules', resource: 'rules', by: { via: 'socket', role: 'administrator' } },
      { event: 'outcome', method: 'PUT', path: '/rules', status: 200, detail: { handled: true } },
      { event: 'refused', method: 'PUT', path: '/rules', status: 403, code: 'SLUICE_FORBIDDEN', by: { name: 'viewer-token', via: 'token', role: 'viewer' } },
    ]);
    expect(lines[0]!.request).toBe(lines[1]!.request);
    expect(lines).toHaveLength(3);
    expect(await verifyAudit(bench.paths.auditState)).toMatchObject({ isWhole: true });
    expect(JSON.stringify(lines)).not.toContain('secret');
  });

  test('is durable before the answer to a change leaves', async () => {
    const bench = await startAccess();
    await bench.socket('/rules', { method: 'PUT', body: {} });
    expect(readFileSync(join(bench.paths.auditState, 'head'), 'utf8')).toMatch(/^2 /);
  });

  test('tells why a change was refused by its handler', async () => {
    const bench = await startAccess();
    await bench.socket('/api/v1/tokens', { method: 'POST', body: { name: 'x', role: 'viewer', scopes: ['cake'] } });
    expect((await bench.audit()).at(-1)).toMatchObject({ event: 'outcome', status: 400, code: 'SLUICE_API_ARGUMENT', detail: { problem: expect.stringContaining('cake') as string } });
  });

  test('nothing is changed while it cannot be written; questions are still answered', async () => {
    const bench = await startAccess();
    const inner = bench.access.audit as unknown as { file: number };
    const { file } = inner;
    inner.file = 100_000; // like a full disk: every write fails
    expect(await bench.socket('/rules', { method: 'PUT', body: {} })).toMatchObject({ status: 503, body: { code: 'SLUICE_AUDIT_WRITE' } });
    expect(await bench.socket('/rules')).toMatchObject({ status: 200 });
    expect(bench.handled).toEqual([expect.stringMatching(/^GET/)]);
    inner.file = file;
    expect(await bench.socket('/rules', { method: 'PUT', body: {} })).toMatchObject({ status: 200 });
  });

  test('is read and verified by the API, for administrators', async () => {
    const bench = await startAccess();
    await bench.socket('/rules', { method: 'PUT', body: {} });
    expect((await bench.socket('/api/v1/audit', { headers: bench.token('operator').bearer })).status).toBe(403);
    expect((await bench.socket('/api/v1/audit?last=1')).body).toMatchObject({ head: { sequence: 3 }, lines: [{ sequence: 3, event: 'refused' }] });
    expect((await bench.socket('/api/v1/audit/verification')).body).toMatchObject({ isWhole: true, lines: 3 });
    const path = join(bench.paths.auditState, 'audit.jsonl');
    writeFileSync(path, readFileSync(path, 'utf8').replace('"PUT"', '"GET"'));
    expect((await bench.socket('/api/v1/audit/verification')).body).toMatchObject({ isWhole: false, problems: [{ kind: 'altered', sequence: 1 }] });
  });
});

test('the state directories become the user\'s that control becomes', async () => {
  if (process.getuid?.() !== 0) return;
  const { Access } = await import('../../src/api/access-service.js');
  const directory = temporaryDirectory();
  const { runDirectory } = await import('../../src/supervisor/run-directory.js');
  const paths = runDirectory(directory);
  const access = new Access({ paths, log: silentLog, owner: { uid: 62753, gid: 62753 } });
  onTestFinished(() => access.stop());
  for (const path of [paths.auditState, paths.apiState, join(paths.auditState, 'audit.jsonl')]) {
    expect(statSync(path)).toMatchObject({ uid: 62753 });
    expect(statSync(path).mode & 0o077).toBe(0);
  }
  expect(statSync(paths.state).mode & 0o011).toBe(0o011);
});

function writeTable(name: string, content: string): string {
  const directory = mkdtempSync(join(tmpdir(), 'sluice-accounts-'));
  afterAll(() => rmSync(directory, { recursive: true, force: true }));
  writeFileSync(join(directory, name), content);
  return join(directory, name);
}
