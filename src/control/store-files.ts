// Files of the store: written so that a power cut at any moment leaves the old or the new one whole, and read so that a damaged one is known.
// Form: "sluice KIND 1 DIGEST TEXT-DIGEST\n", a line of JSON, then the text. TEXT-DIGEST is the text's SHA-256, DIGEST that of TEXT-DIGEST, a
// line feed and the line of JSON: a text that is hashed already, for its etag, is not hashed again.
// Who: src/control/store.ts. Bounds: FILE_BYTES_MAX.
import { createHash, randomBytes } from 'node:crypto';
import { readFileSync, rmSync, statSync } from 'node:fs';
import { open, rename, rm, type FileHandle } from 'node:fs/promises';
import { dirname } from 'node:path';
import { passFaultPoint, type FaultPoint } from './fault-points.js';

export const FILE_BYTES_MAX = 80 * 1024 * 1024; // the largest configuration, and its head

export type FileKind = 'revision' | 'pointer' | 'candidate';

export interface StoredFile<Head> { head: Head; text: string }

/** Damaged, or not what it says to be. */
export class DamagedFile extends Error {
  constructor(readonly path: string, reason: string) { super(`${path}: ${reason}`); }
}

/** Undefined when there is none. Throws DamagedFile. */
export function readStored<Head>(path: string, kind: FileKind): StoredFile<Head> | undefined {
  let bytes: Buffer;
  try {
    if (statSync(path).size > FILE_BYTES_MAX) throw new DamagedFile(path, 'larger than any such file');
    bytes = readFileSync(path);
  } catch (error) {
    if (error instanceof DamagedFile) throw error;
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw new DamagedFile(path, (error as Error).message);
  }
  const first = bytes.indexOf(0x0a);
  const match = /^sluice ([a-z]+) 1 ([0-9a-f]{64}) ([0-9a-f]{64})$/.exec(first < 0 || first > 200 ? '' : bytes.toString('utf8', 0, first));
  if (match === null || match[1] !== kind) throw new DamagedFile(path, `not a ${kind} of this version`);
  const second = bytes.indexOf(0x0a, first + 1);
  const head = bytes.toString('utf8', first + 1, second);
  const text = bytes.subarray(second + 1);
  if (second < 0 || headDigest(match[3]!, head) !== match[2] || sha256(text) !== match[3]) throw new DamagedFile(path, 'its checksum is wrong');
  return { head: JSON.parse(head) as Head, text: text.toString('utf8') };
}

export const sha256 = (data: string | Uint8Array): string => createHash('sha256').update(data).digest('hex');
const headDigest = (textDigest: string, head: string): string => sha256(`${textDigest}\n${head}`);

/**
 * The new file has its name when this resolves, and its content is durable; what stood there before is replaced. Its name is durable with the
 * next file for which `isNameDurable` is said in that directory. Rejects with the system's error.
 */
export async function writeStored(path: string, kind: FileKind, head: object, text: string | Uint8Array, { textDigest = sha256(text), isNameDurable = true } = {}): Promise<void> {
  const pass = (moment: 'begun' | 'opened' | 'half-written' | 'written' | 'synced' | 'linked'): void => {
    if (kind !== 'candidate') passFaultPoint(`${kind}-${moment}` satisfies FaultPoint);
  };
  pass('begun');
  const json = JSON.stringify(head);
  const start = Buffer.from(`sluice ${kind} 1 ${headDigest(textDigest, json)} ${textDigest}\n${json}\n`);
  const rest = typeof text === 'string' ? Buffer.from(text) : text;
  const temporary = `${path}.${randomBytes(6).toString('hex')}.tmp`;
  try {
    const file = await open(temporary, 'wx', 0o600); // exclusive: a link planted there is never followed
    try {
      pass('opened');
      const half = Math.ceil((start.length + rest.length) / 2);
      const first = Math.min(half, start.length);
      await writeAll(file, start.subarray(0, first));
      await writeAll(file, rest.subarray(0, half - first));
      pass('half-written');
      await writeAll(file, start.subarray(first));
      await writeAll(file, rest.subarray(half - first));
      pass('written');
      await file.sync();
      pass('synced');
    } finally {
      await file.close();
    }
    await rename(temporary, path);
    pass('linked');
    if (!isNameDurable) return;
    await syncDirectory(dirname(path));
    if (kind === 'pointer') passFaultPoint('pointer-durable');
  } catch (error) {
    rmSync(temporary, { force: true });
    throw error;
  }
}

async function writeAll(file: FileHandle, bytes: Uint8Array): Promise<void> {
  for (let written = 0; written < bytes.length;) written += (await file.write(bytes, written)).bytesWritten;
}

async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, 'r');
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}

/** Durable with the next file. */
export async function renameStored(from: string, to: string): Promise<void> { await rename(from, to); }

export async function removeStored(path: string): Promise<void> { await rm(path, { force: true }); }
