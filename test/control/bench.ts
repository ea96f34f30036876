// The real control over a real engine socket, with an addon of plain JavaScript behind it. For tests of control, API and CLI.
import type { FastifyInstance } from 'fastify';
import { onTestFinished } from 'vitest';
import { buildApi } from '../../src/api/server.js';
import { Control } from '../../src/control/control.js';
import { Transactions } from '../../src/control/transactions.js';
import { DROP_RECORD_BYTES, DropReason, EndReason, FLOW_RECORD_BYTES, FlowEvent, SessionState, writeDropRecord, writeFlowRecord, type DropRecord, type FlowRecord } from '../../src/engine/abi.generated.js';
import type { HostFacts } from '../../src/engine/facts.js';
import { attachFlowLog } from '../../src/flowlog/attach.js';
import type { FlowLog } from '../../src/flowlog/flow-log.js';
import { EngineHost } from '../../src/engine/host.js';
import { fnv1a32 } from '../../src/config/names.js';
import { bytesOf, parseAddress } from '../../src/lib/address.js';
import type { RunDirectory } from '../../src/supervisor/run-directory.js';
import { localAccess } from '../api/local-access.js';
import { makeFacts, makeFakeAddon, makeRunDirectory, silentLog, type FakeAddon } from '../engine/fake-addon.js';

export const CONFIG = `version: 1
hostname: nva-test
interfaces:
  untrust: { device: eth1, zone: untrust, addresses: [203.0.113.4/24] }
  trust: { device: eth2, zone: trust, addresses: [10.0.1.4/24] }
routes:
  - { to: 0.0.0.0/0, via: 203.0.113.1 }
  - { to: 192.0.2.0/24, blackhole: true }
firewall:
  rules:
    - { name: outbound, from: [trust], to: [untrust], action: allow, log: both }
    - { name: telnet, service: [tcp/23], action: reject }
nat:
  source:
    - { name: egress, from: [trust], to: [untrust], translate: { interface: true } }
`;

export interface ControlBench {
  paths: RunDirectory; addon: FakeAddon; host: EngineHost; control: Control; transactions: Transactions; flowLog: FlowLog; api: FastifyInstance; facts: HostFacts;
  restartEngine(): Promise<void>;
}

export async function startBench(config = CONFIG): Promise<ControlBench> {
  const paths = makeRunDirectory();
  const bench = { paths, facts: makeFacts() } as ControlBench;
  bench.restartEngine = async () => {
    bench.host?.stop();
    bench.addon = makeFakeAddon();
    bench.host = new EngineHost({
      paths, open: { pinDirectory: '', bpfObject: '', workers: 2, sessionsMax: 1024, framesPerWorker: 512, txBudget: 32, busyPoll: false, offline: false, hostDevice: '' },
    }, { addon: bench.addon, log: silentLog, stopKernelForwarding: () => false, readFacts: () => Promise.resolve(structuredClone(bench.facts)), readDevices: () => Promise.resolve(structuredClone(bench.facts.devices)), prepare: () => Promise.resolve([]) });
    await bench.host.start();
  };
  await bench.restartEngine();
  const transactions = new Transactions(paths.configState, silentLog);
  bench.transactions = transactions;
  bench.control = new Control(paths.engineSocket, (facts, generation, slots) => transactions.compileRunning(facts, generation, slots), silentLog);
  await transactions.start(bench.control, config);
  bench.flowLog = attachFlowLog(bench.control, paths, silentLog);
  bench.api = buildApi(bench.control, paths, silentLog, { transactions, access: localAccess(silentLog) });
  onTestFinished(async () => {
    transactions.stop();
    bench.control.stop();
    await bench.api.close();
    await bench.flowLog.stop();
    bench.host.stop();
  });
  bench.control.start();
  return bench;
}

export const id = (kind: string, name: string): number => fnv1a32(`${kind}:${name}`);
const address = (text: string): Uint8Array => bytesOf(parseAddress(text));

export function makeFlow(over: Partial<Omit<FlowRecord, 'src' | 'dst' | 'natSrc'>> & { source?: string; destination?: string; natSource?: string } = {}): Uint8Array {
  const { source = '10.0.1.10', destination = '198.51.100.7', natSource = '203.0.113.4', ...rest } = over;
  const bytes = new Uint8Array(FLOW_RECORD_BYTES);
  writeFlowRecord(new DataView(bytes.buffer), 0, {
    sessionId: 1n, startNs: 1_700_000_000_000_000_000n, lastNs: 1_700_000_001_000_000_000n, packets: [3n, 2n], bytes: [300n, 2000n],
    src: address(source), dst: address(destination), natSrc: address(natSource), natDst: address(destination),
    srcPort: 40000, dstPort: 443, natSrcPort: 50123, natDstPort: 443, ruleId: id('rule', 'outbound'), natSourceId: id('nat-source', 'egress'), natDestinationId: 0,
    fromInterface: id('interface', 'trust'), toInterface: id('interface', 'untrust'), expiresS: 60, fromZone: 1, toZone: 0,
    protocol: 6, state: SessionState.ESTABLISHED, event: FlowEvent.START, endReason: EndReason.NONE, tcpFlags: Uint8Array.of(0x12, 0x10), ...rest,
  });
  return bytes;
}

export function makeDrop(over: Partial<Omit<DropRecord, 'src' | 'dst' | 'natSrc' | 'natDst'>> & { source?: string; destination?: string; natSource?: string; natDestination?: string } = {}): Uint8Array {
  const { source = '198.51.100.9', destination = '203.0.113.4', natSource = source, natDestination = destination, ...rest } = over;
  const { srcPort = 55555, dstPort = 23 } = rest;
  const bytes = new Uint8Array(DROP_RECORD_BYTES);
  writeDropRecord(new DataView(bytes.buffer), 0, {
    timeNs: 1_700_000_000_500_000_000n, src: address(source), dst: address(destination), natSrc: address(natSource), natDst: address(natDestination), srcPort, dstPort, natSrcPort: srcPort, natDstPort: dstPort,
    ruleId: 0, natSourceId: 0, natDestinationId: 0, interface: id('interface', 'untrust'), toInterface: 0, bytes: 60, reason: DropReason.POLICY_DENY, protocol: 6, tcpFlags: 0x02, tcpFlagsKnown: 1, ...rest,
  });
  return bytes;
}
