// The file sink on a real disk: rotation by size and age, number of files, compression, files that others move, lines that a crash cut,
// disks that refuse. And standard output that nobody reads.
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { closeSync, constants, openSync, readdirSync, readFileSync, readSync, readlinkSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { describe, expect, onTestFinished, test } from 'vitest';
import { FileSink, type Rotation } from '../../src/flowlog/file-sink.js';
import { StdoutSink } from '../../src/flowlog/stdout-sink.js';
import { temporaryDirectory } from './support.js';

const MEGABYTE = 1024 * 1024;
const NO_ROTATION: Rotation = { bytes: 1024 * MEGABYTE, files: 10, gzip: false };

interface Bench { sink: FileSink; path: string; directory: string; said: string[]; clock: { ms: number } }

function open(rotation: Partial<Rotation> = {}, directory = temporaryDirectory(), bufferBytes = 16 * MEGABYTE): Bench {
  const path = join(directory, 'flows.jsonl');
  const said: string[] = [];
  const clock = { ms: Date.parse('2026-11-21T17:00:00.000Z') };
  const sink = new FileSink(path, { ...NO_ROTATION, ...rotation }, bufferBytes, (isUp, message) => void said.push(`${isUp ? 'up' : 'down'}: ${message}`), () => clock.ms);
  onTestFinished(() => sink.close(0));
  return { sink, path, directory, said, clock };
}

const line = (n: number, length = 100): Buffer => Buffer.from(`${JSON.stringify({ n }).padEnd(length - 1)}\n`);

async function write({ sink }: Bench, from: number, to: number, length?: number): Promise<void> {
  const before = sink.stats.sent + sink.stats.lost;
  for (let n = from; n < to; n += 1) sink.push({ bytes: line(n, length), records: 1 });
  await expect.poll(() => sink.stats.sent + sink.stats.lost).toBe(before + to - from);
}

/** Every line of all files, in the order of their names, the current one last. */
function numbersIn({ directory, path }: Bench): number[] {
  const old = readdirSync(directory).filter((name) => name.startsWith('flows.jsonl.')).sort().map((name) => {
    const bytes = readFileSync(join(directory, name));
    return name.endsWith('.gz') ? gunzipSync(bytes) : bytes;
  });
  return [...old, readFileSync(path)].flatMap((bytes) => bytes.toString().split('\n').filter((one) => one.trim() !== '').map((one) => (JSON.parse(one) as { n: number }).n));
}

const range = (from: number, to: number): number[] => Array.from({ length: to - from }, (_, index) => from + index);

describe('rotation', () => {
  test('by size: no line lost, none cut, none twice', async () => {
    const bench = open({ bytes: 10_000 });
    for (let n = 0; n < 1000; n += 50) {
      await write(bench, n, n + 50);
      bench.clock.ms += 1000;
    }
    await bench.sink.settled;
    const names = readdirSync(bench.directory);
    expect(names.length).toBeGreaterThan(5);
    expect(names.filter((name) => name !== 'flows.jsonl').every((name) => /^flows\.jsonl\.20261121T17\d{4}\.\d{3}Z$/.test(name))).toBe(true);
    expect(numbersIn(bench)).toEqual(range(names.length > 11 ? 1000 - numbersIn(bench).length : 0, 1000));
  });

  test('keeps so many files, the newest', async () => {
    const bench = open({ bytes: 1000, files: 3 });
    for (let n = 0; n < 100; n += 10) {
      await write(bench, n, n + 10);
      bench.clock.ms += 1000;
    }
    await bench.sink.settled;
    expect(readdirSync(bench.directory)).toHaveLength(4);
    expect(numbersIn(bench)).toEqual(range(60, 100));
  });

  test('by age, and several within one millisecond', async () => {
    const bench = open({ hours: 1, bytes: 300 });
    await write(bench, 0, 2);
    bench.clock.ms += 3_599_999;
    await write(bench, 2, 3);
    expect(readdirSync(bench.directory)).toEqual(['flows.jsonl']);
    bench.clock.ms += 1;
    await write(bench, 3, 4); // of age, and over its size
    await write(bench, 4, 8);
    await write(bench, 8, 12);
    await bench.sink.settled;
    const names = readdirSync(bench.directory).sort();
    expect(names).toContain('flows.jsonl.20261121T180000.000Z');
    expect(names).toContain('flows.jsonl.20261121T180000.000Z-1');
    expect(numbersIn(bench).sort((a, b) => a - b)).toEqual(range(0, 12));
  });

  test('compressed, and what a cut compression left is removed', async () => {
    const directory = temporaryDirectory();
    writeFileSync(join(directory, 'flows.jsonl.20260101T000000.000Z.gz.tmp'), 'half');
    writeFileSync(join(directory, 'flows.jsonl.mine'), 'not ours to remove');
    const bench = open({ bytes: 2000, gzip: true }, directory);
    for (let n = 0; n < 60; n += 20) {
      await write(bench, n, n + 20);
      bench.clock.ms += 1000;
    }
    await bench.sink.settled;
    const names = readdirSync(directory).sort();
    expect(names.filter((name) => name.endsWith('.gz'))).toHaveLength(2);
    expect(names.some((name) => name.endsWith('.tmp'))).toBe(false);
    expect(names).toContain('flows.jsonl.mine');
    rmSync(join(directory, 'flows.jsonl.mine'));
    expect(numbersIn(bench)).toEqual(range(0, 60));
  });
});

test('files that come faster than they can be compressed: those of too many are gone before their turn, which is no failure', async () => {
  const bench = open({ bytes: MEGABYTE, gzip: true, files: 2 }, temporaryDirectory(), 256 * MEGABYTE);
  const run = Buffer.concat([randomBytes(64 * 1024 - 1), Buffer.from('\n')]);
  for (let n = 0; n < 640; n += 1) bench.sink.push({ bytes: run, records: 1 }); // 32 a write: 20 files
  await expect.poll(() => bench.sink.stats.sent).toBe(640);
  await bench.sink.settled;
  expect(readdirSync(bench.directory).filter((name) => name.endsWith('.gz'))).toHaveLength(2);
  expect(readdirSync(bench.directory)).toHaveLength(3);
  expect([bench.sink.stats.failures, bench.said]).toEqual([0, []]);
});

describe('the file', () => {
  test('is appended to; a line that a crash cut is ended first', async () => {
    const directory = temporaryDirectory();
    writeFileSync(join(directory, 'flows.jsonl'), '{"n":0}\n{"n":1,"cu');
    const bench = open({}, directory);
    await write(bench, 2, 4);
    const lines = readFileSync(bench.path, 'utf8').split('\n');
    expect([lines[0], lines[1], JSON.parse(lines[2]!), JSON.parse(lines[3]!), lines[4]]).toEqual(['{"n":0}', '{"n":1,"cu', { n: 2 }, { n: 3 }, '']);
  });

  test('is made anew when somebody moved or removed it', async () => {
    const bench = open();
    await write(bench, 0, 2);
    renameSync(bench.path, join(bench.directory, 'moved'));
    bench.clock.ms += 5000;
    await write(bench, 2, 4);
    rmSync(bench.path);
    bench.clock.ms += 5000;
    await write(bench, 4, 6);
    expect(numbersIn(bench)).toEqual([4, 5]);
    expect(statSync(bench.path).mode & 0o777).toBe(0o640);
  });

  test('that cannot be: said once, records counted, and it goes on when it can', async () => {
    const directory = join(temporaryDirectory(), 'sub');
    writeFileSync(directory, 'a file where a directory should be');
    const bench = open({}, directory, 1000);
    for (let n = 0; n < 100; n += 1) bench.sink.push({ bytes: line(n), records: 1 });
    await expect.poll(() => bench.sink.stats.failures).toBeGreaterThan(1);
    expect(bench.sink.stats).toMatchObject({ lost: 90, sent: 0, connected: false });
    expect(bench.said).toHaveLength(1);
    rmSync(directory);
    await expect.poll(() => bench.sink.stats.sent).toBe(10);
    expect(numbersIn(bench)).toEqual(range(90, 100));
    expect(bench.said.map((text) => text.split(':')[0])).toEqual(['down', 'up']);
  });

  test('on a disk that is full: what is lost is counted, and it goes on when there is room', async () => {
    const directory = temporaryDirectory();
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=256k', 'none', directory]);
    onTestFinished(() => void execFileSync('umount', ['-l', directory]));
    const bench = open({}, directory);
    for (let n = 0; n < 40; n += 1) bench.sink.push({ bytes: line(n, 10_000), records: 1 });
    await expect.poll(() => bench.sink.stats.lost).toBeGreaterThan(0);
    expect(bench.sink.stats.lastError).toMatch(/ENOSPC/);
    writeFileSync(bench.path, '');
    bench.sink.push({ bytes: line(100), records: 1 });
    await expect.poll(() => bench.sink.stats.sent + bench.sink.stats.lost).toBe(41);
    expect(bench.sink.stats.connected).toBe(true);
    expect(JSON.parse(readFileSync(bench.path, 'utf8').trim().split('\n').at(-1)!)).toEqual({ n: 100 });
    expect(bench.said.map((text) => text.split(':')[0])).toEqual(['down', 'up']);
  });
});

test('a disk that stays full: each attempt gives back what it opened', async () => {
  const directory = temporaryDirectory();
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'none', directory]);
  onTestFinished(() => void execFileSync('umount', ['-l', directory]));
  writeFileSync(join(directory, 'flows.jsonl'), 'a line that a crash cut'.padEnd(65_536, '.')); // to end it there is no room
  const open = (): string[] => readdirSync('/proc/self/fd').filter((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`).startsWith(directory);
    } catch {
      return false;
    }
  });
  const said: string[] = [];
  const sink = new FileSink(join(directory, 'flows.jsonl'), NO_ROTATION, MEGABYTE, (_isUp, message) => void said.push(message));
  onTestFinished(() => sink.close(0));
  sink.push({ bytes: line(1), records: 1 });
  await expect.poll(() => sink.stats.failures).toBeGreaterThan(2);
  expect(sink.stats.lastError).toMatch(/ENOSPC/);
  expect(open().length).toBeLessThanOrEqual(1);
});

test('standard output that nobody reads holds up nothing, and loses what does not fit; then it goes on', async () => {
  const pipe = join(temporaryDirectory(), 'pipe');
  execFileSync('mkfifo', [pipe]);
  const reader = openSync(pipe, constants.O_RDONLY | constants.O_NONBLOCK);
  const writer = openSync(pipe, constants.O_WRONLY | constants.O_NONBLOCK);
  onTestFinished(() => [reader, writer].forEach((descriptor) => closeSync(descriptor)));
  const sink = new StdoutSink(MEGABYTE, () => undefined, writer);
  for (let n = 0; n < 200; n += 1) {
    sink.push({ bytes: line(n, 100_000), records: 1 });
    await new Promise((resolve) => setImmediate(resolve));
  }
  const { lost } = sink.stats;
  expect(lost).toBeGreaterThan(180);
  let text = '';
  const chunk = Buffer.alloc(65_536);
  await expect.poll(() => {
    try {
      for (let count = 1; count > 0;) text += chunk.toString('latin1', 0, count = readSync(reader, chunk));
    } catch { /* empty for now */ }
    return sink.stats.sent;
  }, { interval: 5 }).toBe(200 - lost);
  const numbers = text.trim().split('\n').map((one) => (JSON.parse(one) as { n: number }).n);
  expect(numbers).toHaveLength(200 - lost);
  expect(numbers.at(-1)).toBe(199);
  await sink.close(0);
});

test('two streams on one standard output do not cut each other\'s lines; one that ends within a line leaves it ended', async () => {
  const pipe = join(temporaryDirectory(), 'pipe');
  execFileSync('mkfifo', [pipe]);
  const reader = openSync(pipe, constants.O_RDONLY | constants.O_NONBLOCK);
  const writer = openSync(pipe, constants.O_WRONLY | constants.O_NONBLOCK);
  onTestFinished(() => [reader, writer].forEach((descriptor) => closeSync(descriptor)));
  const sinks = [new StdoutSink(16 * MEGABYTE, () => undefined, writer), new StdoutSink(16 * MEGABYTE, () => undefined, writer), new StdoutSink(16 * MEGABYTE, () => undefined, writer)];
  sinks.forEach((sink, index) => {
    for (let n = 0; n < 10; n += 1) sink.push({ bytes: line(index * 100 + n, 90_001), records: 1 });
  });
  let text = '';
  const chunk = Buffer.alloc(65_536);
  const read = (): void => {
    try {
      for (let count = 1; count > 0;) text += chunk.toString('latin1', 0, count = readSync(reader, chunk));
    } catch { /* empty for now */ }
  };
  await sinks[0]!.close(0); // its first line is on its way, and fits in the pipe in part only
  await expect.poll(() => {
    read();
    return sinks[1]!.stats.sent + sinks[2]!.stats.sent;
  }, { interval: 5 }).toBe(20);
  read();
  const [cut, ...rest] = text.trim().split('\n');
  expect(cut!.length).toBeLessThan(90_000);
  expect(rest.map((one) => (JSON.parse(one) as { n: number }).n).sort((a, b) => a - b)).toEqual([...range(100, 110), ...range(200, 210)]);
  expect(sinks[0]!.stats).toMatchObject({ sent: 0, lost: 10 });
  await Promise.all(sinks.map((sink) => sink.close(0)));
});
