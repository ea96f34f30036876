// Three appliances in a full mesh, with keys that they made themselves: each host reaches each other one through the tunnel
// between their appliances, both families, and nothing crosses the underlay in the clear.

import { writeFileSync } from 'node:fs';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Appliance } from '../../lab/appliance.js';
import { Lab } from '../../lab/lab.js';
import { FAMILIES, type Family } from '../../lab/topology.js';
import { download, ping, startCapture, udpExchange, who } from '../../lab/traffic.js';
import { until } from '../../lab/until.js';
import { WIREGUARD_PORT } from '../../lab/wireguard-go.js';
import { describeNetns } from './fixture.js';
import { serve, shown } from './wireguard-fixture.js';

const TRANSFER_BYTES = 2_000_000;

interface Node {
  number: number;
  nva: string;
  host: string;
  outer: Record<Family, string>;
  inner: Record<Family, string>;
  gateway: Record<Family, string>;
  address: Record<Family, string>;
  prefix: Record<Family, string>;
  /** The outer family of its tunnels to nodes of a higher number. */
  family: Family;
}

const nodes = [1, 2, 3].map((number): Node => ({
  number,
  nva: `nva${number}`,
  host: `host${number}`,
  outer: { IPv4: `172.21.${number}.4`, IPv6: `2001:db8:f:${number}::4` },
  inner: { IPv4: `10.98.0.${number}`, IPv6: `2001:db8:98::${number}` },
  gateway: { IPv4: `10.31.${number}.1`, IPv6: `2001:db8:31:${number}::1` },
  address: { IPv4: `10.31.${number}.10`, IPv6: `2001:db8:31:${number}::10` },
  prefix: { IPv4: `10.31.${number}.0/24`, IPv6: `2001:db8:31:${number}::/64` },
  family: number % 2 ? 'IPv4' : 'IPv6',
}));
const pairs = nodes.flatMap((from) => nodes.filter((to) => to !== from).map((to) => ({ from, to, title: `${from.host} to ${to.host}` })));
const withLength = (family: Family, address: string): string => `${address}/${family === 'IPv4' ? 24 : 64}`;
const router = (node: Node, family: Family): string => node.outer[family].replace(/4$/, '1');

function configurationOf(node: Node, publicKeys?: ReadonlyMap<Node, string>): string {
  const peers = nodes.filter((other) => publicKeys && other !== node).map((other) => {
    const outer = other.outer[(node.number < other.number ? node : other).family];
    return {
      name: other.nva,
      publicKey: publicKeys!.get(other)!,
      endpoint: `${outer.includes(':') ? `[${outer}]` : outer}:${WIREGUARD_PORT}`,
      allowedIPs: [`${other.inner.IPv4}/32`, `${other.inner.IPv6}/128`, ...Object.values(other.prefix)],
    };
  });
  return JSON.stringify({
    version: 1,
    hostname: node.nva,
    interfaces: {
      untrust: { device: 'eth0', zone: 'untrust', addresses: FAMILIES.map((family) => withLength(family, node.outer[family])) },
      trust: { device: 'eth1', zone: 'trust', addresses: FAMILIES.map((family) => withLength(family, node.gateway[family])) },
    },
    routes: [
      { to: '0.0.0.0/0', via: router(node, 'IPv4') },
      { to: '::/0', via: router(node, 'IPv6') },
      ...['10.31.0.0/16', '2001:db8:31::/48'].map((to) => ({ to, via: { interface: 'wg0' }, encrypt: 'required' })),
    ],
    firewall: { default: 'deny', rules: [{ name: 'mesh', from: ['trust', 'mesh'], to: ['trust', 'mesh'], action: 'allow' }] },
    wireguard: { wg0: { zone: 'mesh', listen: WIREGUARD_PORT, addresses: FAMILIES.map((family) => withLength(family, node.inner[family])), peers } },
  }, null, 1);
}

describeNetns('three appliances in a full mesh', () => {
  let lab: Lab;
  const appliances = new Map<Node, Appliance>();

  beforeAll(async () => {
    lab = new Lab();
    const host = { 'net.ipv6.conf.all.accept_dad': 0, 'net.ipv6.conf.default.accept_dad': 0, 'net.ipv6.conf.default.accept_ra': 0 };
    lab.addNode('underlay', { ...host, 'net.ipv4.ip_forward': 1, 'net.ipv6.conf.all.forwarding': 1 });
    for (const node of nodes) {
      lab.addNode(node.nva, host);
      lab.addNode(node.host, host);
      lab.addLink({ node: node.nva, device: 'eth0', checksumOffload: true }, { node: 'underlay', device: node.nva, addresses: FAMILIES.map((family) => withLength(family, router(node, family))) });
      lab.addLink({ node: node.nva, device: 'eth1', checksumOffload: true }, { node: node.host, device: 'eth0', addresses: FAMILIES.map((family) => withLength(family, node.address[family])) });
      lab.ip(node.host, `route add default via ${node.gateway.IPv4}`, `route add ::/0 via ${node.gateway.IPv6}`);
      lab.ip(node.nva, `route add default via ${router(node, 'IPv4')} dev eth0 onlink`, `route add ::/0 via ${router(node, 'IPv6')} dev eth0 onlink`);
      appliances.set(node, new Appliance(lab, { node: node.nva, configText: configurationOf(node) }));
    }
    await Promise.all([...[...appliances.values()].map((appliance) => appliance.start()), ...nodes.map(({ host }) => serve(lab, host))]);
    const keys = new Map(await Promise.all(nodes.map(async (node) => [node, (await shown(appliances.get(node)!)).publicKey] as const)));
    for (const [node, appliance] of appliances) {
      writeFileSync(appliance.config, configurationOf(node, keys));
      const committed = await appliance.command('config', 'commit', appliance.config);
      if (committed.code !== 0) throw new Error(`${node.nva}: ${committed.stdout}${committed.stderr}`);
    }
  });
  afterAll(async () => {
    await lab?.destroy();
  });

  test('each has a key of its own', async () => {
    const keys = await Promise.all([...appliances.values()].map(async (appliance) => (await shown(appliance)).publicKey));
    expect(new Set(keys).size).toBe(nodes.length);
    for (const key of keys) expect(Buffer.from(key, 'base64')).toHaveLength(32);
  });

  test('all at once: pings, transfers and datagrams; the underlay sees WireGuard alone', async () => {
    const captures = await Promise.all(nodes.map(({ nva }) => startCapture(lab, 'underlay', nva, `not (udp port ${WIREGUARD_PORT} or arp or (ip6[6] = 58 and ip6[40] >= 133))`)));
    await Promise.all(pairs.flatMap(({ from, to, title }) => FAMILIES.map(async (family) => {
      expect(await ping(lab, from.host, to.address[family], { extra: ['-W', '10'] }), title).toMatchObject({ ok: true });
      expect((await who(lab, from.host, to.address[family])).remote, title).toBe(from.address[family]);
      expect(await download(lab, from.host, to.address[family], TRANSFER_BYTES), title).toMatchObject({ ok: true });
      expect(await udpExchange(lab, from.host, to.address[family], { size: 1200 }), title).toMatchObject({ answered: 20, damaged: 0, errors: [] });
    })));
    for (const capture of captures) {
      await capture.program.stop('SIGINT');
      expect(capture.packets().filter((line) => /10\.31\.|2001:db8:31/.test(line))).toEqual([]);
    }
  });

  test('each sees both others established, over the family of their endpoint', async () => {
    for (const [node, appliance] of appliances) {
      const { peers } = await until('both sessions are shown', async () => {
        const all = await shown(appliance);
        return all.peers.every(({ state }) => state === 'established') ? all : undefined;
      });
      expect(peers).toHaveLength(nodes.length - 1);
      for (const peer of peers) {
        const other = nodes.find(({ nva }) => nva === peer.name)!;
        const { family } = node.number < other.number ? node : other;
        expect(peer.endpoint).toContain(other.outer[family]);
      }
    }
  });
});
