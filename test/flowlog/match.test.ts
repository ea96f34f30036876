// Criteria on the structs' bytes say what the filter on decoded records says.
import { describe, expect, test } from 'vitest';
import { DROP_RECORD_BYTES, FLOW_RECORD_BYTES } from '../../src/engine/abi.generated.js';
import { decodeDrop, decodeFlow, viewOf, type DropRecordView } from '../../src/engine/records.js';
import { buildFilter, type FilterQuery } from '../../src/control/filter.js';
import { compileEntryMatch, compileMatch, CriteriaError, type Criteria } from '../../src/flowlog/match.js';
import { NameTexts } from '../../src/flowlog/names.js';
import { names, nameTexts, randomDrops, randomFlows } from './support.js';

const flows = randomFlows(1500, 21);
const drops = randomDrops(1500, 22);

function matched(include: Criteria | undefined, exclude?: Criteria): { flows: boolean[]; drops: boolean[] } {
  const match = compileMatch(include, exclude);
  const texts = nameTexts();
  return {
    flows: Array.from({ length: 1500 }, (_, index) => match.flow(viewOf(flows), flows, index * FLOW_RECORD_BYTES, texts)),
    drops: Array.from({ length: 1500 }, (_, index) => match.drop(viewOf(drops), drops, index * DROP_RECORD_BYTES, texts)),
  };
}

const asCriteria = (query: FilterQuery): Criteria => Object.fromEntries(Object.entries(query).map(([member, value]) => [member, [value]])) as Criteria;

describe('one value a member: as the filter on decoded records', () => {
  test.each<[FilterQuery]>([
    [{}], [{ protocol: 'tcp' }], [{ protocol: '47' }], [{ source: '128.0.0.0/1' }], [{ destination: '0.0.0.0/2' }], [{ source: '8000::/1' }], [{ rule: 'outbound' }], [{ rule: 'nat-1' }],
    [{ from: 'inside' }], [{ from: 'trust' }], [{ to: 'outside' }], [{ to: 'untrust' }], [{ verdict: 'allowed' }], [{ verdict: 'dropped' }], [{ reason: 'policy-deny' }], [{ state: 'established' }], [{ protocol: 'udp', rule: 'published "quoted"', source: '0.0.0.0/0' }],
  ])('%j', (query) => {
    const filter = buildFilter(query);
    const { flows: ofFlows, drops: ofDrops } = matched(asCriteria(query));
    expect(ofFlows).toEqual(ofFlows.map((_, index) => filter(decodeFlow(viewOf(flows), index * FLOW_RECORD_BYTES, names))));
    expect(ofDrops).toEqual(ofDrops.map((_, index) => filter(decodeDrop(viewOf(drops), index * DROP_RECORD_BYTES, names))));
  });

  test('a port of either side, before and after translation', () => {
    const { srcPort, natSrcPort } = { srcPort: viewOf(flows).getUint16(120, true), natSrcPort: viewOf(flows).getUint16(FLOW_RECORD_BYTES + 124, true) };
    expect(matched({ port: [srcPort] }).flows[0]).toBe(true);
    expect(matched({ port: [natSrcPort] }).flows[1]).toBe(true);
    expect(matched({ port: [srcPort] }).flows.filter(Boolean).length).toBeLessThan(10);
  });
});

describe('lists, exclusion, names', () => {
  const decodedFlows = Array.from({ length: 1500 }, (_, index) => decodeFlow(viewOf(flows), index * FLOW_RECORD_BYTES, names));
  const decodedDrops = Array.from({ length: 1500 }, (_, index) => decodeDrop(viewOf(drops), index * DROP_RECORD_BYTES, names));

  test('of a list one must fit, of members all', () => {
    expect(matched({ protocol: ['tcp', 'udp'], rule: ['outbound', 'back\\slash'] }).flows).toEqual(decodedFlows.map(({ protocol, rule, natSource, natDestination }) =>
      ['tcp', 'udp'].includes(protocol) && [rule, natSource, natDestination].some((one) => one === 'outbound' || one === 'back\\slash')));
  });

  test('what is excluded does not pass, also when it is included', () => {
    expect(matched({ verdict: ['dropped'] }, { reason: ['policy-deny', 'no-route'] })).toEqual({ flows: decodedFlows.map(() => false), drops: decodedDrops.map(({ reason }) => reason !== 'policy-deny' && reason !== 'no-route') });
  });

  test('events of both kinds', () => {
    expect(matched({ event: ['end', 'denied'] })).toEqual({ flows: decodedFlows.map(({ event }) => event === 'end'), drops: decodedDrops.map(({ reason }) => reason === 'policy-deny' || reason === 'policy-reject') });
  });

  test('zones and interfaces, of either end', () => {
    expect(matched({ zone: ['dmz'] })).toEqual({ flows: decodedFlows.map(({ from, to }) => from.zone === 'dmz' || to.zone === 'dmz'), drops: decodedDrops.map(({ from, to }) => from.zone === 'dmz' || to?.zone === 'dmz') });
    expect(matched({ interface: ['trust'] })).toEqual({ flows: decodedFlows.map(({ from, to }) => from.interface === 'trust' || to.interface === 'trust'), drops: decodedDrops.map(({ from, to }) => from.interface === 'trust' || to?.interface === 'trust') });
  });

  test('from and to take addresses, too', () => {
    expect(matched({ from: ['128.0.0.0/1'] })).toEqual(matched({ source: ['128.0.0.0/1'] }));
    expect(matched({ to: ['128.0.0.0/1'] })).toEqual(matched({ destination: ['128.0.0.0/1'] }));
  });

  /** As it came, and as it would have left. */
  const sourcesOf = ({ source, translated }: DropRecordView): string[] => [source, ...(translated ? [translated.source] : [])];
  test('::/0 is every IPv6 address and no IPv4 one', () => {
    expect(matched({ source: ['::/0'] }).drops).toEqual(decodedDrops.map((drop) => sourcesOf(drop).some((source) => source.includes(':'))));
    expect(matched({ source: ['0.0.0.0/0'] }).drops).toEqual(decodedDrops.map((drop) => sourcesOf(drop).some((source) => !source.includes(':'))));
  });

  test('a new configuration gives ids new meanings', () => {
    const match = compileMatch({ rule: ['outbound'] }, undefined);
    const at = decodedFlows.findIndex(({ rule, natSource, natDestination }) => rule === 'outbound' && natSource === null && natDestination === null) * FLOW_RECORD_BYTES;
    expect(match.flow(viewOf(flows), flows, at, nameTexts())).toBe(true);
    expect(match.flow(viewOf(flows), flows, at, new NameTexts({ ...names, rule: () => 'another' }))).toBe(false);
  });

  test.each<[Criteria, string, number]>([
    [{ protocol: ['tcp', 'tpc'] }, 'protocol', 1], [{ source: ['10.0.0.1/8'] }, 'source', 0], [{ verdict: ['maybe'] }, 'verdict', 0], [{ reason: ['mood'] }, 'reason', 0], [{ event: ['party'] }, 'event', 0],
  ])('%j cannot be', (criteria, member, index) => {
    expect(() => compileMatch(criteria, undefined)).toThrow(expect.objectContaining({ member, index }) as CriteriaError);
  });
});

test('entries of audit and system', () => {
  const match = compileEntryMatch({ by: ['alice', 'bob'] }, { method: ['GET'] });
  expect([{ by: { name: 'alice', via: 'token' }, method: 'PUT' }, { by: { name: 'alice', via: 'token' }, method: 'GET' }, { by: 'bob' }, { by: { name: 'eve' } }, {}].map(match)).toEqual([true, false, true, false, false]);
  expect(compileEntryMatch({ status: ['409'] }, undefined)({ status: 409 })).toBe(true);
  expect(() => compileEntryMatch({ level: ['loud'] }, undefined)).toThrow(CriteriaError);
});
