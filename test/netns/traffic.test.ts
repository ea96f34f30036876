// Real programs through the appliance, both families: what policy allows arrives unharmed and translated as it says, what
// policy forbids does not arrive.

import { createHash } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import { ADDRESSES, FAMILIES, PORTS } from '../../lab/topology.js';
import { download, iperf, ping, startCapture, tcpConnect, udpExchange, upload, who } from '../../lab/traffic.js';
import { until } from '../../lab/until.js';
import { describeNetns, useLab } from './fixture.js';

const TRANSFER_BYTES = 20_000_000;

describeNetns('traffic', () => {
  const bench = useLab();

  describe.each(FAMILIES)('%s', (family) => {
    const at = ADDRESSES[family];

    describe('through source NAT', () => {
      test('HTTP: the server sees the interface address', async () => {
        const seen = await who(bench.lab, 'client', at.internet);
        expect(seen.remote).toBe(at.nvaUntrust);
        expect(seen.remotePort).toBeGreaterThanOrEqual(1024);
      });

      test('HTTP: a transfer arrives byte for byte, from behind another router', async () => {
        expect(await download(bench.lab, 'client', at.far, TRANSFER_BYTES)).toMatchObject({ ok: true });
      });

      test('HTTP: an upload arrives byte for byte', async () => {
        expect(await upload(bench.lab, 'client', at.far, TRANSFER_BYTES)).toMatchObject({ ok: true });
      });

      test('UDP: datagrams and their answers', async () => {
        expect(await udpExchange(bench.lab, 'client', at.far, { count: 50, size: 512 })).toMatchObject({
          sent: 50,
          answered: 50,
          damaged: 0,
          errors: [],
        });
      });

      test('ping', async () => {
        expect(await ping(bench.lab, 'client', at.far)).toMatchObject({ ok: true, received: 3 });
      });

      test('nc: a file over TCP, a line over UDP', async () => {
        const receiver = bench.lab.start('far', ['bash', '-c', `nc ${family === 'IPv4' ? '-4' : '-6'} -l -N 5205 </dev/null | sha256sum`]);
        const echo = bench.lab.start('far', ['nc', family === 'IPv4' ? '-4' : '-6', '-u', '-l', '5206']);
        const listens = (port: number): boolean => bench.lab.runSync('far', ['ss', '-Hlnut']).includes(`:${port} `);
        await until('nc listens', () => listens(5205) && listens(5206));
        await bench.lab.must('client', ['bash', '-c', `head -c 3000000 /dev/zero | nc -N ${at.far} 5205`]);
        await receiver.exited;
        expect(receiver.stdout).toContain(createHash('sha256').update(Buffer.alloc(3_000_000)).digest('hex'));
        const sender = bench.lab.start('client', ['bash', '-c', `echo through the appliance | nc -u ${at.far} 5206`]);
        await echo.waitForOutput(/through the appliance/);
        await sender.stop('SIGKILL');
        await echo.stop('SIGKILL');
      });

      test('iperf3 in both directions', async () => {
        expect(await iperf(bench.lab, 'client', at.internet, { seconds: 1 })).toMatchObject({ ok: true });
        expect(await iperf(bench.lab, 'client', at.internet, { seconds: 1, reverse: true })).toMatchObject({ ok: true });
      });

      test('traceroute names the appliance as the first hop', async () => {
        const route = await bench.lab.must('client', ['traceroute', '-n', '-q', '1', '-w', '20', '-m', '5', at.far]);
        const hops = route
          .split('\n')
          .slice(1)
          .map((line) => line.trim().split(/\s+/)[1]);
        expect(hops.slice(0, 3)).toEqual([at.nvaTrust, at.internet, at.far]);
      });
    });

    describe('without NAT', () => {
      test('the server sees the client itself', async () => {
        expect((await who(bench.lab, 'client', at.server)).remote).toBe(at.client);
      });

      test('transfer, UDP, ping and iperf3', async () => {
        expect(await download(bench.lab, 'client', at.server, TRANSFER_BYTES)).toMatchObject({ ok: true });
        expect(await udpExchange(bench.lab, 'client', at.server)).toMatchObject({ answered: 20, damaged: 0 });
        expect(await ping(bench.lab, 'client', at.server)).toMatchObject({ ok: true });
        expect(await iperf(bench.lab, 'client', at.server, { seconds: 1 })).toMatchObject({ ok: true });
      });
    });

    describe('published services', () => {
      test('destination NAT: the server sees the outside client at the mapped port', async () => {
        expect(await who(bench.lab, 'internet', at.nvaUntrust, 8443)).toMatchObject({
          remote: at.internet,
          local: at.server,
          localPort: 443,
        });
      });

      test('destination NAT from inside: the client reaches the outside address', async () => {
        expect(await who(bench.lab, 'client', at.nvaUntrust, 8443)).toMatchObject({ local: at.server, localPort: 443 });
      });

      test('hairpin: two hosts behind the same interface meet at the outside address', async () => {
        const seen = await who(bench.lab, 'client', at.nvaUntrust, 8081, ['--interface', at.client]);
        expect(seen).toMatchObject({ local: at.neighbour, localPort: 8080, remote: at.nvaTrust });
      });

      test('1:1 inbound: the inside host sees the outside client', async () => {
        expect(await who(bench.lab, 'internet', at.mailOutside)).toMatchObject({ remote: at.internet, local: at.mail, localPort: 80 });
        expect(await ping(bench.lab, 'internet', at.mailOutside)).toMatchObject({ ok: true });
      });

      test('1:1 outbound: the inside host appears with its outside address and its own port', async () => {
        const seen = await who(bench.lab, 'server', at.far, 80, ['--interface', at.mail, '--local-port', '40001']);
        expect(seen).toMatchObject({ remote: at.mailOutside, remotePort: 40001 });
      });
    });

    describe('forbidden traffic', () => {
      test('deny: silence, and nothing arrives', async () => {
        const capture = await startCapture(bench.lab, 'internet', 'eth0', 'port 23');
        expect(await tcpConnect(bench.lab, 'client', at.internet, 23, { timeoutMs: 2000 })).toMatchObject({ result: 'timeout' });
        await capture.program.stop('SIGINT');
        expect(capture.packets()).toEqual([]);
      });

      test('reject: a TCP client is refused at once', async () => {
        const capture = await startCapture(bench.lab, 'client', 'eth0', 'tcp port 25');
        const lines = (flags: string): number => capture.packets().filter((line) => line.includes(`Flags [${flags}]`)).length;
        expect(await tcpConnect(bench.lab, 'client', at.internet, 25)).toMatchObject({ result: 'ECONNREFUSED' });
        // No SYN without its answer: nobody had to try again because one was dropped.
        await until('each SYN was answered', () => lines('S') > 0 && lines('R.') === lines('S'));
        await capture.program.stop('SIGINT');
      });

      test('reject: a UDP sender is told that policy forbids it', async () => {
        const filter =
          family === 'IPv4' ? 'icmp[icmptype] == icmp-unreach and icmp[icmpcode] == 13' : 'icmp6 and ip6[40] == 1 and ip6[41] == 1';
        const capture = await startCapture(bench.lab, 'client', 'eth0', filter);
        bench.lab.runSync('client', ['bash', '-c', `echo hello > /dev/udp/${at.internet}/25`]);
        await capture.program.waitForOutput(/prohibited/);
        await capture.program.stop('SIGINT');
      });

      test('from outside: no unsolicited connection reaches inside hosts or closed ports', async () => {
        // Even with a route of its own, and with the inside address as destination.
        bench.lab.ip('internet', `route replace ${at.client} via ${at.nvaUntrust}`, `route replace ${at.server} via ${at.nvaUntrust}`);
        try {
          for (const [address, port] of [
            [at.client, 80],
            [at.server, 80],
          ] as const) {
            expect(await tcpConnect(bench.lab, 'internet', address, port, { timeoutMs: 1000 })).toMatchObject({ result: 'timeout' });
          }
        } finally {
          bench.lab.ip('internet', `route delete ${at.client}`, `route delete ${at.server}`);
        }
      });

      test('spoofed sources are dropped', async () => {
        bench.lab.ip('internet', bench.lab.addressLine(`${at.client}/${family === 'IPv4' ? 32 : 128}`, 'lo'));
        try {
          const capture = await startCapture(bench.lab, 'server', 'eth0', `host ${at.client}`);
          expect(await tcpConnect(bench.lab, 'internet', at.nvaUntrust, 8443, { bind: at.client, timeoutMs: 1000 })).toMatchObject({
            result: 'timeout',
          });
          await capture.program.stop('SIGINT');
          expect(capture.packets()).toEqual([]);
        } finally {
          bench.lab.ip('internet', `address delete ${at.client}/${family === 'IPv4' ? 32 : 128} dev lo`);
        }
      });
    });

    test('many connections at a time', async () => {
      const ports = PORTS.http;
      const all = await Promise.all(
        Array.from({ length: 24 }, (_, n) => download(bench.lab, 'client', at.far, 500_000, { port: ports[n % ports.length]! })),
      );
      expect(all.filter((transfer) => !transfer.ok)).toEqual([]);
    });
  });
});
