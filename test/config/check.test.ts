// Each kind of problem, with the line and path at which it is reported. A case is a piece of configuration after `base`
// (whose last line is 4) and the problems expected of it.
import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { formatProblem } from '../../src/config/problem.js';
import { base, brief, check, device, facts } from './support.js';

const CASES: { name: string; text: string; expected: string[]; message?: RegExp }[] = [
  { name: 'nothing wrong', text: 'firewall: { rules: [{ name: a, from: trust, to: untrust, service: [tcp/443, icmp/echo-request], action: allow }] }', expected: [] },
  { name: 'unknown key with a suggestion', text: 'firewal: {}', expected: ['5 firewal SLUICE_CONFIG_UNKNOWN_KEY'], message: /did you mean 'firewall'/ },
  { name: 'unknown key in a rule', text: 'firewall:\n  rules:\n    - { name: a, action: allow, sorce: [any] }', expected: ['7 firewall.rules[0].sorce SLUICE_CONFIG_UNKNOWN_KEY'], message: /did you mean 'source'/ },
  { name: 'missing key', text: 'firewall:\n  rules:\n    - { name: a }', expected: ['7 firewall.rules[0] SLUICE_CONFIG_MISSING_KEY'], message: /add action/ },
  { name: 'wrong type', text: 'hostname: [a]', expected: ['5 hostname SLUICE_CONFIG_VALUE'], message: /expected text, found a list/ },
  { name: 'wrong choice', text: 'firewall: { default: allow }', expected: ['5 firewall.default SLUICE_CONFIG_VALUE'], message: /deny, reject/ },
  { name: 'empty list', text: 'firewall:\n  rules:\n    - { name: a, action: allow, source: [] }', expected: ['7 firewall.rules[0].source SLUICE_CONFIG_VALUE'], message: /the list is empty/ },
  { name: 'key twice', text: 'hostname: a\nhostname: b', expected: ['6 hostname SLUICE_CONFIG_DUPLICATE_KEY'] },
  { name: 'unknown zone', text: 'firewall:\n  rules:\n    - { name: a, from: [trust, untrst], action: allow }', expected: ['7 firewall.rules[0].from[1] SLUICE_ZONE_UNKNOWN'], message: /did you mean 'untrust'/ },
  { name: 'unknown zone in NAT', text: 'nat:\n  source:\n    - { name: a, to: outside, translate: none }', expected: ['7 nat.source[0].to SLUICE_ZONE_UNKNOWN'] },
  { name: 'unknown address object', text: 'objects: { addresses: { web: 10.0.1.10 } }\nfirewall:\n  rules:\n    - { name: a, source: [wep], action: allow }', expected: ['8 firewall.rules[0].source[0] SLUICE_OBJECT_UNKNOWN'], message: /did you mean 'web'/ },
  { name: 'unknown service object', text: 'firewall:\n  rules:\n    - { name: a, service: wbe, action: allow }', expected: ['7 firewall.rules[0].service SLUICE_OBJECT_UNKNOWN'] },
  { name: 'an inherited name is no object', text: 'firewall:\n  rules:\n    - { name: a, source: constructor, service: toString, action: deny }', expected: ['7 firewall.rules[0].source SLUICE_OBJECT_UNKNOWN', '7 firewall.rules[0].service SLUICE_OBJECT_UNKNOWN'] },
  { name: 'cycle', text: 'objects:\n  addresses:\n    a: [b]\n    b: [c, 10.0.0.1]\n    c: [a]\nfirewall: { rules: [{ name: a, source: b, action: allow }] }', expected: ['7 objects.addresses.a SLUICE_OBJECT_CYCLE'], message: /a → b → c → a/ },
  { name: 'host bits', text: 'objects:\n  addresses:\n    a: [10.0.0.0/16, 10.0.1.5/16]', expected: ['7 objects.addresses.a[1] SLUICE_ADDRESS'], message: /write 10\.0\.0\.0\/16/ },
  { name: 'an object\'s fault is reported once', text: 'objects:\n  addresses:\n    a: [10.0.0.300]\nfirewall: { rules: [{ name: a, source: a, action: allow }, { name: b, source: [a], action: deny }] }', expected: ['7 objects.addresses.a[0] SLUICE_ADDRESS'] },
  { name: 'reserved object names', text: 'objects:\n  addresses: { any: 10.0.0.1 }\n  services: { tcp: tcp/80 }', expected: ['6 objects.addresses.any SLUICE_OBJECT_NAME', '7 objects.services.tcp SLUICE_OBJECT_NAME'] },
  { name: 'range backwards', text: 'firewall:\n  rules:\n    - { name: a, source: 10.0.0.9-10.0.0.1, action: allow }', expected: ['7 firewall.rules[0].source SLUICE_ADDRESS'], message: /write 10\.0\.0\.1-10\.0\.0\.9/ },
  { name: 'port range backwards', text: 'firewall:\n  rules:\n    - { name: a, service: [tcp/80, tcp/90-80], action: allow }', expected: ['7 firewall.rules[0].service[1] SLUICE_SERVICE'], message: /write 80-90/ },
  { name: 'negation', text: 'firewall:\n  rules:\n    - { name: a, source: "!10.0.0.0/8", action: allow }', expected: ['7 firewall.rules[0].source SLUICE_NEGATION_UNSUPPORTED'] },
  { name: 'fqdn', text: 'firewall:\n  rules:\n    - { name: updates, destination: ["fqdn:*.debian.org"], action: allow }', expected: ['7 firewall.rules[0].destination[0] SLUICE_FQDN_UNSUPPORTED'], message: /rule 'updates'/ },
  { name: 'fqdn in an object', text: 'objects:\n  addresses:\n    a: ["fqdn:example.com"]', expected: ['7 objects.addresses.a[0] SLUICE_FQDN_UNSUPPORTED'] },
  { name: 'fqdn in a disabled rule', text: 'firewall: { rules: [{ name: updates, disabled: true, destination: ["fqdn:*.debian.org"], action: allow }] }', expected: [] },
  { name: 'l7', text: 'firewall:\n  rules:\n    - name: api\n      action: allow\n      l7: { http: [{ method: GET }] }', expected: ['9 firewall.rules[0].l7 SLUICE_L7_UNSUPPORTED'], message: /rule 'api'/ },
  { name: 'family mixture', text: 'firewall:\n  rules:\n    - { name: a, source: 10.0.0.1, destination: "2001:db8::1", action: allow }', expected: ['7 firewall.rules[0] SLUICE_ADDRESS_FAMILY'] },
  { name: 'duplicate rule names', text: 'firewall:\n  rules:\n    - { name: a, source: 10.0.0.1, action: allow }\n    - { name: a, source: 10.0.0.2, action: allow }', expected: ['8 firewall.rules[1].name SLUICE_NAME_DUPLICATE'] },
  { name: 'shadowed rule', text: 'firewall:\n  rules:\n    - { name: all, source: 10.0.0.0/8, action: deny }\n    - { name: one, from: trust, source: 10.1.0.0/16, service: tcp/80, action: allow }', expected: ['8 firewall.rules[1] SLUICE_RULE_SHADOWED'], message: /rule 'all' .* deny/ },
  { name: 'route: bits, kinds, next hops', text: 'routes:\n  - { to: 10.9.0.1/16, via: 10.0.1.1 }\n  - { to: 10.8.0.0/16 }\n  - { to: 10.7.0.0/16, via: 10.0.1.1, blackhole: true }\n  - { to: 10.6.0.0/16, via: 192.0.2.1 }\n  - { to: 10.5.0.0/16, via: "2001:db8:2::1" }\n  - { to: 10.4.0.0/16, via: 10.0.1.4 }\n  - { to: 10.3.0.0/16, via: { interface: trst } }\n  - { to: 10.0.1.0/24, via: 203.0.113.1 }',
    expected: ['6 routes[0].to SLUICE_ADDRESS', '7 routes[1] SLUICE_ROUTE', '8 routes[2] SLUICE_ROUTE', '9 routes[3].via SLUICE_ROUTE_NEXT_HOP', '10 routes[4].via SLUICE_ADDRESS_FAMILY', '11 routes[5].via SLUICE_ROUTE_NEXT_HOP', '12 routes[6].via.interface SLUICE_ROUTE_NEXT_HOP', '13 routes[7].to SLUICE_ROUTE_DUPLICATE'] },
  { name: 'duplicate routes', text: 'routes:\n  - { to: 0.0.0.0/0, via: 203.0.113.1 }\n  - { to: 0.0.0.0/0, via: 203.0.113.2 }', expected: ['7 routes[1].to SLUICE_ROUTE_DUPLICATE'], message: /via: \[A, B\]/ },
  { name: 'link-local next hop', text: 'routes:\n  - { to: "2001:db8:9::/48", via: "fe80::1" }\n  - { to: "2001:db8:8::/48", via: { interface: trust, address: "fe80::1" } }', expected: ['6 routes[0].via SLUICE_ROUTE_NEXT_HOP'] },
  { name: 'pool nobody routes to us', text: 'nat:\n  source:\n    - { name: a, to: untrust, translate: { pool: [198.51.100.1-198.51.100.4] } }', expected: ['7 nat.source[0].translate.pool[0] SLUICE_NAT_POOL_UNREACHABLE'] },
  { name: 'pool declared by a blackhole route', text: 'routes: [{ to: 198.51.100.0/24, blackhole: true }]\nnat: { source: [{ name: a, to: untrust, translate: { pool: 198.51.100.0/28 } }] }', expected: [] },
  { name: 'pool with our own address', text: 'nat:\n  source:\n    - { name: a, to: untrust, translate: { pool: [203.0.113.3-203.0.113.8] } }', expected: ['7 nat.source[0].translate.pool[0] SLUICE_NAT_POOL'], message: /interface 'untrust'/ },
  { name: 'pool with the gateway', text: 'routes: [{ to: 0.0.0.0/0, via: 203.0.113.1 }]\nnat:\n  source:\n    - { name: a, to: untrust, translate: { pool: [203.0.113.1] } }', expected: ['8 nat.source[0].translate.pool[0] SLUICE_NAT_POOL'], message: /next hop/ },
  { name: 'pool of the other family', text: 'nat:\n  source:\n    - { name: a, to: untrust, translate: { pool: ["2001:db8:1::9"] } }', expected: ['7 nat.source[0].translate.pool SLUICE_ADDRESS_FAMILY', '7 nat.source[0].translate.pool[0] SLUICE_ADDRESS_FAMILY'] },
  { name: 'two translations', text: 'nat:\n  source:\n    - { name: a, translate: { interface: true, pool: [203.0.113.9] } }', expected: ['7 nat.source[0].translate SLUICE_CONFIG_VALUE'] },
  { name: 'DNAT ports', text: 'nat:\n  destination:\n    - { name: a, destination: 203.0.113.4, service: tcp/8000-8009, translate: { address: 10.0.1.10, port: 9000-9004 } }\n    - { name: b, destination: 203.0.113.9, service: gre, translate: { address: 10.0.1.10, port: 80 } }\n    - { name: c, destination: 203.0.113.4, translate: { address: 10.0.1.10 } }\n    - { name: d, destination: 203.0.113.4, service: tcp/80, translate: { address: "2001:db8:2::9" } }',
    expected: ['7 nat.destination[0].translate.port SLUICE_NAT_PORTS', '8 nat.destination[1].translate.port SLUICE_NAT_PORTS', '9 nat.destination[2].destination SLUICE_NAT_PORTS', '10 nat.destination[3].translate.address SLUICE_ADDRESS_FAMILY'] },
  { name: '1:1', text: 'nat:\n  static:\n    - { name: a, outside: 203.0.113.16/28, inside: 10.0.1.16/29 }\n    - { name: b, outside: 203.0.113.9, inside: 10.0.1.9 }\n    - { name: c, outside: 203.0.113.9, inside: 10.0.1.8 }\n    - { name: d, outside: 203.0.113.4, inside: 10.0.1.7 }',
    expected: ['7 nat.static[0].inside SLUICE_NAT_TRANSLATE', '9 nat.static[2].outside SLUICE_NAT_CONFLICT', '10 nat.static[3].outside SLUICE_NAT_POOL'] },
  { name: 'Azure\'s addresses', text: 'nat:\n  destination:\n    - { name: a, destination: 203.0.113.9, service: tcp/80, translate: { address: 168.63.129.16 } }\n  static:\n    - { name: b, outside: 203.0.113.10, inside: 169.254.169.254 }', expected: ['7 nat.destination[0].translate.address SLUICE_ADDRESS_RESERVED', '9 nat.static[0].inside SLUICE_ADDRESS_RESERVED'] },
  { name: 'timers below the RFCs', text: 'timers:\n  tcpEstablished: 3600\n  udp: 300\n  tcpSyn: 5', expected: ['6 timers.tcpEstablished SLUICE_TIMER_BELOW_RFC', '8 timers.tcpSyn SLUICE_TIMER_BELOW_RFC'], message: /7440 s that RFC 5382/ },
  { name: 'timer of nothing', text: 'timers: { udp: 0 }', expected: ['5 timers.udp SLUICE_CONFIG_VALUE'] },
  { name: 'a listener that is none', text: 'api: { listen: "1.2.3:99999" }', expected: ['5 api.listen SLUICE_API_LISTEN', '5 api.listen SLUICE_API_LISTEN'] },
  { name: 'a listener of another form', text: 'api: { listen: "fw.example.net:8443" }', expected: ['5 api.listen SLUICE_CONFIG_VALUE'] },
  { name: 'HTTPS\'s settings without it', text: 'api: { tls: { certificateFile: /c, keyFile: /k } }', expected: ['5 api.tls SLUICE_API_LISTEN'] },
  { name: 'names that are none', text: 'api: { listen: "[::1]:8443", names: [fw.example.net, "a b", "2001:db8::1", "x,DNS:y"] }', expected: ['5 api.names[1] SLUICE_API_NAME', '5 api.names[3] SLUICE_API_NAME'] },
  { name: 'a role for no certificate', text: 'api: { listen: "127.0.0.1:8443", clients: { caFile: /ca, roles: [{ role: viewer, scopes: [Rules] }] } }', expected: ['5 api.clients.roles[0] SLUICE_API_ROLE', '5 api.clients.roles[0].scopes[0] SLUICE_API_ROLE'] },
  { name: 'an issuer without HTTPS', text: 'api: { oidc: { issuer: "http://id.example.net", audience: fw, roles: [{ group: a, role: viewer }] } }', expected: ['5 api.oidc.issuer SLUICE_CONFIG_VALUE'] },
  { name: 'an algorithm that proves nothing', text: 'api: { oidc: { issuer: "https://id.example.net", audience: fw, algorithms: [none], roles: [{ group: a, role: viewer }] } }', expected: ['5 api.oidc.algorithms[0] SLUICE_CONFIG_VALUE'] },
  { name: 'a role that there is not', text: 'api: { socket: { users: { alice: root } } }', expected: ['5 api.socket.users.alice SLUICE_CONFIG_VALUE'] },
  { name: 'a section without effect', text: 'ha: { probe: { port: 8080 } }', expected: ['5 ha SLUICE_SECTION_INERT'] },
  { name: 'a key that such a section does not have', text: 'ha: { prob: { port: 8080 } }', expected: ['5 ha.prob SLUICE_CONFIG_UNKNOWN_KEY'] },
  { name: 'reserved AS', text: 'bgp: { asn: 65515 }', expected: ['5 bgp SLUICE_SECTION_INERT', '5 bgp.asn SLUICE_BGP_ASN_RESERVED'] },
];

test.each(CASES)('$name', ({ text, expected, message }) => {
  const { problems } = check(`${base}${text}\n`);
  expect(brief(problems).sort()).toEqual(expected.slice().sort());
  if (message !== undefined) expect(problems.map(formatProblem).join('\n')).toMatch(message);
  for (const problem of problems) expect(problem.remedy, problem.message).not.toBe('');
});

const INTERFACES: { name: string; text: string; expected: string[]; withFacts?: boolean }[] = [
  { name: 'same device and VLAN', text: '  a: { device: eth1, zone: a, vlan: 5 }\n  b: { device: eth1, zone: b, vlan: 5 }', expected: ['4 interfaces.b.device SLUICE_INTERFACE_DUPLICATE'] },
  { name: 'overlapping subnets', text: '  a: { device: eth1, zone: a, addresses: 10.0.0.1/16 }\n  b: { device: eth2, zone: b, addresses: [10.0.5.1/24] }', expected: ['4 interfaces.b.addresses[0] SLUICE_INTERFACE_OVERLAP'] },
  { name: 'no length', text: '  a: { device: eth1, zone: a, addresses: [10.0.0.1] }', expected: ['3 interfaces.a.addresses[0] SLUICE_ADDRESS'] },
  { name: 'network, broadcast, multicast', text: '  a: { device: eth1, zone: a, addresses: [10.0.0.0/24, 10.1.0.255/24, 224.0.0.1/24] }', expected: ['3 interfaces.a.addresses[0] SLUICE_INTERFACE_ADDRESS', '3 interfaces.a.addresses[1] SLUICE_INTERFACE_ADDRESS', '3 interfaces.a.addresses[2] SLUICE_INTERFACE_ADDRESS'] },
  { name: 'MTU', text: '  a: { device: eth1, zone: a, mtu: 3492 }\n  b: { device: eth2, zone: b, mtu: 3489, vlan: 7 }\n  c: { device: eth3, zone: b, mtu: 9000 }', expected: ['4 interfaces.b.mtu SLUICE_INTERFACE_MTU', '5 interfaces.c.mtu SLUICE_INTERFACE_MTU'] },
  { name: 'missing device', text: '  a: { device: eht1, zone: a, addresses: 10.0.0.1/24 }', expected: ['3 interfaces.a.device SLUICE_INTERFACE_DEVICE'], withFacts: true },
  { name: 'no address yet', text: '  a: { device: eth1, zone: a }', expected: ['3 interfaces.a SLUICE_INTERFACE_ADDRESS'], withFacts: true },
  { name: 'MTU above the device\'s', text: '  a: { device: eth1, zone: a, mtu: 1600, addresses: 10.0.0.1/24 }', expected: ['3 interfaces.a.mtu SLUICE_INTERFACE_MTU'], withFacts: true },
];

test.each(INTERFACES)('interfaces: $name', ({ text, expected, withFacts }) => {
  expect(brief(check(`version: 1\ninterfaces:\n${text}\n`, withFacts ? facts : undefined).problems)).toEqual(expected);
});

test('a device with jumbo frames is refused with the command that repairs it', () => {
  const jumbo = { devices: [device('eth1', 2, { mtu: 9000 })] };
  const { problems } = check('version: 1\ninterfaces: { a: { device: eth1, zone: a, addresses: 10.0.0.1/24 } }\n', jumbo);
  expect(problems.map(formatProblem)).toEqual(['test.yaml:2:28: error: interfaces.a.device: eth1 has an MTU of 9000, more than XDP takes\n    lower the device\'s: ip link set dev eth1 mtu 3492']);
});

test('the example: two rules that cannot be enforced, and sections without effect', () => {
  const example = readFileSync('config.example.yaml', 'utf8');
  const { problems, config } = check(example, facts);
  expect(config).toBeUndefined();
  expect(problems.filter(({ severity }) => severity === 'error').map(({ path, code }) => `${path} ${code}`)).toEqual([
    'firewall.rules[2].destination[0] SLUICE_FQDN_UNSUPPORTED', 'firewall.rules[3].l7 SLUICE_L7_UNSUPPORTED',
  ]);
  expect(problems.filter(({ severity }) => severity === 'warning').map(({ path }) => path)).toEqual(['vxlan', 'bgp', 'ha']);
  const without = example.replace(/name: updates,/, 'name: updates, disabled: true,').replace(/name: inventory,/, 'name: inventory, disabled: true,');
  expect(check(without, facts).config).toBeDefined();
});
