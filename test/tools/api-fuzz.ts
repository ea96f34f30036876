// Random requests made from the OpenAPI document: most nearly right, some wrong in one place, some nonsense. After each: no 500, an answer
// as the document says, errors with a code; memory stays bounded; nothing bears a viewer's name, and the last third, of viewers alone, changes nothing.
// Who: test/api/fuzz.test.ts runs some thousands; by hand, a million: test/tools/api-fuzz.sh --requests 1000000 --seed 7. One seed is one sequence of requests. A finding prints its seed and number.
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import type { Role } from '../../src/api/access.js';
import { startApi, type Answer, type ApiBench } from '../api/bench.js';
import { makeDrop, makeFlow } from '../control/bench.js';
import type { Json, Operation } from './contract.js';

/** What takes longer than two seconds is answered 202. */
const ANSWER_MS_MAX = 30_000;
const HEAP_GROWTH_MIB_MAX = 64; // a million requests: 60 to 90 MiB from their first thousand on
/** Not implemented, too much at once, disk full: said, and no fault of ours. */
const UNAVAILABLE = new Set([501, 503, 507]);
const TEXTS = ['', 'a', 'trust', 'untrust', 'outbound', 'telnet', 'egress', '10.0.1.10', '10.0.1.0/24', '2001:db8::/32', '::/0', '999.1.1.1', 'tcp', 'udp/53', 'any', '__proto__', 'constructor', '..', '../../etc/passwd', '%00', '\u0000', '☃', '"', '\\', '`$(id)`', "' or 1=1 --", 'x'.repeat(300), '-1', '1e9', 'null', 'eth1', 'eth2', '203.0.113.4'];
const NUMBERS = [0, 1, -1, 2, 22, 443, 65535, 65536, 2 ** 31, 2 ** 53, 1e308, 0.5, -0];
const OTHER = [null, true, false, [], {}, [[]], { a: { b: [1] } }, [null], ['a', 1]];

/** xorshift32: the same everywhere, and good enough for this. */
export function makeRandom(seed: number): () => number {
  let state = (seed | 0) || 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
}

interface Target { method: string; template: string; operation: Operation }
export interface FuzzOptions { requests: number; seed: number; log?: (line: string) => void }
export interface FuzzResult { requests: number; statuses: Record<string, number>; operations: Record<string, number>; heapMiB: [number, number] }

export class ApiFuzz {
  private readonly random: () => number;
  private readonly targets: Target[];

  private killed = 0;

  constructor(private readonly bench: ApiBench, private readonly seed: number) {
    bench.addon.killSession = () => {
      this.killed += 1;
      return true;
    };
    this.random = makeRandom(seed);
    this.targets = Object.entries(bench.contract.document.paths).flatMap(([template, methods]) => Object.entries(methods).map(([method, operation]) => ({ method: method.toUpperCase(), template, operation })));
  }

  async run(requests: number, log: (line: string) => void = () => undefined): Promise<FuzzResult> {
    const statuses: Record<string, number> = {};
    const operations: Record<string, number> = {};
    let baseMiB = 0;
    let before: string | undefined;
    for (let count = 0; count < requests; count += 1) {
      if (count === Math.floor((requests * 2) / 3)) {
        await this.settle();
        before = this.state();
      }
      const role = before === undefined ? this.pick<Role>(['viewer', 'operator', 'administrator']) : 'viewer';
      const { target, answer, where } = await this.one(count, role);
      this.bench.audited.length = 0; // the bench's own: of a million requests it is a hundred megabytes, and hides what control keeps
      if (before !== undefined && this.state() !== before) throw new Error(`${where}: a viewer changed something`);
      statuses[answer.status] = (statuses[answer.status] ?? 0) + 1;
      if (answer.status < 400) operations[target.operation.operationId] = (operations[target.operation.operationId] ?? 0) + 1;
      if (count === Math.floor(requests / 4)) baseMiB = heapMiB();
      if (count % 1000 === 999) log(`${count + 1} requests, ${heapMiB()} MiB, ${JSON.stringify(statuses)}`);
    }
    const endMiB = heapMiB();
    if (endMiB - baseMiB > HEAP_GROWTH_MIB_MAX) throw new Error(`seed ${this.seed}: memory grew from ${baseMiB} to ${endMiB} MiB`);
    return { requests, statuses, operations, heapMiB: [baseMiB, endMiB] };
  }

  private async one(count: number, role: Role): Promise<{ target: Target; answer: Answer; where: string }> {
    const target = this.pick(this.targets);
    const asked = this.request(target, role);
    const where = `seed ${this.seed}, request ${count}: ${role} ${asked.method} ${asked.path} ${JSON.stringify(asked.options).slice(0, 1000)}`;
    let answer: Answer;
    try {
      answer = await within(ANSWER_MS_MAX, this.bench.ask(asked.method, asked.path, asked.options));
    } catch (error) {
      throw new Error(`${where}: ${(error as Error).message}`);
    }
    if (answer.status >= 500 && !UNAVAILABLE.has(answer.status)) throw new Error(`${where}: ${answer.text}`);
    const { transactions } = this.bench;
    if (transactions.history()[0]?.by.name === 'viewer' || transactions.candidate?.by.name === 'viewer') throw new Error(`${where}: a viewer changed something`);
    return { target, answer, where };
  }

  /** Until nothing goes on that changes something later: operations, and a commit that would undo itself. */
  private async settle(): Promise<void> {
    await within(ANSWER_MS_MAX, (async () => {
      while (((await this.bench.ask('GET', 'operations')).body as { operations: { state: string }[] }).operations.some(({ state }) => state === 'running')) await new Promise((resolve) => setTimeout(resolve, 20));
    })());
    if (this.bench.transactions.pending) await this.bench.ask('POST', 'config/confirm');
  }

  /** What a viewer must not change. Versions are immutable, so their names say all. */
  private state(): string {
    const { transactions } = this.bench;
    return [transactions.running.revision, transactions.running.etag, transactions.history().length, transactions.candidate?.etag, transactions.pending?.confirmBy, this.killed].join(' ');
  }

  private request({ method, template, operation }: Target, role: Role): { method: string; path: string; options: Parameters<ApiBench['ask']>[2] & object } {
    const parameters = operation.parameters ?? [];
    let path = template;
    const query: string[] = [];
    const headers: Record<string, string> = {};
    for (const { name, in: place, required, schema } of parameters) {
      if (place === 'path') path = path.replace(`{${name}}`, encodeURIComponent(this.text(schema, name)) || 'x');
      else if (place === 'query' && (required || this.chance(0.25))) query.push(`${encodeURIComponent(name)}=${encodeURIComponent(this.text(schema, name))}`);
      else if (place === 'header' && this.chance(0.6)) headers[name] = this.chance(0.7) ? '*' : `"${this.pick(['x', 'AAAAAAAAAAAAAAAAAAAAAA', ''])}"`;
    }
    if (this.chance(0.03)) query.push(`${encodeURIComponent(this.pick(TEXTS))}=1`);
    if (operation.operationId === 'observe') query.splice(0, query.length, 'last=5', ...query.filter((one) => !/^(follow|last)=/.test(one))); // it would go on for ever
    const options: Parameters<ApiBench['ask']>[2] & object = { role, headers };
    const body = operation.requestBody?.content['application/json']?.schema;
    if (body !== undefined) this.fillBody(options, body);
    else if (this.chance(0.03)) options.body = this.pick(OTHER) ?? {};
    const isOther = this.chance(0.02);
    return { method: isOther ? this.pick(['GET', 'PUT', 'POST', 'DELETE', 'PATCH']) : method, path: `/api/v1${path}${query.length > 0 ? `?${query.join('&')}` : ''}`, options };
  }

  private fillBody(options: Parameters<ApiBench['ask']>[2] & object, schema: Json): void {
    const kind = this.random();
    options.headers = { ...options.headers, 'content-type': this.chance(0.97) ? 'application/json' : this.pick(['text/plain', 'application/yaml', 'application/xml', 'application/json; charset=x', 'multipart/form-data']) };
    const text = JSON.stringify(this.value(schema, 0)) ?? '';
    if (kind < 0.9) options.raw = text;
    else if (kind < 0.93) options.raw = text.slice(0, Math.floor(this.random() * text.length));
    else if (kind < 0.96) options.raw = this.pick(['', '{', '[]', 'null', '"x"', '{"__proto__":{}}', '['.repeat(100), '1e999', '\u0000', 'version: 1', '{"version":1}', '&a [*a]']);
    else options.raw = Buffer.from(Array.from({ length: Math.floor(this.random() * 200) }, () => Math.floor(this.random() * 256)));
  }

  /** A value of the schema; in one of twelve places another. */
  private value(given: Json, depth: number): unknown {
    const schema = this.resolve(given);
    if (this.chance(0.08)) return this.pick<unknown>([...OTHER, this.pick(TEXTS), this.pick(NUMBERS)]);
    if (schema['examples'] !== undefined && this.chance(depth === 0 ? 0.7 : 0.4)) return this.pick(schema['examples'] as unknown[]);
    if (schema['const'] !== undefined) return schema['const'];
    if (schema['enum'] !== undefined) return this.pick(schema['enum'] as unknown[]);
    const type = this.pick([schema['type'] as string | string[] | undefined ?? ['string', 'object', 'integer']].flat());
    switch (type) {
      case 'integer': case 'number': return this.number(schema);
      case 'boolean': return this.chance(0.5);
      case 'null': return null;
      case 'array': return depth > 5 ? [] : Array.from({ length: Math.floor(this.random() * 4) }, () => this.value((schema['items'] ?? {}) as Json, depth + 1));
      case 'object': return depth > 5 ? {} : this.object(schema, depth);
      default: return this.chance(0.5) ? this.pick(TEXTS.slice(1)) : this.text(schema, '');
    }
  }

  private object(schema: Json, depth: number): Json {
    const required = (schema['required'] ?? []) as string[];
    const entries = Object.entries((schema['properties'] ?? {}) as Record<string, Json>)
      .filter(([name]) => (required.includes(name) ? !this.chance(0.03) : this.chance(0.3)))
      .map(([name, one]): [string, unknown] => [name, this.value(one, depth + 1)]);
    if (typeof schema['additionalProperties'] === 'object') entries.push([this.pick(['a', 'web', 'trust', '__proto__', '-', 'é']), this.value(schema['additionalProperties'] as Json, depth + 1)]);
    if (this.chance(0.03)) entries.push([this.pick(TEXTS), 1]);
    return Object.fromEntries(entries);
  }

  private number({ minimum, maximum }: Json): number {
    const low = Number(minimum ?? 0);
    const high = Math.min(Number(maximum ?? 100), low + 1000);
    return this.chance(0.85) ? low + Math.floor(this.random() * (high - low + 1)) : this.pick(NUMBERS);
  }

  /** As it stands in a path or a query. */
  private text(given: Json, name: string): string {
    const schema = this.resolve(given);
    if (this.chance(0.1)) return this.pick(TEXTS);
    if (schema['enum'] !== undefined) return String(this.pick(schema['enum'] as unknown[]));
    if ([schema['type']].flat().includes('integer')) return String(this.number(schema));
    if (schema['type'] === 'boolean') return this.pick(['true', 'false']);
    const known: Record<string, string[]> = {
      id: ['42', '1', '00000000-0000-4000-8000-000000000000'], to: ['0.0.0.0/0', '192.0.2.0/24', '10.7.0.0/16'], revision: ['1', '2', 'running'], from: ['running', 'candidate', '1', 'trust'], cursor: ['WyJzZXNzaW9ucyIsMV0', 'WyJmaXJld2FsbC9ydWxlcyIsMV0', 'AAAA'],
      name: ['outbound', 'telnet', 'egress', 'trust', 'untrust', 'fuzz-1', 'fuzz-2', 'web'], before: ['outbound', 'telnet', 'fuzz-1'], after: ['outbound', 'fuzz-2'], source: ['10.0.1.10', '10.0.0.0/8'], interface: ['trust'],
    };
    return this.pick(known[name] ?? TEXTS);
  }

  private resolve(schema: Json): Json {
    const name = /^#\/components\/schemas\/(.*)$/.exec(String(schema['$ref'] ?? ''))?.[1];
    return name === undefined ? schema : this.bench.contract.document.components.schemas[name]!;
  }

  private pick<T>(list: readonly T[]): T { return list[Math.floor(this.random() * list.length)]!; }
  private chance(share: number): boolean { return this.random() < share; }
}

function within<T>(ms: number, answer: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout;
  const late = new Promise<never>((_resolve, reject) => { timer = setTimeout(() => reject(new Error(`no answer within ${ms} ms`)), ms); });
  return Promise.race([answer, late]).finally(() => clearTimeout(timer));
}

function heapMiB(): number {
  setFlagsFromString('--expose-gc');
  (runInNewContext('gc') as () => void)();
  const { heapUsed, external } = process.memoryUsage();
  return Math.round((heapUsed + external) / 1024 / 1024);
}

/** A bench with something in it, fuzzed. */
export async function fuzzApi({ requests, seed, log }: FuzzOptions, keep: (stop: () => void | Promise<void>) => void): Promise<FuzzResult> {
  const bench = await startApi({ keep });
  bench.addon.sessionRecords = Array.from({ length: 50 }, (_, index) => makeFlow({ sessionId: BigInt(index) }));
  bench.addon.pendingRecords = { flows: [makeFlow()], drops: [makeDrop()] };
  return new ApiFuzz(bench, seed).run(requests, log);
}
