// Every metric that /metrics shows: name, help, labels. The one list: metrics.ts registers from it, filters of the configuration are
// checked against it, docs/operations/metrics.md explains it. Counters of the engine come from native/abi/dataplane.h's list by themselves.
import { COUNTERS, SL_LATENCY_BUCKETS } from '../engine/abi.generated.js';
import { RECORD_MEMBERS } from '../flowlog/match.js';

export const PREFIX = 'sluice_';

export interface MetricInfo { kind: 'counter' | 'gauge' | 'histogram'; name: string; help: string; labels: readonly string[]; buckets?: readonly number[] }

const counter = (name: string, help: string, labels: readonly string[] = []): MetricInfo => ({ kind: 'counter', name, help, labels });
const gauge = (name: string, help: string, labels: readonly string[] = []): MetricInfo => ({ kind: 'gauge', name, help, labels });
const SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10, 30] as const;
const histogram = (name: string, help: string, labels: readonly string[] = []): MetricInfo => ({ kind: 'histogram', name, help, labels, buckets: SECONDS });
/** Powers of two of a nanosecond, as the engine counts them; no batch takes less than the first one that is shown. */
export const BATCH_BUCKET_FIRST = 9;
const BATCH_SECONDS = Array.from({ length: SL_LATENCY_BUCKETS - BATCH_BUCKET_FIRST - 1 }, (_, index) => 2 ** (BATCH_BUCKET_FIRST + index) / 1e9);

export const FLOW_LABELS = ['event', 'verdict', 'reason', 'protocol', 'rule', 'from', 'to', 'from_zone', 'to_zone'] as const;

const FIXED = {
  engineUp: gauge('engine_up', '1 while the engine process answers'),
  ready: gauge('ready', '1 while the data plane forwards by the configuration'),
  generation: gauge('generation', 'generation of the forwarding state in force'),
  workers: gauge('workers', 'worker threads'),
  drops: counter('drops_total', 'packets dropped, by reason; engine and steering programs together', ['reason']),
  deviceDrops: counter('device_drops_total', 'packets that a steering program dropped, by device and reason', ['device', 'reason']),
  steeredPackets: counter('steered_packets_total', 'packets that a steering program sent on, by device and way', ['device', 'way']),
  steeredBytes: counter('steered_bytes_total', 'IP bytes of packets that a steering program forwarded by itself', ['device', 'way']),
  offloadRatio: gauge('offload_ratio', 'share of forwarded packets that never left XDP, since the engine started'),
  ruleSessions: counter('rule_sessions_total', 'sessions that a rule allowed or stopped, since the engine started', ['rule', 'kind']),
  sessions: gauge('sessions', 'sessions by state and protocol, counted once a second, of a table with over a million a part', ['state', 'protocol']),
  sessionsOffloaded: gauge('sessions_offloaded', 'sessions whose packets the XDP program forwards, counted as sessions are'),
  sessionsMax: gauge('sessions_max', 'sessions that fit'),
  platformConnections: gauge('platform_connections', 'connections as the platform counts them: each session twice'),
  platformConnectionsMax: gauge('platform_connections_max', 'connections that the platform allows a machine of this size'),
  natMappings: gauge('nat_mappings', 'NAT mappings'),
  natPorts: gauge('nat_ports', 'ports of an outside address of NAT: used, resting after use, free, reserved for local sockets or published', ['pool', 'protocol', 'state']),
  interfacePackets: counter('interface_packets_total', 'packets that the engine received and sent on an interface; not those that the XDP program forwarded: steered_packets_total', ['interface', 'zone', 'direction']),
  interfaceBytes: counter('interface_bytes_total', 'bytes of these packets, Ethernet header included', ['interface', 'zone', 'direction']),
  wireguardUp: gauge('wireguard_up', '1 while there is a session with the peer', ['interface', 'peer']),
  wireguardHandshake: gauge('wireguard_last_handshake_seconds', 'when the latest handshake with the peer was completed, as Unix time; 0: never', ['interface', 'peer']),
  wireguardPackets: counter('wireguard_packets_total', 'transport messages of a peer, keepalives included', ['interface', 'peer', 'direction']),
  wireguardBytes: counter('wireguard_bytes_total', 'UDP payload of these messages', ['interface', 'peer', 'direction']),
  wireguardRefused: counter('wireguard_handshakes_refused_total', 'handshake messages that were not answered, by reason', ['interface', 'reason']),
  nodeExchange: gauge('node_last_exchange_seconds', 'when records were last exchanged with a node, as Unix time; 0: never', ['node']),
  nodeExchanges: counter('node_exchanges_total', 'exchanges of records with a node, by result', ['node', 'result']),
  nodeInForce: gauge('node_record_in_force', '1 while the node\'s record is in force here, and this node\'s there', ['node', 'record']),
  nodeStrangers: counter('node_strangers_total', 'callers that were sent away because they are no node of the configuration'),
  rotation: gauge('wireguard_rotation_running', '1 while the static key of a tunnel rotates', ['interface']),
  rotationLast: gauge('wireguard_last_rotation_seconds', 'when the static key of a tunnel rotated last or was first seen, as Unix time', ['interface']),
  rotations: counter('wireguard_rotations_total', 'rotations of static keys that ended, by result', ['result']),
  batchSeconds: { ...histogram('engine_batch_seconds', 'time from the receipt of a batch of packets to its transmission, a round of a worker over its queues'), buckets: BATCH_SECONDS } as MetricInfo,
  ringEntries: gauge('ring_entries', 'entries that wait in a ring of a queue for the side that takes them', ['device', 'queue', 'ring']),
  ringSize: gauge('ring_entries_max', 'entries that a ring of a queue has', ['device', 'queue', 'ring']),
  fragments: gauge('fragmented_datagrams', 'datagrams under virtual reassembly'),
  buffersFree: gauge('packet_buffers_free', 'free packet buffers, all workers'),
  buffers: gauge('packet_buffers', 'packet buffers, all workers'),
  held: gauge('packets_held', 'packets that wait for a link address or a first fragment'),
  applySeconds: gauge('engine_apply_seconds', 'time that the engine took for the forwarding state in force'),
  engineRequestSeconds: histogram('engine_request_seconds', 'time from a question to the engine process to its answer'),
  commits: counter('commits_total', 'commits of a configuration, by result', ['result']),
  commitSeconds: histogram('commit_seconds', 'time from a commit\'s request to its enforcement, by stage', ['stage']),
  flowRecords: counter('flow_records_total', 'records of flows and dropped packets; filters of the configuration say which', FLOW_LABELS),
  flowPackets: counter('flow_packets_total', 'packets of sessions that ended, both ways', FLOW_LABELS),
  flowBytes: counter('flow_bytes_total', 'bytes of sessions that ended, both ways', FLOW_LABELS),
  recordsLost: counter('record_losses_total', 'flow and drop records lost, by the place where there was no room', ['place']),
  logRecords: counter('log_records_total', 'records that a log stream handed over', ['stream']),
  logLost: counter('log_records_lost_total', 'records that a log stream gave up: its receiver did not keep up', ['stream']),
  logConnected: gauge('log_connected', '1 while a log stream gets through', ['stream']),
  logBuffered: gauge('log_buffered_bytes', 'bytes of a log stream that wait', ['stream']),
  observers: gauge('observers', 'callers that follow records live'),
  series: gauge('series', 'series in this answer that count against observability.metrics.seriesMax'),
  seriesMax: gauge('series_max', 'series that may be shown'),
  seriesLost: counter('series_left_out_total', 'values left out because there were too many series'),
} as const;
export type FixedMetric = keyof typeof FIXED;

/** Reads `rx-packets` as rx_packets_total. */
export const engineCounterName = (name: string): string => `${name.replaceAll('-', '_')}_total`;

export const METRICS: Readonly<Record<FixedMetric, MetricInfo>> = FIXED;
export const ENGINE_COUNTERS: readonly MetricInfo[] = COUNTERS.map(({ name, help }) => counter(engineCounterName(name), help));

/** `flow` is the family of metrics made from records: its criteria are those of records. */
export const FLOW_FAMILY = 'flow';
const FLOW_METRICS: ReadonlySet<string> = new Set([FIXED.flowRecords.name, FIXED.flowPackets.name, FIXED.flowBytes.name]);

const LABELS = new Map([...Object.values<MetricInfo>(FIXED), ...ENGINE_COUNTERS].filter(({ name }) => !FLOW_METRICS.has(name)).map(({ name, labels }) => [name, labels]));
export const METRIC_NAMES: readonly string[] = [FLOW_FAMILY, ...LABELS.keys()];

/** `drops`, `sluice_drops_total` and `drops-total` are one. */
export function metricName(written: string): string {
  const plain = written.replace(/^sluice_/, '').replaceAll('-', '_');
  return LABELS.has(plain) || plain === FLOW_FAMILY ? plain : LABELS.has(`${plain}_total`) ? `${plain}_total` : plain;
}

/** What a filter of a metric may name; undefined: there is no such metric. */
export function labelsOf(written: string): readonly string[] | undefined {
  const name = metricName(written);
  return name === FLOW_FAMILY ? RECORD_MEMBERS : LABELS.get(name);
}
