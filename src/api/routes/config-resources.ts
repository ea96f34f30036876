// Parts of the configuration as resources: rules, translations, routes, interfaces, objects and settings, each read, put, moved and
// deleted on its own. Each change is a transaction: in force when it is answered, or refused and nothing changed.
// What would overwrite or remove something must say what it was made from: If-Match with the ETag that was read (or * for whatever it
// is). Creating needs nothing, and If-None-Match: * makes sure that it creates. Putting what is there already changes nothing: so all of
// it can be repeated. ETags are those of the one part: two editors of two rules do not disturb each other.
import { Type, type Static } from '@sinclair/typebox';
import type { FastifyInstance, FastifyReply, FastifyRequest, FastifySchema } from 'fastify';
import { authorOf } from '../access.js';
import { ITEM_BODY_BYTES_MAX } from '../bodies.js';
import type { ApiContext } from '../context.js';
import { decodeCursor, encodeCursor, isPlace } from '../cursor.js';
import type { EditOptions, EditOutcome } from '../edits.js';
import { ApiError } from '../errors.js';
import {
  bodySchema, canonical, collectionOf, COLLECTIONS, entriesOf, etagOf, findEntry, keyOf, PlaceError, readSingleton, SINGLETONS, withEntry, withoutEntry, withSingleton,
  type Collection, type Entry, type Place, type Singleton,
} from '../resources.js';
import { answer, CommitSchema, count, cursor, nextCursor, nullable, OperationSchema, oneOf, question } from '../schemas.js';
import type { Config } from '../../config/schema.js';

const PREFIX = '/api/v1/config';
const LIMIT_MAX = 10_000;
const LIMIT_DEFAULT = 1000;
const TAG = ['Configuration'];

const name = (description: string) => Type.Optional(Type.String({ minLength: 1, maxLength: 64, description }));
const commitMembers = {
  comment: Type.Optional(Type.String({ maxLength: 1000, description: 'why; kept in the history' })),
  confirmWithin: Type.Optional(Type.Integer({ minimum: 1, maximum: 86_400, description: 'seconds; rolled back by itself unless confirmed until then' })),
  dryRun: Type.Boolean({ default: false, description: 'true: checked and compared, not put in force' }),
  confirm: Type.Boolean({ default: false, description: 'true: also when it cuts off the session of the caller' }),
};
const placeMembers = { before: name('stand before this one'), after: name('stand after this one'), position: Type.Optional(oneOf(['first', 'last'])) };
const CommitQuery = question(commitMembers);
const PlacedCommitQuery = question({ ...commitMembers, ...placeMembers });
const ListQuery = question({ limit: Type.Integer({ minimum: 1, maximum: LIMIT_MAX, default: LIMIT_DEFAULT }), cursor: Type.Optional(cursor) });
const MoveBody = question(placeMembers, { title: 'Move', minProperties: 1, maxProperties: 1, examples: [{ before: 'outbound' }, { position: 'first' }] });
const preconditions = Type.Object({
  'if-match': Type.Optional(Type.String({ maxLength: 1024, description: 'the ETag that was read, or *; needed to overwrite or remove' })),
  'if-none-match': Type.Optional(Type.String({ maxLength: 1024, description: '*: only if there is none yet' })),
});
const ifNoneMatch = Type.Object({ 'if-none-match': Type.Optional(Type.String({ maxLength: 1024, description: 'the ETag that is known already' })) });

type Keyed = { Params: { key: string } };
type Commits = Static<typeof CommitQuery>;

export function registerConfigResources(api: FastifyInstance, context: ApiContext): void {
  for (const collection of COLLECTIONS) registerCollection(api, context, collection);
  for (const singleton of SINGLETONS) registerSingleton(api, context, singleton);
  registerZones(api, context);
}

// ---- entries of lists and mappings ------------------------------------------------------------------------------------

function registerCollection(api: FastifyInstance, context: ApiContext, collection: Collection): void {
  const { edits, operations } = context;
  const { path, resource, one, many, key: keyName, within } = collection;
  const url = `${PREFIX}/${path}`;
  const item = { ...collection.schema, title: one, examples: [collection.example] };
  const holderKey = within === undefined ? {} : { [within.param]: within.keySchema };
  const Key = question({ ...holderKey, [keyName]: collection.keySchema });
  const read = { role: 'viewer', resource } as const;
  const write = { role: collection.changedBy, resource } as const;
  const commit = nullable(CommitSchema);
  const written = { 200: answer(`${one}Written`, { value: item as never, commit }), 202: OperationSchema };
  const removed = { 200: answer(`${one}Removed`, { value: Type.Null(), commit }), 202: OperationSchema };
  const keyFrom = (request: FastifyRequest): string => keyOf(collection, (request.params as Record<string, string>)[keyName]!);
  const meant = (request: FastifyRequest, config: Config): Collection => {
    const found = collectionOf(collection, request.params as Record<string, string>, config);
    if (found !== undefined) return found;
    throw new ApiError(404, 'SLUICE_API_NOT_FOUND', `there is no ${nameIn(request, within!.param).slice(0, 80)} that could have ${many}`, `/${within!.param}`);
  };
  const missing = (key: string): never => {
    throw new ApiError(404, 'SLUICE_API_NOT_FOUND', `there is no ${key.slice(0, 80)} in ${path}`, `/${keyName}`);
  };

  api.get<{ Querystring: Static<typeof ListQuery> }>(url, {
    config: { ...read, heavy: true },
    schema: {
      operationId: `list${many}`, summary: `${many} of the running configuration, in their order`, tags: TAG, ...(within === undefined ? {} : { params: question(holderKey) }), querystring: ListQuery, headers: ifNoneMatch,
      response: { 200: Type.Object({ items: Type.Array(item as never), total: count(), cursor: nextCursor }), 304: Type.Null() },
    },
  }, (request, reply) => {
    const { limit, cursor: text } = request.query;
    const { config, etag } = edits.running;
    if (isKnown(request, reply, quoted(etag))) return reply.status(304).send();
    const all = entriesOf(meant(request, config), config);
    const first = text === undefined ? 0 : decodeCursor(path, text, isPlace);
    const next = first + limit;
    return { items: all.slice(first, next).map(({ key, stored }) => collection.wrap(key, stored)), total: all.length, cursor: next < all.length ? encodeCursor(path, next) : null };
  });

  api.get<Keyed>(`${url}/:${keyName}`, {
    config: read,
    schema: { operationId: `get${one}`, summary: `One of the ${many}`, tags: TAG, params: Key, headers: ifNoneMatch, response: { 200: item, 304: Type.Null() } },
  }, (request, reply) => {
    const { config } = edits.running;
    const found = findEntry(meant(request, config), config, keyFrom(request)) ?? missing(keyFrom(request));
    return isKnown(request, reply, etagOf(found.entry)) ? reply.status(304).send() : found.entry;
  });

  api.put<Keyed & { Body: Entry; Querystring: Commits & Place }>(`${url}/:${keyName}`, {
    config: write, bodyLimit: ITEM_BODY_BYTES_MAX,
    schema: {
      operationId: `put${one}`, summary: `Create or replace one of the ${many}`, tags: TAG, params: Key, headers: preconditions,
      querystring: collection.ordered ? PlacedCommitQuery : CommitQuery, body: { ...bodySchema(collection), title: `${one}Body`, examples: [bodyExample(collection)] },
      response: { ...written, 201: written[200] },
      ...(collection.ordered ? { description: 'A new one goes last, a replaced one stays where it is, unless the query says where it shall stand.' } : {}),
    } satisfies FastifySchema,
  }, (request, reply) => {
    const key = keyFrom(request);
    const given = request.body[keyName];
    if (given !== undefined && keyOf(collection, String(given)) !== key) {
      throw new ApiError(400, 'SLUICE_API_ARGUMENT', `the path names '${key}' and the body '${String(given).slice(0, 80)}'; leave it out of the body, or write the same`, `/${keyName}`);
    }
    const place = placeOf(request.query, key);
    const entry = collection.wrap(key, collection.unwrap({ [keyName]: given ?? nameIn(request, keyName), ...request.body }));
    return operations.answer(request, reply, `put ${path}`, () => edits.make(optionsOf(request), (config) => {
      const inside = meant(request, config);
      const old = findEntry(inside, config, key);
      const next = inPlace(() => withEntry(inside, config, key, entry, place));
      const isSame = old !== undefined && sameJson(old.entry, entry) && (place === undefined || findEntry(inside, next, key)!.index === old.index);
      requirePrecondition(request, old?.entry, isSame);
      const index = findEntry(inside, next, key)!.index;
      return {
        config: isSame ? config : next, at: [...inside.at, collection.form === 'list' ? index : key], within: collection.member === undefined ? '' : `/${collection.member}`,
        result: { value: entry, created: old === undefined },
      };
    }), (outcome: EditOutcome<{ value: Entry; created: boolean }>) => finish(reply, outcome.result.value, outcome, outcome.result.created));
  });

  api.delete<Keyed & { Querystring: Commits }>(`${url}/:${keyName}`, {
    config: write,
    schema: { operationId: `delete${one}`, summary: `Remove one of the ${many}`, tags: TAG, params: Key, headers: preconditions, querystring: CommitQuery, response: removed },
  }, (request, reply) => {
    const key = keyFrom(request);
    return operations.answer(request, reply, `delete ${path}`, () => edits.make(optionsOf(request), (config) => {
      const inside = meant(request, config);
      const old = findEntry(inside, config, key) ?? missing(key);
      requirePrecondition(request, old.entry, false);
      return { config: withoutEntry(inside, config, key), result: undefined };
    }), (outcome) => finish(reply, null, outcome, false));
  });

  if (!collection.ordered) return;
  api.post<Keyed & { Body: Place; Querystring: Commits }>(`${url}/:${keyName}/move`, {
    config: write,
    schema: {
      operationId: `move${one}`, summary: `Move one of the ${many}: the first that matches wins`, tags: TAG, params: Key, headers: preconditions, querystring: CommitQuery, body: MoveBody,
      response: written,
    },
  }, (request, reply) => {
    const key = keyFrom(request);
    const place = placeOf(request.body, key)!;
    return operations.answer(request, reply, `move ${path}`, () => edits.make(optionsOf(request), (config) => {
      const old = findEntry(collection, config, key) ?? missing(key);
      const next = inPlace(() => withEntry(collection, config, key, old.entry, place));
      // Where it stands is no part of what it is, so If-Match is welcome here and not required.
      if (request.headers['if-match'] !== undefined) requirePrecondition(request, old.entry, false);
      return { config: findEntry(collection, next, key)!.index === old.index ? config : next, result: old.entry };
    }), (outcome) => finish(reply, outcome.result, outcome, false));
  });
}

// ---- sections -------------------------------------------------------------------------------------------------------------

function registerSingleton(api: FastifyInstance, { edits, operations }: ApiContext, singleton: Singleton): void {
  const { path, resource, one, example } = singleton;
  const url = `${PREFIX}/${path}`;
  const item = { ...singleton.schema, title: one, examples: [example] };
  const written = { 200: answer(`${one}Written`, { value: item as never, commit: nullable(CommitSchema) }), 202: OperationSchema };

  api.get(url, {
    config: { role: 'viewer', resource },
    schema: { operationId: `get${one}`, summary: `${one}; what is left out has its default`, tags: TAG, headers: ifNoneMatch, response: { 200: item, 304: Type.Null() } },
  }, (request, reply) => {
    const entry = readSingleton(singleton, edits.running.config);
    return isKnown(request, reply, etagOf(entry)) ? reply.status(304).send() : entry;
  });

  api.put<{ Body: Entry; Querystring: Commits }>(url, {
    config: { role: singleton.changedBy, resource },
    schema: { operationId: `put${one}`, summary: `Replace the ${one}; what is left out gets its default`, tags: TAG, headers: preconditions, querystring: CommitQuery, body: item, response: written },
  }, (request, reply) => operations.answer(request, reply, `put ${path}`, () => edits.make(optionsOf(request), (config) => {
    const old = readSingleton(singleton, config);
    const isSame = sameJson(old, request.body);
    requirePrecondition(request, old, isSame);
    return { config: isSame ? config : withSingleton(singleton, config, request.body), at: singleton.at, result: request.body };
  }), (outcome) => finish(reply, outcome.result, outcome, false)));
}

/** Zones are what interfaces say: they are seen here, and changed there. */
function registerZones(api: FastifyInstance, { edits }: ApiContext): void {
  const Zone = answer('Zone', { name: Type.String(), interfaces: Type.Array(Type.String()) });
  const zonesOf = (config: Config): { name: string; interfaces: string[] }[] => {
    const zones = new Map<string, string[]>();
    for (const [interfaceName, { zone }] of [...Object.entries(config.interfaces ?? {}), ...Object.entries(config.wireguard ?? {})]) zones.set(zone, [...zones.get(zone) ?? [], interfaceName]);
    return [...zones].map(([zone, interfaces]) => ({ name: zone, interfaces }));
  };
  api.get(`${PREFIX}/zones`, {
    config: { role: 'viewer', resource: 'interfaces' },
    schema: { operationId: 'listZones', summary: 'Zones, and the interfaces in each', tags: TAG, response: { 200: Type.Object({ items: Type.Array(Zone) }) } },
  }, () => ({ items: zonesOf(edits.running.config) }));
  api.get<{ Params: { name: string } }>(`${PREFIX}/zones/:name`, {
    config: { role: 'viewer', resource: 'interfaces' },
    schema: { operationId: 'getZone', summary: 'One zone', tags: TAG, params: question({ name: Type.String({ minLength: 1, maxLength: 64 }) }), response: { 200: Zone } },
  }, ({ params }) => {
    const zone = zonesOf(edits.running.config).find((one) => one.name === params.name);
    if (!zone) throw new ApiError(404, 'SLUICE_API_NOT_FOUND', `no interface is in a zone '${params.name}'`, '/name');
    return zone;
  });
}

// ---- what they share ------------------------------------------------------------------------------------------------------

function bodyExample({ example, key }: Collection): Entry {
  return Object.fromEntries(Object.entries(example).filter(([member]) => member !== key));
}

const nameIn = (request: FastifyRequest, keyName: string): string => (request.params as Record<string, string>)[keyName]!;
const quoted = (etag: string): string => (etag.startsWith('"') ? etag : `"${etag}"`);

function optionsOf(request: FastifyRequest<{ Querystring: Commits }>): EditOptions {
  const { comment, confirmWithin, dryRun } = request.query;
  return { by: authorOf(request), dryRun, ...(comment === undefined ? {} : { comment }), ...(confirmWithin === undefined ? {} : { confirmWithinS: confirmWithin }) };
}

/** Undefined: nowhere in particular. */
function placeOf({ before, after, position }: Place, key: string): Place | undefined {
  const given = Object.entries({ before, after, position }).filter(([, value]) => value !== undefined);
  if (given.length === 0) return undefined;
  if (given.length > 1) throw new ApiError(400, 'SLUICE_API_ARGUMENT', `${given.map(([member]) => member).join(' and ')} at once; say one of them`, `/${given[1]![0]}`);
  const [member, value] = given[0]!;
  if (member !== 'position' && value === key) throw new ApiError(400, 'SLUICE_API_ARGUMENT', `'${key}' cannot stand ${member} itself`, `/${member}`);
  return { [member]: value } as Place;
}

function inPlace<T>(make: () => T): T {
  try {
    return make();
  } catch (error) {
    if (error instanceof PlaceError) throw new ApiError(404, 'SLUICE_API_NOT_FOUND', error.message, `/${error.member}`);
    throw error;
  }
}

/** RFC 9110, sections 13.1.1 and 13.1.2, and RFC 6585 for what came without. Throws ApiError. */
function requirePrecondition({ headers }: FastifyRequest, old: Entry | undefined, isSame: boolean): void {
  const match = headers['if-match'];
  const noneMatch = headers['if-none-match'];
  const current = old === undefined ? undefined : etagOf(old);
  const changed = (message: string): ApiError => new ApiError(412, 'SLUICE_API_PRECONDITION', message, undefined, {
    headers: current === undefined ? {} : { etag: current }, members: old === undefined ? {} : { current: old },
  });
  if (noneMatch !== undefined && current !== undefined && (noneMatch.trim() === '*' || tagsIn(noneMatch).includes(current))) throw changed('there is one already; read it, and send its ETag as If-Match to replace it');
  if (match !== undefined) {
    if (current === undefined) throw changed('there is none (any more); leave If-Match out to create it');
    if (match.trim() !== '*' && !tagsIn(match).includes(current)) throw changed('it is not what it was when you read it; read it again, apply your change to that, and send its ETag');
  } else if (current !== undefined && !isSame) {
    throw new ApiError(428, 'SLUICE_API_PRECONDITION_REQUIRED', 'this would overwrite or remove what somebody wrote: send the ETag that you read as If-Match, or * to replace whatever it is', undefined, { headers: { etag: current } });
  }
}

/** Strong comparison: weak tags match nothing. */
const tagsIn = (header: string): string[] => header.split(',').map((tag) => tag.trim());

/** Sets the ETag; true when the caller has this already. */
function isKnown(request: FastifyRequest, reply: FastifyReply, etag: string): boolean {
  reply.header('etag', etag);
  const known = request.headers['if-none-match'];
  return known !== undefined && (known.trim() === '*' || tagsIn(known).some((tag) => tag === etag || tag === `W/${etag}`));
}

function finish<T>(reply: FastifyReply, value: Entry | null, { commit }: EditOutcome<T>, created: boolean): object {
  if (value !== null) reply.header('etag', etagOf(value));
  if (created) reply.status(201);
  return { value, commit: commit ?? null };
}

const sameJson = (a: unknown, b: unknown): boolean => canonical(a) === canonical(b);
