// What a WireguardDevice is given, and what it wants done. Who: device.ts, and src/engine/wireguard*.ts, which does it.
import type { WireguardEndpoint } from '../engine/abi.generated.js';

/** What the device does not have by itself. */
export interface DeviceRim {
  /** Fresh random bytes in memory of their own, which the device wipes. */
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

export type Action =
  /** At once, and before the message behind it is sent: addon.wireguardInstall(keypair), which wipes it. struct sl_wireguard_keypair. */
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
  /** handshake: one is under way and there is no session; established: there is a session, as far as the last tick knows. */
  readonly state: 'none' | 'handshake' | 'established';
  /** Nanoseconds since the epoch of the last completed handshake; 0: never. */
  readonly latestHandshakeNs: bigint;
  /** Our own public key that the newest session was made with. */
  readonly self?: Uint8Array;
}
