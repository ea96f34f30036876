// Does a tunnel between two appliances lose or reorder anything while its keys change? A UDP stream with a counter in each
// payload runs for minutes; sessions are replaced every 120 s, and the static keys of the near gateway rotate meanwhile.

import { buildFrame, FrameCount, FrameStream } from "../lab/frames.js";
import { pause, until } from "../lab/until.js";
import { benchCommand, parseCount } from "./options.js";
import { finish, newReport, progress, table } from "./report.js";
import { prepareTools } from "./tool.js";
import { makeTunnelTopology, startNodePair } from "./tunnel.js";
import { network } from "./topology.js";

const PACKET_BYTES = 1400;
const STREAM_PORT = 5300;
const POLL_SECONDS = 2;
const REKEY_SECONDS = 120;
/** The longest that the last frames may take once nothing more is sent after them. */
const DRAIN_MS = 5000;

interface Options {
  minutes: number;
  rate: number;
  rotations: number;
  json: boolean;
}

interface Shown {
  publicKey: string;
  nextPublicKey: string | null;
  peers: { latestHandshake: string | null; state: string }[];
}

export async function main(argv: readonly string[]): Promise<void> {
  const options = benchCommand("wireguard-soak", "A UDP stream with counters through a tunnel whose session keys and static keys change meanwhile.")
    .option("--minutes <n>", "how long", parseCount, 10)
    .option("--rate <megabits>", "of the stream, a second, IP packets", parseCount, 200)
    .option("--rotations <n>", "of the near gateway's static key, spread over the time", parseCount, 3)
    .parse(argv, { from: "user" })
    .opts<Options>();
  prepareTools("lab_frames");
  const report = newReport("wireguard-soak", options);
  const bench = makeTunnelTopology();
  const { lab, mac } = bench;
  try {
    const pair = await startNodePair(bench, {});
    lab.ip("recv", `address add ${network.firstDestination}/32 dev recv0`);
    await until("the tunnel is up", async () => (await lab.run("gen", ["ping", "-c", "1", "-W", "2", network.firstDestination])).code === 0, { deadlineMs: 30_000 });
    const shown = async (): Promise<Shown> => {
      const { interfaces } = await pair.dut.ask<{ interfaces: Shown[] }>("wireguard", "show");
      return interfaces[0]!;
    };

    const packets = (options.rate * 1e6) / 8 / PACKET_BYTES;
    const frame = buildFrame({ srcMac: mac.gen0, dstMac: mac.dut0, src: network.firstSource, dst: network.firstDestination, protocol: "udp", srcPort: 4000, dstPort: STREAM_PORT, payload: Buffer.alloc(PACKET_BYTES - 28) });
    // The far end's kernel must not answer: its host is one of frames.
    lab.ip("recv", `address delete ${network.firstDestination}/32 dev recv0`, `route add blackhole ${network.firstDestination}`);
    const counter = new FrameCount(lab, "recv", STREAM_PORT, "recv0");
    const stream = new FrameStream(lab, "gen", frame, packets, { device: "gen0" });
    await until("the stream arrives", () => counter.counted().received > packets / 10);

    const seconds = options.minutes * 60;
    const began = Date.now();
    const passed = (): number => (Date.now() - began) / 1000;
    const handshakes = new Set<string>();
    const rotations: { seconds: number; milliseconds: number; from: string; to: string }[] = [];
    while (passed() < seconds) {
      const now = await shown();
      for (const { latestHandshake } of now.peers) if (latestHandshake) handshakes.add(latestHandshake);
      const { received, lost, reordered, repeated } = counter.counted();
      if (Math.floor(passed()) % 20 < POLL_SECONDS) progress(`${passed().toFixed(0).padStart(4)} s  ${received} received, ${lost} lost, ${reordered} reordered, ${repeated} twice, ${handshakes.size} sessions, ${rotations.length} rotations`);
      if (rotations.length < options.rotations && passed() > ((rotations.length + 1) * seconds) / (options.rotations + 1)) {
        const at = Date.now();
        await pair.dut.ask("wireguard", "rotate", "wg0");
        const to = await until("another static key is in force", async () => {
          const { publicKey } = await shown();
          return publicKey !== now.publicKey ? publicKey : undefined;
        }, { deadlineMs: 60_000 });
        rotations.push({ seconds: passed(), milliseconds: Date.now() - at, from: now.publicKey, to });
        progress(`${passed().toFixed(0).padStart(4)} s  static key rotated in ${Date.now() - at} ms`);
      }
      await pause(POLL_SECONDS * 1000);
    }
    const sent = stream.sent();
    await until("all of it arrived", () => counter.counted().last >= sent - 1, { deadlineMs: DRAIN_MS });
    const counted = counter.counted();
    const rate = (counted.received * PACKET_BYTES * 8) / passed() / 1e6;
    await stream.program.stop();
    await counter.program.stop();
    report.counted = counted;
    report.handshakes = [...handshakes];
    report.rotations = rotations;
    report.detail = { dut: await pair.dut.ask("wireguard", "show"), far: await pair.far.ask("wireguard", "show"), drops: (await pair.dut.status()).drops, farDrops: (await pair.far.status()).drops };
    await pair.dut.stop();
    await pair.far.stop();

    const rekeysWanted = Math.max(0, Math.floor(seconds / REKEY_SECONDS) - 1);
    const exactly = (what: string, value: number, bar: number): void => void report.verdicts.push({ what, value, bar, most: true, met: value <= bar });
    exactly(`packets lost, of ${counted.received}`, counted.lost, 0);
    exactly("packets out of order", counted.reordered, 0);
    exactly("packets twice", counted.repeated, 0);
    report.verdicts.push(
      { what: "sessions replaced", value: handshakes.size - 1, bar: rekeysWanted, met: handshakes.size - 1 >= rekeysWanted },
      { what: "static keys rotated", value: rotations.length, bar: options.rotations, met: rotations.length >= options.rotations },
    );
    if (rate < options.rate * 0.95) report.void.push(`the stream made ${rate.toFixed(0)} of ${options.rate} Mbit/s`);
    const rows = [
      ["stream", `${counted.received} packets, ${rate.toFixed(0)} Mbit/s`],
      ["lost, out of order, twice", `${counted.lost}, ${counted.reordered}, ${counted.repeated}`],
      ["sessions, static keys", `${handshakes.size}, ${rotations.length + 1}`],
    ];
    finish(report, [table(["", ""], rows)], options);
  } finally {
    await lab.destroy();
  }
}
