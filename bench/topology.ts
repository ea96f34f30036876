// The network of the packet benches: a generator, the device under test and a receiver in a row, one veth pair each.
//
//   gen (gen0 10.10.0.2) ── (dut0 10.10.0.1) dut (dut1 10.20.0.1) ── (recv0 10.20.0.2) recv, which also is 10.30.0.0/16
//
// Generated flows come from 10.10.1.0 on and go to 10.30.0.1 on; both ranges lie behind one next hop, so that there is
// one neighbour to resolve on each side. IPv6 has the same plan: an IPv4 prefix A.B.C.D/n becomes 2001:db8:ABCD::/(32+n).

import { Lab } from "../lab/lab.js";

export type Family = 4 | 6;

/** The IPv6 prefix that stands for an IPv4 one in the benches. */
export function prefixInFamily(prefix: string, family: Family): string {
  if (family === 4) return prefix;
  const [address, length] = prefix.split("/");
  const [a, b, c, d] = address!.split(".").map(Number) as [number, number, number, number];
  return `2001:db8:${((a << 8) | b).toString(16)}:${((c << 8) | d).toString(16)}::/${32 + Number(length)}`;
}

export const network = {
  insideDevice: "dut0",
  outsideDevice: "dut1",
  insideAddress: "10.10.0.1",
  insidePrefix: "10.10.0.0/16",
  insideGateway: "10.10.0.2",
  remotePrefix: "10.30.0.0/16",
  outsideGateway: "10.20.0.2",
  firstSource: "10.10.1.0",
  firstDestination: "10.30.0.1",
  /** SNAT pool: in the outside subnet. */
  pool: "10.20.0.8-10.20.0.15",
  /** 64 k ports each: for benches that open sessions by the million. */
  largePool: "10.20.1.0-10.20.1.63",
  /** TCP clients may take any address of it. */
  clientPrefix: "10.10.1.0/24",
} as const;

export type Network = { readonly [Key in keyof typeof network]: string };

const network6: Network = {
  insideDevice: "dut0",
  outsideDevice: "dut1",
  insideAddress: "2001:db8:a0a::1",
  insidePrefix: "2001:db8:a0a::/48",
  insideGateway: "2001:db8:a0a::2",
  remotePrefix: "2001:db8:a1e::/48",
  outsideGateway: "2001:db8:a14::2",
  firstSource: "2001:db8:a0a:100::",
  firstDestination: "2001:db8:a1e::1",
  pool: "2001:db8:a14::8-2001:db8:a14::f",
  largePool: "2001:db8:a14::100-2001:db8:a14::13f",
  clientPrefix: "2001:db8:a0a:100::/64",
};

export const networks: Record<Family, Network> = { 4: network, 6: network6 };

export interface Bench {
  lab: Lab;
  family: Family;
  /** MAC addresses by device. */
  mac: Record<"gen0" | "dut0" | "dut1" | "recv0", string>;
}

export function makeTopology(family: Family = 4): Bench {
  const lab = new Lab();
  const { insideAddress, insidePrefix, insideGateway, remotePrefix, outsideGateway } = networks[family];
  const outsideAddress = outsideGateway.replace(/2$/, "1");
  const [near, far] = family === 4 ? ["/24", "/16"] : ["/64", "/64"];
  const quiet = { "net.ipv6.conf.all.disable_ipv6": 1, "net.ipv6.conf.default.disable_ipv6": 1 };
  for (const node of ["gen", "dut", "recv"]) lab.addNode(node, family === 4 ? quiet : {});
  lab.addLink({ node: "gen", device: "gen0", addresses: [insideGateway + near] }, { node: "dut", device: "dut0", addresses: [insideAddress + near] });
  lab.addLink({ node: "recv", device: "recv0", addresses: [outsideGateway + far] }, { node: "dut", device: "dut1", addresses: [outsideAddress + far] });
  lab.ip("gen", `route add default via ${insideAddress}`);
  lab.ip("dut", `route add ${insidePrefix} via ${insideGateway}`, `route add ${remotePrefix} via ${outsideGateway}`);
  // Where the device translates nothing, answers go to the inside addresses themselves.
  lab.ip("recv", `route add ${insidePrefix} via ${outsideAddress}`);
  const macOf = (node: string, device: string): string => lab.ipJson<{ address: string }>(node, "link", "show", device)[0]!.address;
  return { lab, family, mac: { gen0: macOf("gen", "gen0"), dut0: macOf("dut", "dut0"), dut1: macOf("dut", "dut1"), recv0: macOf("recv", "recv0") } };
}

/** Lets both ends own the addresses that the benches' TCP programs use. */
export function ownAddresses({ lab, family }: Bench): void {
  lab.ip("gen", `route add local ${networks[family].clientPrefix} dev lo`);
  lab.ip("recv", `route add local ${networks[family].remotePrefix} dev lo`);
}
