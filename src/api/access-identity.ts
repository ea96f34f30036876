// Who asks: from a connection and its headers to a principal. Who: access.ts, once a request; servers hand their connections to
// `acceptSocket` and `acceptTls`. Thread: Node's main thread of control.
// What proves somebody, in this order: an Authorization header (token of ours, or OIDC), a client certificate, the uid of the peer on the
// Unix socket. A header that proves nothing is refused, even where the connection alone would have been enough.
// Nothing about a failure is told apart: unknown, revoked and expired look the same from outside.
import { randomBytes, timingSafeEqual } from 'node:crypto';
import type { Server as HttpServer } from 'node:http';
import type { Server as HttpsServer } from 'node:https';
import type { Socket } from 'node:net';
import type { TLSSocket } from 'node:tls';
import type { FastifyRequest } from 'fastify';
import type { ApiConfig } from '../config/schema-api.js';
import type { Log } from '../supervisor/log.js';
import type { AccessLimits } from './access-limits.js';
import { Accounts, ownerUids, roleOfPeer, type PeerCredentials, type ReadPeer } from './access-peer.js';
import type { Authenticator, Caller, Principal } from './access.js';
import { identifyCertificate } from './access-certificate.js';
import { ApiError } from './errors.js';
import { OidcError, type Oidc } from './oidc.js';
import { TOKEN_PREFIX, type TokenStore } from './tokens.js';

const CREDENTIAL_BYTES_MAX = 8192;
/** In the form of ssh's SSH_CONNECTION: client and its port, server and its port. */
const SESSION_HEADER = 'sluice-session';

/** `peer` undefined: the kernel did not say who it is. */
type Connection = { kind: 'socket'; peer: PeerCredentials | undefined } | { kind: 'https'; socket: TLSSocket; caller: Caller & { transport: 'https' }; clientsEpoch: number };

export interface IdentityParts { tokens: TokenStore; limits: AccessLimits; readPeer: ReadPeer; log: Log; accounts?: Accounts }

export class Identity implements Authenticator {
  oidc: Oidc | undefined;
  /** Moves on when the CA of client certificates changes: connections that were proven by the old one have to come again. */
  clientsEpoch = 0;
  /** The group that the socket's file belongs to, once it does. */
  socketGid: number | undefined;
  private config: ApiConfig = {};
  private readonly connections = new WeakMap<Socket, Connection>();
  private readonly owners = ownerUids();
  private readonly accounts: Accounts;
  private readonly internal = randomBytes(32);

  constructor(private readonly parts: IdentityParts) { this.accounts = parts.accounts ?? new Accounts(); }

  configure(config: ApiConfig): void { this.config = config; }

  /** For requests that control makes of itself (fastify's inject); it is worth nothing on a connection. */
  get internalAuthorization(): string { return `Internal ${this.internal.toString('base64url')}`; }

  acceptSocket(server: HttpServer): void {
    server.on('connection', (socket: Socket) => {
      let peer: PeerCredentials | undefined;
      try {
        peer = this.parts.readPeer(socket);
      } catch (error) {
        this.parts.log.warn({ err: error }, 'a caller of the socket cannot be identified');
      }
      this.connections.set(socket, { kind: 'socket', peer });
    });
  }

  acceptTls(server: HttpsServer): void {
    server.on('secureConnection', (socket: TLSSocket) => {
      const { remoteAddress = '', localAddress = '', localPort = 0 } = socket;
      this.connections.set(socket, {
        kind: 'https', socket, clientsEpoch: this.clientsEpoch,
        caller: { transport: 'https', address: plainAddress(remoteAddress), localAddress: plainAddress(localAddress), localPort },
      });
    });
  }

  /** Throws ApiError 401 or 429. */
  async authenticate(request: FastifyRequest): Promise<Principal> {
    const connection = this.connections.get(request.raw.socket);
    const { authorization } = request.headers;
    if (!connection) return this.identifyInternal(authorization);
    try {
      if (authorization !== undefined) return await this.identifyBearer(authorization, callerOf(connection, request));
      return connection.kind === 'socket' ? this.identifyPeer(connection.peer, callerOf(connection, request)) : this.identifyClient(connection);
    } catch (error) {
      if (connection.kind === 'https' && error instanceof ApiError && error.status === 401) this.parts.limits.countFailure(connection.caller.address);
      throw error;
    }
  }

  nameOf(request: FastifyRequest): string | undefined {
    const connection = this.connections.get(request.raw.socket);
    return connection?.kind === 'socket' && connection.peer ? this.accounts.userName(connection.peer.uid) : undefined;
  }

  private identifyInternal(authorization: string | undefined): Principal {
    const presented = Buffer.from(/^Internal ([A-Za-z0-9_-]{43})$/.exec(authorization ?? '')?.[1] ?? '', 'base64url');
    if (presented.length !== this.internal.length || !timingSafeEqual(presented, this.internal)) throw unproven('this connection belongs to no listener');
    return { name: 'control', via: 'system', id: 'internal', role: 'administrator', scopes: undefined, caller: { transport: 'internal' }, grant: { kind: 'internal' } };
  }

  private async identifyBearer(authorization: string, caller: Caller): Promise<Principal> {
    const [, presented] = /^Bearer +([A-Za-z0-9._~+/=-]+)$/i.exec(authorization) ?? [];
    if (presented === undefined || authorization.length > CREDENTIAL_BYTES_MAX) throw unproven('send Authorization: Bearer and a token');
    if (presented.startsWith(TOKEN_PREFIX)) {
      const token = this.parts.tokens.check(presented);
      if (token) return { name: token.name, via: 'token', id: `token:${token.id}`, role: token.role, scopes: token.scopes ?? undefined, caller, grant: { kind: 'token', id: token.id } };
    } else if (this.oidc) {
      // Signatures cost a hundred times what a hash does: not for an address that has failed so often.
      if (caller.transport === 'https') this.parts.limits.requireFailuresLeft(caller.address);
      try {
        return await this.oidc.identify(presented, caller);
      } catch (error) {
        if (!(error instanceof OidcError)) throw error;
        if (error.isOurs) throw new ApiError(503, 'SLUICE_OIDC_UNAVAILABLE', 'the keys of the token\'s issuer cannot be had now; use a token of the appliance', undefined, { headers: { 'retry-after': '10' } });
        this.parts.log.info({ reason: error.message }, 'an OIDC token was refused');
      }
    }
    if (caller.transport === 'https') this.parts.limits.requireFailuresLeft(caller.address);
    throw unproven('the token is not valid');
  }

  private identifyPeer(peer: PeerCredentials | undefined, caller: Caller): Principal {
    if (!peer) throw unproven('the caller of this socket cannot be identified; connect again');
    const found = roleOfPeer(peer, this.owners, this.socketGid, this.config.socket, this.accounts);
    if (!found) throw new ApiError(403, 'SLUICE_FORBIDDEN', `user ${this.accounts.userName(peer.uid)} has no role here; an administrator gives one in api.socket`);
    return { name: this.accounts.userName(peer.uid), via: 'socket', id: `uid:${peer.uid}`, caller, ...found };
  }

  private identifyClient({ socket, caller, clientsEpoch }: Connection & { kind: 'https' }): Principal {
    const found = this.config.clients && clientsEpoch === this.clientsEpoch ? identifyCertificate(socket, this.config.clients, caller) : undefined;
    if (found) return found;
    this.parts.limits.requireFailuresLeft(caller.address);
    throw unproven(this.config.clients ? 'send a token, or connect with a client certificate that has a role here' : 'send Authorization: Bearer and a token');
  }
}

function callerOf(connection: Connection, { headers }: FastifyRequest): Caller {
  if (connection.kind === 'https') return connection.caller;
  const [, address, localAddress, localPort] = /^(\S{2,45}) \d{1,5} (\S{2,45}) (\d{1,5})$/.exec(String(headers[SESSION_HEADER] ?? '')) ?? [];
  return {
    transport: 'socket', uid: connection.peer?.uid ?? -1, pid: connection.peer?.pid ?? 0,
    ...(address === undefined ? {} : { session: { address, localAddress: localAddress!, localPort: Number(localPort) } }),
  };
}

/** IPv4 as such where a listener of both families says ::ffff:10.0.0.1. */
export const plainAddress = (address: string): string => (address.startsWith('::ffff:') && address.includes('.') ? address.slice(7) : address);

function unproven(message: string): ApiError {
  return new ApiError(401, 'SLUICE_AUTHENTICATION', message, undefined, { headers: { 'www-authenticate': 'Bearer realm="sluice"' } });
}
