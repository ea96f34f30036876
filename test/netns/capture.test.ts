// sluice capture against real traffic: what it shows, what it costs flows that are offloaded, and how it ends - by its user, and by the
// death of whoever takes part. tcpdump reads what it writes.

import { get, type IncomingMessage } from 'node:http';
import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import type { PacketView } from '../../src/cli/packet-line.js';
import { PcapngReader, type ReadBlock, type ReadPacket } from '../../src/cli/pcapng-reader.js';
import type { Program } from '../../lab/program.js';
import { ADDRESSES, FAMILIES, ROOT } from '../../lab/topology.js';
import { iperf, ping, startStream, tcpConnect, who, type Stream } from '../../lab/traffic.js';
import { until } from '../../lab/until.js';
import { describeNetns, useLab } from './fixture.js';

describeNetns('capture', () => {
  const bench = useLab();
  const streams: Stream[] = [];
  afterEach(async () => {
    for (const stream of streams.splice(0)) await stream.program.stop();
  });

  const argv = (...args: string[]): string[] => [process.execPath, join(ROOT, 'bin', 'sluice'), 'capture', ...args, '--dir', bench.appliance.directory];

  async function start(...args: string[]): Promise<Program> {
    const program = bench.lab.startRaw('sluice capture', argv(...args));
    await program.waitForOutput(/Capturing for/);
    return program;
  }

  const packets = (program: Program): PacketView[] =>
    program.stdout
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line) as PacketView);

  const offloaded = async (): Promise<number> => {
    const { steering } = await bench.appliance.api<{ steering: Record<string, { counters: Record<string, number> }> }>('/api/v1/counters');
    return Object.values(steering).reduce((sum, { counters }) => sum + counters['offloaded']!, 0);
  };

  /** A connection whose packets the XDP program forwards. */
  async function startOffloaded(address = ADDRESSES.IPv4.far): Promise<Stream> {
    const stream = startStream(bench.lab, 'client', address);
    streams.push(stream);
    await until('lines flow', () => stream.received() > 5);
    await expectOffload();
    return stream;
  }

  async function expectOffload(): Promise<void> {
    const before = await offloaded();
    await until('flows are offloaded', async () => (await offloaded()) > before + 20);
  }

  const more = (stream: Stream, lines: number): Promise<unknown> => {
    const before = stream.received();
    return until('lines flow', () => stream.received() > before + lines);
  };

  test('ping and TCP through source NAT: as received and as sent, translated', async () => {
    const program = await start('--json');
    for (const family of FAMILIES) expect((await ping(bench.lab, 'client', ADDRESSES[family].far, { count: 2 })).ok).toBe(true);
    await who(bench.lab, 'client', ADDRESSES.IPv4.far);
    const seen = (over: Partial<PacketView>): PacketView[] =>
      packets(program).filter((packet) => Object.entries(over).every(([key, value]) => packet[key as keyof PacketView] === value));
    for (const family of FAMILIES) {
      const { client, far, nvaUntrust } = ADDRESSES[family];
      const protocol = family === 'IPv4' ? 'icmp' : 'icmpv6';
      // What two workers saw comes in any order.
      const ways: Partial<PacketView>[] = [
        { interface: 'trust', direction: 'in', source: client, destination: far },
        { interface: 'untrust', direction: 'out', source: nvaUntrust, destination: far },
        { interface: 'untrust', direction: 'in', source: far, destination: nvaUntrust },
        { interface: 'trust', direction: 'out', source: far, destination: client },
      ];
      await until('the pings are shown', () => ways.every((way) => seen({ protocol, ...way }).length >= 2));
      for (const way of ways) expect(seen({ protocol, ...way }), JSON.stringify(way)).toHaveLength(2);
    }
    const { client, far, nvaUntrust } = ADDRESSES.IPv4;
    await until('the SYN and its answer are shown', () => ['S', 'S.'].every((flags) => seen({ protocol: 'tcp', flags, direction: 'out' }).length > 0));
    const [asked] = await until('the SYN is shown as it came', () => [seen({ protocol: 'tcp', flags: 'S', direction: 'in' })].find(({ length }) => length > 0));
    expect(asked).toMatchObject({ interface: 'trust', source: client, destination: far, destinationPort: 80, dropped: null });
    expect(seen({ protocol: 'tcp', flags: 'S', direction: 'out' })[0]).toMatchObject({ interface: 'untrust', source: nvaUntrust, destination: far, destinationPort: 80 });
    expect(seen({ protocol: 'tcp', flags: 'S.', direction: 'out' })[0]).toMatchObject({ interface: 'trust', source: far, destination: client, destinationPort: asked!.sourcePort });

    expect((await program.stop('SIGINT')).code).toBe(0);
    expect(program.stderr).toMatch(/no flow is offloaded/);
    expect(program.stderr).toMatch(new RegExp(`^${packets(program).length.toLocaleString('en-US')} packets captured, 0 lost`, 'm'));
  });

  test('dropped packets, with the reason; as a line', async () => {
    const program = await start('--dropped', '--protocol', 'tcp', '--port', '23');
    expect((await tcpConnect(bench.lab, 'client', ADDRESSES.IPv4.far, 23, { timeoutMs: 500 })).result).toBe('timeout');
    await who(bench.lab, 'client', ADDRESSES.IPv4.far); // passes, and is not shown
    await program.waitForOutput(/dropped/);
    await program.stop('SIGINT');
    const { client, far } = ADDRESSES.IPv4;
    for (const line of program.stdout.split('\n').filter(Boolean)) expect(line).toMatch(new RegExp(`^\\d\\d:\\d\\d:\\d\\d\\.\\d{6} trust in +tcp ${client}:\\d+ → ${far}:23 \\[S\\] \\d+ bytes dropped: policy-deny$`));
  });

  test('offloaded flows are seen in full meanwhile, and are offloaded again afterwards; tcpdump reads the file', async () => {
    const stream = await startOffloaded();
    const file = join(bench.lab.directory, 'capture.pcapng');
    const program = await start('--port', '7', '--write', file);
    const paused = await offloaded();
    await more(stream, 40);
    expect(await offloaded()).toBe(paused);
    expect((await program.stop('SIGINT')).code).toBe(0);
    await expectOffload();

    const summary = /^(\d+) packets captured, .* written to .*, 0 lost/m.exec(program.stderr);
    expect(summary, program.stderr).not.toBeNull();
    const blocks = [...new PcapngReader().push(readFileSync(file))];
    const read = blocks.filter((block): block is ReadBlock & ReadPacket => block.kind === 'packet');
    expect(read).toHaveLength(Number(summary![1]));
    expect(statSync(file).size).toBe(blocks.reduce((sum, { raw }) => sum + raw.length, 0)); // whole blocks alone
    expect(statSync(file).mode & 0o777).toBe(0o600);
    // Of each interface and direction: the bytes of the connection without a hole.
    for (const [name, direction] of [['trust', 'in'], ['untrust', 'out'], ['untrust', 'in'], ['trust', 'out']] as const) {
      const segments = read.filter((one) => one.interface === name && one.direction === direction).map(({ bytes }) => {
        const tcp = 34;
        const length = bytes.readUInt16BE(16) - 20 - (bytes[tcp + 12]! >> 4) * 4;
        return { begin: bytes.readUInt32BE(tcp + 4), length };
      });
      expect(segments.filter(({ length }) => length > 0).length, `${name} ${direction}`).toBeGreaterThan(20);
      let end = segments[0]!.begin;
      for (const { begin, length } of segments) {
        expect((begin - end) | 0, `${name} ${direction}: a hole before ${begin}`).toBeLessThanOrEqual(0);
        if (((begin + length - end) | 0) > 0) end = (begin + length) >>> 0;
      }
    }
    const lines = (await bench.lab.must('nva', ['tcpdump', '-n', '-r', file])).split('\n').filter(Boolean);
    expect(lines).toHaveLength(read.length);
    expect(lines.filter((line) => line.includes(ADDRESSES.IPv4.nvaUntrust)).length).toBeGreaterThan(20);
  });

  test('into a pipe, to its count', async () => {
    const pipe = bench.lab.startRaw('capture into tcpdump', ['bash', '-c', `set -o pipefail; ${argv('--write', '-', '--protocol', 'icmp', '--count', '4').map((word) => `'${word}'`).join(' ')} | tcpdump -n -r -`]);
    await pipe.waitForOutput(/Capturing for/);
    expect((await ping(bench.lab, 'client', ADDRESSES.IPv4.far, { count: 2 })).ok).toBe(true);
    expect(await pipe.finish(60_000)).toMatchObject({ code: 0 });
    expect(pipe.stdout.split('\n').filter((line) => line.includes('ICMP echo'))).toHaveLength(4);
    expect(pipe.stderr).toMatch(/^4 packets captured/m);
  });

  test('a reader that stands still loses copies, which are counted; traffic goes on', async () => {
    const response = await new Promise<IncomingMessage>((resolve, reject) =>
      get({ socketPath: join(bench.appliance.directory, 'api.sock'), path: '/api/v1/capture?packets=1000000&bytes=1073741824&seconds=6&snapLength=1500', headers: { host: 'sluice' }, agent: false }, resolve).on('error', reject),
    );
    response.pause();
    const load = await iperf(bench.lab, 'client', ADDRESSES.IPv4.internet, { seconds: 2 });
    expect(load).toMatchObject({ ok: true });
    const reader = new PcapngReader();
    let kept = 0;
    let lost = 0;
    for await (const chunk of response as AsyncIterable<Buffer>)
      for (const block of reader.push(chunk)) {
        if (block.kind === 'packet') kept += 1;
        if (block.kind === 'statistics') lost = Math.max(lost, block.lost);
      }
    expect(response.complete).toBe(true);
    expect(kept).toBeGreaterThan(1000);
    expect(lost).toBeGreaterThan(1000);
  });

  test('the engine dies meanwhile: offloaded flows go on without it, and are offloaded under the next one', async () => {
    const stream = await startOffloaded();
    const program = await start();
    await program.waitForOutput(/trust/);
    const supervisor = bench.appliance.pid('supervisor')!;
    process.kill(supervisor, 'SIGSTOP'); // nobody starts the next one yet
    const engine = bench.appliance.killProcess('engine');
    try {
      await more(stream, 40);
    } finally {
      process.kill(supervisor, 'SIGCONT');
    }
    expect((await program.finish(60_000)).code).toBe(1);
    expect(program.stderr).toMatch(/ended early: the engine process went away/);
    await bench.appliance.restarted('engine', engine);
    await bench.appliance.ready();
    await expectOffload();
  });

  test('control dies meanwhile: the engine ends the capture', async () => {
    await startOffloaded();
    const program = await start();
    await program.waitForOutput(/trust/);
    const control = bench.appliance.killProcess('control');
    expect((await program.finish(60_000)).code).toBe(1);
    expect(program.stderr).toMatch(/ended early: control went away/);
    await bench.appliance.restarted('control', control);
    await bench.appliance.ready();
    await expectOffload();
  });

  test('control hangs meanwhile: the engine ends the capture, and says so when control listens again', async () => {
    await startOffloaded();
    const program = await start();
    await program.waitForOutput(/trust/);
    const control = bench.appliance.pid('control')!;
    process.kill(control, 'SIGSTOP');
    try {
      await until('the engine gives up on it', () => readFileSync(join(bench.appliance.directory, 'engine.log'), 'utf8').includes('a capture ends: control said nothing'));
    } finally {
      process.kill(control, 'SIGCONT');
    }
    expect((await program.finish(60_000)).code).toBe(1);
    expect(program.stderr).toMatch(/ended early: the engine ended it/);
    await expectOffload();
  });

  test('what cannot be is refused, and says what would be right', async () => {
    for (const [args, message] of [
      [['--interface', 'mars'], /interfaces are/],
      [['--protocol', 'tpc'], /is no protocol/],
      [['--source', '10'], /source/],
      [['--count', '0'], /whole number/],
      [['--dropped', '--passed'], /exclude/],
      [['--write', '/nowhere/at/all', '--count', '1'], /cannot be written/],
    ] as const) {
      const result = await bench.appliance.command('capture', ...args);
      expect(result.code, args.join(' ')).not.toBe(0);
      expect(result.stderr).toMatch(message);
    }
  });
});
