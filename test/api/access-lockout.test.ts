// Lock-out protection: which changes would cut off the caller that asks for them, and which would not. Then over HTTPS, through a real commit.
import { spawn } from 'node:child_process';
import { describe, expect, onTestFinished, test } from 'vitest';
import { wouldCutCaller } from '../../src/api/access-lockout.js';
import type { Caller, Grant, Principal, Role } from '../../src/api/access.js';
import { checkText } from '../../src/config/check.js';
import { sessionHeaders } from '../../src/cli/ssh-session.js';
import type { Config } from '../../src/config/schema.js';
import { startAppliance } from './access-bench.js';

const BASE = `version: 1
interfaces:
  untrust: { device: eth1, zone: untrust, addresses: [203.0.113.4/24] }
  trust: { device: eth2, zone: trust, addresses: [10.0.1.4/24, "2001:db8:2::4/64"] }
  office: { device: eth2, vlan: 20, zone: office, addresses: [10.0.20.4/24] }
routes:
  - { to: 0.0.0.0/0, via: 203.0.113.1 }
  - { to: 10.0.0.0/16, via: 10.0.1.1 }
  - { to: 192.168.9.0/24, via: 203.0.113.9 }
objects:
  addresses: { admins: [10.0.20.0/24], management: [192.168.9.5] }
  services: { console: [tcp/8443] }
firewall:
  rules:
    - { name: manage, from: [office], to: [untrust], source: [admins], destination: [management], service: [console], action: allow }
    - { name: no-servers, from: [trust], action: deny }
nat:
  destination:
    - { name: web, from: [untrust], destination: 203.0.113.4, service: tcp/443, translate: { address: 10.0.1.10 } }
api:
  listen: 0.0.0.0:8443
  clients: { caFile: /etc/ca.pem, roles: [{ subject: ops, role: administrator }] }
  oidc: { issuer: "https://id.example.net", audience: fw, roles: [{ group: admins, role: administrator }, { group: readers, role: viewer }] }
  socket: { users: { alice: administrator }, groups: { netops: operator } }
`;

function parse(text: string): Config {
  const { config, problems } = checkText(text, 'test');
  if (!config) throw new Error(JSON.stringify(problems));
  return config;
}
const BEFORE = parse(BASE);
/** BASE with lines changed: each of `replacing` must be there. */
function changed(...replacing: [string, string][]): Config {
  let text = BASE;
  for (const [from, to] of replacing) {
    if (!text.includes(from)) throw new Error(`the base has no '${from}'`);
    text = text.replace(from, to);
  }
  return parse(text);
}

const https = (address: string, localAddress: string, localPort = 8443): Caller => ({ transport: 'https', address, localAddress, localPort });
const TRUST = https('10.0.1.50', '10.0.1.4');
const OFFICE = https('10.0.20.50', '10.0.20.4');
const ROUTED = https('10.0.77.5', '10.0.1.4');
const INTERNET = https('198.51.100.7', '203.0.113.4');
const THROUGH = https('10.0.20.50', '192.168.9.5');   // to a management address beyond the appliance
const LOOPBACK = https('127.0.0.1', '127.0.0.1');
const SOCKET: Caller = { transport: 'socket', uid: 1000, pid: 1 };

function principal(caller: Caller, grant: Grant = { kind: 'token', id: 'a' }, role: Role = 'administrator', scopes?: string[]): Principal {
  return { name: 'me', via: caller.transport === 'socket' ? 'socket' : 'token', id: 'x', role, scopes, caller, grant };
}
const cuts = (who: Principal, after: Config): string[] => wouldCutCaller(who, BEFORE, after).map(({ pointer }) => pointer);

describe('the way in', () => {
  const certificate: Grant = { kind: 'certificate', subject: 'ops', names: [] };
  const oidc = (...groups: string[]): Grant => ({ kind: 'oidc', issuer: 'https://id.example.net', groups });
  const cases: [string, Principal, Config, string[]][] = [
    ['nothing changes', principal(TRUST), BEFORE, []],
    ['HTTPS goes', principal(LOOPBACK), changed(['  listen: 0.0.0.0:8443\n', '']), ['/api/listen']],
    ['HTTPS moves to another port', principal(LOOPBACK), changed(['0.0.0.0:8443', '0.0.0.0:9443']), ['/api/listen']],
    ['HTTPS moves to another address', principal(TRUST), changed(['0.0.0.0:8443', '203.0.113.4:8443']), ['/api/listen']],
    ['HTTPS moves to the address in use', principal(TRUST), changed(['0.0.0.0:8443', '10.0.1.4:8443']), []],
    ['HTTPS goes, for a caller on the socket', principal(SOCKET, { kind: 'root' }), changed(['  listen: 0.0.0.0:8443\n', '']), []],
    ['the certificate\'s role goes', principal(LOOPBACK, certificate), changed(['subject: ops', 'subject: others']), ['/api/clients']],
    ['the certificate\'s role shrinks', principal(LOOPBACK, certificate), changed(['subject: ops, role: administrator', 'subject: ops, role: viewer']), ['/api/clients']],
    ['the certificate gets bounds', principal(LOOPBACK, certificate), changed(['subject: ops, role: administrator', 'subject: ops, role: administrator, scopes: [rules]']), ['/api/clients']],
    ['another CA', principal(LOOPBACK, certificate), changed(['/etc/ca.pem', '/etc/ca2.pem']), ['/api/clients/caFile']],
    ['another CA, for a token', principal(LOOPBACK), changed(['/etc/ca.pem', '/etc/ca2.pem']), []],
    ['client certificates go', principal(LOOPBACK, certificate), changed(['  clients: { caFile: /etc/ca.pem, roles: [{ subject: ops, role: administrator }] }\n', '']), ['/api/clients']],
    ['the issuer changes', principal(LOOPBACK, oidc('admins')), changed(['https://id.example.net', 'https://id2.example.net']), ['/api/oidc/issuer']],
    ['the audience changes', principal(LOOPBACK, oidc('admins')), changed(['audience: fw', 'audience: fw2']), ['/api/oidc/audience']],
    ['the group\'s role goes', principal(LOOPBACK, oidc('admins', 'readers')), changed(['{ group: admins, role: administrator }, ', '']), ['/api/oidc/roles']],
    ['another group\'s role goes', principal(LOOPBACK, oidc('admins')), changed([', { group: readers, role: viewer }', '']), []],
    ['the user\'s role goes', principal(SOCKET, { kind: 'socket-user', user: 'alice' }), changed(['alice: administrator', 'bob: administrator']), ['/api/socket/users']],
    ['the user\'s role shrinks', principal(SOCKET, { kind: 'socket-user', user: 'alice' }), changed(['alice: administrator', 'alice: operator']), ['/api/socket/users']],
    ['the group\'s role grows', principal(SOCKET, { kind: 'socket-member', group: 'netops' }, 'operator'), changed(['netops: operator', 'netops: administrator']), []],
    ['the group goes', principal(SOCKET, { kind: 'socket-member', group: 'netops' }, 'operator'), changed([', groups: { netops: operator }', '']), ['/api/socket/groups']],
  ];
  test.each(cases)('%s', (_name, who, after, pointers) => expect(cuts(who, after)).toEqual(pointers));
});

describe('through a tunnel', () => {
  const keyOf = (byte: number): string => Buffer.alloc(32, byte).toString('base64');
  const text = `${BASE}wireguard:
  wg0: { zone: mesh, addresses: [10.99.0.1/24], peers: [{ name: laptop, publicKey: "${keyOf(1)}", allowedIPs: [10.99.0.2/32, 10.98.0.0/16] }, { name: other, publicKey: "${keyOf(2)}", endpoint: "203.0.113.20:51820", allowedIPs: 10.99.0.3/32 }] }
`;
  const laptop = https('10.99.0.2', '10.99.0.1');
  const behind = https('10.98.7.7', '10.99.0.1');
  const other = https('10.99.0.3', '10.99.0.1');
  const cases: [string, Caller, [string, string][], string[]][] = [
    ['nothing of it changes', laptop, [['203.0.113.4/24', '203.0.113.5/24'], ['destination: 203.0.113.4', 'destination: 203.0.113.5']], []],
    ['it goes', laptop, [[text.slice(text.indexOf('wireguard:')), '']], ['/wireguard/wg0']],
    ['it loses the address in use', laptop, [['10.99.0.1/24', '10.99.0.9/24']], ['/wireguard/wg0/addresses']],
    ['the peer gets another key', laptop, [[keyOf(1), keyOf(3)]], ['/wireguard/wg0/peers']],
    ['another peer gets another key', laptop, [[keyOf(2), keyOf(3)]], []],
    ['the peer gets its next key beside the old one', laptop, [[`"${keyOf(1)}"`, `"${keyOf(1)}", nextPublicKey: "${keyOf(3)}"`]], []],
    ['the peer loses the network behind it', behind, [[', 10.98.0.0/16', '']], ['/wireguard/wg0/peers']],
    ['the peer loses a network that the caller is not in', laptop, [[', 10.98.0.0/16', '']], []],
    ['allowed IPs make no routes any more', behind, [['zone: mesh,', 'zone: mesh, routes: false,']], ['/routes']],
    ['another port, for a peer that calls us', laptop, [['zone: mesh,', 'zone: mesh, listen: 51821,']], ['/wireguard/wg0/listen']],
    ['another port, for a peer that we call', other, [['zone: mesh,', 'zone: mesh, listen: 51821,']], []],
    ['another private key', laptop, [['zone: mesh,', 'zone: mesh, privateKeyFile: /etc/other.key,']], ['/wireguard/wg0/privateKeyFile']],
    ['a preshared key', laptop, [['name: laptop,', 'name: laptop, presharedKeyFile: /etc/a.psk,']], ['/wireguard/wg0/peers']],
    ['a route that leads elsewhere', behind, [['routes:\n', 'routes:\n  - { to: 10.98.7.0/24, via: 10.0.1.1 }\n']], ['/routes']],
  ];
  test.each(cases)('%s', (_name, caller, replacing, pointers) => {
    const after = replacing.reduce((now, [from, to]) => {
      expect(now).toContain(from);
      return now.replace(from, to);
    }, text);
    expect(wouldCutCaller(principal(caller), parse(text), parse(after)).map(({ pointer }) => pointer)).toEqual(pointers);
  });
});

describe('the packets', () => {
  const noOffice: [string, string] = ['  office: { device: eth2, vlan: 20, zone: office, addresses: [10.0.20.4/24] }\n', ''];
  const noManage: [string, string] = ['    - { name: manage, from: [office], to: [untrust], source: [admins], destination: [management], service: [console], action: allow }\n', ''];
  const cases: [string, Caller, Config, string[]][] = [
    ['the interface loses the address in use', TRUST, changed(['10.0.1.4/24', '10.0.1.5/24']), ['/interfaces/trust/addresses']],
    ['another interface loses its address', TRUST, changed(['203.0.113.4/24', '203.0.113.5/24'], ['destination: 203.0.113.4', 'destination: 203.0.113.5']), []],
    ['the interface goes', OFFICE, changed(noOffice, noManage), ['/interfaces/office']],
    ['the interface moves to another tag', OFFICE, changed(['vlan: 20', 'vlan: 21']), ['/interfaces/office']],
    ['the interface gets another name', TRUST, changed(['  trust: { device', '  inside: { device']), []],
    ['the interface gets another zone', OFFICE, changed(['zone: office', 'zone: bureau'], ['from: [office]', 'from: [bureau]']), []],
    ['the route back goes', ROUTED, changed(['  - { to: 10.0.0.0/16, via: 10.0.1.1 }\n', '']), ['/routes']],
    ['the route back becomes a hole', ROUTED, changed(['  - { to: 10.0.0.0/16, via: 10.0.1.1 }', '  - { to: 10.0.0.0/16, via: 10.0.1.1 }\n  - { to: 10.0.77.0/24, blackhole: true }']), ['/routes']],
    ['a route to somewhere else', ROUTED, changed(['  - { to: 10.0.0.0/16, via: 10.0.1.1 }', '  - { to: 10.0.0.0/16, via: 10.0.1.1 }\n  - { to: 10.0.78.0/24, blackhole: true }']), []],
    ['the default route goes', INTERNET, changed(['  - { to: 0.0.0.0/0, via: 203.0.113.1 }\n', '']), ['/routes']],
    ['the API\'s port is published', INTERNET, changed(['service: tcp/443', 'service: [tcp/443, tcp/8000-9000]']), ['/nat/destination/0']],
    ['another port is published', INTERNET, changed(['service: tcp/443', 'service: [tcp/443, tcp/9443]']), []],
    ['rules, for a caller to an own address', TRUST, changed(['action: allow', 'action: deny']), []],
    ['rules, for a caller through the appliance', THROUGH, changed(['action: allow', 'action: deny']), ['/firewall/rules/0']],
    ['the only rule that lets it through goes', THROUGH, changed(noManage), ['/firewall']],
    ['its object shrinks', THROUGH, changed(['admins: [10.0.20.0/24]', 'admins: [10.0.20.0/28]']), ['/firewall']],
    ['its service loses the port', THROUGH, changed(['console: [tcp/8443]', 'console: [tcp/443]']), ['/firewall']],
    ['a rule before it stops it', THROUGH, changed(['  rules:\n', '  rules:\n    - { name: stop, source: [10.0.20.48/28], action: reject }\n']), ['/firewall/rules/0']],
    ['a rule before it stops others', THROUGH, changed(['  rules:\n', '  rules:\n    - { name: stop, source: [10.0.20.64/28], action: reject }\n']), []],
    ['a disabled rule before it', THROUGH, changed(['  rules:\n', '  rules:\n    - { name: stop, disabled: true, action: deny }\n']), []],
    ['the address of its ssh session goes, for a caller on the socket', { ...SOCKET, session: { address: '10.0.1.50', localAddress: '10.0.1.4', localPort: 22 } }, changed(['10.0.1.4/24', '10.0.1.5/24']), ['/interfaces/trust/addresses']],
    ['the port of its ssh session is published', { ...SOCKET, session: { address: '198.51.100.7', localAddress: '203.0.113.4', localPort: 22 } }, changed(['service: tcp/443', 'service: [tcp/443, tcp/22]']), ['/nat/destination/0']],
    ['a session that it invents', { ...SOCKET, session: { address: 'x', localAddress: 'y', localPort: 99 } }, changed(['10.0.1.4/24', '10.0.1.5/24']), []],
    ['everything, for a caller on this machine', LOOPBACK, changed(noOffice, noManage), []],
    ['everything, for one that no data interface leads to', https('fe80::1%eth0', 'fe80::2%eth0'), changed(noOffice, noManage), []],
    ['the IPv6 address in use', https('2001:db8:2::50', '2001:db8:2::4'), changed([', "2001:db8:2::4/64"', '']), ['/interfaces/trust/addresses']],
  ];
  test.each(cases)('%s', (_name, caller, after, pointers) => expect(cuts(principal(caller), after)).toEqual(pointers));
});

describe('the ssh session of a command', () => {
  test('is what sshd says', () => expect(sessionHeaders({ SSH_CONNECTION: '192.0.2.7 51234 10.0.1.4 22' })).toEqual({ 'sluice-session': '192.0.2.7 51234 10.0.1.4 22' }));
  test.each(['', 'x', 'a\r\nx: y 1 b 2', `${'a'.repeat(50)} 1 b 2`])('%j is none', (SSH_CONNECTION) => expect(sessionHeaders({ SSH_CONNECTION })).toEqual({}));
  test('is found above sudo', async () => {
    const child = spawn('sleep', ['30'], { env: { SSH_CONNECTION: '192.0.2.8 1 10.0.1.4 22', PATH: process.env['PATH'] } });
    onTestFinished(() => void child.kill());
    await new Promise((resolve) => child.once('spawn', resolve));
    await expect.poll(() => sessionHeaders({}, child.pid)).toEqual({ 'sluice-session': '192.0.2.8 1 10.0.1.4 22' });
    const shell = spawn('env', ['-i', '/bin/sleep', '30'], { env: {} });
    onTestFinished(() => void shell.kill());
    await new Promise((resolve) => shell.once('spawn', resolve));
    expect(sessionHeaders({}, shell.pid)).toEqual(sessionHeaders({}, process.pid)); // on to the next above
  });

  test('counts in a commit over the socket', async () => {
    const appliance = await startAppliance();
    const body = { ...appliance.running(), interfaces: { ...appliance.running().interfaces, trust: { device: 'eth2', zone: 'trust', addresses: ['10.0.1.9/24'] } } };
    const put = (query: string): ReturnType<typeof appliance.socket> => appliance.socket(`/api/v1/config${query}`, { method: 'PUT', headers: { 'if-match': '*', 'sluice-session': '10.0.1.50 5555 10.0.1.4 22' }, body });
    expect(await put('')).toMatchObject({ status: 409, body: { code: 'SLUICE_LOCKOUT', pointer: '/interfaces/trust/addresses' } });
    expect((await put('?confirm=true')).status).toBe(200);
  });
});
