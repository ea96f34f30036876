// The OpenAPI 3.1 document, made from the routes themselves: their schemas, roles and resources. Who: src/api/server.ts starts the
// collection before it registers routes; /api/v1/openapi.json and test/tools/api-fuzz.ts read the document. Made once, at the first request.
// A schema with a `title` becomes a component of that name; two different schemas of one title are an error, found at the first start.
import type { FastifyInstance, FastifySchema, RouteOptions } from 'fastify';
import { packageVersion } from '../supervisor/run-directory.js';
import { API_ERROR_CODES } from './errors.js';
import { ProblemSchema } from './schemas.js';

declare module 'fastify' {
  interface FastifySchema {
    operationId?: string;
    summary?: string;
    description?: string;
    tags?: readonly string[];
    /** Answers that are no JSON: status → media type. */
    produces?: Readonly<Record<number, string>>;
    /** Bodies that are no JSON, beside it. */
    consumes?: readonly string[];
  }
}

type Json = Record<string, unknown>;
const PREFIX = '/api/v1';
const METHODS_WITH_BODY = new Set(['POST', 'PUT', 'PATCH']);

const DESCRIPTION = `The appliance's configuration and state. The same API answers on the Unix socket DIR/api.sock (the caller is known by its uid) and on
HTTPS where the configuration says so (\`api:\`). Errors are problem details (RFC 9457) with a \`code\`: ${API_ERROR_CODES.join(', ')}, or a more special one.
Every operation states the role it needs in \`x-role\` and the resource that a token's scope must name in \`x-resource\`.`;

const SECURITY_SCHEMES = {
  bearer: { type: 'http', scheme: 'bearer', description: 'a token of the appliance, or an access token (JWT) of the configured OIDC issuer' },
  clientCertificate: { type: 'mutualTLS', description: 'a client certificate of the configured authority' },
};

const TAGS: Readonly<Record<string, string>> = {
  State: 'what the appliance is and does now', Traffic: 'sessions, records and packets', Configuration: 'what it shall be: as a whole and by resource; each change is a transaction',
  Operations: 'work that goes on, and what sets it off', Access: 'who may what: tokens, audit log', API: 'the API itself',
};

export class OpenApi {
  private readonly routes: RouteOptions[] = [];
  private document: Json | undefined;

  /** Sees every route that is registered from now on. */
  collect(api: FastifyInstance): void {
    api.addHook('onRoute', (route) => { this.routes.push(route); });
  }

  /** Methods of the routes that a path has. */
  methodsOf(path: string): string[] {
    const parts = path.split('/');
    const fits = (url: string): boolean => {
      const wanted = url.split('/');
      return wanted.length === parts.length && wanted.every((part, index) => (part.startsWith(':') ? parts[index] !== '' : part === parts[index]));
    };
    return [...new Set(this.routes.filter(({ url }) => fits(url)).flatMap(({ method }) => method))];
  }

  build(): Json { return (this.document ??= this.make()); }

  private make(): Json {
    const components = new Map<string, Json>();
    const paths: Record<string, Json> = {};
    for (const route of this.routes) {
      if (!route.url.startsWith(`${PREFIX}/`)) continue;
      if (route.schema?.operationId === undefined) throw new Error(`route ${route.url} has no operationId`);
      for (const method of [route.method].flat()) {
        if (method === 'HEAD') continue;
        const path = route.url.slice(PREFIX.length).replaceAll(/:(\w+)/g, '{$1}');
        (paths[path] ??= {})[method.toLowerCase()] = operationOf(route, method, components);
      }
    }
    return {
      openapi: '3.1.0',
      info: { title: 'Sluice', version: packageVersion(), description: DESCRIPTION, license: { name: 'Apache-2.0', identifier: 'Apache-2.0' } },
      servers: [{ url: PREFIX }],
      security: [{ bearer: [] }, { clientCertificate: [] }],
      tags: Object.entries(TAGS).map(([name, description]) => ({ name, description })),
      paths,
      components: { schemas: Object.fromEntries([...components].sort(([a], [b]) => (a < b ? -1 : 1))), securitySchemes: SECURITY_SCHEMES },
    };
  }
}

function operationOf(route: RouteOptions, method: string, components: Map<string, Json>): Json {
  const schema = route.schema as FastifySchema;
  const { role, resource } = (route.config ?? {}) as { role?: string; resource?: string };
  const parameters = [...parametersOf(schema.params, 'path', components), ...parametersOf(schema.querystring, 'query', components), ...parametersOf(schema.headers, 'header', components)];
  const hasBody = METHODS_WITH_BODY.has(method) && (schema.body !== undefined || schema.consumes !== undefined);
  const body = hasBody ? hoist(schema.body ?? {}, components) : undefined;
  const types = ['application/json', ...schema.consumes ?? []];
  return {
    operationId: schema.operationId, summary: schema.summary, ...(schema.description ? { description: schema.description } : {}),
    tags: schema.tags ?? [], 'x-role': role, 'x-resource': resource,
    ...(parameters.length > 0 ? { parameters } : {}),
    ...(body ? { requestBody: { required: true, content: Object.fromEntries(types.map((type) => [type, { schema: type === 'application/json' ? body : { type: 'string' } }])) } } : {}),
    responses: responsesOf(schema, components),
  };
}

function parametersOf(schema: unknown, place: 'path' | 'query' | 'header', components: Map<string, Json>): Json[] {
  const { properties = {}, required = [] } = (schema ?? {}) as { properties?: Record<string, Json>; required?: string[] };
  return Object.entries(properties).map(([name, { description, ...one }]) => ({
    name, in: place, required: place === 'path' || (required.includes(name) && one['default'] === undefined), ...(description === undefined ? {} : { description }), schema: hoist(one, components),
  }));
}

const STATUS_TEXTS: Record<string, string> = {
  200: 'done', 201: 'created', 202: 'accepted: watch the operation at Location', 204: 'done', 304: 'not changed since', default: 'a problem',
};

function responsesOf(schema: FastifySchema, components: Map<string, Json>): Json {
  const responses: Json = {};
  for (const [status, one] of Object.entries((schema.response ?? {}) as Record<string, Json>)) {
    const isEmpty = one['type'] === 'null';
    responses[status] = { description: STATUS_TEXTS[status] ?? 'done', ...(isEmpty ? {} : { content: { 'application/json': { schema: hoist(one, components) } } }) };
  }
  for (const [status, type] of Object.entries(schema.produces ?? {})) responses[status] = { description: STATUS_TEXTS[status] ?? 'done', content: { [type]: { schema: { type: 'string' } } } };
  responses['default'] = { description: STATUS_TEXTS['default'], content: { 'application/problem+json': { schema: hoist(ProblemSchema, components) } } };
  return responses;
}

/** A copy in which titled schemas are references to components. */
function hoist(schema: unknown, components: Map<string, Json>): Json {
  if (Array.isArray(schema)) return schema.map((one) => hoist(one, components)) as unknown as Json;
  if (typeof schema !== 'object' || schema === null) return schema as unknown as Json;
  const { title, ...rest } = schema as Json;
  const copy = Object.fromEntries(Object.entries(rest).map(([key, value]) => [key, hoist(value, components)]));
  // What has a default need not be sent.
  const { required, properties } = rest as { required?: unknown; properties?: Record<string, Json> };
  if (Array.isArray(required) && properties) {
    const left = (required as string[]).filter((name) => properties[name]?.['default'] === undefined);
    delete copy['required'];
    if (left.length > 0) Object.assign(copy, { required: left });
  }
  if (typeof title !== 'string') return title === undefined ? copy : { ...copy, title: hoist(title, components) };
  const known = components.get(title);
  if (known && JSON.stringify(known) !== JSON.stringify(copy)) throw new Error(`two schemas have the title ${title}`);
  components.set(title, copy);
  return { $ref: `#/components/schemas/${title}` };
}
