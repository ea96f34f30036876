// Access over real connections: a small API behind the real checks, on a Unix socket and on HTTPS. For the tests of access.
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { request as httpRequest, type IncomingHttpHeaders } from 'node:http';
import { request as httpsRequest, type RequestOptions } from 'node:https';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fastify, type FastifyInstance } from 'fastify';
import { onTestFinished } from 'vitest';
import { Access } from '../../src/api/access-service.js';
import type { PeerCredentials, ReadPeer } from '../../src/api/access-peer.js';
import { authorOf, protectRoutes, type Role } from '../../src/api/access.js';
import { headersOf, toProblemDetails } from '../../src/api/errors.js';
import { validatorCompiler } from '../../src/api/validation.js';
import type { AuditRecord } from '../../src/audit/log.js';
import { readLast } from '../../src/audit/read.js';
import type { ApiConfig } from '../../src/config/schema-api.js';
import type { Config } from '../../src/config/schema.js';
import { createLog } from '../../src/supervisor/log.js';
import { buildApi } from '../../src/api/server.js';
import { parseText } from '../../src/config/load.js';
import { Control } from '../../src/control/control.js';
import { findMissing } from '../../src/control/status.js';
import { Transactions } from '../../src/control/transactions.js';
import { EngineHost } from '../../src/engine/host.js';
import { attachFlowLog } from '../../src/flowlog/attach.js';
import type { RunDirectory } from '../../src/supervisor/run-directory.js';
import { CONFIG } from '../control/bench.js';
import { makeFacts, makeFakeAddon, makeRunDirectory, silentLog, type FakeAddon } from '../engine/fake-addon.js';

export interface Answer { status: number; headers: IncomingHttpHeaders; body: Record<string, unknown>; text: string }
export interface Asking { method?: string; headers?: Record<string, string>; body?: unknown; ca?: string; cert?: string; key?: string; tls?: RequestOptions }

export interface AccessBench {
  paths: RunDirectory; access: Access; api: FastifyInstance;
  /** What the processes logged, as text. */
  logged(): string;
  /** What handlers of the API were called, as `METHOD URL by NAME`. */
  handled: string[];
  socket(path: string, asking?: Asking): Promise<Answer>;
  https(path: string, asking?: Asking): Promise<Answer>;
  configure(api: ApiConfig, rest?: Partial<Config>): Promise<void>;
  audit(count?: number): Promise<AuditRecord[]>;
  token(role: Role, scopes?: string[], expiresInS?: number | null): { id: string; secret: string; bearer: { authorization: string } };
  port: number;
}

/** `peer`: whom the kernel names; left out: the kernel itself is asked. */
export async function startAccess({ peer }: { peer?: () => PeerCredentials } = {}): Promise<AccessBench> {
  const paths = makeRunDirectory();
  mkdirSync(paths.state, { recursive: true });
  const lines: string[] = [];
  const readPeer: ReadPeer | undefined = peer && ((): PeerCredentials => peer());
  const access = new Access({ paths, log: createLog('control', (line) => void lines.push(line)), ...(readPeer ? { readPeer } : {}) });
  const api = fastify({ exposeHeadRoutes: false });
  const handled: string[] = [];
  api.setValidatorCompiler(validatorCompiler);
  api.setErrorHandler((error, _request, reply) => {
    const problem = toProblemDetails(error);
    if (problem.status === 500) lines.push(String((error as Error).stack));
    void reply.status(problem.status).headers(headersOf(error)).type('application/problem+json').serializer((value: unknown) => JSON.stringify(value)).send(problem);
  });
  protectRoutes(api, access);
  const handler = (request: import('fastify').FastifyRequest): object => {
    handled.push(`${request.method} ${request.url} by ${authorOf(request).name}`);
    request.auditDetail = { handled: true };
    return { by: authorOf(request), role: request.principal.role };
  };
  api.get('/rules', { config: { role: 'viewer', resource: 'rules' } }, handler);
  api.put('/rules', { config: { role: 'operator', resource: 'rules' } }, handler);
  api.get('/sessions', { config: { role: 'viewer', resource: 'sessions' } }, handler);
  api.delete('/sessions/:id', { config: { role: 'operator', resource: 'sessions' } }, handler);
  api.post('/question', { config: { role: 'viewer', resource: 'simulate', audit: false } }, handler);
  api.get('/everything', { config: { role: 'administrator', resource: 'everything' } }, handler);
  api.get('/health', { config: { role: 'public', resource: 'health' } }, () => ({ status: 'ok' }));
  await api.listen({ path: paths.apiSocket });
  access.socketIsReady();
  const bench: AccessBench = {
    paths, access, api, handled, port: 0,
    ...askers(paths, access, lines),
    https: (path, asking = {}) => ask(path, asking, { host: '127.0.0.1', port: bench.port, ca: asking.ca ?? readFileSync(join(paths.apiState, 'tls', 'ca.pem'), 'utf8'), ...asking.tls }),
    configure: (section, rest = {}) => access.configure({ version: 1, hostname: 'nva-test', ...rest, api: section } as Config),
  };
  onTestFinished(async () => {
    await api.close();
    await access.stop();
  });
  return bench;
}

/** With HTTPS on a port of its own. */
export async function startHttps(api: Omit<ApiConfig, 'listen'> = {}, options: Parameters<typeof startAccess>[0] = {}): Promise<AccessBench> {
  const bench = await startAccess(options);
  bench.port = await freePort();
  await bench.configure({ listen: `127.0.0.1:${bench.port}`, ...api });
  if (bench.access.problem !== undefined) throw new Error(bench.access.problem);
  return bench;
}

function ask(path: string, { method = 'GET', headers = {}, body, cert, key }: Asking, where: RequestOptions): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const payload = body === undefined ? undefined : JSON.stringify(body);
    const options = { path, method, agent: false, headers: { ...headers, ...(payload === undefined ? {} : { 'content-type': 'application/json', 'content-length': String(Buffer.byteLength(payload)) }) }, ...where, ...(cert ? { cert, key } : {}) };
    const asking = (where.socketPath ? httpRequest : httpsRequest)(options, (response) => {
      let text = '';
      response.setEncoding('utf8').on('data', (chunk: string) => { text += chunk; });
      response.on('end', () => {
        let parsed: Record<string, unknown> = {};
        try {
          parsed = JSON.parse(text) as Record<string, unknown>;
        } catch { /* no JSON */ }
        resolve({ status: response.statusCode!, headers: response.headers, body: parsed, text });
      });
      response.on('error', reject);
    });
    asking.on('error', reject);
    asking.end(payload);
  });
}

export function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer().on('error', reject).listen(0, '127.0.0.1', () => {
      const { port } = server.address() as { port: number };
      server.close(() => resolve(port));
    });
  });
}

export function temporaryDirectory(): string {
  const directory = mkdtempSync(join(tmpdir(), 'sluice-access-'));
  onTestFinished(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}

export interface TestCa { certificate: string; file: string; issue(commonName: string, options?: IssueOptions): { cert: string; key: string; certFile: string; keyFile: string }; revoke(...certFiles: string[]): string }
export interface IssueOptions { names?: string; usage?: 'clientAuth' | 'serverAuth'; days?: number }

/** A CA as an organisation has it, made by openssl. */
export function makeCa(name = 'Test CA'): TestCa {
  const directory = temporaryDirectory();
  const at = (file: string): string => join(directory, file);
  const openssl = (...args: string[]): void => void execFileSync('openssl', args, { stdio: 'pipe' });
  const config = (extensions: string, commonName: string): string => `[req]\ndistinguished_name=dn\nprompt=no\nx509_extensions=ext\n[dn]\nCN=${commonName}\n[ext]\n${extensions}\n`;
  writeFileSync(at('ca.cnf'), config('basicConstraints=critical,CA:true\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash', name));
  openssl('req', '-x509', '-new', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '30', '-config', at('ca.cnf'), '-keyout', at('ca.key'), '-out', at('ca.pem'));
  let issued = 0;
  return {
    certificate: readFileSync(at('ca.pem'), 'utf8'), file: at('ca.pem'),
    issue: (commonName, { names, usage = 'clientAuth', days = 10 } = {}) => {
      const id = `c${issued += 1}`;
      writeFileSync(at(`${id}.cnf`), config(`basicConstraints=critical,CA:false\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=${usage}${names ? `\nsubjectAltName=${names}` : ''}`, commonName));
      openssl('req', '-new', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-config', at(`${id}.cnf`), '-keyout', at(`${id}.key`), '-out', at(`${id}.csr`));
      // x509, unlike req, makes expired ones, too.
      openssl('x509', '-req', '-in', at(`${id}.csr`), '-CA', at('ca.pem'), '-CAkey', at('ca.key'), '-set_serial', `0x${randomBytes(8).toString('hex')}`, '-days', String(days), '-extfile', at(`${id}.cnf`), '-extensions', 'ext', '-out', at(`${id}.pem`));
      return { cert: readFileSync(at(`${id}.pem`), 'utf8'), key: readFileSync(at(`${id}.key`), 'utf8'), certFile: at(`${id}.pem`), keyFile: at(`${id}.key`) };
    },
    revoke: (...certFiles) => {
      writeFileSync(at('crl.cnf'), `[ca]\ndefault_ca=own\n[own]\ndatabase=${at('index.txt')}\ncrlnumber=${at('crlnumber')}\ndefault_md=sha256\ndefault_crl_days=30\n`);
      writeFileSync(at('index.txt'), '');
      writeFileSync(at('crlnumber'), '01\n');
      const args = ['-config', at('crl.cnf'), '-keyfile', at('ca.key'), '-cert', at('ca.pem')];
      for (const file of certFiles) openssl('ca', ...args, '-revoke', file);
      openssl('ca', ...args, '-gencrl', '-out', at('crl.pem'));
      return at('crl.pem');
    },
  };
}

export interface Appliance extends Omit<AccessBench, 'configure' | 'handled'> { transactions: Transactions; control: Control; addon: FakeAddon; running(): Config }

/** The whole API with its real access, over the real control and transactions; below them an addon of plain JavaScript. HTTPS listens. */
export async function startAppliance(section: Omit<ApiConfig, 'listen'> = {}, rest: Partial<Config> = {}): Promise<Appliance> {
  const paths = makeRunDirectory();
  const addon = makeFakeAddon();
  const facts = makeFacts();
  const lines: string[] = [];
  const log = createLog('control', (line) => void lines.push(line));
  const host = new EngineHost({
    paths, open: { pinDirectory: '', bpfObject: '', workers: 2, sessionsMax: 1024, framesPerWorker: 512, txBudget: 32, busyPoll: false, offline: false, hostDevice: '' },
  }, { addon, log: silentLog, stopKernelForwarding: () => false, readFacts: () => Promise.resolve(structuredClone(facts)), readDevices: () => Promise.resolve(structuredClone(facts.devices)), prepare: () => Promise.resolve([]) });
  await host.start();
  const transactions = new Transactions(paths.configState, log);
  const control = new Control(paths.engineSocket, (known, generation, slots) => transactions.compileRunning(known, generation, slots), log);
  const flowLog = attachFlowLog(control, paths, log);
  const access = new Access({ paths, log });
  transactions.follower = access;
  const api = buildApi(control, paths, log, { transactions, access });
  await api.listen({ path: paths.apiSocket });
  access.socketIsReady();
  const port = await freePort();
  await transactions.start(control, JSON.stringify({ ...parseText(CONFIG, 'base').value as object, ...rest, api: { listen: `127.0.0.1:${port}`, ...section } }));
  control.start();
  while (findMissing(control).length > 0) await new Promise((resolve) => setImmediate(resolve));
  onTestFinished(async () => {
    transactions.stop();
    control.stop();
    await api.close();
    await access.stop();
    await flowLog.stop();
    host.stop();
  });
  const appliance: Appliance = {
    ...askers(paths, access, lines), paths, access, api, port, transactions, control, addon, running: () => transactions.running.config,
    https: (path, asking = {}) => ask(path, asking, { host: '127.0.0.1', port: appliance.port, ca: asking.ca ?? readFileSync(join(paths.apiState, 'tls', 'ca.pem'), 'utf8'), ...asking.tls }),
  };
  return appliance;
}

function askers(paths: RunDirectory, access: Access, lines: readonly string[]): Pick<AccessBench, 'logged' | 'socket' | 'audit' | 'token'> {
  return {
    logged: () => lines.join(''),
    socket: (path, asking = {}) => ask(path, asking, { socketPath: paths.apiSocket }),
    audit: async (count = 100) => readLast(paths.auditState, count),
    token: (role, scopes, expiresInS = null) => {
      const { secret, token } = access.tokens.create({ name: `${role}-token`, role, ...(scopes ? { scopes } : {}), expiresInS, createdBy: 'test' });
      return { id: token.id, secret, bearer: { authorization: `Bearer ${secret}` } };
    },
  };
}
