// Frames between engine and control: what was sent arrives, however it was cut; what is broken ends the connection and nothing else.
import { createServer, type Server } from 'node:net';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, onTestFinished, test } from 'vitest';
import {
  connectIpc, encodeFrame, FRAME_BYTES_MAX, FrameKind, FrameParser, HEAD_BYTES_MAX, IpcConnection, IpcError, listenIpc, REQUESTS_MAX,
  type ConnectionHandlers, type Frame,
} from '../../src/engine/ipc.js';

/** A repeatable source of randomness: a failure can be run again. */
function makeRandom(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 0x1_0000_0000) * below);
  };
}

function parseAll(bytes: Buffer, cut: (left: number) => number): Frame[] {
  const parser = new FrameParser();
  const frames: Frame[] = [];
  for (let at = 0; at < bytes.length;) {
    const length = Math.max(1, Math.min(bytes.length - at, cut(bytes.length - at)));
    frames.push(...parser.push(bytes.subarray(at, at + length)));
    at += length;
  }
  return frames;
}

describe('frames', () => {
  test('arrive as they were sent, however the stream is cut', () => {
    const random = makeRandom(1);
    const sent = Array.from({ length: 50 }, (_, id) => ({
      kind: random(4) as FrameKind, id, head: { method: `m${id}`, text: 'x'.repeat(random(300)) }, tail: Uint8Array.from({ length: random(2000) }, () => random(256)),
    }));
    const stream = Buffer.concat(sent.map(({ kind, id, head, tail }) => encodeFrame(kind, id, head, tail)));
    for (const cut of [() => 1, () => 3, () => random(100), (left: number) => left]) expect(parseAll(stream, cut)).toEqual(sent);
  });

  test('a tail starts at the start of its own buffer, so that typed arrays fit', () => {
    const [frame] = parseAll(encodeFrame(FrameKind.EVENT, 0, { event: 'records' }, new Uint8Array(16)), () => 5);
    expect(frame!.tail.byteOffset).toBe(0);
    expect(frame!.tail.buffer.byteLength).toBe(16);
  });

  test.each([
    { fault: 'a length that is too small', bytes: [6, 0, 0, 0] },
    { fault: 'a length past the bound', bytes: [1, 0, 0, 4] },
    { fault: 'a kind that there is not', bytes: [7, 0, 0, 0, 4, 1, 0, 0, 0, 0, 0] },
    { fault: 'a head longer than its frame', bytes: [9, 0, 0, 0, 0, 1, 0, 0, 0, 3, 0, 123, 125] },
    { fault: 'a head that is no JSON', bytes: [9, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 123, 123] },
    { fault: 'a head that is no object', bytes: [9, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 91, 93] },
  ])('refuses $fault', ({ bytes }) => {
    expect(() => parseAll(Buffer.from(bytes), (left) => left)).toThrow(IpcError);
  });

  test('bounds what is sent', () => {
    expect(() => encodeFrame(FrameKind.REQUEST, 1, { text: 'x'.repeat(HEAD_BYTES_MAX) })).toThrow(/head of/);
    expect(() => encodeFrame(FrameKind.REQUEST, 1, {}, new Uint8Array(FRAME_BYTES_MAX))).toThrow(/frame of/);
  });

  test('fuzz: bytes of any kind give frames or an IpcError, nothing else', () => {
    const random = makeRandom(7);
    const valid = encodeFrame(FrameKind.REQUEST, 3, { method: 'status' }, new Uint8Array(20));
    for (let round = 0; round < 20_000; round += 1) {
      const bytes = random(2) === 0 ? Buffer.from(Array.from({ length: random(60) }, () => random(256))) : Buffer.concat([valid, valid]);
      for (let flips = random(4); flips > 0 && bytes.length > 0; flips -= 1) bytes[random(bytes.length)] = random(256);
      try {
        parseAll(bytes, () => 1 + random(20));
      } catch (error) {
        expect(error).toBeInstanceOf(IpcError);
      }
    }
  });
});

describe('connections', () => {
  const servers: Server[] = [];
  afterEach(() => servers.splice(0).forEach((server) => server.close()));

  async function connect(serving: ConnectionHandlers, asking: ConnectionHandlers = {}): Promise<{ client: IpcConnection; server: () => IpcConnection }> {
    const dir = mkdtempSync(join(tmpdir(), 'sluice-ipc-'));
    onTestFinished(() => rmSync(dir, { recursive: true, force: true }));
    const path = join(dir, 'engine.sock');
    let accepted: IpcConnection | undefined;
    servers.push(await listenIpc(path, (socket) => { accepted = new IpcConnection(socket, serving); }));
    const client = await connectIpc(path, asking);
    onTestFinished(() => client.close());
    return { client, server: () => accepted! };
  }

  test('a request is answered with head and tail', async () => {
    const { client } = await connect({ onRequest: (method, { head, tail }) => ({ head: { method, given: head['x'] }, tail: tail.map((byte) => byte + 1) }) });
    const answer = await client.request('echo', { x: 5 }, Uint8Array.of(1, 2));
    expect(answer.head).toEqual({ method: 'echo', given: 5 });
    expect([...answer.tail]).toEqual([2, 3]);
  });

  test('an error keeps its code', async () => {
    const { client } = await connect({ onRequest: () => { throw new IpcError('SLUICE_SNAPSHOT', 'rule 3 names no prefix'); } });
    await expect(client.request('apply')).rejects.toMatchObject({ code: 'SLUICE_SNAPSHOT', message: 'rule 3 names no prefix' });
  });

  test('many requests at a time each get their own answer', async () => {
    const { client } = await connect({ onRequest: async (_method, { head }) => ({ head: { n: await Promise.resolve(head['n']) } }) });
    const answers = await Promise.all(Array.from({ length: REQUESTS_MAX }, (_, n) => client.request('n', { n })));
    expect(answers.map(({ head }) => head['n'])).toEqual(Array.from({ length: REQUESTS_MAX }, (_, n) => n));
  });

  test('a request without an answer times out, and the connection lives', async () => {
    const { client } = await connect({ onRequest: (method) => (method === 'slow' ? new Promise(() => undefined) : {}) });
    await expect(client.request('slow', {}, undefined, 20)).rejects.toMatchObject({ code: 'SLUICE_IPC_TIMEOUT' });
    await expect(client.request('quick')).resolves.toBeDefined();
  });

  test('more unanswered requests than the bound are refused', async () => {
    const { client } = await connect({ onRequest: () => new Promise(() => undefined) });
    const waiting = Array.from({ length: REQUESTS_MAX }, () => client.request('slow').catch((error: IpcError) => error.code));
    await expect(client.request('one too many')).rejects.toMatchObject({ code: 'SLUICE_IPC_BUSY' });
    client.close();
    expect(new Set(await Promise.all(waiting))).toEqual(new Set(['SLUICE_IPC_CLOSED']));
  });

  test('events arrive in order', async () => {
    const seen: unknown[] = [];
    const { client, server } = await connect({ onRequest: () => ({}) }, { onEvent: (name, { head }) => seen.push([name, head['n']]) });
    await client.request('ready');
    for (let n = 0; n < 3; n += 1) server().event('changed', { n });
    await expect.poll(() => seen).toEqual([['changed', 0], ['changed', 1], ['changed', 2]]);
  });

  test('what breaks the format ends the connection, and its requests fail', async () => {
    const dir = mkdtempSync(join(tmpdir(), 'sluice-ipc-'));
    onTestFinished(() => rmSync(dir, { recursive: true, force: true }));
    const path = join(dir, 's');
    const server = createServer((socket) => socket.on('data', () => socket.write(Buffer.alloc(4)))).listen(path);
    servers.push(server);
    const client = await connectIpc(path, {});
    await expect(client.request('anything')).rejects.toMatchObject({ code: 'SLUICE_IPC_CLOSED' });
    expect(client.isOpen).toBe(false);
  });
});
