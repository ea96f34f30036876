// `sluice wireguard`, as a process of its own: keys, show against a real control, and wg files there and back.
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { formatInterface } from '../../src/cli/commands/wireguard.js';
import { publicKeyOf } from '../../src/cli/wireguard-keys.js';
import { checkText } from '../../src/config/check.js';
import type { WireguardView } from '../../src/control/wireguard.js';
import { findMissing } from '../../src/control/status.js';
import { CONFIG, startBench } from '../control/bench.js';

interface Outcome { code: number | null; stdout: string; stderr: string }
const sluice = (args: readonly string[], input = ''): Promise<Outcome> => run(['wireguard', ...args], input);
function run(args: readonly string[], input = ''): Promise<Outcome> {
  const child = spawn(process.execPath, ['bin/sluice', ...args], { stdio: 'pipe' });
  const outcome = { stdout: '', stderr: '' };
  child.stdout.on('data', (data: Buffer) => { outcome.stdout += data.toString(); });
  child.stderr.on('data', (data: Buffer) => { outcome.stderr += data.toString(); });
  child.stdin.on('error', () => undefined); // a command that does not read it
  child.stdin.end(input);
  return new Promise((resolve) => child.once('close', (code) => resolve({ code, ...outcome })));
}

function directory(): string {
  const path = mkdtempSync(join(tmpdir(), 'sluice-wireguard-'));
  onTestFinished(() => rmSync(path, { recursive: true }));
  return path;
}

const key = (byte: number): string => Buffer.alloc(32, byte).toString('base64');

describe('keys', () => {
  // RFC 7748 section 6.1: Alice's and Bob's.
  test.each([
    ['77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a', '8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a'],
    ['5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb', 'de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f'],
  ])('rfc7748-6.1-public-key of %s', async (privateKey, publicKey) => {
    const base64 = (hex: string): string => Buffer.from(hex, 'hex').toString('base64');
    expect(await sluice(['pubkey'], `${base64(privateKey)}\n`)).toEqual({ code: 0, stdout: `${base64(publicKey)}\n`, stderr: '' });
  });

  test('genkey prints a clamped key, another one each time, and --json its public key too', async () => {
    const made = await Promise.all([sluice(['genkey']), sluice(['genkey']), sluice(['genkey', '--json'])]);
    expect(made.map(({ code, stderr }) => [code, stderr])).toEqual([[0, ''], [0, ''], [0, '']]);
    const bytes = Buffer.from(made[0]!.stdout, 'base64');
    expect([bytes.length, bytes[0]! & 7, bytes[31]! & 0xc0]).toEqual([32, 0, 0x40]);
    expect(made[0]!.stdout).not.toBe(made[1]!.stdout);
    const { privateKey, publicKey } = JSON.parse(made[2]!.stdout) as { privateKey: string; publicKey: string };
    expect(publicKeyOf(privateKey)).toBe(publicKey);
  });

  test('what is no key is refused, and not repeated', async () => {
    for (const input of ['', 'hello', key(1).slice(1), `${key(1)}A`]) {
      const { code, stdout, stderr } = await sluice(['pubkey'], input);
      expect({ code, stdout }, input).toEqual({ code: 1, stdout: '' });
      if (input !== '') expect(stderr).not.toContain(input);
    }
  });
});

describe('show', () => {
  const view: WireguardView = {
    interface: 'wg0', zone: 'mesh', addresses: ['10.99.0.1/24'], mtuBytes: 1420, listen: 51820, publicKey: key(5), nextPublicKey: null, rotation: 'none', faults: [], refused: null,
    peers: [
      { name: 'quiet', publicKey: key(1), nextPublicKey: null, node: null, presharedKey: false, endpoint: null, allowedIPs: [], latestHandshake: null, rxBytes: 0, txBytes: 0, rxPackets: 0, txPackets: 0, keepalive: null, state: 'none' },
      { name: 'nva-2', publicKey: key(2), nextPublicKey: key(3), node: null, presharedKey: true, endpoint: '203.0.113.20:51820', allowedIPs: ['10.99.0.2/32', '10.2.0.0/16'], latestHandshake: '2026-01-01T00:00:00.000Z', rxBytes: 92, txBytes: 5 * 1024 * 1024, rxPackets: 1, txPackets: 9, keepalive: 25, state: 'established' },
    ],
  };

  test('as wg shows it, who was heard of last first', () => {
    expect(formatInterface(view, Date.parse('2026-01-01T00:01:05.500Z'))).toBe(`interface: wg0
  public key: ${key(5)}
  private key: (hidden)
  listening port: 51820
  zone: mesh
  addresses: 10.99.0.1/24

peer: ${key(2)}
  name: nva-2
  next public key: ${key(3)}
  preshared key: (hidden)
  endpoint: 203.0.113.20:51820
  allowed ips: 10.99.0.2/32, 10.2.0.0/16
  latest handshake: 1 min 5 s ago
  transfer: 92 B received, 5.00 MiB sent
  persistent keepalive: every 25 seconds
  state: established

peer: ${key(1)}
  name: quiet
  allowed ips: (none)
  state: none
`);
  });

  test('of a running appliance; export gives what import takes', async () => {
    const bench = await startBench(`${CONFIG}wireguard:\n  wg0: { zone: mesh, listen: 51879, addresses: [10.99.0.1/24], peers: [{ name: nva-2, publicKey: "${key(1)}", endpoint: "203.0.113.20:51820", allowedIPs: [10.99.0.2/32] }] }\n`);
    await bench.api.listen({ path: bench.paths.apiSocket });
    await expect.poll(() => findMissing(bench.control)).toEqual([]);
    const dir = ['--dir', bench.paths.dir];
    const privateKey = readFileSync(join(bench.paths.wireguardState, 'wg0.key'), 'utf8').trim();
    const shown = await sluice(['show', ...dir]);
    expect(shown).toMatchObject({ code: 0, stderr: '' });
    expect(shown.stdout).toContain(`public key: ${publicKeyOf(privateKey)}\n`);
    expect(shown.stdout).toContain(`peer: ${key(1)}\n  name: nva-2\n`);
    const { interfaces } = JSON.parse((await sluice(['show', 'wg0', '--json', ...dir])).stdout) as { interfaces: WireguardView[] };
    expect(interfaces).toMatchObject([{ interface: 'wg0', listen: 51879, peers: [{ name: 'nva-2', endpoint: '203.0.113.20:51820' }] }]);
    expect(await sluice(['show', 'wg9', ...dir])).toMatchObject({ code: 1, stderr: expect.stringMatching(/no tunnel 'wg9'[^]*wg0/) as string });

    const exported = await sluice(['export', 'wg0', ...dir]);
    expect(exported).toMatchObject({ code: 0, stderr: '' });
    const file = join(directory(), 'wg0.conf');
    writeFileSync(file, exported.stdout);
    const again = JSON.parse((await sluice(['import', file, '--json'])).stdout) as { wireguard: object; written: string[] };
    expect(again.wireguard).toEqual({ wg0: { zone: 'mesh', listen: 51879, addresses: ['10.99.0.1/24'], peers: [{ name: 'nva-2', publicKey: key(1), endpoint: '203.0.113.20:51820', allowedIPs: ['10.99.0.2/32'] }] } });
    expect(again.written).toEqual([]);
    const forPeer = await sluice(['export', 'wg0', '--peer', 'nva-2', '--endpoint', '203.0.113.4:51879', ...dir]);
    expect(forPeer.stdout).toContain(`PublicKey = ${publicKeyOf(privateKey)}`);
    expect(forPeer.stdout).toContain('Endpoint = 203.0.113.4:51879');
    expect(await sluice(['export', 'wg0', '--peer', 'nva-9', ...dir])).toMatchObject({ code: 1, stderr: expect.stringContaining('nva-2') as string });
    for (const { stdout } of [shown, exported, forPeer]) expect(stdout).not.toContain(privateKey);
  });
});

describe('import', () => {
  const file = (text: string): string => {
    const path = join(directory(), 'wg7.conf');
    writeFileSync(path, text);
    return path;
  };
  const WG = `[Interface]\nPrivateKey = ${key(9)}\nAddress = 10.7.0.1/24\nDNS = 10.0.0.53\n[Peer]\n# Name = a/b\nPublicKey = ${key(1)}\nPresharedKey = ${key(8)}\nAllowedIPs = 10.7.0.2/32\nEndpoint = 203.0.113.20:51820\n`;

  test('prints a section that check takes; secrets go to files for their owner alone, and nowhere else', async () => {
    const keys = join(directory(), 'keys');
    const { code, stdout, stderr } = await sluice(['import', file(WG), '--zone', 'branch', '--keys', keys]);
    expect(code).toBe(0);
    const { config, problems } = checkText(`version: 1\n${stdout}`, 'imported');
    expect(problems.filter(({ severity }) => severity === 'error')).toEqual([]);
    expect(config?.wireguard?.['wg7']).toEqual({
      zone: 'branch', addresses: ['10.7.0.1/24'], privateKeyFile: join(keys, 'wg7.key'),
      peers: [{ name: 'a/b', publicKey: key(1), endpoint: '203.0.113.20:51820', allowedIPs: ['10.7.0.2/32'], presharedKeyFile: join(keys, 'wg7.peer-1.psk') }],
    });
    expect([readFileSync(join(keys, 'wg7.key'), 'utf8'), readFileSync(join(keys, 'wg7.peer-1.psk'), 'utf8')]).toEqual([`${key(9)}\n`, `${key(8)}\n`]);
    expect([statSync(keys).mode & 0o777, ...['wg7.key', 'wg7.peer-1.psk'].map((name) => statSync(join(keys, name)).mode & 0o777)]).toEqual([0o700, 0o600, 0o600]);
    expect(stderr).toContain(`wrote ${join(keys, 'wg7.key')}`);
    expect(stderr).toMatch(/note: dns in line 4/);
    for (const secret of [key(9), key(8)]) expect(stdout + stderr).not.toContain(secret);
  });

  test('a key that is there is kept, another one is never written over', async () => {
    const keys = join(directory(), 'keys');
    const path = file(WG);
    expect((await sluice(['import', path, '--keys', keys])).code).toBe(0);
    expect(await sluice(['import', path, '--keys', keys])).toMatchObject({ code: 0, stderr: expect.not.stringContaining('wrote') as string });
    writeFileSync(path, WG.replace(key(9), key(10)));
    expect(await sluice(['import', path, '--keys', keys])).toMatchObject({ code: 1, stdout: '', stderr: expect.stringContaining('is there already') as string });
    expect(readFileSync(join(keys, 'wg7.key'), 'utf8')).toBe(`${key(9)}\n`);
  });

  test('a file that is wrong is named with its line, and nothing is written', async () => {
    const keys = join(directory(), 'keys');
    const path = file(WG.replace('Address', 'Adress'));
    expect(await sluice(['import', path, '--keys', keys])).toMatchObject({ code: 1, stdout: '', stderr: expect.stringContaining(`${path}: line 3`) as string });
    expect(existsSync(keys)).toBe(false);
    expect(await sluice(['import', join(keys, 'none.conf')])).toMatchObject({ code: 1, stdout: '' });
    expect(await sluice(['import', path, '--interface', 'a b'])).toMatchObject({ code: 1, stderr: expect.stringContaining('--interface') as string });
  });
});

test('what-if, into a tunnel and out of it', async () => {
  const file = join(directory(), 'sluice.yaml');
  writeFileSync(file, `${CONFIG.replace('rules:\n', 'rules:\n    - { name: in, from: [mesh], to: [trust], action: allow }\n    - { name: mesh, from: [trust], to: [mesh], action: allow }\n')}wireguard:
  wg0: { zone: mesh, addresses: [10.99.0.1/24], peers: [{ name: nva-2, publicKey: "${key(1)}", allowedIPs: [10.99.0.2/32, 10.2.0.0/16] }, { name: nva-3, publicKey: "${key(2)}", allowedIPs: [10.2.3.0/24] }] }
`);
  const ask = async (from: string, source: string, destination: string): Promise<object> => {
    const { stdout } = await run(['simulate', '--config', file, '--from', from, '--source', source, '--destination', destination, '--protocol', 'tcp', '--port', '443', '--json']);
    return (JSON.parse(stdout) as { answer: object }).answer;
  };
  expect(await ask('trust', '10.0.1.9', '10.2.0.5')).toMatchObject({ verdict: 'allow', rule: 'mesh', to: { interface: 'wg0', zone: 'mesh' }, peer: 'nva-2' });
  expect(await ask('trust', '10.0.1.9', '10.2.3.5')).toMatchObject({ verdict: 'allow', peer: 'nva-3' });
  expect(await ask('trust', '10.0.1.9', '10.99.0.7')).toMatchObject({ verdict: 'deny', reason: 'wireguard-no-peer', peer: null });
  expect(await ask('wg0', '10.2.0.5', '10.0.1.9')).toMatchObject({ verdict: 'allow', rule: 'in', from: { zone: 'mesh' }, to: { interface: 'trust' }, peer: null });
  expect(await ask('wg0', '10.7.0.5', '10.0.1.9')).toMatchObject({ verdict: 'deny', reason: 'anti-spoofing' });
});
