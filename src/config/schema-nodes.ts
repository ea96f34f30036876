// Section `nodes:` of the configuration: which other appliances this one trusts, what it tells them, and when its WireGuard keys rotate.
// Called by schema.ts; docs/operations/nodes.md explains it. What one value alone cannot tell is check-nodes.ts's.
import { Type, type Static } from '@sinclair/typebox';
import { SL_WIREGUARDS_MAX } from '../engine/abi.generated.js';
import { named, strictObject, text, textList } from './schema-parts.js';

export const NODE_PEERS_MAX = 256;
/** As keys of WireGuard, and as what a configuration or a record calls a node. */
export const NODE_NAME_PATTERN = '^[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}$';
const DURATION = '^[1-9][0-9]{0,6}[smhd]$';

export const NodesSchema = strictObject({
  name: Type.Optional(text('a name of up to 63 letters, digits, dash, dot and underscore; left out: the hostname', NODE_NAME_PATTERN)),
  listen: Type.Optional(text('an address and port like 203.0.113.4:8444 or "[2001:db8::4]:8444"; left out: this node calls the others, and nobody calls it', '^(\\[[0-9A-Fa-f:.]+\\]|[0-9.]+):[0-9]{1,5}$')),
  peers: Type.Optional(Type.Array(strictObject({
    name: text('a name, by which wireguard peers say node: NAME', NODE_NAME_PATTERN),
    id: text('the other node\'s id, as `sluice node show` prints it there: ed25519: and 43 characters', '^ed25519:[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]$'),
    url: Type.Optional(text('where the other node listens, like https://203.0.113.20:8444; left out: it calls this one', '^https://(\\[[0-9A-Fa-f:.]+\\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?/?$')),
    allow: Type.Optional(textList('prefixes, like 10.2.0.0/16: what of them the node announces is added to the allowed IPs of its tunnels; left out: its announcements add none')),
  }), { maxItems: NODE_PEERS_MAX, description: 'a list of the nodes that this one trusts' })),
  announce: Type.Optional(named(strictObject({
    endpoint: Type.Optional(text('where other nodes reach the tunnel, like 203.0.113.4:51820', '^(\\[[0-9A-Fa-f:.]+\\]|[0-9.]+):[0-9]{1,5}$')),
    allowedIPs: Type.Optional(textList('prefixes behind this node, like 10.1.0.0/16; each of the others decides which of them it takes')),
  }), SL_WIREGUARDS_MAX, 'by WireGuard interface: {endpoint: ADDRESS:PORT, allowedIPs: [PREFIX, ...]}')),
  rotate: Type.Optional(strictObject({
    every: Type.Optional(text('a time like 24h or 7d; left out: static keys rotate on command alone', DURATION)),
    overlap: Type.Optional(text('a time like 10m: how long a step waits for nodes that do not answer', DURATION)),
  })),
});

export type NodesConfig = Static<typeof NodesSchema>;
export type NodePeerConfig = NonNullable<NodesConfig['peers']>[number];

export const OVERLAP_DEFAULT_MS = 600_000;
export const OVERLAP_MS_MIN = 1000;
export const OVERLAP_MS_MAX = 86_400_000;
export const EVERY_MS_MIN = 600_000;
const UNITS: Readonly<Record<string, number>> = { s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/** "10m" in milliseconds. Undefined: not of the form. */
export function durationMs(written: string): number | undefined {
  const [, count, unit] = /^([1-9][0-9]{0,6})([smhd])$/.exec(written) ?? [];
  return count === undefined ? undefined : Number(count) * UNITS[unit!]!;
}
