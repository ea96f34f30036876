// Two appliances that trust one another: they learn their WireGuard keys by themselves, and replace their static keys under a UDP stream of which
// nothing is lost, reordered or repeated; also when control is killed amid it.
//
//   host1 10.41.1.0/24 ── eth1 nva1 eth0 ── 172.22.0.0/24 ── eth0 nva2 eth1 ── 10.41.2.0/24 host2
//                         wg0 10.97.0.1                      wg0 10.97.0.2

import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, expect, onTestFinished, test } from 'vitest';
import { Appliance } from '../../lab/appliance.js';
import { buildFrame, FrameCount, FrameStream } from '../../lab/frames.js';
import { Lab } from '../../lab/lab.js';
import { until } from '../../lab/until.js';
import type { WireguardView } from '../../src/control/wireguard.js';
import type { Rotated } from '../../src/nodes/nodes.js';
import type { NodesView } from '../../src/nodes/view.js';
import { describeNetns } from './fixture.js';

const STREAM_PORT = 5300;
const RATE = 1000;
const PAYLOAD_BYTES = 200;
const NUMBERS = [1, 2] as const;
type Number = (typeof NUMBERS)[number];
const other = (number: Number): Number => (number === 1 ? 2 : 1);

const QUIET_HOST = { 'net.ipv6.conf.all.disable_ipv6': 1, 'net.ipv6.conf.default.disable_ipv6': 1 };

function configurationOf(number: Number, peerId?: string): string {
  const peer = other(number);
  return JSON.stringify({
    version: 1,
    hostname: `nva${number}`,
    interfaces: {
      untrust: { device: 'eth0', zone: 'untrust', addresses: [`172.22.0.${number}/24`] },
      trust: { device: 'eth1', zone: 'trust', addresses: [`10.41.${number}.1/24`] },
    },
    routes: [{ to: `10.41.${peer}.0/24`, via: { interface: 'wg0' }, encrypt: 'required' }],
    firewall: { default: 'deny', rules: [{ name: 'tunnel', from: ['trust', 'mesh'], to: ['trust', 'mesh'], action: 'allow' }] },
    wireguard: {
      wg0: {
        zone: 'mesh', listen: 51820, addresses: [`10.97.0.${number}/24`],
        ...(peerId === undefined ? {} : { peers: [{ name: `nva${peer}`, node: `nva${peer}`, allowedIPs: [`10.97.0.${peer}/32`, `10.41.${peer}.0/24`] }] }),
      },
    },
    ...(peerId === undefined ? {} : {
      nodes: {
        listen: `172.22.0.${number}:8444`,
        peers: [{ name: `nva${peer}`, id: peerId, url: `https://172.22.0.${peer}:8444` }],
        announce: { wg0: { endpoint: `172.22.0.${number}:51820` } },
      },
    }),
  }, null, 1);
}

describeNetns('rotation of static keys', () => {
  let lab: Lab;
  const appliances = new Map<Number, Appliance>();
  const nva = (number: Number): Appliance => appliances.get(number)!;

  beforeAll(async () => {
    lab = new Lab();
    for (const number of NUMBERS) {
      lab.addNode(`nva${number}`, QUIET_HOST);
      lab.addNode(`host${number}`, QUIET_HOST);
    }
    lab.addLink({ node: 'nva1', device: 'eth0', checksumOffload: true }, { node: 'nva2', device: 'eth0', checksumOffload: true });
    for (const number of NUMBERS) {
      // .50 is a host of frames alone; the kernel answers for it who asks for its link address, and has no way to send anything back.
      lab.addLink({ node: `nva${number}`, device: 'eth1', checksumOffload: true }, { node: `host${number}`, device: 'eth0', addresses: [`10.41.${number}.10/24`], further: [`10.41.${number}.50/24`] });
    }
    for (const number of NUMBERS) appliances.set(number, await new Appliance(lab, { node: `nva${number}`, configText: configurationOf(number) }).start());
    for (const number of NUMBERS) {
      const { id } = await nva(other(number)).json<{ id: string }>('node', 'show', '--id');
      const file = join(lab.directory, `nva${number}-nodes.yaml`);
      writeFileSync(file, configurationOf(number, id));
      const commit = await nva(number).command('config', 'commit', file);
      if (commit.code !== 0) throw new Error(commit.stderr);
    }
    for (const number of NUMBERS) await until(`nva${number} knows the other one's key`, async () => (await shown(number)).peers[0]?.publicKey === (await shown(other(number))).publicKey);
  });
  afterEach(async ({ task }) => {
    if (task.result?.state !== 'fail') return;
    for (const appliance of appliances.values()) console.error(appliance.logs(), JSON.stringify(await appliance.api('/api/v1/counters')));
  });
  afterAll(async () => {
    await lab?.destroy();
  });

  const shown = async (number: Number): Promise<WireguardView> => (await nva(number).json<{ interfaces: WireguardView[] }>('wireguard', 'show')).interfaces[0]!;
  const macOf = (node: string, device: string): string => lab.ipJson<{ address: string }>(node, 'link', 'show', device)[0]!.address;
  const keyFiles = (number: Number): string[] => readdirSync(join(nva(number).directory, 'state', 'wireguard')).filter((name) => name.includes('.key'));
  const secretOf = (number: Number): string => readFileSync(join(nva(number).directory, 'state', 'wireguard', 'wg0.key'), 'utf8').trim();

  /** A stream that goes on, and its count; both began when the tunnel was there. */
  async function startStream(): Promise<{ stream: FrameStream; count: FrameCount }> {
    const frame = buildFrame({ srcMac: macOf('host1', 'eth0'), dstMac: macOf('nva1', 'eth1'), src: '10.41.1.50', dst: '10.41.2.50', protocol: 'udp', srcPort: 4000, dstPort: STREAM_PORT, payload: Buffer.alloc(PAYLOAD_BYTES) });
    const start = async (): Promise<{ stream: FrameStream; count: FrameCount }> => {
      const count = new FrameCount(lab, 'host2', STREAM_PORT);
      await until('the count is there', () => count.program.running);
      const stream = new FrameStream(lab, 'host1', frame, RATE);
      onTestFinished(async () => {
        await stream.program.stop();
        await count.program.stop();
      });
      await until('the stream arrives', () => count.counted().received > RATE / 10, { deadlineMs: 20_000 });
      return { stream, count };
    };
    const first = await start();
    await first.stream.program.stop();
    await first.count.program.stop();
    return start();
  }

  async function rotate(number: Number): Promise<Rotated> {
    const [before, secret] = [await shown(number), secretOf(number)];
    const result = await nva(number).json<Rotated>('wireguard', 'rotate', 'wg0', '--overlap', '60s');
    const after = await shown(number);
    expect(result).toMatchObject({ interface: 'wg0', publicKey: after.publicKey, previousPublicKey: before.publicKey, left: [] });
    expect(after.publicKey).not.toBe(before.publicKey);
    expect(after.nextPublicKey).toBe(null);
    expect(secretOf(number)).not.toBe(secret);
    expect(keyFiles(number)).toEqual(['wg0.key']);
    expect((await shown(other(number))).peers[0]).toMatchObject({ publicKey: after.publicKey, nextPublicKey: null });
    return result;
  }

  test('three times under a stream: 0 lost, 0 reordered, 0 repeated', async () => {
    const { stream, count } = await startStream();
    const handshakes = new Set<string | null>();
    for (const number of [1, 2, 1] as const) {
      handshakes.add((await shown(1)).peers[0]!.latestHandshake);
      const { received } = count.counted();
      await rotate(number);
      await until('the stream goes on', () => count.counted().received > received + RATE / 2);
      expect(count.faults()).toEqual({ lost: 0, reordered: 0, repeated: 0 });
    }
    handshakes.add((await shown(1)).peers[0]!.latestHandshake);
    expect(handshakes.size).toBe(4); // sessions moved each time
    const sent = stream.sent();
    await until('all of it arrived', () => count.counted().last >= sent - 1);
    expect(count.faults()).toEqual({ lost: 0, reordered: 0, repeated: 0 });
  });

  test('control killed amid a rotation: the next one brings it to its end, and the stream does not notice', async () => {
    const { count } = await startStream();
    const before = await shown(1);
    // While nva2's control is stopped it cannot say that it has the next key: the rotation waits.
    const pid = nva(2).pid('control')!;
    process.kill(pid, 'SIGSTOP');
    let isStopped = true;
    const goOn = (): void => {
      if (isStopped) process.kill(pid, 'SIGCONT');
      isStopped = false;
    };
    onTestFinished(goOn);
    const command = nva(1).command('wireguard', 'rotate', 'wg0', '--overlap', '5m');
    await until('it waits', async () => (await nva(1).json<NodesView>('node', 'show')).rotations[0]?.waitingFor.includes('nva2'));
    expect((await shown(1)).nextPublicKey).not.toBe(null);
    const killed = nva(1).killProcess('control');
    await nva(1).restarted('control', killed);
    await nva(1).ready();
    goOn();
    await until('the old key is gone', async () => {
      const { publicKey, nextPublicKey } = await shown(1);
      return publicKey !== before.publicKey && nextPublicKey === null;
    }, { deadlineMs: 60_000 });
    expect((await command).code).toBe(0);
    await until('the other one has followed', async () => (await shown(2)).peers[0]!.publicKey === (await shown(1)).publicKey);
    expect(keyFiles(1)).toEqual(['wg0.key']);
    expect(count.faults()).toEqual({ lost: 0, reordered: 0, repeated: 0 });
  });
});
