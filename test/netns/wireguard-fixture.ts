// The network of the WireGuard tests: a client behind the appliance, and peers with wireguard-go behind a router, each with a
// link of its own to it and, where wanted, a host behind it. The appliance's configuration is made here, too.
//
//   client 10.0.1.10 ── eth1 nva eth0 203.0.113.4 ── internet ── 172.20.N.10 peerN ── 10.21.N.10 siteN
//                       wg0 10.99.0.1                             10.99.0.(10+N)

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Appliance } from '../../lab/appliance.js';
import { newKeyPair, WireguardGo, WIREGUARD_PORT, type KeyPair, type WireguardGoOptions, type WireguardPeer } from '../../lab/wireguard-go.js';
import type { Lab } from '../../lab/lab.js';
import { ADDRESSES, endpoint, PORTS, type Family } from '../../lab/topology.js';
import { startCapture, type Capture } from '../../lab/traffic.js';

type Addresses = Record<Family, string>;

export const NVA: Addresses = { IPv4: ADDRESSES.IPv4.nvaUntrust, IPv6: ADDRESSES.IPv6.nvaUntrust };
export const NVA_INNER: Addresses = { IPv4: '10.99.0.1', IPv6: '2001:db8:99::1' };
export const CLIENT: Addresses = { IPv4: ADDRESSES.IPv4.client, IPv6: ADDRESSES.IPv6.client };
/** A host that only exists as frames, behind the client's link. */
export const RAW_CLIENT: Addresses = { IPv4: '10.0.1.50', IPv6: '2001:db8:2::50' };
const INSIDE: Addresses = { IPv4: '10.0.1.0/24', IPv6: '2001:db8:2::/64' };

export const socketText = (address: string, port: number): string => (address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`);
const hostPrefix = (address: string): string => `${address}/${address.includes(':') ? 128 : 32}`;

/** What stands behind the router as one peer. */
export interface Remote {
  number: number;
  node: string;
  site: string;
  keys: KeyPair;
  outer: Addresses;
  /** In the tunnel's own network. */
  inner: Addresses;
  siteHost: Addresses;
  /** As RAW_CLIENT, at its site. */
  rawSiteHost: Addresses;
  sitePrefix: Addresses;
}

const QUIET_HOST = { 'net.ipv6.conf.all.accept_dad': 0, 'net.ipv6.conf.default.accept_dad': 0, 'net.ipv6.conf.default.accept_ra': 0 };
const ROUTER = { ...QUIET_HOST, 'net.ipv4.ip_forward': 1, 'net.ipv6.conf.all.forwarding': 1, 'net.ipv4.conf.all.rp_filter': 0, 'net.ipv4.conf.default.rp_filter': 0 };

export function remoteOf(number: number): Remote {
  return {
    number,
    node: `peer${number}`,
    site: `site${number}`,
    keys: newKeyPair(),
    outer: { IPv4: `172.20.${number}.10`, IPv6: `2001:db8:e:${number}::10` },
    inner: { IPv4: `10.99.0.${10 + number}`, IPv6: `2001:db8:99::${10 + number}` },
    siteHost: { IPv4: `10.21.${number}.10`, IPv6: `2001:db8:21:${number}::10` },
    rawSiteHost: { IPv4: `10.21.${number}.50`, IPv6: `2001:db8:21:${number}::50` },
    sitePrefix: { IPv4: `10.21.${number}.0/24`, IPv6: `2001:db8:21:${number}::/64` },
  };
}

/** The nodes nva, client and internet; peers are added to it. */
export function buildUnderlay(lab: Lab): void {
  lab.addNode('nva', { 'net.ipv6.conf.default.accept_ra': 0 });
  lab.addNode('client', QUIET_HOST);
  lab.addNode('internet', ROUTER);
  const { IPv4, IPv6 } = ADDRESSES;
  lab.addLink({ node: 'nva', device: 'eth0', checksumOffload: true }, { node: 'internet', device: 'eth0', addresses: [`${IPv4.internet}/24`, `${IPv6.internet}/64`] });
  lab.addLink({ node: 'nva', device: 'eth1', checksumOffload: true }, { node: 'client', device: 'eth0', addresses: [`${IPv4.client}/24`, `${IPv6.client}/64`] });
  lab.ip('client', `route add default via ${IPv4.nvaTrust}`, `route add ::/0 via ${IPv6.nvaTrust}`);
  lab.ip('nva', `route add default via ${IPv4.internet} dev eth0 onlink`, `route add ::/0 via ${IPv6.internet} dev eth0 onlink`);
}

export function addRemote(lab: Lab, remote: Remote, options: { site?: boolean } = {}): void {
  const { number, node, site } = remote;
  lab.addNode(node, options.site ? ROUTER : QUIET_HOST);
  lab.addLink(
    { node: 'internet', device: node, addresses: [`172.20.${number}.1/24`, `2001:db8:e:${number}::1/64`] },
    { node, device: 'eth0', addresses: [`${remote.outer.IPv4}/24`, `${remote.outer.IPv6}/64`] },
  );
  lab.ip(node, `route add default via 172.20.${number}.1`, `route add ::/0 via 2001:db8:e:${number}::1`);
  if (!options.site) return;
  lab.addNode(site, QUIET_HOST);
  lab.addLink(
    { node, device: 'eth1', addresses: [`10.21.${number}.1/24`, `2001:db8:21:${number}::1/64`] },
    { node: site, device: 'eth0', addresses: [`${remote.siteHost.IPv4}/24`, `${remote.siteHost.IPv6}/64`] },
  );
  lab.ip(site, `route add default via 10.21.${number}.1`, `route add ::/0 via 2001:db8:21:${number}::1`);
}

/** wireguard-go at the remote's end, with the appliance as its only peer. */
export function startGo(lab: Lab, remote: Remote, nva: Partial<WireguardPeer> & { publicKey: string }, options: Partial<WireguardGoOptions> = {}): Promise<WireguardGo> {
  return WireguardGo.start(lab, remote.node, {
    keys: remote.keys,
    addresses: [`${remote.inner.IPv4}/24`, `${remote.inner.IPv6}/64`],
    routes: Object.values(INSIDE),
    peers: [{ allowedIPs: [...Object.values(INSIDE), ...Object.values(NVA_INNER).map(hostPrefix)], ...nva }],
    ...options,
  });
}

/** A remote as a peer in the appliance's configuration. */
export interface PeerConfiguration {
  name: string;
  publicKey: string;
  presharedKeyFile?: string;
  endpoint?: string;
  allowedIPs: string[];
  keepalive?: number;
}

export function peerConfiguration(remote: Remote, more: Partial<PeerConfiguration> = {}): PeerConfiguration {
  return { name: remote.node, publicKey: remote.keys.publicKey, allowedIPs: [...Object.values(remote.inner).map(hostPrefix), ...Object.values(remote.sitePrefix)], ...more };
}

export const endpointOf = (remote: Remote, family: Family, port = WIREGUARD_PORT): string => socketText(remote.outer[family], port);

/** The appliance's configuration: what is inside may reach the tunnel but for telnet, and a little may come from there. */
export function applianceConfiguration(options: { privateKeyFile?: string; peers: readonly PeerConfiguration[]; routes?: readonly object[] }): string {
  const { privateKeyFile, peers, routes = [] } = options;
  const { IPv4, IPv6 } = ADDRESSES;
  const toTunnel = ['10.21.0.0/16', '2001:db8:21::/48'].map((to) => ({ to, via: { interface: 'wg0' } }));
  // JSON is YAML.
  return JSON.stringify(
    {
      version: 1,
      hostname: 'nva-wireguard',
      interfaces: {
        untrust: { device: 'eth0', zone: 'untrust', addresses: [`${IPv4.nvaUntrust}/24`, `${IPv6.nvaUntrust}/64`] },
        trust: { device: 'eth1', zone: 'trust', addresses: [`${IPv4.nvaTrust}/24`, `${IPv6.nvaTrust}/64`] },
      },
      routes: [{ to: '0.0.0.0/0', via: IPv4.internet }, { to: '::/0', via: IPv6.internet }, ...toTunnel, ...routes],
      firewall: {
        default: 'deny',
        rules: [
          { name: 'no-telnet', to: ['mesh'], service: ['tcp/23', 'udp/23'], action: 'deny' },
          { name: 'into-the-tunnel', from: ['trust'], to: ['mesh'], action: 'allow', log: 'both' },
          { name: 'out-of-the-tunnel', from: ['mesh'], to: ['trust'], service: ['tcp/80', 'tcp/7', 'udp/7', 'udp/5300', 'icmp/echo-request'], action: 'allow', log: 'both' },
          { name: 'in-the-clear', from: ['trust'], to: ['untrust'], action: 'allow' },
        ],
      },
      wireguard: {
        wg0: { zone: 'mesh', listen: WIREGUARD_PORT, ...(privateKeyFile ? { privateKeyFile } : {}), addresses: [`${NVA_INNER.IPv4}/24`, `${NVA_INNER.IPv6}/64`], peers },
      },
    },
    null,
    1,
  );
}

/** Writes a key as the appliance wants it: readable by its owner alone. */
export function writeKey(lab: Lab, name: string, key: string): string {
  const file = join(lab.directory, name);
  writeFileSync(file, `${key}\n`, { mode: 0o600 });
  return file;
}

/** What `sluice wireguard show --json` says. */
export interface ShownInterface {
  interface: string;
  publicKey: string;
  nextPublicKey: string | null;
  listen: number;
  peers: ShownPeer[];
}
export interface ShownPeer {
  name: string;
  publicKey: string;
  endpoint: string | null;
  latestHandshake: string | null;
  rxBytes: number;
  txBytes: number;
  rxPackets: number;
  txPackets: number;
  keepalive: number;
  state: 'none' | 'handshake' | 'established';
}

export async function shown(appliance: Appliance): Promise<ShownInterface> {
  const { interfaces } = await appliance.json<{ interfaces: ShownInterface[] }>('wireguard', 'show');
  return interfaces[0]!;
}

export async function shownPeer(appliance: Appliance, remote: Remote): Promise<ShownPeer> {
  const peer = (await shown(appliance)).peers.find(({ name }) => name === remote.node);
  if (!peer) throw new Error(`the appliance shows no peer ${remote.node}`);
  return peer;
}

/** The web and echo servers of a node. */
export async function serve(lab: Lab, node: string): Promise<void> {
  const program = lab.start(node, endpoint('serve', '--http', PORTS.http.join(','), '--tcp', PORTS.tcp.join(','), '--udp', PORTS.udp.join(',')));
  await program.waitForOutput(/"event":"ready"/);
}

// ---- what is on the wire -----------------------------------------------------------------------------------------------

export const MESSAGE = { initiation: 1, response: 2, cookie: 3, data: 4 } as const;

export interface WireMessage {
  /** Seconds since 1970, when it passed the router. */
  time: number;
  type: number;
  from: string;
  to: string;
  bytes: number;
}

/** WireGuard messages of a remote's link, as the router sees them. */
export class WireWatch {
  private constructor(private readonly capture: Capture) {}

  static async start(lab: Lab, remote: Remote, types: readonly number[] = [1, 2, 3]): Promise<WireWatch> {
    const type = (at: string): string => `(${types.map((one) => `${at}=0x${(one << 24).toString(16).padStart(8, '0')}`).join(' or ')})`;
    // The filter is one word a word; times as seconds, the message's first byte as hex.
    const filter = `-tt -x (ip and udp and ${type('udp[8:4]')}) or (ip6 and ip6[6]=17 and ${type('ip6[48:4]')})`;
    return new WireWatch(await startCapture(lab, 'internet', remote.node, filter));
  }

  /** So far, oldest first. */
  messages(): WireMessage[] {
    const found: WireMessage[] = [];
    for (const block of this.capture.program.stdout.split(/\n(?=\S)/)) {
      const [head = '', ...dump] = block.split('\n');
      const fields = /^(\d+\.\d+) IP6? (\S+) > (\S+): .*length (\d+)/.exec(head);
      const bytes = dump.map((line) => line.replace(/^\s+0x[0-9a-f]+:\s+/, '').replaceAll(' ', '')).join('');
      if (!fields || bytes === '') continue;
      const udp = bytes.startsWith('6') ? 40 : Number.parseInt(bytes[1]!, 16) * 4;
      found.push({ time: Number(fields[1]), type: Number.parseInt(bytes.slice((udp + 8) * 2, (udp + 9) * 2), 16), from: fields[2]!, to: fields[3]!, bytes: Number(fields[4]) });
    }
    return found;
  }

  async stop(): Promise<WireMessage[]> {
    await this.capture.program.stop('SIGINT');
    return this.messages();
  }
}
