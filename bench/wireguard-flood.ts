// What does a flood of handshakes from spoofed addresses do to a tunnel that is up? 50,000 initiations a second reach the
// near gateway's port: with a right mac1 (anyone who knows the public key can make that), or with a wrong one.
//
// A round measures in turns: the flood aimed at a sink beside the gateway, then at the gateway. The sender's own work is the same
// in both. First iperf3 goes through the tunnel as fast as it can, for the throughput that is left; then a stream at a fixed rate,
// for the CPU that the gateway's processes need more. That is measured beside a process that computes on the gateway's core: workers
// stay awake for a moment after each burst, yielding to whoever wants the core, and what nobody else wanted is not the flood's price.
// Without that process it is measured, too, for information (and with --urgent it means nothing: the gateway yields to nobody).

import { randomBytes } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { blake2s } from "@noble/hashes/blake2.js";
import { pause, until } from "../lab/until.js";
import { WIREGUARD_PORT } from "../lab/wireguard-go.js";
import { processSeconds, readCpuTimes, softirqThreads, waitForQuiet } from "./machine.js";
import { parseCount, placementsOf, turnCommand, type TurnCommandOptions } from "./options.js";
import { setOffloads, takeRedirectedFrames } from "./peers.js";
import { atLeast, atMost, count, finish, newReport, progress, table } from "./report.js";
import { spreadOf, type Spread } from "./statistics.js";
import { becomeUrgent, placed, prepareTools, Tool } from "./tool.js";
import { network, ownAddresses } from "./topology.js";
import { makeTunnelTopology, startSluicePair, type SluicePair, type TunnelBench } from "./tunnel.js";
import { FOREIGN_CORES_MAX } from "./turns.js";

const BARS = { throughput: [0.9, 0.97], floodCores: [0.1, 0.05] } as const;
const INITIATION_BYTES = 148;
const MAC1_AT = 116;
/** Different messages, so that no cache of the gateway's helps. */
const MESSAGES = 4096;
const KINDS = ["right-mac", "wrong-mac"] as const;
type Kind = (typeof KINDS)[number];
const WARM_UP_SECONDS = 1;
const SINK = "192.168.79";
/** Of the flood's rate, so much must have been sent. */
const SENT_MIN = 0.95;

interface Options extends TurnCommandOptions {
  rate: number;
  stream: number;
  workers: number;
}

interface FloodSample {
  ns: number;
  sent: number;
  cpuSeconds: number;
}

interface Measured {
  gigabitsPerSecond: number;
  /** Of the near gateway's processes, while a stream of a fixed rate passes. */
  gatewayCores: number;
  /** The same on a core that nobody else wants. */
  gatewayCoresAlone: number;
  sentPerSecond: number;
  /** Of processes that have no part in it. */
  foreignCores: number;
}

/** Initiations that are nothing but noise behind a right (or wrong) mac1. */
function initiations(publicKey: string, kind: Kind): Buffer {
  const label = (text: string): Uint8Array => blake2s(Buffer.concat([Buffer.from(text), Buffer.from(publicKey, "base64")]));
  const key = label("mac1----");
  return Buffer.concat(
    Array.from({ length: MESSAGES }, () => {
      const message = randomBytes(INITIATION_BYTES);
      message.writeUInt32LE(1, 0);
      if (kind === "right-mac") message.set(blake2s(message.subarray(0, MAC1_AT), { key, dkLen: 16 }), MAC1_AT);
      message.fill(0, MAC1_AT + 16);
      return message;
    }),
  );
}

/** A node beside the underlay's router that drops what comes. */
function addSink({ lab }: TunnelBench): void {
  lab.addNode("sink");
  lab.addLink({ node: "net", device: "to-sink", addresses: [`${SINK}.254/24`] }, { node: "sink", device: "sink0", addresses: [`${SINK}.1/24`] });
}

class FloodBench {
  /** CPU of clients that have ended. */
  #clientSeconds = 0;

  private constructor(
    private readonly bench: TunnelBench,
    private readonly pair: SluicePair,
    private readonly options: Options,
    private readonly server: number,
  ) {}

  static async start(options: Options): Promise<FloodBench> {
    const bench = makeTunnelTopology({ router: true });
    const { lab } = bench;
    try {
      addSink(bench);
      const { device } = placementsOf(options);
      for (const [node, netdev] of [["gen", "gen0"], ["recv", "recv0"], ["net", "to-dut"], ["net", "to-far"]] as const) {
        setOffloads(lab, node, [netdev], "tso", "off", "gso", "off", "tx", "off");
        takeRedirectedFrames(lab, node, [netdev]);
      }
      ownAddresses(bench);
      // Answers to spoofed addresses end here.
      lab.runSync("net", ["ip", "route", "add", "blackhole", "100.64.0.0/10"]);
      const pair = await startSluicePair(bench, { placement: device, workers: options.workers });
      const iperf = lab.start("recv", [...placed(device), "iperf3", "--server", "--bind", network.firstDestination, "--forceflush"]);
      await iperf.waitForOutput(/listening/);
      await until("the tunnel is up", async () => (await lab.run("gen", ["ping", "-c", "1", "-W", "2", network.firstDestination])).code === 0, { deadlineMs: 30_000 });
      return new FloodBench(bench, pair, options, iperf.pid);
    } catch (error) {
      await lab.destroy();
      throw error;
    }
  }

  /** The flood at the gateway, or at the sink. */
  async measure(kind: Kind, atGateway: boolean): Promise<Measured> {
    const { lab, keys, outer } = this.bench;
    const { generator } = placementsOf(this.options);
    const file = join(lab.directory, `${kind}.bin`);
    writeFileSync(file, initiations(keys.dut.publicKey, kind));
    const [device, node, netdev, destination] = atGateway ? ["to-dut", "dut", "wan0", outer.dut] : ["to-sink", "sink", "sink0", `${SINK}.1`];
    const mac = lab.ipJson<{ address: string }>(node, "link", "show", netdev)[0]!.address;
    const argv = ["--out", device, "--destination-mac", mac, "--destination", destination, "--port", String(WIREGUARD_PORT), "--rate", String(this.options.rate)];
    const flood = await Tool.start<FloodSample>(lab, "net", "udp_flood", [...argv, "--messages", file, "--message-bytes", String(INITIATION_BYTES)], generator);
    try {
      await pause(WARM_UP_SECONDS * 1000);
      const ours = [...this.pair.dut.pids(), ...this.pair.far.pids(), flood.pid, this.server, process.pid, ...softirqThreads()];
      const foreign = (): number => readCpuTimes().busy - processSeconds(ours) - this.#clientSeconds;
      const [before, foreignBefore] = [await flood.sample(), foreign()];
      const gigabitsPerSecond = await this.#iperf();
      const gatewayCoresAlone = await this.#cores();
      const gatewayCores = await this.#coresBesideOthers();
      const after = await flood.sample();
      const seconds = (after.ns - before.ns) / 1e9;
      return { gigabitsPerSecond, gatewayCores, gatewayCoresAlone, sentPerSecond: (after.sent - before.sent) / seconds, foreignCores: Math.max(0, foreign() - foreignBefore) / seconds };
    } finally {
      await flood.stop();
    }
  }

  async #iperf(...more: string[]): Promise<number> {
    const { lab } = this.bench;
    const { generator } = placementsOf(this.options);
    const argv = [...placed(generator), "iperf3", "--client", network.firstDestination, "--json", "--time", String(Math.max(1, Math.round(this.options.seconds))), "--omit", String(WARM_UP_SECONDS), ...more];
    const client = lab.start("gen", argv);
    // A process that has ended leaves no times: the last reading counts.
    let own = 0;
    const watch = setInterval(() => (own = Math.max(own, processSeconds([client.pid]))), 50);
    await client.finish((this.options.seconds + 20) * 1000);
    clearInterval(watch);
    this.#clientSeconds += own;
    const { end, error } = JSON.parse(client.stdout) as { error?: string; end: { sum_received?: { bits_per_second: number }; sum: { bits_per_second: number } } };
    if (error) throw new Error(`iperf3 through the tunnel: ${error}`);
    return (end.sum_received?.bits_per_second ?? end.sum.bits_per_second) / 1e9;
  }

  async #cores(): Promise<number> {
    const stream = this.#iperf("--udp", "--bitrate", `${this.options.stream}M`, "--length", "1300");
    await pause(WARM_UP_SECONDS * 1000);
    const pids = this.pair.dut.pids();
    const [began, before] = [Date.now(), processSeconds(pids)];
    await pause(this.options.seconds * 1000 * 0.8);
    const cores = (processSeconds(pids) - before) / ((Date.now() - began) / 1000);
    await stream;
    return cores;
  }

  async #coresBesideOthers(): Promise<number> {
    const { cpus } = placementsOf(this.options).device;
    const burner = this.bench.lab.start("net", [...placed({ cpus }), "sh", "-c", "while :; do :; done"]);
    try {
      return await this.#cores();
    } finally {
      this.#clientSeconds += processSeconds([burner.pid]);
      await burner.stop();
    }
  }

  async stop(): Promise<unknown> {
    try {
      const detail = { drops: (await this.pair.dut.status()).drops, wireguard: await this.pair.dut.ask("wireguard", "show") };
      await this.pair.dut.stop();
      await this.pair.far.stop();
      return detail;
    } finally {
      await this.bench.lab.destroy();
    }
  }
}

export async function main(argv: readonly string[]): Promise<void> {
  const options = turnCommand("wireguard-flood", "Handshakes from spoofed addresses by the ten thousand, beside a tunnel that is up.", { turns: 1, seconds: 5 })
    .option("--rate <n>", "initiations a second", parseCount, 50_000)
    .option("--stream <megabits>", "the stream beside which CPU is measured", parseCount, 50)
    .option("--workers <n>", "worker threads of each sluice", parseCount, 1)
    .parse(argv, { from: "user" })
    .opts<Options>();
  prepareTools("udp_flood");
  if (options.urgent) becomeUrgent();
  const report = newReport("wireguard-flood", options);
  const samples: Record<Kind, { aside: Measured; flooded: Measured }[]> = { "right-mac": [], "wrong-mac": [] };
  const details: unknown[] = [];
  for (let round = 1; round <= options.rounds; round++) {
    const bench = await FloodBench.start(options);
    try {
      for (let turn = 0; turn < options.turns; turn++) {
        for (const kind of KINDS) {
          const take = async (atGateway: boolean): Promise<Measured> => {
            if (options.patience) await waitForQuiet(options.patience, FOREIGN_CORES_MAX);
            const one = await bench.measure(kind, atGateway);
            progress(`round ${round}/${options.rounds}  ${kind}  ${atGateway ? "at the gateway" : "aside         "}  ${one.gigabitsPerSecond.toFixed(3)} Gbit/s, gateway ${one.gatewayCores.toFixed(3)} cores (alone ${one.gatewayCoresAlone.toFixed(3)}), flood ${count(one.sentPerSecond)} a second, other processes ${one.foreignCores.toFixed(2)} cores`);
            return one;
          };
          samples[kind].push({ aside: await take(false), flooded: await take(true) });
        }
      }
    } finally {
      details.push(await bench.stop());
    }
  }
  report.samples = samples;
  report.details = details;
  const rows: string[][] = [];
  for (const kind of KINDS) {
    const pairs = samples[kind];
    const spread = (value: (pair: (typeof pairs)[number]) => number): Spread => spreadOf(pairs.map(value));
    const throughput = spread(({ aside, flooded }) => flooded.gigabitsPerSecond / aside.gigabitsPerSecond);
    const cores = spread(({ aside, flooded }) => flooded.gatewayCores - aside.gatewayCores);
    const alone = spread(({ aside, flooded }) => flooded.gatewayCoresAlone - aside.gatewayCoresAlone);
    const sent = Math.min(...pairs.flatMap(({ aside, flooded }) => [aside.sentPerSecond, flooded.sentPerSecond]));
    if (sent < SENT_MIN * options.rate) report.void.push(`only ${count(sent)} of ${count(options.rate)} initiations a second were sent`);
    const foreign = Math.max(...pairs.flatMap(({ aside, flooded }) => [aside.foreignCores, flooded.foreignCores]));
    if (foreign > FOREIGN_CORES_MAX && !options.urgent) report.void.push(`other processes took up to ${foreign.toFixed(2)} cores`);
    const named = kind === "right-mac" ? "right mac1" : "wrong mac1";
    report.verdicts.push(
      atLeast(`${named}: throughput with the flood ÷ without`, throughput, ...BARS.throughput),
      atMost(`${named}: cores that the flood takes from the gateway's processes`, cores, ...BARS.floodCores),
    );
    rows.push([named, spread(({ aside }) => aside.gigabitsPerSecond).median.toFixed(3), spread(({ flooded }) => flooded.gigabitsPerSecond).median.toFixed(3), throughput.median.toFixed(3), cores.median.toFixed(3), alone.median.toFixed(3), count(sent)]);
  }
  finish(report, [table(["flood", "Gbit/s without", "with", "ratio", "cores for it", "on a core alone", "sent/s, least"], rows) + "\n"], {
    ...options,
    plot: {
      title: `Tunnel throughput beside ${count(options.rate)} handshakes a second`,
      panels: [{ title: "TCP, iperf3, Gbit/s", format: (value) => `${value.toFixed(2)} G`, rows: KINDS.flatMap((kind) => (["aside", "flooded"] as const).map((where) => ({ name: `${kind === "right-mac" ? "right" : "wrong"} mac1, ${where === "aside" ? "at a sink" : "at the gateway"}`, values: samples[kind].map((pair) => pair[where].gigabitsPerSecond) }))) }],
    },
  });
}
