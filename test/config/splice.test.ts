// Changes written into the text of the configuration: what the change leaves as it is stays to the letter, and the text says what it should.
import { load } from 'js-yaml';
import { describe, expect, test, vi } from 'vitest';
import { emitConfig } from '../../src/config/emit.js';
import { shareWith } from '../../src/config/share.js';
import { spliceConfig, warmSplice } from '../../src/config/splice.js';
import { makeRandom } from '../tools/api-fuzz.js';

type Value = Record<string, any>; // eslint-disable-line @typescript-eslint/no-explicit-any

/** The text after `edit`; undefined: it cannot be spliced. Always: what comes out reads as what was meant. */
function change(text: string, edit: (config: Value) => void): string | undefined {
  const before = load(text) as Value;
  const wanted = structuredClone(before);
  edit(wanted);
  const next = shareWith(wanted, before);
  const spliced = spliceConfig(text, before, next);
  if (spliced !== undefined) expect(JSON.stringify(load(spliced))).toBe(JSON.stringify(wanted));
  return spliced;
}

const TEXT = `# The firewall of the branch.
version: 1   # the form

interfaces:
  # to the provider
  untrust: { device: eth1, zone: untrust }   # 1 Gbit/s
  trust:
    device: eth2        # port 4
    zone: trust

firewall:
  default: deny
  rules:   # first match wins
    # --- what people need ---

    # ticket 4711
    - { name: web, from: [trust], service: [tcp/443], action: allow }   # asked for by Ann
    - name: dns
      from: [trust]     # all of them
      service:
        - udp/53
        # - tcp/53
      action: allow

    # last
    - { name: telnet, service: [tcp/23], action: deny }
    # end of rules

objects:
  addresses:
    web: 10.0.1.10      # the old one
# the end
`;

const rule = (config: Value, name: string): Value => (config['firewall'].rules as Value[]).find((one) => one['name'] === name)!;

describe('a change of', () => {
  test('nothing is the text itself', () => expect(change(TEXT, () => undefined)).toBe(TEXT));

  test('a rule on one line touches that line, and keeps the comment at its end', () => {
    expect(change(TEXT, (config) => { rule(config, 'web')['service'] = ['tcp/80', 'tcp/443']; }))
      .toBe(TEXT.replace('{ name: web, from: [trust], service: [tcp/443], action: allow }', '{ name: web, from: [trust], service: [tcp/80, tcp/443], action: allow }'));
  });

  test('a rule with a key a line touches the line of that key', () => {
    expect(change(TEXT, (config) => { rule(config, 'dns')['action'] = 'deny'; })).toBe(TEXT.replace('      action: allow', '      action: deny'));
    expect(change(TEXT, (config) => { (rule(config, 'dns')['service'] as string[]).push('tcp/853'); })).toBe(TEXT.replace('        - udp/53\n', '        - udp/53\n        - tcp/853\n'));
    expect(change(TEXT, (config) => { rule(config, 'dns')['log'] = 'end'; })).toBe(TEXT.replace('      action: allow\n', '      action: allow\n      log: end\n'));
  });

  test('an interface, a setting, an object', () => {
    expect(change(TEXT, (config) => { config['interfaces'].trust.device = 'eth3'; })).toBe(TEXT.replace('eth2        # port 4', 'eth3        # port 4'));
    expect(change(TEXT, (config) => { config['firewall'].default = 'reject'; })).toBe(TEXT.replace('default: deny', 'default: reject'));
    expect(change(TEXT, (config) => { config['objects'].addresses.web = ['10.0.1.10', '10.0.1.11']; })).toBe(TEXT.replace('web: 10.0.1.10 ', 'web: [10.0.1.10, 10.0.1.11] '));
  });
});

test('a new rule stands where it shall, a new section at the end', () => {
  const line = '    - { name: new, action: deny }\n';
  const fresh = { name: 'new', action: 'deny' };
  expect(change(TEXT, (config) => { config['firewall'].rules.unshift(fresh); })).toBe(TEXT.replace('    # --- what', `${line}    # --- what`));
  expect(change(TEXT, (config) => { config['firewall'].rules.push(fresh); })).toBe(TEXT.replace('    # end of rules', `${line}    # end of rules`));
  expect(change(TEXT, (config) => { config['routes'] = [{ to: '10.0.0.0/8', via: '10.0.1.1' }]; })).toBe(TEXT.replace('# the end', 'routes:\n  - { to: 10.0.0.0/8, via: 10.0.1.1 }\n# the end'));
});

test('a removed rule takes its own comment with it, and leaves what a blank line sets off', () => {
  expect(change(TEXT, (config) => { config['firewall'].rules.splice(0, 1); })).toBe(TEXT.replace(/ {4}# ticket 4711\n.*\n/, ''));
  expect(change(TEXT, (config) => { config['firewall'].rules.splice(2, 1); })).toBe(TEXT.replace(/ {4}# last\n.*\n/, ''));
  expect(change(TEXT, (config) => { delete config['firewall'].rules; })).not.toMatch(/telnet|rules:/);
});

test('a moved rule takes its comment along', () => {
  const moved = change(TEXT, (config) => { config['firewall'].rules.reverse(); })!;
  expect(moved).toContain('    # last\n    - { name: telnet');
  expect(moved).toContain('    # ticket 4711\n    - { name: web, from: [trust], service: [tcp/443], action: allow }   # asked for by Ann\n');
  expect(moved.indexOf('telnet')).toBeLessThan(moved.indexOf('name: web'));
});

test.each([
  ['a list as deep as its key', 'version: 1\nroutes:\n- { to: 10.0.0.0/8 } # a\n# b\n- { to: 10.1.0.0/16 }\n'],
  ['no line break at the end', 'version: 1\nroutes:\n  - { to: 10.0.0.0/8 }'],
  ['lines of another system', 'version: 1\r\n# b\r\nroutes:\r\n  - { to: 10.0.0.0/8 }\r\n'],
  ['a line that begins the document', '# a\n---\nversion: 1\nroutes:\n  - { to: 10.0.0.0/8 }\n'],
  ['quoted keys', '"version": 1\n\'routes\':\n  - { to: 10.0.0.0/8 }\n'],
  ['texts over several lines', 'version: 1\nroutes:\n  - to: 10.0.0.0/8\n    description: "a\n      # no comment\n      - b"\n  - { to: 10.1.0.0/16,\n      description: x }\n'],
  ['block scalars', 'version: 1\nroutes:\n  - to: 10.0.0.0/8\n    description: |\n      # no comment\n      a\n    # one\n  - { to: 10.1.0.0/16 }\n'],
])('%s', (_name, text) => {
  const spliced = change(text, (config) => { config['routes'].push({ to: '192.0.2.0/24' }); });
  expect(spliced).toBe(`${text.endsWith('\n') ? text : `${text}\n`}${text.includes('\n- {') ? '' : '  '}- { to: 192.0.2.0/24 }\n`);
});

test.each([
  ['JSON', '{"version": 1, "routes": [{"to": "10.0.0.0/8"}]}'],
  ['anchors of what is moved or changed', 'version: 1\nroutes:\n  - &a { to: 10.0.0.0/8, via: 10.0.1.1 }\nother:\n  - *a\n'],
  ['a list in one line', 'version: 1\nroutes: [{ to: 10.0.0.0/8 }]\n'],
  ['a text that is not the configuration\'s', 'version: 2\nroutes:\n  - { to: 10.0.0.0/8 }\n'],
])('%s: never a text that says something else', (name, text) => {
  const before = name.startsWith('a text') ? { version: 1, routes: [{ to: '10.0.0.0/8' }] } : load(text) as Value;
  const next = { ...before, routes: [{ to: '192.0.2.0/24' }, ...(before as Value)['routes'] as unknown[]] };
  const spliced = spliceConfig(text, before, next);
  if (spliced !== undefined) expect(load(spliced)).toEqual(next);
  if (name !== 'a list in one line') expect(spliced).toBeUndefined();
});

test('a block scalar that would swallow the comment of its new neighbour is noticed', () => {
  const text = 'version: 1\nroutes:\n  - { to: 10.0.0.0/8 }\n      # deep\n  - { to: 10.1.0.0/16 }\n  - to: 10.2.0.0/16\n    description: |\n      a\n';
  const before = load(text) as Value;
  const [first, second, third] = before['routes'] as Value[];
  const next = { ...before, routes: [first, third, second] };
  const spliced = spliceConfig(text, before, next);
  if (spliced !== undefined) expect(load(spliced)).toEqual(next);
});

test('of 10,000 rules a changed one is read, and no more', () => {
  const rules = Array.from({ length: 10_000 }, (_, index) => `    - { name: rule-${index}, from: [trust], source: [10.${index >> 8}.${index & 255}.0/24], action: allow }   # number ${index}`);
  const text = `version: 1\nfirewall:\n  rules:\n${rules.join('\n')}\n`;
  const before = load(text) as Value;
  const steps = [...warmSplice(text, before)];
  expect(steps.length).toBeGreaterThan(40);
  const next = shareWith({ ...before, firewall: { rules: (before['firewall'].rules as Value[]).map((one, index) => (index === 5000 ? { ...one, action: 'deny' } : one)) } }, before);
  const comparing = vi.spyOn(JSON, 'stringify'); // once or twice for each entry that is compared
  const spliced = spliceConfig(text, before, next);
  const compared = comparing.mock.calls.length;
  comparing.mockRestore();
  expect(spliced).toBe(text.replace(/(rule-5000,.*)action: allow/, '$1action: deny'));
  expect(compared).toBeLessThan(20);
});

test('whatever is changed in whatever text: it says what it should, and lines that say the same are the same lines', () => {
  let spliced = 0;
  for (let seed = 1; seed <= 100; seed += 1) {
    const random = makeRandom(seed * 7919);
    const pick = <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)]!;
    const texts = ['a', 'b # c', '#', '- x', 'x: y', 'yes', '1', '"', "it's", 'a\nb', '\u2028', '|', '> ', '{', 'é☃', ''];
    const value = (depth: number): unknown => {
      const kind = random();
      if (depth > 2 || kind < 0.5) return pick<unknown>([...texts, 0, -1, true, null, 1.5]);
      if (kind < 0.75) return Array.from({ length: Math.floor(random() * 4) }, () => value(depth + 1));
      return Object.fromEntries(Array.from({ length: Math.floor(random() * 4) }, () => [pick([...texts, 'k', 'm', 'n']), value(depth + 1)]));
    };
    const named = (): Value => ({ name: `r${Math.floor(random() * 1e6)}`, ...Object.fromEntries(Array.from({ length: Math.floor(random() * 3) }, () => [pick(['p', 'q', 'x y', ...texts]), value(1)])) });
    const config: Value = { version: 1, firewall: { default: 'deny', rules: Array.from({ length: 1 + Math.floor(random() * 5) }, named) }, objects: { a: { k: value(1), m: value(1) } }, timers: value(0), limits: { k: value(2) } };
    let number = 0;
    const text = emitAnyhow(config, random, () => `c${number += 1}`);
    expect(load(text), text).toEqual(config);
    const before = load(text) as Value;
    let current = text;
    let value_ = before;
    for (let step = 0; step < 4; step += 1) {
      const wanted = structuredClone(value_);
      const rules = wanted['firewall'].rules as Value[];
      switch (Math.floor(random() * 7)) {
        case 0: rules.splice(Math.floor(random() * (rules.length + 1)), 0, named()); break;
        case 1: if (rules.length > 1) rules.splice(Math.floor(random() * rules.length), 1); break;
        case 2: rules.push(...rules.splice(Math.floor(random() * rules.length), 1)); break;
        case 3: pick(rules)['q'] = value(1); break;
        case 4: wanted['objects'].a[pick(['k', 'm', 'z', '__proto'])] = value(1); break;
        case 5: delete wanted['objects'].a[pick(['k', 'm'])]; break;
        default: wanted['timers'] = value(0);
      }
      const next = shareWith(wanted, value_);
      const result = spliceConfig(current, value_, next);
      if (result !== undefined) {
        expect(JSON.stringify(load(result)), `seed ${seed}\n${current}`).toBe(JSON.stringify(wanted));
        spliced += 1;
      }
      current = result ?? emitConfig(wanted);
      expect(load(current)).toEqual(wanted);
      value_ = load(current) as Value;
    }
  }
  expect(spliced).toBeGreaterThan(200);
});

/** The value in one of the many ways of writing it, with comments. */
function emitAnyhow(config: Value, random: () => number, comment: () => string): string {
  const chance = (share: number): boolean => random() < share;
  const scalar = (value: unknown): string => JSON.stringify(value).replace(/[\u2028]/g, '\\u2028');
  const remark = (): string => (chance(0.2) ? `  # ${comment()}` : '');
  const block = (value: unknown, indent: string): string => {
    const isList = Array.isArray(value);
    const entries = isList ? (value as unknown[]).map((one) => ['-', one] as const) : Object.entries(value as Value).map(([key, one]) => [`${/^[a-z]+$/.test(key) && key !== 'yes' ? key : scalar(key)}:`, one] as const);
    return entries.map(([head, one]) => {
      const lead = `${chance(0.15) ? '\n' : ''}${chance(0.2) ? `${' '.repeat(Math.floor(random() * 6))}# ${comment()}\n` : ''}`;
      const isFull = typeof one === 'object' && one !== null && Object.keys(one).length > 0;
      if (!isFull || chance(0.4)) return `${lead}${indent}${head} ${scalar(one)}${remark()}\n`;
      const below = block(one, `${indent}${isList || !Array.isArray(one) || chance(0.7) ? '  ' : ''}`);
      if (head !== '-') return `${lead}${indent}${head}${remark()}\n${below}`;
      // The first key beside the dash, when nothing stands above it.
      return below.startsWith(`${indent}  `) && !/^ *#/.test(below) ? `${lead}${indent}- ${below.slice(indent.length + 2)}` : `${lead}${indent}-\n${below}`;
    }).join('');
  };
  return `${chance(0.3) ? `# ${comment()}\n\n` : ''}${chance(0.2) ? '---\n' : ''}${block(config, '')}${chance(0.3) ? `\n# ${comment()}\n` : ''}`;
}
