// /metrics: well-formed whatever rules are called, filtered at the source, bounded, live with a commit.
import { describe, expect, test } from 'vitest';
import {
  Counter, COUNTERS, DropReason, FlowEvent, INTERFACE_RECORD_BYTES, NAT_POOL_RECORD_BYTES, RING_RECORD_BYTES, SessionProtocol, SessionState, SL_COUNTER_COUNT, SL_DROP_REASON_COUNT, SL_LATENCY_BUCKETS,
  SL_PORTS_MAX, SL_SESSION_PROTOCOL_COUNT, SL_SESSION_STATE_COUNT, SL_STEER_BASE, SL_STEER_KEYS, STEER_COUNTERS, writeInterfaceRecord, writeNatPoolRecord, writeRingRecord, writeRuleHits,
} from '../../src/engine/abi.generated.js';
import { GAUGES } from '../../src/engine/binding.js';
import { bytesOf, parseAddress } from '../../src/lib/address.js';
import { findMissing } from '../../src/control/status.js';
import { ENGINE_COUNTERS, labelsOf, METRIC_NAMES, METRICS } from '../../src/metrics/catalog.js';
import { platformConnectionsMax } from '../../src/metrics/platform.js';
import { CONFIG, id, makeDrop, makeFlow, startBench, type ControlBench } from '../control/bench.js';
import { parseExposition, valueOf, type Family } from './exposition.js';

const BY = { name: 'test', via: 'socket' } as const;

async function start(extra = '', config = CONFIG): Promise<ControlBench> {
  const bench = await startBench(config + extra);
  await expect.poll(() => findMissing(bench.control)).toEqual([]);
  return bench;
}

async function scrape(bench: ControlBench): Promise<Map<string, Family>> {
  const response = await bench.api.inject('/metrics');
  expect(response.statusCode).toBe(200);
  expect(response.headers['content-type']).toBe('text/plain; version=0.0.4; charset=utf-8');
  return parseExposition(response.body);
}

async function feed(bench: ControlBench, flows: Uint8Array[], drops: Uint8Array[]): Promise<void> {
  const before = bench.flowLog.taken;
  bench.addon.pendingRecords = { flows, drops };
  await expect.poll(() => bench.flowLog.taken).toBe(before + flows.length + drops.length);
  await expect.poll(() => bench.flowLog.waiting, { interval: 1 }).toBe(0);
}

const steerWord = (slot: number, key: number): number => SL_COUNTER_COUNT + SL_DROP_REASON_COUNT + GAUGES.length + SL_SESSION_STATE_COUNT + slot * SL_STEER_KEYS + key;
const sessionWord = (state: number, protocol: number): number => steerWord(SL_PORTS_MAX, 0) + state * SL_SESSION_PROTOCOL_COUNT + protocol;
const OFFLOADED_WORD = sessionWord(SL_SESSION_STATE_COUNT, 0);
const LATENCY_WORD = OFFLOADED_WORD + 1;

function records<T>(bytes: number, write: (view: DataView, offset: number, value: T) => void, list: readonly T[]): Uint8Array {
  const all = new Uint8Array(bytes * list.length);
  list.forEach((value, index) => write(new DataView(all.buffer), index * bytes, value));
  return all;
}

describe('form', () => {
  test('every metric of the catalogue is there, and nothing else of ours', async () => {
    const bench = await start('observability: { logs: [{ type: system, to: file, path: system.jsonl }] }\n');
    await feed(bench, [makeFlow({ event: FlowEvent.END })], [makeDrop()]);
    const families = await scrape(bench);
    const expected = [...Object.values(METRICS), ...ENGINE_COUNTERS].map(({ name }) => `sluice_${name}`);
    expect([...families.keys()].filter((name) => name.startsWith('sluice_')).sort()).toEqual([...expected].sort());
    expect(new Set(expected).size).toBe(expected.length);
    for (const { name, kind, labels } of Object.values(METRICS)) {
      const family = families.get(`sluice_${name}`)!;
      expect([name, family.type]).toEqual([name, kind]);
      for (const sample of family.samples) expect(Object.keys(sample.labels).filter((label) => label !== 'le').sort()).toEqual([...labels].sort());
    }
    expect(families.has('process_cpu_seconds_total')).toBe(true);
  });

  test('names that would break the format do not', async () => {
    const name = 'quote " backslash \\\\ brace } ü';
    const bench = await start('', CONFIG.replace('name: outbound', `name: '${name}'`));
    await feed(bench, [makeFlow({ ruleId: id('rule', name) })], []);
    const families = await scrape(bench);
    expect(valueOf(families, 'sluice_rule_sessions_total', { rule: name })).toBe(0);
    expect(valueOf(families, 'sluice_flow_records_total', { rule: name })).toBe(1);
  });

  test('scrapes at once do not disturb each other', async () => {
    const bench = await start();
    bench.addon.words[Counter.RX_PACKETS] = 77n;
    const all = await Promise.all(Array.from({ length: 10 }, () => scrape(bench)));
    expect(all.map((families) => valueOf(families, 'sluice_rx_packets_total'))).toEqual(Array.from({ length: 10 }, () => 77));
  });

  test('while the engine is away: what control knows', async () => {
    const bench = await start();
    bench.host.stop();
    await expect.poll(() => bench.control.engine.isConnected).toBe(false);
    const families = await scrape(bench);
    expect([valueOf(families, 'sluice_engine_up'), valueOf(families, 'sluice_ready'), valueOf(families, 'sluice_rx_packets_total')]).toEqual([0, 0, 0]);
  });
});

describe('values', () => {
  test('of engine, steering programs, offload and platform', async () => {
    const bench = await start('observability: { metrics: { platformConnections: 5000 } }\n');
    const { words } = bench.addon;
    words[COUNTERS.find(({ name }) => name === 'tx-packets')!.value] = 25n;
    words[SL_COUNTER_COUNT + DropReason.NO_ROUTE] = 2n;
    words[SL_COUNTER_COUNT + SL_DROP_REASON_COUNT] = 1200n; // sessions
    words[sessionWord(SessionState.ESTABLISHED, SessionProtocol.TCP)] = 1100n;
    words[sessionWord(SessionState.NEW, SessionProtocol.UDP)] = 100n;
    words[OFFLOADED_WORD] = 900n;
    words[steerWord(0, DropReason.UNKNOWN_VLAN)] = 4n;
    for (const { value, name } of STEER_COUNTERS) words[steerWord(1, SL_STEER_BASE + value)] = name === 'offloaded' ? 75n : name === 'offloaded-bytes' ? 7500n : 9n;
    bench.addon.hits = new Uint8Array(16);
    writeRuleHits(new DataView(bench.addon.hits.buffer), 0, { ruleId: id('rule', 'outbound'), sessions: 5n });
    const families = await scrape(bench);
    const of = (name: string, labels?: Record<string, string>): number | undefined => valueOf(families, `sluice_${name}`, labels);
    expect(of('drops_total', { reason: 'no-route' })).toBe(2);
    expect(of('drops_total', { reason: 'unknown-vlan' })).toBe(4);
    expect(of('device_drops_total', { device: 'eth1', reason: 'unknown-vlan' })).toBe(4);
    expect(of('steered_packets_total', { device: 'eth2', way: 'to-engine' })).toBe(9);
    expect([of('sessions', { state: 'established', protocol: 'tcp' }), of('sessions', { state: 'new', protocol: 'udp' }), of('sessions', { state: 'new', protocol: 'tcp' })]).toEqual([1100, 100, 0]);
    expect(of('sessions_offloaded')).toBe(900);
    expect([of('platform_connections'), of('platform_connections_max')]).toEqual([2400, 5000]);
    expect(of('rule_sessions_total', { rule: 'outbound', kind: 'firewall' })).toBe(5);
    expect(of('steered_packets_total', { device: 'eth2', way: 'offloaded' })).toBe(75);
    expect(of('steered_bytes_total', { device: 'eth2', way: 'offloaded' })).toBe(7500);
    expect(of('offload_ratio')).toBe(0.75);
    expect(families.get('sluice_engine_request_seconds')!.samples.find(({ name }) => name.endsWith('_count'))!.value).toBe(1);
  });

  test('of NAT pools, interfaces and rings', async () => {
    const bench = await start();
    const { addon } = bench;
    addon.pools = records(NAT_POOL_RECORD_BYTES, writeNatPoolRecord, [
      { address: bytesOf(parseAddress('203.0.113.4')), used: [10, 20, 0], resting: [1, 2, 3], free: [80, 78, 97], total: [100, 100, 100] },
      { address: bytesOf(parseAddress('203.0.113.4')), used: [5, 0, 0], resting: [0, 0, 0], free: [5, 10, 10], total: [10, 10, 10] },
    ]);
    addon.interfaceRecords = records(INTERFACE_RECORD_BYTES, writeInterfaceRecord, [{ interface: id('interface', 'trust'), rxPackets: 3n, rxBytes: 300n, txPackets: 4n, txBytes: 4000n }]);
    addon.ringRecords = records(RING_RECORD_BYTES, writeRingRecord, [
      { portSlot: 1, queue: 2, entries: 2048, rx: 11, fill: 12, tx: 13, completion: 14 },
      { portSlot: 9, queue: 0, entries: 2048, rx: 1, fill: 1, tx: 1, completion: 1 }, // of a port that was just taken away
    ]);
    const families = await scrape(bench);
    const of = (name: string, labels: Record<string, string>): number | undefined => valueOf(families, `sluice_${name}`, labels);
    const states = ['used', 'resting', 'free', 'reserved'];
    expect(states.map((state) => of('nat_ports', { pool: '203.0.113.4', protocol: 'tcp', state }))).toEqual([15, 1, 85, 9]);
    expect(states.map((state) => of('nat_ports', { pool: '203.0.113.4', protocol: 'icmp', state }))).toEqual([0, 3, 107, 0]);
    const trust = { interface: 'trust', zone: 'trust' };
    expect(['received', 'sent'].map((direction) => [of('interface_packets_total', { ...trust, direction }), of('interface_bytes_total', { ...trust, direction })])).toEqual([[3, 300], [4, 4000]]);
    expect(['rx', 'fill', 'tx', 'completion'].map((ring) => of('ring_entries', { device: 'eth2', queue: '2', ring }))).toEqual([11, 12, 13, 14]);
    expect(of('ring_entries_max', { device: 'eth2', queue: '2', ring: 'tx' })).toBe(2048);
    expect(families.get('sluice_ring_entries')!.samples).toHaveLength(4);
  });

  test('of batches, as a histogram of what the engine counted', async () => {
    const bench = await start();
    const { words } = bench.addon;
    for (const [bucket, count] of [[3, 1n], [9, 2n], [20, 4n], [30, 8n], [SL_LATENCY_BUCKETS - 1, 16n]] as const) words[LATENCY_WORD + bucket] = count;
    words[LATENCY_WORD + SL_LATENCY_BUCKETS] = 2_500_000_000n;
    const { samples } = (await scrape(bench)).get('sluice_engine_batch_seconds')!;
    const upTo = (le: string): number | undefined => samples.find(({ name, labels }) => name.endsWith('_bucket') && labels['le'] === le)?.value;
    expect(['5.12e-7', '0.000001024', '0.001048576', '0.536870912', '1.073741824', '+Inf'].map(upTo)).toEqual([3, 3, 7, 7, 15, 31]);
    expect(samples.filter(({ name }) => name.endsWith('_bucket'))).toHaveLength(SL_LATENCY_BUCKETS - 9);
    expect(samples.filter(({ name }) => !name.endsWith('_bucket')).map(({ name, value }) => [name, value])).toEqual([['sluice_engine_batch_seconds_sum', 2.5], ['sluice_engine_batch_seconds_count', 31]]);
    bench.host.stop();
    await expect.poll(() => bench.control.engine.isConnected).toBe(false);
    expect((await scrape(bench)).get('sluice_engine_batch_seconds')!.samples).toEqual([]);
  });

  test('of records, by what they say', async () => {
    const bench = await start();
    await feed(bench, [makeFlow(), makeFlow({ event: FlowEvent.END, packets: [3n, 2n], bytes: [300n, 2000n] }), makeFlow({ event: FlowEvent.END, packets: [1n, 1n], bytes: [10n, 20n] })], [makeDrop(), makeDrop({ reason: DropReason.NO_ROUTE })]);
    const families = await scrape(bench);
    const flow = { protocol: 'tcp', rule: 'outbound', from: 'trust', to: 'untrust', from_zone: 'trust', to_zone: 'untrust', verdict: 'allowed', reason: '' };
    expect(valueOf(families, 'sluice_flow_records_total', { ...flow, event: 'start' })).toBe(1);
    expect(valueOf(families, 'sluice_flow_records_total', { ...flow, event: 'end' })).toBe(2);
    expect(valueOf(families, 'sluice_flow_packets_total', { ...flow, event: 'end' })).toBe(7);
    expect(valueOf(families, 'sluice_flow_bytes_total', { ...flow, event: 'end' })).toBe(2330);
    expect(valueOf(families, 'sluice_flow_records_total', { event: 'denied', verdict: 'dropped', reason: 'policy-deny', from: 'untrust', from_zone: 'untrust', to: '' })).toBe(1);
    expect(valueOf(families, 'sluice_flow_records_total', { event: 'dropped', reason: 'no-route' })).toBe(1);
  });

  test('commits, by result and stage', async () => {
    const bench = await start();
    const before = valueOf(await scrape(bench), 'sluice_commits_total', { result: 'done' }) ?? 0;
    await bench.transactions.commit({ text: CONFIG.replace('name: telnet', 'name: no-telnet'), by: BY });
    await expect(bench.transactions.commit({ text: CONFIG.replace('action: allow', 'action: alow'), by: BY })).rejects.toMatchObject({ code: 'SLUICE_CONFIG_INVALID' });
    await bench.transactions.commit({ text: CONFIG, by: BY, dryRun: true });
    const families = await scrape(bench);
    expect(valueOf(families, 'sluice_commits_total', { result: 'done' })).toBe(before + 1);
    expect(valueOf(families, 'sluice_commits_total', { result: 'refused' })).toBe(1);
    const counts = families.get('sluice_commit_seconds')!.samples.filter(({ name }) => name === 'sluice_commit_seconds_count').map(({ labels, value }) => [labels['stage'], value]);
    expect(Object.fromEntries(counts)).toEqual({ validate: before + 1, compile: before + 1, apply: before + 1, total: before + 1 });
  });

  test('losses by place, and streams', async () => {
    const bench = await start('observability: { logs: [{ name: all, type: flow, to: file, path: all }] }\n');
    bench.addon.words[Counter.RECORDS_LOST] = 3n;
    bench.flowLog.lost = 5;
    await feed(bench, [makeFlow()], []);
    await expect.poll(() => bench.flowLog.streamStats[0]!.sent).toBe(1);
    const families = await scrape(bench);
    const lossesOf = (place: string): number | undefined => valueOf(families, `sluice_${METRICS.recordsLost.name}`, { place });
    expect([lossesOf('engine-ring'), lossesOf('engine-process'), lossesOf('control'), lossesOf('observers')]).toEqual([3, 0, 5, 0]);
    expect([valueOf(families, 'sluice_log_records_total', { stream: 'all' }), valueOf(families, 'sluice_log_records_lost_total', { stream: 'all' }), valueOf(families, 'sluice_log_connected', { stream: 'all' })]).toEqual([1, 0, 1]);
  });
});

describe('filters and bound', () => {
  test('records that a filter leaves out make no series; another filter holds from the next record on, without a restart', async () => {
    const bench = await start('observability: { metrics: { filters: [{ metric: flow, include: { verdict: [dropped] }, exclude: { source: [198.51.100.0/24] } }] } }\n');
    await feed(bench, [makeFlow()], [makeDrop(), makeDrop({ source: '192.0.2.1' })]);
    const records = async (): Promise<[string | undefined, number][]> => (await scrape(bench)).get('sluice_flow_records_total')!.samples.map(({ labels, value }) => [labels['verdict'], value]);
    expect(await records()).toEqual([['dropped', 1]]);
    await bench.transactions.commit({ text: `${CONFIG}observability: { metrics: { filters: [{ metric: flow, include: { verdict: [allowed] } }] } }\n`, by: BY });
    await feed(bench, [makeFlow()], [makeDrop({ source: '192.0.2.1' })]);
    expect(await records()).toEqual([['allowed', 1]]);
  });

  test('labels of other metrics', async () => {
    const bench = await start('observability: { metrics: { filters: [{ metric: drops, include: { reason: [no-route, policy-deny] } }, { metric: drops_total, exclude: { reason: no-route } }, { metric: rule_sessions, exclude: { kind: firewall } }] } }\n');
    const families = await scrape(bench);
    expect(families.get('sluice_drops_total')!.samples.map(({ labels }) => labels['reason'])).toEqual(['policy-deny']);
    expect(families.get('sluice_rule_sessions_total')?.samples.some(({ labels }) => labels['kind'] === 'firewall') ?? false).toBe(false);
    expect(families.get('sluice_sessions')!.samples).toHaveLength(SL_SESSION_STATE_COUNT * SL_SESSION_PROTOCOL_COUNT);
  });

  test('never more series than the bound: what is left out is counted, hits come before rules that nobody hit', async () => {
    const names = Array.from({ length: 300 }, (_, n) => `rule-${n}`);
    const rules = names.map((name) => `    - { name: ${name}, service: [tcp/23], action: reject }\n`).join('');
    const bench = await start('observability: { metrics: { seriesMax: 150 } }\n', CONFIG.replace('nat:\n', `${rules}nat:\n`));
    bench.addon.hits = new Uint8Array(16);
    writeRuleHits(new DataView(bench.addon.hits.buffer), 0, { ruleId: id('rule', 'rule-299'), sessions: 5n });
    await feed(bench, Array.from({ length: 400 }, (_, n) => makeFlow({ protocol: n % 256, ruleId: n % 2 })), []);
    const families = await scrape(bench);
    expect(valueOf(families, 'sluice_series')).toBe(150);
    expect(valueOf(families, 'sluice_series_left_out_total')).toBeGreaterThan(300);
    expect([...families.values()].filter(({ name, type }) => name.startsWith('sluice_') && type !== 'histogram' && !name.startsWith('sluice_series')).reduce((sum, { samples }) => sum + samples.filter(({ labels }) => Object.keys(labels).length > 0).length, 0)).toBe(150);
    expect(bench.flowLog.metrics.leftOut).toBeGreaterThan(100);
  });

  test('of a million label sets in records only so many are kept', async () => {
    const bench = await start('observability: { metrics: { seriesMax: 1000 } }\n');
    await feed(bench, Array.from({ length: 5000 }, (_, n) => makeFlow({ ruleId: n + 1 })), []);
    expect([...bench.flowLog.metrics.all]).toHaveLength(1000);
    expect(bench.flowLog.metrics.leftOut).toBe(4000);
  });
});

test('the catalogue: every name once, and the ways of writing one', () => {
  expect(new Set(METRIC_NAMES).size).toBe(METRIC_NAMES.length);
  expect([labelsOf('drops'), labelsOf('sluice_drops_total'), labelsOf('rule-sessions'), labelsOf('nothing')]).toEqual([['reason'], ['reason'], ['rule', 'kind'], undefined]);
});

test.each([[1, 100_000], [2, 100_000], [7, 100_000], [8, 500_000], [16, 700_000], [32, 800_000], [64, 1_000_000], [128, 1_000_000]])('%i processors: %i connections', (processors, connections) => {
  expect(platformConnectionsMax(processors)).toBe(connections);
});
