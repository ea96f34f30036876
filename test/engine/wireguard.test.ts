// The engine process's side of WireGuard, two of them with their real devices, over workers and a network in memory: configure and its
// differences, roaming and restarts, faults of files and ports, floods, rotation of static keys with a crash between any two steps.
// Time is the tests': nothing waits for a clock.
import { createSocket } from 'node:dgram';
import { chmodSync, cpSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, onTestFinished, test, vi } from 'vitest';
import type { WireguardPeerPlan, WireguardPlan } from '../../src/engine/last-applied.js';
import { WireguardHost, type WireguardView } from '../../src/engine/wireguard.js';
import type { Lookup } from '../../src/engine/wireguard-endpoints.js';
import { createLog } from '../../src/supervisor/log.js';
import { freePort, MemoryNetwork, MemoryWorkers } from './memory-wireguard.js';

const WEST = '192.0.2.1';
const EAST = '192.0.2.2';

beforeEach(() => { vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'setInterval', 'clearInterval', 'setImmediate', 'clearImmediate', 'Date', 'performance', 'hrtime'], now: Date.UTC(2026, 0, 1) }); });
afterEach(() => { vi.useRealTimers(); });

const pass = (ms: number): Promise<unknown> => vi.advanceTimersByTimeAsync(ms);

class Appliance {
  readonly logged: string[] = [];
  workers: MemoryWorkers;
  host!: WireguardHost;
  readonly directory = mkdtempSync(join(tmpdir(), 'sluice-wireguard-'));
  plans: WireguardPlan[] = [];

  constructor(readonly network: MemoryNetwork, readonly address: string, private readonly lookup: Lookup = () => Promise.reject(new Error('no names here'))) {
    this.workers = new MemoryWorkers(network, address);
    onTestFinished(() => {
      this.host.stop();
      rmSync(this.directory, { recursive: true, force: true });
    });
    this.begin();
  }

  /** As a new process does. */
  begin(): void {
    this.workers = new MemoryWorkers(this.network, this.address);
    this.host = new WireguardHost(this.directory, { addon: this.workers, log: createLog('test', (line) => void this.logged.push(line)), lookup: this.lookup });
    this.workers.onEvent = () => this.host.onEvents();
  }

  async change(plans: WireguardPlan[], isCommit = true): Promise<string[]> {
    const warnings = await this.host.stage(plans, isCommit);
    this.workers.apply(plans);
    this.host.commit();
    this.plans = plans;
    return warnings;
  }

  /** Dies without a word, and comes back with what was on disk then. */
  async crash(): Promise<void> {
    const kept = mkdtempSync(join(tmpdir(), 'sluice-crash-'));
    cpSync(this.directory, kept, { recursive: true });
    this.host.stop();
    rmSync(this.directory, { recursive: true });
    cpSync(kept, this.directory, { recursive: true });
    rmSync(kept, { recursive: true });
    await vi.advanceTimersByTimeAsync(1);
    this.begin();
    await this.change(this.plans, false);
  }

  show(name = 'wg0'): WireguardView { return this.host.show().find((one) => one.interface === name)!; }
  publicKey(name = 'wg0'): string { return this.show(name).publicKey!; }
}

let lastId = 0;
const plan = (listen: number, peers: WireguardPeerPlan[], over: Partial<WireguardPlan> = {}): WireguardPlan => ({ interface: 'wg0', id: 1000, listen, mtu: 1420, peers, ...over });
const peer = (name: string, publicKey: string, over: Partial<WireguardPeerPlan> = {}): WireguardPeerPlan => ({ id: 1 + (lastId += 1), name, publicKey, ...over });

interface Pair { network: MemoryNetwork; west: Appliance; east: Appliance; toEast: WireguardPeerPlan; toWest: WireguardPeerPlan; westPort: number; eastPort: number }

/** Two appliances that know each other; west knows where east is. */
async function makePair(over: { lookup?: Lookup; endpoint?: WireguardPeerPlan['endpoint'] } = {}): Promise<Pair> {
  const network = new MemoryNetwork();
  const [west, east] = [new Appliance(network, WEST, over.lookup), new Appliance(network, EAST)];
  const [westPort, eastPort] = [await freePort(), await freePort()];
  await west.change([plan(westPort, [])]);
  await east.change([plan(eastPort, [])]);
  const toEast = peer('east', east.publicKey(), { endpoint: over.endpoint ?? { address: EAST, port: eastPort } });
  const toWest = peer('west', west.publicKey());
  await west.change([plan(westPort, [toEast])]);
  await east.change([plan(eastPort, [toWest])]);
  await pass(1000);
  return { network, west, east, toEast, toWest, westPort, eastPort };
}

/** A packet each way arrives. */
async function expectTunnel({ west, east, toEast, toWest }: Pair, text = `packet ${Math.random()}`): Promise<void> {
  west.workers.sendData(toEast.id, `to east: ${text}`);
  await pass(1000);
  expect(east.workers.received).toContainEqual({ peer: toWest.id, text: `to east: ${text}` });
  east.workers.sendData(toWest.id, `to west: ${text}`);
  await pass(1000);
  expect(west.workers.received).toContainEqual({ peer: toEast.id, text: `to west: ${text}` });
}

const handshakes = (network: MemoryNetwork): number => network.sent.filter(({ message }) => message[0] === 1).length;
const isEstablished = (appliance: Appliance): boolean => appliance.show().peers[0]!.state === 'established';

describe('a tunnel', () => {
  test('comes up when a packet waits, and is shown', async () => {
    const pair = await makePair();
    const { west, east, network, westPort } = pair;
    expect(handshakes(network)).toBe(0);
    expect(west.show().peers[0]).toMatchObject({ name: 'east', state: 'none', latestHandshake: null });
    await expectTunnel(pair);
    expect(handshakes(network)).toBe(1);
    const [shown] = east.show().peers;
    expect(shown).toMatchObject({ name: 'west', publicKey: west.publicKey(), endpoint: `${WEST}:${westPort}`, state: 'established', keepalive: null, nextPublicKey: null });
    expect(shown!.latestHandshake).toMatch(/^2026-01-01T00:00:0\d/);
    expect(shown!.rxBytes).toBeGreaterThan(0);
    expect(shown!.txBytes).toBeGreaterThan(0);
  });

  test('goes on past the end of each session without a lost packet', async () => {
    const pair = await makePair();
    await expectTunnel(pair, 'first');
    for (let second = 0; second < 400; second += 1) {
      pair.west.workers.sendData(pair.toEast.id, `second ${second}`);
      await pass(1000);
    }
    const seen = pair.east.workers.received.map(({ text }) => text).filter((text) => text.startsWith('second'));
    expect(seen).toEqual(Array.from({ length: 400 }, (_, second) => `second ${second}`));
    expect(handshakes(pair.network)).toBeGreaterThanOrEqual(3);
  });

  test('a persistent keepalive opens it by itself', async () => {
    const pair = await makePair();
    await pair.west.change([plan(pair.westPort, [{ ...pair.toEast, keepalive: 25 }])]);
    await pass(26_000);
    expect(isEstablished(pair.west)).toBe(true);
    expect(pair.west.show().peers[0]!.keepalive).toBe(25);
  });

  test('with a preshared key needs the same one on both sides', async () => {
    const pair = await makePair();
    const psk = (appliance: Appliance, fill: number): string => {
      const file = join(appliance.directory, `psk-${fill}`);
      writeFileSync(file, `${Buffer.alloc(32, fill).toString('base64')}\n`, { mode: 0o600 });
      return file;
    };
    await pair.west.change([plan(pair.westPort, [{ ...pair.toEast, presharedKeyFile: psk(pair.west, 1) }])]);
    await pair.east.change([plan(pair.eastPort, [{ ...pair.toWest, presharedKeyFile: psk(pair.east, 2) }])]);
    pair.west.workers.sendData(pair.toEast.id, 'lost');
    await pass(20_000);
    expect(isEstablished(pair.west)).toBe(false);
    await pair.east.change([plan(pair.eastPort, [{ ...pair.toWest, presharedKeyFile: psk(pair.east, 1) }])]);
    await pass(10_000);
    await expectTunnel(pair);
  });

  test('what the kernel reassembled reaches the device; all else at the port is ignored', async () => {
    const pair = await makePair();
    const { network, west, east, eastPort } = pair;
    const initiations: Uint8Array[] = [];
    network.tap = ({ message }) => {
      if (message[0] === 1) initiations.push(message);
      return message[0] !== 1;
    };
    west.workers.sendData(pair.toEast.id, 'waiting');
    await pass(1000);
    expect(initiations).toHaveLength(1);
    const socket = createSocket('udp4');
    for (const datagram of [Buffer.from('nonsense'), Buffer.alloc(148, 1), initiations[0]!]) {
      await new Promise((resolve) => socket.send(datagram, eastPort, '127.0.0.1', resolve));
    }
    await vi.waitFor(() => expect(east.workers.endpointOf(pair.toWest.id)).toMatch(/^127\.0\.0\.1:/));
    socket.close();
    expect(east.show().refused).toMatchObject({ malformed: 0, mac1: 0 });
  });
});

describe('changes', () => {
  test('of one peer do not disturb the others', async () => {
    const pair = await makePair();
    const { west, network, westPort, toEast } = pair;
    await expectTunnel(pair);
    const before = handshakes(network);
    const other = peer('other', Buffer.alloc(32, 9).toString('base64'), { endpoint: { address: '192.0.2.9', port: 9 } });
    await west.change([plan(westPort, [other, toEast])]);
    await west.change([plan(westPort, [{ ...other, publicKey: Buffer.alloc(32, 10).toString('base64'), endpoint: { address: '192.0.2.10', port: 10 }, keepalive: 0 }, toEast])]);
    expect(west.workers.endpointOf(other.id)).toBe('192.0.2.10:10');
    await west.change([plan(westPort, [toEast])]);
    expect(west.workers.calls).not.toContain(`forget ${toEast.id}`);
    await expectTunnel(pair);
    expect(handshakes(network)).toBe(before);
  });

  test('a peer that is removed is gone, and back when it is added again', async () => {
    const pair = await makePair();
    await expectTunnel(pair);
    await pair.east.change([plan(pair.eastPort, [])]);
    expect(pair.east.show().peers).toEqual([]);
    await pair.east.change([plan(pair.eastPort, [pair.toWest])]);
    expect(pair.east.workers.hasSession(pair.toWest.id)).toBe(false);
    await pass(20_000);
    pair.west.workers.sendData(pair.toEast.id, 'lost: east does not know the session');
    await pass(30_000);
    await expectTunnel(pair);
  });

  test('another public key ends the sessions with the former one', async () => {
    const pair = await makePair();
    await expectTunnel(pair);
    await pair.west.change([plan(pair.westPort, [{ ...pair.toEast, publicKey: Buffer.alloc(32, 9).toString('base64') }])]);
    expect(pair.west.workers.hasSession(pair.toEast.id)).toBe(false);
  });

  test('a key that the peer announced before takes the first one\'s place without a new session', async () => {
    const pair = await makePair();
    await expectTunnel(pair);
    const { nextPublicKey } = pair.east.host.rotate('wg0', 'prepare');
    const { publicKey } = pair.toEast;
    const before = handshakes(pair.network);
    await pair.west.change([plan(pair.westPort, [{ ...pair.toEast, nextPublicKey: nextPublicKey! }])]);
    await pair.west.change([plan(pair.westPort, [{ ...pair.toEast, publicKey: nextPublicKey!, nextPublicKey: publicKey }])]);
    await expectTunnel(pair);
    expect(handshakes(pair.network)).toBe(before);
  });

  test('another listen port is told to peers by the next message', async () => {
    const pair = await makePair();
    await expectTunnel(pair);
    const port = await freePort();
    await pair.west.change([plan(port, [pair.toEast])]);
    await pass(100);
    expect(pair.east.workers.endpointOf(pair.toWest.id)).toBe(`${WEST}:${port}`);
    await expectTunnel(pair);
    const socket = createSocket({ type: 'udp4' }); // the former one is free
    await new Promise<void>((resolve, reject) => { socket.once('error', reject).bind(pair.westPort, () => resolve()); });
    socket.close();
  });

  test('two interfaces may exchange their ports', async () => {
    const west = new Appliance(new MemoryNetwork(), WEST);
    const [a, b] = [await freePort(), await freePort()];
    const two = (first: number, second: number): WireguardPlan[] => [plan(first, []), plan(second, [], { interface: 'wg1', id: 1001 })];
    await west.change(two(a, b));
    expect(await west.change(two(b, a))).toEqual([]);
    expect(west.host.show().map(({ listen }) => listen)).toEqual([b, a]);
  });

  test('an interface that is removed keeps its key for when it comes back, and frees its port', async () => {
    const west = new Appliance(new MemoryNetwork(), WEST);
    const port = await freePort();
    await west.change([plan(port, [])]);
    const key = west.publicKey();
    await west.change([]);
    expect(west.host.show()).toEqual([]);
    const other = new Appliance(new MemoryNetwork(), EAST);
    expect(await other.change([plan(port, [])])).toEqual([]);
    await other.change([]);
    await west.change([plan(port, [])]);
    expect(west.publicKey()).toBe(key);
  });

  test('a change that was staged and not put in force leaves everything as it was', async () => {
    const pair = await makePair();
    await expectTunnel(pair);
    const port = await freePort();
    await pair.west.host.stage([plan(port, [])], true);
    await pair.west.host.stage([plan(pair.westPort, [pair.toEast])], true);
    pair.west.host.commit();
    await expectTunnel(pair);
    const socket = createSocket({ type: 'udp4' });
    await new Promise<void>((resolve, reject) => { socket.once('error', reject).bind(port, () => resolve()); });
    socket.close();
  });
});

describe('a plan that is in force already', () => {
  test('needs no snapshot: files are read again, faults are looked at, nothing is disturbed', async () => {
    const pair = await makePair();
    const { west, toEast, westPort } = pair;
    await expectTunnel(pair);
    const file = join(west.directory, 'psk');
    const other = peer('other', Buffer.alloc(32, 9).toString('base64'), { presharedKeyFile: file, endpoint: { address: '192.0.2.9', port: 9 } });
    const plans = [plan(westPort, [toEast, other])];
    writeFileSync(file, 'damaged', { mode: 0o600 });
    west.host.stop();
    west.begin();
    await west.change(plans, false);
    expect(west.host.faults()).toHaveLength(1);
    await expectTunnel(pair);
    const before = handshakes(pair.network);
    expect(await west.host.stage(plans, true)).toHaveLength(1);
    writeFileSync(file, `${Buffer.alloc(32, 3).toString('base64')}\n`);
    expect(await west.host.stage(plans, true)).toEqual([]);
    expect(west.host.faults()).toEqual([]);
    await expectTunnel(pair);
    expect(handshakes(pair.network)).toBe(before);
  });

  test('and has a fault heals by itself, although nothing is applied', async () => {
    const west = new Appliance(new MemoryNetwork(), WEST);
    const own = join(west.directory, 'own');
    const plans = [plan(await freePort(), [], { privateKeyFile: own })];
    await west.change(plans);
    await west.host.stage(plans, true);
    writeFileSync(own, `${Buffer.alloc(32, 0x42).toString('base64')}\n`, { mode: 0o600 });
    await pass(11_000);
    await vi.waitFor(() => expect(west.show().publicKey).toEqual(expect.any(String)));
  });
});

describe('where peers are', () => {
  test('a host name is looked up, again while that fails, and again when nobody answers there', async () => {
    const answers: (string[] | Error)[] = [new Error('no such name'), [], ['192.0.2.77'], [EAST]];
    const asked: string[] = [];
    const pair = await makePair({
      endpoint: { address: 'east.example', port: 0 },
      lookup: (name) => {
        asked.push(name);
        const answer = answers.length > 1 ? answers.shift()! : answers[0]!;
        return answer instanceof Error ? Promise.reject(answer) : Promise.resolve(answer);
      },
    });
    await pair.west.change([plan(pair.westPort, [{ ...pair.toEast, endpoint: { address: 'east.example', port: pair.eastPort } }])]);
    pair.west.workers.sendData(pair.toEast.id, 'waits');
    await pass(40_000);
    expect(new Set(asked)).toEqual(new Set(['east.example']));
    expect(pair.east.workers.received.map(({ text }) => text)).toEqual(['waits']);
    expect(answers).toEqual([[EAST]]);
  });

  test('a peer that roamed stays where it went; one that is silent is called at the configured place, too', async () => {
    const pair = await makePair();
    await expectTunnel(pair);
    pair.network.tap = ({ from, message }) => from.startsWith(WEST) || message[0] !== 1; // only west calls
    pair.west.workers.wireguardEndpoint(pair.toEast.id, pair.west.workers.encodedEndpoint('192.0.2.99', 5));
    await pass(11_000); // remembered there
    pair.west.workers.wireguardForget(pair.toEast.id);
    pair.west.workers.sendData(pair.toEast.id, 'calls');
    const before = pair.network.sent.length;
    await pass(12_000);
    const called = pair.network.sent.slice(before).filter(({ from, message }) => from.startsWith(WEST) && message[0] === 1).map(({ to }) => to);
    expect(called).toEqual(['192.0.2.99:5', `${EAST}:${pair.eastPort}`]);
    expect(pair.east.workers.received.map(({ text }) => text)).toContain('calls');
  });

  test('a message for which there is no way yet goes as soon as there is one', async () => {
    const pair = await makePair();
    pair.west.workers.isRouted = false;
    pair.west.workers.sendData(pair.toEast.id, 'waits');
    await pass(1000);
    expect(pair.network.sent).toEqual([]);
    pair.west.workers.isRouted = true;
    await pass(400);
    expect(pair.east.workers.received.map(({ text }) => text)).toEqual(['waits']);
  });
});

describe('a restart of the engine', () => {
  test('calls peers at once where they were last, from either side, with the same key', async () => {
    const pair = await makePair();
    await expectTunnel(pair);
    await pass(11_000);
    const keys = [pair.west.publicKey(), pair.east.publicKey()];
    for (const appliance of [pair.east, pair.west]) { // east knows west from its messages alone
      await appliance.crash();
      await pass(500);
      expect(isEstablished(appliance)).toBe(true);
      await expectTunnel(pair);
    }
    expect([pair.west.publicKey(), pair.east.publicKey()]).toEqual(keys);
  });

  test('a peer without an endpoint that calls by itself is not called back', async () => {
    const pair = await makePair();
    await pair.east.crash(); // it never had a session: east does not know where west is
    await expectTunnel(pair);
    await pass(10_000);
    expect(handshakes(pair.network)).toBe(1);
  });

  test('never shows a peer an earlier time, also when the clock was set back', async () => {
    const pair = await makePair();
    await expectTunnel(pair);
    await pass(11_000);
    vi.setSystemTime(Date.UTC(2020, 0, 1));
    await pair.west.crash();
    await pass(500);
    expect(isEstablished(pair.west)).toBe(true);
    await pass(11_000);
    await pair.west.crash();
    await pass(500);
    await expectTunnel(pair);
  });

  test('does not answer an initiation of before it, from wherever it comes; the peer itself is answered', async () => {
    const pair = await makePair();
    await expectTunnel(pair);
    const recorded = pair.network.sent.find(({ message }) => message[0] === 1)!;
    await pass(6000);
    pair.network.tap = ({ from }) => !from.startsWith(EAST); // east hears, and is not heard
    await pair.east.crash();
    await pass(500);
    const from = '198.51.100.66:6';
    pair.east.workers.receive({ ...recorded, from });
    await pass(500);
    expect(pair.network.sent.filter(({ to }) => to === from)).toEqual([]);
    expect(pair.east.show().refused).toMatchObject({ 'old-timestamp': 1 });
    expect(pair.east.show().peers[0]!.endpoint).toBe(`${WEST}:${pair.westPort}`);
    pair.network.tap = () => true;
    await pass(6000);
    await expectTunnel(pair);
  });

  test.each(['{', '[]', '{"version":1,"clockNs":"x","interfaces":{}}', '{"version":1,"clockNs":"5","interfaces":{"wg0":{"east":{"address":"here","port":5}}}}'])('endpoints that read %j are as good as none', async (content) => {
    const pair = await makePair();
    await expectTunnel(pair);
    pair.west.host.stop();
    writeFileSync(join(pair.west.directory, 'endpoints.json'), content);
    pair.west.begin();
    await pair.west.change(pair.west.plans, false);
    await pass(500);
    await expectTunnel(pair); // by its configured endpoint
  });

  test('what is kept is closed to others, and holds no key', async () => {
    const pair = await makePair();
    await expectTunnel(pair);
    pair.west.host.stop();
    const text = readFileSync(join(pair.west.directory, 'endpoints.json'), 'utf8');
    expect(JSON.parse(text)).toMatchObject({ version: 1, interfaces: { wg0: { east: { address: EAST, port: pair.eastPort } } } });
    const key = readFileSync(join(pair.west.directory, 'wg0.key'), 'utf8').trim();
    expect(text).not.toContain(key);
    expect(pair.west.logged.join('')).not.toContain(key);
  });
});

describe('faults', () => {
  test('of a key file close that interface alone, are shown, and heal', async () => {
    const pair = await makePair();
    const { west } = pair;
    const second = await freePort();
    const plans = [plan(pair.westPort, [pair.toEast]), plan(second, [], { interface: 'wg1', id: 1001 })];
    await west.change(plans);
    west.host.stop();
    chmodSync(join(west.directory, 'wg1.key'), 0o644);
    west.begin();
    expect(await west.change(plans, false)).toEqual([expect.stringMatching(/^wg1: .*wg1\.key is open to others/)]);
    expect(west.show('wg1')).toMatchObject({ publicKey: null, faults: [expect.stringMatching(/open to others/)] });
    await expectTunnel(pair);
    chmodSync(join(west.directory, 'wg1.key'), 0o600);
    await pass(11_000);
    expect(west.show('wg1')).toMatchObject({ faults: [], publicKey: expect.any(String) as string });
    expect(west.workers.gates.get(1001)).toBe(1);
  });

  test('are refused when a change of a running engine brings them; a fault of before is none of it', async () => {
    const pair = await makePair();
    const { west, westPort, toEast } = pair;
    const missing = join(west.directory, 'missing');
    await expect(west.change([plan(westPort, [toEast]), plan(await freePort(), [], { interface: 'wg1', id: 1001, privateKeyFile: missing })])).rejects.toMatchObject({ code: 'SLUICE_WIREGUARD', message: `wg1: ${missing} is not there` });
    await expect(west.change([plan(westPort, [{ ...toEast, presharedKeyFile: missing }])])).rejects.toThrow(/wg0, peer east: .*is not there/);
    await expectTunnel(pair);
    rmSync(join(west.directory, 'wg0.key'));
    writeFileSync(join(west.directory, 'wg0.key'), 'damaged', { mode: 0o600 });
    expect(await west.change([plan(westPort, [{ ...toEast, keepalive: 30 }])])).toEqual([expect.stringMatching(/does not hold a key/)]);
    await expectTunnel(pair); // its key is in memory still
  });

  test('of a preshared key close that peer alone', async () => {
    const pair = await makePair();
    const file = join(pair.west.directory, 'psk');
    const other = peer('other', Buffer.alloc(32, 9).toString('base64'), { presharedKeyFile: file, endpoint: { address: '192.0.2.9', port: 9 } });
    pair.west.host.stop();
    pair.west.begin();
    expect(await pair.west.change([plan(pair.westPort, [pair.toEast, other])], false)).toEqual([expect.stringContaining('peer other')]);
    pair.west.workers.sendData(other.id, 'never in clear, never without the key');
    await pass(6000);
    expect(pair.network.sent.some(({ to }) => to.startsWith('192.0.2.9'))).toBe(false);
    await expectTunnel(pair);
    writeFileSync(file, `${Buffer.alloc(32, 3).toString('base64')}\n`, { mode: 0o600 });
    await pass(12_000);
    expect(pair.network.sent.some(({ to }) => to.startsWith('192.0.2.9'))).toBe(true);
  });

  test('of a preshared key that was read before change nothing while its path is the same', async () => {
    const pair = await makePair();
    const files = [pair.west, pair.east].map(({ directory }) => join(directory, 'psk'));
    for (const file of files) writeFileSync(file, `${Buffer.alloc(32, 3).toString('base64')}\n`, { mode: 0o600 });
    await pair.west.change([plan(pair.westPort, [{ ...pair.toEast, presharedKeyFile: files[0]! }])]);
    await pair.east.change([plan(pair.eastPort, [{ ...pair.toWest, presharedKeyFile: files[1]! }])]);
    await expectTunnel(pair);
    rmSync(files[0]!);
    const change = { ...pair.toEast, presharedKeyFile: files[0]!, keepalive: 30 };
    for (let round = 0; round < 2; round += 1) expect(await pair.west.change([plan(pair.westPort, [change])])).toEqual([expect.stringContaining('psk is not there')]);
    await pass(200_000); // another session
    await expectTunnel(pair);
    await pair.west.crash();
    pair.west.workers.sendData(pair.toEast.id, 'never without the key');
    await pass(6000);
    expect(pair.west.show().peers[0]!.state).toBe('none');
  });

  test('a port that somebody has is named with its holder; at a start the others go on, and it is tried again', async () => {
    const pair = await makePair();
    const socket = createSocket({ type: 'udp4' });
    await new Promise<void>((resolve) => void socket.bind(0, () => resolve()));
    const { port } = socket.address();
    const plans = [plan(pair.westPort, [pair.toEast]), plan(port, [], { interface: 'wg1', id: 1001 })];
    await expect(pair.west.change(plans)).rejects.toThrow(new RegExp(`wg1: UDP port ${port} is taken by .*process ${process.pid}`));
    await expectTunnel(pair);
    pair.west.host.stop();
    pair.west.begin();
    expect(await pair.west.change(plans, false)).toEqual([expect.stringContaining(`UDP port ${port} is taken`)]);
    await expectTunnel(pair);
    await new Promise<void>((resolve) => void socket.close(() => resolve()));
    await pass(11_000);
    await vi.waitFor(() => expect(pair.west.show('wg1')).toMatchObject({ faults: [], publicKey: expect.any(String) as string }));
  });

  test('an endpoint that is no address of ours to give leaves the other peers theirs', async () => {
    const pair = await makePair();
    const odd = peer('odd', Buffer.alloc(32, 9).toString('base64'), { endpoint: { address: '::ffff:192.0.2.9', port: 9 } });
    await pair.west.change([plan(pair.westPort, [odd, { ...pair.toEast, endpoint: { address: EAST, port: pair.eastPort } }])]);
    expect(pair.west.logged.join('')).toContain('IPv6 clothes');
    await expectTunnel(pair);
  });

  test('an addon that refuses a call for one peer does not keep the others from theirs', async () => {
    const pair = await makePair();
    const { west } = pair;
    const other = peer('other', Buffer.alloc(32, 9).toString('base64'), { endpoint: { address: '192.0.2.9', port: 9 } });
    await west.change([plan(pair.westPort, [other, pair.toEast])]);
    const send = west.workers.wireguardSend.bind(west.workers);
    west.workers.wireguardSend = (interfaceId, peerId, message, endpoint) => {
      if (peerId === other.id) throw new Error('peer is unknown');
      return send(interfaceId, peerId, message, endpoint);
    };
    west.workers.sendData(other.id, 'refused');
    await expectTunnel(pair);
    expect(west.logged.join('')).toContain('peer is unknown');
  });
});

describe('a flood of handshake messages', () => {
  test('leaves the event loop to everybody else after each few', async () => {
    const pair = await makePair();
    await expectTunnel(pair);
    const { workers } = pair.west;
    workers.flood(1000, 1000, new Uint8Array(148).fill(1));
    let turns = 0;
    while (workers.waitingEvents > 0) {
      const before = workers.waitingEvents;
      await vi.advanceTimersToNextTimerAsync();
      turns += 1;
      expect(before - workers.waitingEvents).toBeLessThanOrEqual(16);
    }
    expect(turns).toBeGreaterThanOrEqual(1000 / 16);
    expect(pair.west.show().refused!.mac1 + pair.west.show().refused!.malformed).toBe(1000);
  });
});

describe('rotation of the static key', () => {
  /** As control does it for the other side: it learns what is announced. */
  async function announce(pair: Pair): Promise<void> {
    const { publicKey, nextPublicKey } = pair.east.show();
    pair.toEast = { ...pair.toEast, publicKey: publicKey!, ...(nextPublicKey ? { nextPublicKey } : {}) };
    if (!nextPublicKey) delete pair.toEast.nextPublicKey;
    await pair.west.change([plan(pair.westPort, [pair.toEast])]);
  }

  test('moves sessions and loses no packet', async () => {
    const pair = await makePair();
    await expectTunnel(pair);
    const old = pair.east.publicKey();
    let sent = 0;
    const traffic = async (seconds: number): Promise<void> => {
      for (const end = sent + seconds; sent < end; sent += 1) {
        pair.west.workers.sendData(pair.toEast.id, `n ${sent}`);
        await pass(1000);
      }
    };
    await traffic(10);
    const prepared = pair.east.host.rotate('wg0', 'prepare');
    expect(prepared).toMatchObject({ publicKey: old, rotation: 'prepared', nextPublicKey: expect.any(String) as string });
    await announce(pair);
    await traffic(10);
    expect(pair.east.host.rotate('wg0', 'switch')).toEqual({ ...prepared, rotation: 'switched' });
    const before = handshakes(pair.network);
    await traffic(10);
    expect(handshakes(pair.network)).toBe(before + 1);
    expect(pair.east.host.rotate('wg0', 'finish')).toEqual({ publicKey: prepared.nextPublicKey, nextPublicKey: null, rotation: 'none' });
    expect(pair.east.workers.hasSession(pair.toWest.id)).toBe(true);
    await announce(pair);
    await traffic(150);
    expect(pair.east.workers.received.map(({ text }) => text).filter((text) => text.startsWith('n '))).toEqual(Array.from({ length: sent }, (_, n) => `n ${n}`));
    expect(existsSync(join(pair.east.directory, 'wg0.key.next'))).toBe(false);
  });

  test.each([1, 2, 3, 4, 5])('a crash after step %d changes nothing but that handshakes are made anew', async (crashAfter) => {
    const pair = await makePair();
    await expectTunnel(pair);
    const old = pair.east.publicKey();
    const steps: (() => unknown)[] = [
      () => pair.east.host.rotate('wg0', 'prepare'), () => announce(pair), () => pair.east.host.rotate('wg0', 'switch'),
      () => pair.east.host.rotate('wg0', 'finish'), () => announce(pair),
    ];
    for (const [index, step] of steps.entries()) {
      await step();
      await pass(6000);
      if (index + 1 !== crashAfter) continue;
      const before = pair.east.show();
      await pair.east.crash();
      await pass(2000);
      expect(pair.east.show()).toMatchObject({ publicKey: before.publicKey, nextPublicKey: before.nextPublicKey, rotation: before.rotation });
      await expectTunnel(pair);
    }
    await pass(6000);
    await expectTunnel(pair);
    expect(pair.east.publicKey()).not.toBe(old);
    expect(pair.west.show().peers[0]!.publicKey).toBe(pair.east.publicKey());
  });

  test('from the switch on handshakes need the next key alone, also after a crash', async () => {
    const pair = await makePair();
    await expectTunnel(pair);
    await pass(11_000); // east knows where west is
    const { nextPublicKey } = pair.east.host.rotate('wg0', 'prepare');
    pair.east.host.rotate('wg0', 'switch');
    await pair.west.change([plan(pair.westPort, [{ ...pair.toEast, publicKey: nextPublicKey! }])]);
    await pass(12_000);
    expect([isEstablished(pair.east), pair.west.workers.hasSession(pair.toEast.id)]).toEqual([true, true]);
    await pair.east.crash();
    await pass(1000);
    expect(pair.east.workers.hasSession(pair.toWest.id)).toBe(true);
  });

  test('is refused in the wrong order, for a key that is the operator\'s, and for an interface that is not there', async () => {
    const pair = await makePair();
    const { host, directory } = pair.east;
    expect(() => host.rotate('wg0', 'switch')).toThrow(/prepare one first/);
    host.rotate('wg0', 'prepare');
    expect(() => host.rotate('wg0', 'finish')).toThrow(/switch first/);
    expect(() => host.rotate('wg7', 'prepare')).toThrow(/no WireGuard interface 'wg7'/);
    await expectTunnel(pair);
    writeFileSync(join(directory, 'own'), readFileSync(join(directory, 'wg0.key')), { mode: 0o600 });
    await pair.east.change([plan(pair.eastPort, [pair.toWest], { privateKeyFile: join(directory, 'own') })]);
    expect(() => host.rotate('wg0', 'prepare')).toThrow(/not ours to change/);
    await expectTunnel(pair);
  });

  test('another key file is another identity: sessions of the former one end', async () => {
    const pair = await makePair();
    await expectTunnel(pair);
    writeFileSync(join(pair.east.directory, 'own'), `${Buffer.alloc(32, 0x42).toString('base64')}\n`, { mode: 0o600 });
    await pair.east.change([plan(pair.eastPort, [pair.toWest], { privateKeyFile: join(pair.east.directory, 'own') })]);
    expect(pair.east.workers.hasSession(pair.toWest.id)).toBe(false);
    await announce(pair);
    await pass(6000);
    await expectTunnel(pair);
  });
});
