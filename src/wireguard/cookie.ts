// mac1, mac2 and cookie replies: WireGuard whitepaper section 5.3, 5.4.4 and 5.4.7. What makes a flood of handshakes cheap to refuse.
//
// mac1 is keyed by the receiver's public key: who does not know it cannot even ask. Under load the receiver answers with a
// cookie, a mac of the sender's address under a secret of 120 s, and works only for messages that prove to have got it (mac2).
// Who: device.ts. As receiver under load the packet engine does this itself before a message comes here
// (native/tunnel/handshake_gate); CookieSecret says the same in TypeScript, for tests on both sides of it.
import { blake2s } from '@noble/hashes/blake2.js';
import { xchacha20poly1305 } from '@noble/ciphers/chacha.js';
import { ascii, isEqual, secretCopy, wipe } from './bytes.js';
import { MAC_BYTES, cookieReplyBytes, mac1Of, mac2Of, type CookieReply } from './messages.js';

/** How long a cookie, and the secret that cookies are made with, is good. */
export const COOKIE_LIFETIME_MS = 120_000;
const LABEL_MAC1 = ascii('mac1----');
const LABEL_COOKIE = ascii('cookie--');

/** What messages to the owner of a public key are authenticated with; both can be known by everyone who knows that key. */
export interface MacKeys { readonly mac1Key: Uint8Array; readonly cookieKey: Uint8Array }

export function macKeysOf(publicKey: Uint8Array): MacKeys {
  const hash = (label: Uint8Array): Uint8Array => blake2s.create().update(label).update(publicKey).digest();
  return { mac1Key: hash(LABEL_MAC1), cookieKey: hash(LABEL_COOKIE) };
}

/** Writes mac1, and mac2 when there is a cookie, into an initiation or a response. */
export function addMacs(message: Uint8Array, { mac1Key }: MacKeys, cookie?: Uint8Array): void {
  mac1Of(message).set(macOf(mac1Key, beforeMac1(message)));
  if (cookie !== undefined) mac2Of(message).set(macOf(cookie, beforeMac2(message)));
}

export function hasMac1(message: Uint8Array, { mac1Key }: MacKeys): boolean {
  return isEqual(mac1Of(message), macOf(mac1Key, beforeMac1(message)));
}

/** The cookie of a reply to a message that had `mac1`, or undefined when it is none. */
export function openCookie({ nonce, encryptedCookie }: CookieReply, { cookieKey }: MacKeys, mac1: Uint8Array): Uint8Array | undefined {
  try {
    return xchacha20poly1305(cookieKey, nonce, mac1).decrypt(encryptedCookie);
  } catch {
    return undefined;
  }
}

/** The receiver's side. `source`: address and port that a message came from, in any one form. Times: milliseconds. */
export class CookieSecret {
  private secret: Uint8Array | undefined;
  private sinceMs = 0;

  constructor(private readonly randomBytes: (count: number) => Uint8Array) {}

  hasMac2(message: Uint8Array, source: Uint8Array, nowMs: number): boolean {
    if (this.secret === undefined || nowMs - this.sinceMs >= COOKIE_LIFETIME_MS) return false;
    const cookie = macOf(this.secret, source);
    const isGood = isEqual(mac2Of(message), macOf(cookie, beforeMac2(message)));
    wipe(cookie);
    return isGood;
  }

  /** `sender`: the index in the message; `keys`: of the public key that its mac1 is for. */
  reply(message: Uint8Array, sender: number, source: Uint8Array, keys: MacKeys, nowMs: number): Uint8Array {
    if (this.secret === undefined || nowMs - this.sinceMs >= COOKIE_LIFETIME_MS) {
      wipe(this.secret);
      this.secret = secretCopy(this.randomBytes(32));
      this.sinceMs = nowMs;
    }
    const nonce = this.randomBytes(24);
    const cookie = macOf(this.secret, source);
    const sealed = xchacha20poly1305(keys.cookieKey, nonce, mac1Of(message)).encrypt(cookie);
    wipe(cookie);
    return cookieReplyBytes(sender, nonce, sealed);
  }
}

function macOf(key: Uint8Array, bytes: Uint8Array): Uint8Array {
  return blake2s(bytes, { key, dkLen: MAC_BYTES });
}
function beforeMac1(message: Uint8Array): Uint8Array {
  return message.subarray(0, message.length - 2 * MAC_BYTES);
}
function beforeMac2(message: Uint8Array): Uint8Array {
  return message.subarray(0, message.length - MAC_BYTES);
}
