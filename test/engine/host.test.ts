// The engine process over an addon of plain JavaScript: order of changes, what survives a crash, bounded records.
import { once } from 'node:events';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { createConnection } from 'node:net';
import { join } from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { DROP_RECORD_BYTES, FLOW_RECORD_BYTES, SL_COUNTER_COUNT, SL_DROP_REASON_COUNT, SNAPSHOT_HEADER_BYTES, SL_SNAPSHOT_MAGIC } from '../../src/engine/abi.generated.js';
import { GAUGES } from '../../src/engine/binding.js';
import { EngineHost } from '../../src/engine/host.js';
import { connectIpc, type IpcConnection, type Message } from '../../src/engine/ipc.js';
import { loadLastApplied, type ConfigurePlan } from '../../src/engine/last-applied.js';
import type { NetdevPlan } from '../../src/engine/netdevs.js';
import type { WireguardView } from '../../src/engine/wireguard.js';
import type { RunDirectory } from '../../src/supervisor/run-directory.js';
import { makeFacts, makeFakeAddon, makeRunDirectory, silentLog, type FakeAddon } from './fake-addon.js';
import { freePort, MemoryNetwork, MemoryWorkers } from './memory-wireguard.js';

const port = (name: string, ifindex: number, slot: number): ConfigurePlan['ports'][number] => ({ name, ifindex, slot, queues: 1, mode: 'native', allowGeneric: true, partialChecksums: true });
const PLAN: ConfigurePlan = { ports: [port('eth1', 2, 0), port('eth2', 3, 1)], vlans: [], addresses: [] };

function makeSnapshot(generation: number): Uint8Array {
  const bytes = new Uint8Array(SNAPSHOT_HEADER_BYTES);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, SL_SNAPSHOT_MAGIC, true);
  view.setBigUint64(16, BigInt(generation), true);
  return bytes;
}

/** `asked`: what the addon had been told each time that netdevs were read. */
interface Running { addon: FakeAddon; host: EngineHost; prepared: NetdevPlan[]; asked: string[][] }

async function startHost(paths: RunDirectory, facts = makeFacts(), addon = makeFakeAddon()): Promise<Running> {
  const prepared: NetdevPlan[] = [];
  const asked: string[][] = [];
  const host = new EngineHost({
    paths, open: { pinDirectory: paths.bpf, bpfObject: '', workers: 2, sessionsMax: 1024, framesPerWorker: 512, txBudget: 32, busyPoll: false, offline: false, hostDevice: 'sluice0' },
  }, {
    addon, log: silentLog, stopKernelForwarding: () => false, readFacts: () => Promise.resolve(facts), readDevices: () => {
      asked.push([...addon.calls]);
      return Promise.resolve(facts.devices);
    },
    prepare: (plan) => {
      prepared.push(plan);
      addon.calls.push('prepare');
      return Promise.resolve([]);
    },
  });
  await host.start();
  onTestFinished(() => host.stop());
  return { addon, host, prepared, asked };
}

async function connect(paths: RunDirectory, onEvent?: (name: string, message: Message) => void): Promise<IpcConnection> {
  const connection = await connectIpc(paths.engineSocket, onEvent ? { onEvent } : {});
  onTestFinished(() => connection.close());
  return connection;
}

const configure = (connection: IpcConnection, plan: ConfigurePlan): Promise<Message> => connection.request('configure', {}, Buffer.from(JSON.stringify(plan)));

describe('changes', () => {
  test('netdevs are prepared before XDP is attached, ports before a snapshot is applied', async () => {
    const paths = makeRunDirectory();
    const { addon, prepared } = await startHost(paths);
    const connection = await connect(paths);
    await configure(connection, PLAN);
    const { head } = await connection.request('apply', {}, makeSnapshot(1));
    expect(head).toEqual({ generation: 1, microseconds: 7 });
    expect(addon.calls).toEqual(['open', 'prepare', 'addPort eth1 slot 0', 'addPort eth2 slot 1', 'apply 1']);
    expect(prepared[0]).toMatchObject({ devices: ['eth1', 'eth2'], raise: ['eth1', 'eth2'] });
    expect((await connection.request('status')).head).toMatchObject({ generation: 1, restored: false, ports: [{ name: 'eth1', slot: 0, mode: 'native' }, { name: 'eth2', slot: 1 }] });
  });

  test('a port that stays is neither attached again nor set up again', async () => {
    const paths = makeRunDirectory();
    const { addon, prepared } = await startHost(paths);
    const connection = await connect(paths);
    await configure(connection, PLAN);
    await configure(connection, PLAN);
    expect(addon.calls.filter((call) => call.startsWith('addPort'))).toHaveLength(2);
    expect(prepared[1]!.raise).toEqual([]);
  });

  test('a netdev that came back with another index is attached anew; one that is not planned any more is let go', async () => {
    const paths = makeRunDirectory();
    const { addon } = await startHost(paths);
    const connection = await connect(paths);
    await configure(connection, PLAN);
    await configure(connection, { ...PLAN, ports: [port('eth1', 12, 0)] });
    expect(addon.calls.slice(-3)).toEqual(['removePort 0', 'removePort 1', 'addPort eth1 slot 0']);
    expect([...addon.ports.values()]).toMatchObject([{ name: 'eth1', ifindex: 12 }]);
  });

  test('generic XDP is a warning, or refused where the configuration wants native', async () => {
    const paths = makeRunDirectory();
    const { addon } = await startHost(paths);
    addon.attachMode = 'generic';
    const connection = await connect(paths);
    expect((await configure(connection, { ...PLAN, ports: [port('eth1', 2, 0)] })).head['warnings']).toEqual([expect.stringContaining('no native XDP')]);
    await expect(configure(connection, { ...PLAN, ports: [{ ...port('eth2', 3, 1), allowGeneric: false }] })).rejects.toMatchObject({ code: 'SLUICE_XDP_MODE' });
    expect(addon.ports.has(1)).toBe(false);
  });

  test('what the addon refuses comes back with its code', async () => {
    const paths = makeRunDirectory();
    const { addon } = await startHost(paths);
    addon.refusePort = Object.assign(new Error('eth1: busy'), { code: 'SLUICE_PORT' });
    await expect(configure(await connect(paths), PLAN)).rejects.toMatchObject({ code: 'SLUICE_PORT', message: 'eth1: busy' });
  });

  test('requests that are none are refused', async () => {
    const paths = makeRunDirectory();
    await startHost(paths);
    const connection = await connect(paths);
    await expect(connection.request('reboot')).rejects.toMatchObject({ code: 'SLUICE_IPC_METHOD' });
    await expect(connection.request('kill', { sessionId: 'all' })).rejects.toMatchObject({ code: 'SLUICE_IPC_ARGUMENT' });
    await expect(connection.request('sessions', { cursor: -1 })).rejects.toMatchObject({ code: 'SLUICE_IPC_ARGUMENT' });
    await expect(connection.request('configure', {}, Buffer.from('{}'))).rejects.toThrow(/a plan has/);
    expect((await connection.request('kill', { sessionId: '42' })).head).toEqual({ killed: true });
  });
});

describe('after a crash', () => {
  async function applied(): Promise<RunDirectory> {
    const paths = makeRunDirectory();
    const { host } = await startHost(paths);
    const connection = await connect(paths);
    await configure(connection, PLAN);
    await connection.request('apply', {}, makeSnapshot(5));
    host.stop();
    return paths;
  }

  test('the state in force is applied again before anybody connects', async () => {
    const { addon, host } = await startHost(await applied());
    expect(addon.calls).toEqual(['open', 'prepare', 'addPort eth1 slot 0', 'addPort eth2 slot 1', 'apply 5']);
    expect(host.status()).toMatchObject({ generation: 5, restored: true });
  });

  // Packets wait for it.
  test('the machine is asked for its netdevs once, beside the addon\'s opening, and links are left as they are', async () => {
    const { prepared, asked } = await startHost(await applied());
    expect(asked).toEqual([[]]);
    expect(prepared[0]).toMatchObject({ devices: ['eth1', 'eth2'], raise: [] });
  });

  test('addresses of tunnels stand on the engine\'s own device, which is not there before it opens', async () => {
    const paths = makeRunDirectory();
    const { host } = await startHost(paths);
    const connection = await connect(paths);
    await configure(connection, { ...PLAN, addresses: [{ device: 'sluice0', address: '10.99.0.1', prefixLength: 24 }, { device: 'gone0', address: '10.98.0.1', prefixLength: 24 }] });
    await connection.request('apply', {}, makeSnapshot(5));
    host.stop();
    const { prepared } = await startHost(paths);
    expect(prepared[0]!.addresses.map((one) => one.device)).toEqual(['sluice0']);
  });

  test('changes in a row are written once, a while after the last one; until then an older state does not count', async () => {
    const paths = makeRunDirectory();
    const { host } = await startHost(paths);
    const connection = await connect(paths);
    await configure(connection, PLAN);
    for (const generation of [5, 6, 7]) await connection.request('apply', {}, makeSnapshot(generation));
    expect(existsSync(paths.lastApplied)).toBe(false);
    await expect.poll(() => existsSync(paths.lastApplied)).toBe(true);
    expect(Number(new DataView(loadLastApplied(paths.lastApplied)!.snapshot.buffer).getBigUint64(16, true))).toBe(7);
    const kept = readFileSync(paths.lastApplied);
    await connection.request('apply', {}, makeSnapshot(8));
    host.stop();
    expect(readFileSync(paths.lastApplied).equals(kept)).toBe(false); // who ends in order leaves nothing unwritten
    writeFileSync(paths.lastApplied, kept);
    const addon = makeFakeAddon();
    addon.words[SL_COUNTER_COUNT + SL_DROP_REASON_COUNT + GAUGES.indexOf('generation')] = 8n; // what the sessions of the killed engine bear
    await startHost(paths, makeFacts(), addon);
    expect(addon.calls).toEqual(['open']);
  });

  test('a netdev that was replaced meanwhile is left out; without any, the engine waits, closed', async () => {
    const facts = makeFacts();
    facts.devices[1]!.ifindex = 77;
    const paths = await applied();
    const { addon, host } = await startHost(paths, facts);
    expect(addon.calls).toEqual(['open', 'prepare', 'addPort eth1 slot 0', 'apply 5']);
    host.stop();
    facts.devices.shift();
    expect((await startHost(paths, facts)).addon.calls).toEqual(['open']);
  });

  test('an engine that cannot restore still serves', async () => {
    const paths = await applied();
    const addon = makeFakeAddon();
    addon.refusePort = new Error('busy');
    await startHost(paths, makeFacts(), addon);
    expect((await (await connect(paths)).request('status')).head).toMatchObject({ generation: 0, ports: [] });
  });
});

describe('records and events', () => {
  test('records that came while nobody was connected are delivered', async () => {
    const paths = makeRunDirectory();
    const { addon } = await startHost(paths);
    addon.pendingRecords = { flows: [new Uint8Array(FLOW_RECORD_BYTES).fill(1)], drops: [new Uint8Array(DROP_RECORD_BYTES).fill(2)] };
    await expect.poll(() => addon.pendingRecords.flows.length).toBe(0);
    const seen: Message[] = [];
    await connect(paths, (name, message) => { if (name === 'records') seen.push(message); });
    await expect.poll(() => seen.length).toBe(1);
    expect(seen[0]!.head).toMatchObject({ flows: 1, drops: 1 });
    expect(seen[0]!.tail).toHaveLength(FLOW_RECORD_BYTES + DROP_RECORD_BYTES);
  });

  test('memory for them is bounded: the oldest go first, and are counted', async () => {
    const paths = makeRunDirectory();
    const { addon, host } = await startHost(paths);
    for (let turn = 0; host.status().recordsShed === 0; turn += 1) {
      expect(turn).toBeLessThan(100);
      addon.pendingRecords = { flows: Array.from({ length: 5000 }, () => new Uint8Array(FLOW_RECORD_BYTES)), drops: [] };
      await expect.poll(() => addon.pendingRecords.flows.length, { interval: 5 }).toBe(0);
    }
    expect(host.status().recordsShed).toBe(5000);
  });

  test('records that control died over, before the kernel had them, are for the next one', async () => {
    const paths = makeRunDirectory();
    const { addon, host } = await startHost(paths);
    const deaf = createConnection(paths.engineSocket); // reads nothing
    await once(deaf, 'connect');
    let made = 0;
    for (; made < 20_000; made += 5000) { // 3.4 MB: more than the kernel holds, less than is kept
      addon.pendingRecords = { flows: Array.from({ length: 5000 }, (_, n) => new Uint8Array(FLOW_RECORD_BYTES).fill((made + n) % 251)), drops: [] };
      await expect.poll(() => addon.pendingRecords.flows.length, { interval: 5 }).toBe(0);
    }
    deaf.destroy();
    let seen = 0;
    await connect(paths, (name, { head }) => { if (name === 'records') seen += Number(head['flows']); });
    await expect.poll(() => seen).toBeGreaterThanOrEqual(made - 5000); // the first batch the kernel had, in part or whole
    expect(host.status().recordsShed).toBe(0);
  });

  test('stopping hands over what the workers told last', async () => {
    const paths = makeRunDirectory();
    const { addon, host } = await startHost(paths);
    let seen = 0;
    await (await connect(paths, (name, { head }) => { if (name === 'records') seen += Number(head['flows']); })).request('status');
    addon.pendingRecords = { flows: [new Uint8Array(FLOW_RECORD_BYTES)], drops: [] };
    host.stop();
    await expect.poll(() => seen).toBe(1);
  });

  test('changes of the machine are told once for many', async () => {
    const paths = makeRunDirectory();
    const { addon } = await startHost(paths);
    const seen: string[] = [];
    const connection = await connect(paths, (name) => seen.push(name));
    await connection.request('status');
    for (let n = 0; n < 5; n += 1) addon.emit({ type: 'links-changed', level: '', text: '' });
    await expect.poll(() => seen).toEqual(['changed']);
  });

  test('stopping closes the addon and the socket', async () => {
    const paths = makeRunDirectory();
    const { addon, host } = await startHost(paths);
    host.stop();
    expect(addon.calls.at(-1)).toBe('close');
    await expect.poll(() => existsSync(paths.engineSocket)).toBe(false);
  });
});

describe('WireGuard', () => {
  const PEER = { id: 7, name: 'east', publicKey: Buffer.alloc(32, 9).toString('base64'), endpoint: { address: '192.0.2.2', port: 51820 } };
  const planOn = (listen: number): ConfigurePlan => ({ ...PLAN, wireguards: [{ interface: 'wg0', id: 1000, listen, mtu: 1420, peers: [PEER] }] });

  /** An addon whose workers know the peers of `plan` from the first apply on. */
  function makeWireguardAddon(plan: ConfigurePlan): { addon: FakeAddon; workers: MemoryWorkers } {
    const addon = makeFakeAddon();
    const workers = new MemoryWorkers(new MemoryNetwork(), '192.0.2.1');
    const { apply } = addon;
    for (const call of ['wireguardIndex', 'wireguardInstall', 'wireguardForget', 'wireguardEndpoint', 'wireguardSend', 'wireguardGate', 'wireguardEvents', 'wireguardPeers'] as const) {
      Object.assign(addon, { [call]: (workers[call] as (...values: unknown[]) => unknown).bind(workers) });
    }
    addon.apply = (snapshot) => {
      workers.apply(plan.wireguards ?? []);
      return apply(snapshot);
    };
    workers.onEvent = () => addon.emit({ type: 'wireguard' });
    return { addon, workers };
  }

  const show = async (connection: IpcConnection): Promise<WireguardView[]> => JSON.parse(Buffer.from((await connection.request('wireguard-show')).tail).toString()) as WireguardView[];

  test('peers get what they need once a snapshot knows them; keys are made, shown and rotated over the socket', async () => {
    const paths = makeRunDirectory();
    const plan = planOn(await freePort());
    const { addon, workers } = makeWireguardAddon(plan);
    await startHost(paths, makeFacts(), addon);
    const connection = await connect(paths);
    expect(await show(connection)).toEqual([]);
    await configure(connection, plan);
    expect(workers.gates.size).toBe(0);
    await connection.request('apply', {}, makeSnapshot(1));
    expect([workers.gates.get(1000), workers.endpointOf(PEER.id)]).toEqual([1, '192.0.2.2:51820']);
    const [shown] = await show(connection);
    expect(shown).toMatchObject({ interface: 'wg0', listen: plan.wireguards![0]!.listen, rotation: 'none', faults: [], peers: [{ name: 'east', endpoint: '192.0.2.2:51820', state: 'none' }] });
    const { head } = await connection.request('wireguard-rotate', { interface: 'wg0', phase: 'prepare' });
    expect(head).toEqual({ publicKey: shown!.publicKey, nextPublicKey: expect.any(String) as string, rotation: 'prepared' });
    expect(workers.gates.get(1000)).toBe(2);
    await expect(connection.request('wireguard-rotate', { interface: 'wg0', phase: 'finish' })).rejects.toMatchObject({ code: 'SLUICE_WIREGUARD_ROTATION' });
    await expect(connection.request('wireguard-rotate', { interface: 'wg0', phase: 'all' })).rejects.toMatchObject({ code: 'SLUICE_IPC_ARGUMENT' });
    const secret = readFileSync(join(paths.wireguardState, 'wg0.key'), 'utf8').trim();
    expect(JSON.stringify(await show(connection))).not.toContain(secret);
  });

  test('after a crash peers are called before anybody connects', async () => {
    const paths = makeRunDirectory();
    const plan = planOn(await freePort());
    const first = makeWireguardAddon(plan);
    const { host } = await startHost(paths, makeFacts(), first.addon);
    const connection = await connect(paths);
    await configure(connection, plan);
    await connection.request('apply', {}, makeSnapshot(1));
    const { publicKey } = (await show(connection))[0]!;
    await connection.request('status'); // what was applied is on disk
    host.stop();
    const second = makeWireguardAddon(plan);
    const { calls } = second.workers;
    const send = second.addon.wireguardSend.bind(second.addon);
    second.addon.wireguardSend = (interfaceId, peerId, message, endpoint) => {
      calls.push(`send type ${message[0]} to ${peerId}`);
      return send(interfaceId, peerId, message, endpoint);
    };
    await startHost(paths, makeFacts(), second.addon);
    expect(calls).toEqual([`send type 1 to ${PEER.id}`]);
    expect((await show(await connect(paths)))[0]).toMatchObject({ publicKey, peers: [{ state: 'handshake' }] });
  });

  test('a fault of an interface is a warning of the whole at a start, and an error of the commit that brings it', async () => {
    const paths = makeRunDirectory();
    const plan = planOn(await freePort());
    plan.wireguards![0]!.privateKeyFile = join(paths.dir, 'missing');
    const { addon } = makeWireguardAddon(plan);
    await startHost(paths, makeFacts(), addon);
    const connection = await connect(paths);
    const fault = `wg0: ${join(paths.dir, 'missing')} is not there`;
    expect((await configure(connection, plan)).head['warnings']).toEqual([fault]);
    await connection.request('apply', {}, makeSnapshot(1));
    expect((await show(connection))[0]!.faults).toEqual([fault]);
    await expect(configure(connection, { ...plan, wireguards: [{ ...plan.wireguards![0]!, privateKeyFile: join(paths.dir, 'lost') }] })).rejects.toMatchObject({ code: 'SLUICE_WIREGUARD' });
  });

  test('a flood of handshake messages does not keep requests from their answers', async () => {
    const paths = makeRunDirectory();
    const plan = planOn(await freePort());
    const { addon, workers } = makeWireguardAddon(plan);
    await startHost(paths, makeFacts(), addon);
    const connection = await connect(paths);
    await configure(connection, plan);
    await connection.request('apply', {}, makeSnapshot(1));
    workers.flood(5000, 1000, new Uint8Array(148).fill(1));
    let answers = 0;
    for (; workers.waitingEvents > 0; answers += 1) await connection.request('status');
    expect(answers).toBeGreaterThan(10);
    expect((await show(connection))[0]!.refused).toMatchObject({ malformed: 5000 });
  });
});
