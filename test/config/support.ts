// Shared by the configuration's tests: facts of a small machine, a base configuration, and short ways to check.
import { checkText, type Checked } from '../../src/config/check.js';
import type { Device, Facts } from '../../src/config/facts.js';
import type { Problem } from '../../src/config/problem.js';

export function device(name: string, ifindex: number, extra: Partial<Device> = {}): Device {
  return { name, ifindex, mtu: 1500, mac: `02:00:00:00:00:0${ifindex}`, driver: 'veth', up: true, queues: 2, kind: 'veth', addresses: [], ...extra };
}

export const facts: Facts = { devices: [device('lo', 1), device('eth1', 2), device('eth2', 3)], localPortRange: [32768, 60999] };

export const base = `version: 1
interfaces:
  untrust: { device: eth1, zone: untrust, addresses: [203.0.113.4/24, "2001:db8:1::4/64"] }
  trust: { device: eth2, zone: trust, addresses: [10.0.1.4/24, "2001:db8:2::4/64"] }
`;

export function check(text: string, withFacts?: Facts): Checked {
  return checkText(text, 'test.yaml', withFacts);
}

/** "line path code" of each problem: what a test states. */
export function brief(problems: readonly Problem[]): string[] {
  return problems.map(({ line, path, code }) => `${line} ${path} ${code}`);
}

/** A generator of numbers below 1 that repeats itself for a seed. */
export function random(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}
