// Reads struct layouts and enums out of an object file's BTF, with bpftool. Used by generate-abi.mjs and check-btf.mjs.
import { execFileSync } from 'node:child_process';

const PATH = `${process.env.PATH ?? ''}:/usr/sbin:/sbin`; // bpftool stands in /usr/sbin, which users' PATHs lack

/** Runs a tool and returns its standard output; a missing tool's error says which package has it. */
export function run(command, args, options = {}) {
  try {
    return execFileSync(command, args, { env: { ...process.env, PATH }, encoding: 'utf8', maxBuffer: 64 << 20, stdio: ['pipe', 'pipe', 'pipe'], ...options });
  } catch (error) {
    if (error.code === 'ENOENT') throw new Error(`${command} is not installed: apt-get install ${command} (or: npm run setup)`);
    throw new Error(`${command} ${args.join(' ')} failed:\n${error.stderr ?? error.message}`);
  }
}

/**
 * Returns {structs, enums}: structs by C name → {size, fields: [{name, offset, type, count}]}, where type is 'u8' … 'u64'
 * or another struct's C name, count is 1 for what is no array; enums by C name → {enumerator: value}.
 */
export function readBtf(objectFile) {
  const { types } = JSON.parse(run('bpftool', ['-j', 'btf', 'dump', 'file', objectFile, 'format', 'raw']));
  const byId = new Map(types.map((type) => [type.id, type]));
  const resolve = (id) => {
    let type = byId.get(id);
    while (['TYPEDEF', 'CONST', 'VOLATILE', 'RESTRICT', 'TYPE_TAG'].includes(type?.kind)) type = byId.get(type.type_id);
    return type;
  };
  const structs = {};
  const enums = {};
  for (const type of types) {
    if (type.kind === 'ENUM') enums[type.name] = Object.fromEntries(type.values.map(({ name, val }) => [name, val]));
    if (type.kind !== 'STRUCT' || !type.name.startsWith('sl_')) continue;
    structs[type.name] = { size: type.size, fields: type.members.map((member) => describe(type.name, member)) };
  }
  return { structs, enums };

  function describe(structName, member) {
    let type = resolve(member.type_id);
    let count = 1;
    while (type?.kind === 'ARRAY') {
      count *= type.nr_elems;
      type = resolve(type.type_id);
    }
    const field = { name: member.name, offset: member.bits_offset / 8, type: '', count };
    if (type?.kind === 'INT' && type.encoding === '(none)') field.type = `u${type.size * 8}`;
    else if (type?.kind === 'STRUCT') field.type = type.name;
    if (!field.type || !Number.isInteger(field.offset) || member.bitfield_size) {
      throw new Error(`struct ${structName}: field ${member.name} is neither an unsigned integer nor a struct, nor an array of them`);
    }
    return field;
  }
}
