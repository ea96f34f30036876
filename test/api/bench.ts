// The whole API over the real control, transactions and engine host, with an addon of plain JavaScript below. Every answer is held
// against the OpenAPI document. Headers of the test's own say who asks (x-role, x-name, x-scopes): how a caller is recognised is
// the business of access's tests.
import type { FastifyInstance, InjectOptions } from 'fastify';
import { onTestFinished } from 'vitest';
import { AccessLimits } from '../../src/api/access-limits.js';
import type { AccessParts, Principal, Role } from '../../src/api/access.js';
import { ApiError } from '../../src/api/errors.js';
import type { CaptureSource } from '../../src/api/capture.js';
import type { Limits } from '../../src/api/limits.js';
import { buildApi, type Timeouts } from '../../src/api/server.js';
import type { AuditEvent } from '../../src/audit/log.js';
import type { Config } from '../../src/config/schema.js';
import { Control } from '../../src/control/control.js';
import { findMissing } from '../../src/control/status.js';
import { Transactions } from '../../src/control/transactions.js';
import { attachFlowLog } from '../../src/flowlog/attach.js';
import { EngineHost } from '../../src/engine/host.js';
import type { RunDirectory } from '../../src/supervisor/run-directory.js';
import { CONFIG } from '../control/bench.js';
import { Contract } from '../tools/contract.js';
import { makeFacts, makeFakeAddon, makeRunDirectory, silentLog, type FakeAddon } from '../engine/fake-addon.js';

export interface Answer { status: number; headers: Record<string, unknown>; text: string; body: any } // eslint-disable-line @typescript-eslint/no-explicit-any
export interface Asked { anonymous?: boolean; role?: Role; name?: string; scopes?: string; headers?: Record<string, string>; body?: unknown; raw?: string | Buffer }

export interface ApiBench {
  contract: Contract; paths: RunDirectory;
  api: FastifyInstance; control: Control; transactions: Transactions; addon: FakeAddon; host: EngineHost; audited: AuditEvent[];
  ask(method: string, path: string, asked?: Asked): Promise<Answer>;
  /** What runs. */
  config(): Config;
}

export interface BenchOptions { config?: string; /** `engine`: the tap of the engine, as control has it. */ capture?: CaptureSource | 'engine'; limits?: Limits; timeouts?: Timeouts; keep?: (stop: () => void | Promise<void>) => void }

export async function startApi({ config = CONFIG, capture, limits, timeouts, keep = (stop) => onTestFinished(stop) }: BenchOptions = {}): Promise<ApiBench> {
  const paths = makeRunDirectory(keep);
  const addon = makeFakeAddon();
  const facts = makeFacts();
  const host = new EngineHost({
    paths, open: { pinDirectory: '', bpfObject: '', workers: 2, sessionsMax: 1024, framesPerWorker: 512, txBudget: 32, busyPoll: false, offline: false, hostDevice: '' },
  }, { addon, log: silentLog, stopKernelForwarding: () => false, readFacts: () => Promise.resolve(structuredClone(facts)), readDevices: () => Promise.resolve(structuredClone(facts.devices)), prepare: () => Promise.resolve([]) });
  await host.start();
  const transactions = new Transactions(paths.configState, silentLog);
  const control = new Control(paths.engineSocket, (known, generation, slots) => transactions.compileRunning(known, generation, slots), silentLog);
  const audited: AuditEvent[] = [];
  const flowLog = attachFlowLog(control, paths, silentLog);
  const api = buildApi(control, paths, silentLog, { transactions, access: headerAccess(audited), ...(capture ? { capture: capture === 'engine' ? control.captures : capture } : {}), ...(limits ? { limits } : {}), ...(timeouts ? { timeouts } : {}) });
  await transactions.start(control);
  await transactions.takeFile(config);
  control.start();
  while (findMissing(control).length > 0) await new Promise((resolve) => setImmediate(resolve));
  keep(async () => {
    transactions.stop();
    control.stop();
    await api.close();
    await flowLog.stop();
    host.stop();
  });
  const ask = async (method: string, path: string, { anonymous = false, role = 'administrator', name, scopes, headers = {}, body, raw }: Asked = {}): Promise<Answer> => {
    const response = await api.inject({
      method: method as NonNullable<InjectOptions['method']>, url: path.startsWith('/') ? path : `/api/v1/${path}`,
      headers: { ...(anonymous ? {} : { 'x-role': role }), ...(name ? { 'x-name': name } : {}), ...(scopes ? { 'x-scopes': scopes } : {}), ...headers },
      ...(raw !== undefined ? { payload: raw } : body !== undefined ? { payload: body as object } : {}),
    });
    const isJson = /^application\/(problem\+)?json/.test(String(response.headers['content-type'] ?? ''));
    const answer = { status: response.statusCode, headers: response.headers, text: response.body, body: isJson && response.body !== '' ? response.json() as unknown : undefined };
    contract.check(method, path.startsWith('/') ? path : `/api/v1/${path}`, answer);
    return answer;
  };
  const contract = new Contract((await api.inject({ url: '/api/v1/openapi.json', headers: { 'x-role': 'viewer' } })).json());
  return { contract, paths, api, control, transactions, addon, host, audited, ask, config: () => transactions.running.config };
}

function headerAccess(audited: AuditEvent[]): AccessParts {
  const principalOf = (headers: Record<string, unknown>): Principal => {
    if (headers['x-role'] === undefined) throw new ApiError(401, 'SLUICE_AUTHENTICATION', 'say who you are');
    const name = String(headers['x-name'] ?? headers['x-role'] ?? 'nobody');
    return {
      name, via: 'token', id: `token:${String(headers['x-id'] ?? name)}`, role: headers['x-role'] as Role, scopes: headers['x-scopes'] === undefined ? undefined : String(headers['x-scopes']).split(' '),
      caller: { transport: 'internal' }, grant: headers['x-limited'] === undefined ? { kind: 'internal' } : { kind: 'token', id: name }, // the former has no rate
    };
  };
  return {
    authenticator: { authenticate: ({ headers }) => principalOf(headers) },
    audit: { append: (event) => void audited.push(event), sync: () => Promise.resolve() }, limits: new AccessLimits(), log: silentLog,
  };
}
