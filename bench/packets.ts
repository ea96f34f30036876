// One measurement of packets through a device under test: start it, let it make its sessions, run the generator at full
// speed (or a given rate), count at the far end over a window inside that. Shared by all packet benches.

import { pause } from "../lab/until.js";
import { processSeconds, readCpuTimes, softirqThreads } from "./machine.js";
import type { Peer } from "./peers.js";
import type { SluiceOptions } from "./sluice.js";
import { placed, Tool, toolPath, type Placement } from "./tool.js";
import { network, type Bench } from "./topology.js";

const WARM_UP_SECONDS = 1;
const PROBE_ROUNDS = 2;
const PROBE_RATE = 20_000;

export interface TrafficOptions {
  flows: number;
  frameBytes: number;
  /** Packets a second; 0: as fast as it goes. */
  rate: number;
  seconds: number;
  generator: Placement;
  device: Placement;
}

interface ReceiverSample {
  ns: number;
  packets: number;
  bytes: number;
  flows: number;
}

export interface Measurement {
  pps: number;
  /** Of the far end's packets, per CPU second of all cores together. */
  ppsPerCpuSecond: number;
  /** Of the far end's packets, per CPU second of the device's processes; undefined when it has none. */
  ppsPerDeviceSecond: number | undefined;
  offeredPps: number;
  bitsPerSecond: number;
  flowsSeen: number;
  /** Cores kept busy: by everything, by softirq, by the device's processes, by processes that have no part in this. */
  cores: { busy: number; softirq: number; device: number; foreign: number; stolen: number };
  detail: unknown;
}

function generatorArguments(bench: Bench, options: TrafficOptions): string[] {
  return [
    ...["--out", "gen0", "--destination-mac", bench.mac.dut0, "--source", network.firstSource, "--destination", network.firstDestination],
    ...["--flows", String(options.flows), "--size", String(options.frameBytes)],
  ];
}

/** Runs the generator and measures what arrives at `receiver`. */
async function measureWindow(bench: Bench, receiver: Tool<ReceiverSample>, devicePids: () => number[], options: TrafficOptions): Promise<Measurement> {
  const { lab } = bench;
  const limits = ["--seconds", String(Math.ceil(WARM_UP_SECONDS + options.seconds + 5)), ...(options.rate ? ["--rate", String(options.rate)] : [])];
  const generator = lab.start("gen", [...placed(options.generator), toolPath("generator"), ...generatorArguments(bench, options), ...limits]);
  await pause(WARM_UP_SECONDS * 1000);

  const device = devicePids();
  const take = async () => ({
    counts: await receiver.sample(),
    cpu: readCpuTimes(),
    device: processSeconds(device),
    others: processSeconds([generator.pid, receiver.pid, process.pid, ...softirqThreads()]),
  });
  const before = await take();
  await pause(options.seconds * 1000);
  const after = await take();
  await generator.stop();
  if (generator.exit?.code !== 0) throw new Error(`the generator failed: ${generator.tail()}`);

  const seconds = (after.counts.ns - before.counts.ns) / 1e9;
  const packets = after.counts.packets - before.counts.packets;
  const busy = after.cpu.busy - before.cpu.busy;
  const deviceSeconds = after.device - before.device;
  const offered = JSON.parse(generator.stdout) as { pps: number };
  return {
    pps: packets / seconds,
    ppsPerCpuSecond: busy ? packets / busy : 0,
    ppsPerDeviceSecond: deviceSeconds ? packets / deviceSeconds : undefined,
    offeredPps: offered.pps,
    bitsPerSecond: ((after.counts.bytes - before.counts.bytes) * 8) / seconds,
    flowsSeen: after.counts.flows,
    cores: {
      busy: busy / seconds,
      softirq: (after.cpu.softirq - before.cpu.softirq) / seconds,
      device: deviceSeconds / seconds,
      foreign: Math.max(0, busy - deviceSeconds - (after.others - before.others)) / seconds,
      stolen: (after.cpu.stolen - before.cpu.stolen) / seconds,
    },
    detail: undefined,
  };
}

/** The generator's ceiling: frames counted and dropped at the first hop. */
export async function measureCeiling(bench: Bench, options: TrafficOptions): Promise<Measurement> {
  const receiver = await Tool.start<ReceiverSample>(bench.lab, "dut", "receiver", ["--on", "dut0", "--flows"], { urgent: options.device.urgent });
  try {
    return await measureWindow(bench, receiver, () => [], { ...options, rate: 0 });
  } finally {
    await receiver.stop();
  }
}

export async function measurePeer(bench: Bench, peer: Peer, options: TrafficOptions, sluice: SluiceOptions = {}): Promise<Measurement> {
  const receiver = await Tool.start<ReceiverSample>(bench.lab, "recv", "receiver", ["--on", "recv0", "--flows"], { urgent: options.device.urgent });
  try {
    const running = await peer.start(bench, { ...sluice, placement: options.device });
    try {
      const probe = ["--probe", String(PROBE_ROUNDS), "--rate", String(PROBE_RATE)];
      const deadlineMs = 30_000 + (PROBE_ROUNDS * options.flows * 1000) / PROBE_RATE;
      await bench.lab.must("gen", [...placed(options.generator), toolPath("generator"), ...generatorArguments(bench, options), ...probe], { deadlineMs });
      const result = await measureWindow(bench, receiver, () => running.pids(), options);
      return { ...result, detail: await running.detail() };
    } finally {
      await running.stop();
    }
  } finally {
    await receiver.stop();
  }
}
