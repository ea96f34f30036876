// How much does a WireGuard tunnel between two gateways carry, and at what price, against Debian's wireguard-go in the same
// place? UDP: the largest packets that the tunnel takes, from the generator at steady rates, counted behind the far gateway.
// TCP: iperf3 between the end hosts.
//
// The figure of UDP is packets a CPU-second of the gateways: what all cores were busy, less strangers, less what the same
// packets at the same rate cost when they are dropped at the first hop (the ends' share). So softirq work that the kernel does
// for a gateway on the sender's time counts as the gateway's. What a gateway spends on packets that it then loses counts, too.
//
// The bar is for each at the rate that suits it best: where it does most with a CPU-second. The ratio at the same rates is in the report, for
// information: at rates that leave a worker idle in between, it shows what sleeping and waking, or waiting awake, costs (docs/internals/waiting.md).

import { listOf, parseCount, parseCounts, placementsOf, turnCommand, type TurnCommandOptions } from "./options.js";
import { Lane, type Measurement, type TrafficOptions } from "./packets.js";
import type { LaneDetail } from "./lanes.js";
import type { Peer } from "./peers.js";
import { atLeast, count, finish, newReport, table } from "./report.js";
import { ceilingObjection, spreadOf, type Spread } from "./statistics.js";
import { becomeUrgent, prepareTools } from "./tool.js";
import { tcpContender, type Measured } from "./tcp.js";
import { gateways, GATEWAY_NAMES, makeTunnelTopology, TUNNEL_FRAME_BYTES, type GatewayName } from "./tunnel.js";
import { disturbances, measureInTurns, overRounds, ratioOf, samplesOf, type Contender, type Outcome } from "./turns.js";

const BARS = { udpPerCpuSecond: [3, 5], tcp: [2.5, 4] } as const;
const PARTS = ["udp", "tcp"] as const;
type Part = (typeof PARTS)[number];

interface Options extends TurnCommandOptions {
  parts: Part[];
  peers: GatewayName[];
  rates: number[];
  flows: number;
  size: number;
  streams: number;
  workers: number;
}

/** One turn: a measurement at each rate. */
type Loads = Measurement[];
const busyCores = ({ cores }: Measurement): number => cores.busy - cores.foreign;
const through = ({ pps, offeredPps }: Measurement): number => pps / offeredPps;

function contenderOf(name: string, title: string, peer: Peer | undefined, traffic: TrafficOptions, rates: readonly number[], workers: number): Contender<Loads> {
  return {
    name,
    title,
    async start() {
      const lane = await Lane.start(peer, traffic, { workers });
      return {
        async measure() {
          const loads: Loads = [];
          for (const rate of rates) loads.push(await lane.measure(rate));
          return loads;
        },
        detail: async (): Promise<LaneDetail> => ({ flowsSeen: lane.flowsSeen, flowsAnswered: lane.flowsAnswered, device: await lane.detail() }),
        stop: () => lane.stop(),
      };
    },
    describe: (loads) => loads.map((one) => `${count(one.pps)} of ${count(one.offeredPps)} pps at ${busyCores(one).toFixed(2)} cores`).join(", "),
    foreignCores: (loads) => Math.max(...loads.map(({ cores }) => cores.foreign)),
  };
}

type Report = ReturnType<typeof newReport>;

async function udp(options: Options, report: Report) {
  const { rates, flows, size } = options;
  const traffic: TrafficOptions = { flows, frameBytes: size, rate: 0, topology: () => makeTunnelTopology(), milliseconds: options.seconds * 1000, ...placementsOf(options) };
  const outcomes = await measureInTurns(
    [
      contenderOf("ceiling", "generator, dropped at the first hop", undefined, traffic, [0], 1),
      contenderOf("ends", "the same rates, dropped at the first hop", undefined, traffic, rates, 1),
      ...options.peers.map((name) => contenderOf(name, gateways[name].title, gateways[name], traffic, rates, options.workers)),
    ],
    options,
  );
  const [ceiling, ends, ...pairs] = outcomes as [Outcome<Loads>, Outcome<Loads>, ...Outcome<Loads>[]];

  /** Packets a CPU-second of the gateways at a rate, in a turn. */
  const price = (pair: Outcome<Loads>, round: number, turn: number, at: number): number => {
    const [one, without] = [pair, ends].map((outcome) => outcome.rounds[round]!.measurements[turn]![at]!) as [Measurement, Measurement];
    return one.pps / (busyCores(one) - busyCores(without));
  };
  /** At the rate that suits it best. */
  const best = (pair: Outcome<Loads>, round: number, turn: number): number => Math.max(...rates.map((_, at) => price(pair, round, turn, at)));
  const over = (value: (round: number, turn: number) => number): Spread => spreadOf(pairs[0]!.rounds.map(({ measurements }, round) => spreadOf(measurements.map((_, turn) => value(round, turn))).median));

  const ceilingPps = overRounds(ceiling, (loads) => loads[0]!.pps).median;
  for (const pair of pairs) {
    const most = Math.max(...rates.map((_, at) => overRounds(pair, (loads) => loads[at]!.pps).median));
    const objection = ceilingObjection(pair.title, ceilingPps, most);
    if (objection) report.void.push(objection);
    const least = Math.min(...pair.rounds.map(({ detail }) => (detail as LaneDetail).flowsAnswered));
    if (least < flows) report.void.push(`only ${least} of ${flows} flows were answered through ${pair.title}`);
  }
  if (!options.urgent) report.void.push(...disturbances(outcomes));

  const [sluice, other] = (["sluice", "wireguard-go"] as const).map((wanted) => pairs.find(({ name }) => name === wanted));
  if (sluice && other) {
    const atBest = over((round, turn) => best(sluice, round, turn) / best(other, round, turn));
    const atSame = rates.map((rate, at) => ({ rate, ...over((round, turn) => price(sluice, round, turn, at) / price(other, round, turn, at)) }));
    const most = ratioOf(sluice, other, (loads) => Math.max(...loads.map(({ pps }) => pps)));
    report.ratios = { ...(report.ratios as object), udpPerCpuSecond: atBest, udpPerCpuSecondAtSameRate: atSame, udpMost: most };
    report.verdicts.push(atLeast(`UDP, ${size - 14}-byte packets a CPU-second of the gateways, each at its best: sluice ÷ wireguard-go`, atBest, ...BARS.udpPerCpuSecond));
  }
  report.udp = outcomes.map((outcome) => ({
    ...{ name: outcome.name, title: outcome.title, foreignCoresMax: outcome.foreignCoresMax, rounds: outcome.rounds },
    ...(pairs.includes(outcome) ? { perGatewaySecond: rates.map((rate, at) => ({ rate, ...over((round, turn) => price(outcome, round, turn, at)) })) } : {}),
  }));
  const rows = pairs.flatMap((pair) =>
    rates.map((rate, at) => {
      const { median, min, max } = over((round, turn) => price(pair, round, turn, at));
      const figures = overRounds(pair, (loads) => loads[at]!.pps);
      return [
        `${pair.title}, ${count(rate)}/s offered`,
        count(figures.median),
        `${(overRounds(pair, (loads) => through(loads[at]!)).median * 100).toFixed(2)} %`,
        overRounds(pair, (loads) => loads[at]!.bitsPerSecond / 1e9).median.toFixed(3),
        count(median),
        `${count(min)} … ${count(max)}`,
        overRounds(pair, (loads) => busyCores(loads[at]!)).median.toFixed(2),
        overRounds(pair, (loads) => loads[at]!.cores.device).median.toFixed(2),
      ];
    }),
  );
  return {
    tables: [table(["UDP", "pps", "through", "Gbit/s", "packets/CPU s of the gateways", "spread of rounds", "cores", "processes'"], rows) + "\n"],
    panels: rates.map((rate, at) => ({
      title: `${count(rate)} packets/s of ${size - 14} bytes offered: packets a CPU-second of the gateways`,
      format: count,
      rows: pairs.map((pair) => ({ name: pair.title, values: pair.rounds.flatMap(({ measurements }, round) => measurements.map((_, turn) => price(pair, round, turn, at))) })),
    })),
  };
}

async function tcp(options: Options, report: Report) {
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
  const options = turnCommand("wireguard", "A WireGuard tunnel between two gateways: sluice against Debian's wireguard-go, in turns.", { turns: 2, seconds: 2 })
    .option("--parts <list>", `of ${PARTS.join(",")}`, listOf(PARTS), [...PARTS])
    .option("--peers <list>", `gateways, of ${GATEWAY_NAMES.join(",")}`, listOf(GATEWAY_NAMES), [...GATEWAY_NAMES])
    .option("--rates <list>", "UDP: packets a second offered, one after the other", parseCounts, [25_000, 50_000, 100_000, 200_000])
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
