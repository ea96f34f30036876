// What the parsers take and what they refuse, labels of time, macs and cookies.
import { describe, expect, test } from 'vitest';
import { CookieSecret, addMacs, hasMac1, macKeysOf, openCookie } from '../../src/wireguard/cookie.js';
import { COOKIE_BYTES, INITIATION_BYTES, MessageType, RESPONSE_BYTES, cookieReplyBytes, initiationBytes, mac1Of, mac2Of, parseMessage, responseBytes } from '../../src/wireguard/messages.js';
import { isNewer, timestampAfter } from '../../src/wireguard/tai64n.js';
import { keyOf, publicKeyOf, randomSource } from './simulation.js';

const run = (from: number, length: number): Uint8Array => Uint8Array.from({ length }, (_, index) => (from + index) & 255);

describe('messages', () => {
  const initiation = initiationBytes(0x04030201, run(8, 32), run(40, 48), run(88, 28));
  const response = responseBytes(0x04030201, 0x08070605, run(12, 32), run(44, 16));
  const cookie = cookieReplyBytes(0x04030201, run(8, 24), run(32, 32));
  const transport = Uint8Array.of(4, 0, 0, 0, 1, 2, 3, 4, 8, 0, 0, 0, 0, 0, 0, 128, ...run(16, 16));

  test('whitepaper-5.4: each field at its place, numbers little-endian', () => {
    expect([...initiation]).toEqual([1, 0, 0, 0, 1, 2, 3, 4, ...run(8, 108), ...new Array<number>(32).fill(0)]);
    expect([...response]).toEqual([2, 0, 0, 0, ...run(1, 8), ...run(12, 48), ...new Array<number>(32).fill(0)]);
    expect([...cookie]).toEqual([3, 0, 0, 0, 1, 2, 3, 4, ...run(8, 56)]);
    expect([initiation.length, response.length, cookie.length]).toEqual([INITIATION_BYTES, RESPONSE_BYTES, COOKIE_BYTES]);
    expect([148, 92, 64]).toEqual([INITIATION_BYTES, RESPONSE_BYTES, COOKIE_BYTES]);
  });

  test('what was written is read', () => {
    expect(parseMessage(initiation)).toEqual({ type: MessageType.INITIATION, sender: 0x04030201, ephemeral: run(8, 32), encryptedStatic: run(40, 48), encryptedTimestamp: run(88, 28) });
    expect(parseMessage(response)).toEqual({ type: MessageType.RESPONSE, sender: 0x04030201, receiver: 0x08070605, ephemeral: run(12, 32), encryptedNothing: run(44, 16) });
    expect(parseMessage(cookie)).toEqual({ type: MessageType.COOKIE, receiver: 0x04030201, nonce: run(8, 24), encryptedCookie: run(32, 32) });
    expect(parseMessage(transport)).toEqual({ type: MessageType.TRANSPORT, receiver: 0x04030201, counter: 0x8000000000000008n, encryptedPacket: run(16, 16) });
    // Also in the middle of a larger buffer, as the workers hand them over.
    const around = new Uint8Array(300);
    around.set(response, 51);
    expect(parseMessage(around.subarray(51, 51 + RESPONSE_BYTES))).toEqual(parseMessage(response));
  });

  test('every other length is refused', () => {
    for (const message of [initiation, response, cookie]) {
      for (let length = 0; length <= 200; length += 1) {
        const bytes = new Uint8Array(length);
        bytes.set(message.subarray(0, length));
        expect(parseMessage(bytes) !== undefined, `type ${message[0]}, ${length} bytes`).toBe(length === message.length);
      }
    }
    for (let length = 0; length < 32; length += 1) expect(parseMessage(transport.subarray(0, length)), `transport, ${length} bytes`).toBeUndefined();
  });

  test('every other type and every reserved bit is refused', () => {
    for (let type = 0; type < 256; type += 1) {
      const bytes = initiation.slice();
      bytes[0] = type;
      // A transport message may have any length from 32 on.
      expect(parseMessage(bytes) !== undefined, `type ${type}`).toBe(type === 1 || type === 4);
    }
    for (const message of [initiation, response, cookie, transport]) {
      for (let bit = 8; bit < 32; bit += 1) {
        const bytes = message.slice();
        bytes[bit >> 3]! ^= 1 << (bit & 7);
        expect(parseMessage(bytes), `type ${message[0]}, bit ${bit}`).toBeUndefined();
      }
    }
  });
});

describe('TAI64N', () => {
  const NS = 1_000_000_000n;

  test('the label of a moment, coarse to 2^24 ns', () => {
    // 1970-01-01T00:00:01 UTC is TAI 11 s of 1970.
    expect(Buffer.from(timestampAfter(undefined, NS)).toString('hex')).toBe('400000000000000b00000000');
    expect(Buffer.from(timestampAfter(undefined, 1_764_000_000n * NS + 999_999_999n)).toString('hex')).toBe(`40000000${(1_764_000_010).toString(16)}3b000000`);
  });

  test('grows when the clock stands still or is set back, and follows it again', () => {
    let last = timestampAfter(undefined, 5000n * NS);
    const labels = [last];
    for (const wallNs of [5000n * NS, 5000n * NS, 1000n * NS, 4999n * NS, ...new Array<bigint>(100).fill(0n), 5003n * NS]) {
      const next = timestampAfter(last, wallNs);
      expect(isNewer(next, last)).toBe(true);
      expect(isNewer(last, next)).toBe(false);
      expect(new DataView(next.buffer).getUint32(8)).toBeLessThan(1_000_000_000);
      labels.push(last = next);
    }
    expect(last).toEqual(timestampAfter(undefined, 5003n * NS));
    expect(new DataView(labels.at(-2)!.buffer).getBigUint64(0) - new DataView(labels[0]!.buffer).getBigUint64(0)).toBe(1n); // 104 steps of 16.8 ms
  });
});

describe('macs and cookies', () => {
  const keys = macKeysOf(publicKeyOf(keyOf('receiver')));
  const others = macKeysOf(publicKeyOf(keyOf('another')));
  const source = run(1, 18);
  const message = (): Uint8Array => responseBytes(7, 9, run(0, 32), run(0, 16));

  test('mac1 covers every byte before it', () => {
    const bytes = message();
    addMacs(bytes, keys);
    expect(hasMac1(bytes, keys)).toBe(true);
    expect(hasMac1(bytes, others)).toBe(false);
    expect(mac2Of(bytes)).toEqual(new Uint8Array(16));
    for (let index = 0; index < RESPONSE_BYTES - 16; index += 1) {
      const changed = bytes.slice();
      changed[index]! ^= 0x40;
      expect(hasMac1(changed, keys), `byte ${index}`).toBe(false);
    }
  });

  test('a cookie makes mac2, for one source and 120 s', () => {
    const secret = new CookieSecret(randomSource('cookies'));
    const bytes = message();
    addMacs(bytes, keys);
    expect(secret.hasMac2(bytes, source, 0)).toBe(false); // no secret yet
    const reply = parseMessage(secret.reply(bytes, 7, source, keys, 1000));
    if (reply?.type !== MessageType.COOKIE) throw new Error('no cookie reply');
    expect(reply.receiver).toBe(7);
    expect(openCookie(reply, others, mac1Of(bytes))).toBeUndefined();
    expect(openCookie(reply, keys, run(0, 16))).toBeUndefined();
    const cookie = openCookie(reply, keys, mac1Of(bytes))!;

    addMacs(bytes, keys, cookie);
    expect(hasMac1(bytes, keys)).toBe(true);
    expect(secret.hasMac2(bytes, source, 120_999)).toBe(true);
    expect(secret.hasMac2(bytes, source, 121_000)).toBe(false);
    expect(secret.hasMac2(bytes, run(2, 18), 1000)).toBe(false);
    for (let index = 0; index < RESPONSE_BYTES; index += 1) {
      const changed = bytes.slice();
      changed[index]! ^= 1;
      expect(secret.hasMac2(changed, source, 1000), `byte ${index}`).toBe(false);
    }
    secret.reply(bytes, 7, source, keys, 121_000); // a new secret
    expect(secret.hasMac2(bytes, source, 121_000)).toBe(false);
  });

  test('two replies to one message differ: nonces are fresh', () => {
    const secret = new CookieSecret(randomSource('nonces'));
    expect(secret.reply(message(), 7, source, keys, 0)).not.toEqual(secret.reply(message(), 7, source, keys, 0));
  });
});
