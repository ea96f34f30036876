// From bytes to a configuration of known shape: read, parse YAML with positions, validate against the schema.
//
// Called by check.ts; nothing here throws on input, whatever it is. Bounds, in the order in which they are met: bytes of
// the file, nesting depth while parsing (so that the composer's recursion is bounded), aliases, then the schema's own.
// A configuration is returned only when it has the schema's shape; what it means is check.ts's business.
import { readFileSync, statSync } from 'node:fs';
import { Ajv, type ErrorObject } from 'ajv';
import { Composer, isAlias, isMap, isScalar, isSeq, Lexer, LineCounter, Parser, type CST, type Document, type Node, type Pair, type YAMLMap } from 'yaml';
import { Problems, printable, quote, suggest, type At, type Path, type Position, type Problem } from './problem.js';
import { ConfigSchema, type Config } from './schema.js';

/** Room for SL_RULES_MAX rules of 128 bytes. */
export const CONFIG_BYTES_MAX = 16 * 1024 * 1024;
/** The schema nests 8 deep; a parser's stack entry is at most three a level. */
export const CONFIG_DEPTH_MAX = 64;
export const CONFIG_ALIASES_MAX = 100;

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
    problems.error('SLUICE_CONFIG_UNREADABLE', [], (error as Error).message, 'name a configuration file that this user may read');
    return refused(problems);
  }
  return loadBytes(bytes, file);
}

export function loadBytes(bytes: Uint8Array, file: string): Loaded {
  const problems = new Problems(file);
  if (bytes.length > CONFIG_BYTES_MAX) return tooLarge(problems, bytes.length);
  try {
    return loadText(new TextDecoder('utf-8', { fatal: true }).decode(bytes), file);
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    problems.error('SLUICE_CONFIG_SYNTAX', [], 'the file is not UTF-8 text', 'save it as UTF-8');
    return refused(problems);
  }
}

export function loadText(text: string, file: string): Loaded {
  if (text.length > CONFIG_BYTES_MAX) return tooLarge(new Problems(file), text.length);
  const lines = new LineCounter();
  const positionAt = (offset: number): Position => {
    const { line, col } = lines.linePos(offset);
    return { line: Math.max(1, line), column: Math.max(1, col) };
  };
  let root: Node | null = null;
  const locate = (path: Path, at: At): Position => positionAt(offsetOf(root, path, at));
  const problems = new Problems(file, locate);
  const syntaxError = (offset: number, message: string, remedy: string): void => {
    problems.list.push({ severity: 'error', code: 'SLUICE_CONFIG_SYNTAX', file, ...positionAt(offset), path: '', message, remedy });
  };

  // 1. YAML to a document with positions.
  let document: Document.Parsed | undefined;
  try {
    document = compose(text, lines);
  } catch (error) {
    if (!(error instanceof TooDeep)) throw error;
    syntaxError(error.offset, `nested deeper than ${CONFIG_DEPTH_MAX} levels`, 'the configuration needs no such depth: look for a stray bracket or dash');
    return { problems: problems.list, locate };
  }
  for (const issue of document.errors.slice(0, 20)) syntaxError(issue.pos[0], firstLine(issue.message), 'repair the YAML syntax there');
  for (const issue of document.warnings.slice(0, 20)) syntaxError(issue.pos[0], firstLine(issue.message), 'tags have no meaning here; put the text in quotes if it starts with !');
  if (problems.list.length > 0) return { problems: problems.list, locate };
  root = document.contents;
  reportDuplicateKeys(root, [], problems);

  // 2. To plain values. Cycles cannot pass the schema: it is finite.
  let value: unknown;
  try {
    value = document.toJS({ maxAliasCount: CONFIG_ALIASES_MAX });
  } catch (error) {
    syntaxError(0, firstLine((error as Error).message), `use at most ${CONFIG_ALIASES_MAX} aliases, each after its anchor`);
    return { problems: problems.list, locate };
  }
  if (value === null || value === undefined) {
    problems.error('SLUICE_CONFIG_MISSING_KEY', [], 'the file is empty', 'start it with version: 1');
    return { problems: problems.sorted(), locate };
  }

  // 3. Against the schema.
  if (!validate(value)) for (const error of validate.errors ?? []) reportSchemaError(error, problems);
  if (problems.errors > 0) return { problems: problems.sorted(), locate };
  return { config: value as Config, problems: problems.sorted(), locate };
}

const validate = new Ajv({ allErrors: true, verbose: true, strict: false, validateFormats: false }).compile<Config>(ConfigSchema);

class TooDeep extends Error {
  constructor(readonly offset: number) { super('too deep'); }
}

function compose(text: string, lines: LineCounter): Document.Parsed {
  lines.addNewLine(0);
  // uniqueKeys is off because the library's check is quadratic; reportDuplicateKeys does it.
  const composer = new Composer({ uniqueKeys: false, logLevel: 'silent', prettyErrors: false, merge: false });
  let document: Document.Parsed | undefined;
  for (const next of composer.compose(boundedTokens(text, lines), true, text.length)) {
    if (document === undefined) { document = next as Document.Parsed; continue; }
    if (document.errors.length === 0) document.errors.push(...next.errors, ...manyDocuments(next as Document.Parsed));
  }
  return document!;
}

function manyDocuments(next: Document.Parsed): Document.Parsed['errors'] {
  return [Object.assign(new Error('the file holds more than one document'), { code: 'MULTIPLE_DOCS', pos: [next.range[0], next.range[1]] })] as unknown as Document.Parsed['errors'];
}

function* boundedTokens(text: string, lines: LineCounter): Generator<CST.Token> {
  const parser = new Parser(lines.addNewLine);
  for (const lexeme of new Lexer().lex(text)) {
    yield* parser.next(lexeme);
    if (parser.stack.length > CONFIG_DEPTH_MAX) throw new TooDeep(parser.offset);
  }
  yield* parser.end();
}

function reportDuplicateKeys(node: unknown, path: Path, problems: Problems): void {
  if (isSeq(node)) node.items.forEach((item, index) => { if (isMap(item) || isSeq(item)) reportDuplicateKeys(item, [...path, index], problems); });
  if (!isMap(node)) return;
  const seen = new Set<string>();
  for (const pair of node.items) {
    const key = isScalar(pair.key) ? String(pair.key.value) : '?';
    if (seen.has(key)) {
      // locate() finds the last of them: the one to take away.
      problems.error('SLUICE_CONFIG_DUPLICATE_KEY', [...path, key], `${quote(key)} stands here twice`, 'keep one of them', 'key');
    }
    seen.add(key);
    if (isMap(pair.value) || isSeq(pair.value)) reportDuplicateKeys(pair.value, [...path, key], problems);
  }
}

function offsetOf(root: Node | null, path: Path, at: At): number {
  let node: unknown = root;
  let offset = root?.range?.[0] ?? 0;
  for (const [depth, segment] of path.entries()) {
    if (isAlias(node)) return node.range?.[0] ?? offset;
    let next: unknown;
    if (isSeq(node) && typeof segment === 'number') next = node.items[segment];
    else if (isMap(node)) {
      const pair = lastPair(node, String(segment));
      const key = pair?.key as Node | undefined;
      if (key?.range) offset = key.range[0];
      if (depth === path.length - 1 && at === 'key') return offset;
      next = pair?.value;
    }
    if (next === undefined || next === null) return offset;
    node = next;
    offset = (node as Node).range?.[0] ?? offset;
  }
  return offset;
}

/** Of two pairs with one key the last counts. */
function lastPair(map: YAMLMap, key: string): Pair | undefined {
  for (let i = map.items.length - 1; i >= 0; i--) {
    const pair = map.items[i]!;
    if (isScalar(pair.key) && String(pair.key.value) === key) return pair;
  }
  return undefined;
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
