// Backup and restore: the running configuration and control's keys (certificates, tokens) as one file, encrypted with a passphrase.
// Form: "sluice backup 1\n", a line of JSON with the key derivation's parameters, then the compressed content under AES-256-GCM (NIST SP
// 800-38D), its tag last. Both lines are authenticated with it. The key is scrypt's (RFC 7914) of the passphrase: each guess costs 64 MiB.
// Who: src/api/routes/backup.ts. Bounds: KEY_BYTES_MAX for all keys, KEYS_MAX files, BACKUP_BYTES_MAX the file.
import { createCipheriv, createDecipheriv, randomBytes, scrypt } from 'node:crypto';
import { lstatSync, readdirSync, readFileSync } from 'node:fs';
import { join, relative, sep } from 'node:path';
import { promisify } from 'node:util';
import { gunzip, gzip } from 'node:zlib';
import { ApiError } from '../api/errors.js';
import { replaceFile } from '../supervisor/run-directory.js';

const MAGIC = 'sluice backup 1\n';
const HEAD_BYTES_MAX = 1024;
const KEY_BYTES_MAX = 16 * 1024 * 1024;
const KEYS_MAX = 1000;
const CONTENT_BYTES_MAX = 128 * 1024 * 1024;
export const BACKUP_BYTES_MAX = 96 * 1024 * 1024;
export const PASSPHRASE_CHARACTERS_MIN = 12;
const COST = { N: 2 ** 16, r: 8, p: 1 } as const;
const SCRYPT_MEMORY_MAX = 256 * 1024 * 1024; // a file that asks for more was not made here
const TAG_BYTES = 16;

export interface Backup {
  made: string; hostname: string; revision: number;
  /** The running configuration's text. */
  text: string;
  /** Path below the directory of keys → content, base64. */
  keys: Record<string, string>;
}

interface Head { kdf: 'scrypt'; N: number; r: number; p: number; salt: string; nonce: string }

export async function sealBackup(backup: Backup, passphrase: string): Promise<Buffer> {
  const salt = randomBytes(32);
  const nonce = randomBytes(12);
  const head: Head = { kdf: 'scrypt', ...COST, salt: salt.toString('base64'), nonce: nonce.toString('base64') };
  const start = Buffer.from(`${MAGIC}${JSON.stringify(head)}\n`);
  const cipher = createCipheriv('aes-256-gcm', await keyOf(passphrase, salt, COST), nonce, { authTagLength: TAG_BYTES });
  cipher.setAAD(start);
  const content = await promisify(gzip)(Buffer.from(JSON.stringify(backup)));
  return Buffer.concat([start, cipher.update(content), cipher.final(), cipher.getAuthTag()]);
}

/** Throws ApiError: the file is none, the passphrase is another, or a byte of it changed. */
export async function openBackup(file: Buffer, passphrase: string): Promise<Backup> {
  const end = file.indexOf(0x0a, MAGIC.length) + 1;
  if (!file.subarray(0, MAGIC.length).equals(Buffer.from(MAGIC)) || end === 0 || end > HEAD_BYTES_MAX || file.length < end + TAG_BYTES) throw notBackup('this is no backup of this version');
  let head: Head;
  try {
    head = JSON.parse(file.toString('utf8', MAGIC.length, end)) as Head;
  } catch {
    throw notBackup('its head is damaged');
  }
  const { N, r, p } = head;
  const isBounded = [N, r, p].every((value) => Number.isInteger(value) && value >= 1) && head.kdf === 'scrypt' && 128 * N * r <= SCRYPT_MEMORY_MAX && p <= 4 && (N & (N - 1)) === 0 && N > 1;
  const [salt, nonce] = [head.salt, head.nonce].map((text) => Buffer.from(typeof text === 'string' ? text : '', 'base64'));
  if (!isBounded || salt!.length !== 32 || nonce!.length !== 12) throw notBackup('its head asks for what no backup needs');
  const decipher = createDecipheriv('aes-256-gcm', await keyOf(passphrase, salt!, { N, r, p }), nonce!, { authTagLength: TAG_BYTES });
  decipher.setAAD(file.subarray(0, end));
  decipher.setAuthTag(file.subarray(file.length - TAG_BYTES));
  let content: Buffer;
  try {
    content = Buffer.concat([decipher.update(file.subarray(end, file.length - TAG_BYTES)), decipher.final()]);
  } catch {
    throw new ApiError(403, 'SLUICE_BACKUP_PASSPHRASE', 'the passphrase is not the one of this backup, or the file was changed', '/passphrase');
  }
  return parseBackup(await promisify(gunzip)(content, { maxOutputLength: CONTENT_BYTES_MAX }));
}

function parseBackup(content: Buffer): Backup {
  const backup = JSON.parse(content.toString('utf8')) as Partial<Backup>;
  const { text, keys, revision, made, hostname } = backup;
  const isWhole = typeof text === 'string' && typeof revision === 'number' && typeof made === 'string' && typeof hostname === 'string' && typeof keys === 'object' && keys !== null
    && Object.entries(keys).every(([path, value]) => isSafePath(path) && typeof value === 'string');
  if (!isWhole) throw notBackup('its content is not that of a backup');
  return backup as Backup;
}

/** All files below a directory; links are left out, nothing outside is read. */
export function readKeys(directory: string): Record<string, string> {
  const keys: Record<string, string> = {};
  let bytes = 0;
  const visit = (path: string): void => {
    for (const name of readdirSync(path).sort()) {
      const at = join(path, name);
      const status = lstatSync(at);
      if (status.isDirectory()) visit(at);
      if (!status.isFile() || name.endsWith('.tmp')) continue;
      bytes += status.size;
      if (bytes > KEY_BYTES_MAX || Object.keys(keys).length >= KEYS_MAX) throw new ApiError(409, 'SLUICE_BACKUP_SIZE', `${directory} holds more than ${KEYS_MAX} files or ${KEY_BYTES_MAX} bytes`);
      keys[relative(directory, at).split(sep).join('/')] = readFileSync(at).toString('base64');
    }
  };
  try {
    visit(directory);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
  return keys;
}

/** Each file whole; files that the backup does not have stay. */
export function writeKeys(directory: string, keys: Record<string, string>): void {
  for (const [path, content] of Object.entries(keys)) replaceFile(join(directory, ...path.split('/')), Buffer.from(content, 'base64'), 0o600);
}

function isSafePath(path: string): boolean {
  return path.length <= 512 && path.split('/').every((part) => /^[A-Za-z0-9_][A-Za-z0-9_.@-]*$/.test(part));
}

function keyOf(passphrase: string, salt: Buffer, { N, r, p }: { N: number; r: number; p: number }): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    scrypt(passphrase.normalize('NFKC'), salt, 32, { N, r, p, maxmem: 2 * SCRYPT_MEMORY_MAX }, (error, key) => (error ? reject(error) : resolve(key)));
  });
}

function notBackup(message: string): ApiError { return new ApiError(400, 'SLUICE_BACKUP_FORMAT', message, '/data'); }
