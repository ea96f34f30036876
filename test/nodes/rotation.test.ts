// Rotation of a static key: at each moment both ends accept what the other one may use, whatever dies between any two steps.
import { cpSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterEach, describe, expect, onTestFinished, test } from 'vitest';
import type { AuditEvent } from '../../src/audit/log.js';
import type { Compiled } from '../../src/control/compiled.js';
import { IpcError } from '../../src/engine/ipc.js';
import type { NodesConfig } from '../../src/config/schema-nodes.js';
import type { NodeIdentity } from '../../src/nodes/identity.js';
import { Nodes, type NodesHost } from '../../src/nodes/nodes.js';
import { keysOf, openRecord, type NodeRecord } from '../../src/nodes/record.js';
import type { Log } from '../../src/supervisor/log.js';
import { silentLog } from '../engine/fake-addon.js';
import { FakeEngine } from './engine.js';
import { makeIdentity, temporaryDirectory } from './support.js';

const OVERLAP_MS = 60_000;

interface World { engine: FakeEngine; directory: string; nodes: Nodes; peer: NodeIdentity; compiled: Compiled; audit: AuditEvent[]; clockMs: number }

function compiledOf(peerId: string, foreign: readonly string[] = [], nodes: Partial<NodesConfig> = {}): Compiled {
  const peer = (node: string | null) => ({ node, publicKey: null, nextPublicKey: null, presharedKey: false, endpoint: null, allowedIPs: [], keepalive: null });
  return {
    hostname: 'nva-1', nodes: { peers: [{ name: 'nva-2', id: peerId }], ...nodes }, nodeSequences: new Map(), nodeNotes: new Map(),
    tunnels: [{ name: 'wg0', zone: 'mesh', addresses: [], listen: 51820, mtuBytes: 1420, peers: new Map([['nva-2', peer('nva-2')], ...foreign.map((name) => [name, peer(null)] as const)]) }],
  } as unknown as Compiled;
}

/** Each call that a process makes of what is around it passes here: the one that throws is where it dies. */
interface Mortal { pass(): void }
const IMMORTAL: Mortal = { pass: () => undefined };

function hostOf(world: World, mortal: Mortal = IMMORTAL): NodesHost {
  return {
    show: () => {
      mortal.pass();
      return Promise.resolve(structuredClone(world.engine.show()));
    },
    rotate: (name, phase) => {
      mortal.pass();
      world.engine.rotate(name, phase);
      mortal.pass();
      return Promise.resolve();
    },
    refill: () => mortal.pass(),
    audit: (event) => {
      mortal.pass();
      world.audit.push(event);
    },
    now: () => {
      mortal.pass();
      return world.clockMs = Math.max(world.clockMs, Date.now());
    },
  };
}

/** One that dies here does nothing more that anybody sees: its next call throws. */
const passing = (mortal: Mortal): Log => new Proxy(silentLog, { get: (log, member: keyof Log) => (member === 'info' || member === 'warn' || member === 'error' ? () => {
  try {
    mortal.pass();
  } catch { /* see above */ }
} : log[member]) });

async function startNodes(world: World, mortal: Mortal = IMMORTAL): Promise<Nodes> {
  const nodes = new Nodes(world.directory, passing(mortal), hostOf(world, mortal));
  onTestFinished(() => nodes.stop());
  await nodes.start();
  nodes.inForce(world.compiled);
  return nodes;
}

async function startWorld(foreign: readonly string[] = [], config: Partial<NodesConfig> = {}): Promise<World> {
  const peer = await makeIdentity();
  const world = { engine: new FakeEngine('wg0', ['nva-2', ...foreign]), directory: temporaryDirectory(), peer, compiled: compiledOf(peer.id, foreign, config), audit: [], clockMs: 0 } as unknown as World;
  world.nodes = await startNodes(world);
  await expect.poll(() => world.nodes.ownRecord?.wireguard).toHaveLength(1);
  return world;
}

/** The other node: takes each record that it is given, has it in force at once, and says so. `held`: what it has. */
class Other {
  held: NodeRecord | undefined;
  /** The key that its sessions with us are with. */
  proven: string | undefined;
  isJudging = true;
  private stopped = false;

  constructor(private readonly world: World) {
    void this.run();
    onTestFinished(() => void (this.stopped = true));
  }

  async call(nodes = this.world.nodes): Promise<void> {
    const answer = await nodes.answer(this.world.peer.id, { have: this.held?.sequence ?? null, record: null, refused: null });
    if (answer.record === null) return;
    const { node } = JSON.parse(answer.record.record) as NodeRecord;
    const record = openRecord(answer.record, node, Math.max(Date.now(), this.world.clockMs));
    if (this.held) expect(record.sequence).toBeGreaterThanOrEqual(this.held.sequence);
    this.held = record;
    this.judge();
  }

  /** What loses nothing: each end accepts whatever the other one begins with. */
  judge(): void {
    const ours = this.held?.wireguard[0];
    if (!ours || !this.isJudging) return;
    const accepted = [ours.publicKey, ours.nextPublicKey];
    expect(accepted, `the other node does not know the key that handshakes are made with, amid ${this.world.engine.phase}`).toContain(this.world.engine.begins);
    if (this.proven !== undefined) expect(accepted, `the other node ends its sessions: they are with a key that is not ours any more, amid ${this.world.engine.phase}`).toContain(this.proven);
    // It may begin with either of them: with the one that was used last, and when that is not answered with the other one.
    for (const key of keysOf(ours)) expect(this.world.engine.answers, 'the other node may begin with a key that nobody answers to').toContain(key);
  }

  private async run(): Promise<void> {
    while (!this.stopped) {
      await this.call().catch((error: Error) => { if (!(error instanceof Died)) this.failure ??= error; });
      await delay(2);
    }
  }

  failure: Error | undefined;
}

class Died extends Error {}
const others: Other[] = [];
function startOther(world: World): Other {
  const other = new Other(world);
  others.push(other);
  other.proven = world.engine.begins;
  world.engine.onHandshake = () => { other.proven = world.engine.begins; };
  world.engine.onChange = () => {
    try {
      other.judge();
    } catch (error) {
      other.failure ??= error as Error;
    }
  };
  return other;
}
afterEach(() => {
  for (const { failure } of others.splice(0)) if (failure) throw failure;
});

const known = (other: Other): Promise<void> => expect.poll(() => other.held !== undefined).toBe(true);

describe('rotation of a static key', () => {
  test('goes through its steps; the old key is wiped and nothing of it is announced any more', async () => {
    const world = await startWorld();
    const other = startOther(world);
    await known(other);
    const before = world.engine.current;
    const phases: string[] = [];
    const result = await world.nodes.rotate('wg0', { by: { name: 'root', via: 'socket' }, overlapMs: OVERLAP_MS }, (text) => phases.push(text));
    expect(result).toMatchObject({ interface: 'wg0', previousPublicKey: before, publicKey: world.engine.current, left: [] });
    expect(world.engine.current).not.toBe(before);
    expect(world.engine.calls).toEqual(['prepare', 'switch', 'finish']);
    expect(world.engine.wiped).toEqual([before]);
    await expect.poll(() => other.held?.wireguard[0]).toMatchObject({ publicKey: world.engine.current, nextPublicKey: null });
    expect(phases.some((text) => text === 'announcing: waiting for nva-2')).toBe(true);
    expect(world.nodes.view()).toMatchObject({ rotations: [], lastRotations: { wg0: expect.any(String) as string } });
    expect(world.audit.map(({ by, detail }) => [by?.name, detail?.['interface'], detail?.['step']])).toEqual([['root', 'wg0', 'prepare'], ['root', 'wg0', 'switch'], ['root', 'wg0', 'finish']]);
  });

  test('waits for a node that is away, and only for so long', async () => {
    const world = await startWorld();
    const started = world.nodes.rotate('wg0', { by: { name: 'root', via: 'socket' }, overlapMs: OVERLAP_MS });
    await expect.poll(() => world.nodes.view().rotations[0]).toMatchObject({ phase: 'announcing', waitingFor: ['nva-2'] });
    await delay(600); // more than two rounds
    expect(world.engine.phase).toBe('prepared');
    world.clockMs = Date.now() + OVERLAP_MS;
    await expect.poll(() => world.engine.phase).toBe('switched');
    await expect.poll(() => world.nodes.view().rotations[0]).toMatchObject({ phase: 'settling', waitingFor: ['nva-2'] });
    world.clockMs += OVERLAP_MS;
    expect(await started).toMatchObject({ left: ['nva-2'] });
    expect(world.audit.filter(({ detail }) => Array.isArray(detail?.['left']))).toHaveLength(2);
  });

  test('a session with the old key is waited for, and asked once more to move', async () => {
    const world = await startWorld();
    const other = startOther(world);
    await known(other);
    world.engine.onSwitch = () => undefined;
    const started = world.nodes.rotate('wg0', { by: { name: 'root', via: 'socket' }, overlapMs: OVERLAP_MS });
    await expect.poll(() => world.nodes.view().rotations[0]).toMatchObject({ phase: 'moving', waitingFor: ['nva-2'] });
    await expect.poll(() => world.nodes.view().peers[0]?.hasOurs).toBe(true);
    await delay(300);
    expect(world.engine.phase).toBe('switched');
    expect(world.engine.calls).toEqual(['prepare', 'switch']);
    world.engine.onSwitch = () => world.engine.shakeHands();
    world.clockMs = Date.now() + 11_000;
    expect(await started).toMatchObject({ left: [] });
    expect(world.engine.calls).toEqual(['prepare', 'switch', 'switch', 'finish']);
  });

  test('is refused for peers that are no nodes, which it names; forced, it waits the overlap for them', async () => {
    const world = await startWorld(['branch-7']);
    const other = startOther(world);
    await known(other);
    await expect(world.nodes.rotate('wg0', { by: { name: 'root', via: 'socket' } })).rejects.toMatchObject({ status: 409, message: expect.stringContaining('branch-7') as string });
    expect(world.engine.calls).toEqual([]);
    const started = world.nodes.rotate('wg0', { by: { name: 'root', via: 'socket' }, overlapMs: OVERLAP_MS, force: true });
    await expect.poll(() => world.nodes.view().rotations[0]?.waitingFor).toEqual(['branch-7']);
    world.clockMs = Date.now() + OVERLAP_MS;
    await expect.poll(() => world.nodes.view().rotations[0]).toMatchObject({ phase: 'settling', waitingFor: ['branch-7'] });
    world.clockMs += OVERLAP_MS;
    expect(await started).toMatchObject({ left: ['branch-7'] });
  });

  test('one at a time; none of what there is not; what the engine refuses is told, and over', async () => {
    const world = await startWorld();
    await expect(world.nodes.rotate('wg9', { by: { name: 'root', via: 'socket' } })).rejects.toMatchObject({ status: 404 });
    const first = world.nodes.rotate('wg0', { by: { name: 'root', via: 'socket' }, overlapMs: OVERLAP_MS });
    await expect.poll(() => world.nodes.view().rotations).toHaveLength(1);
    await expect(world.nodes.rotate('wg0', { by: { name: 'root', via: 'socket' } })).rejects.toMatchObject({ status: 409 });
    startOther(world);
    await first;
    world.engine.rotate = () => { throw new IpcError('SLUICE_WIREGUARD_ROTATION', 'its key is /etc/wg0.key, which is not ours to change'); };
    await expect(world.nodes.rotate('wg0', { by: { name: 'root', via: 'socket' } })).rejects.toThrow(/not ours to change/);
    expect(world.nodes.view().rotations).toEqual([]);
    expect(world.nodes.rotations).toEqual({ done: 1, failed: 1 });
  });

  test('goes on when control dies between any two steps', async () => {
    const world = await startWorld();
    const other = startOther(world);
    await known(other);
    let died = 0;
    for (let at = 1; ; at += 1) {
      const before = world.engine.current;
      world.engine.wiped = [];
      await world.nodes.stop();
      const grave = temporaryDirectory();
      let passed = 0;
      let isCounting = false;
      let hasDied = false;
      const mortal: Mortal = {
        pass: () => {
          if (!isCounting || (!hasDied && (passed += 1) < at)) return;
          // The disk as it is at this moment is what the next one finds; what the dead one writes goes nowhere.
          if (!hasDied) cpSync(world.directory, grave, { recursive: true });
          hasDied = true;
          throw new Died('dead');
        },
      };
      world.nodes = await startNodes(world, mortal);
      await expect.poll(() => world.nodes.view().peers[0]?.hasOurs, { interval: 5 }).toBe(true);
      isCounting = true;
      const ended = world.nodes.rotate('wg0', { by: { name: 'root', via: 'socket' }, overlapMs: OVERLAP_MS }).then(() => true, () => false);
      await Promise.race([ended, (async () => { while (!hasDied) await delay(1); })()]);
      if (!hasDied) {
        expect(world.engine.wiped).toEqual([before]);
        break;
      }
      died += 1;
      void world.nodes.stop().catch(() => undefined);
      world.directory = grave;
      world.nodes = await startNodes(world);
      // Begun or not: what is on disk or in the engine comes to its end, and else there is nothing to end.
      await expect.poll(() => [world.engine.phase, world.nodes.view().rotations.length, other.held?.wireguard[0]?.publicKey === world.engine.current], { message: `died at call ${at}`, interval: 5 }).toEqual(['none', 0, true]);
      expect(world.engine.wiped.length).toBeLessThanOrEqual(1);
      if (other.failure) throw other.failure;
    }
    expect(died).toBeGreaterThan(20);
  });

  test.each(['prepare', 'switch', 'finish'] as const)('goes on when the engine dies at %s, before or after it was done', async (step) => {
    for (const isDone of [false, true]) {
      const world = await startWorld();
      const other = startOther(world);
      await known(other);
      const rotate = world.engine.rotate.bind(world.engine);
      let isFirst = true;
      world.engine.rotate = (name, phase) => {
        if (phase !== step || !isFirst) return rotate(name, phase);
        isFirst = false;
        if (isDone) rotate(name, phase);
        throw new IpcError('SLUICE_IPC_CLOSED', 'the connection closed');
      };
      const before = world.engine.current;
      await world.nodes.rotate('wg0', { by: { name: 'root', via: 'socket' }, overlapMs: OVERLAP_MS });
      expect(world.engine.wiped).toEqual([before]);
      expect(isFirst).toBe(false);
    }
  });

  test('one that only the engine knows of is brought to its end', async () => {
    for (const steps of [['prepare'], ['prepare', 'switch']] as const) {
      const world = await startWorld();
      const other = startOther(world);
      await known(other);
      await world.nodes.stop();
      other.isJudging = false; // it was told before, by the record that is lost now
      for (const step of steps) world.engine.rotate('wg0', step);
      writeFileSync(join(world.directory, 'state.json'), '{');
      const before = world.engine.current;
      world.nodes = await startNodes(world);
      await expect.poll(() => world.engine.wiped).toEqual([before]);
      await expect.poll(() => world.nodes.view().rotations).toEqual([]);
      expect(world.audit[0]?.by?.name).toBe('sluice');
    }
  });

  test('a next key that was lost is made anew', async () => {
    const world = await startWorld();
    const started = world.nodes.rotate('wg0', { by: { name: 'root', via: 'socket' }, overlapMs: OVERLAP_MS });
    await expect.poll(() => world.nodes.view().rotations[0]?.phase).toBe('announcing');
    const lost = world.engine.next!;
    Object.assign(world.engine, { next: null, phase: 'none' });
    await expect.poll(() => world.engine.next).not.toBe(null);
    startOther(world);
    await started;
    expect(world.engine.current).not.toBe(lost);
  });

  test('sequences grow, over restarts and when the state was lost', async () => {
    const world = await startWorld();
    const sequences = [world.nodes.ownRecord!.sequence];
    for (const isLost of [false, true]) {
      await world.nodes.stop();
      if (isLost) writeFileSync(join(world.directory, 'state.json'), 'x');
      world.engine.current = (await startWorld()).engine.current;
      world.nodes = await startNodes(world);
      await expect.poll(() => world.nodes.ownRecord?.wireguard[0]?.publicKey).toBe(world.engine.current);
      sequences.push(world.nodes.ownRecord!.sequence);
    }
    expect(sequences[1]).toBeGreaterThan(sequences[0]!);
    expect(sequences[2]).toBeGreaterThan(sequences[1]!);
    expect(readFileSync(join(world.directory, 'state.json'), 'utf8')).not.toContain('PRIVATE');
  });

  test('begins by itself when it is time', async () => {
    const world = await startWorld([], { rotate: { every: '1h', overlap: '1m' } });
    const other = startOther(world);
    await known(other);
    const before = world.engine.current;
    await expect.poll(() => world.nodes.view().lastRotations['wg0']).toBeTruthy();
    expect(world.engine.calls).toEqual([]);
    world.clockMs = Date.now() + 3_600_000;
    world.nodes.inForce(world.compiled);
    await expect.poll(() => world.engine.wiped).toEqual([before]);
    await delay(50);
    expect(world.engine.calls).toEqual(['prepare', 'switch', 'finish']);
    expect(world.audit[0]?.by).toEqual({ name: 'sluice', via: 'system' });
  });
});
