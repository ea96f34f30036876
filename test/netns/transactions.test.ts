// Transactions on a real data plane, by the command line: in force when the command ends, taken back by themselves, found again after a restart.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import type { CommitResult, Revision } from '../../src/control/transaction-types.js';
import { ADDRESSES, CONFIG } from '../../lab/topology.js';
import { tcpConnect } from '../../lab/traffic.js';
import { until } from '../../lab/until.js';
import { describeNetns, useLab } from './fixture.js';

const POLICY = readFileSync(CONFIG, 'utf8');
const CLOSED = POLICY.replace(/^ *- { name: internal,.*\n/m, '');
const at = ADDRESSES.IPv4;

describeNetns('transactions', () => {
  const bench = useLab({ appliance: { configText: POLICY } });
  const file = (name: string, text: string): string => {
    const path = join(bench.lab.directory, name);
    writeFileSync(path, text);
    return path;
  };
  const commit = (...args: string[]): Promise<CommitResult> => bench.appliance.json<CommitResult>('config', 'commit', ...args);
  const history = async (): Promise<Revision[]> => (await bench.appliance.json<{ revisions: Revision[] }>('config', 'history')).revisions;
  const isOpen = async (): Promise<boolean> => (await tcpConnect(bench.lab, 'client', at.server, 80)).result === 'connected';
  const isClosed = async (): Promise<boolean> => (await tcpConnect(bench.lab, 'client', at.server, 80, { timeoutMs: 1000 })).result === 'timeout';

  test('a commit is in force when the command ends; so is a rollback', async () => {
    expect(await isOpen()).toBe(true);
    const result = await commit(file('closed.yaml', CLOSED), '--comment', 'nobody needs it');
    expect(result).toMatchObject({ revision: 2, changes: [{ path: 'firewall.rules[internal]', kind: 'removed' }] });
    expect(await isClosed()).toBe(true);
    expect(await bench.appliance.json('config', 'rollback')).toMatchObject({ revision: 3 });
    expect(await isOpen()).toBe(true);
    expect(await history()).toMatchObject([{ action: 'rollback', running: true }, { action: 'commit', comment: 'nobody needs it', by: { via: 'socket' } }, { action: 'file' }]);
  });

  test('addresses come and go with it, and a refused one leaves them as they were', async () => {
    const addresses = (): string => bench.lab.runSync('nva', ['ip', '-br', 'address', 'show']);
    const before = addresses();
    const more = POLICY.replace(/addresses: \[10\.0\.1\.4\/24/, 'addresses: [10.0.1.4/24, 10.0.1.5/24');
    expect(more).not.toBe(POLICY);
    const { revision } = await commit(file('more.yaml', more));
    expect(addresses()).toContain('10.0.1.5/24');
    const refused = await bench.appliance.command('config', 'commit', file('bad.yaml', more.replace('device: eth2', 'device: eth7')));
    expect(refused).toMatchObject({ code: 1, stderr: expect.stringMatching(/bad\.yaml:\d+:\d+: error: .*eth7/) as string });
    expect(addresses()).toContain('10.0.1.5/24');
    await bench.appliance.json('config', 'rollback', String(revision - 1));
    expect(addresses()).toBe(before);
  });

  test('not confirmed: taken back, also when control is killed meanwhile', async () => {
    const { confirmBy } = await commit(file('closed.yaml', CLOSED), '--confirm-within', '15');
    expect(Date.parse(confirmBy!)).toBeGreaterThan(Date.now());
    expect(await isClosed()).toBe(true);
    await bench.appliance.restarted('control', bench.appliance.killProcess('control'));
    await until('the service is open again', isOpen, { deadlineMs: 60_000 });
    expect((await history())[0]).toMatchObject({ action: 'not-confirmed', by: { via: 'system' } });
  });

  test('a restart with the same file finds what was committed since; a changed file wins', async () => {
    await commit(file('closed.yaml', CLOSED));
    const { revision } = (await history())[0]!;
    expect(await bench.appliance.stop()).toBe(0);
    await bench.appliance.start();
    expect((await history())[0]).toMatchObject({ revision, running: true });
    expect(await isClosed()).toBe(true);
    expect(await bench.appliance.stop()).toBe(0);
    writeFileSync(bench.appliance.config, `# changed\n${POLICY}`);
    await bench.appliance.start();
    expect((await history())[0]).toMatchObject({ revision: revision + 1, action: 'file', running: true });
    expect(await isOpen()).toBe(true);
  });

  test('a file that is refused at the start: what ran last runs', async () => {
    expect(await bench.appliance.stop()).toBe(0);
    const good = readFileSync(bench.appliance.config, 'utf8');
    writeFileSync(bench.appliance.config, good.replace('action: reject', 'action: rejekt'));
    await bench.appliance.start();
    expect(bench.appliance.program!.stderr).toMatch(/rejekt[\s\S]*runs instead/);
    expect(await isOpen()).toBe(true);
    writeFileSync(bench.appliance.config, good);
  });
});
