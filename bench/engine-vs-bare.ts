// How much of a bare AF_XDP forwarder's speed is left when the engine does firewall and SNAT? And how far is that from
// the kernel's own forwarding and from a bare XDP redirect?
//
// A round starts every device in a lane of its own and then measures them in turns, A B A B: neighbours in time are
// compared with each other, so the drift of the machine cancels out; new rounds bring new processes and new memory.

import { availableParallelism } from "node:os";
import { InvalidArgumentError } from "commander";
import { waitForQuiet } from "./machine.js";
import { benchCommand, parseCount } from "./options.js";
import { Lane, type Measurement, type TrafficOptions } from "./packets.js";
import { peers, type PeerName } from "./peers.js";
import { count, finish, newReport, progress, table } from "./report.js";
import { hasSluice } from "./sluice.js";
import { spreadOf, type Spread } from "./statistics.js";
import { becomeUrgent, prepareTools } from "./tool.js";

const RATIO_BAR = 0.9;
const CEILING_FACTOR = 1.3;
/** A measurement during which processes of other people took more than this is taken again. */
const FOREIGN_CORES_MAX = 0.1;
const REPEATS_MAX = 3;

type LaneName = PeerName | "ceiling";

interface Options {
  rounds: number;
  turns: number;
  milliseconds: number;
  flows: number;
  size: number;
  rate: number;
  peers: PeerName[];
  decoyRules: number;
  workers: number;
  patience: number;
  pin: boolean;
  urgent: boolean;
  json: boolean;
}

function parsePeers(text: string): PeerName[] {
  return text.split(",").map((name) => {
    if (!(name in peers)) throw new InvalidArgumentError(`there are: ${Object.keys(peers).join(", ")}.`);
    return name as PeerName;
  });
}

function readOptions(argv: readonly string[]): Options {
  return benchCommand("engine-vs-bare", "Packets a second through sluice (firewall + SNAT) and its peers, in interleaved turns.")
    .option("--rounds <n>", "rounds: the devices start anew in each; medians are taken over them", parseCount, 5)
    .option("--turns <n>", "turns a round: each device is measured once a turn", parseCount, 5)
    .option("--milliseconds <n>", "measured time of each device in each turn", parseCount, 1000)
    .option("--flows <n>", "UDP flows", parseCount, 1000)
    .option("--size <bytes>", "frame size without FCS", parseCount, 64)
    .option("--rate <pps>", "offered packets a second; 0: as many as the generator makes", parseCount, 0)
    .option("--peers <list>", `devices under test, of ${Object.keys(peers).join(",")}`, parsePeers, hasSluice() ? ["bare", "sluice"] : ["bare"])
    .option("--decoy-rules <n>", "firewall rules of sluice in front of the one that matches", parseCount, 0)
    .option("--workers <n>", "worker threads of sluice; the bare forwarder has one", parseCount, 1)
    .option("--patience <seconds>", "before each measurement, wait so long at most for a quiet machine", parseCount, 60)
    .option("--no-pin", "let the scheduler place generator and device, instead of one core for the generator and the rest for the device")
    .option("--urgent", "run generator and device before every other process (real-time priority): measures while others work, and slows them", false)
    .parse(argv, { from: "user" })
    .opts<Options>();
}

function trafficOf(options: Options): TrafficOptions {
  const cores = availableParallelism();
  const pinned = options.pin && cores > 1;
  return {
    flows: options.flows,
    frameBytes: options.size,
    rate: options.rate,
    milliseconds: options.milliseconds,
    generator: { urgent: options.urgent, ...(pinned ? { cpus: "0" } : {}) },
    device: { urgent: options.urgent, ...(pinned ? { cpus: cores === 2 ? "1" : `1-${cores - 1}` } : {}) },
  };
}

/** One measurement, taken again when others disturbed it. */
async function measureUndisturbed(lane: Lane, title: string, options: Options): Promise<Measurement> {
  for (let repeat = 0; ; repeat++) {
    // Urgent devices do not notice the others: the scheduler puts them first.
    if (!options.urgent) await waitForQuiet(options.patience, FOREIGN_CORES_MAX);
    const result = await lane.measure();
    const disturbed = !options.urgent && result.cores.foreign > FOREIGN_CORES_MAX;
    const again = disturbed && repeat < REPEATS_MAX;
    const remark = disturbed ? `, other processes ${result.cores.foreign.toFixed(2)}${again ? ": again" : ""}` : "";
    progress(`${title}  ${count(result.pps).padStart(9)} pps, offered ${count(result.offeredPps)}, ${(result.cores.busy - result.cores.foreign).toFixed(2)} cores${remark}`);
    if (!again) return result;
  }
}

interface RoundResult {
  measurements: Measurement[];
  detail: unknown;
}

/** Starts all lanes, measures them in turns, ends them. */
async function runRound(round: number, names: readonly LaneName[], options: Options): Promise<Map<LaneName, RoundResult>> {
  const traffic = trafficOf(options);
  const lanes = new Map<LaneName, Lane>();
  const results = new Map<LaneName, RoundResult>(names.map((name) => [name, { measurements: [], detail: undefined }]));
  try {
    for (const name of names) {
      const ofDevice = name === "ceiling" ? { ...traffic, rate: 0 } : traffic;
      lanes.set(name, await Lane.start(name === "ceiling" ? undefined : peers[name], ofDevice, { decoyRules: options.decoyRules, workers: options.workers }));
    }
    for (let turn = 1; turn <= options.turns; turn++) {
      for (const [name, lane] of lanes) {
        const title = `round ${round}/${options.rounds} turn ${turn}/${options.turns}  ${name.padEnd(8)}`;
        results.get(name)!.measurements.push(await measureUndisturbed(lane, title, options));
      }
    }
    for (const [name, lane] of lanes) results.get(name)!.detail = await lane.detail();
  } finally {
    for (const lane of lanes.values()) await lane.stop();
  }
  return results;
}

/** Median of a round's turns, spread over the rounds. */
function overRounds(rounds: readonly RoundResult[], value: (measurement: Measurement) => number): Spread {
  return spreadOf(rounds.map(({ measurements }) => spreadOf(measurements.map(value)).median));
}

/** Ratio of two lanes, turn by turn. */
function ratioOf(over: readonly RoundResult[], under: readonly RoundResult[], value: (measurement: Measurement) => number): Spread {
  return spreadOf(over.map(({ measurements }, round) => spreadOf(measurements.map((one, turn) => value(one) / value(under[round]!.measurements[turn]!))).median));
}

export async function main(argv: readonly string[]): Promise<void> {
  const options = readOptions(argv);
  prepareTools("generator", "receiver", "bare_forwarder", "bare_redirect");
  if (options.urgent) becomeUrgent();
  const report = newReport("engine-vs-bare", options);
  const names: LaneName[] = ["ceiling", ...options.peers];
  const rounds: Map<LaneName, RoundResult>[] = [];
  for (let round = 1; round <= options.rounds; round++) rounds.push(await runRound(round, names, options));

  const figures = names.map((name) => {
    const results = rounds.map((round) => round.get(name)!);
    return {
      name,
      title: name === "ceiling" ? "generator, dropped at the first hop" : peers[name].title,
      pps: overRounds(results, (one) => one.pps),
      ppsPerCpuSecond: overRounds(results, (one) => one.ppsPerCpuSecond),
      ppsPerDeviceSecond: overRounds(results, (one) => one.ppsPerDeviceSecond ?? NaN),
      cores: overRounds(results, (one) => one.cores.busy - one.cores.foreign),
      deviceCores: overRounds(results, (one) => one.cores.device),
      foreignCoresMax: Math.max(...results.flatMap(({ measurements }) => measurements.map((one) => one.cores.foreign))),
      flowsSeen: Math.min(...results.map(({ measurements }) => measurements.at(-1)!.flowsSeen)),
      rounds: results,
    };
  });
  report.devices = figures;
  const [ceiling, ...devices] = figures;
  const bare = devices.find(({ name }) => name === "bare");
  const engine = devices.find(({ name }) => name === "sluice");
  for (const device of devices) {
    if (ceiling!.pps.median < CEILING_FACTOR * device.pps.median) report.void.push(`the generator's ceiling is below ${CEILING_FACTOR} × ${device.title}`);
    if (!options.urgent && device.foreignCoresMax > FOREIGN_CORES_MAX) report.void.push(`other processes took up to ${device.foreignCoresMax.toFixed(2)} cores from ${device.title}`);
    if (device.flowsSeen < options.flows) report.void.push(`only ${device.flowsSeen} of ${options.flows} flows passed ${device.title}`);
  }
  if (bare && engine) {
    const ratio = ratioOf(engine.rounds, bare.rounds, (one) => one.pps);
    report.ratio = ratio;
    report.ratioPerCpuSecond = ratioOf(engine.rounds, bare.rounds, (one) => one.ppsPerCpuSecond);
    report.ratioPerDeviceSecond = ratioOf(engine.rounds, bare.rounds, (one) => one.ppsPerDeviceSecond ?? NaN);
    report.verdicts.push({
      what: `sluice ÷ bare AF_XDP forwarder, pps (rounds ${ratio.min.toFixed(3)} to ${ratio.max.toFixed(3)})`,
      value: ratio.median,
      bar: RATIO_BAR,
      met: ratio.median >= RATIO_BAR,
    });
  }
  const rows = figures.map((figure) => [
    figure.title,
    count(figure.pps.median),
    `${count(figure.pps.min)} … ${count(figure.pps.max)}`,
    count(figure.ppsPerCpuSecond.median),
    Number.isNaN(figure.ppsPerDeviceSecond.median) ? "–" : count(figure.ppsPerDeviceSecond.median),
    figure.cores.median.toFixed(2),
    figure.deviceCores.median.toFixed(2),
    bare ? ratioOf(figure.rounds, bare.rounds, (one) => one.pps).median.toFixed(3) : "",
  ]);
  finish(report, [table(["device", "pps", "spread of rounds", "pps/CPU s", "pps/its CPU s", "cores", "device's", "÷ bare"], rows)], options.json);
}
