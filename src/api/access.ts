// Who may what: each request gets a principal (or is refused), each route says which role and which resource it needs, each change
// and each refusal is audited. Who: src/api/server.ts calls `protectRoutes` before it registers any route; handlers read
// `request.principal` and may fill `request.auditDetail`. Thread: Node's main thread of control.
// A route says it in its options: `{ config: { role: 'operator', resource: 'rules' } }`. One without it ends the start: nothing is open
// because somebody forgot. Order of a request: 1 who asks (access-identity.ts) · 2 how often (access-limits.ts) · 3 may he (here) ·
// 4 audit: it begins · 5 the handler · 6 audit: how it ended, durable before the answer leaves.
import type { FastifyInstance, FastifyReply, FastifyRequest, RouteOptions } from 'fastify';
import type { AuditActor, AuditEvent } from '../audit/log.js';
import type { Author } from '../control/transactions.js';
import type { Log } from '../supervisor/log.js';
import { networkOf, type AccessLimits } from './access-limits.js';
import { ApiError, toProblemDetails } from './errors.js';

/** From few rights to all; each has those before it. */
export const ROLES = ['viewer', 'operator', 'administrator'] as const;
export type Role = (typeof ROLES)[number];

/** What a route needs. `public`: anybody who reaches the listener, nothing more is asked. */
export type RouteRole = Role | 'public';

declare module 'fastify' {
  interface FastifyContextConfig {
    role?: RouteRole;
    /** A kebab-case noun that scopes name: rules, sessions, capture … */
    resource?: string;
    /** Does a call belong in the audit log? Left out: when its method is not GET or HEAD. False for questions that are asked by POST. */
    audit?: boolean;
  }
  interface FastifyRequest {
    /** Who asks. Not set on public routes: nobody was asked there. */
    principal: Principal;
    /** What the audit log shall say about this request; never a secret. */
    auditDetail: Record<string, unknown> | null;
  }
}

/** By which way a request came. `address`: the caller's; `localAddress`, `localPort`: what it connected to. */
export type Caller =
  | { transport: 'socket'; uid: number; pid: number; session?: RemoteSession }
  | { transport: 'https'; address: string; localAddress: string; localPort: number }
  | { transport: 'internal' };

/** The ssh session in which a command was typed, as the command says: good for warning its user, and for nothing else. */
export interface RemoteSession { address: string; localAddress: string; localPort: number }

export interface Principal {
  readonly name: string;                          // for people: root, deploy, alice@example.net
  readonly via: Author['via'];
  readonly id: string;                            // unique, and the key of its rate: uid:0, token:ID, oidc:ISSUER SUBJECT, mtls:FINGERPRINT
  readonly role: Role;
  readonly scopes: readonly string[] | undefined; // undefined: everything that the role may
  readonly caller: Caller;
  /** Which entry of the configuration gives it its role; lock-out protection looks it up in the next one. */
  readonly grant: Grant;
}

export type Grant =
  | { kind: 'root' }                                            // uid 0, or whoever started control
  | { kind: 'socket-group' }                                    // may open the socket, named nowhere: viewer
  | { kind: 'socket-user'; user: string } | { kind: 'socket-member'; group: string }
  | { kind: 'token'; id: string }
  | { kind: 'oidc'; issuer: string; groups: readonly string[] }
  | { kind: 'certificate'; subject: string; names: readonly string[] }
  | { kind: 'internal' };

export interface Authenticator {
  /** Finds out who asks. Throws ApiError 401 when nobody is proven. */
  authenticate(request: FastifyRequest): Promise<Principal> | Principal;
  /** What is known of a caller that was refused: the user at the other end of the socket. */
  nameOf?(request: FastifyRequest): string | undefined;
}

export interface AuditSink {
  append(event: AuditEvent): unknown;
  sync(): Promise<void>;
}

export interface AccessParts {
  authenticator: Authenticator; audit: AuditSink; limits: AccessLimits; log: Log;
  /** Told of the API that it protects, before its first route. `resources` fills as routes come. */
  attach?(api: FastifyInstance, resources: ReadonlySet<string>): void;
}

/** Requests whose refusal is in the audit log already. */
const refusedRequests = new WeakSet<FastifyRequest>();
const SAFE_METHODS = new Set(['GET', 'HEAD', 'OPTIONS']);
const RESOURCE_FORM = /^[a-z][a-z0-9-]{0,30}$/;
const PATH_CHARACTERS_MAX = 512;

/** Adds the checks to an API that has no routes yet. */
export function protectRoutes(api: FastifyInstance, parts: AccessParts): void {
  const resources = new Set<string>();
  api.decorateRequest('principal', null as unknown as Principal);
  api.decorateRequest('auditDetail', null);
  api.addHook('onRoute', (route) => void resources.add(requireAccess(route)));
  api.addHook('onRequest', (request) => admit(parts, request));
  api.addHook('preHandler', async (request) => beginAudit(parts, request));
  api.addHook('onSend', async (request, reply, payload) => {
    await endAudit(parts, request, reply, payload);
  });
  parts.attach?.(api, resources);
}

/** A route's resource. Throws when the route says too little, or lets a viewer change something. */
function requireAccess(route: RouteOptions): string {
  const { role, resource, audit } = route.config ?? {};
  const name = `${String(route.method)} ${route.url}`;
  if (role === undefined || resource === undefined) throw new Error(`route ${name} does not say who may use it: give it config { role, resource }`);
  if (role !== 'public' && !ROLES.includes(role)) throw new Error(`route ${name}: '${String(role)}' is no role`);
  if (!RESOURCE_FORM.test(resource)) throw new Error(`route ${name}: '${resource}' cannot be the name of a resource`);
  const changes = [route.method].flat().some((method) => !SAFE_METHODS.has(method));
  if (changes && audit !== false && (role === 'viewer' || role === 'public')) throw new Error(`route ${name} changes something, and a ${role} must not: ask for operator, or say audit: false when it is a question`);
  return resource;
}

// ---- 1 to 3: let in or refused ------------------------------------------------------------------------------------------

async function admit(parts: AccessParts, request: FastifyRequest): Promise<void> {
  const { role, resource } = request.routeOptions.config;
  if (role === 'public') return;
  let principal: Principal | undefined;
  try {
    refuseForeignOrigin(request);
    principal = await parts.authenticator.authenticate(request);
    request.principal = principal;
    parts.limits.takeRequest(principal);
    // An address that no route has: only who is known learns that there is nothing.
    if (role !== undefined && resource !== undefined) requireRights(principal, role, resource);
  } catch (error) {
    refused(parts, request, principal, error);
    throw error;
  }
}

/** Browsers add Origin; there is no page of another origin that may ask. A client certificate is sent without asking anybody. */
function refuseForeignOrigin({ headers }: FastifyRequest): void {
  const { origin, host } = headers;
  if (origin === undefined) return;
  if (URL.canParse(origin) && new URL(origin).host === host) return;
  throw new ApiError(403, 'SLUICE_FORBIDDEN', 'a web page of another origin may not use this API');
}

/** Throws ApiError 403. */
export function requireRights(principal: Principal, role: Role, resource: string): void {
  if (ROLES.indexOf(principal.role) < ROLES.indexOf(role)) {
    throw new ApiError(403, 'SLUICE_FORBIDDEN', `${principal.name} is ${principal.role}; this needs the role ${role}`);
  }
  if (!scopesAllow(principal.scopes, role, resource)) {
    throw new ApiError(403, 'SLUICE_FORBIDDEN', `the scopes of ${principal.name} do not hold ${resource}${role === 'viewer' ? ':read' : ''}`);
  }
}

/** Who may what, and every key, are for those without scopes: others could give themselves more than these hold. Throws ApiError 403. */
export function requireNoScopes({ name, scopes }: Principal, what: string, pointer?: string): void {
  if (scopes !== undefined) throw new ApiError(403, 'SLUICE_FORBIDDEN', `${what} is for administrators without scopes; ${name} has ${scopes.join(', ')}`, pointer);
}

/** A scope is a resource (all that the role may do with it) or RESOURCE:read (what a viewer may). */
export function scopesAllow(scopes: readonly string[] | undefined, role: Role, resource: string): boolean {
  if (scopes === undefined || resource === 'self') return true; // who one is oneself, everybody may know
  return scopes.includes(resource) || (role === 'viewer' && scopes.includes(`${resource}:read`));
}

function refused({ authenticator, limits, audit, log }: AccessParts, request: FastifyRequest, principal: Principal | undefined, error: unknown): void {
  refusedRequests.add(request);
  const { status, code } = toProblemDetails(error);
  const address = addressOf(request);
  const by: AuditActor = principal ? actorOf(principal) : { name: authenticator.nameOf?.(request) ?? 'unknown', via: address === undefined ? 'socket' : 'https', ...(address === undefined ? {} : { address }) };
  // Floods of refusals become one line with a count: an attacker must not fill the disk.
  limits.recordRefusal(`${principal?.id ?? (address === undefined ? 'socket' : networkOf(address))} ${code}`, { event: 'refused', by, method: request.method, path: pathOf(request), resource: request.routeOptions.config.resource, status, code }, (event) => {
    try {
      audit.append(event);
    } catch (failure) {
      log.error({ err: failure }, 'a refusal could not be audited');
    }
  }, principal !== undefined);
}

// ---- 4 to 6: audit ------------------------------------------------------------------------------------------------------

function isAudited(request: FastifyRequest): boolean {
  const { audit, role } = request.routeOptions.config;
  return role !== undefined && role !== 'public' && (audit ?? !SAFE_METHODS.has(request.method));
}

/** No change without its line: when the log cannot be written, the request ends here. */
function beginAudit({ audit }: AccessParts, request: FastifyRequest): void {
  if (!isAudited(request)) return;
  try {
    audit.append({ event: 'request', ...describe(request) });
  } catch (error) {
    throw new ApiError(503, 'SLUICE_AUDIT_WRITE', `nothing is changed while it cannot be audited: ${(error as Error).message}`);
  }
}

async function endAudit({ audit, log }: AccessParts, request: FastifyRequest, reply: FastifyReply, payload: unknown): Promise<void> {
  if (!isAudited(request) || !principalOf(request) || refusedRequests.has(request)) return;
  const { code, detail } = reply.statusCode >= 400 ? problemIn(payload) : { code: undefined, detail: undefined };
  try {
    audit.append({
      event: 'outcome', ...describe(request), status: reply.statusCode, milliseconds: Math.round(reply.elapsedTime * 10) / 10,
      ...(code === undefined ? {} : { code }),
      ...(request.auditDetail || detail !== undefined ? { detail: { ...request.auditDetail, ...(detail === undefined ? {} : { problem: detail }) } } : {}),
    });
    await audit.sync();
  } catch (error) {
    // It has happened, and its first line stands. The answer must not claim otherwise; the next change will be refused.
    log.error({ err: error, request: request.id }, 'the outcome of a request could not be audited');
  }
}

const principalOf = ({ principal }: FastifyRequest): Principal | null => principal;

function describe(request: FastifyRequest): Omit<AuditEvent, 'event'> {
  const principal = principalOf(request);
  return {
    ...(principal ? { by: actorOf(principal) } : {}), request: String(request.id), method: request.method, path: pathOf(request),
    resource: request.routeOptions.config.resource,
  };
}

function problemIn(payload: unknown): { code: string | undefined; detail: string | undefined } {
  try {
    const { code, detail } = JSON.parse(String(payload)) as { code?: string; detail?: string };
    return { code, detail };
  } catch {
    return { code: undefined, detail: undefined };
  }
}

/** Without the query: what stands there is no business of a log. */
const pathOf = (request: FastifyRequest): string => request.url.split('?', 1)[0]!.slice(0, PATH_CHARACTERS_MAX);

export function addressOf(request: FastifyRequest): string | undefined { return request.raw.socket.remoteAddress; }

export function actorOf({ name, via, role, caller }: Principal): AuditActor {
  return { name, via, role, ...(caller.transport === 'https' ? { address: caller.address } : {}) };
}

const askers = new WeakMap<Author, FastifyRequest>();

/** As history names who changed something. */
export function authorOf(request: FastifyRequest): Author {
  const author: Author = { name: request.principal.name, via: request.principal.via };
  askers.set(author, request);
  return author;
}

/** The request that this very author was made from; what control does by itself has none. */
export function requestOf(author: Author): FastifyRequest | undefined { return askers.get(author); }
