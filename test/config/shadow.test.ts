// findShadowed against a naive sampler: a rule called covered must never be the first to match, on points chosen at
// every edge of every set; and each pair that is covered by construction must be found.
import { expect, test } from 'vitest';
import { Objects } from '../../src/config/objects.js';
import { findShadowed, type ShadowRule } from '../../src/config/shadow.js';
import { contains, isIpv4, prefixFamily, rangeOf } from '../../src/lib/address.js';
import type { Config } from '../../src/config/schema.js';
import { random } from './support.js';

const objects = new Objects({ version: 1 } as Config);
const ADDRESSES = [undefined, '10.0.0.0/8', '10.0.0.0/9', '10.128.0.0/9', '10.1.0.0/16', '10.1.2.3', '10.0.0.0-10.1.2.3', '0.0.0.0/0', '::/0', '2001:db8::/32', '2001:db8::1'];
const SERVICES = [undefined, 'tcp', 'tcp/80', 'tcp/1-100', 'tcp/101-200', 'udp/53', 'icmp', 'icmp/echo-request'];

function rule(next: () => number): ShadowRule {
  const pick = <T>(from: readonly T[]): T => from[Math.floor(next() * from.length)]!;
  const list = (from: readonly (string | undefined)[]): string[] | undefined => {
    const items = Array.from({ length: 1 + Math.floor(next() * 3) }, () => pick(from));
    return items.includes(undefined) ? undefined : items as string[];
  };
  const mask = () => pick([1n, 2n, 3n, 0xffffffffffffffffn]);
  return { from: mask(), to: mask(), sources: objects.addressList(list(ADDRESSES)), destinations: objects.addressList(list(ADDRESSES)), services: objects.serviceList(list(SERVICES)) };
}

const POINTS = ADDRESSES.flatMap((text) => objects.addressList(text).prefixes.flatMap((prefix) => [rangeOf(prefix).lo, rangeOf(prefix).hi]));
const PACKETS = SERVICES.flatMap((text) => objects.serviceList(text).services.flatMap(({ protocol, dstLo, dstHi }) => [[protocol, dstLo], [protocol, dstHi]] as const)).concat([[47, 0]]);

const inSet = (set: ShadowRule['sources'], address: bigint): boolean =>
  set.any || set.prefixes.some((prefix) => contains(prefix, address) && (prefixFamily(prefix) === 'ipv4') === isIpv4(address));
const matches = (one: ShadowRule, zone: bigint, source: bigint, destination: bigint, [protocol, port]: readonly [number, number]): boolean =>
  (one.from & zone) !== 0n && (one.to & zone) !== 0n && inSet(one.sources, source) && inSet(one.destinations, destination)
  && (one.services.any || one.services.services.some((service) => service.protocol === protocol && service.dstLo <= port && port <= service.dstHi));

test('whatever is called covered is never matched first', () => {
  const next = random(1);
  let found = 0;
  for (let round = 0; round < 60; round++) {
    const rules = Array.from({ length: 25 }, () => rule(next));
    for (const [inner, outer] of findShadowed(rules).covered) {
      found++;
      expect(outer).toBeLessThan(inner);
      for (let sample = 0; sample < 400; sample++) {
        const pick = <T>(from: readonly T[]): T => from[Math.floor(next() * from.length)]!;
        const point = [pick([1n, 2n, 4n]), pick(POINTS), pick(POINTS), pick(PACKETS)] as const;
        if (matches(rules[inner]!, ...point)) expect(matches(rules[outer]!, ...point)).toBe(true);
      }
    }
  }
  expect(found).toBeGreaterThan(50);
});

const any = { from: 3n, to: 3n, sources: objects.addressList(undefined), destinations: objects.addressList(undefined), services: objects.serviceList(undefined) };
test.each([
  ['two halves cover the whole', { ...any, sources: objects.addressList(['10.0.0.0/9', '10.128.0.0/9']) }, { ...any, sources: objects.addressList('10.0.0.0/8') }, true],
  ['both families cover any', { ...any, sources: objects.addressList(['0.0.0.0/0', '::/0']) }, any, true],
  ['IPv6\'s default covers no IPv4', { ...any, sources: objects.addressList('::/0') }, { ...any, sources: objects.addressList('10.0.0.1') }, false],
  ['ranges that touch', { ...any, services: objects.serviceList(['tcp/1-100', 'tcp/101-200']) }, { ...any, services: objects.serviceList('tcp/50-150') }, true],
  ['fewer zones', { ...any, from: 1n }, any, false],
  ['a list with one more', { ...any, sources: objects.addressList('10.0.0.0/8') }, { ...any, sources: objects.addressList(['10.1.0.0/16', '11.0.0.1']) }, false],
] as const)('%s', (_name, outer, inner, expected) => {
  expect(findShadowed([outer, inner]).covered.has(1)).toBe(expected);
});

test('the search is bounded and says where it stopped', () => {
  const rules = Array.from({ length: 300 }, (_, i) => ({ ...any, services: objects.serviceList(`tcp/${i + 1}`) }));
  expect(findShadowed(rules).cappedAt).toBeUndefined();
  expect(findShadowed(rules, 1000).cappedAt).toBeLessThan(300);
});
