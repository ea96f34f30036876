// Sharing, differences and emitted text: what they give is the same configuration again, whatever was done to it.
import { describe, expect, test } from 'vitest';
import { checkConfig } from '../../src/config/check.js';
import { compileSnapshot } from '../../src/config/compile.js';
import { CHANGES_MAX, diffConfigs, formatChanges } from '../../src/config/diff.js';
import { emitConfig } from '../../src/config/emit.js';
import { checkShape, loadText, parseText } from '../../src/config/load.js';
import { Problems } from '../../src/config/problem.js';
import type { Config, FirewallRule } from '../../src/config/schema.js';
import { shareWith } from '../../src/config/share.js';
import { PREFIX_BYTES, readRule, readSnapshotHeader, RULE_BYTES, SERVICE_BYTES, type Section } from '../../src/engine/abi.generated.js';
import { base, facts, random } from './support.js';

const rule = (name: string, more: Partial<FirewallRule> = {}): FirewallRule => ({ name, action: 'allow', ...more });
const withRules = (rules: FirewallRule[]): Config => ({ version: 1, firewall: { rules } } as Config);

describe('differences', () => {
  test.each<[string, FirewallRule[], FirewallRule[], unknown[]]>([
    ['none', [rule('a')], [rule('a')], []],
    ['added at the end', [rule('a')], [rule('a'), rule('b')], [{ path: 'firewall.rules[b]', kind: 'added', after: rule('b') }]],
    ['inserted', [rule('a'), rule('c')], [rule('a'), rule('b'), rule('c')], [{ path: 'firewall.rules[b]', kind: 'added', after: rule('b') }]],
    ['removed', [rule('a'), rule('b'), rule('c')], [rule('a'), rule('c')], [{ path: 'firewall.rules[b]', kind: 'removed', before: rule('b') }]],
    ['one key', [rule('a'), rule('b')], [rule('a', { action: 'deny' }), rule('b')], [{ path: 'firewall.rules[a].action', kind: 'changed', before: 'allow', after: 'deny' }]],
    ['one key more', [rule('a')], [rule('a', { from: ['x'] })], [{ path: 'firewall.rules[a].from', kind: 'added', after: ['x'] }]],
    ['one moved to the front', ['a', 'b', 'c', 'd'].map((name) => rule(name)), ['d', 'a', 'b', 'c'].map((name) => rule(name)), [{ path: 'firewall.rules[d]', kind: 'moved', before: 3, after: 0 }]],
    ['moved behind a common start', ['z', 'a', 'b', 'c'].map((name) => rule(name)), ['z', 'b', 'c', 'a'].map((name) => rule(name)), [{ path: 'firewall.rules[a]', kind: 'moved', before: 1, after: 3 }]],
    ['all gone', [rule('a')], [], [{ path: 'firewall.rules[a]', kind: 'removed', before: rule('a') }]],
  ])('%s', (_name, before, after, expected) => {
    const { changes, count } = diffConfigs(withRules(before), withRules(after));
    expect(changes).toEqual(expected);
    expect(count).toBe(expected.length);
  });

  test('many are counted, and the first named; text stays on its line', () => {
    const { changes, count } = diffConfigs(withRules([]), withRules(Array.from({ length: 3000 }, (_, n) => rule(`r${n}\n`))));
    expect([changes.length, count]).toEqual([CHANGES_MAX, 3000]);
    expect(formatChanges({ changes, count }).trimEnd().split('\n')).toHaveLength(CHANGES_MAX + 1);
  });

  test('routes go by destination; sections by key; keys with odd names are quoted', () => {
    const before = { version: 1, routes: [{ to: '10.0.0.0/8', via: '10.0.1.1' }, { to: '::/0', via: 'fe80::1' }], objects: { addresses: { 'a.b': ['10.0.0.1'] } } };
    const after = { version: 1, routes: [{ to: '::/0', via: 'fe80::2' }], objects: { addresses: { 'a.b': ['10.0.0.2'] } } };
    expect(diffConfigs(before, after).changes.map(({ path, kind }) => `${kind} ${path}`)).toEqual(['removed routes[10.0.0.0/8]', 'changed routes[::/0].via', 'changed objects.addresses["a.b"]']);
  });
});

/** A rule list after a few random edits, of fresh objects. */
function edited(rules: readonly FirewallRule[], next: () => number, round: number): FirewallRule[] {
  const result = structuredClone(rules) as FirewallRule[];
  for (let edits = 1 + Math.floor(next() * 3); edits > 0; edits -= 1) {
    const at = Math.floor(next() * (result.length + 1));
    const address = `10.${Math.floor(next() * 3)}.${Math.floor(next() * 3)}.0/24`;
    const fresh = rule(`new-${round}-${edits}`, { source: [address], service: [`tcp/${1 + Math.floor(next() * 5)}`] });
    const kind = next();
    if (kind < 0.3) result.splice(at, 0, fresh);
    else if (kind < 0.5) result.splice(at, 1);
    else if (kind < 0.8 && result[at]) result[at] = { ...result[at], source: [address], action: next() < 0.5 ? 'allow' : 'deny' };
    else if (result.length > 1) result.splice(Math.floor(next() * result.length), 0, ...result.splice(Math.floor(next() * (result.length - 1)), 1));
  }
  return result;
}

describe('from one configuration to the next', () => {
  test('shared with the one before: equal, and unchanged entries are the same objects', () => {
    const next = random(11);
    let current: Config = withRules(Array.from({ length: 30 }, (_, n) => rule(`r${n}`, { source: [`10.0.${n}.0/24`] })));
    for (let round = 0; round < 200; round += 1) {
      const fresh = withRules(edited(current.firewall!.rules!, next, round));
      const shared = shareWith(fresh, current);
      expect(shared).toEqual(fresh);
      const names = new Map(current.firewall!.rules!.map((one) => [one.name, one]));
      for (const one of shared.firewall!.rules!) {
        const before = names.get(one.name);
        if (before !== undefined && JSON.stringify(before) === JSON.stringify(one)) expect(one).toBe(before);
      }
      expect(shareWith(structuredClone(shared), shared)).toBe(shared);
      current = shared;
    }
  });

  test('warnings and snapshot are those of a first look, whatever came before', () => {
    const next = random(5);
    const { config: start } = loadText(`${base}firewall:\n  rules:\n${Array.from({ length: 25 }, (_, n) => `    - { name: r${n}, source: [10.${n % 3}.0.0/16], service: [tcp/${n % 4 + 1}], action: allow }\n`).join('')}`, 'x');
    let current = start!;
    let shadowed = 0;
    for (let round = 0; round < 60; round += 1) {
      const fresh = { ...current, firewall: { rules: edited(current.firewall!.rules!, next, round) } };
      const shared = shareWith(structuredClone(fresh), current);
      const problemsOf = (config: Config): string[] => {
        const problems = new Problems('x');
        checkConfig(config, problems, facts);
        return problems.list.map(({ path, code, message }) => `${path} ${code} ${message}`);
      };
      const incremental = problemsOf(shared);
      const snapshot = compileSnapshot(shared, facts, 1).snapshot;
      // Of its own: a zone more is another environment, in which nothing is known.
      const alone = structuredClone({ ...shared, interfaces: { ...shared.interfaces, extra: { device: `eth${3 + round}`, zone: `zone-${round}`, addresses: ['192.168.9.1/24'] } } }) as Config;
      const aloneFacts = { ...facts, devices: [...facts.devices, { ...facts.devices[1]!, name: `eth${3 + round}`, ifindex: 9 }] };
      const problems = new Problems('x');
      checkConfig(alone, problems, aloneFacts);
      expect(incremental).toEqual(problems.list.map(({ path, code, message }) => `${path} ${code} ${message}`));
      expect(meaningOf(snapshot)).toEqual(meaningOf(compileSnapshot(alone, aloneFacts, 1).snapshot));
      shadowed += incremental.length;
      current = shared;
    }
    expect(shadowed).toBeGreaterThan(50);
  });

  test('a shape that was good is remembered; a wrong one is told with its place', () => {
    const { config } = loadText(`${base}firewall:\n  rules:\n${Array.from({ length: 5 }, (_, n) => `    - { name: r${n}, action: allow }\n`).join('')}`, 'x');
    const rules = [...config!.firewall!.rules!];
    rules[3] = { ...rules[3]!, action: 'alow' as 'allow' };
    expect(checkShape({ ...config, firewall: { rules } }, 'x').problems).toMatchObject([{ path: 'firewall.rules[3].action', code: 'SLUICE_CONFIG_VALUE' }]);
    expect(checkShape({ ...config, firewall: { rules: 'none' } }, 'x').problems).toMatchObject([{ path: 'firewall.rules' }]);
    expect(checkShape({ ...config, routes: [null] }, 'x').problems).toMatchObject([{ path: 'routes[0]' }]);
  });
});

/** Rules with what they point to, so that two snapshots can be compared whose pools stand in another order. */
function meaningOf(snapshot: Uint8Array): unknown[] {
  const view = new DataView(snapshot.buffer);
  const { rules, prefixes, services } = readSnapshotHeader(view, 0);
  const entries = ({ offset, count }: Section, span: { first: number; count: number }): string => {
    const bytes = offset === prefixes.offset ? PREFIX_BYTES : SERVICE_BYTES;
    expect(span.first + span.count).toBeLessThanOrEqual(count);
    return Buffer.from(snapshot.subarray(offset + span.first * bytes, offset + (span.first + span.count) * bytes)).toString('hex');
  };
  return Array.from({ length: rules.count }, (_, index) => {
    const { id, action, fromZones, toZones, sources, destinations, services: wanted } = readRule(view, rules.offset + index * RULE_BYTES);
    return { id, action, fromZones, toZones, sources: entries(prefixes, sources), destinations: entries(prefixes, destinations), services: entries(services, wanted) };
  });
}

describe('emitted text', () => {
  const strings = ['plain', 'true', 'no', '1', '1.5', '0x1f', '~', '', ' a', 'a: b', 'a #b', '- a', '"', "'", '\\', 'é', '\u2028', '\u0085', '\ufeff', '10.0.0.0/8', '10.0.0.1', '2001:db8::1', '::', '{', '[', '*a', '&a', '!a', '%a', '@a', '`a', '|', '>', 'a\nb', '\t', '2026-01-01', '=', '<<', 'null', '.inf', '1e3', 'tcp/443'];
  test('reads back as the same value', () => {
    const config = {
      version: 1, hostname: 'nva-1', interfaces: { trust: { device: 'eth2', zone: 'trust', addresses: ['10.0.1.4/24'] } },
      objects: { addresses: Object.fromEntries(strings.map((text, index) => [`o${index}`, [text]])), services: {} },
      firewall: { default: 'deny', rules: strings.map((text) => rule(text, { description: text, from: strings, service: [{ protocol: 'tcp', destination: [80, '8000-8080'] }] })) },
      nat: { source: [{ name: 'x', translate: { interface: true } }, { name: 'y', translate: 'none' }], destination: [] }, limits: { sessions: 2048 }, routes: [],
    };
    const { value, problems } = parseText(emitConfig(config), 'x');
    expect(problems).toEqual([]);
    expect(value).toEqual(config);
  });
});
