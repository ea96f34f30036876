// WireGuard's part of the configuration: what is refused and where, what the snapshot and the engine's plan hold, and where routes lead.
import { expect, test } from 'vitest';
import * as abi from '../../src/engine/abi.generated.js';
import { checkConfig } from '../../src/config/check.js';
import { compileSnapshot, type Compiled } from '../../src/config/compile.js';
import { diffConfigs } from '../../src/config/diff.js';
import { emitConfig } from '../../src/config/emit.js';
import { findSecrets } from '../../src/config/load.js';
import { fnv1a32 } from '../../src/config/names.js';
import { Problems } from '../../src/config/problem.js';
import { shareWith } from '../../src/config/share.js';
import type { Config } from '../../src/config/schema.js';
import { addressOfBytes, formatAddress, formatPrefix } from '../../src/lib/address.js';
import { base, brief, check, facts, random } from './support.js';

const key = (byte: number): string => Buffer.alloc(32, byte).toString('base64');

/** `rest`: more of wg0, in flow form; `more`: other sections. */
const tunnel = (peers: string, rest = '', more = ''): string => `${base}routes: [{ to: 0.0.0.0/0, via: 203.0.113.1 }${more.startsWith(',') ? more : ''}]
wireguard:
  wg0: { zone: mesh, listen: 51820, addresses: [10.99.0.1/24], peers: [${peers}]${rest} }
${more.startsWith(',') ? '' : more}`;
const peer = (rest: string, name = 'nva-2', byte = 1): string => `{ name: ${name}, publicKey: "${key(byte)}"${rest === '' ? '' : `, ${rest}`} }`;
const good = tunnel(`${peer('endpoint: "203.0.113.20:51820", allowedIPs: [10.99.0.2/32, 10.2.0.0/16, "2001:db8:99::/48"], keepalive: 25')}, ${peer('allowedIPs: 10.99.0.3/32, presharedKeyFile: /etc/sluice/nva-3.psk', 'nva-3', 2)}`);

const codes = (text: string): string[] => brief(check(text, facts).problems).map((line) => line.replace(/^\d+ /, ''));

function compile(text: string): Compiled {
  const { config, problems } = check(text, facts);
  if (config === undefined) throw new Error(problems.map(({ path, message }) => `${path}: ${message}`).join('\n'));
  return compileSnapshot(config, facts, 7);
}

function read({ snapshot }: Compiled) {
  const view = new DataView(snapshot.buffer, snapshot.byteOffset, snapshot.byteLength);
  const header = abi.readSnapshotHeader(view, 0);
  const all = <T>(section: abi.Section, bytes: number, one: (view: DataView, offset: number) => T): T[] => Array.from({ length: section.count }, (_, i) => one(view, section.offset + i * bytes));
  const prefixes = all(header.prefixes, abi.PREFIX_BYTES, abi.readPrefix).map(({ address, length }) => formatPrefix({ address: addressOfBytes(address), length }));
  const nexthops = all(header.nexthops, abi.NEXTHOP_BYTES, abi.readNexthop);
  return {
    prefixes, interfaces: all(header.interfaces, abi.INTERFACE_BYTES, abi.readInterface), addresses: all(header.addresses, abi.INTERFACE_ADDRESS_BYTES, abi.readInterfaceAddress),
    natRules: all(header.natRules, abi.NAT_RULE_BYTES, abi.readNatRule),
    wireguards: all(header.wireguards, abi.WIREGUARD_BYTES, abi.readWireguard), peers: all(header.wireguardPeers, abi.WIREGUARD_PEER_BYTES, abi.readWireguardPeer),
    routes: new Map(all(header.routes, abi.ROUTE_BYTES, abi.readRoute).map(({ to, nexthops: span }) => [
      formatPrefix({ address: addressOfBytes(to.address), length: to.length }), nexthops.slice(span.first, span.first + span.count).map((hop) => `${formatAddress(hop.via)} ${hop.interface} ${abi.NEXTHOP_KINDS[hop.kind]!.name}`).join(),
    ])),
  };
}

test('a tunnel without facts and with them', () => {
  expect(check(good).problems).toEqual([]);
  expect(check(good, facts).problems).toEqual([]);
});

test('the snapshot: a tunnel is an interface without a device, with peers and their allowed IPs', () => {
  const compiled = compile(good);
  const { interfaces, wireguards, peers, prefixes, addresses } = read(compiled);
  expect(interfaces[2]).toMatchObject({ id: fnv1a32('interface:wg0'), kind: abi.InterfaceKind.WIREGUARD, ifindex: 0, kernelIfindex: 0, vlanId: abi.SL_VLAN_NONE, mtuBytes: 1420, zone: 2, antiSpoofing: abi.AntiSpoofing.STRICT });
  expect(interfaces.slice(0, 2).every(({ kind }) => kind === abi.InterfaceKind.PORT)).toBe(true);
  expect(wireguards).toEqual([{ interface: 2, listenPort: 51820, peers: { first: 0, count: 2 } }]);
  expect(peers.map(({ id }) => id)).toEqual([fnv1a32('wireguard-peer:wg0/nva-2'), fnv1a32('wireguard-peer:wg0/nva-3')]);
  expect(peers.map(({ allowedIps: { first, count } }) => prefixes.slice(first, first + count))).toEqual([['10.99.0.2/32', '10.2.0.0/16', '2001:db8:99::/48'], ['10.99.0.3/32']]);
  expect(addresses.map(({ address, interface: at }) => [formatAddress(address), at]).at(-1)).toEqual(['10.99.0.1', 2]);
  expect(compiled.names.ids.get(peers[0]!.id)).toEqual({ kind: 'wireguard-peer', name: 'wg0/nva-2' });
});

test('the plan of the engine\'s process: everything but keys that are secret', () => {
  const { wireguards, addresses } = compile(good.replace('keepalive: 25', 'keepalive: 0').replace('listen: 51820', 'listen: 51999, mtu: 1380, privateKeyFile: /etc/sluice/wg0.key').replace(key(2), `${key(2)}", nextPublicKey: "${key(3)}`));
  expect(wireguards).toEqual([{
    interface: 'wg0', id: fnv1a32('interface:wg0'), listen: 51999, mtu: 1380, privateKeyFile: '/etc/sluice/wg0.key',
    peers: [
      { id: fnv1a32('wireguard-peer:wg0/nva-2'), name: 'nva-2', publicKey: key(1), endpoint: { address: '203.0.113.20', port: 51820 } },
      { id: fnv1a32('wireguard-peer:wg0/nva-3'), name: 'nva-3', publicKey: key(2), nextPublicKey: key(3), presharedKeyFile: '/etc/sluice/nva-3.psk' },
    ],
  }]);
  expect(addresses.at(-1)).toEqual({ device: 'sluice0', address: '10.99.0.1', prefixLength: 24, purpose: 'interface' });
});

test('a peer without allowed IPs has an empty list, which is none and not any', () => {
  const text = tunnel(peer(''));
  expect(codes(text)).toEqual(['wireguard.wg0.peers[0] SLUICE_WIREGUARD_ALLOWED_IPS']);
  expect(read(compile(text)).peers[0]!.allowedIps).toEqual({ first: 0, count: 0 });
});

test('allowed IPs are routes, unless an equal one is configured or the tunnel says no', () => {
  const routes = read(compile(good)).routes;
  expect(routes.get('10.2.0.0/16')).toBe(':: 2 forward');
  expect(routes.get('10.99.0.2/32')).toBe(':: 2 forward');
  expect(routes.get('2001:db8:99::/48')).toBe(':: 2 forward');
  const configured = good.replace('via: 203.0.113.1 }', 'via: 203.0.113.1 }, { to: 10.2.0.0/16, via: 10.0.1.7 }');
  expect(codes(configured)).toEqual(['wireguard.wg0.peers[0].allowedIPs SLUICE_ROUTE_DUPLICATE']);
  expect(read(compile(configured)).routes.get('10.2.0.0/16')).toBe('10.0.1.7 1 forward');
  const without = read(compile(good.replace('listen: 51820', 'listen: 51820, routes: false'))).routes;
  expect(without.has('10.2.0.0/16')).toBe(false);
  expect(without.get('10.99.0.0/24')).toBe(':: 2 forward');
});

test('a default route of allowed IPs takes what has no other way, and never the endpoint', () => {
  const everything = (routes: string): string => `${base}routes: [${routes}]\nwireguard:\n  wg0: { zone: mesh, addresses: [10.99.0.1/24], peers: [${peer('endpoint: "198.51.100.9:51820", allowedIPs: [0.0.0.0/0, "::/0"]')}] }\n`;
  expect(codes(everything('{ to: 198.51.100.9/32, via: 203.0.113.1 }'))).toEqual([]);
  const { routes } = read(compile(everything('{ to: 198.51.100.9/32, via: 203.0.113.1 }')));
  expect([routes.get('0.0.0.0/0'), routes.get('::/0'), routes.get('198.51.100.9/32')]).toEqual([':: 2 forward', ':: 2 forward', '203.0.113.1 0 forward']);
  expect(codes(everything('{ to: 192.0.2.0/24, via: 203.0.113.1 }'))).toEqual(['wireguard.wg0.peers[0].endpoint SLUICE_WIREGUARD_ENDPOINT']);
  expect(codes(everything('{ to: 0.0.0.0/0, via: 203.0.113.1 }'))).toEqual(['wireguard.wg0.peers[0].allowedIPs SLUICE_ROUTE_DUPLICATE']);
});

test('routes through a tunnel: by its name, by an address in its subnet, and only to what a peer allows', () => {
  const two = `${peer('allowedIPs: [10.99.0.2/32, 10.2.0.0/16]')}, ${peer('allowedIPs: [10.99.0.3/32, 10.3.0.0/16]', 'nva-3', 2)}`;
  const text = tunnel(two, ', routes: false', ', { to: 10.2.0.0/16, via: 10.99.0.2 }, { to: 10.3.0.0/24, via: { interface: wg0 } }');
  expect(codes(text)).toEqual([]);
  const { routes } = read(compile(text));
  expect([routes.get('10.2.0.0/16'), routes.get('10.3.0.0/24')]).toEqual(['10.99.0.2 2 forward', ':: 2 forward']);
  expect(codes(tunnel(two, '', ', { to: 10.4.0.0/16, via: { interface: wg0 } }'))).toEqual(['routes[1].to SLUICE_WIREGUARD_ALLOWED_IPS']);
  expect(codes(tunnel(two, '', ', { to: 10.3.1.0/24, via: 10.99.0.2 }'))).toEqual(['routes[1].via SLUICE_WIREGUARD_ALLOWED_IPS']);
  expect(codes(tunnel(two, '', ', { to: 10.0.0.0/8, via: { interface: wg0 } }'))).toEqual([]); // parts of it are a peer's
});

test('without routes of their own, allowed IPs need some: anti-spoofing would drop what comes from there', () => {
  const peers = peer('allowedIPs: [10.99.0.2/32, 10.2.0.0/16]');
  expect(codes(tunnel(peers, ', routes: false'))).toEqual(['wireguard.wg0.peers[0].allowedIPs SLUICE_WIREGUARD_ALLOWED_IPS']);
  expect(codes(tunnel(peers, ', routes: false, antiSpoofing: loose'))).toEqual([]);
  expect(codes(tunnel(peers, ', routes: false', ', { to: 10.0.0.0/14, via: { interface: wg0 } }'))).toEqual([]);
  expect(codes(tunnel(peers, ', routes: false', ', { to: 10.2.7.0/24, via: { interface: wg0 } }'))).toEqual([]);
});

test('encrypt: required: through a tunnel or not at all', () => {
  const peers = peer('allowedIPs: [10.99.0.2/32, 10.2.0.0/16]');
  const good = tunnel(peers, '', ', { to: 10.2.0.0/16, via: { interface: wg0 }, encrypt: required }');
  expect(codes(good)).toEqual([]);
  expect(read(compile(good)).routes.get('10.2.0.0/16')).toBe(':: 2 forward');
  for (const via of ['10.0.1.7', '{ interface: trust }', '[10.99.0.2, 10.0.1.7]']) {
    expect(codes(tunnel(peers, '', `, { to: 10.9.0.0/16, via: ${via}, encrypt: required }`)), via).toContain('routes[1].via SLUICE_ROUTE_UNENCRYPTED');
  }
  expect(codes(tunnel(peers, '', ', { to: 10.9.0.0/16, blackhole: true, encrypt: required }'))).toContain('routes[1].encrypt SLUICE_ROUTE');
  expect(codes(tunnel(peers, '', ', { to: 10.9.0.0/16, via: 10.99.0.2, encrypt: maybe }'))).toContain('routes[1].encrypt SLUICE_CONFIG_VALUE');
});

test('encrypt: required holds when facts turn against it: the packets drop, and never take a less specific way', () => {
  // The check has no addresses to judge by; the machine then has the next hop on a port, or nowhere.
  const text = `version: 1
interfaces: { untrust: { device: eth1, zone: untrust }, trust: { device: eth2, zone: trust, addresses: [10.0.1.4/24] } }
routes: [{ to: 0.0.0.0/0, via: 203.0.113.1 }, { to: 10.2.0.0/16, via: 203.0.113.2, encrypt: required }]
`;
  const { config, problems } = check(text);
  expect(problems).toEqual([]);
  const withAddress = { ...facts, devices: facts.devices.map((one) => (one.name === 'eth1' ? { ...one, addresses: [{ address: '203.0.113.4', prefixLength: 24, dynamic: true }] } : one)) };
  for (const machine of [facts, withAddress]) {
    const compiled = compileSnapshot(config!, machine, 1);
    expect(compiled.unencryptedRoutes).toEqual([1]);
    expect(read(compiled).routes.get('10.2.0.0/16')).toBe(':: 0 unencrypted');
  }
  expect(compileSnapshot(config!, facts, 1).inactiveRoutes).toEqual([0]);
});

test('what is refused, and where', () => {
  const peers = (rest: string): string => tunnel(peer(rest));
  expect(codes(peers('allowedIPs: [10.2.0.1/16]'))).toEqual(['wireguard.wg0.peers[0].allowedIPs[0] SLUICE_ADDRESS']);
  expect(codes(peers('allowedIPs: [10.2.0.0/16, 10.2.0.0/16]'))).toEqual(['wireguard.wg0.peers[0].allowedIPs[1] SLUICE_WIREGUARD_ALLOWED_IPS']);
  expect(codes(peers('allowedIPs: 10.99.0.1/32'))).toEqual(['wireguard.wg0.peers[0].allowedIPs SLUICE_WIREGUARD_ALLOWED_IPS']);
  expect(codes(peers('allowedIPs: 203.0.113.4'))).toEqual(['wireguard.wg0.peers[0].allowedIPs SLUICE_WIREGUARD_ALLOWED_IPS']);
  for (const endpoint of ['203.0.113.20', '203.0.113.20:0', '203.0.113.20:65536', '[203.0.113.20]:1', '[2001:db8::g]:1', '2001:db8::1:51820', '999.1.1.1:51820', 'a..b:1', '-x:1', 'x y:1']) {
    expect(codes(peers(`endpoint: "${endpoint}", allowedIPs: 10.99.0.2/32`)).map((line) => line.split(' ')[0]), endpoint).toEqual(['wireguard.wg0.peers[0].endpoint']);
  }
  for (const endpoint of ['203.0.113.4:51820', '[2001:db8:1::4]:51820', '224.0.0.1:1', '0.0.0.0:1']) {
    expect(codes(peers(`endpoint: "${endpoint}", allowedIPs: 10.99.0.2/32`)), endpoint).toEqual(['wireguard.wg0.peers[0].endpoint SLUICE_WIREGUARD_ENDPOINT']);
  }
  for (const endpoint of ['203.0.113.20:1', '[2001:db8:1::20]:65535', 'vpn.example.net:51820', 'VPN-1.example.net.:51820', 'nva_2:1']) {
    expect(codes(peers(`endpoint: "${endpoint}", allowedIPs: 10.99.0.2/32`)), endpoint).toEqual([]);
  }
  for (const bad of ['short', key(1).slice(0, -1), `${key(1)}=`, `${key(1).slice(0, -2)}B=`, Buffer.alloc(33, 1).toString('base64'), Buffer.alloc(31, 1).toString('base64')]) {
    expect(codes(`${base}wireguard: { wg0: { zone: mesh, peers: [{ name: a, publicKey: "${bad}" }] } }\n`), bad).toEqual(['wireguard.wg0.peers[0].publicKey SLUICE_CONFIG_VALUE']);
  }
  expect(codes(tunnel(peer('allowedIPs: 10.99.0.2', 'a', 0)))).toEqual(['wireguard.wg0.peers[0].publicKey SLUICE_WIREGUARD_KEY']);
  expect(codes(tunnel(`${peer('allowedIPs: 10.99.0.2', 'a')}, ${peer('allowedIPs: 10.99.0.3', 'a', 2)}`))).toEqual(['wireguard.wg0.peers[1].name SLUICE_NAME_DUPLICATE']);
  expect(codes(tunnel(`${peer('allowedIPs: 10.99.0.2', 'a')}, ${peer('allowedIPs: 10.99.0.3', 'b')}`))).toEqual(['wireguard.wg0.peers[1].publicKey SLUICE_WIREGUARD_KEY']);
  expect(codes(tunnel(`${peer('allowedIPs: 10.99.0.2', 'a')}, ${peer(`nextPublicKey: "${key(1)}", allowedIPs: 10.99.0.3`, 'b', 2)}`))).toEqual(['wireguard.wg0.peers[1].nextPublicKey SLUICE_WIREGUARD_KEY']);
  expect(codes(tunnel(`${peer('allowedIPs: 10.2.0.0/16', 'a')}, ${peer('allowedIPs: 10.2.0.0/16', 'b', 2)}`))).toEqual(['wireguard.wg0.peers[1].allowedIPs SLUICE_WIREGUARD_ALLOWED_IPS']);
  expect(codes(tunnel(`${peer('allowedIPs: 10.2.0.0/16', 'a')}, ${peer('allowedIPs: 10.2.3.0/24', 'b', 2)}`))).toEqual([]);
  for (const keepalive of ['-1', '65536', '1.5', 'often']) expect(codes(peers(`keepalive: ${keepalive}, allowedIPs: 10.99.0.2`)), keepalive).toEqual(['wireguard.wg0.peers[0].keepalive SLUICE_CONFIG_VALUE']);
  expect(codes(peers('presharedKeyFile: nva.psk, allowedIPs: 10.99.0.2'))).toEqual(['wireguard.wg0.peers[0].presharedKeyFile SLUICE_CONFIG_VALUE']);
});

test('interfaces: names, ports, addresses, MTUs, zones', () => {
  const second = (text: string): string => `${good}  ${text}\n`;
  expect(codes(second('wg1: { zone: mesh }'))).toEqual(['wireguard.wg1 SLUICE_WIREGUARD_PORT']);
  expect(codes(second('wg1: { zone: mesh, listen: 51821 }'))).toEqual([]);
  expect(codes(second('trust: { zone: mesh, listen: 51821 }'))).toEqual(['wireguard.trust SLUICE_NAME_DUPLICATE']);
  expect(codes(second('wg1: { zone: any, listen: 51821 }'))).toEqual(['wireguard.wg1.zone SLUICE_CONFIG_VALUE']);
  expect(codes(second('wg1: { zone: mesh, listen: 51821, addresses: [10.99.0.9/24] }'))).toEqual(['wireguard.wg1.addresses[0] SLUICE_INTERFACE_OVERLAP']);
  expect(codes(second('wg1: { zone: mesh, listen: 51821, addresses: [10.0.1.9/32] }'))).toEqual(['wireguard.wg1.addresses[0] SLUICE_INTERFACE_OVERLAP']);
  expect(codes(second('wg1: { zone: mesh, listen: 51821, addresses: 10.98.0.0/24 }'))).toEqual(['wireguard.wg1.addresses SLUICE_INTERFACE_ADDRESS']);
  expect(codes(second('wg1: { zone: mesh, listen: 51821, mtu: 3409 }'))).toEqual(['wireguard.wg1.mtu SLUICE_INTERFACE_MTU']);
  expect(codes(second('wg1: { zone: mesh, listen: 51821, mtu: 575 }'))).toEqual(['wireguard.wg1.mtu SLUICE_CONFIG_VALUE']);
  expect(codes(second('wg1: { zone: mesh, listen: 51821, mtu: 1279, addresses: "2001:db8:7::1/64" }'))).toEqual(['wireguard.wg1.mtu SLUICE_INTERFACE_MTU']);
  expect(codes(good.replace('listen: 51820', 'listen: 51820, mtu: 1441'))).toEqual(['wireguard.wg0.peers[0].endpoint SLUICE_INTERFACE_MTU']);
  expect(codes(second('wg1: { zone: mesh, listen: 51821, privateKeyFile: /etc/a.key }\n  wg2: { zone: mesh, listen: 51822, privateKeyFile: /etc/a.key }'))).toEqual(['wireguard.wg2.privateKeyFile SLUICE_WIREGUARD_KEY']);
  expect(codes(`${base}  host: { device: sluice0, zone: trust }\n`)).toContain('interfaces.host.device SLUICE_INTERFACE_DEVICE');
  expect(codes(good.replace('listen: 51820', 'listen: 4789') + 'vxlan: { v: { zone: v, local: 203.0.113.4, vni: 1, mode: routed } }\n')).toContain('wireguard.wg0.listen SLUICE_WIREGUARD_PORT');
  expect(codes(`${good}nat: { destination: [{ name: dns, destination: 203.0.113.4, service: "udp/51820", translate: { address: 10.0.1.10 } }] }\n`)).toEqual(['wireguard.wg0.listen SLUICE_WIREGUARD_PORT']);
  expect(codes(`${good.replace('listen: 51820', 'listen: 2000')}nat: { source: [{ name: out, to: untrust, translate: { interface: true } }] }\n`)).toEqual(['wireguard.wg0.listen SLUICE_WIREGUARD_PORT']);
});

test('secrets never stand in a configuration, and no message repeats them', () => {
  const secret = key(77);
  for (const [text, place] of [
    [`${base}wireguard: { wg0: { zone: mesh, privateKey: "${secret}" } }\n`, 'wireguard.wg0.privateKey'],
    [`${base}wireguard: { wg0: { zone: mesh, peers: [{ name: a, publicKey: "${key(1)}", presharedKey: "${secret}" }] } }\n`, 'wireguard.wg0.peers[0].presharedKey'],
  ] as const) {
    const { problems, config } = check(text);
    expect(config).toBeUndefined();
    expect(problems.map(({ path, code }) => [path, code])).toEqual([[place, 'SLUICE_CONFIG_SECRET']]);
    expect(JSON.stringify(problems)).not.toContain(secret);
    expect(problems[0]!.remedy).toMatch(/KeyFile: PATH/);
  }
  expect(findSecrets({ wireguard: { privateKey: { peers: [{ presharedKey: secret }] }, b: 5 } }, 'f').map(({ path }) => path)).toEqual(['wireguard.privateKey.peers[0].presharedKey']);
  expect(findSecrets('text', 'f')).toEqual([]);
});

test('NAT to a tunnel\'s own address, and a NAT address in its subnet that no neighbour asks for', () => {
  const compiled = compile(`${good}nat:
  source: [{ name: mesh, from: trust, to: mesh, translate: { interface: true } }]
  static: [{ name: one, outside: 10.99.0.77, inside: 10.0.1.77 }]
`);
  const { natRules, addresses } = read(compiled);
  expect(natRules[0]).toMatchObject({ interface: 2, toZones: 4n });
  expect(addresses.find(({ address }) => formatAddress(address) === '10.99.0.1')!.natSlot).not.toBe(abi.SL_NAT_SLOT_NONE);
  expect(addresses.find(({ address }) => formatAddress(address) === '10.99.0.77')).toMatchObject({ interface: 2, flags: abi.SL_LOCAL_ENGINE });
  expect(compiled.addresses.map(({ address }) => address)).not.toContain('10.99.0.77');
});

test('a commit beside many peers writes what a fresh compile writes', () => {
  const peers = Array.from({ length: 2000 }, (_, i) => ({ name: `p${i}`, publicKey: Buffer.from(new Uint32Array([i + 1, 0, 0, 0, 0, 0, 0, 0]).buffer).toString('base64'), allowedIPs: [`10.99.${i >> 8}.${i & 255}/32`, `172.16.${i >> 8}.${i & 255}/32`] }));
  const { config } = check(`${base}firewall: { rules: [{ name: a, from: trust, to: mesh, action: allow }] }\nwireguard: { wg0: { zone: mesh } }\n`, facts);
  const first: Config = { ...config!, wireguard: { wg0: { zone: 'mesh', peers } } };
  compileSnapshot(first, facts, 1);
  const changed = structuredClone(first);
  changed.wireguard!['wg0']!.peers![7]!.allowedIPs = ['172.31.0.0/24'];
  const shared = shareWith(changed, first);
  expect(shared.wireguard!['wg0']!.peers![8]).toBe(first.wireguard!['wg0']!.peers![8]);
  const [incremental, fresh] = [compileSnapshot(shared, facts, 2), compileSnapshot(structuredClone(changed), facts, 2)].map(read);
  const allowed = (one: ReturnType<typeof read>): string[][] => one.peers.map(({ allowedIps: { first: from, count } }) => one.prefixes.slice(from, from + count));
  expect(allowed(incremental!)).toEqual(allowed(fresh!));
  expect(allowed(incremental!)[7]).toEqual(['172.31.0.0/24']);
  expect(incremental!.routes.has('172.31.0.0/24')).toBe(true);
  expect(incremental!.routes.has('172.16.0.7/32')).toBe(false);
});

test('problems and snapshot are those of a first look, whatever came before', () => {
  const next = random(11);
  const pick = <T>(list: readonly T[]): T => list[Math.floor(next() * list.length)]!;
  const prefixes = ['10.2.0.0/16', '10.3.0.0/16', '10.99.0.2/32', '10.0.1.0/24', '0.0.0.0/0', '203.0.113.4/32'];
  let current = check(good, facts).config!;
  const rounds: { config: Config; problems: string[]; compiled: ReturnType<typeof read> | undefined }[] = [];
  const look = (config: Config): Omit<(typeof rounds)[number], 'config'> => {
    const problems = new Problems('x');
    checkConfig(config, problems, facts);
    return { problems: problems.list.map(({ path, code, message }) => `${path} ${code} ${message}`), compiled: problems.errors > 0 ? undefined : read(compileSnapshot(config, facts, 1)) };
  };
  for (let round = 0; round < 150; round += 1) {
    const edited = structuredClone(current);
    const { wg0 } = edited.wireguard!;
    [
      () => { wg0!.peers![0]!.allowedIPs = [pick(prefixes), '10.98.0.7/32']; },
      () => { wg0!.peers![1]!.allowedIPs = pick(prefixes); },
      () => { wg0!.peers![0]!.endpoint = pick(['203.0.113.20:51820', '198.51.100.9:1', '203.0.113.4:5', 'vpn.example.net:1']); },
      () => { wg0!.routes = next() < 0.5; },
      () => { wg0!.addresses = [pick(['10.99.0.1/24', '10.99.0.2/24', '10.0.1.9/32'])]; },
      () => { edited.interfaces!['trust']!.addresses = [pick(['10.0.1.4/24', '10.2.0.4/16'])]; },
      () => { edited.routes = [{ to: '0.0.0.0/0', via: pick(['203.0.113.1', '203.0.113.2']) }, ...(next() < 0.5 ? [{ to: '10.2.0.0/16', via: { interface: pick(['wg0', 'trust']) } }] : [])]; },
      () => { wg0!.listen = pick([51820, 2000]); },
      () => { edited.nat = { source: [{ name: 'out', to: 'untrust', translate: { interface: true } }] }; },
      () => { delete edited.nat; },
    ][Math.floor(next() * 10)]!();
    const config = shareWith(edited, current);
    rounds.push({ config, ...look(config) });
    if (rounds.at(-1)!.compiled !== undefined) current = config; // what is refused never runs
  }
  for (const { config, problems, compiled } of rounds) expect({ problems, compiled: alike(compiled) }).toEqual({ problems: look(structuredClone(config)).problems, compiled: alike(look(structuredClone(config)).compiled) });
  expect(rounds.filter(({ problems }) => problems.length > 0).length).toBeGreaterThan(30);
  expect(rounds.filter(({ compiled }) => compiled !== undefined).length).toBeGreaterThan(30);
});

/** Without where in the pools things stand. */
function alike(one: ReturnType<typeof read> | undefined) {
  if (one === undefined) return undefined;
  const { prefixes, peers, routes, interfaces, addresses, wireguards } = one;
  return { peers: peers.map(({ id, allowedIps: { first, count } }) => [id, prefixes.slice(first, first + count)]), routes, interfaces, addresses, wireguards };
}

test('differences name a peer', () => {
  const { config } = check(good);
  const changed = structuredClone(config!);
  changed.wireguard!['wg0']!.peers![1]!.keepalive = 5;
  changed.wireguard!['wg0']!.peers!.shift();
  expect(diffConfigs(config, changed).changes.map(({ path, kind }) => `${kind} ${path}`)).toEqual(['removed wireguard.wg0.peers[nva-2]', 'added wireguard.wg0.peers[nva-3].keepalive']);
});

test('emitted and read again, a tunnel is what it was, a peer a line', () => {
  const { config } = check(good);
  const text = emitConfig(config!);
  expect(text).toMatch(/^ {6}- \{ name: nva-3,/m);
  expect(check(text).config).toEqual(config);
});
