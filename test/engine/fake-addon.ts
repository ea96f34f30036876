// An addon of plain JavaScript for tests of what stands above it: it remembers what it was told and answers what a test sets.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import { readSnapshotHeader } from '../../src/engine/abi.generated.js';
import { COUNTER_WORDS, type Addon, type PortOptions, type XdpMode } from '../../src/engine/binding.js';
import type { HostFacts } from '../../src/engine/facts.js';
import { viewOf } from '../../src/engine/records.js';
import { createLog, type Log } from '../../src/supervisor/log.js';
import { runDirectory, type RunDirectory } from '../../src/supervisor/run-directory.js';

export interface FakeAddon extends Addon {
  calls: string[];
  ports: Map<number, PortOptions>;
  snapshot: Uint8Array | undefined;
  words: BigUint64Array;
  pendingRecords: { flows: Uint8Array[]; drops: Uint8Array[] };
  sessionRecords: Uint8Array[];
  hits: Uint8Array;
  pools: Uint8Array;
  ringRecords: Uint8Array;
  interfaceRecords: Uint8Array;
  attachMode: XdpMode;
  refusePort: Error | undefined;
  emit(event: unknown): void;
}

export function makeFakeAddon(): FakeAddon {
  let callback: (event: unknown) => void = () => { /* nobody listens */ };
  const fake: FakeAddon = {
    calls: [], ports: new Map(), snapshot: undefined, words: new BigUint64Array(COUNTER_WORDS), pendingRecords: { flows: [], drops: [] },
    sessionRecords: [], hits: new Uint8Array(0), pools: new Uint8Array(0), ringRecords: new Uint8Array(0), interfaceRecords: new Uint8Array(0), attachMode: 'native', refusePort: undefined,
    emit: (event) => callback(event),
    open: () => void fake.calls.push('open'),
    addPort: (port) => {
      if (fake.refusePort) throw fake.refusePort;
      fake.calls.push(`addPort ${port.name} slot ${port.slot}`);
      fake.ports.set(port.slot, port);
      return { mode: port.mode === 'generic' ? 'generic' : fake.attachMode };
    },
    removePort: (slot) => {
      fake.calls.push(`removePort ${slot}`);
      fake.ports.delete(slot);
    },
    apply: (snapshot) => {
      const { generation } = readSnapshotHeader(viewOf(snapshot), 0);
      fake.calls.push(`apply ${generation}`);
      fake.snapshot = snapshot;
      return { generation: Number(generation), microseconds: 7 };
    },
    counters: () => new Uint8Array(fake.words.buffer),
    records: (into) => {
      const parts = [...fake.pendingRecords.flows, ...fake.pendingRecords.drops];
      let bytes = 0;
      for (const part of parts) {
        into.set(part, bytes);
        bytes += part.length;
      }
      const answer = { flows: fake.pendingRecords.flows.length, drops: fake.pendingRecords.drops.length, bytes };
      fake.pendingRecords = { flows: [], drops: [] };
      return answer;
    },
    sessions: (cursor, into) => {
      const page = fake.sessionRecords.slice(cursor, cursor + Math.floor(into.length / 168));
      page.forEach((record, index) => into.set(record, index * 168));
      const next = cursor + page.length;
      return { count: page.length, cursor: next >= fake.sessionRecords.length ? 0 : next };
    },
    killSession: (id) => id === 42n,
    simulate: () => new Uint8Array(80),
    ruleHits: () => fake.hits,
    neighbours: () => new Uint8Array(0),
    natPools: () => fake.pools,
    rings: () => fake.ringRecords,
    interfaces: () => fake.interfaceRecords,
    setCapture: () => undefined,
    captured: () => 0,
    onEvent: (listener) => { callback = listener; },
    inject: () => ({ verdict: 'drop', reason: 'none', frames: [], host: [] }),
    advance: () => undefined,
    wireguardIndex: () => 1, wireguardInstall: () => undefined, wireguardForget: () => undefined, wireguardEndpoint: () => undefined,
    wireguardSend: () => true, wireguardGate: () => undefined, wireguardEvents: () => 0, wireguardPeers: () => new Uint8Array(0),
    setNeighbour: () => undefined,
    close: () => void fake.calls.push('close'),
  };
  return fake;
}

export function makeFacts(over: Partial<HostFacts> = {}): HostFacts {
  const device = (name: string, ifindex: number, address: string): HostFacts['devices'][number] => ({
    name, ifindex, mtu: 1500, mac: `02:00:00:00:00:0${ifindex}`, driver: 'veth', up: true, queues: 1, kind: 'veth',
    addresses: [{ address, prefixLength: 24, dynamic: false }],
  });
  return {
    devices: [device('eth1', 2, '203.0.113.4'), device('eth2', 3, '10.0.1.4')], localPortRange: [32768, 60999],
    xdp: [], conflicts: [], ipv6ForwardingAll: false, carriers: ['eth1', 'eth2'], ...over,
  };
}

export const silentLog: Log = createLog('test', () => undefined);

/** A run directory that is gone after the test, or whenever `keep` says. */
export function makeRunDirectory(keep: (remove: () => void) => void = (remove) => onTestFinished(remove)): RunDirectory {
  const dir = mkdtempSync(join(tmpdir(), 'sluice-test-'));
  keep(() => rmSync(dir, { recursive: true, force: true }));
  return runDirectory(dir);
}
