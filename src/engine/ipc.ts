// Frames between engine and control on DIR/engine.sock: the parser, and one connection class for both ends.
// A frame: u32 length of what follows, u8 kind, u32 id, u16 length of the head, JSON head, binary tail; little-endian.
// Who: src/engine/host.ts serves, src/control/engine-client.ts asks. Thread: Node's main thread of either process.
// Bounds: FRAME_BYTES_MAX a frame, HEAD_BYTES_MAX a head, REQUESTS_MAX unanswered requests a side, UNSENT_BYTES_MAX queued
// before events are shed. Whatever breaks the format ends the connection: both ends are ours, so it is a fault, not a style.
import { createConnection, createServer, type Server, type Socket } from 'node:net';
import { chmodSync, chownSync, rmSync } from 'node:fs';

export const FRAME_BYTES_MAX = 64 * 1024 * 1024; // holds a snapshot of SL_RULES_MAX rules with their prefixes
export const HEAD_BYTES_MAX = 65535;             // its length is a u16; larger JSON travels in the tail
export const REQUESTS_MAX = 128;
export const UNSENT_BYTES_MAX = 16 * 1024 * 1024;
export const CONNECTIONS_MAX = 8;
export const REQUEST_TIMEOUT_MS = 10_000;

const FRAME_HEADER_BYTES = 4 + 1 + 4 + 2;

export const FrameKind = { REQUEST: 0, RESPONSE: 1, ERROR: 2, EVENT: 3 } as const;
export type FrameKind = (typeof FrameKind)[keyof typeof FrameKind];

export type Head = Record<string, unknown>;
export interface Frame { kind: FrameKind; id: number; head: Head; tail: Uint8Array }
export interface Message { head: Head; tail: Uint8Array }

const NO_TAIL = new Uint8Array(0);

/** An error with a code that travels: thrown on one side of the socket, it arrives as itself on the other. */
export class IpcError extends Error {
  constructor(readonly code: string, message: string) {
    super(message);
    this.name = 'IpcError';
  }
}

export function encodeFrame(kind: FrameKind, id: number, head: Head, tail: Uint8Array = NO_TAIL): Buffer {
  const json = Buffer.from(JSON.stringify(head));
  if (json.length > HEAD_BYTES_MAX) throw new IpcError('SLUICE_IPC_HEAD', `head of ${json.length} bytes; ${HEAD_BYTES_MAX} at most`);
  const length = FRAME_HEADER_BYTES - 4 + json.length + tail.length;
  if (length > FRAME_BYTES_MAX) throw new IpcError('SLUICE_IPC_FRAME', `frame of ${length} bytes; ${FRAME_BYTES_MAX} at most`);
  const frame = Buffer.allocUnsafe(4 + length);
  frame.writeUInt32LE(length, 0);
  frame.writeUInt8(kind, 4);
  frame.writeUInt32LE(id, 5);
  frame.writeUInt16LE(json.length, 9);
  json.copy(frame, FRAME_HEADER_BYTES);
  frame.set(tail, FRAME_HEADER_BYTES + json.length);
  return frame;
}

/** Splits a byte stream into frames. Throws IpcError at the first byte that breaks the format; it is of no use after that. */
export class FrameParser {
  private chunks: Buffer[] = [];
  private bytes = 0;
  private needed = 4;

  *push(chunk: Buffer): Generator<Frame> {
    this.chunks.push(chunk);
    this.bytes += chunk.length;
    while (this.bytes >= this.needed) {
      if (this.chunks.length > 1) this.chunks = [Buffer.concat(this.chunks, this.bytes)];
      const all = this.chunks[0]!;
      const length = all.readUInt32LE(0);
      if (length < FRAME_HEADER_BYTES - 4 || length > FRAME_BYTES_MAX) {
        throw new IpcError('SLUICE_IPC_FRAME', `frame length ${length}; ${FRAME_HEADER_BYTES - 4}..${FRAME_BYTES_MAX} is possible`);
      }
      this.needed = 4 + length;
      if (this.bytes < this.needed) return;
      const frame = parseFrame(all.subarray(4, this.needed));
      const rest = all.subarray(this.needed);
      this.chunks = rest.length > 0 ? [rest] : [];
      this.bytes = rest.length;
      this.needed = 4;
      yield frame;
    }
  }
}

function parseFrame(bytes: Buffer): Frame {
  const kind = bytes.readUInt8(0);
  if (kind > FrameKind.EVENT) throw new IpcError('SLUICE_IPC_FRAME', `frame kind ${kind}`);
  const headBytes = bytes.readUInt16LE(5);
  const headStart = FRAME_HEADER_BYTES - 4;
  if (headStart + headBytes > bytes.length) throw new IpcError('SLUICE_IPC_FRAME', 'head is longer than its frame');
  let head: unknown;
  try {
    head = JSON.parse(bytes.toString('utf8', headStart, headStart + headBytes));
  } catch {
    throw new IpcError('SLUICE_IPC_FRAME', 'head is not JSON');
  }
  if (typeof head !== 'object' || head === null || Array.isArray(head)) throw new IpcError('SLUICE_IPC_FRAME', 'head is not an object');
  // A copy: the tail outlives the chunk it came in, and typed readers want it aligned at its own buffer's start.
  const tail = bytes.length > headStart + headBytes ? new Uint8Array(bytes.subarray(headStart + headBytes)) : NO_TAIL;
  return { kind: kind as FrameKind, id: bytes.readUInt32LE(1), head: head as Head, tail };
}

export interface ConnectionHandlers {
  /** Answers a request: its method stands in head.method. What it throws goes back as an error frame. */
  onRequest?(method: string, message: Message): Promise<Partial<Message>> | Partial<Message>;
  onEvent?(name: string, message: Message): void;
  onClose?(error?: Error): void;
}

interface Pending { resolve(message: Message): void; reject(error: Error): void; timer: NodeJS.Timeout }

/** One end of a connection. Both ends may ask and both may send events. */
export class IpcConnection {
  private readonly parser = new FrameParser();
  private readonly pending = new Map<number, Pending>();
  private nextId = 1;
  private serving = 0;
  private closed = false;
  private failure: Error | undefined;

  constructor(private readonly socket: Socket, private readonly handlers: ConnectionHandlers) {
    socket.on('data', (chunk: Buffer) => this.receive(chunk));
    socket.on('error', (error) => { this.failure ??= error; });
    socket.on('close', () => this.finish());
  }

  get isOpen(): boolean { return !this.closed; }
  /** The other side does not read: an event would be shed. */
  get isCongested(): boolean { return this.socket.writableLength > UNSENT_BYTES_MAX; }

  request(method: string, head: Head = {}, tail?: Uint8Array, timeoutMs = REQUEST_TIMEOUT_MS): Promise<Message> {
    if (this.closed) return Promise.reject(new IpcError('SLUICE_IPC_CLOSED', 'the connection is closed'));
    if (this.pending.size >= REQUESTS_MAX) return Promise.reject(new IpcError('SLUICE_IPC_BUSY', `${REQUESTS_MAX} requests wait already`));
    const id = this.nextId;
    this.nextId = this.nextId === 0xffffffff ? 1 : this.nextId + 1;
    return new Promise((resolve, reject) => {
      let frame: Buffer;
      try {
        frame = encodeFrame(FrameKind.REQUEST, id, { ...head, method }, tail);
      } catch (error) {
        reject(error as Error);
        return;
      }
      const timer = setTimeout(() => {
        this.pending.delete(id);
        reject(new IpcError('SLUICE_IPC_TIMEOUT', `no answer to ${method} within ${timeoutMs} ms`));
      }, timeoutMs);
      timer.unref();
      this.pending.set(id, { resolve, reject, timer });
      this.socket.write(frame);
    });
  }

  /** Sends an event; false when it was shed because the other side does not read. `onUnsent`: the connection ended before the kernel had it whole. */
  event(name: string, head: Head = {}, tail?: Uint8Array, onUnsent?: () => void): boolean {
    if (this.closed || this.socket.writableLength > UNSENT_BYTES_MAX) return false;
    const frame = encodeFrame(FrameKind.EVENT, 0, { ...head, event: name }, tail);
    if (onUnsent) this.socket.write(frame, (error) => void (error && onUnsent()));
    else this.socket.write(frame);
    return true;
  }

  close(error?: Error): void {
    this.failure ??= error;
    this.socket.destroy();
  }

  private receive(chunk: Buffer): void {
    try {
      for (const frame of this.parser.push(chunk)) {
        if (this.closed || this.socket.destroyed) return;
        this.dispatch(frame);
      }
    } catch (error) {
      this.close(error as Error);
    }
  }

  private dispatch(frame: Frame): void {
    switch (frame.kind) {
      case FrameKind.REQUEST: void this.serve(frame); return;
      case FrameKind.EVENT:
        if (typeof frame.head['event'] === 'string') this.handlers.onEvent?.(frame.head['event'], frame);
        return;
      case FrameKind.RESPONSE:
      case FrameKind.ERROR: {
        const pending = this.pending.get(frame.id);
        if (!pending) return; // it timed out
        this.pending.delete(frame.id);
        clearTimeout(pending.timer);
        if (frame.kind === FrameKind.RESPONSE) pending.resolve(frame);
        else pending.reject(new IpcError(String(frame.head['code'] ?? 'SLUICE_INTERNAL'), String(frame.head['message'] ?? 'unknown error')));
      }
    }
  }

  private async serve(frame: Frame): Promise<void> {
    const method = typeof frame.head['method'] === 'string' ? frame.head['method'] : '';
    this.serving += 1;
    let answer: Buffer;
    try {
      if (this.serving > REQUESTS_MAX) throw new IpcError('SLUICE_IPC_BUSY', `${REQUESTS_MAX} requests wait already`);
      if (!this.handlers.onRequest) throw new IpcError('SLUICE_IPC_METHOD', 'this side answers no requests');
      const { head = {}, tail } = await this.handlers.onRequest(method, frame);
      answer = encodeFrame(FrameKind.RESPONSE, frame.id, head, tail);
    } catch (error) {
      answer = encodeFrame(FrameKind.ERROR, frame.id, { code: errorCode(error), message: errorMessage(error).slice(0, 8192) });
    } finally {
      this.serving -= 1;
    }
    if (!this.closed) this.socket.write(answer);
  }

  private finish(): void {
    if (this.closed) return;
    this.closed = true;
    for (const { reject, timer } of this.pending.values()) {
      clearTimeout(timer);
      reject(new IpcError('SLUICE_IPC_CLOSED', this.failure ? `the connection broke: ${this.failure.message}` : 'the connection closed'));
    }
    this.pending.clear();
    this.handlers.onClose?.(this.failure);
  }
}

export function errorCode(error: unknown): string {
  const code = (error as { code?: unknown } | null)?.code;
  return typeof code === 'string' ? code : 'SLUICE_INTERNAL';
}

export function errorMessage(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** Listens on a Unix socket; a stale one of that name is replaced. `gid`: the group that may connect beside root. */
export function listenIpc(path: string, accept: (socket: Socket) => void, gid?: number): Promise<Server> {
  rmSync(path, { force: true });
  const server = createServer(accept);
  server.maxConnections = CONNECTIONS_MAX;
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    const umask = process.umask(0o177); // closed from its first moment on
    server.listen(path, () => {
      process.umask(umask);
      if (gid !== undefined) {
        chownSync(path, -1, gid);
        chmodSync(path, 0o660);
      }
      resolve(server);
    });
  });
}

export function connectIpc(path: string, handlers: ConnectionHandlers): Promise<IpcConnection> {
  return new Promise((resolve, reject) => {
    const socket = createConnection(path);
    socket.once('error', reject);
    socket.once('connect', () => {
      socket.off('error', reject);
      resolve(new IpcConnection(socket, handlers));
    });
  });
}
