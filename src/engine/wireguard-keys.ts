// Key files of WireGuard: an interface's static private key, the one that follows it in a rotation, and preshared keys.
// Who: src/engine/wireguard.ts, in the engine process. Nobody else reads these files: the directory (STATE/wireguard) is root's, 0700,
// its files 0600; control runs as another user. A file holds 32 bytes as base64 and a newline, as `wg genkey` prints them.
// An interface NAME has NAME.key, and in a rotation one more file, whose name is the phase: NAME.key.next (made, answered to),
// NAME.key.switched (used for handshakes, too). Each step of a rotation is one rename, so that a crash between any two leaves
// a phase, never half of one. No name of an interface collides with another one's files: all of them contain its ".key".
// Memory: bytes go from file to caller and back in buffers that are wiped here; none becomes a string. The caller wipes what it got.
// Errors: IpcError SLUICE_WIREGUARD_KEY; they name file and remedy, never what the file holds.
import { randomBytes, timingSafeEqual } from 'node:crypto';
import { chmodSync, closeSync, constants, fstatSync, fsyncSync, lstatSync, mkdirSync, openSync, readSync, renameSync, rmSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { IpcError } from './ipc.js';
import { replaceFile } from '../supervisor/run-directory.js';

export const KEY_BYTES = 32;
const TEXT_BYTES = 44;                 // base64 of KEY_BYTES, one character of padding
const FILE_BYTES_MAX = 128;            // the text, and white space around it
const FORBIDDEN_MODE = 0o077;

/** What is next is answered to ('prepared'), or used for handshakes as well ('switched'). */
export type RotationPhase = 'none' | 'prepared' | 'switched';

/** The caller owns the buffers and wipes them. `damage`: the next key's file cannot be used; the rotation has to be begun again. */
export interface StaticKeys { current: Uint8Array; next?: Uint8Array; phase: RotationPhase; damage?: string }

export function wipe(...buffers: (Uint8Array | undefined)[]): void {
  for (const buffer of buffers) buffer?.fill(0);
}

export class KeyDirectory {
  constructor(private readonly directory: string) {}

  /** An interface's keys; the first time, its key is made. `privateKeyFile`: the operator's own file instead, which is only read. */
  load(name: string, privateKeyFile?: string): StaticKeys {
    if (privateKeyFile !== undefined) return { current: readKeyFile(privateKeyFile), phase: 'none' };
    this.makeDirectory();
    const file = this.fileOf(name);
    for (const leftover of [`${file}.tmp`, `${file}.next.tmp`]) rmSync(leftover, { force: true }); // of a crash while it was written
    const current = exists(file) ? readKeyFile(file) : this.create(file);
    const switched = exists(`${file}.switched`);
    if (!switched && !exists(`${file}.next`)) return { current, phase: 'none' };
    try {
      return { current, next: readKeyFile(switched ? `${file}.switched` : `${file}.next`), phase: switched ? 'switched' : 'prepared' };
    } catch (error) {
      return { current, phase: 'none', damage: (error as Error).message };
    }
  }

  /** None → prepared. A next key that is there already stays; one that is damaged is made anew. */
  prepare(name: string): void {
    const file = this.fileOf(name);
    if (isUsable(`${file}.switched`)) throw new IpcError('SLUICE_WIREGUARD_ROTATION', `${name}: a rotation is under way already; finish it first`);
    this.makeDirectory();
    rmSync(`${file}.switched`, { force: true });
    if (!isUsable(`${file}.next`)) wipe(this.create(`${file}.next`));
  }

  /** Prepared → switched. */
  switch(name: string): void {
    const file = this.fileOf(name);
    if (exists(`${file}.switched`)) return;
    if (!exists(`${file}.next`)) throw new IpcError('SLUICE_WIREGUARD_ROTATION', `${name}: there is no next key; prepare one first`);
    this.rename(`${file}.next`, `${file}.switched`);
  }

  /** Switched → none: the next key is the key, and the old one's bytes on disk are written over. */
  finish(name: string): void {
    const file = this.fileOf(name);
    if (!exists(`${file}.switched`)) {
      if (exists(`${file}.next`)) throw new IpcError('SLUICE_WIREGUARD_ROTATION', `${name}: handshakes still use the old key; switch first`);
      return;
    }
    wipe(readKeyFile(`${file}.switched`)); // the old one goes only for one that can be used
    const old = openSync(file, constants.O_WRONLY | constants.O_NOFOLLOW); // it loses its name, not its bytes
    try {
      this.rename(`${file}.switched`, file);
      writeSync(old, new Uint8Array(TEXT_BYTES), 0, TEXT_BYTES, 0);
      fsyncSync(old);
    } finally {
      closeSync(old);
    }
  }

  private fileOf(name: string): string { return join(this.directory, `${name}.key`); }

  /** Ours and closed, whoever made it. */
  private makeDirectory(): void {
    try {
      mkdirSync(this.directory, { recursive: true, mode: 0o700 });
      const found = lstatSync(this.directory);
      if (!found.isDirectory()) throw new IpcError('SLUICE_WIREGUARD_KEY', `${this.directory} is no directory; move it away`);
      if (found.uid !== process.getuid!()) throw new IpcError('SLUICE_WIREGUARD_KEY', `${this.directory} belongs to user ${found.uid}; keys in it are not trusted: chown -R root ${this.directory}, or move it away for new keys`);
      if ((found.mode & FORBIDDEN_MODE) !== 0) chmodSync(this.directory, 0o700);
    } catch (error) {
      throw readable(error, this.directory);
    }
  }

  private create(file: string): Uint8Array {
    const key = generatePrivateKey();
    const text = encodeKey(key);
    try {
      replaceFile(file, text, 0o600);
      return key;
    } catch (error) {
      wipe(key);
      rmSync(`${file}.tmp`, { force: true });
      throw readable(error, file);
    } finally {
      wipe(text);
    }
  }

  private rename(from: string, to: string): void {
    try {
      renameSync(from, to);
      const directory = openSync(this.directory, 'r');
      try {
        fsyncSync(directory);
      } finally {
        closeSync(directory);
      }
    } catch (error) {
      throw readable(error, from);
    }
  }
}

/** 32 random bytes, clamped as RFC 7748 section 5 asks, so that the file is what `wg genkey` would have made. */
export function generatePrivateKey(): Uint8Array {
  const key = new Uint8Array(KEY_BYTES);
  const random = randomBytes(KEY_BYTES);
  key.set(random);
  wipe(random);
  key[0]! &= 0xf8;
  key[31] = (key[31]! & 0x7f) | 0x40;
  return key;
}

/** A private or preshared key out of a file that only we may read. Throws IpcError SLUICE_WIREGUARD_KEY. */
export function readKeyFile(path: string): Uint8Array {
  const bytes = new Uint8Array(FILE_BYTES_MAX + 1);
  let length = 0;
  try {
    const file = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK); // a FIFO would hold us up for good
    try {
      const found = fstatSync(file);
      const { mode, uid } = found;
      if (!found.isFile()) throw new IpcError('SLUICE_WIREGUARD_KEY', `${path} is no ordinary file`);
      if (uid !== process.getuid!()) throw new IpcError('SLUICE_WIREGUARD_KEY', `${path} belongs to user ${uid}, who could read and change the key; chown root ${path}`);
      if ((mode & FORBIDDEN_MODE) !== 0) throw new IpcError('SLUICE_WIREGUARD_KEY', `${path} is open to others (mode ${(mode & 0o777).toString(8).padStart(4, '0')}); chmod 600 ${path}, and make a new key if others may have read this one`);
      for (let read = -1; read !== 0 && length < bytes.length; length += read) read = readSync(file, bytes, length, bytes.length - length, null);
    } finally {
      closeSync(file);
    }
    const key = length > FILE_BYTES_MAX ? undefined : decodeKey(bytes.subarray(0, length));
    if (key === undefined) throw new IpcError('SLUICE_WIREGUARD_KEY', `${path} does not hold a key: 44 characters of base64, as \`sluice wireguard genkey\` prints them`);
    return key;
  } catch (error) {
    throw readable(error, path);
  } finally {
    wipe(bytes);
  }
}

function isUsable(path: string): boolean {
  try {
    wipe(readKeyFile(path));
    return true;
  } catch {
    return false;
  }
}

/** Anything in the way, a directory or a broken link too: a key is never made over it. */
function exists(path: string): boolean {
  return lstatSync(path, { throwIfNoEntry: false }) !== undefined;
}

function readable(error: unknown, path: string): Error {
  if (error instanceof IpcError) return error;
  const { code, message } = error as NodeJS.ErrnoException;
  const reasons: Record<string, string> = {
    ENOENT: `${path} is not there`,
    EACCES: `${path} cannot be read by the engine, which passes by no permission; chown root ${path}`,
    ENOSPC: `${path} cannot be written: the disk is full`,
    EDQUOT: `${path} cannot be written: the quota is used up`,
    EROFS: `${path} cannot be written: the file system is read-only`,
  };
  return new IpcError('SLUICE_WIREGUARD_KEY', reasons[code ?? ''] ?? `${path}: ${message}`);
}

// ---- base64 of one key, on bytes: a string could not be wiped ---------------------------------------------------------

const ALPHABET = Buffer.from('ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/');
const PADDING = '='.charCodeAt(0);
const NEWLINE = '\n'.charCodeAt(0);

/** RFC 4648 section 4, with a newline. */
export function encodeKey(key: Uint8Array): Uint8Array {
  const text = new Uint8Array(TEXT_BYTES + 1);
  for (let at = 0; at < TEXT_BYTES - 1; at += 1) {
    const bit = at * 6;
    const pair = (key[bit >> 3]! << 8) | (key[(bit >> 3) + 1] ?? 0);
    text[at] = ALPHABET[(pair >> (10 - (bit & 7))) & 63]!;
  }
  text[TEXT_BYTES - 1] = PADDING;
  text[TEXT_BYTES] = NEWLINE;
  return text;
}

/** Undefined unless it is exactly one key in its one canonical form, white space around it aside. All zero is no key. */
export function decodeKey(text: Uint8Array): Uint8Array | undefined {
  const isSpace = (at: number): boolean => text[at] === 0x20 || (text[at]! >= 0x09 && text[at]! <= 0x0d);
  let first = 0;
  let end = text.length;
  while (first < end && isSpace(first)) first += 1;
  while (end > first && isSpace(end - 1)) end -= 1;
  if (end - first !== TEXT_BYTES || text[end - 1] !== PADDING) return undefined;
  const key = new Uint8Array(KEY_BYTES);
  let bits = 0;
  let held = 0;
  let at = 0;
  for (let index = first; index < end - 1; index += 1) {
    const value = ALPHABET.indexOf(text[index]!);
    if (value < 0) {
      wipe(key);
      return undefined;
    }
    held = ((held << 6) | value) & 0xffff;
    bits += 6;
    if (bits < 8) continue;
    bits -= 8;
    key[at] = (held >> bits) & 0xff;
    at += 1;
  }
  const isCanonical = (held & 3) === 0; // 258 bits were written for 256
  if (isCanonical && !timingSafeEqual(key, new Uint8Array(KEY_BYTES))) return key;
  wipe(key);
  return undefined;
}
