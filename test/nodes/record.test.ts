// Node records: what is taken is what a node signed, in its order, for as long as it says.
import { sign } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import { openRecord, RECORD_BYTES_MAX, signRecord, type NodeRecord, type SignedRecord } from '../../src/nodes/record.js';
import { makeAnnouncement, makeIdentity, makeKey, makeRecord, NOW } from './support.js';

/** As somebody would sign who has the key and does not keep to the form. */
async function forge(change: (record: Record<string, unknown>) => unknown): Promise<() => NodeRecord> {
  const { id, privateKey } = await makeIdentity();
  const changed = change(JSON.parse(JSON.stringify(makeRecord(id))) as Record<string, unknown>);
  const record = typeof changed === 'string' ? changed : JSON.stringify(changed);
  const signature = sign(null, Buffer.from(`sluice node record 1\n${record}`), privateKey).toString('base64');
  return () => openRecord({ record, signature }, id, NOW);
}

describe('a node record', () => {
  test('comes back as it was signed', async () => {
    const { id, privateKey } = await makeIdentity();
    const record = makeRecord(id, { wireguard: [makeAnnouncement({ nextPublicKey: makeKey() }), makeAnnouncement({ interface: 'wg1', endpoint: '[2001:db8::20]:51821', allowedIPs: ['::/0'] })] });
    expect(openRecord(signRecord(record, privateKey), id, NOW)).toEqual(record);
  });

  test('is refused when any byte of it was changed', async () => {
    const { id, privateKey } = await makeIdentity();
    const whole = Buffer.from(JSON.stringify(signRecord(makeRecord(id), privateKey)));
    expect(openRecord(JSON.parse(whole.toString()), id, NOW).sequence).toBe(7);
    let refused = 0;
    for (let at = 0; at < whole.length; at += 1) {
      for (const bit of [0x01, 0x20, 0x80]) {
        const changed = Buffer.from(whole);
        changed[at]! ^= bit;
        let value: unknown;
        try {
          value = JSON.parse(changed.toString('utf8'));
        } catch {
          refused += 1;
          continue;
        }
        expect(() => openRecord(value, id, NOW), `byte ${at}, bit ${bit}: ${changed.toString('latin1')}`).toThrow();
        refused += 1;
      }
    }
    expect(refused).toBe(whole.length * 3);
  });

  test('of another node is refused, also when that one signed it', async () => {
    const [one, other] = [await makeIdentity(), await makeIdentity()];
    expect(() => openRecord(signRecord(makeRecord(one.id), one.privateKey), other.id, NOW)).toThrow(/signature/);
    expect(() => openRecord(signRecord(makeRecord(other.id), one.privateKey), other.id, NOW)).toThrow(/signature/);
    expect(() => openRecord(signRecord(makeRecord(other.id), one.privateKey), one.id, NOW)).toThrow(/of node/);
  });

  test('of a lower sequence is refused; of the same one it must be the same', async () => {
    const { id, privateKey } = await makeIdentity();
    const record = makeRecord(id);
    const signed = signRecord(record, privateKey);
    const former = { sequence: 7, record: signed.record };
    expect(openRecord(signed, id, NOW, { former }).sequence).toBe(7);
    expect(() => openRecord(signRecord({ ...record, sequence: 6 }, privateKey), id, NOW, { former })).toThrow(/lower/);
    expect(() => openRecord(signRecord({ ...record, name: 'other' }, privateKey), id, NOW, { former })).toThrow(/other content/);
    expect(openRecord(signRecord({ ...record, sequence: 8 }, privateKey), id, NOW, { former }).sequence).toBe(8);
  });

  test('ends', async () => {
    const { id, privateKey } = await makeIdentity();
    const record = makeRecord(id);
    const signed = signRecord(record, privateKey);
    const end = Date.parse(record.expiresAt);
    expect(openRecord(signed, id, end - 1).sequence).toBe(7);
    expect(() => openRecord(signed, id, end)).toThrow(/expired/);
    const eternal = signRecord({ ...record, expiresAt: '2999-01-01T00:00:00.000Z' }, privateKey);
    expect(() => openRecord(eternal, id, NOW)).toThrow(/lifetime/);
  });

  test('of a clock that is far ahead is refused; what was taken before is not', async () => {
    const { id, privateKey } = await makeIdentity();
    const signed = signRecord(makeRecord(id), privateKey);
    expect(() => openRecord(signed, id, NOW - 3_600_000)).toThrow(/yet to come/);
    expect(openRecord(signed, id, NOW - 3_600_000, { kept: true }).sequence).toBe(7);
    expect(openRecord(signed, id, NOW - 60_000).sequence).toBe(7);
  });

  test('is bounded', async () => {
    const { id, privateKey } = await makeIdentity();
    const prefixes = Array.from({ length: 1024 }, (_, index) => `2001:db8:${index.toString(16)}::/64`);
    const record = makeRecord(id, { wireguard: ['wg0', 'wg1', 'wg2'].map((name) => makeAnnouncement({ interface: name, allowedIPs: prefixes })) });
    expect(() => signRecord(record, privateKey)).toThrow(/announce fewer/);
  });

  const forged: [string, (record: Record<string, unknown>) => unknown][] = [
    ['larger than taken', (record) => ({ ...record, name: 'x'.repeat(RECORD_BYTES_MAX) })],
    ['with an unknown member', (record) => ({ ...record, more: 1 })],
    ['without a member', ({ name: _, ...record }) => record],
    ['in another order', ({ version, ...record }) => ({ ...record, version })],
    ['with white space', (record) => JSON.stringify(record, null, 1)],
    ['with a member twice', (record) => JSON.stringify(record).replace('{', '{"version":1,')],
    ['of another version', (record) => ({ ...record, version: 2 })],
    ['that is no object', () => '[]'],
    ['that is no JSON', () => '{'],
    ['with an interface twice', (record) => ({ ...record, wireguard: [makeAnnouncement(), makeAnnouncement()] })],
    ['with one key twice', (record) => { const publicKey = makeKey(); return { ...record, wireguard: [makeAnnouncement({ publicKey, nextPublicKey: publicKey })] }; }],
    ['with a key of zeros', (record) => ({ ...record, wireguard: [makeAnnouncement({ publicKey: `${'A'.repeat(43)}=` })] })],
    ['with a key in a form of its own', (record) => ({ ...record, wireguard: [makeAnnouncement({ publicKey: `${'A'.repeat(42)}B=` })] })],
    ['with a host name as endpoint', (record) => ({ ...record, wireguard: [makeAnnouncement({ endpoint: 'internal.example.net:53' })] })],
    ['with a multicast endpoint', (record) => ({ ...record, wireguard: [makeAnnouncement({ endpoint: '224.0.0.1:53' })] })],
    ['with a loopback endpoint', (record) => ({ ...record, wireguard: [makeAnnouncement({ endpoint: '[::1]:53' })] })],
    ['with port 0', (record) => ({ ...record, wireguard: [makeAnnouncement({ endpoint: '203.0.113.1:0' })] })],
    ['with host bits', (record) => ({ ...record, wireguard: [makeAnnouncement({ allowedIPs: ['10.0.0.1/8'] })] })],
    ['with a prefix that has another spelling', (record) => ({ ...record, wireguard: [makeAnnouncement({ allowedIPs: ['2001:DB8::/32'] })] })],
    ['with a prefix without a length', (record) => ({ ...record, wireguard: [makeAnnouncement({ allowedIPs: ['10.0.0.1'] })] })],
    ['with a name that plays with a terminal', (record) => ({ ...record, name: '\u001b[2J' })],
    ['with a date that is none', (record) => ({ ...record, issuedAt: '2026-13-41T20:00:00.000Z' })],
    ['with a sequence beyond numbers', (record) => JSON.stringify(record).replace('"sequence":7', '"sequence":99999999999999999999')],
  ];
  test('unchanged, the forger\'s would be taken', async () => {
    const open = await forge((record) => record);
    expect(open().sequence).toBe(7);
  });

  test.each(forged)('%s is refused, whoever signed it', async (_name, change) => {
    const open = await forge(change);
    expect(open).toThrow();
  });

  test('anything else is refused', async () => {
    const { id, privateKey } = await makeIdentity();
    const signed = signRecord(makeRecord(id), privateKey);
    const others: unknown[] = [null, undefined, 1, 'x', [], {}, { ...signed, more: 1 }, { record: signed.record }, { ...signed, signature: 'AAAA' }, { record: 1, signature: signed.signature } as unknown as SignedRecord];
    for (const value of others) expect(() => openRecord(value, id, NOW)).toThrow();
    expect(() => openRecord(signed, 'ed25519:short', NOW)).toThrow(/id/);
  });
});
