// The primitives and the Noise handshake against published vectors (vectors/, each with source and licence).
import { readFileSync } from 'node:fs';
import { chacha20poly1305 } from '@noble/ciphers/chacha.js';
import { describe, expect, test } from 'vitest';
import { openCookie } from '../../src/wireguard/cookie.js';
import { publicKeyOf, sharedSecret } from '../../src/wireguard/curve.js';
import { Symmetric, WIREGUARD_PROLOGUE, finishInitiation, openInitiation, openResponse, startInitiation, startResponse, transportKeys } from '../../src/wireguard/noise.js';
import { bytesOfHex } from './simulation.js';

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');

interface Vectors { source: string; licence: string; fields: string[]; tests: (string | number)[][] }
function vectors(name: string): { id: number; field: (name: string) => Uint8Array; text: (name: string) => string }[] {
  const { fields, tests } = JSON.parse(readFileSync(new URL(`vectors/${name}.json`, import.meta.url), 'utf8')) as Vectors;
  return tests.map((values) => {
    const text = (field: string): string => String(values[fields.indexOf(field)]);
    return { id: values[0] as number, text, field: (field) => bytesOfHex(text(field)) };
  });
}

test('wycheproof-x25519: all shared secrets, and no all-zero one', () => {
  const tests = vectors('x25519');
  let refused = 0;
  for (const { id, text, field } of tests) {
    const secret = sharedSecret(field('private'), field('public'));
    const isZero = /^0+$/.test(text('shared'));
    if (isZero) refused += 1;
    expect(secret && hex(secret), `test ${id}`).toBe(isZero ? undefined : text('shared'));
  }
  expect(tests.length).toBe(518);
  expect(refused).toBeGreaterThan(20);
});

test('public keys are the secret with the base point, whether the table for them is there yet or not (RFC 7748 section 6.1)', () => {
  const base = new Uint8Array(32);
  base[0] = 9;
  for (const { field } of vectors('x25519').slice(0, 100)) expect(publicKeyOf(field('private'))).toEqual(sharedSecret(field('private'), base));
});

test('wycheproof-chacha20-poly1305: seals and opens, refuses what was changed', () => {
  const results = { valid: 0, invalid: 0 };
  for (const { id, text, field } of vectors('chacha20-poly1305')) {
    const result = text('result') as keyof typeof results;
    results[result] += 1;
    const cipher = (): ReturnType<typeof chacha20poly1305> => chacha20poly1305(field('key'), field('nonce'), field('aad'));
    if (result === 'valid') {
      expect(hex(cipher().encrypt(field('plain'))), `test ${id}`).toBe(text('sealed'));
      expect(hex(cipher().decrypt(field('sealed'))), `test ${id}`).toBe(text('plain'));
    } else {
      expect(() => cipher().decrypt(field('sealed')), `test ${id}`).toThrow();
    }
  }
  expect(results).toEqual({ valid: 244, invalid: 69 });
});

test('wycheproof-xchacha20-poly1305: by the function that opens cookies', () => {
  const results = { valid: 0, invalid: 0 };
  for (const { id, text, field } of vectors('xchacha20-poly1305')) {
    const result = text('result') as keyof typeof results;
    results[result] += 1;
    const reply = { type: 3, receiver: 1, nonce: field('nonce'), encryptedCookie: field('sealed') } as const;
    const opened = openCookie(reply, { mac1Key: new Uint8Array(32), cookieKey: field('key') }, field('aad'));
    expect(opened && hex(opened), `test ${id}`).toBe(result === 'valid' ? text('plain') : undefined);
  }
  expect(results).toEqual({ valid: 234, invalid: 69 });
});

interface NoiseVector {
  init_prologue: string; init_psks: [string]; init_static: string; init_ephemeral: string; init_remote_static: string;
  resp_static: string; resp_ephemeral: string; handshake_hash: string; messages: { payload: string; ciphertext: string }[];
}

describe('Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s, published vector', () => {
  const vector = JSON.parse(readFileSync(new URL('vectors/noise-ikpsk2.json', import.meta.url), 'utf8')) as NoiseVector;
  const prologue = bytesOfHex(vector.init_prologue);
  const presharedKey = bytesOfHex(vector.init_psks[0]);
  const identity = (privateKey: string): { privateKey: Uint8Array; publicKey: Uint8Array } => ({ privateKey: bytesOfHex(privateKey), publicKey: publicKeyOf(bytesOfHex(privateKey)) });
  const initiator = identity(vector.init_static);
  const responder = identity(vector.resp_static);
  const [first, second, ...transport] = vector.messages as [NoiseVector['messages'][0], NoiseVector['messages'][0], ...NoiseVector['messages']];

  test('noise-ikpsk2-vector: both messages, the transcript hash and all transport messages', () => {
    expect(hex(responder.publicKey)).toBe(vector.init_remote_static);
    const ephemeralPrivate = bytesOfHex(vector.init_ephemeral);
    const started = startInitiation({ self: initiator, remoteStatic: responder.publicKey, staticSecret: sharedSecret(initiator.privateKey, responder.publicKey)!, ephemeralPrivate, payload: bytesOfHex(first.payload), prologue })!;
    expect(hex(started.ephemeral) + hex(started.encryptedStatic) + hex(started.encryptedPayload)).toBe(first.ciphertext);

    const claim = openInitiation({ self: responder, ephemeral: started.ephemeral, encryptedStatic: started.encryptedStatic, prologue })!;
    expect(hex(claim.remoteStatic)).toBe(hex(initiator.publicKey));
    expect(hex(finishInitiation(claim, sharedSecret(responder.privateKey, claim.remoteStatic)!, started.encryptedPayload)!)).toBe(first.payload);

    const responseEphemeral = bytesOfHex(vector.resp_ephemeral);
    const response = startResponse({ claim, ephemeralPrivate: responseEphemeral, presharedKey, payload: bytesOfHex(second.payload) })!;
    expect(hex(response.ephemeral) + hex(response.encryptedPayload)).toBe(second.ciphertext);
    expect(hex(responseEphemeral)).toBe('00'.repeat(32)); // wiped

    const opened = openResponse({ initiating: started.initiating, self: initiator, presharedKey, ephemeral: response.ephemeral, encryptedPayload: response.encryptedPayload })!;
    expect(hex(opened.payload)).toBe(second.payload);
    expect(hex(opened.state.hash)).toBe(vector.handshake_hash);
    expect(hex(response.state.hash)).toBe(vector.handshake_hash);

    const keys = transportKeys(opened.state, true);
    const theirs = transportKeys(response.state, false);
    expect([hex(keys.sendKey), hex(keys.receiveKey)]).toEqual([hex(theirs.receiveKey), hex(theirs.sendKey)]);
    expect(hex(opened.state.hash)).toBe('00'.repeat(32));
    for (const [index, { payload, ciphertext }] of transport.entries()) {
      const nonce = new Uint8Array(12);
      nonce[4] = Math.floor(index / 2); // in turn, the initiator first
      const sealed = chacha20poly1305(index % 2 === 0 ? keys.sendKey : keys.receiveKey, nonce).encrypt(bytesOfHex(payload));
      expect(hex(sealed)).toBe(ciphertext);
    }
    expect(transport.length).toBe(4);
  });

  test('a forged response leaves the handshake as it was', () => {
    const start = (): NonNullable<ReturnType<typeof startInitiation>> => startInitiation({ self: initiator, remoteStatic: responder.publicKey, staticSecret: sharedSecret(initiator.privateKey, responder.publicKey)!, ephemeralPrivate: bytesOfHex(vector.init_ephemeral), payload: bytesOfHex(first.payload), prologue })!;
    const { initiating } = start();
    const before = hex(initiating.state.hash);
    const ephemeral = bytesOfHex(second.ciphertext.slice(0, 64));
    const encryptedPayload = bytesOfHex(second.ciphertext.slice(64));
    for (const forged of [ephemeral, publicKeyOf(presharedKey), new Uint8Array(32)]) {
      const wrong = encryptedPayload.slice();
      wrong[0]! ^= 1;
      expect(openResponse({ initiating, self: initiator, presharedKey, ephemeral: forged, encryptedPayload: wrong })).toBeUndefined();
      expect(hex(initiating.state.hash)).toBe(before);
    }
    expect(openResponse({ initiating, self: initiator, presharedKey, ephemeral, encryptedPayload })).toBeDefined();
  });

  test('keys of small order are refused at every step', () => {
    const zero = new Uint8Array(32);
    expect(sharedSecret(initiator.privateKey, zero)).toBeUndefined();
    expect(startInitiation({ self: initiator, remoteStatic: zero, staticSecret: presharedKey, ephemeralPrivate: bytesOfHex(vector.init_ephemeral), payload: zero })).toBeUndefined();
    expect(openInitiation({ self: responder, ephemeral: zero, encryptedStatic: new Uint8Array(48) })).toBeUndefined();
    const claim = { state: Symmetric.start(prologue), remoteStatic: initiator.publicKey, remoteEphemeral: zero };
    expect(startResponse({ claim, ephemeralPrivate: bytesOfHex(vector.resp_ephemeral), presharedKey })).toBeUndefined();
  });
});

test('whitepaper-5.4.2: the state that every handshake begins with', () => {
  // Hash(Hash(construction) || identifier), as other implementations carry it as a constant.
  expect(hex(Symmetric.start(WIREGUARD_PROLOGUE).hash)).toBe('2211b361081ac566691243db458ad5322d9c6c662293e8b70ee19c65ba079ef3');
});
