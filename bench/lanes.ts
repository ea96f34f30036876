// Packet lanes as contenders: what forwarding, latency, rules and engine-vs-bare have in common. A lane without a device
// is the generator's ceiling.

import type { Command } from "commander";
import { listOf, parseCount, parseFamily, placementsOf, turnCommand, type TurnCommandOptions } from "./options.js";
import { Lane, type Measurement, type TrafficOptions } from "./packets.js";
import { peers, type DeviceOptions, type PeerName } from "./peers.js";
import { count, table } from "./report.js";
import { ceilingObjection } from "./statistics.js";
import { becomeUrgent, prepareTools } from "./tool.js";
import type { Family } from "./topology.js";
import { disturbances, measureInTurns, overRounds, ratioOf, samplesOf, type Contender, type Outcome } from "./turns.js";

export const PEER_NAMES = Object.keys(peers) as PeerName[];
/** An IPv6 frame of 64 bytes has no room for the number by which flows are told apart. */
const SIZE_DEFAULT = { 4: 64, 6: 66 } as const;

export interface LaneCommandOptions extends TurnCommandOptions {
  flows: number;
  family: Family;
  size?: number;
  workers: number;
}

export interface ForwardingOptions extends LaneCommandOptions {
  rules: number;
  peers: PeerName[];
}

/** Options of every bench that sends packets through lanes. */
export function laneCommand(name: string, description: string, defaults: { turns?: number; seconds?: number } = {}): Command {
  return turnCommand(name, description, defaults)
    .option("--flows <n>", "UDP flows; their destinations vary, too", parseCount, 1000)
    .option("--family <4|6>", "IP version", parseFamily, 4)
    .option("--size <bytes>", "frame size without FCS (64; 66 with IPv6)", parseCount)
    .option("--workers <n>", "worker threads of sluice; the bare forwarder has one", parseCount, 1);
}

export function withPeers(command: Command, peerDefaults: readonly PeerName[], rules: number): Command {
  return command
    .option("--rules <n>", "filler rules before the one that allows the traffic, for sluice and the kernel", parseCount, rules)
    .option("--peers <list>", `devices under test, of ${PEER_NAMES.join(",")}`, listOf(PEER_NAMES), [...peerDefaults]);
}

export function prepareLanes(options: LaneCommandOptions): void {
  prepareTools("generator", "receiver", "bare_forwarder", "bare_redirect");
  if (options.urgent) becomeUrgent();
}

export function trafficOf(options: LaneCommandOptions): TrafficOptions {
  const { flows, family, seconds, size = SIZE_DEFAULT[family] } = options;
  return { flows, family, frameBytes: size, rate: 0, milliseconds: seconds * 1000, ...placementsOf(options) };
}

/** What the round of a lane leaves in the report. */
export interface LaneDetail {
  flowsSeen: number;
  flowsAnswered: number;
  device: unknown;
}

export function describeLane(result: Measurement): string {
  const latency = result.latencyUs ? `, ${result.latencyUs.p50.toFixed(1)} / ${result.latencyUs.p99.toFixed(1)} / ${result.latencyUs.p999.toFixed(1)} µs` : "";
  return `${count(result.pps).padStart(9)} pps, offered ${count(result.offeredPps)}, ${(result.cores.busy - result.cores.foreign).toFixed(2)} cores${latency}`;
}

export function laneContender(name: string, title: string, peer: PeerName | undefined, traffic: TrafficOptions, device: DeviceOptions = {}): Contender<Measurement> {
  return {
    name,
    title,
    async start() {
      const lane = await Lane.start(peer && peers[peer], traffic, device);
      return {
        measure: () => lane.measure(),
        detail: async (): Promise<LaneDetail> => ({ flowsSeen: lane.flowsSeen, flowsAnswered: lane.flowsAnswered, device: await lane.detail() }),
        stop: () => lane.stop(),
      };
    },
    describe: describeLane,
    foreignCores: ({ cores }) => cores.foreign,
  };
}

export const ceilingContender = (traffic: TrafficOptions): Contender<Measurement> => laneContender("ceiling", "generator, dropped at the first hop", undefined, { ...traffic, rate: 0 });

/** The named devices and the generator's ceiling, in turns. */
export function measurePeers(options: ForwardingOptions, device: DeviceOptions): Promise<Outcome<Measurement>[]> {
  const traffic = trafficOf(options);
  return measureInTurns([ceilingContender(traffic), ...options.peers.map((name) => laneContender(name, peers[name].title, name, traffic, device))], options);
}

/** Why these figures must not be used. The first outcome is the ceiling. */
export function objectionsTo([ceiling, ...devices]: readonly Outcome<Measurement>[], flows: number, urgent: boolean): string[] {
  const ceilingPps = overRounds(ceiling!, (one) => one.pps).median;
  return devices.flatMap((device) => {
    const objection = ceilingObjection(device.title, ceilingPps, overRounds(device, (one) => one.pps).median);
    const least = (member: "flowsSeen" | "flowsAnswered"): number => Math.min(...device.rounds.map(({ detail }) => (detail as LaneDetail)[member]));
    const [flowsSeen, flowsAnswered] = [least("flowsSeen"), least("flowsAnswered")];
    return [
      ...(objection ? [objection] : []),
      ...(flowsSeen < flows ? [`only ${flowsSeen} of ${flows} flows passed ${device.title}`] : []),
      ...(flowsAnswered < flowsSeen ? [`only ${flowsAnswered} of ${flows} flows were answered through ${device.title}`] : []),
      ...(urgent ? [] : disturbances([device])),
    ];
  });
}

/** The report's figures of a lane. */
export function figuresOf(outcome: Outcome<Measurement>) {
  return {
    name: outcome.name,
    title: outcome.title,
    pps: overRounds(outcome, (one) => one.pps),
    ppsPerCpuSecond: overRounds(outcome, (one) => one.ppsPerCpuSecond),
    ppsPerDeviceSecond: overRounds(outcome, (one) => one.ppsPerDeviceSecond ?? NaN),
    gigabitsPerSecond: overRounds(outcome, (one) => one.bitsPerSecond / 1e9),
    cores: overRounds(outcome, (one) => one.cores.busy - one.cores.foreign),
    deviceCores: overRounds(outcome, (one) => one.cores.device),
    foreignCoresMax: outcome.foreignCoresMax,
    rounds: outcome.rounds,
  };
}

/** A row a device; the last column compares with the device named. */
export function laneTable(outcomes: readonly Outcome<Measurement>[], reference?: Outcome<Measurement>): string {
  const rows = outcomes.map((outcome) => {
    const figures = figuresOf(outcome);
    return [
      figures.title,
      count(figures.pps.median),
      `${count(figures.pps.min)} … ${count(figures.pps.max)}`,
      figures.gigabitsPerSecond.median.toFixed(3),
      count(figures.ppsPerCpuSecond.median),
      Number.isNaN(figures.ppsPerDeviceSecond.median) ? "–" : count(figures.ppsPerDeviceSecond.median),
      figures.cores.median.toFixed(2),
      figures.deviceCores.median.toFixed(2),
      reference ? ratioOf(outcome, reference, (one) => one.pps).median.toFixed(3) : "",
    ];
  });
  return table(["device", "pps", "spread of rounds", "Gbit/s", "pps/CPU s", "pps/its CPU s", "cores", "device's", reference ? `÷ ${reference.name}` : ""], rows);
}

export const plotRows = (outcomes: readonly Outcome<Measurement>[], value: (one: Measurement) => number): { name: string; values: number[] }[] =>
  outcomes.map((outcome) => ({ name: outcome.title, values: samplesOf(outcome, value) }));
