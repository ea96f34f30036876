// From bytes to a configuration of known shape: read, parse YAML or JSON, validate against the schema, and say where a path stands.
//
// Called by check.ts and by control's transactions; nothing here throws on input, whatever it is. Bounds, in the order in which they
// are met: bytes of the file, nesting depth while parsing, aliases and what they expand to, then the schema's own.
// A configuration is returned only when it has the schema's shape; what it means is check.ts's business.
// Places in the text (places.ts) are looked up only for what is wrong: a good file of 100,000 rules pays nothing for them.
import { readFileSync, statSync } from 'node:fs';
import { Ajv, type ErrorObject, type ValidateFunction } from 'ajv';
import { constructFromEvents, EVENT_ID, parseEvents, YAMLException, type Event } from 'js-yaml';
import { printable, whyUnread } from '../lib/text.js';
import { Places } from './places.js';
import { Problems, quote, suggest, type At, type Path, type Position, type Problem } from './problem.js';
import { ConfigSchema, type Config } from './schema.js';
import { SECRET_KEYS } from './schema-wireguard.js';
import { rememberGood, withoutKnown } from './shape-cache.js';

/** Room for SL_RULES_MAX rules of 512 bytes. */
export const CONFIG_BYTES_MAX = 64 * 1024 * 1024;
/** The schema nests 8 deep. */
export const CONFIG_DEPTH_MAX = 64;
export const CONFIG_ALIASES_MAX = 100;
/** Values that a file may have, also once its aliases are expanded. */
const EXPANDED_NODES_MAX = 4_000_000;
/** Of larger configurations the first fault of the schema alone is named: where all is wrong, all faults take minutes and gigabytes. */
const ALL_FAULTS_VALUES_MAX = 100_000;

export interface Loaded {
  /** Present when the file has the schema's shape. */
  config?: Config;
  problems: Problem[];
  /** Where a path stands in the file. */
  locate: (path: Path, at: At) => Position;
}

export function loadFile(file: string): Loaded {
  const problems = new Problems(file);
  let bytes: Uint8Array;
  try {
    const size = statSync(file).size;
    if (size > CONFIG_BYTES_MAX) return tooLarge(problems, size);
    bytes = readFileSync(file);
  } catch (error) {
    problems.error('SLUICE_CONFIG_UNREADABLE', [], whyUnread(error), 'name a configuration file that this user may read');
    return refused(problems);
  }
  return loadBytes(bytes, file);
}

export function loadBytes(bytes: Uint8Array, file: string): Loaded {
  const problems = new Problems(file);
  if (bytes.length > CONFIG_BYTES_MAX) return tooLarge(problems, bytes.length);
  try {
    return loadText(new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes), file);
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    problems.error('SLUICE_CONFIG_SYNTAX', [], 'the file is not UTF-8 text', 'save it as UTF-8');
    return refused(problems);
  }
}

export function loadText(text: string, file: string): Loaded {
  const parsed = parseText(text, file);
  if (parsed.problems.length > 0) return parsed;
  const { problems, config } = checkShape(parsed.value, file, parsed.locate);
  return { problems, locate: parsed.locate, ...(config === undefined ? {} : { config }) };
}

export interface Parsed { value: unknown; problems: Problem[]; locate: (path: Path, at: At) => Position }

/** Text to plain values; the first syntax error ends it, since what follows it means nothing. */
export function parseText(text: string, file: string): Parsed {
  if (text.length > CONFIG_BYTES_MAX) return { value: undefined, ...tooLarge(new Problems(file), text.length) };
  if (hasMoreValues(text, EXPANDED_NODES_MAX)) {
    const problems = new Problems(file);
    problems.error('SLUICE_CONFIG_TOO_LARGE', [], `more than ${EXPANDED_NODES_MAX} values`, 'use objects for what rules have in common');
    return { value: undefined, ...refused(problems) };
  }
  let events: Event[] | undefined;
  let places: Places | undefined;
  const placesOf = (): Places => (places ??= new Places(text, events ?? tryEvents(text)));
  const locate = (path: Path, at: At): Position => placesOf().of(path, at);
  const problems = new Problems(file, locate);
  const syntaxError = (offset: number, message: string, remedy: string): Parsed => {
    problems.list.push({ severity: 'error', code: 'SLUICE_CONFIG_SYNTAX', file, ...new Places(text, []).at(offset), path: '', message, remedy });
    return { value: undefined, problems: problems.list, locate };
  };

  const json = parseJson(text);
  if (json !== undefined) return { value: json, problems: [], locate };
  try {
    events = parseEvents(text, { maxDepth: CONFIG_DEPTH_MAX });
    const tooMany = findExpansion(text, events);
    if (tooMany !== undefined) return syntaxError(tooMany, `aliases expand to more than ${EXPANDED_NODES_MAX} values`, 'write the values out, or use objects');
    const documents = constructFromEvents(events, { source: text, maxAliases: CONFIG_ALIASES_MAX });
    if (documents.length > 1) return syntaxError(placesOf().documentOffset(1), 'the file holds more than one document', 'take the line --- away, and what follows it');
    if (documents.length === 0 || documents[0] === null) {
      problems.error('SLUICE_CONFIG_MISSING_KEY', [], 'the file is empty', 'start it with version: 1');
      return { value: undefined, problems: problems.list, locate };
    }
    return { value: documents[0], problems: [], locate };
  } catch (error) {
    if (!(error instanceof YAMLException)) throw error;
    if (events !== undefined && error.reason === 'duplicated mapping key') {
      // The library names the first one only.
      for (const path of placesOf().duplicates()) problems.error('SLUICE_CONFIG_DUPLICATE_KEY', path, `${quote(String(path.at(-1)))} stands here twice`, 'keep one of them', 'key');
      if (problems.errors > 0) return { value: undefined, problems: problems.sorted(), locate };
    }
    const [message, remedy] = describeSyntax(error.reason);
    return syntaxError(error.mark?.position ?? 0, message, remedy);
  }
}

/** Each value but the first stands behind one of these. Looked for one by one, since the search for a character is several times as fast as a loop. */
function hasMoreValues(text: string, most: number): boolean {
  if (text.length <= most) return false;
  let left = most;
  for (const separator of [',', '\n', '[', '{']) {
    for (let at = text.indexOf(separator); at >= 0; at = text.indexOf(separator, at + 1)) if ((left -= 1) < 0) return true;
  }
  return false;
}

function tryEvents(text: string): Event[] {
  try {
    return parseEvents(text, { maxDepth: CONFIG_DEPTH_MAX });
  } catch {
    return []; // what has no place is at the start
  }
}

function describeSyntax(reason: string): [message: string, remedy: string] {
  if (reason.startsWith('nesting exceeded')) return [`nested deeper than ${CONFIG_DEPTH_MAX} levels`, 'the configuration needs no such depth: look for a stray bracket or dash'];
  if (reason.includes('tag')) return [firstLine(reason), 'tags have no meaning here; put the text in quotes if it starts with !'];
  if (reason.includes('alias') || reason.includes('maxAliases')) return [firstLine(reason), `use at most ${CONFIG_ALIASES_MAX} aliases, each after its anchor`];
  return [firstLine(reason), 'repair the YAML syntax there'];
}

/** JSON is YAML; its own parser is ten times as fast. Undefined: it is no JSON, or one that YAML would refuse. */
function parseJson(text: string): unknown {
  if (!/^\s*\{/.test(text.slice(0, 256))) return undefined;
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  // More keys in the text than in the value mean that one stands twice, which JSON.parse hides.
  return countKeys(value, 0) === countWrittenKeys(text) ? value : undefined;
}

/** Of JSON. No regular expression: texts of megabytes are more than its stack takes. */
function countWrittenKeys(text: string): number {
  const AFTER_STRING = /[ \t\r\n]*:/y;
  let keys = 0;
  for (let at = text.indexOf('"'); at >= 0; at = text.indexOf('"', AFTER_STRING.lastIndex)) {
    let end = at;
    let escapes = 1;
    while (escapes % 2 === 1) { // a quote behind an odd number of backslashes is text
      end = text.indexOf('"', end + 1);
      for (escapes = 0; text[end - 1 - escapes] === '\\';) escapes += 1;
    }
    AFTER_STRING.lastIndex = end + 1;
    if (AFTER_STRING.test(text)) keys += 1;
    else AFTER_STRING.lastIndex = end + 1;
  }
  return keys;
}

/** NaN when nested too deep. */
function countKeys(value: unknown, depth: number): number {
  if (typeof value !== 'object' || value === null) return 0;
  if (depth > CONFIG_DEPTH_MAX) return NaN;
  let keys = 0;
  if (Array.isArray(value)) {
    for (const item of value) keys += countKeys(item, depth + 1);
    return keys;
  }
  for (const key in value) keys += 1 + countKeys((value as Record<string, unknown>)[key], depth + 1);
  return keys;
}

/** Offset of an alias at which the expanded file gets larger than EXPANDED_NODES_MAX. An anchor within itself counts nothing: no schema lets it pass. */
function findExpansion(text: string, events: readonly Event[]): number | undefined {
  if (!events.some((event) => event.type === EVENT_ID.ALIAS)) return undefined;
  const weights = new Map<string, number>();
  const open: { anchor: string | undefined; weight: number }[] = [{ anchor: undefined, weight: 0 }];
  const anchorOf = (event: { anchorStart: number; anchorEnd: number }): string | undefined => (event.anchorStart < 0 ? undefined : text.slice(event.anchorStart, event.anchorEnd));
  for (const event of events) {
    const top = open.at(-1)!;
    switch (event.type) {
      case EVENT_ID.SCALAR: {
        top.weight += 1;
        const anchor = anchorOf(event);
        if (anchor !== undefined) weights.set(anchor, 1);
        break;
      }
      case EVENT_ID.ALIAS:
        top.weight += weights.get(anchorOf(event) ?? '') ?? 0;
        if (top.weight > EXPANDED_NODES_MAX) return event.anchorStart;
        break;
      case EVENT_ID.POP: {
        const { anchor, weight } = open.pop()!;
        if (anchor !== undefined) weights.set(anchor, weight + 1);
        const parent = open.at(-1);
        if (parent) parent.weight += weight + 1;
        break;
      }
      default: open.push({ anchor: event.type === EVENT_ID.DOCUMENT ? undefined : anchorOf(event), weight: 0 });
    }
  }
  return undefined;
}

/** Plain values against the schema. */
export function checkShape(value: unknown, file: string, locate?: (path: Path, at: At) => Position): { problems: Problem[]; config?: Config } {
  const problems = new Problems(file, locate);
  const reduced = withoutKnown(value);
  const isReducedGood = reduced !== undefined && hasShape(reduced);
  if (isReducedGood || hasShape(value)) {
    rememberGood(isReducedGood ? reduced : value);
    return { problems: [], config: value as Config };
  }
  const judge = validator(isWithin(value, ALL_FAULTS_VALUES_MAX));
  judge(value);
  for (const error of judge.errors ?? []) reportSchemaError(error, problems);
  return { problems: problems.sorted() };
}

export function hasShape(value: unknown): boolean { return validator(false)(value); }

/** Has it at most so many values? */
function isWithin(value: unknown, most: number): boolean {
  const open = [value]; // not by recursion: an alias may stand for what it stands in
  for (let count = 0; open.length > 0; count += 1) {
    const one = open.pop();
    if (typeof one === 'object' && one !== null) for (const inner of Object.values(one) as unknown[]) open.push(inner);
    if (count + open.length > most) return false;
  }
  return true;
}

/** Keys of WireGuard that stand where only their file's path may: by themselves, for a text that need not have the schema's shape. */
export function findSecrets(value: unknown, file: string, locate?: (path: Path, at: At) => Position): Problem[] {
  const problems = new Problems(file, locate);
  const search = (part: unknown, path: Path): void => {
    if (typeof part !== 'object' || part === null || path.length > SECRET_DEPTH_MAX) return;
    for (const [key, one] of Object.entries(part)) {
      const at = [...path, Array.isArray(part) ? Number(key) : key];
      if (path.length > 1 && isSecretKey(key)) reportSecret(problems, at); // the first level holds names
      else search(one, at);
    }
  };
  const { wireguard } = (value ?? {}) as { wireguard?: unknown };
  search(wireguard, ['wireguard']);
  return problems.sorted();
}

const SECRET_DEPTH_MAX = 5; // wireguard, interface, peers, peer, key

function isSecretKey(key: string): boolean { return Object.hasOwn(SECRET_KEYS, key); }

function reportSecret(problems: Problems, path: Path): void {
  const key = String(path.at(-1));
  problems.error('SLUICE_CONFIG_SECRET', path, `${key} is a secret, and secrets never stand in the configuration`, SECRET_KEYS[key] ?? '', 'key');
}

const validators = new Map<boolean, ValidateFunction<Config>>();

/** Compiled at its first use: commands that check nothing start without it. `all`: it goes on after the first fault. */
function validator(all: boolean): ValidateFunction<Config> {
  let made = validators.get(all);
  if (made === undefined) validators.set(all, made = new Ajv({ allErrors: all, verbose: true, strict: false, validateFormats: false }).compile<Config>(ConfigSchema));
  return made;
}

/** One sentence a person can act on for each kind of schema error. */
function reportSchemaError(error: ErrorObject, problems: Problems): void {
  const path: (string | number)[] = error.instancePath === '' ? [] : error.instancePath.slice(1).split('/')
    .map((part) => part.replaceAll('~1', '/').replaceAll('~0', '~'));
  toIndexes(path, error);
  const remedy = (error.parentSchema as { description?: string } | undefined)?.description ?? '';
  const write = remedy === '' ? '' : `write ${remedy}`;
  switch (error.keyword) {
    case 'additionalProperties': {
      const key = (error.params as { additionalProperty: string }).additionalProperty;
      if (path[0] === 'wireguard' && isSecretKey(key)) {
        reportSecret(problems, [...path, key]);
        return;
      }
      const known = Object.keys((error.parentSchema as { properties?: object } | undefined)?.properties ?? {});
      problems.error('SLUICE_CONFIG_UNKNOWN_KEY', [...path, key], `unknown key ${quote(key)}`, suggest(key, known, 'key'), 'key');
      return;
    }
    case 'required': {
      const key = (error.params as { missingProperty: string }).missingProperty;
      const schema = (error.parentSchema as { properties?: Record<string, { description?: string }> }).properties?.[key];
      problems.error('SLUICE_CONFIG_MISSING_KEY', path, `${quote(key)} is missing`, `add ${key}: ${schema?.description ?? '...'}`);
      return;
    }
    case 'propertyNames': return; // the pattern error beside it says it
    case 'enum': {
      const values = (error.params as { allowedValues: string[] }).allowedValues;
      problems.error('SLUICE_CONFIG_VALUE', path, `${describe(error.data)} is not one of ${values.join(', ')}`,
        typeof error.data === 'string' ? suggest(error.data, values, 'value') : `write ${values.join(' or ')}`);
      return;
    }
    case 'type': {
      const types = (error.params as { type: string | string[] }).type;
      problems.error('SLUICE_CONFIG_VALUE', path, `expected ${typeNames(types)}, found ${describe(error.data)}`, write);
      return;
    }
    case 'const':
      problems.error('SLUICE_CONFIG_VALUE', path, `${describe(error.data)} is not possible here`, write);
      return;
    case 'pattern':
      if (error.propertyName !== undefined) {
        problems.error('SLUICE_CONFIG_VALUE', [...path, error.propertyName], `${quote(error.propertyName)} cannot be a name`,
          'write letters, digits, dash, dot and underscore, at most 63, not starting with a dash or dot', 'key');
        return;
      }
      problems.error('SLUICE_CONFIG_VALUE', path, `${describe(error.data)} does not have the right form`, write);
      return;
    case 'minItems':
      problems.error('SLUICE_CONFIG_VALUE', path, 'the list is empty', 'leave the key out when it shall not restrict, or name at least one');
      return;
    case 'minProperties':
      problems.error('SLUICE_CONFIG_VALUE', path, 'nothing stands here', write);
      return;
    case 'maxItems': case 'maxProperties': case 'maxLength':
      if ((error.params as { limit: number }).limit === 1) {
        problems.error('SLUICE_CONFIG_VALUE', path, 'only one of these can hold', write);
        return;
      }
      problems.error('SLUICE_CONFIG_TOO_LARGE', path, `longer than ${(error.params as { limit: number }).limit}`, write);
      return;
    case 'minimum': case 'maximum':
      problems.error('SLUICE_CONFIG_VALUE', path, `${describe(error.data)} is ${error.keyword === 'minimum' ? 'below' : 'above'} ${(error.params as { limit: number }).limit}`, write);
      return;
    default:
      problems.error('SLUICE_CONFIG_VALUE', path, error.message ?? 'not possible here', write);
  }
}

/** JSON pointers do not tell '0' from 0; a path's list indexes are numbers. Keys of ours that look like numbers are names. */
function toIndexes(path: (string | number)[], error: ErrorObject): void {
  const NAMED = new Set(['interfaces', 'addresses', 'services', 'wireguard', 'vxlan']);
  for (let i = 1; i < path.length; i++) {
    const inNamed = (i === 1 && NAMED.has(String(path[0]))) || (i === 2 && path[0] === 'objects' && NAMED.has(String(path[1])));
    if (!inNamed && /^\d+$/.test(String(path[i])) && error.instancePath !== '') path[i] = Number(path[i]);
  }
}

function typeNames(types: string | string[]): string {
  const names: Record<string, string> = { string: 'text', integer: 'a whole number', number: 'a number', boolean: 'true or false', array: 'a list', object: 'a mapping' };
  return (Array.isArray(types) ? types : types.split(',')).map((type) => names[type] ?? type).join(' or ');
}

function describe(value: unknown): string {
  if (value === null) return 'nothing';
  if (Array.isArray(value)) return 'a list';
  if (typeof value === 'object') return 'a mapping';
  return typeof value === 'string' ? quote(value) : String(value);
}

function firstLine(message: string): string {
  return printable(message.split('\n')[0]!.replace(/:$/, '').slice(0, 160));
}

function tooLarge(problems: Problems, bytes: number): Loaded {
  problems.error('SLUICE_CONFIG_TOO_LARGE', [], `the file has ${bytes} bytes`, `keep it within ${CONFIG_BYTES_MAX} bytes`);
  return refused(problems);
}

function refused(problems: Problems): Loaded {
  return { problems: problems.list, locate: () => ({ line: 1, column: 1 }) };
}
