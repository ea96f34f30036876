// Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s: the two messages of a handshake and the keys that come of them.
// Noise Protocol Framework revision 34, sections 5 and 7; with WireGuard's prologue and payloads it is section 5.4 of its whitepaper.
//
//   initiator                                        responder
//   1 startInitiation   e, es, s, ss, timestamp  →   2 openInitiation (whose is it?), finishInitiation (is it?)
//   4 openResponse      e, ee, se, psk           ←   3 startResponse
//   5 transportKeys                                  5 transportKeys
//
// Who: device.ts. Pure: ephemeral keys are given. Prologue and payloads may be any, so that published vectors can be run.
// Errors: what does not authenticate, or gives an all-zero secret, is undefined, and the state that was given is as before
// where it says so. Ownership: each step wipes the secrets that it made and does not return; who drops a state calls wipe().
import { blake2s } from '@noble/hashes/blake2.js';
import { hmac } from '@noble/hashes/hmac.js';
import { chacha20poly1305 } from '@noble/ciphers/chacha.js';
import { ascii, secretBytes, secretCopy, wipe } from './bytes.js';
import { publicKeyOf, sharedSecret } from './curve.js';

const PROTOCOL_NAME = ascii('Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s');
export const WIREGUARD_PROLOGUE = ascii('WireGuard v1 zx2c4 Jason@zx2c4.com');
const HASH_BYTES = 32;
const NONCE_ZERO = new Uint8Array(12); // each key seals one thing
const NOTHING = new Uint8Array(0);

/** Chaining key, transcript hash and the key of the moment: "SymmetricState" of Noise section 5.2. */
export class Symmetric {
  private constructor(readonly hash: Uint8Array, private readonly chainingKey: Uint8Array, private readonly key: Uint8Array) {}

  static start(prologue: Uint8Array): Symmetric {
    const name = blake2s(PROTOCOL_NAME); // it is longer than a hash
    const state = new Symmetric(secretCopy(name), secretCopy(name), secretBytes(HASH_BYTES));
    state.mixHash(prologue);
    return state;
  }

  clone(): Symmetric {
    return new Symmetric(secretCopy(this.hash), secretCopy(this.chainingKey), secretCopy(this.key));
  }

  mixHash(data: Uint8Array): void {
    this.hash.set(blake2s.create().update(this.hash).update(data).digest());
  }

  mixKey(input: Uint8Array): void {
    derive(this.chainingKey, input, [this.chainingKey, this.key]);
  }

  mixKeyAndHash(input: Uint8Array): void {
    const forHash = secretBytes(HASH_BYTES);
    derive(this.chainingKey, input, [this.chainingKey, forHash, this.key]);
    this.mixHash(forHash);
    wipe(forHash);
  }

  encryptAndHash(plain: Uint8Array): Uint8Array {
    const sealed = chacha20poly1305(this.key, NONCE_ZERO, this.hash).encrypt(plain);
    this.mixHash(sealed);
    return sealed;
  }

  /** Undefined: not authentic, and nothing was changed. */
  decryptAndHash(sealed: Uint8Array): Uint8Array | undefined {
    let plain: Uint8Array;
    try {
      plain = chacha20poly1305(this.key, NONCE_ZERO, this.hash).decrypt(sealed);
    } catch {
      return undefined;
    }
    this.mixHash(sealed);
    return plain;
  }

  /** Two keys: what the initiator sends with, what the responder sends with. Wipes the state. */
  split(): [Uint8Array, Uint8Array] {
    const keys: [Uint8Array, Uint8Array] = [secretBytes(HASH_BYTES), secretBytes(HASH_BYTES)];
    derive(this.chainingKey, NOTHING, keys);
    this.wipe();
    return keys;
  }

  wipe(): void {
    wipe(this.hash, this.chainingKey, this.key);
  }
}

/** HKDF of Noise section 4.3 with HMAC-BLAKE2s: as many outputs as `into` has places; the first may be the chaining key itself. */
function derive(chainingKey: Uint8Array, input: Uint8Array, into: readonly Uint8Array[]): void {
  const extracted = hmac(blake2s, chainingKey, input);
  let previous = NOTHING;
  for (const [index, place] of into.entries()) {
    const output = hmac.create(blake2s, extracted).update(previous).update(Uint8Array.of(index + 1)).digest();
    wipe(previous);
    place.set(output);
    previous = output;
  }
  wipe(previous, extracted);
}

/** e.g. es, ee: false when the secret is all zero. */
function mixSecret(state: Symmetric, privateKey: Uint8Array, publicKey: Uint8Array): boolean {
  const secret = sharedSecret(privateKey, publicKey);
  if (secret === undefined) return false;
  state.mixKey(secret);
  wipe(secret);
  return true;
}

export interface Identity { readonly privateKey: Uint8Array; readonly publicKey: Uint8Array }

/** What the initiator keeps until the response comes. */
export interface Initiating { readonly state: Symmetric; readonly ephemeralPrivate: Uint8Array }

/** Stage 1. `staticSecret` is that of both static keys, which does not change: the caller keeps it. Takes over `ephemeralPrivate`. */
export function startInitiation(given: { self: Identity; remoteStatic: Uint8Array; staticSecret: Uint8Array; ephemeralPrivate: Uint8Array; payload: Uint8Array; prologue?: Uint8Array }): { ephemeral: Uint8Array; encryptedStatic: Uint8Array; encryptedPayload: Uint8Array; initiating: Initiating } | undefined {
  const { self, remoteStatic, staticSecret, ephemeralPrivate, payload } = given;
  const state = Symmetric.start(given.prologue ?? WIREGUARD_PROLOGUE);
  state.mixHash(remoteStatic);
  const ephemeral = publicKeyOf(ephemeralPrivate);
  state.mixHash(ephemeral);
  state.mixKey(ephemeral); // in handshakes with a preshared key: Noise section 9.2
  if (!mixSecret(state, ephemeralPrivate, remoteStatic)) {
    state.wipe();
    wipe(ephemeralPrivate);
    return undefined;
  }
  const encryptedStatic = state.encryptAndHash(self.publicKey);
  state.mixKey(staticSecret);
  const encryptedPayload = state.encryptAndHash(payload);
  return { ephemeral, encryptedStatic, encryptedPayload, initiating: { state, ephemeralPrivate } };
}

/** Who says to have initiated; not proven before finishInitiation(). */
export interface Claim { readonly state: Symmetric; readonly remoteStatic: Uint8Array; readonly remoteEphemeral: Uint8Array }

/** Stage 2, first half. */
export function openInitiation(given: { self: Identity; ephemeral: Uint8Array; encryptedStatic: Uint8Array; prologue?: Uint8Array }): Claim | undefined {
  const state = Symmetric.start(given.prologue ?? WIREGUARD_PROLOGUE);
  state.mixHash(given.self.publicKey);
  state.mixHash(given.ephemeral);
  state.mixKey(given.ephemeral);
  const remoteStatic = mixSecret(state, given.self.privateKey, given.ephemeral) ? state.decryptAndHash(given.encryptedStatic) : undefined;
  if (remoteStatic === undefined) {
    state.wipe();
    return undefined;
  }
  return { state, remoteStatic, remoteEphemeral: given.ephemeral.slice() };
}

/** Stage 2, second half: the payload, or undefined when the claim is false; its state is wiped then. */
export function finishInitiation(claim: Claim, staticSecret: Uint8Array, encryptedPayload: Uint8Array): Uint8Array | undefined {
  claim.state.mixKey(staticSecret);
  const payload = claim.state.decryptAndHash(encryptedPayload);
  if (payload === undefined) claim.state.wipe();
  return payload;
}

/** Stage 3. The state goes on to transportKeys(). Wipes `ephemeralPrivate`. */
export function startResponse(given: { claim: Claim; ephemeralPrivate: Uint8Array; presharedKey: Uint8Array; payload?: Uint8Array }): { ephemeral: Uint8Array; encryptedPayload: Uint8Array; state: Symmetric } | undefined {
  const { claim: { state, remoteStatic, remoteEphemeral }, ephemeralPrivate, presharedKey } = given;
  const ephemeral = publicKeyOf(ephemeralPrivate);
  state.mixHash(ephemeral);
  state.mixKey(ephemeral);
  const isMixed = mixSecret(state, ephemeralPrivate, remoteEphemeral) && mixSecret(state, ephemeralPrivate, remoteStatic);
  wipe(ephemeralPrivate);
  if (!isMixed) {
    state.wipe();
    return undefined;
  }
  state.mixKeyAndHash(presharedKey);
  return { ephemeral, encryptedPayload: state.encryptAndHash(given.payload ?? NOTHING), state };
}

/** Stage 4. Leaves `initiating` as it was: a forged response must not end the handshake that it pretends to answer. */
export function openResponse(given: { initiating: Initiating; self: Identity; presharedKey: Uint8Array; ephemeral: Uint8Array; encryptedPayload: Uint8Array }): { payload: Uint8Array; state: Symmetric } | undefined {
  const { initiating, self, presharedKey, ephemeral, encryptedPayload } = given;
  const state = initiating.state.clone();
  state.mixHash(ephemeral);
  state.mixKey(ephemeral);
  if (mixSecret(state, initiating.ephemeralPrivate, ephemeral) && mixSecret(state, self.privateKey, ephemeral)) {
    state.mixKeyAndHash(presharedKey);
    const payload = state.decryptAndHash(encryptedPayload);
    if (payload !== undefined) return { payload, state };
  }
  state.wipe();
  return undefined;
}

/** Stage 5. Wipes the state. The caller wipes the keys. */
export function transportKeys(state: Symmetric, isInitiator: boolean): { sendKey: Uint8Array; receiveKey: Uint8Array } {
  const [ofInitiator, ofResponder] = state.split();
  return isInitiator ? { sendKey: ofInitiator, receiveKey: ofResponder } : { sendKey: ofResponder, receiveKey: ofInitiator };
}
