// Which records a stream, a metric or a live observer wants: criteria compiled into tests on the structs' bytes, so that what nobody wants
// costs no decoding. Who: stream.ts, observers.ts, src/metrics/flow-metrics.ts; check-observability.ts for what cannot be.
// All members of criteria must fit, of a member's list one. Addresses and ports match as the originator sent them or as translated.
// Thread: any; a match belongs to one user, for it remembers what names meant (a bit an id, until a configuration changes them).
import { DROP_REASONS, SESSION_STATES } from '../engine/abi.generated.js';
import { protocolNumber } from '../engine/records.js';
import { AddressError, bytesOf, parsePrefix, prefixFamily, type Prefix } from '../lib/address.js';
import { Drop, dropEvent, Flow, RECORD_EVENTS } from './layout.js';
import type { NameTexts } from './names.js';
import { isMapped } from './output.js';

export interface Criteria {
  event?: readonly string[]; verdict?: readonly string[]; reason?: readonly string[]; state?: readonly string[]; rule?: readonly string[]; protocol?: readonly string[];
  source?: readonly string[]; destination?: readonly string[]; port?: readonly number[];
  zone?: readonly string[]; interface?: readonly string[]; from?: readonly string[]; to?: readonly string[];
  by?: readonly string[]; method?: readonly string[]; resource?: readonly string[]; status?: readonly string[]; code?: readonly string[];
  level?: readonly string[]; process?: readonly string[];
}
export type CriteriaMember = keyof Criteria;

export const RECORD_MEMBERS: readonly CriteriaMember[] = ['event', 'verdict', 'reason', 'rule', 'protocol', 'source', 'destination', 'port', 'zone', 'interface', 'from', 'to'];
export const AUDIT_MEMBERS: readonly CriteriaMember[] = ['event', 'by', 'method', 'resource', 'status', 'code'];
export const SYSTEM_MEMBERS: readonly CriteriaMember[] = ['level', 'process'];
export const VERDICTS = ['allowed', 'dropped'] as const;
export const LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal'] as const;

/** Criteria that cannot be: which value, and what would be right. `choices` when there is a list. */
export class CriteriaError extends Error {
  constructor(readonly member: CriteriaMember, readonly index: number, message: string, readonly remedy: string, readonly choices?: readonly string[]) { super(message); }
}

type Test = (view: DataView, bytes: Uint8Array, offset: number, names: NameTexts) => boolean;
const NEVER: Test = () => false;
const ALWAYS: Test = () => true;

export interface RecordMatch { flow: Test; drop: Test }

export const EVERYTHING: RecordMatch = { flow: ALWAYS, drop: ALWAYS };

/** Passes what fits `include` (all, when left out) and does not fit `exclude`. Throws CriteriaError. */
export function compileMatch(include: Criteria | undefined, exclude: Criteria | undefined): RecordMatch {
  const wanted = include && compileCriteria(include);
  const unwanted = exclude && compileCriteria(exclude);
  if (!unwanted) return wanted ?? EVERYTHING;
  const join = (yes: Test | undefined, no: Test): Test => (view, bytes, offset, names) => (yes === undefined || yes(view, bytes, offset, names)) && !no(view, bytes, offset, names);
  return { flow: join(wanted?.flow, unwanted.flow), drop: join(wanted?.drop, unwanted.drop) };
}

function compileCriteria(criteria: Criteria): RecordMatch {
  const flow: Test[] = [];
  const drop: Test[] = [];
  const add = (ofFlow: Test, ofDrop: Test): void => {
    flow.push(ofFlow);
    drop.push(ofDrop);
  };
  if (criteria.event) {
    const set = indexes('event', criteria.event, RECORD_EVENTS);
    add((_view, bytes, offset) => set[bytes[offset + Flow.EVENT]!] === 1, (_view, bytes, offset) => set[dropEvent(bytes[offset + Drop.REASON]!)] === 1);
  }
  if (criteria.verdict) {
    const set = indexes('verdict', criteria.verdict, VERDICTS);
    add(set[0] ? ALWAYS : NEVER, set[1] ? ALWAYS : NEVER);
  }
  if (criteria.reason) {
    const set = indexes('reason', criteria.reason, DROP_REASONS.map(({ name }) => name));
    add(NEVER, (_view, bytes, offset) => set[bytes[offset + Drop.REASON]!] === 1);
  }
  if (criteria.state) {
    const set = indexes('state', criteria.state, SESSION_STATES.map(({ name }) => name));
    add((_view, bytes, offset) => set[bytes[offset + Flow.STATE]!] === 1, NEVER);
  }
  if (criteria.protocol) {
    const set = new Uint8Array(256);
    criteria.protocol.forEach((text, index) => {
      const number = protocolNumber(text);
      if (number === undefined) throw new CriteriaError('protocol', index, `'${text}' is no protocol`, 'write tcp, udp, icmp, icmpv6 or a number from 0 to 255');
      set[number] = 1;
    });
    add((_view, bytes, offset) => set[bytes[offset + Flow.PROTOCOL]!] === 1, (_view, bytes, offset) => set[bytes[offset + Drop.PROTOCOL]!] === 1);
  }
  if (criteria.port) {
    const ports = new Set(criteria.port);
    add(
      (view, _bytes, offset) => ports.has(view.getUint16(offset + Flow.SOURCE_PORT, true)) || ports.has(view.getUint16(offset + Flow.DESTINATION_PORT, true))
        || ports.has(view.getUint16(offset + Flow.NAT_SOURCE_PORT, true)) || ports.has(view.getUint16(offset + Flow.NAT_DESTINATION_PORT, true)),
      (view, _bytes, offset) => ports.has(view.getUint16(offset + Drop.SOURCE_PORT, true)) || ports.has(view.getUint16(offset + Drop.DESTINATION_PORT, true))
        || ports.has(view.getUint16(offset + Drop.NAT_SOURCE_PORT, true)) || ports.has(view.getUint16(offset + Drop.NAT_DESTINATION_PORT, true)),
    );
  }
  if (criteria.source) {
    const matches = prefixes('source', criteria.source);
    add((view, _bytes, offset) => matches(view, offset + Flow.SOURCE) || matches(view, offset + Flow.NAT_SOURCE), (view, _bytes, offset) => matches(view, offset + Drop.SOURCE) || matches(view, offset + Drop.NAT_SOURCE));
  }
  if (criteria.destination) {
    const matches = prefixes('destination', criteria.destination);
    add((view, _bytes, offset) => matches(view, offset + Flow.DESTINATION) || matches(view, offset + Flow.NAT_DESTINATION), (view, _bytes, offset) => matches(view, offset + Drop.DESTINATION) || matches(view, offset + Drop.NAT_DESTINATION));
  }
  if (criteria.rule) {
    const rule = nameTest(criteria.rule, (names, id) => names.names.rule(id));
    const natRule = nameTest(criteria.rule, (names, id) => names.names.natRule(id));
    const test = ({ RULE, NAT_SOURCE_RULE, NAT_DESTINATION_RULE }: typeof Flow | typeof Drop): Test => (view, _bytes, offset, names) =>
      rule(names, view.getUint32(offset + RULE, true)) || natRule(names, view.getUint32(offset + NAT_SOURCE_RULE, true)) || natRule(names, view.getUint32(offset + NAT_DESTINATION_RULE, true));
    add(test(Flow), test(Drop));
  }
  const interfaceOf = (names: NameTexts, id: number): string | null => names.names.interfaceById(id);
  const zoneOf = (names: NameTexts, id: number): string | null => names.names.zoneOfInterface(id);
  for (const [member, nameOf] of [['zone', zoneOf], ['interface', interfaceOf]] as const) {
    const wanted = criteria[member];
    if (!wanted) continue;
    const named = nameTest(wanted, nameOf);
    const test = (from: number, to: number): Test => (view, _bytes, offset, names) => named(names, view.getUint32(offset + from, true)) || named(names, view.getUint32(offset + to, true));
    add(test(Flow.FROM_INTERFACE, Flow.TO_INTERFACE), test(Drop.INTERFACE, Drop.TO_INTERFACE));
  }
  for (const member of ['from', 'to'] as const) {
    const wanted = criteria[member];
    if (!wanted) continue;
    // An interface, a zone, or where it comes from, or goes to, as an address.
    const named = nameTest(wanted, interfaceOf);
    const zone = nameTest(wanted, zoneOf);
    const matches = somePrefixes(wanted);
    const test = (place: number, address: number, translated: number): Test => (view, _bytes, offset, names) =>
      named(names, view.getUint32(offset + place, true)) || zone(names, view.getUint32(offset + place, true)) || matches(view, offset + address) || matches(view, offset + translated);
    if (member === 'from') add(test(Flow.FROM_INTERFACE, Flow.SOURCE, Flow.NAT_SOURCE), test(Drop.INTERFACE, Drop.SOURCE, Drop.NAT_SOURCE));
    else add(test(Flow.TO_INTERFACE, Flow.DESTINATION, Flow.NAT_DESTINATION), test(Drop.TO_INTERFACE, Drop.DESTINATION, Drop.NAT_DESTINATION));
  }
  return { flow: all(flow), drop: all(drop) };
}

function all(tests: readonly Test[]): Test {
  const [first, second] = tests;
  if (!first) return ALWAYS;
  if (!second) return first;
  return (view, bytes, offset, names) => {
    for (const test of tests) if (!test(view, bytes, offset, names)) return false;
    return true;
  };
}

function indexes(member: CriteriaMember, wanted: readonly string[], list: readonly string[]): Uint8Array {
  const set = new Uint8Array(256);
  wanted.forEach((name, index) => {
    const value = list.indexOf(name);
    if (value < 0) throw new CriteriaError(member, index, `'${name}' is no ${member}`, `write one of ${list.slice(0, 12).join(', ')}`, list);
    set[value] = 1;
  });
  return set;
}

/** Remembers its answer an id, until names change. */
function nameTest(wanted: readonly string[], nameOf: (names: NameTexts, id: number) => string | null): (names: NameTexts, id: number) => boolean {
  const set = new Set(wanted);
  let known: NameTexts | undefined;
  const answers = new Map<number, boolean>();
  return (names, id) => {
    if (names !== known) {
      known = names;
      answers.clear();
    }
    let answer = answers.get(id);
    if (answer === undefined) {
      const name = nameOf(names, id);
      answer = name !== null && set.has(name);
      answers.set(id, answer);
    }
    return answer;
  };
}

type AddressTest = (view: DataView, offset: number) => boolean;

function prefixes(member: 'source' | 'destination', texts: readonly string[]): AddressTest {
  return addressTest(texts.map((text, index) => {
    try {
      return parsePrefix(text);
    } catch (error) {
      if (!(error instanceof AddressError)) throw error;
      throw new CriteriaError(member, index, error.message, error.remedy);
    }
  }));
}

/** Those texts that are prefixes; the others are names. */
function somePrefixes(texts: readonly string[]): AddressTest {
  return addressTest(texts.flatMap((text) => {
    try {
      return [parsePrefix(text)];
    } catch (error) {
      if (!(error instanceof AddressError)) throw error;
      return [];
    }
  }));
}

/** An IPv6 prefix never matches IPv4, although ::/0 reaches around the mapped form. */
function addressTest(list: readonly Prefix[]): AddressTest {
  if (list.length === 0) return () => false;
  const compiled = list.map((prefix) => {
    const words = new DataView(bytesOf(prefix.address).buffer);
    return {
      isIpv6: prefixFamily(prefix) === 'ipv6',
      words: Array.from({ length: 4 }, (_, word) => words.getUint32(word * 4)),
      masks: Array.from({ length: 4 }, (_, word) => {
        const bits = Math.min(32, Math.max(0, prefix.length - word * 32));
        return bits === 0 ? 0 : (0xffffffff << (32 - bits)) >>> 0;
      }),
    };
  });
  return (view, offset) => {
    for (const { isIpv6, words, masks } of compiled) {
      if (((view.getUint32(offset + 12) & masks[3]!) >>> 0) === words[3]! && ((view.getUint32(offset + 8) & masks[2]!) >>> 0) === words[2]!
        && ((view.getUint32(offset + 4) & masks[1]!) >>> 0) === words[1]! && ((view.getUint32(offset) & masks[0]!) >>> 0) === words[0]!
        && !(isIpv6 && isMapped(view, offset))) return true;
    }
    return false;
  };
}

// ---- entries of the audit and system streams --------------------------------------------------------------------------

export type EntryMatch = (entry: Readonly<Record<string, unknown>>) => boolean;

export function compileEntryMatch(include: Criteria | undefined, exclude: Criteria | undefined): EntryMatch {
  const wanted = include && entryTest(include);
  const unwanted = exclude && entryTest(exclude);
  return (entry) => (wanted === undefined || wanted(entry)) && !(unwanted?.(entry) ?? false);
}

function entryTest(criteria: Criteria): EntryMatch {
  if (criteria.level) indexes('level', criteria.level, LEVELS);
  const tests = [...AUDIT_MEMBERS, ...SYSTEM_MEMBERS].flatMap((member): EntryMatch[] => {
    const wanted = criteria[member] as readonly string[] | undefined;
    return wanted ? [(entry) => wanted.includes(textOf(entry[member]))] : [];
  });
  return (entry) => tests.every((test) => test(entry));
}

/** `by` is an author: its name counts. */
function textOf(value: unknown): string {
  if (typeof value === 'object' && value !== null && 'name' in value) return String(value.name);
  return String(value);
}
