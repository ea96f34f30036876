// Files in the style of wg and wg-quick: what they become, what is said about the rest, and what never gets out.
import { expect, test } from 'vitest';
import { emitConfig } from '../../src/config/emit.js';
import type { WireguardConfig } from '../../src/config/schema-wireguard.js';
import { formatPeerFile, formatWgFile, parseWgFile, WgFileError } from '../../src/config/wireguard-file.js';
import { fuzzSeed, generator, oneOf } from '../random.js';
import { check } from './support.js';

const key = (byte: number): string => Buffer.alloc(32, byte).toString('base64');

const FILE = `# a comment
[Interface]
PrivateKey = ${key(9)}
listenport=51820
Address = 10.99.0.1/24, 2001:db8:99::1/64
Address = 10.98.0.1
MTU = 1400
DNS = 10.0.0.53
PostUp = iptables -A FORWARD -i %i -j ACCEPT # not here
Table = auto

# Name = nva-2
[Peer]
PublicKey = ${key(1)}
PresharedKey = ${key(8)}
AllowedIPs = 10.99.0.2/32, 10.2.0.7/16
AllowedIPs = 2001:db8:2::/48,10.99.0.2
Endpoint = [2001:db8::20]:51820
PersistentKeepalive = 25

[peer]
# Name: laptop
PublicKey=${key(2)}
PersistentKeepalive = off
PresharedKey = ${key(0)}

[Peer]
PublicKey = ${key(3)}
AllowedIPs =
`;

test('a wg-quick file becomes a section, and its secrets stay beside it', () => {
  const imported = parseWgFile(FILE);
  expect(imported.interface).toEqual({ listen: 51820, addresses: ['10.99.0.1/24', '2001:db8:99::1/64', '10.98.0.1/32'], mtu: 1400 });
  expect(imported.privateKey).toBe(key(9));
  expect(imported.peers).toEqual([
    { peer: { name: 'nva-2', publicKey: key(1), endpoint: '[2001:db8::20]:51820', allowedIPs: ['10.99.0.2/32', '10.2.0.0/16', '2001:db8:2::/48'], keepalive: 25 }, presharedKey: key(8) },
    { peer: { name: 'laptop', publicKey: key(2) } },
    { peer: { name: 'peer-3', publicKey: key(3) } },
  ]);
  expect(imported.notes.map((note) => /^\w+/.exec(note)![0])).toEqual(['dns', 'postup', 'AllowedIPs']);
  const section = { wireguard: { wg0: { zone: 'mesh', ...imported.interface, peers: imported.peers.map(({ peer }) => peer) } } };
  const { problems, config } = check(`version: 1\n${emitConfig(section)}`);
  expect(problems.filter(({ severity }) => severity === 'error')).toEqual([]);
  expect(config!.wireguard).toEqual(section.wireguard);
});

test('Table = off: allowed IPs make no routes', () => {
  expect(parseWgFile('[Interface]\nTable = off\n').interface).toEqual({ routes: false });
  expect(parseWgFile('[Interface]\nTable = 1234\n').notes[0]).toContain('1234');
});

test('what is wrong is named by its line, and no message repeats a key', () => {
  const fails: [string, number, RegExp][] = [
    ['ListenPort = 1\n', 1, /before the first section/], ['[Interface]\n[Peer]\n[Interface]\n', 3, /second \[Interface\]/], ['[Server]\n', 1, /no section/], ['[Interface]\nListenPort 5\n', 2, /KEY = VALUE/],
    ['[Interface]\nListenPort = 65536\n', 2, /listenport is not a number/], ['[Interface]\nMTU = 9\n', 2, /mtu/], ['[Interface]\nAddress = 10.0.0.300/24\n', 2, /not an IP address/], ['[Interface]\nColour = red\n', 2, /no key of \[Interface\]/],
    ['[Interface]\nPrivateKey = secretsecret\n', 2, /privatekey is no key/], ['[Peer]\nPresharedKey = secretsecret\n', 2, /presharedkey is no key/], ['[Peer]\nAllowedIPs = 10.0.0.0/8\n', 1, /without PublicKey/],
    [`[Peer]\nPublicKey = ${key(1)}\nEndpoint = 10.0.0.1\n`, 3, /no port/], [`[Peer]\nPublicKey = ${key(1)}\nAllowedIPs = 10.0.0.0/33\n`, 3, /not a prefix length/],
    [`[Peer]\n# Name = a\nPublicKey = ${key(1)}\n[Peer]\n# Name = a\nPublicKey = ${key(2)}\n`, 4, /second peer/],
  ];
  for (const [text, line, message] of fails) {
    let error: unknown;
    try { parseWgFile(text); } catch (caught) { error = caught; }
    expect(error, text).toBeInstanceOf(WgFileError);
    expect((error as WgFileError).line, text).toBe(line);
    expect((error as WgFileError).message).toMatch(message);
    expect(`${(error as WgFileError).message}${(error as WgFileError).remedy}`).not.toContain('secretsecret');
  }
});

const tunnel: WireguardConfig = {
  zone: 'mesh', listen: 51821, addresses: ['10.99.0.1/24'], mtu: 1380, routes: false, privateKeyFile: '/etc/sluice/wg0.key',
  peers: [{ name: 'nva-2', publicKey: key(1), presharedKeyFile: '/etc/sluice/nva-2.psk', endpoint: '203.0.113.20:51820', allowedIPs: ['10.99.0.2/32', '10.2.0.0/16'], keepalive: 25 }],
};

test('exported and imported again, a tunnel is what it was but for its secrets', () => {
  const text = formatWgFile('wg0', tunnel, { hostname: 'nva-1', publicKey: key(5) });
  const { privateKey, peers, interface: own } = parseWgFile(text);
  expect(privateKey).toBeUndefined();
  expect(own).toEqual({ listen: 51821, addresses: ['10.99.0.1/24'], mtu: 1380, routes: false });
  const { presharedKeyFile: _secret, ...peer } = tunnel.peers![0]!;
  expect(peers).toEqual([{ peer }]);
  expect(text).toContain('# PrivateKey is not exported');
});

test('the file for the other end: its own address, our key, our subnet', () => {
  const text = formatPeerFile('wg0', tunnel, tunnel.peers![0]!, { hostname: 'nva-1', publicKey: key(5) }, '203.0.113.4:51821');
  const { interface: own, peers } = parseWgFile(text);
  expect(own).toEqual({ listen: 51820, addresses: ['10.99.0.2/32'], mtu: 1380 });
  expect(peers).toEqual([{ peer: { name: 'nva-1', publicKey: key(5), endpoint: '203.0.113.4:51821', allowedIPs: ['10.99.0.0/24'], keepalive: 25 } }]);
  expect(parseWgFile(text).privateKey).toBeUndefined();
});

const FILES = 2000;
test(`fuzz: ${FILES} files, seed ${fuzzSeed}: read or refused with a line, secrets in no message, and what is printed is a configuration`, () => {
  console.log(`seed ${fuzzSeed}`);
  const random = generator(fuzzSeed);
  const keywords = ['PrivateKey', 'ListenPort', 'Address', 'MTU', 'DNS', 'Table', 'PostUp', 'PublicKey', 'PresharedKey', 'AllowedIPs', 'Endpoint', 'PersistentKeepalive', '__proto__', 'x'];
  const values = [key(1), key(2), key(8), key(9), key(0), '51820', '0', '65536', '-1', '25', 'off', '10.99.0.1/24', '10.2.0.7/16', '10.2.0.7', '::/0', '2001:db8::1', '10.0.0.0/33', '0.0.0.0/0, ::/0', '203.0.113.20:51820', '[2001:db8::20]:1', 'vpn.example.net:51820', ':1', 'a:b:c', '1420', '1', '', '=', '\u0000', '\u2028', '"', '9'.repeat(400)];
  const line = (): string => {
    switch (random(8)) {
      case 0: return oneOf(random, ['[Interface]', '[Peer]', '[peer]', '[ Peer ]', '[Other]', '[']);
      case 1: return `# Name = ${oneOf(random, ['a', 'b', '-', '\u202e', '\u0007x', 'a: b', '"', '#', 'x'.repeat(100), '\u0001'])}`;
      default: return `${oneOf(random, keywords)}${oneOf(random, [' = ', '=', ' '])}${oneOf(random, values)}`;
    }
  };
  /** Mostly in order, or next to no file would be read. */
  const file = (): string => {
    const lines = FILE.split('\n');
    for (let times = random(4); times > 0; times -= 1) lines.splice(random(lines.length), random(3), line());
    return random(10) === 0 ? Array.from({ length: random(20) }, line).join('\n') : lines.join(oneOf(random, ['\n', '\r\n']));
  };
  let read = 0;
  for (let count = 0; count < FILES; count += 1) {
    const text = file();
    const secrets = [key(8), key(9)];
    try {
      const { interface: own, peers, notes } = parseWgFile(text);
      read += 1;
      for (const secret of secrets) if (!peers.some(({ peer }) => peer.publicKey === secret)) expect(JSON.stringify([own, peers.map(({ peer }) => peer), notes])).not.toContain(secret);
      // Printed as YAML it says the same; what the checks have against it, they say.
      const section = { wireguard: { wg0: { zone: 'mesh', ...own, peers: peers.map(({ peer }) => peer) } } };
      const { config, problems } = check(`version: 1\n${emitConfig(section)}`);
      if (!problems.some(({ severity }) => severity === 'error')) expect(config!.wireguard, text).toEqual(section.wireguard);
    } catch (error) {
      expect(error, text).toBeInstanceOf(WgFileError);
      for (const secret of secrets) expect((error as WgFileError).message).not.toContain(secret);
    }
  }
  expect(read).toBeGreaterThan(FILES / 20);
}, 60_000);
