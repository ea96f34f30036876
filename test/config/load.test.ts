// load.ts and check.ts on hostile input: never throw, never hang, always say something; and the limits one by one.
import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { checkFile } from '../../src/config/check.js';
import { CONFIG_BYTES_MAX, loadBytes, loadText } from '../../src/config/load.js';
import { PROBLEMS_MAX } from '../../src/config/problem.js';
import { compileSnapshot } from '../../src/config/compile.js';
import { ConfigError } from '../../src/config/problem.js';
import { brief, check, facts, random } from './support.js';

const example = readFileSync('config.example.yaml', 'utf8')
  .replace(/name: updates,/, 'name: updates, disabled: true,').replace(/name: inventory,/, 'name: inventory, disabled: true,');

test('mutations of the example neither throw nor pass what cannot be compiled', { timeout: 300_000 }, () => {
  const next = random(7);
  const WORDS = ['[', ']', '{', '}', ':', '- ', '&a ', '*a', '!x ', '\t', '\n', '"', '#', 'null', '0', '-1', '4294967296', 'any', '::/0', '0.0.0.0/0', '10.0.0.1', 'true', '[]', '{}', '~', '\u0000', '%', '|', '>', '? '];
  const lines = example.split('\n');
  let passed = 0;
  for (let i = 0; i < 3000; i++) {
    let text = lines.slice();
    for (let edits = 1 + Math.floor(next() * 2); edits > 0; edits--) {
      const at = Math.floor(next() * text.length);
      const line = text[at]!;
      const column = Math.floor(next() * (line.length + 1));
      const kind = next();
      if (kind < 0.3) text[at] = line.slice(0, column) + WORDS[Math.floor(next() * WORDS.length)]! + line.slice(column + Math.floor(next() * 4));
      else if (kind < 0.5) text[at] = line.slice(0, column) + line.slice(column + 1 + Math.floor(next() * 8));
      else if (kind < 0.7) text[at] = line.slice(0, column) + String.fromCharCode(32 + Math.floor(next() * 95)) + line.slice(column);
      else if (kind < 0.85) text.splice(at, 1);
      else text.splice(Math.floor(next() * text.length), 0, line);
    }
    const { config, problems } = check(text.join('\n'), facts);
    if (config === undefined) { expect(problems.some(({ severity }) => severity === 'error')).toBe(true); continue; }
    passed++;
    try {
      compileSnapshot(config, facts, i);
    } catch (error) {
      if (!(error instanceof ConfigError)) throw error;
      throw new Error(`check passed what compile refused: ${error.message}\n${text.join('\n')}`);
    }
  }
  expect(passed).toBeGreaterThan(100);
});

test('random bytes are refused with a place', () => {
  const next = random(3);
  for (let i = 0; i < 500; i++) {
    const bytes = Uint8Array.from({ length: Math.floor(next() * 300) }, () => Math.floor(next() * (i % 2 ? 256 : 128)));
    const { config, problems } = loadBytes(bytes, 'random');
    expect(config).toBeUndefined();
    expect(problems.length).toBeGreaterThan(0);
    for (const { line, column } of problems) expect(Math.min(line, column)).toBeGreaterThan(0);
  }
});

const nest = (open: string, times: number) => open.repeat(times);
test.each([
  ['empty', '', 'SLUICE_CONFIG_MISSING_KEY'],
  ['a scalar', 'hello', 'SLUICE_CONFIG_VALUE'],
  ['two documents', 'version: 1\n---\nversion: 1\n', 'SLUICE_CONFIG_SYNTAX'],
  ['deep brackets', nest('[', 100_000), 'SLUICE_CONFIG_SYNTAX'],
  ['deep dashes', nest('- ', 100_000), 'SLUICE_CONFIG_SYNTAX'],
  ['deep braces', nest('{a: ', 100_000), 'SLUICE_CONFIG_SYNTAX'],
  ['an alias of itself', 'version: 1\nobjects: &a { addresses: *a }\n', 'SLUICE_CONFIG_VALUE'],
  ['an alias of nothing', 'version: *a\n', 'SLUICE_CONFIG_SYNTAX'],
  ['a tag', 'version: !!js/function 1\n', 'SLUICE_CONFIG_SYNTAX'],
  ['an inherited key', 'version: 1\n__proto__: { a: 1 }\nconstructor: 1\n', 'SLUICE_CONFIG_UNKNOWN_KEY'],
  ['alias bomb', `a: &a [x,x,x,x,x,x,x,x,x]\n${'bcdefghi'.split('').map((c, i) => `${c}: &${c} [${Array(9).fill(`*${'abcdefgh'[i]}`).join()}]`).join('\n')}\n`, 'SLUICE_CONFIG_SYNTAX'],
])('%s', (_name, text, code) => {
  const { config, problems } = loadText(text, 'x');
  expect(config).toBeUndefined();
  expect(problems.map((problem) => problem.code)).toContain(code);
});

test('many keys, many duplicates, many faults: bounded', () => {
  const keys = Array.from({ length: 50_000 }, (_, i) => `k${i}: 1`).join('\n');
  const { problems } = loadText(`${keys}\n${keys}\n`, 'x');
  expect(problems.length).toBe(PROBLEMS_MAX + 1);
  expect(problems.at(-1)!.code).toBe('SLUICE_CONFIG_TOO_MANY_PROBLEMS');
}, 60_000);

test('texts of megabytes in JSON, with and without escapes', () => {
  for (const text of ['a'.repeat(12_000_000), '\\"'.repeat(500_000), '\\\\'.repeat(500_000)]) {
    expect(loadText(`{"version":1, "hostname" : "${text}"}`, 'x').problems.map(({ code }) => code)).toContain('SLUICE_CONFIG_TOO_LARGE');
  }
});

test('keys of JSON are counted as they are written', () => {
  expect(loadText('{"version":1,"hostname":"a\\":\\\\\\"","objects" :{"addresses":{}}}', 'x').problems.map(({ path }) => path)).toEqual(['hostname']);
  expect(loadText('{"version":1,"hostname":"a","hostname":"b"}', 'x').problems.map(({ code }) => code)).toEqual(['SLUICE_CONFIG_DUPLICATE_KEY']);
});

test('of a configuration in which 200,000 things are wrong the first is named, at once', () => {
  const begun = process.cpuUsage();
  for (const text of [`{"version":1,"routes":[${'1,'.repeat(200_000)}1]}`, `version: 1\nobjects: { addresses: { a: [${'1,'.repeat(200_000)}] } }\n`]) {
    expect(loadText(text, 'x').problems).toHaveLength(1);
  }
  expect(process.cpuUsage(begun).user / 1e6).toBeLessThan(4); // all of them: 5 s each
});

test('more values than any configuration has are refused before they are read', () => {
  for (const text of [`{"version":1,"routes":[${'1,'.repeat(5_000_000)}1]}`, `version: 1\nroutes:\n${'- \n'.repeat(5_000_000)}`]) {
    expect(loadText(text, 'x').problems).toMatchObject([{ code: 'SLUICE_CONFIG_TOO_LARGE', message: 'more than 4000000 values' }]);
  }
});

test('a file past the limit, a missing file, a directory, bytes that are no text', () => {
  expect(loadText(' '.repeat(CONFIG_BYTES_MAX + 1), 'x').problems.map(({ code }) => code)).toEqual(['SLUICE_CONFIG_TOO_LARGE']);
  for (const [file, message] of [['/nonexistent/file.yaml', 'there is no such file'], ['/dev/null/file.yaml', 'there is no such file'], ['/', 'it is a directory, not a file']] as const) {
    expect(checkFile(file).problems, file).toMatchObject([{ code: 'SLUICE_CONFIG_UNREADABLE', message }]);
  }
  expect(loadBytes(Uint8Array.of(0xff, 0xfe, 0x41), 'x').problems.map(({ code }) => code)).toEqual(['SLUICE_CONFIG_SYNTAX']);
});

test('groups of groups are bounded in depth and size', () => {
  const chain = Array.from({ length: 40 }, (_, i) => `    g${i}: [g${i + 1}]`).join('\n');
  expect(brief(check(`version: 1\nobjects:\n  addresses:\n${chain}\n    g40: [10.0.0.1]\n`).problems)).toEqual(['4 objects.addresses.g0 SLUICE_OBJECT_TOO_LARGE']);
});

test('line endings and a byte order mark do not move positions', () => {
  expect(brief(check('\ufeffversion: 1\r\nhostnam: a\r\n').problems)).toEqual(['2 hostnam SLUICE_CONFIG_UNKNOWN_KEY']);
});
