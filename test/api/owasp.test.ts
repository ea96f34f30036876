// OWASP API Security Top 10 2023, a test or more for each, over every route that there is. How a caller proves who it is (API2) is tested
// with real sockets, tokens, OIDC and certificates in test/api/access*; here: what the routes do with whoever was recognised.
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Role } from '../../src/api/access.js';
import type { Operation } from '../tools/contract.js';
import { makeFlow } from '../control/bench.js';
import { startApi, type ApiBench } from './bench.js';

const ends: (() => void | Promise<void>)[] = [];
let bench: ApiBench;
beforeAll(async () => { bench = await startApi({ keep: (end) => void ends.unshift(end) }); });
afterAll(async () => { for (const end of ends) await end(); });

const ROLES: readonly Role[] = ['viewer', 'operator', 'administrator'];
interface Route { method: string; path: string; operation: Operation }

/** Every operation of the document, its path filled with something that could be. */
function routes(): Route[] {
  return Object.entries(bench.contract.document.paths).flatMap(([template, methods]) => Object.entries(methods).map(([method, operation]) => ({
    method: method.toUpperCase(), operation, path: `/api/v1${template.replace('{id}', '42').replace('{revision}', '1').replace('{to}', '10.9.0.0%2F16').replace(/\{\w+\}/, 'example')}`,
  })));
}
const bodyFor = ({ method }: Route): { body?: object } => (method === 'PUT' || method === 'POST' ? { body: {} } : {});
/** What a caller could change: the configuration, its history, the sessions. */
const state = (): string => JSON.stringify([bench.config(), bench.transactions.history(), bench.transactions.candidate, bench.addon.calls]);

describe('API1 broken object level authorization', () => {
  test('an operation is its owner\'s: to others it is not there, by its id neither', async () => {
    const accepted = await bench.ask('PUT', 'config/firewall/rules/owasp1', { role: 'operator', name: 'alice', headers: { prefer: 'respond-async' }, body: { action: 'deny', source: 'nonsense' } });
    const path = accepted.headers['location'] as string;
    const stranger = await bench.ask('GET', path, { role: 'operator', name: 'mallory' });
    const nothing = await bench.ask('GET', '/api/v1/operations/00000000-0000-0000-0000-000000000000', { role: 'operator', name: 'mallory' });
    expect(stranger.body).toEqual(nothing.body);
    expect((await bench.ask('GET', path, { role: 'viewer', name: 'alice' })).status).toBe(200);
  });

  test('an operation is its owner\'s, not that of another one of the same name, nor of an administrator for something else', async () => {
    const accepted = await bench.ask('POST', 'backup', { name: 'alice', headers: { prefer: 'respond-async', 'x-id': '1' }, body: { passphrase: 'correct horse battery' } });
    const path = accepted.headers['location'] as string;
    const seen = async (asked: object): Promise<[number, number]> => [(await bench.ask('GET', path, asked)).status, ((await bench.ask('GET', 'operations', asked)).body as { operations: { kind: string }[] }).operations.filter(({ kind }) => kind === 'backup').length];
    expect(await seen({ role: 'viewer', name: 'alice', headers: { 'x-id': '2' } })).toEqual([404, 0]);
    expect(await seen({ name: 'bob', scopes: 'operations' })).toEqual([404, 0]);
    expect(await seen({ name: 'alice', headers: { 'x-id': '1' } })).toEqual([200, 1]);
    expect(await seen({ name: 'root' })).toEqual([200, 1]);
  });

  test('a scope holds for each object of its resource and for no other resource', async () => {
    for (const route of routes()) {
      const { status } = await bench.ask(route.method, route.path, { scopes: route.operation['x-resource'] === 'counters' ? 'status' : 'counters', ...bodyFor(route) });
      expect([route.method, route.path, status]).toEqual([route.method, route.path, 403]);
    }
  });

  test('a scope for reading does not write', async () => {
    const before = state();
    for (const route of routes().filter(({ operation }) => operation['x-role'] !== 'viewer')) {
      expect([route.path, (await bench.ask(route.method, route.path, { scopes: `${route.operation['x-resource']}:read`, ...bodyFor(route) })).status]).toEqual([route.path, 403]);
    }
    expect(state()).toBe(before);
  });
});

describe('API2 broken authentication', () => {
  test('nobody gets further than the health of the appliance', async () => {
    for (const route of routes()) {
      expect([route.path, await bench.ask(route.method, route.path, { anonymous: true, ...bodyFor(route) })]).toMatchObject([route.path, { status: 401, body: { code: 'SLUICE_AUTHENTICATION' } }]);
    }
    expect((await bench.ask('GET', '/healthz', { anonymous: true })).status).toBe(200);
    for (const path of ['/metrics', '/nothing', '/api/v1/nothing']) expect([path, (await bench.ask('GET', path, { anonymous: true })).status]).toEqual([path, 401]);
  });
});

describe('API3 broken object property level authorization', () => {
  test('a body sets what its schema names and nothing else', async () => {
    for (const extra of ['role', 'by', 'revision', 'id', 'etag', 'isAdmin']) {
      expect(await bench.ask('PUT', 'config/firewall/rules/owasp3', { role: 'operator', body: { action: 'deny', [extra]: 'administrator' } })).toMatchObject({ status: 400, body: { pointer: `/${extra}` } });
    }
    expect(await bench.ask('POST', 'simulate', { body: { from: 'trust', source: '10.0.1.1', destination: '10.0.1.2', protocol: 'icmp', by: 'x' } })).toMatchObject({ status: 400, body: { pointer: '/by' } });
  });

  test('who made a change is who asked, whatever the request says', async () => {
    await bench.ask('PUT', 'config/firewall/rules/owasp3?comment=by%20root', { role: 'operator', name: 'bob', headers: { 'x-forwarded-user': 'root', from: 'root' }, body: { action: 'deny', source: '10.3.3.3' } });
    expect(bench.transactions.history()[0]).toMatchObject({ by: { name: 'bob', via: 'token' } });
  });

  test('an error says nothing of what is inside', async () => {
    const { counters } = bench.control;
    bench.control.counters = () => Promise.reject(new Error('secret at /root/.ssh/id_rsa'));
    const answer = await bench.ask('GET', 'counters');
    bench.control.counters = counters;
    expect(answer).toMatchObject({ status: 500, body: { code: 'SLUICE_API_INTERNAL' } });
    expect(answer.text).not.toMatch(/secret|root|\.ts/);
  });
});

describe('API4 unrestricted resource consumption', () => {
  test('no page is larger than its bound, and no body than its own', async () => {
    for (const path of ['sessions?limit=10001', 'flows?last=10001', 'drops?last=10001', 'config/firewall/rules?limit=10001', 'capture?packets=1000001', 'capture?seconds=3601']) {
      expect([path, (await bench.ask('GET', path)).status]).toEqual([path, 400]);
    }
    expect(await bench.ask('POST', 'simulate', { raw: `"${'x'.repeat(65_536)}"`, headers: { 'content-type': 'application/json' } })).toMatchObject({ status: 413 });
    expect(await bench.ask('PUT', 'config/firewall/rules/x', { raw: `{"action":"deny","description":"${'x'.repeat(5 * 1024 * 1024)}"}`, headers: { 'content-type': 'application/json' } })).toMatchObject({ status: 413 });
  });

  test('a filter that matches nothing looks at a bounded number of sessions and says where to go on', async () => {
    bench.addon.sessionRecords = Array<Uint8Array>(200_000).fill(makeFlow());
    const page = (await bench.ask('GET', 'sessions?protocol=esp')).body as { sessions: unknown[]; cursor: string | null };
    bench.addon.sessionRecords = [];
    expect(page).toEqual({ sessions: [], cursor: expect.any(String) as string });
  });

  test('requests a second have a bound for each caller, and Retry-After says how long', async () => {
    const answers = await Promise.all(Array.from({ length: 16 }, async () => {
      const statuses: number[] = [];
      for (let count = 0; count < 100; count += 1) statuses.push((await bench.ask('GET', '/api/v1/operations', { role: 'viewer', name: 'flood', headers: { 'x-limited': 'true' } })).status);
      return statuses;
    }));
    const all = answers.flat();
    expect(all).toContain(429);
    expect(all.every((status) => status === 200 || status === 429)).toBe(true);
    expect((await bench.ask('GET', 'operations', { role: 'viewer', name: 'somebody else' })).status).toBe(200);
  });
});

describe('API5 broken function level authorization', () => {
  test('each function asks for its role, and changing ones for more than a viewer\'s', async () => {
    const before = state();
    for (const route of routes()) {
      const needed = route.operation['x-role'] as Role;
      expect([route.path, ROLES.includes(needed)]).toEqual([route.path, true]);
      for (const role of ROLES.slice(0, ROLES.indexOf(needed))) {
        expect([route.method, route.path, role, (await bench.ask(route.method, route.path, { role, ...bodyFor(route) })).status]).toEqual([route.method, route.path, role, 403]);
      }
      // A question may be asked by POST; it is the handler's business that it stays one, and the fuzzer's to see.
      if (needed === 'viewer' && route.method !== 'GET') expect(['simulate', 'checkConfig']).toContain(route.operation.operationId);
    }
    expect(state()).toBe(before);
  });

  test('another method, another case or a slash more is no way around', async () => {
    for (const [method, path] of [['PATCH', '/api/v1/config/firewall/rules/telnet'], ['POST', '/api/v1/config/firewall/rules/telnet'], ['DELETE', '/api/v1/config'], ['PUT', '/api/v1/status']] as const) {
      const answer = await bench.ask(method, path, { role: 'viewer', body: {} });
      expect([path, answer.status, typeof answer.headers['allow']]).toEqual([path, 405, 'string']);
    }
    for (const path of ['/API/V1/config', '/api/v1/config/', '//api/v1/config', '/api/v1/config;x']) expect([path, (await bench.ask('PUT', path, { role: 'viewer', body: {} })).status]).toEqual([path, 404]);
    const overridden = await bench.ask('GET', '/api/v1/config/firewall/rules/telnet', { role: 'viewer', headers: { 'x-http-method-override': 'DELETE', 'x-method-override': 'DELETE' } });
    expect(overridden.status).toBe(200);
    expect(bench.config().firewall?.rules?.map(({ name }) => name)).toContain('telnet');
  });
});

describe('API6 unrestricted access to sensitive business flows', () => {
  test('ending each session must be meant and bounded; it is audited with its filter', async () => {
    expect(await bench.ask('POST', 'sessions/kill', { role: 'operator', body: { limit: 5 } })).toMatchObject({ status: 400, body: { pointer: '/all' } });
    await bench.ask('POST', 'sessions/kill', { role: 'operator', name: 'carol', body: { source: '10.0.1.10', limit: 5 } });
    expect(bench.audited.filter(({ by }) => by?.name === 'carol')).toEqual([
      expect.objectContaining({ event: 'request', path: '/api/v1/sessions/kill' }) as unknown,
      expect.objectContaining({ event: 'outcome', status: 200, detail: { filter: { source: '10.0.1.10' }, limit: 5 } }) as unknown,
    ]);
  });

  test('what somebody else wrote is not overwritten blindly', async () => {
    expect((await bench.ask('PUT', 'config/firewall/rules/telnet', { role: 'operator', body: { action: 'allow' } })).status).toBe(428);
    expect((await bench.ask('DELETE', 'config/firewall/rules/telnet', { role: 'operator' })).status).toBe(428);
  });
});

describe('API7 server side request forgery', () => {
  test('no route takes an address to fetch from', () => {
    const names = routes().flatMap(({ operation }) => (operation.parameters ?? []).map(({ name }) => name));
    expect(names.filter((name) => /url|uri|callback|webhook|redirect|host/i.test(name))).toEqual([]);
    expect(JSON.stringify(bench.contract.document.components.schemas)).not.toMatch(/"format":"uri"/);
  });
});

describe('API8 security misconfiguration', () => {
  test('answers are not stored, not guessed at, and for no other origin', async () => {
    for (const path of ['status', 'nothing']) {
      const { headers } = await bench.ask('GET', path, { headers: { accept: 'text/html' } });
      expect(headers).toMatchObject({ 'cache-control': 'no-store', 'x-content-type-options': 'nosniff' });
      expect(headers['access-control-allow-origin']).toBeUndefined();
      expect(headers['server'] ?? headers['x-powered-by']).toBeUndefined();
    }
    expect((await bench.ask('GET', 'status', { headers: { origin: 'https://evil.example', host: 'nva' } })).status).toBe(403);
    expect((await bench.ask('OPTIONS', 'status', { headers: { origin: 'https://evil.example', 'access-control-request-method': 'GET', host: 'nva' } })).status).toBeGreaterThanOrEqual(400);
    expect((await bench.ask('TRACE', 'status')).status).toBeGreaterThanOrEqual(400);
  });
});

describe('API9 improper inventory management', () => {
  test('every route of the API stands in its document, with role, resource, summary and answers', () => {
    expect(routes().length).toBeGreaterThan(50);
    const ids = routes().map(({ operation }) => operation.operationId);
    expect(new Set(ids).size).toBe(ids.length);
    const tags = bench.contract.document.tags.map(({ name }) => name);
    for (const { operation, path } of routes()) {
      expect({ path, ...operation }).toMatchObject({ 'x-role': expect.any(String) as string, 'x-resource': expect.stringMatching(/^[a-z-]+$/) as string, summary: expect.any(String) as string });
      expect(Object.keys(operation.responses)).toContain('default');
      expect(tags).toEqual(expect.arrayContaining(operation.tags));
      expect([path, Object.keys(operation.responses).length]).not.toEqual([path, 1]);
    }
  });

  test('other versions, and what was there before, are not', async () => {
    for (const path of ['/api', '/api/v0/status', '/api/v2/status', '/status', '/api/v1', '/docs', '/debug', '/.env']) expect([path, (await bench.ask('GET', path)).status]).toEqual([path, 404]);
  });
});

describe('API10 unsafe consumption of APIs', () => {
  test('what the engine sends is text, wherever it came from', async () => {
    bench.addon.sessionRecords = [makeFlow({ ruleId: 0xdead, fromInterface: 0xbeef, state: 250, protocol: 253, fromZone: 999 })];
    const answer = await bench.ask('GET', 'sessions', { role: 'viewer' });
    bench.addon.sessionRecords = [];
    expect(answer.body).toMatchObject({ sessions: [{ rule: '#0000dead', from: { interface: '#0000beef', zone: null }, state: 'unknown-250', protocol: '253' }] });
  });

  test('an engine that breaks off in the middle is 503, not an answer', async () => {
    const other = await startApi();
    other.addon.ruleHits = () => { throw Object.assign(new Error('gone'), { code: 'SLUICE_ENGINE_AWAY' }); };
    expect(await other.ask('GET', 'rules')).toMatchObject({ status: 503, body: { code: 'SLUICE_ENGINE_AWAY' } });
  });
});
