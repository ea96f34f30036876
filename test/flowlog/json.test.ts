// Lines written from the structs' bytes say what the decoder says; what is to be redacted is nowhere in them.
import { describe, expect, test } from 'vitest';
import { DROP_RECORD_BYTES, FLOW_RECORD_BYTES } from '../../src/engine/abi.generated.js';
import { decodeDrop, decodeFlow, viewOf, type Names } from '../../src/engine/records.js';
import { FIELD_NAMES, fieldName, knowField, planFields } from '../../src/flowlog/fields.js';
import { JsonFormat } from '../../src/flowlog/json.js';
import { NameTexts } from '../../src/flowlog/names.js';
import { asciiJson, Output } from '../../src/flowlog/output.js';
import { makeDrop, makeFlow } from '../control/bench.js';
import { names, nameTexts, randomDrops, randomFlows } from './support.js';

const RECORDS = 2000;

function lines(bytes: Uint8Array, recordBytes: number, kind: 'flow' | 'session' | 'drop', plan = planFields(), texts = nameTexts()): string[] {
  const out = new Output(64);
  const format = new JsonFormat(out, plan);
  return Array.from({ length: bytes.length / recordBytes }, (_, index) => {
    format[kind](viewOf(bytes), bytes, index * recordBytes, texts);
    return out.take().toString('latin1');
  });
}

describe('lines', () => {
  test('of flows: as the decoder reads them, whatever they hold', () => {
    const bytes = randomFlows(RECORDS, 7);
    lines(bytes, FLOW_RECORD_BYTES, 'flow').forEach((line, index) => {
      const { last: _last, expiresSeconds: _expires, ...expected } = decodeFlow(viewOf(bytes), index * FLOW_RECORD_BYTES, names);
      expect(line).toMatch(/^[\x20-\x7e]+$/);
      expect(JSON.parse(line)).toEqual(expected);
    });
  });

  test('of sessions: all that the decoder reads', () => {
    const bytes = randomFlows(RECORDS, 10);
    lines(bytes, FLOW_RECORD_BYTES, 'session').forEach((line, index) => expect(JSON.parse(line)).toEqual(decodeFlow(viewOf(bytes), index * FLOW_RECORD_BYTES, names)));
  });

  test('of drops', () => {
    const bytes = randomDrops(RECORDS, 8);
    lines(bytes, DROP_RECORD_BYTES, 'drop').forEach((line, index) => {
      const { help: _help, ...expected } = decodeDrop(viewOf(bytes), index * DROP_RECORD_BYTES, names);
      expect(JSON.parse(line)).toEqual(expected);
    });
  });

  test('of tunnels: with the peer behind which the address is; other interfaces have none', () => {
    const withTunnel: Names = { ...names, peerOf: (id, bytes) => (id !== 3 ? undefined : bytes[15]! % 3 === 0 ? null : `peer-ü-${bytes[15]! % 3}`) };
    const flows = randomFlows(RECORDS, 11);
    const drops = randomDrops(RECORDS, 12);
    let peers = 0;
    lines(flows, FLOW_RECORD_BYTES, 'flow', planFields(), new NameTexts(withTunnel)).forEach((line, index) => {
      const { last: _last, expiresSeconds: _expires, ...expected } = decodeFlow(viewOf(flows), index * FLOW_RECORD_BYTES, withTunnel);
      expect(JSON.parse(line)).toEqual(expected);
      expect('peer' in expected.from).toBe(expected.from.interface === 'dmz-ü');
      if (expected.to.peer) peers += 1;
    });
    expect(peers).toBeGreaterThan(RECORDS / 10);
    lines(drops, DROP_RECORD_BYTES, 'drop', planFields(), new NameTexts(withTunnel)).forEach((line, index) => {
      const { help: _help, ...expected } = decodeDrop(viewOf(drops), index * DROP_RECORD_BYTES, withTunnel);
      expect(JSON.parse(line)).toEqual(expected);
    });
    for (const plan of [planFields(['peer']), planFields([], ['peer'])]) {
      expect(lines(flows, FLOW_RECORD_BYTES, 'flow', plan, new NameTexts(withTunnel)).join()).not.toContain('peer-');
    }
  });

  test('piece by piece and as a whole they are the same', () => {
    const bytes = randomFlows(RECORDS, 9);
    // A plan that redacts nothing that flows have goes the long way.
    const long = planFields([], ['reason']);
    expect(lines(bytes, FLOW_RECORD_BYTES, 'flow', long)).toEqual(lines(bytes, FLOW_RECORD_BYTES, 'flow'));
  });

  test('times at the edges of milliseconds and of 64 bits', () => {
    for (const startNs of [0n, 999_999n, 1_000_000n, 1_763_742_084_122_999_999n, 1_763_742_084_123_000_000n, (1n << 32n) - 1n, 1n << 32n, (1n << 64n) - 1n]) {
      const bytes = makeFlow({ startNs, lastNs: startNs });
      expect(JSON.parse(lines(bytes, FLOW_RECORD_BYTES, 'flow')[0]!)).toMatchObject({ start: new Date(Number(startNs / 1_000_000n)).toISOString() });
    }
  });

  test('a large batch is written whole, over the growth of the buffer', () => {
    const bytes = randomFlows(3000, 3);
    const out = new Output(128);
    const format = new JsonFormat(out);
    const texts = nameTexts();
    for (let offset = 0; offset < bytes.length; offset += FLOW_RECORD_BYTES) {
      format.flow(viewOf(bytes), bytes, offset, texts);
      out.byte(10);
    }
    expect(out.take().toString().trimEnd().split('\n').map((line) => JSON.parse(line) as unknown)).toHaveLength(3000);
  });
});

describe('redaction', () => {
  // Values that stand nowhere else in a line.
  const flow = makeFlow({
    source: '11.22.33.44', destination: '55.66.77.88', natSource: '99.111.122.133', srcPort: 12_321, dstPort: 23_432, natSrcPort: 34_543, natDstPort: 45_654,
    sessionId: 777_888_999n, packets: [314_159n, 271_828n], bytes: [161_803n, 141_421n], ruleId: 1, natSourceId: 1, natDestinationId: 1, fromInterface: 1, toInterface: 2, fromZone: 0, toZone: 2, endReason: 2, event: 2,
    startNs: 1_500_000_000_123_000_000n, lastNs: 1_600_000_000_456_000_000n,
  });
  const SECRETS: Record<string, string[]> = {
    source: ['11.22.33.44', '99.111.122.133'], destination: ['55.66.77.88'], sourcePort: ['12321', '34543'], destinationPort: ['23432', '45654'], sessionId: ['777888999'],
    translated: ['99.111.122.133', '34543', '45654'], rule: ['outbound'], from: ['"trust"', 'outside'], to: ['untrust', 'dmz'], interface: ['trust'], zone: ['outside', 'dmz'],
    packets: ['314159', '271828'], bytes: ['161803', '141421'], start: ['2017-07-14'], time: ['2020-09-13'], tcpFlags: ['"SA"'], endReason: ['tcp-fin'], protocol: ['"tcp"'], natSource: ['"natSource":"nat-1"'],
    durationMs: ['100000000333'], state: ['established'], event: ['"end"'], verdict: ['allowed'],
  };

  test.each(Object.entries(SECRETS))('%s is gone, dropped or redacted, however it is written', (field, secrets) => {
    const whole = lines(flow, FLOW_RECORD_BYTES, 'flow')[0]!;
    const kebab = field.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
    for (const secret of secrets) expect(whole).toContain(secret);
    for (const plan of [planFields([field]), planFields([], [field]), planFields([kebab]), planFields([], [kebab])]) {
      const line = lines(flow, FLOW_RECORD_BYTES, 'flow', plan)[0]!;
      expect(() => JSON.parse(line) as unknown).not.toThrow();
      for (const secret of secrets) expect(line).not.toContain(secret);
    }
  });

  test('of a dropped packet: whoever is hidden is not what it would have become, either', () => {
    // An answer: who asked is its destination, and, translated, an inside address.
    const answer = makeDrop({ source: '198.51.100.9', destination: '203.0.113.5', natDestination: '11.22.33.44', srcPort: 443, dstPort: 50_123, natSrcPort: 443, natDstPort: 12_321, toInterface: 1, natSourceId: 1, tcpFlags: 0x14 });
    const whole = lines(answer, DROP_RECORD_BYTES, 'drop')[0]!;
    for (const value of ['11.22.33.44', '12321', '"RA"', '"trust"', '"nat-1"']) expect(whole).toContain(value);
    const secrets: Record<string, string[]> = { source: ['11.22.33.44', '198.51.100.9'], destination: ['11.22.33.44', '203.0.113.5'], sourcePort: ['12321', '443'], destinationPort: ['12321', '50123'], translated: ['11.22.33.44', '12321'], tcpFlags: ['"RA"'], to: ['"trust"'], natSource: ['nat-1'] };
    for (const [field, values] of Object.entries(secrets)) {
      for (const plan of [planFields([field]), planFields([], [field])]) {
        const line = lines(answer, DROP_RECORD_BYTES, 'drop', plan)[0]!;
        expect(() => JSON.parse(line) as unknown).not.toThrow();
        for (const value of values) expect([field, line.includes(value)]).toEqual([field, false]);
      }
    }
  });

  test('the time of a session\'s start is its start', () => {
    const started = makeFlow({ startNs: 1_500_000_000_123_000_000n, lastNs: 1_500_000_000_123_000_000n });
    for (const plan of [planFields(['time']), planFields([], ['time'])]) expect(lines(started, FLOW_RECORD_BYTES, 'flow', plan)[0]).not.toContain('2017-07-14');
  });

  test('redacted members are null, dropped ones are absent; both at once is dropped', () => {
    const drop = makeDrop({ source: '11.22.33.44' });
    const parse = (plan = planFields()): Record<string, unknown> => JSON.parse(lines(drop, DROP_RECORD_BYTES, 'drop', plan)[0]!) as Record<string, unknown>;
    expect(parse(planFields([], ['source', 'from']))).toMatchObject({ source: null, from: { interface: null, zone: null }, destination: '203.0.113.4' });
    expect(parse(planFields(['source', 'from']))).not.toHaveProperty('source');
    expect(parse(planFields(['source', 'from']))).not.toHaveProperty('from');
    expect(parse(planFields(['source'], ['source']))).not.toHaveProperty('source');
  });

  test('every field there is can be dropped: nothing but the kind is left', () => {
    expect(lines(flow, FLOW_RECORD_BYTES, 'flow', planFields(FIELD_NAMES))).toEqual(['{"kind":"flow"}']);
    expect(lines(makeDrop(), DROP_RECORD_BYTES, 'drop', planFields(FIELD_NAMES))).toEqual(['{"kind":"drop"}']);
  });

  test('entries lose members at any depth', () => {
    const out = new Output();
    const entry = { kind: 'audit', by: { name: 'alice', address: '11.22.33.44' }, detail: { list: [{ address: '55.66.77.88', note: 'kept' }], 'user-agent': 'curl/8' } };
    new JsonFormat(out, planFields(['user_agent'], ['address'])).entry(entry);
    expect(JSON.parse(out.take().toString())).toEqual({ kind: 'audit', by: { name: 'alice', address: null }, detail: { list: [{ address: null, note: 'kept' }] } });
  });

  test('names of fields', () => {
    expect(fieldName('user-agent')).toBe('userAgent');
    expect(fieldName('translated.source')).toBe('translatedSource');
    expect([knowField('flow', 'source-port'), knowField('flow', 'user-agent'), knowField('flow', 'sauce'), knowField('audit', 'anything'), knowField('audit', 'time')]).toEqual(['known', 'later', 'unknown', 'known', 'unknown']);
  });
});

test('JSON with nothing but ASCII', () => {
  expect(asciiJson({ name: 'ü€😀\u007f' })).toBe('{"name":"\\u00fc\\u20ac\\ud83d\\ude00\\u007f"}');
  expect(asciiJson(undefined)).toBe('null');
});
