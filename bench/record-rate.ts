// How many flow records a second reach a log, and what does it cost? The way is the real one but for the packets: a process that plays the
// engine → IPC → control's pipeline → sink. Counts every record: sent, shed, lost, written.

import { fork } from "node:child_process";
import { mkdtempSync, rmSync, statSync } from "node:fs";
import { createSocket } from "node:dgram";
import { createServer, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import type { LogConfig } from "../src/config/schema-observability.js";
import { connectIpc } from "../src/engine/ipc.js";
import type { Names } from "../src/engine/records.js";
import { FlowLog } from "../src/flowlog/flow-log.js";
import { createLog } from "../src/supervisor/log.js";
import { SNAPSHOT_HEADER_BYTES } from "../src/engine/abi.generated.js";
import { benchCommand, parseCount, parseSeconds } from "./options.js";
import { count, finish, newReport, progress, table } from "./report.js";

const BAR = 100_000;
const LAG_MS = 10;

const names: Names = {
  rule: (id) => (id === 0 ? null : `rule-${id}`), natRule: (id) => (id === 0 ? null : "egress"), interfaceById: (id) => (id === 40 ? "trust" : "untrust"), interfaceAt: () => null,
  zone: (index) => (index === 0 ? "untrust" : "trust"), zoneOfInterface: () => "untrust",
};

interface Options { rate: number; seconds: number; to: string; json: boolean }

export async function main(argv: readonly string[]): Promise<void> {
  const options = benchCommand("record-rate", "Flow records from IPC to a file, syslog, IPFIX, or nowhere: rate, CPU, losses.")
    .option("--rate <n>", "records a second", parseCount, BAR)
    .option("--seconds <n>", "how long", parseSeconds, 10)
    .option("--to <sink>", "file, syslog-udp, syslog-tcp, ipfix or none", "file")
    .parse(argv, { from: "user" })
    .opts<Options>();
  const directory = mkdtempSync(join(tmpdir(), "sluice-bench-"));
  process.once("exit", () => rmSync(directory, { recursive: true, force: true }));
  const flowLog = new FlowLog(directory, { sessions: () => Promise.resolve({ count: 0, cursor: 0, bytes: new Uint8Array(0) }) }, createLog("bench", () => undefined));
  const log = await logOf(options.to);
  flowLog.configure({ names, hostname: "bench", snapshot: new Uint8Array(SNAPSHOT_HEADER_BYTES), observability: log ? { logs: [log] } : {} });
  const socket = join(directory, "source.sock");
  const child = fork(join(dirname(fileURLToPath(import.meta.url)), "record-source.js"), [socket, String(options.rate), String(options.seconds)]);
  process.once("exit", () => void child.kill("SIGKILL"));
  await new Promise((resolve) => child.once("message", resolve));
  progress(`${count(options.rate)} records a second to ${options.to}, ${options.seconds} s …`);
  const cpu = process.cpuUsage();
  const startedMs = performance.now();
  // What a request to the API would wait: the event loop's lateness.
  const lags: number[] = [];
  let expectedMs = performance.now() + LAG_MS;
  const lagTimer = setInterval(() => {
    lags.push(Math.max(0, performance.now() - expectedMs));
    expectedMs = performance.now() + LAG_MS;
  }, LAG_MS);
  const end = await new Promise<{ sent: number; shed: number; cpuSeconds: number }>((resolve) => {
    void connectIpc(socket, { onEvent: (name, { head, tail }) => {
      if (name === "records") flowLog.take(Number(head["flows"]), 0, tail);
      else resolve(head as unknown as { sent: number; shed: number; cpuSeconds: number });
    } });
  });
  while (flowLog.waiting > 0 || flowLog.streamStats.some(({ waitingBytes }) => waitingBytes > 0)) await new Promise((resolve) => setTimeout(resolve, 5));
  const seconds = (performance.now() - startedMs) / 1000;
  clearInterval(lagTimer);
  const { user, system } = process.cpuUsage(cpu);
  await flowLog.stop();
  const [stream] = flowLog.streamStats;
  const bytes = log?.path === undefined ? 0 : statSync(join(directory, log.path)).size;
  const written = stream?.sent ?? flowLog.taken;
  const lost = end.shed + flowLog.lost + (stream?.lost ?? 0);
  lags.sort((a, b) => a - b);
  const report = newReport("record-rate", options as unknown as Parameters<typeof newReport>[1]);
  const cpuSeconds = (user + system) / 1e6;
  const measured = { recordsPerSecond: written / seconds, lost, cpuOfControl: cpuSeconds / seconds, microsecondsARecord: (cpuSeconds * 1e6) / written, cpuOfSender: end.cpuSeconds / seconds, bytesARecord: bytes / written, lagP99Ms: lags[Math.floor(lags.length * 0.99)] ?? 0 };
  report["measured"] = measured;
  report.verdicts.push({ what: `records a second to ${options.to}`, value: measured.recordsPerSecond, bar: Math.min(BAR, options.rate) * 0.99, met: measured.recordsPerSecond >= Math.min(BAR, options.rate) * 0.99 });
  report.verdicts.push({ what: "records lost", value: lost, bar: 0, met: lost === 0 });
  finish(report, [table(["sink", "records/s", "lost", "control's CPU", "µs a record", "sender's CPU", "bytes a record", "event loop late, p99"], [[
    options.to, count(measured.recordsPerSecond), String(lost), measured.cpuOfControl.toFixed(3), measured.microsecondsARecord.toFixed(2), measured.cpuOfSender.toFixed(3), measured.bytesARecord.toFixed(0), `${measured.lagP99Ms.toFixed(1)} ms`,
  ]])], options);
  process.exit(process.exitCode ?? 0);
}

/** Receivers that take and forget. */
async function logOf(to: string): Promise<LogConfig | undefined> {
  if (to === "none") return undefined;
  if (to === "file") return { name: "bench", type: "flow", to: "file", path: "flows.jsonl", rotate: { megabytes: 102_400 } };
  if (to === "syslog-tcp") {
    const server = createServer((socket) => socket.resume());
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    return { name: "bench", type: "flow", to: "syslog", transport: "tcp", address: `127.0.0.1:${(server.address() as AddressInfo).port}` };
  }
  const socket = createSocket("udp4");
  await new Promise<void>((resolve) => socket.bind(0, "127.0.0.1", resolve));
  return { name: "bench", type: "flow", to: to === "ipfix" ? "ipfix" : "syslog", address: `127.0.0.1:${socket.address().port}` };
}
