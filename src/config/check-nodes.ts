// Checks of section `nodes:`, and of WireGuard peers that are nodes. Called by check.ts.
import { isIP } from 'node:net';
import { parseAddress, specialUse } from '../lib/address.js';
import type { CheckContext } from './check.js';
import { plainPrefix } from './objects.js';
import { quote, suggest, type Path } from './problem.js';
import { asList } from './schema-parts.js';
import { durationMs, EVERY_MS_MIN, OVERLAP_DEFAULT_MS, OVERLAP_MS_MAX, OVERLAP_MS_MIN } from './schema-nodes.js';

export function checkNodes(context: CheckContext): void {
  checkPeers(context);
  checkTunnelPeers(context);
  checkAnnouncements(context);
  const { config: { nodes }, problems } = context;
  if (nodes?.listen !== undefined) checkAddress(context, nodes.listen, ['nodes', 'listen'], true);
  const { every, overlap } = nodes?.rotate ?? {};
  const overlapMs = overlap === undefined ? OVERLAP_DEFAULT_MS : durationMs(overlap)!;
  if (overlapMs < OVERLAP_MS_MIN || overlapMs > OVERLAP_MS_MAX) problems.error('SLUICE_NODE_ROTATION', ['nodes', 'rotate', 'overlap'], `an overlap of ${overlap} is none`, 'write a time from 1s to 24h');
  if (every === undefined) return;
  if (durationMs(every)! < EVERY_MS_MIN) problems.error('SLUICE_NODE_ROTATION', ['nodes', 'rotate', 'every'], `rotating every ${every} is too often`, 'write 10m or more: session keys are replaced every two minutes anyway');
  // A rotation waits for the overlap twice at most.
  else if (durationMs(every)! <= 2 * overlapMs) problems.error('SLUICE_NODE_ROTATION', ['nodes', 'rotate', 'every'], `the next rotation could begin before one has ended: each may take twice the overlap, ${overlap ?? '10m'}`, 'rotate less often, or write a shorter overlap');
  const own = Object.values(context.config.wireguard ?? {});
  if (!own.some(({ peers }) => peers?.some(({ node }) => node !== undefined))) problems.warn('SLUICE_NODE_ROTATION', ['nodes', 'rotate', 'every'], 'no peer of a tunnel is a node, so no key rotates by itself', 'write node: NAME for peers instead of publicKey', 'key');
}

function checkPeers({ config: { nodes }, problems }: CheckContext): void {
  const names = new Map<string, number>();
  const ids = new Map<string, string>();
  nodes?.peers?.forEach((peer, i) => {
    const path: Path = ['nodes', 'peers', i];
    if (names.has(peer.name)) problems.error('SLUICE_NAME_DUPLICATE', [...path, 'name'], `node ${names.get(peer.name)} is called ${quote(peer.name)} too`, 'give each node a name of its own');
    names.set(peer.name, i);
    const other = ids.get(peer.id);
    if (other !== undefined) problems.error('SLUICE_NODE_PEER', [...path, 'id'], `node ${quote(other)} has this id already`, 'an id belongs to one node');
    ids.set(peer.id, peer.name);
    if (peer.url !== undefined && !isUrl(peer.url)) problems.error('SLUICE_NODE_PEER', [...path, 'url'], `${quote(peer.url)} is no URL of a node`, 'write https://ADDRESS:PORT');
    if (peer.url === undefined && nodes.listen === undefined) problems.error('SLUICE_NODE_PEER', path, `nobody begins: node ${quote(peer.name)} has no url, and this one does not listen`, 'write url: https://ADDRESS:PORT, or nodes.listen for it to call');
    asList<string>(peer.allow).forEach((text, at) => problems.attempt([...path, 'allow', ...(Array.isArray(peer.allow) ? [at] : [])], () => plainPrefix(text)));
  });
}

function isUrl(text: string): boolean {
  if (!URL.canParse(text)) return false;
  const { port } = new URL(text);
  return port !== '0';
}

/** A peer of a tunnel has its key from the configuration, or from a node's record. */
function checkTunnelPeers({ config, problems }: CheckContext): void {
  const names = (config.nodes?.peers ?? []).map(({ name }) => name);
  for (const [name, tunnel] of Object.entries(config.wireguard ?? {})) {
    const seen = new Map<string, string>();
    tunnel.peers?.forEach((peer, i) => {
      const path: Path = ['wireguard', name, 'peers', i];
      if (peer.node === undefined) {
        if (peer.publicKey === undefined) problems.error('SLUICE_CONFIG_MISSING_KEY', path, 'publicKey is missing', 'write publicKey: KEY, or node: NAME for a node that tells its key by itself');
        return;
      }
      for (const member of ['publicKey', 'nextPublicKey'] as const) {
        if (peer[member] !== undefined) problems.error('SLUICE_WIREGUARD_KEY', [...path, member], `peer ${quote(peer.name)} has its keys from node ${quote(peer.node)}`, `write node or ${member}, not both`, 'key');
      }
      const [node] = nodeAndInterface(peer.node);
      if (!names.includes(node)) problems.error('SLUICE_NODE_UNKNOWN', [...path, 'node'], `there is no node ${quote(node)}`, names.length === 0 ? 'name it under nodes.peers, with its id' : suggest(node, names, 'node'));
      const other = seen.get(peer.node);
      if (other !== undefined) problems.error('SLUICE_NODE_UNKNOWN', [...path, 'node'], `peer ${quote(other)} is node ${quote(peer.node)} already`, 'write NAME/INTERFACE when a node has several tunnels to this interface');
      seen.set(peer.node, peer.name);
    });
  }
}

/** "nva-2" or "nva-2/wg1". */
export function nodeAndInterface(text: string): [node: string, interfaceName: string | undefined] {
  const slash = text.indexOf('/');
  return slash < 0 ? [text, undefined] : [text.slice(0, slash), text.slice(slash + 1)];
}

function checkAnnouncements(context: CheckContext): void {
  const { config, problems } = context;
  for (const [name, { endpoint, allowedIPs }] of Object.entries(config.nodes?.announce ?? {})) {
    const path: Path = ['nodes', 'announce', name];
    if (config.wireguard?.[name] === undefined) problems.error('SLUICE_NODE_UNKNOWN', path, `there is no WireGuard interface ${quote(name)}`, suggest(name, Object.keys(config.wireguard ?? {}), 'interface'), 'key');
    if (endpoint !== undefined) checkAddress(context, endpoint, [...path, 'endpoint'], false);
    asList<string>(allowedIPs).forEach((text, at) => problems.attempt([...path, 'allowedIPs', ...(Array.isArray(allowedIPs) ? [at] : [])], () => plainPrefix(text)));
  }
}

function checkAddress({ problems }: CheckContext, text: string, path: Path, isListener: boolean): void {
  const colon = text.lastIndexOf(':');
  const host = text.slice(0, colon).replace(/^\[|\]$/g, '');
  const port = Number(text.slice(colon + 1));
  const code = isListener ? 'SLUICE_NODE_LISTEN' : 'SLUICE_WIREGUARD_ENDPOINT';
  if (isIP(host) === 0 || (isIP(host) === 6) !== text.startsWith('[')) problems.error(code, path, `${quote(host)} is not an IP address`, 'write an address and port like 203.0.113.4:8444 or "[2001:db8::4]:8444"');
  else if (port < 1 || port > 65535) problems.error(code, path, `${port} is not a port`, 'write a port from 1 to 65535');
  else if (!isListener) {
    const use = specialUse(parseAddress(host));
    if (use !== undefined) problems.error(code, path, `${quote(host)} is a ${use} address`, 'write where other nodes reach the tunnel');
  }
}
