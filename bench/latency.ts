// How long does a packet take through established flows at a fixed rate: p50, p99 and p99.9, against the kernel's
// forwarding? Timestamps travel in the payload; frames leave evenly spaced, so that no burst of the generator's is measured.

import { laneCommand, laneContender, objectionsTo, plotRows, prepareLanes, trafficOf, withPeers, ceilingContender, figuresOf, type ForwardingOptions } from "./lanes.js";
import { parseCount } from "./options.js";
import type { Measurement } from "./packets.js";
import { peers } from "./peers.js";
import { atMost, count, finish, newReport, progress, table } from "./report.js";
import { measureInTurns, overRounds, ratioOf } from "./turns.js";

const BAR = 1;
const AIM = 0.7;
/** Of the kernel's most, when no rate is given. */
const LOAD = 0.5;
/** Turns from which the kernel's most is taken. */
const MAXIMUM_TURNS = 3;
const QUANTILES = ["p50", "p99", "p999"] as const;
/** Fewer of the offered packets at the far end: the device was overloaded, and its quantiles are those of its queues. */
const ARRIVED_MIN = 0.99;

interface Options extends ForwardingOptions {
  rate?: number;
}

const quantile = (name: (typeof QUANTILES)[number]) => (one: Measurement): number => one.latencyUs?.[name] || NaN;
const microseconds = (value: number): string => `${value.toFixed(value < 10 ? 2 : 1)} µs`;

export async function main(argv: readonly string[]): Promise<void> {
  const command = laneCommand("latency", "Latency of established 64-byte UDP flows at a fixed rate through sluice (firewall + SNAT) and its peers, in turns.")
    .option("--rate <pps>", `packets a second (${LOAD} × the most that the kernel forwards, measured first)`, parseCount);
  const options = withPeers(command, ["sluice", "kernel"], 1000).parse(argv, { from: "user" }).opts<Options>();
  prepareLanes(options);
  const report = newReport("latency", options);
  const device = { rules: options.rules, workers: options.workers };
  const traffic = trafficOf(options);

  const ceiling = ceilingContender(traffic);
  let rate = options.rate;
  if (!rate) {
    progress("the kernel's most first");
    const [, kernel] = await measureInTurns([ceiling, laneContender("kernel", peers.kernel.title, "kernel", traffic, device)], { ...options, rounds: 1, turns: MAXIMUM_TURNS });
    report.kernelMost = overRounds(kernel!, (one) => one.pps);
    rate = Math.round(LOAD * overRounds(kernel!, (one) => one.pps).median);
  }
  report.rate = rate;
  const steady = { ...traffic, rate, stamped: true };
  const outcomes = await measureInTurns([ceiling, ...options.peers.map((name) => laneContender(name, peers[name].title, name, steady, device))], options);
  const devices = outcomes.slice(1);
  report.devices = devices.map((outcome) => ({ ...figuresOf(outcome), latencyUs: Object.fromEntries(QUANTILES.map((name) => [name, overRounds(outcome, quantile(name))])) }));
  report.void.push(...objectionsTo(outcomes, options.flows, options.urgent));
  for (const outcome of devices) {
    const pps = overRounds(outcome, (one) => one.pps).median;
    if (pps < ARRIVED_MIN * rate) report.void.push(`only ${count(pps)} of ${count(rate)} packets a second came through ${outcome.title}`);
  }
  const kernel = devices.find(({ name }) => name === "kernel");
  const sluice = devices.find(({ name }) => name === "sluice");
  if (kernel && sluice) {
    report.ratios = Object.fromEntries(QUANTILES.map((name) => [name, ratioOf(sluice, kernel, quantile(name))]));
    report.verdicts.push(atMost(`sluice ÷ kernel nftables, p99 at ${count(rate)} pps`, ratioOf(sluice, kernel, quantile("p99")), BAR, AIM));
  }
  const rows = devices.map((outcome) => {
    const cells = QUANTILES.map((name) => overRounds(outcome, quantile(name))).flatMap(({ median, min, max }) => [microseconds(median), `${min.toFixed(1)} … ${max.toFixed(1)}`]);
    return [outcome.title, count(overRounds(outcome, (one) => one.pps).median), ...cells];
  });
  finish(report, [table(["device", "pps", "p50", "rounds", "p99", "rounds", "p99.9", "rounds"], rows)], {
    ...options,
    plot: {
      title: `Latency: IPv${options.family} UDP at ${count(rate)} packets a second, ${count(options.flows)} flows, ${options.rules} rules`,
      panels: QUANTILES.map((name) => ({ title: `${name === "p999" ? "p99.9" : name} of each measurement`, format: microseconds, rows: plotRows(devices, quantile(name)) })),
    },
  });
}
