// What a child says on its standard output arrives on the supervisor's, whole, however slowly somebody reads; a reader that does not
// read at all holds up nothing but the child.
import { spawn, type ChildProcess } from 'node:child_process';
import { expect, onTestFinished, test } from 'vitest';

const MEGABYTES = 4;
const LINE = 'abcdefghij\n';

/** A process that relays its standard input to its standard output, and says every 10 ms on stderr that it lives. */
function relay(): ChildProcess {
  const script = "import('./dist/src/supervisor/relay.js').then(({ relayToStdout }) => { relayToStdout(process.stdin); setInterval(() => process.stderr.write('.'), 10); process.stdin.once('end', () => setTimeout(() => process.exit(0), 500)); })";
  const child = spawn(process.execPath, ['-e', script], { stdio: ['pipe', 'pipe', 'pipe'] });
  onTestFinished(() => void child.kill('SIGKILL'));
  return child;
}

test('everything arrives, once somebody reads', async () => {
  const child = relay();
  const sent = Buffer.alloc(Math.ceil((MEGABYTES * 1024 * 1024) / LINE.length) * LINE.length, LINE);
  child.stdin!.end(sent);
  await new Promise((resolve) => child.stderr!.once('data', resolve)); // it runs; the pipe is full by now, or soon
  const chunks: Buffer[] = [];
  child.stdout!.on('data', (chunk: Buffer) => void chunks.push(chunk));
  await new Promise((resolve) => child.stdout!.once('end', resolve));
  expect(Buffer.concat(chunks).equals(sent)).toBe(true);
});

test('a reader that does not read: the process goes on, and ends when it should', async () => {
  const child = relay();
  child.stdin!.on('error', () => undefined);
  child.stdin!.write(Buffer.alloc(MEGABYTES * 1024 * 1024, 'x'));
  let beats = 0;
  child.stderr!.on('data', (chunk: Buffer) => { beats += chunk.length; });
  await expect.poll(() => beats).toBeGreaterThan(30);
  const ended = new Promise((resolve) => child.once('exit', (_code, signal) => resolve(signal)));
  child.kill('SIGTERM');
  expect(await ended).toBe('SIGTERM');
});

test('a child that ends within a line: the line is ended', async () => {
  const child = relay();
  let text = '';
  child.stdout!.on('data', (chunk: Buffer) => { text += chunk.toString(); });
  child.stdin!.write('{"n":1}\n{"n":');
  await expect.poll(() => text).toBe('{"n":1}\n');
  child.stdin!.write('2}\n{"n":3,"cu');
  await expect.poll(() => text).toBe('{"n":1}\n{"n":2}\n');
  child.stdin!.end();
  await expect.poll(() => text).toBe('{"n":1}\n{"n":2}\n{"n":3,"cu\n');
});
