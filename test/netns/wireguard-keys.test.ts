// Two appliances with a tunnel between them: who may read their keys, what a killed engine and a restarted appliance come back with, and
// rotations of the static key step by step, with the engine killed after each.
//
//   host1 10.1.0.10 ── lan0 nva1 wan0 192.0.2.1 ──── 192.0.2.2 wan0 nva2 lan0 ── host2 10.2.0.10
//                      wg0 10.99.0.1                                wg0 10.99.0.2

import { chmodSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, expect, onTestFinished, test } from 'vitest';
import { Appliance } from '../../lab/appliance.js';
import { Lab } from '../../lab/lab.js';
import { startPing } from '../../lab/traffic.js';
import { until } from '../../lab/until.js';
import { EngineClient } from '../../src/control/engine-client.js';
import type { WireguardView } from '../../src/control/wireguard.js';
import type { RotatePhase, RotateResult } from '../../src/engine/wireguard.js';
import { describeNetns } from './fixture.js';

type Side = 1 | 2;
const SIDES: readonly Side[] = [1, 2];
const PORT = 51820;
const other = (side: Side): Side => (side === 1 ? 2 : 1);

interface Tunnel { publicKey?: string; nextPublicKey?: string; listen?: number; mtu?: number; endpoint?: boolean }

/** JSON is YAML. */
function configurationOf(side: Side, { publicKey, nextPublicKey, listen = PORT, mtu = 1420, endpoint = true }: Tunnel): string {
  const peer = { name: `nva${other(side)}`, publicKey, nextPublicKey, endpoint: endpoint ? `192.0.2.${other(side)}:${PORT}` : undefined, allowedIPs: [`10.99.0.${other(side)}/32`, `10.${other(side)}.0.0/24`] };
  return JSON.stringify({
    version: 1,
    interfaces: {
      lan: { device: 'lan0', zone: 'lan', addresses: [`10.${side}.0.1/24`] },
      wan: { device: 'wan0', zone: 'wan', addresses: [`192.0.2.${side}/24`] },
    },
    wireguard: { wg0: { zone: 'mesh', listen, mtu, addresses: [`10.99.0.${side}/24`], peers: publicKey ? [peer] : [] } },
    firewall: { rules: [{ name: 'out', from: ['lan'], to: ['mesh'], action: 'allow' }, { name: 'in', from: ['mesh'], to: ['lan'], action: 'allow' }] },
  });
}

describeNetns('two appliances with a tunnel', () => {
  let lab: Lab;
  const appliances = {} as Record<Side, Appliance>;
  const committed = {} as Record<Side, Tunnel>;

  beforeAll(async () => {
    lab = new Lab();
    for (const side of SIDES) {
      lab.addNode(`nva${side}`, { 'net.ipv6.conf.default.accept_ra': 0 });
      lab.addNode(`host${side}`);
      lab.addLink({ node: `nva${side}`, device: 'lan0', checksumOffload: true }, { node: `host${side}`, device: 'eth0', addresses: [`10.${side}.0.10/24`] });
      lab.ip(`host${side}`, `route add default via 10.${side}.0.1`);
    }
    lab.addLink({ node: 'nva1', device: 'wan0', checksumOffload: true }, { node: 'nva2', device: 'wan0', checksumOffload: true });
    for (const side of SIDES) appliances[side] = new Appliance(lab, { node: `nva${side}`, configText: configurationOf(side, {}) });
    await Promise.all(SIDES.map((side) => appliances[side].start()));
    const keys = { 1: (await show(1)).publicKey!, 2: (await show(2)).publicKey! };
    for (const side of SIDES) await commit(side, { publicKey: keys[other(side)] });
    await until('the tunnel is up', async () => isReached(1), { deadlineMs: 30_000 });
  });
  afterEach(({ task }) => {
    if (task.result?.state === 'fail') for (const side of SIDES) console.error(appliances[side].logs());
  });
  afterAll(async () => {
    for (const side of SIDES) if (appliances[side]?.program) await appliances[side].stop();
    await lab?.destroy();
  });

  const show = async (side: Side): Promise<WireguardView> => (await appliances[side].api<{ interfaces: WireguardView[] }>('/api/v1/wireguard')).interfaces[0]!;
  const stateOf = async (side: Side): Promise<string | undefined> => (await show(side).catch(() => undefined))?.peers[0]?.state;
  const keyFile = (side: Side): string => join(appliances[side].directory, 'state', 'wireguard', 'wg0.key');
  const isReached = async (from: Side): Promise<boolean> => (await lab.run(`host${from}`, ['ping', '-c', '1', '-W', '1', `10.${other(from)}.0.10`])).code === 0;

  async function commit(side: Side, tunnel: Tunnel): Promise<void> {
    const { code, stdout, stderr } = await tryCommit(side, tunnel);
    expect(code, stdout + stderr).toBe(0);
    committed[side] = tunnel;
  }
  async function tryCommit(side: Side, tunnel: Tunnel): Promise<{ code: number | null; stdout: string; stderr: string }> {
    const file = join(lab.directory, `nva${side}.commit.yaml`);
    writeFileSync(file, configurationOf(side, tunnel));
    return appliances[side].command('config', 'commit', file);
  }

  /** As control does: what nodes.ts drives, without the nodes. */
  async function rotate(side: Side, phase: RotatePhase): Promise<RotateResult> {
    const nothing = (): void => undefined;
    const client = new EngineClient(join(appliances[side].directory, 'engine.sock'), { onConnect: nothing, onDisconnect: nothing, onRecords: nothing, onChanged: nothing, onCaptured: nothing, onCaptureEnded: nothing });
    client.start();
    try {
      await until('the engine answers', () => client.isConnected);
      return await client.wireguardRotate('wg0', phase);
    } finally {
      client.close();
    }
  }

  /** Kills the engine; resolves when there is a session again although nobody sends anything. */
  async function killEngine(side: Side): Promise<number> {
    const killed = appliances[side].killProcess('engine');
    const began = Date.now();
    await appliances[side].restarted('engine', killed);
    await until('a session by itself', async () => (await stateOf(side)) === 'established', { deadlineMs: 30_000 });
    return Date.now() - began;
  }

  test('the private key is in a file of the engine\'s alone: control\'s user cannot read it, and nobody is told it', async () => {
    const file = keyFile(1);
    const secret = readFileSync(file, 'utf8').trim();
    expect(secret).toMatch(/^[A-Za-z0-9+/]{43}=$/);
    expect([statSync(file).uid, statSync(file).mode & 0o777, statSync(join(file, '..')).mode & 0o777]).toEqual([0, 0o600, 0o700]);
    const control = statSync(join(appliances[1].directory, 'state', 'config')).uid;
    expect(control).not.toBe(0);
    const attempt = await lab.run('nva1', ['setpriv', '--reuid', String(control), '--regid', String(control), '--clear-groups', 'cat', file]);
    expect(attempt.code).not.toBe(0);
    expect(attempt.stderr).toContain('Permission denied');
    const told = JSON.stringify([await show(1), await appliances[1].api('/api/v1/status'), (await appliances[1].command('wireguard', 'show')).stdout, appliances[1].logs()]);
    expect(told).toContain((await show(1)).publicKey);
    expect(told).not.toContain(secret);
    for (const name of ['last-applied.bin', 'wireguard/endpoints.json']) {
      const bytes = readFileSync(join(appliances[1].directory, 'state', name));
      expect([bytes.includes(secret), bytes.includes(Buffer.from(secret, 'base64'))]).toEqual([false, false]);
    }
  });

  test('the appliances reach each other over the tunnel with its addresses', async () => {
    for (const side of SIDES) expect(await lab.must(`nva${side}`, ['ping', '-c', '3', '-i', '0.2', '-W', '2', `10.99.0.${other(side)}`])).toContain(' 0% packet loss');
  });

  test('an engine that was killed calls its peers by itself, whichever side knows an endpoint, with the same key and addresses', async () => {
    const { publicKey } = await show(2);
    await commit(2, { ...committed[2], endpoint: false }); // nva2 knows from messages alone where nva1 is
    await until('where nva1 is, is on disk', () => readFileSync(join(keyFile(2), '..', 'endpoints.json'), 'utf8').includes('"port":51820}'), { deadlineMs: 20_000 });
    for (const side of SIDES) {
      console.log(`engine of nva${side} killed: a session again after ${await killEngine(side)} ms`);
      expect(await isReached(side)).toBe(true);
      expect(await lab.must(`nva${side}`, ['ping', '-c', '1', '-W', '2', `10.99.0.${other(side)}`])).toContain(' 0% packet loss');
    }
    expect((await show(2)).publicKey).toBe(publicKey);
  });

  test('a rotation under traffic loses nothing', async () => {
    const old = (await show(2)).publicKey!;
    const stream = startPing(lab, 'host1', '10.2.0.10', 0.01);
    const goesOn = async (): Promise<void> => {
      const before = stream.answered();
      await until('packets pass', () => stream.answered() >= before + 50);
    };
    await goesOn();
    const { nextPublicKey } = await rotate(2, 'prepare');
    await commit(1, { publicKey: old, nextPublicKey: nextPublicKey! });
    const before = (await show(1)).peers[0]!.latestHandshake;
    await rotate(2, 'switch');
    await until('a handshake with the next key', async () => (await show(1)).peers[0]!.latestHandshake !== before, { deadlineMs: 15_000 });
    await commit(1, { publicKey: nextPublicKey! });
    expect(await rotate(2, 'finish')).toEqual({ publicKey: nextPublicKey, nextPublicKey: null, rotation: 'none' });
    await goesOn();
    await stream.program.stop('SIGINT');
    expect(stream.missing()).toEqual([]);
    expect(nextPublicKey).not.toBe(old);
  });

  test('a rotation in which the engine is killed after each step ends with the next key, and the tunnel is there each time', async () => {
    const old = (await show(2)).publicKey!;
    const { nextPublicKey } = await rotate(2, 'prepare');
    const steps: (() => Promise<unknown>)[] = [
      () => Promise.resolve(),
      () => commit(1, { publicKey: old, nextPublicKey: nextPublicKey! }),
      () => rotate(2, 'switch'),
      () => commit(1, { publicKey: nextPublicKey! }),
      () => rotate(2, 'finish'),
    ];
    for (const step of steps) {
      await step();
      const before = await show(2);
      await killEngine(2);
      expect(await show(2)).toMatchObject({ publicKey: before.publicKey, nextPublicKey: before.nextPublicKey, rotation: before.rotation, faults: [] });
      await until('packets pass', () => isReached(1), { deadlineMs: 15_000 });
    }
    expect(await show(2)).toMatchObject({ publicKey: nextPublicKey, nextPublicKey: null, rotation: 'none' });
  });

  test('a listen port that a program of the host has is refused by name of the port; the tunnel goes on', async () => {
    const script = "require('node:dgram').createSocket('udp4').bind(51999, () => console.log('bound'))";
    const holder = lab.start('nva1', [process.execPath, '-e', script]);
    await holder.waitForOutput(/bound/);
    const { code, stdout, stderr } = await tryCommit(1, { ...committed[1], listen: 51999 });
    expect(code).toBe(1);
    expect(stdout + stderr).toMatch(/wg0: UDP port 51999 is taken/);
    expect(await isReached(1)).toBe(true);
    await holder.stop();
    await commit(1, { ...committed[1], listen: 51999 });
    expect(await isReached(1)).toBe(true); // nva2 has learnt it
    // The engine may not bind ports below 1024: they are used, but for one that a program of the host has.
    const name = lab.start('nva1', [process.execPath, '-e', script.replace('51999', '53')]);
    await name.waitForOutput(/bound/);
    expect((await tryCommit(1, { ...committed[1], listen: 53 })).stderr).toMatch(/wg0: UDP port 53 is taken/);
    await name.stop();
    for (const listen of [53, PORT]) {
      await commit(1, { ...committed[1], listen });
      expect(await isReached(1)).toBe(true);
    }
  });

  test('no program of the host takes the port, and nobody is told that it is unreachable', async () => {
    const script = `require('node:dgram').createSocket('udp4').on('error', (error) => console.log(error.code)).bind(${PORT}, () => console.log('bound'))`;
    const thief = lab.start('nva1', [process.execPath, '-e', script]);
    await thief.waitForOutput(/EADDRINUSE/);
    await thief.stop();
    // Fragments are the kernel's: where nobody holds the port it answers, here it does not. The answer that comes would have come second.
    const probe = `
      const { createSocket } = require('node:dgram');
      const probes = [${PORT}, 51998].map((port) => {
        const socket = createSocket('udp4').on('error', ({ code }) => {
          console.log('port ' + port + ':', code);
          if (port === 51998) process.exit();
        });
        socket.connect(port, '192.0.2.1');
        return socket;
      });
      Promise.all(probes.map((socket) => new Promise((resolve) => socket.once('connect', resolve)))).then(() => {
        const send = () => probes.forEach((socket) => socket.send(Buffer.alloc(3000, 1)));
        send();
        setInterval(send, 500);
      });`;
    expect(await lab.must('nva2', [process.execPath, '-e', probe])).toBe('port 51998: ECONNREFUSED\n');
  });

  test('an appliance that was ended and started again has the same key, and its tunnel before anybody sends; a key open to others closes it', async () => {
    const { publicKey } = await show(2);
    await appliances[2].stop();
    expect(readFileSync(keyFile(2), 'utf8')).toMatch(/=\n$/);
    await appliances[2].start();
    await until('a session by itself', async () => (await stateOf(2)) === 'established', { deadlineMs: 30_000 });
    expect((await show(2)).publicKey).toBe(publicKey);
    expect(await isReached(2)).toBe(true);

    onTestFinished(() => chmodSync(keyFile(2), 0o600));
    chmodSync(keyFile(2), 0o644);
    appliances[2].killProcess('engine');
    await until('the fault is shown', async () => (await show(2).catch(() => undefined))?.faults[0]?.includes('is open to others'), { deadlineMs: 30_000 });
    const warnings = async (): Promise<string> => (await appliances[2].api<{ warnings: string[] }>('/api/v1/status')).warnings.join();
    expect(await warnings()).toContain('wg0.key is open to others');
    expect(await isReached(2)).toBe(false);
    chmodSync(keyFile(2), 0o600);
    await until('it heals by itself', () => isReached(2), { deadlineMs: 30_000 });
    expect(await warnings()).not.toContain('wg0.key');
  });
});
