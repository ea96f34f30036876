// Lock-out protection: would this change cut off the very caller that asks for it? Who: access-service.ts, for each commit, rollback and
// restore that came in by a request, by whatever route. Pure but for the addresses of devices that the configuration leaves to the machine.
// It asks two things. Does the caller still have a way in: its listener, its role, its CA or issuer? And does its traffic still arrive: for a
// caller on HTTPS whose packets come by a data interface, the interface, its address, translation of the API's own port, the route back, and,
// where the way to the listener leads through the appliance, the rules. What cannot be judged (an object that does not resolve) counts as a cut.
// A caller on the Unix socket is on the machine; the command line says by which ssh session, and that one's packets count likewise.
// Whoever means it says so, or sets a time within which the change must be confirmed.
import { networkInterfaces } from 'node:os';
import type { FastifyRequest } from 'fastify';
import { AddressError, contains, familyOf, parseAddress, parseInterfaceAddress, parsePrefix, prefixFamily, type Prefix } from '../lib/address.js';
import { vlanDeviceName } from '../config/facts.js';
import { Objects } from '../config/objects.js';
import { ConfigError } from '../config/problem.js';
import { asList } from '../config/schema-parts.js';
import type { Config, FirewallRule, InterfaceConfig, ServiceItem } from '../config/schema.js';
import type { WireguardConfig, WireguardPeerConfig } from '../config/schema-wireguard.js';
import { TCP } from '../config/services.js';
import { allowedPrefixes, listenPort } from '../config/wireguard.js';
import { SL_PROTOCOL_ANY } from '../engine/abi.generated.js';
import { parseListen } from './tls.js';
import { roleOfCertificate } from './access-certificate.js';
import { requestOf, ROLES, type Caller, type Principal, type Role } from './access.js';
import type { CommitRequest } from '../control/transaction-types.js';
import { ApiError } from './errors.js';
import { roleOfGroups } from './oidc.js';

export interface LockOut { pointer: string; reason: string }

/** Throws ApiError 409 SLUICE_LOCKOUT unless the caller has said that it means it: ?confirm=true, or a time to confirm within. */
export function refuseLockOut({ by, confirmWithinS }: CommitRequest, before: Config, after: Config): void {
  const request = requestOf(by);
  if (!request || confirmWithinS !== undefined || isConfirmed(request)) return;
  const { principal } = request;
  const cuts = wouldCutCaller(principal, before, after);
  if (cuts.length === 0) return;
  throw new ApiError(409, 'SLUICE_LOCKOUT', `this would cut off your own session: ${cuts.map(({ reason }) => reason).join('; ')}. Commit it with a time to confirm within, so that it undoes itself when you cannot, or say ?confirm=true`, cuts[0]!.pointer, { members: { cuts } });
}

function isConfirmed({ query }: FastifyRequest): boolean {
  const { confirm } = (query ?? {}) as { confirm?: unknown };
  return confirm === true || confirm === 'true';
}

/** Why the caller could not come back after this change; empty: it could. */
export function wouldCutCaller(principal: Principal, before: Config, after: Config): LockOut[] {
  if (before === after) return [];
  return [...listenerCuts(principal.caller, before, after), ...roleCuts(principal, before, after), ...trafficCuts(principal.caller, before, after)];
}

// ---- the way in -------------------------------------------------------------------------------------------------------

function listenerCuts(caller: Caller, before: Config, after: Config): LockOut[] {
  if (caller.transport !== 'https') return [];
  const listen = after.api?.listen;
  if (listen === undefined) return [{ pointer: '/api/listen', reason: 'the API would not listen on HTTPS any more' }];
  if (before.api?.listen === listen) return [];
  const { host, port } = parseListen(listen);
  const isReached = port === caller.localPort && (host === caller.localAddress || host === '0.0.0.0' || host === '::');
  return isReached ? [] : [{ pointer: '/api/listen', reason: `the API would listen on ${listen}; you connect to ${caller.localAddress} port ${caller.localPort}` }];
}

function roleCuts({ grant, role, scopes, name }: Principal, before: Config, after: Config): LockOut[] {
  const judge = (pointer: string, what: string, next: { role: Role; scopes?: string | readonly string[] | undefined } | undefined): LockOut[] => {
    if (!next) return [{ pointer, reason: `${name} would have no role any more (${what})` }];
    if (ROLES.indexOf(next.role) < ROLES.indexOf(role)) return [{ pointer, reason: `${name} would be ${next.role} instead of ${role}` }];
    const left = next.scopes === undefined ? undefined : asList<string>(next.scopes);
    const lost = left === undefined ? [] : (scopes ?? ['everything else']).filter((scope) => !left.includes(scope) && !left.includes(scope.replace(/:read$/, '')));
    return lost.length === 0 ? [] : [{ pointer, reason: `${name} would lose ${lost.join(', ')}` }];
  };
  switch (grant.kind) {
    case 'socket-user': return judge('/api/socket/users', 'api.socket.users', roleNamed(after.api?.socket?.users, grant.user));
    case 'socket-member': return judge('/api/socket/groups', 'api.socket.groups', roleNamed(after.api?.socket?.groups, grant.group));
    case 'certificate': {
      const { clients } = after.api ?? {};
      if (clients && before.api?.clients && (clients.caFile !== before.api.clients.caFile || clients.crlFile !== before.api.clients.crlFile)) {
        return [{ pointer: '/api/clients/caFile', reason: 'client certificates would be verified by another CA or revocation list' }];
      }
      return judge('/api/clients', 'api.clients', clients && roleOfCertificate(grant.subject, grant.names, clients.roles));
    }
    case 'oidc': {
      const { oidc } = after.api ?? {};
      if (!oidc || oidc.issuer !== grant.issuer) return [{ pointer: '/api/oidc/issuer', reason: `tokens of ${grant.issuer} would not be taken any more` }];
      const changed = (['audience', 'jwksUri', 'caFile', 'algorithms', 'groupsClaim'] as const).find((member) => JSON.stringify(oidc[member]) !== JSON.stringify(before.api?.oidc?.[member]));
      if (changed) return [{ pointer: `/api/oidc/${changed}`, reason: `your token might not be taken any more: api.oidc.${changed} changes` }];
      return judge('/api/oidc/roles', 'api.oidc.roles', roleOfGroups(grant.groups, oidc.roles));
    }
    default: return []; // root, tokens, the socket's own group: no configuration takes these away
  }
}

function roleNamed(roles: Record<string, Role> | undefined, name: string): { role: Role } | undefined {
  const role = roles && Object.hasOwn(roles, name) ? roles[name] : undefined;
  return role && { role };
}

// ---- the packets ------------------------------------------------------------------------------------------------------

function trafficCuts(caller: Caller, before: Config, after: Config): LockOut[] {
  const session = caller.transport === 'https' ? caller : caller.transport === 'socket' ? caller.session : undefined;
  if (!session) return [];
  try {
    const peer = parseAddress(session.address);
    const local = parseAddress(session.localAddress);
    const old = new Ways(before);
    const now = new Ways(after);
    const ingress = old.interfaceTo(peer);
    const owner = old.ownerOf(local);
    if (ingress === undefined && owner === undefined) return []; // its packets never meet the data interfaces
    const cuts = interfaceCuts(old, now, ingress, owner, peer, local);
    if (cuts.length > 0) return cuts;
    return [...translationCuts(before, after, local, session.localPort), ...ruleCuts(old, now, peer, local, session.localPort)];
  } catch (error) {
    if (error instanceof AddressError) return []; // link-local with a zone: by no interface that we could name
    throw error;
  }
}

/** An interface or tunnel: `wire` is what its packets come by, whatever it is called. */
interface Link { zone: string; wire: string; pointer: string; prefixes: Prefix[]; tunnel?: WireguardConfig }

/** Where packets of a configuration come and go. Interfaces without addresses of their own have their device's. */
class Ways {
  readonly links = new Map<string, Link>();
  private readonly subnets: { name: string; prefix: Prefix }[] = [];

  constructor(readonly config: Config) {
    for (const [name, one] of Object.entries(config.interfaces ?? {})) {
      this.links.set(name, { zone: one.zone, wire: `${one.device} ${one.vlan ?? ''}`, pointer: `/interfaces/${name}`, prefixes: addressesOf(one) });
    }
    for (const [name, one] of Object.entries(config.wireguard ?? {})) {
      this.links.set(name, { zone: one.zone, wire: `tunnel ${name}`, pointer: `/wireguard/${name}`, prefixes: parsedAddresses(asList<string>(one.addresses)), tunnel: one });
    }
    for (const [name, { prefixes }] of this.links) for (const prefix of prefixes) this.subnets.push({ name, prefix });
  }

  onWire(wire: string): Link | undefined { return [...this.links.values()].find((link) => link.wire === wire); }

  ownerOf(address: bigint): string | undefined { return this.subnets.find(({ prefix }) => prefix.address === address)?.name; }

  /** The longest prefix that holds it, connected or routed. Undefined: no way, or none by a data interface. */
  interfaceTo(address: bigint): string | undefined {
    let best: { name: string | undefined; length: number } = { name: this.connectedTo(address), length: -1 };
    for (const { prefix } of this.subnets) if (holds(prefix, address)) best.length = Math.max(best.length, prefix.length);
    for (const route of this.config.routes ?? []) {
      const prefix = parsePrefix(route.to);
      if (!holds(prefix, address) || prefix.length <= best.length) continue;
      best = { name: this.nextHop(route.via), length: prefix.length };
    }
    for (const [name, { tunnel }] of this.links) {
      if (!tunnel || tunnel.routes === false) continue;
      const found = peerTo(tunnel, address);
      if (found && found.length > best.length) best = { name, length: found.length };
    }
    return best.name;
  }

  private connectedTo(address: bigint): string | undefined {
    return this.subnets.filter(({ prefix }) => holds(prefix, address)).sort((a, b) => b.prefix.length - a.prefix.length)[0]?.name;
  }

  private nextHop(via: NonNullable<Config['routes']>[number]['via']): string | undefined {
    if (via === undefined) return undefined; // blackhole
    if (typeof via === 'object' && !Array.isArray(via)) return via.interface;
    return this.connectedTo(parseAddress(asList<string>(via)[0]!));
  }
}

const holds = (prefix: Prefix, address: bigint): boolean => prefixFamily(prefix) === familyOf(address) && contains(prefix, address);

function addressesOf(one: InterfaceConfig): Prefix[] {
  const device = one.vlan === undefined ? one.device : vlanDeviceName(one.device, one.vlan);
  return parsedAddresses(one.addresses === undefined ? (networkInterfaces()[device] ?? []).flatMap(({ cidr }) => cidr ?? []) : asList<string>(one.addresses));
}

function parsedAddresses(texts: readonly string[]): Prefix[] {
  return texts.flatMap((text) => {
    try {
      return [parseInterfaceAddress(text)];
    } catch (error) {
      if (error instanceof AddressError) return [];
      throw error;
    }
  });
}

/** The peer behind which an address is: by the longest of the allowed IPs that hold it. */
function peerTo(tunnel: WireguardConfig, address: bigint): { peer: WireguardPeerConfig; length: number } | undefined {
  let best: { peer: WireguardPeerConfig; length: number } | undefined;
  for (const peer of tunnel.peers ?? []) {
    for (const prefix of allowedPrefixes(peer)) if (holds(prefix, address) && prefix.length > (best?.length ?? -1)) best = { peer, length: prefix.length };
  }
  return best;
}

function interfaceCuts(old: Ways, now: Ways, ingress: string | undefined, owner: string | undefined, peer: bigint, local: bigint): LockOut[] {
  const cuts: LockOut[] = [];
  for (const name of new Set([owner, ingress])) {
    if (name === undefined) continue;
    const one = old.links.get(name)!;
    const next = now.onWire(one.wire);
    if (!next) cuts.push({ pointer: one.pointer, reason: `interface ${name}, by which your packets come, would be gone` });
    else if (name === owner && !next.prefixes.some(({ address }) => address === local)) cuts.push({ pointer: `${one.pointer}/addresses`, reason: `interface ${name} would lose the address that you connect to` });
    else if (name === ingress && one.tunnel && next.tunnel) cuts.push(...tunnelCuts(one.pointer, one.tunnel, next.tunnel, peer));
  }
  if (cuts.length > 0 || ingress === undefined) return cuts;
  const way = now.interfaceTo(peer);
  if (way === undefined || old.links.get(ingress)!.wire !== now.links.get(way)!.wire) {
    cuts.push({ pointer: '/routes', reason: way === undefined ? 'the way back to you would be gone' : `the way back to you would lead over ${way} instead of ${ingress}` });
  }
  return cuts;
}

/** Would the peer that the caller's packets come from still be known, and find us? */
function tunnelCuts(pointer: string, old: WireguardConfig, now: WireguardConfig, address: bigint): LockOut[] {
  const before = peerTo(old, address)?.peer;
  if (before === undefined) return [];
  const after = peerTo(now, address)?.peer;
  const isKnown = after !== undefined && after.node === before.node && [after.publicKey, after.nextPublicKey].some((key) => key === before.publicKey || (key !== undefined && key === before.nextPublicKey));
  if (!isKnown) return [{ pointer: `${pointer}/peers`, reason: `peer ${before.name}, through which your packets come, would be gone, or have another key` }];
  const isFound = listenPort(old) === listenPort(now) || after.endpoint !== undefined;
  if (!isFound) return [{ pointer: `${pointer}/listen`, reason: `peer ${before.name}, through which your packets come, would not find the tunnel's new port` }];
  const isSameSecret = old.privateKeyFile === now.privateKeyFile && before.presharedKeyFile === after.presharedKeyFile;
  return isSameSecret ? [] : [{ pointer: `${pointer}${old.privateKeyFile === now.privateKeyFile ? '/peers' : '/privateKeyFile'}`, reason: 'the tunnel through which your packets come would have another key' }];
}

/** A published port of an own address is not the host's any more. (1:1 translation of one is refused by check.ts.) */
function translationCuts(before: Config, after: Config, local: bigint, port: number): LockOut[] {
  const takes = (config: Config): string | undefined => {
    const objects = new Objects(config);
    const published = (config.nat?.destination ?? []).findIndex((rule) => !rule.disabled && listHolds(objects, rule.destination, local, true) && serviceHolds(objects, rule.service, port, true));
    return published < 0 ? undefined : `/nat/destination/${published}`;
  };
  const now = takes(after);
  return now !== undefined && takes(before) === undefined ? [{ pointer: now, reason: `port ${port} of the address that you connect to would be translated to another machine` }] : [];
}

/** Where the listener's address is on no data interface, but is reached through two of them. */
function ruleCuts(old: Ways, now: Ways, peer: bigint, local: bigint, port: number): LockOut[] {
  const verdict = (ways: Ways): { allowed: boolean; pointer: string } | undefined => {
    const from = ways.interfaceTo(peer);
    const to = ways.interfaceTo(local);
    if (from === undefined || to === undefined || ways.ownerOf(local) !== undefined) return undefined;
    const { firewall } = ways.config;
    const objects = new Objects(ways.config);
    const fits = (rule: FirewallRule): boolean => {
      const isSure = rule.action !== 'allow'; // what does not resolve stops, and never allows
      return !rule.disabled && zoneFits(rule.from, ways.links.get(from)!.zone) && zoneFits(rule.to, ways.links.get(to)!.zone)
        && listHolds(objects, rule.source, peer, isSure) && listHolds(objects, rule.destination, local, isSure) && serviceHolds(objects, rule.service, port, isSure);
    };
    const index = (firewall?.rules ?? []).findIndex(fits);
    return index < 0 ? { allowed: false, pointer: '/firewall' } : { allowed: firewall!.rules![index]!.action === 'allow', pointer: `/firewall/rules/${index}` };
  };
  const next = verdict(now);
  if (!verdict(old)?.allowed || !next || next.allowed) return [];
  return [{ pointer: next.pointer, reason: 'the rules would stop your packets on their way here' }];
}

const zoneFits = (zones: string | string[] | undefined, zone: string): boolean => zones === undefined || asList<string>(zones).some((one) => one === 'any' || one === zone);

/** `unknown`: what a list counts as that does not resolve. */
function listHolds(objects: Objects, list: string | string[] | undefined, address: bigint, unknown: boolean): boolean {
  return resolved(unknown, () => {
    const { any, prefixes } = objects.addressList(list);
    return any || prefixes.some((prefix) => holds(prefix, address));
  });
}

function serviceHolds(objects: Objects, list: ServiceItem | ServiceItem[] | undefined, port: number, unknown: boolean): boolean {
  return resolved(unknown, () => {
    const { any, services } = objects.serviceList(list);
    return any || services.some(({ protocol, dstLo, dstHi }) => (protocol === SL_PROTOCOL_ANY || protocol === TCP) && dstLo <= port && port <= dstHi);
  });
}

function resolved(unknown: boolean, judge: () => boolean): boolean {
  try {
    return judge();
  } catch (error) {
    if (error instanceof ConfigError) return unknown;
    throw error;
  }
}
