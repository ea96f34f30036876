// The four messages of WireGuard on the wire: WireGuard whitepaper section 5.4.2 to 5.4.7. Bytes ↔ fields, no cryptography.
//
// Who: device.ts, cookie.ts. Each begins with its type and three reserved zero bytes; indices and the counter are little-endian.
// Handshake messages have one length each, transport messages 32 bytes or more: padding to 16 ends at the MTU. Parsing never throws:
// what is not exactly so is undefined. The fields of a parsed message are views of the bytes given, not copies.

export const MessageType = { INITIATION: 1, RESPONSE: 2, COOKIE: 3, TRANSPORT: 4 } as const;

export const INITIATION_BYTES = 148;
export const RESPONSE_BYTES = 92;
export const COOKIE_BYTES = 64;
export const TRANSPORT_HEADER_BYTES = 16;
/** A keepalive: header and tag. */
export const TRANSPORT_BYTES_MIN = 32;
export const MAC_BYTES = 16;
export const TIMESTAMP_BYTES = 12;
const KEY_BYTES = 32;
const TAG_BYTES = 16;
const NONCE_BYTES = 24; // XChaCha20-Poly1305

export interface Initiation {
  readonly type: typeof MessageType.INITIATION;
  readonly sender: number;
  readonly ephemeral: Uint8Array;         // 32
  readonly encryptedStatic: Uint8Array;   // 32 and tag
  readonly encryptedTimestamp: Uint8Array; // 12 and tag
}
export interface Response {
  readonly type: typeof MessageType.RESPONSE;
  readonly sender: number;
  readonly receiver: number;
  readonly ephemeral: Uint8Array;         // 32
  readonly encryptedNothing: Uint8Array;  // tag
}
export interface CookieReply {
  readonly type: typeof MessageType.COOKIE;
  readonly receiver: number;
  readonly nonce: Uint8Array;             // 24
  readonly encryptedCookie: Uint8Array;   // 16 and tag
}
export interface Transport {
  readonly type: typeof MessageType.TRANSPORT;
  readonly receiver: number;
  readonly counter: bigint;
  readonly encryptedPacket: Uint8Array;   // packet, padding, tag
}
export type Message = Initiation | Response | CookieReply | Transport;

const EPHEMERAL_AT = { [MessageType.INITIATION]: 8, [MessageType.RESPONSE]: 12 } as const;

export function parseMessage(bytes: Uint8Array): Message | undefined {
  if (bytes.length < TRANSPORT_BYTES_MIN || bytes[1] !== 0 || bytes[2] !== 0 || bytes[3] !== 0) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const index = view.getUint32(4, true);
  switch (bytes[0]) {
    case MessageType.INITIATION: {
      if (bytes.length !== INITIATION_BYTES) return undefined;
      const fields = cut(bytes, EPHEMERAL_AT[MessageType.INITIATION], KEY_BYTES, KEY_BYTES + TAG_BYTES, TIMESTAMP_BYTES + TAG_BYTES);
      return { type: MessageType.INITIATION, sender: index, ephemeral: fields[0]!, encryptedStatic: fields[1]!, encryptedTimestamp: fields[2]! };
    }
    case MessageType.RESPONSE: {
      if (bytes.length !== RESPONSE_BYTES) return undefined;
      const fields = cut(bytes, EPHEMERAL_AT[MessageType.RESPONSE], KEY_BYTES, TAG_BYTES);
      return { type: MessageType.RESPONSE, sender: index, receiver: view.getUint32(8, true), ephemeral: fields[0]!, encryptedNothing: fields[1]! };
    }
    case MessageType.COOKIE: {
      if (bytes.length !== COOKIE_BYTES) return undefined;
      const fields = cut(bytes, 8, NONCE_BYTES, MAC_BYTES + TAG_BYTES);
      return { type: MessageType.COOKIE, receiver: index, nonce: fields[0]!, encryptedCookie: fields[1]! };
    }
    case MessageType.TRANSPORT:
      return { type: MessageType.TRANSPORT, receiver: index, counter: view.getBigUint64(8, true), encryptedPacket: bytes.subarray(TRANSPORT_HEADER_BYTES) };
    default:
      return undefined;
  }
}

/** Both macs are zero: addMacs() of cookie.ts writes them. */
export function initiationBytes(sender: number, ephemeral: Uint8Array, encryptedStatic: Uint8Array, encryptedTimestamp: Uint8Array): Uint8Array {
  const { bytes, view } = message(MessageType.INITIATION, INITIATION_BYTES);
  view.setUint32(4, sender, true);
  paste(bytes, EPHEMERAL_AT[MessageType.INITIATION], ephemeral, encryptedStatic, encryptedTimestamp);
  return bytes;
}

/** Both macs are zero: addMacs() of cookie.ts writes them. */
export function responseBytes(sender: number, receiver: number, ephemeral: Uint8Array, encryptedNothing: Uint8Array): Uint8Array {
  const { bytes, view } = message(MessageType.RESPONSE, RESPONSE_BYTES);
  view.setUint32(4, sender, true);
  view.setUint32(8, receiver, true);
  paste(bytes, EPHEMERAL_AT[MessageType.RESPONSE], ephemeral, encryptedNothing);
  return bytes;
}

export function cookieReplyBytes(receiver: number, nonce: Uint8Array, encryptedCookie: Uint8Array): Uint8Array {
  const { bytes, view } = message(MessageType.COOKIE, COOKIE_BYTES);
  view.setUint32(4, receiver, true);
  paste(bytes, 8, nonce, encryptedCookie);
  return bytes;
}

/** mac1 and mac2: the last 32 bytes of initiations and responses. */
export function mac1Of(bytes: Uint8Array): Uint8Array {
  return bytes.subarray(bytes.length - 2 * MAC_BYTES, bytes.length - MAC_BYTES);
}
export function mac2Of(bytes: Uint8Array): Uint8Array {
  return bytes.subarray(bytes.length - MAC_BYTES);
}

function message(type: number, length: number): { bytes: Uint8Array; view: DataView } {
  const bytes = new Uint8Array(length);
  bytes[0] = type;
  return { bytes, view: new DataView(bytes.buffer) };
}

function cut(bytes: Uint8Array, from: number, ...lengths: readonly number[]): Uint8Array[] {
  let at = from;
  return lengths.map((length) => bytes.subarray(at, at += length));
}

function paste(bytes: Uint8Array, to: number, ...fields: readonly Uint8Array[]): void {
  let at = to;
  for (const field of fields) {
    bytes.set(field, at);
    at += field.length;
  }
}
