// Does every byte of many parallel TCP connections through SNAT arrive right? Half of the connections send, half receive;
// each word is compared with what it must be, and both ends compare checksums at the end of each connection.

import { InvalidArgumentError } from "commander";
import { benchCommand, parseBytes, parseCount } from "./options.js";
import { peers, type PeerName } from "./peers.js";
import { finish, newReport, progress } from "./report.js";
import { prepareTools, Tool, toolPath } from "./tool.js";
import { makeTopology, network, ownAddresses } from "./topology.js";

/** Slower than this the run is given up: 20 Mbit/s. */
const BYTES_PER_SECOND_MIN = 2_500_000;

interface Options {
  bytes: number;
  connections: number;
  device: PeerName;
  json: boolean;
}

/** What both ends of tcp_integrity report. */
export interface IntegrityTotals {
  completed: number;
  broken: number;
  bytes: number;
  wrongWords: number;
  checksumMismatches: number;
  retransmits: number;
}

export interface IntegrityClientTotals extends IntegrityTotals {
  connections: number;
  moved: number;
  seconds: number;
  bitsPerSecond: number;
}

/** What went wrong at one end, added up. */
export const faultsOf = (totals: IntegrityTotals): number => totals.broken + totals.wrongWords + totals.checksumMismatches;

function readOptions(argv: readonly string[]): Options {
  return benchCommand("integrity", "Every byte through SNAT compared at both ends. The bar is taken with --bytes 10G.")
    .option("--bytes <n>", "all connections together; K, M and G allowed", parseBytes, parseBytes("256M"))
    .option("--connections <n>", "parallel TCP connections", parseCount, 64)
    .option(
      "--device <name>",
      "what stands in between: sluice or kernel",
      (text: string) => {
        if (text !== "sluice" && text !== "kernel") throw new InvalidArgumentError("sluice or kernel.");
        return text;
      },
      "sluice",
    )
    .parse(argv, { from: "user" })
    .opts<Options>();
}

export async function main(argv: readonly string[]): Promise<void> {
  const options = readOptions(argv);
  prepareTools("tcp_integrity");
  const report = newReport("integrity", options);
  const bench = makeTopology();
  try {
    ownAddresses(bench);
    const device = await peers[options.device].start(bench, {});
    const server = await Tool.start<IntegrityTotals>(bench.lab, "recv", "tcp_integrity", ["--listen", "0.0.0.0"]);
    const argv = ["--connect", network.firstDestination, "--bytes", String(options.bytes), "--connections", String(options.connections)];
    const deadlineMs = 60_000 + (options.bytes / BYTES_PER_SECOND_MIN) * 1000;
    const running = bench.lab.run("gen", [toolPath("tcp_integrity"), ...argv], { deadlineMs });
    const ticker = setInterval(() => {
      server.sample().then((totals) => progress(`${((totals.bytes * 2) / 1e9).toFixed(1)} of ${(options.bytes / 1e9).toFixed(1)} GB, ${totals.retransmits} retransmissions`), () => {});
    }, 5000);
    const result = await running;
    clearInterval(ticker);
    if (!result.stdout) throw new Error(`the client failed: ${result.stderr}`);
    const client = JSON.parse(result.stdout) as IntegrityClientTotals;
    const far = await server.sample();
    report.client = client;
    report.server = far;
    report.detail = await device.detail();
    await server.stop();
    await device.stop();
    report.verdicts.push(
      { what: "bytes wrong, checksums different or connections broken, both ends", value: faultsOf(client) + faultsOf(far), bar: 0, met: faultsOf(client) + faultsOf(far) === 0 },
      { what: "connections completed, both ends", value: Math.min(client.completed, far.completed), bar: options.connections, met: Math.min(client.completed, far.completed) === options.connections },
    );
    const line = `${(client.moved / 1e9).toFixed(2)} GB over ${client.connections} connections in ${client.seconds.toFixed(1)} s: ${(client.bitsPerSecond / 1e9).toFixed(2)} Gbit/s, ${client.retransmits + far.retransmits} retransmissions`;
    finish(report, [line], options);
  } finally {
    await bench.lab.destroy();
  }
}
