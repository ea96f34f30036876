// The network of the packet benches: a generator, the device under test and a receiver in a row, one veth pair each.
//
//   gen (gen0 10.10.0.2) ── (dut0 10.10.0.1) dut (dut1 10.20.0.1) ── (recv0 10.20.0.2) recv, which also is 10.30.0.0/16
//
// Generated flows come from 10.10.1.0 on and go to 10.30.0.1 on, through the next hop 10.20.0.2: one neighbour to resolve.

import { Lab } from "../lab/lab.js";

export const network = {
  insideDevice: "dut0",
  outsideDevice: "dut1",
  insidePrefix: "10.10.0.0/16",
  remotePrefix: "10.30.0.0/16",
  outsideGateway: "10.20.0.2",
  insideAddress: "10.10.0.1",
  firstSource: "10.10.1.0",
  firstDestination: "10.30.0.1",
  /** SNAT pool: in the outside subnet, routed to the device under test. */
  pool: "10.20.0.8-10.20.0.15",
  poolPrefix: "10.20.0.8/29",
  /** TCP clients may take any address of it. */
  clientPrefix: "10.10.1.0/24",
} as const;

export interface Bench {
  lab: Lab;
  /** MAC addresses by device. */
  mac: Record<"gen0" | "dut0" | "dut1" | "recv0", string>;
}

export function makeTopology(): Bench {
  const lab = new Lab();
  const quiet = { "net.ipv6.conf.all.disable_ipv6": 1, "net.ipv6.conf.default.disable_ipv6": 1 };
  for (const node of ["gen", "dut", "recv"]) lab.addNode(node, quiet);
  lab.addLink({ node: "gen", device: "gen0", addresses: ["10.10.0.2/16"] }, { node: "dut", device: "dut0", addresses: ["10.10.0.1/16"] });
  lab.addLink({ node: "recv", device: "recv0", addresses: ["10.20.0.2/16"] }, { node: "dut", device: "dut1", addresses: ["10.20.0.1/16"] });
  lab.ip("gen", "route add default via 10.10.0.1");
  lab.ip("dut", `route add ${network.remotePrefix} via ${network.outsideGateway}`);
  const macOf = (node: string, device: string): string => lab.ipJson<{ address: string }>(node, "link", "show", device)[0]!.address;
  return { lab, mac: { gen0: macOf("gen", "gen0"), dut0: macOf("dut", "dut0"), dut1: macOf("dut", "dut1"), recv0: macOf("recv", "recv0") } };
}

/** Lets both ends own the addresses that the benches' TCP programs use. */
export function ownAddresses({ lab }: Bench): void {
  lab.ip("gen", `route add local ${network.clientPrefix} dev lo`);
  lab.ip("recv", `route add local ${network.remotePrefix} dev lo`);
}
