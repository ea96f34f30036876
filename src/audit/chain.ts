// The chain of the audit log: how a line is made, and what proves that it is the one that was written after the line before it.
// Who: log.ts (writing), verify.ts (checking). Pure.
// A line is one JSON object: sequence, time, previous (hash of the line before), what happened, and last `hash`: SHA-256 over the
// bytes of the line before `,"hash":`. Bytes, not a canonical form: whoever checks needs a hash function and nothing else.
import { createHash } from 'node:crypto';

export const FIRST_PREVIOUS = '0'.repeat(64);
/** Longest line; what an event says beyond it is cut by log.ts. */
export const LINE_BYTES_MAX = 16 * 1024;
const HASH_MEMBER = ',"hash":"';
const HASH_CHARACTERS = 64;
const TAIL_CHARACTERS = HASH_MEMBER.length + HASH_CHARACTERS + 2; // and `"}`

export interface ChainLink { sequence: number; hash: string }

export function makeLine(sequence: number, time: string, previous: string, event: object): { line: string; hash: string } {
  // U+2028 and U+2029 break lines for some readers; JSON may hold them escaped.
  const body = JSON.stringify({ sequence, time, previous, ...event }).slice(0, -1).replace(/[\u2028\u2029]/g, (separator) => `\\u${separator.charCodeAt(0).toString(16)}`);
  const hash = hashOf(body);
  return { line: `${body}${HASH_MEMBER}${hash}"}\n`, hash };
}

export type ParsedLine =
  | { isIntact: boolean; sequence: number; previous: string; hash: string; entry: Record<string, unknown> }
  | undefined;

/** A line without its line break. Undefined: it has not the form of a line at all. `isIntact`: its own hash fits. */
export function parseLine(line: string): ParsedLine {
  let entry: Record<string, unknown>;
  try {
    entry = JSON.parse(line) as Record<string, unknown>;
  } catch {
    return undefined;
  }
  const { sequence, previous, hash } = entry ?? {};
  if (typeof sequence !== 'number' || !Number.isSafeInteger(sequence) || typeof previous !== 'string' || typeof hash !== 'string') return undefined;
  const body = line.slice(0, -TAIL_CHARACTERS);
  return { isIntact: line === `${body}${HASH_MEMBER}${hash}"}` && hashOf(body) === hash, sequence, previous, hash, entry };
}

function hashOf(body: string): string { return createHash('sha256').update(body, 'utf8').digest('hex'); }
