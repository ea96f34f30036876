// Tunnels by configuration, with wireguard-go at the other end: a wg file taken over, the other end's file given out and read by wg itself,
// commits beside a tunnel that is in use, and what a commit takes away.
//
//   client 10.1.0.10 ── lan0 nva wan0 192.0.2.1 ──── 192.0.2.2 eth0 branch (10.2.0.1)
//                       wg0 10.99.0.1                         10.99.0.2

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { Appliance } from '../../lab/appliance.js';
import { Lab } from '../../lab/lab.js';
import { startPing } from '../../lab/traffic.js';
import { until } from '../../lab/until.js';
import { newKeyPair, WireguardGo } from '../../lab/wireguard-go.js';
import { publicKeyOf } from '../../src/cli/wireguard-keys.js';
import type { WireguardView } from '../../src/control/wireguard.js';
import { describeNetns } from './fixture.js';

const BASE = `version: 1
hostname: nva
interfaces:
  lan: { device: lan0, zone: lan, addresses: [10.1.0.1/24] }
  wan: { device: wan0, zone: wan, addresses: [192.0.2.1/24] }
firewall:
  rules:
    - { name: out, from: [lan], to: [mesh], action: allow }
    - { name: in, from: [mesh], to: [lan], action: allow }
`;

describeNetns('commits of tunnels', () => {
  let lab: Lab;
  let nva: Appliance;
  let branch: WireguardGo;
  /** The section as import printed it. */
  let tunnel: string;
  const keys = { nva: newKeyPair(), branch: newKeyPair() };
  const command = async (...args: string[]): Promise<string> => {
    const { code, stdout, stderr } = await nva.command(...args);
    expect(code, stdout + stderr).toBe(0);
    return stdout;
  };
  const file = (name: string, text: string): string => {
    const path = join(lab.directory, name);
    writeFileSync(path, text, { mode: 0o600 });
    return path;
  };
  const commit = (text: string): Promise<string> => command('config', 'commit', file('commit.yaml', text));
  const show = async (): Promise<WireguardView> => (JSON.parse(await command('wireguard', 'show', 'wg0', '--json')) as { interfaces: WireguardView[] }).interfaces[0]!;
  const isReached = async (): Promise<boolean> => (await lab.run('client', ['ping', '-c', '1', '-W', '1', '10.2.0.1'])).code === 0;

  beforeAll(async () => {
    lab = new Lab();
    lab.addNode('nva', { 'net.ipv6.conf.default.accept_ra': 0 });
    lab.addNode('client');
    lab.addNode('branch');
    lab.addLink({ node: 'nva', device: 'lan0', checksumOffload: true }, { node: 'client', device: 'eth0', addresses: ['10.1.0.10/24'] });
    lab.addLink({ node: 'nva', device: 'wan0', checksumOffload: true }, { node: 'branch', device: 'eth0', addresses: ['192.0.2.2/24'] });
    lab.ip('client', 'route add default via 10.1.0.1');
    lab.ip('branch', 'address add 10.2.0.1/24 dev lo');
    nva = new Appliance(lab, { configText: BASE.slice(0, BASE.indexOf('firewall:')) });
    await nva.start();
  });
  afterEach(({ task }) => {
    if (task.result?.state === 'fail') console.error(nva.logs());
  });
  afterAll(async () => {
    await branch?.stop();
    if (nva?.program) await nva.stop();
    await lab?.destroy();
  });

  test('a wg-quick file taken over makes the tunnel that it described', async () => {
    const wg = file('wg0.conf', `[Interface]\nPrivateKey = ${keys.nva.privateKey}\nListenPort = 51820\nAddress = 10.99.0.1/24\n\n[Peer]\n# Name = branch\nPublicKey = ${keys.branch.publicKey}\nAllowedIPs = 10.99.0.2/32, 10.2.0.0/24\nEndpoint = 192.0.2.2:51820\n`);
    tunnel = await command('wireguard', 'import', wg, '--keys', join(lab.directory, 'keys'));
    await commit(BASE + tunnel);
    expect(publicKeyOf(keys.nva.privateKey)).toBe((await show()).publicKey);
    branch = await WireguardGo.start(lab, 'branch', { keys: keys.branch, addresses: ['10.99.0.2/24'], routes: ['10.1.0.0/24'], peers: [{ publicKey: keys.nva.publicKey, allowedIPs: ['10.99.0.0/24', '10.1.0.0/24'] }] });
    await until('the tunnel is up', isReached, { deadlineMs: 30_000 });
    expect((await show()).peers).toMatchObject([{ name: 'branch', state: 'established', latestHandshake: expect.any(String) as string, endpoint: '192.0.2.2:51820' }]);
    expect((await lab.run('nva', ['ping', '-c', '1', '-W', '2', '10.99.0.2'])).code).toBe(0);
    lab.ip('nva', 'route add 10.2.0.0/24 dev sluice0'); // as docs/operations/wireguard.md has it for the appliance's own connections
    expect((await lab.run('nva', ['ping', '-c', '1', '-W', '2', '10.2.0.1'])).code).toBe(0);
  });

  test('what export gives for the other end, wg itself takes', async () => {
    const text = await command('wireguard', 'export', 'wg0', '--peer', 'branch', '--endpoint', '192.0.2.1:51820');
    expect(text).not.toContain(keys.nva.privateKey);
    // As `wg-quick strip` does: address and MTU are wg-quick's own. The other end adds its key, and what is behind us.
    const stripped = text.replace(/^(Address|MTU) = .*\n/gm, '').replace('[Interface]', `[Interface]\nPrivateKey = ${keys.branch.privateKey}`).replace(/^AllowedIPs = /m, 'AllowedIPs = 10.1.0.0/24, ');
    await lab.must('branch', ['wg', 'setconf', branch.device, file('branch.conf', stripped)]);
    expect(await branch.peers()).toMatchObject([{ publicKey: keys.nva.publicKey, endpoint: '192.0.2.1:51820', allowedIPs: expect.arrayContaining(['10.99.0.0/24', '10.1.0.0/24']) as string[] }]);
    // The other end begins: we would wait 15 s for an answer in the session that it forgot (section 6.2 of the protocol's paper).
    await until('the tunnel is up again', async () => (await lab.run('branch', ['ping', '-c', '1', '-W', '1', '-I', '10.2.0.1', '10.1.0.10'])).code === 0, { deadlineMs: 30_000 });
    expect(await isReached()).toBe(true);
  });

  test('commits beside a tunnel in use lose nothing: rules, peers, allowed IPs, keepalives, another tunnel, routes', async () => {
    const changed = [
      BASE.replace('action: allow', 'action: allow, log: end') + tunnel,
      BASE + tunnel.replace('name: branch,', 'name: branch, keepalive: 20,'),
      `${BASE}${tunnel}      - { name: laptop, publicKey: "${newKeyPair().publicKey}", allowedIPs: 10.99.0.7/32 }\n`,
      BASE + tunnel.replace('[10.99.0.2/32, 10.2.0.0/24]', '[10.99.0.2/32, 10.2.0.0/24, 10.3.0.0/24]'),
      `${BASE}${tunnel}  wg1: { zone: other, listen: 51821, addresses: [10.98.0.1/24] }\n`,
      `${BASE}routes:\n  - { to: 10.2.0.0/24, via: { interface: wg0 }, encrypt: required }\n${tunnel}`,
      BASE + tunnel,
    ];
    for (const [index, text] of changed.entries()) if (index < changed.length - 1) expect(text, `change ${index}`).not.toBe(BASE + tunnel);
    const before = (await show()).peers[0]!.latestHandshake;
    const pinging = startPing(lab, 'client', '10.2.0.1', 0.02);
    await until('packets pass', () => pinging.answered() >= 20);
    for (const text of changed) {
      await commit(text);
      const passed = pinging.answered();
      await until('packets pass after the commit', () => pinging.answered() >= passed + 10);
    }
    await pinging.program.stop('SIGINT');
    expect(pinging.missing()).toEqual([]);
    expect((await show()).peers[0]!.latestHandshake).toBe(before); // and by the very same session
  });

  test('a peer that is taken away ends at once; put back, it is there again by a new handshake', async () => {
    const dropped = async (reason: string): Promise<number> => (JSON.parse(await command('status', '--json')) as { drops: Record<string, number> }).drops[reason] ?? 0;
    const before = await dropped('wireguard-no-peer');
    await commit(BASE + tunnel.replace(/ {4}peers:\n.*\n/, '').replace('addresses:', 'routes: false\n    addresses:').replace(/^wireguard:/m, 'routes:\n  - { to: 10.2.0.0/24, via: { interface: wg0 } }\nwireguard:'));
    expect((await show()).peers).toEqual([]);
    expect(await isReached()).toBe(false);
    expect((await lab.run('branch', ['ping', '-c', '1', '-W', '1', '-I', '10.2.0.1', '10.1.0.10'])).code).not.toBe(0);
    expect(await dropped('wireguard-no-peer')).toBeGreaterThan(before);
    await command('config', 'rollback');
    await until('the tunnel is up again', isReached, { deadlineMs: 30_000 });
  });

  test('a commit that the engine cannot carry out leaves the tunnel as it was', async () => {
    const other = lab.start('nva', ['python3', '-c', 'import socket, time; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("0.0.0.0", 51999)); print("bound", flush=True); time.sleep(600)']);
    await until('somebody has the port', () => other.stdout.includes('bound'));
    const refused = await nva.command('config', 'commit', file('commit.yaml', BASE + tunnel.replace('51820\n', '51999\n')));
    expect(refused.code).toBe(1);
    expect(refused.stderr).toContain('51999');
    expect((await show()).listen).toBe(51820);
    expect(await isReached()).toBe(true);
    await other.stop();
  });
});
