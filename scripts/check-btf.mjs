// Compares the struct layouts in a compiled BPF object's BTF with those of native/abi/dataplane.h, as generated into
// src/engine/abi.generated.ts. Fails closed: a difference, or a struct that the object lacks, is exit 1.
// Usage: node scripts/check-btf.mjs [OBJECT]     (default: build/bpf/steer.bpf.o)
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { readBtf } from './btf.mjs';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..');
const object = process.argv[2] ?? path.join(root, 'build/bpf/steer.bpf.o');

/** Structs that the engine and the program exchange through maps: the object must carry them. */
const EXCHANGED = ['sl_steer_port', 'sl_steer_vlan', 'sl_address', 'sl_local_address'];

/** STRUCTS of the generated file; its text is a literal of our own generator, so it is read without a TypeScript compiler. */
function readExpected() {
  const text = readFileSync(path.join(root, 'src/engine/abi.generated.ts'), 'utf8');
  const match = /export const STRUCTS = (\{[\s\S]*?\n\}) as const;/.exec(text);
  if (!match) throw new Error('src/engine/abi.generated.ts has no STRUCTS. Run: npm run abi');
  return Function(`"use strict"; return (${match[1]});`)();
}

const describe = ({ offset, type, count }) => `${type}${count > 1 ? `[${count}]` : ''} at ${offset}`;

function compare(name, expected, actual) {
  if (!actual) return EXCHANGED.includes(name) ? [`struct ${name} is missing in the object`] : [];
  const problems = [];
  if (actual.size !== expected.size) problems.push(`struct ${name} has ${actual.size} bytes in the object, ${expected.size} in the ABI`);
  const actualFields = new Map(actual.fields.map((field) => [field.name, field]));
  for (const [field, layout] of Object.entries(expected.fields)) {
    const found = actualFields.get(field);
    if (!found) problems.push(`${name}.${field} is missing in the object`);
    else if (describe(found) !== describe(layout)) problems.push(`${name}.${field} is ${describe(found)} in the object, ${describe(layout)} in the ABI`);
    actualFields.delete(field);
  }
  for (const field of actualFields.keys()) problems.push(`${name}.${field} is unknown to the ABI`);
  return problems;
}

try {
  const expected = readExpected();
  const { structs } = readBtf(object);
  const problems = Object.entries(expected).flatMap(([name, layout]) => compare(name, layout, structs[name]));
  for (const name of EXCHANGED) if (!expected[name]) problems.push(`struct ${name} is missing in the ABI`);
  for (const name of Object.keys(structs)) if (!expected[name]) problems.push(`struct ${name} of the object is unknown to the ABI`);
  if (problems.length > 0) throw new Error(`${problems.join('\n')}\nRun: npm run abi && scripts/build-bpf.sh`);
} catch (error) {
  console.error(`check-btf: ${object}: ${error.message}`);
  process.exit(1);
}
