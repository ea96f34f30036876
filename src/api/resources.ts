// The configuration's parts as resources: where each stands in the configuration, what names its entries, and how a changed copy is made.
// Who: src/api/routes/config-resources.ts and the audit of what they touch. Pure. Copies share everything that stays.
// Schemas are the configuration's own (src/config/schema.ts), with the entry's key optional in a body: it stands in the path already.
// A collection may stand in an entry of another one, like the peers of a tunnel.
import { createHash } from 'node:crypto';
import { Type, type TObject, type TSchema } from '@sinclair/typebox';
import { asList } from '../config/schema-parts.js';
import { ConfigSchema, type Config } from '../config/schema.js';
import { formatPrefix, parsePrefix } from '../lib/address.js';

export type Entry = Record<string, unknown>;

export interface Collection {
  /** Under /api/v1/config/. */
  readonly path: string;
  /** What a scope names. */
  readonly resource: string;
  /** Keys from the configuration's root; what starts with a colon is a parameter of the path. */
  readonly at: readonly string[];
  /** That parameter: which entry of another collection these entries stand in. */
  readonly within?: { readonly param: string; readonly keySchema: TSchema };
  /** A mapping by name, or a list whose entries have their key inside. */
  readonly form: 'map' | 'list';
  readonly key: string;
  readonly keySchema: TSchema;
  readonly schema: TObject;
  /** First match wins: entries can be moved. */
  readonly ordered: boolean;
  readonly one: string;
  readonly many: string;
  readonly example: Entry;
  /** Who may change it: what passes is an operator's business, what the appliance is an administrator's. */
  readonly changedBy: 'operator' | 'administrator';
  /** The member of an entry that is what the configuration holds; left out: all of them. */
  readonly member?: string;
  /** From what stands in a mapping to an entry and back; lists hold entries as they are. */
  readonly wrap: (key: string, value: unknown) => Entry;
  readonly unwrap: (entry: Entry) => unknown;
}

const { firewall, nat, routes, interfaces, objects, wireguard } = ConfigSchema.properties;
const namePattern = { minLength: 1, maxLength: 63, pattern: '^[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}$' };
const nameKey = Type.String({ ...namePattern, description: 'a name of letters, digits, dash, dot and underscore' });
const ruleKey = Type.String({ minLength: 1, maxLength: 64, pattern: '^[^\\u0000-\\u001f\\u007f]*$', description: 'the rule\'s name' });
const prefixKey = Type.String({ minLength: 1, maxLength: 64, description: 'a prefix like 10.0.0.0/8; its slash as %2F in a path' });

const identity = (_key: string, value: unknown): Entry => value as Entry;
const whole = (entry: Entry): unknown => entry;
const withName = (name: string, value: unknown): Entry => ({ name, ...value as object });
const withoutName = ({ name: _name, ...value }: Entry): unknown => value;

const item = (list: unknown): TObject => (list as { items: TObject }).items;
const value = (map: unknown): TSchema => (map as { additionalProperties: TSchema }).additionalProperties;
/** What `properties` an entry of a mapping has, beside its name. */
const named = (properties: Record<string, TSchema>, required: string[]): TObject => ({
  type: 'object', additionalProperties: false, properties: { name: nameKey, ...properties }, required: ['name', ...required],
}) as unknown as TObject;
const interfaceSchema = value(interfaces) as TObject;
const tunnelSchema = value(wireguard) as TObject;

const rules = (path: string, at: readonly string[], schema: TObject, resource: string, one: string, many: string, example: Entry): Collection =>
  ({ path, resource, at, form: 'list', key: 'name', keySchema: ruleKey, schema, ordered: true, one, many, example, changedBy: 'operator', wrap: identity, unwrap: whole });

export const COLLECTIONS: readonly Collection[] = [
  rules('firewall/rules', ['firewall', 'rules'], item(firewall.properties.rules), 'firewall', 'FirewallRule', 'FirewallRules',
    { name: 'outbound', from: ['trust'], to: ['untrust'], source: ['10.0.0.0/16'], service: ['tcp/443'], action: 'allow', log: 'end' }),
  rules('nat/source', ['nat', 'source'], item(nat.properties.source), 'nat', 'SourceNatRule', 'SourceNatRules',
    { name: 'egress', from: ['trust'], to: ['untrust'], translate: { interface: true } }),
  rules('nat/destination', ['nat', 'destination'], item(nat.properties.destination), 'nat', 'DestinationNatRule', 'DestinationNatRules',
    { name: 'publish', from: ['untrust'], destination: '203.0.113.4', service: 'tcp/8443', translate: { address: '10.0.1.10', port: 443 } }),
  rules('nat/static', ['nat', 'static'], item(nat.properties.static), 'nat', 'StaticNatRule', 'StaticNatRules',
    { name: 'mail', outside: '203.0.113.9', inside: '10.0.1.25' }),
  {
    path: 'routes', resource: 'static-routes', at: ['routes'], form: 'list', key: 'to', keySchema: prefixKey, schema: item(routes), ordered: false,
    one: 'StaticRoute', many: 'StaticRoutes', example: { to: '10.0.0.0/8', via: '10.0.1.1' }, changedBy: 'operator', wrap: identity, unwrap: whole,
  },
  {
    path: 'interfaces', resource: 'interfaces', at: ['interfaces'], form: 'map', key: 'name', keySchema: nameKey, ordered: false,
    schema: named(interfaceSchema.properties, interfaceSchema.required ?? []), one: 'Interface', many: 'Interfaces',
    example: { name: 'trust', device: 'eth2', zone: 'trust', addresses: ['10.0.1.4/24'] }, changedBy: 'administrator', wrap: withName, unwrap: withoutName,
  },
  {
    path: 'wireguard', resource: 'wireguard', at: ['wireguard'], form: 'map', key: 'name', keySchema: nameKey, ordered: false,
    schema: named(tunnelSchema.properties, tunnelSchema.required ?? []), one: 'WireguardInterface', many: 'WireguardInterfaces',
    example: { name: 'wg0', zone: 'mesh', listen: 51820, addresses: ['10.99.0.1/24'] }, changedBy: 'administrator', wrap: withName, unwrap: withoutName,
  },
  {
    path: 'wireguard/:interface/peers', resource: 'wireguard', at: ['wireguard', ':interface', 'peers'], within: { param: 'interface', keySchema: nameKey }, form: 'list', key: 'name', keySchema: ruleKey, ordered: false,
    schema: item(tunnelSchema.properties['peers']), one: 'WireguardPeer', many: 'WireguardPeers',
    example: { name: 'nva-2', publicKey: 'EjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJCrze8=', endpoint: '203.0.113.20:51820', allowedIPs: ['10.99.0.2/32', '10.2.0.0/16'] },
    changedBy: 'administrator', wrap: identity, unwrap: whole,
  },
  {
    path: 'objects/addresses', resource: 'objects', at: ['objects', 'addresses'], form: 'map', key: 'name', keySchema: nameKey, ordered: false,
    schema: named({ addresses: value(objects.properties.addresses) }, ['addresses']), one: 'AddressObject', many: 'AddressObjects',
    example: { name: 'web', addresses: ['10.0.1.10', '10.0.2.0/24'] }, changedBy: 'operator', member: 'addresses', wrap: (name, addresses) => ({ name, addresses: asList(addresses) }), unwrap: ({ addresses }) => addresses,
  },
  {
    path: 'objects/services', resource: 'objects', at: ['objects', 'services'], form: 'map', key: 'name', keySchema: nameKey, ordered: false,
    schema: named({ services: value(objects.properties.services) }, ['services']), one: 'ServiceObject', many: 'ServiceObjects',
    example: { name: 'web', services: ['tcp/80', 'tcp/443'] }, changedBy: 'operator', member: 'services', wrap: (name, services) => ({ name, services: asList(services) }), unwrap: ({ services }) => services,
  },
];

/** Sections that are there once, or not at all. */
export interface Singleton { readonly path: string; readonly resource: string; readonly at: readonly string[]; readonly schema: TObject; readonly one: string; readonly members?: readonly string[]; readonly example: Entry; readonly changedBy: 'operator' | 'administrator' }

const pick = (schema: TObject, members: readonly string[]): TObject => ({
  ...schema, properties: Object.fromEntries(members.map((member) => [member, schema.properties[member]!])),
}) as TObject;

export const SINGLETONS: readonly Singleton[] = [
  { path: 'firewall/settings', resource: 'firewall', at: ['firewall'], members: ['default', 'log'], schema: pick(firewall, ['default', 'log']), one: 'FirewallSettings', example: { default: 'deny', log: 'end' }, changedBy: 'operator' },
  { path: 'limits', resource: 'settings', at: ['limits'], schema: ConfigSchema.properties.limits, one: 'Limits', example: { sessions: 1_048_576 }, changedBy: 'administrator' },
  { path: 'timers', resource: 'settings', at: ['timers'], schema: ConfigSchema.properties.timers, one: 'Timers', example: { tcpEstablished: 7440 }, changedBy: 'administrator' },
  { path: 'engine', resource: 'settings', at: ['engine'], schema: ConfigSchema.properties.engine, one: 'EngineSettings', example: { workers: 'auto' }, changedBy: 'administrator' },
];

/** The body of a PUT: the key may be left out. */
export function bodySchema({ schema, key }: Collection): TObject {
  return { ...schema, required: (schema.required ?? []).filter((name) => name !== key) } as TObject;
}

/** The collection that a request means; undefined: there is nothing that its entries could stand in. */
export function collectionOf(collection: Collection, params: Readonly<Record<string, string>>, config: Config): Collection | undefined {
  const { within } = collection;
  if (within === undefined) return collection;
  const place = collection.at.indexOf(`:${within.param}`);
  const name = params[within.param]!;
  const at = collection.at.map((key, index) => (index === place ? name : key));
  const holder = partAt(config, at.slice(0, place));
  return holder !== undefined && Object.hasOwn(holder as object, name) ? { ...collection, at } : undefined;
}

export function keyOf(collection: Collection, text: string): string {
  if (collection.key !== 'to') return text;
  try {
    return formatPrefix(parsePrefix(text));
  } catch {
    return text; // no prefix: then it names nothing
  }
}

/** Entries in their order, each with its key. */
export function entriesOf(collection: Collection, config: Config): { key: string; stored: unknown }[] {
  const part = partAt(config, collection.at);
  if (collection.form === 'map') return Object.entries((part ?? {}) as object).map(([key, stored]) => ({ key, stored: stored as unknown }));
  return ((part ?? []) as Entry[]).map((stored) => ({ key: keyOf(collection, String(stored[collection.key])), stored }));
}

export function findEntry(collection: Collection, config: Config, key: string): { entry: Entry; index: number } | undefined {
  const part = partAt(config, collection.at);
  if (collection.form === 'map') {
    if (part === undefined || !Object.hasOwn(part as object, key)) return undefined;
    return { entry: collection.wrap(key, (part as Entry)[key]), index: -1 };
  }
  const list = (part ?? []) as Entry[];
  const index = list.findIndex((one) => keyOf(collection, String(one[collection.key])) === key);
  return index < 0 ? undefined : { entry: list[index]!, index };
}

/** Where an entry shall stand in an ordered list. */
export interface Place { before?: string; after?: string; position?: 'first' | 'last' }
export class PlaceError extends Error {
  constructor(readonly member: 'before' | 'after', name: string) { super(`there is no '${name}' to stand ${member}`); }
}

/** With `entry` in it, replaced or new. `place`: moved there; without, a replaced one stays and a new one goes last. Throws PlaceError. */
export function withEntry(collection: Collection, config: Config, key: string, entry: Entry, place: Place = {}): Config {
  const part = partAt(config, collection.at);
  if (collection.form === 'map') return replaceAt(config, collection.at, { ...part as object, [key]: collection.unwrap(entry) });
  const list = ((part ?? []) as Entry[]).slice();
  const old = list.findIndex((one) => keyOf(collection, String(one[collection.key])) === key);
  const isPlaced = place.before !== undefined || place.after !== undefined || place.position !== undefined;
  if (!isPlaced && old >= 0) list[old] = entry;
  else {
    if (old >= 0) list.splice(old, 1);
    list.splice(indexOf(collection, list, place), 0, entry);
  }
  return replaceAt(config, collection.at, list);
}

function indexOf(collection: Collection, list: readonly Entry[], place: Place): number {
  if (place.position === 'first') return 0;
  for (const member of ['before', 'after'] as const) {
    const name = place[member];
    if (name === undefined) continue;
    const index = list.findIndex((one) => one[collection.key] === name);
    if (index < 0) throw new PlaceError(member, name);
    return member === 'before' ? index : index + 1;
  }
  return list.length;
}

export function withoutEntry(collection: Collection, config: Config, key: string): Config {
  const part = partAt(config, collection.at);
  if (collection.form === 'map') {
    const { [key]: _gone, ...rest } = part as Entry;
    return replaceAt(config, collection.at, Object.keys(rest).length > 0 ? rest : undefined);
  }
  const rest = (part as Entry[]).filter((one) => keyOf(collection, String(one[collection.key])) !== key);
  return replaceAt(config, collection.at, rest.length > 0 ? rest : undefined);
}

export function readSingleton({ at, members }: Singleton, config: Config): Entry {
  const part = (partAt(config, at) ?? {}) as Entry;
  return members ? Object.fromEntries(members.filter((member) => part[member] !== undefined).map((member) => [member, part[member]])) : part;
}

export function withSingleton({ at, members }: Singleton, config: Config, entry: Entry): Config {
  const part = (partAt(config, at) ?? {}) as Entry;
  const others = members ? Object.fromEntries(Object.entries(part).filter(([key]) => !members.includes(key))) : {};
  const next = { ...others, ...entry };
  return replaceAt(config, at, Object.keys(next).length > 0 ? next : undefined);
}

/** As text that is the same for the same content: the order of members counts for nothing. */
export function canonical(content: unknown): string {
  return JSON.stringify(content, (_key, value: unknown) => (typeof value === 'object' && value !== null && !Array.isArray(value)
    ? Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1))) : value));
}

/** Of one entry, or a section: changes exactly when it does. */
export function etagOf(content: unknown): string {
  return `"${createHash('sha256').update(canonical(content)).digest('base64url').slice(0, 22)}"`;
}

function partAt(config: Config, at: readonly string[]): unknown {
  return at.reduce<unknown>((part, key) => (part as Entry | undefined)?.[key], config);
}

/** undefined takes the key away, and what became empty by that. */
function replaceAt(config: Config, at: readonly string[], part: unknown): Config {
  const [first, ...rest] = at as [string, ...string[]];
  const root = config as Entry;
  const inner = rest.length === 0 ? part : replaceAt((root[first] ?? {}) as Config, rest, part);
  const isEmpty = inner === undefined || (rest.length > 0 && Object.keys(inner as object).length === 0);
  if (!isEmpty) return { ...root, [first]: inner } as Config;
  const { [first]: _gone, ...others } = root;
  return others as Config;
}
