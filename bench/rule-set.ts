// Filler rules: firewall rules that stand before the one that allows the benches' traffic, and match none of it. The
// same rules for the appliance and for nftables, there one after the other or as one verdict map.
//
// Three kinds in turns, after what real sets hold: services of many destinations, blocks of sources, and services of the
// traffic's own networks, whose addresses match the traffic and whose ports do not. No packet matches two of them, so the
// set means the same as a map, which knows no order.

import { networks, prefixInFamily, type Family } from "./topology.js";

export interface FillerRule {
  source: string;
  destination: string;
  protocol: "tcp" | "udp";
  firstPort: number;
  lastPort: number;
  action: "allow" | "deny";
}

/** Addresses a rule of the first two kinds has to itself, in 11.0.0.0/8 and 12.0.0.0/8. */
const BLOCK_ADDRESSES = 16;
/** Ports of the third kind start here: above the traffic's own. */
const FIRST_OWN_PORT = 1000;
const WELL_KNOWN = [22, 25, 53, 80, 110, 123, 143, 389, 443, 445, 636, 993, 1433, 1521, 3306, 3389, 5432, 6379, 8080, 8443];

/** Numbers from 0 to below 1 that are the same in each run (mulberry32). */
function randomNumbers(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

export function fillerRules(count: number, family: Family = 4, seed = 1): FillerRule[] {
  const random = randomNumbers(seed);
  const below = (limit: number): number => Math.floor(random() * limit);
  const pick = <T>(values: readonly T[]): T => values[below(values.length)]!;
  const prefix = (address: number, length: number): string => {
    const masked = length === 0 ? 0 : (address & (-1 << (32 - length))) >>> 0;
    return prefixInFamily(`${[24, 16, 8, 0].map((shift) => (masked >>> shift) & 255).join(".")}/${length}`, family);
  };
  const somewhere = (): string => prefix(((20 + below(80)) << 24) | below(2 ** 24), pick([8, 12, 16, 20, 24, 24, 28, 32]));
  const ports = (): [number, number] => {
    const first = pick(WELL_KNOWN);
    return pick<[number, number]>([[first, first], [first, first], [first, first + below(100)], [1024, 65535], [0, 65535]]);
  };
  return Array.from({ length: count }, (_, number) => {
    const kind = number % 3;
    const block = Math.floor(number / 3) * BLOCK_ADDRESSES + below(BLOCK_ADDRESSES);
    const protocol = pick(["tcp", "tcp", "udp"] as const);
    const action = pick(["allow", "allow", "deny"] as const);
    if (kind === 2) {
      const port = FIRST_OWN_PORT + Math.floor(number / 3);
      const source = prefix((10 << 24) | (10 << 16) | below(2 ** 16), 16 + below(4));
      const destination = prefix((10 << 24) | (30 << 16) | below(2 ** 10), pick([16, 20, 24, 28, 32]));
      return { source, destination, protocol, firstPort: port, lastPort: port, action };
    }
    const own = prefix(((11 + kind) << 24) | block, pick([28, 29, 30, 31, 32]));
    const other = kind === 0 && below(3) === 0 ? prefix(0, 0) : somewhere();
    const [firstPort, lastPort] = ports();
    return { source: kind ? own : other, destination: kind ? other : own, protocol, firstPort, lastPort, action };
  });
}

const portText = ({ firstPort, lastPort }: FillerRule): string => (firstPort === lastPort ? String(firstPort) : `${firstPort}-${lastPort}`);

/** The rules in the appliance's configuration. */
export function applianceRules(rules: readonly FillerRule[]): object[] {
  return rules.map((rule, number) => ({
    name: `filler-${number}`,
    from: "trust",
    to: "untrust",
    source: rule.source,
    destination: rule.destination,
    service: `${rule.protocol}/${portText(rule)}`,
    action: rule.action,
  }));
}

const verdict = { allow: "accept", deny: "drop" } as const;

/**
 * The whole nftables ruleset of the kernel peer: established first, then the filler rules, then what allows the traffic.
 * `map` is the form a good administrator gives them, `linear` one rule a line.
 */
export function nftRuleset(rules: readonly FillerRule[], family: Family, form: "map" | "linear"): string {
  const ip = family === 4 ? "ip" : "ip6";
  const { insidePrefix } = networks[family];
  const elements = rules.map((rule) => `${rule.source} . ${rule.destination} . ${rule.protocol} . ${portText(rule)} : ${verdict[rule.action]}`);
  const lines = rules.map((rule) => `${ip} saddr ${rule.source} ${ip} daddr ${rule.destination} ${rule.protocol} dport ${portText(rule)} ${verdict[rule.action]}`);
  const asMap = form === "map" && rules.length > 0;
  return `table inet bench {
${
    asMap ? `  map filler {\n    typeof ${ip} saddr . ${ip} daddr . meta l4proto . th dport : verdict\n    flags interval\n    elements = {\n${elements.join(",\n")}\n    }\n  }\n` : ""
  }  chain outbound {
${asMap ? `    ${ip} saddr . ${ip} daddr . meta l4proto . th dport vmap @filler` : lines.map((line) => `    ${line}`).join("\n")}
    ${ip} saddr ${insidePrefix} accept
  }
  chain forward {
    type filter hook forward priority filter; policy drop
    ct state vmap { established : accept, related : accept, invalid : drop }
    iifname "dut0" oifname "dut1" goto outbound
  }
  chain postrouting {
    type nat hook postrouting priority srcnat
    oifname "dut1" ${ip} saddr ${insidePrefix} masquerade
  }
}
`;
}
