// Syslog over UDP, TCP and TLS to receivers that parse strictly; receivers that stall, end, come back, or are not who they should be.
import { join } from 'node:path';
import { readFileSync } from 'node:fs';
import { describe, expect, onTestFinished, test } from 'vitest';
import { ownCertificate } from '../../src/api/tls-certificate.js';
import type { LogConfig } from '../../src/config/schema-observability.js';
import { DROP_RECORD_BYTES, FLOW_RECORD_BYTES } from '../../src/engine/abi.generated.js';
import { decodeDrop, decodeFlow, viewOf } from '../../src/engine/records.js';
import { ConnectionSink } from '../../src/flowlog/connection-sink.js';
import { DatagramSink } from '../../src/flowlog/datagram-sink.js';
import { Stream } from '../../src/flowlog/stream.js';
import { makeDrop, makeFlow } from '../control/bench.js';
import { OctetCounter, parseSyslog, receiveDatagrams, receiveStream, type Receiver, type SyslogMessage } from './receivers.js';
import { names, nameTexts, randomDrops, randomFlows, spanOf, temporaryDirectory } from './support.js';

const syslogOverStream = (options: Parameters<typeof receiveStream>[2] = {}): Promise<Receiver<SyslogMessage>> => receiveStream(() => new OctetCounter(), parseSyslog, options);

function open(config: Partial<LogConfig> & { type?: LogConfig['type'] }): { stream: Stream; said: string[] } {
  const said: string[] = [];
  const stream = new Stream('test', { type: 'flow', to: 'syslog', ...config }, { directory: '/nowhere', hostName: 'nva-1', interfaces: () => [], log: (isUp, message) => void said.push(`${isUp ? 'up' : 'down'}: ${message}`) });
  onTestFinished(() => stream.close(0));
  return { stream, said };
}

const got = <T>(receiver: Receiver<T>, count: number): Promise<void> => expect.poll(() => receiver.messages.length).toBe(count);

describe('messages', () => {
  test.each(['udp', 'tcp'] as const)('over %s: every record whole and in order, as the decoder reads it', async (transport) => {
    const receiver = transport === 'udp' ? await receiveDatagrams(parseSyslog) : await syslogOverStream();
    const { stream } = open({ address: `127.0.0.1:${receiver.port}`, transport });
    const flows = randomFlows(300, 4);
    const drops = randomDrops(100, 5);
    stream.flows(spanOf(flows, FLOW_RECORD_BYTES), nameTexts());
    stream.drops(spanOf(drops, DROP_RECORD_BYTES), nameTexts());
    stream.flush();
    await got(receiver, 400);
    expect(receiver.faults).toEqual([]);
    receiver.messages.forEach((message, index) => {
      const isFlow = index < 300;
      const record = isFlow ? decodeFlow(viewOf(flows), index * FLOW_RECORD_BYTES, names) : decodeDrop(viewOf(drops), (index - 300) * DROP_RECORD_BYTES, names);
      expect(message).toMatchObject({ facility: 16, severity: isFlow ? 6 : 5, timestamp: record.time, hostName: 'nva-1', appName: 'sluice', processId: '-', messageId: record.event, structuredData: '-' });
      const { last: _last, expiresSeconds: _expires, help: _help, ...expected } = record as unknown as Record<string, unknown>;
      expect(JSON.parse(message.message)).toEqual(expected);
    });
    expect(stream.stats).toMatchObject({ sent: 400, lost: 0, waitingBytes: 0, connected: true });
  });

  test('what is redacted is not in the header either', async () => {
    const receiver = await receiveDatagrams(parseSyslog);
    const { stream } = open({ address: `127.0.0.1:${receiver.port}`, redact: ['time', 'event', 'start', 'source'] });
    stream.flows(spanOf(makeFlow(), FLOW_RECORD_BYTES), nameTexts());
    stream.flush();
    await got(receiver, 1);
    expect(receiver.messages[0]).toMatchObject({ timestamp: '-', messageId: 'flow' });
    expect(receiver.messages[0]!.message).not.toMatch(/2023-11-14|10\.0\.1\.10|"start":"start"/);
  });

  test('a level that is redacted does not stand in the header as severity', async () => {
    const receiver = await receiveDatagrams(parseSyslog);
    const { stream } = open({ type: 'system', address: `127.0.0.1:${receiver.port}`, redact: ['level'] });
    stream.entry({ kind: 'system', time: '2026-11-21T17:00:00.000Z', level: 'error', msg: 'x' });
    stream.flush();
    await got(receiver, 1);
    expect(receiver.messages[0]).toMatchObject({ severity: 6 });
    expect(JSON.parse(receiver.messages[0]!.message)).toMatchObject({ level: null });
  });

  test('messages of two, three and four digits of length follow each other', async () => {
    const receiver = await syslogOverStream();
    const { stream } = open({ type: 'system', address: `127.0.0.1:${receiver.port}`, transport: 'tcp', facility: 20 });
    const entries = [1, 20, 500, 900, 5000, 90_000].map((length) => ({ kind: 'system', time: '2026-11-21T17:00:00.000Z', level: 'warn', msg: 'x'.repeat(length) }));
    for (const entry of entries) stream.entry(entry);
    stream.flush();
    await got(receiver, entries.length);
    expect(receiver.faults).toEqual([]);
    expect(receiver.messages.map(({ message }) => JSON.parse(message) as unknown)).toEqual(entries);
    expect(receiver.messages[0]).toMatchObject({ facility: 20, severity: 4, messageId: 'system', timestamp: '2026-11-21T17:00:00.000Z' });
  });
});

describe('receivers that fail', () => {
  test('one that stalls: a bounded buffer, every lost record counted, the rest arrives when it reads on', async () => {
    const receiver = await syslogOverStream({ stalled: true });
    const { stream } = open({ address: `127.0.0.1:${receiver.port}`, transport: 'tcp', bufferMegabytes: 1 });
    const flows = randomFlows(1000, 6);
    const span = spanOf(flows, FLOW_RECORD_BYTES);
    let pushed = 0;
    // Until the kernel's buffers, what is in flight and our own buffer are full, and then some.
    while (stream.stats.lost < 5000) {
      stream.flows(span, nameTexts());
      stream.flush();
      pushed += span.count;
      expect(stream.stats.waitingBytes).toBeLessThanOrEqual(1024 * 1024);
      await new Promise((resolve) => setImmediate(resolve));
      if (pushed > 500_000) throw new Error('nothing is ever lost');
    }
    for (const socket of receiver.sockets) socket.resume();
    await expect.poll(() => stream.stats.sent + stream.stats.lost).toBe(pushed);
    await got(receiver, stream.stats.sent);
    expect(receiver.faults).toEqual([]);
    expect(receiver.connections).toBe(1);
  });

  test('one that takes nothing for too long is left, and its records go to the next connection', async () => {
    const stalled = await syslogOverStream({ stalled: true });
    const sink = new ConnectionSink({ host: '127.0.0.1', port: stalled.port, bufferBytes: 64 * 1024 * 1024, stallMs: 200, retryMsMin: 10 }, () => undefined);
    onTestFinished(() => sink.close(0));
    for (let n = 0; n < 40; n += 1) sink.push({ bytes: Buffer.from(`500000 ${'x'.repeat(500_000)}`), records: 1 });
    await expect.poll(() => stalled.connections).toBeGreaterThanOrEqual(2);
    expect(sink.stats).toMatchObject({ lost: 0, lastError: expect.stringContaining('took nothing') as string });
  });

  test('one that is not there yet, and one that is restarted: connects by itself, says each turn once', async () => {
    const first = await syslogOverStream();
    const { port } = first;
    await first.stop();
    const { stream, said } = open({ address: `127.0.0.1:${port}`, transport: 'tcp' });
    await expect.poll(() => stream.stats.failures).toBeGreaterThan(1);
    stream.flows(spanOf(makeFlow(), FLOW_RECORD_BYTES), nameTexts());
    stream.flush();
    const second = await syslogOverStream({ port });
    await got(second, 1);
    await second.stop();
    await expect.poll(() => stream.stats.connected).toBe(false);
    const third = await syslogOverStream({ port });
    stream.flows(spanOf(makeFlow(), FLOW_RECORD_BYTES), nameTexts());
    stream.flush();
    await got(third, 1);
    expect(said.map((line) => line.split(':')[0])).toEqual(['down', 'up', 'down', 'up']);
    expect(stream.stats).toMatchObject({ sent: 2, lost: 0 });
  });

  test('over UDP to a name: in the family of its address; one that is not there yet is asked for again', async () => {
    const receiver = await receiveDatagrams(parseSyslog, 0, '::1');
    const answers: [Error | null, string, number][] = [[new Error('getaddrinfo EAI_AGAIN logs.example.net'), '', 0], [null, '::1', 6]];
    const asked: string[] = [];
    const sink = new DatagramSink({ host: 'logs.example.net', port: receiver.port, bufferBytes: 1000, lookup: (host, done) => {
      asked.push(host);
      done(...answers.shift()!);
    } }, () => undefined);
    onTestFinished(() => sink.close(0));
    sink.push({ bytes: Buffer.from('<134>1 2026-11-21T17:00:00.000Z nva-1 sluice - start - {}'), records: 1 });
    await expect.poll(() => receiver.messages.length).toBe(1);
    expect(asked).toHaveLength(2);
    expect(sink.stats).toMatchObject({ sent: 1, lost: 0, failures: 1 });
  });

  test('over UDP, nobody there: counted as lost, and it goes on', async () => {
    const gone = await receiveDatagrams(parseSyslog);
    const { port } = gone;
    await gone.stop();
    const { stream } = open({ address: `127.0.0.1:${port}` });
    const send = (): void => {
      stream.flows(spanOf(makeFlow(), FLOW_RECORD_BYTES), nameTexts());
      stream.flush();
    };
    await expect.poll(() => {
      send();
      return stream.stats.lost;
    }).toBeGreaterThan(0);
    const back = await receiveDatagrams(parseSyslog, port);
    await expect.poll(() => {
      send();
      return back.messages.length;
    }).toBeGreaterThan(0);
  });

  test('closing waits for what is on its way, not for one that never reads', async () => {
    const receiver = await syslogOverStream();
    const { stream } = open({ address: `127.0.0.1:${receiver.port}`, transport: 'tcp' });
    stream.flows(spanOf(randomFlows(500, 1), FLOW_RECORD_BYTES), nameTexts());
    await stream.close(5000);
    await got(receiver, 500);
    const stalled = await syslogOverStream({ stalled: true });
    const { stream: other } = open({ address: `127.0.0.1:${stalled.port}`, transport: 'tcp' });
    for (let n = 0; n < 40; n += 1) other.flows(spanOf(randomFlows(1000, 1), FLOW_RECORD_BYTES), nameTexts());
    await other.close(50);
    expect(other.stats.sent + other.stats.lost).toBe(40_000);
  });
});

describe('TLS', () => {
  test('the certificate\'s issuer and name are examined; the receiver may want ours', async () => {
    const directory = temporaryDirectory();
    const { certificate, key } = await ownCertificate(directory, 'logs', ['127.0.0.1', 'logs.example.net']);
    const caFile = join(directory, 'ca.pem');
    const receiver = await syslogOverStream({ tls: { cert: certificate, key, ca: readFileSync(caFile), requestCert: false } });
    const address = `127.0.0.1:${receiver.port}`;
    const send = (tls: LogConfig['tls']): Stream => {
      const { stream } = open({ address, ...(tls === undefined ? {} : { tls }) });
      stream.flows(spanOf(makeFlow(), FLOW_RECORD_BYTES), nameTexts());
      stream.drops(spanOf(makeDrop(), DROP_RECORD_BYTES), nameTexts());
      stream.flush();
      return stream;
    };
    send({ caFile });
    await got(receiver, 2);
    send({ caFile, serverName: 'logs.example.net' });
    await got(receiver, 4);
    const stranger = send(true); // not an issuer that the system trusts
    await expect.poll(() => stranger.stats.lastError).toMatch(/certificate/);
    const wrongName = send({ caFile, serverName: 'other.example.net' });
    await expect.poll(() => wrongName.stats.lastError).toMatch(/other\.example\.net|altnames/);
    const missing = send({ caFile: join(directory, 'nothing.pem') });
    await expect.poll(() => missing.stats.lastError).toMatch(/ENOENT/);
    expect([stranger, wrongName, missing].map(({ stats }) => stats.sent)).toEqual([0, 0, 0]);
    expect(receiver.messages).toHaveLength(4);
    expect(receiver.faults).toEqual([]);
  });
});
