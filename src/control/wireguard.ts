// Tunnels as people see them: what the engine's process knows (keys, sessions, traffic) joined with what the configuration says (zone, addresses,
// allowed IPs). Who: /api/v1/wireguard, status, metrics, what-if. No secret key passes here: the engine tells public ones alone.
import { DROP_REASONS, DropReason, RULE_ACTIONS, RuleAction } from '../engine/abi.generated.js';
import type { WireguardPeerView as EnginePeer, WireguardView as EngineWireguard } from '../engine/wireguard.js';
import type { SimulateAnswer } from '../engine/records.js';
import { PrefixMap } from '../config/prefix-map.js';
import { parseAddress, parsePrefix } from '../lib/address.js';
import type { TunnelInfo } from './compiled.js';
import type { Control } from './control.js';

/** `publicKey`: null while the node that it belongs to has not told it. */
export interface WireguardPeerView extends Omit<EnginePeer, 'publicKey' | 'ownKey'> { publicKey: string | null; node: string | null; presharedKey: boolean; allowedIPs: string[] }
export interface WireguardView extends Omit<EngineWireguard, 'peers'> { zone: string; addresses: string[]; mtuBytes: number; peers: WireguardPeerView[] }

/** All tunnels of the configuration in force, in its order. `engine`: absent while it does not answer; then nothing is known of sessions. */
export function wireguardViews(control: Control, engine: readonly EngineWireguard[] | undefined): WireguardView[] {
  const known = new Map((engine ?? []).map((one) => [one.interface, one]));
  // Check does not know our own keys: they are the engine's.
  const own = new Map((engine ?? []).flatMap((one) => [one.publicKey, one.nextPublicKey].map((key) => [key, one.interface] as const)));
  return (control.applied?.compiled.tunnels ?? []).map(({ name, zone, addresses, listen, mtuBytes, peers }): WireguardView => {
    const live = known.get(name);
    const livePeers = new Map((live?.peers ?? []).map((one) => [one.name, one]));
    return {
      interface: name, zone, addresses, mtuBytes, listen, publicKey: live?.publicKey ?? null, nextPublicKey: live?.nextPublicKey ?? null,
      rotation: live?.rotation ?? 'none', faults: [...live?.faults ?? [], ...[...peers].flatMap(([peer, { publicKey }]) => (publicKey !== null && own.has(publicKey) ? [`peer ${peer} has the public key of our own ${own.get(publicKey)}: write the other end's`] : []))], refused: live?.refused ?? null,
      peers: [...peers].map(([peer, { node, publicKey, nextPublicKey, presharedKey, endpoint, allowedIPs, keepalive }]): WireguardPeerView => {
        const one = livePeers.get(peer);
        return {
          name: peer, node, publicKey, nextPublicKey, presharedKey, allowedIPs, endpoint: one?.endpoint ?? endpoint, latestHandshake: one?.latestHandshake ?? null,
          rxBytes: one?.rxBytes ?? 0, txBytes: one?.txBytes ?? 0, rxPackets: one?.rxPackets ?? 0, txPackets: one?.txPackets ?? 0, keepalive, state: one?.state ?? 'none',
        };
      }),
    };
  });
}

/** The answer to what-if with the peer that a packet into a tunnel would go to: by the longest allowed IP of its translated destination. Without one it is dropped. */
export function namePeer(answer: SimulateAnswer, tunnels: readonly TunnelInfo[]): SimulateAnswer & { peer: string | null } {
  const tunnel = answer.host ? undefined : tunnels.find(({ name }) => name === answer.to.interface);
  const allowed = new PrefixMap<string>();
  for (const [name, { allowedIPs }] of tunnel?.peers ?? []) for (const text of allowedIPs) allowed.add(parsePrefix(text), name);
  const peer = tunnel && (allowed.longest({ address: parseAddress(answer.translated.destination), length: 128 })?.value ?? null);
  const isLost = peer === null && answer.verdict === ALLOW.name;
  return { ...answer, ...(isLost ? { verdict: DENY.name, reason: NO_PEER.name, help: NO_PEER.help } : {}), peer: peer ?? null };
}

const [ALLOW, DENY, NO_PEER] = [RULE_ACTIONS[RuleAction.ALLOW]!, RULE_ACTIONS[RuleAction.DENY]!, DROP_REASONS[DropReason.WIREGUARD_NO_PEER]!];

export interface TunnelStatus { interface: string; zone: string; listen: number; publicKey: string | null; peers: number; established: number; latestHandshake: string | null; rxBytes: number; txBytes: number }

/** A line a tunnel, for status. */
export function tunnelStatus(views: readonly WireguardView[]): TunnelStatus[] {
  return views.map(({ interface: name, zone, listen, publicKey, peers }) => ({
    interface: name, zone, listen, publicKey, peers: peers.length, established: peers.filter(({ state }) => state === 'established').length,
    latestHandshake: peers.reduce<string | null>((latest, one) => (one.latestHandshake !== null && (latest === null || one.latestHandshake > latest) ? one.latestHandshake : latest), null),
    rxBytes: peers.reduce((sum, one) => sum + one.rxBytes, 0), txBytes: peers.reduce((sum, one) => sum + one.txBytes, 0),
  }));
}
