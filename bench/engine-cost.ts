// What does the engine's own work cost, without I/O? Cycles a packet at few and many sessions, set-up rate, memory a session.

import { execFileSync } from "node:child_process";
import { benchCommand, parseCount } from "./options.js";
import { count, finish, newReport, progress, table } from "./report.js";
import { prepareTools, toolPath } from "./tool.js";

const SESSIONS_FEW = 10_000;
const SESSIONS_MANY = 1_000_000;
const BARS = { cyclesFew: 250, cyclesMany: 350, bytesPerSession: 320, setupPerSecond: 300_000 };

interface Measured {
  sessions: number;
  cyclesPerPacket: { median: number; min: number; max: number };
  setupPerSecond: number;
  bytesPerSession: number;
}

export async function main(argv: readonly string[]): Promise<void> {
  const options = benchCommand("engine-cost", "TSC cycles around the pipeline: 64-byte UDP from memory, 1,000 rules, SNAT, one core.")
    .option("--rounds <n>", "rounds, of which the median counts", parseCount, 5)
    .option("--packets <n>", "packets a round", parseCount, 2_000_000)
    .parse(argv, { from: "user" })
    .opts<{ rounds: number; packets: number; json: boolean }>();
  prepareTools("engine_cost");
  progress(`${SESSIONS_FEW} and ${SESSIONS_MANY} sessions, ${options.rounds} rounds each …`);
  const args = ["--json", "--sessions", `${SESSIONS_FEW},${SESSIONS_MANY}`, "--rounds", String(options.rounds), "--packets", String(options.packets)];
  const [few, many] = JSON.parse(execFileSync(toolPath("engine_cost"), args, { encoding: "utf8" })) as [Measured, Measured];
  const report = newReport("engine-cost", options);
  const atMost = (what: string, value: number, bar: number): void => void report.verdicts.push({ what, value, bar, met: value <= bar });
  atMost(`cycles a packet at ${SESSIONS_FEW} sessions`, few.cyclesPerPacket.median, BARS.cyclesFew);
  atMost(`cycles a packet at ${SESSIONS_MANY} sessions`, many.cyclesPerPacket.median, BARS.cyclesMany);
  atMost(`bytes a session at ${SESSIONS_MANY}`, many.bytesPerSession, BARS.bytesPerSession);
  report.verdicts.push({ what: `sessions set up a second at ${SESSIONS_MANY}`, value: many.setupPerSecond, bar: BARS.setupPerSecond, met: many.setupPerSecond >= BARS.setupPerSecond });
  report["measured"] = [few, many];
  const rows = [few, many].map((m) => [count(m.sessions), m.cyclesPerPacket.median.toFixed(1), `${m.cyclesPerPacket.min.toFixed(1)}..${m.cyclesPerPacket.max.toFixed(1)}`, count(m.setupPerSecond), m.bytesPerSession.toFixed(0)]);
  finish(report, [table(["sessions", "cycles", "min..max", "set-up/s", "bytes"], rows)], options);
}
