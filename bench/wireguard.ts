// How much does a WireGuard tunnel between two gateways carry, and at what price, against Debian's wireguard-go in the same
// place? UDP: the largest packets that the tunnel takes, from the generator at a steady rate, counted behind the far gateway.
// TCP: iperf3 between the end hosts.
//
// The figure of UDP is packets a CPU-second of the gateways: what all cores were busy, less strangers, less what the same
// packets at the same rate cost when they are dropped at the first hop (the ends' share). So softirq work that the kernel does
// for a gateway on the sender's time counts as the gateway's.

import { laneTable, objectionsTo, plotRows, figuresOf, describeLane, type LaneDetail } from "./lanes.js";
import { listOf, parseCount, placementsOf, turnCommand, type TurnCommandOptions } from "./options.js";
import { Lane, type Measurement, type TrafficOptions } from "./packets.js";
import type { Peer } from "./peers.js";
import { atLeast, count, finish, newReport, table } from "./report.js";
import { spreadOf, type Spread } from "./statistics.js";
import { becomeUrgent, prepareTools } from "./tool.js";
import { tcpContender, type Measured } from "./tcp.js";
import { gateways, GATEWAY_NAMES, makeTunnelTopology, TUNNEL_FRAME_BYTES, type GatewayName } from "./tunnel.js";
import { disturbances, measureInTurns, overRounds, ratioOf, samplesOf, type Contender, type Outcome } from "./turns.js";

const BARS = { udpPerCpuSecond: [3, 5], tcp: [2.5, 4] } as const;
const PARTS = ["udp", "tcp"] as const;
type Part = (typeof PARTS)[number];
/** Of the offered packets, so many must come through where the figure is the price of a packet, not the most there are. */
const THROUGH_MIN = 0.99;

interface Options extends TurnCommandOptions {
  parts: Part[];
  peers: GatewayName[];
  rate: number;
  flows: number;
  size: number;
  streams: number;
  workers: number;
}

function laneOf(name: string, title: string, peer: Peer | undefined, traffic: TrafficOptions, workers: number): Contender<Measurement> {
  return {
    name,
    title,
    async start() {
      const lane = await Lane.start(peer, traffic, { workers });
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

/** Packets a CPU-second of the gateways, turn by turn: `ends` are the same turns without gateways. */
function perGatewaySecond(gateway: Outcome<Measurement>, ends: Outcome<Measurement>): number[][] {
  const cores = (one: Measurement): number => one.cores.busy - one.cores.foreign;
  return gateway.rounds.map(({ measurements }, round) => measurements.map((one, turn) => one.pps / (cores(one) - cores(ends.rounds[round]!.measurements[turn]!))));
}
const overTurns = (rounds: number[][]): Spread => spreadOf(rounds.map((turns) => spreadOf(turns).median));

async function udp(options: Options, report: ReturnType<typeof newReport>) {
  const traffic: TrafficOptions = { flows: options.flows, frameBytes: options.size, rate: options.rate, topology: () => makeTunnelTopology(), milliseconds: options.seconds * 1000, ...placementsOf(options) };
  const contenders = [
    laneOf("ceiling", "generator, dropped at the first hop", undefined, { ...traffic, rate: 0 }, 1),
    laneOf("ends", "the same rate, dropped at the first hop", undefined, traffic, 1),
    ...options.peers.map((name) => laneOf(name, gateways[name].title, gateways[name], traffic, options.workers)),
  ];
  const outcomes = await measureInTurns(contenders, options);
  const [ceiling, ends, ...pairs] = outcomes as [Outcome<Measurement>, Outcome<Measurement>, ...Outcome<Measurement>[]];
  report.void.push(...objectionsTo([ceiling, ...pairs], options.flows, options.urgent));
  const through = pairs.map((pair) => overRounds(pair, (one) => one.pps / one.offeredPps));
  pairs.forEach((pair, at) => {
    if (through[at]!.median < THROUGH_MIN) report.void.push(`${pair.title} let ${(through[at]!.median * 100).toFixed(1)} % of the packets through: choose a --rate that all carry`);
  });
  const prices = pairs.map((pair) => perGatewaySecond(pair, ends));
  const sluice = pairs.findIndex(({ name }) => name === "sluice");
  const other = pairs.findIndex(({ name }) => name === "wireguard-go");
  if (sluice >= 0 && other >= 0) {
    const ratio = overTurns(prices[sluice]!.map((turns, round) => turns.map((value, turn) => value / prices[other]![round]![turn]!)));
    const own = ratioOf(pairs[sluice]!, pairs[other]!, (one) => one.ppsPerDeviceSecond ?? NaN);
    report.ratios = { ...(report.ratios as object), udpPerCpuSecond: ratio, udpPerProcessSecond: own };
    report.verdicts.push(atLeast(`UDP, ${options.size - 14}-byte packets a CPU-second of the gateways: sluice ÷ wireguard-go`, ratio, ...BARS.udpPerCpuSecond));
  }
  report.udp = outcomes.map((outcome) => ({ ...figuresOf(outcome), ...(pairs.includes(outcome) ? { perGatewaySecond: overTurns(prices[pairs.indexOf(outcome)]!) } : {}) }));
  const rows = pairs.map((pair, at) => {
    const price = overTurns(prices[at]!);
    return [pair.title, count(price.median), `${count(price.min)} … ${count(price.max)}`, `${(through[at]!.median * 100).toFixed(2)} %`];
  });
  return {
    tables: [laneTable([ends, ...pairs]) + "\n", table(["UDP", "packets/CPU s of the gateways", "spread of rounds", "came through"], rows) + "\n"],
    panels: [{ title: `packets a CPU-second of the gateways, ${count(options.rate)} packets/s of ${options.size - 14} bytes`, format: count, rows: pairs.map((pair, at) => ({ name: pair.title, values: prices[at]!.flat() })) }],
    rows: plotRows(pairs, (one) => one.pps),
  };
}

async function tcp(options: Options, report: ReturnType<typeof newReport>) {
  const settings = { ...options, workloads: ["bulk" as const], rules: 0 };
  const outcomes = await measureInTurns(options.peers.map((name) => tcpContender(name, gateways[name], settings, makeTunnelTopology)), options);
  const gigabits = (one: Measured): number => one.values.bulk ?? NaN;
  if (!options.urgent) report.void.push(...disturbances(outcomes));
  report.tcp = outcomes.map((outcome) => ({
    ...{ name: outcome.name, title: outcome.title, foreignCoresMax: outcome.foreignCoresMax, rounds: outcome.rounds },
    gigabitsPerSecond: overRounds(outcome, gigabits),
    cores: overRounds(outcome, (one) => one.cores.bulk ?? NaN),
  }));
  const [sluice, other] = (["sluice", "wireguard-go"] as const).map((wanted) => outcomes.find(({ name }) => name === wanted));
  if (sluice && other) {
    const ratio = ratioOf(sluice, other, gigabits);
    report.ratios = { ...(report.ratios as object), tcp: ratio };
    report.verdicts.push(atLeast("TCP, iperf3: sluice ÷ wireguard-go", ratio, ...BARS.tcp));
  }
  const rows = outcomes.map((outcome) => {
    const { median, min, max } = overRounds(outcome, gigabits);
    return [outcome.title, median.toFixed(3), `${min.toFixed(3)} … ${max.toFixed(3)}`, overRounds(outcome, (one) => one.cores.bulk ?? NaN).median.toFixed(2)];
  });
  return {
    tables: [table(["TCP, iperf3", "Gbit/s", "spread of rounds", "cores"], rows) + "\n"],
    panels: [{ title: "TCP, iperf3, Gbit/s", format: (value: number) => `${value.toFixed(2)} G`, rows: outcomes.map((outcome) => ({ name: outcome.title, values: samplesOf(outcome, gigabits) })) }],
  };
}

export async function main(argv: readonly string[]): Promise<void> {
  const options = turnCommand("wireguard", "A WireGuard tunnel between two gateways: sluice against Debian's wireguard-go, in turns.", { turns: 2, seconds: 3 })
    .option("--parts <list>", `of ${PARTS.join(",")}`, listOf(PARTS), [...PARTS])
    .option("--peers <list>", `gateways, of ${GATEWAY_NAMES.join(",")}`, listOf(GATEWAY_NAMES), [...GATEWAY_NAMES])
    .option("--rate <n>", "UDP: packets a second offered; all gateways must carry them", parseCount, 20_000)
    .option("--flows <n>", "UDP flows", parseCount, 100)
    .option("--size <bytes>", "UDP: frame size without FCS", parseCount, TUNNEL_FRAME_BYTES)
    .option("--streams <n>", "parallel TCP connections", parseCount, 1)
    .option("--workers <n>", "worker threads of each sluice", parseCount, 1)
    .parse(argv, { from: "user" })
    .opts<Options>();
  prepareTools("generator", "receiver", "tcp_rr");
  if (options.urgent) becomeUrgent();
  const report = newReport("wireguard", options);
  const parts = { udp, tcp };
  const results = [];
  for (const part of options.parts) results.push(await parts[part](options, report));
  finish(report, results.flatMap(({ tables }) => tables), {
    ...options,
    plot: { title: "WireGuard between two gateways", panels: results.flatMap(({ panels }) => panels) },
  });
}
