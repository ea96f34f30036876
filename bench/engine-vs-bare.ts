// How much of a bare AF_XDP forwarder's speed is left when the engine does firewall and SNAT? And how far is that from
// the kernel's own forwarding and from a bare XDP redirect? Rounds of all devices in turn, medians over the rounds.

import { availableParallelism } from "node:os";
import { InvalidArgumentError } from "commander";
import { waitForQuiet } from "./machine.js";
import { benchCommand, parseCount } from "./options.js";
import { measureCeiling, measurePeer, type Measurement, type TrafficOptions } from "./packets.js";
import { peers, type PeerName } from "./peers.js";
import { count, finish, newReport, progress, table } from "./report.js";
import { hasSluice } from "./sluice.js";
import { spreadOf } from "./statistics.js";
import { prepareTools } from "./tool.js";
import { makeTopology } from "./topology.js";

const RATIO_BAR = 0.9;
const CEILING_FACTOR = 1.3;
/** A round in which processes of other people took more than this is measured again. */
const FOREIGN_CORES_MAX = 0.1;
const REPEATS_MAX = 3;

interface Options {
  rounds: number;
  seconds: number;
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
  return benchCommand("engine-vs-bare", "Packets a second through sluice (firewall + SNAT) and its peers, in interleaved rounds.")
    .option("--rounds <n>", "rounds; medians are taken over them", parseCount, 5)
    .option("--seconds <n>", "measured seconds of each device in each round", parseCount, 5)
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

export async function main(argv: readonly string[]): Promise<void> {
  const options = readOptions(argv);
  prepareTools("generator", "receiver", "bare_forwarder", "bare_redirect");
  const cores = availableParallelism();
  const pinned = options.pin && cores > 1;
  const traffic: TrafficOptions = {
    flows: options.flows,
    frameBytes: options.size,
    rate: options.rate,
    seconds: options.seconds,
    generator: { urgent: options.urgent, ...(pinned ? { cpus: "0" } : {}) },
    device: { urgent: options.urgent, ...(pinned ? { cpus: cores === 2 ? "1" : `1-${cores - 1}` } : {}) },
  };
  const report = newReport("engine-vs-bare", options);
  const rounds = new Map<PeerName | "ceiling", Measurement[]>([["ceiling", []], ...options.peers.map((name) => [name, []] as [PeerName, Measurement[]])]);
  const bench = makeTopology();
  try {
    for (let round = 1; round <= options.rounds; round++) {
      for (const [name, results] of rounds) {
        for (let repeat = 0; ; repeat++) {
          if (!options.urgent) await waitForQuiet(options.patience, FOREIGN_CORES_MAX);
          const result = name === "ceiling" ? await measureCeiling(bench, traffic) : await measurePeer(bench, peers[name], traffic, { decoyRules: options.decoyRules, workers: options.workers });
          // Urgent devices do not notice the others: the scheduler puts them first.
          const noisy = !options.urgent && result.cores.foreign > FOREIGN_CORES_MAX;
          progress(
            `round ${round}/${options.rounds}  ${name.padEnd(8)}  ${count(result.pps).padStart(9)} pps, offered ${count(result.offeredPps)}, ` +
              `${result.cores.busy.toFixed(2)} cores${noisy ? `, ${result.cores.foreign.toFixed(2)} of them other processes'${repeat < REPEATS_MAX ? ": again" : ""}` : ""}`,
          );
          if (noisy && repeat < REPEATS_MAX) continue;
          results.push(result);
          break;
        }
      }
    }
  } finally {
    await bench.lab.destroy();
  }

  const figures = [...rounds].map(([name, results]) => ({
    name,
    title: name === "ceiling" ? "generator, dropped at the first hop" : peers[name].title,
    pps: spreadOf(results.map((result) => result.pps)),
    ppsPerCpuSecond: spreadOf(results.map((result) => result.ppsPerCpuSecond)),
    ppsPerDeviceSecond: spreadOf(results.map((result) => result.ppsPerDeviceSecond ?? NaN)),
    cores: spreadOf(results.map((result) => result.cores.busy)),
    deviceCores: spreadOf(results.map((result) => result.cores.device)),
    foreignCores: spreadOf(results.map((result) => result.cores.foreign)),
    flowsSeen: Math.min(...results.map((result) => result.flowsSeen)),
    rounds: results,
  }));
  report.devices = figures;
  const ceiling = figures[0]!;
  const bare = figures.find((figure) => figure.name === "bare");
  const engine = figures.find((figure) => figure.name === "sluice");
  for (const figure of figures.slice(1)) {
    if (ceiling.pps.median < CEILING_FACTOR * figure.pps.median) report.void.push(`the generator's ceiling is below ${CEILING_FACTOR} × ${figure.title}`);
    if (!options.urgent && figure.foreignCores.max > FOREIGN_CORES_MAX) report.void.push(`other processes took up to ${figure.foreignCores.max.toFixed(2)} cores from ${figure.title}`);
    if (figure.flowsSeen < options.flows) report.void.push(`only ${figure.flowsSeen} of ${options.flows} flows passed ${figure.title}`);
  }
  if (bare && engine) {
    // Each round's ratio, so that slow drift of the machine cancels out.
    const ratio = spreadOf(engine.rounds.map((result, i) => result.pps / bare.rounds[i]!.pps));
    report.ratio = ratio;
    report.ratioPerCpuSecond = spreadOf(engine.rounds.map((result, i) => result.ppsPerCpuSecond / bare.rounds[i]!.ppsPerCpuSecond));
    report.ratioPerDeviceSecond = spreadOf(engine.rounds.map((result, i) => (result.ppsPerDeviceSecond ?? NaN) / (bare.rounds[i]!.ppsPerDeviceSecond ?? NaN)));
    report.verdicts.push({ what: `sluice ÷ bare AF_XDP forwarder, pps (${ratio.min.toFixed(3)} to ${ratio.max.toFixed(3)})`, value: ratio.median, bar: RATIO_BAR, met: ratio.median >= RATIO_BAR });
  }
  const rows = figures.map((figure) => [
    figure.title,
    count(figure.pps.median),
    `${count(figure.pps.min)} … ${count(figure.pps.max)}`,
    count(figure.ppsPerCpuSecond.median),
    Number.isNaN(figure.ppsPerDeviceSecond.median) ? "–" : count(figure.ppsPerDeviceSecond.median),
    figure.cores.median.toFixed(2),
    figure.deviceCores.median.toFixed(2),
    bare ? (figure.pps.median / bare.pps.median).toFixed(3) : "",
  ]);
  finish(report, [table(["device", "pps", "spread", "pps/CPU s", "pps/its CPU s", "cores", "device's", "÷ bare"], rows)], options.json);
}
