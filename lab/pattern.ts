// Bytes that both ends of a transfer can compute: each block differs, so lost, doubled and swapped ones change the hash.

import { createHash } from 'node:crypto';

const BLOCK_BYTES = 64 * 1024;

/** `bytes` bytes, in blocks that begin with their number. */
export function* patternChunks(bytes: number): Generator<Buffer> {
  const base = createHash('sha512').update('sluice').digest();
  const block = Buffer.alloc(BLOCK_BYTES, base);
  for (let offset = 0; offset < bytes; offset += BLOCK_BYTES) {
    const copy = Buffer.from(block);
    copy.writeDoubleLE(offset, 0);
    yield bytes - offset < BLOCK_BYTES ? copy.subarray(0, bytes - offset) : copy;
  }
}

export function patternSha256(bytes: number): string {
  const hash = createHash('sha256');
  for (const chunk of patternChunks(bytes)) hash.update(chunk);
  return hash.digest('hex');
}
