// WireGuard's values: endpoints and allowed IPs, from text to what check, compile and the wg-style export work with.
//
// Called by check-wireguard.ts, compile-wireguard.ts and wireguard-file.ts. Pure but for caches: a peer is parsed once as long as it
// stays the same object (share.ts), so that a commit beside 10,000 peers parses none of them again.
import { isIP } from 'node:net';
import { parseAddress, type Prefix } from '../lib/address.js';
import { plainPrefix } from './objects.js';
import { ConfigError, quote } from './problem.js';
import { asList } from './schema-parts.js';
import type { Config } from './schema.js';
import { LISTEN_DEFAULT, TUNNEL_MTU_DEFAULT, type WireguardConfig, type WireguardPeerConfig } from './schema-wireguard.js';

/** Outer header before the packet: IP, UDP 8, WireGuard 16, and 16 of tag behind it (whitepaper section 5.4.6). */
export const OVERHEAD_BYTES = { ipv4: 20 + 8 + 16 + 16, ipv6: 40 + 8 + 16 + 16 } as const;

export interface Endpoint {
  /** An address without brackets, or a host name. */
  readonly address: string;
  readonly port: number;
  /** Absent: a host name. */
  readonly literal?: bigint;
}

const HOST_LABEL = /^[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?$/;

/** "203.0.113.20:51820", "[2001:db8::20]:51820" or "vpn.example.net:51820". Throws ConfigError. */
export function parseEndpoint(text: string): Endpoint {
  const colon = text.lastIndexOf(':');
  const host = text.slice(0, colon);
  const port = Number(text.slice(colon + 1));
  const fail = (message: string, remedy: string): never => { throw new ConfigError('SLUICE_WIREGUARD_ENDPOINT', message, remedy); };
  if (colon < 1 || !/^[0-9]{1,5}$/.test(text.slice(colon + 1))) return fail(`${quote(text)} has no port`, 'write host:port, like 203.0.113.20:51820 or "[2001:db8::20]:51820"');
  if (port < 1 || port > 65535) return fail(`${port} is not a port`, 'write a port from 1 to 65535');
  if (host.startsWith('[')) {
    const address = host.slice(1, -1);
    if (!host.endsWith(']') || isIP(address) !== 6) return fail(`${quote(host)} is not an IPv6 address in brackets`, 'write it like "[2001:db8::20]:51820"');
    return { address, port, literal: parseAddress(address) };
  }
  if (host.includes(':')) return fail(`${quote(text)} is an IPv6 address without brackets`, `write "[${host}]:${port}"`);
  if (isIP(host) === 4) return { address: host, port, literal: parseAddress(host) };
  if (/^[0-9.]+$/.test(host) || host.length > 253 || !host.replace(/\.$/, '').split('.').every((label) => HOST_LABEL.test(label))) {
    return fail(`${quote(host)} is neither an address nor a host name`, 'write an address, or a name like vpn.example.net');
  }
  return { address: host, port };
}

const endpoints = new WeakMap<WireguardPeerConfig, Endpoint>();

/** A peer's endpoint; undefined: it has none, or what is written is none. */
export function endpointOf(peer: WireguardPeerConfig): Endpoint | undefined {
  let endpoint = endpoints.get(peer);
  if (endpoint === undefined && peer.endpoint !== undefined) {
    try {
      endpoints.set(peer, endpoint = parseEndpoint(peer.endpoint));
    } catch (error) {
      if (!(error instanceof ConfigError)) throw error;
    }
  }
  return endpoint;
}

const allowed = new WeakMap<WireguardPeerConfig, readonly Prefix[]>();

/** A peer's allowed IPs. Throws ConfigError at the first that is no prefix. */
export function allowedPrefixes(peer: WireguardPeerConfig): readonly Prefix[] {
  let prefixes = allowed.get(peer);
  if (prefixes === undefined) {
    prefixes = asList<string>(peer.allowedIPs).map(plainPrefix);
    allowed.set(peer, prefixes);
  }
  return prefixes;
}

export const prefixKey = ({ address, length }: Prefix): string => `${address.toString(36)}/${length}`;
export const listenPort = (one: WireguardConfig): number => one.listen ?? LISTEN_DEFAULT;
export const tunnelMtu = (one: WireguardConfig): number => one.mtu ?? TUNNEL_MTU_DEFAULT;
/** By what records, metrics and ids know a peer. */
export const peerName = (interfaceName: string, { name }: WireguardPeerConfig): string => `${interfaceName}/${name}`;

/** Interface and peer for all peers, in the order of the configuration. */
export function* allPeers(config: Config): Generator<{ interfaceName: string; peer: WireguardPeerConfig; index: number }> {
  for (const [interfaceName, { peers }] of Object.entries(config.wireguard ?? {})) {
    for (const [index, peer] of (peers ?? []).entries()) yield { interfaceName, peer, index };
  }
}
