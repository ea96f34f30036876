// Emits a configuration as YAML text in the manner of config.example.yaml: sections as blocks, an entry of a list or of a named section a
// line. Called by control's transactions for configurations that came as values and cannot be written into the text before (splice.ts).
// Pure but for a cache: an entry that was emitted before is not emitted again. What it gives, load.ts reads back as the same value.
/** How many levels below a section are blocks, too. */
const BLOCKS_BELOW: Readonly<Record<string, number>> = { objects: 1, firewall: 1, nat: 1, observability: 1, api: 1, bgp: 1, ha: 1, wireguard: 2, nodes: 1 };
const INDENT = '  ';
const NESTED_MAX = 64;

export function emitConfig(config: object): string {
  const lines: string[] = [];
  for (const [key, value] of Object.entries(config)) emitSection(lines, '', key, value, blocksBelow(key));
  return `${lines.join('\n')}\n`;
}

export const blocksBelow = (section: string): number => (Object.hasOwn(BLOCKS_BELOW, section) ? BLOCKS_BELOW[section]! : 0);

/** One key with its value; `below` 0 and more: as a block. */
export function emitMember(indent: string, key: string, value: unknown, below: number): string {
  const lines: string[] = [];
  if (below >= 0) emitSection(lines, indent, key, value, below);
  else lines.push(`${indent}${scalar(key)}: ${flow(value, 0)}`);
  return `${lines.join('\n')}\n`;
}

/** An item of a list, behind its dash. */
export function emitItem(item: unknown): string { return flow(item, 0); }

function emitSection(lines: string[], indent: string, key: string, value: unknown, blocksBelow: number): void {
  if (Array.isArray(value) && value.length > 0 && value.every(isMapping)) {
    lines.push(`${indent}${scalar(key)}:`);
    for (const item of value) lines.push(entry(item as object, `${indent}${INDENT}- `));
  } else if (isMapping(value) && Object.keys(value).length > 0) {
    lines.push(`${indent}${scalar(key)}:`);
    for (const [name, one] of Object.entries(value)) {
      if (blocksBelow > 0) emitSection(lines, indent + INDENT, name, one, blocksBelow - 1);
      else lines.push(`${indent}${INDENT}${scalar(name)}: ${flow(one, 0)}`);
    }
  } else lines.push(`${indent}${scalar(key)}: ${flow(value, 0)}`);
}

const isMapping = (value: unknown): value is Record<string, unknown> => typeof value === 'object' && value !== null && !Array.isArray(value);

const emitted = new WeakMap<object, string>();

function entry(item: object, prefix: string): string {
  let line = emitted.get(item);
  if (!line?.startsWith(prefix)) {
    line = Buffer.from(prefix + flow(item, 0)).toString(); // in one piece: joining thousands of lines of many pieces each takes its time
    emitted.set(item, line);
  }
  return line;
}

function flow(value: unknown, depth: number): string {
  if (depth > NESTED_MAX) throw new Error('nested deeper than any configuration');
  if (typeof value === 'string') return scalar(value);
  if (Array.isArray(value)) return `[${value.map((item) => flow(item, depth + 1)).join(', ')}]`;
  if (!isMapping(value)) return JSON.stringify(value) ?? 'null';
  const pairs = Object.entries(value).filter(([, one]) => one !== undefined).map(([key, one]) => `${scalar(key)}: ${flow(one, depth + 1)}`);
  return pairs.length === 0 ? '{}' : `{ ${pairs.join(', ')} }`;
}

/** Plain where no YAML reader could take it for anything else; quoted as JSON otherwise, which YAML reads alike. */
function scalar(text: string): string {
  const isPlain = /^[A-Za-z_][A-Za-z0-9_./-]*$/.test(text) && !/^(true|false|null|yes|no|on|off|y|n)$/i.test(text);
  const isAddress = /^[0-9]{1,3}(\.[0-9]{1,3}){3}(\/[0-9]{1,2})?$/.test(text);
  if (isPlain || isAddress) return text;
  // U+2028 and its like are line breaks to some YAML readers.
  return JSON.stringify(text).replace(/[\u007f-\u009f\u2028\u2029\ufeff]/g, (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`);
}
