// Does speed depend on the number of rules? Established flows at 10, 10,000 and 100,000 rules; and new flows a second at
// 10,000 rules against nftables with the same rules one after the other, and as one verdict map.

import { ceilingContender, figuresOf, laneCommand, laneContender, laneTable, objectionsTo, plotRows, prepareLanes, trafficOf, type LaneCommandOptions } from "./lanes.js";
import { listOf, parseCount, parseCounts } from "./options.js";
import type { Measurement, TrafficOptions } from "./packets.js";
import { peers, type DeviceOptions } from "./peers.js";
import { atLeast, count, finish, newReport, progress } from "./report.js";
import { ceilingObjection } from "./statistics.js";
import { disturbances, measureInTurns, overRounds, ratioOf } from "./turns.js";

const SIZES = [10, 10_000, 100_000];
/** Established flows at so many rules ÷ at the fewest: from so many rules on, bar and aim. */
type Bars = readonly [bar: number, aim: number];
const SIZE_BARS: readonly { rules: number; bars: Bars }[] = [
  { rules: 100_000, bars: [0.95, 0.98] },
  { rules: 1000, bars: [0.97, 0.99] },
];
const NEW_FLOW_BARS: Record<"kernel-linear" | "kernel", Bars> = { "kernel-linear": [10, 20], kernel: [1, 2] };
/** Addresses on either side of new flows: ports change after so many, and no flow comes twice in a measurement. */
const NEW_FLOW_ADDRESSES = 60_000;
const NEW_FLOWS = 2 ** 31;
/** Room for what one measurement opens, which is kept short for that. */
const SESSIONS = 2 * 1024 * 1024;
const NEW_FLOW_MS_MAX = 1000;
const PARTS = ["established", "new"] as const;

interface Options extends LaneCommandOptions {
  sizes: number[];
  newFlowRules: number;
  parts: (typeof PARTS)[number][];
}

const pps = (one: Measurement): number => one.pps;

export async function main(argv: readonly string[]): Promise<void> {
  const options = laneCommand("rules", "Established flows a second at different numbers of rules, and new flows a second against nftables, in turns.")
    .option("--sizes <list>", "numbers of rules for established flows", parseCounts, SIZES)
    .option("--new-flow-rules <n>", "number of rules for new flows", parseCount, 10_000)
    .option("--parts <list>", `of ${PARTS.join(",")}`, listOf(PARTS), [...PARTS])
    .parse(argv, { from: "user" })
    .opts<Options>();
  prepareLanes(options);
  const report = newReport("rules", options);
  const traffic = trafficOf(options);
  const tables: string[] = [];
  const panels: { title: string; format: typeof count; rows: { name: string; values: number[] }[] }[] = [];

  if (options.parts.includes("established")) {
    progress("established flows");
    const contenders = options.sizes.map((rules) => laneContender(`sluice-${rules}`, `sluice, ${rules} rules`, "sluice", traffic, { rules, workers: options.workers }));
    const outcomes = await measureInTurns([ceilingContender(traffic), ...contenders], options);
    const [least, ...others] = outcomes.slice(1);
    for (const [at, outcome] of others.entries()) {
      const bars = SIZE_BARS.find(({ rules }) => options.sizes[at + 1]! >= rules)?.bars;
      if (bars) report.verdicts.push(atLeast(`established: ${outcome.title} ÷ ${least!.title}`, ratioOf(outcome, least!, pps), ...bars));
    }
    report.established = outcomes.map(figuresOf);
    report.void.push(...objectionsTo(outcomes, options.flows, options.urgent));
    tables.push(laneTable(outcomes, least) + "\n");
    panels.push({ title: "established flows: packets a second", format: count, rows: plotRows(outcomes.slice(1), pps) });
  }

  if (options.parts.includes("new")) {
    progress("new flows");
    const rules = options.newFlowRules;
    const opening: TrafficOptions = { ...traffic, flows: NEW_FLOWS, sources: NEW_FLOW_ADDRESSES, destinations: NEW_FLOW_ADDRESSES, newFlows: true, milliseconds: Math.min(traffic.milliseconds, NEW_FLOW_MS_MAX) };
    const device: DeviceOptions = { rules, workers: options.workers, sessions: SESSIONS, largePool: true };
    const names = ["sluice", "kernel", "kernel-linear"] as const;
    const contenders = names.map((name) => laneContender(name, `${peers[name].title}, ${rules} rules`, name, opening, device));
    // One turn: in another the same flows would come again, and be known.
    const outcomes = await measureInTurns([ceilingContender(opening), ...contenders], { ...options, turns: 1 });
    const [ceiling, sluice, ...kernels] = outcomes;
    for (const kernel of kernels) {
      const bars = NEW_FLOW_BARS[kernel.name as keyof typeof NEW_FLOW_BARS];
      report.verdicts.push(atLeast(`new flows a second: sluice ÷ ${kernel.title}`, ratioOf(sluice!, kernel, pps), ...bars));
    }
    const ceilingPps = overRounds(ceiling!, pps).median;
    report.newFlows = outcomes.map(figuresOf);
    report.void.push(...[sluice!, ...kernels].flatMap(({ title, ...outcome }) => ceilingObjection(title, ceilingPps, overRounds({ title, ...outcome }, pps).median) ?? []));
    if (!options.urgent) report.void.push(...disturbances([sluice!, ...kernels]));
    tables.push(laneTable(outcomes, kernels[0]).replace(/^device {3}/, "new flows"));
    panels.push({ title: `new flows a second, ${rules} rules`, format: count, rows: plotRows([sluice!, ...kernels], pps) });
  }
  finish(report, tables, { ...options, plot: { title: "Speed and the number of rules", panels } });
}
