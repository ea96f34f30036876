// What compile.ts puts into the snapshot, read back with the generated readers, and the host's plan beside it.
import { expect, test } from 'vitest';
import * as abi from '../../src/engine/abi.generated.js';
import { compileSnapshot, type Compiled } from '../../src/config/compile.js';
import type { Facts } from '../../src/config/facts.js';
import { fnv1a32, IdTable } from '../../src/config/names.js';
import { addressOfBytes, formatAddress, formatPrefix } from '../../src/lib/address.js';
import { base, check, device, facts } from './support.js';

function compile(text: string, withFacts: Facts = facts): Compiled {
  const { config, problems } = check(text, withFacts);
  if (config === undefined) throw new Error(problems.map(({ message }) => message).join('\n'));
  return compileSnapshot(config, withFacts, 7);
}

function read(snapshot: Uint8Array) {
  const view = new DataView(snapshot.buffer, snapshot.byteOffset, snapshot.byteLength);
  const header = abi.readSnapshotHeader(view, 0);
  const all = <T>(section: abi.Section, bytes: number, one: (view: DataView, offset: number) => T): T[] => {
    expect(section.offset % 8).toBe(0);
    expect(section.offset + section.count * bytes).toBeLessThanOrEqual(snapshot.byteLength);
    return Array.from({ length: section.count }, (_, i) => one(view, section.offset + i * bytes));
  };
  const prefixes = all(header.prefixes, abi.PREFIX_BYTES, abi.readPrefix).map(({ address, length }) => formatPrefix({ address: addressOfBytes(address), length }));
  const span = <T>(entries: T[], { first, count }: abi.Span): T[] => entries.slice(first, first + count);
  return {
    header, prefixes, span,
    interfaces: all(header.interfaces, abi.INTERFACE_BYTES, abi.readInterface),
    addresses: all(header.addresses, abi.INTERFACE_ADDRESS_BYTES, abi.readInterfaceAddress),
    services: all(header.services, abi.SERVICE_BYTES, abi.readService),
    rules: all(header.rules, abi.RULE_BYTES, abi.readRule),
    natRules: all(header.natRules, abi.NAT_RULE_BYTES, abi.readNatRule),
    natAddresses: all(header.natAddresses, abi.NAT_ADDRESS_BYTES, abi.readNatAddress),
    nexthops: all(header.nexthops, abi.NEXTHOP_BYTES, abi.readNexthop),
    routes: all(header.routes, abi.ROUTE_BYTES, abi.readRoute),
  };
}

test('header and settings', () => {
  const { header } = read(compile(`${base}firewall: { default: reject, log: both }\ntimers: { udp: 200 }\nlimits: { sessionsPerSource: 9 }\n`).snapshot);
  expect(header).toMatchObject({ magic: abi.SL_SNAPSHOT_MAGIC, abiVersion: abi.SL_ABI_VERSION, generation: 7n });
  expect(header.settings).toMatchObject({ tcpEstablishedS: 7440, udpS: 200, sessionsPerSourceMax: 9, defaultAction: abi.RuleAction.REJECT, defaultLog: 3 });
});

test('interfaces, their addresses, connected routes, ports', () => {
  const { snapshot, ports, addresses, names } = compile(`${base}  guests: { device: eth2, zone: guests, vlan: 30, addresses: 192.168.30.1/24, antiSpoofing: loose, mssClamp: true, mtu: 1400 }\n`);
  const s = read(snapshot);
  expect(s.interfaces.map(({ ifindex, kernelIfindex, vlanId, zone, antiSpoofing, mssClampBytes, mtuBytes }) => [ifindex, kernelIfindex, vlanId, zone, antiSpoofing, mssClampBytes, mtuBytes])).toEqual([
    [2, 2, 0xffff, 0, 0, 0, 0], [3, 3, 0xffff, 1, 0, 0, 0], [3, 3, 30, 2, 1, 1, 1400],
  ]);
  expect(s.interfaces[0]!.id).toBe(fnv1a32('interface:untrust'));
  expect(names.ids.get(s.interfaces[2]!.id)).toEqual({ kind: 'interface', name: 'guests' });
  expect(names.zones).toEqual(['untrust', 'trust', 'guests']);
  expect(s.addresses.map(({ address, prefixLength, interface: at, natSlot, flags }) => [formatAddress(address), prefixLength, at, natSlot, flags])).toEqual([
    ['203.0.113.4', 120, 0, 0xffff, 0], ['2001:db8:1::4', 64, 0, 0xffff, 0], ['10.0.1.4', 120, 1, 0xffff, 0], ['2001:db8:2::4', 64, 1, 0xffff, 0], ['192.168.30.1', 120, 2, 0xffff, 0],
  ]);
  expect(s.routes).toHaveLength(5);
  expect(ports).toEqual([
    { device: 'eth1', ifindex: 2, slot: 0, queues: 2, untagged: true, vlans: [] }, { device: 'eth2', ifindex: 3, slot: 1, queues: 2, untagged: true, vlans: [30] },
  ]);
  expect(addresses.at(-1)).toEqual({ device: 'eth2.30', address: '192.168.30.1', prefixLength: 24, purpose: 'interface' });
});

test('a device keeps its slot when another comes before it', () => {
  const { config } = check(`${base}`, facts);
  const previous = [{ device: 'eth2', ifindex: 3, slot: 0, queues: 2, untagged: true, vlans: [] }];
  expect(compileSnapshot(config!, facts, 1, previous).ports.map(({ device: name, slot }) => [name, slot])).toEqual([['eth1', 1], ['eth2', 0]]);
});

test('rules: zones, groups, shared lists, services, any', () => {
  const { snapshot } = compile(`${base}objects:
  addresses: { web: [10.0.1.10], all: [web, 10.0.1.0/28, web, "2001:db8:2::/64"] }
  services: { web: [tcp/80, tcp/443] }
firewall:
  rules:
    - { name: a, from: trust, to: [untrust], source: all, service: [web, icmp/echo-request, {protocol: udp, source: 53, destination: "1000-2000"}], action: allow, log: end, offload: never, maxSessions: 5 }
    - { name: off, disabled: true, action: allow }
    - { name: b, from: any, source: all, destination: "::/0", action: reject, log: both }
    - { name: c, action: deny, service: any }
`);
  const s = read(snapshot);
  expect(s.rules.map(({ id }) => id)).toEqual(['a', 'b', 'c'].map((name) => fnv1a32(`rule:${name}`)));
  const [a, b, c] = s.rules as [abi.Rule, abi.Rule, abi.Rule];
  expect(a).toMatchObject({ fromZones: 2n, toZones: 1n, action: abi.RuleAction.ALLOW, log: 2, flags: abi.SL_RULE_NO_OFFLOAD, sessionsMax: 5 });
  expect(s.span(s.prefixes, a.sources)).toEqual(['10.0.1.10/32', '10.0.1.0/28', '2001:db8:2::/64']);
  expect(a.destinations.count).toBe(0);
  expect(s.span(s.services, a.services).map(({ protocol, srcLo, srcHi, dstLo, dstHi }) => [protocol, srcLo, srcHi, dstLo, dstHi])).toEqual([
    [6, 0, 65535, 80, 80], [6, 0, 65535, 443, 443], [1, 0, 65535, 0x800, 0x8ff], [58, 0, 65535, 0x8000, 0x80ff], [17, 53, 53, 1000, 2000],
  ]);
  expect(b.sources).toEqual(a.sources);
  expect(s.span(s.prefixes, b.destinations)).toEqual(['::/0']);
  expect(b).toMatchObject({ fromZones: 0xffffffffffffffffn, toZones: 0xffffffffffffffffn, log: 3 });
  expect([c.sources.count, c.destinations.count, c.services.count]).toEqual([0, 0, 0]);
});

test('routes: gateway, ECMP, on-link, blackhole; IPv4\'s default is /96', () => {
  const { snapshot } = compile(`${base}routes:
  - { to: 0.0.0.0/0, via: [203.0.113.1, 203.0.113.2] }
  - { to: "::/0", via: { interface: untrust, address: "fe80::1" } }
  - { to: 198.51.100.0/24, via: { interface: trust } }
  - { to: 192.0.2.0/24, blackhole: true }
  - { to: 192.0.3.0/24, reject: true }
`);
  const s = read(snapshot);
  const shown = s.routes.slice(4).map(({ to, nexthops }) => [formatPrefix({ address: addressOfBytes(to.address), length: to.length }), to.length,
    s.span(s.nexthops, nexthops).map((hop) => `${formatAddress(hop.via)} ${hop.interface} ${hop.kind}`)]);
  expect(shown).toEqual([
    ['0.0.0.0/0', 96, ['203.0.113.1 0 0', '203.0.113.2 0 0']], ['::/0', 0, ['fe80::1 0 0']], ['198.51.100.0/24', 120, [':: 1 0']],
    ['192.0.2.0/24', 120, [':: 0 1']], ['192.0.3.0/24', 120, [':: 0 2']],
  ]);
});

test('source NAT: an entry for each egress interface, ports beside the kernel\'s', () => {
  const { snapshot, addresses } = compile(`${base}nat:
  source:
    - { name: none, to: untrust, destination: 10.0.0.0/8, translate: none }
    - { name: pool, to: untrust, source: 10.0.1.0/28, translate: { pool: [203.0.113.5-203.0.113.6] }, filtering: endpoint-independent, mapping: endpoint-dependent, ports: 2000-3000 }
    - { name: out, from: trust, translate: { interface: true }, families: [ipv4, ipv6] }
`);
  const s = read(snapshot);
  expect(s.natRules.map(({ kind, interface: at, flags, filtering }) => [kind, at, flags, filtering])).toEqual([
    [abi.NatKind.EXEMPT, 0xffff, 2, 2], [abi.NatKind.SOURCE, 0xffff, 3, 0], [abi.NatKind.SOURCE, 0, 6, 2], [abi.NatKind.SOURCE, 1, 6, 2],
  ]);
  const pools = s.natRules.map(({ pool }) => s.span(s.natAddresses, pool).map(({ address, portLo, portHi, natSlot }) => [formatAddress(address), portLo, portHi, natSlot === 0xffff]));
  expect(pools).toEqual([[], [['203.0.113.5', 2000, 3000, true], ['203.0.113.6', 2000, 3000, true]],
    [['203.0.113.4', 1024, 32767, false], ['2001:db8:1::4', 1024, 32767, false]], [['10.0.1.4', 1024, 32767, false], ['2001:db8:2::4', 1024, 32767, false]]]);
  // A rule for one family must not be the first match of the other.
  expect(s.natRules.map(({ destinations }) => s.span(s.prefixes, destinations))).toEqual([['10.0.0.0/8'], ['0.0.0.0/0'], [], []]);
  const shared = s.addresses.filter(({ natSlot }) => natSlot !== 0xffff);
  expect(new Set(shared.map(({ natSlot }) => natSlot)).size).toBe(4);
  for (const { address, natSlot } of s.natAddresses.slice(2)) expect(shared.find((one) => formatAddress(one.address) === formatAddress(address))?.natSlot).toBe(natSlot);
  expect(s.addresses.filter(({ flags }) => flags === abi.SL_LOCAL_ENGINE).map(({ address, prefixLength }) => [formatAddress(address), prefixLength])).toEqual([['203.0.113.5', 128], ['203.0.113.6', 128]]);
  expect(addresses.filter(({ purpose }) => purpose === 'nat')).toEqual([
    { device: 'eth1', address: '203.0.113.5', prefixLength: 32, purpose: 'nat' }, { device: 'eth1', address: '203.0.113.6', prefixLength: 32, purpose: 'nat' },
  ]);
});

test('the kernel\'s ports at the bottom leave NAT the top', () => {
  const { snapshot } = compile(`${base}nat: { source: [{ name: out, to: untrust, translate: { interface: true } }] }\n`, { ...facts, localPortRange: [1024, 20000] });
  expect(read(snapshot).natAddresses.map(({ portLo, portHi }) => [portLo, portHi])).toEqual([[20001, 65535]]);
});

test('destination and static NAT', () => {
  const { snapshot, addresses } = compile(`${base}nat:
  destination:
    - { name: publish, from: untrust, destination: 203.0.113.4, service: tcp/8000-8009, translate: { address: 10.0.1.10, port: 9000 } }
  static:
    - { name: mail, outside: 203.0.113.8/31, inside: 10.0.1.24/31 }
`);
  const s = read(snapshot);
  const [publish, mail] = s.natRules as [abi.NatRule, abi.NatRule];
  expect(publish).toMatchObject({ kind: abi.NatKind.DESTINATION, fromZones: 1n, toPort: 9000, flags: 2, interface: 0xffff });
  expect(formatAddress(publish.toAddress)).toBe('10.0.1.10');
  expect(mail).toMatchObject({ kind: abi.NatKind.STATIC, toPrefixLength: 127 });
  expect(s.span(s.prefixes, mail.destinations)).toEqual(['203.0.113.8/31']);
  expect(formatAddress(mail.toAddress)).toBe('10.0.1.24');
  expect(s.addresses.find(({ address }) => formatAddress(address) === '203.0.113.4')?.natSlot).toBeLessThan(abi.SL_NAT_SLOTS_MAX);
  expect(addresses.filter(({ purpose }) => purpose === 'nat').map(({ address }) => address)).toEqual(['203.0.113.8', '203.0.113.9']);
});

test('without configured addresses the device\'s own hold, but not those that NAT put there', () => {
  const own: Facts = { devices: [device('eth1', 2, { addresses: [
    { address: '203.0.113.4', prefixLength: 24, dynamic: true }, { address: '203.0.113.9', prefixLength: 32, dynamic: false }, { address: 'fe80::1', prefixLength: 64, dynamic: false }] })] };
  const { snapshot, addresses, inactiveRoutes } = compile('version: 1\ninterfaces: { untrust: { device: eth1, zone: untrust } }\nroutes: [{ to: 0.0.0.0/0, via: 203.0.113.1 }]\nnat: { static: [{ name: m, outside: 203.0.113.9, inside: 10.0.0.9 }] }\n', own);
  const s = read(snapshot);
  expect(s.addresses.map(({ address, flags }) => [formatAddress(address), flags])).toEqual([['203.0.113.4', 0], ['fe80::1', 0], ['203.0.113.9', abi.SL_LOCAL_ENGINE]]);
  expect(s.routes).toHaveLength(2);
  expect(inactiveRoutes).toEqual([]);
  expect(addresses).toEqual([{ device: 'eth1', address: '203.0.113.9', prefixLength: 32, purpose: 'nat' }]);
});

test('a route whose next hop is nowhere now is left out and named', () => {
  const { config } = check('version: 1\ninterfaces: { untrust: { device: eth1, zone: untrust } }\nroutes: [{ to: 0.0.0.0/0, via: 203.0.113.1 }]\n');
  expect(compileSnapshot(config!, facts, 1).inactiveRoutes).toEqual([0]);
});

test('a missing device refuses the whole snapshot', () => {
  const { config } = check(base);
  expect(() => compileSnapshot(config!, { devices: [] }, 1)).toThrow(/there is no device 'eth1'/);
});

test('ids do not depend on order, also when names collide', () => {
  const names = ['a', 'b', 'c'].map((name) => ({ kind: 'rule' as const, name }));
  const hash = (text: string) => (text.includes('#') ? fnv1a32(text) : 5);
  const forward = new IdTable(names, hash);
  const backward = new IdTable(names.slice().reverse(), hash);
  expect(forward.id('rule', 'a')).toBe(5);
  expect(names.map(({ name }) => forward.id('rule', name))).toEqual(names.map(({ name }) => backward.id('rule', name)));
  expect(new Set(names.map(({ name }) => forward.id('rule', name))).size).toBe(3);
});

test('10,000 rules with lists of their own compile in good time', () => {
  const rules = Array.from({ length: 10_000 }, (_, i) => ({ name: `r${i}`, source: [`10.${i >> 8}.${i & 255}.1`], destination: [`11.${i >> 8}.${i & 255}.0/24`], service: [`tcp/${i + 1}`], action: 'allow' as const }));
  const { config } = check(base);
  const cpu = process.cpuUsage();
  const { snapshot } = compileSnapshot({ ...config!, firewall: { rules } }, facts, 1);
  const { user } = process.cpuUsage(cpu);
  expect(read(snapshot).header.rules.count).toBe(10_000);
  expect(user / 1000).toBeLessThan(1500); // 300 ms on a quiet machine; the test machine is shared
});
