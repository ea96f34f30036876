// X25519 (RFC 7748), the one door to the curve: another implementation would go in here.
//
// Who: noise.ts, device.ts. 32 bytes everywhere. No secret comes out that an attacker chose: an all-zero one is refused
// (RFC 7748 section 6.1), which is what a public key of small order gives.
import { x25519 } from '@noble/curves/ed25519.js';
import { isZero, secretCopy, wipe } from './bytes.js';

export const KEY_BYTES = 32;
/**
 * So many public keys are made the plain way. The library's own is twice as fast, but makes a table first, which takes as long as sixty keys:
 * a restarted engine would have its peers wait for that.
 */
const KEYS_BEFORE_TABLE = 32;
let keysMade = 0;

export function publicKeyOf(privateKey: Uint8Array): Uint8Array {
  keysMade += 1;
  return keysMade <= KEYS_BEFORE_TABLE ? x25519.scalarMult(privateKey, x25519.GuBytes) : x25519.getPublicKey(privateKey);
}

/** Undefined: the public key is no key. The caller wipes the secret. */
export function sharedSecret(privateKey: Uint8Array, publicKey: Uint8Array): Uint8Array | undefined {
  let raw: Uint8Array;
  try {
    raw = x25519.getSharedSecret(privateKey, publicKey);
  } catch { // the library refuses some of these keys by itself
    return undefined;
  }
  const secret = secretCopy(raw);
  wipe(raw);
  return isZero(secret) ? undefined : secret;
}
