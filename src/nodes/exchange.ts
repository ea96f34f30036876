// How two nodes talk: HTTPS, TLS 1.3 alone, each end with the certificate of its identity key; a POST of a Message, answered by one. Who:
// src/nodes/trusted.ts, link.ts. Thread: control's main one. Nobody's CA, name or date counts: the handshake proves that the other end has the private key
// of its certificate (RFC 8446 section 4.4.3), and that key is the id which the configuration names, or the connection ends before a byte of HTTP.
// Why one request for both ways: whoever can reach the other, be it only one of the two, keeps both up to date.
// Bounds: MESSAGE_BYTES_MAX, CONNECTIONS_MAX, WORKING_MAX requests of a node at a time, times for handshake, request and answer. No tickets:
// a resumed connection would outlive the id's removal.
import { constants } from 'node:crypto';
import { request as httpRequest, type IncomingMessage, type ServerResponse } from 'node:http';
import { createServer, type Server } from 'node:https';
import { isIP, type Socket } from 'node:net';
import { connect, type TLSSocket } from 'node:tls';
import { Type } from '@sinclair/typebox';
import { Value } from '@sinclair/typebox/value';
import { nodeIdOf, type NodeIdentity } from './identity.js';
import type { SignedRecord } from './record.js';

export const EXCHANGE_PATH = '/node/v1/record';
export const REASON_CHARACTERS_MAX = 300;
const MESSAGE_BYTES_MAX = 64 * 1024;
const CONNECTIONS_MAX = 256;
const WORKING_MAX = 2;
const HANDSHAKE_MS = 5000;
const REQUEST_MS = 5000;
const CHECKING_MS = 500;
const ANSWER_MS = 15_000;
const HEADER_BYTES_MAX = 4096;
const TLS_OPTIONS = { minVersion: 'TLSv1.3', maxVersion: 'TLSv1.3', secureOptions: constants.SSL_OP_NO_TICKET, rejectUnauthorized: false } as const; // we judge ourselves, see above

const MessageSchema = Type.Object({
  have: Type.Union([Type.Null(), Type.Integer({ minimum: 1, maximum: Number.MAX_SAFE_INTEGER })]),
  record: Type.Union([Type.Null(), Type.Object({})]), // record.ts looks into it
  refused: Type.Union([Type.Null(), Type.String({ maxLength: REASON_CHARACTERS_MAX })]),
}, { additionalProperties: false });

/**
 * `have`: the sequence of your record that is in force at my end. `record`: mine, null when you have it already. `refused`: why I did not
 * take your last one, for your log.
 */
export interface Message { have: number | null; record: SignedRecord | null; refused: string | null }

export class ExchangeError extends Error {
  readonly code = 'SLUICE_NODE_EXCHANGE';
}

/** The record in it is judged later, by record.ts. Throws ExchangeError. */
function parseMessage(text: string): Message {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new ExchangeError('the message is no JSON');
  }
  if (!Value.Check(MessageSchema, value)) throw new ExchangeError('the message is not {have, record, refused}');
  return value as Message;
}

const idOfSocket = (socket: TLSSocket): string | undefined => {
  const key = socket.getPeerX509Certificate()?.publicKey;
  return key && nodeIdOf(key);
};

// ---- the side that is called --------------------------------------------------------------------------------------------

export interface ListenerParts {
  identity: NodeIdentity;
  /** Asked at each connection and each request: an id may have been taken out of the configuration. */
  isKnown(id: string): boolean;
  answer(id: string, message: Message): Promise<Message>;
  /** Somebody without a known identity was sent away. */
  onStranger(address: string, id: string | undefined): void;
  onError(error: Error): void;
}

export class NodeListener {
  private readonly server: Server;
  private readonly working = new Map<string, number>();
  private readonly sockets = new Set<Socket>();

  constructor(readonly address: { host: string; port: number }, private readonly parts: ListenerParts) {
    const { key, certificate } = parts.identity;
    this.server = createServer({
      ...TLS_OPTIONS, key, cert: certificate, requestCert: true, handshakeTimeout: HANDSHAKE_MS, maxHeaderSize: HEADER_BYTES_MAX,
      headersTimeout: REQUEST_MS, requestTimeout: REQUEST_MS, keepAliveTimeout: 1, connectionsCheckingInterval: CHECKING_MS,
    }, (request, response) => void this.serve(request, response));
    this.server.timeout = ANSWER_MS;
    this.server.maxConnections = CONNECTIONS_MAX;
    this.server.prependListener('secureConnection', (socket: TLSSocket) => {
      const id = idOfSocket(socket);
      if (id !== undefined && parts.isKnown(id)) return;
      parts.onStranger(socket.remoteAddress ?? '', id);
      socket.destroy();
    });
    this.server.on('connection', (socket: Socket) => {
      this.sockets.add(socket);
      socket.once('close', () => this.sockets.delete(socket));
    });
    this.server.on('tlsClientError', () => { /* what is no TLS, or too slow, is nobody */ });
    this.server.on('clientError', (_error, socket) => void socket.destroy());
  }

  /** The port, which is another one when 0 was asked for. Rejects with the system's error. */
  listen(): Promise<number> {
    return new Promise((resolve, reject) => {
      this.server.once('error', reject);
      this.server.listen({ ...this.address, exclusive: true }, () => {
        this.server.removeListener('error', reject);
        this.server.on('error', (error) => this.parts.onError(error));
        const bound = this.server.address();
        resolve(typeof bound === 'object' && bound !== null ? bound.port : this.address.port);
      });
    });
  }

  close(): Promise<void> {
    if (!this.server.listening) return Promise.resolve();
    const closed = new Promise<void>((resolve) => this.server.close(() => resolve()));
    for (const socket of this.sockets) socket.destroy();
    return closed;
  }

  private async serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const refuse = (status: number, text: string): void => void response.writeHead(status, { 'content-type': 'text/plain', connection: 'close' }).end(`${text}\n`);
    const id = idOfSocket(request.socket as TLSSocket);
    if (id === undefined || !this.parts.isKnown(id)) return void request.socket.destroy();
    if (request.url !== EXCHANGE_PATH) return refuse(404, `there is ${EXCHANGE_PATH} alone`);
    if (request.method !== 'POST') return refuse(405, 'it takes POST');
    const working = this.working.get(id) ?? 0;
    if (working >= WORKING_MAX) return refuse(429, `${working} requests of this node are being worked on`);
    this.working.set(id, working + 1);
    try {
      const text = await readBounded(request);
      if (text === undefined) return refuse(413, `a message has at most ${MESSAGE_BYTES_MAX} bytes`);
      const answer = JSON.stringify(await this.parts.answer(id, parseMessage(text)));
      response.writeHead(200, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(answer), connection: 'close' }).end(answer);
    } catch (error) {
      // To a node that is known, it says what was wrong with what it sent.
      refuse(400, (error as Error).message);
    } finally {
      const left = (this.working.get(id) ?? 1) - 1;
      if (left > 0) this.working.set(id, left);
      else this.working.delete(id);
    }
  }
}

/** Undefined when there is more. */
async function readBounded(message: IncomingMessage): Promise<string | undefined> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of message as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > MESSAGE_BYTES_MAX) return undefined;
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString('utf8');
}

// ---- the side that calls ------------------------------------------------------------------------------------------------

/** Gives a node a message and takes its own. Nothing is sent before the other end has proven to be `id`. Rejects with ExchangeError or the system's error. */
export async function exchange(url: URL, id: string, { key, certificate }: NodeIdentity, message: Message): Promise<Message> {
  const host = url.hostname.replace(/^\[|\]$/g, '');
  const socket = connect({ ...TLS_OPTIONS, host, port: Number(url.port || 443), key, cert: certificate, ...(isIP(host) === 0 ? { servername: host } : {}) });
  const timer = setTimeout(() => socket.destroy(new ExchangeError(`no answer within ${ANSWER_MS / 1000} s`)), ANSWER_MS);
  try {
    await secured(socket);
    const found = idOfSocket(socket);
    if (found !== id) throw new ExchangeError(`who answers there is ${found ?? 'no node'}, not ${id}`);
    return parseMessage(await post(socket, url, JSON.stringify(message)));
  } finally {
    clearTimeout(timer);
    socket.destroy();
  }
}

function secured(socket: TLSSocket): Promise<void> {
  return new Promise((resolve, reject) => {
    socket.once('secureConnect', resolve);
    socket.once('error', reject);
    socket.once('close', () => reject(new ExchangeError('the connection was closed in the handshake')));
  });
}

function post(socket: TLSSocket, url: URL, body: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const asking = httpRequest({
      createConnection: () => socket, method: 'POST', path: EXCHANGE_PATH, maxHeaderSize: HEADER_BYTES_MAX,
      headers: { host: url.host, 'content-type': 'application/json', 'content-length': Buffer.byteLength(body), connection: 'close' },
    }, (response) => {
      readBounded(response).then((text) => {
        if (text === undefined) reject(new ExchangeError(`an answer of more than ${MESSAGE_BYTES_MAX} bytes`));
        else if (response.statusCode !== 200) reject(new ExchangeError(`it answers ${response.statusCode}: ${text.trim().slice(0, 300)}`));
        else resolve(text);
      }, reject);
    });
    asking.on('error', (error) => reject(error.message === 'socket hang up' || (error as NodeJS.ErrnoException).code === 'ECONNRESET'
      ? new ExchangeError('it closed the connection; does it know this node\'s id?') : error));
    socket.once('close', () => reject(new ExchangeError('it closed the connection; does it know this node\'s id?')));
    asking.end(body);
  });
}
