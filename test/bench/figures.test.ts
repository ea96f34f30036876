// The pure parts of the benches: medians and ratios in turns, what voids a run, tables, verdicts, plots, filler rules.
import { expect, test } from 'vitest';
import { plotSvg, ticksUpTo } from '../../bench/plot.js';
import { atLeast, atMost, count, table, verdictLine } from '../../bench/report.js';
import { applianceRules, fillerRules, nftRuleset } from '../../bench/rule-set.js';
import { ceilingObjection, slopeOf, spreadOf } from '../../bench/statistics.js';
import { prefixInFamily } from '../../bench/topology.js';
import { disturbances, measureInTurns, overRounds, ratioOf, samplesOf, type Contender, type Outcome } from '../../bench/turns.js';
import { parsePrefix, rangeOf } from '../../src/lib/address.js';

const self = (value: number): number => value;
const outcome = (...rounds: number[][]): Outcome<number> =>
  ({ name: 'one', title: 'one', foreignCoresMax: 0, rounds: rounds.map((measurements) => ({ measurements, detail: undefined })) });

test('median and spread, of odd and even numbers of values, in any order', () => {
  expect(spreadOf([3, 1, 2])).toEqual({ median: 2, min: 1, max: 3 });
  expect(spreadOf([4, 1, 2, 10])).toEqual({ median: 3, min: 1, max: 10 });
  expect(() => spreadOf([])).toThrow();
  expect(slopeOf([[0, 1], [1, 3], [2, 5]])).toBeCloseTo(2);
});

test('a round counts by the median of its turns: one outlier changes nothing', () => {
  expect(overRounds(outcome([10, 11, 1000], [12, 13, 14]), self)).toEqual({ median: 12, min: 11, max: 13 });
  expect(samplesOf(outcome([1, 2], [3]), (value) => value * 2)).toEqual([2, 4, 6]);
});

test('a ratio is taken turn by turn, so that drift cancels out', () => {
  // The machine halves its speed from turn to turn; the ratio stays.
  expect(ratioOf(outcome([400, 200, 100]), outcome([200, 100, 50]), self)).toEqual({ median: 2, min: 2, max: 2 });
});

test('a run is void when the ceiling is below 1.3 times the result', () => {
  expect(ceilingObjection('x', 1300, 1000)).toBeUndefined();
  expect(ceilingObjection('x', 1299, 1000)).toMatch(/1299 pps.*below 1\.3 × x/);
  expect(ceilingObjection('x', NaN, 1000)).toBeDefined();
  expect(ceilingObjection('x', 1300, 0)).toBe('nothing came through x'); // else a broken peer would be the easiest to beat
});

test('figures taken beside other processes are named', () => {
  expect(disturbances([outcome([1])])).toEqual([]);
  expect(disturbances([{ ...outcome([1]), foreignCoresMax: 0.5 }])).toEqual(['other processes took up to 0.50 cores from one']);
});

test('contenders are measured A B A B, start anew each round, and all end when one fails', async () => {
  const log: string[] = [];
  const contender = (name: string, fails = false): Contender<number> => ({
    name, title: name,
    start: async () => {
      log.push(`+${name}`);
      return {
        measure: async () => {
          if (fails) throw new Error('broken');
          log.push(name);
          return log.length;
        },
        detail: async () => `detail of ${name}`,
        stop: async () => void log.push(`-${name}`),
      };
    },
    describe: String,
    foreignCores: () => 0,
  });
  const options = { rounds: 2, turns: 2, patience: 0, urgent: false };
  const outcomes = await measureInTurns([contender('A'), contender('B')], options);
  expect(log.join(' ')).toBe('+A +B A B A B -A -B +A +B A B A B -A -B');
  expect(outcomes.map(({ rounds }) => rounds.map(({ measurements, detail }) => [measurements.length, detail]))).toEqual(
    ['A', 'B'].map((name) => [[2, `detail of ${name}`], [2, `detail of ${name}`]]));
  log.length = 0;
  await expect(measureInTurns([contender('A'), contender('B', true)], options)).rejects.toThrow('broken');
  expect(log.filter((entry) => entry.startsWith('-'))).toEqual(['-A', '-B']);
});

test('tables are aligned: names to the left, figures to the right', () => {
  expect(table(['device', 'pps'], [['a', '1.000 M'], ['longer name', '5']])).toBe(['device           pps', 'a            1.000 M', 'longer name        5'].join('\n'));
  expect([count(7.5), count(512), count(45_600), count(1_284_000)]).toEqual(['7.50', '512', '45.6 k', '1.284 M']);
});

test.each([
  [atLeast('a', spreadOf([2.9]), 3, 4), false, /^MISSED  a \(2\.900 to 2\.900\): 2\.900 \(bar 3, aim 4\)/],
  [atLeast('a', spreadOf([3]), 3, 4), true, /^met {5}a/],
  [atLeast('a', spreadOf([4.5]), 3, 4), true, /^aim met a/],
  [atMost('a', spreadOf([1.1]), 1, 0.7), false, /^MISSED/],
  [atMost('a', spreadOf([0.9]), 1, 0.7), true, /^met/],
  [atMost('a', spreadOf([0.6]), 1, 0.7), true, /^aim met/],
])('verdict %#', (verdict, met, line) => {
  expect(verdict.met).toBe(met);
  expect(verdictLine(verdict)).toMatch(line);
});

test('ticks are round, start at zero and reach the largest value', () => {
  expect(ticksUpTo(1_430_000)).toEqual([0, 250_000, 500_000, 750_000, 1_000_000, 1_250_000, 1_500_000]);
  for (const largest of [0.003, 1, 7.3, 99, 12_345]) expect(ticksUpTo(largest).at(-1)).toBeGreaterThanOrEqual(largest * 0.998);
  expect(ticksUpTo(0)).toEqual([0, 1]);
});

test('a plot has a dot a sample, a median a row, and no markup from names', () => {
  const svg = plotSvg('T & t', '<where>', [{ title: 'pps', format: String, rows: [{ name: 'a < "b"', values: [1, 2, NaN, 4] }, { name: 'none', values: [] }], mark: { value: 3, label: 'bar' } }]);
  expect(svg.match(/<circle /g)).toHaveLength(3);
  expect(svg.match(/<rect x=/g)).toHaveLength(1);
  expect(svg).toContain('a &lt; &quot;b&quot;');
  expect(svg).toContain('&lt;where&gt;');
  expect(svg).not.toContain('NaN');
  const open = [...svg.matchAll(/<(\w+)(?:\s[^>]*[^/])?>/g)].map(([, tag]) => tag), closed = [...svg.matchAll(/<\/(\w+)>/g)].map(([, tag]) => tag);
  expect(open.sort()).toEqual(closed.sort());
});

test.each([4, 6] as const)('filler rules are the same each time, disjoint, and match none of the traffic, IPv%i', (family) => {
  const rules = fillerRules(300, family);
  expect(fillerRules(300, family)).toEqual(rules);
  expect(fillerRules(300, family, 2)).not.toEqual(rules);
  const boxes = rules.map((rule) => ({ ...rule, from: rangeOf(parsePrefix(rule.source)), to: rangeOf(parsePrefix(rule.destination)) }));
  const overlap = (a: { lo: bigint; hi: bigint }, b: { lo: bigint; hi: bigint }): boolean => a.lo <= b.hi && b.lo <= a.hi;
  const meeting = boxes.flatMap((a, i) => boxes.slice(i + 1).filter((b) =>
    overlap(a.from, b.from) && overlap(a.to, b.to) && a.protocol === b.protocol && a.firstPort <= b.lastPort && b.firstPort <= a.lastPort));
  expect(meeting).toEqual([]);
  const [inside, remote] = ['10.10.0.0/16', '10.30.0.0/16'].map((prefix) => rangeOf(parsePrefix(prefixInFamily(prefix, family))));
  expect(boxes.filter((rule) => overlap(rule.from, inside!) && overlap(rule.to, remote!) && rule.protocol === 'udp' && rule.firstPort <= 9 && rule.lastPort >= 9)).toEqual([]);
  expect(boxes.filter((rule) => overlap(rule.from, inside!) && overlap(rule.to, remote!)).length).toBeGreaterThan(50); // else they would cost no classifier anything
});

test('the appliance and both nftables forms get the same rules', () => {
  const rules = fillerRules(30);
  const names = new Set(applianceRules(rules).map((rule) => (rule as { name: string }).name));
  expect(names.size).toBe(30);
  const map = nftRuleset(rules, 4, 'map'), linear = nftRuleset(rules, 4, 'linear');
  for (const { source, destination, protocol } of rules) {
    expect(map).toContain(`${source} . ${destination} . ${protocol} . `);
    expect(linear).toContain(`ip saddr ${source} ip daddr ${destination} ${protocol} dport `);
  }
  for (const text of [map, linear]) expect(text.indexOf('ct state vmap')).toBeLessThan(text.indexOf('goto outbound'));
  expect(nftRuleset([], 6, 'map')).not.toContain('@filler');
});
