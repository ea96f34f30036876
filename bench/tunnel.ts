// The network of the WireGuard benches, and what can stand in it as its two gateways: end host, gateway, underlay, gateway,
// end host. The ends are the generator and the receiver of the other benches, the near gateway is their device under test.
//
//   gen ── (dut0) dut (wan0 192.168.77.1) ── underlay ── (wan0 192.168.77.2) far (dut1) ── recv
//          10.10.0.0/16      wg 10.99.0.1       WireGuard                10.99.0.2   10.20.0.0/16, 10.30.0.0/16
//
// The underlay is a veth pair, or with `router` a node that forwards, where other senders may stand.

import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { Lab } from "../lab/lab.js";
import { newKeyPair, WireguardGo, WIREGUARD_MTU, WIREGUARD_PORT, type KeyPair } from "../lab/wireguard-go.js";
import { takeRedirectedFrames, type DeviceOptions, type Peer, type Running } from "./peers.js";
import { Sluice } from "./sluice.js";
import { placed } from "./tool.js";
import { network, type Bench } from "./topology.js";

export const FAR_PREFIXES = [network.remotePrefix, "10.20.0.0/16"];
const INNER = { dut: "10.99.0.1", far: "10.99.0.2" } as const;
const ROUTER_ADDRESS = { dut: "192.168.77.254", far: "192.168.78.254" } as const;
export const OUTER = { dut: "192.168.77.1", far: "192.168.77.2" } as const;
const ROUTED_OUTER = { dut: "192.168.77.1", far: "192.168.78.1" } as const;
export type End = keyof typeof INNER;
const ENDS: readonly End[] = ["dut", "far"];

/** An Ethernet frame with the largest packet that the tunnel takes. */
export const TUNNEL_FRAME_BYTES = WIREGUARD_MTU + 14;

export interface TunnelBench extends Bench {
  outer: Record<End, string>;
  router: boolean;
  keys: Record<End, KeyPair>;
}

export function makeTunnelTopology({ router = false } = {}): TunnelBench {
  const lab = new Lab();
  const quiet = { "net.ipv6.conf.all.disable_ipv6": 1, "net.ipv6.conf.default.disable_ipv6": 1 };
  for (const node of ["gen", "dut", "far", "recv", ...(router ? ["net"] : [])]) lab.addNode(node, quiet);
  lab.addLink({ node: "gen", device: "gen0", addresses: [`${network.insideGateway}/24`] }, { node: "dut", device: "dut0", addresses: [`${network.insideAddress}/24`] });
  lab.addLink({ node: "recv", device: "recv0", addresses: [`${network.outsideGateway}/16`] }, { node: "far", device: "dut1", addresses: [`${network.outsideGateway.replace(/2$/, "1")}/16`] });
  const outer = router ? ROUTED_OUTER : OUTER;
  const wan = (end: End) => ({ node: end, device: "wan0", addresses: [`${outer[end]}/24`] });
  if (router) {
    lab.sysctl("net", { "net.ipv4.ip_forward": 1, "net.ipv4.conf.all.rp_filter": 0, "net.ipv4.conf.default.rp_filter": 0 });
    for (const end of ENDS) {
      lab.addLink(wan(end), { node: "net", device: `to-${end}`, addresses: [`${ROUTER_ADDRESS[end]}/24`] });
      lab.ip(end, `route add default via ${ROUTER_ADDRESS[end]}`);
    }
  } else {
    lab.addLink(wan("dut"), wan("far"));
  }
  lab.ip("gen", `route add default via ${network.insideAddress}`);
  lab.ip("recv", `route add default via ${network.outsideGateway.replace(/2$/, "1")}`);
  lab.ip("dut", `route add ${network.insidePrefix} via ${network.insideGateway}`);
  lab.ip("far", `route add ${network.remotePrefix} via ${network.outsideGateway}`);
  const macOf = (node: string, device: string): string => lab.ipJson<{ address: string }>(node, "link", "show", device)[0]!.address;
  const mac = { gen0: macOf("gen", "gen0"), dut0: macOf("dut", "dut0"), dut1: macOf("far", "dut1"), recv0: macOf("recv", "recv0") };
  return { lab, family: 4, mac, outer, router, keys: { dut: newKeyPair(), far: newKeyPair() } };
}

const otherOf = (end: End): End => (end === "dut" ? "far" : "dut");
/** What lies behind an end, by way of the tunnel. */
const behind = (end: End): string[] => [`${INNER[end]}/32`, ...(end === "dut" ? [network.insidePrefix] : FAR_PREFIXES)];

export interface SluicePair {
  dut: Sluice;
  far: Sluice;
}

/** The configuration of a gateway: all traffic between the end host and the tunnel is allowed, by a stateful firewall. */
export function gatewayConfiguration(bench: TunnelBench, end: End, options: DeviceOptions = {}, more: { wireguard?: object; top?: object } = {}): string {
  const other = otherOf(end);
  const file = join(bench.lab.directory, `${end}.key`);
  writeFileSync(file, `${bench.keys[end].privateKey}\n`, { mode: 0o600 });
  const inside = end === "dut" ? { to: network.insidePrefix, via: network.insideGateway } : { to: network.remotePrefix, via: network.outsideGateway };
  return JSON.stringify({
    version: 1,
    hostname: `bench-${end}`,
    interfaces: {
      trust: { device: end === "dut" ? "dut0" : "dut1", zone: "trust" },
      untrust: { device: "wan0", zone: "untrust" },
    },
    routes: [
      inside,
      ...behind(other).slice(1).map((to) => ({ to, via: { interface: "wg0" }, encrypt: "required" })),
      ...(bench.router ? [{ to: "0.0.0.0/0", via: ROUTER_ADDRESS[end] }] : []),
    ],
    firewall: { default: "deny", rules: [{ name: "tunnel", from: ["trust", "mesh"], to: ["trust", "mesh"], action: "allow" }] },
    ...(options.workers ? { engine: { workers: options.workers } } : {}),
    wireguard: {
      wg0: {
        zone: "mesh",
        listen: WIREGUARD_PORT,
        privateKeyFile: file,
        addresses: [`${INNER[end]}/24`],
        peers: [{ name: other, publicKey: bench.keys[other].publicKey, endpoint: `${bench.outer[other]}:${WIREGUARD_PORT}`, allowedIPs: behind(other) }],
        ...more.wireguard,
      },
    },
    ...more.top,
  });
}

export async function startSluicePair(bench: TunnelBench, options: DeviceOptions, more: Parameters<typeof gatewayConfiguration>[3] = {}): Promise<SluicePair> {
  const start = (end: End): Promise<Sluice> => Sluice.start(bench, { ...options, node: end, configuration: gatewayConfiguration(bench, end, options, more) });
  const dut = await start("dut");
  try {
    return { dut, far: await start("far") };
  } catch (error) {
    await dut.stop();
    throw error;
  }
}

const NODES_PORT = 8444;

/** Gateways that have their keys from one another, so that static keys can rotate. */
export async function startNodePair(bench: TunnelBench, options: DeviceOptions): Promise<SluicePair> {
  const own = { privateKeyFile: undefined, peers: undefined };
  const pair = await startSluicePair(bench, options, { wireguard: own });
  for (const end of ENDS) {
    const other = otherOf(end);
    const { id } = await pair[other].ask<{ id: string }>("node", "show", "--id");
    const nodes = {
      listen: `${bench.outer[end]}:${NODES_PORT}`,
      peers: [{ name: other, id, url: `https://${bench.outer[other]}:${NODES_PORT}` }],
      announce: { wg0: { endpoint: `${bench.outer[end]}:${WIREGUARD_PORT}` } },
    };
    const file = join(bench.lab.directory, `${end}-nodes.yaml`);
    writeFileSync(file, gatewayConfiguration(bench, end, options, { wireguard: { ...own, peers: [{ name: other, node: other, allowedIPs: behind(other) }] }, top: { nodes } }));
    await pair[end].ask("config", "commit", file);
  }
  return pair;
}

const sluicePair: Peer = {
  title: "sluice, firewall + WireGuard",
  async start(bench, options) {
    const pair = await startSluicePair(bench as TunnelBench, options);
    const both = [pair.dut, pair.far];
    return {
      pids: () => both.flatMap((one) => one.pids()),
      detail: async () => Promise.all(both.map(async (one) => ({ status: await one.status(), wireguard: await one.ask("wireguard", "show") }))),
      async stop() {
        for (const one of both) await one.stop();
      },
      sluice: pair.dut,
    };
  },
};

/** Kernel routing into the TUN device of wireguard-go, no firewall. */
const wireguardGoPair: Peer = {
  title: "wireguard-go, Debian's",
  async start(bench, options): Promise<Running> {
    const { lab, keys, outer } = bench as TunnelBench;
    const running: WireguardGo[] = [];
    for (const end of ENDS) {
      const other = otherOf(end);
      lab.sysctl(end, { "net.ipv4.ip_forward": 1 });
      takeRedirectedFrames(lab, end, [end === "dut" ? "dut0" : "dut1", "wan0"]);
      const peer = { publicKey: keys[other].publicKey, endpoint: `${outer[other]}:${WIREGUARD_PORT}`, allowedIPs: behind(other) };
      running.push(await WireguardGo.start(lab, end, { keys: keys[end], addresses: [`${INNER[end]}/24`], routes: behind(other).slice(1), peers: [peer], placement: placed(options.placement ?? {}) }));
    }
    return {
      pids: () => running.map(({ pid }) => pid),
      detail: async () => Promise.all(running.map((one) => one.peers())),
      async stop() {
        for (const one of running) await one.stop();
      },
    };
  },
};

export const gateways = { sluice: sluicePair, "wireguard-go": wireguardGoPair } satisfies Record<string, Peer>;
export type GatewayName = keyof typeof gateways;
export const GATEWAY_NAMES = Object.keys(gateways) as GatewayName[];
