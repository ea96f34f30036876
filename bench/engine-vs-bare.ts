// How much of a bare AF_XDP forwarder's speed is left when the engine does firewall and SNAT? The flows stay in the engine
// (`offload: never`): what XDP forwards by itself is the forwarding bench's.

import { figuresOf, laneCommand, laneTable, measurePeers, objectionsTo, plotRows, prepareLanes, withPeers, type ForwardingOptions } from "./lanes.js";
import { atLeast, count, finish, newReport } from "./report.js";
import { ratioOf } from "./turns.js";

const RATIO_BAR = 0.9;

export async function main(argv: readonly string[]): Promise<void> {
  const command = laneCommand("engine-vs-bare", "Packets a second through sluice's engine (firewall + SNAT) and a bare AF_XDP forwarder, in turns.", { turns: 5, seconds: 1 });
  const options = withPeers(command, ["bare", "sluice"], 0).parse(argv, { from: "user" }).opts<ForwardingOptions>();
  prepareLanes(options);
  const report = newReport("engine-vs-bare", options);
  const outcomes = await measurePeers(options, { rules: options.rules, workers: options.workers, offload: "never" });
  const bare = outcomes.find(({ name }) => name === "bare");
  const engine = outcomes.find(({ name }) => name === "sluice");
  report.devices = outcomes.map(figuresOf);
  report.void.push(...objectionsTo(outcomes, options.flows, options.urgent));
  if (bare && engine) {
    report.ratioPerCpuSecond = ratioOf(engine, bare, (one) => one.ppsPerCpuSecond);
    report.ratioPerDeviceSecond = ratioOf(engine, bare, (one) => one.ppsPerDeviceSecond ?? NaN);
    report.verdicts.push(atLeast("sluice's engine ÷ bare AF_XDP forwarder, pps", ratioOf(engine, bare, (one) => one.pps), RATIO_BAR));
  }
  const panels = [{ title: "packets a second", format: count, rows: plotRows(outcomes.slice(1), (one) => one.pps) }];
  finish(report, [laneTable(outcomes, bare)], { ...options, plot: { title: "The engine and a bare AF_XDP forwarder", panels } });
}
