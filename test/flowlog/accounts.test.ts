// Accounts of a stream: of the records that it took, each was sent or is counted as lost once it ended, whatever became of its receiver. Where it can be
// seen what arrived, that is what was sent.
import { execFileSync } from 'node:child_process';
import { closeSync, constants, existsSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import type { LogConfig } from '../../src/config/schema-observability.js';
import { DROP_RECORD_BYTES, FLOW_RECORD_BYTES } from '../../src/engine/abi.generated.js';
import { StdoutSink } from '../../src/flowlog/stdout-sink.js';
import { Stream } from '../../src/flowlog/stream.js';
import { OctetCounter, parseSyslog, receiveDatagrams, receiveStream } from './receivers.js';
import { nameTexts, randomDrops, randomFlows, spanOf, temporaryDirectory } from './support.js';

const FLOWS = 6000;
const DROPS = 2000;

/** `arrived`: how many records came to where they go, or were dropped there. */
type Place = { config: Partial<LogConfig>; directory?: string; arrived?(): number };
const somewhere = async (make: () => Promise<{ port: number; stop(): Promise<void> }>, isGone = false): Promise<string> => {
  const receiver = await make();
  if (isGone) await receiver.stop();
  return `127.0.0.1:${receiver.port}`;
};
const stalled = () => receiveStream(() => new OctetCounter(), parseSyslog, { stalled: true });
const datagrams = () => receiveDatagrams(parseSyslog);
const linesOf = (path: string): number => (existsSync(path) ? readFileSync(path, 'utf8').split('\n').length - 1 : 0);

/** Datagrams that found no room at their receiver: the last column of its line (proc_net_udp(5)). */
function droppedAt(port: number): number {
  const local = `:${port.toString(16).toUpperCase().padStart(4, '0')}`;
  const line = readFileSync('/proc/net/udp', 'utf8').split('\n').find((one) => one.trim().split(/\s+/)[1]?.endsWith(local));
  return Number(line?.trim().split(/\s+/).at(-1));
}

const PLACES: Record<string, () => Promise<Place>> = {
  'a file': () => {
    const directory = temporaryDirectory();
    return Promise.resolve({ config: { to: 'file', path: 'all' }, directory, arrived: () => linesOf(join(directory, 'all')) });
  },
  'a file on a full disk': () => {
    const directory = temporaryDirectory();
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=600k', 'none', directory]);
    onTestFinished(() => void execFileSync('umount', ['-l', directory]));
    return Promise.resolve({ config: { to: 'file', path: 'all' }, directory });
  },
  'a file that cannot be': () => {
    const directory = join(temporaryDirectory(), 'file');
    writeFileSync(directory, '');
    return Promise.resolve({ config: { to: 'file', path: 'all', bufferMegabytes: 1 }, directory });
  },
  'syslog over TCP that stalls': async () => ({ config: { to: 'syslog', transport: 'tcp', address: await somewhere(stalled), bufferMegabytes: 1 } }),
  'syslog over TCP, nobody there': async () => ({ config: { to: 'syslog', transport: 'tcp', address: await somewhere(stalled, true), bufferMegabytes: 1 } }),
  'syslog over UDP': async () => {
    const { port, messages } = await datagrams();
    return { config: { to: 'syslog', address: `127.0.0.1:${port}` }, arrived: () => messages.length + droppedAt(port) };
  },
  'syslog over UDP, nobody there': async () => ({ config: { to: 'syslog', address: await somewhere(datagrams, true), bufferMegabytes: 1 } }),
  'IPFIX over UDP, nobody there': async () => ({ config: { to: 'ipfix', address: await somewhere(datagrams, true) } }),
  'IPFIX over TCP that stalls': async () => ({ config: { to: 'ipfix', transport: 'tcp', address: await somewhere(stalled), bufferMegabytes: 1 } }),
};

/** Until the first records are gone, but not for ever: some receivers take none. */
async function untilSomeAreSent({ stats }: { stats: () => { sent: number } }): Promise<void> {
  for (const endMs = performance.now() + 500; stats().sent === 0 && performance.now() < endMs;) await new Promise((resolve) => setImmediate(resolve));
}

// Ended at once; in the middle of it; and when there was time for all of it, or for something to go wrong.
test.each(Object.keys(PLACES).flatMap((place) => [{ place, end: 'at once', graceMs: 0 }, { place, end: 'in the middle', graceMs: 0 }, { place, end: 'later', graceMs: 300 }]))('$place, ended $end', async ({ place, end, graceMs }) => {
  const { config, directory = '/nowhere', arrived } = await PLACES[place]!();
  const stream = new Stream('test', { type: 'flow', to: 'file', ...config }, { directory, hostName: 'nva-1', interfaces: () => [], log: () => undefined });
  const flows = randomFlows(FLOWS, 41);
  const drops = randomDrops(DROPS, 42);
  stream.flows(spanOf(flows, FLOW_RECORD_BYTES), nameTexts());
  stream.drops(spanOf(drops, DROP_RECORD_BYTES), nameTexts());
  stream.flush();
  if (end === 'in the middle') await untilSomeAreSent({ stats: () => stream.stats });
  await stream.close(graceMs);
  await expect.poll(() => stream.stats.sent + stream.stats.lost).toBe(FLOWS + DROPS);
  await new Promise((resolve) => setImmediate(resolve));
  expect(stream.stats).toMatchObject({ waitingBytes: 0 });
  expect(stream.stats.sent + stream.stats.lost).toBe(FLOWS + DROPS);
  if (arrived) await expect.poll(arrived, { timeout: 5000 }).toBe(stream.stats.sent);
});

test('standard output that nobody reads', async () => {
  const pipe = join(temporaryDirectory(), 'pipe');
  execFileSync('mkfifo', [pipe]);
  const reader = openSync(pipe, constants.O_RDONLY | constants.O_NONBLOCK);
  const writer = openSync(pipe, constants.O_WRONLY | constants.O_NONBLOCK);
  onTestFinished(() => [reader, writer].forEach((descriptor) => closeSync(descriptor)));
  const sink = new StdoutSink(1024 * 1024, () => undefined, writer);
  for (let n = 0; n < 50; n += 1) sink.push({ bytes: Buffer.alloc(50_000, 'x\n'), records: 10 });
  await sink.close(100);
  expect(sink.stats.sent + sink.stats.lost).toBe(500);
});
