// HTTPS: TLS 1.3 alone, the appliance's own CA, given certificates, their change while it runs, client certificates, slow and many callers.
import { X509Certificate } from 'node:crypto';
import { copyFileSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { connect as connectTcp, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { connect as connectTls, type ConnectionOptions, type TLSSocket } from 'node:tls';
import { describe, expect, onTestFinished, test } from 'vitest';
import { alternativeNames, roleOfCertificate } from '../../src/api/access-certificate.js';
import { namesOf, ownCertificate } from '../../src/api/tls-certificate.js';
import { parseListen } from '../../src/api/tls.js';
import type { Config } from '../../src/config/schema.js';
import { freePort, makeCa, startAccess, startHttps, temporaryDirectory, type AccessBench } from './access-bench.js';

const DAY_MS = 86_400_000;

/** Shakes hands; rejects when the other side will not. */
function shake(bench: AccessBench, options: ConnectionOptions = {}): Promise<TLSSocket> {
  return new Promise((resolve, reject) => {
    const socket = connectTls({ host: '127.0.0.1', port: bench.port, rejectUnauthorized: false, ...options });
    onTestFinished(() => void socket.destroy());
    socket.once('secureConnect', () => resolve(socket)).once('error', reject);
  });
}

/** What comes until the other side ends the connection. */
const untilEnd = (socket: Socket): Promise<string> => new Promise((resolve) => {
  let text = '';
  socket.on('data', (data: Buffer) => { text += data.toString('latin1'); }).on('error', () => { /* it ends, too */ }).on('close', () => resolve(text));
});

describe('TLS', () => {
  test('is 1.3, and nothing older', async () => {
    const bench = await startHttps();
    expect((await shake(bench)).getProtocol()).toBe('TLSv1.3');
    await expect(shake(bench, { maxVersion: 'TLSv1.2' })).rejects.toThrow();
    await expect(shake(bench, { minVersion: 'TLSv1', maxVersion: 'TLSv1.1', ciphers: 'DEFAULT@SECLEVEL=0' })).rejects.toThrow();
  });

  test('gives nobody a session to resume', async () => {
    const bench = await startHttps();
    const first = await shake(bench);
    const session = await new Promise<Buffer | undefined>((resolve) => {
      first.once('session', resolve);
      first.on('data', () => setImmediate(() => resolve(undefined))); // after the answer none will come
      first.write('GET /health HTTP/1.1\r\nhost: x\r\n\r\n');
    });
    const second = await shake(bench, session ? { session } : {});
    expect(second.isSessionReused()).toBe(false);
  });

  test('plain HTTP on its port gets nothing', async () => {
    const bench = await startHttps();
    const socket = connectTcp(bench.port, '127.0.0.1');
    socket.write('GET /health HTTP/1.1\r\nhost: x\r\n\r\n');
    expect(await untilEnd(socket)).not.toContain('status');
  });
});

describe('the appliance\'s own certificate', () => {
  test('is made at the first start, and holds the names that clients use', async () => {
    const bench = await startHttps({ names: ['fw.example.net', '2001:db8::4'] });
    expect(await bench.https('/health')).toMatchObject({ status: 200 }); // verified with ca.pem, for 127.0.0.1
    expect((await bench.https('/rules')).status).toBe(401);
    const directory = join(bench.paths.apiState, 'tls');
    const certificate = new X509Certificate(readFileSync(join(directory, 'server.pem')));
    expect(namesOf(certificate)).toEqual(['127.0.0.1', '2001:db8::4', 'fw.example.net', 'nva-test']);
    expect(certificate.ca).toBe(false);
    expect(Date.parse(certificate.validTo) - Date.now()).toBeLessThan(398 * DAY_MS);
    for (const name of ['ca.key', 'server.key']) expect(statSync(join(directory, name)).mode & 0o777).toBe(0o600);
    expect(bench.logged()).not.toContain('PRIVATE KEY');
  });

  test('stays as it is while it fits; is made anew for other names and when its end is near, by the same CA', async () => {
    const directory = temporaryDirectory();
    const make = (names: string[], now = Date.now()): Promise<string> => ownCertificate(directory, 'nva', names, now).then(({ certificate }) => certificate);
    const first = await make(['a.example.net', '10.0.0.1']);
    const ca = readFileSync(join(directory, 'ca.pem'), 'utf8');
    expect(await make(['10.0.0.1', 'a.example.net'])).toBe(first);
    const second = await make(['b.example.net']);
    expect(second).not.toBe(first);
    expect(await make(['b.example.net'], Date.now() + 360 * DAY_MS)).toBe(second);
    expect(await make(['b.example.net'], Date.now() + 368 * DAY_MS)).not.toBe(second);
    expect(readFileSync(join(directory, 'ca.pem'), 'utf8')).toBe(ca);
    expect(new X509Certificate(second).verify(new X509Certificate(ca).publicKey)).toBe(true);
  });

  test.each(['server.key', 'server.pem'])('a damaged %s is made anew; the CA stays', async (file) => {
    const directory = temporaryDirectory();
    await ownCertificate(directory, 'nva', ['a']);
    const ca = readFileSync(join(directory, 'ca.pem'), 'utf8');
    writeFileSync(join(directory, file), 'damage');
    const { certificate, key } = await ownCertificate(directory, 'nva', ['a']);
    expect([certificate.includes('BEGIN CERTIFICATE'), key.includes('BEGIN PRIVATE KEY'), certificate.endsWith(ca)]).toEqual([true, true, true]);
  });

  test('a CA that lost its key is not replaced behind anybody\'s back', async () => {
    const directory = temporaryDirectory();
    await ownCertificate(directory, 'nva', ['a']);
    rmSync(join(directory, 'ca.key'));
    await expect(ownCertificate(directory, 'nva', ['a'])).rejects.toMatchObject({ code: 'SLUICE_API_TLS', remedy: expect.stringContaining('backup') as string });
  });
});

describe('given certificates', () => {
  test('are used, and taken over when they change, without a new listener', async () => {
    const ca = makeCa();
    const [first, second] = [1, 2].map(() => ca.issue('fw', { usage: 'serverAuth', names: 'IP:127.0.0.1' })) as [ReturnType<typeof ca.issue>, ReturnType<typeof ca.issue>];
    const bench = await startHttps({ tls: { certificateFile: first.certFile, keyFile: first.keyFile } });
    const serial = async (): Promise<string> => (await shake(bench, { ca: ca.certificate, rejectUnauthorized: true })).getPeerCertificate().serialNumber;
    const old = await shake(bench);
    expect(await serial()).toBe(new X509Certificate(first.cert).serialNumber);
    const listener = (bench.access as unknown as { listener: { refresh(): Promise<void>; problem?: string } }).listener;

    copyFileSync(second.keyFile, first.keyFile); // half of the change: key and certificate do not belong together
    await listener.refresh();
    expect(bench.access.view.certificateProblem).toMatch(/is not the key/);
    expect(await serial()).toBe(new X509Certificate(first.cert).serialNumber);

    copyFileSync(second.certFile, first.certFile);
    await listener.refresh();
    expect(bench.access.view.certificateProblem).toBeNull();
    expect(await serial()).toBe(new X509Certificate(second.cert).serialNumber);
    old.write('GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n');
    expect(await untilEnd(old)).toMatch('200 OK'); // connections that were there go on
  });

  test.each([
    ['a file that is not there', () => ({ certificateFile: '/nowhere/c.pem', keyFile: '/nowhere/k.pem' }), /\/nowhere\/c\.pem/],
    ['a key of another certificate', () => ({ certificateFile: makeCa().issue('a').certFile, keyFile: makeCa().issue('b').keyFile }), /is not the key of/],
    ['a certificate that is none', () => { const { keyFile } = makeCa().issue('a'); return { certificateFile: keyFile, keyFile }; }, /holds no certificate/],
    ['a key that is none', () => { const { certFile } = makeCa().issue('a'); return { certificateFile: certFile, keyFile: certFile }; }, /holds no private key/],
  ])('%s refuse a commit, and say what would be right', async (_name, tls, message) => {
    const bench = await startHttps();
    await expect(bench.access.prepare({ version: 1, api: { listen: `127.0.0.1:${bench.port}`, tls: tls() } } as Config)).rejects.toMatchObject({ status: 409, code: 'SLUICE_API_TLS', message: expect.stringMatching(message) as string });
    expect((await bench.https('/health')).status).toBe(200);
  });
});

test('an expired certificate is used, and said', async () => {
  const ca = makeCa();
  const { certFile, keyFile } = ca.issue('fw', { usage: 'serverAuth', names: 'IP:127.0.0.1', days: -1 });
  const bench = await startHttps({ tls: { certificateFile: certFile, keyFile } });
  await shake(bench);
  await expect(shake(bench, { ca: ca.certificate, rejectUnauthorized: true })).rejects.toThrow(/expired/);
  expect(bench.access.view.certificateProblem).toMatch(/expired on/);
  expect(bench.logged()).toMatch(/expired on/);
});

test('files that are gone are no reason against another change', async () => {
  const { certFile, keyFile } = makeCa().issue('fw', { usage: 'serverAuth', names: 'IP:127.0.0.1' });
  const bench = await startHttps({ tls: { certificateFile: certFile, keyFile } });
  rmSync(keyFile);
  const before = { version: 1, hostname: 'nva-test', api: { listen: `127.0.0.1:${bench.port}`, tls: { certificateFile: certFile, keyFile } } } as Config;
  const request = { by: { name: 'x', via: 'socket' as const } };
  await (await bench.access.prepare({ ...before, timers: { udp: 300 } } as Config, before, request)).commit();
  await expect(bench.access.prepare({ ...before, hostname: 'other' } as Config, before, request)).rejects.toMatchObject({ code: 'SLUICE_API_TLS' });
  expect((await shake(bench)).getProtocol()).toBe('TLSv1.3');
});

describe('the listener', () => {
  test('moves with the configuration, and goes with it', async () => {
    const bench = await startHttps();
    const before = bench.port;
    bench.port = await freePort();
    await bench.configure({ listen: `127.0.0.1:${bench.port}` });
    expect((await bench.https('/health')).status).toBe(200);
    await expect(shake({ ...bench, port: before })).rejects.toThrow(/ECONNREFUSED/);
    await bench.configure({ listen: `0.0.0.0:${bench.port}` }); // the same port: the old one has to go first
    expect((await bench.https('/health')).status).toBe(200);
    await bench.configure({});
    await expect(shake(bench)).rejects.toThrow(/ECONNREFUSED/);
    expect(bench.access.view.listen).toBeNull();
  });

  test('a port that another program has refuses a commit; what is in force stays', async () => {
    const bench = await startHttps();
    const other = createServer();
    const port = await new Promise<number>((resolve) => other.listen(0, '127.0.0.1', () => resolve((other.address() as { port: number }).port)));
    onTestFinished(() => void other.close());
    await expect(bench.access.prepare({ version: 1, api: { listen: `127.0.0.1:${port}` } } as Config)).rejects.toMatchObject({ status: 409, code: 'SLUICE_API_LISTEN', pointer: '/api/listen', message: expect.stringContaining('another program') as string });
    expect((await bench.https('/health')).status).toBe(200);
  });

  test('a prepared change that is abandoned leaves nothing open', async () => {
    const bench = await startHttps();
    const port = await freePort();
    const prepared = await bench.access.prepare({ version: 1, api: { listen: `127.0.0.1:${port}` } } as Config);
    await prepared.abandon();
    await expect(shake({ ...bench, port })).rejects.toThrow(/ECONNREFUSED/);
    expect((await bench.https('/health')).status).toBe(200);
  });

  test('comes when its port becomes free, when it was taken at the start', async () => {
    const other = createServer();
    const port = await new Promise<number>((resolve) => other.listen(0, '127.0.0.1', () => resolve((other.address() as { port: number }).port)));
    const bench = await startAccess();
    bench.port = port;
    await bench.configure({ listen: `127.0.0.1:${port}` });
    expect(bench.access.view).toMatchObject({ listen: null, problem: expect.stringContaining('another program') as string });
    await new Promise((resolve) => other.close(resolve));
    await expect.poll(() => bench.access.view.listen).toBe(`127.0.0.1:${port}`);
    expect(bench.access.view.problem).toBeNull();
  });

  test.each([['127.0.0.1:8443', { host: '127.0.0.1', port: 8443 }], ['[::1]:443', { host: '::1', port: 443 }]])('%s is an address and a port', (text, address) => expect(parseListen(text)).toEqual(address));
});

describe('callers that cost', () => {
  test('one address has so many connections, and no more', async () => {
    const bench = await startHttps({ limits: { connectionsPerAddress: 3 } });
    const held = await Promise.all([1, 2, 3].map(() => shake(bench)));
    await expect(shake(bench)).rejects.toThrow();
    expect(bench.access.view.refusedConnections).toBe(1);
    held[0]!.destroy();
    await expect.poll(() => shake(bench).then(() => true, () => false)).toBe(true);
  });

  test('all together have so many', async () => {
    const bench = await startHttps({ limits: { connections: 2 } });
    await Promise.all([1, 2].map(() => shake(bench)));
    await expect(shake(bench)).rejects.toThrow();
  });

  test('whoever does not shake hands, or sends its head byte by byte, is let go', async () => {
    const bench = await startHttps();
    const silent = connectTcp(bench.port, '127.0.0.1');
    const slow = await shake(bench);
    slow.write('GET /health HTTP/1.1\r\nhost: x\r\nx-slow: ');
    const timer = setInterval(() => slow.write('a'), 200);
    onTestFinished(() => clearInterval(timer));
    const [, answer] = await Promise.all([untilEnd(silent), untilEnd(slow)]);
    expect(answer).toMatch(/^HTTP\/1\.1 408 /);
    expect(answer).toContain('SLUICE_API_SLOW');
  }, 20_000);

  test.each([
    ['no HTTP', 'nonsense\r\n\r\n', 400, 'SLUICE_API_REQUEST'], ['a large head', `GET / HTTP/1.1\r\nhost: x\r\nx: ${'a'.repeat(20_000)}\r\n\r\n`, 431, 'SLUICE_API_HEADERS_TOO_LARGE'],
    ['two lengths', 'POST /question HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}', 400, 'SLUICE_API_REQUEST'],
    ['length and chunks', 'POST /question HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n', 400, 'SLUICE_API_REQUEST'],
  ])('%s is answered with a problem, and the end', async (_name, bytes, status, code) => {
    const bench = await startHttps();
    const socket = await shake(bench);
    socket.write(bytes);
    const answer = await untilEnd(socket);
    expect(answer).toMatch(new RegExp(`^HTTP/1\\.1 ${status} `));
    expect(answer).toContain(code);
    expect(bench.handled).toEqual([]);
  });
});

describe('client certificates', () => {
  const roles = [{ subject: 'backup', role: 'viewer' as const, scopes: ['rules:read'] }, { name: 'URI:spiffe://example.net/deploy', role: 'operator' as const }];

  test('that the CA made have the role of their name', async () => {
    const ca = makeCa();
    const bench = await startHttps({ clients: { caFile: ca.file, roles } });
    expect(await bench.https('/rules', ca.issue('backup'))).toMatchObject({ status: 200, body: { by: { name: 'backup', via: 'mtls' }, role: 'viewer' } });
    expect((await bench.https('/sessions', ca.issue('backup'))).status).toBe(403);
    expect(await bench.https('/rules', { ...ca.issue('x', { names: 'URI:spiffe://example.net/deploy' }), method: 'PUT', body: {} })).toMatchObject({ status: 200, body: { role: 'operator' } });
    for (const stranger of [ca.issue('somebody'), makeCa().issue('backup'), ca.issue('backup', { usage: 'serverAuth' }), ca.issue('x', { names: 'DNS:backup' }), ca.issue('x', { names: 'URI:spiffe://example.net/deploy2' })]) {
      expect(await bench.https('/rules', stranger)).toMatchObject({ status: 401, body: { code: 'SLUICE_AUTHENTICATION' } });
    }
    expect((await bench.https('/rules')).status).toBe(401);
    expect((await bench.https('/rules', { headers: bench.token('viewer').bearer })).status).toBe(200); // tokens go on beside them
  });

  test('a revoked one ends, and so does a whole CA, also on connections that are there', async () => {
    const ca = makeCa();
    const [good, bad] = [ca.issue('backup'), ca.issue('backup')];
    const bench = await startHttps({ clients: { caFile: ca.file, roles } });
    expect((await bench.https('/rules', bad)).status).toBe(200);
    const kept = await shake(bench, { cert: good.cert, key: good.key });
    const askKept = (): Promise<string> => new Promise((resolve) => {
      kept.once('data', (data: Buffer) => resolve(data.toString().split(' ')[1]!));
      kept.write('GET /rules HTTP/1.1\r\nhost: x\r\n\r\n');
    });
    expect(await askKept()).toBe('200');
    await bench.configure({ listen: `127.0.0.1:${bench.port}`, clients: { caFile: ca.file, crlFile: ca.revoke(bad.certFile), roles } });
    expect((await bench.https('/rules', bad)).status).toBe(401);
    expect((await bench.https('/rules', good)).status).toBe(200);
    expect(await askKept()).toBe('401'); // what the old list proved counts no more
    const other = makeCa();
    await bench.configure({ listen: `127.0.0.1:${bench.port}`, clients: { caFile: other.file, roles } });
    expect((await bench.https('/rules', good)).status).toBe(401);
    expect((await bench.https('/rules', other.issue('backup'))).status).toBe(200);
  });

  test.each([
    ['DNS:a.example.net, IP Address:10.0.0.1, email:a@example.net', ['DNS:a.example.net', 'IP Address:10.0.0.1', 'email:a@example.net']],
    ['URI:"http://x/, DNS:admin", DNS:b', ['URI:http://x/, DNS:admin', 'DNS:b']],
    ['DNS:"a\\", DNS:admin, DNS:b"', ['DNS:a", DNS:admin, DNS:b']],
    ['DNS:a\0b, email:"x', []], [undefined, []], ['', []],
  ])('names of %j', (text, names) => expect(alternativeNames(text)).toEqual(names));

  test('an entry has to fit as a whole', () => {
    const both = [{ subject: 'a', name: 'DNS:a', role: 'viewer' as const }];
    expect(roleOfCertificate('a', ['DNS:a'], both)).toBeDefined();
    expect([roleOfCertificate('a', [], both), roleOfCertificate('', ['DNS:a'], both), roleOfCertificate('', [], [{ role: 'viewer' }])]).toEqual([undefined, undefined, undefined]);
  });
});
