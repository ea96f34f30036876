// Keys of X25519 as text, for people who make them by hand: `sluice wireguard genkey` and `pubkey`. Who: src/cli/commands/wireguard.ts.
// The appliance's own keys are made in the engine's process, and leave it never.
import { createPrivateKey, createPublicKey, randomBytes } from 'node:crypto';
import { KEY_PATTERN } from '../config/schema-wireguard.js';

/** PKCS #8 around 32 bytes (RFC 8410 section 7): version 0, algorithm 1.3.101.110, the key as a string in a string. */
const PKCS8_X25519 = Buffer.from('302e020100300506032b656e04220420', 'hex');

/** A private key, clamped as RFC 7748 section 5 says, so that other tools print the same one. */
export function generateKey(): string {
  const key = randomBytes(32);
  key[0]! &= 248;
  key[31] = (key[31]! & 127) | 64;
  return key.toString('base64');
}

/** Undefined: this is no key. */
export function publicKeyOf(privateKey: string): string | undefined {
  const text = privateKey.trim();
  if (!new RegExp(KEY_PATTERN).test(text)) return undefined;
  const key = createPrivateKey({ key: Buffer.concat([PKCS8_X25519, Buffer.from(text, 'base64')]), format: 'der', type: 'pkcs8' });
  const { x } = createPublicKey(key).export({ format: 'jwk' });
  return Buffer.from(x!, 'base64url').toString('base64');
}
