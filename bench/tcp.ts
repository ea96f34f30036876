// How fast are TCP and UDP of real endpoints through firewall and SNAT: bulk transfers (iperf3), transactions a second
// over one connection and with a connection each, against the kernel's nftables NAT and a bare XDP redirect?
//
// Both ends send frames of at most 1500 bytes with checksums of their own (no TSO, GSO or checksum offload), and receive
// with GRO: that gives them NAPI, without which a veth takes no redirected frames. It is the same for every device.

import { listOf, placementsOf, parseCount, turnCommand, type TurnCommandOptions } from "./options.js";
import { processSeconds, readCpuTimes, softirqThreads } from "./machine.js";
import { peers, setOffloads, takeRedirectedFrames, type Peer, type PeerName } from "./peers.js";
import { PEER_NAMES } from "./lanes.js";
import { atLeast, count, finish, newReport, table, type Verdict } from "./report.js";
import { becomeUrgent, placed, prepareTools, Tool, toolPath, type Placement } from "./tool.js";
import { makeTopology, network, ownAddresses, type Bench } from "./topology.js";
import { disturbances, measureInTurns, overRounds, ratioOf, samplesOf, type Contender } from "./turns.js";
import { until } from "../lab/until.js";

const WARM_UP_SECONDS = 1;
/** Payload of a datagram: the largest that iperf3 takes without a warning, TCP's segment. */
const DATAGRAM_BYTES = 1448;
/** Client addresses of TCP_CRR: so many times the ports that lie in TIME_WAIT. */
const CLIENT_ADDRESSES = 64;
const SPARE_MS = 15_000;

const workloads = {
  bulk: { title: "TCP bulk, iperf3", unit: "Gbit/s", format: (value: number) => `${value.toFixed(2)} G` },
  rr: { title: "TCP_RR", unit: "transactions/s", format: count },
  crr: { title: "TCP_CRR", unit: "connections/s", format: count },
  udp: { title: "UDP_RR", unit: "transactions/s", format: count },
  "udp-bulk": { title: "UDP bulk, iperf3", unit: "Gbit/s received", format: (value: number) => `${value.toFixed(2)} G` },
} as const;
export type Workload = keyof typeof workloads;
const WORKLOADS = Object.keys(workloads) as Workload[];

/** By workload and peer: the bar, and where the project wants it. */
const BARS: Partial<Record<Workload, Partial<Record<PeerName, [number, number]>>>> = {
  bulk: { kernel: [1.5, 1.7], redirect: [0.9, 0.97] },
  rr: { kernel: [1.05, 1.1], redirect: [0.97, 0.99] },
  crr: { kernel: [0.9, 1.05] },
};

export interface TcpOptions extends TurnCommandOptions {
  workloads: Workload[];
  rules: number;
  streams: number;
  workers: number;
}

interface Options extends TcpOptions {
  peers: PeerName[];
}

interface Transactions {
  transactions: number;
  failed: number;
  perSecond: number;
  usP50: number;
  usP99: number;
  usP999: number;
}

interface Iperf {
  error?: string;
  end: {
    sum_sent?: { retransmits?: number };
    sum_received?: { bits_per_second: number };
    sum: { bits_per_second: number; lost_percent?: number };
  };
}

/** One turn: each workload one after the other. */
export interface Measured {
  values: Partial<Record<Workload, number>>;
  /** Cores busy while it ran. */
  cores: Partial<Record<Workload, number>>;
  details: Partial<Record<Workload, unknown>>;
  foreignCores: number;
}

export function tcpContender(name: string, peer: Peer, options: TcpOptions, topology: () => Bench = makeTopology): Contender<Measured> {
  return {
    name,
    title: peer.title,
    async start() {
      const bench = topology();
      const { lab } = bench;
      try {
        const { generator, device } = placementsOf(options);
        for (const [node, netdev] of [["gen", "gen0"], ["recv", "recv0"]] as const) {
          setOffloads(lab, node, [netdev], "tso", "off", "gso", "off", "tx", "off");
          takeRedirectedFrames(lab, node, [netdev]);
        }
        ownAddresses(bench);
        lab.sysctl("gen", { "net.ipv4.ip_local_port_range": "1024 65000", "net.ipv4.tcp_max_tw_buckets": 1_000_000 });
        const running = await peer.start(bench, { rules: options.rules, workers: options.workers, placement: device });
        const server = await Tool.start<unknown>(lab, "recv", "tcp_rr", ["--listen", network.firstDestination], device);
        const iperf = lab.start("recv", [...placed(device), "iperf3", "--server", "--bind", network.firstDestination, "--forceflush"]);
        await iperf.waitForOutput(/listening/);
        // The first connection's neighbours are resolved, the device is awake.
        const reach = ["tcp_rr", "--connect", network.firstDestination, "--kind", "rr", "--seconds", "1"];
        await until("the far end answers", async () => (JSON.parse(await lab.must("gen", [toolPath(reach[0]!), ...reach.slice(1)])) as Transactions).transactions > 0);
        const pids = (): number[] => [...running.pids(), server.pid, iperf.pid, process.pid, ...softirqThreads()];

        /** Runs the client; answers what it printed, and the cores that were busy meanwhile. */
        async function run(argv: readonly string[], placement: Placement): Promise<{ text: string; busy: number; foreign: number }> {
          const client = lab.start("gen", [...placed(placement), ...argv]);
          const before = { cpu: readCpuTimes().busy, ours: processSeconds(pids()), at: Date.now() };
          let own = 0;
          // A process that has ended leaves no times: the last reading counts.
          const watch = setInterval(() => (own = Math.max(own, processSeconds([client.pid]))), 50);
          const exit = await client.finish((options.seconds + WARM_UP_SECONDS) * 1000 + SPARE_MS);
          clearInterval(watch);
          if (exit.code !== 0) throw new Error(`${argv[0]} through ${name}: ${client.tail()}`);
          const seconds = (Date.now() - before.at) / 1000;
          const busy = readCpuTimes().busy - before.cpu;
          return { text: client.stdout, busy: busy / seconds, foreign: Math.max(0, busy - own - (processSeconds(pids()) - before.ours)) / seconds };
        }

        async function transactions(kind: "rr" | "crr" | "udp") {
          const argv = [toolPath("tcp_rr"), "--connect", network.firstDestination, "--kind", kind, "--seconds", String(Math.max(1, Math.round(options.seconds)))];
          const { text, ...cpu } = await run([...argv, "--source", network.firstSource, "--sources", String(CLIENT_ADDRESSES)], generator);
          const result = JSON.parse(text) as Transactions;
          return { ...cpu, value: result.perSecond, detail: result };
        }

        async function bulk(...more: string[]) {
          const argv = ["iperf3", "--client", network.firstDestination, "--json", "--time", String(Math.max(1, Math.round(options.seconds))), "--omit", String(WARM_UP_SECONDS), ...more];
          const { text, ...cpu } = await run(argv, generator);
          const { end, error } = JSON.parse(text) as Iperf;
          if (error) throw new Error(`iperf3 through ${name}: ${error}`);
          const arrived = end.sum_received?.bits_per_second ?? end.sum.bits_per_second * (1 - (end.sum.lost_percent ?? 0) / 100);
          return { ...cpu, value: arrived / 1e9, detail: { retransmits: end.sum_sent?.retransmits, lostPercent: end.sum?.lost_percent } };
        }

        const run_ = {
          bulk: () => bulk("--parallel", String(options.streams)),
          rr: () => transactions("rr"),
          crr: () => transactions("crr"),
          udp: () => transactions("udp"),
          "udp-bulk": () => bulk("--udp", "--bitrate", "0", "--length", String(DATAGRAM_BYTES)),
        } satisfies Record<Workload, () => Promise<{ value: number; busy: number; foreign: number; detail: unknown }>>;

        return {
          async measure() {
            const measured: Measured = { values: {}, cores: {}, details: {}, foreignCores: 0 };
            for (const workload of options.workloads) {
              const { value, busy, foreign, detail } = await run_[workload]();
              measured.values[workload] = value;
              measured.cores[workload] = busy;
              measured.details[workload] = detail;
              measured.foreignCores = Math.max(measured.foreignCores, foreign);
            }
            return measured;
          },
          detail: () => running.detail(),
          async stop() {
            try {
              await running.stop();
              await server.stop();
            } finally {
              await lab.destroy();
            }
          },
        };
      } catch (error) {
        await lab.destroy();
        throw error;
      }
    },
    describe: ({ values }) => options.workloads.map((workload) => `${workload} ${workloads[workload].format(values[workload]!)}`).join(", "),
    foreignCores: ({ foreignCores }) => foreignCores,
  };
}

export async function main(argv: readonly string[]): Promise<void> {
  const options = turnCommand("tcp", "TCP and UDP of real endpoints through sluice (firewall + SNAT) and its peers, in turns.", { turns: 1, seconds: 3 })
    .option("--workloads <list>", `of ${WORKLOADS.join(",")}`, listOf(WORKLOADS), [...WORKLOADS])
    .option("--peers <list>", `devices under test, of ${PEER_NAMES.join(",")}`, listOf(PEER_NAMES), ["sluice", "kernel", "redirect"])
    .option("--rules <n>", "filler rules before the one that allows the traffic", parseCount, 1000)
    .option("--streams <n>", "parallel connections of the bulk transfer", parseCount, 1)
    .option("--workers <n>", "worker threads of sluice", parseCount, 1)
    .parse(argv, { from: "user" })
    .opts<Options>();
  prepareTools("tcp_rr", "bare_forwarder", "bare_redirect");
  if (options.urgent) becomeUrgent();
  const report = newReport("tcp", options);
  const outcomes = await measureInTurns(options.peers.map((name) => tcpContender(name, peers[name], options)), options);
  const valueOf = (workload: Workload) => (one: Measured): number => one.values[workload] ?? NaN;
  if (!options.urgent) report.void.push(...disturbances(outcomes));
  report.devices = outcomes.map((outcome) => ({
    ...{ name: outcome.name, title: outcome.title, foreignCoresMax: outcome.foreignCoresMax, rounds: outcome.rounds },
    ...Object.fromEntries(options.workloads.map((workload) => [workload, overRounds(outcome, valueOf(workload))])),
  }));
  for (const outcome of outcomes) {
    const failed = samplesOf(outcome, ({ details }) => Object.values(details).reduce<number>((sum, detail) => sum + ((detail as Partial<Transactions>).failed ?? 0), 0));
    const total = failed.reduce((sum, value) => sum + value, 0);
    if (total) report.void.push(`${total} transactions failed through ${outcome.title}`);
  }
  const sluice = outcomes.find(({ name }) => name === "sluice");
  const ratios: Record<string, unknown> = {};
  for (const peer of outcomes.filter((outcome) => sluice && outcome !== sluice)) {
    for (const workload of options.workloads) {
      const ratio = ratioOf(sluice!, peer, valueOf(workload));
      (ratios[workload] as Record<string, unknown> | undefined) ??= {};
      (ratios[workload] as Record<string, unknown>)[peer.name] = ratio;
      const bars = BARS[workload]?.[peer.name as PeerName];
      if (bars) report.verdicts.push(atLeast(`${workloads[workload].title}: sluice ÷ ${peer.title}`, ratio, ...bars) satisfies Verdict);
    }
  }
  report.ratios = ratios;
  const kernel = outcomes.find(({ name }) => name === "kernel");
  const tables = options.workloads.map((workload) => {
    const rows = outcomes.map((outcome) => {
      const { median, min, max } = overRounds(outcome, valueOf(workload));
      const { format } = workloads[workload];
      const cores = overRounds(outcome, (one) => one.cores[workload] ?? NaN).median.toFixed(2);
      return [outcome.title, format(median), `${format(min)} … ${format(max)}`, cores, kernel ? ratioOf(outcome, kernel, valueOf(workload)).median.toFixed(3) : ""];
    });
    return table([workloads[workload].title, workloads[workload].unit, "spread of rounds", "cores", kernel ? "÷ kernel" : ""], rows) + "\n";
  });
  finish(report, tables, {
    ...options,
    plot: {
      title: `TCP and UDP of real endpoints, 1500-byte frames, ${options.rules} rules`,
      panels: options.workloads.map((workload) => ({
        title: `${workloads[workload].title}, ${workloads[workload].unit}`,
        format: workloads[workload].format,
        rows: outcomes.map((outcome) => ({ name: outcome.title, values: samplesOf(outcome, valueOf(workload)) })),
      })),
    },
  });
}
