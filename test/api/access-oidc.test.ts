// OIDC bearer tokens against an issuer that is a real HTTPS server: what counts, what does not, and what the issuer's faults cost.
import { generateKeyPairSync } from 'node:crypto';
import { createServer, type Server } from 'node:https';
import { exportJWK, generateKeyPair, SignJWT, UnsecuredJWT, type CryptoKey, type JWK, type JWTHeaderParameters } from 'jose';
import { beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { Oidc, OidcError, roleOfGroups, type OidcConfig } from '../../src/api/oidc.js';
import { makeCa, startHttps, type AccessBench } from './access-bench.js';

const CALLER = { transport: 'socket', uid: 0, pid: 1 } as const;

interface Keys { privateKey: CryptoKey; publicKey: CryptoKey; kid: string; alg: string }
const makeKeys = async (kid: string, alg = 'ES256'): Promise<Keys> => ({ ...await generateKeyPair(alg, { extractable: true }), kid, alg });
const publish = async (keys: Keys): Promise<JWK> => ({ ...await exportJWK(keys.publicKey), kid: keys.kid, alg: keys.alg, use: 'sig' });

interface Issuer { url: string; caFile: string; keys: Keys; asked: string[]; answer: Record<string, unknown>; status: number; stall: boolean }

async function startIssuer(): Promise<Issuer> {
  const ca = makeCa('Issuer CA');
  const { cert, key } = ca.issue('issuer', { usage: 'serverAuth', names: 'IP:127.0.0.1' });
  const issuer: Issuer = { url: '', caFile: ca.file, keys: await makeKeys('one'), asked: [], answer: {}, status: 200, stall: false };
  const server: Server = createServer({ cert, key }, (request, response) => {
    issuer.asked.push(request.url!);
    if (issuer.stall) return;
    response.writeHead(issuer.status, { 'content-type': 'application/json', ...(issuer.status === 302 ? { location: `${issuer.url}/elsewhere` } : {}) });
    response.end(JSON.stringify(issuer.answer[request.url!] ?? {}));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  onTestFinished(() => { server.closeAllConnections(); server.close(); });
  issuer.url = `https://127.0.0.1:${(server.address() as { port: number }).port}`;
  issuer.answer['/.well-known/openid-configuration'] = { issuer: issuer.url, jwks_uri: `${issuer.url}/keys` };
  issuer.answer['/keys'] = { keys: [await publish(issuer.keys)] };
  return issuer;
}

const configOf = (issuer: Issuer, over: Partial<OidcConfig> = {}): OidcConfig => ({
  issuer: issuer.url, audience: 'sluice', caFile: issuer.caFile, roles: [{ group: 'fw-admins', role: 'administrator' }, { group: 'fw-readers', role: 'viewer', scopes: ['rules:read'] }], ...over,
});

interface Claims { issuer?: string; audience?: string | string[]; subject?: string | null; expires?: number | null; notBefore?: number; issuedAt?: number; groups?: unknown; header?: Partial<JWTHeaderParameters>; more?: object }
const now = (): number => Math.floor(Date.now() / 1000);

function sign(issuer: Issuer, { issuer: iss = issuer.url, audience = 'sluice', subject = 'u-1', expires = now() + 300, notBefore, issuedAt = now(), groups = ['fw-admins'], header = {}, more = {} }: Claims = {}, keys = issuer.keys): Promise<string> {
  const jwt = new SignJWT({ groups, ...more } as Record<string, unknown>).setProtectedHeader({ alg: keys.alg, kid: keys.kid, ...header }).setIssuer(iss).setAudience(audience).setIssuedAt(issuedAt);
  if (subject !== null) jwt.setSubject(subject);
  if (expires !== null) jwt.setExpirationTime(expires);
  if (notBefore !== undefined) jwt.setNotBefore(notBefore);
  return jwt.sign(keys.privateKey);
}

describe('a token', () => {
  test('of our issuer, for us, in time, has the role of its groups', async () => {
    const issuer = await startIssuer();
    const oidc = new Oidc(configOf(issuer, { nameClaim: 'email' }));
    expect(await oidc.identify(await sign(issuer, { more: { email: 'alice@example.net' } }), CALLER)).toEqual({
      name: 'alice@example.net', via: 'oidc', id: `oidc:${issuer.url} u-1`, role: 'administrator', scopes: undefined, caller: CALLER, grant: { kind: 'oidc', issuer: issuer.url, groups: ['fw-admins'] },
    });
    expect(await oidc.identify(await sign(issuer, { groups: ['fw-readers'] }), CALLER)).toMatchObject({ name: 'u-1', role: 'viewer', scopes: ['rules:read'] });
    expect(await oidc.identify(await sign(issuer, { audience: ['other', 'sluice'], groups: 'fw-admins' }), CALLER)).toMatchObject({ role: 'administrator' });
    expect(await oidc.identify(await sign(issuer, { expires: now() - 20, notBefore: now() + 20 }), CALLER)).toMatchObject({ role: 'administrator' }); // clocks differ
    expect(issuer.asked).toEqual(['/.well-known/openid-configuration', '/keys']);
  });

  test('names its groups where the configuration says', async () => {
    const issuer = await startIssuer();
    const oidc = new Oidc(configOf(issuer, { groupsClaim: 'realm_access.roles' }));
    expect(await oidc.identify(await sign(issuer, { groups: [], more: { realm_access: { roles: ['x', 'fw-admins'] } } }), CALLER)).toMatchObject({ role: 'administrator' });
    await expect(oidc.identify(await sign(issuer), CALLER)).rejects.toThrow('none of its groups');
  });

  const wrong: [string, Claims, RegExp][] = [
    ['of another issuer', { issuer: 'https://evil.example.net' }, /iss/], ['for somebody else', { audience: 'other' }, /aud/], ['for our name as a part', { audience: 'sluice2' }, /aud/],
    ['that is over', { expires: now() - 60 }, /exp/], ['that has no end', { expires: null }, /exp/], ['not valid yet', { notBefore: now() + 60 }, /nbf/], ['without a subject', { subject: null }, /sub/],
    ['without groups', { groups: null }, /none of its groups/], ['with groups that are none', { groups: { 0: 'fw-admins', length: 1 } }, /none of its groups/], ['with other groups', { groups: ['fw-admins2', 'FW-ADMINS'] }, /none of its groups/],
    ['with a header that must be understood', { header: { crit: ['x'], x: 1 } as object }, /crit|extension/i], ['with an unknown key', { header: { kid: 'other' } }, /no applicable key/],
  ];
  test.each(wrong)('%s is refused', async (_name, claims, message) => {
    const issuer = await startIssuer();
    const refusal = await new Oidc(configOf(issuer)).identify(await sign(issuer, claims).catch(async () => forge(issuer, claims)), CALLER).catch((error: unknown) => error);
    expect(refusal).toBeInstanceOf(OidcError);
    expect((refusal as OidcError).message).toMatch(message);
    expect((refusal as OidcError).isOurs).toBe(false);
  });

  test('that is older than it may be is refused', async () => {
    const issuer = await startIssuer();
    const oidc = new Oidc(configOf(issuer, { maxAge: 600 }));
    expect(await oidc.identify(await sign(issuer, { issuedAt: now() - 500 }), CALLER)).toBeDefined();
    await expect(oidc.identify(await sign(issuer, { issuedAt: now() - 1000 }), CALLER)).rejects.toThrow(OidcError);
  });
});

describe('a forged token', () => {
  let issuer: Issuer;
  let mallory: Keys;
  beforeAll(async () => { mallory = await makeKeys('one'); });
  const refuse = async (token: string, over: Partial<OidcConfig> = {}): Promise<void> => {
    await expect(new Oidc(configOf(issuer, over)).identify(token, CALLER)).rejects.toThrow(OidcError);
  };

  test('signed by somebody else', async () => {
    issuer = await startIssuer();
    await refuse(await sign(issuer, {}, mallory));
  });

  test('that brings its own key', async () => {
    issuer = await startIssuer();
    const jwk = await exportJWK(mallory.publicKey);
    await refuse(await sign(issuer, { header: { jwk } }, mallory));
    await refuse(await sign(issuer, { header: { jku: 'https://evil.example.net/keys' } }, mallory));
    expect(issuer.asked.every((path) => path === '/keys' || path.startsWith('/.well-known'))).toBe(true);
  });

  test('with alg none', async () => {
    issuer = await startIssuer();
    await refuse(new UnsecuredJWT({ groups: ['fw-admins'] }).setIssuer(issuer.url).setAudience('sluice').setSubject('u').setExpirationTime('5m').encode());
    const [, payload, signature] = (await sign(issuer)).split('.');
    for (const alg of ['none', 'None', 'NONE', '']) await refuse(`${Buffer.from(JSON.stringify({ alg, kid: 'one' })).toString('base64url')}.${payload}.${signature}`);
  });

  test('signed by HMAC with the public key', async () => {
    issuer = await startIssuer();
    const { publicKey, privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
    issuer.answer['/keys'] = { keys: [{ ...publicKey.export({ format: 'jwk' }), kid: 'rsa' }] };
    const secret = publicKey.export({ format: 'pem', type: 'spki' });
    const claims = { groups: ['fw-admins'] };
    const token = await new SignJWT(claims).setProtectedHeader({ alg: 'HS256', kid: 'rsa' }).setIssuer(issuer.url).setAudience('sluice').setSubject('u').setExpirationTime('5m').sign(Buffer.from(secret));
    await refuse(token);
    const good = await new SignJWT(claims).setProtectedHeader({ alg: 'RS256', kid: 'rsa' }).setIssuer(issuer.url).setAudience('sluice').setSubject('u').setExpirationTime('5m').sign(privateKey);
    expect(await new Oidc(configOf(issuer)).identify(good, CALLER)).toBeDefined();
    await refuse(good, { algorithms: ['ES256'] }); // an algorithm that we did not choose
  });

  test('with a changed claim, a changed signature, or of no form', async () => {
    issuer = await startIssuer();
    const [header, payload, signature] = (await sign(issuer, { groups: ['fw-readers'] })).split('.') as [string, string, string];
    const changed = Buffer.from(Buffer.from(payload, 'base64url').toString().replace('fw-readers', 'fw-admins')).toString('base64url');
    for (const token of [`${header}.${changed}.${signature}`, `${header}.${payload}.`, `${header}.${payload}.${'A'.repeat(signature.length)}`, `${header}.${payload}`, `${header}.${payload}.${signature}.x`, '..', 'a.b.c', '', 'x'.repeat(100_000)]) await refuse(token);
  });
});

/** What jose itself would not sign. */
async function forge(issuer: Issuer, { header = {}, groups = ['fw-admins'] }: Claims): Promise<string> {
  const key = issuer.keys;
  const encode = (value: object): string => Buffer.from(JSON.stringify(value)).toString('base64url');
  const input = `${encode({ alg: key.alg, kid: key.kid, ...header })}.${encode({ iss: issuer.url, aud: 'sluice', sub: 'u', exp: now() + 300, groups })}`;
  const signature = await crypto.subtle.sign({ name: 'ECDSA', hash: 'SHA-256' }, key.privateKey, Buffer.from(input));
  return `${input}.${Buffer.from(signature).toString('base64url')}`;
}

describe('the issuer\'s keys', () => {
  test('change: a new one is fetched when a token names it, but not for each invention', async () => {
    const issuer = await startIssuer();
    const oidc = new Oidc(configOf(issuer), { keysCooldownMs: 50, keysAgeMs: 60_000 });
    await oidc.identify(await sign(issuer), CALLER);
    issuer.keys = await makeKeys('two');
    issuer.answer['/keys'] = { keys: [await publish(issuer.keys)] };
    const token = await sign(issuer);
    await expect.poll(() => oidc.identify(token, CALLER).then(() => true, () => false)).toBe(true);
    const asked = issuer.asked.length;
    const calm = new Oidc(configOf(issuer, { jwksUri: `${issuer.url}/keys` }));
    await calm.identify(token, CALLER);
    for (let n = 0; n < 50; n += 1) await calm.identify(await sign(issuer, { header: { kid: `invented-${n}` } }), CALLER).catch(() => undefined);
    expect(issuer.asked.length - asked).toBe(1);
  });

  test.each([
    ['an issuer that fails', (issuer: Issuer) => { issuer.status = 500; }], ['one that sends elsewhere', (issuer: Issuer) => { issuer.status = 302; }],
    ['one whose document names another issuer', (issuer: Issuer) => { issuer.answer['/.well-known/openid-configuration'] = { issuer: 'https://other.example.net', jwks_uri: `${issuer.url}/keys` }; }],
    ['one whose keys are not on HTTPS', (issuer: Issuer) => { issuer.answer['/.well-known/openid-configuration'] = { issuer: issuer.url, jwks_uri: 'http://127.0.0.1/keys' }; }],
    ['one whose keys are none', (issuer: Issuer) => { issuer.answer['/keys'] = { keys: 'none' }; }],
    ['one that answers without end', (issuer: Issuer) => { issuer.answer['/keys'] = { keys: [], padding: 'x'.repeat(400_000) }; }],
  ])('%s is our trouble, not the token\'s, and opens nothing', async (_name, spoil) => {
    const issuer = await startIssuer();
    spoil(issuer);
    const refusal = await new Oidc(configOf(issuer)).identify(await sign(issuer), CALLER).catch((error: unknown) => error);
    expect(refusal).toBeInstanceOf(OidcError);
    expect((refusal as OidcError).isOurs).toBe(true);
    expect(issuer.asked).not.toContain('/elsewhere');
  });

  test('an issuer whose certificate is not the CA\'s is not asked', async () => {
    const issuer = await startIssuer();
    await expect(new Oidc(configOf(issuer, { caFile: makeCa().file })).identify(await sign(issuer), CALLER)).rejects.toMatchObject({ isOurs: true });
    expect(issuer.asked).toEqual([]);
  });

  test('a failing issuer is asked once in a while, not at each request', async () => {
    const issuer = await startIssuer();
    issuer.status = 500;
    const oidc = new Oidc(configOf(issuer));
    const token = await sign(issuer);
    await Promise.all(Array.from({ length: 20 }, () => oidc.identify(token, CALLER).catch(() => undefined)));
    await oidc.identify(token, CALLER).catch(() => undefined);
    expect(issuer.asked).toHaveLength(1);
  });
});

describe('over HTTPS', () => {
  const ask = (bench: AccessBench, token: string): ReturnType<AccessBench['https']> => bench.https('/rules', { headers: { authorization: `Bearer ${token}` } });

  test('a person comes in with its name; a refused token leaves no trace of itself', async () => {
    const issuer = await startIssuer();
    const bench = await startHttps({ oidc: configOf(issuer) });
    expect(await ask(bench, await sign(issuer))).toMatchObject({ status: 200, body: { by: { name: 'u-1', via: 'oidc' }, role: 'administrator' } });
    const forged = await sign(issuer, {}, await makeKeys('one'));
    expect(await ask(bench, forged)).toMatchObject({ status: 401, body: { detail: 'the token is not valid' } });
    expect((await bench.audit()).at(-1)).toMatchObject({ event: 'refused', status: 401, by: { name: 'unknown', address: '127.0.0.1' } });
    const traces = bench.logged() + JSON.stringify(await bench.audit());
    for (const part of forged.split('.')) expect(traces).not.toContain(part);
    await bench.configure({ listen: `127.0.0.1:${bench.port}` });
    expect((await ask(bench, await sign(issuer))).status).toBe(401);
  });

  test('an issuer that is away is 503, and tokens of the appliance go on', async () => {
    const issuer = await startIssuer();
    issuer.status = 500;
    const bench = await startHttps({ oidc: configOf(issuer) });
    expect(await ask(bench, await sign(issuer))).toMatchObject({ status: 503, body: { code: 'SLUICE_OIDC_UNAVAILABLE' } });
    expect((await ask(bench, bench.token('viewer').secret)).status).toBe(200);
  });

  test('who fails too often is not verified any more, but a right token of the appliance always is', async () => {
    const issuer = await startIssuer();
    const bench = await startHttps({ oidc: configOf(issuer), limits: { failuresPerMinute: 3 } });
    const statuses: number[] = [];
    for (let n = 0; n < 6; n += 1) statuses.push((await ask(bench, 'a.b.c')).status);
    expect(statuses).toEqual([401, 401, 401, 429, 429, 429]);
    expect(await ask(bench, await sign(issuer))).toMatchObject({ status: 429, headers: { 'retry-after': expect.any(String) as string } });
    expect((await ask(bench, bench.token('viewer').secret)).status).toBe(200);
  });
});

test('of several groups the highest role counts, with the scopes of that role', () => {
  const roles = [{ group: 'a', role: 'viewer' as const }, { group: 'b', role: 'operator' as const, scopes: ['rules'] }, { group: 'c', role: 'operator' as const, scopes: 'sessions' }, { group: 'd', role: 'operator' as const }];
  expect(roleOfGroups(['a'], roles)).toEqual({ role: 'viewer', scopes: undefined });
  expect(roleOfGroups(['a', 'b', 'c'], roles)).toEqual({ role: 'operator', scopes: ['rules', 'sessions'] });
  expect(roleOfGroups(['b', 'd'], roles)).toEqual({ role: 'operator', scopes: undefined });
  expect(roleOfGroups([], roles)).toBeUndefined();
});
