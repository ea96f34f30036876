// `npm run bench -- NAME [options]`: runs one bench. Each answers one question, and stands in a file of its own.

const benches: Record<string, { question: string; load: () => Promise<{ main(argv: readonly string[]): Promise<void> }> }> = {
  forwarding: {
    question: "how many packets a second of established flows, against the kernel, bare AF_XDP and bare XDP redirect?",
    load: () => import("./forwarding.js"),
  },
  latency: {
    question: "how long does a packet take at half of the kernel's most, against the kernel?",
    load: () => import("./latency.js"),
  },
  tcp: {
    question: "how fast are bulk transfers and transactions of real endpoints, against the kernel's NAT and bare XDP redirect?",
    load: () => import("./tcp.js"),
  },
  rules: {
    question: "does speed depend on the number of rules: established flows, and new flows against nftables?",
    load: () => import("./rules.js"),
  },
  commit: {
    question: "how much of the speed is left while thousands of rules are committed?",
    load: () => import("./commit.js"),
  },
  control: {
    question: "how fast are changes and questions: a commit, an API answer, control's restart under traffic, records to a file?",
    load: () => import("./control.js"),
  },
  "engine-vs-bare": {
    question: "how fast are firewall + SNAT in the engine alone, against a bare AF_XDP forwarder?",
    load: () => import("./engine-vs-bare.js"),
  },
  "engine-cost": {
    question: "what does the engine's own work cost, from memory alone: cycles a packet, session set-up, memory?",
    load: () => import("./engine-cost.js"),
  },
  "record-rate": {
    question: "how many flow records a second reach a log file, syslog or IPFIX, and what does it cost?",
    load: () => import("./record-rate.js"),
  },
  wireguard: {
    question: "how much does a WireGuard tunnel between two gateways carry, and at what price, against wireguard-go?",
    load: () => import("./wireguard.js"),
  },
  "wireguard-flood": {
    question: "what does a flood of handshakes from spoofed addresses do to a tunnel that is up?",
    load: () => import("./wireguard-flood.js"),
  },
  "wireguard-soak": {
    question: "does a tunnel lose or reorder anything while its session keys and static keys change?",
    load: () => import("./wireguard-soak.js"),
  },
  integrity: {
    question: "does every byte of parallel TCP connections through SNAT arrive right?",
    load: () => import("./integrity.js"),
  },
  soak: {
    question: "does anything leak while connections come and go for minutes beside a bulk transfer?",
    load: () => import("./soak.js"),
  },
};

// The lab removes itself when the process exits.
process.once("SIGINT", () => process.exit(130));
process.once("SIGTERM", () => process.exit(143));

const [name, ...argv] = process.argv.slice(2);
const bench = name === undefined ? undefined : benches[name];
if (bench) {
  const { main } = await bench.load();
  try {
    await main(argv);
  } catch (error) {
    process.stderr.write(`bench ${name}: ${(error as Error).message}\n`);
    process.exitCode = 1;
  }
} else {
  const list = Object.entries(benches).map(([key, { question }]) => `  ${key.padEnd(16)} ${question}\n`);
  const wanted = name === "--help" || name === undefined;
  (wanted ? process.stdout : process.stderr).write(`${wanted ? "" : `there is no bench ${name}\n`}usage: npm run bench -- NAME [options], NAME --help for its options\n${list.join("")}`);
  process.exitCode = wanted ? 0 : 2;
}
