// Does anything leak? Connections are opened and closed at a steady rate beside a bulk transfer, for minutes; then
// everything must run out: sessions and NAT mappings to nothing, packet buffers all back, memory flat since minute one.

import type { Program } from "../lab/program.js";
import { pause, until } from "../lab/until.js";
import { faultsOf, type IntegrityClientTotals, type IntegrityTotals } from "./integrity.js";
import { processSeconds, residentBytes } from "./machine.js";
import { benchCommand, parseCount } from "./options.js";
import { finish, newReport, progress, table } from "./report.js";
import { Sluice } from "./sluice.js";
import { slopeOf } from "./statistics.js";
import { prepareTools, Tool, toolPath } from "./tool.js";
import { makeTopology, network, ownAddresses } from "./topology.js";

const SAMPLE_SECONDS = 5;
const WARM_UP_SECONDS = 60;
/** Fitted growth after the warm-up that still counts as flat: allocators and Node's collector breathe. */
const GROWTH_MAX_PART = 0.03;
const GROWTH_MAX_BYTES = 8 << 20;
/** Clients' addresses: many, because paired pooling keeps each on one pool address. */
const CLIENT_ADDRESSES = 256;
const SERVER_ADDRESSES = 4;
const BULK_CONNECTIONS = 4;
const BULK_BYTES = "256M";
/** After the end: closed sessions' timer, NAT's port reuse, the sampling, and slack for late stragglers in transitory states. */
const DRAIN_SECONDS = 420;

/** Sessions left at the end that the report shows. */
const LEFT_SHOWN = 10;

interface Options {
  minutes: number;
  rate: number;
  timeWait: number;
  json: boolean;
}

interface ChurnTotals {
  opened: number;
  completed: number;
  refused: number;
  broken: number;
  timedOut: number;
  notOpened: number;
  perSecond: number;
  msP50: number;
  msP99: number;
  msMax: number;
}

interface Sample {
  seconds: number;
  phase: "idle" | "load" | "drain";
  residentBytes: Record<string, number>;
  cpuSeconds: number;
  sessions: number;
  natMappings: number;
  buffersFree: number;
}

function readOptions(argv: readonly string[]): Options {
  return benchCommand("soak", "Connections opened and closed at a steady rate beside a bulk transfer; looks for leaks.")
    .option("--minutes <n>", "how long", parseCount, 10)
    .option("--rate <n>", "connections a second", parseCount, 2000)
    // 2,000 a second for time-wait and 120 s of port reuse must fit the pool's 8 × 64 k ports with room for uneven use.
    .option("--time-wait <seconds>", "tcpTimeWait of the appliance", parseCount, 30)
    .parse(argv, { from: "user" })
    .opts<Options>();
}

async function takeSample(sluice: Sluice, started: number, phase: Sample["phase"]): Promise<Sample> {
  const status = await sluice.status();
  const memory = status.processes.flatMap(({ role, pid }) => (pid ? [[role, residentBytes(pid)] as const] : []));
  return {
    seconds: (Date.now() - started) / 1000,
    phase,
    residentBytes: Object.fromEntries(memory),
    cpuSeconds: processSeconds(sluice.pids()),
    sessions: status.sessions?.total ?? NaN,
    natMappings: status.natMappings ?? NaN,
    buffersFree: status.buffers?.free ?? NaN,
  };
}

function describe(sample: Sample): string {
  const memory = Object.entries(sample.residentBytes).map(([role, bytes]) => `${role} ${(bytes / 2 ** 20).toFixed(1)} MiB`);
  return `${sample.seconds.toFixed(0).padStart(4)} s  ${sample.phase.padEnd(5)}  ${memory.join(", ")}, ${sample.sessions} sessions, ${sample.natMappings} mappings, ${sample.buffersFree} buffers free`;
}

export async function main(argv: readonly string[]): Promise<void> {
  const options = readOptions(argv);
  prepareTools("tcp_integrity", "tcp_churn");
  const report = newReport("soak", options);
  const bench = makeTopology();
  const { lab } = bench;
  try {
    ownAddresses(bench);
    lab.sysctl("gen", { "net.ipv4.ip_local_port_range": "1024 65000", "net.ipv4.tcp_max_tw_buckets": 1_000_000 });
    const sluice = await Sluice.start(bench, { timers: { tcpTimeWait: options.timeWait } });
    const bulkServer = await Tool.start<IntegrityTotals>(lab, "recv", "tcp_integrity", ["--listen", "0.0.0.0"]);
    const churnServer = await Tool.start<{ open: number }>(lab, "recv", "tcp_churn", ["--listen", "0.0.0.0"]);

    const seconds = options.minutes * 60;
    const started = Date.now();
    const samples: Sample[] = [];
    const record = async (phase: Sample["phase"]): Promise<Sample> => {
      const sample = await takeSample(sluice, started, phase);
      samples.push(sample);
      progress(describe(sample));
      return sample;
    };
    const before = await record("idle");

    const bulk = lab.start("gen", [toolPath("tcp_integrity"), "--connect", network.firstDestination, "--connections", String(BULK_CONNECTIONS), "--bytes", BULK_BYTES, "--seconds", String(seconds)]);
    const churn = lab.start("gen", [
      ...[toolPath("tcp_churn"), "--connect", network.firstDestination, "--servers", String(SERVER_ADDRESSES), "--rate", String(options.rate)],
      ...["--source", network.firstSource, "--sources", String(CLIENT_ADDRESSES), "--seconds", String(seconds)],
    ]);
    while (churn.running || bulk.running) {
      await Promise.race([pause(SAMPLE_SECONDS * 1000), Promise.all([churn.exited, bulk.exited])]);
      if (Date.now() > started + (seconds + 120) * 1000) throw new Error("the load does not end");
      if (churn.running) await record("load");
    }
    const resultOf = <T>(program: Program): T => {
      if (!program.stdout) throw new Error(`${program.label} failed: ${program.tail()}`);
      return JSON.parse(program.stdout) as T;
    };
    const churned = resultOf<ChurnTotals>(churn);
    const moved = resultOf<IntegrityClientTotals>(bulk);
    const movedFar = await bulkServer.sample();

    let last = await record("drain");
    const isEmpty = (): boolean => last.sessions <= before.sessions && last.natMappings <= before.natMappings && last.buffersFree === before.buffersFree;
    await until("everything has run out", async () => isEmpty() || ((last = await record("drain")), isEmpty()), { deadlineMs: DRAIN_SECONDS * 1000, intervalMs: SAMPLE_SECONDS * 1000 }).catch(() => {});
    const end = await sluice.status();
    report.left = { byState: end.sessions?.byState, sessions: await sluice.sessions(LEFT_SHOWN), serverSockets: (await churnServer.sample()).open };
    report.drops = end.drops;
    await churnServer.stop();
    await bulkServer.stop();
    await sluice.stop();

    report.samples = samples;
    report.churn = churned;
    report.bulk = { client: moved, server: movedFar };
    const failed = churned.opened + churned.notOpened - churned.completed;
    const faults = faultsOf(moved) + faultsOf(movedFar);
    report.verdicts.push(
      { what: `connections failed, of ${churned.opened}`, value: failed, bar: 0, met: failed === 0 },
      { what: "bulk transfer: bytes wrong, checksums different or connections broken", value: faults, bar: 0, met: faults === 0 },
      { what: "sessions left", value: last.sessions, bar: before.sessions, met: last.sessions <= before.sessions },
      { what: "NAT mappings left", value: last.natMappings, bar: before.natMappings, met: last.natMappings <= before.natMappings },
      { what: "packet buffers lost", value: before.buffersFree - last.buffersFree, bar: 0, met: last.buffersFree === before.buffersFree },
    );
    const steady = samples.filter((sample) => sample.phase === "load" && sample.seconds >= WARM_UP_SECONDS);
    for (const role of Object.keys(before.residentBytes)) {
      const first = steady[0]?.residentBytes[role];
      if (first === undefined || steady.length < 3) {
        report.void.push(`too short to judge memory of ${role}: --minutes 2 at least`);
        continue;
      }
      const growth = slopeOf(steady.map((sample) => [sample.seconds, sample.residentBytes[role] ?? NaN] as const)) * (steady.at(-1)!.seconds - steady[0]!.seconds);
      const bar = Math.max(GROWTH_MAX_PART * first, GROWTH_MAX_BYTES) / 2 ** 20;
      report.verdicts.push({ what: `${role}: MiB grown since the first minute (of ${(first / 2 ** 20).toFixed(0)})`, value: growth / 2 ** 20, bar, met: growth / 2 ** 20 <= bar });
    }
    const rows = [
      ["connections", `${churned.completed} done, ${churned.perSecond} a second, ${churned.msP50.toFixed(2)} ms p50, ${churned.msP99.toFixed(2)} ms p99, ${churned.msMax.toFixed(0)} ms at most`],
      ["bulk", `${(moved.moved / 1e9).toFixed(1)} GB, ${(moved.bitsPerSecond / 1e9).toFixed(2)} Gbit/s`],
      ["sessions at most", String(Math.max(...samples.map((sample) => sample.sessions)))],
      ["mappings at most", String(Math.max(...samples.map((sample) => sample.natMappings)))],
      ["CPU of the appliance", `${((steady.at(-1)?.cpuSeconds ?? 0) / Math.max(1, steady.at(-1)?.seconds ?? 1)).toFixed(2)} cores`],
    ];
    finish(report, [table(["", ""], rows)], options);
  } finally {
    await lab.destroy();
  }
}
