// Nodes that talk WireGuard to one another in virtual time: a real WireguardDevice each, the packet engine's part in plain TypeScript
// (sessions, counters, times of messages, packets that wait), and a network that loses, delays and reorders as a test says.
//
// Nothing here waits or looks at a clock, and random bytes come from a seed: a test sees the same run each time.
import { blake2s } from '@noble/hashes/blake2.js';
import { chacha20poly1305 } from '@noble/ciphers/chacha.js';
import {
  WIREGUARD_KEYPAIR_BYTES, WIREGUARD_PEER_RECORD_BYTES, readWireguardKeypair, writeWireguardPeerRecord, type WireguardEndpoint,
} from '../../src/engine/abi.generated.js';
import { WireguardDevice, type Action, type DeviceRim, type PeerSettings } from '../../src/wireguard/device.js';
import { publicKeyOf } from '../../src/wireguard/curve.js';
import { MessageType, parseMessage } from '../../src/wireguard/messages.js';
import { isEqual } from '../../src/wireguard/bytes.js';

export const TICK_MS = 200;
const START_MS = 1_000_000;                       // of CLOCK_MONOTONIC
const EPOCH_NS = 1_764_000_000_000_000_000n;      // wall clock at START_MS
const REJECT_AFTER_MS = 180_000;
const INTERFACE_ID = 7;

/** Reproducible bytes. */
export function randomSource(seed: string): (count: number) => Uint8Array {
  let counter = 0;
  return (count) => {
    const bytes = new Uint8Array(count);
    for (let at = 0; at < count; at += 32) bytes.set(blake2s(Buffer.from(`${seed}/${counter++}`)).subarray(0, count - at), at);
    return bytes;
  };
}

export function uniform(seed: string): () => number {
  const random = randomSource(seed);
  return () => new DataView(random(4).buffer).getUint32(0) / 2 ** 32;
}

export const bytesOfHex = (hex: string): Uint8Array => Uint8Array.from(Buffer.from(hex, 'hex'));
export const keyOf = (name: string): Uint8Array => blake2s(Buffer.from(name));
export { publicKeyOf };

export function endpointOf(host: number, port = 51820): WireguardEndpoint {
  const address = new Uint8Array(16);
  address.set([0xff, 0xff, 10, 0, host >> 8, host & 255], 10);
  return { address, local: new Uint8Array(16), port };
}
const placeOf = ({ address, port }: WireguardEndpoint): string => `${Buffer.from(address).toString('hex')}/${port}`;

interface Session { localIndex: number; remoteIndex: number; createdMs: number; isInitiator: boolean; sendKey: Uint8Array; receiveKey: Uint8Array; sent: bigint }
interface Traffic {
  endpoint: WireguardEndpoint | undefined;
  current?: Session; previous?: Session; next?: Session; older?: Session;
  lastSentMs: number; lastReceivedMs: number; lastDataSentMs: number; lastDataReceivedMs: number; wantedMs: number;
  waiting: { text: string; untilMs: number }[];
}

export interface Sent { atMs: number; from: Node; to: WireguardEndpoint; type: number; bytes: Uint8Array }

export class Network {
  nowMs = START_MS;
  readonly trace: Sent[] = [];
  /** Does the message get lost? */
  loses: (message: Sent) => boolean = () => false;
  delayMs: (message: Sent) => number = () => 20;
  private readonly nodes: Node[] = [];
  private readonly events: { atMs: number; order: number; run: () => void }[] = [];
  private order = 0;

  add(name: string, options: Partial<NodeOptions> = {}): Node {
    const node = new Node(this, name, endpointOf(this.nodes.length + 1), options);
    this.nodes.push(node);
    // Each at its own moments.
    this.every(TICK_MS, (this.nodes.length * 37) % TICK_MS, () => node.tick());
    return node;
  }

  at(inMs: number, run: () => void): void {
    const event = { atMs: this.nowMs + inMs, order: this.order++, run };
    let place = this.events.length;
    while (place > 0 && (this.events[place - 1]!.atMs > event.atMs)) place -= 1;
    this.events.splice(place, 0, event);
  }

  every(intervalMs: number, firstMs: number, run: () => void): void {
    this.at(firstMs, () => {
      run();
      this.every(intervalMs, intervalMs, run);
    });
  }

  transmit(from: Node, to: WireguardEndpoint, bytes: Uint8Array): void {
    const message: Sent = { atMs: this.nowMs, from, to, type: bytes[0]!, bytes: bytes.slice() };
    this.trace.push(message);
    if (this.loses(message)) return;
    const source = { ...from.endpoint, local: to.address };
    this.at(this.delayMs(message), () => this.nodes.find((node) => placeOf(node.endpoint) === placeOf(to))?.receive(message.bytes.slice(), source));
  }

  /** Lets virtual time pass. */
  run(durationMs: number): void {
    const endMs = this.nowMs + durationMs;
    while (this.events.length > 0 && this.events[0]!.atMs <= endMs) {
      const event = this.events.shift()!;
      this.nowMs = Math.max(this.nowMs, event.atMs);
      event.run();
    }
    this.nowMs = endMs;
  }

  /** Messages of a type since a time, by whom. */
  sent(type: number, from?: Node, sinceMs = 0): Sent[] {
    return this.trace.filter((message) => message.type === type && message.atMs >= sinceMs && (from === undefined || message.from === from));
  }
}

interface NodeOptions { privateKey: Uint8Array; wallClockNs: (nowMs: number) => bigint }

export class Node {
  readonly device: WireguardDevice;
  readonly privateKey: Uint8Array;
  readonly publicKey: Uint8Array;
  readonly rim: DeviceRim;
  readonly actions: { atMs: number; action: Action }[] = [];
  readonly received: string[] = [];
  /** Messages that came and had no session, or did not open. */
  lost = 0;
  /** As if switched off. */
  isDead = false;
  /** Instead of handing a handshake message to the device. */
  gate: ((bytes: Uint8Array, from: WireguardEndpoint) => boolean) | undefined;
  private readonly traffic = new Map<number, Traffic>();
  private index = 0;

  constructor(readonly network: Network, readonly name: string, public endpoint: WireguardEndpoint, readonly options: Partial<NodeOptions>) {
    this.privateKey = options.privateKey ?? keyOf(name);
    this.publicKey = publicKeyOf(this.privateKey);
    this.rim = {
      randomBytes: randomSource(`random of ${name}`),
      wallClockNs: () => options.wallClockNs?.(network.nowMs) ?? this.trueTimeNs(),
      newIndex: () => (this.index += 1) + (endpoint.address[15]! << 24),
    };
    this.device = new WireguardDevice(INTERFACE_ID, this.rim);
    this.device.setKeys({ current: this.privateKey });
  }

  get nowNs(): bigint { return BigInt(Math.round(this.network.nowMs * 1e6)); }
  trueTimeNs(): bigint { return EPOCH_NS + BigInt(Math.round((this.network.nowMs - START_MS) * 1e6)); }

  setPeers(...peers: { settings: PeerSettings; endpoint?: WireguardEndpoint }[]): void {
    for (const { settings, endpoint } of peers) {
      if (!this.traffic.has(settings.id)) this.traffic.set(settings.id, { endpoint, lastSentMs: 0, lastReceivedMs: 0, lastDataSentMs: 0, lastDataReceivedMs: 0, wantedMs: -Infinity, waiting: [] });
    }
    this.carryOut(this.device.setPeers(peers.map(({ settings }) => settings)));
  }

  tick(): void {
    if (this.isDead) return;
    this.carryOut(this.device.tick(this.nowNs, this.records()));
  }

  /** A packet for the tunnel. */
  send(peerId: number, text: string): void {
    const peer = this.traffic.get(peerId)!;
    if (this.isUsable(peer.current)) return this.seal(peer, text);
    peer.waiting.push({ text, untilMs: this.network.nowMs + 30_000 });
    if (this.network.nowMs - peer.wantedMs < 1000) return;
    peer.wantedMs = this.network.nowMs;
    this.carryOut(this.device.want(peerId, this.nowNs));
  }

  receive(bytes: Uint8Array, from: WireguardEndpoint): void {
    if (this.isDead) return;
    if (bytes[0] !== MessageType.TRANSPORT) {
      if (this.gate?.(bytes, from) === true) return;
      this.carryOut(this.device.onMessage(bytes, from, 0xff, this.nowNs));
      return;
    }
    const message = parseMessage(bytes);
    if (message?.type !== MessageType.TRANSPORT) throw new Error('a transport message that is none');
    for (const [peerId, peer] of this.traffic) {
      for (const place of ['current', 'previous', 'next', 'older'] as const) {
        const session = peer[place];
        if (session?.localIndex !== message.receiver || !this.isUsable(session)) continue;
        return this.open(peerId, peer, session, message.counter, message.encryptedPacket, from);
      }
    }
    this.lost += 1;
  }

  actionsOf<T extends Action['type']>(type: T): { atMs: number; action: Extract<Action, { type: T }> }[] {
    return this.actions.filter((entry): entry is { atMs: number; action: Extract<Action, { type: T }> } => entry.action.type === type);
  }

  session(peerId: number): Session | undefined { return this.traffic.get(peerId)?.current; }

  /** Were the same keys derived? As each calls its own. */
  sharesSessionWith(peerId: number, other: Node, otherId: number): boolean {
    const mine = this.session(peerId);
    const theirs = other.session(otherId);
    return mine !== undefined && theirs !== undefined && isEqual(mine.sendKey, theirs.receiveKey) && isEqual(mine.receiveKey, theirs.sendKey)
      && mine.localIndex === theirs.remoteIndex && mine.remoteIndex === theirs.localIndex;
  }

  // ---- what the packet engine does -----------------------------------------------------------------------------------

  carryOut(actions: readonly Action[]): void {
    for (const action of actions) {
      this.actions.push({ atMs: this.network.nowMs, action });
      const peer = this.traffic.get(action.peerId);
      if (peer === undefined) continue;
      switch (action.type) {
        case 'install': this.install(peer, action.keypair); break;
        case 'send': {
          const to = action.endpoint ?? peer.endpoint;
          if (to !== undefined) this.network.transmit(this, to, action.message);
          break;
        }
        case 'keepalive': if (this.isUsable(peer.current)) this.seal(peer, ''); break;
        case 'endpoint': peer.endpoint = action.endpoint; break;
        case 'forget': peer.current = peer.previous = peer.next = peer.older = undefined; break;
        case 'gave-up': break;
      }
    }
  }

  private install(peer: Traffic, bytes: Uint8Array): void {
    if (bytes.length !== WIREGUARD_KEYPAIR_BYTES) throw new Error('not a keypair');
    const keypair = readWireguardKeypair(new DataView(bytes.buffer, bytes.byteOffset), 0);
    const session: Session = {
      localIndex: keypair.localIndex, remoteIndex: keypair.remoteIndex, createdMs: Number(keypair.createdNs) / 1e6, isInitiator: keypair.initiator === 1,
      sendKey: keypair.sendKey.slice(), receiveKey: keypair.receiveKey.slice(), sent: 0n,
    };
    bytes.fill(0);
    if (session.isInitiator) {
      peer.older = peer.next ?? peer.older;
      peer.next = undefined;
      peer.previous = peer.current;
      peer.current = session;
      this.sendWaiting(peer);
    } else {
      peer.older = peer.next ?? peer.older;
      peer.next = session;
    }
  }

  private seal(peer: Traffic, text: string): void {
    const session = peer.current!;
    const plain = new Uint8Array(Math.ceil(text.length / 16) * 16);
    plain.set(Buffer.from(text));
    const bytes = new Uint8Array(16 + plain.length + 16);
    const view = new DataView(bytes.buffer);
    bytes[0] = MessageType.TRANSPORT;
    view.setUint32(4, session.remoteIndex, true);
    view.setBigUint64(8, session.sent, true);
    bytes.set(chacha20poly1305(session.sendKey, nonceOf(session.sent)).encrypt(plain), 16);
    session.sent += 1n;
    peer.lastSentMs = this.network.nowMs;
    if (text !== '') peer.lastDataSentMs = this.network.nowMs;
    if (peer.endpoint !== undefined) this.network.transmit(this, peer.endpoint, bytes);
  }

  private open(peerId: number, peer: Traffic, session: Session, counter: bigint, sealed: Uint8Array, from: WireguardEndpoint): void {
    let plain: Uint8Array;
    try {
      plain = chacha20poly1305(session.receiveKey, nonceOf(counter)).decrypt(sealed);
    } catch {
      this.lost += 1;
      return;
    }
    peer.endpoint = from;
    peer.lastReceivedMs = this.network.nowMs;
    if (session === peer.next) {
      peer.previous = peer.current;
      peer.current = session;
      peer.next = undefined;
      this.carryOut(this.device.onConfirmed(peerId, this.nowNs));
      this.sendWaiting(peer);
    }
    if (plain.length === 0) return;
    peer.lastDataReceivedMs = this.network.nowMs;
    this.received.push(Buffer.from(plain).toString().replace(/\0+$/, ''));
  }

  private sendWaiting(peer: Traffic): void {
    for (const { text, untilMs } of peer.waiting.splice(0)) if (this.network.nowMs <= untilMs) this.seal(peer, text);
  }

  private isUsable(session: Session | undefined): session is Session {
    return session !== undefined && this.network.nowMs - session.createdMs < REJECT_AFTER_MS;
  }

  private records(): Uint8Array {
    const bytes = new Uint8Array(this.traffic.size * WIREGUARD_PEER_RECORD_BYTES);
    const view = new DataView(bytes.buffer);
    const ns = (ms: number): bigint => BigInt(Math.round(ms * 1e6));
    let at = 0;
    for (const [id, peer] of this.traffic) {
      writeWireguardPeerRecord(view, at, {
        id, interface: INTERFACE_ID, endpoint: peer.endpoint ?? { address: new Uint8Array(16), local: new Uint8Array(16), port: 0 },
        lastSentNs: ns(peer.lastSentMs), lastReceivedNs: ns(peer.lastReceivedMs), lastDataSentNs: ns(peer.lastDataSentMs), lastDataReceivedNs: ns(peer.lastDataReceivedMs),
        currentCreatedNs: this.isUsable(peer.current) ? ns(peer.current.createdMs) : 0n, currentSent: peer.current?.sent ?? 0n,
        txPackets: 0n, txBytes: 0n, rxPackets: 0n, rxBytes: 0n, waiting: 0, currentInitiator: peer.current?.isInitiator === true ? 1 : 0, hasNext: peer.next === undefined ? 0 : 1,
      });
      at += WIREGUARD_PEER_RECORD_BYTES;
    }
    return bytes;
  }
}

function nonceOf(counter: bigint): Uint8Array {
  const nonce = new Uint8Array(12);
  new DataView(nonce.buffer).setBigUint64(4, counter, true);
  return nonce;
}

export interface Pair { network: Network; a: Node; b: Node }

/** Two nodes, each the other's peer 1, and both know where the other one is. */
export function pair(change: { a?: Partial<PeerSettings>; b?: Partial<PeerSettings>; optionsA?: Partial<NodeOptions>; optionsB?: Partial<NodeOptions> } = {}): Pair {
  const network = new Network();
  const a = network.add('a', change.optionsA);
  const b = network.add('b', change.optionsB);
  a.setPeers({ settings: { id: 1, publicKey: b.publicKey, ...change.a }, endpoint: b.endpoint });
  b.setPeers({ settings: { id: 1, publicKey: a.publicKey, ...change.b }, endpoint: a.endpoint });
  return { network, a, b };
}

/** A pair with a session that both have used. */
export function connected(change: Parameters<typeof pair>[0] = {}): Pair {
  const all = pair(change);
  all.a.send(1, 'first');
  all.network.run(500);
  if (all.b.received.join() !== 'first') throw new Error('the pair did not connect');
  return all;
}
