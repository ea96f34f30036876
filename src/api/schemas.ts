// Schemas that several resources share. TypeBox: validation, TypeScript types and OpenAPI from one text. A `title` makes a schema a
// component of the OpenAPI document. Who: src/api/routes/, src/api/openapi.ts.
// A member that may be null is written as type [X, null], never as anyOf: clients' generators and error messages are better for it.
import { Type, type Static, type TObject, type TProperties, type TSchema, type TUnsafe } from '@sinclair/typebox';
import { API_ERROR_CODES } from './errors.js';

/** What we send: further members may come with later versions, so clients must not refuse them. */
export function answer<T extends TProperties>(title: string, properties: T, description?: string): TObject<T> {
  return Type.Object(properties, { title, ...(description === undefined ? {} : { description }) });
}

/** What we take: unknown members are errors. */
export function question<T extends TProperties>(properties: T, options: Record<string, unknown> = {}): TObject<T> {
  return Type.Object(properties, { additionalProperties: false, ...options });
}

export function nullable<T extends TSchema>(schema: T): TUnsafe<Static<T> | null> {
  const { title: _title, ...rest } = schema as T & { title?: string; type?: string | string[] };
  const allowed = schema['enum'] === undefined ? {} : { enum: [...schema['enum'] as unknown[], null] };
  return Type.Unsafe<Static<T> | null>({ ...rest, ...allowed, type: [...[schema['type'] as string | string[]].flat(), 'null'] });
}

export function oneOf<const T extends readonly string[]>(values: T, description?: string): TUnsafe<T[number]> {
  return Type.Unsafe<T[number]>({ type: 'string', enum: values, ...(description === undefined ? {} : { description }) });
}

export const counts = (description: string) => Type.Unsafe<Record<string, number>>({ type: 'object', additionalProperties: { type: 'integer', minimum: 0 }, description });
export const count = (description?: string) => Type.Integer({ minimum: 0, ...(description === undefined ? {} : { description }) });
export const time = (description?: string) => Type.String({ format: 'date-time', ...(description === undefined ? {} : { description }) });

/** Longest cursor that we make, and then some. */
const CURSOR_CHARACTERS_MAX = 512;
export const cursor = Type.String({ minLength: 1, maxLength: CURSOR_CHARACTERS_MAX, pattern: '^[A-Za-z0-9_-]+$', description: 'the `cursor` of the page before; what it holds is the server\'s business' });
export const nextCursor = nullable(Type.String({ description: 'give it back for the next page; null: this was the last one' }));

export const Author = answer('Author', { name: Type.String(), via: Type.String({ description: 'how the caller was recognised: socket, token, oidc, mtls, file or system' }) });

export const ProblemEntry = answer('ProblemEntry', {
  pointer: Type.String({ description: 'RFC 6901, into the configuration' }), severity: oneOf(['error', 'warning']), code: Type.String(),
  message: Type.String(), remedy: Type.String(), line: Type.Optional(Type.Integer()), column: Type.Optional(Type.Integer()),
}, 'what is wrong at one place of a configuration');

export const ProblemSchema = answer('Problem', {
  type: Type.String({ description: 'about:blank#CODE' }), title: Type.String(), status: Type.Integer(),
  code: Type.String({ description: 'what to look up and to test for', examples: API_ERROR_CODES }),
  detail: Type.String({ description: 'what was wrong, and what would be right' }),
  pointer: Type.Optional(Type.String({ description: 'RFC 6901, into the query, the path\'s parameters or the body' })),
  problems: Type.Optional(Type.Array(ProblemEntry, { description: 'of SLUICE_CONFIG_INVALID: all that is wrong with the configuration' })),
  current: Type.Optional(Type.Unknown({ description: 'of SLUICE_API_PRECONDITION: what is there now' })),
  changes: Type.Optional(Type.Array(Type.Unknown(), { description: 'of SLUICE_CONFIG_CONFLICT: what was changed since' })),
  difference: Type.Optional(Type.String({ description: 'the same for people' })),
  cuts: Type.Optional(Type.Array(Type.Unknown(), { description: 'of SLUICE_LOCKOUT: what would cut off the caller' })),
}, 'problem details (RFC 9457)');

export const ConfigWarning = answer('ConfigWarning', {
  severity: oneOf(['error', 'warning']), code: Type.String(), path: Type.String(), message: Type.String(), remedy: Type.String(),
  file: Type.String(), line: Type.Integer(), column: Type.Integer(),
});

export const ChangeSchema = answer('Change', {
  path: Type.String({ description: 'like firewall.rules[web]' }), kind: oneOf(['added', 'removed', 'changed', 'moved']),
  before: Type.Optional(Type.Unknown()), after: Type.Optional(Type.Unknown()),
});

export const CommitSchema = answer('Commit', {
  revision: Type.Integer(), etag: Type.String({ description: 'of the whole configuration' }),
  changes: Type.Array(ChangeSchema, { description: 'the first 1,000' }), changeCount: count('of all changes'), warnings: Type.Array(ConfigWarning),
  milliseconds: Type.Object({ validate: Type.Number(), compile: Type.Number(), apply: Type.Number(), total: Type.Number() }),
  confirmBy: Type.Optional(time('rolled back by itself unless confirmed until then')),
}, 'a change that is in force');

export const OperationSchema = answer('Operation', {
  id: Type.String({ format: 'uuid' }), kind: Type.String(), state: oneOf(['running', 'done', 'failed', 'interrupted']), by: Author,
  phase: Type.String({ description: 'what is being done now' }),
  startedAt: time(), finishedAt: nullable(Type.String({ format: 'date-time' })),
  milliseconds: Type.Number({ description: 'so far, or in all' }),
  result: Type.Optional(Type.Unknown({ description: 'what the request would have been answered; present when done, unless control was started again since' })),
  problem: Type.Optional(ProblemSchema),
}, 'work that takes longer than a request should');
