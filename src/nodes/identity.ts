// Who this node is: an Ed25519 key pair (RFC 8032), made at the first start and kept for good. Who: src/nodes/nodes.ts. Thread: control's main one.
// The id of a node is its public key, written `ed25519:` and 43 characters of base64url: as short as a fingerprint, and nobody has to be asked
// for the key that belongs to it. The same key signs records (record.ts) and is in the certificate of both ends of an exchange (exchange.ts).
// Files in the directory: identity.key (PKCS #8, 0600) and identity.pem (made from it, by `openssl`; nobody looks at its names or dates).
import { createPrivateKey, createPublicKey, generateKeyPairSync, X509Certificate, type KeyObject } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { certificateOfKey } from '../api/tls-certificate.js';
import { replaceFile } from '../supervisor/run-directory.js';

const CERTIFICATE_DAYS = 36_500; // a pinned key needs no end; whoever should end it takes the id out of the configuration
const PREFIX = 'ed25519:';
/** 32 bytes as base64url: 43 characters, of which the last has two bits to spare, both zero. */
export const NODE_ID_PATTERN = '^ed25519:[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]$';
const NODE_ID = new RegExp(NODE_ID_PATTERN);

export interface NodeIdentity { readonly id: string; readonly privateKey: KeyObject; readonly key: string; readonly certificate: string }

/** There is a key that cannot be used. A new one would silently be another node. */
export class IdentityError extends Error {
  readonly code = 'SLUICE_NODE_IDENTITY';
}

/** Reads the identity, or makes it. Throws IdentityError, and TlsError where there is no openssl. */
export async function loadIdentity(directory: string): Promise<NodeIdentity> {
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  const keyFile = join(directory, 'identity.key');
  if (!existsSync(keyFile)) replaceFile(keyFile, generateKeyPairSync('ed25519').privateKey.export({ type: 'pkcs8', format: 'pem' }));
  const key = readFileSync(keyFile, 'utf8');
  let privateKey: KeyObject;
  try {
    privateKey = createPrivateKey(key);
    if (privateKey.asymmetricKeyType !== 'ed25519') throw new Error(`it is of type ${privateKey.asymmetricKeyType}`);
  } catch (error) {
    throw new IdentityError(`${keyFile} cannot be used: ${(error as Error).message}; restore it from a backup, or delete it to become another node, whose id all others have to be given`);
  }
  const certificateFile = join(directory, 'identity.pem');
  if (!isOf(certificateFile, privateKey)) replaceFile(certificateFile, await certificateOfKey(directory, 'Sluice node', key, CERTIFICATE_DAYS), 0o644);
  return { id: idOf(createPublicKey(privateKey)), privateKey, key, certificate: readFileSync(certificateFile, 'utf8') };
}

function isOf(certificateFile: string, privateKey: KeyObject): boolean {
  try {
    return new X509Certificate(readFileSync(certificateFile)).checkPrivateKey(privateKey);
  } catch {
    return false;
  }
}

/** Undefined when the key is of another type. */
export function nodeIdOf(publicKey: KeyObject): string | undefined {
  if (publicKey.asymmetricKeyType !== 'ed25519') return undefined;
  return idOf(publicKey);
}

const idOf = (publicKey: KeyObject): string => `${PREFIX}${publicKey.export({ format: 'jwk' }).x}`;

/** Throws TypeError when the text is no id. */
export function publicKeyOfNode(id: string): KeyObject {
  if (!NODE_ID.test(id)) throw new TypeError('a node\'s id is ed25519: and 43 characters');
  return createPublicKey({ key: { kty: 'OKP', crv: 'Ed25519', x: id.slice(PREFIX.length) }, format: 'jwk' });
}
