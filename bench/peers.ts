// The devices under test of the packet benches: the appliance and what it is compared with, each set up as its users
// would, started and ended around each measurement because they share two netdevs.

import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Lab } from "../lab/lab.js";
import { fillerRules, nftRuleset } from "./rule-set.js";
import { Sluice, type SluiceOptions } from "./sluice.js";
import { Tool } from "./tool.js";
import type { Bench } from "./topology.js";

/** A device under test while it runs. */
export interface Running {
  pids(): number[];
  /** Its own counters after a measurement: for people who look into a surprising result. */
  detail(): Promise<unknown>;
  stop(): Promise<void>;
  /** The appliance itself, where the device is one. */
  sluice?: Sluice;
}

export interface DeviceOptions extends SluiceOptions {
  /** Frames come from XDP: they are delivered only to a veth with NAPI, which generic receive offload gives it. */
  fromXdp?: boolean;
}

export interface Peer {
  title: string;
  start(bench: Bench, options: DeviceOptions): Promise<Running>;
}

const NETDEVS = ["dut0", "dut1"] as const;

export function setOffloads(lab: Lab, node: string, netdevs: readonly string[], ...settings: string[]): void {
  for (const netdev of netdevs) lab.runSync(node, ["ethtool", "-K", netdev, ...settings]);
}

/**
 * Gives netdevs NAPI by generic receive offload: frames that XDP redirects to a veth without it are lost. Off first: where
 * it is on already veth does not tell its peer (again) that redirected frames are taken.
 */
export function takeRedirectedFrames(lab: Lab, node: string, netdevs: readonly string[]): void {
  setOffloads(lab, node, netdevs, "gro", "off");
  setOffloads(lab, node, netdevs, "gro", "on");
}

function toolPeer(title: string, tool: string): Peer {
  return {
    title,
    async start({ lab, mac }, { placement }) {
      const args = [
        ...["--in", "dut0", "--out", "dut1", "--destination-mac", mac.recv0, "--source-mac", mac.dut1],
        ...["--return-destination-mac", mac.gen0, "--return-source-mac", mac.dut0],
      ];
      const running = await Tool.start<unknown>(lab, "dut", tool, args, placement);
      return { pids: () => [running.pid], detail: () => running.sample(), stop: () => running.stop() };
    },
  };
}

/** Connections for which the kernel's table is sized, as an administrator would who expects the benches' flows. */
const CONNECTIONS = 4 * 1024 * 1024;
const HASH_SIZE = "/sys/module/nf_conntrack/parameters/hashsize";
const CONNECTIONS_MAX = "/proc/sys/net/netfilter/nf_conntrack_max";
let tableIsSized = false;

/** Sizes the connection table, which is the whole machine's; it gets its old size when the bench ends. */
function sizeConnectionTable(): void {
  if (tableIsSized || !existsSync(HASH_SIZE)) return;
  tableIsSized = true;
  const old = [HASH_SIZE, CONNECTIONS_MAX].map((file) => [file, readFileSync(file, "utf8").trim()] as const);
  process.on("exit", () => old.forEach(([file, value]) => writeFileSync(file, value)));
  writeFileSync(HASH_SIZE, String(CONNECTIONS / 4));
  writeFileSync(CONNECTIONS_MAX, String(CONNECTIONS));
}

interface KernelVariant {
  /** The form of the filler rules. */
  form?: "map" | "linear";
  /** Generic receive offload where packets come from the stack: frames then travel in bundles. */
  receiveOffload?: boolean;
}

function kernelPeer(title: string, { form = "map", receiveOffload = false }: KernelVariant = {}): Peer {
  return {
    title,
    async start({ lab, family }, { fromXdp, rules = 0, timers }) {
      setOffloads(lab, "dut", NETDEVS, "gro", "off", "tso", "off", "gso", "off");
      if (fromXdp || receiveOffload) takeRedirectedFrames(lab, "dut", NETDEVS);
      const file = join(lab.directory, "kernel.nft");
      writeFileSync(file, nftRuleset(fillerRules(rules, family), family, form));
      lab.runSync("dut", ["nft", "-f", file]);
      sizeConnectionTable(); // now that connection tracking is there
      lab.sysctl("dut", {
        [family === 4 ? "net.ipv4.ip_forward" : "net.ipv6.conf.all.forwarding"]: 1,
        // As long as the appliance's: the flows of a bench live while others are measured.
        "net.netfilter.nf_conntrack_udp_timeout": timers?.udpNew ?? 120,
        "net.netfilter.nf_conntrack_udp_timeout_stream": timers?.udp ?? 300,
      });
      return {
        pids: () => [],
        detail: async () => ({ conntrackEntries: Number(lab.runSync("dut", ["cat", "/proc/sys/net/netfilter/nf_conntrack_count"])) }),
        async stop() {
          lab.runSync("dut", ["nft", "delete", "table", "inet", "bench"]);
        },
      };
    },
  };
}

const sluice: Peer = {
  title: "sluice: firewall + SNAT",
  async start(bench, options) {
    const running = await Sluice.start(bench, options);
    return {
      pids: () => running.pids(),
      detail: () => running.status(),
      stop: () => running.stop(),
      sluice: running,
    };
  },
};

export const peers = {
  bare: toolPeer("bare AF_XDP forwarder", "bare_forwarder"),
  sluice,
  kernel: kernelPeer("kernel, nftables conntrack + masquerade"),
  "kernel-linear": kernelPeer("the kernel's, rules one after the other", { form: "linear" }),
  "kernel-gro": kernelPeer("the kernel's, with GRO", { receiveOffload: true }),
  redirect: toolPeer("bare XDP redirect", "bare_redirect"),
} satisfies Record<string, Peer>;

export type PeerName = keyof typeof peers;
