// WireGuard in the engine process: one WireguardDevice (src/wireguard/device.ts: handshakes, timers) an interface, driven between the
// workers' events and calls of the addon (wireguard-driver.ts), and what must outlive the process: keys (wireguard-keys.ts), endpoints
// (wireguard-endpoints.ts). Who: src/engine/host.ts. Thread: Node's main thread. No packet comes here, only handshake messages.
// Order of a change: stage() with the plan, before anything is touched (files read, ports taken) → the snapshot is applied, since peers
// exist natively from then on → commit(). What one interface lacks (a key file, its port) closes that interface or peer alone.
// Secrets: private keys are in buffers that are wiped when the device has its copy, preshared ones with their interface; none is logged,
// sent or put into an error.
import { createHash, randomBytes } from 'node:crypto';
import { lookup } from 'node:dns/promises';
import { join } from 'node:path';
import type { Run } from './command.js';
import { IpcError } from './ipc.js';
import type { WireguardPlan } from './last-applied.js';
import { DeviceDriver } from './wireguard-driver.js';
import { endpointOf, EndpointStore, type Lookup } from './wireguard-endpoints.js';
import { KeyDirectory, readKeyFile, wipe, type RotationPhase, type StaticKeys } from './wireguard-keys.js';
import { Outbox } from './wireguard-outbox.js';
import { PeerRecords } from './wireguard-peer-records.js';
import { PeerPlaces } from './wireguard-places.js';
import { PortReservation, type PortMessage } from './wireguard-ports.js';
import { keysOf, tell, type Staged, type Start, type Tunnel, type WireguardAddon } from './wireguard-tunnel.js';
import { encodeKey, showTunnels, type WireguardView } from './wireguard-view.js';
import type { Log } from '../supervisor/log.js';
import { WireguardDevice, type PeerSettings } from '../wireguard/device.js';

const TICK_MS = 200;
const RETRY_MS = 10_000;                // after which faults are looked at again
const REMEMBER_MS = 5000;
const EMPTY = new Uint8Array(0);
const KEY_HINT_NONE = 0xff;

export type { WireguardAddon } from './wireguard-tunnel.js';
export type { WireguardPeerView, WireguardView } from './wireguard-view.js';

export interface WireguardParts {
  addon: WireguardAddon;
  log: Log;
  lookup?: Lookup;
  run?: Run;
  /** CLOCK_MONOTONIC, as the workers count. */
  nowNs?(): bigint;
  wallClockNs?(): bigint;
}

export const ROTATE_PHASES = ['prepare', 'switch', 'finish'] as const;
export type RotatePhase = (typeof ROTATE_PHASES)[number];
export interface RotateResult { publicKey: string; nextPublicKey: string | null; rotation: RotationPhase }

export class WireguardHost {
  private readonly keys: KeyDirectory;
  private readonly store: EndpointStore;
  private readonly ports: PortReservation;
  private readonly records: PeerRecords;
  private readonly places: PeerPlaces;
  private readonly outbox: Outbox;
  private readonly driver: DeviceDriver;
  private readonly tunnels = new Map<number, Tunnel>();     // by interface id
  private readonly peers = new Map<number, Tunnel>();       // by peer id
  private readonly addon: WireguardAddon;
  private readonly log: Log;
  private staged: Staged[] | undefined;
  private isCommit = false;                // as it was staged
  private rememberedMs = -Infinity;
  private tickTimer: NodeJS.Timeout | undefined;
  private retryTimer: NodeJS.Timeout | undefined;
  private stagedText = '';
  private inForceText: string | undefined; // the plans in force, as JSON
  private stopped = false;

  constructor(directory: string, private readonly parts: WireguardParts) {
    this.addon = parts.addon;
    this.log = parts.log;
    this.keys = new KeyDirectory(directory);
    this.store = new EndpointStore(join(directory, 'endpoints.json'), (error) => this.log.warn({ err: error }, 'the endpoints of WireGuard peers cannot be kept for a restart, or were not'));
    this.ports = new PortReservation((message) => this.onPortMessage(message), parts.run);
    this.records = new PeerRecords(parts.addon, parts.log);
    this.outbox = new Outbox(parts.addon);
    this.places = new PeerPlaces({ addon: parts.addon, log: parts.log, lookup: parts.lookup ?? lookupAll, store: this.store, records: this.records, tunnelOf: (id) => this.peers.get(id) });
    this.driver = new DeviceDriver({ addon: parts.addon, log: parts.log, tunnels: this.tunnels, peers: this.peers, places: this.places, outbox: this.outbox, records: this.records, nowNs: () => this.nowNs() });
  }

  // ---- changes ----------------------------------------------------------------------------------------------------

  /**
   * Reads what the interfaces need and takes their ports; touches nothing that is in force. Returns warnings. `isCommit`: somebody
   * changes a running engine, and is told of a new fault by an error; else (start, restart) an interface with a fault is a warning.
   */
  async stage(plans: readonly WireguardPlan[], isCommit: boolean): Promise<string[]> {
    this.unstage();
    const staged: Staged[] = [];
    this.staged = staged;
    this.isCommit = isCommit;
    for (const plan of plans) staged.push(await this.prepare(plan));
    const refusals = staged.flatMap((one) => one.refusals);
    if (isCommit && this.hasCommitted && refusals.length > 0) {
      this.unstage();
      throw new IpcError('SLUICE_WIREGUARD', refusals.join('; '));
    }
    const faults = staged.flatMap((one) => one.faults);
    this.stagedText = JSON.stringify(plans);
    // Control asks for the same again whenever the machine changed, and then has nothing to apply. Files may be others now.
    if (this.stagedText === this.inForceText) this.commit();
    return faults;
  }

  /** Puts in force what was staged. After the snapshot was applied: peers are known to the workers now. */
  commit(): void {
    const { staged } = this;
    if (staged === undefined) return;
    this.staged = undefined;
    const start = this.hasCommitted ? undefined : this.isCommit ? 'start' : 'restart';
    this.inForceText = this.stagedText;
    for (const tunnel of [...this.tunnels.values()]) {
      if (staged.some(({ plan }) => plan.id === tunnel.plan.id)) continue;
      this.tearDown(tunnel, staged.find(({ plan }) => plan.interface === tunnel.plan.interface)?.plan.listen);
    }
    for (const one of staged) this.setUp(one, start);
    this.store.keep(new Map(staged.map(({ plan }) => [plan.interface, new Set(plan.peers.map((peer) => peer.name))])), new Map(staged.map(({ plan }) => [plan.interface, new Set(plan.peers.flatMap(keysOf))])));
    this.schedule();
  }

  private get hasCommitted(): boolean { return this.inForceText !== undefined; }

  /** Faults of the interfaces in force. */
  faults(): string[] { return [...this.tunnels.values()].flatMap((tunnel) => tunnel.faults); }

  stop(): void {
    if (this.stopped) return;
    this.remember();
    this.store.saveNow();
    this.stopped = true;
    this.unstage();
    clearInterval(this.tickTimer);
    clearTimeout(this.retryTimer);
    this.driver.stop();
    this.places.close();
    this.ports.close();
    for (const { device, presharedKeys } of this.tunnels.values()) {
      device?.close();
      wipe(...presharedKeys.values());
    }
    this.tunnels.clear();
    this.peers.clear();
  }

  private async prepare(plan: WireguardPlan): Promise<Staged> {
    const staged: Staged = { plan, presharedKeys: new Map(), faults: [], refusals: [], closedPeers: new Set(), isPortHeld: false };
    const before = this.tunnels.get(plan.id);
    const attempt = async (subject: string, isNew: boolean, work: () => Promise<void> | void): Promise<boolean> => {
      try {
        await work();
        return true;
      } catch (error) {
        const fault = `${subject}: ${(error as Error).message}`;
        staged.faults.push(fault);
        if (isNew) staged.refusals.push(fault);
        return false;
      }
    };
    staged.isPortHeld = await attempt(plan.interface, before?.plan.listen !== plan.listen, () => this.ports.take(plan.listen, plan.interface));
    await attempt(plan.interface, before === undefined || before.plan.privateKeyFile !== plan.privateKeyFile, () => {
      const keys = this.keys.load(plan.interface, plan.privateKeyFile);
      wipe(keys.current, keys.next);
      if (keys.damage !== undefined) throw new Error(`the next key of a rotation cannot be used, so the rotation is void: ${keys.damage}`);
    });
    const peersBefore = new Map(before?.plan.peers.map((peer) => [peer.id, peer]));
    for (const { id, name, presharedKeyFile } of plan.peers) {
      if (presharedKeyFile === undefined) continue;
      const isNew = peersBefore.get(id)?.presharedKeyFile !== presharedKeyFile;
      if (await attempt(`${plan.interface}, peer ${name}`, isNew, () => void staged.presharedKeys.set(id, readKeyFile(presharedKeyFile)))) continue;
      // A key whose file cannot be read any more is still the key. Without one there is no handshake: it would be weaker than was asked for.
      const former = isNew ? undefined : before?.presharedKeys.get(id);
      if (former) staged.presharedKeys.set(id, former.slice());
      else staged.closedPeers.add(id);
    }
    return staged;
  }

  /** Drops what was staged and not put in force. */
  private unstage(): void {
    for (const { plan, presharedKeys } of this.staged ?? []) {
      wipe(...presharedKeys.values());
      const inForce = [...this.tunnels.values()].find((tunnel) => tunnel.plan.interface === plan.interface);
      this.ports.release(plan.interface, inForce?.plan.listen);
    }
    this.staged = undefined;
  }

  private setUp({ plan, presharedKeys, faults, closedPeers, isPortHeld }: Staged, start: Start | undefined): void {
    const before = this.tunnels.get(plan.id);
    const tunnel: Tunnel = before ?? { plan, device: undefined, keyDigest: '', phase: 'none', peers: new Map(), presharedKeys: new Map(), faults: [] };
    const formerPeers = tunnel.peers;
    const former = tunnel.plan;
    tunnel.plan = plan;
    tunnel.faults = faults;
    this.tunnels.set(plan.id, tunnel);
    this.ports.release(plan.interface, plan.listen);
    for (const peer of formerPeers.values()) if (this.peers.get(peer.id) === tunnel) this.peers.delete(peer.id);
    tunnel.peers = new Map(plan.peers.filter((peer) => !closedPeers.has(peer.id)).map((peer) => [peer.id, peer]));
    for (const id of tunnel.peers.keys()) this.peers.set(id, tunnel);
    // A key whose file cannot be read any more is still the key.
    const hasKeys = this.setKeys(tunnel) || (tunnel.device !== undefined && former.privateKeyFile === plan.privateKeyFile);
    // Without the port, what we sent from there would be answered to somebody else.
    if (!isPortHeld || !hasKeys) this.closeDevice(tunnel, formerPeers.keys());
    const { device } = tunnel;
    if (device) {
      const settings = [...tunnel.peers.values()].map((peer): PeerSettings => {
        const presharedKey = presharedKeys.get(peer.id);
        const newestTimestamp = this.store.newestOf(plan.interface, keysOf(peer));
        return {
          id: peer.id, publicKey: decode(peer.publicKey),
          ...(peer.nextPublicKey === undefined ? {} : { nextPublicKey: decode(peer.nextPublicKey) }),
          ...(presharedKey === undefined ? {} : { presharedKey }),
          ...(peer.keepalive ? { keepaliveS: peer.keepalive } : {}),
          ...(newestTimestamp === undefined ? {} : { newestTimestamp }),
        };
      });
      this.driver.drive(tunnel, () => device.setPeers(settings));
    }
    wipe(...tunnel.presharedKeys.values());
    tunnel.presharedKeys = presharedKeys;
    for (const id of closedPeers) tell(this.log, tunnel, 'sessions cannot be ended', () => this.addon.wireguardForget(id));
    for (const id of formerPeers.keys()) if (!tunnel.peers.has(id)) this.forgetPeer(id);
    for (const peer of tunnel.peers.values()) tell(this.log, tunnel, 'the endpoint of a peer', () => this.places.place(tunnel, peer, formerPeers.get(peer.id), start));
    // Peers learn our new port from the next message that we send.
    if (before && former.listen !== plan.listen) for (const id of tunnel.peers.keys()) this.outbox.send(plan.id, id, EMPTY);
  }

  /** Gives the device its static keys as the files have them. False, with a fault, when they cannot be used. */
  private setKeys(tunnel: Tunnel): boolean {
    const { plan } = tunnel;
    let keys: StaticKeys;
    try {
      keys = this.keys.load(plan.interface, plan.privateKeyFile);
    } catch (error) {
      const fault = `${plan.interface}: ${(error as Error).message}`;
      if (!tunnel.faults.includes(fault)) tunnel.faults.push(fault);
      return false;
    }
    const keyDigest = digestOf(keys.current);
    // Not by a rotation: whoever has the former key has no business here any more, and neither have its sessions.
    if (tunnel.device && tunnel.keyDigest !== keyDigest) this.closeDevice(tunnel, tunnel.peers.keys());
    tunnel.device ??= new WireguardDevice(plan.id, {
      randomBytes: (count) => new Uint8Array(randomBytes(count)),
      wallClockNs: () => this.store.showClock(this.parts.wallClockNs?.() ?? BigInt(Date.now()) * 1_000_000n),
      newIndex: () => this.addon.wireguardIndex(),
    });
    tunnel.keyDigest = keyDigest;
    tunnel.phase = keys.phase;
    tunnel.device.setKeys({ current: keys.current, ...(keys.next ? { next: keys.next, initiateWith: keys.phase === 'switched' ? 'next' : 'current' } : {}) });
    wipe(keys.current, keys.next);
    this.gate(tunnel);
    return true;
  }

  private gate(tunnel: Tunnel): void {
    tell(this.log, tunnel, 'its keys are not known to the workers', () => this.addon.wireguardGate(tunnel.plan.id, tunnel.device?.gateKeys() ?? EMPTY));
  }

  /** Nothing is sent or answered any more: no session, no handshake. Packets that want to go this way are dropped by the workers. */
  private closeDevice(tunnel: Tunnel, peers: Iterable<number>): void {
    if (!tunnel.device) return;
    this.rememberNewest(tunnel);
    tunnel.device.close();
    tunnel.device = undefined;
    tunnel.phase = 'none';
    this.gate(tunnel);
    for (const id of peers) tell(this.log, tunnel, 'sessions cannot be ended', () => this.addon.wireguardForget(id));
  }

  private tearDown(tunnel: Tunnel, keepPort: number | undefined): void {
    tunnel.device?.close(); // the workers have forgotten its sessions with the snapshot
    wipe(...tunnel.presharedKeys.values());
    this.tunnels.delete(tunnel.plan.id);
    for (const id of tunnel.peers.keys()) {
      this.peers.delete(id);
      this.forgetPeer(id);
    }
    this.ports.release(tunnel.plan.interface, keepPort);
  }

  private forgetPeer(id: number): void {
    this.places.forget(id);
    this.outbox.forget(id);
  }

  // ---- what the next engine should know -------------------------------------------------------------------------------

  private remember(): void {
    for (const tunnel of this.tunnels.values()) this.rememberNewest(tunnel);
    this.places.remember();
  }

  /** How new initiations of peers have to be. */
  private rememberNewest({ plan, device, peers }: Tunnel): void {
    for (const peer of peers.values()) {
      const newest = device?.newestTimestamp(peer.id);
      if (newest) this.store.setNewest(plan.interface, keysOf(peer), newest);
    }
  }

  // ---- between workers and devices ----------------------------------------------------------------------------------

  /** {type: 'wireguard'} of the addon: there are events. */
  onEvents(): void { this.driver.onEvents(); }

  /** What the kernel got at a listen port; the device checks mac1 itself. */
  private onPortMessage({ port, message, from }: PortMessage): void {
    const tunnel = [...this.tunnels.values()].find(({ plan }) => plan.listen === port);
    if (this.stopped) return;
    this.driver.drive(tunnel, (device) => device.onMessage(new Uint8Array(message), endpointOf(from.address, from.port), KEY_HINT_NONE, this.nowNs()));
  }

  private tick(): void {
    this.records.read();
    const nowNs = this.nowNs();
    for (const [interfaceId, own] of this.records.byInterface()) {
      const tunnel = this.tunnels.get(interfaceId);
      this.driver.drive(tunnel, (device) => device.tick(nowNs, own));
    }
    this.driver.callWanted(nowNs);
    this.outbox.sendUnsent();
    const nowMs = performance.now();
    if (nowMs - this.rememberedMs >= REMEMBER_MS) {
      this.rememberedMs = nowMs;
      this.remember();
    }
    this.store.saveSoon(nowMs);
    this.driver.onEvents();
  }

  /** Timers run while there are interfaces; faults are looked at again. */
  private schedule(): void {
    if (this.stopped) return;
    clearInterval(this.tickTimer);
    this.tickTimer = undefined;
    if (this.tunnels.size > 0) {
      this.tick();
      this.tickTimer = setInterval(() => this.tick(), TICK_MS);
    }
    this.retrySoon();
  }

  private retrySoon(): void {
    clearTimeout(this.retryTimer);
    if (this.stopped || this.faults().length === 0) return;
    this.retryTimer = setTimeout(() => void this.retry(), RETRY_MS);
    this.retryTimer.unref();
  }

  private async retry(): Promise<void> {
    for (const tunnel of [...this.tunnels.values()].filter(({ faults }) => faults.length > 0)) {
      if (this.staged) break; // a change is under way: it looks at everything anyway
      const { plan } = tunnel;
      const staged = await this.prepare(plan);
      if (this.stopped || this.staged || this.tunnels.get(plan.id)?.plan !== plan) {
        wipe(...staged.presharedKeys.values());
        continue;
      }
      const former = tunnel.faults;
      this.setUp(staged, undefined);
      for (const fault of former.filter((one) => !tunnel.faults.includes(one))) this.log.info({ interface: plan.interface, fault }, 'a fault of WireGuard is gone');
    }
    this.retrySoon();
  }

  private nowNs(): bigint { return this.parts.nowNs?.() ?? process.hrtime.bigint(); }

  // ---- requests -----------------------------------------------------------------------------------------------------

  show(): WireguardView[] {
    if (this.tunnels.size > 0 && !this.stopped) this.records.read();
    return showTunnels(this.tunnels.values(), new Map([...this.records.each()].map((record) => [record.id, record])));
  }

  /**
   * A step of the rotation of an interface's static key, each of which may be repeated. prepare: the next key is made, and answered to
   * from here on. switch: handshakes are made with it, with every peer now. finish: it takes the old one's place, which is wiped.
   */
  rotate(name: string, phase: RotatePhase): RotateResult {
    const tunnel = [...this.tunnels.values()].find(({ plan }) => plan.interface === name);
    if (!tunnel) throw new IpcError('SLUICE_WIREGUARD_ROTATION', `there is no WireGuard interface '${name}'`);
    if (tunnel.plan.privateKeyFile !== undefined) throw new IpcError('SLUICE_WIREGUARD_ROTATION', `${name}: its key is ${tunnel.plan.privateKeyFile}, which is not ours to change; leave privateKeyFile out for a key that rotates`);
    if (!tunnel.device) throw new IpcError('SLUICE_WIREGUARD_ROTATION', tunnel.faults[0] ?? `${name} has no key`);
    if (phase === 'prepare') this.keys.prepare(name);
    else if (phase === 'switch') this.keys.switch(name);
    else this.finish(tunnel);
    if (!this.setKeys(tunnel)) throw new IpcError('SLUICE_WIREGUARD_ROTATION', tunnel.faults[0]!);
    if (phase === 'switch') tunnel.device.rekey(); // again when it is repeated: a peer's own handshake, begun before, may have crossed the first
    this.log.info({ interface: name, phase: tunnel.phase }, 'rotation of a static key');
    const keys = tunnel.device.publicKeys();
    return { publicKey: encodeKey(keys.current), nextPublicKey: keys.next ? encodeKey(keys.next) : null, rotation: tunnel.phase };
  }

  /** The key that follows is known to be the device's own: it is not a foreign one that ends all sessions. */
  private finish(tunnel: Tunnel): void {
    const keys = this.keys.load(tunnel.plan.interface);
    const digest = keys.next && digestOf(keys.next);
    wipe(keys.current, keys.next);
    this.keys.finish(tunnel.plan.interface);
    if (digest !== undefined) tunnel.keyDigest = digest;
  }
}

const lookupAll: Lookup = async (name) => (await lookup(name, { all: true })).map(({ address }) => address);

function digestOf(key: Uint8Array): string { return createHash('sha256').update(key).digest('base64'); }
function decode(publicKey: string): Uint8Array { return new Uint8Array(Buffer.from(publicKey, 'base64')); }
