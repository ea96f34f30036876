// What is due at which moment, by the times that the workers noted: the corners that two devices reach only by accident.
import { describe, expect, test } from 'vitest';
import { Due, SessionTimers, isUsable, type Seen } from '../../src/wireguard/timers.js';

const S = 1000;
const T = 5_000_000; // when the session began

function seen(change: Partial<Seen> = {}): Seen {
  return { lastSentMs: 0, lastReceivedMs: 0, lastDataSentMs: 0, lastDataReceivedMs: 0, currentCreatedMs: T, currentSentHigh: 0, currentInitiator: true, ...change };
}

/** At which moment, in steps of 100 ms since T, is something due first? */
function firstDue(of: (nowMs: number) => Seen, what: number, untilMs = 600 * S, options: { keepaliveMs?: number; jitterMs?: number; timers?: SessionTimers } = {}): number | undefined {
  const timers = options.timers ?? new SessionTimers();
  for (let ms = 0; ms <= untilMs; ms += 100) {
    if ((timers.due(of(T + ms), T + ms, options.keepaliveMs ?? 0, () => options.jitterMs ?? 0) & what) !== 0) return ms;
  }
  return undefined;
}

describe('handshakes', () => {
  test('REKEY_AFTER_TIME: the initiator, with the first message at 120 s or later', () => {
    expect(firstDue((now) => seen({ lastSentMs: now, lastReceivedMs: now }), Due.HANDSHAKE)).toBe(120 * S);
    expect(firstDue(() => seen({ lastSentMs: T + 119_999, lastReceivedMs: T }), Due.HANDSHAKE)).toBeUndefined();
    expect(firstDue((now) => seen({ lastSentMs: now, lastReceivedMs: now, currentInitiator: false }), Due.HANDSHAKE)).toBeUndefined();
  });

  test('the initiator that only receives: 165 s', () => {
    expect(firstDue((now) => seen({ lastSentMs: T, lastReceivedMs: now }), Due.HANDSHAKE)).toBe(165 * S);
    expect(firstDue((now) => seen({ lastSentMs: T, lastReceivedMs: now, currentInitiator: false }), Due.HANDSHAKE)).toBeUndefined();
  });

  test('not for a session that is over', () => {
    const timers = new SessionTimers();
    const old = seen({ lastSentMs: T + 179 * S, lastReceivedMs: T + 179 * S });
    expect(timers.due(old, T + 180 * S, 0, () => 0)).toBe(0);
    expect(isUsable(old, T + 180 * S - 1)).toBe(true);
    expect(isUsable(old, T + 180 * S)).toBe(false);
    expect(isUsable(seen({ currentCreatedMs: 0 }), T)).toBe(false);
  });

  test('REKEY_AFTER_MESSAGES: 2^60, whoever initiated', () => {
    for (const currentInitiator of [true, false]) {
      expect(new SessionTimers().due(seen({ currentInitiator, currentSentHigh: 2 ** 28 - 1 }), T + 1, 0, () => 0)).toBe(0);
      expect(new SessionTimers().due(seen({ currentInitiator, currentSentHigh: 2 ** 28 }), T + 1, 0, () => 0)).toBe(Due.HANDSHAKE);
    }
  });

  test('unanswered for 15 s, with jitter, counted from the first message that had no answer', () => {
    // Sending goes on: it does not postpone.
    expect(firstDue((now) => seen({ lastDataSentMs: Math.max(now, T + 1), lastSentMs: T + 1, lastReceivedMs: T }), Due.HANDSHAKE, 60 * S, { jitterMs: 300 })).toBe(15_400);
    // One answer in between begins it anew.
    expect(firstDue((now) => seen({ lastDataSentMs: now + 1, lastReceivedMs: now >= T + 10 * S ? T + 10 * S : T }), Due.HANDSHAKE, 60 * S)).toBe(25_100);
    // The answer may be a handshake message.
    const timers = new SessionTimers();
    timers.handshakeReceivedMs = T + 5 * S;
    expect(firstDue(() => seen({ lastDataSentMs: T + 1 }), Due.HANDSHAKE, 60 * S, { timers })).toBeUndefined();
  });

  test('once for what was sent, again for what is sent later', () => {
    const timers = new SessionTimers();
    const due = (nowMs: number, lastDataSentMs: number): number => timers.due(seen({ lastDataSentMs }), nowMs, 0, () => 0);
    expect(due(T + 1 * S, T + 1 * S)).toBe(0);
    expect(due(T + 16 * S, T + 1 * S)).toBe(Due.HANDSHAKE);
    for (let ms = 16_100; ms < 100 * S; ms += 100) expect(due(T + ms, T + 1 * S)).toBe(0);
    expect(due(T + 100 * S, T + 100 * S)).toBe(0);
    expect(due(T + 115 * S, T + 100 * S)).toBe(Due.HANDSHAKE);
  });
});

describe('keepalives', () => {
  test('10 s after the first data that nothing went back for; not for keepalives', () => {
    expect(firstDue((now) => seen({ lastDataReceivedMs: now, lastReceivedMs: now, currentInitiator: false }), Due.KEEPALIVE, 60 * S)).toBe(10 * S);
    expect(firstDue((now) => seen({ lastReceivedMs: now, currentInitiator: false }), Due.KEEPALIVE, 60 * S)).toBeUndefined();
    expect(firstDue((now) => seen({ lastDataReceivedMs: now, lastReceivedMs: now, lastSentMs: now }), Due.KEEPALIVE, 60 * S)).toBeUndefined();
  });

  test('one that could not be sent is not tried each tick', () => {
    const timers = new SessionTimers();
    let count = 0;
    for (let ms = 0; ms < 35 * S; ms += 100) if ((timers.due(seen({ lastDataReceivedMs: T + ms, lastReceivedMs: T + ms }), T + ms, 0, () => 0) & Due.KEEPALIVE) !== 0) count += 1;
    expect(count).toBe(3);
  });

  test('persistent: after its interval without any message, a handshake when there is no session', () => {
    expect(firstDue(() => seen({ lastSentMs: T, lastReceivedMs: T + 3 * S }), Due.KEEPALIVE, 60 * S, { keepaliveMs: 25 * S })).toBe(28 * S);
    expect(firstDue(() => seen({ currentCreatedMs: 0 }), Due.HANDSHAKE, 60 * S, { keepaliveMs: 25 * S })).toBe(0);
    expect(firstDue(() => seen({ currentCreatedMs: 0 }), Due.HANDSHAKE | Due.KEEPALIVE, 600 * S)).toBeUndefined();
  });
});

test('keys are forgotten 540 s after the last session was derived, once', () => {
  const timers = new SessionTimers();
  timers.onDerived(T);
  expect(firstDue(() => seen({ currentCreatedMs: 0 }), Due.FORGET, 1000 * S, { timers })).toBe(540 * S);
  expect(firstDue(() => seen({ currentCreatedMs: 0 }), Due.FORGET, 2000 * S, { timers })).toBeUndefined();
  expect(firstDue(() => seen({ currentCreatedMs: 0 }), Due.FORGET, 1000 * S)).toBeUndefined();
});
