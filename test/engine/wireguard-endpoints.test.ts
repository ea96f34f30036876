// What a restarted engine knows of peers and of the clock it showed them; names that are looked up.
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, onTestFinished, test, vi } from 'vitest';
import { endpointOf, EndpointStore, formatEndpoint, Resolver } from '../../src/engine/wireguard-endpoints.js';

const SECOND_NS = 1_000_000_000n;

function makeFile(): string {
  const directory = mkdtempSync(join(tmpdir(), 'sluice-endpoints-'));
  onTestFinished(() => rmSync(directory, { recursive: true, force: true }));
  return join(directory, 'wireguard', 'endpoints.json');
}

function open(file: string, faults: unknown[] = []): EndpointStore { return new EndpointStore(file, (error) => faults.push(error)); }

describe('what is kept', () => {
  test('comes back as it was, for the peers that are still there', () => {
    const file = makeFile();
    const store = open(file);
    store.set('wg0', 'a peer', { address: '192.0.2.1', port: 51820, configured: 'a.example:51820' });
    store.set('wg0', 'gone', { address: '192.0.2.2', port: 1 });
    store.set('wg1', 'a peer', { address: '2001:db8::1', port: 65535 });
    store.keep(new Map([['wg0', new Set(['a peer'])], ['wg1', new Set(['a peer', 'never seen'])]]), new Map());
    store.saveNow();
    expect(statSync(file).mode & 0o777).toBe(0o600);
    const again = open(file);
    expect(again.find('wg0', 'a peer')).toEqual({ address: '192.0.2.1', port: 51820, configured: 'a.example:51820' });
    expect(again.find('wg1', 'a peer')).toEqual({ address: '2001:db8::1', port: 65535 });
    expect(again.find('wg0', 'gone')).toBeUndefined();
  });

  test('is written when it changed, at most every five seconds', () => {
    const file = makeFile();
    const store = open(file);
    store.saveSoon(0);
    expect(() => readFileSync(file)).toThrow();
    const portAt = (nowMs: number, port: number): number => {
      store.set('wg0', 'peer', { address: '192.0.2.1', port });
      store.saveSoon(nowMs);
      return open(file).find('wg0', 'peer')!.port;
    };
    expect([portAt(1000, 1), portAt(5999, 2), portAt(6000, 3)]).toEqual([1, 1, 3]);
    expect(statSync(file).mode & 0o777).toBe(0o600);
    const { mtimeNs } = statSync(file, { bigint: true });
    store.saveSoon(20_000);
    expect(statSync(file, { bigint: true }).mtimeNs).toBe(mtimeNs);
  });

  test('the clock goes on from what was shown, also from what was shown after the last writing', () => {
    const file = makeFile();
    const store = open(file);
    expect(store.showClock(100n * SECOND_NS)).toBe(100n * SECOND_NS);
    store.saveSoon(1000);
    const last = store.showClock(104n * SECOND_NS); // then it dies
    const again = open(file);
    expect(again.showClock(1n)).toBeGreaterThan(last);
    expect(again.showClock(500n * SECOND_NS)).toBe(500n * SECOND_NS);
  });

  test('the newest timestamp of each public key, whichever of a peer\'s two it was kept under', () => {
    const file = makeFile();
    const store = open(file);
    const timestamp = (last: number): Uint8Array => Uint8Array.from({ length: 12 }, (_, at) => (at === 11 ? last : 0x40));
    store.setNewest('wg0', ['old=', 'new='], timestamp(5));
    store.setNewest('wg0', ['gone='], timestamp(9));
    store.setNewest('wg1', ['old='], timestamp(7));
    store.keep(new Map(), new Map([['wg0', new Set(['old=', 'new='])], ['wg1', new Set(['old='])]]));
    store.saveNow();
    const again = open(file);
    expect([again.newestOf('wg0', ['new=']), again.newestOf('wg1', ['old=', 'unheard of='])]).toEqual([timestamp(5), timestamp(7)]);
    expect([again.newestOf('wg0', ['gone=']), again.newestOf('wg2', ['old='])]).toEqual([undefined, undefined]);
    again.setNewest('wg0', ['new='], timestamp(6));
    expect(again.newestOf('wg0', ['old=', 'new='])).toEqual(timestamp(6));
  });

  test('a file of an engine that kept no timestamps, and timestamps that are none', () => {
    const file = makeFile();
    open(file).showClock(1n);
    const faults: unknown[] = [];
    const store = open(file);
    store.showClock(1n);
    store.saveNow();
    const { newest: _, ...older } = JSON.parse(readFileSync(file, 'utf8')) as { newest: unknown };
    writeFileSync(file, JSON.stringify(older));
    expect(open(file, faults).newestOf('wg0', ['a='])).toBeUndefined();
    writeFileSync(file, JSON.stringify({ ...older, newest: { wg0: { 'a=': '40', 'b=': 7, 'c=': 'f'.repeat(24) } } }));
    const again = open(file, faults);
    expect([again.newestOf('wg0', ['a=', 'b=']), again.newestOf('wg0', ['c='])]).toEqual([undefined, new Uint8Array(12).fill(255)]);
    expect(faults).toEqual([]);
  });

  test('a clock that was set back goes on in steps that a handshake\'s label can tell apart', () => {
    const store = open(makeFile());
    let last = store.showClock(1000n * SECOND_NS);
    for (let round = 0; round < 10; round += 1) {
      const shown = store.showClock(1n);
      expect(shown - last).toBeGreaterThanOrEqual(1n << 24n);
      last = shown;
    }
  });

  test('a file that cannot be read or written is told; nothing stops for it', () => {
    const file = makeFile();
    open(file).saveNow();
    const store = open(file);
    store.set('wg0', 'peer', { address: '192.0.2.1', port: 1 });
    store.saveNow();
    writeFileSync(file, '{"version":2}');
    const faults: unknown[] = [];
    expect(open(file, faults).find('wg0', 'peer')).toBeUndefined();
    expect(faults).toHaveLength(1);
    const nowhere = new EndpointStore(join(file, 'under-a-file', 'endpoints.json'), (error) => faults.push(error));
    nowhere.showClock(1n);
    nowhere.saveSoon(0);
    expect(faults).toHaveLength(3); // neither read nor written
  });
});

test.each([['192.0.2.1', 5, '192.0.2.1:5'], ['2001:db8::1', 51820, '[2001:db8::1]:51820'], ['192.0.2.1', 0, null]])('%s and %d are written as %j', (address, port, text) => {
  expect(formatEndpoint(endpointOf(address, port))).toBe(text);
});

describe('names', () => {
  beforeEach(() => { vi.useFakeTimers(); });
  afterEach(() => { vi.useRealTimers(); });
  const pass = (ms: number): Promise<unknown> => vi.advanceTimersByTimeAsync(ms);

  test('two are looked up at a time, and one name once for all that ask', async () => {
    const waiting: { name: string; answer(addresses: string[]): void }[] = [];
    const found: string[] = [];
    const resolver = new Resolver((name) => new Promise((answer) => waiting.push({ name, answer })), () => undefined);
    for (const [id, name] of ['a', 'a', 'b', 'c', 'd'].entries()) resolver.ask(id, name, (address) => found.push(`${id} ${address}`));
    await pass(0);
    expect(waiting.map(({ name }) => name)).toEqual(['a', 'b']);
    waiting[0]!.answer(['192.0.2.1']);
    await pass(0);
    expect(found).toEqual(['0 192.0.2.1', '1 192.0.2.1']);
    expect(waiting.map(({ name }) => name)).toEqual(['a', 'b', 'c']);
    for (const { answer } of waiting) answer(['192.0.2.2']);
    await pass(0);
    expect(waiting.map(({ name }) => name)).toEqual(['a', 'b', 'c', 'd']);
    resolver.close();
  });

  test('each time that one asks it gets another address; what no data plane knows is left out', async () => {
    const found: string[] = [];
    const resolver = new Resolver(() => Promise.resolve(['fe80::1%eth0', '2001:db8::1', '::ffff:192.0.2.9', '192.0.2.1']), () => undefined);
    for (let round = 0; round < 3; round += 1) {
      resolver.ask(1, 'name', (address) => found.push(address));
      await pass(0);
    }
    expect(found).toEqual(['2001:db8::1', '192.0.2.1', '2001:db8::1']);
  });

  test('a failure is told and tried again, later each time up to a minute, until nobody asks any more', async () => {
    const asked: number[] = [];
    const faults: string[] = [];
    const resolver = new Resolver(() => { asked.push(Date.now()); return Promise.reject(new Error('refused')); }, (name, error) => faults.push(`${name}: ${(error as Error).message}`));
    resolver.ask(1, 'name', () => undefined);
    await pass(300_000);
    const pauses = asked.slice(1).map((at, index) => Math.round((at - asked[index]!) / 1000));
    expect(pauses.slice(0, 6)).toEqual([5, 10, 20, 40, 60, 60]);
    expect(faults[0]).toBe('name: refused');
    resolver.forget(1);
    const before = asked.length;
    await pass(300_000);
    expect(asked).toHaveLength(before);
  });

  test('an answer for one that went away meanwhile is not delivered', async () => {
    let answer: (addresses: string[]) => void = () => undefined;
    const found: string[] = [];
    const resolver = new Resolver(() => new Promise((resolve) => { answer = resolve; }), () => undefined);
    resolver.ask(1, 'name', (address) => found.push(address));
    await pass(0);
    resolver.forget(1);
    answer(['192.0.2.1']);
    await pass(0);
    expect(found).toEqual([]);
  });
});
