// What of another node's record becomes part of this one's tunnels: what the configuration permits, and nothing else.
import { readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { checkText } from '../../src/config/check.js';
import { compileSnapshot } from '../../src/config/compile.js';
import type { Config } from '../../src/config/schema.js';
import { fillNodes, LearntRecords, type Filled } from '../../src/nodes/learnt.js';
import { LIFETIME_MS, signRecord, type NodeRecord } from '../../src/nodes/record.js';
import { makeFacts } from '../engine/fake-addon.js';
import { makeAnnouncement, makeIdentity, makeKey, makeRecord, NOW, temporaryDirectory } from './support.js';

const ID = `ed25519:${'A'.repeat(43)}`;
const OTHER_ID = `ed25519:B${'A'.repeat(42)}`;
const STATIC_KEY = makeKey();

const text = (peers: string, nodes = ''): string => `version: 1
interfaces:
  untrust: { device: eth1, zone: untrust, addresses: [203.0.113.4/24] }
  trust: { device: eth2, zone: trust, addresses: [10.0.1.4/24] }
wireguard:
  wg0: { zone: mesh, addresses: [10.99.0.1/24], peers: [${peers}] }
nodes:
  peers:
    - { name: nva-2, id: "${ID}", url: "https://203.0.113.20:8444"${nodes} }
    - { name: nva-3, id: "${OTHER_ID}", url: "https://203.0.113.30:8444" }
`;

function configOf(yaml: string): Config {
  const { problems, config } = checkText(yaml, 'test');
  expect(problems.filter(({ severity }) => severity === 'error')).toEqual([]);
  return config!;
}

const NODE_PEER = '{ name: two, node: nva-2, allowedIPs: [10.99.0.2/32, 10.2.0.0/16] }';
const fill = (config: Config, records: Record<string, NodeRecord>, own: readonly string[] = []): Filled => fillNodes(config, new Map(Object.entries(records)), new Set(own));
const peersOf = ({ config }: Filled) => config.wireguard!['wg0']!.peers!;

describe('a peer that is a node', () => {
  test('has its keys and endpoint from the record, and what it allows from the configuration', () => {
    const announced = makeAnnouncement({ nextPublicKey: makeKey() });
    const filled = fill(configOf(text(NODE_PEER)), { 'nva-2': makeRecord(ID, { wireguard: [announced] }) });
    expect(peersOf(filled)[0]).toEqual({
      name: 'two', node: 'nva-2', publicKey: announced.publicKey, nextPublicKey: announced.nextPublicKey, endpoint: '203.0.113.20:51820', allowedIPs: ['10.99.0.2/32', '10.2.0.0/16'],
    });
    expect([...filled.sequences]).toEqual([['nva-2', 7]]);
    expect([...filled.notes]).toEqual([]);
  });

  test('is known to the engine once its key is; until then what is for it has no session', () => {
    const config = configOf(text(NODE_PEER));
    const facts = makeFacts();
    const before = compileSnapshot(config, facts, 1);
    expect(before.wireguards[0]!.peers).toEqual([]);
    const announced = makeAnnouncement();
    const after = compileSnapshot(fill(config, { 'nva-2': makeRecord(ID, { wireguard: [announced] }) }).config, facts, 1);
    expect(after.wireguards[0]!.peers).toMatchObject([{ name: 'two', publicKey: announced.publicKey }]);
    // Its allowed IPs are in the engine's tables all along: nothing takes another way meanwhile.
    expect(Buffer.compare(before.snapshot, after.snapshot)).toBe(0);
  });

  test('attracts nothing by saying so', () => {
    const record = makeRecord(ID, { wireguard: [makeAnnouncement({ allowedIPs: ['0.0.0.0/0', '::/0', '10.0.1.0/24', '10.3.0.0/16'] })] });
    const filled = fill(configOf(text(NODE_PEER)), { 'nva-2': record });
    expect(peersOf(filled)[0]!.allowedIPs).toEqual(['10.99.0.2/32', '10.2.0.0/16']);
    expect(filled.notes.get('nva-2')).toEqual(['0.0.0.0/0', '::/0', '10.0.1.0/24', '10.3.0.0/16'].map((prefix) => `${prefix} is not among what it may announce`));
  });

  test('adds what lies within `allow`, and no prefix of somebody else', () => {
    const config = configOf(text(`{ name: branch, publicKey: "${STATIC_KEY}", allowedIPs: [10.3.7.0/24] }, ${NODE_PEER}`, ', allow: [10.3.0.0/16, 10.99.0.0/24]'));
    const record = makeRecord(ID, { wireguard: [makeAnnouncement({ allowedIPs: ['10.3.0.0/16', '10.3.7.0/24', '10.3.8.0/24', '10.0.0.0/8', '10.99.0.1/32', '10.2.3.0/24'] })] });
    const filled = fill(config, { 'nva-2': record });
    expect(peersOf(filled)[1]!.allowedIPs).toEqual(['10.99.0.2/32', '10.2.0.0/16', '10.3.0.0/16', '10.3.8.0/24']);
    expect(filled.notes.get('nva-2')).toEqual(['10.3.7.0/24 is another peer\'s', '10.0.0.0/8 is not among what it may announce', '10.99.0.1/32 is our own address']);
    expect(compileSnapshot(filled.config, makeFacts(), 1).wireguards[0]!.peers).toHaveLength(2);
  });

  test('has no key that is somebody else\'s: a static peer\'s, another node\'s, our own', () => {
    const config = configOf(text(`{ name: branch, publicKey: "${STATIC_KEY}" }, ${NODE_PEER}, { name: three, node: nva-3 }`));
    const ours = makeKey();
    for (const stolen of [STATIC_KEY, ours]) {
      const announced = makeAnnouncement();
      for (const [keys, left] of [[{ publicKey: stolen }, undefined], [{ nextPublicKey: stolen }, announced.publicKey]] as const) {
        const filled = fill(config, { 'nva-2': makeRecord(ID, { wireguard: [{ ...announced, ...keys }] }) }, [ours]);
        const [, two] = peersOf(filled);
        expect([two!.publicKey, two!.nextPublicKey]).toEqual([left, undefined]);
        expect(filled.notes.get('nva-2')?.[0]).toContain('somebody else\'s');
        expect([...filled.sequences], 'not acknowledged: it must not begin to use that key').toEqual([]);
      }
    }
    const one = makeAnnouncement();
    const filled = fill(config, { 'nva-2': makeRecord(ID, { wireguard: [one] }), 'nva-3': makeRecord(OTHER_ID, { wireguard: [makeAnnouncement({ publicKey: one.publicKey })] }) });
    expect(peersOf(filled).map(({ publicKey }) => publicKey)).toEqual([STATIC_KEY, one.publicKey, undefined]);
    expect(compileSnapshot(filled.config, makeFacts(), 1).wireguards[0]!.peers).toHaveLength(2);
  });

  test('keeps the key that it was the first to claim, whoever stands before it in the configuration', () => {
    const config = configOf(text(`${NODE_PEER}, { name: three, node: nva-3 }`));
    const [old, next] = [makeKey(), makeKey()];
    const records = {
      'nva-2': makeRecord(ID, { wireguard: [makeAnnouncement({ publicKey: old, nextPublicKey: next })] }),
      'nva-3': makeRecord(OTHER_ID, { wireguard: [makeAnnouncement({ publicKey: old, nextPublicKey: next })] }),
    };
    const claimed: Record<string, Record<string, number>> = { 'nva-2': { [old]: 20, [next]: 20 }, 'nva-3': { [old]: 10, [next]: 30 } };
    const filled = fillNodes(config, new Map(Object.entries(records)), new Set(), (node, key) => claimed[node]![key]!);
    expect(peersOf(filled).map(({ publicKey, nextPublicKey }) => [publicKey, nextPublicKey])).toEqual([[next, undefined], [old, undefined]]);
    expect([...filled.notes.keys()]).toEqual(['nva-2', 'nva-3']);
    expect(compileSnapshot(filled.config, makeFacts(), 1).wireguards[0]!.peers).toHaveLength(2);
  });

  test('may name the tunnel that it means; else the one that is called as ours counts, or the only one', () => {
    const [zero, one] = [makeAnnouncement({ interface: 'wg0' }), makeAnnouncement({ interface: 'wg1' })];
    const keyOf = (peer: string, wireguard: NodeRecord['wireguard']): string | undefined => peersOf(fill(configOf(text(peer)), { 'nva-2': makeRecord(ID, { wireguard }) }))[0]!.publicKey;
    expect(keyOf('{ name: two, node: nva-2 }', [one, zero])).toBe(zero.publicKey);
    expect(keyOf('{ name: two, node: nva-2/wg1 }', [one, zero])).toBe(one.publicKey);
    expect(keyOf('{ name: two, node: nva-2 }', [one])).toBe(one.publicKey);
    expect(keyOf('{ name: two, node: nva-2/wg7 }', [one])).toBe(undefined);
    expect(keyOf('{ name: two, node: nva-2 }', [one, makeAnnouncement({ interface: 'wg2' })])).toBe(undefined);
  });

  test('that has an endpoint in the configuration keeps it', () => {
    const config = configOf(text('{ name: two, node: nva-2, endpoint: "vpn.example.net:51820" }'));
    expect(peersOf(fill(config, { 'nva-2': makeRecord(ID) }))[0]!.endpoint).toBe('vpn.example.net:51820');
  });

  test('stays the same object with the same record', () => {
    const config = configOf(text(NODE_PEER));
    const record = makeRecord(ID);
    expect(peersOf(fill(config, { 'nva-2': record }))[0]).toBe(peersOf(fill(config, { 'nva-2': { ...record, sequence: 8 } }))[0]);
  });
});

describe('records that are kept', () => {
  test('outlive a restart, expired ones as what newer ones are compared with', async () => {
    const directory = temporaryDirectory();
    const { id, privateKey } = await makeIdentity();
    const records = new LearntRecords(directory);
    const signed = signRecord(makeRecord(id), privateKey);
    expect(records.accept(id, signed, NOW)).toBe(true);
    expect(records.accept(id, signed, NOW)).toBe(false);
    const again = new LearntRecords(directory);
    expect(again.current(id, NOW)?.sequence).toBe(7);
    expect(again.current(id, NOW + LIFETIME_MS)).toBe(undefined);
    expect(() => again.accept(id, signRecord(makeRecord(id, { sequence: 6, expiresAt: new Date(NOW + 2 * LIFETIME_MS).toISOString() }), privateKey), NOW + LIFETIME_MS)).toThrow(/lower/);
    expect(again.damage).toEqual([]);
  });

  test('say since when each key has stood in them without a break, over restarts', async () => {
    const directory = temporaryDirectory();
    const { id, privateKey } = await makeIdentity();
    const [stays, leaves, comes] = [makeKey(), makeKey(), makeKey()];
    let sequence = 7;
    const accept = (records: LearntRecords, keys: { publicKey: string; nextPublicKey: string | null }, afterMs: number): LearntRecords => {
      records.accept(id, signRecord(makeRecord(id, { sequence: sequence += 1, wireguard: [makeAnnouncement(keys)] }), privateKey), NOW + afterMs);
      return records;
    };
    accept(new LearntRecords(directory), { publicKey: stays, nextPublicKey: leaves }, 1);
    accept(new LearntRecords(directory), { publicKey: stays, nextPublicKey: comes }, 2);
    accept(new LearntRecords(directory), { publicKey: stays, nextPublicKey: leaves }, 3);
    expect(new LearntRecords(directory).get(id)!.claimedMs).toEqual({ [stays]: NOW + 1, [leaves]: NOW + 3 });
  });

  test('a damaged one, or one of another node, is as good as absent', async () => {
    const directory = temporaryDirectory();
    const [one, other] = [await makeIdentity(), await makeIdentity()];
    new LearntRecords(directory).accept(one.id, signRecord(makeRecord(one.id), one.privateKey), NOW);
    const [name] = readdirSync(directory);
    writeFileSync(join(directory, `${other.id.slice(8)}.json`), JSON.stringify({ acceptedAt: '', ...signRecord(makeRecord(one.id), one.privateKey) }));
    writeFileSync(join(directory, name!), '{"acc');
    writeFileSync(join(directory, 'x.json.tmp'), '');
    const records = new LearntRecords(directory);
    expect([records.get(one.id), records.get(other.id)]).toEqual([undefined, undefined]);
    expect(records.damage).toHaveLength(2);
    expect(readdirSync(directory)).not.toContain('x.json.tmp');
    expect(records.accept(one.id, signRecord(makeRecord(one.id), one.privateKey), NOW)).toBe(true);
  });

  test('of who is trusted no more are forgotten', async () => {
    const directory = temporaryDirectory();
    const { id, privateKey } = await makeIdentity();
    const records = new LearntRecords(directory);
    records.accept(id, signRecord(makeRecord(id), privateKey), NOW);
    records.keep(new Set([id]));
    expect(readdirSync(directory)).toHaveLength(1);
    records.keep(new Set());
    expect(readdirSync(directory)).toHaveLength(0);
    expect(records.get(id)).toBe(undefined);
  });
});

describe('the configuration', () => {
  const refused = (yaml: string): string[] => checkText(yaml, 'test').problems.filter(({ severity }) => severity === 'error').map(({ code, path }) => `${code} ${path}`);
  const nodes = (section: string): string => `version: 1\nwireguard:\n  wg0: { zone: mesh, addresses: [10.99.0.1/24], peers: [{ name: two, node: nva-2, allowedIPs: [10.99.0.2/32] }] }\nnodes: ${section}\n`;
  const PEER = `{ name: nva-2, id: "${ID}", url: "https://203.0.113.20:8444" }`;

  test.each([
    ['a node that is not there', nodes('{ peers: [] }'), 'SLUICE_NODE_UNKNOWN wireguard.wg0.peers[0].node'],
    ['a name twice', nodes(`{ peers: [${PEER}, { name: nva-2, id: "${OTHER_ID}", url: "https://203.0.113.21" }] }`), 'SLUICE_NAME_DUPLICATE nodes.peers[1].name'],
    ['an id twice', nodes(`{ peers: [${PEER}, { name: nva-3, id: "${ID}", url: "https://203.0.113.21" }] }`), 'SLUICE_NODE_PEER nodes.peers[1].id'],
    ['nobody who begins', nodes(`{ peers: [{ name: nva-2, id: "${ID}" }] }`), 'SLUICE_NODE_PEER nodes.peers[0]'],
    ['an announcement of no tunnel', nodes(`{ peers: [${PEER}], announce: { wg9: {} } }`), 'SLUICE_NODE_UNKNOWN nodes.announce.wg9'],
    ['an endpoint that nobody reaches', nodes(`{ peers: [${PEER}], announce: { wg0: { endpoint: "127.0.0.1:51820" } } }`), 'SLUICE_WIREGUARD_ENDPOINT nodes.announce.wg0.endpoint'],
    ['a listener without an address', nodes(`{ peers: [${PEER}], listen: "1.2.3:8444" }`), 'SLUICE_NODE_LISTEN nodes.listen'],
    ['rotation that never rests', nodes(`{ peers: [${PEER}], rotate: { every: 15m, overlap: 10m } }`), 'SLUICE_NODE_ROTATION nodes.rotate.every'],
    ['rotation that is too often', nodes(`{ peers: [${PEER}], rotate: { every: 1m, overlap: 1s } }`), 'SLUICE_NODE_ROTATION nodes.rotate.every'],
    ['an overlap of days', nodes(`{ peers: [${PEER}], rotate: { overlap: 3d } }`), 'SLUICE_NODE_ROTATION nodes.rotate.overlap'],
    ['an id that is none', nodes('{ peers: [{ name: nva-2, id: "ed25519:AAAA", url: "https://203.0.113.21" }] }'), 'SLUICE_CONFIG_VALUE nodes.peers[0].id'],
    ['a key beside a node', nodes(`{ peers: [${PEER}] }`).replace('node: nva-2', `node: nva-2, publicKey: "${STATIC_KEY}"`), 'SLUICE_WIREGUARD_KEY wireguard.wg0.peers[0].publicKey'],
    ['neither key nor node', nodes(`{ peers: [${PEER}] }`).replace('node: nva-2, ', ''), 'SLUICE_CONFIG_MISSING_KEY wireguard.wg0.peers[0]'],
  ])('%s is refused', (_name, yaml, expected) => {
    expect(refused(yaml)).toEqual([expected]);
  });

  test('the right one is taken', () => {
    expect(refused(nodes(`{ name: nva-1, listen: "203.0.113.4:8444", peers: [${PEER}], announce: { wg0: { endpoint: "203.0.113.4:51820", allowedIPs: [10.1.0.0/16] } }, rotate: { every: 24h, overlap: 10m } }`))).toEqual([]);
  });
});
