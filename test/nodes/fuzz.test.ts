// Whatever a trusted node signs: its record is taken in its one form or refused, and a record that is taken cannot make the configuration
// unfit, nor give the node more than its `allow` or anybody else's key. The seed is printed; SLUICE_FUZZ_SEED takes another one.
import { sign } from 'node:crypto';
import { expect, test } from 'vitest';
import { checkText } from '../../src/config/check.js';
import { compileSnapshot } from '../../src/config/compile.js';
import { allowedPrefixes } from '../../src/config/wireguard.js';
import { contains, formatPrefix, parsePrefix } from '../../src/lib/address.js';
import { fillNodes } from '../../src/nodes/learnt.js';
import { openRecord, RecordError, type NodeRecord } from '../../src/nodes/record.js';
import { makeFacts } from '../engine/fake-addon.js';
import { fuzzSeed as seed, generator, oneOf, type Random } from '../random.js';
import { makeAnnouncement, makeIdentity, makeRecord, NOW } from './support.js';

const RECORDS = 1500;
const keyOf = (byte: number): string => Buffer.alloc(32, byte).toString('base64');
const [OUR_KEY, STATIC_KEY, THEIR_KEY] = [keyOf(1), keyOf(2), keyOf(3)] as const;

const PREFIXES = ['10.3.0.0/16', '10.3.7.0/24', '10.3.7.7/32', '10.99.0.1/32', '0.0.0.0/0', '::/0', '10.2.0.0/16', '2001:db8:3::/48', '2001:db8:3:7::/64', '10.3.0.1/16', '10.3.0.0/33', '10.3.0.0', 'x', '::ffff:10.3.0.0/112', '::ffff:0:0/96'];
const STRANGE: readonly unknown[] = [null, true, 0, -1, 1e21, 1.5, '', 'x', '\u0000', '\u202e', [], {}, [[]], '__proto__', { toString: 1 }, 'A'.repeat(100)];

/** A genuine record with some of its values changed, most often to what could be meant. */
function changed(record: NodeRecord, random: Random): unknown {
  const copy = JSON.parse(JSON.stringify(record)) as Record<string, unknown> & { wireguard: Record<string, unknown>[] };
  copy.wireguard = Array.from({ length: random(4) }, (_, at) => ({
    ...copy.wireguard[0], interface: `wg${random(10) === 0 ? 0 : at}`, publicKey: keyOf(random(8)), nextPublicKey: random(2) ? null : keyOf(random(8)),
    endpoint: oneOf(random, [null, '203.0.113.20:51820', '[2001:db8::20]:1', '127.0.0.1:1', '0.0.0.0:5', '[::ffff:10.0.0.1]:5', '203.0.113.20:99999', 'a:1']),
    allowedIPs: Array.from({ length: random(6) }, () => oneOf(random, PREFIXES)),
  }));
  for (let times = random(3); times > 0 && random(3) === 0; times -= 1) {
    const target = random(2) && Array.isArray(copy.wireguard) && copy.wireguard.length > 0 ? oneOf(random, copy.wireguard) : copy;
    target[oneOf(random, [...Object.keys(target), 'more', '__proto__'])] = oneOf(random, STRANGE);
  }
  return copy;
}

test(`fuzz: ${RECORDS} records that a trusted node signs, seed ${seed}`, async () => {
  console.log(`seed ${seed}`);
  const random = generator(seed);
  const { id, privateKey } = await makeIdentity();
  const { config, problems } = checkText(`version: 1
interfaces:
  untrust: { device: eth1, zone: untrust, addresses: [203.0.113.4/24] }
  trust: { device: eth2, zone: trust, addresses: [10.0.1.4/24] }
wireguard:
  wg0:
    zone: mesh
    addresses: [10.99.0.1/24]
    peers:
      - { name: two, node: nva-2, allowedIPs: [10.2.0.0/16] }
      - { name: branch, publicKey: "${STATIC_KEY}", allowedIPs: [10.3.7.0/24] }
      - { name: three, node: nva-3, allowedIPs: [10.4.0.0/16] }
nodes:
  peers:
    - { name: nva-2, id: "${id}", url: "https://203.0.113.20:8444", allow: [10.3.0.0/16, "2001:db8:3::/48"] }
    - { name: nva-3, id: "ed25519:B${'A'.repeat(42)}", url: "https://203.0.113.30:8444" }
`, 'test');
  expect(problems.filter(({ severity }) => severity === 'error')).toEqual([]);
  const facts = makeFacts();
  const permitted = ['10.2.0.0/16', '10.3.0.0/16', '2001:db8:3::/48'].map(parsePrefix);
  const honest = makeRecord('nva-3', { wireguard: [makeAnnouncement({ publicKey: THEIR_KEY, allowedIPs: [] })] });
  const genuine = makeRecord(id);
  let taken = 0;
  for (let count = 0; count < RECORDS; count += 1) {
    const text = JSON.stringify(changed(genuine, random));
    const signature = sign(null, Buffer.from(`sluice node record 1\n${text}`), privateKey).toString('base64');
    let record: NodeRecord;
    try {
      record = openRecord({ record: text, signature }, id, NOW);
    } catch (error) {
      expect(error, text).toBeInstanceOf(RecordError);
      continue;
    }
    taken += 1;
    expect(JSON.stringify(record)).toBe(text);
    const filled = fillNodes(config!, new Map([['nva-2', record], ['nva-3', honest]]), new Set([OUR_KEY]), (node, key) => (node === 'nva-3' && key === THEIR_KEY ? 1 : 2));
    const peers = filled.config.wireguard!['wg0']!.peers!;
    expect(peers[2]!.publicKey, text).toBe(THEIR_KEY);
    const keys = peers.flatMap(({ publicKey, nextPublicKey }) => [publicKey, nextPublicKey]).filter((key) => key !== undefined);
    expect(new Set([...keys, OUR_KEY]).size, text).toBe(keys.length + 1);
    const prefixes = peers.flatMap((peer) => allowedPrefixes(peer).map(formatPrefix));
    expect(new Set(prefixes).size, text).toBe(prefixes.length);
    for (const prefix of allowedPrefixes(peers[0]!)) expect(permitted.some((one) => one.length <= prefix.length && contains(one, prefix.address)), `${formatPrefix(prefix)} of ${text}`).toBe(true);
    if (taken % 25 === 0) compileSnapshot(filled.config, facts, 1);
  }
  expect(taken).toBeGreaterThan(RECORDS / 50);
  expect(taken).toBeLessThan(RECORDS);
}, 60_000);
