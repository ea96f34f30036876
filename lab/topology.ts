// The network of the lab. `internet` is a router with a host of its own; `far` stands behind it. Neither knows a way back
// to trust or dmz: what reaches them must have been translated.
//
//   client ── trust 10.0.1.0/24 ── eth1 ┐       ┌ eth0 ── untrust 203.0.113.0/24 ── internet ── 198.51.100.0/24 ── far
//             2001:db8:2::/64           nva ────┤         2001:db8:1::/64                       2001:db8:f::/64
//   server ── dmz 10.0.2.0/24 ───── eth2 ┘
//             2001:db8:3::/64

import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { existsSync } from 'node:fs';
import { Lab } from './lab.js';
import type { Program } from './program.js';

/** The checkout, whether this runs from lab/ (tests) or dist/lab/ (npm start). */
export const ROOT = (() => {
  let directory = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(directory, 'package.json'))) directory = dirname(directory);
  return directory;
})();
export const CONFIG = join(ROOT, 'lab', 'config.yaml');
const ENDPOINT = join(ROOT, 'dist', 'lab', 'endpoint.js');

export type Family = 'IPv4' | 'IPv6';
export const FAMILIES: readonly Family[] = ['IPv4', 'IPv6'];

interface Addresses {
  client: string;
  neighbour: string;
  server: string;
  mail: string;
  mailOutside: string;
  internet: string;
  far: string;
  nvaUntrust: string;
  nvaTrust: string;
  nvaDmz: string;
}

export const ADDRESSES: Record<Family, Addresses> = {
  IPv4: {
    client: '10.0.1.10',
    neighbour: '10.0.1.11',
    server: '10.0.2.10',
    mail: '10.0.2.20',
    mailOutside: '203.0.113.9',
    internet: '203.0.113.1',
    far: '198.51.100.10',
    nvaUntrust: '203.0.113.4',
    nvaTrust: '10.0.1.4',
    nvaDmz: '10.0.2.4',
  },
  IPv6: {
    client: '2001:db8:2::10',
    neighbour: '2001:db8:2::11',
    server: '2001:db8:3::10',
    mail: '2001:db8:3::20',
    mailOutside: '2001:db8:1::9',
    internet: '2001:db8:1::1',
    far: '2001:db8:f::10',
    nvaUntrust: '2001:db8:1::4',
    nvaTrust: '2001:db8:2::4',
    nvaDmz: '2001:db8:3::4',
  },
};

/** Ports on which internet, far and server answer. */
export const PORTS = { http: [80, 443, 8080], tcp: [7, 23, 25], udp: [7, 23, 25], iperf: 5201 };

export const endpoint = (...args: (string | number)[]): string[] => [process.execPath, ENDPOINT, ...args.map(String)];

const withLength = (family: Family, address: string): string => `${address}/${family === 'IPv4' ? 24 : 64}`;
const both = (name: keyof Addresses): string[] => FAMILIES.map((family) => withLength(family, ADDRESSES[family][name]));

const HOST_SYSCTLS = {
  'net.ipv6.conf.all.accept_dad': 0,
  'net.ipv6.conf.default.accept_dad': 0,
  'net.ipv6.conf.default.accept_ra': 0,
  // A host that changes its link address tells its neighbours, as in a failover.
  'net.ipv4.conf.all.arp_notify': 1,
  'net.ipv6.conf.all.ndisc_notify': 1,
  'net.ipv6.conf.default.ndisc_notify': 1,
  'net.ipv4.conf.all.rp_filter': 0,
  'net.ipv4.conf.default.rp_filter': 0,
};

export interface TopologyOptions {
  /** Leave the hosts' transmit checksum offload on, as on a plain veth: the appliance completes the checksums. */
  checksumOffload?: boolean;
}

/** Makes the nodes and links. The appliance's addresses are its own business: its configuration names them. */
export function buildTopology(lab: Lab, options: TopologyOptions = {}): void {
  const offload = { checksumOffload: options.checksumOffload ?? false };
  lab.addNode('nva', { 'net.ipv6.conf.default.accept_ra': 0 });
  for (const host of ['client', 'server', 'far']) lab.addNode(host, HOST_SYSCTLS);
  lab.addNode('internet', { ...HOST_SYSCTLS, 'net.ipv4.ip_forward': 1, 'net.ipv6.conf.all.forwarding': 1 });

  lab.addLink(
    { node: 'nva', device: 'eth0', checksumOffload: true },
    { node: 'internet', device: 'eth0', addresses: both('internet'), ...offload },
  );
  lab.addLink(
    { node: 'nva', device: 'eth1', checksumOffload: true },
    { node: 'client', device: 'eth0', addresses: both('client'), further: both('neighbour'), ...offload },
  );
  lab.addLink(
    { node: 'nva', device: 'eth2', checksumOffload: true },
    { node: 'server', device: 'eth0', addresses: both('server'), further: both('mail'), ...offload },
  );
  lab.addLink(
    { node: 'internet', device: 'eth1', addresses: ['198.51.100.1/24', '2001:db8:f::1/64'], ...offload },
    { node: 'far', device: 'eth0', addresses: both('far'), ...offload },
  );

  const defaults = (node: string, via4: string, via6: string, src?: [string, string]): void =>
    lab.ip(node, `route add default via ${via4}${src ? ` src ${src[0]}` : ''}`, `route add ::/0 via ${via6}${src ? ` src ${src[1]}` : ''}`);
  defaults('client', ADDRESSES.IPv4.nvaTrust, ADDRESSES.IPv6.nvaTrust, [ADDRESSES.IPv4.client, ADDRESSES.IPv6.client]);
  defaults('server', ADDRESSES.IPv4.nvaDmz, ADDRESSES.IPv6.nvaDmz, [ADDRESSES.IPv4.server, ADDRESSES.IPv6.server]);
  // The appliance's host has routes of its own for what it sends itself, as any machine has.
  lab.ip(
    'nva',
    `route add default via ${ADDRESSES.IPv4.internet} dev eth0 onlink`,
    `route add ::/0 via ${ADDRESSES.IPv6.internet} dev eth0 onlink`,
  );
  defaults('far', '198.51.100.1', '2001:db8:f::1');
}

export interface Servers {
  internet: Program;
  far: Program;
  server: Program;
  client: Program;
}

/** Starts the hosts' servers and waits until each listens. */
export async function startServers(lab: Lab): Promise<Servers> {
  const serve = (node: string): Program =>
    lab.start(node, endpoint('serve', '--http', PORTS.http.join(','), '--tcp', PORTS.tcp.join(','), '--udp', PORTS.udp.join(',')));
  const servers = { internet: serve('internet'), far: serve('far'), server: serve('server'), client: serve('client') };
  const iperf = ['internet', 'server'].map((node) =>
    lab.start(node, ['iperf3', '--server', '--port', String(PORTS.iperf), '--forceflush']),
  );
  await Promise.all([
    ...Object.values(servers).map((program) => program.waitForOutput(/"event":"ready"/)),
    ...iperf.map((program) => program.waitForOutput(/Server listening/)),
  ]);
  return servers;
}
