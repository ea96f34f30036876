// Filters of sessions, tested on the record as the engine gives it: a million are looked at, only what matches is put into words.
// Says the same as buildFilter of filter.ts about a decoded record. Who: session-pages.ts. Pure; what a name means is asked once an id.
import { SESSION_STATES, type FlowRecord } from '../engine/abi.generated.js';
import type { Names } from '../engine/records.js';
import { bytesOf, type Prefix } from '../lib/address.js';
import { prefixOf, protocolOf, type FilterQuery } from './filter.js';

export type SessionFilter = (record: FlowRecord) => boolean;

/** Throws FilterError. undefined: everything matches. */
export function buildSessionFilter(query: FilterQuery, names: Names): SessionFilter | undefined {
  const tests: SessionFilter[] = [];
  if (query.protocol !== undefined) {
    const number = protocolOf(query.protocol);
    tests.push((record) => record.protocol === number);
  }
  if (query.state !== undefined) {
    const state = SESSION_STATES.findIndex(({ name }) => name === query.state);
    tests.push((record) => record.state === state);
  }
  if (query.port !== undefined) {
    const port = query.port;
    tests.push((record) => record.srcPort === port || record.dstPort === port || record.natSrcPort === port || record.natDstPort === port);
  }
  if (query.rule !== undefined) {
    const isRule = remembered((id) => names.rule(id) === query.rule);
    const isNatRule = remembered((id) => names.natRule(id) === query.rule);
    tests.push((record) => isRule(record.ruleId) || isNatRule(record.natSourceId) || isNatRule(record.natDestinationId));
  }
  for (const [wanted, side] of [[query.from, 'fromInterface'], [query.to, 'toInterface']] as const) {
    if (wanted === undefined) continue;
    const isThere = remembered((id) => names.interfaceById(id) === wanted || names.zoneOfInterface(id) === wanted);
    tests.push((record) => isThere(record[side]));
  }
  for (const [member, own, translated] of [['source', 'src', 'natSrc'], ['destination', 'dst', 'natDst']] as const) {
    const text = query[member];
    if (text === undefined) continue;
    const isWithin = withinPrefix(prefixOf(text, member));
    tests.push((record) => isWithin(record[own]) || isWithin(record[translated]));
  }
  // Sessions are allowed, and have no reason of a drop.
  if (query.verdict === 'dropped' || query.reason !== undefined) tests.push(() => false);
  if (tests.length === 0) return undefined;
  return (record) => tests.every((test) => test(record));
}

function remembered(test: (id: number) => boolean): (id: number) => boolean {
  const known = new Map<number, boolean>();
  return (id) => {
    let answer = known.get(id);
    if (answer === undefined) known.set(id, answer = test(id));
    return answer;
  };
}

function withinPrefix({ address, length }: Prefix): (bytes: Uint8Array) => boolean {
  const wanted = bytesOf(address);
  const whole = length >> 3;
  const mask = (0xff00 >> (length & 7)) & 0xff;
  return (bytes) => {
    for (let index = 0; index < whole; index += 1) if (bytes[index] !== wanted[index]) return false;
    return mask === 0 || (bytes[whole]! & mask) === (wanted[whole]! & mask);
  };
}
