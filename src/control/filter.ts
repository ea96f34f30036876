// Filters of decoded records, as the API's query and the CLI's options give them. Who: src/api/routes/records.ts; session-filter.ts and captures read
// protocols and prefixes the same way. Pure.
import { ApiError } from '../api/errors.js';
import { AddressError, contains, parseAddress, parsePrefix, type Prefix } from '../lib/address.js';
import { protocolNumber, protocolName, type DropRecordView, type FlowRecordView } from '../engine/records.js';

export interface FilterQuery {
  protocol?: string; port?: number; source?: string; destination?: string; rule?: string; from?: string; to?: string;
  verdict?: 'allowed' | 'dropped'; reason?: string; state?: string;
}
export type AnyRecord = FlowRecordView | DropRecordView;
export type Filter = (record: AnyRecord) => boolean;

/** A filter that cannot be: which member, and what would be right. */
export class FilterError extends ApiError {
  constructor(readonly member: keyof FilterQuery, message: string) { super(400, 'SLUICE_API_ARGUMENT', message, `/${member}`); }
}

/** Throws FilterError. */
export function protocolOf(text: string): number {
  const number = protocolNumber(text);
  if (number === undefined) throw new FilterError('protocol', `'${text}' is no protocol; write tcp, udp, icmp, icmpv6 or a number from 0 to 255`);
  return number;
}

/** A record passes when each given member fits. Addresses and ports match as the originator sent them or as translated. */
export function buildFilter(query: FilterQuery): Filter {
  const tests: Filter[] = [];
  if (query.protocol !== undefined) {
    const name = protocolName(protocolOf(query.protocol));
    tests.push((record) => record.protocol === name);
  }
  if (query.port !== undefined) {
    const port = query.port;
    tests.push((record) => record.sourcePort === port || record.destinationPort === port
      || record.translated?.sourcePort === port || record.translated?.destinationPort === port);
  }
  for (const member of ['source', 'destination'] as const) {
    const text = query[member];
    if (text === undefined) continue;
    const prefix = prefixOf(text, member);
    tests.push((record) => contains(prefix, parseAddress(record[member]))
      || (record.translated !== null && contains(prefix, parseAddress(record.translated[member]))));
  }
  if (query.rule !== undefined) {
    tests.push((record) => record.rule === query.rule || record.natSource === query.rule || record.natDestination === query.rule);
  }
  if (query.from !== undefined) {
    tests.push((record) => record.from.interface === query.from || record.from.zone === query.from);
  }
  if (query.to !== undefined) tests.push((record) => record.to !== null && (record.to.interface === query.to || record.to.zone === query.to));
  if (query.verdict !== undefined) tests.push((record) => record.verdict === query.verdict);
  if (query.reason !== undefined) tests.push((record) => record.kind === 'drop' && record.reason === query.reason);
  if (query.state !== undefined) tests.push((record) => record.kind === 'flow' && record.state === query.state);
  return (record) => tests.every((test) => test(record));
}

export function prefixOf(text: string, member: 'source' | 'destination'): Prefix {
  try {
    return parsePrefix(text);
  } catch (error) {
    if (!(error instanceof AddressError)) throw error;
    throw new FilterError(member, `${error.message}; ${error.remedy}`);
  }
}
