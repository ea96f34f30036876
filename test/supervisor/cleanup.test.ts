// The clean-up journal: written before a thing is set, complete after a crash, and right about what was there before us.
// The second half works in a network namespace of its own, with the compiled program, as the appliance does.
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { CommandError, type Run } from '../../src/engine/command.js';
import { CleanupJournal, undoAll, type CleanupEntry } from '../../src/supervisor/cleanup.js';
import { makeRunDirectory } from '../engine/fake-addon.js';

const ADDRESS: CleanupEntry = { kind: 'address', device: 'eth1', address: '10.0.0.1', prefixLength: 24 };
const MOUNT: CleanupEntry = { kind: 'mount', path: '/run/x/bpf', host: false };
const LINK: CleanupEntry = { kind: 'link-up', device: 'eth1' };

describe('journal', () => {
  test('is on disk after each line', () => {
    const { cleanup } = makeRunDirectory();
    const journal = CleanupJournal.load(cleanup);
    journal.add(MOUNT);
    journal.add(ADDRESS);
    journal.add(ADDRESS);
    expect(CleanupJournal.load(cleanup).entries).toEqual([MOUNT, ADDRESS]);
    journal.remove(MOUNT);
    expect(CleanupJournal.load(cleanup).entries).toEqual([ADDRESS]);
    journal.delete();
    expect(existsSync(cleanup)).toBe(false);
  });

  test('lines of an earlier boot are void', () => {
    const { cleanup } = makeRunDirectory();
    writeFileSync(cleanup, JSON.stringify({ bootId: 'another', entries: [ADDRESS] }));
    expect(CleanupJournal.load(cleanup).entries).toEqual([]);
  });

  test('lines of another network namespace are void, but for mounts', () => {
    const { cleanup } = makeRunDirectory();
    CleanupJournal.load(cleanup).add(MOUNT);
    const file = JSON.parse(readFileSync(cleanup, 'utf8')) as { networkNamespace: string; entries: CleanupEntry[] };
    writeFileSync(cleanup, JSON.stringify({ ...file, networkNamespace: 'net:[1]', entries: [MOUNT, ADDRESS] }));
    expect(CleanupJournal.load(cleanup).entries).toEqual([MOUNT]);
  });

  test.each(['', '{', '[]', '{"entries":5}'])('a file that holds %j is an empty one', (content) => {
    const { cleanup } = makeRunDirectory();
    writeFileSync(cleanup, content);
    expect(CleanupJournal.load(cleanup).entries).toEqual([]);
  });

  test('is taken away newest first; what fails stays and is told, what is gone already is no failure', async () => {
    const { cleanup } = makeRunDirectory();
    const journal = CleanupJournal.load(cleanup);
    for (const entry of [MOUNT, LINK, ADDRESS]) journal.add(entry);
    const commands: string[] = [];
    const run: Run = (program, ...args) => {
      commands.push([program, ...args].join(' '));
      if (program === 'umount') return Promise.reject(new CommandError('umount', 'target is busy', false));
      if (args.includes('address')) return Promise.reject(new CommandError('ip', 'RTNETLINK answers: Cannot assign requested address', false));
      return Promise.resolve('');
    };
    const failures = await undoAll(journal, run);
    expect(commands).toEqual(['ip address delete 10.0.0.1/24 dev eth1', 'ip link set dev eth1 down', 'umount --lazy /run/x/bpf']);
    expect(failures).toEqual([expect.stringContaining('target is busy')]);
    expect(CleanupJournal.load(cleanup).entries).toEqual([MOUNT]);
  });
});

const namespace = `sl-cleanup-${process.pid}`;

describe.skipIf(process.getuid?.() !== 0)('netdevs in a namespace', () => {
  const ip = (...args: string[]): string => execFileSync('ip', ['-n', namespace, ...args], { encoding: 'utf8', stdio: 'pipe' });

  beforeAll(() => {
    execFileSync('ip', ['netns', 'add', namespace]);
    ip('link', 'add', 'eth1', 'type', 'veth', 'peer', 'name', 'far1');
    ip('link', 'set', 'far1', 'up');
    inside("import { writeFileSync } from 'node:fs'; for (const f of ['ipv4', 'ipv6']) writeFileSync(`/proc/sys/net/${f}/conf/eth1/forwarding`, '1');");
  });
  afterAll(() => void execFileSync('ip', ['netns', 'delete', namespace]));

  /** Runs a module in the namespace. */
  function inside(script: string): string {
    return execFileSync('ip', ['netns', 'exec', namespace, process.execPath, '--input-type=module', '-e', script], { encoding: 'utf8', stdio: 'pipe' });
  }

  const root = (path: string): string => JSON.stringify(join(process.cwd(), 'dist/src', path));
  const prepare = (cleanup: string, plan: object): string[] => JSON.parse(inside(`
    import { prepareNetdevs } from ${root('engine/netdevs.js')};
    import { readFacts } from ${root('engine/facts.js')};
    import { CleanupJournal } from ${root('supervisor/cleanup.js')};
    const { devices } = await readFacts();
    console.log(JSON.stringify(await prepareNetdevs(${JSON.stringify(plan)}, devices, CleanupJournal.load(${JSON.stringify(cleanup)}))));`)) as string[];
  const undo = (cleanup: string): string[] => JSON.parse(inside(`
    import { CleanupJournal, undoAll } from ${root('supervisor/cleanup.js')};
    console.log(JSON.stringify(await undoAll(CleanupJournal.load(${JSON.stringify(cleanup)}))));`)) as string[];
  const setting = (path: string): string => inside(`import { readFileSync } from 'node:fs'; process.stdout.write(readFileSync('/proc/sys/net/${path}', 'utf8'))`).trim();
  const addresses = (): string[] => (JSON.parse(ip('-j', 'address', 'show', 'dev', 'eth1')) as { addr_info: { local: string; prefixlen: number; scope: string }[] }[])
    .flatMap((entry) => entry.addr_info).filter(({ scope }) => scope === 'global').map(({ local, prefixlen }) => `${local}/${prefixlen}`).sort();
  const isUp = (): boolean => ip('link', 'show', 'eth1').includes('UP');

  const plan = (...list: string[]): object => ({
    devices: ['eth1'], raise: ['eth1'], vlans: [],
    addresses: list.map((text) => ({ device: 'eth1', address: text.split('/')[0], prefixLength: Number(text.split('/')[1]) })),
  });

  test('are set as planned, follow a changed plan, and are taken back to what they were', () => {
    const { cleanup } = makeRunDirectory();
    ip('address', 'add', '192.0.2.1/24', 'dev', 'eth1');
    expect(prepare(cleanup, plan('192.0.2.1/24', '10.0.0.1/24', '2001:db8::1/64'))).toEqual([]);
    expect(addresses()).toEqual(['10.0.0.1/24', '192.0.2.1/24', '2001:db8::1/64']);
    expect(isUp()).toBe(true);
    expect([setting('ipv4/conf/eth1/forwarding'), setting('ipv6/conf/eth1/forwarding')]).toEqual(['0', '0']);
    expect(ip('address', 'show', 'dev', 'eth1')).not.toMatch(/2001:db8::1.*tentative/);

    prepare(cleanup, plan('192.0.2.1/24', '10.0.0.2/24', '2001:db8::1/64'));
    expect(addresses()).toEqual(['10.0.0.2/24', '192.0.2.1/24', '2001:db8::1/64']);
    // As an engine that was killed and came back: its journal still knows what is ours.
    prepare(cleanup, plan('192.0.2.1/24', '10.0.0.2/24', '2001:db8::1/64'));

    expect(undo(cleanup)).toEqual([]);
    expect(addresses()).toEqual(['192.0.2.1/24']); // it was there before us
    expect(isUp()).toBe(false);
    expect(JSON.parse(readFileSync(cleanup, 'utf8'))).toMatchObject({ entries: [] });
    expect(setting('ipv4/conf/eth1/forwarding')).toBe('0'); // closed, also after the end
  });

  test('a VLAN device is created and deleted, or its absence explained', () => {
    const { cleanup } = makeRunDirectory();
    const warnings = prepare(cleanup, { devices: ['eth1'], raise: ['eth1'], vlans: [{ device: 'eth1.5', parent: 'eth1', vlanId: 5 }], addresses: [{ device: 'eth1.5', address: '10.5.0.1', prefixLength: 24 }] });
    const exists = (): boolean => ip('link', 'show').includes('eth1.5');
    if (exists()) expect(ip('address', 'show', 'dev', 'eth1.5')).toContain('10.5.0.1/24');
    else expect(warnings).toEqual([expect.stringMatching(/lacks 802\.1q.*VLAN 5 of eth1/)]);
    expect(undo(cleanup)).toEqual([]);
    expect(exists()).toBe(false);
  });

  test('addresses stand on the engine\'s own device, too, and the kernel does not forward there', () => {
    const { cleanup } = makeRunDirectory();
    ip('tuntap', 'add', 'dev', 'sluice0', 'mode', 'tun');
    ip('link', 'set', 'dev', 'sluice0', 'up');
    inside("import { writeFileSync } from 'node:fs'; writeFileSync('/proc/sys/net/ipv4/conf/sluice0/forwarding', '1');");
    const own = (...list: string[]): object => ({ devices: [], raise: [], vlans: [], addresses: list.map((address) => ({ device: 'sluice0', address, prefixLength: address.includes(':') ? 64 : 24 })) });
    expect(prepare(cleanup, own('10.9.0.1', 'fd00:9::1'))).toEqual([]);
    expect(ip('address', 'show', 'dev', 'sluice0')).toMatch(/10\.9\.0\.1\/24[^]*fd00:9::1\/64/);
    expect([setting('ipv4/conf/sluice0/forwarding'), setting('ipv6/conf/sluice0/forwarding')]).toEqual(['0', '0']);
    prepare(cleanup, own('10.9.0.2'));
    expect(ip('address', 'show', 'dev', 'sluice0')).not.toMatch(/10\.9\.0\.1|fd00:9/);
    // The engine died and made it anew: its addresses are set again.
    ip('link', 'delete', 'sluice0');
    ip('tuntap', 'add', 'dev', 'sluice0', 'mode', 'tun');
    prepare(cleanup, own('10.9.0.2'));
    expect(ip('address', 'show', 'dev', 'sluice0')).toContain('10.9.0.2/24');
    ip('link', 'delete', 'sluice0');
    expect(undo(cleanup)).toEqual([]);
  });

  test('a device that is gone at the end is no failure', () => {
    const { cleanup } = makeRunDirectory();
    ip('link', 'add', 'eth7', 'type', 'veth', 'peer', 'name', 'far7');
    prepare(cleanup, { devices: ['eth7'], raise: ['eth7'], vlans: [], addresses: [{ device: 'eth7', address: '10.7.0.1', prefixLength: 24 }] });
    ip('link', 'delete', 'eth7');
    expect(undo(cleanup)).toEqual([]);
  });
});
