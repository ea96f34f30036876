// The addon's boundary: the layout of counters, and what is said when the addon is missing or not ours.
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { Counter, DropReason, SessionProtocol, SessionState, SL_COUNTER_COUNT, SL_DROP_REASON_COUNT, SL_PORTS_MAX, SL_SESSION_PROTOCOL_COUNT, SL_SESSION_STATE_COUNT, SL_STEER_BASE, SL_STEER_KEYS } from '../../src/engine/abi.generated.js';
import { COUNTER_WORDS, GAUGES, loadAddon, readCounters } from '../../src/engine/binding.js';
import { makeRunDirectory } from './fake-addon.js';

describe('counters', () => {
  test('stand where the engine writes them', () => {
    const words = BigUint64Array.from({ length: COUNTER_WORDS }, (_, index) => BigInt(index));
    const counters = readCounters(new Uint8Array(words.buffer));
    const gaugesAt = SL_COUNTER_COUNT + SL_DROP_REASON_COUNT;
    const statesAt = gaugesAt + GAUGES.length;
    expect(counters.counters[Counter.TX_BYTES]).toBe(Counter.TX_BYTES);
    expect(counters.drops[DropReason.POLICY_DENY]).toBe(SL_COUNTER_COUNT + DropReason.POLICY_DENY);
    expect(counters.gauges.held).toBe(statesAt - 1);
    expect(counters.sessionStates[SessionState.CLOSED]).toBe(statesAt + SessionState.CLOSED);
    expect(counters.steer(2)[SL_STEER_BASE]).toBe(statesAt + SL_SESSION_STATE_COUNT + 2 * SL_STEER_KEYS + SL_STEER_BASE);
    const sessionsAt = statesAt + SL_SESSION_STATE_COUNT + SL_PORTS_MAX * SL_STEER_KEYS;
    expect(counters.sessions(SessionState.NEW)[SessionProtocol.OTHER]).toBe(sessionsAt + SessionState.NEW * SL_SESSION_PROTOCOL_COUNT + SessionProtocol.OTHER);
    expect(counters.sessionsOffloaded).toBe(sessionsAt + SL_SESSION_STATE_COUNT * SL_SESSION_PROTOCOL_COUNT);
    expect(counters.latency.buckets[0]).toBe(counters.sessionsOffloaded + 1);
    expect(counters.latency.nanoseconds).toBe(COUNTER_WORDS - 1);
  });

  test('may be longer than we know, never shorter', () => {
    expect(readCounters(new Uint8Array(COUNTER_WORDS * 8 + 64)).gauges.sessions).toBe(0);
    expect(() => readCounters(new Uint8Array(COUNTER_WORDS * 8 - 8))).toThrow(/counters of/);
  });
});

describe('loading', () => {
  test('says what to do when the addon is not built', () => {
    expect(() => loadAddon('/nonexistent/sluice.node')).toThrow(expect.objectContaining({ code: 'SLUICE_ADDON_MISSING', message: expect.stringContaining('npm run build') as string }));
  });

  test('says so when the file is no addon', () => {
    const path = join(makeRunDirectory().dir, 'sluice.node');
    writeFileSync(path, 'not an addon');
    expect(() => loadAddon(path)).toThrow(expect.objectContaining({ code: 'SLUICE_ADDON_BROKEN' }));
  });

  test('says so when the addon is older than we are', () => {
    const path = join(makeRunDirectory().dir, 'sluice.cjs');
    writeFileSync(path, 'module.exports = { open() {} };');
    expect(() => loadAddon(path)).toThrow(expect.objectContaining({ code: 'SLUICE_ADDON_STALE', message: expect.stringContaining('addPort') as string }));
  });
});
