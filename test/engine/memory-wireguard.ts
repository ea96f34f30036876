// Workers of several appliances and the network between them, in memory: what stands behind the addon's wireguard calls, as far as the
// engine's process can see it. Peers come and go with apply(), sessions are found by their index, and a transport message carries a code
// over its bytes made with the session's key, so that it is taken only where both sides derived the same keys.
import { createHmac, timingSafeEqual } from 'node:crypto';
import { createSocket } from 'node:dgram';
import {
  readWireguardEndpoint, readWireguardKeypair, WIREGUARD_ENDPOINT_BYTES, WIREGUARD_EVENT_RECORD_BYTES, WIREGUARD_KEYPAIR_BYTES, WIREGUARD_PEER_RECORD_BYTES, WireguardEvent,
  writeWireguardEndpoint, writeWireguardEventRecord, writeWireguardPeerRecord, type WireguardEndpoint,
} from '../../src/engine/abi.generated.js';
import type { WireguardPlan } from '../../src/engine/last-applied.js';
import { viewOf } from '../../src/engine/records.js';
import type { WireguardAddon } from '../../src/engine/wireguard.js';
import { endpointOf, formatEndpoint } from '../../src/engine/wireguard-endpoints.js';

const TRANSPORT = 4;
const HEADER_BYTES = 16;
const TAG_BYTES = 16;
const NOWHERE: WireguardEndpoint = { address: new Uint8Array(16), local: new Uint8Array(16), port: 0 };

/** A UDP port that nobody has. */
export async function freePort(): Promise<number> {
  const socket = createSocket({ type: 'udp6' });
  await new Promise<void>((resolve) => void socket.bind(0, () => resolve()));
  const { port } = socket.address();
  await new Promise<void>((resolve) => void socket.close(() => resolve()));
  return port;
}

interface Session { peerId: number; localIndex: number; remoteIndex: number; initiator: boolean; sendKey: Uint8Array; receiveKey: Uint8Array; createdNs: bigint; sent: bigint }
interface Peer {
  id: number; interfaceId: number; endpoint: WireguardEndpoint;
  current?: Session; previous?: Session; next?: Session;
  lastSentNs: bigint; lastReceivedNs: bigint; lastDataSentNs: bigint; lastDataReceivedNs: bigint; tx: number; rx: number; waiting: string[];
}
interface Datagram { from: string; to: string; message: Uint8Array }

/** Datagrams in flight; `tap` sees each and may keep it back. */
export class MemoryNetwork {
  private readonly workers = new Map<string, MemoryWorkers>();
  readonly sent: Datagram[] = [];
  tap: (datagram: Datagram) => boolean = () => true;

  join(workers: MemoryWorkers): void { this.workers.set(workers.address, workers); }

  send(datagram: Datagram): void {
    this.sent.push(datagram);
    if (!this.tap(datagram)) return;
    const host = datagram.to.slice(0, datagram.to.lastIndexOf(':'));
    setImmediate(() => this.workers.get(host)?.receive(datagram));
  }
}

export class MemoryWorkers implements WireguardAddon {
  readonly peers = new Map<number, Peer>();
  readonly gates = new Map<number, number>();           // interface id → how many static keys are answered to
  readonly received: { peer: number; text: string }[] = [];
  readonly calls: string[] = [];
  onEvent: () => void = () => undefined;
  isRouted = true;                                      // there is a way to send
  private readonly sessions = new Map<number, Session>();
  private readonly listening = new Map<number, number>(); // port → interface id
  private readonly ports = new Map<number, number>();     // interface id → port
  private events: { event: number; peerId: number; interfaceId: number; from: WireguardEndpoint; message: Uint8Array }[] = [];
  private lastIndex = 0;

  /** `address`: where datagrams for this appliance arrive. */
  constructor(private readonly network: MemoryNetwork, readonly address: string) { network.join(this); }

  /** As a snapshot does: peers that it does not name end. */
  apply(plans: readonly WireguardPlan[]): void {
    this.listening.clear();
    this.ports.clear();
    const named = new Set<number>();
    for (const plan of plans) {
      this.listening.set(plan.listen, plan.id);
      this.ports.set(plan.id, plan.listen);
      for (const { id } of plan.peers) {
        named.add(id);
        if (this.peers.get(id)?.interfaceId === plan.id) continue;
        this.peers.set(id, { id, interfaceId: plan.id, endpoint: NOWHERE, lastSentNs: 0n, lastReceivedNs: 0n, lastDataSentNs: 0n, lastDataReceivedNs: 0n, tx: 0, rx: 0, waiting: [] });
      }
    }
    for (const id of [...this.peers.keys()]) if (!named.has(id)) this.remove(id);
    for (const id of [...this.gates.keys()]) if (!this.ports.has(id)) this.gates.delete(id);
  }

  /** A packet for a peer. */
  sendData(peerId: number, text: string): void {
    const peer = this.peer(peerId);
    if (peer.current) this.transmit(peer, peer.current, Buffer.from(text));
    else {
      peer.waiting.push(text);
      this.push(WireguardEvent.WANTED, peer);
    }
  }

  hasSession(peerId: number): boolean { return this.peer(peerId).current !== undefined; }
  endpointOf(peerId: number): string | null { return formatEndpoint(this.peer(peerId).endpoint); }

  encodedEndpoint(address: string, port: number): Uint8Array {
    const bytes = new Uint8Array(WIREGUARD_ENDPOINT_BYTES);
    writeWireguardEndpoint(viewOf(bytes), 0, endpointOf(address, port));
    return bytes;
  }

  /** More handshake messages at once than anybody can answer. */
  flood(count: number, interfaceId: number, message: Uint8Array): void {
    for (let n = 0; n < count; n += 1) this.events.push({ event: WireguardEvent.MESSAGE, peerId: 0, interfaceId, from: endpointOf('198.51.100.9', 9), message });
    this.onEvent();
  }
  get waitingEvents(): number { return this.events.length; }

  receive({ from, message }: Datagram): void {
    const colon = from.lastIndexOf(':');
    const source = endpointOf(from.slice(0, colon).replace(/[[\]]/g, ''), Number(from.slice(colon + 1)));
    if (message[0] !== TRANSPORT) {
      const interfaceId = [...this.listening.values()][0];
      if (interfaceId === undefined || (this.gates.get(interfaceId) ?? 0) === 0) return;
      this.events.push({ event: WireguardEvent.MESSAGE, peerId: 0, interfaceId, from: source, message });
      this.onEvent();
      return;
    }
    const session = this.sessions.get(viewOf(message).getUint32(4, true));
    const peer = session && this.peers.get(session.peerId);
    if (!session || !peer || !timingSafeEqual(message.subarray(-TAG_BYTES), tagOf(session.receiveKey, message.subarray(0, -TAG_BYTES)))) return;
    peer.lastReceivedNs = process.hrtime.bigint();
    peer.rx += message.length;
    if (formatEndpoint(peer.endpoint) !== formatEndpoint(source)) {
      peer.endpoint = source;
      this.push(WireguardEvent.ROAMED, peer);
    }
    const text = Buffer.from(message.subarray(HEADER_BYTES, -TAG_BYTES)).toString();
    if (peer.next === session) {
      this.displace(peer, session);
      delete peer.next;
      this.push(WireguardEvent.CONFIRMED, peer);
      this.flush(peer);
    }
    if (text === '') return;
    peer.lastDataReceivedNs = peer.lastReceivedNs;
    this.received.push({ peer: peer.id, text });
  }

  // ---- the addon's calls

  wireguardIndex(): number { return this.lastIndex += 7; }

  wireguardInstall(bytes: Uint8Array): void {
    const { peerId, localIndex, remoteIndex, initiator, createdNs, sendKey, receiveKey } = readWireguardKeypair(viewOf(bytes), 0);
    const session: Session = { peerId, localIndex, remoteIndex, initiator: initiator === 1, createdNs, sent: 0n, sendKey: sendKey.slice(), receiveKey: receiveKey.slice() };
    bytes.fill(0, 0, WIREGUARD_KEYPAIR_BYTES);
    const peer = this.peer(peerId);
    this.sessions.set(localIndex, session);
    if (!session.initiator) {
      if (peer.next) this.sessions.delete(peer.next.localIndex);
      peer.next = session;
      return;
    }
    this.displace(peer, session);
    this.flush(peer);
  }

  wireguardForget(peerId: number): void {
    this.calls.push(`forget ${peerId}`);
    this.end(this.peer(peerId));
  }

  wireguardEndpoint(peerId: number, endpoint: Uint8Array): void {
    const { address, local, port } = readWireguardEndpoint(viewOf(endpoint), 0);
    this.peer(peerId).endpoint = { address: address.slice(), local: local.slice(), port };
  }

  wireguardSend(interfaceId: number, peerId: number, message: Uint8Array, endpoint?: Uint8Array): boolean {
    const peer = this.peer(peerId);
    if (message.length === 0) {
      if (!peer.current || peer.endpoint.port === 0) return false;
      this.transmit(peer, peer.current, message);
      return true;
    }
    const to = endpoint ? readWireguardEndpoint(viewOf(endpoint), 0) : peer.endpoint;
    if (to.port === 0 || !this.isRouted) return false;
    this.network.send({ from: `${this.address}:${this.ports.get(interfaceId)}`, to: formatEndpoint(to)!, message: message.slice() });
    return true;
  }

  wireguardGate(interfaceId: number, keys: Uint8Array): void {
    if (!this.ports.has(interfaceId)) throw new Error(`interface ${interfaceId} is unknown`);
    this.gates.set(interfaceId, keys.length / 64);
  }

  wireguardEvents(into: Uint8Array): number {
    let used = 0;
    for (; this.events.length > 0; this.events.shift()) {
      const { event, peerId, interfaceId, from, message } = this.events[0]!;
      const recordBytes = WIREGUARD_EVENT_RECORD_BYTES + Math.ceil(message.length / 8) * 8;
      if (used + recordBytes > into.length) break;
      writeWireguardEventRecord(viewOf(into), used, { recordBytes, peerId, interface: interfaceId, messageBytes: message.length, event, key: 0, timeNs: process.hrtime.bigint(), from });
      into.set(message, used + WIREGUARD_EVENT_RECORD_BYTES);
      used += recordBytes;
    }
    return used;
  }

  wireguardPeers(): Uint8Array {
    const bytes = new Uint8Array(this.peers.size * WIREGUARD_PEER_RECORD_BYTES);
    [...this.peers.values()].forEach((peer, index) => writeWireguardPeerRecord(viewOf(bytes), index * WIREGUARD_PEER_RECORD_BYTES, {
      id: peer.id, interface: peer.interfaceId, endpoint: peer.endpoint, lastSentNs: peer.lastSentNs, lastReceivedNs: peer.lastReceivedNs,
      lastDataSentNs: peer.lastDataSentNs, lastDataReceivedNs: peer.lastDataReceivedNs, currentCreatedNs: peer.current?.createdNs ?? 0n, currentSent: peer.current?.sent ?? 0n,
      txPackets: 0n, txBytes: BigInt(peer.tx), rxPackets: 0n, rxBytes: BigInt(peer.rx), waiting: peer.waiting.length, currentInitiator: peer.current?.initiator ? 1 : 0, hasNext: peer.next ? 1 : 0,
    }));
    return bytes;
  }

  // ---- sessions

  private transmit(peer: Peer, session: Session, payload: Uint8Array): void {
    const message = new Uint8Array(HEADER_BYTES + payload.length + TAG_BYTES);
    const view = viewOf(message);
    message[0] = TRANSPORT;
    view.setUint32(4, session.remoteIndex, true);
    view.setBigUint64(8, session.sent, true);
    message.set(payload, HEADER_BYTES);
    message.set(tagOf(session.sendKey, message.subarray(0, -TAG_BYTES)), HEADER_BYTES + payload.length);
    session.sent += 1n;
    peer.lastSentNs = process.hrtime.bigint();
    if (payload.length > 0) peer.lastDataSentNs = peer.lastSentNs;
    peer.tx += message.length;
    this.network.send({ from: `${this.address}:${this.ports.get(peer.interfaceId)}`, to: formatEndpoint(peer.endpoint)!, message });
  }

  private displace(peer: Peer, session: Session): void {
    if (peer.previous) this.sessions.delete(peer.previous.localIndex);
    if (peer.current) peer.previous = peer.current;
    peer.current = session;
  }

  private flush(peer: Peer): void {
    for (const text of peer.waiting.splice(0)) this.transmit(peer, peer.current!, Buffer.from(text));
  }

  private end(peer: Peer): void {
    for (const session of [peer.current, peer.previous, peer.next]) if (session) this.sessions.delete(session.localIndex);
    delete peer.current;
    delete peer.previous;
    delete peer.next;
  }

  private remove(id: number): void {
    this.end(this.peer(id));
    this.peers.delete(id);
  }

  private peer(id: number): Peer {
    const peer = this.peers.get(id);
    if (!peer) throw new Error(`peer ${id} is unknown`);
    return peer;
  }

  private push(event: number, peer: Peer): void {
    this.events.push({ event, peerId: peer.id, interfaceId: peer.interfaceId, from: peer.endpoint, message: new Uint8Array(0) });
    this.onEvent();
  }
}

function tagOf(key: Uint8Array, bytes: Uint8Array): Uint8Array {
  return createHmac('sha256', key).update(bytes).digest().subarray(0, TAG_BYTES);
}
