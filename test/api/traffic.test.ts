// Sessions by id and filter, captures, operations, and how much at once.
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { capture, type CaptureFilter, type CapturedPacket, type CaptureSource } from '../../src/api/capture.js';
import { Throttle } from '../../src/api/limits.js';
import { OperationsFile } from '../../src/api/operations-file.js';
import type { Principal } from '../../src/api/access.js';
import { Operations } from '../../src/api/operations.js';
import { CAPTURED_BYTES, DropReason, readCaptureFilter, SL_CAPTURE_IN, writeCaptured, type CaptureFilter as CaptureQuestion } from '../../src/engine/abi.generated.js';
import { id, makeFlow } from '../control/bench.js';
import { silentLog } from '../engine/fake-addon.js';
import { startApi, type ApiBench } from './bench.js';

/** `count` sessions whose ids have their place in the table, as the engine's have. */
function fill(bench: ApiBench, count: number, over: (index: number) => Parameters<typeof makeFlow>[0] = () => ({})): void {
  bench.addon.sessionRecords = Array.from({ length: count }, (_, index) => makeFlow({ sessionId: (7n << 32n) | BigInt(index), ...over(index) }));
}
const idAt = (index: number): string => ((7n << 32n) | BigInt(index)).toString();

const ends: (() => void | Promise<void>)[] = [];
let shared: ApiBench;
beforeAll(async () => { shared = await startApi({ keep: (end) => void ends.unshift(end) }); });
afterAll(async () => { for (const end of ends) await end(); });

describe('sessions', () => {
  test('pages of a filter meet each session once, wherever a page ends', async () => {
    const bench = await startApi();
    fill(bench, 3000, (index) => (index % 7 === 3 ? { protocol: 17 } : {}));
    const seen: string[] = [];
    let cursor: string | null = null;
    do {
      const page = (await bench.ask('GET', `sessions?protocol=udp&limit=50${cursor ? `&cursor=${cursor}` : ''}`, { role: 'viewer' })).body as { sessions: { sessionId: string }[]; cursor: string | null };
      seen.push(...page.sessions.map(({ sessionId }) => sessionId));
      expect(page.sessions.length).toBeLessThanOrEqual(50);
      cursor = page.cursor;
    } while (cursor !== null);
    expect(seen).toEqual(Array.from({ length: 3000 }, (_, index) => index).filter((index) => index % 7 === 3).map(idAt));
  });

  test.each([
    ['source=10.0.1.10', 2], ['source=203.0.113.0/24', 3], ['source=2001:db8::/32', 0], ['destination=198.51.100.0/25', 3], ['port=50123', 3], ['port=40001', 1], ['rule=outbound', 3], ['rule=egress', 3], ['rule=telnet', 0],
    ['from=trust', 3], ['to=untrust', 3], ['from=untrust', 0], ['state=new', 1], ['verdict=dropped', 0], ['verdict=allowed', 3], ['reason=no-route', 0], ['protocol=6', 3],
  ])('filter %s takes %d of three', async (filter, matches) => {
    const bench = shared;
    fill(bench, 3, (index) => (index === 2 ? { source: '10.0.1.99', srcPort: 40001, state: 0 } : {}));
    expect(((await bench.ask('GET', `sessions?${filter}`)).body as { sessions: unknown[] }).sessions).toHaveLength(matches);
  });

  test('one by its id; of another time it is not the same', async () => {
    const bench = await startApi();
    fill(bench, 10);
    expect(await bench.ask('GET', `sessions/${idAt(4)}`, { role: 'viewer' })).toMatchObject({ status: 200, body: { sessionId: idAt(4) } });
    for (const id of [((8n << 32n) | 4n).toString(), idAt(77), '99999999999999999999']) expect(await bench.ask('GET', `sessions/${id}`)).toMatchObject({ status: 404, body: { pointer: '/id' } });
    for (const id of ['x', '-1', '1e3', '..%2f..%2fstatus']) expect((await bench.ask('GET', `sessions/${id}`)).status).toBe(400);
  });

  test('ended one by one', async () => {
    const bench = await startApi();
    expect(await bench.ask('DELETE', 'sessions/42', { role: 'operator' })).toMatchObject({ status: 204, text: '' });
    expect(await bench.ask('DELETE', 'sessions/43', { role: 'operator' })).toMatchObject({ status: 404 });
  });

  test('ended by a filter, within a bound; without a filter only when it is meant', async () => {
    const bench = await startApi();
    const killed: bigint[] = [];
    bench.addon.killSession = (id) => killed.push(id) > 0;
    fill(bench, 100, (index) => (index % 2 === 0 ? { protocol: 17 } : {}));
    const kill = (body: object): ReturnType<ApiBench['ask']> => bench.ask('POST', 'sessions/kill', { role: 'operator', body });
    expect(await kill({ limit: 10 })).toMatchObject({ status: 400, body: { pointer: '/all' } });
    expect(await kill({ protocol: 'udp' })).toMatchObject({ status: 400, body: { pointer: '/limit' } });
    expect(await kill({ protocol: 'udp', limit: 1_000_000 })).toMatchObject({ status: 400, body: { pointer: '/limit' } });
    expect(await kill({ source: 'x', limit: 1 })).toMatchObject({ status: 400, body: { pointer: '/source' } });
    expect(killed).toEqual([]);
    expect(await kill({ protocol: 'udp', limit: 20 })).toMatchObject({ status: 200, body: { killed: 20, matched: 20, complete: false } });
    expect(await kill({ protocol: 'udp', limit: 50 })).toMatchObject({ status: 200, body: { killed: 50, complete: true } });
    expect(killed.every((id) => Number(id & 0xffffn) % 2 === 0)).toBe(true);
    expect(await kill({ all: true, limit: 1000 })).toMatchObject({ body: { matched: 100, complete: true } });
  });
});

describe('capture', () => {
  const packet = (index: number): CapturedPacket => ({ interface: index % 2 ? 'trust' : 'untrust', timeNs: 1_700_000_000_000_000_000n + BigInt(index), bytes: new Uint8Array(100).fill(index), originalBytes: 1500, direction: 'in' });
  /** Gives packets when it is told, and remembers what it was asked. */
  function makeSource(): CaptureSource & { filter?: CaptureFilter; give(count: number): void; stopped: number; lost: number; end(failure?: Error): void } {
    let listener: ((packet: CapturedPacket) => void) | undefined;
    let ended: ((failure?: Error) => void) | undefined;
    const source: ReturnType<typeof makeSource> = {
      stopped: 0, lost: 0, give: (count) => { for (let index = 0; index < count; index += 1) listener!(packet(index)); }, end: (failure) => ended!(failure),
      start: (filter, _snap, onPacket, onEnd) => {
        source.filter = filter;
        listener = onPacket;
        ended = onEnd;
        return Promise.resolve({ stop: () => { source.stopped += 1; return Promise.resolve(); }, lost: () => Promise.resolve(source.lost) });
      },
    };
    return source;
  }
  const blocksOf = (bytes: Buffer): { type: number; body: Buffer }[] => {
    const blocks: { type: number; body: Buffer }[] = [];
    for (let at = 0; at < bytes.length;) {
      const length = bytes.readUInt32LE(at + 4);
      expect(bytes.readUInt32LE(at + length - 4)).toBe(length);
      blocks.push({ type: bytes.readUInt32LE(at), body: bytes.subarray(at + 8, at + length - 4) });
      at += length;
    }
    return blocks;
  };
  const read = async (stream: Readable): Promise<Buffer> => Buffer.concat(await stream.toArray() as Buffer[]);
  const bounds = { packets: 5, bytes: 100_000, seconds: 60, snapBytes: 64 };
  const everything: CaptureFilter = { interfaces: [], bothWays: true };

  test('is pcapng: section, interfaces, packets cut to the snap length, statistics; ends at its count', async () => {
    const source = makeSource();
    const stream = await capture(source, everything, bounds);
    source.give(9);
    const blocks = blocksOf(await read(stream));
    expect(blocks.map(({ type }) => type)).toEqual([0x0a0d0d0a, 1, 6, 1, 6, 6, 6, 6, 5, 5]);
    const first = blocks[2]!.body;
    expect([first.readUInt32LE(12), first.readUInt32LE(16), (BigInt(first.readUInt32LE(4)) << 32n) | BigInt(first.readUInt32LE(8))]).toEqual([64, 1500, 1_700_000_000_000_000_000n]);
    expect(source.stopped).toBe(1);
  });

  test('ends at its bytes, when the source ends, and when the reader goes', async () => {
    const small = makeSource();
    const stream = await capture(small, everything, { ...bounds, packets: 1000, bytes: 1000 });
    small.give(100);
    expect((await read(stream)).length).toBeLessThan(1400);
    const cut = makeSource();
    const other = await capture(cut, everything, bounds);
    cut.end();
    expect(blocksOf(await read(other)).map(({ type }) => type)).toEqual([0x0a0d0d0a]);
    const left = makeSource();
    const third = await capture(left, everything, bounds);
    await new Promise((resolve) => third.on('close', resolve).destroy());
    expect([small.stopped, cut.stopped, left.stopped]).toEqual([1, 1, 1]);
  });

  test('what the engine lost, and why it ended early, stands in the statistics', async () => {
    const source = makeSource();
    const stream = await capture(source, everything, bounds);
    source.give(2);
    source.lost = 7;
    source.end(new Error('the engine process went away'));
    const [first, second, ...rest] = blocksOf(await read(stream)).filter(({ type }) => type === 5).map(({ body }) => body);
    expect(rest).toEqual([]);
    expect([first!.readUInt16LE(36), first!.readBigUInt64LE(40)]).toEqual([7, 7n]);
    expect(first!.toString('latin1')).toContain('the engine process went away');
    expect(second!.length).toBe(12 + 12 + 12 + 4);
  });

  test('a reader that does not read costs bounded memory, and what it missed is counted', async () => {
    const source = makeSource();
    const stream = await capture(source, { ...everything, interfaces: ['trust'] }, { packets: 1_000_000, bytes: 1 << 30, seconds: 60, snapBytes: 9216 });
    source.give(100_000);
    expect(stream.readableLength).toBeLessThan(5 * 1024 * 1024);
    source.end();
    const statistics = blocksOf(await read(stream)).filter(({ type }) => type === 5);
    const dropped = statistics.reduce((sum, { body }) => sum + Number(body.readBigUInt64LE(12 + 12 + 4)), 0);
    expect(dropped).toBeGreaterThan(50_000);
  });

  test('over the API: the filter in the source\'s words, operators only, 501 without a source', async () => {
    const source = makeSource();
    const bench = await startApi({ capture: source });
    const answer = bench.ask('GET', 'capture?interface=trust&protocol=tcp&source=10.0.1.0/24&port=443&packets=3&oneWay=true', { role: 'operator' });
    await expect.poll(() => source.filter).toBeDefined();
    source.give(3);
    expect(await answer).toMatchObject({ status: 200, headers: { 'content-type': 'application/x-pcapng' } });
    expect(source.filter).toMatchObject({ interfaces: ['trust'], protocol: 6, port: 443, bothWays: false, source: { length: 120 } });
    expect(await bench.ask('GET', 'capture', { role: 'viewer' })).toMatchObject({ status: 403 });
    expect(bench.audited.map(({ event, path }) => [event, path])).toContainEqual(['request', '/api/v1/capture']);
    for (const [query, pointer] of [['interface=mars', '/interface'], ['protocol=tpc', '/protocol'], ['source=10', '/source'], ['packets=0', '/packets'], ['snapLength=99999', '/snapLength'], ['filter=tcp', '/filter']]) {
      expect(await bench.ask('GET', `capture?${query}`)).toMatchObject({ status: 400, body: { pointer } });
    }
    expect(await (await startApi()).ask('GET', 'capture')).toMatchObject({ status: 501, body: { code: 'SLUICE_API_NOT_IMPLEMENTED' } });
  });
});

describe('capture by the engine\'s tap', () => {
  test('the filter goes down as bytes, packets come up as pcapng, and the tap is off afterwards', async () => {
    const bench = await startApi({ capture: 'engine' });
    const filters: (CaptureQuestion | undefined)[] = [];
    const packet = (reason: number): Uint8Array => {
      const bytes = new Uint8Array(CAPTURED_BYTES + 64);
      writeCaptured(new DataView(bytes.buffer), 0, { timeNs: 5n, recordBytes: bytes.length, interface: id('interface', 'trust'), bytes: 60, originalBytes: 900, captures: 1, direction: SL_CAPTURE_IN, reason });
      return bytes;
    };
    let waiting = [packet(0), packet(DropReason.POLICY_DENY)];
    bench.addon.setCapture = (_slot, filter) => void filters.push(filter && readCaptureFilter(new DataView(filter.buffer, filter.byteOffset), 0));
    bench.addon.captured = (into) => {
      const batch = Buffer.concat(waiting);
      waiting = [];
      into.set(batch);
      return batch.length;
    };
    const answer = await bench.ask('GET', 'capture?interface=trust&protocol=udp&destination=198.51.100.0/24&port=53&direction=in&packets=2&snapLength=60', { role: 'operator' });
    expect(answer).toMatchObject({ status: 200, headers: { 'content-type': 'application/x-pcapng' } });
    expect(answer.text).toContain('dropped: policy-deny');
    await expect.poll(() => filters).toHaveLength(2);
    expect(filters[0]).toMatchObject({ interface: id('interface', 'trust'), protocol: 17, port: 53, snapBytes: 60, directions: SL_CAPTURE_IN, destination: { length: 120 }, source: { length: 0 } });
    expect(filters[1]).toBeUndefined();
  });

  test('an engine that goes away ends it', async () => {
    const bench = await startApi({ capture: 'engine' });
    const answer = bench.ask('GET', 'capture?seconds=3600', { role: 'operator' });
    await expect.poll(() => (bench.control.captures as unknown as { running: Map<number, unknown> }).running.size).toBe(1);
    await expect.poll(() => (bench.host as unknown as { captures: Map<number, unknown> }).captures.size).toBe(1);
    await bench.control.engine.status(); // what the engine answered before this is here, too
    bench.host.stop();
    expect((await answer).status).toBe(200);
  });
});

const ADMINISTRATOR: Principal = { name: 'root', via: 'socket', id: 'uid:0', role: 'administrator', scopes: undefined, caller: { transport: 'internal' }, grant: { kind: 'root' } };

describe('operations', () => {
  test('what takes long is answered 202, and its outcome stands at its place; others do not see it', async () => {
    const bench = await startApi();
    let release = (): void => undefined;
    const held = new Promise<void>((resolve) => { release = resolve; });
    bench.control.engine.kill = async () => { await held; return true; };
    fill(bench, 3);
    const accepted = await bench.ask('POST', 'sessions/kill', { role: 'operator', name: 'eve', headers: { prefer: 'respond-async' }, body: { all: true, limit: 10 } });
    expect(accepted).toMatchObject({ status: 202, body: { state: 'running', kind: 'kill-sessions', by: { name: 'eve' } }, headers: { 'retry-after': '1' } });
    const location = accepted.headers['location'] as string;
    expect(await bench.ask('GET', location, { role: 'viewer', name: 'eve' })).toMatchObject({ status: 200, body: { state: 'running', finishedAt: null } });
    expect(await bench.ask('GET', location, { role: 'operator', name: 'mallory' })).toMatchObject({ status: 404 });
    expect((await bench.ask('GET', 'operations', { role: 'operator', name: 'mallory' })).body).toEqual({ operations: [] });
    expect(((await bench.ask('GET', 'operations', { role: 'administrator' })).body as { operations: unknown[] }).operations).toHaveLength(1);
    release();
    await expect.poll(async () => (await bench.ask('GET', location, { role: 'viewer', name: 'eve' })).body).toMatchObject({ state: 'done', result: { killed: 3, complete: true }, finishedAt: expect.any(String) as string });
  });

  test('a control process that starts says what became of those that the one before it was asked to watch', async () => {
    const bench = await startApi();
    const next = (): Operations => new Operations(silentLog, new OperationsFile(join(bench.paths.apiState, 'operations.json'), silentLog));
    bench.control.engine.kill = () => new Promise(() => undefined);
    fill(bench, 1);
    const ask = (path: string) => bench.ask('POST', path, { role: 'operator', name: 'eve', headers: { prefer: 'respond-async' }, body: { all: true, limit: 10 } });
    const hangs = (await ask('sessions/kill')).body as { id: string };
    expect(next().get(hangs.id, ADMINISTRATOR)).toMatchObject({ state: 'interrupted', kind: 'kill-sessions', by: { name: 'eve' }, finishedAt: expect.any(String) as string, problem: { code: 'SLUICE_API_INTERRUPTED' } });
    expect((await bench.ask('GET', `operations/${hangs.id}`)).body).toMatchObject({ state: 'running' });
    bench.control.engine.kill = () => Promise.resolve(true);
    const ends = (await ask('sessions/kill')).body as { id: string };
    await expect.poll(() => next().get(ends.id, ADMINISTRATOR)?.state).toBe('done');
    expect(next().get(ends.id, ADMINISTRATOR)).not.toHaveProperty('result');
    expect(next().list(ADMINISTRATOR).map(({ id }) => id)).toEqual([ends.id, hangs.id]);
    const late = Date.now() + 16 * 60_000;
    vi.spyOn(Date, 'now').mockReturnValue(late);
    expect(next().list(ADMINISTRATOR)).toEqual([]);
    vi.restoreAllMocks();
  });

  test('an answer that nobody has to wait for leaves nothing on disk; a damaged file stops nothing', async () => {
    const bench = await startApi();
    const file = join(bench.paths.apiState, 'operations.json');
    expect((await bench.ask('POST', 'sessions/kill', { body: { all: true, limit: 10 } })).status).toBe(200);
    expect(existsSync(file)).toBe(false);
    mkdirSync(bench.paths.apiState, { recursive: true });
    writeFileSync(file, '[{');
    expect(new Operations(silentLog, new OperationsFile(file, silentLog)).list(ADMINISTRATOR)).toEqual([]);
  });

  test('what fails after 202 keeps its problem', async () => {
    const bench = await startApi();
    const accepted = await bench.ask('PUT', 'config/firewall/rules/x', { headers: { prefer: 'respond-async' }, body: { action: 'deny', source: 'nonsense' } });
    expect(accepted.status).toBe(202);
    await expect.poll(async () => (await bench.ask('GET', accepted.headers['location'] as string)).body).toMatchObject({ state: 'failed', problem: { code: 'SLUICE_CONFIG_INVALID', pointer: '/source' } });
  });

  test('reload', async () => {
    const bench = await startApi();
    expect(await bench.ask('POST', 'reload', { role: 'operator' })).toMatchObject({ status: 202, body: { requested: true } });
    expect(await bench.ask('POST', 'reload', { role: 'viewer' })).toMatchObject({ status: 403 });
  });
});

describe('how much at once', () => {
  test('a caller, all callers, heavy requests; a place that was left is free again, once', () => {
    const throttle = new Throttle({ perCaller: 2, all: 3, heavyPerCaller: 1, heavy: 1 });
    const leave = throttle.enter('a', false);
    throttle.enter('a', false);
    expect(() => throttle.enter('a', false)).toThrow(expect.objectContaining({ status: 429, code: 'SLUICE_API_BUSY' }) as Error);
    const heavy = throttle.enter('b', true);
    expect(() => throttle.enter('c', false)).toThrow(expect.objectContaining({ status: 503 }) as Error);
    leave();
    leave();
    expect(() => throttle.enter('c', true)).toThrow(/as large/);
    heavy();
    throttle.enter('c', true);
    throttle.enter('d', false);
    expect(() => throttle.enter('e', false)).toThrow(/being worked on/);
    expect(throttle.refused).toBe(4);
  });

  test('a capture that goes on takes no place of short requests', async () => {
    const source: CaptureSource = { start: (_filter, _snap, _onPacket, onEnd) => { end = onEnd; return Promise.resolve({ stop: () => Promise.resolve(), lost: () => Promise.resolve(0) }); } };
    let end: (() => void) | undefined;
    const bench = await startApi({ capture: source, limits: { perCaller: 1, all: 1, heavyPerCaller: 1, heavy: 1 } });
    const open = bench.ask('GET', 'capture?seconds=3600', { role: 'operator' });
    await expect.poll(() => end).toBeDefined();
    expect((await bench.ask('GET', 'status', { role: 'operator' })).status).toBe(200);
    end!();
    expect((await open).status).toBe(200);
  });

  test('a caller with too many open requests is told, and served when they are done', async () => {
    const bench = await startApi({ limits: { perCaller: 2, all: 10, heavyPerCaller: 2, heavy: 10 } });
    let release = (): void => undefined;
    const held = new Promise<void>((resolve) => { release = resolve; });
    const { neighbours } = bench.control;
    bench.control.neighbours = async () => { await held; return neighbours.call(bench.control); };
    const open = [bench.ask('GET', 'neighbours'), bench.ask('GET', 'neighbours')];
    await new Promise((resolve) => setImmediate(resolve));
    expect(await bench.ask('GET', 'status')).toMatchObject({ status: 429, body: { code: 'SLUICE_API_BUSY' }, headers: { 'retry-after': '1' } });
    expect(await bench.ask('GET', 'status', { name: 'other' })).toMatchObject({ status: 200 });
    release();
    expect((await Promise.all(open)).map(({ status }) => status)).toEqual([200, 200]);
    expect((await bench.ask('GET', 'status')).status).toBe(200);
  });
});
