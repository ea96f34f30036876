// Receivers that people run: rsyslog takes our syslog over UDP and TCP, nfcapd our IPFIX, and both read in it what we meant.
import { spawn, execFileSync, type ChildProcess } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { DROP_RECORD_BYTES, FLOW_RECORD_BYTES } from '../../src/engine/abi.generated.js';
import type { LogConfig } from '../../src/config/schema-observability.js';
import { Stream } from '../../src/flowlog/stream.js';
import { makeDrop, makeFlow } from '../control/bench.js';
import { nameTexts, spanOf, temporaryDirectory } from './support.js';

const LOADING_MS = 15_000;

function run(program: string, args: readonly string[]): ChildProcess {
  const child = spawn(program, args, { stdio: 'ignore' });
  onTestFinished(() => void child.kill('SIGKILL'));
  return child;
}

/** Free for TCP a moment ago; rsyslog takes the same for UDP. */
async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

function send(config: Partial<LogConfig>): Stream {
  const stream = new Stream('test', { type: 'flow', to: 'syslog', ...config }, { directory: '/nowhere', hostName: 'nva-1', interfaces: () => [{ id: 1, name: 'trust' }], log: () => undefined });
  onTestFinished(() => stream.close(0));
  return stream;
}

/** Whether somebody has the UDP port. By looking: who tries to bind it takes it away from the program that is just about to. */
const isBound = (port: number): boolean => readFileSync('/proc/net/udp', 'utf8').includes(`:${port.toString(16).toUpperCase().padStart(4, '0')} 00000000:0000 `);

test('rsyslog, over UDP and TCP', async () => {
  const directory = temporaryDirectory();
  const port = await freePort();
  const output = join(directory, 'out');
  const configuration = join(directory, 'rsyslog.conf');
  writeFileSync(configuration, `module(load="imudp")\nmodule(load="imtcp")\ninput(type="imudp" port="${port}" address="127.0.0.1")\ninput(type="imtcp" port="${port}" address="127.0.0.1")
template(name="fields" type="string" string="%pri%|%timereported:::date-rfc3339%|%hostname%|%app-name%|%procid%|%msgid%|%structured-data%|%msg%\\n")
action(type="omfile" file="${output}" template="fields")\n`);
  run('rsyslogd', ['-n', '-f', configuration, '-i', join(directory, 'pid')]);
  await expect.poll(() => isBound(port), { timeout: LOADING_MS }).toBe(true);
  for (const transport of ['udp', 'tcp'] as const) {
    const stream = send({ address: `127.0.0.1:${port}`, transport });
    for (let n = 0; n < 20; n += 1) stream.flows(spanOf(makeFlow({ srcPort: 1000 + n, event: 2, endReason: 2 }), FLOW_RECORD_BYTES), nameTexts());
    stream.drops(spanOf(makeDrop(), DROP_RECORD_BYTES), nameTexts());
    await stream.close(LOADING_MS);
  }
  const lines = (): string[] => (existsSync(output) ? readFileSync(output, 'utf8').trim().split('\n') : []);
  await expect.poll(() => lines().length, { timeout: LOADING_MS }).toBe(42);
  const parsed = lines().map((line) => {
    const [priority, time, host, app, process, id, data, ...rest] = line.split('|');
    return { head: [priority, time, host, app, process, id, data], record: JSON.parse(rest.join('|')) as Record<string, unknown> };
  });
  for (const { head, record } of parsed) {
    expect(head).toEqual(record['kind'] === 'flow' ? ['134', '2023-11-14T22:13:21.000Z', 'nva-1', 'sluice', '-', 'end', '-'] : ['133', '2023-11-14T22:13:20.500Z', 'nva-1', 'sluice', '-', 'denied', '-']);
  }
  const ports = parsed.filter(({ record }) => record['kind'] === 'flow').map(({ record }) => record['sourcePort'] as number);
  expect(ports.sort((a, b) => a - b)).toEqual(Array.from({ length: 40 }, (_, n) => 1000 + (n >> 1)));
});

test('nfcapd reads addresses, NAT, counts and times of our IPFIX', async () => {
  const directory = temporaryDirectory();
  const port = await freePort();
  const collector = run('nfcapd', ['-w', directory, '-p', String(port), '-b', '127.0.0.1', '-t', '3600']);
  await expect.poll(() => isBound(port), { timeout: LOADING_MS }).toBe(true);
  const stream = send({ to: 'ipfix', address: `127.0.0.1:${port}` });
  await expect.poll(() => stream.stats.connected).toBe(true);
  const texts = nameTexts();
  stream.flows(spanOf(makeFlow({ event: 2, endReason: 1, srcPort: 1234, fromInterface: 3, toInterface: 4, packets: [30n, 20n], bytes: [3000n, 2000n] }), FLOW_RECORD_BYTES), texts);
  stream.flows(spanOf(makeFlow({ event: 2, endReason: 2, source: '2001:db8::1', destination: '2001:db8::2', natSource: '2001:db8::99', srcPort: 4321 }), FLOW_RECORD_BYTES), texts);
  stream.drops(spanOf(makeDrop({ natDestination: '10.0.1.99', natDstPort: 2323, natDestinationId: 7, toInterface: 5 }), DROP_RECORD_BYTES), texts);
  await stream.close(LOADING_MS);
  // It writes its file when it ends; what was sent before stands in its socket until then.
  const ended = new Promise((resolve) => collector.once('exit', resolve));
  await expect.poll(async () => readFileSync('/proc/net/udp', 'latin1').split('\n').filter((line) => line.includes(`:${port.toString(16).toUpperCase().padStart(4, '0')} `)).every((line) => / [0-9A-F]{8}:00000000 /.test(line)), { timeout: LOADING_MS }).toBe(true);
  collector.kill('SIGTERM');
  await ended;
  const file = readdirSync(directory).find((name) => name.startsWith('nfcapd.'))!;
  const text = execFileSync('nfdump', ['-r', join(directory, file), '-q', '-6', '-o', 'fmt:%sa %sp %da %dp %nsa %nsp %pr %in %out %pkt %byt %opkt %obyt %flg %ts %nda %ndp'], { encoding: 'utf8', env: { ...process.env, TZ: 'UTC' } });
  const rows = text.trim().split('\n').map((line) => line.trim().split(/\s+/));
  expect(rows[0]!.slice(0, 13)).toEqual(['10.0.1.10', '1234', '198.51.100.7', '443', '203.0.113.4', '50123', 'TCP', '3', '4', '30', '3000', '20', '2000']);
  expect(rows[0]!.join(' ')).toContain('...A..S. 2023-11-14 22:13:20.000');
  expect(rows[1]!.slice(0, 4)).toEqual(['2001:db8::1', '4321', '2001:db8::2', '443']);
  expect(rows[2]!.slice(0, 6)).toEqual(['198.51.100.9', '55555', '203.0.113.4', '23', '198.51.100.9', '55555']);
  expect(rows[2]!.join(' ')).toMatch(/ \.{6}S\. /);
  expect(rows[2]!.slice(-2)).toEqual(['10.0.1.99', '2323']);
});
