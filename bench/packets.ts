// Packets through a device under test: a Lane is a network of its own with the device and a counting receiver in it,
// and stays up while others are measured; a measurement runs the generator at full speed (or a given rate) and counts
// at the far end over a window inside that. Shared by all packet benches.

import { pause } from "../lab/until.js";
import { processSeconds, readCpuTimes, softirqThreads } from "./machine.js";
import type { DeviceOptions, Peer, Running } from "./peers.js";
import { placed, Tool, toolPath, type Placement } from "./tool.js";
import { makeTopology, networks, type Bench, type Family } from "./topology.js";

/** Start of the generator's process and its first packets. */
const WARM_UP_MS = 500;
const GENERATOR_SECONDS_SPARE = 5;
const PROBE_ROUNDS = 3;
const PROBE_RATE = 50_000;
const PROBES_MAX = 10;
/** Between two probes: neighbours are being resolved. */
const PROBE_PAUSE_MS = 500;

export interface TrafficOptions {
  family?: Family;
  flows: number;
  /** Consecutive addresses that flows come from and go to. */
  sources?: number;
  destinations?: number;
  frameBytes: number;
  /** Packets a second; 0: as fast as it goes. */
  rate: number;
  /** Evenly spaced, with timestamps that the receiver makes quantiles of. */
  stamped?: boolean;
  /** Every packet of a measurement opens a flow: none is established before. */
  newFlows?: boolean;
  /** Makes the network; default: one device between generator and receiver. */
  topology?: (family: Family) => Bench;
  milliseconds: number;
  generator: Placement;
  device: Placement;
}

interface ReceiverSample {
  ns: number;
  packets: number;
  bytes: number;
  flows?: number;
  latencyUs?: Latency;
}

export interface Latency {
  packets: number;
  p50: number;
  p99: number;
  p999: number;
}

export interface Measurement {
  pps: number;
  /** Of the far end's packets, per CPU second of all cores together, without what foreign processes took. */
  ppsPerCpuSecond: number;
  /** Of the far end's packets, per CPU second of the device's processes; undefined when it has none. */
  ppsPerDeviceSecond: number | undefined;
  offeredPps: number;
  bitsPerSecond: number;
  latencyUs?: Latency | undefined;
  /** Cores kept busy: by everything, by softirq, by the device's processes, by processes that have no part in this. */
  cores: { busy: number; softirq: number; device: number; foreign: number; stolen: number };
}

export class Lane {
  /** Flows of which a packet came to the far end before the first measurement. */
  flowsSeen = 0;
  /** Flows of which an answer came back by then. */
  flowsAnswered = 0;
  readonly #bench: Bench;
  readonly #traffic: TrafficOptions;
  readonly #receiver: Tool<ReceiverSample>;
  /** At the generator's end, where answers arrive. */
  readonly #answers: Tool<ReceiverSample>;
  readonly #device: Running | undefined;

  private constructor(bench: Bench, traffic: TrafficOptions, receiver: Tool<ReceiverSample>, answers: Tool<ReceiverSample>, device: Running | undefined) {
    this.#bench = bench;
    this.#traffic = traffic;
    this.#receiver = receiver;
    this.#answers = answers;
    this.#device = device;
  }

  /** A lane through a device, which has seen every flow answered; without one, frames are counted and dropped at the first hop. */
  static async start(peer: Peer | undefined, traffic: TrafficOptions, options: DeviceOptions = {}): Promise<Lane> {
    const bench = (traffic.topology ?? makeTopology)(traffic.family ?? 4);
    try {
      const [node, device] = peer ? ["recv", "recv0"] : ["dut", "dut0"];
      const placement = { urgent: traffic.device.urgent };
      const settings = ["--flows", ...(peer ? ["--answer"] : []), ...(traffic.stamped ? ["--latency"] : [])];
      const receiver = await Tool.start<ReceiverSample>(bench.lab, node, "receiver", ["--on", device, ...settings], placement);
      const answers = await Tool.start<ReceiverSample>(bench.lab, "gen", "receiver", ["--on", "gen0", "--flows"], placement);
      const running = await peer?.start(bench, { ...options, fromXdp: true, placement: traffic.device });
      const lane = new Lane(bench, traffic, receiver, answers, running);
      if (!traffic.newFlows) await lane.#establish();
      return lane;
    } catch (error) {
      await bench.lab.destroy();
      throw error;
    }
  }

  get sluice(): Running["sluice"] {
    return this.#device?.sluice;
  }

  /** Sends every flow's first packets, which the far end answers. */
  async #establish(): Promise<void> {
    const { flows } = this.#traffic;
    const deadlineMs = 30_000 + (PROBE_ROUNDS * flows * 1000) / PROBE_RATE;
    const wanted = this.#device ? flows : 0;
    for (let probe = 0; probe < PROBES_MAX && (this.flowsSeen < flows || this.flowsAnswered < wanted); probe++) {
      if (probe) await pause(PROBE_PAUSE_MS);
      await this.#bench.lab.must("gen", this.#generator("--probe", String(PROBE_ROUNDS), "--rate", String(PROBE_RATE), "--mark"), { deadlineMs });
      this.flowsSeen = (await this.#receiver.sample()).flows ?? 0;
      this.flowsAnswered = (await this.#answers.sample()).flows ?? 0;
    }
  }

  /** At another rate than the lane's, when one is given. */
  async measure(rate = this.#traffic.rate): Promise<Measurement> {
    const window = async (take: () => Promise<Reading>) => {
      const before = await take();
      await pause(this.#traffic.milliseconds);
      return [before, await take()] as const;
    };
    const { result, offeredPps } = await this.underLoad(window, this.#traffic.milliseconds / 1000, rate);
    return compare(...result, offeredPps);
  }

  /** Runs the generator, and the work once it is at full speed. */
  async underLoad<T>(work: (take: () => Promise<Reading>) => Promise<T>, secondsMax = this.#traffic.milliseconds / 1000, rate = this.#traffic.rate): Promise<{ result: T; offeredPps: number; sent: number }> {
    const { stamped } = this.#traffic;
    const seconds = Math.ceil(WARM_UP_MS / 1000 + secondsMax) + GENERATOR_SECONDS_SPARE;
    const settings = [...(rate ? ["--rate", String(rate)] : []), ...(stamped ? ["--stamp", "--even"] : [])];
    const generator = this.#bench.lab.start("gen", this.#generator("--seconds", String(seconds), ...settings));
    await pause(WARM_UP_MS);
    const device = this.#device?.pids() ?? [];
    const ours = [generator.pid, this.#receiver.pid, this.#answers.pid, process.pid, ...softirqThreads()];
    const take = async (): Promise<Reading> => ({ counts: await this.#receiver.sample(), cpu: readCpuTimes(), device: processSeconds(device), ours: processSeconds(ours) });
    try {
      const result = await work(take);
      if (!generator.running) throw new Error(`the generator ended early: ${generator.tail()}`);
      await generator.stop();
      if (generator.exit?.code !== 0) throw new Error(`the generator failed: ${generator.tail()}`);
      const { pps, packets } = JSON.parse(generator.stdout) as { pps: number; packets: number };
      return { result, offeredPps: pps, sent: packets };
    } finally {
      await generator.stop();
    }
  }

  /** Packets that came to the far end so far. */
  async received(): Promise<number> {
    return (await this.#receiver.sample()).packets;
  }

  /** The device's own counters: for people who look into a surprising result. */
  async detail(): Promise<unknown> {
    return this.#device?.detail();
  }

  async stop(): Promise<void> {
    try {
      await this.#device?.stop();
      await this.#receiver.stop();
      await this.#answers.stop();
    } finally {
      await this.#bench.lab.destroy();
    }
  }

  #generator(...more: string[]): string[] {
    const { flows, frameBytes, generator, sources, destinations, family = 4 } = this.#traffic;
    return [
      ...placed(generator),
      ...[toolPath("generator"), "--out", "gen0", "--destination-mac", this.#bench.mac.dut0, "--source", networks[family].firstSource],
      ...["--destination", networks[family].firstDestination, "--flows", String(flows), "--size", String(frameBytes)],
      ...(sources ? ["--sources", String(sources)] : []),
      ...(destinations ? ["--destinations", String(destinations)] : []),
      ...more,
    ];
  }
}

/** What was counted up to a moment. */
export interface Reading {
  counts: ReceiverSample;
  cpu: ReturnType<typeof readCpuTimes>;
  device: number;
  ours: number;
}

export function compare(before: Reading, after: Reading, offeredPps: number): Measurement {
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
    latencyUs: after.counts.latencyUs,
    cores: {
      busy: busy / seconds,
      softirq: (after.cpu.softirq - before.cpu.softirq) / seconds,
      device: device / seconds,
      foreign: foreign / seconds,
      stolen: (after.cpu.stolen - before.cpu.stolen) / seconds,
    },
  };
}
