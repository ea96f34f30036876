// The schema of section `wireguard:`: tunnel interfaces and their peers, and the values that several parts take from it.
//
// Called by schema.ts. Keys that are secret never stand in a configuration: they are in files, which the engine process alone reads.
// load.ts says so where one is written all the same (SECRET_KEYS). What one value alone cannot tell is check-wireguard.ts's.
import { Type, type Static } from '@sinclair/typebox';
import { SL_WIREGUARD_PEERS_MAX, SL_WIREGUARDS_MAX } from '../engine/abi.generated.js';
import { choice, flag, integer, named, port, ruleName, strictObject, text, textList } from './schema-parts.js';

/** UDP port of an interface that names none: what wg-quick's users know. */
export const LISTEN_DEFAULT = 51820;
/** What is left of 1,500 bytes for a packet inside: 40 bytes of IPv6, 8 of UDP, 16 of header and 16 of tag (whitepaper section 5.4.6). */
export const TUNNEL_MTU_DEFAULT = 1420;

/** 32 bytes as base64: 43 digits, of which the last has two bits to spare, and one =. */
export const KEY_PATTERN = '^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$';

const key = (description: string) => text(description, KEY_PATTERN);
const path = (description: string) => text(description, '^/[^\\u0000-\\u001f]*$');

const PeerSchema = strictObject({
  name: ruleName,
  publicKey: Type.Optional(key('the peer\'s public key: 44 characters of base64, as its `wg show` or `sluice wireguard show` prints it')),
  node: Type.Optional(text('instead of publicKey, the name of a node of nodes.peers, or NAME/INTERFACE where it has several tunnels: its keys come from its record', '^[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}(/[A-Za-z0-9_][A-Za-z0-9_.-]{0,62})?$')),
  nextPublicKey: Type.Optional(key('the public key that the peer will change to: it is accepted beside the other one')),
  presharedKeyFile: Type.Optional(path('the path of a file that holds the preshared key, like /etc/sluice/nva-2.psk')),
  endpoint: Type.Optional(text('where the peer is, like 203.0.113.20:51820, "[2001:db8::20]:51820" or vpn.example.net:51820', '^(\\[[0-9A-Fa-f:.]{2,45}\\]|[A-Za-z0-9_]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?\\.?):[0-9]{1,5}$')),
  allowedIPs: Type.Optional(textList('prefixes that are behind the peer, like 10.2.0.0/16')),
  keepalive: Type.Optional(integer(0, 65535, 'seconds from 1 to 65,535, or 0 for none')),
});

export const WireguardInterfaceSchema = strictObject({
  zone: text('a zone name: letters, digits, dash, dot and underscore', '^[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}$'),
  listen: Type.Optional(port('a UDP port')),
  privateKeyFile: Type.Optional(path('the path of a file that holds the private key; leave the key out to have one generated')),
  addresses: Type.Optional(textList('addresses with their length, like 10.99.0.1/24')),
  mtu: Type.Optional(integer(576, 65535, `an MTU in bytes; left out: ${TUNNEL_MTU_DEFAULT}`)),
  antiSpoofing: Type.Optional(choice(['strict', 'loose', 'off'], 'how source addresses are checked')),
  mssClamp: Type.Optional(Type.Unsafe<boolean | number>({
    type: ['boolean', 'integer'], minimum: 88, maximum: 65495, description: 'false, true (to the path\'s MTU), or a segment size in bytes of at least 88',
  })),
  routes: Type.Optional(flag('false: allowed IPs make no routes; left out: they do')),
  peers: Type.Optional(Type.Array(PeerSchema, { maxItems: SL_WIREGUARD_PEERS_MAX, description: 'a list of peers' })),
});

export const WireguardSchema = named(WireguardInterfaceSchema, SL_WIREGUARDS_MAX, 'WireGuard interfaces by name');

export type WireguardConfig = Static<typeof WireguardInterfaceSchema>;
export type WireguardPeerConfig = Static<typeof PeerSchema>;

/** What people write from habit, and where it belongs instead. */
export const SECRET_KEYS: Readonly<Record<string, string>> = {
  privateKey: 'leave it out to have a key generated at the first start, or write privateKeyFile: PATH; `sluice wireguard genkey` makes a key, `sluice wireguard import` takes a wg file over',
  presharedKey: 'put it into a file of its own that root alone may read, and write presharedKeyFile: PATH; `sluice wireguard import` does so for a wg file',
};
