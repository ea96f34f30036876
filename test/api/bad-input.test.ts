// What nobody should send, over a real socket: a coded error, bounded cost, no effect.
import { request } from 'node:http';
import { connect } from 'node:net';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { depthOf } from '../../src/api/bodies.js';
import type { ProblemDetails } from '../../src/api/errors.js';
import { startApi, type ApiBench } from './bench.js';

const ends: (() => void | Promise<void>)[] = [];
let bench: ApiBench;
let before: string;
beforeAll(async () => {
  bench = await startApi({ keep: (end) => void ends.unshift(end), timeouts: { head: 300, request: 600, silence: 2000, check: 50 } });
  await bench.api.listen({ path: bench.paths.apiSocket });
  before = JSON.stringify(bench.config());
});
afterAll(async () => {
  expect(JSON.stringify(bench.config())).toBe(before);
  for (const end of ends) await end();
});

interface Got { status: number; problem: ProblemDetails; sent: number }

/** Sends what `write` writes, and reads the answer, if the server closes earlier too. */
function send(method: string, path: string, headers: Record<string, string | number>, write: (to: { write(chunk: string | Buffer): boolean; once(event: 'drain', listener: () => void): unknown }) => Promise<void> | void): Promise<Got> {
  return new Promise((resolve, reject) => {
    let answered = false;
    const asking = request({ socketPath: bench.paths.apiSocket, method, path, headers: { 'x-role': 'administrator', ...headers }, agent: false }, (response) => {
      answered = true;
      const chunks: Buffer[] = [];
      response.on('data', (chunk: Buffer) => chunks.push(chunk));
      response.on('end', () => resolve({ status: response.statusCode ?? 0, problem: JSON.parse(Buffer.concat(chunks).toString()) as ProblemDetails, sent: asking.socket?.bytesWritten ?? 0 }));
      response.on('error', reject);
    });
    asking.on('error', (error) => { if (!answered) reject(error); });
    void Promise.resolve(write(asking)).then(() => asking.end());
  });
}

/** Raw bytes in, everything out until the server closes. */
function sendRaw(bytes: string | Buffer, more?: (write: (text: string) => void) => void): Promise<string> {
  return new Promise((resolve) => {
    const socket = connect(bench.paths.apiSocket);
    let got = '';
    socket.on('data', (chunk) => { got += chunk.toString(); });
    socket.on('close', () => resolve(got));
    socket.on('error', () => undefined);
    socket.write(bytes);
    more?.((text) => void (socket.writable && socket.write(text)));
  });
}

const json = (text: string | Buffer): [Record<string, string | number>, (to: { write(chunk: string | Buffer): boolean }) => void] =>
  [{ 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) }, (to) => void to.write(text)];

describe('bodies', () => {
  test.each<[string, string | Buffer, number, string]>([
    ['nothing', '', 400, 'SLUICE_API_BODY'], ['half', '{"from": "tr', 400, 'SLUICE_API_BODY'], ['two', '{}{}', 400, 'SLUICE_API_BODY'], ['not UTF-8', Buffer.from([0x7b, 0xff, 0xfe, 0x7d]), 400, 'SLUICE_API_BODY'],
    ['NaN', '{"port": NaN}', 400, 'SLUICE_API_BODY'], ['null', 'null', 400, 'SLUICE_API_ARGUMENT'], ['a list', '[]', 400, 'SLUICE_API_ARGUMENT'], ['a number', '1e999', 400, 'SLUICE_API_ARGUMENT'],
    ['__proto__', '{"__proto__": {"role": "administrator"}}', 400, 'SLUICE_API_BODY'], ['constructor.prototype', '{"constructor": {"prototype": {"x": 1}}}', 400, 'SLUICE_API_BODY'],
    ['deep lists', '['.repeat(30_000) + ']'.repeat(30_000), 400, 'SLUICE_API_BODY'], ['deep mappings', '{"a":'.repeat(10_000) + '1' + '}'.repeat(10_000), 400, 'SLUICE_API_BODY'],
    ['a NUL', '{"from": "a\\u0000b"}', 400, 'SLUICE_API_ARGUMENT'],
  ])('%s', async (_name, text, status, code) => {
    const { problem } = await send('POST', '/api/v1/simulate', ...json(text));
    expect(problem).toMatchObject({ status, code, detail: expect.any(String) as string });
  });

  test('brackets in strings are no depth', () => {
    expect([depthOf(Buffer.from('{"a":"[[[[{{{\\"[[["}')), depthOf(Buffer.from('[[1],[2,[3]]]')), depthOf(Buffer.from('""'))]).toEqual([1, 3, 0]);
  });

  test('of another type', async () => {
    const { problem } = await send('POST', '/api/v1/simulate', { 'content-type': 'application/xml' }, (to) => void to.write('<a/>'));
    expect(problem).toMatchObject({ status: 415, code: 'SLUICE_API_MEDIA_TYPE' });
  });

  test('50 MB where 64 KiB are taken: refused by its announced length, and while it comes', async () => {
    const announced = await send('POST', '/api/v1/simulate', { 'content-type': 'application/json', 'content-length': 50 * 1024 * 1024 }, (to) => void to.write('{'));
    expect(announced.problem).toMatchObject({ status: 413, code: 'SLUICE_API_BODY_TOO_LARGE' });
    expect(announced.sent).toBeLessThan(1024 * 1024);
    const chunk = Buffer.alloc(16 * 1024, 0x20);
    const streamed = await send('POST', '/api/v1/simulate', { 'content-type': 'application/json', 'transfer-encoding': 'chunked' }, (to) => {
      for (let index = 0; index < 8; index += 1) to.write(chunk);
    });
    expect(streamed.problem).toMatchObject({ status: 413, code: 'SLUICE_API_BODY_TOO_LARGE' });
  });

  test('50 MB of configuration: read, refused, and let go', async () => {
    const chunk = Buffer.from('{"version":1}'.padEnd(1024 * 1024, ' '));
    const { problem } = await send('PUT', '/api/v1/config', { 'content-type': 'application/yaml', 'if-match': '*', 'transfer-encoding': 'chunked' }, async (to) => {
      for (let index = 0; index < 50; index += 1) if (!to.write(chunk)) await new Promise<void>((resolve) => void to.once('drain', resolve));
    });
    expect(problem.status).toBeGreaterThanOrEqual(400);
    expect(problem.status).toBeLessThan(500);
    expect(problem.code).toMatch(/^SLUICE_/);
  });
});

describe('addresses', () => {
  test.each([
    ['/api/v1/../../etc/passwd', 404], ['/api/v1/%2e%2e/%2e%2e/etc/passwd', 404], ['/api/v1/config/history/..%2f..%2f..%2fetc%2fpasswd', 400], ['/api/v1/config/history/%00', 400], ['/api/v1/sessions/..%5c..', 400],
    ['/api/v1/config/firewall/rules/..%2f..%2fetc', 404], ['/api/v1/status/', 404], ['//api/v1/status', 404], ['/API/v1/status', 404], ['/api/v1/config/firewall/rules/%', 400], ['/api/v1/config/firewall/rules/%c0%ae', 400],
    [`/api/v1/config/firewall/rules/${'a'.repeat(5000)}`, 414], ['/api/v1/operations/00000000-0000-0000-0000-000000000000', 404], ['/api/v1/config/objects/addresses/__proto__', 404], ['/api/v1/config/interfaces/constructor', 404],
    ['/api/v1/config/firewall/rules/%0a', 400], ['/api/v1/sessions?limit=1&limit=2', 400], ['/api/v1/sessions?__proto__=1', 400], ['/api/v1/sessions?limit[]=1', 400], ['/api/v1/flows?last=1e9', 400], ['/api/v1/flows?last=', 400],
  ])('address %# is refused', async (path, status) => {
    const { problem } = await send('GET', path, {}, () => undefined);
    expect(problem).toMatchObject({ status, code: expect.stringMatching(/^SLUICE_/) as string });
    expect(JSON.stringify(problem)).not.toMatch(/root:|node_modules|at .*\.(ts|js):/);
  });
});

describe('heads and slow callers', () => {
  test('no HTTP at all', async () => {
    for (const bytes of ['\x16\x03\x01\x02\x00\x01\x00', 'GET\r\n\r\n', 'FETCH / HTTP/1.1\r\nhost: x\r\n\r\n']) {
      const answer = await sendRaw(bytes);
      expect(answer).toMatch(/^HTTP\/1\.1 400 /);
      expect(answer).toContain('SLUICE_API_REQUEST');
    }
  });

  test('a head of 64 KiB', async () => {
    const answer = await sendRaw(`GET /api/v1/status HTTP/1.1\r\nhost: x\r\nx-a: ${'a'.repeat(65_536)}\r\n\r\n`);
    expect(answer).toMatch(/^HTTP\/1\.1 431 /);
    expect(answer).toContain('SLUICE_API_HEADERS_TOO_LARGE');
  });

  test('two lengths, and a length beside chunks: no second request hides in the first (RFC 9112, 6.3)', async () => {
    const smuggle = 'GET /api/v1/sessions HTTP/1.1\r\n\r\n';
    for (const framing of [`content-length: 5\r\ncontent-length: 6`, `content-length: 4\r\ntransfer-encoding: chunked`]) {
      const answer = await sendRaw(`POST /api/v1/reload HTTP/1.1\r\nhost: x\r\nx-role: operator\r\n${framing}\r\n\r\n0\r\n\r\n${smuggle}`);
      expect(answer).toMatch(/^HTTP\/1\.1 400 /);
      expect(answer.match(/HTTP\/1\.1 \d/g)).toHaveLength(1);
    }
  });

  test('a head that never ends, and one that comes byte by byte, are cut off with 408', async () => {
    expect(await sendRaw('GET /api/v1/status HTTP/1.1\r\nhost: x\r\n')).toMatch(/^HTTP\/1\.1 408 [^]*SLUICE_API_SLOW/);
    let timer: NodeJS.Timeout | undefined;
    const answer = await sendRaw('GET /api/v1/status HTTP/1.1\r\nx-a: ', (write) => { timer = setInterval(() => write('a'), 20); });
    clearInterval(timer);
    expect(answer).toMatch(/^HTTP\/1\.1 408 /);
  });

  test('a body that never comes is cut off', async () => {
    const answer = await sendRaw('POST /api/v1/simulate HTTP/1.1\r\nhost: x\r\nx-role: viewer\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{');
    expect(answer).toMatch(/^HTTP\/1\.1 408 [^]*SLUICE_API_SLOW|^$/);
  });
});
