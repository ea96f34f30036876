// Access as a whole: identities, limits, audit log and the HTTPS listener, kept as the configuration says. Who: src/control/process.ts makes
// one, gives it to src/api/server.ts (it is the AccessParts of protectRoutes, and adds its own routes), and calls `configure` with what is
// in force; commits ask `prepare` first, so that a listener that cannot be had is found before anything is changed. Thread: Node's main one.
// An address that is not there yet (the engine may still have to set it) is tried again every RETRY_MS; what is taken by another program is an error.
import { chmodSync, chownSync, lchownSync, mkdirSync, readdirSync, statSync } from 'node:fs';
import type { Server as HttpsServer } from 'node:https';
import { hostname as machineName, networkInterfaces } from 'node:os';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import type { FastifyInstance } from 'fastify';
import { AuditLog, type AuditEvent } from '../audit/log.js';
import type { ApiConfig } from '../config/schema-api.js';
import { asList } from '../config/schema-parts.js';
import type { Config } from '../config/schema.js';
import type { CommitRequest, Follower, Revision } from '../control/transaction-types.js';
import type { Log } from '../supervisor/log.js';
import type { RunDirectory } from '../supervisor/run-directory.js';
import { Identity } from './access-identity.js';
import { AccessLimits, RATES_DEFAULT } from './access-limits.js';
import { loadPeerReader, type ReadPeer } from './access-peer.js';
import { refuseLockOut } from './access-lockout.js';
import { registerAccessRoutes } from './access-routes.js';
import { requestOf, requireNoScopes, type AccessParts } from './access.js';
import { ApiError } from './errors.js';
import { Oidc } from './oidc.js';
import { TlsError } from './tls-certificate.js';
import { HttpsListener, loadMaterial, parseListen, type CertificatePlan, type ListenAddress, type Material } from './tls.js';
import { TokenStore } from './tokens.js';

const RETRY_MS = 1000;
const SETTLE_MS = 10_000;
/** These pass by themselves: the address is not there yet, or an earlier control still holds the port. */
const PASSING = new Set(['EADDRNOTAVAIL', 'EADDRINUSE']);

export interface Owner { uid: number; gid: number }
export interface AccessOptions { paths: RunDirectory; log: Log; owner?: Owner | undefined; readPeer?: ReadPeer }

/** A configuration whose listener, certificates and issuer have been looked at. One of the two is called. */
export interface Prepared { commit(): Promise<void>; abandon(): Promise<void> }

interface Wanted { api: ApiConfig; plan: CertificatePlan | undefined; material: Material | undefined; oidc: Oidc | undefined; opened: HttpsListener | undefined }

export class Access implements AccessParts, Follower {
  readonly limits = new AccessLimits();
  readonly audit: AuditLog;
  readonly tokens: TokenStore;
  readonly authenticator: Identity;
  readonly log: Log;
  /** Why HTTPS does not answer as configured, for people. */
  problem: string | undefined;
  resources: ReadonlySet<string> = new Set();
  private readonly paths: RunDirectory;
  private api: FastifyInstance | undefined;
  private config: ApiConfig = {};
  private listener: HttpsListener | undefined;
  private retry: NodeJS.Timeout | undefined;
  private readonly settling: NodeJS.Timeout;
  private changing: Promise<void> = Promise.resolve();
  private stopped = false;

  /** Must run while control is still root: the state directories become `owner`'s. */
  constructor({ paths, log, owner, readPeer = loadPeerReader() }: AccessOptions) {
    this.paths = paths;
    this.log = log;
    for (const directory of [paths.auditState, paths.apiState]) mkdirSync(directory, { recursive: true, mode: 0o700 });
    // A full disk must not keep control from starting: then nothing can be changed, and everything else goes on.
    this.audit = AuditLog.open(paths.auditState, { failed: (error) => log.error({ code: error.code }, `${error.message}; until then nothing can be changed`) });
    this.tokens = new TokenStore(join(paths.apiState, 'tokens.json'));
    if (this.tokens.damage !== undefined) log.error(`no API token is valid: ${join(paths.apiState, 'tokens.json')} is damaged (${this.tokens.damage})`);
    if (owner) giveAway(paths, owner);
    this.authenticator = new Identity({ tokens: this.tokens, limits: this.limits, readPeer, log });
    this.settling = setInterval(() => this.limits.settleRefusals((event) => this.record(event)), SETTLE_MS).unref();
  }

  // ---- the API's side -----------------------------------------------------------------------------------------------

  attach(api: FastifyInstance, resources: ReadonlySet<string>): void {
    this.api = api;
    this.resources = resources;
    this.authenticator.acceptSocket(api.server);
    api.register((own, _options, done) => {
      registerAccessRoutes(own, this);
      done();
    });
  }

  /** Headers for what control asks of itself with `inject`. */
  get internalHeaders(): { authorization: string } { return { authorization: this.authenticator.internalAuthorization }; }

  /** The socket's file exists and has its final group. */
  socketIsReady(): void { this.openSocketTo(this.config); }

  /** A line of control's own: a rollback by itself, a restart. Never throws. */
  record(event: AuditEvent): void {
    try {
      this.audit.append(event);
    } catch (error) {
      this.log.error({ err: error }, 'the audit log cannot be written');
    }
  }

  get view(): { listen: string | null; problem: string | null; refusedConnections: number; certificateProblem: string | null } {
    const { listener } = this;
    const address = listener?.server.listening ? listener.address : undefined;
    return {
      listen: address ? `${address.host.includes(':') ? `[${address.host}]` : address.host}:${address.port}` : null, problem: this.problem ?? null,
      refusedConnections: listener?.refused ?? 0, certificateProblem: listener?.problem ?? null,
    };
  }

  // ---- the configuration's side -------------------------------------------------------------------------------------

  /** Looks whether a configuration's `api` section can be had, whether who asks may change it, and whether it would cut them off. Throws ApiError 403 or 409 with what would be right. */
  async prepare(config: Config, before?: Config, request?: CommitRequest): Promise<Prepared> {
    const asker = request && requestOf(request.by);
    if (before && asker && !isDeepStrictEqual(before.api, config.api)) requireNoScopes(asker.principal, 'section api', '/api');
    if (before && request) refuseLockOut(request, before, config);
    // What this file looks at stays as it is: if it cannot be had now, that is no reason against a change of something else.
    if (before && same(relevant(before), relevant(config))) return { commit: () => Promise.resolve(), abandon: () => Promise.resolve() };
    try {
      const wanted = await this.load(config);
      return { commit: () => this.enqueue(() => this.put(wanted)), abandon: async () => { await wanted.opened?.close(); } };
    } catch (error) {
      if (error instanceof TlsError) throw new ApiError(409, error.code, `${error.message}; ${error.remedy}`, '/api/tls');
      throw error;
    }
  }

  /** Puts in force whatever of it can be had; what cannot is said and tried again. Never throws: at the start there is nobody to tell. */
  configure(config: Config): Promise<void> {
    return this.enqueue(async () => {
      try {
        await this.put(await this.load(config));
      } catch (error) {
        this.say(`HTTPS is not as configured: ${(error as Error).message}`);
        // Who may what counts at once, also where the listener cannot be had: nobody keeps a role that was taken away.
        this.take(config.api ?? {}, this.authenticator.oidc);
        if (config.api?.listen === undefined) void this.closeListener();
        this.again(() => this.configure(config));
      }
    });
  }

  changed({ revision, by, action, changes }: Pick<Revision, 'revision' | 'by' | 'action' | 'changes'>): void {
    this.record({ event: 'system', by: { name: by.name, via: by.via }, detail: { what: 'configuration in force', revision, action, changes } });
  }

  async stop(): Promise<void> {
    this.stopped = true;
    clearTimeout(this.retry);
    clearInterval(this.settling);
    await this.changing.catch(() => undefined);
    await this.closeListener();
    this.limits.settleRefusals((event) => this.record(event), true);
    this.tokens.stop();
    this.audit.close();
  }

  private async load(config: Config): Promise<Wanted> {
    const api = config.api ?? {};
    const oidc = api.oidc === undefined ? undefined : same(api.oidc, this.authenticator.oidc?.config) ? this.authenticator.oidc : openOidc(api.oidc);
    if (api.listen === undefined) return { api, plan: undefined, material: undefined, oidc, opened: undefined };
    const address = parseListen(api.listen);
    const hostname = config.hostname ?? machineName();
    const plan: CertificatePlan = { tls: api.tls, clients: api.clients, directory: join(this.paths.apiState, 'tls'), hostname, names: certificateNames(config, hostname, address) };
    const material = await loadMaterial(plan);
    let opened: HttpsListener | undefined;
    if (!this.listener || !overlap(this.listener.address, address)) {
      opened = this.makeListener(address, plan, material);
      await opened.listen().catch((error: NodeJS.ErrnoException) => {
        opened = undefined;
        if (error.code === 'EADDRNOTAVAIL') return; // maybe the engine sets it in a moment: put() tries on
        throw new ApiError(409, 'SLUICE_API_LISTEN', `the API cannot listen on ${api.listen}: ${listenReason(error)}`, '/api/listen');
      });
    }
    return { api, plan, material, oidc, opened };
  }

  private async put({ api, plan, material, oidc, opened }: Wanted): Promise<void> {
    clearTimeout(this.retry);
    if (this.stopped) {
      await opened?.close();
      return;
    }
    this.take(api, oidc);
    if (!plan || !material) {
      this.problem = undefined;
      void this.closeListener(); // never waited for: the request that asks for this may have come by it
      return;
    }
    const address = parseListen(api.listen!);
    const current = this.listener;
    if (opened) {
      this.listener = opened;
      void current?.close(); // its last requests end by themselves
    } else if (current && same(current.address, address) && current.requestsCertificates === (plan.clients !== undefined)) {
      current.use(plan, material);
    } else {
      void current?.close();
      this.listener = undefined;
      const next = this.makeListener(address, plan, material);
      try {
        await next.listen();
        this.listener = next;
      } catch (error) {
        const isPassing = PASSING.has((error as NodeJS.ErrnoException).code ?? '');
        this.say(`the API cannot listen on ${api.listen}${isPassing ? ' yet' : ''}: ${listenReason(error as NodeJS.ErrnoException)}`, isPassing ? 'warn' : 'error');
        if (isPassing) this.again(() => this.enqueue(() => this.put({ api, plan, material, oidc, opened: undefined })));
        return;
      }
    }
    this.listener!.setLimits(api.limits);
    this.problem = undefined;
    if (material.warning !== undefined) this.log.warn(material.warning);
    if (this.listener !== current) this.log.info({ listen: api.listen }, 'the API listens on HTTPS');
  }

  private take(api: ApiConfig, oidc: Oidc | undefined): void {
    this.config = api;
    this.authenticator.configure(api);
    this.authenticator.oidc = api.oidc === undefined ? undefined : oidc;
    this.limits.settings = { ...RATES_DEFAULT, ...api.limits };
    this.openSocketTo(api);
  }

  /** With roles for users by name the socket is open to all, and the kernel says who comes; else to its group alone. */
  private openSocketTo({ socket }: ApiConfig): void {
    try {
      this.authenticator.socketGid = statSync(this.paths.apiSocket).gid;
      chmodSync(this.paths.apiSocket, socket?.users || socket?.groups ? 0o666 : 0o660);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') this.log.warn({ err: error }, 'the rights of the API socket could not be set');
    }
  }

  private makeListener(address: ListenAddress, plan: CertificatePlan, material: Material): HttpsListener {
    const { api } = this;
    if (!api) throw new Error('the API comes first: give this to protectRoutes');
    const listener = new HttpsListener(address, plan, material, {
      route: (request, response) => api.routing(request, response),
      onServer: (server: HttpsServer) => this.authenticator.acceptTls(server),
      onClientsChanged: () => { this.authenticator.clientsEpoch += 1; },
      log: this.log,
    });
    listener.setLimits(this.config.limits);
    return listener;
  }

  private async closeListener(): Promise<void> {
    const { listener } = this;
    this.listener = undefined;
    await listener?.close();
  }

  private enqueue(work: () => Promise<void>): Promise<void> {
    const next = this.changing.then(work);
    this.changing = next.catch(() => undefined);
    return next;
  }

  private again(work: () => Promise<void>): void {
    if (this.stopped) return;
    clearTimeout(this.retry);
    this.retry = setTimeout(() => void work().catch((error: unknown) => this.log.error({ err: error }, 'the HTTPS listener')), RETRY_MS).unref();
  }

  private say(problem: string, level: 'warn' | 'error' = 'error'): void {
    if (problem !== this.problem) this.log[level](problem);
    this.problem = problem;
  }
}

function giveAway(paths: RunDirectory, { uid, gid }: Owner): void {
  for (const directory of [paths.auditState, paths.apiState]) {
    for (const name of readdirSync(directory)) lchownSync(join(directory, name), uid, gid);
    chownSync(directory, uid, gid);
  }
  const tls = join(paths.apiState, 'tls');
  try {
    for (const name of readdirSync(tls)) lchownSync(join(tls, name), uid, gid);
  } catch { /* not made yet */ }
  // Control's own parts lie in it; what it may not read there has modes of its own.
  chmodSync(paths.state, statSync(paths.state).mode & 0o7777 | 0o011);
}

function openOidc(config: NonNullable<ApiConfig['oidc']>): Oidc {
  try {
    return new Oidc(config);
  } catch (error) {
    throw new ApiError(409, 'SLUICE_API_TLS', `${config.caFile}: ${(error as Error).message}; name a PEM file that the user of the control process may read`, '/api/oidc/caFile');
  }
}

/** What clients may call the appliance: its host name, what the configuration adds, and the address they connect to. */
function certificateNames(config: Config, hostname: string, { host }: ListenAddress): string[] {
  const isAny = host === '0.0.0.0' || host === '::';
  const configured = [...Object.values(config.interfaces ?? {}), ...Object.values(config.wireguard ?? {})].flatMap((one) => asList<string>(one.addresses)).map((address) => address.split('/')[0]!);
  const found = Object.values(networkInterfaces()).flatMap((addresses) => addresses ?? []).map(({ address }) => address);
  return [hostname, ...asList<string>(config.api?.names), ...(isAny ? [...configured, ...found] : [host])].filter((name) => !name.startsWith('fe80:'));
}

/** What of a configuration this file looks at. */
const relevant = (config: Config): unknown => [config.api, config.hostname, config.api?.listen && certificateNames(config, '', parseListen(config.api.listen))];

function overlap(a: ListenAddress, b: ListenAddress): boolean {
  const isAny = ({ host }: ListenAddress): boolean => host === '0.0.0.0' || host === '::';
  return a.port === b.port && (a.host === b.host || isAny(a) || isAny(b));
}

function listenReason({ code, message }: NodeJS.ErrnoException): string {
  if (code === 'EADDRINUSE') return 'another program has it; choose another port, or end that program';
  if (code === 'EADDRNOTAVAIL') return 'no interface has this address';
  if (code === 'EACCES') return 'control may not use ports below 1024; choose a higher one';
  return message;
}

const same = (a: unknown, b: unknown): boolean => JSON.stringify(a) === JSON.stringify(b);
