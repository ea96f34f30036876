// Routes of access itself: who am I, where HTTPS answers, tokens, the audit log. Who: access-service.ts. Bounds: AUDIT_LAST_MAX lines an answer.
import { Type } from '@sinclair/typebox';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { readLast, verifyAudit, type Verification } from '../audit/read.js';
import { ROLES, scopesAllow, type Principal, type Role } from './access.js';
import type { Access } from './access-service.js';
import { ApiError } from './errors.js';
import { answer, count, nullable, oneOf, question, time } from './schemas.js';
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

const text = Type.String();
const scopeList = nullable(Type.Array(text, { description: 'resources, or RESOURCE:read; null: all that the role may' }));
const tokenMembers = {
  id: text, name: text, role: oneOf(ROLES), scopes: scopeList, state: oneOf(['valid', 'expired', 'revoked']), createdAt: time(), createdBy: text,
  expiresAt: nullable(time('null: never')), lastUsedAt: nullable(time('to the minute')), revokedAt: nullable(time()),
};
const Token = answer('Token', tokenMembers);
const NewToken = answer('NewToken', { ...tokenMembers, secret: Type.String({ description: 'the token itself: shown in this answer and nowhere else' }) });
const Who = answer('WhoAmI', { name: text, via: text, role: oneOf(ROLES), scopes: scopeList, address: nullable(text) });
const AccessState = answer('AccessState', {
  listen: nullable(Type.String({ description: 'where HTTPS answers' })), problem: nullable(Type.String({ description: 'why it does not answer as configured' })),
  certificateProblem: nullable(Type.String({ description: 'why the files of the configuration are not used; the last good ones are' })), refusedConnections: count('beyond the limits'),
});
const AuditLine = answer('AuditLine', {
  sequence: Type.Integer(), time: time(), previous: text, hash: text, event: oneOf(['request', 'outcome', 'refused', 'system', 'retention', 'recovered']),
  by: Type.Optional(Type.Object({ name: text, via: text, role: Type.Optional(text), address: Type.Optional(text) })),
  request: Type.Optional(Type.String({ description: 'ties an outcome to its request' })), method: Type.Optional(text), path: Type.Optional(text), resource: Type.Optional(text),
  status: Type.Optional(Type.Integer()), code: Type.Optional(text), milliseconds: Type.Optional(Type.Number()), count: Type.Optional(Type.Integer({ description: 'how many of the same it stands for' })),
  detail: Type.Optional(Type.Unsafe<Record<string, unknown>>({ type: 'object' })),
});
const Head = answer('AuditHead', { sequence: Type.Integer(), hash: text });
const AuditLines = answer('AuditLines', { head: Head, lines: Type.Array(AuditLine) });
const VerificationSchema = answer('AuditVerification', {
  isWhole: Type.Boolean(), lines: count(), first: nullable(Type.Integer()), head: nullable(Head), problemsLeftOut: count(),
  problems: Type.Array(Type.Object({
    kind: oneOf(['altered', 'removed', 'inserted', 'cut-off']), file: text, line: Type.Integer({ description: 'in the file, from 1' }), message: text,
    sequence: Type.Optional(Type.Integer()), from: Type.Optional(Type.Integer({ description: 'first of the missing lines' })), to: Type.Optional(Type.Integer()),
  })),
});
const CreateToken = question({
  name: Type.String({ minLength: 1, maxLength: 64, pattern: NAME, description: 'for people: who or what uses the token' }),
  role: oneOf(ROLES),
  scopes: Type.Optional(Type.Array(Type.String({ pattern: SCOPE }), { minItems: 1, maxItems: SCOPES_MAX, uniqueItems: true, description: 'resources, or RESOURCE:read; left out: all that the role may' })),
  expiresInSeconds: Type.Optional(Type.Unsafe<number | null>({ type: ['integer', 'null'], minimum: 60, maximum: EXPIRES_S_MAX, description: 'null: never; left out: 90 days' })),
});
const Id = question({ id: Type.String({ pattern: '^[0-9a-f]{16}$' }) });
const Last = question({ last: Type.Integer({ minimum: 1, maximum: AUDIT_LAST_MAX, default: 100 }) });
const tags = ['Access'];

export function registerAccessRoutes(api: FastifyInstance, access: Access): void {
  // One verification at a time, however many ask: a gigabyte may be read for it.
  let verifying: Promise<Verification> | undefined;
  const verify = (): Promise<Verification> => (verifying ??= access.audit.sync().then(() => verifyAudit(access.audit.directory)).finally(() => { verifying = undefined; }));
  const tokens = { role: 'administrator', resource: 'tokens' } as const;
  const audit = { role: 'administrator', resource: 'audit' } as const;

  api.get('/api/v1/whoami', {
    config: { role: 'viewer', resource: 'self' }, schema: { operationId: 'whoAmI', summary: 'Who the caller is, and what it may', tags, response: { 200: Who } },
  }, whoAmI);
  api.get('/api/v1/access', {
    config: { role: 'viewer', resource: 'access' }, schema: { operationId: 'getAccess', summary: 'Where HTTPS answers, and why it does not', tags, response: { 200: AccessState } },
  }, () => access.view);
  api.get('/api/v1/tokens', {
    config: tokens, schema: { operationId: 'listTokens', summary: 'Tokens, without their secrets', tags, response: { 200: Type.Object({ tokens: Type.Array(Token) }) } },
  }, () => ({ tokens: access.tokens.list() }));
  api.get('/api/v1/tokens/:id', {
    config: tokens, schema: { operationId: 'getToken', summary: 'A token, without its secret', tags, params: Id, response: { 200: Token } },
  }, (request) => getToken(access, request));
  api.post('/api/v1/tokens', {
    config: tokens, schema: { operationId: 'createToken', summary: 'Make a token', tags, body: CreateToken, response: { 201: NewToken } },
  }, (request, reply) => createToken(access, request, reply));
  api.delete('/api/v1/tokens/:id', {
    config: tokens, schema: { operationId: 'revokeToken', summary: 'Revoke a token, at once and for good', tags, params: Id, response: { 204: Type.Null() } },
  }, (request, reply) => revokeToken(access, request, reply));
  api.get('/api/v1/audit', {
    config: audit, schema: { operationId: 'listAudit', summary: 'The last lines of the audit log, oldest first', tags, querystring: Last, response: { 200: AuditLines } },
  }, async (request) => ({ head: access.audit.head, lines: await readLast(access.audit.directory, (request.query as { last: number }).last) }));
  api.get('/api/v1/audit/verification', {
    config: audit, schema: { operationId: 'verifyAudit', summary: 'Is the audit log whole? What is wrong with it', tags, response: { 200: VerificationSchema } },
  }, verify);
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
