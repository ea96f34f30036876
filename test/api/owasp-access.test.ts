// OWASP API Security Top 10 (2023), as far as it concerns who may what: one block each, over HTTPS and the socket against the whole API.
// What concerns single resources stands in owasp.test.ts.
import { createServer } from 'node:https';
import { statSync } from 'node:fs';
import { connect as connectTls } from 'node:tls';
import { join } from 'node:path';
import { UnsecuredJWT } from 'jose';
import { describe, expect, onTestFinished, test } from 'vitest';
import { OIDC_ALGORITHMS } from '../../src/config/schema-api.js';
import { verifyAudit } from '../../src/audit/read.js';
import { Contract, type Document } from '../tools/contract.js';
import { makeCa, startAppliance, type Appliance } from './access-bench.js';

interface Operation { method: string; path: string; role: string; resource: string }

/** Every operation of the document, with its parameters filled in by what there is not. */
async function operationsOf(appliance: Appliance): Promise<Operation[]> {
  const { body } = await appliance.socket('/api/v1/openapi.json');
  const paths = body['paths'] as Record<string, Record<string, { 'x-role': string; 'x-resource': string }>>;
  return Object.entries(paths).flatMap(([path, methods]) => Object.entries(methods).map(([method, operation]) => ({
    method: method.toUpperCase(), path: `/api/v1${path.replaceAll(/\{\w+\}/g, '0123456789abcdef')}`, role: operation['x-role'], resource: operation['x-resource'],
  })));
}

const RANK = ['viewer', 'operator', 'administrator'];
/** `self`: who one is; everybody may know. */
const isStream = ({ path }: Operation): boolean => path.endsWith('/observe') || path.endsWith('/capture');

describe('API1, object level', () => {
  test('a token sees its own resources and no others, whatever it asks for', async () => {
    const appliance = await startAppliance();
    const { id, bearer } = appliance.token('administrator', ['rules:read', 'sessions']);
    expect((await appliance.https('/api/v1/sessions', { headers: bearer })).status).toBe(200);
    for (const path of [`/api/v1/tokens/${id}`, '/api/v1/tokens', '/api/v1/audit', '/api/v1/config', '/metrics', '/api/v1/config/nat/source']) {
      expect(await appliance.https(path, { headers: bearer })).toMatchObject({ status: 403, body: { code: 'SLUICE_FORBIDDEN' } });
    }
  });

  test('names of objects are names: no path leads elsewhere', async () => {
    const appliance = await startAppliance();
    for (const id of ['..%2f..%2fetc%2fpasswd', '%00', '__proto__', 'constructor', '0123456789ABCDEF', '0123456789abcdef%0a']) {
      const { status } = await appliance.socket(`/api/v1/tokens/${id}`);
      expect([400, 404]).toContain(status);
    }
  });
});

describe('API2, authentication', () => {
  test('nothing but the right thing proves anybody', async () => {
    const ca = makeCa();
    const appliance = await startAppliance({ oidc: { issuer: 'https://127.0.0.1:9', audience: 'sluice', caFile: ca.file, jwksUri: 'https://127.0.0.1:9/keys', roles: [{ group: 'a', role: 'administrator' }] }, limits: { failuresPerMinute: 1000 } });
    const { secret, id } = appliance.token('administrator');
    const expired = appliance.token('administrator', undefined, -1);
    const revoked = appliance.token('administrator');
    appliance.access.tokens.revoke(revoked.id);
    const unsigned = new UnsecuredJWT({ groups: ['a'] }).setIssuer('https://127.0.0.1:9').setAudience('sluice').setSubject('x').setExpirationTime('5m').encode();
    for (const authorization of [undefined, 'Bearer', `Bearer ${secret.slice(0, -1)}`, `Bearer ${secret}x`, `Basic ${Buffer.from(`x:${secret}`).toString('base64')}`, `Bearer ${expired.secret}`, `Bearer ${revoked.secret}`, `Bearer sluice_${id}_${'A'.repeat(43)}`, `Bearer ${unsigned}`, `Bearer ${secret}, Bearer ${secret}`, appliance.access.internalHeaders.authorization]) {
      const { status, body, text } = await appliance.https('/api/v1/status', { headers: authorization === undefined ? {} : { authorization } });
      expect({ authorization, status, code: body['code'] }).toEqual({ authorization, status: 401, code: 'SLUICE_AUTHENTICATION' });
      expect(text).not.toMatch(/expired|revoked|unknown/); // nothing to learn from
    }
    for (const path of [`/api/v1/status?token=${secret}`, `/api/v1/status?access_token=${secret}`]) expect((await appliance.https(path)).status).toBe(401); // never in a URL
    expect((await appliance.https('/api/v1/status', { headers: { cookie: `token=${secret}`, 'x-forwarded-user': 'root', 'x-role': 'administrator' } })).status).toBe(401);
    expect((await appliance.https('/api/v1/status', { headers: { authorization: `Bearer ${secret}` } })).status).toBe(200);
  });

  test('HMAC and none are no algorithms that could be chosen', () => expect(OIDC_ALGORITHMS.filter((one) => !/^(RS|PS|ES)\d{3}$|^EdDSA$/.test(one))).toEqual([]));

  test('guessing is slowed down, and does not lock out who is right', async () => {
    const appliance = await startAppliance({ limits: { failuresPerMinute: 3 } });
    const guess = (): Promise<number> => appliance.https('/api/v1/status', { headers: { authorization: `Bearer sluice_${'0'.repeat(16)}_${'A'.repeat(43)}` } }).then(({ status }) => status);
    expect([await guess(), await guess(), await guess(), await guess(), await guess()]).toEqual([401, 401, 401, 429, 429]);
    expect((await appliance.https('/api/v1/status', { headers: appliance.token('viewer').bearer })).status).toBe(200);
  });
});

describe('API3, property level', () => {
  test('a token has the properties that were asked for and no more; none can be written that is the appliance\'s', async () => {
    const appliance = await startAppliance();
    for (const extra of ['id', 'hash', 'createdBy', 'createdAt', 'revokedAt', 'lastUsedAt', 'secret', 'state', '__proto__x', 'constructor']) {
      expect(await appliance.socket('/api/v1/tokens', { method: 'POST', body: { name: 'x', role: 'viewer', [extra]: 'administrator' } })).toMatchObject({ status: 400, body: { pointer: `/${extra}` } });
    }
    const made = await appliance.socket('/api/v1/tokens', { method: 'POST', body: { name: 'x', role: 'viewer' } });
    expect(Object.keys(made.body).sort()).toEqual(['createdAt', 'createdBy', 'expiresAt', 'id', 'lastUsedAt', 'name', 'revokedAt', 'role', 'scopes', 'secret', 'state']);
    expect(Object.keys((await appliance.socket(`/api/v1/tokens/${String(made.body['id'])}`)).body)).not.toContain('secret');
  });

  test('no answer, log or audit line holds a secret', async () => {
    const appliance = await startAppliance();
    const { secret, bearer } = appliance.token('administrator');
    await appliance.https('/api/v1/config', { method: 'PUT', headers: bearer, body: { secret } });
    await appliance.https(`/api/v1/${secret}`, { headers: bearer });
    await appliance.https('/api/v1/tokens', { method: 'POST', headers: bearer, body: { name: 'y', role: 'viewer' } });
    const hidden = secret.split('_').slice(2).join('_');
    // What a caller itself puts into a path is in the log of refusals of no route: there is none for unknown paths.
    expect(appliance.logged()).not.toContain(hidden);
    expect(JSON.stringify(await appliance.audit())).not.toContain(hidden);
    const key = (await import('node:fs')).readFileSync(join(appliance.paths.apiState, 'tls', 'ca.key'), 'utf8').split('\n')[1]!;
    expect(appliance.logged()).not.toContain(key);
  });
});

describe('API4, resource consumption', () => {
  test('each caller has its rate', async () => {
    const appliance = await startAppliance({ limits: { requestsPerSecond: 1, burst: 2 } });
    const { bearer } = appliance.token('viewer');
    const statuses: number[] = [];
    for (let n = 0; n < 6; n += 1) statuses.push((await appliance.https('/api/v1/whoami', { headers: bearer })).status);
    expect(statuses.slice(0, 2)).toEqual([200, 200]);
    expect(statuses).toContain(429);
    expect((await appliance.https('/api/v1/whoami', { headers: appliance.token('viewer').bearer })).status).toBe(200);
  });

  test('a flood of refusals does not fill the disk', async () => {
    const appliance = await startAppliance();
    const before = appliance.access.audit.head.sequence;
    for (let n = 0; n < 100; n += 1) await appliance.socket('/api/v1/status', { headers: { authorization: 'Bearer x' } });
    expect(appliance.access.audit.head.sequence - before).toBeLessThanOrEqual(10);
    appliance.access.limits.settleRefusals((event) => appliance.access.record(event), true);
    expect((await appliance.audit()).at(-1)).toMatchObject({ event: 'refused', count: 90 });
  });
});

describe('API5, function level', () => {
  test('every operation needs its role: whoever is less is refused, before anything else is looked at', async () => {
    const appliance = await startAppliance({ limits: { requestsPerSecond: 10_000, burst: 10_000, failuresPerMinute: 10_000 } });
    const operations = await operationsOf(appliance);
    expect(operations.length).toBeGreaterThan(40);
    const before = JSON.stringify(appliance.running());
    for (const operation of operations) {
      const { method, path, role } = operation;
      expect(RANK, `${method} ${path}`).toContain(role);
      expect([method, path, (await appliance.https(path, { method })).status]).toEqual([method, path, 401]);
      for (const lesser of RANK.slice(0, RANK.indexOf(role))) {
        const { status, body } = await appliance.https(path, { method, headers: appliance.token(lesser as 'viewer').bearer, ...(method === 'GET' ? {} : { body: {} }) });
        expect([method, path, lesser, status, body['code']]).toEqual([method, path, lesser, 403, 'SLUICE_FORBIDDEN']);
      }
      if (isStream(operation) || path.endsWith('/whoami')) continue;
      const narrow = appliance.token('administrator', ['nothing-of-it']);
      expect([method, path, (await appliance.https(path, { method, headers: narrow.bearer })).status]).toEqual([method, path, 403]);
    }
    expect(JSON.stringify(appliance.running())).toBe(before);
  });

  test('whoever has scopes cannot give itself more: not by section api, by whatever way, and not by a backup', async () => {
    const appliance = await startAppliance();
    const { bearer } = appliance.token('administrator', ['configuration', 'backup', 'tokens']);
    const { api } = appliance.running();
    const wider = { ...appliance.running(), api: { ...api, socket: { users: { mallory: 'administrator' } } } };
    const ask = (path: string, method: string, body: unknown): ReturnType<Appliance['https']> => appliance.https(path, { method, headers: { ...bearer, 'if-match': '*' }, body });
    const before = appliance.transactions.running.revision;
    expect(await ask('/api/v1/config', 'PUT', wider)).toMatchObject({ status: 403, body: { code: 'SLUICE_FORBIDDEN', pointer: '/api' } });
    expect(await ask('/api/v1/config/commit', 'POST', { text: JSON.stringify(wider) })).toMatchObject({ status: 403, body: { code: 'SLUICE_FORBIDDEN', pointer: '/api' } });
    expect(await ask('/api/v1/config?confirm=true', 'PUT', { ...wider, api: undefined })).toMatchObject({ status: 403 });
    for (const [path, body] of [['backup', { passphrase: 'correct horse battery' }], ['restore', { passphrase: 'x', data: '' }]] as const) {
      expect([path, await ask(`/api/v1/${path}`, 'POST', body)]).toMatchObject([path, { status: 403, body: { code: 'SLUICE_FORBIDDEN' } }]);
    }
    expect(appliance.transactions.running.revision).toBe(before);
    expect(await ask('/api/v1/config', 'PUT', { ...appliance.running(), hostname: 'within-its-scope' })).toMatchObject({ status: 200 });
  });

  test('what a viewer may do changes nothing', async () => {
    const appliance = await startAppliance();
    const mayViewers = (await operationsOf(appliance)).filter(({ method, role }) => role === 'viewer' && method !== 'GET').map(({ method, path }) => `${method} ${path}`);
    expect(mayViewers.sort()).toEqual(['POST /api/v1/config/check', 'POST /api/v1/simulate']); // questions that do not fit into a URL
  });
});

describe('API6, sensitive business flows', () => {
  test('a change that cuts off its own caller needs its word, or a time to confirm within', async () => {
    const appliance = await startAppliance();
    const { bearer } = appliance.token('administrator');
    const { headers: { etag }, body: config } = await appliance.https('/api/v1/config', { headers: { ...bearer, accept: 'application/json' } });
    const { api: _, ...without } = config;
    const put = (query = ''): ReturnType<Appliance['https']> => appliance.https(`/api/v1/config${query}`, { method: 'PUT', headers: { ...bearer, 'if-match': String(etag) }, body: without });
    const refused = await put();
    expect(refused).toMatchObject({ status: 409, body: { code: 'SLUICE_LOCKOUT', pointer: '/api/listen', cuts: [{ pointer: '/api/listen' }] } });
    expect(appliance.running()).toHaveProperty('api');
    expect((await put('?dryRun=true')).status).toBe(200);
    expect(await put('?confirmWithin=300')).toMatchObject({ status: 200, body: { confirmBy: expect.any(String) as string } });
    await expect(appliance.https('/api/v1/status', { headers: bearer })).rejects.toThrow(/ECONNREFUSED/);
    expect((await appliance.socket('/api/v1/config/rollback', { method: 'POST', body: { revision: 1 } })).status).toBe(200);
    expect((await appliance.https('/api/v1/status', { headers: bearer })).status).toBe(200);
    const again = await appliance.https('/api/v1/config', { method: 'PUT', headers: { ...bearer, 'if-match': '*' }, body: without });
    expect(again).toMatchObject({ status: 409, body: { code: 'SLUICE_LOCKOUT' } }); // overwriting is another word than being cut off
    expect((await appliance.https('/api/v1/config?confirm=true', { method: 'PUT', headers: { ...bearer, 'if-match': '*' }, body: without })).status).toBe(200);
    await expect(appliance.https('/api/v1/status', { headers: bearer })).rejects.toThrow(/ECONNREFUSED/);
  });

  test('a rollback can cut off its caller, too', async () => {
    const appliance = await startAppliance();
    await appliance.socket('/api/v1/config', { method: 'PUT', headers: { 'if-match': '*' }, body: { ...appliance.running(), api: undefined } });
    const { revision } = appliance.transactions.running;
    await appliance.socket('/api/v1/config/rollback', { method: 'POST', body: { revision: 1 } });
    const { bearer } = appliance.token('administrator');
    expect(await appliance.https('/api/v1/config/rollback', { method: 'POST', headers: bearer, body: { revision } })).toMatchObject({ status: 409, body: { code: 'SLUICE_LOCKOUT' } });
  });

  test('a listener that cannot be had refuses the commit; nothing changes', async () => {
    const appliance = await startAppliance();
    const taken = await new Promise<{ port: number }>((resolve) => {
      const server = createServer().listen(0, '127.0.0.1', () => resolve(server.address() as { port: number }));
      onTestFinished(() => void server.close());
    });
    const before = appliance.transactions.running.revision;
    const answer = await appliance.socket('/api/v1/config', { method: 'PUT', headers: { 'if-match': '*' }, body: { ...appliance.running(), api: { listen: `127.0.0.1:${taken.port}` } } });
    expect(answer).toMatchObject({ status: 409, body: { code: 'SLUICE_API_LISTEN', pointer: '/api/listen' } });
    expect(appliance.transactions.running.revision).toBe(before);
    expect((await appliance.https('/api/v1/whoami', { headers: appliance.token('viewer').bearer })).status).toBe(200);
  });

  test('each change is in the audit log, with who and how it ended, and the log is whole', async () => {
    const appliance = await startAppliance();
    const { bearer } = appliance.token('administrator');
    await appliance.https('/api/v1/config', { method: 'PUT', headers: { ...bearer, 'if-match': '*' }, body: { version: 1, what: 'is this' } });
    await appliance.https('/api/v1/config', { method: 'PUT', headers: { ...bearer, 'if-match': '*' }, body: { ...appliance.running(), hostname: 'other' } });
    expect(await appliance.audit()).toMatchObject([
      { event: 'system', by: { name: 'file', via: 'file' }, detail: { revision: 1, action: 'file' } },
      { event: 'request', method: 'PUT', path: '/api/v1/config', by: { name: 'administrator-token', via: 'token', role: 'administrator', address: '127.0.0.1' } },
      { event: 'outcome', status: 422, code: 'SLUICE_CONFIG_INVALID' }, { event: 'request' },
      { event: 'system', by: { name: 'administrator-token', via: 'token' }, detail: { revision: 2, action: 'commit', changes: 1 } }, { event: 'outcome', status: 200 },
    ]);
    expect((await verifyAudit(appliance.paths.auditState)).isWhole).toBe(true);
  });
});

describe('API7, requests that the server makes', () => {
  test('go only where the configuration says, and never where a token does', async () => {
    const asked: string[] = [];
    const ca = makeCa();
    const { cert, key } = ca.issue('evil', { usage: 'serverAuth', names: 'IP:127.0.0.1' });
    const server = createServer({ cert, key }, (request, response) => {
      asked.push(request.url!);
      response.end('{"keys":[]}');
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    onTestFinished(() => { server.closeAllConnections(); server.close(); });
    const url = `https://127.0.0.1:${(server.address() as { port: number }).port}`;
    const appliance = await startAppliance({ oidc: { issuer: url, audience: 'sluice', caFile: ca.file, jwksUri: `${url}/keys`, roles: [{ group: 'a', role: 'viewer' }] } });
    const encode = (value: object): string => Buffer.from(JSON.stringify(value)).toString('base64url');
    const token = `${encode({ alg: 'ES256', kid: 'x', jku: `${url}/jku`, x5u: `${url}/x5u` })}.${encode({ iss: `${url}/iss`, aud: 'sluice', sub: 'x' })}.${'A'.repeat(86)}`;
    expect((await appliance.https('/api/v1/status', { headers: { authorization: `Bearer ${token}` } })).status).toBe(401);
    expect(asked).toEqual(['/keys']);
  });

  test('what is no HTTPS address of a plain form is no issuer', async () => {
    const appliance = await startAppliance();
    for (const issuer of ['http://id.example.net', 'file:///etc/passwd', 'https://user:password@id.example.net', 'https://id.example.net/?x=http://169.254.169.254']) {
      const answer = await appliance.socket('/api/v1/config', { method: 'PUT', headers: { 'if-match': '*' }, body: { ...appliance.running(), api: { oidc: { issuer, audience: 'x', roles: [{ group: 'a', role: 'viewer' }] } } } });
      expect(answer).toMatchObject({ status: 422, body: { code: 'SLUICE_CONFIG_INVALID', problems: [{ pointer: '/api/oidc/issuer' }] } });
    }
  });
});

describe('API8, configuration of the server itself', () => {
  test('answers say nothing of the inside, and are kept by nobody', async () => {
    const appliance = await startAppliance();
    const { bearer } = appliance.token('administrator');
    for (const [method, path] of [['GET', '/api/v1/status'], ['GET', '/nothing'], ['TRACE', '/api/v1/status'], ['OPTIONS', '/api/v1/status'], ['DELETE', '/api/v1/status']] as const) {
      const { status, headers, text } = await appliance.https(path, { method, headers: { ...bearer } });
      expect([path, method, status]).toEqual([path, method, path === '/api/v1/status' ? (method === 'GET' ? 200 : status) : 404]);
      if (method !== 'GET') expect([400, 404, 405, 501]).toContain(status);
      expect(headers).not.toHaveProperty('server');
      expect(headers).not.toHaveProperty('x-powered-by');
      expect(headers).not.toHaveProperty('access-control-allow-origin');
      expect(text).not.toMatch(/\.(ts|js):\d+|node_modules|at \w+ \(/);
      if (status !== 400) expect(headers).toMatchObject({ 'cache-control': 'no-store', 'x-content-type-options': 'nosniff' });
    }
  });

  test('web pages of another origin get nothing, also with a client certificate that browsers send by themselves', async () => {
    const ca = makeCa();
    const appliance = await startAppliance({ clients: { caFile: ca.file, roles: [{ subject: 'ops', role: 'administrator' }] } });
    const certificate = ca.issue('ops');
    expect((await appliance.https('/api/v1/config/confirm', { method: 'POST', ...certificate, headers: { origin: 'https://evil.example.net' } })).status).toBe(403);
    expect((await appliance.https('/api/v1/config/confirm', { method: 'POST', ...certificate, headers: { origin: 'null' } })).status).toBe(403);
    expect((await appliance.https('/api/v1/whoami', { ...certificate, headers: { origin: `https://127.0.0.1:${appliance.port}` } })).status).toBe(200);
  });

  test('TLS is 1.3; keys, tokens and the audit log are for control alone; the socket is for its group', async () => {
    const appliance = await startAppliance();
    appliance.token('viewer');
    await expect(new Promise((resolve, reject) => {
      connectTls({ host: '127.0.0.1', port: appliance.port, rejectUnauthorized: false, maxVersion: 'TLSv1.2' }).once('secureConnect', () => resolve('connected')).once('error', reject);
    })).rejects.toThrow();
    const { apiState, auditState, apiSocket } = appliance.paths;
    for (const path of [apiState, auditState, join(apiState, 'tls'), join(apiState, 'tokens.json'), join(apiState, 'tls', 'ca.key'), join(apiState, 'tls', 'server.key'), join(auditState, 'audit.jsonl')]) expect([path, statSync(path).mode & 0o077]).toEqual([path, 0]);
    expect(statSync(apiSocket).mode & 0o007).toBe(0);
  });
});

describe('API9, inventory', () => {
  test('everything that answers is in the document, or in this list', async () => {
    const appliance = await startAppliance();
    const routes = appliance.api.printRoutes({ commonPrefix: false }).split('\n').flatMap((line) => /[└├]── (\S+) \(([^)]*)\)/.exec(line)?.slice(1, 3).join(' ') ?? []);
    expect(routes.length).toBeGreaterThan(20);
    for (const path of ['/api', '/api/v1', '/api/v2/status', '/api/v0/status', '/v1/status', '/debug', '/admin', '/.env', '/docs']) expect([path, (await appliance.socket(path)).status]).toEqual([path, 404]);
    const documented = new Set((await operationsOf(appliance)).map(({ resource }) => resource));
    expect([...appliance.access.resources].filter((resource) => !documented.has(resource)).sort()).toEqual(['health', 'metrics', 'openapi'].filter((one) => !documented.has(one)));
  });
});

test('answers of access are those of the document', async () => {
  const appliance = await startAppliance();
  const contract = new Contract((await appliance.socket('/api/v1/openapi.json')).body as unknown as Document);
  const asked = async (method: string, path: string, body?: unknown): Promise<Record<string, unknown>> => {
    const answer = await appliance.socket(path, { method, ...(body === undefined ? {} : { body }) });
    contract.check(method, path, { ...answer, body: answer.text === '' ? undefined : answer.body });
    return answer.body;
  };
  const { id } = await asked('POST', '/api/v1/tokens', { name: 'x', role: 'viewer', scopes: ['rules'] });
  for (const path of ['/api/v1/whoami', '/api/v1/access', '/api/v1/tokens', `/api/v1/tokens/${String(id)}`, '/api/v1/audit', '/api/v1/audit/verification', '/api/v1/tokens/0000000000000000']) await asked('GET', path);
  await asked('DELETE', `/api/v1/tokens/${String(id)}`);
  await asked('POST', '/api/v1/tokens', {});
});

describe('API10, what others answer', () => {
  test('an issuer that fails, stalls or lies opens nothing and stops nobody else', async () => {
    const ca = makeCa();
    const { cert, key } = ca.issue('issuer', { usage: 'serverAuth', names: 'IP:127.0.0.1' });
    let answer = '';
    const server = createServer({ cert, key }, (_request, response) => void response.end(answer));
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    onTestFinished(() => { server.closeAllConnections(); server.close(); });
    const url = `https://127.0.0.1:${(server.address() as { port: number }).port}`;
    const appliance = await startAppliance({ limits: { failuresPerMinute: 1000 } });
    for (answer of ['', 'null', '[]', '{"keys":{}}', '{"keys":[null]}', '{"keys":[{"kty":"oct","k":"AAAA","kid":"x"}]}', `{"issuer":"${url}","jwks_uri":"http://169.254.169.254/"}`, `{"x":"${'a'.repeat(300_000)}"}`]) {
      for (const oidc of [undefined, { issuer: url, audience: 'sluice', caFile: ca.file, roles: [{ group: 'a', role: 'administrator' as const }], ...(answer.includes('keys') ? { jwksUri: `${url}/keys` } : {}) }]) {
        await appliance.access.configure({ ...appliance.running(), api: { ...appliance.running().api, ...(oidc ? { oidc } : {}) } }); // anew each time: it asks once in a while only
      }
      const encode = (value: object): string => Buffer.from(JSON.stringify(value)).toString('base64url');
      const token = `${encode({ alg: 'ES256', kid: 'x' })}.${encode({ iss: url, aud: 'sluice', sub: 'x', exp: 4e9, groups: ['a'] })}.${'A'.repeat(86)}`;
      expect([401, 503]).toContain((await appliance.https('/api/v1/status', { headers: { authorization: `Bearer ${token}` } })).status);
      expect((await appliance.https('/api/v1/status', { headers: appliance.token('viewer').bearer })).status).toBe(200);
    }
  });
});
