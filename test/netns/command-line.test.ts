// What the appliance says about real traffic: status, flows, drops and simulate agree with what happened on the wire.

import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { ADDRESSES, CONFIG, FAMILIES } from '../../lab/topology.js';
import { tcpConnect, who } from '../../lab/traffic.js';
import { until } from '../../lab/until.js';
import type { StatusView } from '../../src/control/status.js';
import type { DropRecordView, SimulateAnswer } from '../../src/engine/records.js';
import { describeNetns, useLab } from './fixture.js';

describeNetns('command line', () => {
  // A session ends, for the records, when it leaves TIME-WAIT.
  const bench = useLab({ appliance: { configText: `${readFileSync(CONFIG, 'utf8')}\ntimers: { tcpTimeWait: 1 }\n` } });

  const simulate = async (...question: string[]): Promise<SimulateAnswer> =>
    (await bench.appliance.json<{ answer: SimulateAnswer }>('simulate', ...question)).answer;

  test('status: ready, with processes and interfaces', async () => {
    const status = await bench.appliance.json<StatusView>('status');
    expect(status).toMatchObject({ ready: true, hostname: 'nva-lab', missing: [] });
    expect(status.interfaces.map(({ name, link, xdpMode }) => ({ name, link, xdpMode }))).toEqual(
      ['untrust', 'trust', 'dmz'].map((name) => ({ name, link: 'up', xdpMode: 'native' })),
    );
    const { processes } = status;
    for (const role of ['engine', 'control'] as const) {
      expect(processes).toContainEqual(expect.objectContaining({ role, state: 'running', pid: bench.appliance.pid(role) }));
    }
  });

  test('wrong usage: exit code 2', async () => {
    expect(await bench.appliance.command('flows', '--no-such-option')).toMatchObject({ code: 2 });
    expect(await bench.appliance.command('no-such-command')).toMatchObject({ code: 2 });
  });

  describe.each(FAMILIES)('%s', (family) => {
    const at = ADDRESSES[family];

    test('flows: the record of a connection has its rule, its translation and its end', async () => {
      const seen = await who(bench.lab, 'client', at.far);
      const flow = await until('the connection has a record of its end', async () => {
        const flows = await bench.appliance.flows('--destination', at.far, '--port', '80');
        return flows.find((one) => one.translated?.sourcePort === seen.remotePort && one.endReason);
      });
      expect(flow).toMatchObject({
        protocol: 'tcp',
        source: at.client,
        destination: at.far,
        destinationPort: 80,
        translated: { source: at.nvaUntrust, sourcePort: seen.remotePort, destination: at.far, destinationPort: 80 },
        rule: 'outbound',
        natSource: 'egress',
        natDestination: null,
        from: { interface: 'trust', zone: 'trust' },
        to: { interface: 'untrust', zone: 'untrust' },
        endReason: 'tcp-fin',
      });
      expect(flow.packets.every((count) => count >= 4)).toBe(true);
    });

    test('drops: the record of a forbidden connection has its rule and reason', async () => {
      await tcpConnect(bench.lab, 'client', at.internet, 23, { timeoutMs: 500 });
      await tcpConnect(bench.lab, 'client', at.server, 3306, { timeoutMs: 500 });
      const dropped = (port: number, address: string): Promise<DropRecordView> => until('the drop has a record', async () => (await bench.appliance.drops('--port', String(port), '--destination', address))[0]);
      const denied = await dropped(23, at.internet);
      expect(denied).toMatchObject({
        reason: 'policy-deny',
        rule: 'no-telnet',
        protocol: 'tcp',
        source: at.client,
        from: { interface: 'trust' },
      });
      const unnamed = await dropped(3306, at.server);
      expect(unnamed).toMatchObject({ reason: 'policy-deny', rule: null });
    });

    test('simulate: what would happen is what happens', async () => {
      const fromClient = ['--from', 'trust', '--source', at.client, '--protocol', 'tcp'];
      expect(await simulate(...fromClient, '--destination', at.far, '--port', '80')).toMatchObject({
        verdict: 'allow',
        rule: 'outbound',
        natSource: 'egress',
        translated: { source: at.nvaUntrust },
        to: { interface: 'untrust' },
        nextHop: at.internet,
      });
      expect(await simulate(...fromClient, '--destination', at.internet, '--port', '23')).toMatchObject({
        verdict: 'deny',
        rule: 'no-telnet',
      });
      expect(await simulate(...fromClient, '--destination', at.internet, '--port', '25')).toMatchObject({
        verdict: 'reject',
        rule: 'no-smtp',
      });
      expect(
        await simulate('--from', 'untrust', '--source', at.internet, '--protocol', 'tcp', '--destination', at.nvaUntrust, '--port', '8443'),
      ).toMatchObject({ verdict: 'allow', rule: 'published', translated: { destination: at.server, destinationPort: 443 } });
    });
  });
});
