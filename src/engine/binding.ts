// The only file that loads the native addon (build/native/sluice.node), and the addon's types.
// Who: src/engine/host.ts (the engine process), and `sluice simulate --config` in offline mode. Thread: Node's main thread.
// Buffers are structs of native/abi/dataplane.h, read and written through abi.generated.ts. Errors are thrown as Error
// with `code` (SLUICE_…) and a message that says what would be right. No call is made per packet.
import { createRequire } from 'node:module';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { packageRoot } from '../supervisor/run-directory.js';
import {
  SL_COUNTER_COUNT, SL_DROP_REASON_COUNT, SL_LATENCY_BUCKETS, SL_PORTS_MAX, SL_SESSION_PROTOCOL_COUNT, SL_SESSION_STATE_COUNT, SL_STEER_KEYS,
} from './abi.generated.js';

export interface OpenOptions {
  pinDirectory: string;   // bpffs; link-IFNAME, map-NAME and program-SHA256 stand in it
  bpfObject: string;
  workers: number;
  sessionsMax: number;
  framesPerWorker: number;
  txBudget: number;       // XDP_MAX_TX_SKB_BUDGET; 0 leaves the kernel's
  busyPoll: boolean;
  offline: boolean;       // no netdevs: interfaces are memory ports
  hostDevice: string;     // netdev through which the engine hands packets to the host's stack
}

export type XdpMode = 'native' | 'generic';

export interface PortOptions {
  name: string;
  ifindex: number;
  slot: number;
  queues: number;
  workers: number;        // queues are dealt to this many; at most the fewest queues of any port
  mode: XdpMode;          // what to try first; generic is the fallback
  partialChecksums: boolean;
}

export type AddonEvent =
  | { type: 'links-changed' }
  | { type: 'addresses-changed' }
  | { type: 'wireguard' }
  | { type: 'log'; level: string; text: string };

export interface InjectResult {
  verdict: string;
  reason: string;
  frames: { interface: number; frame: Uint8Array }[];
  host: Uint8Array[];
}

export interface Addon {
  open(options: OpenOptions): void;
  addPort(port: PortOptions): { mode: XdpMode };
  removePort(slot: number): void;
  apply(snapshot: Uint8Array): { generation: number | bigint; microseconds: number };
  counters(): Uint8Array;
  records(into: Uint8Array): { flows: number; drops: number; bytes: number };
  sessions(cursor: number, into: Uint8Array): { count: number; cursor: number };
  killSession(id: bigint): boolean;
  simulate(request: Uint8Array): Uint8Array;
  ruleHits(): Uint8Array;
  neighbours(): Uint8Array;
  /** struct sl_nat_pool_record, one an address and range of ports. */
  natPools(): Uint8Array;
  /** struct sl_ring_record, one a port and queue. */
  rings(): Uint8Array;
  /** struct sl_interface_record, one an interface. */
  interfaces(): Uint8Array;
  /** Starts or replaces capture `slot` (struct sl_capture_filter), or ends it. While one runs, no packet is offloaded. */
  setCapture(slot: number, filter?: Uint8Array): void;
  /** Copied packets of all captures (struct sl_captured, then its bytes); returns how many bytes. */
  captured(into: Uint8Array): number;
  /** A fresh index for a handshake that begins; native remembers no more than that it is out. 0: none is left. */
  wireguardIndex(): number;
  /** struct sl_wireguard_keypair. The buffer is wiped. Throws when the peer or the index is unknown. */
  wireguardInstall(keypair: Uint8Array): void;
  /** Ends the sessions of a peer, keys wiped. */
  wireguardForget(peerId: number): void;
  /** struct sl_wireguard_endpoint: where to send to the peer. */
  wireguardEndpoint(peerId: number, endpoint: Uint8Array): void;
  /** Sends a message (a handshake's, a keepalive when empty) from an interface's port: to `endpoint`, or to where the peer is when it is absent. False: there is no way now. */
  wireguardSend(interfaceId: number, peerId: number, message: Uint8Array, endpoint?: Uint8Array): boolean;
  /** struct sl_wireguard_gate_key, one a static key that the interface answers to (at most two). */
  wireguardGate(interfaceId: number, keys: Uint8Array): void;
  /** struct sl_wireguard_event_record with their messages, as many as fit; returns how many bytes. `{type: 'wireguard'}` comes by onEvent when there is something. */
  wireguardEvents(into: Uint8Array): number;
  /** struct sl_wireguard_peer_record, one a peer. */
  wireguardPeers(): Uint8Array;
  onEvent(callback: (event: unknown, ...rest: unknown[]) => void): void;
  inject(interfaceIndex: number, frame: Uint8Array, nowNs: bigint): InjectResult;
  advance(nowNs: bigint): void;
  setNeighbour(interfaceIndex: number, address: Uint8Array, mac: Uint8Array): void;
  close(): void;
}

export class BindingError extends Error {
  constructor(readonly code: string, message: string) {
    super(message);
    this.name = 'BindingError';
  }
}

const CALLS: readonly (keyof Addon)[] = [
  'open', 'addPort', 'removePort', 'apply', 'counters', 'records', 'sessions', 'killSession', 'simulate', 'ruleHits',
  'neighbours', 'natPools', 'rings', 'interfaces', 'setCapture', 'captured', 'wireguardIndex', 'wireguardInstall', 'wireguardForget', 'wireguardEndpoint',
  'wireguardSend', 'wireguardGate', 'wireguardEvents', 'wireguardPeers', 'onEvent', 'inject', 'advance', 'setNeighbour', 'close',
];

export function addonPath(): string { return join(packageRoot(), 'build', 'native', 'sluice.node'); }
export function bpfObjectPath(): string { return join(packageRoot(), 'build', 'bpf', 'steer.bpf.o'); }

export function loadAddon(path = addonPath()): Addon {
  if (!existsSync(path)) throw new BindingError('SLUICE_ADDON_MISSING', `${path} is not built; run \`npm run build\` in ${packageRoot()}`);
  let addon: Addon;
  try {
    addon = createRequire(import.meta.url)(path) as Addon;
  } catch (error) {
    throw new BindingError('SLUICE_ADDON_BROKEN', `${path} does not load (${(error as Error).message}); run \`npm run build\` again on this machine`);
  }
  const missing = CALLS.filter((call) => typeof addon[call] !== 'function');
  if (missing.length > 0) {
    throw new BindingError('SLUICE_ADDON_STALE', `${path} lacks ${missing.join(', ')}: it is older than this program; run \`npm run build\``);
  }
  return addon;
}

// ---- counters() --------------------------------------------------------------------------------------------------
// One buffer of u64, in this order; what a newer addon appends after it is ignored:
//   SL_COUNTER_COUNT counters | SL_DROP_REASON_COUNT drops by reason | GAUGES | SL_SESSION_STATE_COUNT sessions by state |
//   SL_PORTS_MAX * SL_STEER_KEYS steering counters (drops by reason at 0.., SL_STEER_* at SL_STEER_BASE..) |
//   SL_SESSION_STATE_COUNT * SL_SESSION_PROTOCOL_COUNT sessions by state, then protocol | offloaded sessions |
//   SL_LATENCY_BUCKETS rounds of a worker by their time | nanoseconds of all these rounds
// Sessions by state and protocol are counted once a second, of a table with over a million sessions a part: they lag behind gauges.

export const GAUGES = [
  'sessions', 'sessionsMax', 'umemFree', 'umemTotal', 'natMappings', 'fragments', 'generation', 'workers', 'held',
] as const;
export type Gauge = (typeof GAUGES)[number];

const DROPS_AT = SL_COUNTER_COUNT;
const GAUGES_AT = DROPS_AT + SL_DROP_REASON_COUNT;
const STATES_AT = GAUGES_AT + GAUGES.length;
export const STEER_AT = STATES_AT + SL_SESSION_STATE_COUNT;
const SESSIONS_AT = STEER_AT + SL_PORTS_MAX * SL_STEER_KEYS;
const OFFLOADED_AT = SESSIONS_AT + SL_SESSION_STATE_COUNT * SL_SESSION_PROTOCOL_COUNT;
const LATENCY_AT = OFFLOADED_AT + 1;
const LATENCY_NS_AT = LATENCY_AT + SL_LATENCY_BUCKETS;
export const COUNTER_WORDS = LATENCY_NS_AT + 1;

export interface Counters {
  counters: number[];               // by SL_COUNTER_*
  drops: number[];                  // by SL_DROP_*
  gauges: Record<Gauge, number>;
  sessionStates: number[];          // by SL_STATE_*
  steer(slot: number): number[];    // SL_STEER_KEYS of a port
  sessions(state: number): number[]; // by SL_SESSION_PROTOCOL_*
  sessionsOffloaded: number;
  latency: { buckets: number[]; nanoseconds: number }; // buckets[n]: of at most 2^n ns, more than 2^(n-1); the last one: all longer ones, too
}

/** Numbers, not bigints: 2^53 packets at 10 million a second are 28 years. */
export function readCounters(bytes: Uint8Array): Counters {
  if (bytes.byteLength < COUNTER_WORDS * 8) {
    throw new BindingError('SLUICE_COUNTERS', `counters of ${bytes.byteLength} bytes; ${COUNTER_WORDS * 8} are expected`);
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const words = (first: number, count: number): number[] =>
    Array.from({ length: count }, (_, index) => Number(view.getBigUint64((first + index) * 8, true)));
  const gauges = words(GAUGES_AT, GAUGES.length);
  return {
    counters: words(0, SL_COUNTER_COUNT),
    drops: words(DROPS_AT, SL_DROP_REASON_COUNT),
    gauges: Object.fromEntries(GAUGES.map((name, index) => [name, gauges[index] ?? 0])) as Record<Gauge, number>,
    sessionStates: words(STATES_AT, SL_SESSION_STATE_COUNT),
    steer: (slot) => words(STEER_AT + slot * SL_STEER_KEYS, SL_STEER_KEYS),
    sessions: (state) => words(SESSIONS_AT + state * SL_SESSION_PROTOCOL_COUNT, SL_SESSION_PROTOCOL_COUNT),
    sessionsOffloaded: words(OFFLOADED_AT, 1)[0]!,
    latency: { buckets: words(LATENCY_AT, SL_LATENCY_BUCKETS), nanoseconds: words(LATENCY_NS_AT, 1)[0]! },
  };
}
