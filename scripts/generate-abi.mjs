// Generates src/engine/abi.generated.ts (TypeScript's side of the contract) from native/abi/dataplane.h.
// Usage: node scripts/generate-abi.mjs [--check]     --check: write nothing, exit 1 when the checked-in file is stale.
//
// The compiler reads the header, not this script: (1) a stub that uses each struct, enum and constant is compiled for BPF,
// and its BTF gives layouts and values; (2) the preprocessor expands the X-macro lists into JSON. Only the *names* to ask
// for are found by pattern, and the header's own _COUNT enumerators prove that no entry was lost.
import { mkdtempSync, readFileSync, rmSync, writeFileSync, mkdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { readBtf, run } from './btf.mjs';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..');
const HEADER = path.join(root, 'native/abi/dataplane.h');
const OUTPUT = path.join(root, 'src/engine/abi.generated.ts');

const pascal = (name) => name.replace(/^sl_/, '').split('_').map((word) => word[0].toUpperCase() + word.slice(1)).join('');
const camel = (name) => name.replace(/_(\w)/g, (_, letter) => letter.toUpperCase());
const upper = (name) => name.replace(/^sl_/, '').toUpperCase();
const quote = (text) => `'${text.replace(/[\\']/g, '\\$&')}'`;
const isReserved = (field) => field.name.startsWith('reserved');

/** What the header declares: structs, enums with their lists, constants; in the header's order. */
function readHeader() {
  const text = readFileSync(HEADER, 'utf8').replace(/\\\n/g, ' ');
  const structNames = [...text.matchAll(/^struct (sl_\w+) \{/gm)].map((match) => match[1]);
  const lists = [...text.matchAll(/^enum (sl_\w+) \{ (SL_\w+)\(SL_X_\w+\) (SL_\w+_COUNT) \};/gm)].map(([, enumName, list, count]) => ({ enumName, list, count }));
  const constants = [...text.matchAll(/^#define (SL_\w+)[ \t]+[^\s/]/gm)].map((match) => match[1]);

  for (const [, list] of text.matchAll(/^#define (SL_\w+)\(X\)/gm)) {
    if (!lists.some((entry) => entry.list === list)) throw new Error(`${list} has no line «enum sl_… { ${list}(SL_X_…) SL_…_COUNT };» in dataplane.h`);
  }

  const directory = mkdtempSync(path.join(tmpdir(), 'sluice-abi-'));
  try {
    const stub = path.join(directory, 'stub.c');
    const object = path.join(directory, 'stub.o');
    const machine = run('cc', ['-dumpmachine']).trim();
    const flags = ['-target', 'bpf', '-g', '-O2', `-I/usr/include/${machine}`];
    writeFileSync(stub, [
      '#include <linux/types.h>',
      `#include "${HEADER}"`,
      ...structNames.map((name) => `struct ${name} use_${name};`),
      ...lists.map(({ enumName }) => `enum ${enumName} use_enum_${enumName};`),
      `enum sl_constants { ${constants.map((name) => `SL_CONSTANT_${name} = (${name})`).join(', ')} } use_constants;`,
    ].join('\n'));
    run('clang', [...flags, '-c', stub, '-o', object]);
    const { structs, enums } = readBtf(object);

    writeFileSync(stub, [
      `#include "${HEADER}"`,
      '#define SL_TO_JSON(name, text, help) [#name, text, help],',
      ...lists.map(({ list }) => `"@@${list}" : [ ${list}(SL_TO_JSON) 0]`),
    ].join('\n'));
    const expanded = run('clang', [...flags, '-E', '-P', '-include', 'linux/types.h', stub]);
    for (const entry of lists) {
      const line = expanded.split('\n').find((candidate) => candidate.startsWith(`"@@${entry.list}"`));
      const json = line.slice(line.indexOf(':') + 1).replace(/"\s+"/g, ''); // C joins neighbouring strings
      entry.items = JSON.parse(json).slice(0, -1).map(([key, name, help], value) => ({ key, name, help, value }));
      const values = enums[entry.enumName];
      if (values?.[entry.count] !== entry.items.length) throw new Error(`${entry.list}: ${entry.items.length} entries read, but ${entry.count} is ${values?.[entry.count]}`);
      for (const { key, value } of entry.items) {
        if (!Object.entries(values).some(([name, number]) => name.endsWith(`_${key}`) && number === value)) throw new Error(`${entry.list}: ${key} is not ${value} in enum ${entry.enumName}`);
      }
    }
    const constantValues = constants.map((name) => [name, enums.sl_constants[`SL_CONSTANT_${name}`]]);
    for (const [name, value] of constantValues) if (!Number.isInteger(value)) throw new Error(`${name} has no integer value`);
    return { structs: structNames.map((name) => ({ name, ...structs[name] })), lists, constants: constantValues };
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

// ---- TypeScript ------------------------------------------------------------------------------------------------------

const SCALARS = { u8: ['number', 'Uint8', ''], u16: ['number', 'Uint16', ', true'], u32: ['number', 'Uint32', ', true'], u64: ['bigint', 'BigUint64', ', true'] };

function typeOf({ type, count }) {
  if (type === 'sl_address') return count === 1 ? 'Uint8Array' : 'Uint8Array[]';
  if (type === 'u8' && count > 1) return 'Uint8Array';
  const single = SCALARS[type]?.[0] ?? pascal(type);
  return count === 1 ? single : `[${Array(count).fill(single).join(', ')}]`;
}

function readOne(type, at) {
  if (type === 'sl_address') return `bytesAt(view, ${at}, 16)`;
  const scalar = SCALARS[type];
  return scalar ? `view.get${scalar[1]}(${at}${scalar[2]})` : `read${pascal(type)}(view, ${at})`;
}

function readField(field, sizes) {
  const at = (index) => (field.offset + index * sizes[field.type] ? `offset + ${field.offset + index * sizes[field.type]}` : 'offset');
  if (field.count === 1) return readOne(field.type, at(0));
  if (field.type === 'u8') return `bytesAt(view, ${at(0)}, ${field.count})`;
  return `[${Array.from({ length: field.count }, (_, index) => readOne(field.type, at(index))).join(', ')}]`;
}

function writeField(struct, field, sizes) {
  const label = quote(`${struct.name}.${field.name}`);
  const at = (index) => (field.offset + index * sizes[field.type] ? `offset + ${field.offset + index * sizes[field.type]}` : 'offset');
  const writeOne = (value, index) => {
    if (field.type === 'sl_address') return `putBytes(view, ${at(index)}, ${value}, 16, ${label});`;
    if (SCALARS[field.type]) return `put${field.type.toUpperCase()}(view, ${at(index)}, ${value}, ${label});`;
    return `write${pascal(field.type)}(view, ${at(index)}, ${value});`;
  };
  const value = `value.${camel(field.name)}`;
  if (isReserved(field)) return `bytesAt(view, ${at(0)}, ${field.count * sizes[field.type]}).fill(0);`;
  if (field.count === 1) return writeOne(value, 0);
  if (field.type === 'u8') return `putBytes(view, ${at(0)}, ${value}, ${field.count}, ${label});`;
  return Array.from({ length: field.count }, (_, index) => writeOne(`${value}[${index}]`, index)).join(' ');
}

/** The header's own rule: padding is explicit. A hole would carry uninitialised bytes across the boundary. */
function refuseHoles(structs, sizes) {
  for (const { name, size, fields } of structs) {
    let end = 0;
    for (const field of [...fields, { name: '(its end)', offset: size, type: 'u8', count: 0 }]) {
      if (field.offset !== end) throw new Error(`struct ${name}: ${field.offset - end} bytes of implicit padding before ${field.name}; name them reserved`);
      end = field.offset + field.count * sizes[field.type];
    }
  }
}

function generate({ structs, lists, constants }) {
  const sizes = { u8: 1, u16: 2, u32: 4, u64: 8, ...Object.fromEntries(structs.map(({ name, size }) => [name, size])) };
  refuseHoles(structs, sizes);
  const out = [];
  out.push(
    '// Generated from native/abi/dataplane.h by scripts/generate-abi.mjs. Do not edit: change the header and run `npm run abi`.',
    '// Readers return views for byte fields (addresses, MACs): they share the buffer; copy what must outlive it.',
    '// Writers check each value against its field and throw RangeError; they set reserved fields to zero.',
    '',
    '// ---- constants ----',
    ...constants.map(([name, value]) => `export const ${name} = ${value};`),
    '',
    '// ---- lists that people see ----',
    'export interface ListEntry { readonly value: number; readonly name: string; readonly help: string }',
  );
  for (const { enumName, list, count, items } of lists) {
    const name = pascal(enumName);
    out.push(
      '',
      `export const ${name} = { ${items.map(({ key, value }) => `${key}: ${value}`).join(', ')} } as const;`,
      `export type ${name} = (typeof ${name})[keyof typeof ${name}];`,
      `export const ${count} = ${items.length};`,
      `export const ${list.replace(/^SL_/, '')}: readonly ListEntry[] = [`,
      ...items.map(({ value, name: text, help }) => `  { value: ${value}, name: ${quote(text)}, help: ${quote(help)} },`),
      '];',
    );
  }
  out.push(
    '',
    '// ---- layouts ----',
    'export const STRUCTS = {',
    ...structs.flatMap(({ name, size, fields }) => [
      `  ${name}: { size: ${size}, fields: {`,
      ...fields.map((field) => `    ${field.name}: { offset: ${field.offset}, size: ${sizes[field.type] * field.count}, type: ${quote(field.type)}, count: ${field.count} },`),
      '  } },',
    ]),
    '} as const;',
    '',
    ...structs.map(({ name, size }) => `export const ${upper(name)}_BYTES = ${size};`),
    '',
    '// ---- readers and writers ----',
    'function bytesAt(view: DataView, offset: number, length: number): Uint8Array {',
    '  return new Uint8Array(view.buffer, view.byteOffset + offset, length);',
    '}',
    'function putBytes(view: DataView, offset: number, value: Uint8Array, length: number, field: string): void {',
    '  if (value.length !== length) throw new RangeError(`${field} takes ${length} bytes, not ${value.length}`);',
    '  bytesAt(view, offset, length).set(value);',
    '}',
    ...['u8', 'u16', 'u32'].flatMap((type) => [
      `function put${type.toUpperCase()}(view: DataView, offset: number, value: number, field: string): void {`,
      `  if (!Number.isInteger(value) || value < 0 || value > ${2 ** (sizes[type] * 8) - 1}) throw new RangeError(\`\${field} takes 0..${2 ** (sizes[type] * 8) - 1}, not \${value}\`);`,
      `  view.set${SCALARS[type][1]}(offset, value${SCALARS[type][2]});`,
      '}',
    ]),
    'function putU64(view: DataView, offset: number, value: bigint, field: string): void {',
    '  if (value < 0n || value > 0xffffffffffffffffn) throw new RangeError(`${field} takes 0..2^64-1, not ${value}`);',
    '  view.setBigUint64(offset, value, true);',
    '}',
  );
  for (const struct of structs) {
    if (struct.name === 'sl_address') continue; // a Uint8Array(16), read and written in place
    const name = pascal(struct.name);
    const visible = struct.fields.filter((field) => !isReserved(field));
    out.push(
      '',
      `export interface ${name} {`,
      ...visible.map((field) => `  ${camel(field.name)}: ${typeOf(field)};`),
      '}',
      `export function read${name}(view: DataView, offset: number): ${name} {`,
      '  return {',
      ...visible.map((field) => `    ${camel(field.name)}: ${readField(field, sizes)},`),
      '  };',
      '}',
      `export function write${name}(view: DataView, offset: number, value: ${name}): void {`,
      ...struct.fields.map((field) => `  ${writeField(struct, field, sizes)}`),
      '}',
    );
  }
  return `${out.join('\n')}\n`;
}

const args = process.argv.slice(2);
if (args.some((arg) => arg !== '--check')) {
  console.error('usage: node scripts/generate-abi.mjs [--check]');
  process.exit(2);
}
const generated = generate(readHeader());
if (args.includes('--check')) {
  let current = '';
  try { current = readFileSync(OUTPUT, 'utf8'); } catch { /* missing counts as stale */ }
  if (current !== generated) {
    console.error('src/engine/abi.generated.ts is stale: native/abi/dataplane.h has changed. Run: npm run abi');
    process.exit(1);
  }
} else {
  mkdirSync(path.dirname(OUTPUT), { recursive: true });
  writeFileSync(OUTPUT, generated);
}
