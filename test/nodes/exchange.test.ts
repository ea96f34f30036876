// Exchange over real TLS: who is who is decided by pinned keys, before a byte of HTTP.
import { once } from 'node:events';
import { createServer } from 'node:https';
import { connect as connectTcp } from 'node:net';
import { connect, type ConnectionOptions, type TLSSocket } from 'node:tls';
import { describe, expect, onTestFinished, test } from 'vitest';
import { exchange, EXCHANGE_PATH, NodeListener, type Message } from '../../src/nodes/exchange.js';
import { loadIdentity, type NodeIdentity } from '../../src/nodes/identity.js';
import { openRecord, signRecord } from '../../src/nodes/record.js';
import { makeCa } from '../api/access-bench.js';
import { makeIdentity, makeRecord, NOW, temporaryDirectory } from './support.js';

interface Bench { listener: NodeListener; identity: NodeIdentity; url: URL; known: Set<string>; got: { id: string; message: Message }[]; strangers: (string | undefined)[]; answer: () => Promise<Message> }

async function startListener(): Promise<Bench> {
  const identity = await makeIdentity();
  const bench = { identity, known: new Set(), got: [], strangers: [], answer: () => Promise.resolve({ have: 3, record: null, refused: null }) } as unknown as Bench;
  bench.listener = new NodeListener({ host: '127.0.0.1', port: 0 }, {
    identity, isKnown: (id) => bench.known.has(id),
    answer: (id, message) => {
      bench.got.push({ id, message });
      return bench.answer();
    },
    onStranger: (_address, id) => bench.strangers.push(id), onError: (error) => { throw error; },
  });
  bench.url = new URL(`https://127.0.0.1:${await bench.listener.listen()}`);
  onTestFinished(() => bench.listener.close());
  return bench;
}

const shake = async (bench: Bench, options: ConnectionOptions): Promise<TLSSocket> => {
  const socket = connect({ host: '127.0.0.1', port: Number(bench.url.port), rejectUnauthorized: false, ...options });
  onTestFinished(() => void socket.destroy());
  socket.on('error', () => { /* it ends, too */ });
  await new Promise((resolve) => void socket.once('secureConnect', resolve).once('close', resolve));
  return socket;
};
const untilEnd = (socket: TLSSocket): Promise<string> => new Promise((resolve) => {
  let text = '';
  socket.on('data', (data: Buffer) => { text += data.toString('latin1'); }).on('close', () => resolve(text));
  if (socket.destroyed) resolve(text);
});
const REQUEST = `POST ${EXCHANGE_PATH} HTTP/1.1\r\nhost: x\r\ncontent-length: 42\r\n\r\n{"have":null,"record":null,"refused":null}`;

describe('exchange', () => {
  test('gives each end what the other has signed', async () => {
    const bench = await startListener();
    const caller = await makeIdentity();
    bench.known.add(caller.id);
    const [mine, theirs] = [caller, bench.identity].map(({ id, privateKey }) => signRecord(makeRecord(id), privateKey));
    bench.answer = () => Promise.resolve({ have: 7, record: theirs!, refused: null });
    const answer = await exchange(bench.url, bench.identity.id, caller, { have: null, record: mine!, refused: null });
    expect(answer.have).toBe(7);
    expect(openRecord(answer.record, bench.identity.id, NOW).node).toBe(bench.identity.id);
    expect(bench.got).toHaveLength(1);
    expect(bench.got[0]!.id).toBe(caller.id);
    expect(openRecord(bench.got[0]!.message.record, caller.id, NOW).node).toBe(caller.id);
  });

  test('an identity is the same after a restart', async () => {
    const directory = temporaryDirectory();
    const first = await loadIdentity(directory);
    const second = await loadIdentity(directory);
    expect([second.id, second.certificate]).toEqual([first.id, first.certificate]);
  });

  test('a caller that the configuration does not name gets nothing, not even an answer', async () => {
    const bench = await startListener();
    const stranger = await makeIdentity();
    await expect(exchange(bench.url, bench.identity.id, stranger, { have: null, record: null, refused: null })).rejects.toThrow(/does it know this node/);
    expect(bench.strangers).toEqual([stranger.id]);
    expect(bench.got).toEqual([]);
  });

  test('one that is taken out is refused at the next request', async () => {
    const bench = await startListener();
    const caller = await makeIdentity();
    bench.known.add(caller.id);
    await exchange(bench.url, bench.identity.id, caller, { have: null, record: null, refused: null });
    bench.known.delete(caller.id);
    await expect(exchange(bench.url, bench.identity.id, caller, { have: null, record: null, refused: null })).rejects.toThrow();
    expect(bench.got).toHaveLength(1);
  });

  test('a caller tells nothing to whoever answers with another identity', async () => {
    const bench = await startListener();
    const [caller, expected] = [await makeIdentity(), await makeIdentity()];
    bench.known.add(caller.id);
    await expect(exchange(bench.url, expected.id, caller, { have: 1, record: null, refused: null })).rejects.toThrow(`who answers there is ${bench.identity.id}`);
    expect(bench.got).toEqual([]);
  });

  test('nor to a server with a certificate of a CA', async () => {
    const caller = await makeIdentity();
    const ca = makeCa();
    const { cert, key } = ca.issue('nva-2', { usage: 'serverAuth' });
    let requests = 0;
    const server = createServer({ cert, key }, (_request, response) => {
      requests += 1;
      response.end('{"have":null,"record":null}');
    }).listen(0, '127.0.0.1');
    onTestFinished(() => void server.close());
    await once(server, 'listening');
    const { port } = server.address() as { port: number };
    await expect(exchange(new URL(`https://127.0.0.1:${port}`), (await makeIdentity()).id, caller, { have: null, record: null, refused: null })).rejects.toThrow(/who answers there is no node/);
    expect(requests).toBe(0);
  });

  test('a caller without a certificate, with one of a CA, or with a stolen certificate but not its key gets nothing', async () => {
    const bench = await startListener();
    const known = await makeIdentity();
    bench.known.add(known.id);
    const none = await shake(bench, {});
    none.write(REQUEST);
    expect(await untilEnd(none)).toBe('');
    const { cert, key } = makeCa().issue('nva-2');
    const other = await shake(bench, { cert, key });
    other.write(REQUEST);
    expect(await untilEnd(other)).toBe('');
    const thief = await makeIdentity();
    expect(() => connect({ host: '127.0.0.1', port: Number(bench.url.port), cert: known.certificate, key: thief.key })).toThrow(); // openssl itself sees that they do not belong together
    expect(bench.got).toEqual([]);
    const right = await shake(bench, { cert: known.certificate, key: known.key });
    right.write(REQUEST);
    expect(await untilEnd(right)).toMatch(/^HTTP\/1\.1 (200|400)/);
  });

  test('is TLS 1.3, and nothing older; plain HTTP gets nothing', async () => {
    const bench = await startListener();
    const caller = await makeIdentity();
    bench.known.add(caller.id);
    const old = await shake(bench, { cert: caller.certificate, key: caller.key, maxVersion: 'TLSv1.2' });
    expect(old.getProtocol() === 'TLSv1.2' && !old.destroyed).toBe(false);
    const plain = connectTcp(Number(bench.url.port), '127.0.0.1');
    plain.on('error', () => { /* it ends, too */ });
    let text = '';
    plain.on('data', (data: Buffer) => { text += data.toString('latin1'); });
    plain.write(REQUEST);
    await once(plain, 'close');
    expect(text).not.toContain('HTTP/1.1 200');
    expect(bench.got).toEqual([]);
  });

  test('a message larger than any is refused, and so is what is no message', async () => {
    const bench = await startListener();
    const caller = await makeIdentity();
    bench.known.add(caller.id);
    const send = (message: unknown): Promise<Message> => exchange(bench.url, bench.identity.id, caller, message as Message);
    await expect(send({ have: null, record: { record: 'x'.repeat(70_000), signature: '' }, refused: null })).rejects.toThrow();
    await expect(send({ have: -1, record: null, refused: null })).rejects.toThrow(/400.*have, record/);
    await expect(send({ have: null, refused: null })).rejects.toThrow(/400/);
    await expect(send([])).rejects.toThrow(/400/);
    expect(bench.got).toEqual([]);
    await send({ have: null, record: null, refused: null });
    expect(bench.got).toHaveLength(1);
  });

  test('what a refused record lacks is told to who sent it', async () => {
    const bench = await startListener();
    const caller = await makeIdentity();
    bench.known.add(caller.id);
    bench.answer = () => Promise.reject(new Error('its sequence 3 is lower than 7'));
    await expect(exchange(bench.url, bench.identity.id, caller, { have: null, record: null, refused: null })).rejects.toThrow(/sequence 3 is lower than 7/);
  });
});
