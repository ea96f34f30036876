// The devices under test of the packet benches: the appliance and what it is compared with, each set up as its users
// would, started and ended around each measurement because they share two netdevs.

import { execFileSync } from "node:child_process";
import { Sluice, type SluiceOptions } from "./sluice.js";
import { Tool } from "./tool.js";
import type { Bench } from "./topology.js";

/** A device under test while it runs. */
export interface Running {
  pids(): number[];
  /** Its own counters after a measurement: for people who look into a surprising result. */
  detail(): Promise<unknown>;
  stop(): Promise<void>;
}

export interface Peer {
  title: string;
  start(bench: Bench, options: SluiceOptions): Promise<Running>;
}

function toolPeer(title: string, tool: string): Peer {
  return {
    title,
    async start({ lab, mac }, { placement }) {
      const args = ["--in", "dut0", "--out", "dut1", "--destination-mac", mac.recv0, "--source-mac", mac.dut1];
      const running = await Tool.start<unknown>(lab, "dut", tool, args, placement);
      return { pids: () => [running.pid], detail: () => running.sample(), stop: () => running.stop() };
    },
  };
}

const NFT_RULES = `
table ip bench {
  chain forward {
    type filter hook forward priority filter; policy drop
    ct state vmap { established : accept, related : accept, invalid : drop }
    iifname "dut0" oifname "dut1" ip saddr 10.10.0.0/16 accept
  }
  chain postrouting {
    type nat hook postrouting priority srcnat
    oifname "dut1" ip saddr 10.10.0.0/16 masquerade
  }
}
`;

const kernel: Peer = {
  title: "kernel forwarding, nftables conntrack + masquerade",
  async start({ lab }) {
    // Frames from XDP are delivered only to a veth with NAPI, which generic receive offload gives it.
    const offload = (state: "on" | "off"): void => ["dut0", "dut1"].forEach((device) => void lab.runSync("dut", ["ethtool", "-K", device, "gro", state]));
    offload("on");
    const [file, ...args] = lab.inside("dut", ["nft", "-f", "-"]);
    execFileSync(file!, args, { input: NFT_RULES, stdio: ["pipe", "ignore", "pipe"] });
    lab.sysctl("dut", { "net.ipv4.ip_forward": 1 });
    return {
      pids: () => [],
      detail: async () => ({ conntrackEntries: Number(lab.runSync("dut", ["cat", "/proc/sys/net/netfilter/nf_conntrack_count"])) }),
      async stop() {
        lab.sysctl("dut", { "net.ipv4.ip_forward": 0 });
        lab.runSync("dut", ["nft", "delete", "table", "ip", "bench"]);
        offload("off");
      },
    };
  },
};

const sluice: Peer = {
  title: "sluice: firewall + SNAT",
  async start(bench, options) {
    const running = await Sluice.start(bench, options);
    return {
      pids: () => running.pids(),
      detail: () => running.status(),
      stop: () => running.stop(),
    };
  },
};

export const peers = {
  bare: toolPeer("bare AF_XDP forwarder", "bare_forwarder"),
  sluice,
  kernel,
  redirect: toolPeer("bare XDP redirect", "bare_redirect"),
} satisfies Record<string, Peer>;

export type PeerName = keyof typeof peers;
