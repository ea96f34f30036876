// The HTTPS listener of the API: TLS 1.3 alone, certificates taken over without a restart, bounds on what connections may cost. Who:
// access-service.ts opens one for each `api.listen`; requests go to the API's own router. Thread: Node's main thread of control.
// No tickets: a resumed session would keep a client certificate's verdict beyond the CA that gave it. Files are looked at every WATCH_MS.
// Bounds: connections in all and of one address (IPv6: of its /64), HANDSHAKE_MS, HEADERS_MS, REQUEST_MS, IDLE_MS, HEADER_BYTES_MAX.
import { constants } from 'node:crypto';
import { readFileSync, statSync } from 'node:fs';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer, type Server } from 'node:https';
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import type { SecureContextOptions } from 'node:tls';
import type { ApiConfig } from '../config/schema-api.js';
import type { Log } from '../supervisor/log.js';
import { plainAddress } from './access-identity.js';
import { networkOf } from './access-limits.js';
import { ApiError, toProblemDetails } from './errors.js';
import { givenCertificate, ownCertificate, TlsError, type CertificateFiles } from './tls-certificate.js';

const HANDSHAKE_MS = 5000;
const HEADERS_MS = 5000;
const REQUEST_MS = 60_000;
const IDLE_MS = 120_000;
const KEEP_ALIVE_MS = 15_000;
const CHECKING_MS = 500;
const HEADER_BYTES_MAX = 16 * 1024;
const HEADERS_MAX = 100;
const CLOSE_MS = 5000;
const WATCH_MS = 5000;
const RENEWAL_MS = 3600_000;
export const CONNECTIONS_DEFAULT = 512;
export const CONNECTIONS_PER_ADDRESS_DEFAULT = 64;

export interface ListenAddress { host: string; port: number }
/** "127.0.0.1:8443" or "[::1]:8443", whose form the schema has checked. */
export function parseListen(text: string): ListenAddress {
  const colon = text.lastIndexOf(':');
  return { host: text.slice(0, colon).replace(/^\[|\]$/g, ''), port: Number(text.slice(colon + 1)) };
}

/** Where the certificate comes from, and what its names are when it is our own. */
export interface CertificatePlan { tls: ApiConfig['tls']; clients: ApiConfig['clients']; directory: string; hostname: string; names: readonly string[] }

/** `warning`: it can be used, and should not be for long. */
export interface Material { context: SecureContextOptions; files: string[]; warning?: string }

/** Reads or makes what the listener needs. Throws TlsError. */
export async function loadMaterial({ tls, clients, directory, hostname, names }: CertificatePlan): Promise<Material> {
  const { certificate, key, expired }: CertificateFiles & { expired?: string } = tls ? givenCertificate(tls.certificateFile, tls.keyFile) : await ownCertificate(directory, hostname, names);
  const read = (path: string): string => {
    try {
      return readFileSync(path, 'utf8');
    } catch (error) {
      throw new TlsError(`${path}: ${(error as Error).message}`, 'name a PEM file that the user of the control process may read');
    }
  };
  return {
    context: { cert: certificate, key, ...(clients ? { ca: read(clients.caFile), ...(clients.crlFile ? { crl: read(clients.crlFile) } : {}) } : {}) },
    // An expired one still lets in who insists; none would let in nobody.
    ...(expired === undefined ? {} : { warning: `${tls!.certificateFile} expired on ${expired}; renew it` }),
    files: [...(tls ? [tls.certificateFile, tls.keyFile] : []), ...(clients ? [clients.caFile, ...(clients.crlFile ? [clients.crlFile] : [])] : [])],
  };
}

export interface ListenerParts {
  route(request: IncomingMessage, response: ServerResponse): void;
  /** Called with the server before it listens. */
  onServer(server: Server): void;
  /** The CA or revocation list of clients changed: what the old ones proved counts no more. */
  onClientsChanged(): void;
  log: Log;
}

export class HttpsListener {
  /** Connections closed because there were too many. */
  refused = 0;
  readonly server: Server;
  /** Set while files on disk cannot be used; the last good ones stay in use. */
  problem: string | undefined;
  private connectionsPerAddress = CONNECTIONS_PER_ADDRESS_DEFAULT;
  private readonly perAddress = new Map<string, number>();
  private readonly sockets = new Set<Socket>();
  private watcher: NodeJS.Timeout | undefined;
  private fingerprint = '';
  private renewedMs = performance.now();

  constructor(readonly address: ListenAddress, private plan: CertificatePlan, private material: Material, private readonly parts: ListenerParts) {
    this.server = createServer({
      ...material.context, ...TLS_OPTIONS, requestCert: plan.clients !== undefined, rejectUnauthorized: false, handshakeTimeout: HANDSHAKE_MS,
      headersTimeout: HEADERS_MS, requestTimeout: REQUEST_MS, keepAliveTimeout: KEEP_ALIVE_MS, connectionsCheckingInterval: CHECKING_MS, maxHeaderSize: HEADER_BYTES_MAX,
      requireHostHeader: true,
    }, (request, response) => parts.route(request, response));
    this.server.timeout = IDLE_MS;
    this.server.maxHeadersCount = HEADERS_MAX;
    this.server.on('connection', (socket: Socket) => this.admit(socket));
    this.server.on('drop', () => { this.refused += 1; });
    this.server.on('clientError', answerBroken);
    parts.onServer(this.server);
    this.fingerprint = fingerprintOf(material.files);
    this.problem = material.warning;
  }

  get requestsCertificates(): boolean { return this.plan.clients !== undefined; }

  /** Rejects with the system's error when the address cannot be had. */
  listen(): Promise<void> {
    return new Promise((resolve, reject) => {
      this.server.once('error', reject);
      this.server.listen({ ...this.address, exclusive: true }, () => {
        this.server.removeListener('error', reject);
        this.server.on('error', (error) => this.parts.log.error({ err: error }, 'the HTTPS listener failed'));
        this.watcher = setInterval(() => void this.refresh(), WATCH_MS).unref();
        resolve();
      });
    });
  }

  setLimits(limits: ApiConfig['limits']): void {
    this.server.maxConnections = limits?.connections ?? CONNECTIONS_DEFAULT;
    this.connectionsPerAddress = limits?.connectionsPerAddress ?? CONNECTIONS_PER_ADDRESS_DEFAULT;
  }

  /** New certificates for connections to come. */
  use(plan: CertificatePlan, material: Material): void {
    const clientsChanged = String(material.context.ca) !== String(this.material.context.ca) || String(material.context.crl) !== String(this.material.context.crl);
    this.server.setSecureContext({ ...material.context, ...TLS_OPTIONS });
    this.plan = plan;
    this.material = material;
    this.problem = material.warning;
    this.fingerprint = fingerprintOf(material.files);
    if (clientsChanged) this.parts.onClientsChanged();
  }

  /** Takes over what stands in the files now. Bad files are said, and change nothing. */
  async refresh(): Promise<void> {
    const fingerprint = fingerprintOf(this.material.files);
    const isDue = this.plan.tls === undefined && performance.now() - this.renewedMs > RENEWAL_MS;
    if (fingerprint === this.fingerprint && !isDue) return;
    this.renewedMs = performance.now();
    const { plan } = this;
    try {
      const material = await loadMaterial(plan);
      if (plan !== this.plan) return; // configured anew meanwhile
      const isNew = JSON.stringify(material.context) !== JSON.stringify(this.material.context);
      this.use(plan, material);
      if (isNew) this.parts.log.info('the API uses new certificates');
    } catch (error) {
      this.fingerprint = fingerprint; // said once; looked at again when the files change again
      this.problem = (error as Error).message;
      this.parts.log.error({ remedy: (error as Partial<TlsError>).remedy }, `the API keeps its certificates: ${this.problem}`);
    }
  }

  /** Stops listening at once; requests that are being worked on have CLOSE_MS to end. */
  async close(): Promise<void> {
    clearInterval(this.watcher);
    if (!this.server.listening) return;
    const closed = new Promise<void>((resolve) => this.server.close(() => resolve()));
    this.server.closeIdleConnections();
    const timer = setTimeout(() => { for (const socket of this.sockets) socket.destroy(); }, CLOSE_MS).unref();
    await closed;
    clearTimeout(timer);
  }

  private admit(socket: Socket): void {
    const address = networkOf(plainAddress(socket.remoteAddress ?? ''));
    const count = (this.perAddress.get(address) ?? 0) + 1;
    if (count > this.connectionsPerAddress) {
      this.refused += 1;
      socket.destroy();
      return;
    }
    this.perAddress.set(address, count);
    this.sockets.add(socket);
    socket.once('close', () => {
      this.sockets.delete(socket);
      const left = (this.perAddress.get(address) ?? 1) - 1;
      if (left > 0) this.perAddress.set(address, left);
      else this.perAddress.delete(address);
    });
  }
}

const TLS_OPTIONS = { minVersion: 'TLSv1.3', maxVersion: 'TLSv1.3', secureOptions: constants.SSL_OP_NO_TICKET } as const;

/** What is no HTTP, or comes too slowly: a problem, then the end of the connection. */
function answerBroken(error: NodeJS.ErrnoException, socket: Duplex): void {
  if (!socket.writable || !/^(HPE_|ERR_HTTP_)/.test(error.code ?? '')) { // and all that TLS itself finds wrong
    socket.destroy();
    return;
  }
  const problem = toProblemDetails(error.code?.startsWith('HPE_') && error.code !== 'HPE_HEADER_OVERFLOW' ? new ApiError(400, 'SLUICE_API_REQUEST', 'this is no HTTP/1.1 request') : error);
  const status = problem.status === 500 ? 400 : problem.status;
  const body = JSON.stringify({ ...problem, status });
  socket.end(`HTTP/1.1 ${status} Refused\r\ncontent-type: application/problem+json\r\ncontent-length: ${Buffer.byteLength(body)}\r\nconnection: close\r\n\r\n${body}`);
}

function fingerprintOf(files: readonly string[]): string {
  return files.map((path) => {
    try {
      const { mtimeMs, size, ino } = statSync(path);
      return `${mtimeMs} ${size} ${ino}`;
    } catch {
      return 'missing';
    }
  }).join();
}
