// Records over TCP or TLS: one connection, made again with growing delays when it breaks or stalls. Who: stream.ts, for syslog (RFC 6587
// octet counting, RFC 5425) and IPFIX (RFC 7011 section 10.4). Bounds: IN_FLIGHT_BYTES handed to the socket at a time, the rest waits in the
// queue; STALL_MS without progress ends the connection.
// A run that was handed to a connection which broke before the kernel took it whole is sent again on the next one: a receiver may see
// its first records twice, and drops the cut message at the end of the old connection.
import { readFileSync } from 'node:fs';
import { connect as connectTcp, isIP, type Socket } from 'node:net';
import { checkServerIdentity, connect as connectTls, type ConnectionOptions } from 'node:tls';
import { Backoff, Sink, type Run, type SinkLog } from './sink.js';

const IN_FLIGHT_BYTES = 512 * 1024;
const CONNECT_MS = 10_000;
const STALL_MS = 60_000;
const RETRY_MS_MIN = 250;
const RETRY_MS_MAX = 30_000;
const KEEP_ALIVE_MS = 30_000;

export interface TlsFiles { caFile?: string; certificateFile?: string; keyFile?: string; serverName?: string }

export interface ConnectionOptionsOfSink {
  host: string; port: number;
  tls?: TlsFiles;
  bufferBytes: number;
  /** What each connection starts with, like IPFIX templates. */
  greet?(): Buffer;
  retryMsMin?: number;
  stallMs?: number;
}

export class ConnectionSink extends Sink {
  private socket: Socket | undefined;
  private isReady = false;
  private retryTimer: NodeJS.Timeout | undefined;
  private stallTimer: NodeJS.Timeout | undefined;
  private readonly inFlight: Run[] = [];
  private inFlightBytes = 0;
  private readonly backoff: Backoff;

  constructor(private readonly options: ConnectionOptionsOfSink, log: SinkLog) {
    super(options.bufferBytes, log);
    this.backoff = new Backoff(options.retryMsMin ?? RETRY_MS_MIN, RETRY_MS_MAX);
    this.connect();
  }

  protected override get busy(): boolean { return super.busy || this.inFlight.length > 0; }

  private connect(): void {
    const { host, port, tls } = this.options;
    let socket: Socket;
    try {
      // Certificates are read anew each time: renewed ones need no restart.
      socket = tls ? connectTls(tlsOptions(host, port, tls)) : connectTcp({ host, port });
    } catch (error) {
      this.failed(error);
      this.retryLater();
      return;
    }
    this.socket = socket;
    const timer = setTimeout(() => socket.destroy(new Error(`no connection to ${host}:${port} within ${CONNECT_MS / 1000} s`)), CONNECT_MS);
    let failure: Error | undefined;
    socket.once(tls ? 'secureConnect' : 'connect', () => {
      clearTimeout(timer);
      socket.setKeepAlive(true, KEEP_ALIVE_MS);
      socket.setNoDelay(true);
      this.isReady = true;
      const greeting = this.options.greet?.();
      if (greeting) socket.write(greeting);
      this.came(`connected to ${host}:${port}`);
      this.pump();
    });
    socket.resume(); // what a receiver says does not interest us, and must not fill a buffer
    socket.on('error', (error) => { failure ??= error; });
    // A receiver that half-closes takes nothing more.
    socket.on('end', () => socket.destroy());
    socket.on('close', () => {
      clearTimeout(timer);
      this.onClose(socket, failure);
    });
  }

  private onClose(socket: Socket, failure: Error | undefined): void {
    if (this.socket !== socket) return;
    this.socket = undefined;
    this.isReady = false;
    clearTimeout(this.stallTimer);
    this.stallTimer = undefined;
    for (const run of this.inFlight.splice(0).reverse()) this.unshift(run);
    this.inFlightBytes = 0;
    if (this.closing) return;
    this.failed(failure ?? new Error('the receiver closed the connection'));
    this.retryLater();
  }

  private retryLater(): void {
    this.retryTimer = setTimeout(() => this.connect(), this.backoff.next());
    this.retryTimer.unref();
  }

  protected pump(): void {
    const { socket } = this;
    if (!socket || !this.isReady) return;
    while (this.inFlightBytes < IN_FLIGHT_BYTES) {
      const run = this.shift();
      if (!run) return;
      run.stamp?.(Date.now());
      this.inFlight.push(run);
      this.inFlightBytes += run.bytes.length;
      this.watch();
      socket.write(run.bytes, (error) => {
        if (error || this.socket !== socket) return; // onClose sees to it
        this.inFlight.shift();
        this.inFlightBytes -= run.bytes.length;
        clearTimeout(this.stallTimer);
        this.stallTimer = undefined;
        if (this.inFlight.length > 0) this.watch();
        this.backoff.reset();
        run.done?.();
        this.countSent(run.records);
        this.pump();
      });
    }
  }

  private watch(): void {
    if (this.stallTimer) return;
    const ms = this.options.stallMs ?? STALL_MS;
    this.stallTimer = setTimeout(() => this.socket?.destroy(new Error(`the receiver took nothing for ${ms / 1000} s`)), ms);
    this.stallTimer.unref();
  }

  protected end(): void {
    clearTimeout(this.retryTimer);
    clearTimeout(this.stallTimer);
    for (const run of this.inFlight) this.countLost(run.records);
    if (this.inFlight.length === 0 && this.isReady) this.socket?.end();
    else this.socket?.destroy();
    this.socket?.unref();
  }
}

function tlsOptions(host: string, port: number, { caFile, certificateFile, keyFile, serverName }: TlsFiles): ConnectionOptions {
  const name = serverName ?? host;
  return {
    host, port, minVersion: 'TLSv1.2',
    ...(isIP(name) ? {} : { servername: name }),
    ...(serverName === undefined ? {} : { checkServerIdentity: (_host, certificate) => checkServerIdentity(serverName, certificate) }),
    ...(caFile === undefined ? {} : { ca: readFileSync(caFile) }),
    ...(certificateFile === undefined || keyFile === undefined ? {} : { cert: readFileSync(certificateFile), key: readFileSync(keyFile) }),
  };
}
