// WireGuard in the engine process: drives one WireguardDevice (src/wireguard/device.ts: handshakes, timers) an interface between the
// workers' events and calls of the addon, and keeps what must outlive the process: keys (wireguard-keys.ts), endpoints
// (wireguard-endpoints.ts). Who: src/engine/host.ts. Thread: Node's main thread. No packet comes here, only handshake messages.
// Order of a change: stage() with the plan, before anything is touched (files read, ports taken) → the snapshot is applied, since peers
// exist natively from then on → commit(). What one interface lacks (a key file, its port) closes that interface or peer alone.
// Bounds: EVENT_BYTES a turn of the event loop, so HANDSHAKES_TURN_MAX handshake messages; the rest waits in the workers' ring,
// whose own bound holds. WANTS_TURN_MAX peers are called a tick after a restart. One unsent message a peer waits for UNSENT_MS_MAX.
// Secrets: private keys are in buffers that are wiped when the device has its copy, preshared ones with their interface; none is logged,
// sent or put into an error.
import { createHash, randomBytes } from 'node:crypto';
import { lookup } from 'node:dns/promises';
import { isIP } from 'node:net';
import { join } from 'node:path';
import {
  readWireguardEventRecord, readWireguardPeerRecord, WIREGUARD_ENDPOINT_BYTES, WIREGUARD_EVENT_RECORD_BYTES, WIREGUARD_PEER_RECORD_BYTES, WireguardEvent,
  writeWireguardEndpoint, type WireguardEndpoint, type WireguardPeerRecord,
} from './abi.generated.js';
import type { Addon } from './binding.js';
import { IpcError } from './ipc.js';
import type { WireguardPeerPlan, WireguardPlan } from './last-applied.js';
import { viewOf } from './records.js';
import { endpointOf, EndpointStore, formatEndpoint, Resolver, type Lookup } from './wireguard-endpoints.js';
import { formatAddress } from '../lib/address.js';
import { KeyDirectory, readKeyFile, wipe, type RotationPhase, type StaticKeys } from './wireguard-keys.js';
import { PortReservation, type PortMessage } from './wireguard-ports.js';
import type { Log } from '../supervisor/log.js';
import { WireguardDevice, type Action, type PeerSettings, type PeerStatus, type Refusal } from '../wireguard/device.js';
import type { Run } from './command.js';

const TICK_MS = 200;
const MESSAGE_BYTES_MAX = 152;          // the longest handshake message has 148; padded to 8
const HANDSHAKES_TURN_MAX = 16;         // a millisecond or two each
const EVENT_BYTES = HANDSHAKES_TURN_MAX * (WIREGUARD_EVENT_RECORD_BYTES + MESSAGE_BYTES_MAX);
const WANTS_TURN_MAX = 16;
const UNSENT_MS_MAX = 5000;             // REKEY_TIMEOUT: then the device makes another one
const RETRY_MS = 10_000;                // after which faults are looked at again
const REMEMBER_MS = 5000;
const EMPTY = new Uint8Array(0);
const KEY_HINT_NONE = 0xff;

export type WireguardAddon = Pick<Addon, 'wireguardIndex' | 'wireguardInstall' | 'wireguardForget' | 'wireguardEndpoint' | 'wireguardSend' | 'wireguardGate' | 'wireguardEvents' | 'wireguardPeers'>;

export interface WireguardParts {
  addon: WireguardAddon;
  log: Log;
  lookup?: Lookup;
  run?: Run;
  /** CLOCK_MONOTONIC, as the workers count. */
  nowNs?(): bigint;
  wallClockNs?(): bigint;
}

export interface WireguardPeerView {
  name: string; publicKey: string; nextPublicKey: string | null; endpoint: string | null;
  state: PeerStatus['state']; latestHandshake: string | null;
  rxBytes: number; txBytes: number; rxPackets: number; txPackets: number;
  keepalive: number | null;             // seconds; null: off
  ownKey: string | null;                // our public key that the newest session was made with
}

export interface WireguardView {
  interface: string; listen: number;
  publicKey: string | null;             // null: there is no usable key, see faults
  nextPublicKey: string | null;
  rotation: RotationPhase;
  faults: string[];
  refused: Record<Refusal, number> | null; // handshake messages that were not answered
  peers: WireguardPeerView[];
}

export const ROTATE_PHASES = ['prepare', 'switch', 'finish'] as const;
export type RotatePhase = (typeof ROTATE_PHASES)[number];
export interface RotateResult { publicKey: string; nextPublicKey: string | null; rotation: RotationPhase }

/** An interface whose files were read and whose port was taken; `presharedKeys` by peer id. */
interface Staged {
  plan: WireguardPlan;
  presharedKeys: Map<number, Uint8Array>;
  faults: string[];
  refusals: string[];           // those of the faults that this very change brings
  closedPeers: Set<number>;
  isPortHeld: boolean;
}

interface Tunnel {
  plan: WireguardPlan;
  device: WireguardDevice | undefined;  // undefined: without a usable key
  keyDigest: string;                    // of the current private key, to see that the file has another one
  phase: RotationPhase;
  peers: Map<number, WireguardPeerPlan>;
  presharedKeys: Map<number, Uint8Array>; // as the device has them: for when a file cannot be read later
  faults: string[];
}

/** What the process begins with: a configuration from control, or the one that an engine before it had. */
type Start = 'start' | 'restart';

interface Unsent { interfaceId: number; message: Uint8Array; endpoint?: Uint8Array; untilMs: number }

export class WireguardHost {
  private readonly keys: KeyDirectory;
  private readonly store: EndpointStore;
  private readonly ports: PortReservation;
  private readonly resolver: Resolver;
  private readonly tunnels = new Map<number, Tunnel>();     // by interface id
  private readonly peers = new Map<number, Tunnel>();       // by peer id
  private readonly unsent = new Map<number, Unsent>();      // by peer id
  private readonly wanted = new Set<number>();              // peers to call once the workers know where they are
  private readonly lastGood = new Map<number, WireguardEndpoint>(); // where a session was, by peer id; as of REMEMBER_MS ago at most
  private readonly events = new Uint8Array(EVENT_BYTES);
  private readonly addon: WireguardAddon;
  private readonly log: Log;
  private staged: Staged[] | undefined;
  private isCommit = false;                // as it was staged
  private records: Uint8Array = EMPTY;    // struct sl_wireguard_peer_record, as of the last look at them
  private rememberedMs = -Infinity;
  private tickTimer: NodeJS.Timeout | undefined;
  private retryTimer: NodeJS.Timeout | undefined;
  private pumpSoon: NodeJS.Immediate | undefined;
  private stagedText = '';
  private inForceText: string | undefined; // the plans in force, as JSON
  private stopped = false;

  constructor(directory: string, private readonly parts: WireguardParts) {
    this.addon = parts.addon;
    this.log = parts.log;
    this.keys = new KeyDirectory(directory);
    this.store = new EndpointStore(join(directory, 'endpoints.json'), (error) => this.log.warn({ err: error }, 'the endpoints of WireGuard peers cannot be kept for a restart, or were not'));
    this.ports = new PortReservation((message) => this.onPortMessage(message), parts.run);
    this.resolver = new Resolver(parts.lookup ?? lookupAll, (name, error) => this.log.warn({ name, reason: (error as Error).message }, 'the name of a WireGuard peer\'s endpoint cannot be looked up; trying again'));
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
    clearImmediate(this.pumpSoon);
    this.resolver.close();
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
      this.drive(tunnel, () => device.setPeers(settings));
    }
    wipe(...tunnel.presharedKeys.values());
    tunnel.presharedKeys = presharedKeys;
    for (const id of closedPeers) this.tell(tunnel, 'sessions cannot be ended', () => this.addon.wireguardForget(id));
    for (const id of formerPeers.keys()) if (!tunnel.peers.has(id)) this.forgetPeer(id);
    for (const peer of tunnel.peers.values()) this.tell(tunnel, 'the endpoint of a peer', () => this.placePeer(tunnel, peer, formerPeers.get(peer.id), start));
    // Peers learn our new port from the next message that we send.
    if (before && former.listen !== plan.listen) for (const id of tunnel.peers.keys()) this.send(plan.id, id, EMPTY);
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
    this.tell(tunnel, 'its keys are not known to the workers', () => this.addon.wireguardGate(tunnel.plan.id, tunnel.device?.gateKeys() ?? EMPTY));
  }

  /** Nothing is sent or answered any more: no session, no handshake. Packets that want to go this way are dropped by the workers. */
  private closeDevice(tunnel: Tunnel, peers: Iterable<number>): void {
    if (!tunnel.device) return;
    this.rememberNewest(tunnel);
    tunnel.device.close();
    tunnel.device = undefined;
    tunnel.phase = 'none';
    this.gate(tunnel);
    for (const id of peers) this.tell(tunnel, 'sessions cannot be ended', () => this.addon.wireguardForget(id));
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
    this.resolver.forget(id);
    this.unsent.delete(id);
    this.wanted.delete(id);
    this.lastGood.delete(id);
  }

  // ---- where peers are --------------------------------------------------------------------------------------------

  /** A peer's endpoint at its start, or when the configuration has another one: else the workers know better. */
  private placePeer(tunnel: Tunnel, peer: WireguardPeerPlan, former: WireguardPeerPlan | undefined, start: Start | undefined): void {
    const configured = peer.endpoint && formatEndpoint(peer.endpoint);
    if (former && (former.endpoint && formatEndpoint(former.endpoint)) === configured) return;
    const known = former ? undefined : this.store.find(tunnel.plan.interface, peer.name);
    const isKnown = known !== undefined && known.configured === (configured ?? undefined);
    this.resolver.forget(peer.id);
    if (isKnown) this.setEndpoint(tunnel, peer.id, endpointOf(known.address, known.port));
    else this.followConfiguration(tunnel, peer);
    // It has or may have a session with the engine before this one: a new one at once, not when somebody's packet waits.
    if (start === 'restart' || (start === 'start' && isKnown)) this.wanted.add(peer.id);
  }

  private followConfiguration(tunnel: Tunnel, { id, endpoint }: WireguardPeerPlan): void {
    if (!endpoint) return;
    const { address, port } = endpoint;
    if (isIP(address) !== 0) this.setEndpoint(tunnel, id, endpointOf(address, port));
    else this.resolver.ask(id, address, (found) => { if (this.peers.get(id) === tunnel) this.setEndpoint(tunnel, id, endpointOf(found, port)); });
  }

  private setEndpoint(tunnel: Tunnel, id: number, endpoint: WireguardEndpoint): void {
    const bytes = encodeEndpoint(endpoint);
    this.tell(tunnel, 'a peer\'s endpoint is not known to the workers', () => this.addon.wireguardEndpoint(id, bytes));
  }

  /**
   * An initiation was not answered. In turn: where the configuration says that the peer is, its name looked up again, and where it was
   * last; our own address is chosen by the route anew.
   */
  private placeAgain(tunnel: Tunnel, id: number, attempt: number): void {
    const peer = tunnel.peers.get(id);
    const lastGood = this.lastGood.get(id);
    if (peer?.endpoint && (attempt % 2 === 0 || !lastGood)) return this.followConfiguration(tunnel, peer);
    const there = lastGood ?? this.findRecord(id)?.endpoint;
    if (there && there.port !== 0) this.setEndpoint(tunnel, id, { ...there, local: new Uint8Array(16) });
  }

  /** What the next engine should know: where there is a session now, and how new initiations have to be. */
  private remember(): void {
    for (const tunnel of this.tunnels.values()) this.rememberNewest(tunnel);
    for (const { id, endpoint, currentCreatedNs } of this.eachRecord()) {
      const tunnel = this.peers.get(id);
      const peer = tunnel?.peers.get(id);
      if (!tunnel || !peer || endpoint.port === 0 || currentCreatedNs === 0n) continue;
      this.lastGood.set(id, endpoint);
      const configured = peer.endpoint && formatEndpoint(peer.endpoint);
      this.store.set(tunnel.plan.interface, peer.name, { address: formatAddress(endpoint.address), port: endpoint.port, ...(configured ? { configured } : {}) });
    }
  }

  private rememberNewest({ plan, device, peers }: Tunnel): void {
    for (const peer of peers.values()) {
      const newest = device?.newestTimestamp(peer.id);
      if (newest) this.store.setNewest(plan.interface, keysOf(peer), newest);
    }
  }

  // ---- between workers and devices ----------------------------------------------------------------------------------

  /** {type: 'wireguard'} of the addon: there are events. They are taken in a turn of their own. */
  onEvents(): void {
    if (this.stopped || this.pumpSoon !== undefined) return;
    this.pumpSoon = setImmediate(() => {
      this.pumpSoon = undefined;
      if (this.takeEvents()) this.onEvents();
    });
  }

  /** As many events as one turn takes. True: there may be more. */
  private takeEvents(): boolean {
    let used = 0;
    try {
      used = this.addon.wireguardEvents(this.events);
    } catch (error) {
      this.log.error({ err: error }, 'reading events of WireGuard failed');
    }
    const bytes = this.events.slice(0, used); // a device may keep what it got
    const view = viewOf(bytes);
    for (let at = 0; at + WIREGUARD_EVENT_RECORD_BYTES <= used;) {
      const record = readWireguardEventRecord(view, at);
      if (record.recordBytes < WIREGUARD_EVENT_RECORD_BYTES + record.messageBytes || at + record.recordBytes > used) break;
      const message = bytes.subarray(at + WIREGUARD_EVENT_RECORD_BYTES, at + WIREGUARD_EVENT_RECORD_BYTES + record.messageBytes);
      at += record.recordBytes;
      const tunnel = record.event === WireguardEvent.MESSAGE ? this.tunnels.get(record.interface) : this.peers.get(record.peerId);
      if (record.event === WireguardEvent.MESSAGE) this.drive(tunnel, (device) => device.onMessage(message, record.from, record.key, this.nowNs()));
      else if (record.event === WireguardEvent.WANTED) this.drive(tunnel, (device) => device.want(record.peerId, this.nowNs()));
      else if (record.event === WireguardEvent.CONFIRMED) this.drive(tunnel, (device) => device.onConfirmed(record.peerId, this.nowNs()));
    }
    return used > 0;
  }

  /** What the kernel got at a listen port; the device checks mac1 itself. */
  private onPortMessage({ port, message, from }: PortMessage): void {
    const tunnel = [...this.tunnels.values()].find(({ plan }) => plan.listen === port);
    if (this.stopped) return;
    this.drive(tunnel, (device) => device.onMessage(new Uint8Array(message), endpointOf(from.address, from.port), KEY_HINT_NONE, this.nowNs()));
  }

  private tick(): void {
    this.readPeers();
    const nowNs = this.nowNs();
    for (const [interfaceId, own] of this.recordsByInterface()) {
      const tunnel = this.tunnels.get(interfaceId);
      this.drive(tunnel, (device) => device.tick(nowNs, own));
    }
    this.callWanted(nowNs);
    this.sendUnsent();
    const nowMs = performance.now();
    if (nowMs - this.rememberedMs >= REMEMBER_MS) {
      this.rememberedMs = nowMs;
      this.remember();
    }
    this.store.saveSoon(nowMs);
    this.onEvents();
  }

  private readPeers(): void {
    try {
      const bytes = this.addon.wireguardPeers();
      this.records = bytes.subarray(0, bytes.length - bytes.length % WIREGUARD_PEER_RECORD_BYTES);
    } catch (error) {
      this.log.error({ err: error }, 'reading peers of WireGuard failed');
      this.records = EMPTY;
    }
  }

  private *eachRecord(): Generator<WireguardPeerRecord> {
    const view = viewOf(this.records);
    for (let at = 0; at < this.records.length; at += WIREGUARD_PEER_RECORD_BYTES) yield readWireguardPeerRecord(view, at);
  }

  private findRecord(id: number): WireguardPeerRecord | undefined {
    const view = viewOf(this.records);
    for (let at = 0; at < this.records.length; at += WIREGUARD_PEER_RECORD_BYTES) if (view.getUint32(at, true) === id) return readWireguardPeerRecord(view, at);
    return undefined;
  }

  /** A device looks through what it is given: it gets its own. Most often an interface's records stand together. */
  private recordsByInterface(): Map<number, Uint8Array> {
    const view = viewOf(this.records);
    const runs = new Map<number, Uint8Array[]>();
    let first = 0;
    for (let at = 0; at < this.records.length; at += WIREGUARD_PEER_RECORD_BYTES) {
      const id = view.getUint32(at + INTERFACE_OFFSET, true);
      const next = at + WIREGUARD_PEER_RECORD_BYTES;
      if (next < this.records.length && view.getUint32(next + INTERFACE_OFFSET, true) === id) continue;
      const run = this.records.subarray(first, next);
      first = next;
      const before = runs.get(id);
      if (before) before.push(run);
      else runs.set(id, [run]);
    }
    return new Map([...runs].map(([id, own]) => [id, own.length === 1 ? own[0]! : new Uint8Array(Buffer.concat(own))]));
  }

  private callWanted(nowNs: bigint): void {
    if (this.wanted.size === 0) return;
    const records = new Map([...this.eachRecord()].map((record) => [record.id, record]));
    let calls = 0;
    for (const id of this.wanted) {
      if (calls >= WANTS_TURN_MAX) return;
      const record = records.get(id);
      if (record === undefined || record.endpoint.port === 0) continue; // known when its name was looked up, or when it calls
      this.wanted.delete(id);
      if (record.currentCreatedNs !== 0n) continue; // it did
      calls += 1;
      const tunnel = this.peers.get(id);
      this.drive(tunnel, (device) => device.want(id, nowNs));
    }
  }

  /** A device does something, and what it wants done is done. A fault in one is none of the others' or of the process's. */
  private drive(tunnel: Tunnel | undefined, work: (device: WireguardDevice) => readonly Action[]): void {
    if (!tunnel?.device) return; // gone meanwhile, or without a key
    try {
      this.perform(tunnel, work(tunnel.device));
    } catch (error) {
      this.log.error({ err: error, interface: tunnel.plan.interface }, 'handling handshakes of WireGuard failed');
    }
  }

  private perform(tunnel: Tunnel, actions: readonly Action[]): void {
    const failed = new Set<number>();
    for (const action of actions) {
      const { peerId } = action;
      if (failed.has(peerId)) continue; // no response to a handshake whose session does not exist
      const isDone = this.tell(tunnel, `'${action.type}' for a peer`, () => this.performOne(tunnel, action));
      if (!isDone) failed.add(peerId);
    }
  }

  private performOne(tunnel: Tunnel, action: Action): void {
    const { peerId } = action;
    switch (action.type) {
      case 'install': this.addon.wireguardInstall(action.keypair); return;
      case 'endpoint': this.addon.wireguardEndpoint(peerId, encodeEndpoint(action.endpoint)); return;
      case 'forget': if (tunnel.peers.has(peerId)) this.addon.wireguardForget(peerId); return; // else the snapshot has ended them already
      case 'keepalive': this.addon.wireguardSend(tunnel.plan.id, peerId, EMPTY); return;
      case 'send':
        if (action.attempt > 1) this.placeAgain(tunnel, peerId, action.attempt);
        this.send(tunnel.plan.id, peerId, action.message, action.endpoint && encodeEndpoint(action.endpoint));
        return;
      case 'gave-up':
        this.log.info({ interface: tunnel.plan.interface, peer: tunnel.peers.get(peerId)?.name }, 'a WireGuard peer does not answer; trying again when packets for it come');
    }
  }

  /** A message for which there is no way at this moment (a route or a neighbour to come) is tried again with the next ticks. */
  private send(interfaceId: number, peerId: number, message: Uint8Array, endpoint?: Uint8Array): void {
    this.unsent.delete(peerId);
    if (this.addon.wireguardSend(interfaceId, peerId, message, endpoint) || message.length === 0) return;
    this.unsent.set(peerId, { interfaceId, message, ...(endpoint ? { endpoint } : {}), untilMs: performance.now() + UNSENT_MS_MAX });
  }

  private sendUnsent(): void {
    const nowMs = performance.now();
    for (const [peerId, { interfaceId, message, endpoint, untilMs }] of [...this.unsent]) {
      let isSent = false;
      try {
        isSent = this.addon.wireguardSend(interfaceId, peerId, message, endpoint);
      } catch { /* the peer is gone */ }
      if (isSent || nowMs > untilMs) this.unsent.delete(peerId);
    }
  }

  /** A call of the addon. It refuses what an apply took away a moment ago: that is no reason to stop for anybody else. */
  private tell(tunnel: Tunnel, what: string, call: () => void): boolean {
    try {
      call();
      return true;
    } catch (error) {
      this.log.warn({ interface: tunnel.plan.interface, reason: (error as Error).message }, `WireGuard: ${what}: refused`);
      return false;
    }
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
    if (this.tunnels.size > 0 && !this.stopped) this.readPeers();
    const records = new Map([...this.eachRecord()].map((record) => [record.id, record]));
    return [...this.tunnels.values()].map((tunnel): WireguardView => {
      const { plan, device, phase, faults } = tunnel;
      const keys = device?.publicKeys();
      return {
        interface: plan.interface, listen: plan.listen, publicKey: keys ? encode(keys.current) : null, nextPublicKey: keys?.next ? encode(keys.next) : null,
        rotation: phase, faults, refused: device ? { ...device.refused } : null,
        peers: plan.peers.map((peer) => this.showPeer(peer, records, device)),
      };
    });
  }

  private showPeer(peer: WireguardPeerPlan, records: ReadonlyMap<number, WireguardPeerRecord>, device: WireguardDevice | undefined): WireguardPeerView {
    const record = records.get(peer.id);
    const status = device?.status(peer.id);
    const latestNs = status?.latestHandshakeNs ?? 0n;
    return {
      name: peer.name, publicKey: peer.publicKey, nextPublicKey: peer.nextPublicKey ?? null,
      endpoint: record ? formatEndpoint(record.endpoint) : null,
      state: status?.state ?? 'none', latestHandshake: latestNs === 0n ? null : new Date(Number(latestNs / 1_000_000n)).toISOString(),
      rxBytes: Number(record?.rxBytes ?? 0), txBytes: Number(record?.txBytes ?? 0), rxPackets: Number(record?.rxPackets ?? 0), txPackets: Number(record?.txPackets ?? 0),
      keepalive: peer.keepalive || null, ownKey: status?.self ? encode(status.self) : null,
    };
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
    return { publicKey: encode(keys.current), nextPublicKey: keys.next ? encode(keys.next) : null, rotation: tunnel.phase };
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

const INTERFACE_OFFSET = 4; // of sl_wireguard_peer_record

const lookupAll: Lookup = async (name) => (await lookup(name, { all: true })).map(({ address }) => address);

const keysOf = ({ publicKey, nextPublicKey }: WireguardPeerPlan): string[] => (nextPublicKey === undefined ? [publicKey] : [publicKey, nextPublicKey]);

function digestOf(key: Uint8Array): string { return createHash('sha256').update(key).digest('base64'); }
function decode(publicKey: string): Uint8Array { return new Uint8Array(Buffer.from(publicKey, 'base64')); }
function encode(publicKey: Uint8Array): string { return Buffer.from(publicKey).toString('base64'); }

function encodeEndpoint(endpoint: WireguardEndpoint): Uint8Array {
  const bytes = new Uint8Array(WIREGUARD_ENDPOINT_BYTES);
  writeWireguardEndpoint(viewOf(bytes), 0, endpoint);
  return bytes;
}
