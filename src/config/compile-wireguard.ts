// The WireGuard part of the snapshot, and what the engine's process needs beside it: ports, peers, endpoints, where keys are. No key that is secret.
//
// Called by compile.ts. Allowed IPs are written as they stand: the engine takes the longest prefix, for the destination of a packet that
// leaves and for the source of one that came. They are routes to the interface too, unless the interface says routes: false, or a
// connected subnet or a configured route has the very prefix already: then that one decides.
import { networkOf, type Prefix } from '../lib/address.js';
import type { WireguardPeerPlan, WireguardPlan } from '../engine/last-applied.js';
import type { CompileContext } from './compile.js';
import type { AddressSet } from './objects.js';
import { plainPrefix } from './objects.js';
import type { Config } from './schema.js';
import type { WireguardPeerConfig } from './schema-wireguard.js';
import type { Topology } from './topology.js';
import { allowedPrefixes, endpointOf, listenPort, peerName, prefixKey, tunnelMtu } from './wireguard.js';

// Kept as long as the list stays the same object, also while a node's keys change beside it: the pools know a set by its identity.
const sets = new WeakMap<object, AddressSet>();

function setOf(peer: WireguardPeerConfig): AddressSet {
  const list = Array.isArray(peer.allowedIPs) ? peer.allowedIPs : peer;
  let set = sets.get(list);
  if (set === undefined) sets.set(list, set = { any: false, prefixes: allowedPrefixes(peer), ipv4: true, ipv6: true });
  return set;
}

export function compileWireguards({ topology, ids, writer }: CompileContext): WireguardPlan[] {
  const plans: WireguardPlan[] = [];
  for (const one of topology.interfaces) {
    if (one.kind !== 'wireguard') continue;
    const peers = one.config.peers ?? [];
    writer.wireguards.push({ interface: one.index, listenPort: listenPort(one.config), peers: { first: writer.wireguardPeers.length, count: peers.length } });
    plans.push({
      interface: one.name, id: ids.id('interface', one.name), listen: listenPort(one.config), mtu: tunnelMtu(one.config),
      ...(one.config.privateKeyFile === undefined ? {} : { privateKeyFile: one.config.privateKeyFile }),
      // One whose node has not told its key yet has no session: what is for it is dropped.
      peers: peers.flatMap((peer) => {
        const id = ids.id('wireguard-peer', peerName(one.name, peer));
        const set = setOf(peer);
        // Of rules, an empty span means any; of a peer it means nothing, which is what an empty list says.
        writer.wireguardPeers.push({ id, allowedIps: set.prefixes.length === 0 ? { first: 0, count: 0 } : writer.prefixes(set) });
        return peer.publicKey === undefined ? [] : [planPeer(id, peer, peer.publicKey)];
      }),
    });
  }
  return plans;
}

function planPeer(id: number, peer: WireguardPeerConfig, publicKey: string): WireguardPeerPlan {
  const { name, nextPublicKey, presharedKeyFile, keepalive } = peer;
  const parsed = endpointOf(peer);
  return {
    id, name, publicKey,
    ...(nextPublicKey === undefined ? {} : { nextPublicKey }), ...(presharedKeyFile === undefined ? {} : { presharedKeyFile }),
    ...(parsed === undefined ? {} : { endpoint: { address: parsed.address, port: parsed.port } }), ...(keepalive ? { keepalive } : {}),
  };
}

/** What an allowed IP adds to the routes. `skipped`: who has its prefix already: a subnet, a route by its index, or another tunnel by its name. */
export interface AllowedIpRoute { readonly tunnel: string; readonly peer: WireguardPeerConfig; readonly prefix: Prefix; readonly skipped?: 'connected' | number | { readonly tunnel: string } }

let lastRoutes: { wireguard: Config['wireguard']; routes: Config['routes']; connected: string; found: readonly AllowedIpRoute[] } | undefined;

/** Check and compile ask for the same, and most commits change nothing of it: the last answer is kept. */
export function allowedIpRoutes(config: Config, topology: Topology): readonly AllowedIpRoute[] {
  const networks = topology.interfaces.flatMap(({ addresses }) => addresses.flatMap(({ prefix, linkLocal }) => (linkLocal ? [] : [prefixKey(networkOf(prefix))])));
  const connected = networks.join();
  const { wireguard, routes } = config;
  if (lastRoutes === undefined || lastRoutes.wireguard !== wireguard || lastRoutes.routes !== routes || lastRoutes.connected !== connected) {
    lastRoutes = { wireguard, routes, connected, found: findRoutes(config, networks) };
  }
  return lastRoutes.found;
}

function findRoutes({ wireguard, routes }: Config, networks: readonly string[]): AllowedIpRoute[] {
  const tunnels = Object.entries(wireguard ?? {}).filter(([, one]) => one.routes !== false);
  if (tunnels.length === 0) return [];
  const taken = new Map<string, NonNullable<AllowedIpRoute['skipped']>>();
  routes?.forEach(({ to }, index) => {
    const key = prefixKey(plainPrefix(to));
    if (!taken.has(key)) taken.set(key, index);
  });
  for (const key of networks) taken.set(key, 'connected');
  return tunnels.flatMap(([tunnel, { peers }]) => (peers ?? []).flatMap((peer) => allowedPrefixes(peer).map((prefix): AllowedIpRoute => {
    const key = prefixKey(prefix);
    const skipped = taken.get(key);
    if (skipped !== undefined) return { tunnel, peer, prefix, skipped };
    taken.set(key, { tunnel });
    return { tunnel, peer, prefix };
  })));
}
