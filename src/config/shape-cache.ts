// The schema's verdict on entries of long lists, kept: an entry that had the right shape still has it. Called by load.ts.
// A configuration is examined without the entries that are known to be good; where anything is wrong, as a whole, for the right places.
import { SL_RULES_MAX } from '../engine/abi.generated.js';
import { NAT_RULES_MAX, ROUTES_MAX } from './schema.js';

type Mapping = Record<string, unknown>;

/** Lists whose entries the schema judges one by one. */
const LISTS: readonly { path: readonly [string] | readonly [string, string]; entriesMax: number }[] = [
  { path: ['routes'], entriesMax: ROUTES_MAX },
  { path: ['firewall', 'rules'], entriesMax: SL_RULES_MAX },
  { path: ['nat', 'source'], entriesMax: NAT_RULES_MAX },
  { path: ['nat', 'destination'], entriesMax: NAT_RULES_MAX },
  { path: ['nat', 'static'], entriesMax: NAT_RULES_MAX },
];

const good = new WeakSet<object>();
const isMapping = (value: unknown): value is Mapping => typeof value === 'object' && value !== null && !Array.isArray(value);

/** The configuration without entries that are known to be good; undefined when it must be examined as a whole. */
export function withoutKnown(config: unknown): unknown {
  if (!isMapping(config)) return undefined;
  const reduced: Mapping = { ...config };
  for (const { path: [section, key], entriesMax } of LISTS) {
    const holder = key === undefined ? reduced : reduced[section];
    const name = key ?? section;
    if (!isMapping(holder) || !Array.isArray(holder[name])) continue;
    const list = holder[name] as unknown[];
    if (list.length > entriesMax) return undefined;
    const unknown = list.filter((entry) => typeof entry !== 'object' || entry === null || !good.has(entry));
    if (key === undefined) reduced[name] = unknown;
    else reduced[section] = { ...holder, [name]: unknown };
  }
  return reduced;
}

export function rememberGood(config: unknown): void {
  if (!isMapping(config)) return;
  for (const { path: [section, key] } of LISTS) {
    const holder = key === undefined ? config : config[section];
    const list = isMapping(holder) ? holder[key ?? section] : undefined;
    if (Array.isArray(list)) for (const entry of list) good.add(entry as object);
  }
}
