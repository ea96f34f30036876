// The audit log: lines in a chain, over restarts and files; and what verification says when somebody touched them.
import { execFileSync } from 'node:child_process';
import { appendFileSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { makeLine, parseLine } from '../../src/audit/chain.js';
import { AuditLog, CURRENT_FILE, HEAD_FILE, rotatedFiles, type AuditLimits } from '../../src/audit/log.js';
import { auditFiles, readLast, verifyAudit } from '../../src/audit/read.js';

function makeDirectory(): string {
  const directory = mkdtempSync(join(tmpdir(), 'sluice-audit-'));
  onTestFinished(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}

/** A closed log of `count` lines. */
function makeLog(count: number, limits?: AuditLimits, by = 'somebody'): string {
  const directory = makeDirectory();
  const log = AuditLog.open(directory, limits ? { limits } : {});
  for (let n = 1; n <= count; n += 1) log.append({ event: 'system', by: { name: by, via: 'system' }, detail: { n } });
  log.close();
  return directory;
}

const current = (directory: string): string => join(directory, CURRENT_FILE);
const linesIn = (path: string): string[] => readFileSync(path, 'utf8').split('\n').slice(0, -1);
const write = (path: string, lines: readonly string[]): void => writeFileSync(path, lines.map((line) => `${line}\n`).join(''));

const set = (lines: readonly string[], at: number, line: string): string[] => lines.map((one, index) => (index === at ? line : one));
const splice = (lines: readonly string[], at: number, count: number, ...added: string[]): string[] => [...lines.slice(0, at), ...added, ...lines.slice(at + count)];

describe('a log', () => {
  test('is whole, numbered and readable by others\' means', async () => {
    const directory = makeLog(5);
    expect(await verifyAudit(directory)).toMatchObject({ isWhole: true, lines: 5, first: 1, head: { sequence: 5 }, problems: [] });
    expect(linesIn(current(directory)).map((line) => (JSON.parse(line) as { sequence: number }).sequence)).toEqual([1, 2, 3, 4, 5]);
    expect(statSync(current(directory)).mode & 0o777).toBe(0o600);
  });

  test('goes on with its chain after a restart, and after a killed process', async () => {
    const directory = makeLog(3);
    const killed = AuditLog.open(directory); // never closed: its lines are with the kernel, its head is old
    killed.append({ event: 'system' });
    killed.append({ event: 'system' });
    const log = AuditLog.open(directory);
    expect(log.head.sequence).toBe(5);
    log.append({ event: 'system' });
    log.close();
    expect(await verifyAudit(directory)).toMatchObject({ isWhole: true, lines: 6 });
  });

  test('is durable when sync says so, also for lines of others meanwhile', async () => {
    const directory = makeDirectory();
    const log = AuditLog.open(directory);
    log.append({ event: 'system' });
    const first = log.sync();
    log.append({ event: 'system' });
    await Promise.all([first, log.sync()]);
    expect(readFileSync(join(directory, HEAD_FILE), 'utf8')).toBe(`2 ${log.head.hash}`.padEnd(95) + '\n');
    log.close();
  });

  test('tells its listeners each line as it stands in the file', () => {
    const directory = makeDirectory();
    const log = AuditLog.open(directory);
    const told: object[] = [];
    log.listeners.push((record) => void told.push(record));
    log.append({ event: 'system' });
    log.append({ event: 'refused', status: 401 });
    log.close();
    expect(told).toEqual(linesIn(current(directory)).map((line) => JSON.parse(line) as object));
  });

  test('rotates with its chain, and says what it deletes', async () => {
    const directory = makeLog(60, { fileBytes: 1000, files: 3 });
    expect(rotatedFiles(directory)).toHaveLength(3);
    const verification = await verifyAudit(directory);
    expect(verification).toMatchObject({ isWhole: true, problems: [] });
    expect(verification.first).toBeGreaterThan(1);
    expect(verification.head!.sequence).toBeGreaterThan(60); // the deletions are lines, too
    const last = await readLast(directory, 12);
    expect(last.map((line) => line.sequence)).toEqual(Array.from({ length: 12 }, (_, n) => verification.head!.sequence - 11 + n));
  });

  test('keeps a line within its bound, whatever was asked', async () => {
    const directory = makeDirectory();
    const log = AuditLog.open(directory);
    log.append({ event: 'refused', path: `/${'x'.repeat(50_000)}`, detail: { much: 'y'.repeat(50_000) } });
    log.append({ event: 'refused', path: '/a\u2028b\nc', by: { name: '"},{"hash":"', via: 'socket' } });
    log.close();
    expect(await verifyAudit(directory)).toMatchObject({ isWhole: true, lines: 2 });
    expect(Math.max(...linesIn(current(directory)).map((line) => line.length))).toBeLessThan(4096);
  });

  test('half a line at the end (power cut) is cut off, said, and nothing else lost', async () => {
    const directory = makeLog(3);
    appendFileSync(current(directory), '{"sequence":4,"time":"20');
    expect(await verifyAudit(directory)).toMatchObject({ isWhole: false, problems: [{ kind: 'cut-off', line: 4 }] });
    const log = AuditLog.open(directory);
    log.append({ event: 'system' });
    log.close();
    expect(await verifyAudit(directory)).toMatchObject({ isWhole: true, lines: 5 });
    expect((await readLast(directory, 2))[0]).toMatchObject({ event: 'recovered', detail: { cutBytes: 24 } });
  });

  test('a full disk: the line is refused whole, and the next one fits', () => {
    const directory = makeDirectory();
    const log = AuditLog.open(directory);
    log.append({ event: 'system' });
    const before = readFileSync(current(directory), 'utf8');
    // A wrong descriptor is like no room: the write fails, the file stays as it was.
    const inner = log as unknown as { file: number };
    const file = inner.file;
    inner.file = 100_000;
    expect(() => log.append({ event: 'request' })).toThrow(expect.objectContaining({ code: 'SLUICE_AUDIT_WRITE' }) as Error);
    inner.file = file;
    expect(readFileSync(current(directory), 'utf8')).toBe(before);
    expect(log.append({ event: 'request' }).sequence).toBe(2);
    log.close();
  });
});

test('a log that cannot be opened refuses lines until it can, and nothing else', async () => {
  const directory = join(makeDirectory(), 'audit');
  writeFileSync(directory, ''); // a file where its directory should be
  const told: string[] = [];
  const log = AuditLog.open(directory, { failed: ({ code }) => void told.push(code) });
  expect(told).toEqual(['SLUICE_AUDIT_WRITE']);
  expect(() => log.append({ event: 'request' })).toThrow(expect.objectContaining({ code: 'SLUICE_AUDIT_WRITE' }) as Error);
  await log.sync();
  rmSync(directory);
  expect(log.append({ event: 'request' }).sequence).toBe(1);
  log.close();
  expect((await verifyAudit(directory)).isWhole).toBe(true);
});

test.skipIf(process.getuid?.() !== 0)('a disk that fills up: whole lines or none, over and over, and on when there is room', async () => {
  const directory = makeDirectory();
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'sluice-test', directory]);
  onTestFinished(() => void execFileSync('umount', ['-l', directory]));
  const log = AuditLog.open(directory);
  let refused = 0;
  const append = (): void => {
    try {
      log.append({ event: 'system', detail: { text: 'x'.repeat(700) } });
    } catch (error) {
      expect(error).toMatchObject({ code: 'SLUICE_AUDIT_WRITE', message: expect.stringMatching(/ENOSPC|only \d+ of \d+ bytes/) as string });
      refused += 1;
    }
  };
  writeFileSync(join(directory, 'ballast'), Buffer.alloc(24 * 1024));
  for (let n = 0; n < 200; n += 1) append();
  expect(refused).toBeGreaterThan(100);
  rmSync(join(directory, 'ballast'));
  const before = refused;
  append();
  expect(refused).toBe(before);
  log.close();
  expect(await verifyAudit(directory)).toMatchObject({ isWhole: true, lines: 201 - refused });
});

test('a rotation that fails moves nothing, and is made up for', async () => {
  const directory = makeDirectory();
  const log = AuditLog.open(directory, { limits: { fileBytes: 300, files: 9 } });
  const fill = (): void => void log.append({ event: 'system', detail: { text: 'x'.repeat(200) } });
  fill();
  mkdirSync(join(directory, 'audit.next', 'x'), { recursive: true }); // the next file cannot be made
  expect(fill).toThrow(expect.objectContaining({ code: 'SLUICE_AUDIT_WRITE' }) as Error);
  rmSync(join(directory, 'audit.next'), { recursive: true });
  fill();
  log.close();
  expect(rotatedFiles(directory)).toHaveLength(1);
  expect(await verifyAudit(directory)).toMatchObject({ isWhole: true, lines: 2 });
});

describe('verification finds', () => {
  const tampered: [string, (lines: string[], directory: string) => string[] | void, object[]][] = [
    ['a changed line', (lines) => set(lines, 4, lines[4]!.replace('"n":5', '"n":6')), [{ kind: 'altered', sequence: 5, line: 5 }]],
    ['a changed line with a hash that fits it', (lines) => {
      const { previous } = parseLine(lines[4]!)!;
      return set(lines, 4, makeLine(5, '2026-01-01T00:00:00.000Z', previous, { event: 'system', detail: { n: 6 } }).line.trimEnd());
    }, [{ kind: 'altered', sequence: 5 }]],
    ['a changed last line with a hash that fits it', (lines) => {
      const { previous } = parseLine(lines[9]!)!;
      return set(lines, 9, makeLine(10, '2026-01-01T00:00:00.000Z', previous, { event: 'system' }).line.trimEnd());
    }, [{ kind: 'altered', sequence: 10 }]],
    ['a changed hash', (lines) => set(lines, 4, lines[4]!.replace(/"hash":"./, '"hash":"_')), [{ kind: 'altered', sequence: 5 }, { kind: 'altered', sequence: 5 }]],
    ['a line that is no JSON', (lines) => set(lines, 4, 'nothing'), [{ kind: 'altered', sequence: 5, line: 5 }]],
    ['a missing line', (lines) => splice(lines, 4, 1), [{ kind: 'removed', from: 5, to: 5, line: 5 }]],
    ['missing lines', (lines) => splice(lines, 4, 3), [{ kind: 'removed', from: 5, to: 7 }]],
    ['missing lines at the start', (lines) => lines.slice(3), [{ kind: 'removed', from: 1, to: 3 }]],
    ['missing lines at the end', (lines) => lines.slice(0, 8), [{ kind: 'removed', from: 9, to: 10 }]],
    ['all lines missing', () => [], [{ kind: 'removed', from: 1, to: 10 }]],
    ['a line twice', (lines) => splice(lines, 4, 0, lines[3]!), [{ kind: 'inserted', sequence: 4, line: 5 }]],
    ['two lines exchanged', (lines) => set(set(lines, 4, lines[5]!), 5, lines[4]!), [{ kind: 'removed', from: 5, to: 5 }, { kind: 'inserted', sequence: 5 }]],
    ['a last line cut short', (lines, directory) => {
      write(current(directory), lines);
      truncateSync(current(directory), statSync(current(directory)).size - 5);
    }, [{ kind: 'cut-off', line: 10 }, { kind: 'removed', from: 10, to: 10 }]],
    ['a missing head', (_lines, directory) => rmSync(join(directory, HEAD_FILE)), [{ kind: 'cut-off' }]],
    ['a damaged head', (_lines, directory) => writeFileSync(join(directory, HEAD_FILE), ''), [{ kind: 'cut-off' }]],
  ];
  test.each(tampered)('%s', async (_name, tamper, problems) => {
    const directory = makeLog(10);
    const changed = tamper(linesIn(current(directory)), directory);
    if (changed) write(current(directory), changed);
    const verification = await verifyAudit(directory);
    expect(verification.isWhole).toBe(false);
    expect(verification.problems).toMatchObject(problems);
    expect(verification.problems).toHaveLength(problems.length);
  });

  test('a missing file in the middle', async () => {
    const directory = makeLog(60, { fileBytes: 1200, files: 64 });
    const file = auditFiles(directory)[2]!;
    const gone = linesIn(join(directory, file)).map((line) => parseLine(line)!.sequence);
    rmSync(join(directory, file));
    expect((await verifyAudit(directory)).problems).toMatchObject([{ kind: 'removed', from: gone[0], to: gone.at(-1) }]);
    expect(readdirSync(directory)).not.toContain(file);
  });

  test('a log written anew as a whole, when a line of the old one was noted elsewhere', async () => {
    const noted = (await verifyAudit(makeLog(10))).head!;
    const forged = makeLog(10, undefined, 'nobody');
    expect((await verifyAudit(forged)).isWhole).toBe(true);
    expect(await verifyAudit(forged, noted)).toMatchObject({ isWhole: false, problems: [{ kind: 'altered', sequence: 10 }] });
    expect(await verifyAudit(makeLog(4), noted)).toMatchObject({ isWhole: false, problems: [{ kind: 'removed', from: 10 }] });
  });
});
