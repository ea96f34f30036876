// Logs: one line for people, JSON for machines, and a file that is followed while another process writes it.
import { appendFileSync, truncateSync, writeFileSync } from 'node:fs';
import { expect, onTestFinished, test } from 'vitest';
import { createLog, formatLogLine, LogFollower } from '../../src/supervisor/log.js';
import { makeRunDirectory } from '../engine/fake-addon.js';

test('a line for people has time, level, process, message and fields', () => {
  const lines: string[] = [];
  createLog('engine', (line) => lines.push(line)).warn({ device: 'eth1', queues: 2 }, 'port attached');
  expect(formatLogLine(lines[0]!)).toMatch(/^\d\d:\d\d:\d\d\.\d{3} warn {2}engine {5}port attached device=eth1 queues=2\n$/);
});

test('nothing that was logged begins a line of its own, or plays with a terminal', () => {
  const lines: string[] = [];
  createLog('control', (line) => lines.push(line)).warn({ err: new Error('x\n12:00:00.000 info  control    committed'), name: '\u001b[2J\u009b2J\u202e\u2028' }, 'refused\r\nby');
  expect(formatLogLine(lines[0]!)).toMatch(/ refused\?\?by: x\?12:00:00.000 info {2}control {4}committed name=\?\[2J\?2J\?\?\n$/);
});

test('an error shows its message; the stack stays in the JSON', () => {
  const lines: string[] = [];
  createLog('engine', (line) => lines.push(line)).error({ err: new Error('no such device') }, 'attach failed');
  expect(formatLogLine(lines[0]!)).toMatch(/attach failed: no such device\n$/);
  expect(lines[0]).toContain('"stack"');
});

test('what is no JSON is shown as it is', () => expect(formatLogLine('Segmentation fault')).toBe('Segmentation fault\n'));

test('a followed file gives whole lines, also across a cut, and crash output as warnings', async () => {
  const { engineLog } = makeRunDirectory();
  writeFileSync(engineLog, '{"msg":"from before"}\n');
  const lines: string[] = [];
  const follower = new LogFollower(engineLog, 'engine', (line) => lines.push(line));
  onTestFinished(() => follower.close());
  appendFileSync(engineLog, '{"msg":"on');
  appendFileSync(engineLog, 'e"}\nfree(): invalid pointer\n');
  await expect.poll(() => lines.length).toBe(2);
  expect(lines[0]).toBe('{"msg":"one"}\n');
  expect(JSON.parse(lines[1]!)).toMatchObject({ level: 'warn', process: 'engine', msg: 'free(): invalid pointer' });
  truncateSync(engineLog, 0);
  follower.read();
  appendFileSync(engineLog, '{"msg":"after"}\n');
  await expect.poll(() => lines[2]).toBe('{"msg":"after"}\n');
});

test('a followed file keeps characters whole wherever a read of it ends', () => {
  const { engineLog } = makeRunDirectory();
  writeFileSync(engineLog, '');
  const lines: string[] = [];
  const follower = new LogFollower(engineLog, 'engine', (line) => lines.push(line));
  onTestFinished(() => follower.close());
  // Of two, three and four bytes, beginning at every place: each 64 KiB some of them are cut.
  const written = Array.from({ length: 5000 }, (_, n) => `{"msg":"${'x'.repeat(n % 4)}${'ü☃𝄞'.repeat(20)}"}\n`);
  appendFileSync(engineLog, written.join(''));
  follower.read();
  expect(lines).toEqual(written);
  // Half a character at the end of a file that is cut then is one of its own.
  appendFileSync(engineLog, Buffer.from('{"msg":"ü').subarray(0, -1));
  follower.read();
  truncateSync(engineLog, 0);
  follower.read();
  appendFileSync(engineLog, '"}\n');
  follower.read();
  expect(lines.at(-1)).toBe('{"msg":"\ufffd"}\n');
});
