// Processes killed at the worst moment: nothing that policy stops passes, and service comes back by itself. And the end:
// nothing is left.

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { ADDRESSES, FAMILIES } from '../../lab/topology.js';
import { startCapture, startKnock, startLoad, startStream, who, type Capture, type Knock } from '../../lab/traffic.js';
import { until } from '../../lab/until.js';
import { describeNetns, useLab } from './fixture.js';

const RECOVERY_MS = 60_000;
const FORBIDDEN_PORT = 23;

describeNetns('faults', () => {
  const bench = useLab({ idle: true });

  /** Forbidden traffic in both directions and families, and captures where it would arrive. */
  async function startForbidden(): Promise<{ knocks: Knock[]; captures: Capture[] }> {
    const captures = await Promise.all(
      ['internet', 'client', 'server'].map((node) => startCapture(bench.lab, node, 'eth0', `dst port ${FORBIDDEN_PORT} and inbound`)),
    );
    const knocks = FAMILIES.flatMap((family) => {
      const at = ADDRESSES[family];
      // The internet gets a route of its own: only the appliance stands between it and the inside.
      bench.lab.ip('internet', `route replace ${at.client} via ${at.nvaUntrust}`, `route replace ${at.server} via ${at.nvaUntrust}`);
      return [
        startKnock(bench.lab, 'client', at.internet, FORBIDDEN_PORT),
        startKnock(bench.lab, 'client', at.server, FORBIDDEN_PORT),
        startKnock(bench.lab, 'internet', at.client, FORBIDDEN_PORT),
        startKnock(bench.lab, 'internet', at.server, FORBIDDEN_PORT),
      ];
    });
    await until('everyone knocks', () => knocks.every((knock) => knock.count() > 2));
    return { knocks, captures };
  }

  /** Everyone knocked once more since; nothing of it arrived. */
  async function expectClosed({ knocks, captures }: { knocks: Knock[]; captures: Capture[] }): Promise<void> {
    const before = knocks.map((knock) => knock.count());
    await until('everyone knocks once more', () => knocks.every((knock, n) => knock.count() > before[n]! + 5));
    for (const program of [...knocks, ...captures].map((one) => one.program)) await program.stop('SIGINT');
    expect(captures.flatMap((capture) => capture.packets())).toEqual([]);
    expect(knocks.filter((knock) => knock.program.stdout.includes('came-through'))).toEqual([]);
  }

  const serves = async (): Promise<boolean> => {
    const seen = await Promise.all(FAMILIES.map((family) => who(bench.lab, 'client', ADDRESSES[family].far)));
    return seen.every(({ remote }) => remote === ADDRESSES.IPv4.nvaUntrust || remote === ADDRESSES.IPv6.nvaUntrust);
  };

  /** What an appliance could leave behind in its namespace and on the machine. */
  function traces(): Record<string, unknown> {
    const { lab, appliance } = bench;
    const links = lab.ipJson<{ ifname: string; xdp?: unknown; mtu: number; flags: string[] }>('nva', 'address', 'show');
    return {
      links: links.map(({ ifname, xdp, mtu, flags }) => ({ ifname, xdp, mtu, flags: flags.filter((flag) => flag !== 'LOWER_UP') })),
      addresses: links.flatMap((link) =>
        (link as unknown as { addr_info: { local: string; scope: string }[] }).addr_info
          .filter(({ scope }) => scope === 'global')
          .map(({ local }) => local),
      ),
      offloads: ['eth0', 'eth1', 'eth2'].map((device) => lab.runSync('nva', ['ethtool', '-k', device])),
      routes: ['-4', '-6'].map((family) =>
        lab
          .runSync('nva', ['ip', family, 'route', 'show', 'table', 'all'])
          .split('\n')
          .filter((line) => !/local|multicast|fe80|anycast/.test(line)),
      ),
      ruleset: lab.runSync('nva', ['nft', 'list', 'ruleset']),
      mounts: readFileSync('/proc/self/mounts', 'utf8')
        .split('\n')
        .filter((line) => line.includes(appliance.directory)),
      sockets: existsSync(appliance.directory) ? readdirSync(appliance.directory).filter((name) => /\.(sock|pid)$/.test(name)) : [],
      processes: lab
        .runSync('nva', ['ip', 'netns', 'pids', lab.namespace('nva')])
        .split('\n')
        .filter(Boolean)
        .filter((pid) => titleOf(pid).startsWith('sluice')),
    };
  }

  const titleOf = (pid: string): string => {
    try {
      return readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ');
    } catch {
      return '';
    }
  };

  describe('while it runs', () => {
    beforeEach(async () => {
      await bench.appliance.start();
    });
    afterEach(async () => {
      await bench.appliance.stop();
    });

    test('the probes see what does pass', async () => {
      const capture = await startCapture(bench.lab, 'far', 'eth0', 'dst port 7 and inbound');
      const knocks = FAMILIES.map((family) => startKnock(bench.lab, 'client', ADDRESSES[family].far, 7));
      await until('allowed knocks arrive in both families and protocols', () =>
        [/IP .* > 198\.51\.100\.10\.7: Flags/, /IP .*7: UDP/, /IP6 .*\.7: Flags/, /IP6 .*\.7: UDP/].every((line) =>
          line.test(capture.program.stdout),
        ),
      );
      await until('the knocking hosts see it, too', () => knocks.every((knock) => knock.program.stdout.includes('came-through')));
      for (const program of [...knocks, capture].map((one) => one.program)) await program.stop('SIGINT');
    });

    test('the engine is killed under load: closed meanwhile, then it serves again', async () => {
      const forbidden = await startForbidden();
      for (let round = 0; round < 2; round++) {
        const load = FAMILIES.map((family) => startLoad(bench.lab, 'client', ADDRESSES[family].far));
        await until('the load runs', async () => (await serves()) === true);
        const killed = bench.appliance.killProcess('engine');
        await bench.appliance.restarted('engine', killed);
        await until('it serves again', serves, { deadlineMs: RECOVERY_MS });
        for (const program of load) await program.stop();
      }
      await expectClosed(forbidden);
    });

    test('control is killed: no packet is lost', async () => {
      const forbidden = await startForbidden();
      const streams = FAMILIES.map((family) => startStream(bench.lab, 'client', ADDRESSES[family].far));
      await until('lines flow', () => streams.every((stream) => stream.received() > 5));
      const engine = bench.appliance.pid('engine');
      const killed = bench.appliance.killProcess('control');
      expect(await serves()).toBe(true);
      await bench.appliance.restarted('control', killed);
      await bench.appliance.ready();
      const before = streams.map((stream) => stream.received());
      await until('lines still flow', () => streams.every((stream, n) => stream.received() > before[n]! + 20));
      expect(await serves()).toBe(true);
      expect(bench.appliance.pid('engine')).toBe(engine);
      for (const stream of streams) await stream.program.stop();
      await expectClosed(forbidden);
    });

    test('the supervisor is killed: forwarding goes on, and a second `up` takes over', async () => {
      const forbidden = await startForbidden();
      bench.appliance.killProcess('supervisor');
      await bench.appliance.program!.exited;
      expect(await serves()).toBe(true);
      await bench.appliance.start();
      await until('it serves', serves, { deadlineMs: RECOVERY_MS });
      await expectClosed(forbidden);
    });

    test('everything is killed at once: closed, and a second `up` serves again', async () => {
      const forbidden = await startForbidden();
      for (const role of ['supervisor', 'engine', 'control'] as const) bench.appliance.killProcess(role);
      await bench.appliance.program!.exited;
      await bench.appliance.start();
      await until('it serves', serves, { deadlineMs: RECOVERY_MS });
      await expectClosed(forbidden);
    });

    test('a second `up` in the same directory is refused while the first one lives', async () => {
      const first = bench.appliance.program!;
      const second = bench.appliance.up();
      const exit = await second.finish(60_000);
      bench.appliance.program = first;
      expect(exit.code).toBe(1);
      expect(second.stderr + second.stdout).toMatch(new RegExp(String(first.pid)));
      expect(await serves()).toBe(true);
    });
  });

  describe('the end', () => {
    test.each(['SIGTERM', 'SIGINT'] as const)(
      '%s leaves nothing',
      async (signal) => {
        const before = traces();
        await bench.appliance.start();
        expect(await serves()).toBe(true);
        expect(traces()).not.toEqual(before);
        expect(await bench.appliance.stop(signal)).toBe(0);
        expect(traces()).toEqual(before);
      },
    );

    test('after the end nothing is forwarded', async () => {
      await bench.appliance.start();
      await bench.appliance.stop();
      const capture = await startCapture(bench.lab, 'server', 'eth0', 'tcp port 80 and inbound');
      bench.lab.ip('nva', `address add ${ADDRESSES.IPv4.nvaTrust}/24 dev eth1`, `address add ${ADDRESSES.IPv4.nvaDmz}/24 dev eth2`);
      try {
        await expect(who(bench.lab, 'client', ADDRESSES.IPv4.server, 80, ['--max-time', '2'])).rejects.toThrow();
      } finally {
        bench.lab.ip('nva', `address delete ${ADDRESSES.IPv4.nvaTrust}/24 dev eth1`, `address delete ${ADDRESSES.IPv4.nvaDmz}/24 dev eth2`);
      }
      await capture.program.stop('SIGINT');
      expect(capture.packets()).toEqual([]);
    });

    test('SIGTERM after the supervisor was killed and taken over leaves nothing, either', async () => {
      const before = traces();
      await bench.appliance.start();
      bench.appliance.killProcess('supervisor');
      await bench.appliance.program!.exited;
      await bench.appliance.start();
      expect(await bench.appliance.stop()).toBe(0);
      expect(traces()).toEqual(before);
    });
  });
});
