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
import type { Topology, TopologyTunnel } from './topology.js';
import { allowedPrefixes, listenPort, parseEndpoint, peerName, prefixKey, tunnelMtu } from './wireguard.js';

// Kept as long as the peer stays the same object: the pools know a set by its identity.
const sets = new WeakMap<WireguardPeerConfig, AddressSet>();

function setOf(peer: WireguardPeerConfig): AddressSet {
  let set = sets.get(peer);
  if (set === undefined) sets.set(peer, set = { any: false, prefixes: allowedPrefixes(peer), ipv4: true, ipv6: true });
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

function planPeer(id: number, { name, nextPublicKey, presharedKeyFile, endpoint, keepalive }: WireguardPeerConfig, publicKey: string): WireguardPeerPlan {
  const parsed = endpoint === undefined ? undefined : parseEndpoint(endpoint);
  return {
    id, name, publicKey,
    ...(nextPublicKey === undefined ? {} : { nextPublicKey }), ...(presharedKeyFile === undefined ? {} : { presharedKeyFile }),
    ...(parsed === undefined ? {} : { endpoint: { address: parsed.address, port: parsed.port } }), ...(keepalive ? { keepalive } : {}),
  };
}

/** What allowed IPs add to the routes. `skipped`: who has the prefix already, for check-wireguard.ts to say. */
export function* allowedIpRoutes(config: Config, topology: Topology): Generator<{ tunnel: TopologyTunnel; peer: WireguardPeerConfig; prefix: Prefix; skipped?: 'connected' | number | TopologyTunnel }> {
  const tunnels = topology.interfaces.filter((one): one is TopologyTunnel => one.kind === 'wireguard' && one.config.routes !== false);
  if (tunnels.length === 0) return;
  const taken = new Map<string, 'connected' | number | TopologyTunnel>();
  config.routes?.forEach((route, index) => {
    const key = prefixKey(plainPrefix(route.to));
    if (!taken.has(key)) taken.set(key, index);
  });
  for (const { addresses } of topology.interfaces) for (const { prefix, linkLocal } of addresses) if (!linkLocal) taken.set(prefixKey(networkOf(prefix)), 'connected');
  for (const tunnel of tunnels) {
    for (const peer of tunnel.config.peers ?? []) {
      for (const prefix of allowedPrefixes(peer)) {
        const key = prefixKey(prefix);
        const skipped = taken.get(key);
        if (skipped === undefined) taken.set(key, tunnel);
        yield { tunnel, peer, prefix, ...(skipped === undefined ? {} : { skipped }) };
      }
    }
  }
}
