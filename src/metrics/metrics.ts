// /metrics in Prometheus' text format. Who: src/api/server.ts, a scrape at a time; src/control/transactions.ts tells of commits.
// Values are read from the engine and from FlowLog at the scrape; only histograms and the counts of records are kept between scrapes.
// Scrapes run one after the other: they fill one registry. Bound: observability.metrics.seriesMax series with labels (series.ts).
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import { COUNTERS, DROP_REASONS, SESSION_PROTOCOLS, SESSION_STATES, SL_STEER_BASE, STEER_COUNTERS } from '../engine/abi.generated.js';
import type { Counters } from '../engine/binding.js';
import { decodeInterfaces, decodeNatPools, decodeRings } from '../engine/levels.js';
import type { WireguardView } from '../engine/wireguard.js';
import type { Control } from '../control/control.js';
import { dropsOf, healthOf } from '../control/status.js';
import type { CommitOutcome } from '../control/transactions.js';
import { SERIES_MAX_DEFAULT } from '../config/schema-observability.js';
import { BATCH_BUCKET_FIRST, ENGINE_COUNTERS, METRICS, PREFIX, type FixedMetric, type MetricInfo } from './catalog.js';
import { CountedHistogram } from './counted-histogram.js';
import { platformConnectionsMax } from './platform.js';
import { compileLabelFilters, SeriesBudget, type Labels } from './series.js';

/** Gauges that are called totals, and lags that are no number between two close scrapes: linters of the format refuse them. */
const UNFIT = /^nodejs_(active_\w+_total|eventloop_lag_)/;
const BYTES_SUFFIX = '-bytes';

export interface CommitTimes { validate?: number; compile?: number; apply?: number; total: number }

export class Metrics {
  private readonly registry = new Registry();
  private readonly shown = new Map<string, Counter | Gauge>();
  private readonly commitSeconds: Histogram;
  private readonly engineRequestSeconds: Histogram;
  private readonly batchSeconds: CountedHistogram;
  private readonly commits = new Map<string, number>();
  private seriesLeftOut = 0;
  private turn: Promise<unknown> = Promise.resolve();

  constructor() {
    for (const info of [...ENGINE_COUNTERS, ...Object.values<MetricInfo>(METRICS)]) {
      const common = { name: `${PREFIX}${info.name}`, help: info.help, labelNames: [...info.labels], registers: [this.registry] };
      if (info.kind === 'counter') this.shown.set(info.name, new Counter(common));
      else if (info.kind === 'gauge') this.shown.set(info.name, new Gauge(common));
    }
    const histogram = ({ name, help, labels, buckets }: MetricInfo) => ({ name: `${PREFIX}${name}`, help, labelNames: [...labels], buckets: [...buckets ?? []], registers: [this.registry] });
    this.commitSeconds = new Histogram(histogram(METRICS.commitSeconds));
    this.engineRequestSeconds = new Histogram(histogram(METRICS.engineRequestSeconds));
    this.batchSeconds = new CountedHistogram(histogram(METRICS.batchSeconds));
    // Of control itself: process_cpu_seconds_total and what else exporters for Node show.
    collectDefaultMetrics({ register: this.registry });
    for (const { name } of this.registry.getMetricsAsArray()) if (UNFIT.test(name)) this.registry.removeSingleMetric(name);
  }

  get contentType(): string { return this.registry.contentType; }

  /** A commit ended. Milliseconds a stage; of a refused one its total alone says something. */
  observeCommit(result: CommitOutcome, milliseconds: CommitTimes): void {
    this.commits.set(result, (this.commits.get(result) ?? 0) + 1);
    if (result !== 'done') return;
    for (const [stage, value] of Object.entries<number | undefined>({ ...milliseconds })) if (value !== undefined) this.commitSeconds.observe({ stage }, value / 1000);
  }

  render(control: Control): Promise<string> {
    const text = this.turn.then(() => this.renderNow(control));
    this.turn = text.catch(() => undefined);
    return text;
  }

  private async renderNow(control: Control): Promise<string> {
    const observability = control.applied?.compiled.observability;
    const budget = new SeriesBudget(observability?.metrics?.seriesMax ?? SERIES_MAX_DEFAULT, compileLabelFilters(observability?.metrics?.filters ?? []));
    const fill = new Filling(this.shown, budget);
    const asked = performance.now();
    const counters = await control.counters().catch(() => undefined);
    if (counters) this.engineRequestSeconds.observe((performance.now() - asked) / 1000);
    const hits = counters && await control.ruleHits().catch(() => undefined);
    const engine = counters && await control.engine.status().catch(() => undefined);
    const levels = counters && await readLevels(control).catch(() => undefined);
    const tunnels = await control.wireguards().catch(() => []);
    for (const metric of this.shown.values()) metric.reset();
    this.batchSeconds.reset();
    fill.set('engineUp', counters ? 1 : 0);
    fill.set('ready', healthOf(control).status === 'ok' ? 1 : 0);
    for (const [result, count] of this.commits) fill.set('commits', count, { result });
    fillRecordLosses(fill, control, counters, engine?.recordsShed ?? 0);
    if (counters) {
      fillEngine(fill, control, counters);
      const { buckets, nanoseconds } = counters.latency;
      const [tooShort, shown] = [buckets.slice(0, BATCH_BUCKET_FIRST), buckets.slice(BATCH_BUCKET_FIRST)];
      shown[0]! += tooShort.reduce((sum, count) => sum + count, 0);
      this.batchSeconds.set(METRICS.batchSeconds.buckets!, shown, nanoseconds / 1e9);
    }
    if (levels) {
      fillInterfaces(fill, control, levels.interfaces);
      fillNatPools(fill, levels.pools);
    }
    if (engine?.applyMicroseconds !== null && engine?.applyMicroseconds !== undefined) fill.set('applySeconds', engine.applyMicroseconds / 1e6);
    fillTunnels(fill, tunnels);
    fillNodes(fill, control);
    fillFlows(fill, control);
    if (hits) fillRules(fill, control, hits);
    if (levels) fillRings(fill, control, levels.rings);
    this.seriesLeftOut += budget.leftOut;
    fill.set('series', budget.used);
    fill.set('seriesMax', budget.max);
    fill.set('seriesLost', this.seriesLeftOut + (control.flowLog?.metrics.leftOut ?? 0));
    return this.registry.metrics();
  }
}

/** One answer under way. What matters most is filled first: the budget may end. */
class Filling {
  constructor(private readonly shown: ReadonlyMap<string, Counter | Gauge>, private readonly budget: SeriesBudget) {}

  set(metric: FixedMetric, value: number, labels?: Labels): void { this.put(METRICS[metric].name, value, labels); }

  put(name: string, value: number, labels?: Labels): void {
    if (!this.budget.admits(name, labels)) return;
    const metric = this.shown.get(name)!;
    if (metric instanceof Counter) metric.inc(labels ?? {}, value); // reset before: the engine counts, we show
    else metric.set(labels ?? {}, value);
  }
}

function fillEngine(fill: Filling, control: Control, counters: Counters): void {
  COUNTERS.forEach(({ value }, index) => fill.put(ENGINE_COUNTERS[index]!.name, counters.counters[value] ?? 0));
  for (const [reason, count] of Object.entries(dropsOf(control, counters, true))) fill.set('drops', count, { reason });
  let offloaded = 0;
  for (const port of control.engineStatus?.ports ?? []) {
    const steer = counters.steer(port.slot);
    for (const { value, name } of STEER_COUNTERS) {
      const count = steer[SL_STEER_BASE + value] ?? 0;
      const isBytes = name.endsWith(BYTES_SUFFIX);
      fill.set(isBytes ? 'steeredBytes' : 'steeredPackets', count, { device: port.name, way: isBytes ? name.slice(0, -BYTES_SUFFIX.length) : name });
      if (name === 'offloaded') offloaded += count;
    }
    for (const { value, name } of DROP_REASONS) {
      const count = value === 0 ? 0 : steer[value] ?? 0;
      if (count > 0) fill.set('deviceDrops', count, { device: port.name, reason: name });
    }
  }
  // What the engine sent went through it; what the program forwarded did not.
  const sent = counters.counters[COUNTERS.find(({ name }) => name === 'tx-packets')!.value] ?? 0;
  if (STEER_COUNTERS.some(({ name }) => name === 'offloaded')) fill.set('offloadRatio', offloaded + sent === 0 ? 0 : offloaded / (offloaded + sent));
  for (const { value, name: state } of SESSION_STATES) {
    const counts = counters.sessions(value);
    for (const { value: at, name: protocol } of SESSION_PROTOCOLS) fill.set('sessions', counts[at]!, { state, protocol });
  }
  fill.set('sessionsOffloaded', counters.sessionsOffloaded);
  const { gauges } = counters;
  fill.set('sessionsMax', gauges.sessionsMax);
  fill.set('platformConnections', gauges.sessions * 2);
  fill.set('platformConnectionsMax', control.applied?.compiled.observability?.metrics?.platformConnections ?? platformConnectionsMax());
  fill.set('natMappings', gauges.natMappings);
  fill.set('fragments', gauges.fragments);
  fill.set('buffersFree', gauges.umemFree);
  fill.set('buffers', gauges.umemTotal);
  fill.set('held', gauges.held);
  fill.set('workers', gauges.workers);
  fill.set('generation', gauges.generation);
}

/** Records are lost where there is no room for them, never by waiting: each such place has its count. */
function fillRecordLosses(fill: Filling, control: Control, counters: Counters | undefined, shed: number): void {
  const { flowLog } = control;
  if (counters) {
    fill.set('recordsLost', counters.counters[COUNTERS.find(({ name }) => name === 'records-lost')!.value] ?? 0, { place: 'engine-ring' });
    fill.set('recordsLost', shed, { place: 'engine-process' });
  }
  if (!flowLog) return;
  fill.set('recordsLost', flowLog.lost, { place: 'control' });
  fill.set('recordsLost', flowLog.observers.lostInAll, { place: 'observers' });
  fill.set('observers', flowLog.observers.count);
  for (const { name: stream, sent, lost, connected, waitingBytes } of flowLog.streamStats) {
    fill.set('logRecords', sent, { stream });
    fill.set('logLost', lost, { stream });
    fill.set('logConnected', connected ? 1 : 0, { stream });
    fill.set('logBuffered', waitingBytes, { stream });
  }
}

type Levels = Awaited<ReturnType<typeof readLevels>>;
async function readLevels({ engine }: Control) {
  const [pools, rings, interfaces] = await Promise.all([engine.natPools(), engine.rings(), engine.interfaces()]);
  return { pools: decodeNatPools(pools), rings: decodeRings(rings), interfaces: decodeInterfaces(interfaces) };
}

function fillInterfaces(fill: Filling, { names }: Control, interfaces: Levels['interfaces']): void {
  for (const { interface: id, rxPackets, rxBytes, txPackets, txBytes } of interfaces) {
    const labels = { interface: names.interfaceById(id) ?? String(id), zone: names.zoneOfInterface(id) ?? '' };
    fill.set('interfacePackets', rxPackets, { ...labels, direction: 'received' });
    fill.set('interfacePackets', txPackets, { ...labels, direction: 'sent' });
    fill.set('interfaceBytes', rxBytes, { ...labels, direction: 'received' });
    fill.set('interfaceBytes', txBytes, { ...labels, direction: 'sent' });
  }
}

/** Tunnels' own figures come first, then a peer's: which are thousands, in the order of the configuration. */
function fillTunnels(fill: Filling, tunnels: readonly WireguardView[]): void {
  for (const { interface: name, refused } of tunnels) for (const [reason, count] of Object.entries(refused ?? {})) fill.set('wireguardRefused', count, { interface: name, reason });
  for (const { interface: name, peers } of tunnels) {
    for (const { name: peer, state, latestHandshake, rxPackets, txPackets, rxBytes, txBytes } of peers) {
      const labels = { interface: name, peer };
      fill.set('wireguardUp', state === 'established' ? 1 : 0, labels);
      fill.set('wireguardHandshake', latestHandshake === null ? 0 : new Date(latestHandshake).getTime() / 1000, labels);
      fill.set('wireguardPackets', rxPackets, { ...labels, direction: 'received' });
      fill.set('wireguardPackets', txPackets, { ...labels, direction: 'sent' });
      fill.set('wireguardBytes', rxBytes, { ...labels, direction: 'received' });
      fill.set('wireguardBytes', txBytes, { ...labels, direction: 'sent' });
    }
  }
}

function fillNodes(fill: Filling, { nodes }: Control): void {
  if (!nodes) return;
  const { peers, rotations, lastRotations, strangers } = nodes.view();
  const seconds = (time: string | null): number => (time === null ? 0 : new Date(time).getTime() / 1000);
  fill.set('nodeStrangers', strangers);
  for (const [result, count] of Object.entries(nodes.rotations)) fill.set('rotations', count, { result });
  for (const [name, time] of Object.entries(lastRotations)) {
    fill.set('rotation', rotations.some((one) => one.interface === name) ? 1 : 0, { interface: name });
    fill.set('rotationLast', seconds(time), { interface: name });
  }
  for (const { name: node, lastExchange, exchanges, failures, inForce, hasOurs } of peers) {
    fill.set('nodeExchange', seconds(lastExchange), { node });
    fill.set('nodeExchanges', exchanges, { node, result: 'done' });
    fill.set('nodeExchanges', failures, { node, result: 'failed' });
    fill.set('nodeInForce', inForce ? 1 : 0, { node, record: 'its' });
    fill.set('nodeInForce', hasOurs ? 1 : 0, { node, record: 'ours' });
  }
}

function fillNatPools(fill: Filling, pools: Levels['pools']): void {
  for (const { address: pool, protocols } of pools) {
    for (const [protocol, { used, resting, free, total }] of Object.entries(protocols)) {
      for (const [state, count] of Object.entries({ used, resting, free, reserved: total - used - resting - free })) fill.set('natPorts', Math.max(0, count), { pool, protocol, state });
    }
  }
}

function fillRings(fill: Filling, control: Control, rings: Levels['rings']): void {
  for (const { portSlot, queue, entries, levels } of rings) {
    const device = control.engineStatus?.ports.find(({ slot }) => slot === portSlot)?.name;
    if (device === undefined) continue;
    for (const [ring, level] of Object.entries(levels)) {
      fill.set('ringEntries', level, { device, queue: String(queue), ring });
      fill.set('ringSize', entries, { device, queue: String(queue), ring });
    }
  }
}

function fillFlows(fill: Filling, control: Control): void {
  for (const { labels, records, packets, bytes } of control.flowLog?.metrics.all ?? []) {
    fill.set('flowRecords', records, labels);
    if (labels.event !== 'end') continue;
    fill.set('flowPackets', packets, labels);
    fill.set('flowBytes', bytes, labels);
  }
}

/** Rules that were hit come first: when there is no room for all, those say more. */
function fillRules(fill: Filling, control: Control, hits: ReadonlyMap<number, number>): void {
  const rules = (control.applied?.compiled.rules ?? []).filter((rule) => rule.kind === 'firewall' || hits.has(rule.id));
  const isHit = (id: number): boolean => (hits.get(id) ?? 0) > 0;
  for (const { id, name, kind } of [...rules.filter((rule) => isHit(rule.id)), ...rules.filter((rule) => !isHit(rule.id))]) fill.set('ruleSessions', hits.get(id) ?? 0, { rule: name, kind });
}
