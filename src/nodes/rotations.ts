// Rotations of this node's static keys: begun by people or by the clock, and brought to their end step by step as rotation.ts says, whatever died
// in between. Who: nodes.ts makes a round at a time (`goOn`, `advance`, `schedule`); the API begins one and may wait for it.
// Thread: control's main one. Bounds: one rotation a tunnel; a peer is waited for as long as the overlap.
import { ApiError } from '../api/errors.js';
import { nodeAndInterface } from '../config/check-nodes.js';
import { durationMs, OVERLAP_DEFAULT_MS } from '../config/schema-nodes.js';
import type { TunnelInfo } from '../control/compiled.js';
import { errorCode, errorMessage } from '../engine/ipc.js';
import type { RotatePhase } from '../engine/wireguard.js';
import { isEngineAway, type Here } from './here.js';
import type { OwnRecord } from './own-record.js';
import { adopt, after, begin, CALLS, isOver, reconcile, waitsFor, type EngineRotation, type Rotation, type RotationPeer } from './rotation.js';
import type { NodeState } from './state.js';
import type { RotationView } from './view.js';

/** Sessions that have not moved by then are asked to once more. */
const SWITCH_AGAIN_MS = 10_000;
const SCHEDULE_RETRY_MS = 3_600_000;
const SYSTEM = { name: 'sluice', via: 'system' } as const;

export interface RotateOptions { by: Rotation['by']; overlapMs?: number | undefined; force?: boolean }
export interface Rotated { interface: string; publicKey: string; previousPublicKey: string; milliseconds: number; left: string[] }

interface Waiter { done(rotation: Rotation): void; failed(error: Error): void; progress(text: string): void }

export class Rotations {
  readonly counts = { done: 0, failed: 0 };
  private readonly switchedMs = new Map<string, number>();
  private readonly notBefore = new Map<string, number>();
  private readonly waiters = new Map<string, Waiter>();

  /** `haveOf`: the sequence of our record that is in force at a node's end. */
  constructor(private readonly here: Here, private readonly state: NodeState, private readonly own: OwnRecord, private readonly haveOf: (id: string) => number | null) {}

  /** Whoever waits is told that the next control goes on. */
  stop(): void {
    for (const [name, waiter] of this.waiters) waiter.failed(new ApiError(503, 'SLUICE_NODE_ENDING', `control ends; the rotation of ${name} goes on with the next one`));
    this.waiters.clear();
  }

  view(): RotationView[] {
    return this.state.rotations.map((rotation) => ({
      interface: rotation.interface, phase: rotation.phase, startedAt: new Date(rotation.startedMs).toISOString(), by: rotation.by,
      waitingFor: waitsFor(rotation, this.peersOf(rotation.interface)), left: rotation.left,
    }));
  }

  // ---- begun by somebody, or by the clock -------------------------------------------------------------------------

  /** Resolves when the old key is wiped. Throws ApiError, and what the engine says against it. A caller that goes away leaves it running. */
  async rotate(name: string, { by, overlapMs, force = false }: RotateOptions, progress: (text: string) => void): Promise<Rotated> {
    const { here, state } = this;
    const tunnel = here.tunnels.find((one) => one.name === name);
    if (!tunnel) throw new ApiError(404, 'SLUICE_API_NOT_FOUND', `there is no tunnel '${name}' in force`, '/interface');
    if (!here.identity) throw new ApiError(503, 'SLUICE_NOT_READY', `this node has no identity: ${here.problem ?? 'not yet'}`);
    if (state.rotationOf(name)) throw new ApiError(409, 'SLUICE_NODE_ROTATION', `a rotation of ${name} is under way already; \`sluice node show\` says how far it is`);
    const foreign = foreignPeers(tunnel);
    if (foreign.length > 0 && !force) {
      throw new ApiError(409, 'SLUICE_NODE_ROTATION', `${foreign.length === 1 ? `peer ${foreign[0]} is no node` : `peers ${foreign.slice(0, 12).join(', ')} are no nodes`} and cannot be told the next key: `
        + `after the rotation ${foreign.length === 1 ? 'it' : 'they'} would be cut off until given the new one by hand. Make nodes of them, or force it`);
    }
    const begunMs = here.nowMs;
    const previousPublicKey = (await here.host.show()).find((one) => one.interface === name)?.publicKey ?? '';
    if (state.rotationOf(name)) throw new ApiError(409, 'SLUICE_NODE_ROTATION', `a rotation of ${name} is under way already`);
    this.put(begin(name, by, overlapMs ?? this.overlapMs, force, begunMs));
    const ended = new Promise<Rotation>((resolve, reject) => void this.waiters.set(name, { done: resolve, failed: reject, progress }));
    here.tickSoon(0);
    const { left } = await ended;
    const publicKey = here.views.find((one) => one.interface === name)?.publicKey ?? '';
    return { interface: name, publicKey, previousPublicKey, milliseconds: Math.round(here.nowMs - begunMs), left };
  }

  /** As often as the configuration says. */
  schedule(): void {
    const { here, state } = this;
    const { every } = here.config.rotate ?? {};
    const everyMs = every === undefined ? undefined : durationMs(every);
    if (everyMs === undefined) return;
    const { nowMs } = here;
    for (const tunnel of here.tunnels) {
      const { name } = tunnel;
      if (state.rotationOf(name) || ![...tunnel.peers.values()].some(({ node }) => node !== null)) continue;
      const foreign = foreignPeers(tunnel);
      here.say(`schedule ${name}`, foreign.length === 0 ? undefined : `the key of ${name} does not rotate by itself: ${foreign.slice(0, 12).join(', ')} could not be told`);
      if (foreign.length > 0 || nowMs < (this.notBefore.get(name) ?? 0)) continue;
      const rotatedMs = state.rotatedAtMs[name];
      // From now on for one that is new here, and after a clock that was ahead.
      if (rotatedMs === undefined || rotatedMs > nowMs) state.write({ rotatedAtMs: { ...state.rotatedAtMs, [name]: nowMs } });
      else if (nowMs - rotatedMs >= everyMs) {
        this.put(begin(name, SYSTEM, this.overlapMs, false, nowMs));
        here.tickSoon(0);
      }
    }
  }

  private get overlapMs(): number {
    const { overlap } = this.here.config.rotate ?? {};
    return (overlap === undefined ? undefined : durationMs(overlap)) ?? OVERLAP_DEFAULT_MS;
  }

  // ---- step by step -----------------------------------------------------------------------------------------------

  /** Where each rotation stands, after anything that may have died. */
  goOn(): void {
    const { here, state } = this;
    const { nowMs } = here;
    for (const rotation of [...state.rotations]) {
      const engine = this.engineRotation(rotation.interface);
      if (engine === undefined) {
        // The engine keeps the key files: with the tunnel the rotation comes back.
        if (!here.tunnels.some(({ name }) => name === rotation.interface)) this.end(rotation, new ApiError(409, 'SLUICE_NODE_ROTATION', `${rotation.interface} is not in force any more`));
        continue;
      }
      const next = reconcile(rotation, engine, nowMs);
      if (next !== undefined && next !== rotation) {
        here.log.warn({ interface: rotation.interface, from: rotation.phase, to: next.phase }, 'a rotation goes on elsewhere: the engine is at another step');
        this.put(next);
      }
    }
    for (const { interface: name, rotation: engine } of here.views) {
      if (state.rotationOf(name) || (engine !== 'prepared' && engine !== 'switched') || !here.tunnels.some((one) => one.name === name)) continue;
      here.log.warn({ interface: name, engine }, 'the engine is amid a rotation that this node does not know of; it is brought to its end');
      this.put(adopt(name, engine, this.overlapMs, nowMs));
    }
  }

  /** As many steps as can be made now. */
  async advance(name: string): Promise<void> {
    const { here, state } = this;
    for (;;) {
      const rotation = state.rotationOf(name);
      if (!rotation || here.stopped || this.engineRotation(name) === undefined) return;
      const call = CALLS[rotation.phase];
      if (call !== undefined) {
        if (!await this.callEngine(rotation, call)) return;
        continue;
      }
      if (rotation.sequence === null) {
        this.own.renew();
        this.put({ ...rotation, sequence: state.sequence });
        continue;
      }
      const waits = waitsFor(rotation, this.peersOf(name));
      this.waiters.get(name)?.progress(waits.length === 0 ? rotation.phase : `${rotation.phase}: waiting for ${waits.slice(0, 8).join(', ')}${waits.length > 8 ? ' and others' : ''}`);
      if (waits.length > 0 && !isOver(rotation, here.nowMs)) {
        await this.switchAgain(rotation);
        return;
      }
      if (waits.length > 0) {
        here.log.warn({ interface: name, phase: rotation.phase, peers: waits.slice(0, 20) }, 'a rotation does not wait any longer; these peers are cut off until they hear of the new key');
        this.audit(rotation, { left: waits.slice(0, 20) });
      }
      this.put(after(rotation, here.nowMs, waits)!);
    }
  }

  /** A handshake that a peer began with the old key may have crossed ours: then the newest session is that one. */
  private async switchAgain({ interface: name, phase, sinceMs }: Rotation): Promise<void> {
    if (phase !== 'moving') return;
    const { nowMs, host } = this.here;
    if (nowMs - Math.max(sinceMs, this.switchedMs.get(name) ?? 0) < SWITCH_AGAIN_MS) return;
    this.switchedMs.set(name, nowMs);
    await host.rotate(name, 'switch').catch((error: unknown) => { if (!isEngineAway(error)) throw error; });
  }

  /** False: not now. What the engine has then, our record and the next phase are written as one. */
  private async callEngine(rotation: Rotation, call: RotatePhase): Promise<boolean> {
    const { here } = this;
    const { interface: name } = rotation;
    try {
      await here.host.rotate(name, call);
    } catch (error) {
      if (isEngineAway(error)) return false; // repeated when it is back
      if (rotation.phase === 'preparing') {
        this.end(rotation, error as Error); // nothing has happened yet
        return false;
      }
      throw error;
    }
    this.audit(rotation, { step: call });
    here.views = await here.host.show();
    const next = after(rotation, here.nowMs);
    if (next === undefined) {
      this.end(rotation);
      this.own.renew();
      return false;
    }
    this.own.renew(); // before the phase: a phase whose record is missing would wait for the wrong one
    this.put({ ...next, sequence: this.state.sequence });
    return true;
  }

  private put(rotation: Rotation): void {
    const { state } = this;
    const rotations = state.rotationOf(rotation.interface) ? state.rotations.map((one) => (one.interface === rotation.interface ? rotation : one)) : [...state.rotations, rotation];
    state.write({ rotations });
    this.waiters.get(rotation.interface)?.progress(rotation.phase);
  }

  private end(rotation: Rotation, error?: Error): void {
    const { here, state } = this;
    const { interface: name } = rotation;
    const rotations = state.rotations.filter((one) => one.interface !== name);
    const { nowMs } = here;
    state.write({ rotations, ...(error ? {} : { rotatedAtMs: { ...state.rotatedAtMs, [name]: nowMs } }) });
    const waiter = this.waiters.get(name);
    this.waiters.delete(name);
    if (error) {
      this.counts.failed += 1;
      this.notBefore.set(name, nowMs + SCHEDULE_RETRY_MS);
      here.log.warn({ interface: name, code: errorCode(error) }, `a rotation was given up: ${errorMessage(error)}`);
      this.audit(rotation, { gaveUp: errorMessage(error) });
      waiter?.failed(error);
      return;
    }
    this.counts.done += 1;
    here.log.info({ interface: name, milliseconds: nowMs - rotation.startedMs, left: rotation.left }, 'a static key has rotated');
    waiter?.done(rotation);
  }

  // ---- helpers ----------------------------------------------------------------------------------------------------

  private engineRotation(name: string): EngineRotation {
    return this.here.views.find((one) => one.interface === name)?.rotation as EngineRotation;
  }

  private peersOf(name: string): RotationPeer[] {
    const { tunnels, views, config } = this.here;
    const tunnel = tunnels.find((one) => one.name === name);
    const view = views.find((one) => one.interface === name);
    const live = new Map(view?.peers.map((peer) => [peer.name, peer]));
    const ids = new Map((config.peers ?? []).map((peer) => [peer.name, peer.id]));
    return [...tunnel?.peers ?? []].map(([peerName, { node }]) => {
      const one = live.get(peerName);
      const id = node === null ? undefined : ids.get(nodeAndInterface(node)[0]);
      return {
        name: peerName, have: node === null ? undefined : (id === undefined ? null : this.haveOf(id)),
        hasOld: one?.state === 'established' && one.ownKey !== view?.nextPublicKey,
      };
    });
  }

  private audit({ interface: name, phase, by }: Rotation, detail: Record<string, unknown>): void {
    this.here.host.audit({ event: 'system', by, resource: 'wireguard', detail: { what: 'rotation of a static key', interface: name, phase, ...detail } });
  }
}

/** Peers that have their key from the configuration: nobody can tell them another one. */
function foreignPeers({ peers }: TunnelInfo): string[] { return [...peers].filter(([, { node }]) => node === null).map(([name]) => name); }
