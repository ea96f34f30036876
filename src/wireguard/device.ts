// One WireGuard interface as a state machine: handshakes, retransmission, rekeying, keepalives. Bytes, times and what the workers
// saw go in, actions come out; no sockets, no clock, no randomness of its own (DeviceRim gives them).
//
// Who: src/engine/wireguard*.ts, on Node's main thread, which carries out the actions in their order. How to drive it:
//   1. new WireguardDevice(interfaceId, rim); setKeys(private keys); setPeers(peers); tell the gate gateKeys() after each setKeys.
//   2. Each event of the workers: MESSAGE → onMessage(), WANTED → want(), CONFIRMED → onConfirmed(). ROAMED needs nothing here.
//   3. Every 100 to 250 ms: tick(now, addon.wireguardPeers()). All timers are there; it looks at the records of its own interface.
//   4. Endpoints are kept by the workers. One that the configuration or a resolver gives goes to addon.wireguardEndpoint(); the
//      device learns from the next tick's record that there is one, and initiates only then.
//   5. Static key rotation: setKeys({current, next, initiateWith: 'current'}), so that both are answered to; then the same with
//      initiateWith 'next', and rekey() for a fresh session with everyone; then setKeys({current: next}).
// Errors: setKeys and setPeers throw on keys of a wrong length (a mistake of the caller); nothing that comes from the network
// throws, it is refused in silence and counted in `refused`. Bounds: a peer has at most one initiation and one index under way.
import type { WireguardEndpoint } from '../engine/abi.generated.js';

/** What the device does not have by itself. */
export interface DeviceRim {
  /** Fresh random bytes, which the device wipes. */
  randomBytes(count: number): Uint8Array;
  /** Nanoseconds since the epoch; may step. For TAI64N and for showing when the last handshake was. */
  wallClockNs(): bigint;
  /** addon.wireguardIndex(): 0 when none is left. */
  newIndex(): number;
}

/** Private keys, 32 bytes each. The device copies them; the caller wipes its own. */
export interface StaticKeys {
  readonly current: Uint8Array;
  readonly next?: Uint8Array;
  /** Whom initiations are made as; without it: current. */
  readonly initiateWith?: 'current' | 'next';
}

/** Keys: 32 bytes, not base64. */
export interface PeerSettings {
  readonly id: number;              // stable id, hash of "INTERFACE/NAME"
  readonly publicKey: Uint8Array;
  readonly nextPublicKey?: Uint8Array; // also the peer's: it rotates
  readonly presharedKey?: Uint8Array;  // copied
  readonly keepaliveS?: number;     // persistent keepalive; 0 or absent: off
}

export type Action =
  /** Before a response is sent, and at once: addon.wireguardInstall(keypair), which wipes it. struct sl_wireguard_keypair. */
  | { readonly type: 'install'; readonly peerId: number; readonly keypair: Uint8Array }
  /** addon.wireguardSend(). A response has the endpoint that the initiation came from; an initiation goes to where the peer is.
   *  `attempt`: 1 for the first; from 2 on the one before was not answered: resolve a host name again, forget the local address. */
  | { readonly type: 'send'; readonly peerId: number; readonly kind: 'initiation' | 'response'; readonly message: Uint8Array; readonly endpoint?: WireguardEndpoint; readonly attempt: number }
  /** addon.wireguardSend() with an empty message. */
  | { readonly type: 'keepalive'; readonly peerId: number }
  /** addon.wireguardEndpoint(): an authenticated handshake message came from there. */
  | { readonly type: 'endpoint'; readonly peerId: number; readonly endpoint: WireguardEndpoint }
  /** addon.wireguardForget(): sessions too old for any use, or a peer that is gone or has another key. */
  | { readonly type: 'forget'; readonly peerId: number }
  /** For the log: not answered for 90 s. Nothing is tried any more until packets wait, or a persistent keepalive is due. */
  | { readonly type: 'gave-up'; readonly peerId: number };

/** Why a message was not answered. */
export const REFUSALS = ['malformed', 'mac1', 'unknown-index', 'unknown-peer', 'authentication', 'old-timestamp', 'too-soon', 'tie', 'cookie', 'no-index'] as const;
export type Refusal = (typeof REFUSALS)[number];

export interface PeerStatus {
  /** handshake: one is under way and there is no session; established: there was a session at the last tick. */
  readonly state: 'none' | 'handshake' | 'established';
  /** Nanoseconds since the epoch of the last completed handshake; 0: never. */
  readonly latestHandshakeNs: bigint;
}

export class WireguardDevice {
  /** Messages that were not answered, by reason. */
  readonly refused: Record<Refusal, number> = Object.fromEntries(REFUSALS.map((reason) => [reason, 0])) as Record<Refusal, number>;

  constructor(readonly interfaceId: number, private readonly rim: DeviceRim) { void this.rim; }

  /** Public keys, 32 bytes each. */
  publicKeys(): { current: Uint8Array; next: Uint8Array | null } { return unbuilt(); }

  /** struct sl_wireguard_gate_key, one a static key: for addon.wireguardGate(). */
  gateKeys(): Uint8Array { return unbuilt(); }

  /** Handshakes under way go on with the key they began with, unless that one is gone. Sessions stay. */
  setKeys(_keys: StaticKeys): void { unbuilt(); }

  /** All peers of the interface. State of those that stay is kept; a peer whose key was replaced by one it did not announce starts anew. */
  setPeers(_peers: readonly PeerSettings[]): Action[] { return unbuilt(); }

  /** A handshake message, types 1 to 3. `key`: the event's hint, 0xff for none. nowNs: CLOCK_MONOTONIC, here and below. */
  onMessage(_message: Uint8Array, _from: WireguardEndpoint, _key: number, _nowNs: bigint): Action[] { return unbuilt(); }

  /** Packets wait for a session. */
  want(_peerId: number, _nowNs: bigint): Action[] { return unbuilt(); }

  /** The first message of a session that we answered came. */
  onConfirmed(_peerId: number, _nowNs: bigint): Action[] { return unbuilt(); }

  /** A fresh handshake, with one peer or all that have a session: not at once, but as ticks have time for them. */
  rekey(_nowNs: bigint, _peerId?: number): void { unbuilt(); }

  /** `records`: struct sl_wireguard_peer_record, of any interface. */
  tick(_nowNs: bigint, _records: Uint8Array): Action[] { return unbuilt(); }

  status(_peerId: number): PeerStatus | undefined { return unbuilt(); }

  /** Wipes every key. The device is of no use any more. */
  close(): void { unbuilt(); }
}

function unbuilt(): never { throw new Error('not built yet: the types came first'); }
