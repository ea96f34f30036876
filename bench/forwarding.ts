// How many packets a second do established flows make, with firewall, SNAT and a thousand rules, against the kernel's
// forwarding, a bare AF_XDP forwarder and a bare XDP redirect of the same packets?

import { figuresOf, laneCommand, laneTable, measurePeers, objectionsTo, plotRows, prepareLanes, withPeers, type ForwardingOptions } from "./lanes.js";
import { atLeast, count, finish, newReport } from "./report.js";
import { ratioOf } from "./turns.js";

/** Flows from which on the bar for many flows counts. */
const MANY_FLOWS = 100_000;
const BARS = {
  kernel: { few: [3, 4], many: [2.5, 4] },
  redirect: [0.85, 0.95],
  barePerCpuSecond: [4, 5.5],
} as const;

export async function main(argv: readonly string[]): Promise<void> {
  const command = laneCommand("forwarding", "Packets a second of established 64-byte UDP flows through sluice (firewall + SNAT) and its peers, in turns.");
  const options = withPeers(command, ["sluice", "kernel", "bare", "redirect"], 1000).parse(argv, { from: "user" }).opts<ForwardingOptions>();
  prepareLanes(options);
  const report = newReport("forwarding", options);
  const outcomes = await measurePeers(options, { rules: options.rules, workers: options.workers });
  const named = Object.fromEntries(outcomes.map((outcome) => [outcome.name, outcome]));
  report.devices = outcomes.map(figuresOf);
  report.void.push(...objectionsTo(outcomes, options.flows, options.urgent));
  const { sluice, kernel, bare, redirect } = named;
  const ratios: Record<string, unknown> = {};
  if (sluice) {
    for (const peer of outcomes.slice(1).filter((outcome) => outcome !== sluice)) {
      ratios[peer.name] = { pps: ratioOf(sluice, peer, (one) => one.pps), ppsPerCpuSecond: ratioOf(sluice, peer, (one) => one.ppsPerCpuSecond) };
    }
    const with_ = `${count(options.flows)} flows, ${options.rules} rules`;
    const [bar, aim] = BARS.kernel[options.flows >= MANY_FLOWS ? "many" : "few"];
    if (kernel) report.verdicts.push(atLeast(`sluice ÷ kernel nftables, pps, ${with_}`, ratioOf(sluice, kernel, (one) => one.pps), bar, aim));
    if (redirect) report.verdicts.push(atLeast("sluice ÷ bare XDP redirect, pps", ratioOf(sluice, redirect, (one) => one.pps), ...BARS.redirect));
    if (bare) report.verdicts.push(atLeast("sluice ÷ bare AF_XDP forwarder, pps a CPU-second", ratioOf(sluice, bare, (one) => one.ppsPerCpuSecond), ...BARS.barePerCpuSecond));
  }
  report.ratios = ratios;
  const devices = outcomes.slice(1);
  finish(report, [laneTable(outcomes, kernel)], {
    ...options,
    plot: {
      title: `Forwarding: IPv${options.family} UDP, ${count(options.flows)} established flows, ${options.rules} rules`,
      panels: [
        { title: "packets a second", format: count, rows: plotRows(devices, (one) => one.pps) },
        { title: "packets a CPU-second, all cores", format: count, rows: plotRows(devices, (one) => one.ppsPerCpuSecond) },
      ],
    },
  });
}
