// What `sluice status`, /api/v1/status, /api/v1/counters and /healthz say, put together from control's state and the engine's counters.
// Who: src/api/. Shapes here are the API's: add members, rename none.
import { COUNTERS, DROP_REASONS, SESSION_PROTOCOLS, SESSION_STATES, SL_STEER_BASE, STEER_COUNTERS, type ListEntry } from '../engine/abi.generated.js';
import type { Counters } from '../engine/binding.js';
import { decodeInterfaces, decodeNatPools, type InterfaceCounts, type NatPool } from '../engine/levels.js';
import type { Obstacle } from '../engine/conflicts.js';
import { isAlive, readPidFile } from '../supervisor/pid-file.js';
import { packageVersion, type RunDirectory } from '../supervisor/run-directory.js';
import type { Device } from '../config/facts.js';
import type { Problem } from '../config/problem.js';
import type { Control, Failure } from './control.js';
import { tunnelStatus, wireguardViews, type TunnelStatus } from './wireguard.js';

export interface ProcessView { role: string; pid: number | null; state: 'running' | 'away'; uptimeSeconds: number | null }

export type LinkState = 'up' | 'down' | 'no-carrier' | 'missing';

export interface InterfaceView {
  name: string; kind: 'port' | 'wireguard'; device: string; zone: string; vlanId: number | null; addresses: string[];
  mtuBytes: number | null; link: LinkState; driver: string | null; queues: number | null;
  xdpMode: 'native' | 'generic' | null;
  steering: { toEngine: number; toHost: number; dropped: number } | null;   // of the device: VLANs on it share them
}

export interface StatusView {
  version: string; hostname: string | null; directory: string;
  ready: boolean; missing: string[];
  generation: number | null; appliedAt: string | null; applyMicroseconds: number | null; uptimeSeconds: number;
  processes: ProcessView[];
  interfaces: InterfaceView[];
  tunnels: TunnelStatus[];
  rules: number;
  sessions: { total: number; max: number; byState: Record<string, number> } | null;
  natMappings: number | null; fragments: number | null;
  buffers: { free: number; total: number } | null;
  workers: number | null;
  packets: { received: number; sent: number; toHost: number } | null;
  bytes: { received: number; sent: number } | null;
  drops: Record<string, number>;
  failure: Failure | null;
  problems: Problem[]; obstacles: Obstacle[]; warnings: string[];
}

export interface CountersView {
  counters: Record<string, number>;
  drops: Record<string, number>;
  gauges: Record<string, number>;
  sessions: Record<string, number>;
  sessionsByProtocol: Record<string, number>;
  natPools: NatPool[];
  interfaces: Record<string, Omit<InterfaceCounts, 'interface'>>;
  steering: Record<string, { counters: Record<string, number>; drops: Record<string, number> }>;
}

const secondsSince = (time: string | Date): number => Math.max(0, Math.round((Date.now() - new Date(time).getTime()) / 100) / 10);

const byName = (list: readonly ListEntry[], values: readonly number[], keepZeros = true): Record<string, number> =>
  Object.fromEntries(list.flatMap(({ value, name }) => {
    const count = values[value] ?? 0;
    return keepZeros || count > 0 ? [[name, count]] : [];
  }));

/** What is not there yet, in words; empty when the data plane forwards by the configuration. */
export function findMissing(control: Control, paths?: RunDirectory): string[] {
  const missing: string[] = [];
  const supervisor = paths && readPidFile(paths.supervisorPid);
  if (supervisor && supervisor.pid !== process.ppid && isAlive(supervisor)) missing.push('a new supervisor is taking over');
  const engine = control.engineStatus;
  if (!control.engine.isConnected || !engine) missing.push('the engine process does not answer');
  if (!control.applied) missing.push('the configuration is not in force yet');
  else if (engine && engine.generation < control.applied.generation) missing.push('the engine has not taken the configuration over');
  for (const port of control.applied?.compiled.plan.ports ?? []) {
    if (engine && !engine.ports.some((one) => one.name === port.name)) missing.push(`no XDP program on ${port.name}`);
  }
  if (control.failure) missing.push(control.failure.message);
  return missing;
}

export function healthOf(control: Control): { status: 'ok' | 'unavailable'; missing: string[] } {
  const missing = findMissing(control);
  return { status: missing.length === 0 ? 'ok' : 'unavailable', missing };
}

/** Engine and steering program both drop; people want the sum. */
export function dropsOf(control: Control, counters: Counters, keepZeros = false): Record<string, number> {
  const sums = counters.drops.slice();
  for (const port of control.engineStatus?.ports ?? []) {
    counters.steer(port.slot).forEach((count, key) => {
      if (key < SL_STEER_BASE && key < sums.length) sums[key] = (sums[key] ?? 0) + count;
    });
  }
  return byName(DROP_REASONS.slice(1), sums, keepZeros);
}

export async function countersView(control: Control): Promise<CountersView> {
  const [counters, pools, interfaces] = await Promise.all([control.counters(), control.engine.natPools(), control.engine.interfaces()]);
  return {
    counters: byName(COUNTERS, counters.counters),
    drops: dropsOf(control, counters, true),
    gauges: counters.gauges,
    sessions: byName(SESSION_STATES, counters.sessionStates),
    sessionsByProtocol: byName(SESSION_PROTOCOLS, SESSION_PROTOCOLS.map(({ value }) => SESSION_STATES.reduce((sum, state) => sum + (counters.sessions(state.value)[value] ?? 0), 0))),
    natPools: decodeNatPools(pools),
    interfaces: Object.fromEntries(decodeInterfaces(interfaces).map(({ interface: id, ...counts }) => [control.names.interfaceById(id) ?? String(id), counts])),
    steering: Object.fromEntries((control.engineStatus?.ports ?? []).map((port) => {
      const steer = counters.steer(port.slot);
      return [port.name, { counters: byName(STEER_COUNTERS, steer.slice(SL_STEER_BASE)), drops: byName(DROP_REASONS.slice(1), steer, false) }];
    })),
  };
}

export async function statusView(control: Control, paths: RunDirectory): Promise<StatusView> {
  const [counters, tunnels] = await Promise.all([control.counters().catch(() => undefined), control.wireguards().catch(() => undefined)]);
  const engine = control.engineStatus;
  const missing = findMissing(control, paths);
  const named = counters && byName(COUNTERS, counters.counters);
  return {
    version: packageVersion(), hostname: control.applied?.compiled.hostname ?? null, directory: paths.dir,
    ready: missing.length === 0, missing,
    generation: engine?.generation ?? null, appliedAt: engine?.appliedAt ?? null, applyMicroseconds: engine?.applyMicroseconds ?? null,
    uptimeSeconds: secondsSince(control.startedAt),
    processes: processViews(control, paths),
    interfaces: interfaceViews(control, counters),
    tunnels: tunnelStatus(wireguardViews(control, tunnels)),
    rules: control.applied?.compiled.rules.length ?? 0,
    sessions: counters ? { total: counters.gauges.sessions, max: counters.gauges.sessionsMax, byState: byName(SESSION_STATES, counters.sessionStates) } : null,
    natMappings: counters?.gauges.natMappings ?? null, fragments: counters?.gauges.fragments ?? null,
    buffers: counters ? { free: counters.gauges.umemFree, total: counters.gauges.umemTotal } : null,
    workers: counters?.gauges.workers ?? engine?.workers ?? null,
    packets: named ? { received: named['rx-packets'] ?? 0, sent: named['tx-packets'] ?? 0, toHost: named['host-packets'] ?? 0 } : null,
    bytes: named ? { received: named['rx-bytes'] ?? 0, sent: named['tx-bytes'] ?? 0 } : null,
    drops: counters ? dropsOf(control, counters) : {},
    failure: control.failure ?? null,
    problems: control.problems, obstacles: control.obstacles, warnings: [...(engine?.warnings ?? []), ...(tunnels ?? []).flatMap(({ faults }) => faults)],
  };
}

function processViews(control: Control, paths: RunDirectory): ProcessView[] {
  const supervisor = readPidFile(paths.supervisorPid);
  const isSupervised = supervisor !== undefined && isAlive(supervisor);
  const engine = control.engineStatus;
  return [
    { role: 'supervisor', pid: isSupervised ? supervisor.pid : null, state: isSupervised ? 'running' : 'away', uptimeSeconds: null },
    { role: 'engine', pid: engine?.pid ?? null, state: engine ? 'running' : 'away', uptimeSeconds: engine ? secondsSince(engine.startedAt) : null },
    { role: 'control', pid: process.pid, state: 'running', uptimeSeconds: secondsSince(control.startedAt) },
  ];
}

function linkOf(device: Device | undefined, carriers: readonly string[]): LinkState {
  if (!device) return 'missing';
  if (!device.up) return 'down';
  return carriers.includes(device.name) ? 'up' : 'no-carrier';
}

function interfaceViews(control: Control, counters: Counters | undefined): InterfaceView[] {
  return (control.applied?.compiled.interfaces ?? []).map((one): InterfaceView => {
    const device = control.facts?.devices.find((other) => other.name === one.device);
    const port = control.engineStatus?.ports.find((other) => other.name === one.device);
    const steer = port && counters ? counters.steer(port.slot) : undefined;
    return {
      name: one.name, kind: one.kind, device: one.device, zone: one.zone, vlanId: one.vlanId, addresses: one.addresses,
      mtuBytes: control.applied?.compiled.tunnels.find(({ name }) => name === one.name)?.mtuBytes ?? device?.mtu ?? null, link: linkOf(device, control.facts?.carriers ?? []), driver: device?.driver ?? null, queues: port?.queues ?? null,
      xdpMode: port?.mode ?? null,
      steering: steer ? {
        toEngine: steer[SL_STEER_BASE] ?? 0, toHost: steer[SL_STEER_BASE + 1] ?? 0,
        dropped: steer.slice(1, SL_STEER_BASE).reduce((sum, count) => sum + count, 0),
      } : null,
    };
  });
}
