// Records over UDP: a message a datagram. Who: stream.ts, for syslog (RFC 5426) and IPFIX (RFC 7011 section 10.3). Nobody answers, so what
// the network loses is not seen here; what the kernel refuses is counted. Bound: IN_FLIGHT_MAX datagrams given to the kernel at a time.
import { createSocket, type Socket } from 'node:dgram';
import { lookup as lookupName } from 'node:dns';
import { Backoff, Sink, type Run, type SinkLog } from './sink.js';

const IN_FLIGHT_MAX = 256;
const RETRY_MS_MIN = 250;
const RETRY_MS_MAX = 30_000;
const SEND_BUFFER_BYTES = 4 * 1024 * 1024;

export interface DatagramOptions {
  host: string; port: number; bufferBytes: number;
  lookup?(host: string, done: (error: Error | null, address: string, family: number) => void): void;
  /** What is sent first and every so often, like IPFIX templates. */
  repeat?: { message(nowMs: number): Buffer; everyMs: number };
}

export class DatagramSink extends Sink {
  private socket: Socket | undefined;
  private isReady = false;
  private inFlight = 0;
  private current: { run: Run; next: number } | undefined;
  private retryTimer: NodeJS.Timeout | undefined;
  private repeatTimer: NodeJS.Timeout | undefined;
  private readonly backoff = new Backoff(RETRY_MS_MIN, RETRY_MS_MAX);

  constructor(private readonly options: DatagramOptions, log: SinkLog) {
    super(options.bufferBytes, log);
    this.open();
  }

  protected override get busy(): boolean { return super.busy || this.inFlight > 0 || this.current !== undefined; }

  /** A socket has one family: the name's first address decides. */
  private open(): void {
    const { host, lookup = lookupName } = this.options;
    lookup(host, (error, address, family) => {
      if (this.closing) return;
      if (error) this.failLater(error);
      else this.connect(address, family === 6);
    });
  }

  private connect(address: string, isIpv6: boolean): void {
    const { host, port } = this.options;
    const socket = createSocket({ type: isIpv6 ? 'udp6' : 'udp4' });
    this.socket = socket;
    socket.unref();
    socket.on('error', (error) => this.fail(socket, error));
    // Connected: an ICMP error (port unreachable) comes back as an error of a send, and no address is looked up a datagram.
    socket.connect(port, address, (error?: Error) => {
      if (this.socket !== socket || this.closing) return;
      if (error) {
        this.fail(socket, error);
        return;
      }
      try {
        socket.setSendBufferSize(SEND_BUFFER_BYTES);
      } catch { /* the system's limit is lower; its own size will do */ }
      this.isReady = true;
      const { repeat } = this.options;
      if (repeat) {
        const send = (): void => socket.send(repeat.message(Date.now()), () => undefined);
        send();
        this.repeatTimer = setInterval(send, repeat.everyMs);
        this.repeatTimer.unref();
      }
      this.came(`sending to ${host}:${port}`);
      this.pump();
    });
  }

  private fail(socket: Socket, error: Error): void {
    if (this.socket !== socket) return;
    this.shut();
    this.failLater(error);
  }

  private failLater(error: Error): void {
    this.failed(error);
    if (this.closing) return;
    this.retryTimer = setTimeout(() => this.open(), this.backoff.next());
    this.retryTimer.unref();
  }

  private shut(): void {
    const { socket } = this;
    this.socket = undefined;
    this.isReady = false;
    clearInterval(this.repeatTimer);
    try {
      socket?.close();
    } catch { /* it never was open */ }
  }

  protected pump(): void {
    const { socket } = this;
    if (!socket || !this.isReady) return;
    while (this.inFlight < IN_FLIGHT_MAX) {
      if (!this.current) {
        const run = this.shift();
        if (!run) return;
        run.stamp?.(Date.now());
        this.current = { run, next: 0 };
      }
      const { run, next } = this.current;
      const ends = run.ends ?? [run.bytes.length];
      const records = run.records / ends.length; // a message a record, or one message of all
      const from = next === 0 ? 0 : ends[next - 1]!;
      this.inFlight += 1;
      socket.send(run.bytes, from, ends[next]! - from, (error) => {
        this.inFlight -= 1;
        if (error) {
          this.countLost(records);
          this.failed(error); // the next send may do: it is no connection
        } else {
          this.backoff.reset();
          if (!this.connected && this.isReady) this.came(`sending to ${this.options.host}:${this.options.port}`);
          this.countSent(records);
        }
        this.pump();
      });
      if (next + 1 === ends.length) this.current = undefined;
      else this.current.next = next + 1;
    }
  }

  protected end(): void {
    clearTimeout(this.retryTimer);
    this.shut();
    if (!this.current) return;
    const { run, next } = this.current;
    const messages = run.ends?.length ?? 1;
    this.countLost(run.records / messages * (messages - next)); // those that were given to the kernel are counted when it answers
    this.current = undefined;
  }
}
