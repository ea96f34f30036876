// Random and changed bytes through every parser: nothing throws, nothing is answered that was not made by a key's owner.
// The seed is fixed and printed; SLUICE_FUZZ_SEED takes another one, SLUICE_FUZZ_INPUTS another number of inputs.
import { expect, test } from 'vitest';
import { parseMessage } from '../../src/wireguard/messages.js';
import { addMacs, macKeysOf } from '../../src/wireguard/cookie.js';
import { fuzzSeed as seed, generator } from '../random.js';
import { Network, pair, type Pair } from './simulation.js';

const inputs = Number(process.env.SLUICE_FUZZ_INPUTS ?? 100_000);

/** One message of each type, as they went between two nodes. */
function genuine(): { all: Pair; messages: Uint8Array[] } {
  const all = pair();
  all.a.send(1, 'a packet of some length');
  all.network.run(1000);
  const cookie = new Uint8Array(64);
  cookie[0] = 3;
  cookie[4] = 1;
  return { all, messages: [...new Map(all.network.trace.map(({ type, bytes }) => [type, bytes])).values(), cookie] };
}

function mutated(message: Uint8Array, random: (below: number) => number): Uint8Array {
  switch (random(5)) {
    case 0: return message.slice(0, random(message.length + 1));
    case 1: return Uint8Array.from([...message, ...Array.from({ length: random(64) }, () => random(256))]);
    case 2: { // another type's length
      const bytes = message.slice();
      bytes[0] = random(6);
      return bytes;
    }
    default: {
      const bytes = message.slice();
      for (let count = 1 + random(4); count > 0; count -= 1) bytes[random(bytes.length)]! ^= 1 + random(255);
      return bytes;
    }
  }
}

test(`fuzz: ${inputs} inputs, seed ${seed}: parsers do not throw, devices do not answer`, () => {
  console.log(`seed ${seed}, ${inputs} inputs`);
  const random = generator(seed);
  const { all: { a, b }, messages } = genuine();
  const before = [a.actions.length, b.actions.length];
  const known = new Set(messages.map((bytes) => Buffer.from(bytes).toString('latin1')));
  let parsed = 0;
  let handed = 0;
  for (let input = 0; input < inputs; input += 1) {
    const bytes = random(3) === 0 ? Uint8Array.from({ length: random(220) }, () => random(256)) : mutated(messages[random(messages.length)]!, random);
    if (known.has(Buffer.from(bytes).toString('latin1'))) continue;
    const message = parseMessage(bytes);
    if (message !== undefined) parsed += 1;
    for (const node of [a, b]) {
      const actions = node.device.onMessage(bytes, node.endpoint, random(4) === 0 ? random(256) : 0xff, node.nowNs);
      handed += 1;
      // mac2 is looked at under load only, by the gate: a replayed initiation falls to its timestamp, a response to its index.
      expect(actions, `input ${input}: ${Buffer.from(bytes).toString('hex')}`).toEqual([]);
    }
  }
  expect([a.actions.length, b.actions.length]).toEqual(before);
  const refused = Object.values(a.device.refused).concat(Object.values(b.device.refused)).reduce((sum, one) => sum + one);
  expect(refused).toBe(handed);
  expect(parsed).toBeGreaterThan(inputs / 10);
}, 120_000);

test('fuzz: messages changed behind a mac1 that is right reach the cryptography, and end there', () => {
  const random = generator(seed);
  const all = pair();
  all.network.loses = () => true;
  all.a.send(1, 'x');
  const initiation = all.network.trace[0]!.bytes;
  const keys = macKeysOf(all.b.publicKey);
  for (let input = 0; input < 300; input += 1) {
    const bytes = initiation.slice();
    for (let count = 1 + random(4); count > 0; count -= 1) bytes[8 + random(108)]! ^= 1 + random(255);
    if (bytes.subarray(0, 116).every((byte, index) => byte === initiation[index])) continue;
    addMacs(bytes, keys);
    expect(all.b.device.onMessage(bytes, all.a.endpoint, 0, all.b.nowNs), `input ${input}`).toEqual([]);
  }
  expect(all.b.device.refused.authentication).toBeGreaterThan(250);
});

test('fuzz: records of any content and length do not throw, and lead to no more than a wish', () => {
  const random = generator(seed);
  const network = new Network();
  const a = network.add('a');
  a.setPeers({ settings: { id: 1, publicKey: network.add('b').publicKey }, endpoint: a.endpoint });
  for (let input = 0; input < 2000; input += 1) {
    const records = Uint8Array.from({ length: random(500) }, () => random(256));
    if (records.length >= 8) records.set([1, 0, 0, 0, 7, 0, 0, 0]);
    const actions = a.device.tick(BigInt(input) * 1_000_000n, records);
    for (const { type } of actions) expect(['send', 'keepalive', 'forget', 'gave-up']).toContain(type);
  }
});
