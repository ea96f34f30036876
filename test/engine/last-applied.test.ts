// The state in force, on disk: it comes back whole or not at all.
import { readFileSync, writeFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { loadLastApplied, parsePlan, saveLastApplied, type ConfigurePlan } from '../../src/engine/last-applied.js';
import { makeRunDirectory } from './fake-addon.js';

const PLAN: ConfigurePlan = {
  ports: [{ name: 'eth1', ifindex: 2, slot: 0, queues: 1, mode: 'native', allowGeneric: true, partialChecksums: false }],
  vlans: [{ device: 'eth1.5', parent: 'eth1', vlanId: 5 }],
  addresses: [{ device: 'eth1', address: '2001:db8::1', prefixLength: 64 }],
};

describe('last applied', () => {
  test('comes back as it was', () => {
    const { lastApplied } = makeRunDirectory();
    const snapshot = Uint8Array.from({ length: 300 }, (_, index) => index % 256);
    saveLastApplied(lastApplied, { plan: PLAN, snapshot });
    expect(loadLastApplied(lastApplied)).toEqual({ plan: PLAN, snapshot });
  });

  test('is absent when there is no file', () => expect(loadLastApplied('/nonexistent/last-applied.bin')).toBeUndefined());

  test('is absent when cut anywhere, or when any byte is wrong', () => {
    const { lastApplied } = makeRunDirectory();
    saveLastApplied(lastApplied, { plan: PLAN, snapshot: new Uint8Array(16) });
    const whole = readFileSync(lastApplied);
    for (let at = 0; at < whole.length; at += 1) {
      writeFileSync(lastApplied, whole.subarray(0, at));
      expect(loadLastApplied(lastApplied)).toBeUndefined();
      const wrong = Buffer.from(whole);
      wrong[at]! ^= 0x40;
      writeFileSync(lastApplied, wrong);
      expect(loadLastApplied(lastApplied)).toBeUndefined();
    }
  });

  test.each([
    { fault: 'no ports', plan: { vlans: [], addresses: [] } },
    { fault: 'a device name that is a path', plan: { ...PLAN, ports: [{ ...PLAN.ports[0], name: '../eth1' }] } },
    { fault: 'a device name that is an option', plan: { ...PLAN, ports: [{ ...PLAN.ports[0], name: '-batch' }] } },
    { fault: 'a slot past the bound', plan: { ...PLAN, ports: [{ ...PLAN.ports[0], slot: 32 }] } },
    { fault: 'one slot twice', plan: { ...PLAN, ports: [PLAN.ports[0], { ...PLAN.ports[0], name: 'eth2' }] } },
    { fault: 'an address that is none', plan: { ...PLAN, addresses: [{ device: 'eth1', address: 'dev lo', prefixLength: 8 }] } },
    { fault: 'nothing at all', plan: null },
  ])('a plan with $fault is refused', ({ plan }) => expect(() => parsePlan(plan)).toThrow(TypeError));
});
