// Tunnels over the API, through the real engine host with its keys: what is shown of them, in status and metrics too, and that nothing secret is.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { publicKeyOf } from '../../src/cli/wireguard-keys.js';
import type { WireguardView } from '../../src/control/wireguard.js';
import { WIREGUARD_PEER_RECORD_BYTES, writeWireguardPeerRecord } from '../../src/engine/abi.generated.js';
import { bytesOf, parseAddress } from '../../src/lib/address.js';
import { CONFIG, id, makeDrop, makeFlow } from '../control/bench.js';
import { startApi, type ApiBench } from './bench.js';

const key = (byte: number): string => Buffer.alloc(32, byte).toString('base64');
const TUNNEL = `${CONFIG}wireguard:
  wg0: { zone: mesh, listen: 51877, addresses: [10.99.0.1/24], peers: [
    { name: nva-2, publicKey: "${key(1)}", endpoint: "203.0.113.20:51820", allowedIPs: [10.99.0.2/32, 10.2.0.0/16], keepalive: 25 },
    { name: laptop, publicKey: "${key(2)}", nextPublicKey: "${key(3)}", allowedIPs: 10.99.0.3/32 }] }
`;

/** What the workers would say of a peer. */
function record(bench: ApiBench, peer: string, over: Partial<Parameters<typeof writeWireguardPeerRecord>[2]>): void {
  const bytes = new Uint8Array(WIREGUARD_PEER_RECORD_BYTES);
  writeWireguardPeerRecord(new DataView(bytes.buffer), 0, {
    id: id('wireguard-peer', `wg0/${peer}`), interface: id('interface', 'wg0'), endpoint: { address: bytesOf(parseAddress('203.0.113.99')), local: new Uint8Array(16), port: 4242 },
    lastSentNs: 0n, lastReceivedNs: 0n, lastDataSentNs: 0n, lastDataReceivedNs: 0n, currentCreatedNs: 0n, currentSent: 0n,
    txPackets: 7n, txBytes: 700n, rxPackets: 5n, rxBytes: 500n, waiting: 0, currentInitiator: 1, hasNext: 0, ...over,
  });
  bench.addon.wireguardPeers = () => bytes.slice();
}

const shown = async (bench: ApiBench): Promise<WireguardView[]> => (await bench.ask('GET', 'wireguard', { role: 'viewer' })).body.interfaces as WireguardView[];

test('without tunnels the list is empty, and one by name is not there', async () => {
  const bench = await startApi();
  expect(await shown(bench)).toEqual([]);
  expect(await bench.ask('GET', 'wireguard/wg0', { role: 'viewer' })).toMatchObject({ status: 404, body: { code: 'SLUICE_API_NOT_FOUND', pointer: '/interface' } });
  expect((await bench.ask('GET', 'status', { role: 'viewer' })).body).toMatchObject({ tunnels: [] });
});

test('a tunnel: our public key from the engine, the rest from the configuration', async () => {
  const bench = await startApi({ config: TUNNEL });
  const [tunnel] = await shown(bench);
  const privateKey = readFileSync(join(bench.paths.wireguardState, 'wg0.key'));
  expect(tunnel).toMatchObject({
    interface: 'wg0', zone: 'mesh', addresses: ['10.99.0.1/24'], listen: 51877, mtuBytes: 1420, nextPublicKey: null, faults: [],
    peers: [
      { name: 'nva-2', publicKey: key(1), nextPublicKey: null, endpoint: '203.0.113.20:51820', allowedIPs: ['10.99.0.2/32', '10.2.0.0/16'], keepalive: 25, latestHandshake: null, presharedKey: false },
      { name: 'laptop', publicKey: key(2), nextPublicKey: key(3), endpoint: null, allowedIPs: ['10.99.0.3/32'], keepalive: null, state: 'none' },
    ],
  });
  const text = privateKey.toString('utf8').trim();
  expect(tunnel!.publicKey).toBe(publicKeyOf(text));
  const answers = await Promise.all(['wireguard', 'wireguard/wg0', 'status', 'config', 'config/wireguard', '/metrics', 'config/history/1'].map((path) => bench.ask('GET', path)));
  for (const answer of answers) {
    expect(answer.status).toBe(200);
    expect(answer.text).not.toContain(text);
  }
});

test('traffic of peers, in the list, in status, and as metrics within the bound of series', async () => {
  const bench = await startApi({ config: TUNNEL });
  record(bench, 'nva-2', {});
  expect((await shown(bench))[0]!.peers).toMatchObject([{ name: 'nva-2', rxBytes: 500, txBytes: 700, rxPackets: 5, txPackets: 7, endpoint: '203.0.113.99:4242' }, { name: 'laptop', rxBytes: 0 }]);
  expect((await bench.ask('GET', 'status', { role: 'viewer' })).body).toMatchObject({
    tunnels: [{ interface: 'wg0', zone: 'mesh', listen: 51877, peers: 2, rxBytes: 500, txBytes: 700 }],
    interfaces: [{ kind: 'port' }, { kind: 'port' }, { name: 'wg0', kind: 'wireguard', device: 'sluice0', zone: 'mesh', mtuBytes: 1420, addresses: ['10.99.0.1/24'] }],
  });
  const metrics = (await bench.ask('GET', '/metrics')).text;
  expect(metrics).toContain('sluice_wireguard_bytes_total{interface="wg0",peer="nva-2",direction="received"} 500');
  expect(metrics).toContain('sluice_wireguard_packets_total{interface="wg0",peer="nva-2",direction="sent"} 7');
  expect(metrics).toContain('sluice_wireguard_up{interface="wg0",peer="laptop"} 0');
  expect(metrics).toContain('sluice_wireguard_last_handshake_seconds{interface="wg0",peer="laptop"} 0');
});

test('peers beyond the bound of series are left out and counted', async () => {
  const peers = Array.from({ length: 100 }, (_, i) => `{ name: p${i}, publicKey: "${key(i + 1)}", allowedIPs: 10.99.0.${i + 2}/32 }`);
  const bench = await startApi({ config: `${CONFIG}wireguard:\n  wg0: { zone: mesh, listen: 51877, peers: [${peers.join(', ')}] }\nobservability: { metrics: { seriesMax: 300 } }\n` });
  const metrics = (await bench.ask('GET', '/metrics')).text;
  const shownSeries = metrics.match(/^sluice_wireguard_\w+\{.*peer=/gm)!.length;
  expect(shownSeries).toBeGreaterThan(0);
  expect(shownSeries).toBeLessThan(300);
  expect(Number(/^sluice_series_left_out_total (\d+)/m.exec(metrics)![1])).toBeGreaterThanOrEqual(600 - shownSeries);
});

test('roles and scopes: viewers see, operators do not change, a scope names tunnels alone', async () => {
  const bench = await startApi({ config: TUNNEL });
  expect((await bench.ask('GET', 'wireguard', { anonymous: true })).status).toBe(401);
  expect((await bench.ask('PUT', 'config/wireguard/wg0/peers/laptop', { role: 'operator', body: { publicKey: key(4) }, headers: { 'if-match': '*' } })).status).toBe(403);
  expect((await bench.ask('GET', 'wireguard', { scopes: 'wireguard:read' })).status).toBe(200);
  expect((await bench.ask('GET', 'status', { scopes: 'wireguard' })).status).toBe(403);
  expect((await bench.ask('DELETE', 'config/wireguard/wg0/peers/laptop', { scopes: 'wireguard:read', headers: { 'if-match': '*' } })).status).toBe(403);
  expect((await bench.ask('DELETE', 'config/wireguard/wg0/peers/laptop', { scopes: 'wireguard', headers: { 'if-match': '*' } })).status).toBe(200);
  expect((await shown(bench))[0]!.peers.map(({ name }) => name)).toEqual(['nva-2']);
});

test('a key file that holds no key: a commit is refused and changes nothing, a start goes on and shows the fault', async () => {
  const file = join(mkdtempSync(join(tmpdir(), 'sluice-test-')), 'no.key');
  onTestFinished(() => rmSync(dirname(file), { recursive: true }));
  writeFileSync(file, 'this is no key\n', { mode: 0o600 });
  const text = TUNNEL.replace('zone: mesh,', `zone: mesh, privateKeyFile: "${file}",`);
  const bench = await startApi({ config: TUNNEL });
  const refused = await bench.ask('POST', 'config/commit', { body: { text } });
  expect(refused.status).toBeGreaterThanOrEqual(400);
  expect(refused.text).toContain(file);
  expect(refused.text).not.toContain('this is no key');
  expect((await shown(bench))[0]).toMatchObject({ publicKey: expect.any(String) as string, faults: [] });

  const started = await startApi({ config: text.replaceAll('51877', '51878') });
  const [tunnel] = await shown(started);
  expect(tunnel).toMatchObject({ publicKey: null, faults: [expect.stringContaining(file) as string] });
  expect(JSON.stringify(tunnel)).not.toContain('this is no key');
});

test('records and sessions of a tunnel name the peer behind which an address is', async () => {
  const bench = await startApi({ config: TUNNEL });
  const tunnel = { fromInterface: id('interface', 'wg0'), fromZone: 2 };
  bench.addon.pendingRecords.flows.push(makeFlow({ source: '10.2.7.7', natSource: '10.2.7.7', ...tunnel }), makeFlow({ destination: '10.99.0.3', toInterface: id('interface', 'wg0') }), makeFlow({ source: '10.77.0.1', ...tunnel }));
  bench.addon.pendingRecords.drops.push(makeDrop({ source: '10.99.0.3', interface: id('interface', 'wg0') }));
  type Places = { from: { peer?: string | null }; to?: { interface: string; peer?: string | null } };
  await expect.poll(async () => (await bench.ask('GET', 'flows')).body.records.length as number).toBe(3);
  const flows = (await bench.ask('GET', 'flows')).body.records as Places[];
  expect(flows.map(({ from, to }) => [from.peer, to!.peer])).toEqual(expect.arrayContaining([['nva-2', undefined], [undefined, 'laptop'], [null, undefined]]));
  await expect.poll(async () => ((await bench.ask('GET', 'drops')).body.records as Places[]).map(({ from }) => from.peer)).toEqual(['laptop']);
});

test('a peer with our own public key is a fault: check cannot know it', async () => {
  const bench = await startApi({ config: TUNNEL });
  const own = (await shown(bench))[0]!.publicKey!;
  expect((await bench.ask('PUT', 'config/wireguard/wg0/peers/laptop', { body: { publicKey: own, allowedIPs: ['10.99.0.3/32'] }, headers: { 'if-match': '*' } })).status).toBe(200);
  expect((await shown(bench))[0]!.faults).toEqual([expect.stringContaining('peer laptop has the public key of our own wg0')]);
});
