// What `sluice check` foretells of the engine's classifier: lists that it cannot hash, with the rule and a remedy.
import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { checkClassifier, COMPARED_MAX, ENTRIES_MAX, ENTRIES_PER_RULE_MAX, type ClassifiedRule } from '../../src/config/check-classifier.js';
import { ANY_ADDRESS, ANY_SERVICES, type AddressSet } from '../../src/config/objects.js';
import { Problems } from '../../src/config/problem.js';
import { base, check } from './support.js';

/** `count` addresses, `step` apart: with 1 they join into few prefixes. */
function addresses(count: number, step: number, first = 0x0a000000): AddressSet {
  const prefixes = Array.from({ length: count }, (_, i) => ({ address: 0xffff_0000_0000n + BigInt(first + i * step), length: 128 }));
  return { any: false, prefixes, ipv4: true, ipv6: false };
}

function problemsOf(rules: ClassifiedRule[]): string[] {
  const problems = new Problems('test.yaml');
  checkClassifier(problems, rules, rules.map((_, i) => i), (i) => `r${i}`);
  return problems.sorted().map(({ severity, code, path, message }) => `${severity} ${code} ${path} ${message}`);
}

test('the bounds are the engine\'s', () => {
  const header = readFileSync(new URL('../../native/policy/classifier.h', import.meta.url), 'utf8');
  const shift = /entries_max = 1u << (\d+);/.exec(header);
  expect(2 ** Number(shift?.[1])).toBe(ENTRIES_MAX);
  expect(Number(/entries_per_rule_max = (\d+);/.exec(header)?.[1])).toBe(ENTRIES_PER_RULE_MAX);
});

test('more combinations than the engine hashes: the rule with the most is named', () => {
  const [usual, long] = [addresses(3800, 2), addresses(4000, 2)];
  const rules = Array.from({ length: 300 }, (_, i) => ({ sources: i === 7 ? long : usual, destinations: addresses(1, 1, i), services: ANY_SERVICES }));
  const found = problemsOf(rules);
  expect(found).toHaveLength(1);
  expect(found[0]).toMatch(/^warning SLUICE_RULES_SLOW firewall\.rules\[7\] .*about 1140200 .*'r7'/);
  expect(problemsOf(rules.slice(0, 270))).toEqual([]);
});

test('lists that join into few prefixes are counted as these', () => {
  const sources = addresses(4096, 1);
  const rules = Array.from({ length: 3000 }, (_, i) => ({ sources, destinations: addresses(1, 1, i), services: ANY_SERVICES }));
  expect(problemsOf(rules)).toEqual([]);
});

test('a rule is counted by the lists that fit, not by all of them', () => {
  const services = { any: false, services: Array.from({ length: 50 }, (_, i) => ({ protocol: 6, srcLo: 0, srcHi: 65535, dstLo: i * 7, dstHi: i * 7 })) };
  const many = addresses(1000, 2);
  const rules = Array.from({ length: 500 }, () => ({ sources: many, destinations: many, services }));
  expect(problemsOf(rules)).toEqual([]); // 1,000 each
});

test('lists too long to be hashed, and nothing else that tells rules apart', () => {
  const long = addresses(ENTRIES_PER_RULE_MAX + 1, 2);
  const rule = (): ClassifiedRule => ({ sources: long, destinations: ANY_ADDRESS, services: ANY_SERVICES });
  const rules = Array.from({ length: COMPARED_MAX + 1 }, rule);
  expect(problemsOf(rules)[0]).toMatch(/^warning SLUICE_RULES_SLOW firewall\.rules\[0\] rule 'r0' and 64 more/);
  expect(problemsOf(rules.slice(1))).toEqual([]);
  expect(problemsOf(rules.map((one, i) => ({ ...one, destinations: addresses(1, 1, i) })))).toEqual([]);
});

test('a configuration file', () => {
  const list = (net: number): string => Array.from({ length: 64 }, (_, i) => `10.${net}.${i}.1`).join(', ');
  const rules = Array.from({ length: 260 }, (_, i) => `    - { name: r${i}, source: clients, destination: servers, service: tcp/${1000 + i}, action: allow }`);
  const { problems, config } = check(`${base}objects:\n  addresses:\n    clients: [${list(1)}]\n    servers: [${list(2)}]\nfirewall:\n  rules:\n${rules.join('\n')}\n`);
  expect(problems.map(({ code, path }) => `${code} ${path}`)).toEqual(['SLUICE_RULES_SLOW firewall.rules[0]']);
  expect(problems[0]!.remedy).toMatch(/wider prefixes/);
  expect(config).toBeDefined();
});
