// One WireGuard interface as a state machine: handshakes, retransmission, rekeying, keepalives. Bytes, times and what the workers
// saw go in, actions come out; no sockets, no clock, no randomness of its own (DeviceRim gives them).
//
// Who: src/engine/wireguard*.ts, on Node's main thread, which carries out the actions in their order. How to drive it:
//   1. new WireguardDevice(interfaceId, rim); setKeys(private keys); setPeers(peers); tell the gate gateKeys() after each setKeys.
//   2. Each event of the workers: MESSAGE → onMessage(), WANTED → want(), CONFIRMED → onConfirmed(). ROAMED needs nothing here.
//   3. Every 100 to 250 ms: tick(now, addon.wireguardPeers()). All timers are there; it looks at the records of its own interface.
//   4. Endpoints are kept by the workers. One that the configuration or a resolver gives goes to addon.wireguardEndpoint(); the
//      device learns from a tick's record that there is none, and initiates nothing until one says otherwise.
//   5. Static key rotation: setKeys({current, next}), so that both are answered to; then the same with initiateWith 'next', and
//      rekey() for a fresh session with everyone; then setKeys({current: next}).
// Errors: setKeys and setPeers throw on keys of a wrong length (a mistake of the caller); nothing that comes from the network
// throws, it is refused in silence and counted in `refused`. Times inside: milliseconds of CLOCK_MONOTONIC.
// Bounds: one initiation under way a peer; initiations a second (initiation-limit.ts); an index only for a handshake that goes out.
import { STRUCTS, WIREGUARD_GATE_KEY_BYTES, WIREGUARD_PEER_RECORD_BYTES, writeWireguardGateKey, type WireguardEndpoint } from '../engine/abi.generated.js';
import { REFUSALS, type Action, type DeviceRim, type PeerStatus, type Refusal, type StaticKeys } from './actions.js';
import { compareBytes, isEqual, wipe } from './bytes.js';
import { addMacs, hasMac1, openCookie, type MacKeys } from './cookie.js';
import { KEY_BYTES } from './curve.js';
import { InitiationLimit } from './initiation-limit.js';
import { keypairBytes } from './keypair.js';
import { MessageType, initiationBytes, mac1Of, parseMessage, responseBytes, type CookieReply, type Initiation, type Response } from './messages.js';
import { finishInitiation, openInitiation, openResponse, startInitiation, startResponse } from './noise.js';
import { PeerState, StaticKey, type PeerSettings } from './peer.js';
import { isNewer, timestampAfter } from './tai64n.js';
import { Due, REKEY_ATTEMPT_TIME_MS, REKEY_JITTER_MS_MAX, REKEY_TIMEOUT_MS, isUsable, type Seen } from './timers.js';

export { REFUSALS, type Action, type DeviceRim, type PeerStatus, type Refusal, type StaticKeys } from './actions.js';
export type { PeerSettings } from './peer.js';

/** A peer's initiations come at most this often (20 ms: TAI64N labels of other implementations are no finer). */
const CONSUME_INTERVAL_MS = 20;
/** Both initiated at once: the side with the smaller public key insists on its own for so long, and the first time only: it may go nowhere. */
const TIE_MS = 1000;

const record = STRUCTS.sl_wireguard_peer_record.fields;
const ENDPOINT_PORT = record.endpoint.offset + STRUCTS.sl_wireguard_endpoint.fields.port.offset;

export class WireguardDevice {
  /** Messages that were not answered, by reason. */
  readonly refused: Record<Refusal, number> = Object.fromEntries(REFUSALS.map((reason) => [reason, 0])) as Record<Refusal, number>;

  private keys: StaticKey[] = [];            // current, next
  private initiator: StaticKey | undefined;  // one of them
  private readonly peers = new Map<number, PeerState>();
  private readonly peersByKey = new Map<string, PeerState>();
  private readonly peersByIndex = new Map<number, PeerState>(); // of the last handshake message sent, and of a pending initiation
  private readonly attempting = new Set<PeerState>();
  private queue: PeerState[] = [];           // wait for their turn to initiate
  private readonly limit = new InitiationLimit();
  private readonly seen: Seen = { lastSentMs: 0, lastReceivedMs: 0, lastDataSentMs: 0, lastDataReceivedMs: 0, currentCreatedMs: 0, currentSentHigh: 0, currentInitiator: false };

  constructor(readonly interfaceId: number, private readonly rim: DeviceRim) {}

  /** Public keys, 32 bytes each. */
  publicKeys(): { current: Uint8Array; next: Uint8Array | null } {
    const [current, next] = this.keys;
    if (current === undefined) throw new Error('no keys yet: call setKeys() first');
    return { current: current.publicKey, next: next?.publicKey ?? null };
  }

  /** struct sl_wireguard_gate_key, one a static key: for addon.wireguardGate(). */
  gateKeys(): Uint8Array {
    const bytes = new Uint8Array(this.keys.length * WIREGUARD_GATE_KEY_BYTES);
    const view = new DataView(bytes.buffer);
    for (const [index, { macKeys }] of this.keys.entries()) writeWireguardGateKey(view, index * WIREGUARD_GATE_KEY_BYTES, macKeys);
    return bytes;
  }

  /** Handshakes under way go on with the key they began with, unless that one is gone. Sessions stay. */
  setKeys({ current, next, initiateWith }: StaticKeys): void {
    const before = this.keys;
    this.keys = (next === undefined ? [current] : [current, next]).map((privateKey) => {
      mustBeKey(privateKey);
      return before.find((key) => isEqual(key.privateKey, privateKey)) ?? new StaticKey(privateKey);
    });
    this.initiator = initiateWith === 'next' ? this.keys[1] ?? this.keys[0] : this.keys[0];
    for (const gone of before.filter((key) => !this.keys.includes(key))) {
      for (const peer of this.peers.values()) {
        peer.onKeyGone(gone);
        if (peer.pending?.self === gone) this.restart(peer);
      }
      gone.wipe();
    }
  }

  /** All peers of the interface. State of those that stay is kept; sessions with a key that is no longer the peer's end. */
  setPeers(settings: readonly PeerSettings[]): Action[] {
    for (const { publicKey, nextPublicKey, presharedKey } of settings) mustBeKey(publicKey, nextPublicKey, presharedKey);
    const actions: Action[] = [];
    const kept = new Set(settings.map(({ id }) => id));
    for (const peer of this.peers.values()) if (!kept.has(peer.id)) this.remove(peer, actions);
    this.peersByKey.clear();
    for (const one of settings) {
      let peer = this.peers.get(one.id);
      const isAnother = peer !== undefined && !peer.publicKeys.some((key) => isEqual(key, one.publicKey) || (one.nextPublicKey !== undefined && isEqual(key, one.nextPublicKey)));
      if (isAnother) {
        this.remove(peer!, actions);
        peer = undefined;
      }
      if (peer === undefined) this.peers.set(one.id, peer = new PeerState(one));
      else this.changePeer(peer, one, actions);
      for (const key of peer.publicKeys) this.peersByKey.set(keyText(key), peer);
    }
    return actions;
  }

  /** A handshake message, types 1 to 3. `key`: the event's hint, 0xff for none. nowNs: CLOCK_MONOTONIC, here and below. */
  onMessage(bytes: Uint8Array, from: WireguardEndpoint, key: number, nowNs: bigint): Action[] {
    const message = parseMessage(bytes);
    const nowMs = millisecondsOf(nowNs);
    switch (message?.type) {
      case MessageType.INITIATION: return this.onInitiation(message, bytes, from, key, nowNs, nowMs);
      case MessageType.RESPONSE: return this.onResponse(message, bytes, from, nowNs, nowMs);
      case MessageType.COOKIE: return this.onCookie(message, nowMs);
      default: return this.refuse('malformed');
    }
  }

  /** Packets wait for a session. */
  want(peerId: number, nowNs: bigint): Action[] {
    const peer = this.peers.get(peerId);
    if (peer === undefined) return [];
    const actions: Action[] = [];
    const nowMs = millisecondsOf(nowNs);
    peer.hasSession = false; // otherwise they would not wait
    if (peer.attempt !== undefined) peer.attempt.startedMs = nowMs; // whitepaper section 6.4: packets renew the patience
    else this.enqueue(peer);
    this.serveQueue(nowMs, actions);
    return actions;
  }

  /** The first message of a session that we answered came. */
  onConfirmed(peerId: number, _nowNs: bigint): Action[] {
    const peer = this.peers.get(peerId);
    if (peer === undefined) return [];
    peer.provenSelf = peer.answeredSelf;
    this.complete(peer);
    return [];
  }

  /** A fresh handshake, with one peer or all that have a session: as ticks have time for them. */
  rekey(peerId?: number): void {
    for (const peer of peerId === undefined ? this.peers.values() : [this.peers.get(peerId)]) {
      if (peer !== undefined && (peerId !== undefined || peer.hasSession)) this.enqueue(peer);
    }
  }

  /** `records`: struct sl_wireguard_peer_record, of any interface. */
  tick(nowNs: bigint, records: Uint8Array): Action[] {
    const nowMs = millisecondsOf(nowNs);
    const actions: Action[] = [];
    this.lookAtRecords(nowMs, records, actions);
    this.serveQueue(nowMs, actions);
    this.retransmit(nowMs, actions);
    return actions;
  }

  status(peerId: number): PeerStatus | undefined {
    const peer = this.peers.get(peerId);
    if (peer === undefined) return undefined;
    return { state: peer.hasSession ? 'established' : peer.attempt === undefined ? 'none' : 'handshake', latestHandshakeNs: peer.latestHandshakeNs, ...(peer.provenSelf === undefined ? {} : { self: peer.provenSelf }) };
  }

  /** The label of the newest initiation that a peer made: what has to outlive the process, see PeerSettings. Undefined: there was none. */
  newestTimestamp(peerId: number): Uint8Array | undefined {
    return this.peers.get(peerId)?.newestTimestamp;
  }

  /** Wipes every key. The device is of no use any more. */
  close(): void {
    for (const peer of this.peers.values()) peer.wipe();
    for (const key of this.keys) key.wipe();
    for (const all of [this.peers, this.peersByKey, this.peersByIndex, this.attempting]) all.clear();
    this.keys = [];
    this.initiator = undefined;
    this.queue = [];
  }

  // ---- messages in --------------------------------------------------------------------------------------------------

  private onInitiation(message: Initiation, bytes: Uint8Array, from: WireguardEndpoint, hint: number, nowNs: bigint, nowMs: number): Action[] {
    const hinted = this.keys[hint];
    const self = hinted !== undefined && hasMac1(bytes, hinted.macKeys) ? hinted : this.keys.find((key) => key !== hinted && hasMac1(bytes, key.macKeys));
    if (self === undefined) return this.refuse('mac1');

    const claim = openInitiation({ self, ephemeral: message.ephemeral, encryptedStatic: message.encryptedStatic });
    if (claim === undefined) return this.refuse('authentication');
    const giveUp = (reason: Refusal): Action[] => {
      claim.state.wipe();
      return this.refuse(reason);
    };
    const peer = this.peersByKey.get(keyText(claim.remoteStatic));
    const remoteStatic = peer?.knownKey(claim.remoteStatic);
    if (peer === undefined || remoteStatic === undefined) return giveUp('unknown-peer');
    const staticSecret = peer.staticSecret(self, remoteStatic);
    const timestamp = staticSecret === undefined ? undefined : finishInitiation(claim, staticSecret, message.encryptedTimestamp);
    if (timestamp === undefined) return giveUp('authentication');

    // It is the peer's. Is it new?
    if (peer.newestTimestamp !== undefined && !isNewer(timestamp, peer.newestTimestamp)) return giveUp('old-timestamp');
    if (nowMs - peer.consumedMs < CONSUME_INTERVAL_MS) return giveUp('too-soon');
    const isTied = peer.pending !== undefined && compareBytes(peer.pending.self.publicKey, remoteStatic) < 0;
    if (isTied && peer.attempt?.count === 1 && nowMs - peer.pending!.sentMs < TIE_MS) return giveUp('tie');
    const localIndex = this.rim.newIndex();
    if (localIndex === 0) return giveUp('no-index');
    const response = startResponse({ claim, ephemeralPrivate: this.rim.randomBytes(KEY_BYTES), presharedKey: peer.presharedKey });
    if (response === undefined) return this.refuse('authentication');

    peer.newestTimestamp = timestamp;
    peer.consumedMs = nowMs;
    peer.provenKey = remoteStatic;
    peer.answeredSelf = self.publicKey;
    peer.timers.handshakeReceivedMs = nowMs;
    // Whoever has precedence in a tie lets it go now; the other one may still be answered, by one that knows no ties.
    if (isTied) this.dropPending(peer);
    const keypair = keypairBytes(peer.id, localIndex, message.sender, false, nowNs, response.state);
    const reply = responseBytes(localIndex, message.sender, response.ephemeral, response.encryptedPayload);
    this.seal(peer, reply, localIndex, peer.macKeysFor(remoteStatic), nowMs);
    peer.timers.onDerived(nowMs);
    return [
      { type: 'endpoint', peerId: peer.id, endpoint: from },
      { type: 'install', peerId: peer.id, keypair },
      { type: 'send', peerId: peer.id, kind: 'response', message: reply, endpoint: from, attempt: 1 },
    ];
  }

  private onResponse(message: Response, bytes: Uint8Array, from: WireguardEndpoint, nowNs: bigint, nowMs: number): Action[] {
    const peer = this.peersByIndex.get(message.receiver);
    const pending = peer?.pending;
    if (peer === undefined || pending?.localIndex !== message.receiver) return this.refuse('unknown-index');
    if (!hasMac1(bytes, pending.self.macKeys)) return this.refuse('mac1');
    const opened = openResponse({ initiating: pending.initiating, self: pending.self, presharedKey: peer.presharedKey, ephemeral: message.ephemeral, encryptedPayload: message.encryptedNothing });
    if (opened === undefined) return this.refuse('authentication');

    const keypair = keypairBytes(peer.id, message.receiver, message.sender, true, nowNs, opened.state);
    peer.provenKey = pending.remoteStatic;
    peer.provenSelf = pending.self.publicKey;
    peer.timers.handshakeReceivedMs = nowMs;
    peer.timers.onDerived(nowMs);
    this.complete(peer);
    return [
      { type: 'endpoint', peerId: peer.id, endpoint: from },
      { type: 'install', peerId: peer.id, keypair },
      { type: 'keepalive', peerId: peer.id }, // the responder may send only when it heard from the new session
    ];
  }

  /** A cookie is used by the next message: an answer at once would let a third party make us send. */
  private onCookie(message: CookieReply, nowMs: number): Action[] {
    const peer = this.peersByIndex.get(message.receiver);
    const sent = peer?.sent;
    if (peer === undefined || sent?.index !== message.receiver) return this.refuse('unknown-index');
    const cookie = openCookie(message, sent.macKeys, sent.mac1);
    if (cookie === undefined) return this.refuse('cookie');
    peer.setCookie(cookie, nowMs);
    wipe(cookie);
    this.forgetSent(peer); // one reply a message
    return [];
  }

  private refuse(reason: Refusal): Action[] {
    this.refused[reason] += 1;
    return [];
  }

  // ---- initiations out ----------------------------------------------------------------------------------------------

  private enqueue(peer: PeerState): void {
    if (peer.queued || peer.attempt !== undefined || !peer.hasEndpoint) return;
    peer.queued = true;
    this.queue.push(peer);
  }

  /** Those whose turn has not come, since a handshake message went to them less than 5 s ago, stay in their order. */
  private serveQueue(nowMs: number, actions: Action[]): void {
    if (this.queue.length === 0) return;
    const waiting: PeerState[] = [];
    for (const peer of this.queue) {
      if (!peer.queued) continue; // a session came by itself
      if (nowMs - peer.handshakeSentMs < REKEY_TIMEOUT_MS || !this.limit.take(nowMs)) {
        waiting.push(peer);
        continue;
      }
      peer.queued = false;
      peer.attempt = { startedMs: nowMs, count: 0, nextMs: 0 };
      this.attempting.add(peer);
      this.initiate(peer, nowMs, actions);
    }
    this.queue = waiting;
  }

  private retransmit(nowMs: number, actions: Action[]): void {
    for (const peer of this.attempting) {
      const attempt = peer.attempt!;
      if (nowMs < attempt.nextMs) continue;
      if (nowMs - attempt.startedMs >= REKEY_ATTEMPT_TIME_MS) {
        this.endAttempt(peer);
        actions.push({ type: 'gave-up', peerId: peer.id });
      } else if (this.limit.take(nowMs)) {
        this.initiate(peer, nowMs, actions);
      } else {
        break; // the others' turn comes with the next ticks
      }
    }
  }

  private initiate(peer: PeerState, nowMs: number, actions: Action[]): void {
    const attempt = peer.attempt!;
    attempt.count += 1;
    attempt.nextMs = nowMs + REKEY_TIMEOUT_MS + this.jitterMs();
    // Behind all that still wait for theirs.
    this.attempting.delete(peer);
    this.attempting.add(peer);
    this.dropPending(peer);
    const self = this.initiator;
    const remoteStatic = peer.keyForAttempt(attempt.count);
    const staticSecret = self === undefined ? undefined : peer.staticSecret(self, remoteStatic);
    const localIndex = staticSecret === undefined ? 0 : this.rim.newIndex();
    if (self === undefined || staticSecret === undefined || localIndex === 0) return; // tried again, and given up in the end

    peer.sentTimestamp = timestampAfter(peer.sentTimestamp, this.rim.wallClockNs());
    const started = startInitiation({ self, remoteStatic, staticSecret, ephemeralPrivate: this.rim.randomBytes(KEY_BYTES), payload: peer.sentTimestamp });
    if (started === undefined) return;
    peer.pending = { localIndex, self, remoteStatic, initiating: started.initiating, sentMs: nowMs };
    const message = initiationBytes(localIndex, started.ephemeral, started.encryptedStatic, started.encryptedPayload);
    this.seal(peer, message, localIndex, peer.macKeysFor(remoteStatic), nowMs);
    actions.push({ type: 'send', peerId: peer.id, kind: 'initiation', message, attempt: attempt.count });
  }

  /** Macs, and what goes with having sent a handshake message. */
  private seal(peer: PeerState, message: Uint8Array, index: number, macKeys: MacKeys, nowMs: number): void {
    addMacs(message, macKeys, peer.cookieAt(nowMs));
    this.forgetSent(peer);
    peer.sent = { index, mac1: mac1Of(message).slice(), macKeys };
    this.peersByIndex.set(index, peer);
    peer.handshakeSentMs = nowMs;
    peer.timers.handshakeSentMs = nowMs;
  }

  // ---- what the workers saw -----------------------------------------------------------------------------------------

  private lookAtRecords(nowMs: number, records: Uint8Array, actions: Action[]): void {
    const view = new DataView(records.buffer, records.byteOffset, records.length);
    const { seen } = this;
    const jitterMs = (): number => this.jitterMs();
    for (let at = 0; at + WIREGUARD_PEER_RECORD_BYTES <= records.length; at += WIREGUARD_PEER_RECORD_BYTES) {
      if (view.getUint32(at + record.interface.offset, true) !== this.interfaceId) continue;
      const peer = this.peers.get(view.getUint32(at + record.id.offset, true));
      if (peer === undefined) continue;
      seen.lastSentMs = millisecondsAt(view, at + record.last_sent_ns.offset);
      seen.lastReceivedMs = millisecondsAt(view, at + record.last_received_ns.offset);
      seen.lastDataSentMs = millisecondsAt(view, at + record.last_data_sent_ns.offset);
      seen.lastDataReceivedMs = millisecondsAt(view, at + record.last_data_received_ns.offset);
      seen.currentCreatedMs = millisecondsAt(view, at + record.current_created_ns.offset);
      seen.currentSentHigh = view.getUint32(at + record.current_sent.offset + 4, true);
      seen.currentInitiator = view.getUint8(at + record.current_initiator.offset) !== 0;
      peer.hasSession = isUsable(seen, nowMs);
      peer.hasEndpoint = view.getUint16(at + ENDPOINT_PORT, true) !== 0;

      let due = peer.timers.due(seen, nowMs, peer.keepaliveMs, jitterMs);
      if (!peer.hasSession && view.getUint32(at + record.waiting.offset, true) !== 0) due |= Due.HANDSHAKE;
      if (due === 0) continue;
      if ((due & Due.HANDSHAKE) !== 0) this.enqueue(peer);
      if ((due & Due.KEEPALIVE) !== 0) actions.push({ type: 'keepalive', peerId: peer.id });
      if ((due & Due.FORGET) !== 0) {
        this.dropPending(peer);
        actions.push({ type: 'forget', peerId: peer.id });
      }
    }
  }

  // ---- a peer's state -----------------------------------------------------------------------------------------------

  /** There is a session that both sides know. */
  private complete(peer: PeerState): void {
    this.endAttempt(peer);
    peer.queued = false;
    peer.hasSession = true;
    peer.latestHandshakeNs = this.rim.wallClockNs();
  }

  private endAttempt(peer: PeerState): void {
    this.dropPending(peer);
    peer.attempt = undefined;
    this.attempting.delete(peer);
  }

  /** The attempt goes on with a new initiation, at the next tick. */
  private restart(peer: PeerState): void {
    this.dropPending(peer);
    if (peer.attempt !== undefined) peer.attempt.nextMs = 0;
  }

  private dropPending(peer: PeerState): void {
    if (peer.pending !== undefined && peer.pending.localIndex !== peer.sent?.index) this.peersByIndex.delete(peer.pending.localIndex);
    peer.dropPending();
  }

  private forgetSent(peer: PeerState): void {
    if (peer.sent !== undefined && peer.sent.index !== peer.pending?.localIndex) this.peersByIndex.delete(peer.sent.index);
    peer.sent = undefined;
  }

  private changePeer(peer: PeerState, settings: PeerSettings, actions: Action[]): void {
    peer.change(settings);
    if (peer.pending !== undefined && !peer.publicKeys.includes(peer.pending.remoteStatic)) this.restart(peer);
    if (peer.provenKey === undefined || peer.publicKeys.includes(peer.provenKey)) return;
    // The sessions are with a key that is not the peer's any more.
    peer.provenKey = undefined;
    this.forget(peer, actions);
  }

  private remove(peer: PeerState, actions: Action[]): void {
    this.endAttempt(peer);
    this.forget(peer, actions);
    peer.wipe();
    this.peers.delete(peer.id);
  }

  private forget(peer: PeerState, actions: Action[]): void {
    this.forgetSent(peer);
    peer.hasSession = false;
    peer.timers.onForgotten();
    actions.push({ type: 'forget', peerId: peer.id });
  }

  // ---- limits -------------------------------------------------------------------------------------------------------

  private jitterMs(): number {
    const random = this.rim.randomBytes(2);
    return (random[0]! * 256 + random[1]!) % (REKEY_JITTER_MS_MAX + 1);
  }
}

function mustBeKey(...keys: readonly (Uint8Array | undefined)[]): void {
  for (const key of keys) if (key !== undefined && key.length !== KEY_BYTES) throw new Error(`a key has ${KEY_BYTES} bytes, this one has ${key.length}`);
}

function keyText(key: Uint8Array): string {
  return Buffer.from(key.buffer, key.byteOffset, key.length).toString('latin1');
}

function millisecondsOf(ns: bigint): number {
  return Number(ns) / 1e6;
}

/** u64 of nanoseconds, little-endian; exact to a microsecond for a century. */
function millisecondsAt(view: DataView, offset: number): number {
  return (view.getUint32(offset + 4, true) * 4294967296 + view.getUint32(offset, true)) / 1e6;
}
