// Holds answers against the OpenAPI document: the status is one that the operation has, the body has the schema of it, an error is a
// problem with a code. Who: test/api/bench.ts at each request, test/tools/api-fuzz.ts. Throws where the document and the API differ.
import { Ajv2020, type ValidateFunction } from 'ajv/dist/2020.js';

export type Json = Record<string, unknown>;
export interface Operation {
  operationId: string; tags: string[]; 'x-role': string; 'x-resource': string;
  parameters?: { name: string; in: string; required: boolean; schema: Json }[];
  requestBody?: { content: Record<string, { schema: Json }> };
  responses: Record<string, { content?: Record<string, { schema: Json }> }>;
}
export interface Document { openapi: string; servers: { url: string }[]; tags: { name: string }[]; paths: Record<string, Record<string, Operation>>; components: { schemas: Record<string, Json>; securitySchemes: Json } }
export interface Answered { status: number; headers: Record<string, unknown>; text: string; body: unknown }

export class Contract {
  private readonly ajv = new Ajv2020({ strict: false, validateFormats: false, allErrors: false });
  private readonly validators = new Map<string, ValidateFunction>();

  constructor(readonly document: Document) {
    this.ajv.addSchema(document, 'api');
  }

  /** Undefined: not in the document. */
  find(method: string, path: string): { template: string; operation: Operation } | undefined {
    const prefix = this.document.servers[0]!.url;
    if (!path.startsWith(`${prefix}/`)) return undefined;
    const parts = path.slice(prefix.length).split('?', 1)[0]!.split('/');
    for (const [template, methods] of Object.entries(this.document.paths)) {
      const wanted = template.split('/');
      // A literal part goes before a parameter: /sessions/kill is not /sessions/{id}.
      if (wanted.length !== parts.length || !wanted.every((part, index) => part === parts[index] || part.startsWith('{'))) continue;
      const operation = methods[method.toLowerCase()];
      if (operation) return { template, operation };
    }
    return undefined;
  }

  check(method: string, path: string, { status, headers, text, body }: Answered): void {
    const where = `${method} ${path.slice(0, 200)} → ${status}`;
    const type = String(headers['content-type'] ?? '').split(';')[0]!;
    if (status >= 400) {
      if (type !== 'application/problem+json' && !path.startsWith('/healthz')) throw new Error(`${where}: an error of type '${type}': ${text.slice(0, 200)}`);
      if (type === 'application/problem+json') this.validate(`${where}: problem`, '/components/schemas/Problem', body);
      return;
    }
    const found = this.find(method, path);
    if (!found) return;
    const response = found.operation.responses[String(status)];
    if (!response) throw new Error(`${where}: ${found.operation.operationId} has no such answer`);
    if (!response.content) {
      if (text !== '') throw new Error(`${where}: a body where there is none`);
      return;
    }
    if (!(type in response.content)) throw new Error(`${where}: of type '${type}'; the document says ${Object.keys(response.content).join(', ')}`);
    if (type !== 'application/json') return;
    const escaped = (part: string): string => part.replaceAll('~', '~0').replaceAll('/', '~1');
    this.validate(where, `/paths/${encodeURIComponent(escaped(found.template))}/${method.toLowerCase()}/responses/${status}/content/application~1json/schema`, body);
  }

  private validate(where: string, pointer: string, value: unknown): void {
    let validate = this.validators.get(pointer);
    if (!validate) this.validators.set(pointer, validate = this.ajv.compile({ $ref: `api#${pointer}` }));
    if (!validate(value)) throw new Error(`${where}: ${this.ajv.errorsText(validate.errors)} in ${JSON.stringify(value).slice(0, 500)}`);
  }
}
