// What a device keeps of one peer: its keys, secrets computed from them, a handshake under way, a cookie. And our own static keys.
//
// Who: device.ts, which owns every PeerState and calls wipe() on what it drops. Times: milliseconds of CLOCK_MONOTONIC.
import { isEqual, secretBytes, secretCopy, wipe } from './bytes.js';
import { COOKIE_LIFETIME_MS, macKeysOf, type MacKeys } from './cookie.js';
import { KEY_BYTES, publicKeyOf, sharedSecret } from './curve.js';
import type { Initiating } from './noise.js';
import { SessionTimers } from './timers.js';

/** One of the interface's own static keys. */
export class StaticKey {
  readonly privateKey: Uint8Array;
  readonly publicKey: Uint8Array;
  readonly macKeys: MacKeys;

  constructor(privateKey: Uint8Array) {
    this.privateKey = secretCopy(privateKey);
    this.publicKey = publicKeyOf(privateKey);
    this.macKeys = macKeysOf(this.publicKey);
  }

  wipe(): void {
    wipe(this.privateKey);
  }
}

/** Keys: 32 bytes, not base64. */
export interface PeerSettings {
  readonly id: number;                 // stable id, hash of "INTERFACE/NAME"
  readonly publicKey: Uint8Array;
  readonly nextPublicKey?: Uint8Array; // the peer's too: it rotates, and may use either
  readonly presharedKey?: Uint8Array;  // copied
  readonly keepaliveS?: number;        // persistent keepalive; 0 or absent: off
  readonly newestTimestamp?: Uint8Array; // of a peer that is new here: of its initiations before a restart; none that is as old is answered
}

/** An initiation that waits for its response. */
export interface Pending {
  readonly localIndex: number;
  readonly self: StaticKey;
  readonly remoteStatic: Uint8Array;
  readonly initiating: Initiating;
  readonly sentMs: number;
}

/** From the first initiation to a session or to giving up. */
export interface Attempt { startedMs: number; count: number; nextMs: number }

/** The last handshake message that we sent: what a cookie reply has to fit. */
interface Sent { readonly index: number; readonly mac1: Uint8Array; readonly macKeys: MacKeys }

export class PeerState {
  readonly id: number;
  publicKeys: readonly Uint8Array[];   // one, or two while the peer rotates
  presharedKey = secretBytes(KEY_BYTES); // zeros: none
  keepaliveMs = 0;
  readonly timers = new SessionTimers();

  /** The key by which it was last heard of. */
  provenKey: Uint8Array | undefined;
  /** Our public key: of the newest session, and of the one that we have answered and that is not confirmed yet. */
  provenSelf: Uint8Array | undefined;
  answeredSelf: Uint8Array | undefined;
  newestTimestamp: Uint8Array | undefined; // of its initiations
  sentTimestamp: Uint8Array | undefined;   // of ours
  consumedMs = -Infinity;              // its last initiation
  handshakeSentMs = -Infinity;         // our last initiation or response

  attempt: Attempt | undefined;
  pending: Pending | undefined;
  sent: Sent | undefined;
  queued = false;

  hasEndpoint = true;                  // until a record says otherwise
  hasSession = false;
  latestHandshakeNs = 0n;              // since the epoch

  private cookie: Uint8Array | undefined;
  private cookieMs = 0;
  private readonly staticSecrets: { self: StaticKey; remote: Uint8Array; secret: Uint8Array }[] = [];
  private readonly macKeys = new Map<Uint8Array, MacKeys>();

  constructor(settings: PeerSettings) {
    this.id = settings.id;
    this.publicKeys = [];
    this.newestTimestamp = settings.newestTimestamp?.slice();
    this.change(settings);
  }

  change({ publicKey, nextPublicKey, presharedKey, keepaliveS }: PeerSettings): void {
    this.publicKeys = (nextPublicKey === undefined ? [publicKey] : [publicKey, nextPublicKey]).map((key) => this.knownKey(key) ?? key.slice());
    if (presharedKey === undefined) this.presharedKey.fill(0);
    else this.presharedKey.set(presharedKey);
    this.keepaliveMs = (keepaliveS ?? 0) * 1000;
    this.dropSecrets(({ remote }) => !this.publicKeys.includes(remote));
    for (const key of this.macKeys.keys()) if (!this.publicKeys.includes(key)) this.macKeys.delete(key);
  }

  /** Our copy of this key of the peer. */
  knownKey(key: Uint8Array): Uint8Array | undefined {
    return this.publicKeys.find((own) => isEqual(own, key));
  }

  macKeysFor(remote: Uint8Array): MacKeys {
    let keys = this.macKeys.get(remote);
    if (keys === undefined) this.macKeys.set(remote, keys = macKeysOf(remote));
    return keys;
  }

  /** Which of its keys an initiation is for: the one that it last used, and on every second attempt the other one. */
  keyForAttempt(count: number): Uint8Array {
    const known = this.provenKey === undefined ? -1 : this.publicKeys.indexOf(this.provenKey);
    const preferred = Math.max(known, 0);
    return this.publicKeys[(preferred + (count + 1) % 2) % this.publicKeys.length]!;
  }

  /** The secret of both static keys; computed once. Undefined: the peer's key is no key. The peer keeps it, and wipes it. */
  staticSecret(self: StaticKey, remote: Uint8Array): Uint8Array | undefined {
    const known = this.staticSecrets.find((entry) => entry.self === self && entry.remote === remote);
    if (known !== undefined) return known.secret;
    const secret = sharedSecret(self.privateKey, remote);
    if (secret !== undefined) this.staticSecrets.push({ self, remote, secret });
    return secret;
  }

  /** A static key of ours is gone. */
  onKeyGone(self: StaticKey): void {
    this.dropSecrets((entry) => entry.self === self);
  }

  setCookie(cookie: Uint8Array, nowMs: number): void {
    wipe(this.cookie);
    this.cookie = secretCopy(cookie);
    this.cookieMs = nowMs;
  }

  cookieAt(nowMs: number): Uint8Array | undefined {
    return this.cookie !== undefined && nowMs - this.cookieMs < COOKIE_LIFETIME_MS ? this.cookie : undefined;
  }

  dropPending(): void {
    if (this.pending === undefined) return;
    this.pending.initiating.state.wipe();
    wipe(this.pending.initiating.ephemeralPrivate);
    this.pending = undefined;
  }

  wipe(): void {
    this.dropPending();
    this.dropSecrets(() => true);
    wipe(this.presharedKey, this.cookie);
    this.cookie = undefined;
    this.attempt = undefined;
    this.queued = false;
  }

  private dropSecrets(isGone: (entry: { self: StaticKey; remote: Uint8Array }) => boolean): void {
    for (let index = this.staticSecrets.length - 1; index >= 0; index -= 1) {
      if (!isGone(this.staticSecrets[index]!)) continue;
      wipe(this.staticSecrets[index]!.secret);
      this.staticSecrets.splice(index, 1);
    }
  }
}
