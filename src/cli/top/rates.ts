// What `sluice top` shows: rates between two samples of the appliance. Who: src/cli/commands/top.ts. Pure.
// A counter that went back belongs to an engine that started anew: its rate is unknown until the next sample, not negative.
import type { CountersView, StatusView } from '../../control/status.js';
import type { Talker } from './talkers.js';

export interface LinkCounters { rxBytes: number; rxPackets: number; txBytes: number; txPackets: number }

export interface Sample {
  atMs: number;                       // of a clock that never jumps
  status: StatusView;
  counters: CountersView;
  links: ReadonlyMap<string, LinkCounters>;   // by device; empty when nobody lets us look
}

/** null: not known (yet). Packets and bits a second. */
export interface PortRates {
  device: string; interfaces: string[]; link: string; xdpMode: string | null;
  inPackets: number | null; inBits: number | null; outPackets: number | null; outBits: number | null;
  toEngine: number | null; offloaded: number | null; toHost: number | null; dropped: number | null;
}

export interface DropRate { reason: string; perSecond: number | null; total: number }

export interface TopView {
  time: string; seconds: number;      // between the two samples
  hostname: string | null; version: string; ready: boolean; missing: string[]; generation: number | null; uptimeSeconds: number;
  packets: { in: number | null; out: number | null; toEngine: number | null; offloaded: number | null };
  bits: { in: number | null; out: number | null };
  offloadShare: number | null;        // of the packets of sessions: by the XDP program, without the engine
  sessions: { total: number; max: number; byState: Record<string, number>; createdPerSecond: number | null; endedPerSecond: number | null } | null;
  buffers: { free: number; total: number } | null;
  ports: PortRates[];
  drops: DropRate[];
  dropsPerSecond: number | null;
  talkers: Talker[]; sessionsSampled: number;
}

const sum = (values: readonly (number | null)[]): number | null =>
  values.length === 0 || values.includes(null) ? null : values.reduce<number>((total, value) => total + (value ?? 0), 0);

function rate(before: number | undefined, after: number | undefined, seconds: number): number | null {
  return before === undefined || after === undefined || after < before || seconds <= 0 ? null : (after - before) / seconds;
}

export function ratesBetween(before: Sample, after: Sample, talkers: { talkers: Talker[]; sampled: number }, time: Date): TopView {
  const seconds = (after.atMs - before.atMs) / 1000;
  const { status } = after;
  const ports = portsOf(status).map((port) => portRates(port, before, after, seconds));
  const toEngine = sum(ports.map((port) => port.toEngine));
  const offloaded = sum(ports.map((port) => port.offloaded));
  const handled = toEngine === null || offloaded === null ? 0 : toEngine + offloaded;
  const engine = (name: string): number | null => rate(before.counters.counters[name], after.counters.counters[name], seconds);
  const drops = Object.entries(after.counters.drops).filter(([, total]) => total > 0)
    .map(([reason, total]): DropRate => ({ reason, total, perSecond: rate(before.counters.drops[reason], total, seconds) }))
    .sort((a, b) => (b.perSecond ?? 0) - (a.perSecond ?? 0) || b.total - a.total);
  return {
    time: time.toISOString(), seconds,
    hostname: status.hostname, version: status.version, ready: status.ready, missing: status.missing, generation: status.generation, uptimeSeconds: status.uptimeSeconds,
    // The devices count all; where they cannot be read, the engine's own counters are the next best.
    packets: { in: sum(ports.map((port) => port.inPackets)) ?? engine('rx-packets'), out: sum(ports.map((port) => port.outPackets)) ?? engine('tx-packets'), toEngine, offloaded },
    bits: { in: sum(ports.map((port) => port.inBits)) ?? times8(engine('rx-bytes')), out: sum(ports.map((port) => port.outBits)) ?? times8(engine('tx-bytes')) },
    offloadShare: handled > 0 && offloaded !== null ? offloaded / handled : null,
    sessions: status.sessions && { ...status.sessions, createdPerSecond: engine('sessions-created'), endedPerSecond: engine('sessions-ended') },
    buffers: status.buffers,
    ports, drops, dropsPerSecond: drops.length === 0 ? 0 : sum(drops.map((drop) => drop.perSecond)),
    talkers: talkers.talkers, sessionsSampled: talkers.sampled,
  };
}

const times8 = (bytes: number | null): number | null => (bytes === null ? null : bytes * 8);

interface Port { device: string; interfaces: string[]; link: string; xdpMode: string | null }

/** One a device: interfaces of VLANs share its counters. */
function portsOf(status: StatusView): Port[] {
  const ports = new Map<string, Port>();
  for (const { name, kind, device, link, xdpMode } of status.interfaces) {
    if (kind === 'wireguard') continue; // its packets go over the others
    const port = ports.get(device) ?? { device, interfaces: [], link, xdpMode };
    port.interfaces.push(name);
    ports.set(device, port);
  }
  return [...ports.values()];
}

function portRates(port: Port, before: Sample, after: Sample, seconds: number): PortRates {
  const [linkBefore, linkAfter] = [before.links.get(port.device), after.links.get(port.device)];
  const [steerBefore, steerAfter] = [before.counters.steering[port.device], after.counters.steering[port.device]];
  const link = (member: keyof LinkCounters): number | null => rate(linkBefore?.[member], linkAfter?.[member], seconds);
  const steer = (name: string): number | null => rate(steerBefore?.counters[name], steerAfter?.counters[name], seconds);
  const total = (drops: Record<string, number> | undefined): number | undefined => drops && Object.values(drops).reduce((all, count) => all + count, 0);
  return {
    ...port,
    inPackets: link('rxPackets'), inBits: times8(link('rxBytes')), outPackets: link('txPackets'), outBits: times8(link('txBytes')),
    toEngine: steer('to-engine'), offloaded: steer('offloaded'), toHost: steer('to-host'),
    dropped: rate(total(steerBefore?.drops), total(steerAfter?.drops), seconds),
  };
}

/** Text of /proc/PID/net/dev: two lines of heading, then a line a device. */
export function parseLinkCounters(text: string): Map<string, LinkCounters> {
  const links = new Map<string, LinkCounters>();
  for (const line of text.split('\n')) {
    const match = /^\s*([^:]+):\s*(.+)$/.exec(line);
    if (!match) continue;
    const fields = match[2]!.trim().split(/\s+/).map(Number);
    const [rxBytes = NaN, rxPackets = NaN] = fields;
    const [txBytes = NaN, txPackets = NaN] = fields.slice(8);
    if ([rxBytes, rxPackets, txBytes, txPackets].every(Number.isFinite)) links.set(match[1]!, { rxBytes, rxPackets, txBytes, txPackets });
  }
  return links;
}
