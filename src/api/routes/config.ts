// The configuration as a whole: read, committed, confirmed, rolled back, compared, and its history. Parts of it: config-resources.ts.
// PUT /api/v1/config needs If-Match like every overwriting PUT here; POST /api/v1/config/commit takes `base` in its body instead.
// Bounds: CONFIG_BODY_BYTES_MAX a configuration, HISTORY_MAX revisions an answer.
import { Type, type Static } from '@sinclair/typebox';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { formatChanges } from '../../config/diff.js';
import { CONFIRM_WITHIN_S_MAX, type CommitRequest, type CommitResult, type Revision } from '../../control/transactions.js';
import { authorOf } from '../access.js';
import { CONFIG_BODY_BYTES_MAX, ITEM_BODY_BYTES_MAX } from '../bodies.js';
import type { ApiContext } from '../context.js';
import { ApiError } from '../errors.js';
import { answer, Author, ChangeSchema, CommitSchema, ConfigWarning, count, nullable, oneOf, OperationSchema, question, time } from '../schemas.js';

const PREFIX = '/api/v1/config';
const TAG = ['Configuration'];
const HISTORY_MAX = 1000;
const read = { role: 'viewer', resource: 'configuration' } as const;
const write = { role: 'administrator', resource: 'configuration' } as const;

const RevisionSchema = answer('Revision', {
  revision: Type.Integer(), etag: Type.String(), at: time(), by: Author, comment: Type.String(),
  action: oneOf(['commit', 'rollback', 'file', 'not-confirmed', 'restore'], 'how it came about; not-confirmed: rolled back by itself'),
  confirmBy: Type.Optional(time('it waits for its confirmation until then')),
  running: Type.Boolean(), bytes: count(), changes: count('against the one before'),
});
const RevisionWithText = answer('RevisionText', { ...RevisionSchema.properties, text: Type.String({ description: 'as it was committed' }) });
const DifferenceSchema = answer('Difference', { changes: Type.Array(ChangeSchema), changeCount: count('of which `changes` has the first 1,000'), text: Type.String({ description: 'for people, a line a change' }) });
const CandidateSchema = answer('Candidate', { etag: Type.String(), base: Type.String({ description: 'etag of the version it was made from' }), by: Author, at: time(), text: Type.String() });

const commitOptions = {
  comment: Type.Optional(Type.String({ maxLength: 1000, description: 'why; kept in the history' })),
  dryRun: Type.Boolean({ default: false, description: 'true: checked, compared and compiled, not put in force' }),
};
const confirm = Type.Boolean({ default: false, description: 'true: also when it cuts off the session of the caller' });
const ConfirmQuery = question({ confirm });
const confirmWithin = Type.Optional(Type.Integer({ minimum: 1, maximum: CONFIRM_WITHIN_S_MAX, description: 'seconds; rolled back by itself unless confirmed until then' }));
const CommitBody = question({
  text: Type.Optional(Type.String({ description: 'the configuration as YAML or JSON text, kept as it is' })), // the body's own bound is its: characters of a large one are not counted once more
  config: Type.Optional(Type.Unknown({ description: 'the configuration as a value; neither: the candidate' })),
  base: Type.Optional(Type.String({ maxLength: 128, description: 'etag of the version it was made from; another one running now is a conflict' })),
  force: Type.Boolean({ default: false, description: 'true: whatever base says' }),
  confirmWithinS: confirmWithin, ...commitOptions,
});
const PutQuery = question({ confirm, confirmWithin, ...commitOptions });
const RollbackBody = question({ revision: Type.Integer({ minimum: 1, maximum: Number.MAX_SAFE_INTEGER }), comment: commitOptions.comment });
const CandidateBody = question({ text: Type.String(), base: Type.Optional(Type.String({ maxLength: 128 })) });
const CheckBody = question({ text: Type.String() });
const which = Type.String({ pattern: '^(running|candidate|[1-9][0-9]{0,14})$', description: 'running, candidate, or the number of a revision' });
const DiffQuery = question({ from: which, to: which });
const RevisionParams = question({ revision: Type.String({ pattern: '^(running|[1-9][0-9]{0,14})$' }) });
const HistoryQuery = question({ limit: Type.Integer({ minimum: 1, maximum: HISTORY_MAX, default: 100 }) });

export function registerConfig(api: FastifyInstance, { check, control, operations, transactions }: ApiContext): void {
  const written = { 200: CommitSchema, 202: OperationSchema };

  api.get(PREFIX, {
    config: { ...read, heavy: true },
    schema: {
      operationId: 'getConfig', summary: 'The running configuration', tags: TAG, response: { 200: Type.Unknown(), 304: Type.Null() },
      description: 'As JSON; as the YAML text that was committed when Accept names application/yaml.',
    },
  }, (request, reply) => {
    const { etag, text, config, revision } = transactions.running;
    reply.headers({ etag: quoted(etag), 'sluice-revision': String(revision), vary: 'accept' });
    if (tagsIn(request.headers['if-none-match']).includes(quoted(etag))) return reply.status(304).send();
    if (!/\byaml\b/.test(request.headers.accept ?? '')) return config;
    return reply.type('application/yaml; charset=utf-8').serializer((value: unknown) => value as string).send(text);
  });

  api.put<{ Querystring: Static<typeof PutQuery> }>(PREFIX, {
    config: write, bodyLimit: CONFIG_BODY_BYTES_MAX,
    schema: {
      operationId: 'putConfig', summary: 'Replace the whole configuration', tags: TAG, querystring: PutQuery, response: written,
      description: 'The body is the configuration, as JSON or YAML. If-Match: the ETag that was read, or * for whatever runs.',
    },
  }, (request, reply) => {
    const { comment, dryRun, confirmWithin: confirmWithinS } = request.query;
    const base = requireBase(request, currentEtag());
    const body = typeof request.body === 'string' ? { text: request.body } : { config: request.body };
    if (body.config === null || ('config' in body && body.config === undefined)) throw new ApiError(400, 'SLUICE_API_BODY', 'the body is the configuration, and there is none', '');
    return commit(request, reply, { ...body, ...base, ...given({ comment, confirmWithinS }), dryRun });
  });

  api.post<{ Body: Static<typeof CommitBody> }>(`${PREFIX}/commit`, {
    config: write, bodyLimit: CONFIG_BODY_BYTES_MAX,
    schema: { operationId: 'commitConfig', summary: 'Commit a configuration, or the candidate', tags: TAG, querystring: ConfirmQuery, body: CommitBody, response: written },
  }, (request, reply) => {
    const { text, config, base, force, comment, confirmWithinS, dryRun } = request.body;
    if (text !== undefined && config !== undefined) throw new ApiError(400, 'SLUICE_API_ARGUMENT', 'text and config at once; send one of them', '/config');
    return commit(request, reply, { ...given({ text, config, base, comment, confirmWithinS }), force, dryRun });
  });

  api.post(`${PREFIX}/confirm`, {
    config: write, schema: { operationId: 'confirmConfig', summary: 'Keep what waits for its confirmation', tags: TAG, response: { 200: RevisionSchema } },
  }, (request) => transactions.confirm(authorOf(request)));

  api.post<{ Body: Static<typeof RollbackBody> }>(`${PREFIX}/rollback`, {
    config: write,
    schema: { operationId: 'rollbackConfig', summary: 'Commit an earlier revision again', tags: TAG, querystring: ConfirmQuery, body: RollbackBody, response: written },
  }, (request, reply) => {
    const { revision, comment } = request.body;
    return operations.answer(request, reply, 'rollback', () => transactions.rollback(revision, authorOf(request), comment));
  });

  api.get<{ Querystring: Static<typeof HistoryQuery> }>(`${PREFIX}/history`, {
    config: read,
    schema: {
      operationId: 'listRevisions', summary: 'Revisions, newest first', tags: TAG, querystring: HistoryQuery,
      response: { 200: Type.Object({ revisions: Type.Array(RevisionSchema), total: count(), damage: Type.Array(Type.String({ description: 'what of the store could not be read at the start of control' })) }) },
    },
  }, ({ query }) => {
    const revisions = transactions.history();
    return { revisions: revisions.slice(0, query.limit), total: revisions.length, damage: [...transactions.damage] };
  });

  api.get<{ Params: Static<typeof RevisionParams> }>(`${PREFIX}/history/:revision`, {
    config: { ...read, heavy: true },
    schema: { operationId: 'getRevision', summary: 'One revision with its text', tags: TAG, params: RevisionParams, response: { 200: RevisionWithText } },
  }, ({ params }) => {
    const revision = params.revision === 'running' ? transactions.running.revision : Number(params.revision);
    const text = transactions.revisionText(revision);
    return { ...transactions.history().find((one) => one.revision === revision) as Revision, text };
  });

  api.get<{ Querystring: Static<typeof DiffQuery> }>(`${PREFIX}/diff`, {
    config: { ...read, heavy: true },
    schema: { operationId: 'diffConfig', summary: 'What differs between two of running, candidate and revisions', tags: TAG, querystring: DiffQuery, response: { 200: DifferenceSchema } },
  }, ({ query }) => {
    const side = (text: string): number | 'running' | 'candidate' => (text === 'running' || text === 'candidate' ? text : Number(text));
    const difference = transactions.difference(side(query.from), side(query.to));
    return { changes: difference.changes, changeCount: difference.count, text: formatChanges(difference) };
  });

  api.get(`${PREFIX}/candidate`, {
    config: read, schema: { operationId: 'getCandidate', summary: 'The candidate: edited, not committed', tags: TAG, response: { 200: CandidateSchema } },
  }, () => {
    if (!transactions.candidate) throw new ApiError(404, 'SLUICE_API_NOT_FOUND', 'there is no candidate');
    return transactions.candidate;
  });

  api.put<{ Body: Static<typeof CandidateBody> }>(`${PREFIX}/candidate`, {
    config: write, bodyLimit: CONFIG_BODY_BYTES_MAX,
    schema: { operationId: 'putCandidate', summary: 'Set the candidate', tags: TAG, body: CandidateBody, response: { 200: CandidateSchema } },
  }, (request) => transactions.setCandidate(request.body.text, authorOf(request), request.body.base));

  api.delete(`${PREFIX}/candidate`, {
    config: write, schema: { operationId: 'deleteCandidate', summary: 'Discard the candidate', tags: TAG, response: { 204: Type.Null() } },
  }, async (_request, reply) => {
    await transactions.discardCandidate();
    return reply.status(204).send();
  });

  api.post<{ Body: Static<typeof CheckBody> }>(`${PREFIX}/check`, {
    config: { ...read, heavy: true, audit: false }, bodyLimit: ITEM_BODY_BYTES_MAX,
    schema: {
      operationId: 'checkConfig', summary: 'What is wrong with a configuration on this machine', tags: TAG, body: CheckBody,
      description: 'A larger one than 4 MiB: commit it with dryRun. One is read at a time, after whatever else there is to do.',
      response: { 200: Type.Object({ valid: Type.Boolean(), problems: Type.Array(ConfigWarning), running: nullable(Type.Integer({ description: 'the revision that runs' })) }) },
    },
  }, async ({ body }) => {
    const { problems, isValid } = await check(body.text, control.facts);
    return { valid: isValid, problems, running: transactions.history().find((one) => one.running)?.revision ?? null };
  });

  function commit(request: FastifyRequest, reply: Parameters<typeof operations.answer>[1], what: Omit<CommitRequest, 'by'>): Promise<unknown> {
    return operations.answer(request, reply, 'commit', () => transactions.commit({ ...what, by: authorOf(request) }), (result: CommitResult) => {
      reply.headers({ etag: quoted(result.etag), 'sluice-revision': String(result.revision) });
      return result;
    });
  }

  function currentEtag(): string | undefined {
    try {
      return transactions.running.etag;
    } catch {
      return undefined; // there is none yet
    }
  }
}

const quoted = (etag: string): string => `"${etag}"`;
const tagsIn = (header: string | undefined): string[] => (header ?? '').split(',').map((tag) => tag.trim());

/** Without the members that are undefined: optional ones are left out, not set to nothing. */
function given<T extends object>(members: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(members).filter(([, value]) => value !== undefined)) as { [K in keyof T]?: Exclude<T[K], undefined> };
}

/** RFC 9110, section 13.1.1; RFC 6585 for what came without. The transaction compares: only it knows what differs. */
function requireBase({ headers }: FastifyRequest, current: string | undefined): { base?: string; force?: boolean } {
  const match = headers['if-match']?.trim();
  if (match === '*') return { force: true };
  const tag = match === undefined ? undefined : /^"([^"]{1,128})"$/.exec(match)?.[1];
  if (tag !== undefined) return { base: tag };
  if (match === undefined && current === undefined) return {};
  throw new ApiError(428, 'SLUICE_API_PRECONDITION_REQUIRED', 'this overwrites the whole configuration: send the ETag that you read as If-Match, or * to replace whatever runs', undefined, current === undefined ? {} : { headers: { etag: quoted(current) } });
}
