// Filters of sessions and records.
import { describe, expect, test } from 'vitest';
import { buildFilter, FilterError, type FilterQuery } from '../../src/control/filter.js';
import { decodeDrop, decodeFlow, viewOf, type Names } from '../../src/engine/records.js';
import { id, makeDrop, makeFlow } from './bench.js';

const names: Names = { rule: () => 'outbound', natRule: (id) => (id === 0 ? null : 'egress'), interfaceById: () => 'trust', interfaceAt: () => null, zone: () => null, zoneOfInterface: (one) => (one === 0 ? null : one === id('interface', 'trust') ? 'inside' : 'outside') };
const flow = decodeFlow(viewOf(makeFlow()), 0, names); // tcp 10.0.1.10:40000 → 198.51.100.7:443, as 203.0.113.4:50123
const drop = decodeDrop(viewOf(makeDrop({ natDestination: '10.0.1.99', natDstPort: 2323, natDestinationId: 7, toInterface: id('interface', 'trust') })), 0, names); // tcp 198.51.100.9:55555 → 203.0.113.4:23, to 10.0.1.99:2323

describe('filters', () => {
  test.each<[FilterQuery, boolean, boolean]>([
    [{}, true, true],
    [{ protocol: 'tcp' }, true, true],
    [{ protocol: '6' }, true, true],
    [{ protocol: 'UDP' }, false, false],
    [{ port: 443 }, true, false],
    [{ port: 50123 }, true, false],
    [{ port: 23 }, false, true],
    [{ source: '10.0.1.10' }, true, false],
    [{ source: '203.0.113.0/24' }, true, false],
    [{ source: '198.51.100.0/24' }, false, true],
    [{ source: '0.0.0.0/0' }, true, true],
    [{ source: '2001:db8::/32' }, false, false],
    [{ destination: '203.0.113.4' }, false, true],
    [{ destination: '10.0.1.99' }, false, true],
    [{ port: 2323 }, false, true],
    [{ rule: 'egress' }, true, true],
    [{ rule: 'nobody' }, false, false],
    [{ from: 'trust' }, true, true],
    [{ from: 'inside' }, true, false],
    [{ from: 'outside' }, false, true],
    [{ to: 'outside' }, true, false],
    [{ to: 'inside' }, false, true],
    [{ verdict: 'dropped' }, false, true],
    [{ reason: 'policy-deny' }, false, true],
    [{ state: 'established' }, true, false],
    [{ protocol: 'tcp', port: 443, source: '10.0.0.0/8' }, true, false],
    [{ protocol: 'tcp', port: 444 }, false, false],
  ])('%j', (query, passesFlow, passesDrop) => {
    const filter = buildFilter(query);
    expect([filter(flow), filter(drop)]).toEqual([passesFlow, passesDrop]);
  });

  test.each<[FilterQuery, string]>([
    [{ protocol: 'tpc' }, 'protocol'], [{ protocol: '256' }, 'protocol'], [{ source: '10.0.0.0/33' }, 'source'], [{ source: '10.0.0.1/8' }, 'source'], [{ destination: 'here' }, 'destination'],
  ])('%j cannot be', (query, member) => {
    expect(() => buildFilter(query)).toThrow(expect.objectContaining({ member }) as FilterError);
  });
});
