// Packets through a device under test: a Lane is a network of its own with the device and a counting receiver in it,
// and stays up while others are measured; a measurement runs the generator at full speed (or a given rate) and counts
// at the far end over a window inside that. Shared by all packet benches.

import { pause } from "../lab/until.js";
import { processSeconds, readCpuTimes, softirqThreads } from "./machine.js";
import type { Peer, Running } from "./peers.js";
import type { SluiceOptions } from "./sluice.js";
import { placed, Tool, toolPath, type Placement } from "./tool.js";
import { makeTopology, network, type Bench } from "./topology.js";

/** Start of the generator's process and its first packets. */
const WARM_UP_MS = 500;
const GENERATOR_SECONDS_SPARE = 5;
const PROBE_ROUNDS = 2;
const PROBE_RATE = 20_000;

export interface TrafficOptions {
  flows: number;
  frameBytes: number;
  /** Packets a second; 0: as fast as it goes. */
  rate: number;
  milliseconds: number;
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
  /** Of the far end's packets, per CPU second of all cores together, without what foreign processes took. */
  ppsPerCpuSecond: number;
  /** Of the far end's packets, per CPU second of the device's processes; undefined when it has none. */
  ppsPerDeviceSecond: number | undefined;
  offeredPps: number;
  bitsPerSecond: number;
  flowsSeen: number;
  /** Cores kept busy: by everything, by softirq, by the device's processes, by processes that have no part in this. */
  cores: { busy: number; softirq: number; device: number; foreign: number; stolen: number };
}

export class Lane {
  readonly #bench: Bench;
  readonly #traffic: TrafficOptions;
  readonly #receiver: Tool<ReceiverSample>;
  readonly #device: Running | undefined;

  private constructor(bench: Bench, traffic: TrafficOptions, receiver: Tool<ReceiverSample>, device: Running | undefined) {
    this.#bench = bench;
    this.#traffic = traffic;
    this.#receiver = receiver;
    this.#device = device;
  }

  /** A lane through a device, which has seen every flow; without one, frames are counted and dropped at the first hop. */
  static async start(peer: Peer | undefined, traffic: TrafficOptions, sluice: SluiceOptions = {}): Promise<Lane> {
    const bench = makeTopology();
    try {
      const [node, device] = peer ? ["recv", "recv0"] : ["dut", "dut0"];
      const receiver = await Tool.start<ReceiverSample>(bench.lab, node, "receiver", ["--on", device, "--flows"], { urgent: traffic.device.urgent });
      const running = await peer?.start(bench, { ...sluice, placement: traffic.device });
      const lane = new Lane(bench, traffic, receiver, running);
      const deadlineMs = 30_000 + (PROBE_ROUNDS * traffic.flows * 1000) / PROBE_RATE;
      await bench.lab.must("gen", lane.#generator("--probe", String(PROBE_ROUNDS), "--rate", String(PROBE_RATE)), { deadlineMs });
      return lane;
    } catch (error) {
      await bench.lab.destroy();
      throw error;
    }
  }

  async measure(): Promise<Measurement> {
    const { lab } = this.#bench;
    const { rate, milliseconds } = this.#traffic;
    const seconds = Math.ceil((WARM_UP_MS + milliseconds) / 1000) + GENERATOR_SECONDS_SPARE;
    const generator = lab.start("gen", this.#generator("--seconds", String(seconds), ...(rate ? ["--rate", String(rate)] : [])));
    await pause(WARM_UP_MS);
    const device = this.#device?.pids() ?? [];
    const ours = [generator.pid, this.#receiver.pid, process.pid, ...softirqThreads()];
    const take = async () => ({ counts: await this.#receiver.sample(), cpu: readCpuTimes(), device: processSeconds(device), ours: processSeconds(ours) });
    const before = await take();
    await pause(milliseconds);
    const after = await take();
    await generator.stop();
    if (generator.exit?.code !== 0) throw new Error(`the generator failed: ${generator.tail()}`);
    return compare(before, after, (JSON.parse(generator.stdout) as { pps: number }).pps);
  }

  /** The device's own counters: for people who look into a surprising result. */
  async detail(): Promise<unknown> {
    return this.#device?.detail();
  }

  async stop(): Promise<void> {
    try {
      await this.#device?.stop();
      await this.#receiver.stop();
    } finally {
      await this.#bench.lab.destroy();
    }
  }

  #generator(...more: string[]): string[] {
    const { flows, frameBytes, generator } = this.#traffic;
    return [
      ...placed(generator),
      ...[toolPath("generator"), "--out", "gen0", "--destination-mac", this.#bench.mac.dut0, "--source", network.firstSource],
      ...["--destination", network.firstDestination, "--flows", String(flows), "--size", String(frameBytes), ...more],
    ];
  }
}

interface Reading {
  counts: ReceiverSample;
  cpu: ReturnType<typeof readCpuTimes>;
  device: number;
  ours: number;
}

function compare(before: Reading, after: Reading, offeredPps: number): Measurement {
  const seconds = (after.counts.ns - before.counts.ns) / 1e9;
  const packets = after.counts.packets - before.counts.packets;
  const busy = after.cpu.busy - before.cpu.busy;
  const device = after.device - before.device;
  const foreign = Math.max(0, busy - device - (after.ours - before.ours));
  return {
    pps: packets / seconds,
    ppsPerCpuSecond: busy > foreign ? packets / (busy - foreign) : 0,
    ppsPerDeviceSecond: device ? packets / device : undefined,
    offeredPps,
    bitsPerSecond: ((after.counts.bytes - before.counts.bytes) * 8) / seconds,
    flowsSeen: after.counts.flows,
    cores: {
      busy: busy / seconds,
      softirq: (after.cpu.softirq - before.cpu.softirq) / seconds,
      device: device / seconds,
      foreign: foreign / seconds,
      stolen: (after.cpu.stolen - before.cpu.stolen) / seconds,
    },
  };
}
