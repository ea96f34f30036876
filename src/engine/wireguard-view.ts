// What is told of WireGuard interfaces and their peers: `wireguard-show` of the engine's socket. No secret is among it. Who: src/engine/wireguard.ts.
import type { WireguardPeerRecord } from './abi.generated.js';
import type { WireguardPeerPlan } from './last-applied.js';
import { formatEndpoint } from './wireguard-endpoints.js';
import type { RotationPhase } from './wireguard-keys.js';
import type { Tunnel } from './wireguard-tunnel.js';
import type { PeerStatus, Refusal, WireguardDevice } from '../wireguard/device.js';

export interface WireguardPeerView {
  name: string; publicKey: string; nextPublicKey: string | null; endpoint: string | null;
  state: PeerStatus['state']; latestHandshake: string | null;
  rxBytes: number; txBytes: number; rxPackets: number; txPackets: number;
  keepalive: number | null;             // seconds; null: off
  ownKey: string | null;                // our public key that the newest session was made with
}

export interface WireguardView {
  interface: string; listen: number;
  publicKey: string | null;             // null: there is no usable key, see faults
  nextPublicKey: string | null;
  rotation: RotationPhase;
  faults: string[];
  refused: Record<Refusal, number> | null; // handshake messages that were not answered
  peers: WireguardPeerView[];
}

/** `records`: by peer id. */
export function showTunnels(tunnels: Iterable<Tunnel>, records: ReadonlyMap<number, WireguardPeerRecord>): WireguardView[] {
  return [...tunnels].map((tunnel): WireguardView => {
    const { plan, device, phase, faults } = tunnel;
    const keys = device?.publicKeys();
    return {
      interface: plan.interface, listen: plan.listen, publicKey: keys ? encodeKey(keys.current) : null, nextPublicKey: keys?.next ? encodeKey(keys.next) : null,
      rotation: phase, faults, refused: device ? { ...device.refused } : null,
      peers: plan.peers.map((peer) => showPeer(peer, records, device)),
    };
  });
}

function showPeer(peer: WireguardPeerPlan, records: ReadonlyMap<number, WireguardPeerRecord>, device: WireguardDevice | undefined): WireguardPeerView {
  const record = records.get(peer.id);
  const status = device?.status(peer.id);
  const latestNs = status?.latestHandshakeNs ?? 0n;
  return {
    name: peer.name, publicKey: peer.publicKey, nextPublicKey: peer.nextPublicKey ?? null,
    endpoint: record ? formatEndpoint(record.endpoint) : null,
    state: status?.state ?? 'none', latestHandshake: latestNs === 0n ? null : new Date(Number(latestNs / 1_000_000n)).toISOString(),
    rxBytes: Number(record?.rxBytes ?? 0), txBytes: Number(record?.txBytes ?? 0), rxPackets: Number(record?.rxPackets ?? 0), txPackets: Number(record?.txPackets ?? 0),
    keepalive: peer.keepalive || null, ownKey: status?.self ? encodeKey(status.self) : null,
  };
}

export function encodeKey(publicKey: Uint8Array): string { return Buffer.from(publicKey).toString('base64'); }
