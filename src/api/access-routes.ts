// Routes of access itself: who am I, tokens, the audit log. Who: access-service.ts. Bounds: AUDIT_LAST_MAX lines an answer.
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { readLast, verifyAudit, type Verification } from '../audit/read.js';
import { ROLES, scopesAllow, type Principal, type Role } from './access.js';
import type { Access } from './access-service.js';
import { ApiError } from './errors.js';
import type { TokenView } from './tokens.js';

export const AUDIT_LAST_MAX = 1000;
const EXPIRES_S_MAX = 10 * 366 * 86_400;
export const EXPIRES_S_DEFAULT = 90 * 86_400;
const SCOPES_MAX = 64;

const NAME = '^[^\\u0000-\\u001f\\u007f-\\u009f]+$';
const SCOPE = '^[a-z][a-z0-9-]{0,30}(:read)?$';

export interface WhoAmI { name: string; via: string; role: Role; scopes: readonly string[] | null; address: string | null }
interface CreateBody { name: string; role: Role; scopes?: string[]; expiresInSeconds?: number | null }
export interface CreatedToken extends TokenView { secret: string }

const createSchema = {
  type: 'object', additionalProperties: false, required: ['name', 'role'],
  properties: {
    name: { type: 'string', minLength: 1, maxLength: 64, pattern: NAME, description: 'for people: who or what uses the token' },
    role: { type: 'string', enum: ROLES },
    scopes: { type: 'array', minItems: 1, maxItems: SCOPES_MAX, uniqueItems: true, items: { type: 'string', pattern: SCOPE }, description: 'resources, or RESOURCE:read; left out: all that the role may' },
    expiresInSeconds: { type: ['integer', 'null'], minimum: 60, maximum: EXPIRES_S_MAX, description: 'null: never' },
  },
};
const idSchema = { type: 'object', additionalProperties: false, required: ['id'], properties: { id: { type: 'string', pattern: '^[0-9a-f]{16}$' } } };
const lastSchema = { type: 'object', additionalProperties: false, properties: { last: { type: 'integer', minimum: 1, maximum: AUDIT_LAST_MAX, default: 100 } } };
const tags = ['Access'];

export function registerAccessRoutes(api: FastifyInstance, access: Access): void {
  // One verification at a time, however many ask: a gigabyte may be read for it.
  let verifying: Promise<Verification> | undefined;
  const verify = (): Promise<Verification> => (verifying ??= access.audit.sync().then(() => verifyAudit(access.audit.directory)).finally(() => { verifying = undefined; }));
  api.get('/api/v1/whoami', { config: { role: 'viewer', resource: 'self' }, schema: { tags, operationId: 'whoAmI', summary: 'Who the caller is, and what it may' } }, whoAmI);
  api.get('/api/v1/tokens', { config: { role: 'administrator', resource: 'tokens' }, schema: { tags, operationId: 'listTokens', summary: 'Tokens, without their secrets' } }, () => ({ tokens: access.tokens.list() }));
  api.get('/api/v1/tokens/:id', { config: { role: 'administrator', resource: 'tokens' }, schema: { tags, operationId: 'getToken', summary: 'A token, without its secret', params: idSchema } }, (request) => getToken(access, request));
  api.post('/api/v1/tokens', { config: { role: 'administrator', resource: 'tokens' }, schema: { tags, operationId: 'createToken', summary: 'Make a token; its secret is in this answer and nowhere else', body: createSchema } }, (request, reply) => createToken(access, request, reply));
  api.delete('/api/v1/tokens/:id', { config: { role: 'administrator', resource: 'tokens' }, schema: { tags, operationId: 'revokeToken', summary: 'Revoke a token, for good', params: idSchema } }, (request, reply) => revokeToken(access, request, reply));
  api.get('/api/v1/audit', { config: { role: 'administrator', resource: 'audit' }, schema: { tags, operationId: 'listAudit', summary: 'The last lines of the audit log, oldest first', querystring: lastSchema } }, async (request) => ({ head: access.audit.head, lines: await readLast(access.audit.directory, (request.query as { last: number }).last) }));
  api.get('/api/v1/audit/verification', { config: { role: 'administrator', resource: 'audit' }, schema: { tags, operationId: 'verifyAudit', summary: 'Whether the audit log is whole, and what is wrong with it' } }, verify);
}

function whoAmI({ principal }: FastifyRequest): WhoAmI {
  const { name, via, role, scopes, caller } = principal;
  return { name, via, role, scopes: scopes ?? null, address: caller.transport === 'https' ? caller.address : null };
}

function getToken(access: Access, request: FastifyRequest): TokenView {
  const token = access.tokens.get((request.params as { id: string }).id);
  if (!token) throw new ApiError(404, 'SLUICE_API_NOT_FOUND', 'there is no such token; GET /api/v1/tokens lists them');
  return token;
}

async function createToken(access: Access, request: FastifyRequest, reply: FastifyReply): Promise<CreatedToken> {
  const { name, role, scopes, expiresInSeconds } = request.body as CreateBody;
  requireNoMore(request.principal, role, scopes);
  const unknown = scopes?.findIndex((scope) => !access.resources.has(scope.replace(/:read$/, ''))) ?? -1;
  if (unknown >= 0) throw new ApiError(400, 'SLUICE_API_ARGUMENT', `there is no resource '${scopes![unknown]}'; resources are ${[...access.resources].sort().join(', ')}`, `/scopes/${unknown}`);
  const { secret, token } = access.tokens.create({ name, role, ...(scopes ? { scopes } : {}), expiresInS: expiresInSeconds === undefined ? EXPIRES_S_DEFAULT : expiresInSeconds, createdBy: request.principal.name });
  request.auditDetail = { token: token.id, name, role, scopes: scopes ?? null, expiresAt: token.expiresAt };
  void reply.status(201).header('location', `/api/v1/tokens/${token.id}`);
  return { ...token, secret };
}

/** Whoever has bounds gives nobody more than it has itself: the scope `tokens` is no way to everything. */
function requireNoMore(principal: Principal, role: Role, scopes: readonly string[] | undefined): void {
  if (principal.scopes === undefined) return;
  if (!scopes) throw new ApiError(403, 'SLUICE_FORBIDDEN', 'your own scopes have bounds; name scopes within them', '/scopes');
  for (const [index, scope] of scopes.entries()) {
    const isReading = role === 'viewer' || scope.endsWith(':read');
    if (!scopesAllow(principal.scopes, isReading ? 'viewer' : role, scope.replace(/:read$/, ''))) throw new ApiError(403, 'SLUICE_FORBIDDEN', `your own scopes do not hold ${scope}`, `/scopes/${index}`);
  }
}

function revokeToken(access: Access, request: FastifyRequest, reply: FastifyReply): void {
  const { id } = request.params as { id: string };
  request.auditDetail = { token: id };
  if (!access.tokens.revoke(id)) throw new ApiError(404, 'SLUICE_API_NOT_FOUND', 'there is no such token; GET /api/v1/tokens lists them');
  void reply.status(204).send();
}
