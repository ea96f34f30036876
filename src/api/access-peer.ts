// Who is at the other end of the Unix socket, and which role that gives. Who: access-identity.ts, once a connection.
// The kernel says it (SO_PEERCRED, SO_PEERGROUPS), through a small addon: docs/internals/access.md says why. Without the addon there is
// no socket API at all: nobody is taken for somebody by default.
import { readFileSync, statSync } from 'node:fs';
import { createRequire } from 'node:module';
import type { Socket } from 'node:net';
import { join } from 'node:path';
import type { ApiConfig } from '../config/schema-api.js';
import { packageRoot } from '../supervisor/run-directory.js';
import { ROLES, type Grant, type Role } from './access.js';

export interface PeerCredentials { pid: number; uid: number; gid: number; groups: number[] }
export type ReadPeer = (socket: Socket) => PeerCredentials;

/** Loads the addon; must happen while the checkout can be read. Throws when it is not built. */
export function loadPeerReader(path = join(packageRoot(), 'build', 'native', 'sluice-peer.node')): ReadPeer {
  let addon: { peerCredentials(fd: number): PeerCredentials };
  try {
    addon = createRequire(import.meta.url)(path) as typeof addon;
  } catch (error) {
    throw Object.assign(new Error(`${path} does not load (${(error as Error).message.split('\n')[0]}); run \`npm run build\` in ${packageRoot()}`), { code: 'SLUICE_ADDON_MISSING' });
  }
  return (socket) => {
    // Node has no public name for a socket's descriptor; what is no number is no peer.
    const fd = (socket as unknown as { _handle?: { fd?: unknown } | null })._handle?.fd;
    if (typeof fd !== 'number' || fd < 0) throw new Error('the connection has no descriptor any more');
    return addon.peerCredentials(fd);
  };
}

export interface SocketRole { role: Role; scopes: readonly string[] | undefined; grant: Grant }
type SocketConfig = NonNullable<ApiConfig['socket']>;

/** Ids that have every right: root, and whoever started control when that was not root. */
export function ownerUids(): ReadonlySet<number> { return new Set([0, process.getuid?.() ?? 0]); }

/**
 * First that fits: owners → administrator; `users` by name or uid; the highest role that `groups` give; a member of the group that the socket
 * belongs to → viewer. Undefined: this user may not use the API.
 */
export function roleOfPeer(peer: PeerCredentials, owners: ReadonlySet<number>, socketGid: number | undefined, config: SocketConfig | undefined, accounts: Accounts): SocketRole | undefined {
  if (owners.has(peer.uid)) return { role: 'administrator', scopes: undefined, grant: { kind: 'root' } };
  const user = Object.entries(config?.users ?? {}).find(([name]) => (accounts.uidOf(name) ?? numberOf(name)) === peer.uid);
  if (user) return { role: user[1], scopes: undefined, grant: { kind: 'socket-user', user: user[0] } };
  const gids = new Set([peer.gid, ...peer.groups]);
  const groups = Object.entries(config?.groups ?? {}).filter(([name]) => gids.has(accounts.gidOf(name) ?? numberOf(name) ?? -1));
  const group = groups.sort(([, a], [, b]) => ROLES.indexOf(b) - ROLES.indexOf(a))[0];
  if (group) return { role: group[1], scopes: undefined, grant: { kind: 'socket-member', group: group[0] } };
  if (socketGid !== undefined && gids.has(socketGid)) return { role: 'viewer', scopes: undefined, grant: { kind: 'socket-group' } };
  return undefined;
}

const numberOf = (text: string): number | undefined => (/^\d{1,10}$/.test(text) ? Number(text) : undefined);

/** Names of users and groups from /etc/passwd and /etc/group, read again when these change. */
export class Accounts {
  private readonly tables = new Map<string, { key: string; byName: Map<string, number>; byId: Map<number, string> }>();

  constructor(private readonly passwd = '/etc/passwd', private readonly group = '/etc/group') {}

  uidOf(name: string): number | undefined { return this.table(this.passwd).byName.get(name); }
  gidOf(name: string): number | undefined { return this.table(this.group).byName.get(name); }
  userName(uid: number): string { return this.table(this.passwd).byId.get(uid) ?? `uid ${uid}`; }

  private table(path: string): { byName: Map<string, number>; byId: Map<number, string> } {
    const known = this.tables.get(path);
    try {
      const { mtimeMs, size, ino } = statSync(path);
      const key = `${mtimeMs} ${size} ${ino}`;
      if (known?.key === key) return known;
      const table = { key, byName: new Map<string, number>(), byId: new Map<number, string>() };
      for (const line of readFileSync(path, 'utf8').split('\n')) {
        const [name, , id] = line.split(':');
        if (!name || id === undefined || !/^\d+$/.test(id)) continue;
        if (!table.byName.has(name)) table.byName.set(name, Number(id));
        if (!table.byId.has(Number(id))) table.byId.set(Number(id), name);
      }
      this.tables.set(path, table);
      return table;
    } catch {
      return known ?? { byName: new Map(), byId: new Map() };
    }
  }
}
