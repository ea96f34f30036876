// Two devices and what lies between them: handshakes, loss, rekeying, timers, strangers, forgers, rotation. Virtual time throughout.
import { describe, expect, test } from 'vitest';
import { CookieSecret, addMacs, macKeysOf } from '../../src/wireguard/cookie.js';
import { REFUSALS, WireguardDevice, type Refusal } from '../../src/wireguard/device.js';
import { MessageType, mac2Of, parseMessage } from '../../src/wireguard/messages.js';
import { Network, connected, endpointOf, keyOf, pair, publicKeyOf, uniform, type Node, type Pair, type Sent } from './simulation.js';

const { INITIATION, RESPONSE, COOKIE, TRANSPORT } = MessageType;
const TICK_MS = 200;
const S = 1000;

const lengthsOf = (network: Network): number[][] => network.trace.map(({ type, bytes }) => [type, bytes.length]);
const refusals = (node: Node): Partial<Record<Refusal, number>> => Object.fromEntries(REFUSALS.filter((reason) => node.device.refused[reason] > 0).map((reason) => [reason, node.device.refused[reason]]));
const keepalives = (network: Network, from: Node, sinceMs = 0): Sent[] => network.sent(TRANSPORT, from, sinceMs).filter(({ bytes }) => bytes.length === 32);

/** A packet each 100 ms from a to b, numbered. */
function stream({ network, a, b }: Pair, from: 'a' | 'b' = 'a'): { sent: number; lost: () => string[] } {
  const [source, sink] = from === 'a' ? [a, b] : [b, a];
  const state = { sent: 0, lost: () => Array.from({ length: state.sent }, (_, n) => `${from}${n}`).filter((text) => !sink.received.includes(text)) };
  network.every(100, 0, () => source.send(1, `${from}${state.sent++}`));
  return state;
}

/** A message that was sent, and its network stopped: for handing it over by hand. */
function caught(type: number, all: Pair = pair()): { all: Pair; message: Uint8Array } {
  all.network.loses = (message) => message.type === type;
  all.a.send(1, 'x');
  all.network.run(300);
  all.network.loses = () => true;
  return { all, message: all.network.sent(type)[0]!.bytes };
}

describe('a handshake', () => {
  test('three messages, the same keys on both sides, and the packet that waited', () => {
    const { network, a, b } = pair();
    a.send(1, 'hello');
    network.run(1 * S);
    expect(b.received).toEqual(['hello']);
    expect(lengthsOf(network)).toEqual([[INITIATION, 148], [RESPONSE, 92], [TRANSPORT, 48], [TRANSPORT, 32]]);
    expect(a.sharesSessionWith(1, b, 1)).toBe(true);
    expect(a.session(1)!.sendKey).not.toEqual(a.session(1)!.receiveKey);
    for (const node of [a, b]) {
      expect(node.device.status(1)).toEqual({ state: 'established', latestHandshakeNs: expect.any(BigInt) as bigint, self: node.publicKey });
      expect(node.trueTimeNs() - node.device.status(1)!.latestHandshakeNs).toBeLessThan(1_000_000_000n);
      expect(refusals(node)).toEqual({});
    }
    b.send(1, 'hello back');
    network.run(100);
    expect(a.received).toEqual(['hello back']);
  });

  test('the state that people see: none, handshake, established', () => {
    const { network, a } = pair();
    expect(a.device.status(1)).toEqual({ state: 'none', latestHandshakeNs: 0n });
    expect(a.device.status(2)).toBeUndefined();
    a.send(1, 'x');
    expect(a.device.status(1)!.state).toBe('handshake');
    network.run(1 * S);
    expect(a.device.status(1)!.state).toBe('established');
  });

  test('ephemeral keys and indices are new each time', () => {
    const { network, a, b } = connected();
    network.run(10 * S);
    a.device.rekey(1);
    network.run(1 * S);
    const [first, second] = network.sent(INITIATION, a).map(({ bytes }) => parseMessage(bytes));
    if (first?.type !== INITIATION || second?.type !== INITIATION) throw new Error('two initiations expected');
    expect(first.ephemeral).not.toEqual(second.ephemeral);
    expect(first.sender).not.toBe(second.sender);
    expect(a.sharesSessionWith(1, b, 1)).toBe(true);
  });

  test('the endpoint that an authenticated handshake came from is the peer\'s', () => {
    const { network, a, b } = connected();
    network.run(6 * S);
    a.endpoint = endpointOf(99, 4000);
    a.device.rekey(1);
    network.run(1 * S);
    expect(b.actionsOf('endpoint').at(-1)!.action.endpoint).toMatchObject({ address: endpointOf(99).address, port: 4000 });
    b.send(1, 'to where you are');
    network.run(100);
    expect(a.received).toEqual(['to where you are']);
  });

  test('without an endpoint nothing is initiated, and the peer can still come', () => {
    const network = new Network();
    const [a, b] = [network.add('a'), network.add('b')];
    a.setPeers({ settings: { id: 1, publicKey: b.publicKey } });
    b.setPeers({ settings: { id: 1, publicKey: a.publicKey }, endpoint: a.endpoint });
    network.run(1 * S);
    a.send(1, 'held');
    network.run(2 * S);
    expect(a.actions).toEqual([]); // not even tried: the curve is dear
    b.send(1, 'hello');
    network.run(1 * S);
    expect([a.received, b.received]).toEqual([['hello'], ['held']]);
  });
});

describe('loss', () => {
  test.each([['initiation', INITIATION], ['response', RESPONSE]])('a lost %s is made good after 5 s and up to 333 ms', (_name, type) => {
    const { network, a, b } = pair();
    let lost = 0;
    network.loses = (message) => message.type === type && lost++ === 0;
    a.send(1, 'hello');
    network.run(4.9 * S);
    expect(network.sent(INITIATION)).toHaveLength(1);
    network.run(1.1 * S);
    const [first, second] = network.sent(INITIATION);
    expect(second!.atMs - first!.atMs).toBeGreaterThanOrEqual(5000);
    expect(second!.atMs - first!.atMs).toBeLessThanOrEqual(5333 + TICK_MS);
    expect(b.received).toEqual(['hello']);
    expect(a.actionsOf('send').map(({ action }) => action.attempt)).toEqual([1, 2]);
  });

  test('a lost first message of the session: the next one confirms it', () => {
    const { network, a, b } = pair();
    let lost = 0;
    network.loses = (message) => message.type === TRANSPORT && lost++ < 2;
    a.send(1, 'gone');
    network.run(1 * S);
    expect(b.session(1)).toBeUndefined();
    a.send(1, 'here');
    network.run(1 * S);
    expect(b.received).toEqual(['here']);
    expect(a.sharesSessionWith(1, b, 1)).toBe(true);
    expect(network.sent(INITIATION)).toHaveLength(1);
  });

  test.each([1, 2, 3, 4, 5, 6])('a network that loses a third and reorders, seed %i: both always find back to one another', (seed) => {
    const all = pair();
    const random = uniform(`network ${seed}`);
    all.network.loses = () => random() < 0.33;
    all.network.delayMs = () => 5 + random() * 300;
    stream(all, 'a');
    stream(all, 'b');
    let worstMs = 0;
    let since = all.network.nowMs;
    for (let second = 0; second < 900; second += 1) {
      const before = [all.a.received.length, all.b.received.length];
      all.network.run(1 * S);
      if (all.a.received.length > before[0]! && all.b.received.length > before[1]!) since = all.network.nowMs;
      worstMs = Math.max(worstMs, all.network.nowMs - since);
    }
    // Nine tries of a third's loss on each of two or three messages.
    expect(worstMs).toBeLessThan(60 * S);
    expect(all.b.received.length).toBeGreaterThan(9000 * 0.55);
    expect(refusals(all.a).authentication).toBeUndefined();
    expect(refusals(all.b).authentication).toBeUndefined();
  });

  test('a dead peer: every 5 to 5.333 s for 90 s, then silence until packets wait again', () => {
    const { network, a, b } = pair();
    b.isDead = true;
    a.send(1, 'x');
    network.run(200 * S);
    const times = network.sent(INITIATION, a).map(({ atMs }) => atMs);
    expect(times.length).toBeGreaterThanOrEqual(17);
    expect(times.length).toBeLessThanOrEqual(18);
    for (const [index, time] of times.slice(1).entries()) {
      expect(time - times[index]!).toBeGreaterThanOrEqual(5000);
      expect(time - times[index]!).toBeLessThanOrEqual(5333 + TICK_MS);
    }
    expect(new Set(times.slice(2).map((time, index) => Math.round(time - times[index + 1]!))).size).toBeGreaterThan(1); // there is jitter
    expect(a.actionsOf('gave-up')).toHaveLength(1);
    const gaveUpMs = a.actionsOf('gave-up')[0]!.atMs - times[0]!;
    expect(gaveUpMs).toBeGreaterThanOrEqual(90 * S);
    expect(gaveUpMs).toBeLessThanOrEqual(96 * S);
    expect(a.device.status(1)!.state).toBe('none');

    b.isDead = false;
    a.send(1, 'again');
    network.run(1 * S);
    expect(b.received).toEqual(['again']);
  });

  test('whitepaper-6.4: packets that go on waiting renew the patience', () => {
    const { network, a, b } = pair();
    b.isDead = true;
    stream({ network, a, b });
    network.run(300 * S);
    expect(a.actionsOf('gave-up')).toHaveLength(0);
    expect(network.sent(INITIATION, a).length).toBeGreaterThan(300 / 5.6);
    b.isDead = false;
    network.run(6 * S);
    expect(b.received.length).toBeGreaterThan(0);
  });

  test('a response that comes after the next initiation went out is refused, and the next one is taken', () => {
    const { network, a, b } = pair();
    let responses = 0;
    network.delayMs = (message) => (message.type === RESPONSE && responses++ === 0 ? 5400 : 20);
    a.send(1, 'hello');
    network.run(10 * S);
    expect(b.received).toEqual(['hello']);
    expect(refusals(a)['unknown-index']).toBe(1);
  });
});

describe('both initiate at once', () => {
  test('one of the two handshakes prevails, nothing waits for a retransmission', () => {
    const { network, a, b } = pair();
    a.send(1, 'from a');
    b.send(1, 'from b');
    network.run(1 * S);
    expect([a.received, b.received]).toEqual([['from b'], ['from a']]);
    expect(network.sent(INITIATION)).toHaveLength(2);
    expect(network.sent(RESPONSE)).toHaveLength(1);
    expect((a.device.refused.tie + b.device.refused.tie)).toBe(1);
    expect(a.sharesSessionWith(1, b, 1)).toBe(true);
    network.run(20 * S);
    expect(network.sent(INITIATION)).toHaveLength(2); // nobody tries again
  });

  test.each([0, 3, 10, 19, 30, 60, 150, 400, 900, 1100])('with streams both ways, the second %i ms later: nothing is lost', (laterMs) => {
    for (const delayMs of [1, 30, 600]) {
      const all = pair();
      all.network.delayMs = () => delayMs;
      const one = stream(all, 'a');
      all.network.run(laterMs);
      const other = stream(all, 'b');
      all.network.run(12 * S);
      all.network.loses = (message) => message.type === TRANSPORT && message.bytes.length > 32; // what is on its way arrives
      const counts = [one.sent, other.sent];
      all.network.loses = () => false;
      all.network.run(3 * S);
      expect(one.lost().filter((text) => Number(text.slice(1)) < counts[0]!), `delay ${delayMs}`).toEqual([]);
      expect(other.lost().filter((text) => Number(text.slice(1)) < counts[1]!), `delay ${delayMs}`).toEqual([]);
    }
  });

  test.each(['a', 'b'])('the initiations of %s go nowhere: it insists once, then the other one gets through', (mute) => {
    const { network, a, b } = pair();
    network.loses = ({ type, from }) => type === INITIATION && from.name === mute;
    a.send(1, 'from a');
    network.run(300);
    b.send(1, 'from b');
    network.run(7 * S);
    expect([a.received, b.received]).toEqual([['from b'], ['from a']]);
  });

  test('who has to give way still takes the answer of a peer that knows no ties', () => {
    // One that answers although its own initiation is under way, as others do: here a second device with the same key.
    for (const loser of ['a', 'b'] as const) {
      const { network, a, b } = pair();
      const [one, other] = loser === 'a' ? [a, b] : [b, a];
      network.loses = () => true;
      a.send(1, 'x');
      b.send(1, 'x');
      const [ofOne, ofOther] = [network.sent(INITIATION, one)[0]!, network.sent(INITIATION, other)[0]!];
      one.receive(ofOther.bytes, other.endpoint);
      const gaveWay = network.sent(RESPONSE, one).length === 1;
      const twin = new WireguardDevice(7, other.rim);
      twin.setKeys({ current: other.privateKey });
      twin.setPeers([{ id: 1, publicKey: one.publicKey }]);
      const answer = twin.onMessage(ofOne.bytes, one.endpoint, 0, other.nowNs).find((action) => action.type === 'send');
      if (answer?.type !== 'send') throw new Error('no answer');
      one.receive(answer.message, other.endpoint);
      expect(one.session(1)?.isInitiator, `${loser}, ${gaveWay ? 'gives way' : 'prevails'}`).toBe(true);
    }
  });
});

describe('timers', () => {
  test('standards-wireguard-rekey-120s: a stream meets a new session each 120 s and loses nothing', () => {
    const all = connected();
    const { network, a, b } = all;
    const data = stream(all);
    network.run(600 * S);
    const times = network.sent(INITIATION).map(({ atMs, from }) => ({ atMs, from }));
    expect(times).toHaveLength(5);
    for (const [index, { atMs, from }] of times.slice(1).entries()) {
      expect(from).toBe(a);
      expect(atMs - times[index]!.atMs).toBeGreaterThanOrEqual(120 * S);
      expect(atMs - times[index]!.atMs).toBeLessThanOrEqual(120 * S + 3 * TICK_MS);
    }
    network.run(100);
    expect(data.lost().filter((text) => Number(text.slice(1)) < data.sent - 2)).toEqual([]);
    expect(a.lost + b.lost).toBe(0);
  });

  test('only who initiated rekeys', () => {
    const all = connected();
    stream(all, 'a');
    stream(all, 'b');
    all.network.run(500 * S);
    expect(all.network.sent(INITIATION, all.b)).toEqual([]);
    expect(all.network.sent(INITIATION, all.a).length).toBe(5);
  });

  test('an idle session is not renewed; what is sent after 180 s makes a new one', () => {
    const { network, a, b } = connected();
    network.run(300 * S);
    expect(network.sent(INITIATION)).toHaveLength(1);
    expect(a.device.status(1)!.state).toBe('none');
    a.send(1, 'after a while');
    network.run(1 * S);
    expect(network.sent(INITIATION)).toHaveLength(2);
    expect(b.received).toEqual(['first', 'after a while']);
  });

  test('keys are forgotten 540 s after the last session began, once', () => {
    const { network, a, b } = connected();
    network.run(539 * S);
    expect(a.actionsOf('forget').length + b.actionsOf('forget').length).toBe(0);
    network.run(2 * S);
    expect([a.actionsOf('forget').length, b.actionsOf('forget').length]).toEqual([1, 1]);
    network.run(2000 * S);
    expect([a.actionsOf('forget').length, b.actionsOf('forget').length]).toEqual([1, 1]);
  });

  test('data without an answer: a keepalive after 10 s, one', () => {
    const { network, a, b } = connected();
    network.run(30 * S);
    const sinceMs = network.nowMs;
    a.send(1, 'one way');
    network.run(60 * S);
    const sent = keepalives(network, b, sinceMs);
    expect(sent).toHaveLength(1);
    expect(sent[0]!.atMs - sinceMs).toBeGreaterThanOrEqual(10 * S);
    expect(sent[0]!.atMs - sinceMs).toBeLessThanOrEqual(10 * S + 3 * TICK_MS);
    expect(keepalives(network, a, sinceMs)).toEqual([]); // a keepalive is not answered
    expect(network.sent(INITIATION)).toHaveLength(1);
  });

  test('a stream one way: a keepalive each 10 s, and no handshake but at 120 s', () => {
    const all = connected();
    stream(all);
    all.network.run(100 * S);
    expect(keepalives(all.network, all.b).length).toBeGreaterThanOrEqual(9);
    expect(keepalives(all.network, all.b).length).toBeLessThanOrEqual(10);
    expect(all.network.sent(INITIATION)).toHaveLength(1);
  });

  test('sent and heard nothing for 15 s: a handshake', () => {
    const all = connected();
    const { network, a, b } = all;
    network.run(20 * S);
    b.isDead = true;
    const sinceMs = network.nowMs;
    stream(all);
    network.run(30 * S);
    const [first] = network.sent(INITIATION, a, sinceMs);
    expect(first!.atMs - sinceMs).toBeGreaterThanOrEqual(15 * S);
    expect(first!.atMs - sinceMs).toBeLessThanOrEqual(15 * S + 333 + 3 * TICK_MS);
    expect(a.device.status(1)!.state).toBe('established'); // until 180 s
    b.isDead = false;
    network.run(6 * S);
    expect(a.device.status(1)!.latestHandshakeNs).toBeGreaterThan(b.trueTimeNs() - 7_000_000_000n);
  });

  test('a peer that was restarted and lost its sessions is back in some 15 s of traffic', () => {
    const all = connected();
    const { network, a, b } = all;
    const fresh = network.add('b'); // the same key
    fresh.setPeers({ settings: { id: 1, publicKey: a.publicKey } });
    b.isDead = true;
    [fresh.endpoint, b.endpoint] = [b.endpoint, endpointOf(50)];
    stream(all);
    network.run(17 * S);
    expect(fresh.received.length).toBeGreaterThan(5);
    expect(fresh.lost).toBeGreaterThan(0);
  });

  test('persistent keepalive: makes the session, keeps to its interval, renews, and tries for ever', () => {
    const { network, a, b } = pair({ a: { keepaliveS: 25 } });
    network.run(1 * S);
    expect(a.device.status(1)!.state).toBe('established');
    const sinceMs = network.nowMs;
    network.run(100 * S);
    const times = keepalives(network, a, sinceMs).map(({ atMs }) => atMs);
    expect(times).toHaveLength(4);
    for (const [index, time] of times.slice(1).entries()) {
      expect(time - times[index]!).toBeGreaterThanOrEqual(25 * S);
      expect(time - times[index]!).toBeLessThanOrEqual(25 * S + 2 * TICK_MS);
    }
    network.run(300 * S);
    expect(network.sent(INITIATION).length).toBeGreaterThanOrEqual(3);
    expect(network.sent(INITIATION, b)).toEqual([]);
    b.isDead = true;
    const deadMs = network.nowMs;
    network.run(700 * S);
    // Rounds of 90 s, and the interval between them.
    const tries = network.sent(INITIATION, a, deadMs).map(({ atMs }) => atMs);
    const pauses = tries.slice(1).map((time, index) => time - tries[index]!).filter((gapMs) => gapMs > 6 * S);
    expect(a.actionsOf('gave-up').length).toBeGreaterThan(2);
    expect(pauses.length).toBeGreaterThan(2);
    for (const gapMs of pauses) {
      expect(gapMs).toBeGreaterThanOrEqual(25 * S);
      expect(gapMs).toBeLessThanOrEqual(25 * S + 2 * TICK_MS);
    }
    b.isDead = false;
    network.run(40 * S);
    expect(a.sharesSessionWith(1, b, 1)).toBe(true);
  });

  test('after answering, one does not initiate for 5 s: the answered handshake has its chance', () => {
    const { network, a, b } = pair();
    network.loses = ({ type }) => type === RESPONSE;
    a.send(1, 'x');
    network.run(100);
    b.send(1, 'y');
    network.run(4.8 * S);
    expect(network.sent(INITIATION, b)).toEqual([]);
    network.loses = () => false;
    network.run(1.5 * S);
    expect([a.received, b.received]).toEqual([['y'], ['x']]);
  });

  test('thousands of peers that want a session at once get it in turn, and no tick is a long one', () => {
    const network = new Network();
    const a = network.add('a');
    const count = 1000;
    a.setPeers(...Array.from({ length: count }, (_, n) => ({ settings: { id: n + 1, publicKey: keyOf(`point ${n % 7}/${n}`) }, endpoint: endpointOf(n + 10) })));
    for (let id = 1; id <= count; id += 1) a.send(id, 'x');
    const burst = network.sent(INITIATION).length;
    expect(burst).toBeLessThanOrEqual(50);
    const perTick: number[] = [];
    for (let tick = 0; tick < 10; tick += 1) {
      const before = network.sent(INITIATION).length;
      network.run(TICK_MS);
      perTick.push(network.sent(INITIATION).length - before);
    }
    expect(Math.max(...perTick)).toBeLessThanOrEqual(21);
    expect(perTick.reduce((sum, one) => sum + one)).toBeGreaterThanOrEqual(150); // 100 a second
    expect(new Set(network.sent(INITIATION).map(({ to }) => to.address.join())).size).toBe(network.sent(INITIATION).length); // each once
  });
});

describe('preshared keys', () => {
  const psk = keyOf('preshared');
  test('the same on both sides', () => {
    const { network, a, b } = pair({ a: { presharedKey: psk }, b: { presharedKey: psk } });
    a.send(1, 'hello');
    network.run(1 * S);
    expect(b.received).toEqual(['hello']);
  });

  test.each([
    ['different', { a: { presharedKey: psk }, b: { presharedKey: keyOf('another') } }],
    ['only here', { a: { presharedKey: psk } }],
    ['only there', { b: { presharedKey: psk } }],
  ])('%s: no session, nothing goes out', (_name, change) => {
    const { network, a, b } = pair(change);
    a.send(1, 'secret');
    network.run(20 * S);
    expect(b.received).toEqual([]);
    expect(network.sent(TRANSPORT)).toEqual([]);
    expect(a.device.refused.authentication).toBeGreaterThanOrEqual(3);
    expect([a.device.status(1)!.state, b.device.status(1)!.state]).toEqual(['handshake', 'none']);
  });

  test('a change on both sides counts from the next handshake on', () => {
    const { network, a, b } = connected();
    a.setPeers({ settings: { id: 1, publicKey: b.publicKey, presharedKey: psk } });
    b.setPeers({ settings: { id: 1, publicKey: a.publicKey, presharedKey: psk } });
    expect(a.actionsOf('forget')).toEqual([]);
    network.run(6 * S);
    a.device.rekey();
    network.run(1 * S);
    expect(network.sent(INITIATION)).toHaveLength(2);
    expect(a.sharesSessionWith(1, b, 1)).toBe(true);
  });
});

describe('strangers and forgers', () => {
  test('standards-wireguard-silence: a stranger gets no answer, whether it knows the key or not', () => {
    const { network, a, b } = pair();
    const stranger = network.add('stranger');
    stranger.setPeers({ settings: { id: 1, publicKey: b.publicKey }, endpoint: b.endpoint });
    stranger.send(1, 'x');
    network.run(7 * S);
    expect(refusals(b)).toEqual({ 'unknown-peer': 2 });
    const lost = network.add('lost');
    lost.setPeers({ settings: { id: 1, publicKey: publicKeyOf(keyOf('somebody')) }, endpoint: b.endpoint });
    lost.send(1, 'x');
    network.run(1 * S);
    expect(refusals(b)).toEqual({ 'unknown-peer': 2, mac1: 1 });
    for (const bytes of [new Uint8Array(0), new Uint8Array(148), Uint8Array.of(9, 9, 9)]) b.receive(bytes, a.endpoint);
    expect(refusals(b).malformed).toBe(3);
    expect(network.sent(RESPONSE)).toEqual([]);
    expect(b.actions).toEqual([]);
  });

  test('replayed and older initiations are refused, from wherever they come', () => {
    const { network, a, b } = connected();
    network.run(6 * S);
    a.device.rekey(1);
    network.run(1 * S);
    const initiations = network.sent(INITIATION);
    expect(initiations).toHaveLength(2);
    const before = b.actions.length;
    for (const { bytes } of [...initiations, ...initiations]) b.receive(bytes, endpointOf(66));
    expect(refusals(b)).toEqual({ 'old-timestamp': 4 });
    expect(b.actions.length).toBe(before); // not even the endpoint
    const response = network.sent(RESPONSE).at(-1)!.bytes;
    a.receive(response, endpointOf(66));
    expect(refusals(a)).toEqual({ 'unknown-index': 1 });
  });

  test('a peer\'s initiations faster than 50 a second are refused', () => {
    const { all: { a, b, network } } = caught(INITIATION);
    a.device.rekey(1);
    network.run(5.6 * S);
    const [first, second] = network.sent(INITIATION);
    b.receive(first!.bytes, a.endpoint);
    b.receive(second!.bytes, a.endpoint);
    expect(refusals(b)).toEqual({ 'too-soon': 1 });
    network.run(20);
    b.receive(second!.bytes, a.endpoint);
    expect(b.actionsOf('install')).toHaveLength(2);
  });

  test('standards-wireguard-tai64n: our wall clock goes back an hour, the peer still answers', () => {
    let backNs = 0n;
    const all = connected({ optionsA: { wallClockNs: (nowMs) => 1_764_000_000_000_000_000n + BigInt(Math.round(nowMs)) * 1_000_000n - backNs } });
    backNs = 3600n * 1_000_000_000n;
    const data = stream(all);
    all.network.run(300 * S);
    expect(all.network.sent(INITIATION)).toHaveLength(3);
    expect(data.lost().length).toBeLessThan(3);
    expect(refusals(all.b)).toEqual({});
  });

  test('initiation: no bit can be changed unnoticed, whatever mac1 is made of it', () => {
    const { all: { a, b, network }, message } = caught(INITIATION);
    const keys = macKeysOf(b.publicKey);
    const sinceMs = network.nowMs;
    for (let index = 0; index < 148 - 16; index += 1) {
      for (const isForged of [false, true]) {
        // The sender's index is not authenticated by the handshake: who sits in the middle changes where the answer goes, as it could drop it.
        if (isForged && index >= 4 && index < 8) continue;
        const changed = message.slice();
        changed[index]! ^= 1 << index % 8;
        if (isForged) addMacs(changed, keys);
        if (isForged && index >= 116) continue; // mac1 itself, just repaired
        b.receive(changed, a.endpoint);
        expect(b.actions, `byte ${index}${isForged ? ', mac1 made new' : ''}`).toEqual([]);
      }
    }
    expect(network.sent(RESPONSE, b, sinceMs)).toEqual([]);
    expect(refusals(b)).toEqual({ malformed: 8, mac1: 128, authentication: 108 });
    b.receive(message, a.endpoint);
    expect(b.actionsOf('install')).toHaveLength(1);
  });

  test('response: no bit can be changed unnoticed, and the right one is still taken', () => {
    const { all: { a, b }, message } = caught(RESPONSE);
    const keys = macKeysOf(a.publicKey);
    const before = a.actions.length;
    for (let index = 0; index < 92 - 16; index += 1) {
      for (const isForged of [false, true]) {
        if (isForged && ((index >= 4 && index < 8) || index >= 60)) continue; // as above
        const changed = message.slice();
        changed[index]! ^= 1 << index % 8;
        if (isForged) addMacs(changed, keys);
        a.receive(changed, b.endpoint);
        expect(a.actions.length, `byte ${index}${isForged ? ', mac1 made new' : ''}`).toBe(before);
      }
    }
    expect(refusals(a)).toEqual({ malformed: 8, 'unknown-index': 8, mac1: 68, authentication: 48 });
    a.receive(message, b.endpoint);
    expect(a.actionsOf('install')).toHaveLength(1);
  });

  test('every message cut short or made longer is refused', () => {
    const { all: { a, b }, message } = caught(INITIATION);
    for (let length = 0; length < 200; length += 1) {
      if (length === message.length) continue;
      const cut = new Uint8Array(length);
      cut.set(message.subarray(0, length));
      b.receive(cut.length > 0 ? cut : new Uint8Array(0), a.endpoint);
    }
    expect(b.actions).toEqual([]);
    expect(refusals(b)).toEqual({ malformed: 199 });
  });

  test('an all-zero public key is no peer', () => {
    const { network, a } = pair({ a: { publicKey: new Uint8Array(32) } });
    a.send(1, 'x');
    network.run(100 * S);
    expect(network.trace).toEqual([]);
    expect(a.actionsOf('gave-up')).toHaveLength(1);
  });

  test('no index left: the initiation is not answered', () => {
    const { all: { a, b }, message } = caught(INITIATION);
    b.rim.newIndex = () => 0;
    b.receive(message, a.endpoint);
    expect(refusals(b)).toEqual({ 'no-index': 1 });
    expect(b.actions).toEqual([]);
  });
});

describe('cookies', () => {
  /** b answers only initiations with a valid mac2, as the gate does under load. */
  function underLoad(all: Pair): { replies: Uint8Array[] } {
    const secret = new CookieSecret(all.b.rim.randomBytes);
    const state = { replies: [] as Uint8Array[] };
    all.b.gate = (bytes, from) => {
      if (bytes[0] !== INITIATION || secret.hasMac2(bytes, from.address, all.network.nowMs)) return false;
      const reply = secret.reply(bytes, new DataView(bytes.buffer).getUint32(4, true), from.address, macKeysOf(all.b.publicKey), all.network.nowMs);
      state.replies.push(reply);
      all.network.transmit(all.b, from, reply);
      return true;
    };
    return state;
  }

  test('whitepaper-5.3: the next initiation carries mac2, not at once but in its time', () => {
    const all = pair();
    underLoad(all);
    all.a.send(1, 'hello');
    all.network.run(4.9 * S);
    expect(lengthsOf(all.network)).toEqual([[INITIATION, 148], [COOKIE, 64]]);
    expect(mac2Of(all.network.sent(INITIATION)[0]!.bytes)).toEqual(new Uint8Array(16));
    all.network.run(1 * S);
    expect(all.b.received).toEqual(['hello']);
    expect(mac2Of(all.network.sent(INITIATION)[1]!.bytes)).not.toEqual(new Uint8Array(16));
  });

  test('a cookie is used for 120 s, and not for another address', () => {
    const all = pair();
    const { replies } = underLoad(all);
    all.a.send(1, 'hello');
    all.network.run(10 * S);
    expect(replies).toHaveLength(1);
    all.a.device.rekey(1);
    all.network.run(1 * S);
    expect(replies).toHaveLength(1);
    all.a.endpoint = endpointOf(77); // it moved: the old cookie is worthless, a new one comes
    all.network.run(5 * S);
    all.a.device.rekey(1);
    all.network.run(7 * S);
    expect(replies).toHaveLength(2);
    expect(all.network.sent(RESPONSE)).toHaveLength(3);
    all.network.run(130 * S);
    all.a.device.rekey(1);
    all.network.run(300);
    expect(mac2Of(all.network.sent(INITIATION).at(-1)!.bytes)).toEqual(new Uint8Array(16));
  });

  test('no bit of a reply can be changed, it fits one message only, and counts once', () => {
    const all = pair();
    const { replies } = underLoad(all);
    all.network.loses = ({ type }) => type === COOKIE;
    all.a.send(1, 'x');
    all.network.run(500);
    const reply = replies[0]!;
    for (let index = 0; index < 64; index += 1) {
      const changed = reply.slice();
      changed[index]! ^= 1 << index % 8;
      all.a.receive(changed, all.b.endpoint);
    }
    expect(refusals(all.a)).toEqual({ malformed: 4, 'unknown-index': 4, cookie: 56 });
    all.a.receive(reply, all.b.endpoint);
    expect(refusals(all.a)).toEqual({ malformed: 4, 'unknown-index': 4, cookie: 56 });
    all.a.receive(reply, all.b.endpoint);
    expect(refusals(all.a)).toEqual({ malformed: 4, 'unknown-index': 5, cookie: 56 });
    all.network.run(6 * S);
    expect(all.b.received).toEqual(['x']);
  });

  test('a cookie answers a response too', () => {
    const { all: { a, b }, message } = caught(RESPONSE);
    const secret = new CookieSecret(a.rim.randomBytes);
    const sender = new DataView(message.buffer).getUint32(4, true);
    b.receive(secret.reply(message, sender, b.endpoint.address, macKeysOf(a.publicKey), a.network.nowMs), a.endpoint);
    expect(refusals(b)).toEqual({});
    a.network.run(6 * S);
    b.receive(a.network.sent(INITIATION).at(-1)!.bytes, a.endpoint);
    expect(a.network.sent(RESPONSE)).toHaveLength(2);
    expect(secret.hasMac2(a.network.sent(RESPONSE).at(-1)!.bytes, b.endpoint.address, a.network.nowMs)).toBe(true);
  });
});

describe('static keys that rotate', () => {
  const next = keyOf('a, next');

  test('under load: announced, both answered to, switched, old one gone; nothing is lost or waits', () => {
    const all = connected();
    const { network, a, b } = all;
    const streams = [stream(all, 'a'), stream(all, 'b')];
    const nextPublic = publicKeyOf(next);
    network.run(3 * S);
    a.device.setKeys({ current: a.privateKey, next });
    expect(a.device.publicKeys()).toEqual({ current: a.publicKey, next: nextPublic });
    expect(a.device.gateKeys()).toHaveLength(128);
    network.run(3 * S);
    b.setPeers({ settings: { id: 1, publicKey: a.publicKey, nextPublicKey: nextPublic } });
    network.run(3 * S);

    expect(a.device.status(1)?.self).toEqual(a.publicKey);
    a.device.setKeys({ current: a.privateKey, next, initiateWith: 'next' });
    a.device.rekey();
    network.run(1 * S);
    expect(network.sent(INITIATION, a)).toHaveLength(2);
    expect(a.device.status(1)?.self).toEqual(nextPublic);
    expect(a.sharesSessionWith(1, b, 1)).toBe(true);
    // b has learned the key by the handshake: its own initiations are for the new one.
    network.run(6 * S);
    b.device.rekey();
    network.run(1 * S);
    expect(network.sent(INITIATION, b)).toHaveLength(1);
    expect(a.sharesSessionWith(1, b, 1)).toBe(true);
    expect(a.device.status(1)?.self).toEqual(nextPublic);

    a.device.setKeys({ current: next });
    b.setPeers({ settings: { id: 1, publicKey: nextPublic } });
    network.run(400 * S);
    expect(a.device.publicKeys()).toEqual({ current: nextPublic, next: null });
    expect(a.sharesSessionWith(1, b, 1)).toBe(true);
    expect([...a.actionsOf('forget'), ...b.actionsOf('forget')]).toEqual([]);
    network.run(100);
    for (const { lost, sent } of streams) expect(lost().filter((text) => Number(text.slice(1)) < sent - 3)).toEqual([]);
    expect([refusals(a), refusals(b), a.lost, b.lost]).toEqual([{}, {}, 0, 0]);
  });

  test('the old key is answered to while it is there, and not after', () => {
    const { network, a, b } = pair();
    a.device.setKeys({ current: a.privateKey, next, initiateWith: 'next' });
    b.send(1, 'to the old key');
    network.run(1 * S);
    expect(a.received).toEqual(['to the old key']);
    a.device.setKeys({ current: next });
    network.run(6 * S);
    b.device.rekey(1);
    network.run(1 * S);
    expect(refusals(a)).toEqual({ mac1: 1 });
  });

  test('the event\'s hint about the key may be right, wrong or absent', () => {
    for (const hint of [0, 1, 2, 0xff]) {
      const { all: { a, b }, message } = caught(INITIATION);
      b.device.setKeys({ current: keyOf('something new'), next: b.privateKey });
      expect(b.device.onMessage(message, a.endpoint, hint, b.nowNs).map(({ type }) => type), `hint ${hint}`).toEqual(['endpoint', 'install', 'send']);
    }
  });

  test('a peer that does not answer to one of its keys is tried with the other', () => {
    const network = new Network();
    const [a, b] = [network.add('a'), network.add('b', { privateKey: next })];
    a.setPeers({ settings: { id: 1, publicKey: publicKeyOf(keyOf('b, before')), nextPublicKey: b.publicKey }, endpoint: b.endpoint });
    b.setPeers({ settings: { id: 1, publicKey: a.publicKey } });
    a.send(1, 'found');
    network.run(6 * S);
    expect(b.received).toEqual(['found']);
    expect(refusals(b)).toEqual({ mac1: 1 });
  });

  test('a handshake under way with a key that goes away begins anew', () => {
    const { all: { a, b, network } } = caught(INITIATION);
    b.setPeers({ settings: { id: 1, publicKey: publicKeyOf(next) } });
    a.device.setKeys({ current: next });
    network.loses = () => false;
    network.run(1 * S);
    expect(b.received).toEqual(['x']);
  });
});

describe('peers come and go', () => {
  test('a removed peer is forgotten and a stranger', () => {
    const { network, a, b } = connected();
    b.setPeers();
    expect(b.actionsOf('forget').map(({ action }) => action.peerId)).toEqual([1]);
    network.run(6 * S);
    a.device.rekey(1);
    network.run(1 * S);
    expect(refusals(b)).toEqual({ 'unknown-peer': 1 });
    expect(b.device.status(1)).toBeUndefined();
  });

  test('a key that is not the peer\'s any more ends its sessions; the same peer again does not', () => {
    const { a, b } = connected();
    a.setPeers({ settings: { id: 1, publicKey: b.publicKey, keepaliveS: 10 } });
    expect(a.actionsOf('forget')).toEqual([]);
    a.setPeers({ settings: { id: 1, publicKey: keyOf('new'), nextPublicKey: b.publicKey } });
    expect(a.actionsOf('forget')).toEqual([]);
    a.setPeers({ settings: { id: 1, publicKey: keyOf('new') } });
    expect(a.actionsOf('forget')).toHaveLength(1);
    a.setPeers({ settings: { id: 1, publicKey: b.publicKey } });
    expect(a.actionsOf('forget')).toHaveLength(2);
    expect(a.device.status(1)).toEqual({ state: 'none', latestHandshakeNs: 0n });
  });

  test('keys of a wrong length are the caller\'s mistake', () => {
    const { a } = pair();
    expect(() => a.device.setKeys({ current: new Uint8Array(31) })).toThrow('a key has 32 bytes, this one has 31');
    expect(() => a.device.setPeers([{ id: 1, publicKey: new Uint8Array(33) }])).toThrow('33');
    expect(() => a.device.setPeers([{ id: 1, publicKey: a.publicKey, presharedKey: new Uint8Array(1) }])).toThrow('has 1');
    expect(() => new WireguardDevice(1, a.rim).publicKeys()).toThrow('setKeys');
  });

  test('a closed device answers nothing', () => {
    const { all: { a, b }, message } = caught(INITIATION);
    b.device.close();
    b.receive(message, a.endpoint);
    expect(refusals(b)).toEqual({ mac1: 1 });
    expect(b.actions).toEqual([]);
  });
});
