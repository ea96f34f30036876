// The sending end of bench record-rate, a process of its own: plays the engine process, without packets. Every 50 ms it sends a batch of
// flow records over a Unix socket by the engine's own IPC, and counts what the socket would not take. Arguments: SOCKET RATE SECONDS.

import { DROP_RECORD_BYTES, FLOW_RECORD_BYTES, writeFlowRecord } from "../src/engine/abi.generated.js";
import { IpcConnection, listenIpc } from "../src/engine/ipc.js";
import { bytesOf, parseAddress } from "../src/lib/address.js";

const BATCH_MS = 50;
const VARIANTS = 50_000; // records that differ, sent in turn

const [socketPath = "", rate = "0", seconds = "0"] = process.argv.slice(2);
const source = new Uint8Array(VARIANTS * FLOW_RECORD_BYTES);
const view = new DataView(source.buffer);
const nowNs = BigInt(Date.now()) * 1_000_000n;
for (let n = 0; n < VARIANTS; n += 1) {
  const inside = bytesOf(parseAddress(`10.${n & 255}.${(n >> 8) & 255}.7`));
  const outside = bytesOf(parseAddress("203.0.113.4"));
  const server = bytesOf(parseAddress(`198.51.100.${n % 250}`));
  writeFlowRecord(view, n * FLOW_RECORD_BYTES, {
    sessionId: BigInt(n) << 8n, startNs: nowNs - BigInt(n) * 1_000_000n, lastNs: nowNs + BigInt(n % 1000) * 1_000_000n, packets: [BigInt(n % 90), BigInt(n % 70)], bytes: [BigInt(n * 3), BigInt(n * 17)],
    src: inside, dst: server, natSrc: outside, natDst: server, srcPort: 1024 + (n % 60_000), dstPort: 443, natSrcPort: 1024 + ((n * 7) % 60_000), natDstPort: 443,
    ruleId: 1 + (n % 20), natSourceId: 30, natDestinationId: 0, fromInterface: 40, toInterface: 41, expiresS: 0, fromZone: 1, toZone: 0,
    protocol: n % 4 === 0 ? 17 : 6, state: 3, event: n % 2 === 0 ? 0 : 2, endReason: n % 2 === 0 ? 0 : 2, tcpFlags: Uint8Array.of(0x1b, 0x1b),
  });
}

let shed = 0;
let sent = 0;
await listenIpc(socketPath, (socket) => {
  const connection = new IpcConnection(socket, {});
  const startedMs = performance.now();
  const cpu = process.cpuUsage();
  const timer = setInterval(() => {
    const elapsedS = (performance.now() - startedMs) / 1000;
    const due = Math.min(Math.floor(Math.min(elapsedS, Number(seconds)) * Number(rate)) - sent - shed, VARIANTS);
    if (due > 0) {
      const from = (sent % (VARIANTS - due + 1)) * FLOW_RECORD_BYTES;
      if (connection.event("records", { flows: due, drops: 0 }, source.subarray(from, from + due * FLOW_RECORD_BYTES))) sent += due;
      else shed += due;
    }
    if (elapsedS < Number(seconds) || sent + shed < Number(rate) * Number(seconds)) return;
    clearInterval(timer);
    const { user, system } = process.cpuUsage(cpu);
    connection.event("end", { sent, shed, cpuSeconds: (user + system) / 1e6, dropBytes: DROP_RECORD_BYTES });
  }, BATCH_MS);
});
process.send?.("ready");
