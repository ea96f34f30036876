// Nodes that trust one another: this one's record, the others' records, and the rotation of static keys that both are for. Who:
// src/control/process.ts makes one; control tells it what is in force (`inForce`) and asks it at each compilation (`fill`); the API shows it.
// Thread: control's main one. One loop, `tick`, in this order: what the engine has → rotations go on → our record says so → the others are told.
// Files in STATE/node, control's alone: identity.key and identity.pem (identity.ts), records/ (learnt.ts), state.json: our last record with its
// sequence, rotations under way, when each interface rotated last. A step of a rotation and the record that says it are one write of it.
// Bounds: EXCHANGE_MS between exchanges with a node, RETRY_MS_MAX after failures, IN_FORCE_MS that an answer waits for the engine.
import { chmodSync, chownSync, lchownSync, mkdirSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { hostname as machineName } from 'node:os';
import { join } from 'node:path';
import type { AuditEvent } from '../audit/log.js';
import { ApiError } from '../api/errors.js';
import { parseListen } from '../api/tls.js';
import type { Compiled, TunnelInfo } from '../control/compiled.js';
import { durationMs, NODE_NAME_PATTERN, OVERLAP_DEFAULT_MS, type NodePeerConfig, type NodesConfig } from '../config/schema-nodes.js';
import { nodeAndInterface } from '../config/check-nodes.js';
import { asList } from '../config/schema-parts.js';
import type { Config } from '../config/schema.js';
import { errorCode, errorMessage } from '../engine/ipc.js';
import type { RotatePhase, WireguardView as EngineWireguard } from '../engine/wireguard.js';
import { formatPrefix, parsePrefix } from '../lib/address.js';
import type { Log } from '../supervisor/log.js';
import { replaceFile } from '../supervisor/run-directory.js';
import { ExchangeError, NodeListener, REASON_CHARACTERS_MAX, type Message } from './exchange.js';
import { loadIdentity, type NodeIdentity } from './identity.js';
import { fillNodes, LearntRecords, type Filled } from './learnt.js';
import { Link } from './link.js';
import { LIFETIME_MS, RecordError, signRecord, type Announcement, type NodeRecord, type SignedRecord } from './record.js';
import { adopt, after, begin, CALLS, isOver, reconcile, waitsFor, type EngineRotation, type Rotation, type RotationPeer } from './rotation.js';
import type { NodesView, NodeView } from './view.js';

const TICK_MS = 5000;
const TICK_ROTATING_MS = 250;
const IN_FORCE_MS = 3000;
const LISTEN_RETRY_MS = 1000;
const STRANGERS_LOG_MS = 60_000;
/** Sessions that have not moved by then are asked to once more. */
const SWITCH_AGAIN_MS = 10_000;
const SCHEDULE_RETRY_MS = 3_600_000;
/** A record is issued again long before it ends. */
const REISSUE_MS = LIFETIME_MS / 7;
/** A node that tells something new all the time would have the engine do it all the time. */
const RECORDS_PER_MINUTE = 20;
const SYSTEM = { name: 'sluice', via: 'system' } as const;

/** What this needs of the rest of control. */
export interface NodesHost {
  /** Rejects while the engine is away. */
  show(): Promise<EngineWireguard[]>;
  rotate(interfaceName: string, phase: RotatePhase): Promise<unknown>;
  /** Records changed: compile what runs again and put it in force. `inForce` is called then. */
  refill(): void;
  audit(event: AuditEvent): void;
  now?(): number;
}

export interface RotateOptions { by: Rotation['by']; overlapMs?: number | undefined; force?: boolean }
export interface Rotated { interface: string; publicKey: string; previousPublicKey: string; milliseconds: number; left: string[] }

interface State { version: 1; sequence: number; signed: SignedRecord | null; rotations: Rotation[]; rotatedAtMs: Record<string, number> }
interface Waiter { done(rotation: Rotation): void; failed(error: Error): void; progress(text: string): void }
/** What is known of a trusted node since control started. */
interface Peer { config: NodePeerConfig; have: number | null; lastExchangeMs: number | null; exchanges: number; failures: number; problem: string | null; refused: string | null; theyRefused: string | null; link: Link | undefined; takenMs: number[] }

export class Nodes {
  readonly rotations = { done: 0, failed: 0 };
  strangers = 0;
  private identity: NodeIdentity | undefined;
  private readonly learnt: LearntRecords;
  private state: State;
  private views: EngineWireguard[] = [];
  private compiled: Compiled | undefined;
  private readonly peers = new Map<string, Peer>(); // by id
  private listener: NodeListener | undefined;
  private listening: string | undefined;
  private listenTimer: NodeJS.Timeout | undefined;
  /** Why nodes do not work as configured, for people. */
  private problem: string | undefined;
  private readonly said = new Map<string, string>();
  private readonly switchedMs = new Map<string, number>();
  private readonly notBefore = new Map<string, number>();
  private readonly waiters = new Map<string, Waiter>();
  private readonly inForceWaiters = new Set<() => void>();
  private timer: NodeJS.Timeout | undefined;
  private ticking = false;
  private tickAgain = false;
  private strangersLoggedMs = -Infinity;
  private stopped = false;

  /** May run while control is still root: the directory becomes `owner`'s. */
  constructor(private readonly directory: string, private readonly log: Log, private readonly host: NodesHost, owner?: { uid: number; gid: number }) {
    mkdirSync(directory, { recursive: true, mode: 0o700 });
    this.learnt = new LearntRecords(join(directory, 'records'));
    for (const damage of this.learnt.damage) log.warn(`a node's record was lost and will be had again: ${damage}`);
    this.state = this.readState();
    if (owner) giveAway(directory, owner);
  }

  /** As the user that control runs as. Never rejects: without an identity there are no nodes, and everything else goes on. */
  async start(): Promise<void> {
    try {
      this.identity = await loadIdentity(this.directory);
      this.configure();
    } catch (error) {
      this.problem = errorMessage(error);
      this.log.error(`this node has no identity: ${this.problem}`);
    }
    this.tickSoon(0);
  }

  async stop(): Promise<void> {
    this.stopped = true;
    clearTimeout(this.timer);
    clearTimeout(this.listenTimer);
    for (const { link } of this.peers.values()) link?.stop();
    this.releaseInForce();
    for (const [name, waiter] of this.waiters) waiter.failed(new ApiError(503, 'SLUICE_NODE_ENDING', `control ends; the rotation of ${name} goes on with the next one`));
    this.waiters.clear();
    await this.listener?.close();
  }

  // ---- what is in force -------------------------------------------------------------------------------------------

  /** What other nodes told, in a configuration that is about to be compiled. */
  fill(config: Config): Filled {
    const nowMs = this.nowMs();
    const records = new Map<string, NodeRecord>();
    const ids = new Map<string, string>();
    for (const { name, id } of config.nodes?.peers ?? []) {
      const record = this.learnt.current(id, nowMs);
      if (!record) continue;
      records.set(name, record);
      ids.set(name, id);
    }
    return fillNodes(config, records, this.ownKeys(), (node, key) => this.learnt.get(ids.get(node)!)?.claimedMs[key] ?? Infinity);
  }

  /** The engine has this now. */
  inForce(compiled: Compiled): void {
    const isNew = JSON.stringify([this.compiled?.nodes, this.compiled?.hostname]) !== JSON.stringify([compiled.nodes, compiled.hostname]);
    this.compiled = compiled;
    for (const { name } of compiled.nodes?.peers ?? []) {
      const notes = compiled.nodeNotes.get(name);
      this.say(`note ${name}`, notes && `of what node ${name} says something does not count: ${notes.join('; ')}`);
    }
    this.releaseInForce();
    if (isNew) this.configure();
    this.tickSoon(0);
  }

  private get config(): NodesConfig { return this.compiled?.nodes ?? {}; }
  private get tunnels(): readonly TunnelInfo[] { return this.compiled?.tunnels ?? []; }

  /** Is there anything to tell or to rotate? Who has thousands of other peers is not asked for them all the time. */
  private get hasTunnels(): boolean {
    return this.config.announce !== undefined || this.tunnels.some(({ peers }) => [...peers.values()].some(({ node }) => node !== null));
  }

  private configure(): void {
    const { identity } = this;
    if (!identity || !this.compiled || this.stopped) return;
    const wanted = new Map((this.config.peers ?? []).filter(({ id }) => id !== identity.id).map((peer) => [peer.id, peer]));
    for (const [id, peer] of this.peers) {
      const config = wanted.get(id);
      if (config !== undefined && config.url === peer.config.url) {
        peer.config = config;
        continue;
      }
      peer.link?.stop();
      this.peers.delete(id);
    }
    for (const [id, config] of wanted) {
      if (this.peers.has(id)) continue;
      const peer: Peer = { config, have: null, lastExchangeMs: null, exchanges: 0, failures: 0, problem: null, refused: null, theyRefused: null, link: undefined, takenMs: [] };
      this.peers.set(id, peer);
      if (config.url !== undefined) {
        peer.link = new Link(new URL(config.url), id, identity, {
          message: () => this.messageTo(peer), taken: (answer) => this.take(peer, answer),
          failed: (error) => this.failed(peer, error), isBehind: () => this.isBehind(peer), hasNews: (told) => this.inForceOf(peer) !== told,
        });
      }
    }
    this.learnt.keep(new Set(wanted.keys()));
    void this.listen();
  }

  private async listen(): Promise<void> {
    clearTimeout(this.listenTimer);
    const { listen } = this.config;
    if (listen === this.listening) return;
    this.listening = listen;
    await this.listener?.close();
    this.listener = undefined;
    if (listen === undefined || this.listening !== listen || this.stopped) return;
    const listener = new NodeListener(parseListen(listen), {
      identity: this.identity!, isKnown: (id) => this.peers.has(id), answer: (id, message) => this.answer(id, message),
      onStranger: (address, id) => this.onStranger(address, id), onError: (error) => this.log.error({ err: error }, 'the listener for nodes failed'),
    });
    try {
      await listener.listen();
      if (this.listening !== listen || this.stopped) return void listener.close();
      this.listener = listener;
      this.problem = undefined;
      this.log.info({ listen }, 'listening for nodes');
    } catch (error) {
      const problem = `nodes cannot be listened to on ${listen}: ${errorMessage(error)}`;
      if (problem !== this.problem) this.log.warn(problem);
      this.problem = problem;
      this.listening = undefined; // the address may come yet
      this.listenTimer = setTimeout(() => void this.listen(), LISTEN_RETRY_MS).unref();
    }
  }

  private onStranger(address: string, id: string | undefined): void {
    this.strangers += 1;
    if (this.nowMs() - this.strangersLoggedMs < STRANGERS_LOG_MS) return;
    this.strangersLoggedMs = this.nowMs();
    this.log.warn({ address, id: id ?? null, count: this.strangers }, 'somebody who is no node of the configuration was sent away');
  }

  // ---- exchange ---------------------------------------------------------------------------------------------------

  private inForceOf({ config }: Peer): number | null { return this.compiled?.nodeSequences.get(config.name) ?? null; }

  /** Our record is not in force at the other end yet. */
  private isBehind({ have }: Peer): boolean { return this.state.signed !== null && (have === null || have < this.state.sequence); }

  private messageTo(peer: Peer): Message {
    return { have: this.inForceOf(peer), record: this.isBehind(peer) ? this.state.signed : null, refused: peer.refused };
  }

  /** Calls all nodes now. */
  wake(): void { for (const { link } of this.peers.values()) link?.wake(); }

  /** A node called. */
  async answer(id: string, message: Message): Promise<Message> {
    const peer = this.peers.get(id);
    if (!peer) throw new ExchangeError('this node does not know you');
    await this.take(peer, message);
    return this.messageTo(peer);
  }

  /** What the other end said. Waits a moment for the engine to have it. */
  private async take(peer: Peer, { have, record, refused }: Message): Promise<void> {
    const { name } = peer.config;
    peer.have = have;
    peer.lastExchangeMs = this.nowMs();
    peer.exchanges += 1;
    peer.problem = null;
    peer.theyRefused = refused;
    this.say(`exchange ${name}`, undefined);
    this.say(`theirs ${name}`, refused === null ? undefined : `node ${name} does not take our record: ${refused}`);
    if (record !== null) {
      try {
        const nowMs = this.nowMs();
        peer.takenMs = peer.takenMs.filter((ms) => Math.abs(nowMs - ms) < 60_000);
        if (peer.takenMs.length >= RECORDS_PER_MINUTE && this.learnt.get(peer.config.id)?.signed.record !== record.record) throw new RecordError(`${RECORDS_PER_MINUTE} records came within a minute`);
        if (this.learnt.accept(peer.config.id, record, nowMs)) {
          peer.takenMs.push(nowMs);
          const taken = this.learnt.get(peer.config.id)!.record;
          this.log.info({ node: name, sequence: taken.sequence }, 'a node\'s record was taken');
          this.host.refill();
        }
        peer.refused = null;
      } catch (error) {
        if (!(error instanceof RecordError)) throw error;
        peer.refused = error.message.slice(0, REASON_CHARACTERS_MAX);
      }
      this.say(`record ${name}`, peer.refused === null ? undefined : `the record of node ${name} is refused: ${peer.refused}`);
    }
    if (this.state.rotations.length > 0) this.tickSoon(0);
    const held = this.learnt.current(peer.config.id, this.nowMs());
    if (held && held.sequence !== this.inForceOf(peer)) await this.untilInForce(() => this.inForceOf(peer) === held.sequence);
  }

  private failed(peer: Peer, error: unknown): void {
    peer.failures += 1;
    peer.problem = errorMessage(error);
    this.say(`exchange ${peer.config.name}`, `node ${peer.config.name} cannot be reached: ${peer.problem}`);
  }

  private async untilInForce(isSo: () => boolean): Promise<void> {
    const endMs = performance.now() + IN_FORCE_MS;
    while (!isSo() && !this.stopped && performance.now() < endMs) {
      await new Promise<void>((resolve) => {
        const done = (): void => {
          clearTimeout(timer);
          this.inForceWaiters.delete(done);
          resolve();
        };
        const timer = setTimeout(done, Math.max(1, endMs - performance.now()));
        this.inForceWaiters.add(done);
      });
    }
  }

  private releaseInForce(): void { for (const done of [...this.inForceWaiters]) done(); }

  // ---- the loop ---------------------------------------------------------------------------------------------------

  private tickSoon(inMs: number): void {
    if (this.stopped) return;
    if (this.ticking) {
      this.tickAgain ||= inMs === 0;
      return;
    }
    clearTimeout(this.timer);
    this.timer = setTimeout(() => void this.tickOnce(), inMs);
    this.timer.unref();
  }

  private async tickOnce(): Promise<void> {
    this.ticking = true;
    this.tickAgain = false;
    try {
      await this.tick();
      this.say('tick', undefined);
    } catch (error) {
      this.say('tick', `nodes: ${errorMessage(error)}; trying again`);
    }
    this.ticking = false;
    this.tickSoon(this.tickAgain ? 0 : this.state.rotations.length > 0 ? TICK_ROTATING_MS : TICK_MS);
  }

  private async tick(): Promise<void> {
    if (!this.identity || !this.compiled || this.stopped) return;
    if (this.hasTunnels || this.state.rotations.length > 0) {
      try {
        this.views = await this.host.show();
      } catch (error) {
        if (/^SLUICE_(ENGINE_AWAY|IPC_)/.test(errorCode(error))) return; // it comes back, and with it the next round
        throw error;
      }
    } else this.views = [];
    if (this.stopped) return;
    this.goOn();
    this.renewRecord();
    for (const { interface: name } of [...this.state.rotations]) await this.advance(name);
    this.schedule();
    this.endExpired();
  }

  /** A record that has ended counts no more, also when no other one comes. */
  private endExpired(): void {
    const isEnded = (this.config.peers ?? []).some(({ name, id }) => this.compiled!.nodeSequences.has(name) && !this.learnt.current(id, this.nowMs()));
    if (isEnded) this.host.refill();
  }

  // ---- our record -------------------------------------------------------------------------------------------------

  private ownKeys(): ReadonlySet<string> {
    return new Set(this.views.flatMap(({ publicKey, nextPublicKey }) => [publicKey, nextPublicKey].filter((key) => key !== null)));
  }

  /** Issues another one when it has something else to say, or the last one is old. Not written yet when `isWritten` is false. */
  private renewRecord(): void {
    const before = this.ownRecord;
    const name = this.ownName;
    const wireguard = this.announcements(before);
    const nowMs = this.nowMs();
    const isSame = before !== undefined && before.node === this.identity!.id && before.name === name && JSON.stringify(before.wireguard) === JSON.stringify(wireguard);
    const ageMs = before === undefined ? 0 : nowMs - Date.parse(before.issuedAt);
    if (isSame && ageMs < REISSUE_MS && ageMs > -REISSUE_MS) return;
    // Never lower than before, also when the state was lost: time goes on.
    const sequence = Math.max(this.state.sequence + 1, nowMs);
    const record: NodeRecord = {
      version: 1, node: this.identity!.id, name, sequence, issuedAt: new Date(nowMs).toISOString(), expiresAt: new Date(nowMs + LIFETIME_MS).toISOString(), wireguard,
    };
    this.write({ ...this.state, sequence, signed: signRecord(record, this.identity!.privateKey) });
    this.log.info({ sequence, tunnels: wireguard.length }, 'this node has a new record');
    this.wake();
  }

  get ownRecord(): NodeRecord | undefined { return this.state.signed === null ? undefined : JSON.parse(this.state.signed.record) as NodeRecord; }

  private get ownName(): string {
    const name = this.config.name ?? this.compiled?.hostname ?? machineName();
    return new RegExp(NODE_NAME_PATTERN).test(name) ? name : name.replace(/[^A-Za-z0-9_.-]/g, '-').slice(0, 63).replace(/^[.-]+/, '') || 'node';
  }

  /** Tunnels that have a node as peer, or that the configuration wants announced. */
  private announcements(before: NodeRecord | undefined): Announcement[] {
    const live = new Map(this.views.map((one) => [one.interface, one]));
    return this.tunnels.flatMap((tunnel): Announcement[] => {
      const announce = this.config.announce?.[tunnel.name];
      if (announce === undefined && ![...tunnel.peers.values()].some(({ node }) => node !== null)) return [];
      const view = live.get(tunnel.name);
      const former = before?.wireguard.find((one) => one.interface === tunnel.name);
      const keys = view?.publicKey ? { publicKey: view.publicKey, nextPublicKey: view.nextPublicKey } : former; // without its key for a moment
      if (keys === undefined) return [];
      // Once the sessions have moved nobody shall begin with the old key any more.
      const phase = this.find(tunnel.name)?.phase;
      const isSwitched = view?.rotation === 'switched' && keys.nextPublicKey !== null && (phase === 'settling' || phase === 'finishing');
      return [{
        interface: tunnel.name, publicKey: isSwitched ? keys.nextPublicKey! : keys.publicKey, nextPublicKey: isSwitched ? null : keys.nextPublicKey,
        endpoint: announce?.endpoint ?? null, port: tunnel.listen, allowedIPs: asList<string>(announce?.allowedIPs).map((text) => formatPrefix(parsePrefix(text))),
      }];
    });
  }

  // ---- rotation ---------------------------------------------------------------------------------------------------

  /** Resolves when the old key is wiped. Throws ApiError, and what the engine says against it. A caller that goes away leaves it running. */
  async rotate(name: string, { by, overlapMs, force = false }: RotateOptions, progress: (text: string) => void = () => undefined): Promise<Rotated> {
    const tunnel = this.tunnels.find((one) => one.name === name);
    if (!tunnel) throw new ApiError(404, 'SLUICE_API_NOT_FOUND', `there is no tunnel '${name}' in force`, '/interface');
    if (!this.identity) throw new ApiError(503, 'SLUICE_NOT_READY', `this node has no identity: ${this.problem ?? 'not yet'}`);
    if (this.find(name)) throw new ApiError(409, 'SLUICE_NODE_ROTATION', `a rotation of ${name} is under way already; \`sluice node show\` says how far it is`);
    const foreign = foreignPeers(tunnel);
    if (foreign.length > 0 && !force) {
      throw new ApiError(409, 'SLUICE_NODE_ROTATION', `${foreign.length === 1 ? `peer ${foreign[0]} is no node` : `peers ${foreign.slice(0, 12).join(', ')} are no nodes`} and cannot be told the next key: `
        + `after the rotation ${foreign.length === 1 ? 'it' : 'they'} would be cut off until given the new one by hand. Make nodes of them, or force it`);
    }
    const begunMs = this.nowMs();
    const previousPublicKey = (await this.host.show()).find((one) => one.interface === name)?.publicKey ?? '';
    if (this.find(name)) throw new ApiError(409, 'SLUICE_NODE_ROTATION', `a rotation of ${name} is under way already`);
    this.put(begin(name, by, overlapMs ?? this.overlapMs, force, begunMs));
    const ended = new Promise<Rotation>((resolve, reject) => void this.waiters.set(name, { done: resolve, failed: reject, progress }));
    this.tickSoon(0);
    const { left } = await ended;
    const publicKey = this.views.find((one) => one.interface === name)?.publicKey ?? '';
    return { interface: name, publicKey, previousPublicKey, milliseconds: Math.round(this.nowMs() - begunMs), left };
  }

  private get overlapMs(): number { return (this.config.rotate?.overlap === undefined ? undefined : durationMs(this.config.rotate.overlap)) ?? OVERLAP_DEFAULT_MS; }
  private find(name: string): Rotation | undefined { return this.state.rotations.find((one) => one.interface === name); }

  private put(rotation: Rotation, signed = this.state.signed): void {
    const rotations = this.find(rotation.interface) ? this.state.rotations.map((one) => (one.interface === rotation.interface ? rotation : one)) : [...this.state.rotations, rotation];
    this.write({ ...this.state, signed, rotations });
    this.waiters.get(rotation.interface)?.progress(rotation.phase);
  }

  private engineRotation(name: string): EngineRotation {
    return this.views.find((one) => one.interface === name)?.rotation as EngineRotation;
  }

  /** Where each rotation stands, after anything that may have died. */
  private goOn(): void {
    const nowMs = this.nowMs();
    for (const rotation of [...this.state.rotations]) {
      const engine = this.engineRotation(rotation.interface);
      if (engine === undefined) {
        // The engine keeps the key files: with the tunnel the rotation comes back.
        if (!this.tunnels.some(({ name }) => name === rotation.interface)) this.end(rotation, new ApiError(409, 'SLUICE_NODE_ROTATION', `${rotation.interface} is not in force any more`));
        continue;
      }
      const next = reconcile(rotation, engine, nowMs);
      if (next !== undefined && next !== rotation) {
        this.log.warn({ interface: rotation.interface, from: rotation.phase, to: next.phase }, 'a rotation goes on elsewhere: the engine is at another step');
        this.put(next);
      }
    }
    for (const { interface: name, rotation: engine } of this.views) {
      if (this.find(name) || (engine !== 'prepared' && engine !== 'switched') || !this.tunnels.some((one) => one.name === name)) continue;
      this.log.warn({ interface: name, engine }, 'the engine is amid a rotation that this node does not know of; it is brought to its end');
      this.put(adopt(name, engine, this.overlapMs, nowMs));
    }
  }

  /** As many steps as can be made now. */
  private async advance(name: string): Promise<void> {
    for (;;) {
      const rotation = this.find(name);
      if (!rotation || this.stopped || this.engineRotation(name) === undefined) return;
      const call = CALLS[rotation.phase];
      if (call !== undefined) {
        if (!await this.callEngine(rotation, call)) return;
        continue;
      }
      if (rotation.sequence === null) {
        this.renewRecord();
        this.put({ ...rotation, sequence: this.state.sequence });
        continue;
      }
      const waits = waitsFor(rotation, this.rotationPeers(name));
      this.waiters.get(name)?.progress(waits.length === 0 ? rotation.phase : `${rotation.phase}: waiting for ${waits.slice(0, 8).join(', ')}${waits.length > 8 ? ' and others' : ''}`);
      if (waits.length > 0 && !isOver(rotation, this.nowMs())) {
        await this.switchAgain(rotation);
        return;
      }
      if (waits.length > 0) {
        this.log.warn({ interface: name, phase: rotation.phase, peers: waits.slice(0, 20) }, 'a rotation does not wait any longer; these peers are cut off until they hear of the new key');
        this.audit(rotation, { left: waits.slice(0, 20) });
      }
      this.put(after(rotation, this.nowMs(), waits)!);
    }
  }

  /** A handshake that a peer began with the old key may have crossed ours: then the newest session is that one. */
  private async switchAgain({ interface: name, phase, sinceMs }: Rotation): Promise<void> {
    if (phase !== 'moving') return;
    const nowMs = this.nowMs();
    if (nowMs - Math.max(sinceMs, this.switchedMs.get(name) ?? 0) < SWITCH_AGAIN_MS) return;
    this.switchedMs.set(name, nowMs);
    await this.host.rotate(name, 'switch').catch((error: unknown) => { if (!/^SLUICE_(ENGINE_AWAY|IPC_)/.test(errorCode(error))) throw error; });
  }

  /** False: not now. What the engine has then, our record and the next phase are written as one. */
  private async callEngine(rotation: Rotation, call: RotatePhase): Promise<boolean> {
    const { interface: name } = rotation;
    try {
      await this.host.rotate(name, call);
    } catch (error) {
      if (/^SLUICE_(ENGINE_AWAY|IPC_)/.test(errorCode(error))) return false; // repeated when it is back
      if (rotation.phase === 'preparing') {
        this.end(rotation, error as Error); // nothing has happened yet
        return false;
      }
      throw error;
    }
    this.audit(rotation, { step: call });
    this.views = await this.host.show();
    const next = after(rotation, this.nowMs());
    if (next === undefined) {
      this.end(rotation);
      this.renewRecord();
      return false;
    }
    this.renewRecord(); // before the phase: a phase whose record is missing would wait for the wrong one
    this.put({ ...next, sequence: this.state.sequence });
    return true;
  }

  private end(rotation: Rotation, error?: Error): void {
    const { interface: name } = rotation;
    const rotations = this.state.rotations.filter((one) => one.interface !== name);
    const nowMs = this.nowMs();
    this.write({ ...this.state, rotations, ...(error ? {} : { rotatedAtMs: { ...this.state.rotatedAtMs, [name]: nowMs } }) });
    const waiter = this.waiters.get(name);
    this.waiters.delete(name);
    if (error) {
      this.rotations.failed += 1;
      this.notBefore.set(name, nowMs + SCHEDULE_RETRY_MS);
      this.log.warn({ interface: name, code: errorCode(error) }, `a rotation was given up: ${errorMessage(error)}`);
      this.audit(rotation, { gaveUp: errorMessage(error) });
      waiter?.failed(error);
      return;
    }
    this.rotations.done += 1;
    this.log.info({ interface: name, milliseconds: nowMs - rotation.startedMs, left: rotation.left }, 'a static key has rotated');
    waiter?.done(rotation);
  }

  private rotationPeers(name: string): RotationPeer[] {
    const tunnel = this.tunnels.find((one) => one.name === name);
    const view = this.views.find((one) => one.interface === name);
    const live = new Map(view?.peers.map((peer) => [peer.name, peer]));
    const ids = new Map((this.config.peers ?? []).map((peer) => [peer.name, peer.id]));
    return [...tunnel?.peers ?? []].map(([peerName, { node }]) => {
      const one = live.get(peerName);
      const id = node === null ? undefined : ids.get(nodeAndInterface(node)[0]);
      return {
        name: peerName, have: node === null ? undefined : (id === undefined ? null : this.peers.get(id)?.have ?? null),
        hasOld: one?.state === 'established' && one.ownKey !== view?.nextPublicKey,
      };
    });
  }

  private schedule(): void {
    const everyMs = this.config.rotate?.every === undefined ? undefined : durationMs(this.config.rotate.every);
    if (everyMs === undefined) return;
    const nowMs = this.nowMs();
    for (const tunnel of this.tunnels) {
      const { name } = tunnel;
      if (this.find(name) || ![...tunnel.peers.values()].some(({ node }) => node !== null)) continue;
      const foreign = foreignPeers(tunnel);
      this.say(`schedule ${name}`, foreign.length === 0 ? undefined : `the key of ${name} does not rotate by itself: ${foreign.slice(0, 12).join(', ')} could not be told`);
      if (foreign.length > 0 || nowMs < (this.notBefore.get(name) ?? 0)) continue;
      const rotatedMs = this.state.rotatedAtMs[name];
      // From now on for one that is new here, and after a clock that was ahead.
      if (rotatedMs === undefined || rotatedMs > nowMs) this.write({ ...this.state, rotatedAtMs: { ...this.state.rotatedAtMs, [name]: nowMs } });
      else if (nowMs - rotatedMs >= everyMs) {
        this.put(begin(name, SYSTEM, this.overlapMs, false, nowMs));
        this.tickSoon(0);
      }
    }
  }

  // ---- what people see --------------------------------------------------------------------------------------------

  view(): NodesView {
    const own = this.ownRecord;
    const iso = (ms: number | null | undefined): string | null => (ms === null || ms === undefined ? null : new Date(ms).toISOString());
    return {
      name: this.ownName, id: this.identity?.id ?? null, listen: this.listener ? this.listening ?? null : null, problem: this.problem ?? null,
      record: own === undefined ? null : { sequence: own.sequence, issuedAt: own.issuedAt, expiresAt: own.expiresAt, wireguard: own.wireguard },
      strangers: this.strangers,
      peers: [...this.peers.values()].map((peer): NodeView => {
        const { config, have, lastExchangeMs, exchanges, failures, problem, refused, theyRefused } = peer;
        const learnt = this.learnt.get(config.id);
        return {
          name: config.name, id: config.id, url: config.url ?? null, lastExchange: iso(lastExchangeMs), exchanges, failures, problem,
          record: learnt === undefined ? null : { sequence: learnt.record.sequence, issuedAt: learnt.record.issuedAt, expiresAt: learnt.record.expiresAt, wireguard: learnt.record.wireguard },
          inForce: learnt !== undefined && this.inForceOf(peer) === learnt.record.sequence, hasOurs: !this.isBehind(peer), have,
          refused, theyRefused, notes: [...this.compiled?.nodeNotes.get(config.name) ?? []],
          tunnels: this.tunnels.filter((tunnel) => [...tunnel.peers.values()].some(({ node }) => node !== null && nodeAndInterface(node)[0] === config.name)).map(({ name }) => name),
        };
      }),
      rotations: this.state.rotations.map((rotation) => ({
        interface: rotation.interface, phase: rotation.phase, startedAt: iso(rotation.startedMs)!, by: rotation.by, waitingFor: waitsFor(rotation, this.rotationPeers(rotation.interface)), left: rotation.left,
      })),
      lastRotations: Object.fromEntries(Object.entries(this.state.rotatedAtMs).map(([name, ms]) => [name, iso(ms)!])),
    };
  }

  // ---- helpers ----------------------------------------------------------------------------------------------------

  private nowMs(): number { return this.host.now?.() ?? Date.now(); }

  /** Said once, and once more when it is over. */
  private say(topic: string, text: string | undefined): void {
    const before = this.said.get(topic);
    if (before === text) return;
    if (text !== undefined) {
      this.said.set(topic, text);
      this.log.warn(text);
      return;
    }
    this.said.delete(topic);
    this.log.info(`no more: ${before}`);
  }

  private audit({ interface: name, phase, by }: Rotation, detail: Record<string, unknown>): void {
    this.host.audit({ event: 'system', by, resource: 'wireguard', detail: { what: 'rotation of a static key', interface: name, phase, ...detail } });
  }

  private get stateFile(): string { return join(this.directory, 'state.json'); }

  /** Durable when it returns; when it throws, nothing has changed. */
  private write(state: State): void {
    replaceFile(this.stateFile, JSON.stringify(state));
    this.state = state;
  }

  private readState(): State {
    const fresh: State = { version: 1, sequence: 0, signed: null, rotations: [], rotatedAtMs: {} };
    try {
      const state = JSON.parse(readFileSync(this.stateFile, 'utf8')) as State;
      if (state.version !== 1 || !Number.isSafeInteger(state.sequence) || !Array.isArray(state.rotations)) throw new Error('not of this form');
      return state;
    } catch (error) {
      // What is lost comes back: sequences follow the clock, and the engine knows where a rotation is.
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') this.log.error(`${this.stateFile} is damaged (${errorMessage(error)}); starting anew`);
      return fresh;
    }
  }
}

/** Peers that have their key from the configuration: nobody can tell them another one. */
function foreignPeers({ peers }: TunnelInfo): string[] { return [...peers].filter(([, { node }]) => node === null).map(([name]) => name); }

function giveAway(directory: string, { uid, gid }: { uid: number; gid: number }): void {
  for (const path of [directory, join(directory, 'records')]) {
    for (const name of readdirSync(path)) lchownSync(join(path, name), uid, gid);
    chownSync(path, uid, gid);
  }
  // Control's own parts lie in it; what it may not read there has modes of its own.
  const parent = join(directory, '..');
  chmodSync(parent, statSync(parent).mode & 0o7777 | 0o011);
}
