// A node record: what a node says of itself, signed with its identity key (identity.ts). Who: src/nodes/. Pure.
// Form: {record, signature}. `record` is the very text that was signed, JSON with the members in the order of NodeRecord and no white space, so
// that there is one text for a record and nothing to argue about; `signature` is Ed25519 (RFC 8032) over CONTEXT and that text, base64.
// A record says public things alone: WireGuard's public keys, where the node is reached, what is behind it. What of it counts is not decided
// here but by the configuration of whoever got it (learnt.ts): a node must not attract traffic by saying so.
// Bounds: RECORD_BYTES_MAX, INTERFACES_MAX, ALLOWED_IPS_MAX, LIFETIME_MS_MAX. Errors: RecordError.
import { sign, verify, type KeyObject } from 'node:crypto';
import { isIP } from 'node:net';
import { Type, type Static } from '@sinclair/typebox';
import { Value } from '@sinclair/typebox/value';
import { formatPrefix, parseAddress, parsePrefix, specialUse } from '../lib/address.js';
import { NODE_ID_PATTERN, publicKeyOfNode } from './identity.js';

/** Of the text; with its signature and the escapes of JSON it fits a message of 64 KiB. */
export const RECORD_BYTES_MAX = 48 * 1024;
const INTERFACES_MAX = 64;
const ALLOWED_IPS_MAX = 1024;
/** A record ends by itself, so that a node that nobody hears of any more does not keep its tunnels for ever. */
export const LIFETIME_MS = 7 * 86_400_000;
const LIFETIME_MS_MAX = 31 * 86_400_000;
/** How far ahead of ours another node's clock may be. */
const CLOCK_SKEW_MS = 300_000;
/** What is signed begins with it: a signature of this key for anything else is none for a record. */
const CONTEXT = 'sluice node record 1\n';
const SIGNATURE_BYTES = 64;
const ZERO_KEY = `${'A'.repeat(43)}=`;

const closed = { additionalProperties: false };
const KEY = '^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$';
const TIME = '^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]{3}Z$';
const orNull = (pattern: string) => Type.Union([Type.Null(), Type.String({ pattern, maxLength: 64 })]);

const AnnouncementSchema = Type.Object({
  interface: Type.String({ pattern: '^[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}$' }),
  publicKey: Type.String({ pattern: KEY }),
  nextPublicKey: orNull(KEY),
  endpoint: orNull('^(\\[[0-9A-Fa-f:.]{2,45}\\]|[0-9.]{7,15}):[0-9]{1,5}$'),
  port: Type.Integer({ minimum: 1, maximum: 65535 }),
  allowedIPs: Type.Array(Type.String({ maxLength: 49 }), { maxItems: ALLOWED_IPS_MAX }),
}, closed);

const RecordSchema = Type.Object({
  version: Type.Literal(1),
  node: Type.String({ pattern: NODE_ID_PATTERN }),
  name: Type.String({ minLength: 1, maxLength: 253, pattern: '^[^\\u0000-\\u001f\\u007f-\\u009f]*$' }),
  sequence: Type.Integer({ minimum: 1, maximum: Number.MAX_SAFE_INTEGER }),
  issuedAt: Type.String({ pattern: TIME }),
  expiresAt: Type.String({ pattern: TIME }),
  wireguard: Type.Array(AnnouncementSchema, { maxItems: INTERFACES_MAX }),
}, closed);

const SignedSchema = Type.Object({ record: Type.String({ maxLength: RECORD_BYTES_MAX }), signature: Type.String({ pattern: '^[A-Za-z0-9+/]{85}[AQgw]==$' }) }, closed);

/** `publicKey` and `nextPublicKey`: both are answered to; `endpoint`: a literal address, null where others have to know or to be called. */
export type Announcement = Static<typeof AnnouncementSchema>;
export type NodeRecord = Static<typeof RecordSchema>;
export type SignedRecord = Static<typeof SignedSchema>;

export class RecordError extends Error {
  readonly code = 'SLUICE_NODE_RECORD';
}

/** Members in the order in which they are signed. Throws RecordError when it is larger than anybody takes. */
export function signRecord(record: NodeRecord, privateKey: KeyObject): SignedRecord {
  const text = canonical(record);
  if (Buffer.byteLength(text) > RECORD_BYTES_MAX) throw new RecordError(`our record has ${Buffer.byteLength(text)} bytes, and ${RECORD_BYTES_MAX} are taken; announce fewer allowed IPs`);
  return { record: text, signature: sign(null, Buffer.from(CONTEXT + text), privateKey).toString('base64') };
}

/** What a record must be newer than: the last one that was taken from this node. */
export interface Former { sequence: number; record: string }

/** `expected`: the id of the node that it has to be of. `former`: the last one taken. `kept`: it is ours already, read from disk. Throws RecordError. */
export function openRecord(signed: unknown, expected: string, nowMs: number, { former, kept = false }: { former?: Former; kept?: boolean } = {}): NodeRecord {
  if (!Value.Check(SignedSchema, signed)) throw new RecordError('it is no signed record');
  const bytes = Buffer.from(CONTEXT + signed.record);
  if (bytes.length - CONTEXT.length > RECORD_BYTES_MAX) throw new RecordError(`it is larger than ${RECORD_BYTES_MAX} bytes`);
  const signature = Buffer.from(signed.signature, 'base64');
  // First of all: nothing of what somebody else wrote is looked at.
  if (signature.length !== SIGNATURE_BYTES || !verify(null, bytes, publicKeyOfNode(expected), signature)) throw new RecordError(`its signature is not by ${expected}`);
  const record = parse(signed.record);
  if (record.node !== expected) throw new RecordError(`it is of node ${record.node}`);
  const [issuedMs, expiresMs] = [Date.parse(record.issuedAt), Date.parse(record.expiresAt)];
  if (!(expiresMs > issuedMs) || expiresMs - issuedMs > LIFETIME_MS_MAX) throw new RecordError(`its lifetime, ${record.issuedAt} to ${record.expiresAt}, is none`);
  if (expiresMs <= nowMs) throw new RecordError(`it expired at ${record.expiresAt}; is its clock or ours wrong?`);
  if (!kept && issuedMs - nowMs > CLOCK_SKEW_MS) throw new RecordError(`it was issued at ${record.issuedAt}, which is yet to come; is its clock or ours wrong?`);
  if (former !== undefined && record.sequence < former.sequence) throw new RecordError(`its sequence ${record.sequence} is lower than ${former.sequence}, which came before`);
  if (former !== undefined && record.sequence === former.sequence && signed.record !== former.record) throw new RecordError(`its sequence ${record.sequence} came before, with other content`);
  return record;
}

function parse(text: string): NodeRecord {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new RecordError('it is no JSON');
  }
  if (!Value.Check(RecordSchema, value)) {
    const first = Value.Errors(RecordSchema, value).First();
    throw new RecordError(`${first?.path || 'the whole'}: ${first?.message ?? 'not of this form'}`);
  }
  if (canonical(value) !== text) throw new RecordError('it is not in its canonical form');
  const keys = new Set<string>();
  const names = new Set<string>();
  for (const one of value.wireguard) {
    if (names.has(one.interface)) throw new RecordError(`interface ${one.interface} stands in it twice`);
    names.add(one.interface);
    for (const key of keysOf(one)) {
      if (key === ZERO_KEY || keys.has(key)) throw new RecordError(`a public key of interface ${one.interface} is all zero, or stands in it twice`);
      keys.add(key);
    }
    if (one.endpoint !== null) checkEndpoint(one.endpoint);
    for (const prefix of one.allowedIPs) checkPrefix(prefix);
  }
  return value;
}

export const keysOf = ({ publicKey, nextPublicKey }: Pick<Announcement, 'publicKey' | 'nextPublicKey'>): string[] => (nextPublicKey === null ? [publicKey] : [publicKey, nextPublicKey]);

/** Literal: no node has others look up names of its choice. */
function checkEndpoint(text: string): void {
  const colon = text.lastIndexOf(':');
  const host = text.slice(0, colon).replace(/^\[|\]$/g, '');
  const port = Number(text.slice(colon + 1));
  const family = isIP(host);
  if (family === 0 || (family === 6) !== text.startsWith('[') || port < 1 || port > 65535) throw new RecordError(`endpoint ${text} is no address and port`);
  const use = specialUse(attempt(() => parseAddress(host), `endpoint ${text}`));
  if (use !== undefined) throw new RecordError(`endpoint ${text} is ${use}`);
}

function checkPrefix(text: string): void {
  const prefix = attempt(() => parsePrefix(text), `allowed IP '${text}'`);
  if (formatPrefix(prefix) !== text) throw new RecordError(`allowed IP '${text}' is not in its canonical form`);
}

function attempt<T>(work: () => T, what: string): T {
  try {
    return work();
  } catch (error) {
    throw new RecordError(`${what}: ${(error as Error).message}`);
  }
}

function canonical({ version, node, name, sequence, issuedAt, expiresAt, wireguard }: NodeRecord): string {
  return JSON.stringify({
    version, node, name, sequence, issuedAt, expiresAt,
    wireguard: wireguard.map(({ interface: own, publicKey, nextPublicKey, endpoint, port, allowedIPs }) => ({ interface: own, publicKey, nextPublicKey, endpoint, port, allowedIPs })),
  });
}
